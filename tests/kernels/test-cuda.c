/* SPDX-License-Identifier: Apache-2.0
 *
 * ops_cuda at the sizes its kernels branch on, against plain sums in double, on fresh random
 * numbers; memory, budget and recordings. Outputs are poisoned with NaN beforehand, so what a
 * kernel forgets to write fails. The table that all devices share is test-ops-cuda.c.
 */
#include "kernels/kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Rounding a result to BF16 costs 1.7e-3 of its size on average; sums of rounded parts more. */
#define ROUNDED 2.5e-3
#define SUMMED  4e-3

static const Ops *const ops = &ops_cuda;

typedef struct
{
  Stream *stream;
  DType activation, residual;
  uint64_t state; /* of the random numbers */
  int n_tests, n_failed;
} Run;

/* Numbers on the host, and the same on the device. */
typedef struct
{
  Tensor host, device; /* host: F32 */
} Pair;

static void
require (Run *run, Status status, const char *what)
{
  if (status == STATUS_OK)
    return;
  printf ("Bail out! %s: %s (%s)\n", what, status_name (status), ops->detail (run->stream));
  exit (1);
}

static float
uniform (Run *run)
{
  run->state = run->state * 6364136223846793005u + 1442695040888963407u;
  return (float)(run->state >> 40) / (float)(1 << 24) * 2.0f - 1.0f;
}

/* Random numbers in [center - 1, center + 1] that `type` holds exactly. */
static Pair
make (Run *run, DType type, float center, int64_t a, int64_t b, int64_t c)
{
  Pair pair = { .host = tensor_3d (DTYPE_F32, NULL, a, b, c), .device = { 0 } };
  const int64_t n = tensor_count (&pair.host);
  float *values = malloc ((size_t)n * sizeof *values);

  for (int64_t i = 0; i < n; i++)
    {
      values[i] = center + uniform (run);
      if (type == DTYPE_BF16)
        values[i] = bf16_to_float (bf16_from_float (values[i]));
      else if (type == DTYPE_F16)
        values[i] = f16_to_float (f16_from_float (values[i]));
    }
  pair.host.data = values;
  pair.device = tensor_3d (type, NULL, a, b, c);
  require (run, ops->alloc (run->stream, tensor_bytes (&pair.device), &pair.device.data), "alloc");
  require (run, ops->upload (run->stream, &pair.host, &pair.device), "upload");
  return pair;
}

/* An output: NaN everywhere. */
static Pair
make_output (Run *run, DType type, int64_t a, int64_t b, int64_t c)
{
  Pair pair = make (run, type, 0.0f, a, b, c);
  float *values = pair.host.data;

  for (int64_t i = 0; i < tensor_count (&pair.host); i++)
    values[i] = NAN;
  require (run, ops->upload (run->stream, &pair.host, &pair.device), "upload");
  return pair;
}

static void
drop (Run *run, Pair *pair)
{
  free (pair->host.data);
  ops->free (run->stream, pair->device.data);
}

static Tensor
rows_of (Tensor t)
{
  return tensor_2d (t.dtype, t.data, t.shape[0] * t.shape[1], t.shape[2]);
}

static Tensor
vector_of (Tensor t)
{
  return tensor_1d (t.dtype, t.data, tensor_count (&t));
}

/* Compares what the device wrote with `expected` [count], and frees that. Where that is NaN, any
 * number will do. */
static void
compare (Run *run, Pair *out, double *expected, double limit, const char *name)
{
  double error = 0.0, size = 0.0;
  const int64_t n = tensor_count (&out->host);
  const float *values = out->host.data;

  require (run, ops->download (run->stream, &out->device, &out->host), name);
  for (int64_t i = 0; i < n; i++)
    {
      if (isnan (expected[i]) && isfinite (values[i]))
        continue;
      error += (values[i] - expected[i]) * (values[i] - expected[i]);
      size += expected[i] * expected[i];
    }
  error = sqrt (error / size);
  /* Of a few numbers, all may round by the most that BF16 can. */
  if (n < 4096 && limit > 0.0)
    limit = fmax (limit, 0x1p-8);
  run->n_tests++;
  if (!(error <= limit))
    run->n_failed++;
  printf ("%s %d - %s: %.2e of at most %.1e\n", error <= limit ? "ok" : "not ok", run->n_tests,
          name, error, limit);
  free (expected);
}

