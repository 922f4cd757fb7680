/* SPDX-License-Identifier: Apache-2.0
 *
 * Matrix products on sm_75: FP16 operands, FP32 sums, warp-level mma.
 *
 * A block computes one tile of y. Copies do not travel by themselves there, so threads read 32 k
 * of x and w into registers, multiply the 32 k before them, and only then write what they hold to
 * the other of two buffers: 32 KiB, two blocks a multiprocessor.
 */
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/mma_tile.cuh"

#define STAGE_K    32
#define ROW_BYTES  (STAGE_K * 2)
#define ROW_CHUNKS (STAGE_K / CHUNK)

template <int ROWS, int COLUMNS, int WARPS_DOWN, int WARPS_ALONG>
struct Tile : MmaTile<ROWS, COLUMNS, WARPS_DOWN, WARPS_ALONG>
{
  static constexpr int X_BYTES = ROWS * ROW_BYTES;
  static constexpr int STAGE_BYTES = (ROWS + COLUMNS) * ROW_BYTES;
  static constexpr int PITCH = Tile::WARP_COLUMNS + CHUNK; /* floats of a row on its way out */
  static constexpr int OUT_BYTES = Tile::THREADS / 32 * 16 * PITCH * 4;
  static constexpr int SHARED_BYTES = 2 * STAGE_BYTES > OUT_BYTES ? 2 * STAGE_BYTES : OUT_BYTES;
};

/* Y: what y is stored as. */
template <typename Y_> struct Product
{
  typedef Y_ Y;
  const f16 *x, *w;
  const float *bias;
  Y *y;
  int m, n, k, row_tiles, column_tiles;
  float factor; /* of the sums */
  const f16 *low, *up;
  int rank;

  /* K from which on low and up follow. */
  __device__ __forceinline__ int
  own_k () const
  {
    return CEIL_DIV (k, STAGE_K) * STAGE_K;
  }
};

/* ROWS rows of a row-major [limit, k] matrix, STAGE_K columns at a time; zeros outside. */
template <int ROWS, int THREADS> struct Rows
{
  static constexpr int COUNT = ROWS * ROW_CHUNKS / THREADS;
  AsyncCopy<COUNT> copies;

  __device__ __forceinline__ void
  start (uint32_t shared, const f16 *matrix, int first, int limit, int k0, int k)
  {
#pragma unroll
    for (int i = 0; i < COUNT; i++)
      {
        const int at = i * THREADS + threadIdx.x, row = at / ROW_CHUNKS, chunk = at % ROW_CHUNKS;
        const bool inside = first + row < limit && k0 + chunk * CHUNK < k;
        copies.start (i, shared + chunk_at (row, chunk, ROW_BYTES),
                      matrix + (size_t)(first + row) * k + k0 + chunk * CHUNK, inside);
      }
  }

  __device__ __forceinline__ void
  finish (uint32_t shared)
  {
#pragma unroll
    for (int i = 0; i < COUNT; i++)
      {
        const int at = i * THREADS + threadIdx.x;
        copies.finish (i, shared + chunk_at (at / ROW_CHUNKS, at % ROW_CHUNKS, ROW_BYTES));
      }
  }
};

/* A stage of both operands: of x and w, or behind them of low and up. */
template <typename T, bool ADAPTED> struct Stage
{
  Rows<T::ROWS, T::THREADS> x;
  Rows<T::COLUMNS, T::THREADS> w;

  template <typename P>
  __device__ __forceinline__ void
  start (const P &p, uint32_t shared, const MmaOrigin &tile, int k)
  {
    if (!ADAPTED || k < p.k)
      {
        x.start (shared, p.x, tile.row, p.m, k, p.k);
        w.start (shared + T::X_BYTES, p.w, tile.column, p.n, k, p.k);
      }
    else
      {
        x.start (shared, p.low, tile.row, p.m, k - p.own_k (), p.rank);
        w.start (shared + T::X_BYTES, p.up, tile.column, p.n, k - p.own_k (), p.rank);
      }
  }

  __device__ __forceinline__ void
  finish (uint32_t shared)
  {
    x.finish (shared);
    w.finish (shared + T::X_BYTES);
  }
};

/* Outputs of 16 rows of a warp, from sums to its piece of shared memory. `column` is the first. */
template <typename T, bool SWIGLU, typename P>
static __device__ __forceinline__ void
stage_rows (const P &p, const float (&d)[T::ALONG][4], float *piece, int column)
{
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < T::ALONG; j += SWIGLU ? 2 : 1)
    {
      const float2 b = pair_at (p.bias, column + j * 8 + lane % 4 * 2, p.n, 0.0f);
      const float2 up = SWIGLU ? pair_at (p.bias, column + j * 8 + 8 + lane % 4 * 2, p.n, 0.0f) : b;
#pragma unroll
      for (int h = 0; h < 2; h++)
        {
          float low = d[j][2 * h] * p.factor + b.x, high = d[j][2 * h + 1] * p.factor + b.y;
          if (SWIGLU)
            {
              const float *other = &d[(j + 1) % T::ALONG][2 * h];
              low = swiglu_stored<f16> (silu_of (low) * (other[0] * p.factor + up.x));
              high = swiglu_stored<f16> (silu_of (high) * (other[1] * p.factor + up.y));
            }
          *reinterpret_cast<float2 *> (piece + (lane / 4 + h * 8) * T::PITCH + j * (SWIGLU ? 4 : 8)
                                       + lane % 4 * 2)
              = make_float2 (low, high);
        }
    }
}

