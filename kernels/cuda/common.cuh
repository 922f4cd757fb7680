/* SPDX-License-Identifier: Apache-2.0
 *
 * common.cuh - what every kernel file here uses: packed loads, reductions, checks
 *
 * Activations are BF16 (`bf16`), arithmetic is FP32. Rows are read 8 numbers (16 bytes) at a time;
 * a kernel whose rows are not a multiple of 8 takes a scalar path or answers STATUS_UNSUPPORTED.
 */
#pragma once

#include "kernels/cuda/stream.cuh"

#include <cuda_bf16.h>
#include <stdint.h>

#define CEIL_DIV(a, b) (((a) + (b)-1) / (b))

typedef __nv_bfloat16 bf16;

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

/* -- 8 numbers at once ------------------------------------------------------------------------ */

static __device__ __forceinline__ void
unpack8 (uint4 bits, float v[8])
{
  const uint32_t words[4] = { bits.x, bits.y, bits.z, bits.w };
#pragma unroll
  for (int i = 0; i < 4; i++)
    {
      v[2 * i] = __uint_as_float (words[i] << 16);
      v[2 * i + 1] = __uint_as_float (words[i] & 0xffff0000u);
    }
}

/* Two floats as BF16, rounded to nearest even; `low` lies at the lower address. */
static __device__ __forceinline__ uint32_t
pack2 (float low, float high)
{
  __nv_bfloat162 pair = __floats2bfloat162_rn (low, high);
  return *reinterpret_cast<uint32_t *> (&pair);
}

static __device__ __forceinline__ uint4
pack8 (const float v[8])
{
  return make_uint4 (pack2 (v[0], v[1]), pack2 (v[2], v[3]), pack2 (v[4], v[5]),
                     pack2 (v[6], v[7]));
}

/* `p` is 16-byte aligned. */
static __device__ __forceinline__ void
load8 (const bf16 *p, float v[8])
{
  unpack8 (*reinterpret_cast<const uint4 *> (p), v);
}

static __device__ __forceinline__ void
load8 (const float *p, float v[8])
{
  const float4 *q = reinterpret_cast<const float4 *> (p);
  const float4 a = __ldg (q), b = __ldg (q + 1);
  v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
  v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

static __device__ __forceinline__ void
store8 (bf16 *p, const float v[8])
{
  *reinterpret_cast<uint4 *> (p) = pack8 (v);
}

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
