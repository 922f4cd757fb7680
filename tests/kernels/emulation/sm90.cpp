/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernels of sm_90 are not emulated, but for those that quantise: who asks for the others is
 * refused, and no layer here runs by them.
 */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/conv.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/svdq_sm90.h"

#define REFUSED(s) stream_refuse ((s), __func__, "a card")

Status
gemm_sm90 (Stream *s, const Gemm *, int)
{
  return REFUSED (s);
}

const char *
gemm_sm90_variant_name (int)
{
  return NULL;
}

bool
gemm_sm90_variant_has_swiglu (int)
{
  return false;
}

Status
attention_sm90 (Stream *s, const Attention *, int)
{
  return REFUSED (s);
}

const char *
attention_sm90_variant_name (int)
{
  return NULL;
}

int
attention_sm90_variant_dim (int)
{
  return 0;
}

Status
attention_wide_sm90 (Stream *s, const Attention *)
{
  return REFUSED (s);
}

bool
conv_sm90_takes (const Stream *, const Conv *, const ConvLaunch<bf16> *)
{
  return false;
}

Status
conv_sm90 (Stream *s, const Conv *, const ConvLaunch<bf16> *)
{
  return REFUSED (s);
}

/* For the table of engine/linear.c: no device here takes them, and nobody asks more. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

static bool
supports_nothing (const DeviceCaps *, const StreamOptions *, const SvdqFormat *)
{
  return false;
}

const LinearBackend linear_cuda_svdq_sm90_fast = { "cuda-svdq-fp8-wgmma", false, supports_nothing };
const LinearBackend linear_cuda_svdq_sm90_exact
    = { "cuda-svdq-fp16-wgmma", false, supports_nothing };
