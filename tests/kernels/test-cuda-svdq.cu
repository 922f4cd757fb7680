/* SPDX-License-Identifier: Apache-2.0
 *
 * SVDQuant on the card against level L1 (spec svdquant 8.3, 8.4): conversions for every BF16
 * number, quantised activations bit for bit, the INT4 product bit for bit without a low-rank
 * branch and within a step of BF16 with it.
 */
#include "kernels/cuda/svdq.cuh"
#include "kernels/cuda/svdq.h"
#include "kernels/svdq-math.h"
#include "tests/kernels/card-test.cuh"
#include "tests/kernels/patience.h"
#include "tests/kernels/svdq-layer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GUARD 64 /* numbers behind an output, which must stay as they are */

static void *
to_host (Stream *s, const void *device, size_t bytes)
{
  void *host = malloc (bytes + 1);
  download (s, device, host, bytes);
  return host;
}

/* -- conversions --------------------------------------------------------------------------------
 */

/* For every BF16 number v: E4M3 of |v| by the target's way and in software; E2M1 likewise. */
static __global__ void
conversion_kernel (uint8_t *out)
{
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  const float v = __uint_as_float (i << 16);
  out[4 * i] = (uint8_t)svdq_e4m3 (fabsf (v));
  out[4 * i + 1] = (uint8_t)svdq_e4m3_in_software (fabsf (v));
  out[4 * i + 2] = (uint8_t)svdq_e2m1_pair (v, 0.0f);
  out[4 * i + 3] = (uint8_t)(svdq_e2m1_pair (0.0f, v) >> 4);
}

static void
test_conversions (Stream *s)
{
  void *device = poisoned (s, 4 * 65536);
  launch_kernel (conversion_kernel, 256, 256, 0, s->compute, (uint8_t *)device);
  uint8_t *out = (uint8_t *)to_host (s, device, 4 * 65536);
  int wrong[4] = { 0 };
  for (uint32_t i = 0; i < 65536; i++)
    {
      const float v = svdq_float (i << 16);
      const uint8_t e4m3 = svdq_e4m3_from_float (fabsf (v)), e2m1 = svdq_e2m1_from_float (v);
      const uint8_t expected[4] = { e4m3, e4m3, e2m1, e2m1 };
      for (int j = 0; j < 4; j++)
        wrong[j] += out[4 * i + j] != expected[j];
    }
  printf ("# wrong: E4M3 %d, in software %d; E2M1 low %d, high %d\n", wrong[0], wrong[1], wrong[2],
          wrong[3]);
  ok (wrong[0] + wrong[1] == 0, "E4M3 of every BF16 number");
  ok (wrong[2] + wrong[3] == 0, "E2M1 of every BF16 number");
  ops->free (s, device);
  free (out);
}

/* -- quantised activations ----------------------------------------------------------------------
 */

/* A layer on the card, and one set of activations. */
typedef struct
{
  Stream *s;
  SvdqLayer *layer;
  SvdqWeights w;
  SvdqActivations a;
  void *x, *block;
  uint16_t *host_x;
} Bench;

static LinearSource
source_of (const SvdqLayer *layer, bool biased, bool swiglu)
{
  LinearSource source = {};
  source.n = layer->n;
  source.k = layer->k;
  source.bias = tensor_1d (DTYPE_F32, biased ? layer->bias : NULL, layer->n);
  source.svdq = &layer->source;
  source.swiglu = swiglu;
  return source;
}

/* Takes over x [m, k]. */
static Bench
bench_new (Stream *s, SvdqLayer *layer, bool biased, bool swiglu, uint16_t *x, int64_t m)
{
  Bench b = { s, layer, {}, {}, NULL, NULL, x };
  const LinearSource source = source_of (layer, biased, swiglu);
  require (s, svdq_weights_load (s, &source, &b.w), "weights");
  b.block = poisoned (s, svdq_activations_bytes (&b.w, m));
  b.a = svdq_activations_in (&b.w, m, b.block);
  b.x = to_device (s, x, (size_t)(m * layer->k) * 2);
  require (s, svdq_quantise (s, &b.w, b.x, &b.a), "svdq_quantise");
  return b;
}

