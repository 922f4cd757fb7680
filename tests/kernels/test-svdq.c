/* SPDX-License-Identifier: Apache-2.0
 *
 * Number formats, quantisation of activations, and the reference of an SVDQuant linear, against
 * definitions spelt out here (spec svdquant 8.4).
 */
#include "kernels/reference/svdq.h"
#include "kernels/svdq-math.h"

#include <stdio.h>
#include <stdlib.h>

#define K 128
#define N 24
#define R 16

static int n_tests, n_failed;

static void
ok (bool passed, const char *name)
{
  n_failed += !passed;
  printf ("%sok %d - %s\n", passed ? "" : "not ", ++n_tests, name);
}

/* -- conversions ------------------------------------------------------------------------------ */

/* Index of the entry of `table` nearest to `value`; of two, the even one. */
static int
nearest (const double *table, int count, double value)
{
  int best = 0;

  for (int i = 1; i < count; i++)
    {
      double d = fabs (table[i] - value), best_d = fabs (table[best] - value);

      if (d < best_d || (d == best_d && i % 2 == 0))
        best = i;
    }
  return best;
}

static void
test_e2m1 (void)
{
  static const double table[] = { 0, 0.5, 1, 1.5, 2, 3, 4, 6 };
  static const float ties[][2] = { { 0.25f, 0 }, { 0.75f, 2 }, { 1.25f, 2 }, { 1.75f, 4 },
                                   { 2.5f, 4 },  { 3.5f, 6 },  { 5.0f, 6 } };
  bool all = true, tie = true, doubled = true;

  for (uint32_t bits = 0; bits < 65536; bits++)
    {
      float value = bf16_to_float ((uint16_t)bits);
      int code = svdq_e2m1_from_float (value);
      int expected;

      if (isnan (value))
        expected = 7;
      else
        expected = nearest (table, 8, fmin (fabs (value), 6)) | (signbit (value) ? 8 : 0);
      all = all && code == expected;
    }
  for (size_t i = 0; i < sizeof ties / sizeof *ties; i++)
    tie = tie && svdq_e2m1_from_float (ties[i][0]) == (int)ties[i][1];
  ok (all, "E2M1 from every BF16");
  ok (tie, "E2M1 ties go to the even code");
  for (int code = 0; code < 16; code++)
    doubled = doubled && svdq_e2m1_doubled ((uint8_t)code) == (code & 8 ? -2 : 2) * table[code & 7];
  ok (doubled, "E2M1 values");
}

static void
test_e4m3 (void)
{
  double table[127];
  bool all = true;

  for (int i = 0; i < 127; i++)
    table[i] = e4m3_to_float ((uint8_t)i);
  for (uint32_t bits = 0; bits <= 0x7f80; bits++)
    {
      float value = bf16_to_float ((uint16_t)bits);
      int code = svdq_e4m3_from_float (value);
      int expected = value >= 448.0f ? 126 : nearest (table, 127, value);

      all = all && code == expected && svdq_e4m3_from_float (-value) == (expected | 0x80);
    }
  ok (all, "E4M3 from every BF16");
  ok (table[1] == 0x1p-9 && table[126] == 448.0, "E4M3 runs from 2^-9 to 448");
  ok (svdq_e4m3_from_float (NAN) == 0x7f, "E4M3 of NaN");
}

static void
test_bf16 (void)
{
  bool all = true;

  for (uint32_t bits = 0; bits < 0x7f800000u; bits += 12345)
    all = all
          && svdq_round_bf16 (svdq_float (bits))
                 == bf16_to_float (bf16_from_float (svdq_float (bits)));
  ok (all && isnan (svdq_round_bf16 (NAN)), "inline BF16 rounding is BF16 rounding");
}

/* -- groups ----------------------------------------------------------------------------------- */

static void
test_int4_groups (void)
{
  static const float ties[] = { 7,     0.5f, -0.5f, 1.5f, -1.5f, 2.5f, -2.5f, 3.5f,
                                -3.5f, 4.5f, -4.5f, 5.5f, -5.5f, 6.5f, -6.5f, -7 };
  static const int8_t rounded[] = { 7, 0, 0, 2, -2, 2, -2, 4, -4, 4, -4, 6, -6, 6, -6, -7 };
  static const float extremes[] = { 0x1p-133f, 0x1p-126f, 3e-39f, 1e-20f, 0x1.fep127f, 123.0f };
  float x[64] = { 0 };
  int8_t q[64];
  bool good = svdq_quantise_int4 (x, q) == 0.0f;

  for (int i = 0; i < 64; i++)
    good = good && q[i] == 0;
  ok (good, "INT4 group of zeros");

  memcpy (x, ties, sizeof ties);
  good = svdq_quantise_int4 (x, q) == 1.0f;
  ok (good && memcmp (q, rounded, sizeof rounded) == 0, "INT4 ties go to even, ends to +-7");

  good = true;
  for (size_t e = 0; e < sizeof extremes / sizeof *extremes; e++)
    {
      for (int i = 0; i < 64; i++)
        x[i] = i % 3 == 0 ? 0.0f : i % 2 ? extremes[e] : -extremes[e];
      svdq_quantise_int4 (x, q);
      for (int i = 0; i < 64; i++)
        good = good && q[i] >= -7 && q[i] <= 7 && (x[i] != 0.0f || q[i] == 0);
    }
  ok (good, "INT4 codes stay within +-7 at both ends of BF16");
}

