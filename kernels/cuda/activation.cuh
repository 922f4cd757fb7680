/* SPDX-License-Identifier: Apache-2.0
 *
 * activation.cuh - the type that activations are stored in: BF16 on sm_80 and up, FP16 on sm_75
 *
 * Kernels are templates over that type, T below, and compute in FP32; what they store is rounded
 * once. Turing multiplies no BF16, so there the same kernels run with FP16, which ends at 65504:
 * every store clamps to that (spec svdquant 1.4) instead of writing infinity, for which NaN would
 * be left of the picture. What is known to go beyond is not FP16 (spec z-image 5.11, svdquant 5.1):
 * the residual stream and what is added to it are FP32, and the products of a swiglu are stored as
 * SWIGLU_F16_SCALE (kernels.h) of themselves.
 */
#pragma once

#include "kernels/kernels.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

typedef __nv_bfloat16 bf16;
typedef __half f16;

#define F16_MAX 65504.0f

/* Whether kernels over T have code for the architecture that is being compiled; the others return
 * at once, and their code is left out. A build without BF16's architectures lets FP16 run on all,
 * as PTX of compute_75. */
template <typename T> struct Activation;

template <> struct Activation<bf16>
{
  static constexpr DType DTYPE = DTYPE_BF16;
  static constexpr float SWIGLU_SCALE = 1.0f;
#if defined __CUDA_ARCH__ && __CUDA_ARCH__ < 800
  static constexpr bool RUNS_HERE = false;
#else
  static constexpr bool RUNS_HERE = true;
#endif
};

template <> struct Activation<f16>
{
  static constexpr DType DTYPE = DTYPE_F16;
  static constexpr float SWIGLU_SCALE = SWIGLU_F16_SCALE;
#if defined __CUDA_ARCH__ && __CUDA_ARCH__ >= 800
  static constexpr bool RUNS_HERE = false;
#else
  static constexpr bool RUNS_HERE = true;
#endif
};

/* -- one number ---------------------------------------------------------------------------------
 */

static __device__ __forceinline__ float
to_float (float v)
{
  return v;
}

static __device__ __forceinline__ float
to_float (bf16 v)
{
  return __bfloat162float (v);
}

static __device__ __forceinline__ float
to_float (f16 v)
{
  return __half2float (v);
}

/* NaN becomes -F16_MAX. */
static __device__ __forceinline__ float
clamp_to_f16 (float v)
{
  return fminf (fmaxf (v, -F16_MAX), F16_MAX);
}

/* Rounded to nearest even. */
template <typename T>
static __device__ __forceinline__ T
from_float (float v)
{
  if constexpr (sizeof (T) == sizeof (float))
    return v;
  else if constexpr (Activation<T>::DTYPE == DTYPE_F16)
    return __float2half_rn (clamp_to_f16 (v));
  else
    return __float2bfloat16_rn (v);
}

/* -- 2 and 8 numbers together; BF16 where no type is named ---------------------------------------
 */

/* 8 numbers as registers hold them. */
struct Floats8
{
  float4 low, high;
};

template <typename T> struct PackOf
{
  typedef uint4 Pack;
};

template <> struct PackOf<float>
{
  typedef Floats8 Pack;
};

template <typename T> using Pack = typename PackOf<T>::Pack;

/* `low` lies at the lower address. */
template <typename T = bf16>
static __device__ __forceinline__ uint32_t
pack2 (float low, float high)
{
  if constexpr (Activation<T>::DTYPE == DTYPE_F16)
    {
      __half2 pair = __floats2half2_rn (clamp_to_f16 (low), clamp_to_f16 (high));
      return *reinterpret_cast<uint32_t *> (&pair);
    }
  else
    {
      __nv_bfloat162 pair = __floats2bfloat162_rn (low, high);
      return *reinterpret_cast<uint32_t *> (&pair);
    }
}

template <typename T = bf16>
static __device__ __forceinline__ Pack<T>
pack8 (const float v[8])
{
  if constexpr (sizeof (T) == sizeof (float))
    return Floats8{ make_float4 (v[0], v[1], v[2], v[3]), make_float4 (v[4], v[5], v[6], v[7]) };
  else
    return make_uint4 (pack2<T> (v[0], v[1]), pack2<T> (v[2], v[3]), pack2<T> (v[4], v[5]),
                       pack2<T> (v[6], v[7]));
}

static __device__ __forceinline__ void
unpack_floats (const Floats8 &from, float v[8])
{
  v[0] = from.low.x, v[1] = from.low.y, v[2] = from.low.z, v[3] = from.low.w;
  v[4] = from.high.x, v[5] = from.high.y, v[6] = from.high.z, v[7] = from.high.w;
}

template <typename T>
static __device__ __forceinline__ void
unpack_words (uint4 bits, float v[8])
{
  const uint32_t words[4] = { bits.x, bits.y, bits.z, bits.w };
#pragma unroll
  for (int i = 0; i < 4; i++)
    if constexpr (Activation<T>::DTYPE == DTYPE_F16)
      {
        const float2 pair = __half22float2 (*reinterpret_cast<const __half2 *> (&words[i]));
        v[2 * i] = pair.x;
        v[2 * i + 1] = pair.y;
      }
    else
      {
        v[2 * i] = __uint_as_float (words[i] << 16);
        v[2 * i + 1] = __uint_as_float (words[i] & 0xffff0000u);
      }
}

template <typename T = bf16>
static __device__ __forceinline__ void
unpack8 (const Pack<T> &bits, float v[8])
{
  if constexpr (sizeof (T) == sizeof (float))
    unpack_floats (bits, v);
  else
    unpack_words<T> (bits, v);
}

/* -- 8 numbers in memory, `p` aligned to 16 bytes ----------------------------------------------
 */

/* F32 past L1's coherence: parameters, which no kernel writes while it runs. */
template <typename T>
static __device__ __forceinline__ void
load8 (const T *p, float v[8])
{
  if constexpr (sizeof (T) == sizeof (float))
    {
      const float4 *q = reinterpret_cast<const float4 *> (p);
      unpack_floats (Floats8{ __ldg (q), __ldg (q + 1) }, v);
    }
  else
    unpack8<T> (*reinterpret_cast<const uint4 *> (p), v);
}

template <typename T>
static __device__ __forceinline__ void
store8 (T *p, const float v[8])
{
  *reinterpret_cast<Pack<T> *> (p) = pack8<T> (v);
}
