/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights kept as codes on the card: each expansion is the plain formula's, bit for bit; layers of
 * codes give the bits of layers of those weights; what they take is what was said; and they can be
 * moved. In BF16, or in FP16 where that is what the card has. Prints TAP.
 */
#include "kernels/kernels.h"
#include "kernels/reference/codes.h"
#include "kernels/weight-codes.h"
#include "tests/kernels/patience.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct
{
  Stream *stream;
  DeviceCaps caps;
  uint32_t state;
  int n, failed;
} Run;

typedef struct
{
  int bits;
  int64_t m, k, rows[LINEAR_MAX_PARTS];
  bool swiglu;
  bool down; /* behind a swiglu, to the residual stream */
} Case;

static const Case cases[] = {
  { 8, 1, 64, { 8 }, false, false },
  { 4, 1, 64, { 8 }, false, false },
  { 8, 17, 320, { 96, 32, 32 }, false, false },
  { 4, 17, 320, { 96, 32, 32 }, false, false },
  { 8, 40, 192, { 384, 384 }, true, false },
  { 4, 40, 192, { 384, 384 }, true, false },
  { 8, 40, 384, { 192 }, false, true },
  { 4, 1, 384, { 192 }, false, true },
  /* the published encoder's */
  { 8, 60, 2560, { 4096, 1024, 1024 }, false, false },
  { 4, 512, 4096, { 2560 }, false, false },
  { 8, 130, 2560, { 9728, 9728 }, true, false },
  { 4, 60, 2560, { 9728, 9728 }, true, false },
  { 4, 60, 9728, { 2560 }, false, true },
};

static const Ops *const ops = &ops_cuda;

static void
require (Run *run, Status status, const char *what)
{
  if (status == STATUS_OK)
    return;
  printf ("Bail out! %s: %s: %s\n", what, status_name (status), ops->detail (run->stream));
  exit (1);
}

static void
report (Run *run, bool passed, const Case *c, const char *what)
{
  run->n++;
  run->failed += !passed;
  printf ("%sok %d - %d bit, M %lld K %lld N %lld+%lld+%lld%s: %s\n", passed ? "" : "not ", run->n,
          c->bits, (long long)c->m, (long long)c->k, (long long)c->rows[0], (long long)c->rows[1],
          (long long)c->rows[2],
          c->swiglu ? " swiglu"
          : c->down ? " down"
                    : "",
          what);
  fflush (stdout);
}

static uint32_t
random_bits (Run *run)
{
  run->state = run->state * 1664525u + 1013904223u;
  return run->state >> 8;
}

/* As the card stores it. */
static float
stored (const Run *run, float v)
{
  return run->caps.bf16 ? bf16_to_float (bf16_from_float (v)) : f16_to_float (f16_from_float (v));
}

/* Random codes and scales, and in dense->parts the weights that they mean. */
static void
make_sources (Run *run, const Case *c, LinearSource *coded, LinearSource *dense)
{
  *coded = LinearSource ();
  coded->k = c->k;
  coded->swiglu = c->swiglu;
  coded->after_swiglu = c->down;
  coded->code_bits = c->bits;
  for (int i = 0; i < LINEAR_MAX_PARTS && c->rows[i] > 0; i++)
    {
      size_t n_codes = (size_t)(c->rows[i] * c->k * c->bits / 8);
      size_t n_scales = (size_t)(c->rows[i] * c->k / CODES_GROUP);
      uint8_t *codes = (uint8_t *)malloc (n_codes);
      uint16_t *scales = (uint16_t *)malloc (n_scales * 2);

      for (size_t j = 0; j < n_codes; j++)
        codes[j] = (uint8_t)random_bits (run);
      for (size_t j = 0; j < n_scales; j++)
        scales[j] = (uint16_t)((random_bits (run) & 0x81ffu) | 0x3a00u);
      coded->parts[i]
          = tensor_2d (c->bits == 8 ? DTYPE_I8 : DTYPE_U8, codes, c->rows[i], c->k * c->bits / 8);
      coded->scales[i] = tensor_2d (DTYPE_BF16, scales, c->rows[i], c->k / CODES_GROUP);
      coded->n += c->rows[i];
      coded->n_parts++;
    }
  *dense = *coded;
  dense->code_bits = 0;
  for (int i = 0; i < coded->n_parts; i++)
    {
      float *weights = (float *)malloc ((size_t)(c->rows[i] * c->k) * sizeof *weights);

      codes_reference (&coded->parts[i], &coded->scales[i], weights);
      dense->parts[i] = tensor_2d (DTYPE_F32, weights, c->rows[i], c->k);
    }
}

