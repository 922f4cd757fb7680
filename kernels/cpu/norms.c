/* SPDX-License-Identifier: Apache-2.0
 *
 * Norms and RoPE: rows are shared out to the threads, the arithmetic is in simd.c.
 */
#include "kernels/cpu/stream.h"

#include <math.h>
#include <string.h>

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

/* -- group norm --------------------------------------------------------------------------- */

/* Pixels summed in FP32 before the sums go on in double. */
#define GROUP_NORM_PIXELS 128

/* Per channel: sums of the differences to the picture's first pixel, and of their squares. Far
 * from zero, where sums of plain squares cancel, the differences stay small. */
static void
channel_moments (Stream *s, const float *x, int64_t pixels, int64_t channels, double *sum,
                 double *squares, float *scratch)
{
  memset (sum, 0, (size_t)channels * sizeof *sum);
  memset (squares, 0, (size_t)channels * sizeof *squares);
#pragma omp parallel num_threads(s->threads) if (pixels * channels > PARALLEL_MIN)
  {
    float *part = scratch + cpu_thread () * 2 * channels;

#pragma omp for ordered schedule(static, 1)
    for (int64_t first = 0; first < pixels; first += GROUP_NORM_PIXELS)
      {
        int64_t n = pixels - first < GROUP_NORM_PIXELS ? pixels - first : GROUP_NORM_PIXELS;

        memset (part, 0, (size_t)(2 * channels) * sizeof *part);
        s->simd->channel_sums (x + first * channels, x, n, channels, part, part + channels);
        /* In order, so that the picture does not depend on the number of threads. */
#pragma omp ordered
        for (int64_t c = 0; c < channels; c++)
          {
            sum[c] += part[c];
            squares[c] += part[channels + c];
          }
      }
  }
}

/* By channel: out = (x - centre) * factor + offset. */
typedef struct
{
  float *centre, *factor, *offset;
} Affine;

/* The affine maps of one group's channels, the first of which is `first`, from their moments. */
static void
group_affine (const float *pivot, const double *sum, const double *squares, int64_t pixels,
              int64_t first, int64_t per_group, float eps, const Affine *out)
{
  double count = (double)(pixels * per_group);
  double mean = 0.0;
  double variance = 0.0;

  for (int64_t c = first; c < first + per_group; c++)
    mean += (sum[c] + (double)pixels * pivot[c]) / count;
  for (int64_t c = first; c < first + per_group; c++)
    {
      double distance = pivot[c] - mean;

      variance
          += (squares[c] + 2.0 * distance * sum[c] + (double)pixels * distance * distance) / count;
    }
  for (int64_t c = first; c < first + per_group; c++)
    {
      double scale = out->factor[c] / sqrt (variance + eps);

      out->centre[c] = (float)mean;
      out->factor[c] = (float)scale;
      out->offset[c] = (float)(out->offset[c] + (out->centre[c] - mean) * scale);
    }
}

Status
cpu_group_norm (Stream *s, const Tensor *x, const Tensor *weight, const Tensor *bias, int groups,
                float eps, bool silu, Tensor *out)
{
  int64_t channels = x->shape[2];
  int64_t pixels = x->shape[0] * x->shape[1];
  int64_t per_group = groups > 0 ? channels / groups : 0;
  size_t parts = 3 + 2 * (size_t)s->threads; /* an Affine, and sums for each thread */
  const float *in = x->data;
  double *sum, *squares;
  Affine affine;
  void *scratch;

  if (x->rank != 3 || x->dtype != DTYPE_F32 || out->dtype != DTYPE_F32
      || !tensor_same_shape (x, out) || per_group * groups != channels
      || tensor_count (weight) != channels || tensor_count (bias) != channels)
    return cpu_fail (s, STATUS_UNSUPPORTED, "group norm of mismatched shapes");
  CHECK (
      cpu_scratch (s, (size_t)channels * (2 * sizeof (double) + parts * sizeof (float)), &scratch));
  sum = scratch;
  squares = sum + channels;
  affine.centre = (float *)(squares + channels);
  affine.factor = affine.centre + channels;
  affine.offset = affine.factor + channels;
  channel_moments (s, in, pixels, channels, sum, squares, affine.offset + channels);
  memcpy (affine.factor, weight->data, (size_t)channels * sizeof (float));
  memcpy (affine.offset, bias->data, (size_t)channels * sizeof (float));
  for (int64_t c = 0; c < channels; c += per_group)
    group_affine (in, sum, squares, pixels, c, per_group, eps, &affine);
#pragma omp parallel for num_threads(s->threads) if (pixels * channels > PARALLEL_MIN)
  for (int64_t first = 0; first < pixels; first += GROUP_NORM_PIXELS)
    {
      int64_t n = pixels - first < GROUP_NORM_PIXELS ? pixels - first : GROUP_NORM_PIXELS;

      s->simd->channel_affine (in + first * channels, affine.centre, affine.factor, affine.offset,
                               silu, n, channels, (float *)out->data + first * channels);
    }
  return STATUS_OK;
}
