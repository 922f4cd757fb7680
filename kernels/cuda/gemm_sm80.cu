/* SPDX-License-Identifier: Apache-2.0
 *
 * Matrix products on sm_80 and up: warp-level mma fed by cp.async.
 *
 * A block computes one tile of y. Its threads copy 64 k of x and w at a time, 16 bytes each, into
 * a ring of three stages, behind the last k those of low and up; warps read fragments with ldmatrix
 * (mma_tile.cuh). Products without low have kernels of their own: asking for it cost 2 to 12 %.
 */
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/mma_tile.cuh"

#define STAGES     3
#define STAGE_K    64
#define ROW_BYTES  (STAGE_K * 2)
#define ROW_CHUNKS (STAGE_K / CHUNK)

template <int ROWS, int COLUMNS, int WARPS_DOWN, int WARPS_ALONG>
struct Tile : MmaTile<ROWS, COLUMNS, WARPS_DOWN, WARPS_ALONG>
{
  static constexpr int X_BYTES = ROWS * ROW_BYTES;
  static constexpr int STAGE_BYTES = (ROWS + COLUMNS) * ROW_BYTES;
  static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES;
  static_assert (ROWS * Tile::OUT_PITCH * 2 <= SHARED_BYTES, "outputs are staged in the ring");
};

struct Product
{
  const bf16 *x, *w;
  const float *bias;
  bf16 *y;
  int m, n, k, row_tiles, column_tiles;
  const bf16 *low, *up;
  int rank;
  int k_stages, stages; /* of x and w; and with low and up */
};

/* ROWS rows of a row-major [limit, k] matrix, from `first`, columns k0..k0 + 63; zeros outside. */
template <int ROWS, int THREADS>
static __device__ __forceinline__ void
copy_rows (uint32_t shared, const bf16 *matrix, int first, int limit, int k0, int k)
{
#pragma unroll
  for (int i = 0; i < ROWS * ROW_CHUNKS / THREADS; i++)
    {
      const int at = i * THREADS + threadIdx.x;
      const int row = at / ROW_CHUNKS, chunk = at % ROW_CHUNKS;
      const bool inside = first + row < limit && k0 + chunk * CHUNK < k;
      const bf16 *from = inside ? matrix + (size_t)(first + row) * k + k0 + chunk * CHUNK : matrix;
      cp_async_16 (shared + chunk_at (row, chunk, ROW_BYTES), from, inside);
    }
}

template <typename T, bool ADAPTED>
static __device__ __forceinline__ void
copy_stage (const Product &p, uint32_t ring, int stage, int row, int column)
{
  const uint32_t shared = ring + stage % STAGES * T::STAGE_BYTES;
  if (ADAPTED ? stage < p.k_stages : stage * STAGE_K < p.k)
    {
      copy_rows<T::ROWS, T::THREADS> (shared, p.x, row, p.m, stage * STAGE_K, p.k);
      copy_rows<T::COLUMNS, T::THREADS> (shared + T::X_BYTES, p.w, column, p.n, stage * STAGE_K,
                                         p.k);
    }
  else if (ADAPTED && stage < p.stages)
    {
      const int k0 = (stage - p.k_stages) * STAGE_K;
      copy_rows<T::ROWS, T::THREADS> (shared, p.low, row, p.m, k0, p.rank);
      copy_rows<T::COLUMNS, T::THREADS> (shared + T::X_BYTES, p.up, column, p.n, k0, p.rank);
    }
  cp_async_commit (); /* an empty group too: the waits count groups */
}

