/* SPDX-License-Identifier: Apache-2.0
 *
 * Time of every operation of ops_cuda but attention at the sizes of a 1024x1024 picture, and of the
 * decoder's convolutions and norms together. A table on stdout; JSON into the file named first.
 *
 * A recording of several calls on different memory is replayed, so that neither launch gaps nor
 * the second-level cache flatter the numbers; the time is the median of the replays. Inputs are
 * random: zeros are faster than pictures.
 */
#include "kernels/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SETS    4 /* of inputs and outputs, in turn */
#define REPLAYS 9
#define TOKENS  4224
#define DIM     3840

static const Ops *const ops = &ops_cuda;

typedef struct
{
  Stream *stream;
  uint16_t *noise; /* BF16 in [-1, 1], as many as the largest tensor has */
  float *floats;
  FILE *json;
  bool first;
  double decoder_ms, decoder_conv_ms;
  Tensor vectors[4]; /* [16384] F32 */
} Bench;

/* What is timed: one call on input set `i`. */
typedef struct
{
  Tensor x[SETS], y[SETS], out[SETS];
  Tensor table;
  Conv *conv;
  int groups;
} Args;

typedef Status (*Call) (Bench *bench, Args *args, int i);

static void
require (Bench *bench, Status status, const char *what)
{
  if (status == STATUS_OK)
    return;
  fprintf (stderr, "%s: %s (%s)\n", what, status_name (status), ops->detail (bench->stream));
  exit (1);
}

