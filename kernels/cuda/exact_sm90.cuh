/* SPDX-License-Identifier: Apache-2.0
 *
 * exact_sm90.cuh - a strip's codes for exact SVDQuant linears on sm_90
 *
 * By arithmetic of two numbers a word, which is exact for ordinary groups, and for INT4 under one
 * scale for all rows. Rows that have other groups are coded again at the end, by divisions.
 */
#pragma once

#include "kernels/cuda/strips_sm90.cuh"

#define SCALES 128 /* E4M3's, without signs; significands of BF16 */

/* What a block finds out about a row that is coded again. */
struct Again
{
  uint32_t most;  /* its greatest magnitude, as the bits of FP32 */
  uint32_t unfit; /* not 0: a group's scale is not right under INT4_EXPONENT */
};

/* -- codes --------------------------------------------------------------------------------------
 */

/* INT4: the greatest magnitudes of two groups, in a word, of those of four lanes. */
static __device__ __forceinline__ uint32_t
greatest_of_quad (uint32_t most)
{
  most = __vmaxu2 (most, __shfl_xor_sync (0xffffffffu, most, 1));
  return __vmaxu2 (most, __shfl_xor_sync (0xffffffffu, most, 2));
}

/* What a group meets, by its greatest magnitude; whether it is none for the packed arithmetic. */
template <SvdqCodes CODES>
static __device__ __forceinline__ uint4
group_of (const uint4 *groups, uint32_t most, bool &odd)
{
  if (CODES == SVDQ_CODES_NVFP4_F16)
    {
      const float scale = __uint_as_float (most << 16) * (1.0f / 6.0f);
      odd = most >= LIMIT_BITS;
      return groups[__nv_cvt_float_to_fp8 (scale, __NV_SATFINITE, __NV_E4M3)];
    }
  const float scale = __uint_as_float (most << 16) * (1.0f / 7.0f);
  const uint32_t twice = pack2 (scale, scale);
  odd = most != 0 && !int4_fits (twice & 0xffff);
  return int4_group_of (groups, twice);
}

template <SvdqCodes CODES>
static __device__ __forceinline__ uint32_t
pair_packed (uint32_t x, const uint4 &group)
{
  return CODES == SVDQ_CODES_NVFP4_F16 ? nvfp4_pair_packed (x, group) : int4_pair_packed (x, group);
}

/* The rows' numbers smoothed, and the greatest of each group: for INT4 of the lanes that share it.
 */
template <SvdqCodes CODES>
static __device__ __forceinline__ void
smooth (const uint4 (&inverse)[STRIP_K / 4], const Sixteen (&x)[ROW_BLOCKS],
        Sixteen (&out)[ROW_BLOCKS], uint32_t (&most)[ROW_BLOCKS])
{
  const uint4 *const by = inverse + threadIdx.x % 4 * 4;
  const uint4 by_first[2] = { by[0], by[1] }, by_second[2] = { by[2], by[3] };
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    {
#pragma unroll
      for (int w = 0; w < 4; w++)
        out[j][0][w] = x[j][0][w], out[j][1][w] = x[j][1][w];
      smooth_packed (out[j][0], by_first[0], by_first[1]);
      smooth_packed (out[j][1], by_second[0], by_second[1]);
      most[j] = greatest16 (out[j]);
    }
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS && CODES == SVDQ_CODES_INT4_F16; j += 2)
    {
      const uint32_t both = greatest_of_quad (most[j] | most[j + 1] << 16);
      most[j] = both & 0xffff, most[j + 1] = both >> 16;
    }
}

/* Their codes; notes rows of this lane that have others. */
template <SvdqCodes CODES>
static __device__ __forceinline__ void
code (const uint4 *groups, const uint32_t (&most)[ROW_BLOCKS], Sixteen (&x)[ROW_BLOCKS],
      uint32_t &odd_rows)
{
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    {
      bool odd;
      const uint4 group = group_of<CODES> (groups, most[j], odd);
      odd_rows |= (uint32_t)odd << 8 * j;
#pragma unroll
      for (int half = 0; half < 2; half++)
#pragma unroll
        for (int w = 0; w < 4; w++)
          x[j][half][w] = pair_packed<CODES> (x[j][half][w], group);
    }
}

