/* SPDX-License-Identifier: Apache-2.0
 *
 * svdq_tile.cuh - products of 4-bit codes: what their kernels share, whatever multiplies
 *
 * A block computes one tile of y. Its threads copy 64 k of codes and scales at a time, with
 * cp.async, into a ring of stages; behind the last codes follow the low-rank factors, 16 of the
 * rank at a time, which take the same place: 16 numbers of 16 bits or 64 of 4 are 32 bytes a row,
 * and ldmatrix makes fragments of either (mma_tile.cuh). Between the two, sums are multiplied by
 * the outer scale.
 *
 * How a stage of codes is multiplied is the Math of the kernel:
 *   RUNS                     false where the target being compiled for has no such instruction
 *   UNIT                     what sums are to be multiplied by, a power of two
 *   multiply<T> (d, share)   adds a warp's share of a stage
 */
#pragma once

#include "kernels/cuda/mma_tile.cuh"
#include "kernels/cuda/svdq.h"

#define SVDQ_STAGE_K   64
#define SVDQ_ROW_BYTES 32
#define SVDQ_RANK_STEP 16

template <int ROWS, int COLUMNS, int WARPS_DOWN, int WARPS_ALONG, int STAGES_, int BLOCKS_,
          int SCALE_BYTES_>
struct SvdqTile : MmaTile<ROWS, COLUMNS, WARPS_DOWN, WARPS_ALONG>
{
  static constexpr int STAGES = STAGES_, BLOCKS = BLOCKS_; /* blocks on one multiprocessor */
  static constexpr int SCALE_BYTES = SCALE_BYTES_;         /* of one row or column and 64 k */
  static constexpr int CODE_BYTES = (ROWS + COLUMNS) * SVDQ_ROW_BYTES;
  static constexpr int STAGE_BYTES = CODE_BYTES + (ROWS + COLUMNS) * SCALE_BYTES;
  static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES;
  static_assert (SvdqTile::DOWN % 2 == 0 && SvdqTile::ALONG % 4 == 0,
                 "a register of scales serves 2 and 4 tiles");
};

struct SvdqProductArgs
{
  const uint8_t *x_codes, *w_codes;
  const uint8_t *x_scales, *w_scales;
  const void *lora, *up; /* 16 bits a number */
  const float *outer, *bias;
  void *y;        /* BF16, but for svdq_sm75.cuh */
  int64_t stride; /* of y, in numbers */
  int x_pitch;    /* rows from one row of x_scales to the next */
  int m, n, k, rank, row_tiles, column_tiles;
};

/* Where a warp finds its share of a stage, in shared memory. */
struct SvdqShare
{
  uint32_t x, w;               /* codes, or low-rank factors: rows of 32 bytes */
  uint32_t x_scales, w_scales; /* rows of SCALE_BYTES */
};

template <typename T>
static __device__ __forceinline__ MmaPlace
svdq_place (const SvdqProductArgs &p)
{
  const int per_group = GROUP_TILES * p.column_tiles;
  const int first = (int)blockIdx.x / per_group * GROUP_TILES;
  const int tall = min (GROUP_TILES, p.row_tiles - first), warp = threadIdx.x / 32;
  return {
    (first + (int)blockIdx.x % per_group % tall) * T::ROWS,
    (int)blockIdx.x % per_group / tall * T::COLUMNS,
    warp / T::WARPS_ALONG * T::WARP_ROWS,
    warp % T::WARPS_ALONG * T::WARP_COLUMNS,
  };
}

/* `x`: where the stage is. */
template <typename T>
static __device__ __forceinline__ SvdqShare
svdq_share (uint32_t x, const MmaPlace &at)
{
  const uint32_t scales = x + T::CODE_BYTES;
  return {
    x + at.warp_row * SVDQ_ROW_BYTES,
    x + (T::ROWS + at.warp_column) * SVDQ_ROW_BYTES,
    scales + at.warp_row * T::SCALE_BYTES,
    scales + (T::ROWS + at.warp_column) * T::SCALE_BYTES,
  };
}

