/* SPDX-License-Identifier: Apache-2.0
 *
 * A norm that is made where it is quantised against the same in two steps: codes, scales, low-rank
 * input and outputs have the same bytes, whatever x is.
 */
#include "kernels/cuda/svdq.h"
#include "tests/kernels/card-test.cuh"
#include "tests/kernels/patience.h"
#include "tests/kernels/svdq-layer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EPS  1e-5f
#define RUNS 20

/* FNV-1a of device memory. */
static uint64_t
hash_of (Stream *s, const void *device, size_t bytes)
{
  uint8_t *host = (uint8_t *)malloc (bytes);
  download (s, device, host, bytes);
  uint64_t hash = 14695981039346656037u;
  for (size_t i = 0; i < bytes; i++)
    hash = (hash ^ host[i]) * 1099511628211u;
  free (host);
  return hash;
}

/* -- norms --------------------------------------------------------------------------------------
 */

/* Rows of a residual stream, and a norm of them in either form. */
typedef struct
{
  Stream *s;
  int64_t m, k;
  uint16_t *host;
  Tensor x, y, normed, factors;
  Tensor post, gate, next, scale; /* scale.data NULL: none */
} Rows;

static Tensor
random_vector (Stream *s, SvdqLayer *layer)
{
  float *v = (float *)malloc ((size_t)layer->k * sizeof (float));
  for (int64_t i = 0; i < layer->k; i++)
    v[i] = 1.0f + 0.9f * svdq_layer_uniform (layer);
  const Tensor out = tensor_1d (DTYPE_F32, to_device (s, v, (size_t)layer->k * 4), layer->k);
  free (v);
  return out;
}

/* Of `layer`; takes over x [m, k]. */
static Rows
rows_new (Stream *s, SvdqLayer *layer, uint16_t *x, int64_t m, bool scaled)
{
  const int64_t k = layer->k;
  Rows r = {};
  r.s = s, r.m = m, r.k = k, r.host = x;
  uint16_t *y = svdq_layer_rows (layer, m);
  r.x = tensor_2d (DTYPE_BF16, to_device (s, x, (size_t)(m * k) * 2), m, k);
  r.y = tensor_2d (DTYPE_BF16, to_device (s, y, (size_t)(m * k) * 2), m, k);
  r.normed = tensor_2d (DTYPE_BF16, poisoned (s, (size_t)(m * k) * 2), m, k);
  r.factors = tensor_1d (DTYPE_F32, poisoned (s, (size_t)(m + k) * 4), m + k);
  r.post = random_vector (s, layer);
  r.gate = random_vector (s, layer);
  r.next = random_vector (s, layer);
  if (scaled)
    r.scale = random_vector (s, layer);
  free (y);
  return r;
}

static void
rows_free (Rows *r)
{
  Tensor *all[]
      = { &r->x, &r->y, &r->normed, &r->factors, &r->post, &r->gate, &r->next, &r->scale };
  for (Tensor *t : all)
    ops->free (r->s, t->data);
  free (r->host);
}

/* The norm of the rows as they were at first, or of what y adds to them. */
static void
norm (Rows *r, bool residual, Tensor *out)
{
  const Tensor *scale = r->scale.data != NULL ? &r->scale : NULL;
  upload (r->s, r->x.data, r->host, (size_t)(r->m * r->k) * 2);
  if (residual)
    require (r->s,
             ops->residual_norm (r->s, &r->x, &r->y, &r->post, &r->gate, &r->next, scale, EPS, out),
             "residual_norm");
  else
    require (r->s, ops->rms_norm (r->s, &r->x, &r->next, scale, EPS, out), "rms_norm");
}

/* -- quantising ---------------------------------------------------------------------------------
 */

typedef struct
{
  int64_t m, k;
  int rank;
} Case;

static LinearSource
source_of (const SvdqLayer *layer, bool swiglu)
{
  LinearSource source = {};
  source.n = layer->n;
  source.k = layer->k;
  source.bias = tensor_1d (DTYPE_F32, layer->bias, layer->n);
  source.svdq = &layer->source;
  source.swiglu = swiglu;
  return source;
}

/* The hash of all that quantising leaves of the norm, made before it or in it. */
static uint64_t
quantised (Rows *r, const SvdqWeights *w, bool residual, bool apart)
{
  const size_t bytes = svdq_activations_bytes (w, r->m);
  void *block = poisoned (r->s, bytes);
  const SvdqActivations a = svdq_activations_in (w, r->m, block);
  norm (r, residual, apart ? &r->factors : &r->normed);
  const float *by = (const float *)r->factors.data;
  require (r->s,
           apart ? svdq_quantise_normed (r->s, w, r->x.data, by + r->k, by, &a)
                 : svdq_quantise (r->s, w, r->normed.data, &a),
           "quantise");
  const uint64_t hash = hash_of (r->s, block, bytes);
  ops->free (r->s, block);
  return hash;
}