/* And from there to y. */
template <typename T, bool SWIGLU, typename P>
static __device__ __forceinline__ void
write_rows (const P &p, const float *piece, int row, int column)
{
  constexpr int CHUNKS = T::WARP_COLUMNS / (SWIGLU ? 2 : 1) / CHUNK;
  const int n = SWIGLU ? p.n / 2 : p.n, first = SWIGLU ? column / 2 : column;
#pragma unroll
  for (int i = 0; i < CEIL_DIV (16 * CHUNKS, 32); i++)
    {
      const int at = i * 32 + threadIdx.x % 32, r = at / CHUNKS, c = at % CHUNKS * CHUNK;
      if (r >= 16 || row + r >= p.m || first + c >= n)
        continue;
      const float4 *from = reinterpret_cast<const float4 *> (piece + r * T::PITCH + c);
      const float4 low = from[0], high = from[1];
      const float v[8] = { low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w };
      store8 (p.y + (size_t)(row + r) * n + first + c, v);
    }
}

template <typename T, bool SWIGLU, bool ADAPTED, typename P>
static __global__ void
__launch_bounds__ (T::THREADS, 2) gemm_sm75_kernel (P p)
{
  if (!Activation<f16>::RUNS_HERE)
    return;
  extern __shared__ __align__ (128) char shared[];
  const uint32_t ring = shared_address (shared);
  const MmaOrigin tile = mma_origin<T> (p.row_tiles, p.column_tiles);
  const int warp = threadIdx.x / 32;
  const int warp_row = warp / T::WARPS_ALONG * T::WARP_ROWS;
  const int warp_column = warp % T::WARPS_ALONG * T::WARP_COLUMNS;

  const int all = ADAPTED ? p.own_k () + p.rank : p.k;
  float d[T::DOWN][T::ALONG][4] = {};
  Stage<T, ADAPTED> copies;
  copies.start (p, ring, tile, 0);
  copies.finish (ring);
  for (int k = 0, turn = 0; k < all; k += STAGE_K, turn ^= 1)
    {
      const uint32_t x = ring + turn * T::STAGE_BYTES, w = x + T::X_BYTES;
      const uint32_t next = ring + (turn ^ 1) * T::STAGE_BYTES;
      __syncthreads (); /* the stage is there, and the one before it is read by all */
      if (k + STAGE_K < all)
        copies.start (p, next, tile, k + STAGE_K);
      multiply_stage<T, f16, ROW_BYTES> (d, x + warp_row * ROW_BYTES, w + warp_column * ROW_BYTES);
      if (k + STAGE_K < all)
        copies.finish (next);
    }
  __syncthreads ();
  float *piece = reinterpret_cast<float *> (shared) + warp * 16 * T::PITCH;
#pragma unroll
  for (int i = 0; i < T::DOWN; i++)
    {
      stage_rows<T, SWIGLU> (p, d[i], piece, tile.column + warp_column);
      __syncwarp ();
      write_rows<T, SWIGLU> (p, piece, tile.row + warp_row + i * 16, tile.column + warp_column);
      __syncwarp ();
    }
}

/* -- launching ----------------------------------------------------------------------------------
 */

template <typename T, bool SWIGLU, bool ADAPTED, typename P>
static Status
launch_kind (Stream *s, P p)
{
  p.row_tiles = CEIL_DIV (p.m, T::ROWS);
  p.column_tiles = CEIL_DIV (p.n, T::COLUMNS);
  REQUIRE (s, (int64_t)p.row_tiles * p.column_tiles <= INT32_MAX);
  launch_kernel (gemm_sm75_kernel<T, SWIGLU, ADAPTED, P>, p.row_tiles * p.column_tiles, T::THREADS,
                 T::SHARED_BYTES, s->compute, p);
  return LAUNCHED (s);
}

template <typename T, bool SWIGLU, typename P>
static Status
launch (Stream *s, const P &p)
{
  return p.rank > 0 ? launch_kind<T, SWIGLU, true> (s, p) : launch_kind<T, SWIGLU, false> (s, p);
}

typedef Tile<128, 128, 2, 2> LargeTile;
typedef Tile<64, 64, 2, 2> SmallTile;
static_assert (LargeTile::SHARED_BYTES <= 48 << 10, "no more than every kernel may have");

template <bool SWIGLU, typename Y>
static Status
launch_as (Stream *s, const Gemm *g)
{
  const Product<Y> p
      = { (const f16 *)g->x,   (const f16 *)g->w,  g->bias,     (Y *)g->y, (int)g->m,
          (int)g->n,           (int)g->k,          0,           0,         gemm_factor (g),
          (const f16 *)g->low, (const f16 *)g->up, (int)g->rank };
  return mma_tiles<LargeTile> (g->m, g->n) >= s->caps.multiprocessors
             ? launch<LargeTile, SWIGLU> (s, p)
             : launch<SmallTile, SWIGLU> (s, p);
}

Status
gemm_sm75 (Stream *s, const Gemm *g)
{
  REQUIRE (s, device_activation (&s->caps) == DTYPE_F16);
  REQUIRE (s, g->m >= 1 && g->m <= INT32_MAX / 2 && g->n <= INT32_MAX / 2 && g->k <= INT32_MAX / 2);
  REQUIRE (s, g->n >= 8 && g->k >= 8 && g->n % (g->swiglu ? 16 : 8) == 0 && g->k % 8 == 0);
  REQUIRE (s, g->rank >= 0 && g->rank <= INT32_MAX / 2 && g->rank % 16 == 0);
  REQUIRE (s, !g->swiglu || !g->wide);
  if (g->swiglu)
    return launch_as<true, f16> (s, g);
  return g->wide ? launch_as<false, float> (s, g) : launch_as<false, f16> (s, g);
}
