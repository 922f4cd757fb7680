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

#include "kernels/cuda/packed.cuh"
#include "kernels/cuda/svdq_sm90.h"

#include <cuda_fp8.h>

/* Greatest magnitudes, as BF16 bits, below and from which numbers are divided. */
#define LEAST_BITS 0x0d80u /* 2^-100 */
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

/* Eight numbers times the inverse of their smoothing factors, two words of each pair
 * (svdq_split_inverse). What comes out is x / smooth in BF16, for magnitudes from LEAST_BITS to
 * below LIMIT_BITS: of all pairs of significands none has a quotient so near the middle between two
 * numbers. */
static __device__ __forceinline__ void
smooth_packed (uint32_t (&x)[4], const uint4 &low, const uint4 &high)
{
  x[0] = fma_bf16x2 (x[0], low.x, mul_bf16x2 (x[0], low.y));
  x[1] = fma_bf16x2 (x[1], low.z, mul_bf16x2 (x[1], low.w));
  x[2] = fma_bf16x2 (x[2], high.x, mul_bf16x2 (x[2], high.y));
  x[3] = fma_bf16x2 (x[3], high.z, mul_bf16x2 (x[3], high.w));
}

/* Eight numbers divided. */
static __device__ __forceinline__ void
divide8 (uint32_t (&x)[4], const SvdqQuantise &q, int k)
{
#pragma unroll
  for (int w = 0; w < 4; w++)
    {
      const float2 pair = unpack2 (x[w]);
      const float2 s = unpack2 (__ldg ((const uint32_t *)q.smooth + k / 2 + w));
      x[w] = pack2 (__fdiv_rn (pair.x, s.x), __fdiv_rn (pair.y, s.y));
    }
}