static void
free_sources (LinearSource *coded, LinearSource *dense)
{
  for (int i = 0; i < coded->n_parts; i++)
    {
      free (coded->parts[i].data);
      free (coded->scales[i].data);
      free (dense->parts[i].data);
    }
}

/* x [m, k] through a layer; [m, columns] in host memory, to be freed. */
static float *
apply (Run *run, const LinearBackend *backend, const Linear *linear, const float *x, int64_t m,
       int64_t columns)
{
  const DType type = device_activation (&run->caps);
  Tensor host = tensor_2d (DTYPE_F32, (void *)x, m, linear->k);
  Tensor in = tensor_2d (type, NULL, m, linear->k);
  Tensor out
      = tensor_2d (linear->after_swiglu ? device_residual (&run->caps) : type, NULL, m, columns);
  Tensor back = tensor_2d (DTYPE_F32, NULL, m, columns);

  require (run, ops->alloc (run->stream, tensor_bytes (&in), &in.data), "alloc");
  require (run, ops->alloc (run->stream, tensor_bytes (&out), &out.data), "alloc");
  back.data = malloc (tensor_bytes (&back));
  for (int64_t i = 0; i < m * columns; i++)
    ((float *)back.data)[i] = NAN;
  require (run, ops->upload (run->stream, &host, &in), "upload");
  require (run, ops->upload (run->stream, &back, &out), "upload");
  require (run, backend->apply (run->stream, linear, &in, &out), "apply");
  require (run, ops->wait (run->stream), "wait");
  require (run, ops->download (run->stream, &out, &back), "download");
  ops->free (run->stream, in.data);
  ops->free (run->stream, out.data);
  return (float *)back.data;
}

/* Rows of the unit matrix pick columns of the weights: every 7th k, all outputs. */
static bool
expansion_is_exact (Run *run, const Linear *linear, const LinearSource *dense)
{
  const int64_t k = linear->k, n = linear->n, f = n / 2, m = (k + 6) / 7;
  const bool divided = linear->after_swiglu && !run->caps.bf16;
  float *x = (float *)calloc ((size_t)(m * k), sizeof *x), *y;
  bool same = true;

  for (int64_t i = 0; i < m; i++)
    x[i * k + i * 7] = divided ? SWIGLU_F16_SCALE : 1.0f;
  y = apply (run, &linear_cuda_codes, linear, x, m, n);
  for (int64_t row = 0; row < n; row++)
    {
      const Tensor *part = dense->parts;
      int64_t in_part = row, column = row;

      for (; in_part >= part->shape[0]; part++)
        in_part -= part->shape[0];
      if (linear->turn > 0)
        column = row % f / linear->turn * 2 * linear->turn + row % f % linear->turn
                 + row / f * linear->turn;
      for (int64_t i = 0; i < m; i++)
        {
          float weight = ((const float *)part->data)[in_part * k + i * 7];

          same = same && y[i * n + column] == stored (run, weight);
        }
    }
  free (x);
  free (y);
  return same;
}

static bool
equals_dense (Run *run, const Case *c, const Linear *linear, const LinearSource *dense)
{
  static const LinearBackend *const all[]
      = { &linear_cuda_bf16_sm90, &linear_cuda_bf16, &linear_cuda_f16 };
  const LinearBackend *const *backend = all;
  const int64_t columns = linear->swiglu ? linear->n / 2 : linear->n;
  float *x = (float *)malloc ((size_t)(c->m * c->k) * sizeof *x), *expected, *found;
  Linear *other;
  bool same;

  while (!(*backend)->supports (&run->caps, NULL, NULL))
    backend++;
  for (int64_t i = 0; i < c->m * c->k; i++)
    x[i] = (float)random_bits (run) / (float)(1 << 23) - 1.0f;
  require (run, (*backend)->prepare_weights (run->stream, dense, &other), "prepare");
  expected = apply (run, *backend, other, x, c->m, columns);
  found = apply (run, &linear_cuda_codes, linear, x, c->m, columns);
  same = memcmp (expected, found, (size_t)(c->m * columns) * sizeof *x) == 0;
  (*backend)->release (run->stream, other);
  free (x);
  free (expected);
  free (found);
  return same;
}

