/* SPDX-License-Identifier: Apache-2.0
 *
 * cuda_fp8.h - E4M3 on the processor, what the kernels use of it
 */
#pragma once

#include "kernels/svdq-math.h"
#include "kernels/tensor.h"

#include <cuda_fp16.h>

typedef unsigned char __nv_fp8_storage_t;
typedef unsigned short __nv_fp8x2_storage_t;

enum __nv_saturation_t
{
  __NV_SATFINITE
};

enum __nv_fp8_interpretation_t
{
  __NV_E4M3
};

static inline __nv_fp8_storage_t
__nv_cvt_float_to_fp8 (float v, __nv_saturation_t, __nv_fp8_interpretation_t)
{
  return svdq_e4m3_from_float (v);
}

static inline __nv_fp8x2_storage_t
__nv_cvt_float2_to_fp8x2 (float2 v, __nv_saturation_t, __nv_fp8_interpretation_t)
{
  return (__nv_fp8x2_storage_t)(svdq_e4m3_from_float (v.x) | svdq_e4m3_from_float (v.y) << 8);
}

static inline __half_raw
__nv_cvt_fp8_to_halfraw (__nv_fp8_storage_t v, __nv_fp8_interpretation_t)
{
  return { __half (e4m3_to_float (v)).bits };
}