/* Eight numbers become x / smooth in BF16; returns their greatest magnitude. */
static __device__ __forceinline__ uint32_t
smooth8 (uint32_t (&x)[4], const SvdqQuantise &q, int k)
{
  const uint4 *inverse = (const uint4 *)q.inverse + k / 4;
  uint32_t v[4] = { x[0], x[1], x[2], x[3] };
  smooth_packed (v, __ldg (inverse), __ldg (inverse + 1));
  uint32_t most = greatest8 (v);
  if (most - LEAST_BITS >= LIMIT_BITS - LEAST_BITS && (x[0] | x[1] | x[2] | x[3]) != 0)
    {
      divide8 (x, q, k);
      return greatest8 (x);
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
        = __nv_cvt_float2_to_fp8x2 (unpack2 (mul_bf16x2 (x[i], factor)), __NV_SATFINITE, __NV_E4M3);
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

/* -- codes, two numbers at a time ---------------------------------------------------------------
 *
 * What the functions above give, in fewer instructions: for groups of NVFP4 whose greatest
 * magnitude is not infinite or NaN, and groups of INT4 whose products are exact under
 * INT4_EXPONENT.
 */

/* The greatest magnitude of sixteen, as the bits of BF16. */
static __device__ __forceinline__ uint32_t
greatest16 (const uint32_t (&x)[2][4])
{
  uint32_t half[2];
#pragma unroll
  for (int i = 0; i < 2; i++)
    half[i] = greater_bf16x2 (greater_bf16x2 (x[i][0], x[i][1]), greater_bf16x2 (x[i][2], x[i][3]));
  const uint32_t most = greater_bf16x2 (half[0], half[1]);
  return greater_bf16x2 (most, __byte_perm (most, most, 0x1032)) & 0x7fffu;
}

#define POWERS 0x7f807f80u /* the exponents of two BF16 */

/* What numbers of a group of NVFP4 with the scale `code`, E4M3, meet; each word twice one number:
 * x, 512 / scale, roughly: BF16
 * y, 1 / 64, roughly: BF16
 * z, 128 scale: FP16
 * w, POWERS: an instruction takes one constant, and it has another.
 * The first two are chosen together, for each of the eight significands of a scale, so that each
 * number gets the code that the product with the rounded inverse gets in FP32, the middle between
 * two codes too: y is above or below 1 / 64 where it must fall to one side. */
static __device__ __forceinline__ uint4
nvfp4_group (uint32_t code)
{
  /* By significand, a byte each: 256ths of the inverse less 128, and of 64 y less 250. */
  const uint64_t inverses = 0x090f1e2b3a4d5080, ties = 0x050c060606061e06;
  const __half_raw raw = __nv_cvt_fp8_to_halfraw ((__nv_fp8_storage_t)code, __NV_E4M3);
  const float scale = __half2float (__half (raw));
  const uint32_t bits = __float_as_uint (scale);
  const int byte = (bits >> 20 & 7) * 8, exponent = (int)(bits >> 23) - 127;
  const float inverse = (float)(128 + (inverses >> byte & 0xff)) * power_of_two (1 - exponent);
  const float tie = (float)(250 + (ties >> byte & 0xff)) * 0x1p-14f;
  const uint32_t x = code != 0 && code < 0x7f ? __float_as_uint (inverse) >> 16 : 0;
  const uint32_t y = __float_as_uint (tie) >> 16;
  const __half2 z = __float2half2_rn (scale * 128.0f);
  return make_uint4 (x * 0x10001u, y * 0x10001u, *reinterpret_cast<const uint32_t *> (&z), POWERS);
}

/* Two numbers of such a group as codes times scale in FP16. Their codes, 512-fold, are 0.5 apart up
 * to 2, then 1, then 2, and are rounded so by a sum with 1.5 * 64 times their power of two, all in
 * 64ths. Behind 1.5 * 512 there are as many units of the last place as a code is halves, in FP16
 * too, where the same bits are 4.25. */
static __device__ __forceinline__ uint32_t
nvfp4_pair_packed (uint32_t x, const uint4 &group)
{
  const uint32_t middle = 0x44404440, unit = 0x44004400, most = 0x45404540; /* 768, 512, 3072 */
  const uint32_t v = limit_bf16x2 (mul_bf16x2 (x, group.x), most);
  const uint32_t magic = (greater_bf16x2 (v, unit) & group.w) | 0x00400040u;
  const uint32_t sum = fma_bf16x2 (v, group.y, magic);
  return sub_mul_f16x2 (add_bf16x2 (sum, sub_bf16x2 (middle, magic)), middle, group.z);
}

/* Whether INT4's scale, as BF16 bits, is exact in FP16 under 2^INT4_EXPONENT, and with it each of
 * its products with a code: as little as 2^-24 is, and more than 2^13 times 7 is none. */
static __device__ __forceinline__ bool
int4_fits (uint32_t scale)
{
  const uint32_t least = 127 + INT4_EXPONENT - 17, most = 127 + INT4_EXPONENT + 13;
  return scale - (least << 7) <= (most - least) << 7;
}

/* For each significand of INT4's scale, in bits from the lowest: 7 of int4_group's x, 8 of z, and
 * whether y counts. */
static __device__ const uint16_t int4_factors[128] = {
  0xc07b, 0x7f00, 0x6b96, 0x7d00, 0x7785, 0x5833, 0x7783, 0x7406, 0x4071, 0x7780, 0x5aa8, 0x7402,
  0x7184, 0x7183, 0x6493, 0x7280, 0xc05f, 0x7001, 0x648f, 0x648e, 0x5c99, 0x6906, 0x6b82, 0x6c80,
  0xc053, 0x6b00, 0x6981, 0x6506, 0x561c, 0x5d8f, 0x6602, 0x6700, 0x404d, 0x5519, 0x5c8c, 0x6480,
  0x519d, 0x5d88, 0x3fc6, 0x4f9e, 0x5c87, 0x5c86, 0xd887, 0x5b86, 0x3f40, 0x5a86, 0x5a85, 0x5d01,
  0x403a, 0x5c80, 0x5c00, 0x5b80, 0x528d, 0x5a80, 0x5a00, 0x5980, 0x4032, 0x5880, 0x5800, 0x4f0e,
  0x4e0f, 0x5601, 0x5581, 0x5501, 0x402b, 0x402a, 0x4b8f, 0x5400, 0x4619, 0x4b8d, 0x4123, 0x449a,
  0x2b44, 0x5180, 0x3e25, 0x4497, 0x4b09, 0x478f, 0x4f80, 0x4b07, 0x3f9e, 0x4b85, 0x4e00, 0x4510,
  0x4197, 0x4196, 0x450e, 0x35a6, 0x3f19, 0x4b80, 0x3820, 0x3f96, 0x4589, 0x4093, 0x4686, 0x35a0,
  0x31a5, 0x3f92, 0x155a, 0x410e, 0x1dc5, 0x4780, 0x3d12, 0x2ea4, 0x418a, 0x3f8d, 0x4600, 0x2ba6,
  0x3814, 0x4187, 0x3596, 0x4480, 0x3f89, 0x4185, 0x3810, 0x3f08, 0x4183, 0x3098, 0x3413, 0x3c09,
  0x3195, 0x3f84, 0x4180, 0x3f83, 0x2623, 0x3f82, 0x4080, 0x3e82,
};

/* What numbers of a group of INT4 meet, by the seven bits of its scale's significand; each word
 * twice a BF16. The number times x, and times y, is rounded; that times z is the code, 2^66-fold:
 * x + y, for scales from 1 to below 2, times z is roughly the inverse.
 * All are chosen together so that each number gets the code that the product with the rounded
 * inverse gets in FP32, the middle between two codes too. Three significands have no such pair of x
 * and z; for those and a fourth y is 9 / 512, for the others next to nothing. */
static __device__ __forceinline__ uint4
int4_group (uint32_t code)
{
  const uint32_t factors = int4_factors[code];
  const uint32_t x = 126 << 7 | (factors & 0x7f);
  const uint32_t y = factors & 0x8000 ? 121 << 7 | 0x10 : 87 << 7; /* 9 / 512; 2^-40 */
  const uint32_t z = 192 * 128 + (factors >> 7 & 0xff);
  return make_uint4 ((x + (127 << 7)) * 0x10001u, (y + (127 << 7)) * 0x10001u, z * 0x10001u, 0);
}

/* The same for a scale, which the word holds twice; w: it as FP16, divided by 2^INT4_EXPONENT. */
static __device__ __forceinline__ uint4
int4_group_of (const uint4 *groups, uint32_t scale)
{
  const uint32_t power = scale & POWERS;
  uint4 group = groups[scale & 0x7f];
  group.x -= power, group.y -= power;
  const __half2 factor
      = __float2half2_rn (__uint_as_float (scale << 16) * power_of_two (-INT4_EXPONENT));
  group.w = *reinterpret_cast<const uint32_t *> (&factor);
  return group;
}

/* Two numbers of such a group as codes times scale / 2^INT4_EXPONENT in FP16. Behind 1.5 * 2^73 a
 * sum ends in the nearest integer of 2^66, and the same bits are 1088 and that integer in FP16. */
static __device__ __forceinline__ uint32_t
int4_pair_packed (uint32_t x, const uint4 &group)
{
  const uint32_t magic = 0x64406440;
  const uint32_t v = fma_bf16x2 (x, group.x, mul_bf16x2 (x, group.y));
  return sub_mul_f16x2 (fma_bf16x2 (v, group.z, magic), magic, group.w);
}