static void
test_nvfp4_groups (void)
{
  static const float ties[] = { 6, 0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5, -6 };
  static const int8_t rounded[] = { 12, 0, 2, 2, 4, 4, 8, 8, -12 };
  static const float amax[]
      = { 0, 0x1p-11f * 6, 0x1p-10f * 6, 0x1.8p-10f * 6, 0x1p-9f * 6, 2688, 2704, 1e4f };
  static const float scale[] = { 0, 0, 0, 0x1p-9f, 0x1p-9f, 448, 448, 448 };
  static const int8_t code[] = { 0, 0, 0, 8, 12, 12, 12, 12 };
  float x[16] = { 0 };
  int8_t q[16];
  bool good;

  memcpy (x, ties, sizeof ties);
  good = svdq_quantise_nvfp4 (x, q) == 1.0f;
  ok (good && memcmp (q, rounded, sizeof rounded) == 0, "NVFP4 ties");

  good = true;
  for (size_t i = 0; i < sizeof amax / sizeof *amax; i++)
    {
      for (int j = 0; j < 16; j++)
        x[j] = amax[i];
      good = good && svdq_quantise_nvfp4 (x, q) == scale[i] && q[0] == code[i];
    }
  ok (good, "NVFP4 groups vanish below 2^-10, clip above 2688");
  ok (svdq_nvfp4_scale (0x1p-11f * 6, true) == 1 && svdq_nvfp4_scale (0.0f, true) == 0,
      "NVFP4 tiny groups can be kept");
}

/* -- linears ---------------------------------------------------------------------------------- */

typedef struct
{
  SvdqSource source;
  uint8_t qweight[N * K / 2];
  uint16_t int4_scales[K / 64 * N];
  uint8_t nvfp4_scales[K / 16 * N];
  uint16_t smooth[K], down[K * R], up[N * R];
  float outer[N];
} Layer;

/* A random layer; scales are powers of two, so that sums are exact. */
static void
layer_init (Layer *layer, SvdqFormat format)
{
  for (size_t i = 0; i < sizeof layer->qweight; i++)
    layer->qweight[i] = (uint8_t)rand ();
  for (int i = 0; i < K / 64 * N; i++)
    layer->int4_scales[i] = bf16_from_float (ldexpf (1.0f, rand () % 3 - 4));
  for (int i = 0; i < K / 16 * N; i++)
    layer->nvfp4_scales[i] = svdq_e4m3_from_float (ldexpf (1.0f, rand () % 3 - 2));
  for (int i = 0; i < K; i++)
    layer->smooth[i] = bf16_from_float (1.0f);
  for (int i = 0; i < K * R; i++)
    layer->down[i] = bf16_from_float ((float)(rand () % 17 - 8) / 64.0f);
  for (int i = 0; i < N * R; i++)
    layer->up[i] = bf16_from_float ((float)(rand () % 17 - 8) / 64.0f);
  for (int i = 0; i < N; i++)
    layer->outer[i] = 1.0f;
  layer->source = (SvdqSource){ .format = format,
                                .rank = 0,
                                .qweight = layer->qweight,
                                .wscales = format == SVDQ_INT4 ? (void *)layer->int4_scales
                                                               : (void *)layer->nvfp4_scales,
                                .smooth = layer->smooth,
                                .proj_down = layer->down,
                                .proj_up = layer->up,
                                .outer = format == SVDQ_INT4 ? NULL : layer->outer };
}

static void
random_row (float *x, int count)
{
  for (int i = 0; i < count; i++)
    x[i] = bf16_to_float (bf16_from_float ((float)(rand () % 2001 - 1000) / 256.0f));
}

static void
run (const Layer *layer, SvdqLevel level, const float *x, int m, float *y)
{
  if (svdq_reference (level, &layer->source, N, K, NULL, x, m, y) != STATUS_OK)
    abort ();
}

