/* SPDX-License-Identifier: Apache-2.0
 *
 * softmax.cuh - what the warp-level attention kernels share
 *
 * A thread holds two rows of an mma tile, r and r + 8, four threads a row.
 */
#pragma once

#include "kernels/cuda/mma_tile.cuh"

#include <math.h>

#define LOG2_E 1.4426950408889634f

/* ROWS rows of WIDTH numbers to shared memory; zeros below `limit` and right of `columns`. `from`
 * is the first row, `pitch` numbers lie between rows. They are there when `finish` has been called
 * and all threads have waited for their copies. */
template <int ROWS, int WIDTH, int THREADS> struct RowsCopy
{
  static constexpr int CHUNKS = WIDTH / CHUNK, COUNT = ROWS * CHUNKS / THREADS;
  static_assert (COUNT * THREADS == ROWS * CHUNKS, "as many copies a thread");
  AsyncCopy<COUNT> copies;

  template <typename T>
  __device__ __forceinline__ void
  start (uint32_t shared, const T *from, size_t pitch, int limit, int columns)
  {
#pragma unroll
    for (int i = 0; i < COUNT; i++) /* counted, so that registers have constant numbers */
      {
        const int at = i * THREADS + threadIdx.x, row = at / CHUNKS, chunk = at % CHUNKS;
        const bool inside = row < limit && chunk * CHUNK < columns;
        copies.start (i, shared + chunk_at (row, chunk, WIDTH * 2),
                      inside ? from + row * pitch + chunk * CHUNK : from, inside);
      }
  }

  __device__ __forceinline__ void
  finish (uint32_t shared)
  {
#pragma unroll
    for (int i = 0; i < COUNT; i++)
      {
        const int at = i * THREADS + threadIdx.x;
        copies.finish (i, shared + chunk_at (at / CHUNKS, at % CHUNKS, WIDTH * 2));
      }
  }
};

/* Both at once. */
template <int ROWS, int WIDTH, int THREADS, typename T>
static __device__ __forceinline__ void
copy_rows (uint32_t shared, const T *from, size_t pitch, int limit, int columns)
{
  RowsCopy<ROWS, WIDTH, THREADS> copy;
  copy.start (shared, from, pitch, limit, columns);
  copy.finish (shared);
}

static __device__ __forceinline__ float
quad_max (float v)
{
  v = fmaxf (v, __shfl_xor_sync (0xffffffffu, v, 1));
  return fmaxf (v, __shfl_xor_sync (0xffffffffu, v, 2));
}

static __device__ __forceinline__ float
quad_sum (float v)
{
  v += __shfl_xor_sync (0xffffffffu, v, 1);
  return v + __shfl_xor_sync (0xffffffffu, v, 2);
}

/* Scores of keys that a row must not see become minus infinity: keys from `first_key`, seen up to
 * the last of the m keys or, causal, up to the row itself. */
template <int BLOCKS>
static __device__ __forceinline__ void
mask_scores (float (&scores)[BLOCKS][4], int first_key, int row, int m, bool causal)
{
#pragma unroll
  for (int j = 0; j < BLOCKS; j++)
#pragma unroll
    for (int i = 0; i < 4; i++)
      {
        const int key = first_key + j * 8 + threadIdx.x % 4 * 2 + i % 2;
        const int last = causal ? min (m - 1, row + i / 2 * 8) : m - 1;
        if (key > last)
          scores[j][i] = -INFINITY;
      }
}

/* The maximum of this thread's scores for row r + 8 h. */
template <int BLOCKS>
static __device__ __forceinline__ float
own_maximum (const float (&scores)[BLOCKS][4], int h)
{
  float m = fmaxf (scores[0][2 * h], scores[0][2 * h + 1]);
#pragma unroll
  for (int j = 1; j < BLOCKS; j++)
    m = fmaxf (m, fmaxf (scores[j][2 * h], scores[j][2 * h + 1]));
  return m;
}

/* Two probabilities: nothing to clamp. */
template <typename T>
static __device__ __forceinline__ uint32_t
pack_probabilities (float low, float high)
{
  if constexpr (Activation<T>::DTYPE == DTYPE_F16)
    {
      const __half2 pair = __floats2half2_rn (low, high);
      return *reinterpret_cast<const uint32_t *> (&pair);
    }
  else
    return pack2<T> (low, high);
}

/* The maximum of this warp's scores for row r + 8 h. */
template <int BLOCKS>
static __device__ __forceinline__ float
row_maximum (const float (&scores)[BLOCKS][4], int h)
{
  float m = -INFINITY;
#pragma unroll
  for (int j = 0; j < BLOCKS; j++)
    m = fmaxf (m, fmaxf (scores[j][2 * h], scores[j][2 * h + 1]));
  return quad_max (m);
}

/* Scores -> probabilities against `maximum`, in place; returns this thread's share of their sum.
 * `scale` holds log2(e): the hardware's exponential is a power of two. */
template <int BLOCKS>
static __device__ __forceinline__ float
row_exponentials (float (&scores)[BLOCKS][4], int h, float maximum, float scale)
{
  const float shift = maximum * scale;
  float sum = 0.0f;
#pragma unroll
  for (int j = 0; j < BLOCKS; j++)
#pragma unroll
    for (int i = 2 * h; i < 2 * h + 2; i++)
      {
        scores[j][i] = exp2_fast (fmaf (scores[j][i], scale, -shift));
        sum += scores[j][i];
      }
  return sum;
}
