/* SPDX-License-Identifier: Apache-2.0
 *
 * What only sm_75 does: products in FP16 whose results are FP16 or FP32, products of a swiglu that
 * leave FP16's range, what is clamped and what is not, and attention in 64 KiB of shared memory.
 * Against sums in double, on outputs that are NaN before. It needs a card of sm_75, or a build for
 * sm_75 alone on a newer one. `test-cuda-f16 ROWS` leaves out what has more rows: for a memory
 * checker.
 */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/launchers.h"
#include "tests/kernels/patience.h"

#ifdef EMULATED
#include "tests/kernels/emulation/emulation.h"
#endif

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <vector>

#define TO_FP16   4e-4    /* relative RMS error of one rounding, which costs 2^-13 to 2^-12 */
#define TO_FP32   1e-5    /* of sums of FP16's products, exact each, in FP32 */
#define FEW       0x1p-11 /* of a handful of numbers all may round by the most that FP16 can */
#define ATTENTION 1e-3    /* probabilities are rounded, too */
#define RUNS      (IS_EMULATED ? 2 : 20) /* that must leave the same bytes */

static const Ops *const ops = &ops_cuda;

typedef struct
{
  Stream *s;
  uint64_t state; /* of the random numbers */
  int n_tests, n_failed;
  int most_rows; /* of a case */
} Run;

static void
require (Run *run, Status status, const char *what)
{
  if (status == STATUS_OK)
    return;
  printf ("Bail out! %s: %s (%s)\n", what, status_name (status), ops->detail (run->s));
  exit (1);
}

static float
uniform (Run *run)
{
  run->state = run->state * 6364136223846793005u + 1442695040888963407u;
  return (float)(run->state >> 40) / (float)(1 << 24) * 2.0f - 1.0f;
}

/* Numbers of `size` that FP16 holds. */
static std::vector<float>
numbers (Run *run, size_t n, float size)
{
  std::vector<float> values (n);
  for (float &v : values)
    v = f16_to_float (f16_from_float (size * uniform (run)));
  return values;
}

/* On the device, as `type`. */
static void *
upload (Run *run, const std::vector<float> &values, DType type)
{
  const int64_t n = (int64_t)values.size ();
  Tensor host = tensor_1d (DTYPE_F32, (void *)values.data (), n);
  Tensor device = tensor_1d (type, NULL, n);
  require (run, ops->alloc (run->s, tensor_bytes (&device), &device.data), "alloc");
  require (run, ops->upload (run->s, &host, &device), "upload");
  return device.data;
}

static void *
upload_nan (Run *run, size_t n, DType type)
{
  return upload (run, std::vector<float> (n, NAN), type);
}

/* What is there, which is given back. */
static std::vector<float>
take (Run *run, void *data, size_t n, DType type)
{
  std::vector<float> values (n);
  Tensor host = tensor_1d (DTYPE_F32, values.data (), (int64_t)n);
  Tensor device = tensor_1d (type, data, (int64_t)n);
  require (run, ops->download (run->s, &device, &host), "download");
  ops->free (run->s, data);
  return values;
}

static void
report (Run *run, bool good, const char *name, double error, double limit)
{
  run->n_tests++;
  run->n_failed += !good;
  printf ("%s %d - %s: %.2e of at most %.1e\n", good ? "ok" : "not ok", run->n_tests, name, error,
          limit);
}

static void
compare (Run *run, const std::vector<float> &got, const std::vector<double> &wanted, double limit,
         const char *name)
{
  double error = 0.0, size = 0.0;
  for (size_t i = 0; i < wanted.size (); i++)
    {
      error += (got[i] - wanted[i]) * (got[i] - wanted[i]);
      size += wanted[i] * wanted[i];
    }
  error = sqrt (error / size);
  report (run, error <= limit, name, error, limit);
}

static double
silu (double x)
{
  return x / (1.0 + exp (-x));
}

/* -- products -----------------------------------------------------------------------------------
 */

typedef struct
{
  int64_t m, n, k;
  bool swiglu, bias, wide, after_swiglu;
  int64_t rank; /* of what is added, which is more k of both matrices */
} Case;

