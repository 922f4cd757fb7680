/* SPDX-License-Identifier: Apache-2.0
 *
 * Norms and RoPE: rows are shared out to the threads, the arithmetic is in simd.c.
 */
#include "kernels/cpu/stream.h"

static const float *
vector_data (const Tensor *vector)
{
  return vector != NULL ? vector->data : NULL;
}

/* x and out are [M, D] of F32, and each vector that is there has D numbers. */
static bool
rows_match (const Tensor *x, const Tensor *out, const Tensor *const *vectors, int n_vectors)
{
  if (x->rank != 2 || x->dtype != DTYPE_F32
      || (out != NULL && (out->dtype != DTYPE_F32 || !tensor_same_shape (x, out))))
    return false;
  for (int i = 0; i < n_vectors; i++)
    if (vectors[i] != NULL
        && (vectors[i]->dtype != DTYPE_F32 || tensor_count (vectors[i]) != x->shape[1]))
      return false;
  return true;
}

Status
cpu_rms_norm (Stream *s, const Tensor *x, const Tensor *weight, const Tensor *scale, float eps,
              Tensor *out)
{
  const Tensor *vectors[] = { weight, scale };
  const float *in = x->data;
  float *to = out->data;
  int64_t d = x->shape[1];

  if (!rows_match (x, out, vectors, 2))
    return cpu_fail (s, STATUS_UNSUPPORTED, "RMS norm of mismatched shapes");
#pragma omp parallel for num_threads(s->threads) if (x->shape[0] * d > PARALLEL_MIN)
  for (int64_t row = 0; row < x->shape[0]; row++)
    s->simd->rms_norm (in + row * d, vector_data (weight), vector_data (scale), eps, to + row * d,
                       d);
  return STATUS_OK;
}

Status
cpu_residual_norm (Stream *s, Tensor *x, const Tensor *y, const Tensor *post, const Tensor *gate,
                   const Tensor *next, const Tensor *scale, float eps, Tensor *out)
{
  const Tensor *vectors[] = { post, gate, next, scale };
  int64_t d = x->shape[1];
  float *to = x->data;

  if (!rows_match (x, y, vectors, 4) || !rows_match (x, out, NULL, 0))
    return cpu_fail (s, STATUS_UNSUPPORTED, "residual of mismatched shapes");
#pragma omp parallel for num_threads(s->threads) if (x->shape[0] * d > PARALLEL_MIN)
  for (int64_t row = 0; row < x->shape[0]; row++)
    {
      s->simd->add_branch (to + row * d, (const float *)y->data + row * d, vector_data (post),
                           vector_data (gate), eps, d);
      if (out != NULL)
        s->simd->rms_norm (to + row * d, vector_data (next), vector_data (scale), eps,
                           (float *)out->data + row * d, d);
    }
  return STATUS_OK;
}

Status
cpu_layer_norm (Stream *s, const Tensor *x, const Tensor *scale, float eps, Tensor *out)
{
  const float *in = x->data;
  float *to = out->data;
  int64_t d = x->shape[1];

  if (!rows_match (x, out, &scale, 1))
    return cpu_fail (s, STATUS_UNSUPPORTED, "layer norm of mismatched shapes");
#pragma omp parallel for num_threads(s->threads) if (x->shape[0] * d > PARALLEL_MIN)
  for (int64_t row = 0; row < x->shape[0]; row++)
    s->simd->layer_norm (in + row * d, vector_data (scale), eps, to + row * d, d);
  return STATUS_OK;
}

Status
cpu_qk_norm_rope (Stream *s, Tensor *qkv, int n_q, int n_kv, const Tensor *q_weight,
                  const Tensor *k_weight, float eps, const Tensor *table, RopePairing pairing)
{
  void (*rotate) (float *, const float *, int64_t)
      = pairing == ROPE_INTERLEAVED ? s->simd->rotate_pairs : s->simd->rotate_halves;
  int64_t m = qkv->shape[0];
  int64_t d = qkv->shape[2];
  float *heads = qkv->data;

  if (qkv->rank != 3 || qkv->dtype != DTYPE_F32 || d % 2 != 0 || qkv->shape[1] != n_q + 2 * n_kv
      || tensor_count (table) != m * d || tensor_count (q_weight) != d
      || tensor_count (k_weight) != d)
    return cpu_fail (s, STATUS_UNSUPPORTED, "RoPE of mismatched shapes");
#pragma omp parallel for num_threads(s->threads) if (m * (n_q + n_kv) * d > PARALLEL_MIN)
  for (int64_t row = 0; row < m; row++)
    for (int head = 0; head < n_q + n_kv; head++)
      {
        float *x = heads + (row * (n_q + 2 * n_kv) + head) * d;

        s->simd->rms_norm (x, head < n_q ? q_weight->data : k_weight->data, NULL, eps, x, d);
        rotate (x, (const float *)table->data + row * d, d);
      }
  return STATUS_OK;
}
