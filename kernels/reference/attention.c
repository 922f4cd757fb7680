/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention as it is written in papers, one row of scores at a time.
 */
#include "kernels/reference/reference.h"

#include <math.h>

static void
norm_and_rotate (float *x, int64_t d, const float *weight, float eps, const float *table,
                 RopePairing pairing)
{
  double normed[512];
  double sum = 0.0;

  for (int64_t i = 0; i < d; i++)
    sum += (double)x[i] * x[i];
  for (int64_t i = 0; i < d; i++)
    normed[i] = x[i] / sqrt (sum / (double)d + eps) * weight[i];
  for (int64_t pair = 0; pair < d / 2; pair++)
    {
      int64_t first = pairing == ROPE_INTERLEAVED ? 2 * pair : pair;
      int64_t second = pairing == ROPE_INTERLEAVED ? 2 * pair + 1 : pair + d / 2;
      double cosine = table[2 * pair];
      double sine = table[2 * pair + 1];

      x[first] = (float)(normed[first] * cosine - normed[second] * sine);
      x[second] = (float)(normed[first] * sine + normed[second] * cosine);
    }
}

Status
reference_qk_norm_rope (Stream *s, Tensor *qkv, int n_q, int n_kv, const Tensor *q_weight,
                        const Tensor *k_weight, float eps, const Tensor *table, RopePairing pairing)
{
  int64_t d = qkv->shape[2];

  if (d > 512 || d % 2 != 0)
    return reference_fail (s, STATUS_UNSUPPORTED, "head dimension %d", (int)d);
  for (int64_t row = 0; row < qkv->shape[0]; row++)
    for (int head = 0; head < n_q + n_kv; head++)
      norm_and_rotate ((float *)qkv->data + (row * (n_q + 2 * n_kv) + head) * d, d,
                       head < n_q ? q_weight->data : k_weight->data, eps,
                       (const float *)table->data + row * d, pairing);
  return STATUS_OK;
}

static void
attend (const float *q, const float *k, const float *v, int64_t stride, int64_t n, int64_t d,
        double *scores, float *out)
{
  double largest = -INFINITY;
  double sum = 0.0;

  for (int64_t j = 0; j < n; j++)
    {
      double score = 0.0;

      for (int64_t i = 0; i < d; i++)
        score += (double)q[i] * k[j * stride + i];
      scores[j] = score / sqrt ((double)d);
      largest = fmax (largest, scores[j]);
    }
  for (int64_t j = 0; j < n; j++)
    {
      scores[j] = exp (scores[j] - largest);
      sum += scores[j];
    }
  for (int64_t i = 0; i < d; i++)
    {
      double value = 0.0;

      for (int64_t j = 0; j < n; j++)
        value += scores[j] * v[j * stride + i];
      out[i] = (float)(value / sum);
    }
}

Status
reference_attention (Stream *s, const Tensor *qkv, int n_q, int n_kv, bool causal, Tensor *out)
{
  int64_t m = qkv->shape[0];
  int64_t d = qkv->shape[2];
  int64_t stride = (n_q + 2 * n_kv) * d;
  const float *data = qkv->data;
  void *scores;

  CHECK (host_alloc (&s->memory, (size_t)m * sizeof (double), &scores));
  for (int head = 0; head < n_q; head++)
    for (int64_t row = 0; row < m; row++)
      {
        int kv_head = head / (n_q / n_kv);

        attend (data + row * stride + head * d, data + (n_q + kv_head) * d,
                data + (n_q + n_kv + kv_head) * d, stride, causal ? row + 1 : m, d, scores,
                (float *)out->data + (row * n_q + head) * d);
      }
  host_free (&s->memory, scores);
  return STATUS_OK;
}
