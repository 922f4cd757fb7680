/* SPDX-License-Identifier: Apache-2.0
 *
 * The choice among the attentions there are.
 */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/launchers.h"

Status
cuda_attention (Stream *s, const Tensor *qkv, int n_q, int n_kv, bool causal, Tensor *out)
{
  REQUIRE (s, qkv->rank == 3 && qkv->dtype == out->dtype
                  && out->dtype == device_activation (&s->caps));
  REQUIRE (s, n_q >= 1 && n_kv >= 1 && n_q <= 65535 && n_kv <= 65535);
  REQUIRE (s, qkv->shape[1] == n_q + 2 * n_kv && qkv->shape[2] <= 512);
  REQUIRE (s, tensor_count (out) == qkv->shape[0] * n_q * qkv->shape[2]);
  const int d = (int)qkv->shape[2];
  const Attention a = { qkv->data, out->data, qkv->shape[0], n_q, n_kv, d, causal };
  if (s->caps.sm == WGMMA_SM && (d == 64 || d == 128))
    return attention_sm90 (s, &a, -1);
  if (s->caps.sm == WGMMA_SM && d == 512 && !causal)
    return attention_wide_sm90 (s, &a);
  return d <= 128 ? attention_mma (s, &a) : attention_wide (s, &a);
}
