/* SPDX-License-Identifier: Apache-2.0
 *
 * The processor's SVDQuant linears against the reference, for each instruction set that this
 * processor has: the 4-bit part of INT4 bit for bit, NVFP4 within its bound (spec svdquant 8.3).
 */
#include "kernels/cpu/svdq-tile.h"
#include "kernels/reference/svdq.h"
#include "kernels/svdq-math.h"

#include <stdio.h>
#include <stdlib.h>

static int n_tests, n_failed;

static void
ok (bool passed, const char *what, const char *name)
{
  n_failed += !passed;
  printf ("%sok %d - %s %s\n", passed ? "" : "not ", ++n_tests, what, name);
}

/* -- a random layer --------------------------------------------------------------------------- */

typedef struct
{
  int64_t n, k;
  SvdqSource source;
  uint8_t *qweight;
  void *wscales;
  uint16_t *smooth, *down, *up;
  float *outer, *bias;
} Layer;

static float
uniform (void)
{
  return (float)(rand () % 20001 - 10000) / 10000.0f;
}

static uint16_t *
random_bf16 (int64_t count, float size)
{
  uint16_t *out = malloc ((size_t)(count + 1) * sizeof *out);

  for (int64_t i = 0; i < count; i++)
    out[i] = bf16_from_float (uniform () * size);
  return out;
}

static Layer
layer_new (SvdqFormat format, int64_t n, int64_t k, int rank)
{
  Layer l = { .n = n, .k = k };
  int64_t groups = k / (format == SVDQ_INT4 ? SVDQ_INT4_GROUP : SVDQ_NVFP4_GROUP);
  uint8_t *e4m3 = malloc ((size_t)(n * groups));

  l.qweight = malloc ((size_t)(n * k / 2));
  for (int64_t i = 0; i < n * k / 2; i++)
    l.qweight[i] = (uint8_t)(rand () >> 8);
  for (int64_t i = 0; i < n * groups; i++)
    e4m3[i] = svdq_e4m3_from_float (fabsf (uniform ()) * 100.0f);
  l.wscales = format == SVDQ_INT4 ? (void *)random_bf16 (n * groups, 0.01f) : (void *)e4m3;
  if (format == SVDQ_INT4)
    free (e4m3);
  l.smooth = random_bf16 (k, 1.0f);
  for (int64_t i = 0; i < k; i++)
    l.smooth[i] = (l.smooth[i] & 0x7fff) + 0x80; /* positive */
  l.down = random_bf16 (k * rank, 0.05f);
  l.up = random_bf16 (n * rank, 0.05f);
  l.outer = malloc ((size_t)n * sizeof (float));
  l.bias = malloc ((size_t)n * sizeof (float));
  for (int64_t i = 0; i < n; i++)
    {
      l.outer[i] = 0.0001f * (1.5f + uniform ());
      l.bias[i] = bf16_to_float (bf16_from_float (uniform ()));
    }
  l.source = (SvdqSource){ format,   rank,   l.qweight, l.wscales,
                           l.smooth, l.down, l.up,      format == SVDQ_INT4 ? NULL : l.outer };
  return l;
}

static void
layer_free (Layer *l)
{
  free (l->qweight);
  free (l->wscales);
  free (l->smooth);
  free (l->down);
  free (l->up);
  free (l->outer);
  free (l->bias);
}

static float *
random_rows (int64_t m, int64_t k)
{
  float *x = malloc ((size_t)(m * k) * sizeof *x);

  for (int64_t i = 0; i < m * k; i++)
    x[i] = uniform () * (rand () % 50 == 0 ? 40.0f : 2.0f);
  for (int64_t i = 0; i < k && m > 3; i++)
    x[3 * k + i] = 0.0f;
  return x;
}

/* -- the backend ------------------------------------------------------------------------------ */

/* What is asked of a layer. */
typedef enum
{
  PLAIN,
  SWIGLU,  /* silu (w1 x) * w3 x */
  FACTORS, /* of a layer that could multiply them */
} Asked;

/* Opens the CPU as one that has only the given instruction sets. */
static bool
run_backend (const LinearBackend *backend, const Ops *ops, const SvdqTiles *tiles, const Layer *l,
             bool biased, Asked asked, const float *x, int64_t m, float *y)
{
  LinearSource source = { .n = l->n,
                          .k = l->k,
                          .bias = tensor_1d (DTYPE_F32, biased ? l->bias : NULL, l->n),
                          .svdq = &l->source,
                          .swiglu = asked != PLAIN };
  Tensor in = tensor_2d (DTYPE_F32, (void *)(uintptr_t)x, m, l->k);
  Tensor out = tensor_2d (DTYPE_F32, y, m, asked == SWIGLU ? l->n / 2 : l->n);
  Linear *linear = NULL;
  Stream *s = NULL;
  bool good;

  if (ops->open (0, &(StreamOptions){ .threads = 2 }, &s) != STATUS_OK)
    return false;
  good = backend->prepare_weights (s, &source, &linear) == STATUS_OK;
  if (good && tiles != NULL)
    svdq_linear_use (linear, tiles);
  good = good && backend->apply (s, linear, &in, &out) == STATUS_OK;
  good = good && linear->bytes > (uint64_t)(l->n * l->k / 2);
  backend->release (s, linear);
  ops->close (s);
  return good;
}