static void
bench_free (Bench *b)
{
  svdq_weights_free (b->s, &b->w);
  ops->free (b->s, b->block);
  ops->free (b->s, b->x);
  free (b->host_x);
  svdq_layer_free (b->layer);
}

static bool
both_nan (SvdqFormat format, uint32_t a, uint32_t b)
{
  return format == SVDQ_INT4 ? (a & 0x7fff) > 0x7f80 && (b & 0x7fff) > 0x7f80 : a == b;
}

/* Codes and scales of one group against the host's. */
static bool
same_group (const Bench *b, const uint8_t *codes, const void *scales, int64_t row, int64_t g)
{
  const SvdqLayer *l = b->layer;
  const bool int4 = l->source.format == SVDQ_INT4;
  const int64_t size = int4 ? SVDQ_INT4_GROUP : SVDQ_NVFP4_GROUP;
  float xh[SVDQ_INT4_GROUP];
  for (int64_t i = 0; i < size; i++)
    xh[i] = svdq_smoothed (bf16_to_float (b->host_x[row * l->k + g * size + i]),
                           bf16_to_float (l->smooth[g * size + i]));
  const float amax = svdq_greatest (xh, (int)size);
  const uint32_t expected = int4 ? svdq_int4_scale (amax) : svdq_nvfp4_scale (amax, false);
  const float scale = int4 ? bf16_to_float ((uint16_t)expected) : e4m3_to_float ((uint8_t)expected);
  const float reciprocal = svdq_reciprocal (scale);
  const int64_t at = int4 ? g * b->a.pitch + row : (g / 4 * b->a.pitch + row) * 4 + g % 4;
  const uint32_t found = int4 ? ((const uint16_t *)scales)[at] : ((const uint8_t *)scales)[at];
  bool same = found == expected || both_nan (l->source.format, found, expected);
  for (int64_t i = 0; i < size; i++)
    {
      const uint8_t byte = codes[(row * l->k + g * size + i) / 2];
      const uint8_t code = i % 2 ? byte >> 4 : byte & 15;
      const uint8_t wanted = int4 ? svdq_int4_from_float (xh[i] * reciprocal) & 15
                                  : svdq_e2m1_from_float (xh[i] * reciprocal);
      same = same && code == wanted;
    }
  return same;
}

/* x proj_down within a step of BF16, on 99.9 % of what is finite; two steps elsewhere. */
static bool
same_lowered (const Bench *b, const uint16_t *lora)
{
  const SvdqLayer *l = b->layer;
  const int rank = l->source.rank;
  int64_t beyond = 0, count = 0;
  for (int64_t row = 0; row < b->a.m; row++)
    for (int r = 0; r < rank; r++)
      {
        double sum = 0.0, terms = 0.0;
        for (int64_t i = 0; i < l->k; i++)
          {
            const double term = (double)bf16_to_float (b->host_x[row * l->k + i])
                                * bf16_to_float (l->down[i * rank + r]);
            sum += term;
            terms += fabs (term);
          }
        if (!isfinite (sum) || fabs (sum) > 1e30)
          continue;
        const uint16_t found = lora[row * rank + r];
        const double error = fabs (bf16_to_float (found) - sum);
        count++;
        beyond += svdq_layer_steps (found, bf16_from_float ((float)sum)) > 1;
        if (!(error <= fabs (sum) * 0x1p-8 + terms * 0x1p-18))
          return false;
      }
  return beyond * 1000 <= count;
}