template <typename T, bool SWIGLU, bool ADAPTED>
static __global__ void
__launch_bounds__ (T::THREADS) gemm_sm80_kernel (Product p)
{
  if (!Activation<bf16>::RUNS_HERE)
    return;
  extern __shared__ __align__ (128) char shared[];
  const uint32_t ring = shared_address (shared);
  const MmaOrigin tile = mma_origin<T> (p.row_tiles, p.column_tiles);
  const MmaPlace at = mma_place<T> (tile, threadIdx.x / 32);

  float d[T::DOWN][T::ALONG][4] = {};
  for (int stage = 0; stage < STAGES - 1; stage++)
    copy_stage<T, ADAPTED> (p, ring, stage, at.row, at.column);
  for (int stage = 0; ADAPTED ? stage < p.stages : stage * STAGE_K < p.k; stage++)
    {
      cp_async_wait<STAGES - 2> ();
      __syncthreads (); /* the stage is there, and the one before it is read by all */
      copy_stage<T, ADAPTED> (p, ring, stage + STAGES - 1, at.row, at.column);
      const uint32_t x = ring + stage % STAGES * T::STAGE_BYTES, w = x + T::X_BYTES;
      multiply_stage<T, bf16, ROW_BYTES> (d, x + at.warp_row * ROW_BYTES,
                                          w + at.warp_column * ROW_BYTES);
    }
  cp_async_wait<0> ();
  __syncthreads ();
  bf16 *staged = reinterpret_cast<bf16 *> (shared);
  stage_outputs<T, SWIGLU> (p.bias, p.n, d, staged, at);
  __syncthreads ();
  const int columns = SWIGLU ? p.n / 2 : p.n;
  write_outputs<T, SWIGLU> (p.y, p.m, columns, columns, staged, at);
}

/* -- launching ----------------------------------------------------------------------------------
 */

template <typename T, bool SWIGLU, bool ADAPTED>
static Status
launch_kind (Stream *s, Product p)
{
  p.row_tiles = CEIL_DIV (p.m, T::ROWS);
  p.column_tiles = CEIL_DIV (p.n, T::COLUMNS);
  REQUIRE (s, (int64_t)p.row_tiles * p.column_tiles <= INT32_MAX);
  auto *kernel = gemm_sm80_kernel<T, SWIGLU, ADAPTED>;
  CUDA_CHECK (s, cudaFuncSetAttribute (kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       T::SHARED_BYTES));
  launch_kernel (kernel, p.row_tiles * p.column_tiles, T::THREADS, T::SHARED_BYTES, s->compute, p);
  return LAUNCHED (s);
}

template <typename T>
static Status
launch (Stream *s, const Product &p, bool swiglu)
{
  if (p.rank > 0)
    return swiglu ? launch_kind<T, true, true> (s, p) : launch_kind<T, false, true> (s, p);
  return swiglu ? launch_kind<T, true, false> (s, p) : launch_kind<T, false, false> (s, p);
}

/* Few warps with large shares: each fragment is used four times. */
typedef Tile<128, 128, 2, 2> LargeTile;
typedef Tile<64, 64, 2, 2> SmallTile;

Status
gemm_sm80 (Stream *s, const Gemm *g)
{
  REQUIRE (s, s->caps.sm >= 80);
  REQUIRE (s, g->m >= 1 && g->m <= INT32_MAX / 2 && g->n <= INT32_MAX / 2 && g->k <= INT32_MAX / 2);
  REQUIRE (s, g->n >= 8 && g->k >= 8 && g->n % (g->swiglu ? 16 : 8) == 0 && g->k % 8 == 0);
  REQUIRE (s, g->rank >= 0 && g->rank <= INT32_MAX / 2 && g->rank % 16 == 0);
  const int k_stages = (int)CEIL_DIV (g->k, STAGE_K);
  const Product p = { (const bf16 *)g->x,
                      (const bf16 *)g->w,
                      g->bias,
                      (bf16 *)g->y,
                      (int)g->m,
                      (int)g->n,
                      (int)g->k,
                      0,
                      0,
                      (const bf16 *)g->low,
                      (const bf16 *)g->up,
                      (int)g->rank,
                      k_stages,
                      k_stages + (int)CEIL_DIV (g->rank, STAGE_K) };
  return mma_tiles<LargeTile> (g->m, g->n) >= s->caps.multiprocessors
             ? launch<LargeTile> (s, p, g->swiglu)
             : launch<SmallTile> (s, p, g->swiglu);
}