static void
compare (Rows *r, const SvdqWeights *w, const char *what)
{
  for (int residual = 0; residual < 2; residual++)
    {
      const uint64_t whole = quantised (r, w, residual != 0, false);
      const uint64_t x = hash_of (r->s, r->x.data, (size_t)(r->m * r->k) * 2);
      bool same = true;
      for (int run = 0; run < (IS_EMULATED ? 1 : RUNS); run++)
        same = same && quantised (r, w, residual != 0, true) == whole
               && hash_of (r->s, r->x.data, (size_t)(r->m * r->k) * 2) == x;
      char text[160];
      snprintf (text, sizeof text, "%s %s: %lld x %lld, rank %d, %s, %s", what,
                w->format == SVDQ_INT4 ? "INT4" : "NVFP4", (long long)r->m, (long long)r->k,
                w->rank, r->scale.data != NULL ? "scaled" : "not scaled",
                residual ? "residual_norm" : "rms_norm");
      ok (same, text);
    }
}

static void
test_quantise (Stream *s, SvdqFormat format, const Case *c, bool scaled)
{
  if (c->m * c->k * (c->rank + 8) > MOST_PRODUCTS)
    return;
  SvdqLayer *layer
      = svdq_layer_new (format, 64, c->k, c->rank, (uint64_t)(c->m * 131 + c->k + c->rank));
  const LinearSource source = source_of (layer, false);
  SvdqWeights w;
  require (s, svdq_weights_load (s, &source, &w), "weights");
  Rows r = rows_new (s, layer, svdq_layer_rows (layer, c->m), c->m, scaled);
  compare (&r, &w, "quantised");
  rows_free (&r);
  svdq_weights_free (s, &w);
  svdq_layer_free (layer);
}

/* NaN, infinities, rows near either end of the range. */
static void
test_anything (Stream *s, SvdqFormat format)
{
  const int64_t m = 99, k = 256;
  SvdqLayer *layer = svdq_layer_new (format, 64, k, 16, 99);
  const LinearSource source = source_of (layer, false);
  uint16_t *x = (uint16_t *)malloc ((size_t)(m * k) * 2);
  for (int64_t i = 0; i < m * k; i++)
    {
      const uint32_t bits = svdq_layer_random (layer) >> 16, row = (uint32_t)(i / k);
      x[i] = (uint16_t)bits;
      if (row % 3 == 0) /* exponents near one another */
        x[i] = (uint16_t)((bits & 0x80ff) | ((row / 3 * 8 + (bits >> 8 & 1)) << 7 & 0x7f80));
      if (row % 3 == 1) /* the least numbers there are */
        x[i] = (uint16_t)(bits & (0x8007 | row % 64));
    }
  SvdqWeights w;
  require (s, svdq_weights_load (s, &source, &w), "weights");
  Rows r = rows_new (s, layer, x, m, true);
  compare (&r, &w, "any bits");
  rows_free (&r);
  svdq_weights_free (s, &w);
  svdq_layer_free (layer);
}

/* -- linears ------------------------------------------------------------------------------------
 */

static uint64_t
applied (Rows *r, const Linear *linear, bool apart, Tensor *out)
{
  const size_t bytes = (size_t)tensor_count (out) * 2;
  poison (r->s, out->data, bytes);
  norm (r, true, apart ? &r->factors : &r->normed);
  require (r->s,
           apart ? linear->backend->apply_normed (r->s, linear, &r->x, &r->factors, NULL, out)
                 : linear->backend->apply (r->s, linear, &r->normed, out),
           "apply");
  return hash_of (r->s, out->data, bytes);
}

/* What a LoRA file of 16 ranks adds to `linear`, and it. */
static Linear *
adapted (Stream *s, const Linear *linear, SvdqLayer *layer)
{
  const int64_t rank = 16, down = rank * layer->k, up = layer->n * rank;
  float *numbers = (float *)malloc ((size_t)(down + up) * sizeof (float));
  for (int64_t i = 0; i < down + up; i++)
    numbers[i] = 0.1f * svdq_layer_uniform (layer);
  const LowRankPair pair = { tensor_2d (DTYPE_F32, numbers, rank, layer->k),
                             tensor_2d (DTYPE_F32, numbers + down, layer->n, rank) };
  Linear *out = NULL;
  require (s, linear->backend->adapt (s, linear, &pair, &out), "adapt");
  free (numbers);
  return out;
}

/* More rows than a slab, or halves of a swiglu; then with what is added to the layer. Factors of
 * another size are refused. */