/* y as the kernels store it; row n of w belongs to column n. */
static std::vector<double>
product (const Case *c, const std::vector<float> &x, const std::vector<float> &w,
         const std::vector<float> &bias)
{
  const double factor = c->after_swiglu ? 1.0 / (double)SWIGLU_F16_SCALE : 1.0;
  std::vector<double> sums ((size_t)(c->m * c->n));
  for (int64_t i = 0; i < c->m; i++)
    for (int64_t j = 0; j < c->n; j++)
      {
        double sum = 0.0;
        for (int64_t k = 0; k < c->k + c->rank; k++)
          sum += (double)x[(size_t)(i * (c->k + c->rank) + k)]
                 * w[(size_t)(j * (c->k + c->rank) + k)];
        sums[(size_t)(i * c->n + j)] = factor * sum + (c->bias ? bias[(size_t)j] : 0.0);
      }
  if (!c->swiglu)
    return sums;
  std::vector<double> out ((size_t)(c->m * c->n / 2));
  for (int64_t i = 0; i < c->m; i++)
    for (int64_t j = 0; j < c->n / 2; j++)
      {
        const double *pair = &sums[(size_t)(i * c->n + j / 8 * 16 + j % 8)];
        out[(size_t)(i * c->n / 2 + j)] = silu (pair[0]) * pair[8] * (double)SWIGLU_F16_SCALE;
      }
  return out;
}

/* `count` columns of a matrix of `pitch`, from `first` on. */
static std::vector<float>
columns (const std::vector<float> &from, int64_t pitch, int64_t first, int64_t count)
{
  std::vector<float> to;
  for (size_t row = 0; row < from.size (); row += (size_t)pitch)
    to.insert (to.end (), from.begin () + (ptrdiff_t)row + first,
               from.begin () + (ptrdiff_t)row + first + count);
  return to;
}

static void
test_product (Run *run, const char *name, Status (*kernel) (Stream *, const Gemm *), const Case *c)
{
  const size_t outputs = (size_t)(c->m * (c->swiglu ? c->n / 2 : c->n));
  const DType type = c->wide ? DTYPE_F32 : DTYPE_F16;
  if (c->m > run->most_rows || c->m * c->n * c->k > MOST_PRODUCTS)
    return;
  const int64_t all = c->k + c->rank;
  const std::vector<float> x = numbers (run, (size_t)(c->m * all), 1.0f);
  const std::vector<float> w = numbers (run, (size_t)(c->n * all), 1.0f);
  const std::vector<float> bias = numbers (run, (size_t)c->n, 4.0f);
  void *on_x = upload (run, columns (x, all, 0, c->k), DTYPE_F16);
  void *on_w = upload (run, columns (w, all, 0, c->k), DTYPE_F16);
  void *low = c->rank > 0 ? upload (run, columns (x, all, c->k, c->rank), DTYPE_F16) : NULL;
  void *up = c->rank > 0 ? upload (run, columns (w, all, c->k, c->rank), DTYPE_F16) : NULL;
  void *on_bias = upload (run, bias, DTYPE_F32), *y = upload_nan (run, outputs, type);
  const Gemm g = { on_x,
                   on_w,
                   c->bias ? (float *)on_bias : NULL,
                   y,
                   c->m,
                   c->n,
                   c->k,
                   c->swiglu,
                   c->wide,
                   c->after_swiglu,
                   low,
                   up,
                   c->rank };
  char text[128];
  snprintf (text, sizeof text, "%s %dx%dx%d%s%s%s%s%s", name, (int)c->m, (int)c->n, (int)c->k,
            c->swiglu ? " swiglu" : "", c->bias ? " bias" : "", c->wide ? " to F32" : "",
            c->after_swiglu ? " behind a swiglu" : "", c->rank > 0 ? " adapted" : "");
  require (run, kernel (run->s, &g), text);
  const double limit = c->wide ? TO_FP32 : outputs < 1000 ? FEW : TO_FP16;
  compare (run, take (run, y, outputs, type), product (c, x, w, bias), limit, text);
  ops->free (run->s, on_x), ops->free (run->s, on_w), ops->free (run->s, on_bias);
  ops->free (run->s, low), ops->free (run->s, up);
}

static void
test_products (Run *run)
{
  static const Case cases[] = {
    /* m, n, k, swiglu, bias, to F32, behind a swiglu, rank */
    { 1, 8, 8, false, true, false, false, 0 },
    { 5, 48, 72, false, false, true, true, 0 },
    { 8, 96, 1000, true, true, false, false, 0 },
    { 9, 40, 24, false, true, true, false, 0 },
    { 16, 144, 520, true, false, false, false, 0 },
    { 17, 24, 40, false, true, false, false, 0 },
    { 33, 136, 72, false, false, true, true, 0 },
    { 65, 32, 64, true, false, false, false, 0 },
    { 100, 264, 200, false, true, true, false, 0 },
    { 129, 512, 64, false, false, false, false, 0 },
    { 130, 528, 264, true, true, false, false, 0 },
    { 257, 1032, 104, false, true, true, true, 0 },
    { 33, 136, 72, false, true, true, true, 16 },
    { 65, 80, 64, true, true, false, false, 48 },
    { 129, 256, 264, false, false, false, false, 80 },
    { 3, 48, 32, false, false, true, false, 16 },
    { 600, 768, 96, true, false, false, false, 0 },
    { 4224, 3840, 1024, false, false, true, false, 0 },
  };
  for (const Case &c : cases)
    {
      if (c.m <= GEMM_FEW_ROWS && c.rank == 0)
        test_product (run, "few rows", gemm_few_rows, &c);
      test_product (run, "sm_75", gemm_sm75, &c);
    }
}