static void
check_quantised (Bench *b, const char *what)
{
  const SvdqLayer *l = b->layer;
  const int64_t m = b->a.m, size = l->source.format == SVDQ_INT4 ? 64 : 16;
  uint8_t *codes = (uint8_t *)to_host (b->s, b->a.codes, (size_t)(m * l->k / 2));
  const size_t scale_bytes = (size_t)(b->a.pitch * l->k / 64) * (size == 64 ? 2 : 4);
  void *scales = to_host (b->s, b->a.scales, scale_bytes);
  int64_t wrong = 0;
  for (int64_t row = 0; row < m; row++)
    for (int64_t g = 0; g < l->k / size; g++)
      wrong += !same_group (b, codes, scales, row, g);
  bool lowered = true;
  if (l->source.rank > 0)
    {
      uint16_t *lora = (uint16_t *)to_host (b->s, b->a.lora, (size_t)(m * l->source.rank) * 2);
      lowered = same_lowered (b, lora);
      free (lora);
    }
  char text[160];
  snprintf (text, sizeof text, "%s %s: %lld x %lld, rank %d (%lld groups differ%s)", what,
            size == 64 ? "INT4" : "NVFP4", (long long)m, (long long)l->k, l->source.rank,
            (long long)wrong, lowered ? "" : ", low rank too far off");
  ok (wrong == 0 && lowered, text);
  free (codes);
  free (scales);
}

static void
test_quantise (Stream *s, SvdqFormat format, int64_t m, int64_t k, int rank)
{
  if (m * k * (rank + 8) > MOST_PRODUCTS)
    return;
  SvdqLayer *layer = svdq_layer_new (format, 64, k, rank, (uint64_t)(m * 131 + k + rank));
  uint16_t *x = svdq_layer_rows (layer, m);
  Bench b = bench_new (s, layer, false, false, x, m);
  check_quantised (&b, "quantised");
  bench_free (&b);
}

/* Any bits whatever: NaN, infinities, numbers at both ends; each row of one size, or of all. */
static void
test_quantise_anything (Stream *s, SvdqFormat format)
{
  const int64_t m = 300, k = 512;
  SvdqLayer *layer = svdq_layer_new (format, 64, k, 0, 99);
  uint16_t *x = (uint16_t *)malloc ((size_t)(m * k) * 2);
  for (int64_t i = 0; i < k; i++) /* a few divisors at the ends of the range */
    if (i % 128 >= 64 && i % 7 == 0)
      layer->smooth[i] = (uint16_t)(1 + svdq_layer_random (layer) % 0x7f00);
  for (int64_t i = 0; i < m * k; i++)
    {
      const int64_t row = i / k;
      const uint32_t bits = svdq_layer_random (layer) >> 16;
      x[i] = (uint16_t)bits;
      if (row % 3 == 0) /* exponents near one another: row / 3 of them in turn */
        x[i] = (uint16_t)((bits & 0x80ff) | ((row / 3 * 2 + (bits >> 8 & 1)) << 7 & 0x7f80));
      if (row % 3 == 1) /* the least numbers there are */
        x[i] = (uint16_t)(bits & (0x8007 | row % 64));
    }
  Bench b = bench_new (s, layer, false, false, x, m);
  check_quantised (&b, "any bits");
  bench_free (&b);
}

/* The vectors of spec 8.4 with known answers. */
static void
test_known_codes (Stream *s)
{
  SvdqLayer *layer = svdq_layer_new (SVDQ_INT4, 64, 128, 0, 5);
  static const float halves[] = { 0.5f, 1.5f, 2.5f, 3.5f, 4.5f, 5.5f, 6.5f, 7.0f };
  static const int codes[] = { 0, 2, 2, 4, 4, 6, 6, 7 };
  uint16_t *x = (uint16_t *)calloc (128, 2);
  for (int i = 0; i < 128; i++)
    layer->smooth[i] = bf16_from_float (1.0f);
  for (int i = 0; i < 16; i++)
    x[i] = bf16_from_float (i % 2 ? -halves[i / 2] : halves[i / 2]);
  Bench b = bench_new (s, layer, false, false, x, 1);
  uint8_t *found = (uint8_t *)to_host (s, b.a.codes, 64);
  uint16_t *scales = (uint16_t *)to_host (s, b.a.scales, (size_t)b.a.pitch * 4);
  bool good = scales[0] == bf16_from_float (1.0f) && scales[b.a.pitch] == 0;
  for (int i = 0; i < 16; i++)
    good = good
           && svdq_int4 ((uint8_t)(found[i / 2] >> i % 2 * 4))
                  == (i % 2 ? -codes[i / 2] : codes[i / 2]);
  for (int i = 8; i < 64; i++)
    good = good && found[i] == 0;
  ok (good, "ties to even, an empty group, a scale of one");
  free (found);
  free (scales);
  bench_free (&b);
}