/* The weights elsewhere, as an offloaded layer has them. */
static bool
moves (Run *run, const Case *c, Linear *linear, const LinearSource *dense)
{
  Tensor from = tensor_1d (DTYPE_U8, linear->memory, (int64_t)linear->memory_bytes), to = from;
  void *home = linear->memory;
  bool same;

  require (run, ops->alloc (run->stream, linear->memory_bytes, &to.data), "alloc");
  require (run, ops->copy (run->stream, &from, &to), "copy");
  require (run, ops->wait (run->stream), "wait");
  linear_cuda_codes.move (linear, to.data);
  same = equals_dense (run, c, linear, dense);
  linear_cuda_codes.move (linear, home);
  ops->free (run->stream, to.data);
  return same;
}

static void
test_case (Run *run, const Case *c)
{
  uint64_t before = ops->allocated (run->stream), held;
  LinearSource coded, dense;
  LinearMemory memory;
  Linear *linear;

  make_sources (run, c, &coded, &dense);
  linear_cuda_codes.measure (&coded, &memory);
  require (run, linear_cuda_codes.prepare_weights (run->stream, &coded, &linear), "prepare");
  require (run, ops->wait (run->stream), "wait");
  held = ops->allocated (run->stream) - before;
  report (run,
          held == memory.weights + memory.workspace && linear->memory_bytes == memory.weights
              && linear->bytes == memory.weights && memory.loading == 0,
          c, "holds what was said");
  report (run, expansion_is_exact (run, linear, &dense), c, "expands to the formula's bits");
  report (run, equals_dense (run, c, linear, &dense), c, "is the layer of its weights");
  report (run, moves (run, c, linear, &dense), c, "also where it was moved to");
  linear_cuda_codes.release (run->stream, linear);
  report (run, ops->allocated (run->stream) == before, c, "gives all back");
  free_sources (&coded, &dense);
}

static void
test_refused (Run *run)
{
  const Case c = { 8, 1, 128, { 16 }, false, false };
  LinearSource good, dense, bad[5];
  uint64_t before = ops->allocated (run->stream);
  bool refused = true;
  Linear *linear;

  make_sources (run, &c, &good, &dense);
  for (int i = 0; i < 5; i++)
    bad[i] = good;
  bad[0].code_bits = 4;
  bad[1].scales[0].shape[1] = 1;
  bad[2].scales[0].dtype = DTYPE_F32;
  bad[3].parts[0].shape[0] = 8;
  bad[4].k = 96;
  for (int i = 0; i < 5; i++)
    refused
        = refused
          && linear_cuda_codes.prepare_weights (run->stream, &bad[i], &linear) == STATUS_UNSUPPORTED
          && linear == NULL;
  report (run, refused && ops->allocated (run->stream) == before, &c,
          "codes that do not fit are refused");
  free_sources (&good, &dense);
}

int
main (void)
{
  Run run = {};
  float number = 0.0f;
  Tensor host = tensor_1d (DTYPE_F32, &number, 1), first = tensor_1d (DTYPE_BF16, NULL, 1);

  run.state = 2026;

  if (ops->query (0, &run.caps) != STATUS_OK || !linear_cuda_codes.supports (&run.caps, NULL, NULL))
    {
      printf ("1..0 # SKIP no CUDA device that this build has kernels for\n");
      return 77;
    }
  require (&run, ops->open (0, NULL, &run.stream), "open");
  /* Working memory comes with the first of each: not a layer's. */
  require (&run, ops->alloc (run.stream, tensor_bytes (&first), &first.data), "alloc");
  for (int i = 0; i < 16; i++) /* more than there are buffers */
    require (&run, ops->upload (run.stream, &host, &first), "upload");
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    if (cases[i].k * cases[i].k * cases[i].rows[0] <= MOST_PRODUCTS)
      test_case (&run, &cases[i]);
  test_refused (&run);
  ops->free (run.stream, first.data);
  ops->close (run.stream);
  printf ("1..%d\n", run.n);
  return run.failed > 0;
}