/* -- ranges -------------------------------------------------------------------------------------
 */

/* x [m, k] = a; w [n, k] = b, the same for all. */
static float
constant_product (Run *run, int64_t m, float a, float b, bool swiglu, bool wide, bool after_swiglu)
{
  const int64_t n = 16, k = 16, outputs = m * (swiglu ? n / 2 : n);
  const DType type = wide ? DTYPE_F32 : DTYPE_F16;
  void *x = upload (run, std::vector<float> ((size_t)(m * k), a), DTYPE_F16);
  void *w = upload (run, std::vector<float> ((size_t)(n * k), b), DTYPE_F16);
  void *y = upload_nan (run, (size_t)outputs, type);
  const Gemm g = { x, w, NULL, y, m, n, k, swiglu, wide, after_swiglu, NULL, NULL, 0 };
  require (run, gemm (run->s, &g), "product of constants");
  const std::vector<float> got = take (run, y, (size_t)outputs, type);
  for (const float v : got)
    if (v != got[0])
      require (run, STATUS_UNSUPPORTED, "constants give different numbers");
  ops->free (run->s, x), ops->free (run->s, w);
  return got[0];
}

static void
expect (Run *run, float got, float wanted, const char *name)
{
  report (run, got == wanted, name, fabs ((double)got - wanted), 0.0);
}

static void
test_ranges (Run *run)
{
  for (int64_t m = 1; m <= 40; m += 39) /* few rows, and many */
    {
      /* 16 * 2.25 * 16 = 576 each, whose silu is 576: 331,776, of which 1/128 is stored. */
      expect (run, constant_product (run, m, 2.25f, 16.0f, true, false, false), 2592.0f,
              "a swiglu beyond 65504");
      expect (run, constant_product (run, m, 2592.0f, 1.0f, false, true, true), 5308416.0f,
              "and the layer behind it, in F32");
      expect (run, constant_product (run, m, 300.0f, 300.0f, false, false, false), F16_MAX,
              "FP16 is clamped");
      expect (run, constant_product (run, m, -300.0f, 300.0f, false, false, false), -F16_MAX,
              "below, too");
      expect (run, constant_product (run, m, 300.0f, 300.0f, false, true, false), 1440000.0f,
              "F32 is not");
    }
}

/* Weights beyond FP16, and a residual stream there. */
static void
test_backend (Run *run)
{
  const int64_t n = 16, k = 16, m = 3;
  std::vector<float> w ((size_t)(n * k), 0.0f), x ((size_t)(m * k), 1.0f);
  w[0] = 1e6f, w[(size_t)k] = -1e6f, w[(size_t)(2 * k)] = 0.5f;
  LinearSource source = {};
  source.n = n, source.k = k, source.n_parts = 1;
  source.parts[0] = tensor_2d (DTYPE_F32, w.data (), n, k);
  Linear *linear = NULL;
  require (run, linear_cuda_f16.prepare_weights (run->s, &source, &linear), "prepare");
  Tensor xt = tensor_2d (DTYPE_F16, upload (run, x, DTYPE_F16), m, k);
  Tensor yt = tensor_2d (DTYPE_F32, upload_nan (run, (size_t)(m * n), DTYPE_F32), m, n);
  require (run, linear_cuda_f16.apply (run->s, linear, &xt, &yt), "apply");
  const std::vector<float> y = take (run, yt.data, (size_t)(m * n), DTYPE_F32);
  expect (run, y[0], F16_MAX, "a weight beyond FP16 is clamped");
  expect (run, y[1], -F16_MAX, "below, too");
  expect (run, y[(size_t)n + 2], 0.5f, "another is not");
  linear_cuda_f16.release (run->s, linear);
  ops->free (run->s, xt.data);
}