static void
test_linear (Stream *s, const LinearBackend *backend, SvdqFormat format, int64_t m, bool swiglu)
{
  const int64_t n = 128, k = 64;
  SvdqLayer *layer = svdq_layer_new (format, n, k, 16, 31);
  const LinearSource source = source_of (layer, swiglu);
  Linear *linear = NULL;
  require (s, backend->prepare_weights (s, &source, &linear), "prepare_weights");
  Rows r = rows_new (s, layer, svdq_layer_rows (layer, m), m, true);
  const int64_t columns = swiglu ? n / 2 : n;
  Tensor out = tensor_2d (DTYPE_BF16, poisoned (s, (size_t)(m * columns) * 2), m, columns);
  const uint64_t plain = applied (&r, linear, false, &out);
  bool same = applied (&r, linear, true, &out) == plain;
  Linear *more = adapted (s, linear, layer);
  const uint64_t added = applied (&r, more, false, &out);
  same = same && added != plain && applied (&r, more, true, &out) == added;
  more->backend->release (s, more);
  Tensor less = r.factors;
  less.shape[0]--;
  same = same && backend->apply_normed (s, linear, &r.x, &less, NULL, &out) == STATUS_UNSUPPORTED;
  char text[160];
  snprintf (text, sizeof text, "%s: %lld rows%s", backend->name, (long long)m,
            swiglu ? ", swiglu, adapted" : ", adapted");
  ok (same, text);
  ops->free (s, out.data);
  rows_free (&r);
  backend->release (s, linear);
  svdq_layer_free (layer);
}

/* With the norm and rotation of heads behind it, too. */
static void
test_heads (Stream *s, const LinearBackend *backend, SvdqFormat format)
{
  const int64_t m = 65, n = 3 * SVDQ_HEAD, k = SVDQ_HEAD;
  SvdqLayer *layer = svdq_layer_new (format, n, k, 32, 77);
  const LinearSource source = source_of (layer, false);
  Linear *linear = NULL;
  require (s, backend->prepare_weights (s, &source, &linear), "prepare_weights");
  Rows r = rows_new (s, layer, svdq_layer_rows (layer, m), m, true);
  float *angles = (float *)malloc ((size_t)(m * SVDQ_HEAD) * sizeof (float));
  for (int64_t i = 0; i < m * SVDQ_HEAD; i++)
    angles[i] = svdq_layer_uniform (layer);
  const Tensor table = tensor_3d (DTYPE_F32, to_device (s, angles, (size_t)(m * SVDQ_HEAD) * 4), m,
                                  SVDQ_HEAD / 2, 2);
  const HeadNorm norm = { 1, 1, &r.post, &r.gate, EPS, &table, ROPE_INTERLEAVED };
  const size_t bytes = (size_t)(m * n) * 2;
  Tensor out = tensor_3d (DTYPE_BF16, poisoned (s, bytes), m, 3, SVDQ_HEAD);
  ::norm (&r, true, &r.normed);
  require (s, backend->apply_heads (s, linear, &r.normed, &norm, &out), "apply_heads");
  const uint64_t two = hash_of (s, out.data, bytes);
  poison (s, out.data, bytes);
  ::norm (&r, true, &r.factors);
  require (s, backend->apply_normed (s, linear, &r.x, &r.factors, &norm, &out), "apply_normed");
  char text[160];
  snprintf (text, sizeof text, "%s: heads", backend->name);
  ok (hash_of (s, out.data, bytes) == two, text);
  ops->free (s, out.data);
  ops->free (s, table.data);
  free (angles);
  rows_free (&r);
  backend->release (s, linear);
  svdq_layer_free (layer);
}

static void
test_linears (Stream *s)
{
  static const struct
  {
    const LinearBackend *backend;
    SvdqFormat format;
  } all[] = { { &linear_cuda_svdq_int4, SVDQ_INT4 },
              { &linear_cuda_svdq_int8, SVDQ_INT4 },
              { &linear_cuda_svdq_nvfp4, SVDQ_NVFP4 },
              { &linear_cuda_svdq_nvfp4_fp16, SVDQ_NVFP4 } };
  DeviceCaps caps;
  require (s, ops->query (0, &caps), "query");
  for (const auto &one : all)
    {
      /* On newer cards the 4-bit instruction is emulated: slow, and the same. */
      if (!one.backend->supports (&caps, NULL, &one.format)
          && one.backend != &linear_cuda_svdq_int4)
        continue;
      test_linear (s, one.backend, one.format, 33, true);
      test_linear (s, one.backend, one.format, SVDQ_SLAB_ROWS + 77, false);
      test_heads (s, one.backend, one.format);
    }
}

int
main (void)
{
  static const Case cases[]
      = { { 1, 64, 0 },       { 1, 64, 16 },      { 33, 128, 32 },   { 255, 320, 32 },
          { 67, 1088, 48 },   { 61, 192, 128 },   { 33, 192, 272 },  { 31, 2112, 32 },
          { 5, 4352, 0 },     { 257, 3840, 32 },  { 65, 8192, 128 }, { 4224, 3840, 0 },
          { 4224, 3840, 32 }, { 4219, 3840, 128 } };
  Stream *s = open_device ();
  for (int format = SVDQ_INT4; format <= SVDQ_NVFP4; format++)
    {
      test_anything (s, (SvdqFormat)format);
      for (const Case &c : cases)
        test_quantise (s, (SvdqFormat)format, &c, c.m % 2 == 0 || c.k % 128 == 0);
    }
  test_linears (s);
  ops->close (s);
  printf ("1..%d\n", n_tests);
  return n_failed > 0;
}