static double *
doubles (const Tensor *t)
{
  double *values = malloc ((size_t)tensor_count (t) * sizeof *values);

  for (int64_t i = 0; i < tensor_count (t); i++)
    values[i] = ((const float *)t->data)[i];
  return values;
}

static double
silu (double x)
{
  return x / (1.0 + exp (-x));
}

/* -- rows ---------------------------------------------------------------------------------------
 */

static double
rms_factor (const double *row, int64_t d, double eps)
{
  double sum = 0.0;

  for (int64_t i = 0; i < d; i++)
    sum += row[i] * row[i];
  return 1.0 / sqrt (sum / (double)d + eps);
}

static void
test_norms (Run *run, DType type, int64_t m, int64_t d)
{
  Pair x = make (run, type, 0.3f, 1, m, d), out = make_output (run, run->activation, 1, m, d);
  Pair weight = make (run, DTYPE_F32, 1.0f, 1, 1, d), scale = make (run, DTYPE_F32, 1.0f, 1, 1, d);
  Tensor x_rows = rows_of (x.device), out_rows = rows_of (out.device);
  Tensor w = vector_of (weight.device), s = vector_of (scale.device);
  const float *ws = weight.host.data, *ss = scale.host.data;
  const bool in_place = type == run->activation;
  char name[96];
  double *e;

  for (int with_scale = 0; with_scale < 2; with_scale++)
    {
      e = doubles (&x.host);

      for (int64_t r = 0; r < m; r++)
        {
          const double factor = rms_factor (e + r * d, d, 1e-5);
          for (int64_t i = 0; i < d; i++)
            e[r * d + i] *= factor * ws[i] * (with_scale ? ss[i] : 1.0);
        }
      require (run,
               ops->rms_norm (run->stream, &x_rows, &w, with_scale ? &s : NULL, 1e-5f, &out_rows),
               "rms_norm");
      snprintf (name, sizeof name, "rms_norm [%d, %d]%s", (int)m, (int)d,
                with_scale ? " scaled" : "");
      compare (run, &out, e, ROUNDED, name);
    }

  e = doubles (&x.host);
  for (int64_t r = 0; r < m; r++)
    {
      double mean = 0.0, variance = 0.0;

      for (int64_t i = 0; i < d; i++)
        mean += e[r * d + i] / (double)d;
      for (int64_t i = 0; i < d; i++)
        variance += (e[r * d + i] - mean) * (e[r * d + i] - mean) / (double)d;
      for (int64_t i = 0; i < d; i++)
        e[r * d + i] = (e[r * d + i] - mean) / sqrt (variance + 1e-6) * ss[i];
    }
  require (run, ops->layer_norm (run->stream, &x_rows, &s, 1e-6f, in_place ? &x_rows : &out_rows),
           "layer_norm");
  snprintf (name, sizeof name, "layer_norm [%d, %d]%s", (int)m, (int)d,
            in_place ? " in place" : "");
  compare (run, in_place ? &x : &out, e, ROUNDED, name);
  drop (run, &x), drop (run, &out), drop (run, &weight), drop (run, &scale);
}

