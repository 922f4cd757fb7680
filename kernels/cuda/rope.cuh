/* SPDX-License-Identifier: Apache-2.0
 *
 * rope.cuh - RMS norm of a q or k head and its rotation, eight numbers a lane
 *
 * What rope.cu does to heads in memory, products of 4-bit codes do to heads that they have just
 * made (svdq_heads.cuh), and both give the same bits.
 */
#pragma once

#include "kernels/cuda/common.cuh"

/* The sum over LANES neighbouring lanes. */
template <int LANES>
static __device__ __forceinline__ float
lanes_sum (float v)
{
#pragma unroll
  for (int offset = LANES / 2; offset > 0; offset >>= 1)
    v += __shfl_xor_sync (0xffffffffu, v, offset);
  return v;
}

/* What a head is multiplied by. v: numbers 8 * lane .. + 7 of its 8 * LANES. */
template <int LANES>
static __device__ __forceinline__ float
head_factor (const float v[8], float eps)
{
  float squares = 0;
#pragma unroll
  for (int j = 0; j < 8; j++)
    squares = fmaf (v[j], v[j], squares);
  return rsqrtf (fmaf (lanes_sum<LANES> (squares), 1.0f / (8 * LANES), eps));
}

/* Rotates the 8 numbers v that begin at element 8 * lane of a head. `turn` holds (cos, sin): of 4
 * pairs when INTERLEAVED, else of the 8 pairs that v's numbers belong to. */
template <int LANES, bool INTERLEAVED>
static __device__ __forceinline__ void
rotate8 (float v[8], const float *turn, int lane)
{
  if (INTERLEAVED)
    {
#pragma unroll
      for (int j = 0; j < 8; j += 2)
        {
          const float a = v[j], b = v[j + 1], c = turn[j], s = turn[j + 1];
          v[j] = fmaf (a, c, -(b * s));
          v[j + 1] = a * s + b * c; /* fmaf (b, c, a * s) */
        }
      return;
    }
  /* The partner i + d/2 lies LANES / 2 lanes on; the lower half subtracts, the upper adds. */
  const float sign = lane < LANES / 2 ? -1.0f : 1.0f;
#pragma unroll
  for (int j = 0; j < 8; j++)
    {
      const float other = __shfl_xor_sync (0xffffffffu, v[j], LANES / 2);
      v[j] = v[j] * turn[2 * j] + sign * other * turn[2 * j + 1];
    }
}
