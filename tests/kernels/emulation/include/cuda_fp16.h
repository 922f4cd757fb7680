/* SPDX-License-Identifier: Apache-2.0
 *
 * cuda_fp16.h - FP16 on the processor, what the kernels use of it
 */
#pragma once

#include <cuda_runtime.h>

/* Exact: an FP16 number's exponent and fraction are a float's, 2^112 too small. */
static inline float
emulation_f16_value (uint16_t bits)
{
  const uint32_t sign = (uint32_t)(bits & 0x8000) << 16, rest = bits & 0x7fff;
  const float magnitude = rest >= 0x7c00 ? __uint_as_float (0x7f800000u | (rest & 0x3ff) << 13)
                                         : __uint_as_float (rest << 13) * 0x1p112f;
  return __uint_as_float (__float_as_uint (magnitude) | sign);
}

/* Ties to even; NaN becomes 0x7fff. */
static inline uint16_t
emulation_f16_bits (float v)
{
  const uint32_t sign = __float_as_uint (v) >> 16 & 0x8000;
  const float magnitude = fabsf (v);
  if (v != v)
    return 0x7fff;
  if (magnitude >= 65520.0f)
    return (uint16_t)(sign | 0x7c00);
  if (magnitude < 0x1p-14f) /* steps of 2^-24; 1024 of them carry into the least normal number */
    return (uint16_t)(sign | (uint32_t)rintf (magnitude * 0x1p24f));
  const uint32_t bits = __float_as_uint (magnitude);
  return (uint16_t)(sign | (((bits + 0xfffu + (bits >> 13 & 1)) >> 13) - (112 << 10)));
}

struct __half_raw
{
  unsigned short x;
};

struct __half2_raw
{
  unsigned short x, y;
};

struct alignas (2) __half
{
  uint16_t bits;

  __half () = default;
  __half (__half_raw v) : bits (v.x)
  {
  }
  __half (float v) : bits (emulation_f16_bits (v))
  {
  }
  operator float () const
  {
    return emulation_f16_value (bits);
  }
};

struct alignas (4) __half2
{
  __half x, y;
};

static inline float
__half2float (__half v)
{
  return v;
}

static inline __half
__float2half_rn (float v)
{
  return __half (v);
}

static inline __half2
__floats2half2_rn (float low, float high)
{
  return { __half (low), __half (high) };
}

static inline float2
__half22float2 (__half2 v)
{
  return { v.x, v.y };
}

static inline __half
__ushort_as_half (unsigned short bits)
{
  __half v;
  v.bits = bits;
  return v;
}

static inline unsigned short
__half_as_ushort (__half v)
{
  return v.bits;
}

static inline __half2
__float2half2_rn (float v)
{
  return { __half (v), __half (v) };
}

/* One rounding each: products are exact before it, differences of neighbours as well. */
static inline __half2
__hmul2 (__half2 a, __half2 b)
{
  return { __half ((float)a.x * (float)b.x), __half ((float)a.y * (float)b.y) };
}

static inline __half2
__hsub2 (__half2 a, __half2 b)
{
  return { __half ((float)a.x - (float)b.x), __half ((float)a.y - (float)b.y) };
}