/* -- products -----------------------------------------------------------------------------------
 */

typedef struct
{
  int64_t m, n, k;
  int rank;
  bool biased, swiglu, outer;
} Case;

/* y of the product, [m, columns], without what lies beside and behind, which is checked. */
static uint16_t *
multiply (Bench *b, SvdqProduct product, int64_t columns, bool *whole)
{
  const int64_t m = b->a.m, stride = columns + 24;
  const size_t bytes = (size_t)(m * stride + GUARD) * 2;
  void *y = poisoned (b->s, bytes);
  const SvdqGemm g = { &b->w, &b->a, (bf16 *)y + 8, stride, false, NULL };
  require (b->s, product (b->s, &g), "product");
  uint16_t *wide = (uint16_t *)to_host (b->s, y, bytes);
  uint16_t *out = (uint16_t *)malloc ((size_t)(m * columns) * 2);
  *whole = true;
  for (int64_t i = 0; i < m * stride + GUARD; i++)
    {
      const int64_t row = i / stride, column = i % stride - 8;
      if (row < m && column >= 0 && column < columns)
        out[row * columns + column] = wide[i];
      else
        *whole = *whole && wide[i] == 0xffff;
    }
  free (wide);
  ops->free (b->s, y);
  return out;
}

static void
test_product (Stream *s, SvdqProduct product, const Case *c)
{
  if (c->m * c->n * (c->k + c->rank) > MOST_PRODUCTS)
    return;
  SvdqLayer *layer
      = svdq_layer_new (SVDQ_INT4, c->n, c->k, c->rank, (uint64_t)(c->m + c->n * 7 + c->k * 3));
  if (c->outer)
    layer->source.outer = layer->outer;
  const int64_t columns = c->swiglu ? c->n / 2 : c->n, count = c->m * columns;
  uint16_t *x = svdq_layer_rows (layer, c->m);
  uint16_t *expected = (uint16_t *)malloc ((size_t)count * 2);
  svdq_layer_expected (layer, c->biased, c->swiglu, x, c->m, expected);
  Bench b = bench_new (s, layer, c->biased, c->swiglu, x, c->m);
  bool whole;
  uint16_t *y = multiply (&b, product, columns, &whole);

  int64_t differ = 0, beyond = 0;
  for (int64_t i = 0; i < count; i++)
    {
      const int64_t steps = svdq_layer_steps (y[i], expected[i]);
      differ += steps > 0;
      beyond += steps > 1;
    }
  const bool exact = c->rank == 0 && !c->swiglu;
  char text[200];
  snprintf (
      text, sizeof text,
      "INT4 %lld x %lld x %lld, rank %d%s%s%s: %lld of %lld differ, %lld by more than a step%s",
      (long long)c->m, (long long)c->n, (long long)c->k, c->rank, c->biased ? ", bias" : "",
      c->swiglu ? ", swiglu" : "", c->outer ? ", outer" : "", (long long)differ, (long long)count,
      (long long)beyond, whole ? "" : "; wrote outside");
  ok (whole && (exact ? differ == 0 : beyond * 1000 <= count), text);
  free (y);
  free (expected);
  bench_free (&b);
}

static uint64_t
hash_of (const void *memory, size_t bytes)
{
  uint64_t hash = 14695981039346656037u;
  for (size_t i = 0; i < bytes; i++)
    hash = (hash ^ ((const uint8_t *)memory)[i]) * 1099511628211u;
  return hash;
}

static void
test_repeats (Stream *s, SvdqProduct product)
{
  const int64_t m = 257, n = 320, k = 1024;
  SvdqLayer *layer = svdq_layer_new (SVDQ_INT4, n, k, 48, 77);
  Bench b = bench_new (s, layer, true, false, svdq_layer_rows (layer, m), m);
  uint64_t first = 0;
  bool same = true, whole;
  for (int run = 0; run < 20; run++)
    {
      require (s, svdq_quantise (s, &b.w, b.x, &b.a), "svdq_quantise");
      uint16_t *y = multiply (&b, product, n, &whole);
      const uint64_t hash = hash_of (y, (size_t)(m * n) * 2);
      first = run == 0 ? hash : first;
      same = same && whole && hash == first;
      free (y);
    }
  ok (same, "twenty runs, one hash");
  bench_free (&b);
}

