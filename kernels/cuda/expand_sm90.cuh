/* SPDX-License-Identifier: Apache-2.0
 *
 * expand_sm90.cuh - 4-bit codes to fragments of FP16, each times its group's scale, exactly
 */
#pragma once

#include "kernels/cuda/mma.cuh"

#include <cuda_fp16.h>
#include <stdint.h>

static __device__ __forceinline__ uint32_t
as_bits (__half2 v)
{
  return *reinterpret_cast<const uint32_t *> (&v);
}

static __device__ __forceinline__ __half2
as_halves (uint32_t bits)
{
  return *reinterpret_cast<const __half2 *> (&bits);
}

/* (a & mask) | bits in one instruction. */
static __device__ __forceinline__ uint32_t
and_or (uint32_t a, uint32_t mask, uint32_t bits)
{
  uint32_t out;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(out) : "r"(a), "r"(mask), "r"(bits));
  return out;
}

/* Eight codes, moved up by 8, as FP16: nibbles 0, 4 | 1, 5 | 2, 6 | 3, 7 become pairs. A nibble
 * under the exponent of 1024 is 1024 + c, or 1024 + 16 c. */
static __device__ __forceinline__ void
int4_fragment (uint32_t word, uint32_t low, uint32_t high, uint32_t *out)
{
  const uint32_t magic = 0x64006400, by_16 = 0x2c002c00, minus_72 = 0xd480d480;
  const uint32_t minus_1032 = 0xe408e408;
  const uint32_t words[2] = { word, word >> 8 };
#pragma unroll
  for (int i = 0; i < 2; i++)
    {
      const uint32_t even = and_or (words[i], 0x000f000f, magic);
      const uint32_t odd = and_or (words[i], 0x00f000f0, magic);
      out[2 * i]
          = multiply_f16x2 (as_bits (__hadd2 (as_halves (even), as_halves (minus_1032))), low);
      out[2 * i + 1] = multiply_f16x2 (
          as_bits (__hfma2 (as_halves (odd), as_halves (by_16), as_halves (minus_72))), high);
    }
}

/* Eight E2M1 codes likewise: exponent and mantissa of a code go to the end of FP16's exponent and
 * the start of its mantissa, which is the code's value times 2^-14, below one as a subnormal. The
 * codes lie in the word so that two pairs take one mask each. */
static __device__ __forceinline__ void
nvfp4_fragment (uint32_t word, uint32_t low, uint32_t high, uint32_t *out)
{
  const uint32_t magnitude = 0x0e000e00, sign = 0x80008000;
  out[0] = multiply_f16x2 (word & (magnitude | sign), low);
  out[1] = multiply_f16x2 (word << 3 & (magnitude | sign), high);
  out[2] = multiply_f16x2 (and_or (word << 6, magnitude, word << 1 & sign), low);
  out[3] = multiply_f16x2 (and_or (word << 9, magnitude, word << 2 & sign), high);
}