/* `kind`: bits choose post, gate, scale and out. */
static void
test_residual_norm (Run *run, DType type, int64_t m, int64_t d, int kind)
{
  Pair x = make (run, type, 0.0f, 1, m, d), y = make (run, type, 0.0f, 1, m, d);
  Pair out = make_output (run, run->activation, 1, m, d), v[4];
  Tensor xt = rows_of (x.device), yt = rows_of (y.device), ot = rows_of (out.device), vt[4];
  double *ex = doubles (&x.host), *ey = doubles (&y.host), *eo = doubles (&x.host);
  const bool post = kind & 1, gate = kind & 2, scale = kind & 4, with_out = kind & 8;
  const float *f[4];
  char name[96];

  for (int i = 0; i < 4; i++)
    {
      v[i] = make (run, DTYPE_F32, 0.5f, 1, 1, d);
      vt[i] = vector_of (v[i].device);
      f[i] = v[i].host.data;
    }
  for (int64_t r = 0; r < m; r++)
    {
      const double factor = post ? rms_factor (ey + r * d, d, 1e-5) : 1.0;
      double next;

      for (int64_t i = 0; i < d; i++)
        ex[r * d + i] += factor * ey[r * d + i] * (post ? f[0][i] : 1.0) * (gate ? f[1][i] : 1.0);
      next = rms_factor (ex + r * d, d, 1e-5);
      for (int64_t i = 0; i < d; i++)
        eo[r * d + i] = next * ex[r * d + i] * f[2][i] * (scale ? f[3][i] : 1.0);
    }
  require (run,
           ops->residual_norm (run->stream, &xt, &yt, post ? &vt[0] : NULL, gate ? &vt[1] : NULL,
                               &vt[2], scale ? &vt[3] : NULL, 1e-5f, with_out ? &ot : NULL),
           "residual_norm");
  snprintf (name, sizeof name, "residual_norm [%d, %d] kind %d, x", (int)m, (int)d, kind);
  compare (run, &x, ex, ROUNDED, name);
  snprintf (name, sizeof name, "residual_norm [%d, %d] kind %d, out", (int)m, (int)d, kind);
  if (with_out)
    compare (run, &out, eo, SUMMED, name);
  else
    free (eo);
  free (ey);
  drop (run, &x), drop (run, &y), drop (run, &out);
  for (int i = 0; i < 4; i++)
    drop (run, &v[i]);
}

static void
test_rope (Run *run, int64_t m, int n_q, int n_kv, int64_t d, RopePairing pairing)
{
  const int64_t heads = n_q + 2 * n_kv;
  Pair qkv = make (run, run->activation, 0.1f, m, heads, d),
       table = make (run, DTYPE_F32, 0, m, d / 2, 2);
  Pair wq = make (run, DTYPE_F32, 1.0f, 1, 1, d), wk = make (run, DTYPE_F32, 1.0f, 1, 1, d);
  Tensor q_weight = vector_of (wq.device), k_weight = vector_of (wk.device);
  double *e = doubles (&qkv.host);
  char name[96];

  for (int64_t t = 0; t < m; t++)
    for (int64_t h = 0; h < n_q + n_kv; h++)
      {
        double *row = e + (t * heads + h) * d, turned[512];
        const double factor = rms_factor (row, d, 1e-6);
        const float *w = h < n_q ? wq.host.data : wk.host.data;

        for (int64_t i = 0; i < d; i++)
          row[i] *= factor * w[i];
        for (int64_t i = 0; i < d / 2; i++)
          {
            const float *turn = (const float *)table.host.data + (t * d / 2 + i) * 2;
            const int64_t a = pairing == ROPE_HALF ? i : 2 * i;
            const int64_t b = pairing == ROPE_HALF ? i + d / 2 : 2 * i + 1;
            turned[a] = row[a] * turn[0] - row[b] * turn[1];
            turned[b] = row[a] * turn[1] + row[b] * turn[0];
          }
        memcpy (row, turned, (size_t)d * sizeof *row);
      }
  require (run,
           ops->qk_norm_rope (run->stream, &qkv.device, n_q, n_kv, &q_weight, &k_weight, 1e-6f,
                              &table.device, pairing),
           "qk_norm_rope");
  snprintf (name, sizeof name, "qk_norm_rope %d tokens, %d + %d heads of %d, %s", (int)m, n_q, n_kv,
            (int)d, pairing == ROPE_HALF ? "halves" : "pairs");
  compare (run, &qkv, e, ROUNDED, name);
  drop (run, &qkv), drop (run, &table), drop (run, &wq), drop (run, &wk);
}

