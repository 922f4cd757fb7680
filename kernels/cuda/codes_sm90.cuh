/* SPDX-License-Identifier: Apache-2.0
 *
 * codes_sm90.cuh - from activations to what sm_90 multiplies, eight or sixteen of a thread at a
 * time
 *
 * Smoothing, the scales of rows and groups, and the codes: E4M3 under a power of two a row, or
 * level L1's codes times their group's scale in FP16 (spec svdquant 8.3). Numbers are BF16, two a
 * word.
 */
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/svdq_sm90.h"

#include <cuda_fp16.h>
#include <cuda_fp8.h>

/* Greatest magnitudes, as BF16 bits, below and from which eight numbers are divided. */
#define LEAST_BITS 0x0880u /* 2^-110 */
#define LIMIT_BITS 0x7f80u /* infinity */

/* -- numbers ------------------------------------------------------------------------------------
 */

/* The least e with amax <= most * 2^e, where most is 1.75 * 2^8 (E4M3) or 2^15 (FP16); 2^e and
 * 2^-e stay ordinary numbers. Rows of zeros and of infinities get a bound of it. */
template <SvdqCodes CODES>
static __device__ __forceinline__ int
row_exponent (float amax)
{
  const uint32_t bits = __float_as_uint (amax);
  const int e = CODES == SVDQ_CODES_E4M3 ? (int)((bits + 0x1fffffu) >> 23) - 127 - 8
                                         : (int)((bits + 0x7fffffu) >> 23) - 127 - 15;
  return max (-100, min (e, 100));
}

static __device__ __forceinline__ float
power_of_two (int e)
{
  return __uint_as_float ((uint32_t)(e + 127) << 23);
}

/* E2M1 nearest to v >= 0, ties to the even code, at most 6; NaN gives 6. Codes are 0.5 apart up to
 * 2, then 1, then 2: a number 3 * 2^22 times as large pushes the rest off the end. */
static __device__ __forceinline__ float
round_e2m1 (float v)
{
  const uint32_t power = __float_as_uint (fmaxf (v, 1.0f)) & 0x7f800000u;
  const float magic = __uint_as_float (power + (22u << 23) + 0x400000u);
  return fminf (__fsub_rn (__fadd_rn (v, magic), magic), 6.0f);
}

static __device__ __forceinline__ float
e4m3_rounded (float v)
{
  const __nv_fp8_storage_t code = __nv_cvt_float_to_fp8 (v, __NV_SATFINITE, __NV_E4M3);
  const __half_raw raw = __nv_cvt_fp8_to_halfraw (code, __NV_E4M3);
  return __half2float (__half (raw));
}

/* Greatest magnitude of eight packed BF16, as its bits: NaN is the greatest. */
static __device__ __forceinline__ uint32_t
greatest8 (const uint32_t (&words)[4])
{
  uint32_t most = 0;
#pragma unroll
  for (int i = 0; i < 4; i++)
    most = __vmaxu2 (most, words[i] & 0x7fff7fffu);
  return max (most & 0xffff, most >> 16);
}

static __device__ __forceinline__ float2
unpack2 (uint32_t word)
{
  return make_float2 (__uint_as_float (word << 16), __uint_as_float (word & 0xffff0000u));
}

/* -- smoothing ----------------------------------------------------------------------------------
 */

/* Two BF16 products, rounded to BF16. */
static __device__ __forceinline__ uint32_t
times_bf16 (uint32_t a, uint32_t b)
{
  const __nv_bfloat162 product = __hmul2 (*reinterpret_cast<const __nv_bfloat162 *> (&a),
                                          *reinterpret_cast<const __nv_bfloat162 *> (&b));
  return *reinterpret_cast<const uint32_t *> (&product);
}

/* Eight numbers become x / smooth in BF16; returns their greatest magnitude. The product with the
 * inverse, rounded to FP32, rounds to the same BF16: a quotient of two numbers of 8 bits is further
 * from the middle between two such than both roundings together. */
