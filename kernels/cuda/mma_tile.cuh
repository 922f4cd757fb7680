/* SPDX-License-Identifier: Apache-2.0
 *
 * mma_tile.cuh - tiles of warp-level matrix products: how they lie in shared memory, how a block's
 * warps share one, and how BF16 outputs leave
 *
 * Operands are rows of 32 bytes, 64, or a multiple of 128, of which ldmatrix reads eight at a time,
 * 16 bytes each. So that neither those nor copies of whole rows meet a bank conflict, 16-byte
 * chunks of neighbouring rows change places (chunk_at).
 */
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/mma.cuh"

#define CHUNK       8 /* numbers in 16 bytes */
#define GROUP_TILES 8 /* tiles are numbered down 8 rows of tiles, then along: shares L2 */

/* -- operands -----------------------------------------------------------------------------------
 */

/* Byte offset of 16-byte chunk `chunk` of row `row`, rows of `row_bytes`: the exclusive or spreads
 * the rows that are read together over the banks. Rows shorter than a line of banks share one. */
static __device__ __forceinline__ uint32_t
chunk_at (int row, int chunk, int row_bytes)
{
  return row * row_bytes
         + (chunk
            ^ (row_bytes == 32   ? row / 4 & 1
               : row_bytes == 64 ? row / 2 % 4
                                 : row % 8))
               * 16;
}

/* The left operand's fragment: 16 rows from `row` on, two chunks from `chunk` on. `lane`: the
 * thread's number in its warp. */
static __device__ __forceinline__ void
load_a (uint32_t a[4], uint32_t matrix, int lane, int row, int chunk, int row_bytes)
{
  ldmatrix_x4 (a, matrix + chunk_at (row + lane % 16, chunk + lane / 16, row_bytes));
}

/* Two of the right operand's, of 8 rows each: b[0], b[1] and b[2], b[3]. */
static __device__ __forceinline__ void
load_b (uint32_t b[4], uint32_t matrix, int lane, int row, int chunk, int row_bytes)
{
  ldmatrix_x4 (b,
               matrix + chunk_at (row + lane / 16 * 8 + lane % 8, chunk + lane / 8 % 2, row_bytes));
}

/* -- tiles --------------------------------------------------------------------------------------
 */

/* A tile of ROWS x COLUMNS outputs, cut among WARPS_DOWN x WARPS_ALONG warps. */
template <int ROWS_, int COLUMNS_, int WARPS_DOWN, int WARPS_ALONG_> struct MmaTile
{
  static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, WARPS_ALONG = WARPS_ALONG_;
  static constexpr int THREADS = WARPS_DOWN * WARPS_ALONG * 32;
  static constexpr int WARP_ROWS = ROWS / WARPS_DOWN, WARP_COLUMNS = COLUMNS / WARPS_ALONG;
  static constexpr int DOWN = WARP_ROWS / 16, ALONG = WARP_COLUMNS / 8; /* mma tiles of a warp */
  static constexpr int OUT_PITCH = COLUMNS + CHUNK; /* of the staged outputs, in numbers */
};

template <typename T>
static inline int64_t
mma_tiles (int64_t m, int64_t n)
{
  return CEIL_DIV (m, T::ROWS) * CEIL_DIV (n, T::COLUMNS);
}

/* Where a block's tile begins in y. */
struct MmaOrigin
{
  int row, column;
};

template <typename T>
static __device__ __forceinline__ MmaOrigin
mma_origin (int row_tiles, int column_tiles)
{
  const int per_group = GROUP_TILES * column_tiles;
  const int first = (int)blockIdx.x / per_group * GROUP_TILES;
  const int tall = min (GROUP_TILES, row_tiles - first);
  return { (first + (int)blockIdx.x % per_group % tall) * T::ROWS,
           (int)blockIdx.x % per_group / tall * T::COLUMNS };
}

/* Where a block and its warp are. */
struct MmaPlace
{
  int row, column;           /* of the tile in y */
  int warp_row, warp_column; /* of the warp's share in the tile */
};

template <typename T>
static __device__ __forceinline__ MmaPlace
mma_place (const MmaOrigin &tile, int warp)
{
  return { tile.row, tile.column, warp / T::WARPS_ALONG * T::WARP_ROWS,
           warp % T::WARPS_ALONG * T::WARP_COLUMNS };
}

/* d += x w^T of a warp's shares of a stage, in rows of ROW_BYTES, all of type A. */
template <typename T, typename A, int ROW_BYTES>
static __device__ __forceinline__ void
multiply_stage (float (&d)[T::DOWN][T::ALONG][4], uint32_t x, uint32_t w)
{
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int chunk = 0; chunk < ROW_BYTES / 16; chunk += 2)
    {
      uint32_t a[T::DOWN][4], b[T::ALONG / 2][4];
#pragma unroll
      for (int i = 0; i < T::DOWN; i++)
        load_a (a[i], x, lane, i * 16, chunk, ROW_BYTES);
#pragma unroll
      for (int j = 0; j < T::ALONG / 2; j++)
        load_b (b[j], w, lane, j * 16, chunk, ROW_BYTES);
#pragma unroll
      for (int i = 0; i < T::DOWN; i++)
#pragma unroll
        for (int j = 0; j < T::ALONG; j++)
          mma<A> (d[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
    }
}

/* -- outputs ------------------------------------------------------------------------------------
 */

/* Two numbers of a vector over columns; `otherwise` where there is none. */
static __device__ __forceinline__ float2
pair_at (const float *vector, int column, int n, float otherwise)
{
  return vector != NULL && column < n ? __ldg (reinterpret_cast<const float2 *> (vector + column))
                                      : make_float2 (otherwise, otherwise);
}

/* Sums -> outputs in shared memory, rows of OUT_PITCH. n: columns of the product. */
template <typename T, bool SWIGLU>
static __device__ __forceinline__ void
stage_outputs (const float *bias, int n, const float (&d)[T::DOWN][T::ALONG][4], bf16 *staged,
               const MmaPlace &at)
{
  const int lane = threadIdx.x % 32, row = at.warp_row + lane / 4;
#pragma unroll
  for (int j = 0; j < T::ALONG; j += SWIGLU ? 2 : 1)
    {
      const int own = at.warp_column + j * 8 + lane % 4 * 2;
      const float2 b = pair_at (bias, at.column + own, n, 0.0f);
      const float2 up = SWIGLU ? pair_at (bias, at.column + own + 8, n, 0.0f) : b;
      const int target = SWIGLU ? at.warp_column / 2 + j * 4 + lane % 4 * 2 : own;
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

/* And from there to y [m, columns], whose rows lie `stride` numbers apart. */
template <typename T, bool SWIGLU, typename Stride>
static __device__ __forceinline__ void
write_outputs (bf16 *y, int m, int columns, Stride stride, const bf16 *staged, const MmaPlace &at)
{
  constexpr int CHUNKS = T::COLUMNS / (SWIGLU ? 2 : 1) / CHUNK;
  const int first = SWIGLU ? at.column / 2 : at.column;
#pragma unroll
  for (int i = threadIdx.x; i < T::ROWS * CHUNKS; i += T::THREADS)
    {
      const int r = i / CHUNKS, c = i % CHUNKS * CHUNK;
      if (at.row + r < m && first + c < columns)
        *reinterpret_cast<uint4 *> (y + (int64_t)(at.row + r) * stride + first + c)
            = *reinterpret_cast<const uint4 *> (&staged[r * T::OUT_PITCH + c]);
    }
}
