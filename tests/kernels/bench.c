/* SPDX-License-Identifier: Apache-2.0
 *
 * How fast the CPU's layers are, beside oneDNN alone on the same shape in the same run.
 *
 * bench [--threads N] [--only TEXT] [--json FILE]: ours and the bare primitive take turns, and the
 * best time of each counts, so that other programs on the machine disturb both alike. With one
 * thread its own clock is read, which does not run while others have the core.
 */
#include "kernels/cpu/svdq-tile.h"
#include "tests/kernels/bench-bare.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SECONDS_EACH 0.8 /* at least, for each case */
#define ROUNDS_MIN   5
#define LIMIT        0.85

typedef struct
{
  Stream *stream;
  int threads;
  const char *only; /* what a case's kind or name must contain; NULL = all */
  FILE *json;
  int n_rows, n_below;
} Bench;

/* One of our operations with its operands. */
typedef struct
{
  Linear *linear;
  Conv *conv;
  int n_q, n_kv; /* of attention */
  bool causal;
  Tensor x, residual, out;
} Work;

static double
now (const Bench *bench)
{
  struct timespec t;

  clock_gettime (bench->threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void
must (Bench *bench, Status status)
{
  if (status == STATUS_OK)
    return;
  fprintf (stderr, "bench: %s: %s\n", status_name (status), ops_cpu.detail (bench->stream));
  exit (1);
}

static Tensor
allocate (Bench *bench, Tensor shape)
{
  must (bench, ops_cpu.alloc (bench->stream, tensor_bytes (&shape), &shape.data));
  for (int64_t i = 0; i < tensor_count (&shape); i++)
    if (shape.dtype == DTYPE_F32)
      ((float *)shape.data)[i] = (float)(i * 7919 % 1009) / 1009.0f - 0.5f;
    else
      ((uint16_t *)shape.data)[i] = bf16_from_float ((float)(i * 7919 % 1009) / 1009.0f - 0.5f);
  return shape;
}

static void
run (Bench *bench, const Work *work)
{
  Work w = *work;
  Stream *s = bench->stream;

  if (w.linear != NULL)
    must (bench, w.linear->backend->apply (s, w.linear, &w.x, &w.out));
  else if (w.conv != NULL)
    must (bench,
          ops_cpu.conv2d (s, w.conv, &w.x, w.residual.data != NULL ? &w.residual : NULL, &w.out));
  else
    must (bench, ops_cpu.attention (s, &w.x, w.n_q, w.n_kv, w.causal, &w.out));
}

static double
best_of_one (const Bench *bench, double best, double start)
{
  double seconds = now (bench) - start;

  return seconds < best ? seconds : best;
}

/* Times `work` and, unless NULL, `bare`, and prints and records the row. `flops` are those of the
 * plain algorithm, for both. */
static void
measure (Bench *bench, const char *kind, const char *name, double flops, const Work *work,
         Bare *bare)
{
  double ours = INFINITY, alone = INFINITY;
  double start = now (bench);
  double ratio;

  if (bench->only != NULL && strstr (kind, bench->only) == NULL
      && strstr (name, bench->only) == NULL)
    return;
  for (int round = 0; round < ROUNDS_MIN || now (bench) - start < SECONDS_EACH; round++)
    {
      double turn = now (bench);

      run (bench, work);
      ours = best_of_one (bench, ours, turn);
      if (bare == NULL)
        continue;
      turn = now (bench);
      bare_run (bare);
      alone = best_of_one (bench, alone, turn);
    }
  ratio = alone / ours;
  printf ("%-10s %-38s %9.3f ms %7.1f GFLOP/s", kind, name, ours * 1e3, flops / ours * 1e-9);
  if (bare != NULL)
    printf ("  oneDNN %9.3f ms  share %.2f%s", alone * 1e3, ratio, ratio < LIMIT ? "  LOW" : "");
  printf ("\n");
  fflush (stdout);
  bench->n_below += bare != NULL && ratio < LIMIT;
  if (bench->json == NULL)
    return;
  fprintf (bench->json, "%s\n    {\"kind\": \"%s\", \"name\": \"%s\", \"seconds\": %.9g",
           bench->n_rows++ > 0 ? "," : "", kind, name, ours);
  fprintf (bench->json, ", \"gflops\": %.6g", flops / ours * 1e-9);
  if (bare != NULL)
    fprintf (bench->json, ", \"bare_seconds\": %.9g, \"share\": %.4g", alone, ratio);
  fprintf (bench->json, "}");
}

/* -- the cases ------------------------------------------------------------------------------- */

static void
bench_linear (Bench *bench, int64_t m, int64_t n, int64_t k, DType dtype, bool swiglu)
{
  LinearSource source = { .n = n, .k = k, .n_parts = 1, .swiglu = swiglu };
  Bare *bare = bare_product (m, n, k);
  Work work = { 0 };
  char name[64];

  source.parts[0] = allocate (bench, tensor_2d (dtype, NULL, n, k));
  source.bias = allocate (bench, tensor_1d (DTYPE_F32, NULL, n));
  must (bench, linear_cpu_dense.prepare_weights (bench->stream, &source, &work.linear));
  work.x = allocate (bench, tensor_2d (DTYPE_F32, NULL, m, k));
  work.out = allocate (bench, tensor_2d (DTYPE_F32, NULL, m, swiglu ? n / 2 : n));
  snprintf (name, sizeof name, "M %lld N %lld K %lld %s%s", (long long)m, (long long)n,
            (long long)k, dtype_name (dtype), swiglu ? " swiglu" : "");
  measure (bench, "linear", name, 2.0 * (double)m * (double)n * (double)k, &work, bare);
  linear_cpu_dense.release (bench->stream, work.linear);
  ops_cpu.free (bench->stream, source.parts[0].data);
  ops_cpu.free (bench->stream, source.bias.data);
  ops_cpu.free (bench->stream, work.x.data);
  ops_cpu.free (bench->stream, work.out.data);
  bare_free (bare);
}

/* A 4-bit layer of rank 32 with each instruction set that the processor has. */
static void
bench_svdq (Bench *bench, const DeviceCaps *caps, int64_t m, int64_t n, int64_t k,
            SvdqFormat format)
{
  const SvdqTiles *tiles[] = { &svdq_tiles_avx2, &svdq_tiles_vnni };
  const bool has[] = { caps->avx2, caps->vnni };
  const int rank = 32;
  bool int4 = format == SVDQ_INT4;
  Tensor codes = allocate (bench, tensor_2d (DTYPE_BF16, NULL, n, k / 4)); /* any bits will do */
  Tensor scales = allocate (bench, tensor_2d (DTYPE_BF16, NULL, k / 16, n));
  Tensor smooth = allocate (bench, tensor_1d (DTYPE_BF16, NULL, k));
  Tensor down = allocate (bench, tensor_2d (DTYPE_BF16, NULL, k, rank));
  Tensor up = allocate (bench, tensor_2d (DTYPE_BF16, NULL, n, rank));
  SvdqSource svdq
      = { format, rank, codes.data, scales.data, smooth.data, down.data, up.data, NULL };
  LinearSource source = { .n = n, .k = k, .svdq = &svdq };
  Work work = { 0 };
  char name[64];

  if (!int4) /* E4M3 bytes from BF16 bits could be NaN */
    memset (scales.data, 0x38, tensor_bytes (&scales));
  must (bench, linear_cpu_svdq.prepare_weights (bench->stream, &source, &work.linear));
  work.x = allocate (bench, tensor_2d (DTYPE_F32, NULL, m, k));
  work.out = allocate (bench, tensor_2d (DTYPE_F32, NULL, m, n));
  for (int i = 0; i < 2; i++)
    if (has[i])
      {
        svdq_linear_use (work.linear, tiles[i]);
        snprintf (name, sizeof name, "M %lld N %lld K %lld %s %s", (long long)m, (long long)n,
                  (long long)k, int4 ? "INT4" : "NVFP4", tiles[i]->name);
        measure (bench, "svdq", name, 2.0 * (double)m * (double)n * (double)k, &work, NULL);
      }
  linear_cpu_svdq.release (bench->stream, work.linear);
  for (int i = 0; i < 5; i++)
    ops_cpu.free (bench->stream, ((Tensor[]){ codes, scales, smooth, down, up })[i].data);
  ops_cpu.free (bench->stream, work.x.data);
  ops_cpu.free (bench->stream, work.out.data);
}

typedef struct
{
  int64_t height, width, c_in, c_out; /* the input's */
  int size, stride;
  bool upsample, residual;
} ConvCase;

static void
bench_conv (Bench *bench, const ConvCase *c)
{
  int64_t zoom = c->upsample ? 2 : 1;
  int64_t rows = c->height * zoom / c->stride;
  int64_t columns = c->width * zoom / c->stride;
  Tensor out = tensor_3d (DTYPE_F32, NULL, rows, columns, c->c_out);
  ConvSource source = { .stride = c->stride, .upsample = c->upsample };
  Bare *bare = bare_conv (c->height * zoom, c->width * zoom, c->c_in, c->c_out, c->size, c->stride);
  Work work = { 0 };
  char name[64];

  source.weight
      = allocate (bench, tensor_4d (DTYPE_F32, NULL, c->c_out, c->c_in, c->size, c->size));
  source.bias = allocate (bench, tensor_1d (DTYPE_F32, NULL, c->c_out));
  must (bench, ops_cpu.conv_prepare (bench->stream, &source, &work.conv));
  work.x = allocate (bench, tensor_3d (DTYPE_F32, NULL, c->height, c->width, c->c_in));
  work.out = allocate (bench, out);
  if (c->residual)
    work.residual = allocate (bench, out);
  snprintf (name, sizeof name, "%lldx%lld %lld->%lld %dx%d%s%s%s", (long long)c->height,
            (long long)c->width, (long long)c->c_in, (long long)c->c_out, c->size, c->size,
            c->stride == 2 ? " stride 2" : "", c->upsample ? " upsample" : "",
            c->residual ? " residual" : "");
  measure (bench, "conv", name,
           2.0 * (double)(rows * columns * c->c_in * c->c_out) * c->size * c->size, &work, bare);
  ops_cpu.conv_release (bench->stream, work.conv);
  ops_cpu.free (bench->stream, source.weight.data);
  ops_cpu.free (bench->stream, source.bias.data);
  ops_cpu.free (bench->stream, work.x.data);
  ops_cpu.free (bench->stream, work.residual.data);
  ops_cpu.free (bench->stream, work.out.data);
  bare_free (bare);
}

static void
bench_attention (Bench *bench, int64_t m, int n_q, int n_kv, int64_t d, bool causal)
{
  Work work = { .n_q = n_q, .n_kv = n_kv, .causal = causal };
  double pairs = causal ? (double)m * (double)(m + 1) / 2 : (double)m * (double)m;
  char name[64];

  work.x = allocate (bench, tensor_3d (DTYPE_F32, NULL, m, n_q + 2 * n_kv, d));
  work.out = allocate (bench, tensor_2d (DTYPE_F32, NULL, m, n_q * d));
  snprintf (name, sizeof name, "M %lld heads %d/%d x %lld%s", (long long)m, n_q, n_kv, (long long)d,
            causal ? " causal" : "");
  measure (bench, "attention", name, 4.0 * pairs * n_q * (double)d, &work, NULL);
  ops_cpu.free (bench->stream, work.x.data);
  ops_cpu.free (bench->stream, work.out.data);
}

static void
run_all (Bench *bench, const DeviceCaps *caps)
{
  static const int64_t tokens[] = { 64, 288, 1088 };
  static const ConvCase convs[] = {
    { 64, 64, 32, 32, 3, 1, false, true },       { 64, 64, 64, 64, 3, 1, false, true },
    { 64, 64, 16, 512, 3, 1, false, false },     { 64, 64, 512, 512, 3, 1, false, true },
    { 128, 128, 256, 256, 3, 1, false, false },  { 256, 256, 128, 128, 3, 1, false, true },
    { 128, 1024, 128, 128, 3, 1, false, false }, { 128, 128, 512, 256, 1, 1, false, false },
    { 256, 256, 128, 3, 3, 1, false, false },    { 256, 256, 3, 128, 3, 1, false, false },
    { 128, 128, 256, 256, 3, 2, false, false },  { 64, 64, 256, 256, 3, 1, true, false },
    { 32, 32, 64, 64, 3, 1, true, false },
  };

  for (int format = SVDQ_INT4; format <= SVDQ_NVFP4; format++)
    {
      bench_svdq (bench, caps, 256, 3840, 3840, (SvdqFormat)format);
      bench_svdq (bench, caps, 1088, 384, 1024, (SvdqFormat)format);
    }
  for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
    {
      bench_linear (bench, tokens[i], 1152, 384, DTYPE_F32, false);
      bench_linear (bench, tokens[i], 384, 384, DTYPE_F32, false);
      bench_linear (bench, tokens[i], 2048, 384, DTYPE_F32, false);
      bench_linear (bench, tokens[i], 2048, 384, DTYPE_F32, true);
      bench_linear (bench, tokens[i], 384, 1024, DTYPE_F32, false);
    }
  bench_linear (bench, 1, 1536, 256, DTYPE_F32, false);
  bench_linear (bench, 256, 3840, 3840, DTYPE_F32, false);
  bench_linear (bench, 256, 3840, 3840, DTYPE_BF16, false);
  bench_linear (bench, 64, 3840, 3840, DTYPE_BF16, false);
  bench_linear (bench, 256, 8192, 3840, DTYPE_F32, true);
  for (size_t i = 0; i < sizeof convs / sizeof *convs; i++)
    bench_conv (bench, &convs[i]);
  bench_attention (bench, 288, 3, 3, 128, false);
  bench_attention (bench, 1088, 3, 3, 64, false);
  bench_attention (bench, 1088, 3, 3, 128, false);
  bench_attention (bench, 4224, 2, 2, 128, false);
  bench_attention (bench, 512, 32, 8, 128, true);
  bench_attention (bench, 4096, 1, 1, 512, false);
}

/* Opens the JSON file and writes what the rows have in common. */
static bool
open_json (Bench *bench, const char *path, const DeviceCaps *caps)
{
  bench->json = fopen (path, "we");
  if (bench->json == NULL)
    return false;
  fprintf (bench->json, "{\n  \"cpu\": \"%s\", \"avx512\": %s, \"threads\": %d,\n  \"rows\": [",
           caps->name, caps->avx512 ? "true" : "false", bench->threads);
  return true;
}

int
main (int argc, char **argv)
{
  StreamOptions options = { 0 };
  Bench bench = { 0 };
  const char *path = NULL;
  DeviceCaps caps;

  for (int i = 1; i < argc; i++)
    if (i + 1 < argc && strcmp (argv[i], "--json") == 0)
      path = argv[++i];
    else if (i + 1 < argc && strcmp (argv[i], "--only") == 0)
      bench.only = argv[++i];
    else if (i + 1 < argc && strcmp (argv[i], "--threads") == 0)
      options.threads = atoi (argv[++i]);
    else
      {
        fprintf (stderr, "usage: bench [--threads N] [--only TEXT] [--json FILE]\n");
        return 2;
      }
  must (&bench, ops_cpu.query (0, &caps));
  must (&bench, ops_cpu.open (0, &options, &bench.stream));
  bench.threads = options.threads > 0 ? options.threads : caps.multiprocessors;
  omp_set_num_threads (bench.threads); /* for the bare primitives */
  if (path != NULL && !open_json (&bench, path, &caps))
    {
      fprintf (stderr, "bench: cannot write %s\n", path);
      return 1;
    }
  printf ("%s, %d threads%s%s%s\n", caps.name, bench.threads, caps.avx2 ? ", AVX2" : "",
          caps.avx512 ? ", AVX-512" : "", caps.bf16 ? ", BF16" : "");
  run_all (&bench, &caps);
  printf ("%d of the layers with a yardstick are below %.2f of it\n", bench.n_below, LIMIT);
  ops_cpu.close (bench.stream);
  if (bench.json != NULL)
    {
      fprintf (bench.json, "\n  ]\n}\n");
      return fclose (bench.json) != 0;
    }
  return 0;
}