static __device__ __forceinline__ uint32_t
svdq_chunk_at (int row, int chunk)
{
  return chunk_at (row, chunk, SVDQ_ROW_BYTES);
}

/* -- fragments ----------------------------------------------------------------------------------
 */

/* The left operand's tile i: rows i * 16 .. + 15. */
static __device__ __forceinline__ void
svdq_load_a (uint32_t a[4], uint32_t x, int i)
{
  load_a (a, x, threadIdx.x % 32, i * 16, 0, SVDQ_ROW_BYTES);
}

/* Tiles 2 j and 2 j + 1 of the right operand: b[0], b[1] and b[2], b[3]. */
static __device__ __forceinline__ void
svdq_load_b (uint32_t b[4], uint32_t w, int j)
{
  load_b (b, w, threadIdx.x % 32, j * 16, 0, SVDQ_ROW_BYTES);
}

/* -- stages -------------------------------------------------------------------------------------
 */

/* 32 bytes of each of ROWS rows of `pitch` bytes, from row `first`. Behind the last of `limit` rows
 * come copies of it: what is made of them is not written. */
template <int ROWS, int THREADS>
static __device__ __forceinline__ void
svdq_copy_rows (uint32_t shared, const void *matrix, int first, int limit, uint32_t pitch,
                uint32_t offset)
{
#pragma unroll
  for (int i = 0; i < ROWS * 2 / THREADS; i++)
    {
      const int at = i * THREADS + threadIdx.x, row = at / 2, chunk = at % 2;
      cp_async_16 (shared + svdq_chunk_at (row, chunk),
                   (const char *)matrix
                       + (min (first + row, limit - 1) * pitch + chunk * 16 + offset),
                   true);
    }
}

/* The scales of ROWS rows from `first`, which lie together, 16 bytes a thread; likewise. */
template <int ROWS, int SCALE_BYTES>
static __device__ __forceinline__ void
svdq_copy_scales (uint32_t shared, const uint8_t *scales, int first, int limit, int thread)
{
  constexpr int CHUNKS = ROWS * SCALE_BYTES / 16;
  const int from = min (first * SCALE_BYTES + thread * 16, limit * SCALE_BYTES - 16);
  if (thread >= 0 && thread < CHUNKS)
    cp_async_16 (shared + thread * 16, scales + from, true);
}

template <typename T>
static __device__ __forceinline__ void
svdq_copy_stage (const SvdqProductArgs &p, uint32_t ring, int stage, int row, int column)
{
  constexpr int SCALE_BYTES = T::SCALE_BYTES;
  const int codes = p.k / SVDQ_STAGE_K, lora = stage - codes;
  asm("" : "+r"(stage)); /* or else each address becomes a register that counts along */
  const uint32_t shared = ring + stage % T::STAGES * T::STAGE_BYTES;
  const uint32_t w = shared + T::ROWS * SVDQ_ROW_BYTES, scales = shared + T::CODE_BYTES;
  if (lora < 0)
    {
      constexpr int X_CHUNKS = T::ROWS * SCALE_BYTES / 16;
      const uint32_t offset = stage * SVDQ_ROW_BYTES;
      const int thread = threadIdx.x;
      svdq_copy_rows<T::ROWS, T::THREADS> (shared, p.x_codes, row, p.m, p.k / 2, offset);
      svdq_copy_rows<T::COLUMNS, T::THREADS> (w, p.w_codes, column, p.n, p.k / 2, offset);
      svdq_copy_scales<T::ROWS, SCALE_BYTES> (
          scales, p.x_scales + (int64_t)stage * p.x_pitch * SCALE_BYTES, row, p.x_pitch, thread);
      svdq_copy_scales<T::COLUMNS, SCALE_BYTES> (scales + T::ROWS * SCALE_BYTES,
                                                 p.w_scales + (int64_t)stage * p.n * SCALE_BYTES,
                                                 column, p.n, thread - X_CHUNKS);
    }
  else if (lora * SVDQ_RANK_STEP < p.rank)
    {
      const uint32_t offset = lora * SVDQ_ROW_BYTES, pitch = p.rank * (uint32_t)sizeof (bf16);
      svdq_copy_rows<T::ROWS, T::THREADS> (shared, p.lora, row, p.m, pitch, offset);
      svdq_copy_rows<T::COLUMNS, T::THREADS> (w, p.up, column, p.n, pitch, offset);
    }
  cp_async_commit (); /* an empty group too: the waits count groups */
}

