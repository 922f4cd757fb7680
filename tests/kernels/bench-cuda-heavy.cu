/* SPDX-License-Identifier: Apache-2.0
 *
 * Times of the heavy CUDA kernels on the shapes of Z-Image, every variant of them, as JSON lines.
 *
 *   bench-cuda-heavy [--skip NAME]... > times.jsonl
 *
 * A measurement is a recording of launches replayed five times: the median of the replays, a
 * launch. Inputs are random, weights of small products rotate so that none stays in the cache.
 */
#include "tests/kernels/cuda-reference.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REPLAYS        5
#define REPLAY_MS      8.0f /* length of a recording */
#define MAX_LAUNCHES   64
#define ROTATION       8
#define LARGEST_INPUT  ((size_t)4224 * 11520)
#define LARGEST_WEIGHT ((size_t)20480 * 3840)

typedef struct
{
  Stream *s;
  bf16 *x, *w, *out;
  cudaEvent_t start, end;
  int n_skips;
  char **skips;
} Bench;

/* What is measured: one of these runs, with the weights numbered `turn`. */
typedef struct
{
  const char *kernel;
  int variant;
  Gemm gemm;
  Attention attention;
  Status (*run) (Bench *b, const void *job, int turn);
} Job;

static bool
skipped (const Bench *b, const char *kernel)
{
  for (int i = 0; i < b->n_skips; i++)
    if (strcmp (b->skips[i], kernel) == 0)
      return true;
  return false;
}

static int
compare_floats (const void *a, const void *b)
{
  const float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

/* Milliseconds of `launches` runs in one recording. */
static Status
time_recording (Bench *b, const Job *job, int launches, int replays, float *median)
{
  Stream *s = b->s;
  float times[REPLAYS];
  Recording *recording = NULL;
  CHECK (cuda_record (s));
  Status status = STATUS_OK;
  for (int i = 0; i < launches && status == STATUS_OK; i++)
    status = job->run (b, job, i);
  const Status ended = cuda_record_end (s, &recording);
  if (status != STATUS_OK || ended != STATUS_OK)
    {
      cuda_recording_free (recording);
      return status != STATUS_OK ? status : ended;
    }
  for (int i = -1; i < replays; i++) /* the first warms up */
    {
      CUDA_CHECK (s, cudaEventRecord (b->start, s->compute));
      CHECK (cuda_replay (s, recording));
      CUDA_CHECK (s, cudaEventRecord (b->end, s->compute));
      CHECK (cuda_wait (s));
      CUDA_CHECK (s, cudaEventElapsedTime (&times[i < 0 ? 0 : i], b->start, b->end));
    }
  cuda_recording_free (recording);
  qsort (times, replays, sizeof times[0], compare_floats);
  *median = times[replays / 2];
  return STATUS_OK;
}

static Status
measure (Bench *b, const Job *job, float *ms)
{
  CHECK (time_recording (b, job, 2, 1, ms));
  int launches = (int)(REPLAY_MS / (*ms / 2));
  launches = launches < 4 ? 4 : launches > MAX_LAUNCHES ? MAX_LAUNCHES : launches;
  CHECK (time_recording (b, job, launches, REPLAYS, ms));
  *ms /= launches;
  return STATUS_OK;
}

/* -- products -----------------------------------------------------------------------------------
 */

enum
{
  KERNEL_FEW_ROWS = -3,
  KERNEL_SM80 = -2,
  KERNEL_CHOSEN = -1,
};

static Status
run_gemm (Bench *b, const void *data, int turn)
{
  const Job *job = (const Job *)data;
  Gemm g = job->gemm;
  if (g.m <= 128)
    g.w = (const bf16 *)g.w + turn % ROTATION * (size_t)g.n * g.k;
  switch (job->variant)
    {
    case KERNEL_FEW_ROWS:
      return gemm_few_rows (b->s, &g);
    case KERNEL_SM80:
      return gemm_sm80 (b->s, &g);
    case KERNEL_CHOSEN:
      return gemm (b->s, &g);
    default:
      return gemm_sm90 (b->s, &g, job->variant);
    }
}

static Status
bench_gemm (Bench *b, const char *kernel, int variant, const Gemm *g)
{
  if (skipped (b, kernel))
    return STATUS_OK;
  Job job = {};
  job.kernel = kernel, job.variant = variant, job.gemm = *g, job.run = run_gemm;
  float ms = 0.0f;
  const Status status = measure (b, &job, &ms);
  if (status == STATUS_UNSUPPORTED)
    return STATUS_OK;
  CHECK (status);
  printf ("{\"op\": \"gemm\", \"kernel\": \"%s\", \"m\": %d, \"n\": %d, \"k\": %d, \"swiglu\": %s, "
          "\"ms\": %.5f, \"tflops\": %.1f, \"weight_gb_s\": %.0f}\n",
          kernel, (int)g->m, (int)g->n, (int)g->k, g->swiglu ? "true" : "false", ms,
          2e-9 * g->m * g->n * g->k / ms, 2e-6 * g->n * g->k / ms);
  fflush (stdout);
  return STATUS_OK;
}

static const int block_shapes[][2]
    = { { 11520, 3840 }, { 3840, 3840 }, { 20480, 3840 }, { 3840, 10240 } };
static const int encoder_shapes[][2]
    = { { 6144, 2560 }, { 2560, 4096 }, { 19456, 2560 }, { 2560, 9728 } };

static Status
bench_shape (Bench *b, int m, int n, int k, bool swiglu)
{
  const Gemm g = { b->x, b->w, NULL, b->out, m, n, k, swiglu };
  CHECK (bench_gemm (b, "chosen", KERNEL_CHOSEN, &g));
  for (int i = 0; b->s->caps.sm == 90 && gemm_sm90_variant_name (i) != NULL; i++)
    {
      const char *name = gemm_sm90_variant_name (i);
      const bool small = strncmp (name, "64x", 3) == 0;
      if ((m > 2048 && small) || (m <= 64 && !small)
          || (swiglu && !gemm_sm90_variant_has_swiglu (i)))
        continue;
      CHECK (bench_gemm (b, name, i, &g));
    }
  CHECK (bench_gemm (b, "sm80", KERNEL_SM80, &g));
  if (m <= GEMM_FEW_ROWS)
    CHECK (bench_gemm (b, "few rows", KERNEL_FEW_ROWS, &g));
  return STATUS_OK;
}

static Status
bench_gemms (Bench *b)
{
  const int block_rows[] = { 4224, 1088 }, encoder_rows[] = { 1, 16, 64, 512 };
  for (int i = 0; i < 2; i++)
    for (int j = 0; j < 4; j++)
      {
        CHECK (bench_shape (b, block_rows[i], block_shapes[j][0], block_shapes[j][1], false));
        if (j == 2)
          CHECK (bench_shape (b, block_rows[i], block_shapes[j][0], block_shapes[j][1], true));
      }
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < 4; j++)
      CHECK (bench_shape (b, encoder_rows[i], encoder_shapes[j][0], encoder_shapes[j][1], j == 2));
  return STATUS_OK;
}