/* -- elements -----------------------------------------------------------------------------------
 */

static void
test_elements (Run *run, int64_t m, int64_t f)
{
  Pair x = make (run, run->activation, 0.0f, 1, m, 2 * f),
       out = make_output (run, run->activation, 1, m, f);
  Pair row = make (run, run->activation, 0.0f, 1, 1, f - 3);
  Pair filled = make_output (run, run->activation, 1, m, f - 3);
  Tensor x_rows = rows_of (x.device), out_rows = rows_of (out.device);
  Tensor row_t = vector_of (row.device), filled_t = rows_of (filled.device);
  double *e = doubles (&out.host);
  const float *v = x.host.data;
  const double scale = run->activation == DTYPE_F16 ? (double)SWIGLU_F16_SCALE : 1.0;
  char name[96];

  for (int64_t r = 0; r < m; r++)
    for (int64_t i = 0; i < f; i++)
      e[r * f + i] = scale * silu (v[r * 2 * f + i]) * v[r * 2 * f + f + i];
  require (run, ops->silu_mul (run->stream, &x_rows, 0, &out_rows), "silu_mul");
  snprintf (name, sizeof name, "silu_mul [%d, %d]", (int)m, (int)(2 * f));
  compare (run, &out, e, ROUNDED, name);

  e = doubles (&filled.host);
  for (int64_t i = 0; i < m * (f - 3); i++)
    e[i] = ((const float *)row.host.data)[i % (f - 3)];
  require (run, ops->fill_rows (run->stream, &row_t, &filled_t), "fill_rows");
  snprintf (name, sizeof name, "fill_rows [%d, %d]", (int)m, (int)f - 3);
  compare (run, &filled, e, 0.0, name);

  e = doubles (&row.host);
  for (int64_t i = 0; i < f - 3; i++)
    e[i] = silu (e[i]);
  require (run, ops->silu (run->stream, &row.device, &row.device), "silu");
  snprintf (name, sizeof name, "silu [%d] in place", (int)f - 3);
  compare (run, &row, e, ROUNDED, name);
  drop (run, &x), drop (run, &out), drop (run, &row), drop (run, &filled);
}

/* -- pictures -----------------------------------------------------------------------------------
 */

static void
test_group_norm (Run *run, int64_t h, int64_t w, int64_t c, int groups, bool with_silu,
                 float center)
{
  Pair x = make (run, run->activation, center, h, w, c),
       out = make_output (run, run->activation, h, w, c);
  Pair weight = make (run, DTYPE_F32, 1.0f, 1, 1, c), bias = make (run, DTYPE_F32, 0.0f, 1, 1, c);
  Tensor wt = vector_of (weight.device), bt = vector_of (bias.device);
  double *e = doubles (&x.host);
  const int64_t width = c / groups;
  char name[96];

  for (int64_t g = 0; g < groups; g++)
    {
      double mean = 0.0, variance = 0.0;
      const double count = (double)(h * w * width);
      for (int64_t p = 0; p < h * w; p++)
        for (int64_t i = g * width; i < (g + 1) * width; i++)
          mean += e[p * c + i] / count;
      for (int64_t p = 0; p < h * w; p++)
        for (int64_t i = g * width; i < (g + 1) * width; i++)
          variance += (e[p * c + i] - mean) * (e[p * c + i] - mean) / count;
      for (int64_t p = 0; p < h * w; p++)
        for (int64_t i = g * width; i < (g + 1) * width; i++)
          {
            double v = (e[p * c + i] - mean) / sqrt (variance + 1e-6);
            v = v * ((const float *)weight.host.data)[i] + ((const float *)bias.host.data)[i];
            e[p * c + i] = with_silu ? silu (v) : v;
          }
    }
  require (
      run,
      ops->group_norm (run->stream, &x.device, &wt, &bt, groups, 1e-6f, with_silu, &out.device),
      "group_norm");
  snprintf (name, sizeof name, "group_norm [%d, %d, %d] by %d around %g%s", (int)h, (int)w, (int)c,
            groups, (double)center, with_silu ? ", silu" : "");
  compare (run, &out, e, ROUNDED, name);
  drop (run, &x), drop (run, &out), drop (run, &weight), drop (run, &bias);
}

