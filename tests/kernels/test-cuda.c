/* SPDX-License-Identifier: Apache-2.0
 *
 * ops_cuda on rows and elements, at the sizes its kernels branch on, against plain sums in double;
 * memory, budget and recordings. The table that all devices share is test-ops-cuda.c.
 */
#include "tests/kernels/device-pair.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
  Pair x = pair_random (run, type, 0.3f, 1, m, d), out = pair_output (run, 1, m, d);
  Pair weight = pair_random (run, DTYPE_F32, 1.0f, 1, 1, d),
       scale = pair_random (run, DTYPE_F32, 1.0f, 1, 1, d);
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
      require (
          run,
          ops_cuda.rms_norm (run->stream, &x_rows, &w, with_scale ? &s : NULL, 1e-5f, &out_rows),
          "rms_norm");
      snprintf (name, sizeof name, "rms_norm [%d, %d]%s", (int)m, (int)d,
                with_scale ? " scaled" : "");
      pair_compare (run, &out, e, ROUNDED, name);
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
  require (run,
           ops_cuda.layer_norm (run->stream, &x_rows, &s, 1e-6f, in_place ? &x_rows : &out_rows),
           "layer_norm");
  snprintf (name, sizeof name, "layer_norm [%d, %d]%s", (int)m, (int)d,
            in_place ? " in place" : "");
  pair_compare (run, in_place ? &x : &out, e, ROUNDED, name);
  pair_drop (run, &x), pair_drop (run, &out), pair_drop (run, &weight), pair_drop (run, &scale);
}

/* `kind`: bits choose post, gate, scale and out. */
static void
test_residual_norm (Run *run, DType type, int64_t m, int64_t d, int kind)
{
  Pair x = pair_random (run, type, 0.0f, 1, m, d), y = pair_random (run, type, 0.0f, 1, m, d);
  Pair out = pair_output (run, 1, m, d), v[4];
  Tensor xt = rows_of (x.device), yt = rows_of (y.device), ot = rows_of (out.device), vt[4];
  double *ex = doubles (&x.host), *ey = doubles (&y.host), *eo = doubles (&x.host);
  const bool post = kind & 1, gate = kind & 2, scale = kind & 4, with_out = kind & 8;
  const float *f[4];
  char name[96];

  for (int i = 0; i < 4; i++)
    {
      v[i] = pair_random (run, DTYPE_F32, 0.5f, 1, 1, d);
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
           ops_cuda.residual_norm (run->stream, &xt, &yt, post ? &vt[0] : NULL,
                                   gate ? &vt[1] : NULL, &vt[2], scale ? &vt[3] : NULL, 1e-5f,
                                   with_out ? &ot : NULL),
           "residual_norm");
  snprintf (name, sizeof name, "residual_norm [%d, %d] kind %d, x", (int)m, (int)d, kind);
  pair_compare (run, &x, ex, ROUNDED, name);
  snprintf (name, sizeof name, "residual_norm [%d, %d] kind %d, out", (int)m, (int)d, kind);
  if (with_out)
    pair_compare (run, &out, eo, SUMMED, name);
  else
    free (eo);
  free (ey);
  pair_drop (run, &x), pair_drop (run, &y), pair_drop (run, &out);
  for (int i = 0; i < 4; i++)
    pair_drop (run, &v[i]);
}

static void
test_rope (Run *run, int64_t m, int n_q, int n_kv, int64_t d, RopePairing pairing)
{
  const int64_t heads = n_q + 2 * n_kv;
  Pair qkv = pair_random (run, run->activation, 0.1f, m, heads, d),
       table = pair_random (run, DTYPE_F32, 0, m, d / 2, 2);
  Pair wq = pair_random (run, DTYPE_F32, 1.0f, 1, 1, d),
       wk = pair_random (run, DTYPE_F32, 1.0f, 1, 1, d);
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
           ops_cuda.qk_norm_rope (run->stream, &qkv.device, n_q, n_kv, &q_weight, &k_weight, 1e-6f,
                                  &table.device, pairing),
           "qk_norm_rope");
  snprintf (name, sizeof name, "qk_norm_rope %d tokens, %d + %d heads of %d, %s", (int)m, n_q, n_kv,
            (int)d, pairing == ROPE_HALF ? "halves" : "pairs");
  pair_compare (run, &qkv, e, ROUNDED, name);
  pair_drop (run, &qkv), pair_drop (run, &table), pair_drop (run, &wq), pair_drop (run, &wk);
}

/* -- elements -----------------------------------------------------------------------------------
 */

