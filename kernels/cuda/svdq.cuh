/* SPDX-License-Identifier: Apache-2.0
 *
 * svdq.cuh - the number formats of SVDQuant on the card
 *
 * Bit for bit what svdq-math.h does on the host: by the instruction where the target has one, in a
 * few others where not.
 */
#pragma once

#include "kernels/cuda/common.cuh"

/* cvt to and from E4M3: sm_89 up. To E2M1: only targets with the suffix a or f. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
#define SVDQ_NATIVE_E4M3 1
#else
#define SVDQ_NATIVE_E4M3 0
#endif
#if defined(__CUDA_ARCH_FEAT_SM100_ALL) || defined(__CUDA_ARCH_FEAT_SM103_ALL)                     \
    || defined(__CUDA_ARCH_FEAT_SM120_ALL) || defined(__CUDA_ARCH_FEAT_SM121_ALL)
#define SVDQ_NATIVE_E2M1 1
#else
#define SVDQ_NATIVE_E2M1 0
#endif

/* 1.5 2^23: what is added to it is rounded to an integer, in the low bits, ties to even. */
#define SVDQ_MAGIC      12582912.0f
#define SVDQ_MAGIC_BITS 0x4b400000u

/* -- E4M3 ---------------------------------------------------------------------------------------
 */

/* `v` >= 0 or NaN -> its bits: ties to even, saturating at 448; NaN becomes 0x7f. */
static __device__ __forceinline__ uint32_t
svdq_e4m3_in_software (float v)
{
  if (!(v < 448.0f))
    return v == v ? 0x7e : 0x7f;
  /* Steps of 2^-9 below the least normal number; eight of them carry into it. */
  if (v < 0x1p-6f)
    return __float_as_uint (__fadd_rn (v * 0x1p9f, SVDQ_MAGIC)) & 15;
  const uint32_t bits = __float_as_uint (v);
  return (bits + 0x7ffffu + (bits >> 20 & 1)) / (1u << 20) - (127 - 7) * 8;
}

static __device__ __forceinline__ uint32_t
svdq_e4m3 (float v)
{
#if SVDQ_NATIVE_E4M3
  uint16_t pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(v));
  return pair & 0xff;
#else
  return svdq_e4m3_in_software (v);
#endif
}

/* The value of E4M3 bits without sign; 0x7f, which is NaN, comes out as 480. */
static __device__ __forceinline__ float
svdq_e4m3_value (uint32_t bits)
{
  return __uint_as_float (bits << 20) * 0x1p120f;
}

/* -- E2M1 ---------------------------------------------------------------------------------------
 */

static __device__ __forceinline__ uint32_t
svdq_e2m1_in_software (float v)
{
  const float a = fminf (fabsf (v), 6.0f); /* of NaN: 6 */
  const uint32_t sign = v == v ? __float_as_uint (v) >> 28 & 8 : 0;
  const uint32_t bits = __float_as_uint (a);
  /* Steps of 1/2 below 2, of half the power of two above. */
  const uint32_t low = __float_as_uint (__fadd_rn (a, 0.5f * SVDQ_MAGIC)) & 7;
  const uint32_t high = (bits + 0x1fffffu + (bits >> 22 & 1)) / (1u << 22) - (127 - 1) * 2;
  return sign | (a < 2.0f ? low : high);
}

/* Two numbers -> two codes in a byte, `low` in the low nibble. Ties to even codes, saturating at 6;
 * NaN becomes 7. */
static __device__ __forceinline__ uint32_t
svdq_e2m1_pair (float low, float high)
{
#if SVDQ_NATIVE_E2M1
  uint32_t pair;
  asm("{\n\t.reg .b8 byte;\n\tcvt.rn.satfinite.e2m1x2.f32 byte, %1, %2;\n\t"
      "cvt.u32.u8 %0, byte;\n\t}"
      : "=r"(pair)
      : "f"(high), "f"(low));
  return pair;
#else
  return svdq_e2m1_in_software (low) | svdq_e2m1_in_software (high) << 4;
#endif
}

/* Twice the value of an E2M1 code. */
static __device__ __forceinline__ int
svdq_e2m1_twice (uint32_t code)
{
  const int magnitude = 0xc8643210u >> (code & 7) * 4 & 15;
  return code & 8 ? -magnitude : magnitude;
}
