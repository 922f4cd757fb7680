/* SPDX-License-Identifier: Apache-2.0
 *
 * strips_sm90.cuh - activations of exact SVDQuant linears on sm_90, by strips of 64 k and 32 rows
 *
 * What the kernels that quantise them do with a strip in shared memory: its low-rank product, and
 * its codes, by arithmetic of two numbers a word. That is exact for ordinary groups, and for INT4
 * under one scale for all rows. Rows that have other groups are coded again at the end, by
 * divisions.
 */
#pragma once

#include "kernels/cuda/codes_sm90.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/tma.cuh"

#define ROW_BLOCKS  4
#define ROWS        (ROW_BLOCKS * 8)
#define STRIP_K     64
#define STRIP_BYTES (ROWS * STRIP_K * 2)
#define STRIP_STEPS 4  /* of 16 k */
#define LOW_RANKS   16 /* of one mma */
#define STEP_BYTES  (LOW_RANKS * STRIP_K * 2)
#define PITCH       36  /* of a rank's row of tokens: reads fall into different banks */
#define TOKENS      4   /* that a thread adds up at once */
#define SCALES      128 /* E4M3's, without signs; significands of BF16 */

/* Eight numbers by two: sixteen neighbours of a row. */
typedef uint32_t Sixteen[2][4];

/* What a block finds out about a row that is coded again. */
struct Again
{
  uint32_t most;  /* its greatest magnitude, as the bits of FP32 */
  uint32_t unfit; /* not 0: a group's scale is not right under INT4_EXPONENT */
};

/* -- a strip in shared memory -------------------------------------------------------------------
 */

/* Chunks of 16 bytes lie as the copy engine swizzles them: eight lanes of two rows, which read
 * every other chunk, meet no bank twice. */
static __device__ __forceinline__ int
chunk_at (int row, int chunk)
{
  return row * 128 + (chunk ^ (row & 7)) * 16;
}

static __device__ __forceinline__ uint4 *
sixteen_at (char *strip, int j, int half)
{
  const int lane = threadIdx.x % 32;
  return reinterpret_cast<uint4 *> (strip + chunk_at (8 * j + lane / 4, lane % 4 * 2 + half));
}

/* Sixteen neighbours of this lane's row in block j. */
static __device__ __forceinline__ void
take (char *strip, int j, Sixteen &x)
{
#pragma unroll
  for (int half = 0; half < 2; half++)
    {
      const uint4 v = *sixteen_at (strip, j, half);
      x[half][0] = v.x, x[half][1] = v.y, x[half][2] = v.z, x[half][3] = v.w;
    }
}

/* Adds the products of a strip with 16 ranks. */
static __device__ __forceinline__ void
lower (const uint4 (&down)[STRIP_STEPS][32], const Sixteen (&x)[ROW_BLOCKS],
       float (&sum)[ROW_BLOCKS][4])
{
#pragma unroll
  for (int i = 0; i < STRIP_STEPS; i++)
    {
      const uint4 v = down[i][threadIdx.x % 32];
      const uint32_t a[4] = { v.x, v.y, v.z, v.w };
#pragma unroll
      for (int j = 0; j < ROW_BLOCKS; j++)
        mma_bf16 (sum[j], a, x[j][i / 2][i % 2 * 2], x[j][i / 2][i % 2 * 2 + 1]);
    }
}

/* This warp's sums of COUNT times 16 ranks, from step FROM on, for the others: [rank][token]. */
template <int FROM, int COUNT, int STEPS>
static __device__ __forceinline__ void
share_sums (char *room, const float (&sum)[STEPS][ROW_BLOCKS][4])
{
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 0; step < COUNT; step++)
#pragma unroll
    for (int j = 0; j < ROW_BLOCKS; j++)
#pragma unroll
      for (int h = 0; h < 2; h++)
        {
          float *const rank = (float *)room + (step * LOW_RANKS + 8 * h + lane / 4) * PITCH;
          *reinterpret_cast<float2 *> (rank + 8 * j + lane % 4 * 2)
              = make_float2 (sum[FROM + step][j][2 * h], sum[FROM + step][j][2 * h + 1]);
        }
}

/* Zeros behind the last rank, for a block's rows. */
template <int THREADS>
static __device__ __forceinline__ void
clear_low (const SvdqQuantise &q, int first)
{
  const int pitch = LOW_RANK_PITCH (q.rank), chunks = (pitch - q.rank) / 8;
  for (int i = threadIdx.x; i < ROWS * chunks; i += THREADS)
    {
      const int row = first + i / chunks;
      if (row < q.m)
        *reinterpret_cast<uint4 *> ((bf16 *)q.low + (size_t)row * pitch + q.rank + i % chunks * 8)
            = make_uint4 (0, 0, 0, 0);
    }
}

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

/* The codes of a strip; notes rows of this lane that have others. */
template <SvdqCodes CODES>
static __device__ __forceinline__ void
code (const uint4 *groups, const uint4 (&inverse)[STRIP_K / 4], Sixteen (&x)[ROW_BLOCKS],
      uint32_t &odd_rows)
{
  const uint4 *const by = inverse + threadIdx.x % 4 * 4;
  const uint4 by_first[2] = { by[0], by[1] }, by_second[2] = { by[2], by[3] };
  uint32_t most[ROW_BLOCKS];
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    {
      smooth_packed (x[j][0], by_first[0], by_first[1]);
      smooth_packed (x[j][1], by_second[0], by_second[1]);
      most[j] = greatest16 (x[j]);
    }
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS && CODES == SVDQ_CODES_INT4_F16; j += 2)
    {
      const uint32_t both = greatest_of_quad (most[j] | most[j + 1] << 16);
      most[j] = both & 0xffff, most[j + 1] = both >> 16;
    }
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
