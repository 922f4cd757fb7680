/* SPDX-License-Identifier: Apache-2.0
 *
 * packed.cuh - arithmetic on two BF16 or FP16 numbers in a word
 *
 * Each is one instruction of sm_90, with one rounding.
 */
#pragma once

#include "kernels/cuda/common.cuh"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

static __device__ __forceinline__ __nv_bfloat162
as_bf16x2 (uint32_t word)
{
  return *reinterpret_cast<const __nv_bfloat162 *> (&word);
}

static __device__ __forceinline__ uint32_t
word_of (__nv_bfloat162 pair)
{
  return *reinterpret_cast<const uint32_t *> (&pair);
}

static __device__ __forceinline__ uint32_t
mul_bf16x2 (uint32_t a, uint32_t b)
{
  return word_of (__hmul2 (as_bf16x2 (a), as_bf16x2 (b)));
}

static __device__ __forceinline__ uint32_t
add_bf16x2 (uint32_t a, uint32_t b)
{
  return word_of (__hadd2 (as_bf16x2 (a), as_bf16x2 (b)));
}

static __device__ __forceinline__ uint32_t
sub_bf16x2 (uint32_t a, uint32_t b)
{
  return word_of (__hsub2 (as_bf16x2 (a), as_bf16x2 (b)));
}

static __device__ __forceinline__ uint32_t
fma_bf16x2 (uint32_t a, uint32_t b, uint32_t c)
{
#if defined __CUDA_ARCH__ && __CUDA_ARCH__ < 800
  return add_bf16x2 (mul_bf16x2 (a, b), c); /* for the compiler alone: nothing of this runs there */
#else
  return word_of (__hfma2 (as_bf16x2 (a), as_bf16x2 (b), as_bf16x2 (c)));
#endif
}

static __device__ __forceinline__ uint32_t
sub_mul_f16x2 (uint32_t a, uint32_t b, uint32_t by)
{
  const __half2 difference
      = __hsub2 (*reinterpret_cast<const __half2 *> (&a), *reinterpret_cast<const __half2 *> (&b));
  const __half2 product = __hmul2 (difference, *reinterpret_cast<const __half2 *> (&by));
  return *reinterpret_cast<const uint32_t *> (&product);
}

/* The greater magnitudes, NaN if either is; their signs are any. */
static __device__ __forceinline__ uint32_t
greater_bf16x2 (uint32_t a, uint32_t b)
{
#if defined __CUDA_ARCH__ && __CUDA_ARCH__ >= 900
  uint32_t out;
  asm("max.NaN.xorsign.abs.bf16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
  return out;
#else
  return __vmaxu2 (a & 0x7fff7fffu, b & 0x7fff7fffu);
#endif
}

/* `a` with magnitudes of at most `most`, which are not negative; NaN becomes `most`. */
static __device__ __forceinline__ uint32_t
limit_bf16x2 (uint32_t a, uint32_t most)
{
#if defined __CUDA_ARCH__ && __CUDA_ARCH__ >= 900
  uint32_t out;
  asm("min.xorsign.abs.bf16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(most));
  return out;
#else
  return __vminu2 (a & 0x7fff7fffu, most) | (a & 0x80008000u);
#endif
}