/* Codes to where their strip lay, and on. */
static __device__ __forceinline__ void
write_codes (const CUtensorMap *map, int row, int k, char *strip, const Sixteen (&x)[ROW_BLOCKS])
{
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
#pragma unroll
    for (int half = 0; half < 2; half++)
      *sixteen_at (strip, j, half)
          = make_uint4 (x[j][half][0], x[j][half][1], x[j][half][2], x[j][half][3]);
  tma_store_fence ();
  __syncwarp ();
  if (threadIdx.x % 32 == 0)
    {
      tma_store (map, k, row, shared_address (strip));
      tma_store_commit ();
    }
}

/* -- rows once more -----------------------------------------------------------------------------
 */

/* Sixteen smoothed neighbours from x itself, zeros from k on. */
static __device__ __forceinline__ void
take_again (const SvdqQuantise &q, int row, int k, Sixteen &x)
{
#pragma unroll
  for (int half = 0; half < 2; half++)
    {
      uint4 v = make_uint4 (0, 0, 0, 0);
      if (k < q.k)
        v = *reinterpret_cast<const uint4 *> ((const bf16 *)q.x + (size_t)row * q.k + k + 8 * half);
      x[half][0] = v.x, x[half][1] = v.y, x[half][2] = v.z, x[half][3] = v.w;
      if (k < q.k)
        divide8 (x[half], q, k + 8 * half);
    }
}

/* INT4's exponent of a row: its own, where INT4_EXPONENT is not exact. */
template <int THREADS>
static __device__ __forceinline__ int
exponent_of_row (const SvdqQuantise &q, int row, Again &again)
{
  if (threadIdx.x == 0)
    again.most = again.unfit = 0;
  __syncthreads ();
  for (int first = 0; first < q.k; first += THREADS * 16)
    {
      Sixteen x;
      take_again (q, row, first + (int)threadIdx.x * 16, x);
      const float scale = group_scale<SVDQ_CODES_INT4_F16> (x);
      atomicMax (&again.most, max (greatest8 (x[0]), greatest8 (x[1])) << 16);
      if (scale != 0.0f && !int4_fits (__float_as_uint (scale) >> 16))
        atomicMax (&again.unfit, 1u);
    }
  __syncthreads ();
  const int own = row_exponent<SVDQ_CODES_INT4_F16> (__uint_as_float (again.most));
  return again.unfit != 0 ? own : INT4_EXPONENT;
}

/* A row, by divisions: the whole block. */
template <SvdqCodes CODES, int THREADS>
static __device__ __forceinline__ void
code_row (const SvdqQuantise &q, int row, Again &again)
{
  const int exponent = CODES == SVDQ_CODES_INT4_F16 ? exponent_of_row<THREADS> (q, row, again) : 0;
  if (q.scale != NULL && threadIdx.x == 0)
    q.scale[row] = power_of_two (exponent);
  for (int first = 0; first < q.k; first += THREADS * 16)
    {
      const int k = first + (int)threadIdx.x * 16;
      Sixteen x;
      take_again (q, row, k, x);
      const float scale = group_scale<CODES> (x);
      const float reciprocal = scale > 0.0f ? __frcp_rn (scale) : 0.0f;
      uint4 *const out = reinterpret_cast<uint4 *> ((__half *)q.codes + (size_t)row * q.k + k);
      for (int half = 0; half < 2 && k < q.k; half++)
        out[half] = codes_f16<CODES> (x[half], scale, reciprocal, power_of_two (-exponent));
    }
}

/* Rows from `first` on whose bits are set; codes from before have left. */
template <SvdqCodes CODES, int THREADS>
static __device__ __forceinline__ void
code_again (const SvdqQuantise &q, int first, uint32_t rows, Again &again)
{
#pragma unroll 1
  for (; rows != 0; rows &= rows - 1)
    {
      code_row<CODES, THREADS> (q, first + __ffs (rows) - 1, again);
      __syncthreads ();
    }
}

/* -- the beginning ------------------------------------------------------------------------------
 */

/* A block's table of groups, and the scales of its rows. */
template <SvdqCodes CODES, int THREADS>
static __device__ __forceinline__ void
begin_block (const SvdqQuantise &q, int first, uint4 (&groups)[SCALES])
{
  for (int i = threadIdx.x; i < SCALES; i += THREADS)
    groups[i] = CODES == SVDQ_CODES_NVFP4_F16 ? nvfp4_group (i) : int4_group (i);
  if (q.scale != NULL && threadIdx.x < ROWS && first + (int)threadIdx.x < q.m)
    q.scale[first + threadIdx.x]
        = CODES == SVDQ_CODES_NVFP4_F16 ? 1.0f : power_of_two (INT4_EXPONENT);
}
