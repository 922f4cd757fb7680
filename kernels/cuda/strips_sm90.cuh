/* SPDX-License-Identifier: Apache-2.0
 *
 * strips_sm90.cuh - activations on their way into SVDQuant linears on sm_90, by strips of 64 k and
 * 32 rows
 *
 * What all kernels that quantise them do with a strip in shared memory: a lane takes sixteen
 * neighbours of four rows, as the second operand of mma.sync, and adds their products with the
 * fragments of proj_down (svdq_low_rank_fragments). At the end warps lay their sums side by side,
 * and threads add those up in a fixed order.
 */
#pragma once

#include "kernels/cuda/codes_sm90.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/tma.cuh"

/* Whether what is being compiled may run there. */
#if !defined __CUDA_ARCH__ || __CUDA_ARCH__ == 900
#define FOR_SM90 1
#endif

#define ROW_BLOCKS  4
#define ROWS        (ROW_BLOCKS * 8)
#define STRIP_K     64
#define STRIP_BYTES (ROWS * STRIP_K * 2)
#define STRIP_STEPS 4  /* of 16 k */
#define LOW_RANKS   16 /* of one mma */
#define STEP_BYTES  (LOW_RANKS * STRIP_K * 2)
#define PITCH       36     /* of a rank's row of tokens: reads fall into different banks */
#define TOKENS      4      /* that a thread adds up at once */
#define MOST_SHARED 232448 /* bytes of a block */

/* Eight numbers by two: sixteen neighbours of a row. */
typedef uint32_t Sixteen[2][4];

/* The ranks of a launch, by LOW_RANKS. */
struct Ranks
{
  int first, steps;
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

/* -- the low-rank product -----------------------------------------------------------------------
 */

/* The fragments of 16 ranks for a strip, by 16 k and lanes. */
typedef uint4 Down[STRIP_STEPS][32];

/* Adds the products of a strip with 16 ranks. */
static __device__ __forceinline__ void
lower (const Down &down, const Sixteen (&x)[ROW_BLOCKS], float (&sum)[ROW_BLOCKS][4])
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

/* Four tokens' sums of a rank by COUNT warps, or blocks, `apart` floats from one to the next: added
 * in their order. */
template <int COUNT>
static __device__ __forceinline__ float4
add_up (const float *first, size_t apart)
{
  float4 sum = make_float4 (0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
  for (int i = 0; i < COUNT; i++)
    {
      const float4 more = *reinterpret_cast<const float4 *> (first + i * apart);
      sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
    }
  return sum;
}

/* A rank of four tokens, `row` and those below it. */
static __device__ __forceinline__ void
write_tokens (const SvdqQuantise &q, int row, int rank, const float4 &sum)
{
  const float of_token[TOKENS] = { sum.x, sum.y, sum.z, sum.w };
#pragma unroll
  for (int i = 0; i < TOKENS; i++)
    if (row + i < q.m)
      ((bf16 *)q.low)[(size_t)(row + i) * LOW_RANK_PITCH (q.rank) + rank]
          = __float2bfloat16_rn (of_token[i]);
}

/* Zeros behind the last rank, for a block's rows: by so many threads. */
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

/* -- launching ----------------------------------------------------------------------------------
 */

/* What all of these kernels take. */
static inline Status
check_quantise (Stream *s, const SvdqQuantise *q)
{
  REQUIRE (s, s->caps.sm == 90);
  REQUIRE (s, q->m >= 1 && q->k >= 64 && q->k % STRIP_K == 0 && q->k <= SVDQ_SM90_MOST_K);
  REQUIRE (s, (int64_t)q->m * q->k <= INT32_MAX / 2);
  REQUIRE (s, q->rank >= 0 && q->rank % LOW_RANKS == 0);
  return STATUS_OK;
}
