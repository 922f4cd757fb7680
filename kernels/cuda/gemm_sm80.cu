/* SPDX-License-Identifier: Apache-2.0
 *
 * Matrix products on sm_80 and up: warp-level mma fed by cp.async.
 *
 * A block computes one tile of y. Its threads copy 64 k of x and w at a time, 16 bytes each, into
 * a ring of three stages; warps read fragments with ldmatrix. Rows in shared memory are 128
 * bytes; chunk c of row r lies at c ^ (r % 8), so that neither copies nor ldmatrix meet a bank
 * conflict.
 */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/mma.cuh"

#define STAGES      3
#define STAGE_K     64
#define CHUNK       8 /* numbers in 16 bytes */
#define ROW_BYTES   (STAGE_K * 2)
#define ROW_CHUNKS  (STAGE_K / CHUNK)
#define GROUP_TILES 8 /* tiles are numbered down 8 rows of tiles, then along: shares L2 */

/* A tile of ROWS x COLUMNS, cut among WARPS_DOWN x WARPS_ALONG warps. */
template <int ROWS_, int COLUMNS_, int WARPS_DOWN, int WARPS_ALONG_> struct Tile
{
  static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, WARPS_ALONG = WARPS_ALONG_;
  static constexpr int THREADS = WARPS_DOWN * WARPS_ALONG * 32;
  static constexpr int WARP_ROWS = ROWS / WARPS_DOWN, WARP_COLUMNS = COLUMNS / WARPS_ALONG;
  static constexpr int DOWN = WARP_ROWS / 16, ALONG = WARP_COLUMNS / 8; /* mma tiles of a warp */
  static constexpr int X_BYTES = ROWS * ROW_BYTES;
  static constexpr int STAGE_BYTES = (ROWS + COLUMNS) * ROW_BYTES;
  static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES;
  static constexpr int OUT_PITCH = COLUMNS + CHUNK; /* of the staged outputs, in numbers */
  static_assert (ROWS * OUT_PITCH * 2 <= SHARED_BYTES, "outputs are staged in the ring");
};

struct Product
{
  const bf16 *x, *w;
  const float *bias;
  bf16 *y;
  int m, n, k, row_tiles, column_tiles;
};

static __device__ __forceinline__ uint32_t
chunk_at (int row, int chunk)
{
  return row * ROW_BYTES + (chunk ^ row % 8) * 16;
}

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
      cp_async_16 (shared + chunk_at (row, chunk), from, inside);
    }
}

template <typename T>
static __device__ __forceinline__ void
copy_stage (const Product &p, uint32_t ring, int stage, int row, int column)
{
  const uint32_t shared = ring + stage % STAGES * T::STAGE_BYTES;
  if (stage * STAGE_K < p.k)
    {
      copy_rows<T::ROWS, T::THREADS> (shared, p.x, row, p.m, stage * STAGE_K, p.k);
      copy_rows<T::COLUMNS, T::THREADS> (shared + T::X_BYTES, p.w, column, p.n, stage * STAGE_K,
                                         p.k);
    }
  cp_async_commit (); /* an empty group too: the waits count groups */
}