template <typename T, typename A>
static __device__ __forceinline__ void
svdq_multiply_lora (float (&d)[T::DOWN][T::ALONG][4], const SvdqShare &s)
{
  uint32_t a[T::DOWN][4];
#pragma unroll
  for (int i = 0; i < T::DOWN; i++)
    svdq_load_a (a[i], s.x, i);
#pragma unroll
  for (int j = 0; j < T::ALONG; j += 2)
    {
      uint32_t b[4];
      svdq_load_b (b, s.w, j / 2);
#pragma unroll
      for (int i = 0; i < T::DOWN; i++)
        {
          mma<A> (d[i][j], a[i], b[0], b[1]);
          mma<A> (d[i][j + 1], a[i], b[2], b[3]);
        }
    }
}

/* -- outputs ------------------------------------------------------------------------------------
 */

template <typename T>
static __device__ __forceinline__ void
svdq_scale_sums (const SvdqProductArgs &p, float (&d)[T::DOWN][T::ALONG][4], int column, float unit)
{
#pragma unroll
  for (int j = 0; j < T::ALONG; j++)
    {
      float2 outer = pair_at (p.outer, column + j * 8 + threadIdx.x % 4 * 2, p.n, 1.0f);
      outer.x *= unit, outer.y *= unit;
#pragma unroll
      for (int i = 0; i < T::DOWN; i++)
        {
          d[i][j][0] *= outer.x, d[i][j][1] *= outer.y;
          d[i][j][2] *= outer.x, d[i][j][3] *= outer.y;
        }
    }
}

/* -- the kernel ---------------------------------------------------------------------------------
 */

/* Waits for a stage, sends for one further on, and says where the warp's share of it lies. */
template <typename T>
static __device__ __forceinline__ SvdqShare
svdq_next_stage (const SvdqProductArgs &p, uint32_t ring, int stage, const MmaPlace &at)
{
  cp_async_wait<T::STAGES - 2> ();
  __syncthreads (); /* the stage is there, and the one before it is read by all */
  svdq_copy_stage<T> (p, ring, stage + T::STAGES - 1, at.row, at.column);
  return svdq_share<T> (ring + stage % T::STAGES * T::STAGE_BYTES, at);
}

/* All sums of a warp, which begin at zero, but for the bias; then nothing is in flight to shared
 * memory, nor read from it. */
template <typename T, typename Math>
static __device__ __forceinline__ void
svdq_sum (const SvdqProductArgs &p, float (&d)[T::DOWN][T::ALONG][4], uint32_t ring,
          const MmaPlace &at)
{
  const int codes = p.k / SVDQ_STAGE_K, stages = codes + p.rank / SVDQ_RANK_STEP;
  for (int stage = 0; stage < T::STAGES - 1; stage++)
    svdq_copy_stage<T> (p, ring, stage, at.row, at.column);
  for (int stage = 0; stage < codes; stage++)
    Math::template multiply<T> (d, svdq_next_stage<T> (p, ring, stage, at));
  svdq_scale_sums<T> (p, d, at.column + at.warp_column, Math::UNIT);
  for (int stage = codes; stage < stages; stage++)
    svdq_multiply_lora<T, bf16> (d, svdq_next_stage<T> (p, ring, stage, at));
  cp_async_wait<0> ();
  __syncthreads ();
}

