/* SPDX-License-Identifier: Apache-2.0
 *
 * common.cuh - what every kernel file here uses: reductions, checks, and the types of
 * activation.cuh
 *
 * Rows are read 8 numbers (16 bytes) at a time; a kernel whose rows are not a multiple of 8 takes a
 * scalar path or answers STATUS_UNSUPPORTED.
 */
#pragma once

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/stream.cuh"

#define CEIL_DIV(a, b) (((a) + (b)-1) / (b))

/* Returns from the enclosing function when a CUDA call fails; the text of the failure goes into
 * the stream, and the runtime's error flag is cleared. */
#define CUDA_CHECK(s, call)                                                                        \
  do                                                                                               \
    {                                                                                              \
      cudaError_t cuda_error = (call);                                                             \
      if (cuda_error != cudaSuccess)                                                               \
        return stream_fail ((s), cuda_error, #call);                                               \
    }                                                                                              \
  while (0)

/* The same for the launch just made: `return LAUNCHED (s)`. Faults while it runs come later. */
#define LAUNCHED(s) stream_launched ((s), __func__)

/* Returns STATUS_UNSUPPORTED with a text from the enclosing function unless `condition`. */
#define REQUIRE(s, condition)                                                                      \
  do                                                                                               \
    {                                                                                              \
      if (!(condition))                                                                            \
        return stream_refuse ((s), __func__, #condition);                                          \
    }                                                                                              \
  while (0)

/* -- reductions ---------------------------------------------------------------------------------
 */

static __device__ __forceinline__ float
warp_sum (float v)
{
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1)
    v += __shfl_xor_sync (0xffffffffu, v, offset);
  return v;
}

static __device__ __forceinline__ float
warp_max (float v)
{
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1)
    v = fmaxf (v, __shfl_xor_sync (0xffffffffu, v, offset));
  return v;
}

/* The sum over a block of THREADS (a multiple of 32), to every thread, in a fixed order.
 * `shared` has one float a warp; the block may use it again after its next barrier. */
template <int THREADS>
static __device__ __forceinline__ float
block_sum (float v, float *shared)
{
  constexpr int WARPS = THREADS / 32;
  v = warp_sum (v);
  if (threadIdx.x % 32 == 0)
    shared[threadIdx.x / 32] = v;
  __syncthreads ();
  float sum = shared[0];
#pragma unroll
  for (int i = 1; i < WARPS; i++)
    sum += shared[i];
  return sum;
}

/* -- functions ----------------------------------------------------------------------------------
 */

static __device__ __forceinline__ float
silu_of (float x)
{
  return __fdividef (x, 1.0f + __expf (-x));
}

/* A product silu (gate) * up, as T stores it. */
template <typename T>
static __device__ __forceinline__ float
swiglu_stored (float product)
{
  if constexpr (Activation<T>::SWIGLU_SCALE == 1.0f)
    return product; /* times one would be another instruction */
  else
    return product * Activation<T>::SWIGLU_SCALE;
}
