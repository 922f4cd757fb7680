/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention in tiles with an online softmax (Milakov and Gimelshein, arXiv 1805.02867; Dao et al.,
 * arXiv 2205.14135): each thread takes a block of queries of one head and walks over the keys, so
 * that no more than one tile of scores exists for a thread.
 */
#include "kernels/cpu/stream.h"

#include <math.h>

/* Queries and keys of a tile: the scores stay in the second-level cache. */
#define TILE_QUERIES 96
#define TILE_KEYS    256

/* What all tiles of one call share. */
typedef struct
{
  const Simd *simd;
  const float *qkv;
  float *out;
  int64_t m, d;
  int64_t in_stride, out_stride; /* of tokens */
  bool causal;
} Attention;

/* One block of queries of one head. */
typedef struct
{
  const float *q, *k, *v;
  float *out;
  int64_t first, count; /* queries */
  float *scores;        /* [count, TILE_KEYS] */
  float largest[TILE_QUERIES];
  float sum[TILE_QUERIES];
} QueryBlock;

/* Keys [first_key, first_key + n_keys) for all queries of the block. */
static dnnl_status_t
add_tile (const Attention *self, QueryBlock *block, int64_t first_key, int64_t n_keys)
{
  const float *k = block->k + first_key * self->in_stride;
  const float *v = block->v + first_key * self->in_stride;
  float temperature = 1.0f / sqrtf ((float)self->d);
  dnnl_status_t status
      = dnnl_sgemm ('N', 'T', block->count, n_keys, self->d, temperature, block->q, self->in_stride,
                    k, self->in_stride, 0.0f, block->scores, TILE_KEYS);

  if (status != dnnl_success)
    return status;
  for (int64_t i = 0; i < block->count; i++)
    {
      float *scores = block->scores + i * TILE_KEYS;
      int64_t visible = n_keys;
      float shrink = 1.0f;

      if (self->causal && block->first + i - first_key + 1 < n_keys)
        visible = block->first + i - first_key + 1;
      if (visible > 0)
        shrink = self->simd->softmax_step (scores, visible, &block->largest[i], &block->sum[i]);
      for (int64_t j = visible > 0 ? visible : 0; j < n_keys; j++)
        scores[j] = 0.0f;
      if (first_key > 0 && shrink != 1.0f)
        self->simd->scale (block->out + i * self->out_stride, shrink, self->d);
    }
  return dnnl_sgemm ('N', 'N', block->count, self->d, n_keys, 1.0f, block->scores, TILE_KEYS, v,
                     self->in_stride, first_key > 0 ? 1.0f : 0.0f, block->out, self->out_stride);
}

static dnnl_status_t
attend (const Attention *self, QueryBlock *block)
{
  int64_t n_keys = self->causal ? block->first + block->count : self->m;
  dnnl_status_t status = dnnl_success;

  for (int64_t i = 0; i < block->count; i++)
    {
      block->largest[i] = -INFINITY;
      block->sum[i] = 0.0f;
    }
  for (int64_t key = 0; key < n_keys && status == dnnl_success; key += TILE_KEYS)
    status = add_tile (self, block, key, n_keys - key < TILE_KEYS ? n_keys - key : TILE_KEYS);
  for (int64_t i = 0; i < block->count; i++)
    self->simd->scale (block->out + i * self->out_stride, 1.0f / block->sum[i], self->d);
  return status;
}

Status
cpu_attention (Stream *s, const Tensor *qkv, int n_q, int n_kv, bool causal, Tensor *out)
{
  int64_t m = qkv->shape[0];
  int64_t d = qkv->shape[2];
  int64_t n_blocks = (m + TILE_QUERIES - 1) / TILE_QUERIES;
  Attention shared = { s->simd, qkv->data, out->data, m, d, (n_q + 2 * n_kv) * d, n_q * d, causal };
  bool failed = false;
  void *scratch;
  float *tiles;

  if (qkv->rank != 3 || n_kv < 1 || n_q < n_kv || n_q % n_kv != 0 || qkv->shape[1] != n_q + 2 * n_kv
      || d < 16 || d > 512 || d % 16 != 0 || qkv->dtype != DTYPE_F32 || out->dtype != DTYPE_F32
      || tensor_count (out) != m * n_q * d)
    return cpu_fail (s, STATUS_UNSUPPORTED, "attention of %d heads of %lld", n_q, (long long)d);
  CHECK (cpu_scratch (s, (size_t)s->threads * TILE_QUERIES * TILE_KEYS * sizeof (float), &scratch));
  tiles = scratch;

#pragma omp parallel num_threads(s->threads) reduction(|| : failed)
  {
    QueryBlock block = { .scores = tiles + cpu_thread () * TILE_QUERIES * TILE_KEYS };

    /* The last blocks of a causal head read the most keys: they go first. */
#pragma omp for schedule(dynamic)
    for (int64_t job = n_q * n_blocks - 1; job >= 0; job--)
      {
        int64_t head = job % n_q;

        block.first = job / n_q * TILE_QUERIES;
        block.count = m - block.first < TILE_QUERIES ? m - block.first : TILE_QUERIES;
        block.q = shared.qkv + block.first * shared.in_stride + head * d;
        block.k = shared.qkv + (n_q + head / (n_q / n_kv)) * d;
        block.v = block.k + n_kv * d;
        block.out = shared.out + block.first * shared.out_stride + head * d;
        failed = attend (&shared, &block) != dnnl_success || failed;
      }
  }
  return failed ? cpu_fail (s, STATUS_NO_MEMORY, "oneDNN has no memory for attention") : STATUS_OK;
}