template <typename T, typename Math, bool SWIGLU>
static __global__ void
__launch_bounds__ (T::THREADS, T::BLOCKS) svdq_product_kernel (SvdqProductArgs p)
{
  if (!Math::RUNS || !Activation<bf16>::RUNS_HERE)
    return;
  static_assert (T::ROWS * T::OUT_PITCH * 2 <= T::SHARED_BYTES, "outputs are staged in the ring");
  extern __shared__ __align__ (128) char shared[];
  const uint32_t ring = shared_address (shared);
  const MmaPlace at = svdq_place<T> (p);

  float d[T::DOWN][T::ALONG][4] = {};
  svdq_sum<T, Math> (p, d, ring, at);
  bf16 *staged = reinterpret_cast<bf16 *> (shared);
  stage_outputs<T, SWIGLU> (p.bias, p.n, d, staged, at);
  __syncthreads ();
  write_outputs<T, SWIGLU> ((bf16 *)p.y, p.m, SWIGLU ? p.n / 2 : p.n, p.stride, staged, at);
}

/* -- launching ----------------------------------------------------------------------------------
 */

/* Tiles of `p`, and how many blocks they are. */
template <typename T>
static Status
svdq_count_tiles (Stream *s, SvdqProductArgs *p, unsigned *blocks)
{
  p->row_tiles = CEIL_DIV (p->m, T::ROWS);
  p->column_tiles = CEIL_DIV (p->n, T::COLUMNS);
  const int64_t tiles = (int64_t)p->row_tiles * p->column_tiles;
  REQUIRE (s, tiles <= INT32_MAX);
  *blocks = (unsigned)tiles;
  return STATUS_OK;
}

template <typename T, typename Math, bool SWIGLU>
static Status
svdq_launch_tile (Stream *s, SvdqProductArgs p)
{
  unsigned blocks = 0;
  CHECK (svdq_count_tiles<T> (s, &p, &blocks));
  auto *kernel = svdq_product_kernel<T, Math, SWIGLU>;
  CUDA_CHECK (s, cudaFuncSetAttribute (kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       T::SHARED_BYTES));
  launch_kernel (kernel, blocks, T::THREADS, T::SHARED_BYTES, s->compute, p);
  return LAUNCHED (s);
}

/* `g` as the kernels want it, but for the tiles. */
static inline Status
svdq_describe (Stream *s, const SvdqGemm *g, SvdqProductArgs *out)
{
  const SvdqWeights *w = g->w;
  const SvdqActivations *a = g->a;
  REQUIRE (s, w->n >= 64 && w->n % 64 == 0 && w->n <= INT32_MAX / 2);
  REQUIRE (s, w->k >= 64 && w->k % 64 == 0 && w->k <= INT32_MAX / 2);
  REQUIRE (s, w->n * w->k <= INT32_MAX && a->m * w->k <= INT32_MAX); /* 32-bit offsets */
  REQUIRE (s, w->rank >= 0 && w->rank % SVDQ_RANK_STEP == 0);
  REQUIRE (s, a->m >= 1 && a->m <= INT32_MAX / 2 && a->pitch % 64 == 0 && a->pitch >= a->m);
  REQUIRE (s, g->stride % 8 == 0);
  *out = {
    a->codes,
    w->qweight,
    (const uint8_t *)a->scales,
    (const uint8_t *)w->wscales,
    a->lora,
    w->proj_up,
    w->outer,
    w->bias,
    g->y,
    g->stride,
    (int)a->pitch,
    (int)a->m,
    (int)w->n,
    (int)w->k,
    w->rank,
    0,
    0,
  };
  return STATUS_OK;
}

/* `g` on a Large tile when there are enough of them for all multiprocessors, else a Small one. */
template <typename Large, typename Small, typename Math>
static Status
svdq_launch (Stream *s, const SvdqGemm *g, SvdqFormat format)
{
  SvdqProductArgs p = {};
  REQUIRE (s, g->w->format == format && s->caps.sm >= 80 && !g->wide);
  CHECK (svdq_describe (s, g, &p));
  if (mma_tiles<Large> (p.m, p.n) >= s->caps.multiprocessors)
    return g->w->swiglu ? svdq_launch_tile<Large, Math, true> (s, p)
                        : svdq_launch_tile<Large, Math, false> (s, p);
  return g->w->swiglu ? svdq_launch_tile<Small, Math, true> (s, p)
                      : svdq_launch_tile<Small, Math, false> (s, p);
}