typedef struct
{
  int h, w, c_in, c_out, size, stride;
  bool upsample, residual, bias;
} ConvCase;

static double
conv_at (const ConvCase *t, const float *x, const float *weight, int y, int column, int out)
{
  const int up = t->upsample ? 2 : 1, pad = t->size == 3 && t->stride == 1;
  double sum = 0.0;

  for (int ky = 0; ky < t->size; ky++)
    for (int kx = 0; kx < t->size; kx++)
      {
        const int sy = y * t->stride + ky - pad, sx = column * t->stride + kx - pad;
        const float *w = weight + (int64_t)out * t->c_in * t->size * t->size + ky * t->size + kx;
        const float *pixel;

        if (sy < 0 || sx < 0 || sy >= t->h * up || sx >= t->w * up)
          continue;
        pixel = x + ((int64_t)(sy / up) * t->w + sx / up) * t->c_in;
        for (int in = 0; in < t->c_in; in++)
          sum += (double)pixel[in] * (double)w[(int64_t)in * t->size * t->size];
      }
  return sum;
}

static void
test_conv (Run *run, const ConvCase *t)
{
  const int rows = t->upsample ? 2 * t->h : t->h / t->stride;
  const int columns = t->upsample ? 2 * t->w : t->w / t->stride, area = t->size * t->size;
  Pair x = make (run, run->activation, 0.1f, t->h, t->w, t->c_in);
  Pair out = t->residual ? make (run, run->activation, 0.0f, rows, columns, t->c_out)
                         : make_output (run, run->activation, rows, columns, t->c_out);
  Pair weight = make (run, run->activation, 0.0f, t->c_out, t->c_in, area);
  Pair bias = make (run, run->activation, 0.0f, 1, 1, t->c_out);
  ConvSource source = { .stride = t->stride, .upsample = t->upsample };
  double *e = doubles (&out.host);
  /* Of large pictures a part is enough, spread over all rows, columns and channels. */
  const int64_t n = tensor_count (&out.host), apart = n * t->c_in * area > 300000000 ? 97 : 1;
  Conv *conv = NULL;
  char name[128];

  source.weight = tensor_4d (DTYPE_F32, weight.host.data, t->c_out, t->c_in, t->size, t->size);
  if (t->bias)
    source.bias = vector_of (bias.host);
  for (int64_t i = 0; i < n; i++)
    {
      const int y = (int)(i / t->c_out / columns), column = (int)(i / t->c_out % columns);
      const int c = (int)(i % t->c_out);
      double sum
          = (t->residual ? e[i] : 0.0) + (t->bias ? ((const float *)bias.host.data)[c] : 0.0);

      e[i] = i % apart != 0 ? NAN : sum + conv_at (t, x.host.data, weight.host.data, y, column, c);
    }
  require (run, ops->conv_prepare (run->stream, &source, &conv), "conv_prepare");
  require (
      run,
      ops->conv2d (run->stream, conv, &x.device, t->residual ? &out.device : NULL, &out.device),
      "conv2d");
  snprintf (name, sizeof name, "conv2d %dx%d [%d, %d, %d] -> %d, stride %d%s%s%s", t->size, t->size,
            t->h, t->w, t->c_in, t->c_out, t->stride, t->upsample ? ", upsampled" : "",
            t->residual ? ", residual" : "", t->bias ? ", bias" : "");
  compare (run, &out, e, t->upsample ? SUMMED : ROUNDED, name);
  ops->conv_release (run->stream, conv);
  drop (run, &x), drop (run, &out), drop (run, &weight), drop (run, &bias);
}

/* -- device -------------------------------------------------------------------------------------
 */

static void
check (Run *run, bool ok, const char *name)
{
  run->n_tests++;
  run->n_failed += !ok;
  printf ("%s %d - %s\n", ok ? "ok" : "not ok", run->n_tests, name);
}

