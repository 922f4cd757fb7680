/* SPDX-License-Identifier: Apache-2.0
 *
 * svdq_codes.cuh - eight numbers of a row of activations on their way to 4 bit
 *
 * A group is eight lanes of a warp (INT4) or two (NVFP4). Codes and scales are those of level L1
 * for either type of activations, T.
 *
 * x / smooth is a product with the reciprocal. That is exact: both have 8 significant bits, so
 * their quotient is never nearer than 2^-17 of its size to where rounding to BF16 turns, and the
 * product is at most 2^-22 off. It does not hold for quotients below the normal numbers, which
 * matter only in groups that have no larger ones; those groups, and groups with what is not a
 * number, are divided. An FP16 x has 11 bits, and a quotient may lie exactly where rounding turns:
 * then smooth is 1, 3, 5 or 7 times a power of two, and the product is the quotient.
 */
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/svdq.cuh"

/* Groups whose greatest magnitude, as BF16 bits, lies outside are divided: 2^-110, infinity. */
#define LEAST_BITS 0x0880u
#define LIMIT_BITS 0x7f80u

/* Eight numbers of a row, divided by their smoothing factors and rounded to BF16. */
template <typename T> struct Smoothed;

template <> struct Smoothed<bf16>
{
  uint32_t h[4];

  __device__ __forceinline__ void
  set (const float v[8], const float4 &low, const float4 &high)
  {
    h[0] = pack2 (__fmul_rn (v[0], low.x), __fmul_rn (v[1], low.y));
    h[1] = pack2 (__fmul_rn (v[2], low.z), __fmul_rn (v[3], low.w));
    h[2] = pack2 (__fmul_rn (v[4], high.x), __fmul_rn (v[5], high.y));
    h[3] = pack2 (__fmul_rn (v[6], high.z), __fmul_rn (v[7], high.w));
  }

  __device__ __forceinline__ float
  at (int i) const
  {
    return __uint_as_float (i % 2 ? h[i / 2] & 0xffff0000u : h[i / 2] << 16);
  }

  __device__ __forceinline__ __nv_bfloat162
  magnitudes (int i) const
  {
    return __habs2 (*reinterpret_cast<const __nv_bfloat162 *> (&h[i]));
  }

  /* The greatest magnitude, as BF16 bits, among the LANES of a group; a NaN wins. */
  template <int LANES>
  __device__ __forceinline__ uint32_t
  greatest () const
  {
    __nv_bfloat162 most = __hmax2_nan (__hmax2_nan (magnitudes (0), magnitudes (1)),
                                       __hmax2_nan (magnitudes (2), magnitudes (3)));
#pragma unroll
    for (int lane = 1; lane < LANES; lane *= 2)
      most = __hmax2_nan (most, __shfl_xor_sync (0xffffffffu, most, lane));
    const uint32_t both = *reinterpret_cast<const uint32_t *> (&most);
    return max (both & 0xffffu, both >> 16);
  }
};

/* Without instructions for BF16. */
template <> struct Smoothed<f16>
{
  float h[8];
  bool finite; /* before rounding, as the carry takes NaN elsewhere */

  static __device__ __forceinline__ float
  rounded (float v)
  {
    const uint32_t bits = __float_as_uint (v);
    return __uint_as_float ((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u);
  }

  __device__ __forceinline__ void
  set (const float v[8], const float4 &low, const float4 &high)
  {
    const float by[8] = { low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w };
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++)
      {
        const float quotient = __fmul_rn (v[i], by[i]);
        sum += quotient;
        h[i] = rounded (quotient);
      }
    finite = fabsf (sum) < INFINITY;
  }

  __device__ __forceinline__ float
  at (int i) const
  {
    return h[i];
  }

  /* As above; what is not finite counts as infinite. */
  template <int LANES>
  __device__ __forceinline__ uint32_t
  greatest () const
  {
    float most = fabsf (h[0]);
#pragma unroll
    for (int i = 1; i < 8; i++)
      most = fmaxf (most, fabsf (h[i]));
    most = finite ? most : INFINITY;
#pragma unroll
    for (int lane = 1; lane < LANES; lane *= 2)
      most = fmaxf (most, __shfl_xor_sync (0xffffffffu, most, lane));
    return __float_as_uint (most) >> 16;
  }
};