/* One-hot activations read the weights out, one column at a time. */
static void
test_one_hot (SvdqFormat format, const char *name)
{
  static Layer layer;
  bool good = true;

  layer_init (&layer, format);
  layer.source.rank = R;
  for (int k = 0; k < K; k++)
    {
      float x[K] = { 0 }, y[N];

      x[k] = format == SVDQ_INT4 ? 7.0f : 6.0f;
      run (&layer, SVDQ_LEVEL_CONTRACT, x, 1, y);
      for (int n = 0; n < N; n++)
        {
          uint8_t byte = layer.qweight[(n * K + k) / 2];
          int code = k & 1 ? byte >> 4 : byte & 15;
          double residual, raised = 0.0;

          if (format == SVDQ_INT4)
            residual
                = (code > 7 ? code - 16 : code) * bf16_to_float (layer.int4_scales[k / 64 * N + n]);
          else
            residual = 0.5 * svdq_e2m1_doubled ((uint8_t)code)
                       * e4m3_to_float (layer.nvfp4_scales[k / 16 * N + n]);
          for (int r = 0; r < R; r++)
            raised += (double)svdq_round_bf16 (x[k] * bf16_to_float (layer.down[k * R + r]))
                      * bf16_to_float (layer.up[n * R + r]);
          good = good && y[n] == (float)(residual * x[k] + raised);
          good = good && svdq_residual (&layer.source, N, K, n, k) == residual;
        }
    }
  ok (good, name);
}

/* Powers of two divide exactly: smoothing that the weights undo changes nothing. */
static void
test_smooth (void)
{
  static Layer layer;
  float x[3 * K], smoothed[3 * K], y[3 * N], expected[3 * N], alone[N];
  bool good;

  layer_init (&layer, SVDQ_INT4);
  random_row (x, 3 * K);
  memset (x + K, 0, K * sizeof *x);
  run (&layer, SVDQ_LEVEL_CONTRACT, x, 3, expected);
  for (int k = 0; k < K; k++)
    layer.smooth[k] = bf16_from_float (ldexpf (1.0f, k % 5));
  for (int i = 0; i < 3 * K; i++)
    smoothed[i] = ldexpf (x[i], i % K % 5);
  run (&layer, SVDQ_LEVEL_CONTRACT, smoothed, 3, y);
  good = memcmp (y, expected, sizeof y) == 0;
  for (int n = 0; n < N; n++)
    good = good && y[N + n] == 0.0f;
  ok (good, "activations are divided by the smoothing factor");
  run (&layer, SVDQ_LEVEL_CONTRACT, smoothed + 2 * K, 1, alone);
  ok (memcmp (alone, y + 2 * N, sizeof alone) == 0, "a row does not depend on its neighbours");
}

/* The outer scale belongs to the 4-bit sum alone. */
static void
test_outer (void)
{
  static Layer layer;
  float x[K], plain[N], low_rank[N], y[N];
  bool good = true;

  layer_init (&layer, SVDQ_NVFP4);
  random_row (x, K);
  run (&layer, SVDQ_LEVEL_CONTRACT, x, 1, plain);
  layer.source.rank = R;
  for (int n = 0; n < N; n++)
    layer.outer[n] = 0.0f;
  run (&layer, SVDQ_LEVEL_CONTRACT, x, 1, low_rank);
  for (int n = 0; n < N; n++)
    layer.outer[n] = 0.5f * (float)(1 << n % 4);
  run (&layer, SVDQ_LEVEL_CONTRACT, x, 1, y);
  for (int n = 0; n < N; n++)
    good = good && y[n] == plain[n] * layer.outer[n] + low_rank[n];
  ok (good, "the outer scale leaves the low-rank branch alone");
}

static double
relative_rms (const float *a, const float *b, int count)
{
  double difference = 0.0, norm = 0.0;

  for (int i = 0; i < count; i++)
    {
      difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
      norm += (double)b[i] * b[i];
    }
  return sqrt (difference / norm);
}

static void
test_levels (SvdqFormat format, const char *name)
{
  static Layer layer;
  static float x[8 * K], ideal[8 * N], contract[8 * N], upstream[8 * N];
  double error, order;

  layer_init (&layer, format);
  layer.source.rank = R;
  random_row (x, 8 * K);
  run (&layer, SVDQ_LEVEL_IDEAL, x, 8, ideal);
  run (&layer, SVDQ_LEVEL_CONTRACT, x, 8, contract);
  run (&layer, SVDQ_LEVEL_UPSTREAM, x, 8, upstream);
  error = relative_rms (contract, ideal, 8 * N);
  order = relative_rms (upstream, contract, 8 * N);
  printf ("# %s: four-bit activations cost %.4f, upstream's order %.4f\n", name, error, order);
  ok (error > 0.0 && error < 0.2 && order > 0.0 && order < 0.1, name);
}

int
main (void)
{
  srand (7);
  test_e2m1 ();
  test_e4m3 ();
  test_bf16 ();
  test_int4_groups ();
  test_nvfp4_groups ();
  test_one_hot (SVDQ_INT4, "INT4 one-hot rows read the weights");
  test_one_hot (SVDQ_NVFP4, "NVFP4 one-hot rows read the weights");
  test_smooth ();
  test_outer ();
  test_levels (SVDQ_INT4, "INT4 levels lie close alone");
  test_levels (SVDQ_NVFP4, "NVFP4 levels lie close alone");
  printf ("1..%d\n", n_tests);
  return n_failed > 0;
}