static void
test_device (Run *run)
{
  const uint64_t before = ops->allocated (run->stream);
  StreamOptions options = { .memory_budget = 17 << 20 }; /* scratch takes 16 of it */
  Pair a = make (run, run->activation, 0.0f, 3, 5, 7),
       b = make_output (run, run->activation, 3, 5, 7);
  Stream *small = NULL;
  void *memory = NULL;
  DeviceCaps caps;

  check (run, ops->allocated (run->stream) > before, "memory is counted");
  require (run, ops->copy (run->stream, &a.device, &b.device), "copy");
  compare (run, &b, doubles (&a.host), 0.0, "copy");

  drop (run, &a), drop (run, &b);

  /* More than the ring of pinned buffers holds at once. */
  a = make (run, DTYPE_F16, 0.0f, 1, 40, 1 << 20);
  compare (run, &a, doubles (&a.host), 1e-3, "upload and download of 160 MiB through F16");
  drop (run, &a);
  ops->trim (run->stream);
  check (run, ops->allocated (run->stream) == before, "and given back");

  require (run, ops->open (0, &options, &small), "open with a budget");
  check (run, ops->alloc (small, 2 << 20, &memory) == STATUS_NO_MEMORY, "a budget is kept");
  check (run, ops->detail (small)[0] != '\0', "and its text says so");
  check (run, ops->alloc (small, 1000, &memory) == STATUS_OK, "smaller work still fits");
  ops->close (small);
  check (run, ops->query (9999, &caps) == STATUS_NO_DEVICE, "device 9999 is not there");
}

/* A replay does what the recorded calls did. */
static void
test_recording (Run *run)
{
  Pair x = make (run, run->activation, 0.0f, 1, 3, 64),
       row = make (run, run->activation, 0.0f, 1, 1, 64);
  Tensor x_rows = rows_of (x.device), row_t = vector_of (row.device);
  double *e = doubles (&x.host);
  Recording *recording = NULL;

  for (int i = 0; i < 3 * 64; i++)
    e[i] = silu (((const float *)row.host.data)[i % 64]);
  require (run, ops->record (run->stream), "record");
  require (run, ops->fill_rows (run->stream, &row_t, &x_rows), "fill_rows");
  require (run, ops->silu (run->stream, &x_rows, &x_rows), "silu");
  require (run, ops->record_end (run->stream, &recording), "record_end");
  for (int i = 0; i < 3; i++)
    require (run, ops->replay (run->stream, recording), "replay");
  compare (run, &x, e, ROUNDED, "three replays of a recording");
  ops->recording_free (recording);
  drop (run, &x), drop (run, &row);
}

/* -- all ----------------------------------------------------------------------------------------
 */

static void
test_rows_and_elements (Run *run)
{
  static const int64_t widths[] = { 8, 192, 1024, 37, 2040, 2560, 3840, 5001, 8192 };

  for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
    {
      /* Odd numbers of rows, some of them more than run at once. */
      const int64_t rows = i % 2 == 0 ? 1 + (int64_t)i * 3 : 2501;

      test_norms (run, run->residual, rows, widths[i]);
      if (run->activation != run->residual)
        test_norms (run, run->activation, rows, widths[i]);
      test_elements (run, 1 + (int64_t)i * 3, widths[i]);
    }
  for (int kind = 0; kind < 16; kind++)
    test_residual_norm (run, kind < 8 ? run->residual : run->activation, kind < 8 ? 5 : 1333,
                        kind % 2 ? 3840 : 200, kind);
  if (run->activation != run->residual)
    for (int kind = 0; kind < 16; kind++)
      test_residual_norm (run, run->residual, 1333, kind % 2 ? 3840 : 2040, kind);
  for (int pairing = 0; pairing < 2; pairing++)
    {
      test_rope (run, 7, 30, 30, 128, (RopePairing)pairing);
      test_rope (run, 3, 32, 8, 128, (RopePairing)pairing);
      test_rope (run, 5, 3, 3, 64, (RopePairing)pairing);
      test_rope (run, 2, 5, 1, 16, (RopePairing)pairing);
      test_rope (run, 2, 129, 3, 32, (RopePairing)pairing);
      test_rope (run, 4, 2, 1, 256, (RopePairing)pairing);
    }
}