template <typename T>
static __device__ __forceinline__ void
multiply_stage (float (&d)[T::DOWN][T::ALONG][4], uint32_t x, uint32_t w)
{
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 0; step < STAGE_K / 16; step++)
    {
      uint32_t a[T::DOWN][4], b[T::ALONG / 2][4];
#pragma unroll
      for (int i = 0; i < T::DOWN; i++)
        ldmatrix_x4 (a[i], x + chunk_at (i * 16 + lane % 16, step * 2 + lane / 16));
#pragma unroll
      for (int j = 0; j < T::ALONG / 2; j++)
        ldmatrix_x4 (b[j],
                     w + chunk_at (j * 16 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
#pragma unroll
      for (int i = 0; i < T::DOWN; i++)
#pragma unroll
        for (int j = 0; j < T::ALONG; j++)
          mma_bf16 (d[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
    }
}

static __device__ __forceinline__ float2
bias_at (const Product &p, int column)
{
  return p.bias != NULL && column < p.n ? __ldg (reinterpret_cast<const float2 *> (p.bias + column))
                                        : make_float2 (0.0f, 0.0f);
}

/* Sums -> outputs in shared memory, rows of OUT_PITCH. */
template <typename T, bool SWIGLU>
static __device__ __forceinline__ void
stage_outputs (const Product &p, const float (&d)[T::DOWN][T::ALONG][4], bf16 *staged, int warp_row,
               int warp_column, int column)
{
  const int lane = threadIdx.x % 32, row = warp_row + lane / 4;
#pragma unroll
  for (int j = 0; j < T::ALONG; j += SWIGLU ? 2 : 1)
    {
      const int own = warp_column + j * 8 + lane % 4 * 2;
      const float2 b = bias_at (p, column + own);
      const float2 up = SWIGLU ? bias_at (p, column + own + 8) : b;
      const int target = SWIGLU ? warp_column / 2 + j * 4 + lane % 4 * 2 : own;
#pragma unroll
      for (int i = 0; i < T::DOWN; i++)
#pragma unroll
        for (int h = 0; h < 2; h++)
          {
            float low = d[i][j][2 * h] + b.x, high = d[i][j][2 * h + 1] + b.y;
            if (SWIGLU)
              {
                low = silu_of (low) * (d[i][j + 1][2 * h] + up.x);
                high = silu_of (high) * (d[i][j + 1][2 * h + 1] + up.y);
              }
            *reinterpret_cast<uint32_t *> (&staged[(row + i * 16 + h * 8) * T::OUT_PITCH + target])
                = pack2 (low, high);
          }
    }
}

template <typename T, bool SWIGLU>
static __device__ __forceinline__ void
write_outputs (const Product &p, const bf16 *staged, int row, int column)
{
  constexpr int CHUNKS = T::COLUMNS / (SWIGLU ? 2 : 1) / CHUNK;
  const int n = SWIGLU ? p.n / 2 : p.n, first = SWIGLU ? column / 2 : column;
#pragma unroll
  for (int at = threadIdx.x; at < T::ROWS * CHUNKS; at += T::THREADS)
    {
      const int r = at / CHUNKS, c = at % CHUNKS * CHUNK;
      if (row + r < p.m && first + c < n)
        *reinterpret_cast<uint4 *> (p.y + (size_t)(row + r) * n + first + c)
            = *reinterpret_cast<const uint4 *> (&staged[r * T::OUT_PITCH + c]);
    }
}

template <typename T, bool SWIGLU>
static __global__ void
__launch_bounds__ (T::THREADS) gemm_sm80_kernel (Product p)
{
  if (!Activation<bf16>::RUNS_HERE)
    return;
  extern __shared__ __align__ (128) char shared[];
  const uint32_t ring = shared_address (shared);
  const int per_group = GROUP_TILES * p.column_tiles;
  const int first = (int)blockIdx.x / per_group * GROUP_TILES;
  const int tall = min (GROUP_TILES, p.row_tiles - first);
  const int row = (first + (int)blockIdx.x % per_group % tall) * T::ROWS;
  const int column = (int)blockIdx.x % per_group / tall * T::COLUMNS;
  const int warp = threadIdx.x / 32;
  const int warp_row = warp / T::WARPS_ALONG * T::WARP_ROWS;
  const int warp_column = warp % T::WARPS_ALONG * T::WARP_COLUMNS;

  float d[T::DOWN][T::ALONG][4] = {};
  for (int stage = 0; stage < STAGES - 1; stage++)
    copy_stage<T> (p, ring, stage, row, column);
  for (int stage = 0; stage * STAGE_K < p.k; stage++)
    {
      cp_async_wait<STAGES - 2> ();
      __syncthreads (); /* the stage is there, and the one before it is read by all */
      copy_stage<T> (p, ring, stage + STAGES - 1, row, column);
      const uint32_t x = ring + stage % STAGES * T::STAGE_BYTES, w = x + T::X_BYTES;
      multiply_stage<T> (d, x + warp_row * ROW_BYTES, w + warp_column * ROW_BYTES);
    }
  cp_async_wait<0> ();
  __syncthreads ();
  bf16 *staged = reinterpret_cast<bf16 *> (shared);
  stage_outputs<T, SWIGLU> (p, d, staged, warp_row, warp_column, column);
  __syncthreads ();
  write_outputs<T, SWIGLU> (p, staged, row, column);
}

/* -- launching ----------------------------------------------------------------------------------
 */

template <typename T, bool SWIGLU>
static Status
launch (Stream *s, Product p)
{
  p.row_tiles = CEIL_DIV (p.m, T::ROWS);
  p.column_tiles = CEIL_DIV (p.n, T::COLUMNS);
  REQUIRE (s, (int64_t)p.row_tiles * p.column_tiles <= INT32_MAX);
  auto *kernel = gemm_sm80_kernel<T, SWIGLU>;
  CUDA_CHECK (s, cudaFuncSetAttribute (kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       T::SHARED_BYTES));
  launch_kernel (kernel, p.row_tiles * p.column_tiles, T::THREADS, T::SHARED_BYTES, s->compute, p);
  return LAUNCHED (s);
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
  const Product p = { (const bf16 *)g->x,
                      (const bf16 *)g->w,
                      g->bias,
                      (bf16 *)g->y,
                      (int)g->m,
                      (int)g->n,
                      (int)g->k,
                      0,
                      0 };
  const int64_t large = CEIL_DIV (g->m, LargeTile::ROWS) * CEIL_DIV (g->n, LargeTile::COLUMNS);
  if (large >= s->caps.multiprocessors)
    return g->swiglu ? launch<LargeTile, true> (s, p) : launch<LargeTile, false> (s, p);
  return g->swiglu ? launch<SmallTile, true> (s, p) : launch<SmallTile, false> (s, p);
}