static double
now_ms (void)
{
  struct timespec t;

  clock_gettime (CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

/* A tensor of any content; `a` of 1 makes it two-dimensional. */
static Tensor
room (Bench *bench, DType type, int64_t a, int64_t b, int64_t c)
{
  Tensor t = a == 1 ? tensor_2d (type, NULL, b, c) : tensor_3d (type, NULL, a, b, c);

  require (bench, ops->alloc (bench->stream, tensor_bytes (&t), &t.data), "alloc");
  return t;
}

/* A tensor of random numbers. */
static Tensor
take (Bench *bench, DType type, int64_t a, int64_t b, int64_t c)
{
  Tensor t = room (bench, type, a, b, c), host = t;

  host.data = type == DTYPE_BF16 ? (void *)bench->noise : (void *)bench->floats;
  require (bench, ops->upload (bench->stream, &host, &t), "upload");
  return t;
}

static int
compare_doubles (const void *a, const void *b)
{
  const double x = *(const double *)a, y = *(const double *)b;

  return (x > y) - (x < y);
}

/* Milliseconds of one call. `sets`: how many of the arguments' sets are filled. */
static double
time_call (Bench *bench, Call call, Args *args, int sets)
{
  const int calls = 2 * SETS;
  double times[REPLAYS];
  Recording *recording;

  for (int i = 0; i < sets; i++)
    require (bench, call (bench, args, i), "call");
  require (bench, ops->wait (bench->stream), "wait");
  require (bench, ops->record (bench->stream), "record");
  for (int i = 0; i < calls; i++)
    require (bench, call (bench, args, i % sets), "call");
  require (bench, ops->record_end (bench->stream, &recording), "record_end");
  for (int i = -2; i < REPLAYS; i++)
    {
      const double start = now_ms ();

      require (bench, ops->replay (bench->stream, recording), "replay");
      require (bench, ops->wait (bench->stream), "wait");
      if (i >= 0)
        times[i] = (now_ms () - start) / calls;
    }
  ops->recording_free (recording);
  qsort (times, REPLAYS, sizeof *times, compare_doubles);
  return times[REPLAYS / 2];
}

static void
report (Bench *bench, const char *name, double ms, double flop, double bytes)
{
  printf ("%-48s %9.4f ms %8.1f TFLOP/s %8.1f GB/s\n", name, ms, flop / ms * 1e-9,
          bytes / ms * 1e-6);
  if (bench->json)
    fprintf (bench->json,
             "%s\n  {\"name\": \"%s\", \"ms\": %.5f, \"tflops\": %.1f, \"gbps\": %.1f}",
             bench->first ? "" : ",", name, ms, flop / ms * 1e-9, bytes / ms * 1e-6);
  bench->first = false;
}

static void
release (Bench *bench, Tensor *tensors, int n)
{
  for (int i = 0; i < n; i++)
    ops->free (bench->stream, tensors[i].data);
}

/* -- rows ---------------------------------------------------------------------------------------
 */

static Status
call_copy (Bench *bench, Args *a, int i)
{
  return ops->copy (bench->stream, &a->x[i], &a->out[i]);
}

static Status
call_rms_norm (Bench *bench, Args *a, int i)
{
  return ops->rms_norm (bench->stream, &a->x[i], &bench->vectors[0], &bench->vectors[1], 1e-5f,
                        &a->out[i]);
}

static Status
call_layer_norm (Bench *bench, Args *a, int i)
{
  return ops->layer_norm (bench->stream, &a->x[i], &bench->vectors[0], 1e-6f, &a->out[i]);
}

static Status
call_residual_norm (Bench *bench, Args *a, int i)
{
  return ops->residual_norm (bench->stream, &a->x[i], &a->y[i], &bench->vectors[0],
                             &bench->vectors[1], &bench->vectors[2], &bench->vectors[3], 1e-5f,
                             &a->out[i]);
}

static Status
call_rope (Bench *bench, Args *a, int i)
{
  Tensor w = tensor_1d (DTYPE_F32, bench->vectors[0].data, 128);

  return ops->qk_norm_rope (bench->stream, &a->x[i], 30, 30, &w, &w, 1e-5f, &a->table,
                            ROPE_INTERLEAVED);
}

static Status
call_silu_mul (Bench *bench, Args *a, int i)
{
  return ops->silu_mul (bench->stream, &a->x[i], 0, &a->out[i]);
}

static void
bench_rows (Bench *bench)
{
  const double row_bytes = 2.0 * TOKENS * DIM;
  Args a = { 0 };

  for (int i = 0; i < SETS; i++)
    {
      a.x[i] = take (bench, DTYPE_BF16, 1, TOKENS, DIM);
      a.y[i] = take (bench, DTYPE_BF16, 1, TOKENS, DIM);
      a.out[i] = room (bench, DTYPE_BF16, 1, TOKENS, DIM);
    }
  for (int i = 0; i < 4; i++)
    bench->vectors[i] = tensor_1d (DTYPE_F32, bench->vectors[i].data, DIM);
  report (bench, "copy [4224, 3840]", time_call (bench, call_copy, &a, SETS), 0, 2 * row_bytes);
  report (bench, "rms_norm [4224, 3840]", time_call (bench, call_rms_norm, &a, SETS), 0,
          2 * row_bytes);
  report (bench, "layer_norm [4224, 3840]", time_call (bench, call_layer_norm, &a, SETS), 0,
          2 * row_bytes);
  report (bench, "residual_norm [4224, 3840]", time_call (bench, call_residual_norm, &a, SETS), 0,
          4 * row_bytes);
  release (bench, a.x, SETS), release (bench, a.y, SETS), release (bench, a.out, SETS);

  a.table = take (bench, DTYPE_F32, TOKENS, 64, 2);
  for (int i = 0; i < SETS; i++)
    a.x[i] = take (bench, DTYPE_BF16, TOKENS, 90, 128);
  report (bench, "qk_norm_rope 4224 x (30 + 30) x 128", time_call (bench, call_rope, &a, SETS), 0,
          4 * row_bytes);
  release (bench, a.x, SETS), release (bench, &a.table, 1);

  for (int i = 0; i < SETS; i++)
    {
      a.x[i] = take (bench, DTYPE_BF16, 1, TOKENS, 20480);
      a.out[i] = room (bench, DTYPE_BF16, 1, TOKENS, 10240);
    }
  report (bench, "silu_mul [4224, 20480]", time_call (bench, call_silu_mul, &a, SETS), 0,
          6.0 * TOKENS * 10240);
  release (bench, a.x, SETS), release (bench, a.out, SETS);
}

/* -- the decoder --------------------------------------------------------------------------------
 */

static Status
call_conv (Bench *bench, Args *a, int i)
{
  return ops->conv2d (bench->stream, a->conv, &a->x[i], a->y[i].data ? &a->y[i] : NULL, &a->out[i]);
}

static Status
call_group_norm (Bench *bench, Args *a, int i)
{
  return ops->group_norm (bench->stream, &a->x[i], &bench->vectors[0], &bench->vectors[1],
                          a->groups, 1e-6f, true, &a->out[i]);
}

/* `count`: how often the decoder has this layer. */
static void
bench_conv (Bench *bench, int side, int c_in, int c_out, int size, bool upsample, bool residual,
            int count)
{
  const int out_side = upsample ? 2 * side : side;
  const double flop = 2.0 * out_side * out_side * c_out * c_in * size * size;
  const double bytes = 2.0 * side * side * c_in + 2.0 * out_side * out_side * c_out
                       + (residual ? 2.0 * out_side * out_side * c_out : 0);
  ConvSource source = { .stride = 1, .upsample = upsample };
  Args a = { 0 };
  char name[96];
  double ms;

  source.weight = tensor_4d (DTYPE_BF16, bench->noise, c_out, c_in, size, size);
  source.bias = tensor_1d (DTYPE_F32, bench->floats, c_out);
  require (bench, ops->conv_prepare (bench->stream, &source, &a.conv), "conv_prepare");
  for (int i = 0; i < 2; i++)
    {
      a.x[i] = take (bench, DTYPE_BF16, side, side, c_in);
      a.out[i] = room (bench, DTYPE_BF16, out_side, out_side, c_out);
      if (residual)
        a.y[i] = take (bench, DTYPE_BF16, out_side, out_side, c_out);
    }
  ms = time_call (bench, call_conv, &a, 2);
  snprintf (name, sizeof name, "conv %dx%d %d -> %d at %d%s%s", size, size, c_in, c_out, side,
            upsample ? " upsampled" : "", residual ? " + residual" : "");
  report (bench, name, ms, flop, bytes);
  bench->decoder_ms += count * ms;
  bench->decoder_conv_ms += count * ms;
  ops->conv_release (bench->stream, a.conv);
  release (bench, a.x, 2), release (bench, a.y, 2), release (bench, a.out, 2);
}

static void
bench_group_norm (Bench *bench, int side, int channels, int count)
{
  Args a = { .groups = 32 };
  char name[96];
  double ms;

  for (int i = 0; i < 2; i++)
    {
      a.x[i] = take (bench, DTYPE_BF16, side, side, channels);
      a.out[i] = room (bench, DTYPE_BF16, side, side, channels);
    }
  for (int i = 0; i < 2; i++)
    bench->vectors[i] = tensor_1d (DTYPE_F32, bench->vectors[i].data, channels);
  ms = time_call (bench, call_group_norm, &a, 2);
  snprintf (name, sizeof name, "group_norm + silu %d at %d", channels, side);
  report (bench, name, ms, 0, 6.0 * side * side * channels);
  bench->decoder_ms += count * ms;
  release (bench, a.x, 2), release (bench, a.out, 2);
}

/* Every layer of the decoder at 1024x1024 but its attention (spec z-image 6.2). */
static void
bench_decoder (Bench *bench)
{
  bench_conv (bench, 128, 16, 512, 3, false, false, 1);
  bench_conv (bench, 128, 512, 512, 3, false, false, 5);
  bench_conv (bench, 128, 512, 512, 3, false, true, 5);
  bench_conv (bench, 128, 512, 512, 3, true, false, 1);
  bench_conv (bench, 256, 512, 512, 3, false, false, 3);
  bench_conv (bench, 256, 512, 512, 3, false, true, 3);
  bench_conv (bench, 256, 512, 512, 3, true, false, 1);
  bench_conv (bench, 512, 512, 256, 3, false, false, 1);
  bench_conv (bench, 512, 512, 256, 1, false, false, 1);
  bench_conv (bench, 512, 256, 256, 3, false, false, 2);
  bench_conv (bench, 512, 256, 256, 3, false, true, 3);
  bench_conv (bench, 512, 256, 256, 3, true, false, 1);
  bench_conv (bench, 1024, 256, 128, 3, false, false, 1);
  bench_conv (bench, 1024, 256, 128, 1, false, false, 1);
  bench_conv (bench, 1024, 128, 128, 3, false, false, 2);
  bench_conv (bench, 1024, 128, 128, 3, false, true, 3);
  bench_conv (bench, 1024, 128, 3, 3, false, false, 1);
  bench_group_norm (bench, 128, 512, 11);
  bench_group_norm (bench, 256, 512, 6);
  bench_group_norm (bench, 512, 512, 1);
  bench_group_norm (bench, 512, 256, 5);
  bench_group_norm (bench, 1024, 256, 1);
  bench_group_norm (bench, 1024, 128, 6);
  report (bench, "decoder's convolutions", bench->decoder_conv_ms, 9.89e12, 0);
  report (bench, "decoder without attention", bench->decoder_ms, 9.89e12, 0);
}

int
main (int argc, char **argv)
{
  const size_t most = (size_t)1024 * 1024 * 256;
  Bench bench = { .first = true };
  uint32_t state = 12345;
  DeviceCaps caps;

  if (ops->query (0, &caps) != STATUS_OK)
    {
      fprintf (stderr, "no CUDA device\n");
      return 77;
    }
  bench.noise = malloc (most * sizeof *bench.noise);
  bench.floats = malloc (most / 64 * sizeof *bench.floats);
  if (bench.noise == NULL || bench.floats == NULL)
    return 1;
  for (size_t i = 0; i < most; i++)
    {
      float value;

      state = state * 1664525u + 1013904223u;
      value = (float)(state >> 8) / (float)(1 << 23) - 1.0f;
      bench.noise[i] = bf16_from_float (value);
      if (i < most / 64)
        bench.floats[i] = value;
    }
  if (argc > 1)
    bench.json = fopen (argv[1], "w");
  if (bench.json)
    fprintf (bench.json, "{\"device\": \"%s\", \"rows\": [", caps.name);
  require (&bench, ops->open (0, NULL, &bench.stream), "open");
  for (int i = 0; i < 4; i++)
    bench.vectors[i] = take (&bench, DTYPE_F32, 1, 1, 16384);
  bench_rows (&bench);
  bench_decoder (&bench);
  ops->close (bench.stream);
  if (bench.json && (fprintf (bench.json, "\n]}\n") < 0 || fclose (bench.json) != 0))
    return 1;
  free (bench.noise);
  free (bench.floats);
  return 0;
}
