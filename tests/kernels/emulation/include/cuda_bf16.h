/* SPDX-License-Identifier: Apache-2.0
 *
 * cuda_bf16.h - BF16 on the processor, what the kernels use of it
 */
#pragma once

#include <cuda_runtime.h>

/* Ties to even; NaN becomes 0x7fff. */
static inline uint16_t
emulation_bf16_bits (float v)
{
  const uint32_t bits = __float_as_uint (v);
  return v != v ? 0x7fff : (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

struct alignas (2) __nv_bfloat16
{
  uint16_t bits;

  __nv_bfloat16 () = default;
  __nv_bfloat16 (float v) : bits (emulation_bf16_bits (v))
  {
  }
  operator float () const
  {
    return __uint_as_float ((uint32_t)bits << 16);
  }
};

struct alignas (4) __nv_bfloat162
{
  __nv_bfloat16 x, y;
};

static inline float
__bfloat162float (__nv_bfloat16 v)
{
  return v;
}

static inline __nv_bfloat16
__float2bfloat16_rn (float v)
{
  return __nv_bfloat16 (v);
}

static inline unsigned short
__bfloat16_as_ushort (__nv_bfloat16 v)
{
  return v.bits;
}

static inline __nv_bfloat162
__floats2bfloat162_rn (float low, float high)
{
  return { __nv_bfloat16 (low), __nv_bfloat16 (high) };
}

static inline __nv_bfloat162
__float2bfloat162_rn (float both)
{
  return __floats2bfloat162_rn (both, both);
}

static inline __nv_bfloat162
__habs2 (__nv_bfloat162 v)
{
  v.x.bits &= 0x7fff;
  v.y.bits &= 0x7fff;
  return v;
}

static inline __nv_bfloat16
emulation_max_nan (__nv_bfloat16 a, __nv_bfloat16 b)
{
  const float u = a, v = b;
  return u != u || v != v ? __nv_bfloat16 (NAN) : u > v ? a : b;
}

/* The greater; NaN if either is. */
static inline __nv_bfloat162
__hmax2_nan (__nv_bfloat162 a, __nv_bfloat162 b)
{
  return { emulation_max_nan (a.x, b.x), emulation_max_nan (a.y, b.y) };
}

/* Products of 8 significant bits each are exact before they are rounded. */
static inline __nv_bfloat162
__hmul2 (__nv_bfloat162 a, __nv_bfloat162 b)
{
  return { __nv_bfloat16 ((float)a.x * (float)b.x), __nv_bfloat16 ((float)a.y * (float)b.y) };
}

/* A sum that double does not hold becomes the odd one of its two neighbours in float: it rounds to
 * BF16 as the sum itself. */
static inline __nv_bfloat16
emulation_fma (float a, float b, float c)
{
  const double exact = (double)a * b + c;
  float v = (float)exact;
  if (v == v && (double)v != exact && fabs (exact) < 0x1p128)
    {
      uint32_t bits = __float_as_uint (v);
      if (fabs ((double)v) > fabs (exact))
        bits--;
      v = __uint_as_float (bits | 1);
    }
  return __nv_bfloat16 (v);
}

static inline __nv_bfloat162
__hfma2 (__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c)
{
  return { emulation_fma (a.x, b.x, c.x), emulation_fma (a.y, b.y, c.y) };
}

static inline __nv_bfloat162
__hadd2 (__nv_bfloat162 a, __nv_bfloat162 b)
{
  return { emulation_fma (a.x, 1.0f, b.x), emulation_fma (a.y, 1.0f, b.y) };
}

static inline __nv_bfloat162
__hsub2 (__nv_bfloat162 a, __nv_bfloat162 b)
{
  return { emulation_fma (b.x, -1.0f, a.x), emulation_fma (b.y, -1.0f, a.y) };
}