static void
test_residual (Run *run)
{
  const int64_t m = 5, d = 256;
  std::vector<float> x ((size_t)(m * d)), y ((size_t)(m * d));
  std::vector<double> sum, normed;
  for (size_t i = 0; i < x.size (); i++)
    x[i] = 3e6f * uniform (run), y[i] = 2e6f * uniform (run), sum.push_back ((double)x[i] + y[i]);
  for (int64_t r = 0; r < m; r++)
    {
      double squares = 0.0;
      for (int64_t i = 0; i < d; i++)
        squares += sum[(size_t)(r * d + i)] * sum[(size_t)(r * d + i)];
      for (int64_t i = 0; i < d; i++)
        normed.push_back (sum[(size_t)(r * d + i)] / sqrt (squares / (double)d));
    }
  const std::vector<float> ones ((size_t)d, 1.0f);
  Tensor xt = tensor_2d (DTYPE_F32, upload (run, x, DTYPE_F32), m, d);
  Tensor yt = tensor_2d (DTYPE_F32, upload (run, y, DTYPE_F32), m, d);
  Tensor out = tensor_2d (DTYPE_F16, upload_nan (run, x.size (), DTYPE_F16), m, d);
  Tensor weight = tensor_1d (DTYPE_F32, upload (run, ones, DTYPE_F32), d);
  require (run, ops->residual_norm (run->s, &xt, &yt, NULL, NULL, &weight, NULL, 1e-5f, &out),
           "residual_norm");
  compare (run, take (run, xt.data, x.size (), DTYPE_F32), sum, 1e-7, "a residual stream of 3e6");
  compare (run, take (run, out.data, x.size (), DTYPE_F16), normed, TO_FP16, "and its norm");
  ops->free (run->s, yt.data), ops->free (run->s, weight.data);
}

/* -- attention ----------------------------------------------------------------------------------
 */

/* RISING: scores grow from key to key, so that maxima do until the last one; FAR: one key of many
 * has nearly all of the weight; WIDE: values go as far as FP16 does. */
enum
{
  PLAIN,
  RISING,
  FAR,
  WIDE,
};

typedef struct
{
  int m, n_q, n_kv, d;
  bool causal;
  int kind;
} AttentionCase;

/* q, k and v of a case. */
static std::vector<float>
attention_inputs (Run *run, const AttentionCase *c)
{
  const size_t heads = (size_t)(c->n_q + 2 * c->n_kv), d = (size_t)c->d;
  std::vector<float> qkv = numbers (run, (size_t)c->m * heads * d, 2.0f);
  for (size_t row = 0; row < (size_t)c->m; row++)
    for (size_t head = 0; head < heads; head++)
      {
        float *own = &qkv[(row * heads + head) * d];
        const bool is_q = head < (size_t)c->n_q, is_v = head >= (size_t)(c->n_q + c->n_kv);
        if (c->kind == RISING && !is_v)
          own[d - 1] = is_q ? 4.0f : 0.25f * (float)row * sqrtf ((float)d);
        if (c->kind == FAR && !is_v)
          own[0] = is_q ? 12.0f : row % 37 == 5 ? 8.0f * (float)(row % 3 + 1) : 0.0f;
        for (size_t i = 0; i < d; i++)
          own[i] = f16_to_float (
              f16_from_float (own[i] * (c->kind == WIDE && is_v ? 32752.0f : 1.0f)));
      }
  return qkv;
}

static std::vector<double>
attention (const AttentionCase *c, const std::vector<float> &qkv)
{
  const size_t heads = (size_t)(c->n_q + 2 * c->n_kv), d = (size_t)c->d;
  std::vector<double> out, p ((size_t)c->m);
  for (int i = 0; i < c->m; i++)
    for (int h = 0; h < c->n_q; h++)
      {
        const int kv = h / (c->n_q / c->n_kv), last = c->causal ? i : c->m - 1;
        double best = -INFINITY, sum = 0.0;
        for (int j = 0; j <= last; j++)
          {
            double dot = 0.0;
            for (size_t e = 0; e < d; e++)
              dot += (double)qkv[((size_t)i * heads + (size_t)h) * d + e]
                     * qkv[((size_t)j * heads + (size_t)(c->n_q + kv)) * d + e];
            p[(size_t)j] = dot / sqrt ((double)d);
            best = fmax (best, p[(size_t)j]);
          }
        for (int j = 0; j <= last; j++)
          sum += p[(size_t)j] = exp (p[(size_t)j] - best);
        std::vector<double> values (d);
        for (int j = 0; j <= last; j++)
          for (size_t e = 0; e < d; e++)
            values[e] += p[(size_t)j]
                         * qkv[((size_t)j * heads + (size_t)(c->n_q + c->n_kv + kv)) * d + e];
        for (const double value : values)
          out.push_back (value / sum);
      }
  return out;
}