/* Smoothing by powers of two, compensated in x: the same bits (8.4). */
static void
test_smoothing (Stream *s, SvdqProduct product)
{
  const int64_t m = 33, n = 128, k = 192;
  uint16_t *y[2];
  bool whole;
  for (int side = 0; side < 2; side++)
    {
      SvdqLayer *layer = svdq_layer_new (SVDQ_INT4, n, k, 0, 13);
      uint16_t *x = svdq_layer_rows (layer, m);
      for (int64_t i = 0; i < k; i++)
        layer->smooth[i] = bf16_from_float (side ? exp2f ((float)(i % 5)) : 1.0f);
      for (int64_t i = 0; i < m * k && side; i++)
        x[i] = bf16_from_float (bf16_to_float (x[i]) * exp2f ((float)(i % k % 5)));
      Bench b = bench_new (s, layer, false, false, x, m);
      y[side] = multiply (&b, product, n, &whole);
      bench_free (&b);
    }
  ok (memcmp (y[0], y[1], (size_t)(m * n) * 2) == 0, "smoothing divides");
  free (y[0]);
  free (y[1]);
}

/* One row of x with a single one: a column of proj_down times proj_up, exactly (8.4). */
static void
test_one_hot (Stream *s, SvdqProduct product)
{
  const int64_t n = 128, k = 128;
  const int rank = 32;
  SvdqLayer *layer = svdq_layer_new (SVDQ_INT4, n, k, rank, 21);
  memset (layer->qweight, 0, (size_t)(n * k / 2));
  for (int64_t i = 0; i < n * rank; i++)
    layer->up[i] = bf16_from_float ((float)((int)(svdq_layer_random (layer) % 15) - 7));
  for (int64_t i = 0; i < k * rank; i++)
    layer->down[i] = bf16_from_float ((float)((int)(svdq_layer_random (layer) % 15) - 7));
  uint16_t *x = (uint16_t *)calloc ((size_t)(k * k), 2);
  for (int64_t i = 0; i < k; i++)
    x[i * k + i] = bf16_from_float (1.0f);
  Bench b = bench_new (s, layer, false, false, x, k);
  bool whole;
  uint16_t *y = multiply (&b, product, n, &whole);
  int wrong = 0;
  for (int64_t row = 0; row < k; row++)
    for (int64_t column = 0; column < n; column++)
      {
        float sum = 0.0f;
        for (int r = 0; r < rank; r++)
          sum += bf16_to_float (layer->down[row * rank + r])
                 * bf16_to_float (layer->up[column * rank + r]);
        wrong += bf16_from_float (sum) != y[row * n + column];
      }
  ok (wrong == 0 && whole, "one-hot rows give proj_down proj_up");
  free (y);
  bench_free (&b);
}

/* -- linears ------------------------------------------------------------------------------------
 */

/* The backend: more rows than a slab, parts of a wider output, memory given back. */
static void
test_backend (Stream *s, const LinearBackend *backend)
{
  const int64_t m = SVDQ_SLAB_ROWS + 77, n = 64, k = 64, wide = 160;
  const uint64_t before = ops->allocated (s);
  SvdqLayer *layer = svdq_layer_new (SVDQ_INT4, n, k, 0, 31);
  const LinearSource source = source_of (layer, true, false);
  uint16_t *x = svdq_layer_rows (layer, m);
  uint16_t *expected = (uint16_t *)malloc ((size_t)(m * n) * 2);
  Linear *linear = NULL;
  svdq_layer_expected (layer, true, false, x, m, expected);
  require (s, backend->prepare_weights (s, &source, &linear), "prepare_weights");
  Tensor in = tensor_2d (DTYPE_BF16, to_device (s, x, (size_t)(m * k) * 2), m, k);
  Tensor out = tensor_2d (DTYPE_BF16, poisoned (s, (size_t)(m * wide) * 2), m, wide);
  require (s, backend->apply_columns (s, linear, &in, 40, &out), "apply_columns");
  uint16_t *y = (uint16_t *)to_host (s, out.data, (size_t)(m * wide) * 2);
  bool good = linear->bytes > (uint64_t)(n * k / 2);
  for (int64_t i = 0; i < m * wide; i++)
    {
      const int64_t column = i % wide - 40;
      good = good && y[i] == (column >= 0 && column < n ? expected[i / wide * n + column] : 0xffff);
    }
  backend->release (s, linear);
  ops->free (s, in.data);
  ops->free (s, out.data);
  ok (good && ops->allocated (s) == before, "columns of a wider output, by a backend, in slabs");
  free (x);
  free (y);
  free (expected);
  svdq_layer_free (layer);
}