static void
test_elements (Run *run, int64_t m, int64_t f)
{
  Pair x = pair_random (run, run->activation, 0.0f, 1, m, 2 * f), out = pair_output (run, 1, m, f);
  Pair row = pair_random (run, run->activation, 0.0f, 1, 1, f - 3);
  Pair filled = pair_output (run, 1, m, f - 3);
  Tensor x_rows = rows_of (x.device), out_rows = rows_of (out.device);
  Tensor row_t = vector_of (row.device), filled_t = rows_of (filled.device);
  double *e = doubles (&out.host);
  const float *v = x.host.data;
  const double scale = run->activation == DTYPE_F16 ? (double)SWIGLU_F16_SCALE : 1.0;
  char name[96];

  for (int64_t r = 0; r < m; r++)
    for (int64_t i = 0; i < f; i++)
      e[r * f + i] = scale * silu (v[r * 2 * f + i]) * v[r * 2 * f + f + i];
  require (run, ops_cuda.silu_mul (run->stream, &x_rows, 0, &out_rows), "silu_mul");
  snprintf (name, sizeof name, "silu_mul [%d, %d]", (int)m, (int)(2 * f));
  pair_compare (run, &out, e, ROUNDED, name);

  e = doubles (&filled.host);
  for (int64_t i = 0; i < m * (f - 3); i++)
    e[i] = ((const float *)row.host.data)[i % (f - 3)];
  require (run, ops_cuda.fill_rows (run->stream, &row_t, &filled_t), "fill_rows");
  snprintf (name, sizeof name, "fill_rows [%d, %d]", (int)m, (int)f - 3);
  pair_compare (run, &filled, e, 0.0, name);

  e = doubles (&row.host);
  for (int64_t i = 0; i < f - 3; i++)
    e[i] = silu (e[i]);
  require (run, ops_cuda.silu (run->stream, &row.device, &row.device), "silu");
  snprintf (name, sizeof name, "silu [%d] in place", (int)f - 3);
  pair_compare (run, &row, e, ROUNDED, name);
  pair_drop (run, &x), pair_drop (run, &out), pair_drop (run, &row), pair_drop (run, &filled);
}

/* -- device -------------------------------------------------------------------------------------
 */

static void
test_device (Run *run)
{
  const uint64_t before = ops_cuda.allocated (run->stream);
  StreamOptions options = { .memory_budget = 17 << 20 }; /* scratch takes 16 of it */
  Pair a = pair_random (run, run->activation, 0.0f, 3, 5, 7), b = pair_output (run, 3, 5, 7);
  Stream *small = NULL;
  void *memory = NULL;
  DeviceCaps caps;

  check (run, ops_cuda.allocated (run->stream) > before, "memory is counted");
  require (run, ops_cuda.copy (run->stream, &a.device, &b.device), "copy");
  pair_compare (run, &b, doubles (&a.host), 0.0, "copy");

  pair_drop (run, &a), pair_drop (run, &b);

  /* More than the ring of pinned buffers holds at once. */
  a = pair_random (run, DTYPE_F16, 0.0f, 1, 40, 1 << 20);
  pair_compare (run, &a, doubles (&a.host), 1e-3, "upload and download of 160 MiB through F16");
  pair_drop (run, &a);
  ops_cuda.trim (run->stream);
  check (run, ops_cuda.allocated (run->stream) == before, "and given back");

  require (run, ops_cuda.open (0, &options, &small), "open with a budget");
  check (run, ops_cuda.alloc (small, 2 << 20, &memory) == STATUS_NO_MEMORY, "a budget is kept");
  check (run, ops_cuda.detail (small)[0] != '\0', "and its text says so");
  check (run, ops_cuda.alloc (small, 1000, &memory) == STATUS_OK, "smaller work still fits");
  ops_cuda.close (small);
  check (run, ops_cuda.query (9999, &caps) == STATUS_NO_DEVICE, "device 9999 is not there");
}

/* A replay does what the recorded calls did. */
static void
test_recording (Run *run)
{
  Pair x = pair_random (run, run->activation, 0.0f, 1, 3, 64),
       row = pair_random (run, run->activation, 0.0f, 1, 1, 64);
  Tensor x_rows = rows_of (x.device), row_t = vector_of (row.device);
  double *e = doubles (&x.host);
  Recording *recording = NULL;

  for (int i = 0; i < 3 * 64; i++)
    e[i] = silu (((const float *)row.host.data)[i % 64]);
  require (run, ops_cuda.record (run->stream), "record");
  require (run, ops_cuda.fill_rows (run->stream, &row_t, &x_rows), "fill_rows");
  require (run, ops_cuda.silu (run->stream, &x_rows, &x_rows), "silu");
  require (run, ops_cuda.record_end (run->stream, &recording), "record_end");
  for (int i = 0; i < 3; i++)
    require (run, ops_cuda.replay (run->stream, recording), "replay");
  pair_compare (run, &x, e, ROUNDED, "three replays of a recording");
  ops_cuda.recording_free (recording);
  pair_drop (run, &x), pair_drop (run, &row);
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

int
main (void)
{
  Run run;
  int skipped = run_begin (&run);

  if (skipped != 0)
    return skipped;
  test_device (&run);
  test_recording (&run);
  test_rows_and_elements (&run);
  return run_end (&run);
}