/* Sum of |terms| of every output: what the tolerance of sums is measured by. */
static void
magnitudes (const Layer *l, const float *x, int64_t m, double *out)
{
  for (int64_t row = 0; row < l->n; row++)
    {
      for (int64_t i = 0; i < m; i++)
        out[i * l->n + row] = 0.0;
      for (int64_t k = 0; k < l->k; k++)
        {
          double weight = fabs (svdq_residual (&l->source, l->n, l->k, row, k))
                          / bf16_to_float (l->smooth[k]);

          for (int64_t i = 0; i < m; i++)
            out[i * l->n + row] += fabs (x[i * l->k + k]) * weight;
        }
    }
}

static double
relative_rms (const float *a, const float *b, int64_t count)
{
  double difference = 0.0, norm = 0.0;

  for (int64_t i = 0; i < count; i++)
    {
      difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
      norm += (double)b[i] * b[i];
    }
  return sqrt (difference / norm);
}

static void
test_four_bit (const SvdqTiles *tiles, SvdqFormat format, int64_t n, int64_t k, int64_t m)
{
  Layer l = layer_new (format, n, k, 0);
  float *x = random_rows (m, k);
  float *y = malloc ((size_t)(m * n) * sizeof *y), *expected = malloc ((size_t)(m * n) * sizeof *y);
  double *terms = malloc ((size_t)(m * n) * sizeof *terms);
  bool good = run_backend (&linear_cpu_svdq, &ops_cpu, tiles, &l, true, PLAIN, x, m, y);
  char what[128];

  good = good
         && svdq_reference (SVDQ_LEVEL_CONTRACT, &l.source, n, k, l.bias, x, m, expected)
                == STATUS_OK;
  magnitudes (&l, x, m, terms);
  for (int64_t i = 0; i < m * n && good; i++)
    good = format == SVDQ_INT4 ? y[i] == expected[i]
                               : fabs ((double)y[i] - expected[i])
                                     <= 0x1p-20 * terms[i] + 0x1p-23 * fabs (expected[i]);
  snprintf (what, sizeof what, "%s %lldx%lld, %lld rows,", format == SVDQ_INT4 ? "INT4" : "NVFP4",
            (long long)n, (long long)k, (long long)m);
  ok (good, what, tiles->name);
  free (x);
  free (y);
  free (expected);
  free (terms);
  layer_free (&l);
}

static void
test_low_rank (const SvdqTiles *tiles, SvdqFormat format, int rank, Asked asked)
{
  const int64_t n = 192, k = 256, m = 37;
  Layer l = layer_new (format, n, k, rank);
  float *x = random_rows (m, k);
  float *y = malloc ((size_t)(m * n) * sizeof *y), *expected = malloc ((size_t)(m * n) * sizeof *y);
  int64_t count = asked == SWIGLU ? m * n / 2 : m * n;
  static const char *const asked_names[] = { "", " with SwiGLU", " with SwiGLU's factors" };
  char what[128];
  bool good = run_backend (&linear_cpu_svdq, &ops_cpu, tiles, &l, true, asked, x, m, y)
              && run_backend (&linear_reference, &ops_reference, NULL, &l, true,
                              asked == SWIGLU ? SWIGLU : PLAIN, x, m, expected);
  double error = good ? relative_rms (y, expected, count) : INFINITY;

  printf ("# relative RMS %.2g\n", error);
  snprintf (what, sizeof what, "%s rank %d%s,", format == SVDQ_INT4 ? "INT4" : "NVFP4", rank,
            asked_names[asked]);
  ok (error < 1e-5, what, tiles->name);
  free (x);
  free (y);
  free (expected);
  layer_free (&l);
}

static void
test_tiles (const SvdqTiles *tiles)
{
  for (int format = SVDQ_INT4; format <= SVDQ_NVFP4; format++)
    {
      test_four_bit (tiles, format, 64, 64, 1);
      test_four_bit (tiles, format, 192, 320, 5);
      test_four_bit (tiles, format, 128, 1024, 67);
      test_low_rank (tiles, format, 16, PLAIN);
      test_low_rank (tiles, format, 48, SWIGLU);
      test_low_rank (tiles, format, 48, FACTORS);
    }
}

static void
test_refusals (void)
{
  Layer l = layer_new (SVDQ_INT4, 64, 64, 16);
  LinearSource source = { .n = 64, .k = 96, .svdq = &l.source };
  Linear *linear = NULL;
  Stream *s = NULL;
  bool good = ops_cpu.open (0, NULL, &s) == STATUS_OK;

  good = good && linear_cpu_svdq.prepare_weights (s, &source, &linear) == STATUS_UNSUPPORTED
         && linear == NULL && ops_cpu.detail (s)[0] != '\0';
  source.k = 64;
  source.svdq = NULL;
  good = good && linear_cpu_svdq.prepare_weights (s, &source, &linear) == STATUS_UNSUPPORTED;
  ok (good && ops_cpu.allocated (s) == 0, "sizes that do not fit are refused", "");
  ops_cpu.close (s);
  layer_free (&l);
}

int
main (void)
{
  DeviceCaps caps;

  srand (11);
  ops_cpu.query (0, &caps);
  test_tiles (&svdq_tiles_portable);
  if (caps.avx2)
    test_tiles (&svdq_tiles_avx2);
  if (caps.vnni)
    test_tiles (&svdq_tiles_vnni);
  else
    printf ("# this processor has no AVX-512 VNNI\n");
  test_refusals ();
  printf ("1..%d\n", n_tests);
  return n_failed > 0;
}