/* -- attention ----------------------------------------------------------------------------------
 */

enum
{
  KERNEL_WIDE = -3,
  KERNEL_MMA = -2,
};

static Status
run_attention (Bench *b, const void *data, int turn)
{
  const Job *job = (const Job *)data;
  (void)turn;
  if (job->variant == KERNEL_WIDE)
    return attention_wide (b->s, &job->attention);
  return job->variant == KERNEL_MMA ? attention_mma (b->s, &job->attention)
                                    : attention_sm90 (b->s, &job->attention, job->variant);
}

static Status
bench_attention (Bench *b, const char *kernel, int variant, const Attention *a)
{
  if (skipped (b, kernel))
    return STATUS_OK;
  Job job = {};
  job.kernel = kernel, job.variant = variant, job.attention = *a, job.run = run_attention;
  float ms = 0.0f;
  CHECK (measure (b, &job, &ms));
  printf ("{\"op\": \"attention\", \"kernel\": \"%s\", \"m\": %d, \"n_q\": %d, \"n_kv\": %d, "
          "\"d\": %d, \"causal\": %s, \"ms\": %.5f, \"tflops\": %.1f}\n",
          kernel, (int)a->m, a->n_q, a->n_kv, a->d, a->causal ? "true" : "false", ms,
          (a->causal ? 2e-9 : 4e-9) * a->m * a->m * a->n_q * a->d / ms);
  fflush (stdout);
  return STATUS_OK;
}

static Status
bench_attentions (Bench *b)
{
  const struct
  {
    int m, n_q, n_kv, d;
    bool causal;
  } sizes[] = {
    { 4224, 30, 30, 128, false }, { 4160, 30, 30, 128, false }, { 1088, 30, 30, 128, false },
    { 64, 32, 8, 128, true },     { 512, 32, 8, 128, true },    { 4224, 30, 30, 64, false },
    { 16384, 1, 1, 512, false },  { 4096, 1, 1, 512, false },
  };
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
    {
      const Attention a
          = { b->x, b->out, sizes[i].m, sizes[i].n_q, sizes[i].n_kv, sizes[i].d, sizes[i].causal };
      if (a.d > 128)
        CHECK (bench_attention (b, "wide", KERNEL_WIDE, &a));
      else
        CHECK (bench_attention (b, "mma", KERNEL_MMA, &a));
      for (int v = 0; b->s->caps.sm == 90 && attention_sm90_variant_name (v) != NULL; v++)
        if (attention_sm90_variant_dim (v) == a.d)
          CHECK (bench_attention (b, attention_sm90_variant_name (v), v, &a));
    }
  return STATUS_OK;
}

static Status
allocate (Bench *b)
{
  Stream *s = b->s;
  const size_t weights = ROTATION * LARGEST_WEIGHT;
  CHECK (stream_alloc (s, LARGEST_INPUT * sizeof (bf16), (void **)&b->x));
  CHECK (stream_alloc (s, weights * sizeof (bf16), (void **)&b->w));
  CHECK (stream_alloc (s, (size_t)4224 * 20480 * sizeof (bf16), (void **)&b->out));
  CUDA_CHECK (s, cudaEventCreate (&b->start));
  CUDA_CHECK (s, cudaEventCreate (&b->end));
  CHECK (random_bf16 (s, b->x, LARGEST_INPUT, 1, 1.0f));
  CHECK (random_bf16 (s, b->w, weights, 2, 0.016f));
  return cuda_wait (s);
}

int
main (int argc, char **argv)
{
  Bench b = {};
  char *skips[64];
  b.skips = skips;
  for (int i = 1; i + 1 < argc && b.n_skips < 64; i += 2)
    if (strcmp (argv[i], "--skip") == 0)
      skips[b.n_skips++] = argv[i + 1];
  Status status = cuda_open (0, NULL, &b.s);
  if (status == STATUS_OK)
    status = allocate (&b);
  if (status == STATUS_OK)
    status = bench_attentions (&b);
  if (status == STATUS_OK)
    status = bench_gemms (&b);
  if (status != STATUS_OK)
    fprintf (stderr, "%s %s\n", status_name (status), b.s ? cuda_detail (b.s) : "");
  cuda_close (b.s);
  return status != STATUS_OK;
}