static void
test_attention (Run *run, const AttentionCase *c)
{
  const size_t heads = (size_t)(c->n_q + 2 * c->n_kv);
  const size_t outputs = (size_t)(c->m * c->n_q * c->d);
  if (c->m > run->most_rows || (int64_t)c->m * c->m * c->n_q * c->d > MOST_PRODUCTS)
    return;
  static const char *const kinds[] = { "", ", rising", ", far", ", to 65504" };
  const std::vector<float> qkv = attention_inputs (run, c);
  Tensor in = tensor_3d (DTYPE_F16, upload (run, qkv, DTYPE_F16), c->m, (int64_t)heads, c->d);
  std::vector<float> first;
  double others = 0.0; /* numbers that a later run has otherwise */
  char text[96];
  snprintf (text, sizeof text, "attention of %d, %d heads on %d of %d%s%s", c->m, c->n_q, c->n_kv,
            c->d, c->causal ? ", causal" : "", kinds[c->kind]);
  for (int i = 0; i < RUNS; i++)
    {
      Tensor out = tensor_2d (DTYPE_F16, upload_nan (run, outputs, DTYPE_F16), c->m, c->n_q * c->d);
      require (run, ops->attention (run->s, &in, c->n_q, c->n_kv, c->causal, &out), text);
      const std::vector<float> got = take (run, out.data, outputs, DTYPE_F16);
      if (i == 0)
        first = got;
      for (size_t j = 0; j < outputs; j++)
        others += !(got[j] == first[j]);
    }
  compare (run, first, attention (c, qkv), ATTENTION, text);
  if (others > 0)
    report (run, false, "and again", others, 0.0);
  ops->free (run->s, in.data);
}

static void
test_attentions (Run *run)
{
  static const AttentionCase cases[] = {
    /* m, n_q, n_kv, d, causal */
    { 1, 1, 1, 64, false, PLAIN },     { 7, 2, 1, 16, true, PLAIN },
    { 65, 4, 2, 32, false, PLAIN },    { 100, 3, 3, 48, true, PLAIN },
    { 77, 4, 4, 64, true, PLAIN },     { 1, 2, 2, 128, true, PLAIN },
    { 15, 2, 1, 80, false, PLAIN },    { 63, 3, 1, 112, true, PLAIN },
    { 64, 2, 2, 96, false, PLAIN },    { 66, 4, 1, 128, true, PLAIN },
    { 200, 2, 1, 128, false, PLAIN },  { 129, 2, 2, 128, true, PLAIN },
    { 263, 1, 1, 128, true, PLAIN },   { 128, 1, 1, 128, false, RISING },
    { 257, 2, 1, 128, true, RISING },  { 190, 1, 1, 64, false, RISING },
    { 255, 2, 2, 128, false, FAR },    { 140, 2, 1, 64, true, FAR },
    { 150, 1, 1, 128, false, WIDE },   { 100, 2, 1, 160, true, PLAIN },
    { 133, 1, 1, 256, false, PLAIN },  { 97, 2, 1, 320, true, RISING },
    { 65, 2, 2, 512, true, PLAIN },    { 200, 1, 1, 512, false, PLAIN },
    { 90, 1, 1, 512, false, FAR },     { 70, 1, 1, 512, false, WIDE },
    { 1, 1, 1, 512, false, PLAIN },    { 1030, 1, 1, 512, false, PLAIN },
    { 1000, 3, 3, 128, false, PLAIN }, { 1088, 2, 1, 128, true, RISING },
    { 4224, 1, 1, 128, false, PLAIN }, { 2047, 2, 1, 64, true, FAR },
  };
  for (const AttentionCase &c : cases)
    test_attention (run, &c);
}

int
main (int argc, char **argv)
{
  Run run = { NULL, 20261123, 0, 0, argc > 1 ? atoi (argv[1]) : INT32_MAX };
  DeviceCaps caps;
#ifdef EMULATED
  emulation::set_device (75, 4);
#endif
  const Status found = ops->query (0, &caps);
  if (found != STATUS_OK || device_activation (&caps) != DTYPE_F16)
    {
      printf ("1..0 # SKIP %s\n",
              found != STATUS_OK ? status_name (found) : "the kernels here are those of BF16");
      return 77;
    }
  require (&run, ops->open (0, NULL, &run.s), "open");
  test_products (&run);
  test_ranges (&run);
  test_backend (&run);
  test_residual (&run);
  test_attentions (&run);
  ops->trim (run.s);
  const double left = (double)ops->allocated (run.s);
  report (&run, left == 0, "nothing is left allocated", left, 0.0);
  ops->close (run.s);
  printf ("1..%d\n", run.n_tests);
  return run.n_failed != 0;
}