static void
test_refusals (Stream *s)
{
  SvdqLayer *layer = svdq_layer_new (SVDQ_INT4, 64, 64, 16, 1);
  LinearSource source = source_of (layer, false, false);
  const uint64_t before = ops->allocated (s);
  SvdqWeights w;
  source.k = 96;
  bool good = svdq_weights_load (s, &source, &w) == STATUS_UNSUPPORTED && w.memory == NULL;
  source.k = 64;
  layer->source.rank = 8;
  good = good && svdq_weights_load (s, &source, &w) == STATUS_UNSUPPORTED;
  source.svdq = NULL;
  good = good && svdq_weights_load (s, &source, &w) == STATUS_UNSUPPORTED;
  ok (good && ops->allocated (s) == before, "sizes that do not fit are refused");
  svdq_layer_free (layer);
}

static void
test_int4 (Stream *s)
{
  static const Case cases[]
      = { { 1, 64, 64, 0, false, false, false },        { 257, 192, 320, 0, true, false, false },
          { 128, 128, 128, 0, false, false, false },    { 255, 320, 1024, 0, true, false, false },
          { 256, 2240, 192, 0, false, false, true },    { 1, 3840, 512, 0, true, false, false },
          { 2053, 1152, 256, 0, false, false, false },  { 67, 192, 256, 16, true, false, false },
          { 1, 64, 64, 32, false, false, false },       { 255, 256, 1024, 32, true, false, false },
          { 256, 128, 512, 48, false, false, true },    { 257, 320, 448, 128, false, false, false },
          { 1100, 2304, 128, 160, true, false, false }, { 40, 256, 256, 0, true, true, false },
          { 1030, 2560, 192, 32, true, true, false } };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    test_product (s, svdq_gemm_int4, &cases[i]);
  srand (4);
  for (int i = 0; i < 12; i++)
    {
      const Case c = { 1 + rand () % 400,
                       64 * (1 + rand () % 8),
                       64 * (1 + rand () % 12),
                       16 * (rand () % 6),
                       rand () % 2 == 1,
                       rand () % 3 == 0,
                       false };
      test_product (s, svdq_gemm_int4, &c);
    }
  if (!IS_EMULATED) /* there each launch is repeated, in other orders */
    test_repeats (s, svdq_gemm_int4);
  test_smoothing (s, svdq_gemm_int4);
  test_one_hot (s, svdq_gemm_int4);
  test_backend (s, &linear_cuda_svdq_int4);
}

int
main (void)
{
  Stream *s = open_device ();
  test_conversions (s);
  test_known_codes (s);
  for (int format = SVDQ_INT4; format <= SVDQ_NVFP4; format++)
    {
      test_quantise_anything (s, (SvdqFormat)format);
      test_quantise (s, (SvdqFormat)format, 1, 64, 0);
      test_quantise (s, (SvdqFormat)format, 1, 64, 16);
      test_quantise (s, (SvdqFormat)format, 255, 320, 32);
      test_quantise (s, (SvdqFormat)format, 256, 3840, 32);
      test_quantise (s, (SvdqFormat)format, 257, 1024, 48);
      test_quantise (s, (SvdqFormat)format, 65, 10240, 128);
      test_quantise (s, (SvdqFormat)format, 33, 192, 272);
    }
  test_int4 (s);
  test_refusals (s);
  ops->close (s);
  printf ("1..%d\n", n_tests);
  return n_failed > 0;
}