static __device__ __forceinline__ uint32_t
smooth8 (uint32_t (&x)[4], const SvdqQuantise &q, int k)
{
  uint32_t v[4];
#pragma unroll
  for (int w = 0; w < 4; w++)
    {
      const float2 pair = unpack2 (x[w]);
      const float2 inverse = __ldg (reinterpret_cast<const float2 *> (q.inverse + k + 2 * w));
      v[w] = pack2 (pair.x * inverse.x, pair.y * inverse.y);
    }
  uint32_t most = greatest8 (v);
  if (most - LEAST_BITS >= LIMIT_BITS - LEAST_BITS && (x[0] | x[1] | x[2] | x[3]) != 0)
    {
#pragma unroll
      for (int w = 0; w < 4; w++)
        {
          const float2 pair = unpack2 (x[w]);
          const float2 s = unpack2 (__ldg ((const uint32_t *)q.smooth + k / 2 + w));
          v[w] = pack2 (__fdiv_rn (pair.x, s.x), __fdiv_rn (pair.y, s.y));
        }
      most = greatest8 (v);
    }
#pragma unroll
  for (int w = 0; w < 4; w++)
    x[w] = v[w];
  return most;
}

/* -- codes --------------------------------------------------------------------------------------
 */

/* Eight smoothed numbers as E4M3, after a product with a power of two, twice in BF16. */
static __device__ __forceinline__ uint2
codes_e4m3 (const uint32_t (&x)[4], uint32_t factor)
{
  uint32_t pairs[4];
#pragma unroll
  for (int i = 0; i < 4; i++)
    pairs[i]
        = __nv_cvt_float2_to_fp8x2 (unpack2 (times_bf16 (x[i], factor)), __NV_SATFINITE, __NV_E4M3);
  return make_uint2 (__byte_perm (pairs[0], pairs[1], 0x5410),
                     __byte_perm (pairs[2], pairs[3], 0x5410));
}

/* Two numbers as INT4 codes times `scale`, a pair of FP16. Behind 1.5 * 2^23 + 8 a sum ends in the
 * nearest integer plus 8, and that under the exponent of 1024 is a number of FP16. */
static __device__ __forceinline__ uint32_t
int4_pair (float2 x, float reciprocal, uint32_t scale)
{
  const float magic = 12582920.0f;
  const uint32_t low = __float_as_uint (__fadd_rn (__fmul_rn (x.x, reciprocal), magic));
  const uint32_t high = __float_as_uint (__fadd_rn (__fmul_rn (x.y, reciprocal), magic));
  const uint32_t moved
      = __vmaxs2 (__vmins2 (__byte_perm (low, high, 0x5410), 0x000f000f), 0x00010001);
  const uint32_t by_1032 = 0x64086408, bits = moved | 0x64006400;
  const __half2 code = __hsub2 (*reinterpret_cast<const __half2 *> (&bits),
                                *reinterpret_cast<const __half2 *> (&by_1032));
  const __half2 value = __hmul2 (code, *reinterpret_cast<const __half2 *> (&scale));
  return *reinterpret_cast<const uint32_t *> (&value);
}

static __device__ __forceinline__ uint32_t
nvfp4_pair (float2 x, float reciprocal, float scale)
{
  const float a = x.x * reciprocal, b = x.y * reciprocal;
  const __half2 value = __floats2half2_rn (copysignf (round_e2m1 (fabsf (a)), a) * scale,
                                           copysignf (round_e2m1 (fabsf (b)), b) * scale);
  return *reinterpret_cast<const uint32_t *> (&value);
}

/* Eight smoothed numbers as L1 codes times their group's scale, and INT4's times `factor`. */
template <SvdqCodes CODES>
static __device__ __forceinline__ uint4
codes_f16 (const uint32_t (&x)[4], float scale, float reciprocal, float factor)
{
  const __half2 both = __float2half2_rn (scale * factor);
  uint32_t pairs[4];
#pragma unroll
  for (int i = 0; i < 4; i++)
    pairs[i]
        = CODES == SVDQ_CODES_INT4_F16
              ? int4_pair (unpack2 (x[i]), reciprocal, *reinterpret_cast<const uint32_t *> (&both))
              : nvfp4_pair (unpack2 (x[i]), reciprocal, scale);
  return make_uint4 (pairs[0], pairs[1], pairs[2], pairs[3]);
}

/* The scale of a group: INT4's is four lanes, NVFP4's one. */
template <SvdqCodes CODES>
static __device__ __forceinline__ float
group_scale (const uint32_t (&x)[2][4])
{
  uint32_t most = max (greatest8 (x[0]), greatest8 (x[1]));
  if (CODES == SVDQ_CODES_NVFP4_F16)
    return e4m3_rounded (__uint_as_float (most << 16) * (1.0f / 6.0f));
  most = max (most, __shfl_xor_sync (0xffffffffu, most, 1));
  most = max (most, __shfl_xor_sync (0xffffffffu, most, 2));
  return __bfloat162float (__float2bfloat16_rn (__uint_as_float (most << 16) * (1.0f / 7.0f)));
}