/* Lanes of a group. */
#define LANES_OF(int4) ((int4) ? 8 : 2)

/* Codes of normal groups need no clamp: a scale is at most 2^-8 too small, and 7.03 is 7. */
template <typename T>
static __device__ __forceinline__ uint32_t
int4_codes (const Smoothed<T> &h, float reciprocal)
{
  /* Codes plus 8 are positive nibbles. Magic's bits shifted along are a constant. */
  constexpr uint32_t EXCESS = SVDQ_MAGIC_BITS * 0x11111111u;
  uint32_t word = 0;
#pragma unroll
  for (int i = 7; i >= 0; i--)
    word = (word << 4)
           + __float_as_uint (__fadd_rn (__fmul_rn (h.at (i), reciprocal), SVDQ_MAGIC + 8));
  return (word - EXCESS) ^ 0x88888888u;
}

static __device__ uint32_t
int4_codes_clamped (const Smoothed<bf16> &h, float reciprocal)
{
  uint32_t word = 0;
  for (int i = 7; i >= 0; i--) /* NaN becomes 0 */
    word = word << 4 | (min (max (__float2int_rn (__fmul_rn (h.at (i), reciprocal)), -7), 7) & 15);
  return word;
}

template <typename T>
static __device__ __forceinline__ uint32_t
nvfp4_codes (const Smoothed<T> &h, float reciprocal)
{
  uint32_t word = 0;
#pragma unroll
  for (int i = 0; i < 4; i++)
    word |= svdq_e2m1_pair (__fmul_rn (h.at (2 * i), reciprocal),
                            __fmul_rn (h.at (2 * i + 1), reciprocal))
            << 8 * i;
  return word;
}

/* 1 / v, correctly rounded, for a `v` of 8 significant bits between 2^-125 and 2^125: one step of
 * Newton's method is 2^-45 off, and such a quotient never that near to where rounding turns. */
static __device__ __forceinline__ float
reciprocal_of (float v)
{
  const float r = reciprocal_estimate (v);
  return __fmaf_rn (__fmaf_rn (-v, r, 1.0f), r, r);
}

/* Eight numbers' codes, and their group's scale as stored. */
struct Coded
{
  uint32_t codes, scale;
};

/* The scale of a normal group. */
template <bool INT4, typename T>
static __device__ __forceinline__ Coded
code_group (const Smoothed<T> &h, uint32_t most)
{
  const float amax = __uint_as_float (most << 16);
  if (INT4)
    {
      const __nv_bfloat16 scale = __float2bfloat16_rn (__fmul_rn (amax, 1.0f / 7.0f));
      return { int4_codes (h, reciprocal_of (__bfloat162float (scale))),
               __bfloat16_as_ushort (scale) };
    }
  const uint32_t bits = svdq_e4m3 (__fmul_rn (amax, 1.0f / 6.0f));
  const float reciprocal = bits != 0 ? reciprocal_of (svdq_e4m3_value (bits)) : 0.0f;
  return { nvfp4_codes (h, reciprocal), bits };
}

/* The same for any group, dividing. All lanes of a warp. */
template <bool INT4, typename T>
static __device__ __noinline__ Coded
code_divided (uint4 x, const bf16 *smooth)
{
  float v[8], s[8];
  unpack8<T> (x, v);
  load8 (smooth, s);
  Smoothed<bf16> h;
  for (int i = 0; i < 4; i++)
    h.h[i] = pack2 (__fdiv_rn (v[2 * i], s[2 * i]), __fdiv_rn (v[2 * i + 1], s[2 * i + 1]));
  const float amax = __uint_as_float (h.template greatest<LANES_OF (INT4)> () << 16);
  Coded out;
  float scale;
  if (INT4)
    {
      out.scale = __bfloat16_as_ushort (__float2bfloat16_rn (__fmul_rn (amax, 1.0f / 7.0f)));
      scale = __uint_as_float (out.scale << 16);
    }
  else
    {
      out.scale = svdq_e4m3 (__fmul_rn (amax, 1.0f / 6.0f));
      scale = out.scale == 0x7f ? 0.0f : svdq_e4m3_value (out.scale);
    }
  const float reciprocal = scale > 0.0f ? __frcp_rn (scale) : 0.0f;
  out.codes = INT4 ? int4_codes_clamped (h, reciprocal) : nvfp4_codes (h, reciprocal);
  return out;
}