static void
test_pictures (Run *run)
{
  static const ConvCase cases[] = {
    /* h, w, c_in, c_out, size, stride, upsample, residual, bias */
    { 16, 16, 64, 128, 3, 1, false, false, true },   { 9, 13, 16, 512, 3, 1, false, false, true },
    { 5, 7, 8, 32, 3, 1, false, false, false },      { 17, 9, 32, 64, 3, 1, false, true, true },
    { 12, 21, 128, 128, 3, 1, false, true, true },   { 7, 11, 512, 512, 3, 1, false, false, true },
    { 20, 24, 128, 256, 3, 1, false, false, true },  { 33, 31, 128, 3, 3, 1, false, false, true },
    { 6, 5, 64, 33, 3, 1, false, true, true },       { 19, 23, 256, 128, 1, 1, false, true, true },
    { 3, 4, 24, 40, 1, 1, false, false, false },     { 24, 25, 3, 128, 3, 1, false, false, true },
    { 6, 7, 5, 3, 3, 1, false, true, true },         { 16, 18, 64, 64, 3, 2, false, false, true },
    { 15, 17, 32, 136, 3, 2, false, false, true },   { 9, 8, 3, 8, 3, 2, false, false, true },
    { 7, 9, 64, 64, 3, 1, true, false, true },       { 12, 10, 256, 256, 3, 1, true, false, true },
    { 1, 1, 32, 32, 3, 1, true, false, true },       { 5, 5, 3, 8, 3, 1, true, false, true },
    { 1, 1, 128, 128, 3, 1, false, false, true },    { 2, 150, 40, 64, 3, 1, false, false, true },
    { 33, 47, 64, 128, 3, 1, false, false, true },   { 40, 32, 128, 256, 3, 1, false, true, true },
    { 32, 35, 64, 128, 3, 1, true, false, true },    { 48, 33, 128, 200, 3, 1, false, true, true },
    { 32, 40, 192, 128, 1, 1, false, true, false },  { 200, 181, 64, 128, 3, 1, false, true, true },
    { 130, 133, 128, 256, 3, 1, true, false, true }, { 33, 32, 256, 72, 1, 1, false, false, true },
  };

  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    test_conv (run, &cases[i]);
  test_group_norm (run, 5, 7, 32, 32, true, 0.0f);
  test_group_norm (run, 9, 3, 64, 32, false, 0.5f);
  test_group_norm (run, 64, 65, 128, 32, true, 0.0f);
  test_group_norm (run, 33, 31, 256, 32, true, 30.0f);
  test_group_norm (run, 16, 17, 512, 32, false, 0.0f);
  test_group_norm (run, 4, 5, 24, 3, true, 0.0f);
  test_group_norm (run, 300, 301, 128, 32, true, 0.0f);
}

int
main (void)
{
  Run run = { .state = (uint64_t)time (NULL) * 2654435761u + 1 };
  DeviceCaps caps;
  const Status found = ops->query (0, &caps);

  if (found != STATUS_OK)
    {
      printf ("1..0 # SKIP no CUDA device: %s\n", status_name (found));
      return 77;
    }
  printf ("# %s, random numbers from %llu\n", caps.name, (unsigned long long)run.state);
  run.activation = device_activation (&caps);
  run.residual = device_residual (&caps);
  require (&run, ops->open (0, NULL, &run.stream), "open");
  test_device (&run);
  test_recording (&run);
  test_rows_and_elements (&run);
  test_pictures (&run);
  ops->trim (run.stream);
  check (&run, ops->allocated (run.stream) == 0, "nothing is left allocated");
  ops->close (run.stream);
  printf ("1..%d\n", run.n_tests);
  return run.n_failed != 0;
}
