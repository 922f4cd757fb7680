/* SPDX-License-Identifier: Apache-2.0
 *
 * Times the heavy CUDA kernels, one question a line on the standard input, one answer a line:
 *
 *   gemm VARIANT M N K SWIGLU                 -> milliseconds, or "unsupported"
 *   attention VARIANT M HEADS KV_HEADS D CAUSAL
 *   names gemm | names attention              -> names of the variants, from 0, by tabs
 *
 * Variants below 0 are named in the enums below. bench-cuda-heavy.py asks, and asks cuBLAS and
 * cuDNN in turn with it, so that both meet the card in the same state.
 *
 * A measurement is a recording of launches replayed three times: the median of the replays, a
 * launch. Inputs are random, weights of small products rotate so that none stays in the cache.
 */
#include "tests/kernels/cuda-reference.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REPLAYS        3
#define REPLAY_MS      8.0f /* length of a recording */
#define MAX_LAUNCHES   64
#define ROTATION       8
#define SMALL_M        128 /* rows up to which the weights rotate */
#define LARGEST_INPUT  ((size_t)4224 * 11520)
#define LARGEST_WEIGHT ((size_t)20480 * 3840)

typedef struct
{
  Stream *s;
  bf16 *x, *w, *out;
  cudaEvent_t start, end;
} Bench;

/* What is measured: one of the two, with the weights numbered `turn`. */
typedef struct
{
  int variant;
  Gemm gemm;
  Attention attention;
  Status (*run) (Bench *b, const void *job, int turn);
} Job;

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
  if (g.m <= SMALL_M)
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

/* -- attention ----------------------------------------------------------------------------------
 */

enum
{
  KERNEL_WIDE = -3,
  KERNEL_MMA = -2,
  KERNEL_OF_OPS = -1,
};

static Status
run_attention (Bench *b, const void *data, int turn)
{
  const Job *job = (const Job *)data;
  const Attention *a = &job->attention;
  (void)turn;
  if (job->variant == KERNEL_WIDE)
    return attention_wide (b->s, a);
  if (job->variant == KERNEL_MMA)
    return attention_mma (b->s, a);
  if (job->variant >= 0)
    return attention_sm90 (b->s, a, job->variant);
  const Tensor qkv = tensor_3d (DTYPE_BF16, b->x, a->m, a->n_q + 2 * a->n_kv, a->d);
  Tensor out = tensor_2d (DTYPE_BF16, b->out, a->m, (int64_t)a->n_q * a->d);
  return cuda_attention (b->s, &qkv, a->n_q, a->n_kv, a->causal, &out);
}

/* -- questions and answers ----------------------------------------------------------------------
 */

static void
print_names (const char *(*name) (int variant))
{
  for (int i = 0; name (i) != NULL; i++)
    printf ("%s%s", i ? "\t" : "", name (i));
  printf ("\n");
}

static Status
answer_job (Bench *b, const Job *job)
{
  float ms = 0.0f;
  const Status status = measure (b, job, &ms);
  if (status == STATUS_OK)
    printf ("%.6f\n", ms);
  else
    printf ("%s\n", status_name (status));
  return status == STATUS_UNSUPPORTED ? STATUS_OK : status;
}

static Status
answer (Bench *b, const char *question)
{
  Job job = {};
  int v[6];
  if (sscanf (question, "gemm %d %d %d %d %d", &v[0], &v[1], &v[2], &v[3], &v[4]) == 5)
    {
      const Gemm g = { b->x, b->w, NULL, b->out, v[1], v[2], v[3], v[4] != 0, false, false };
      job.variant = v[0], job.gemm = g, job.run = run_gemm;
      return answer_job (b, &job);
    }
  if (sscanf (question, "attention %d %d %d %d %d %d", &v[0], &v[1], &v[2], &v[3], &v[4], &v[5])
      == 6)
    {
      const Attention a = { b->x, b->out, v[1], v[2], v[3], v[4], v[5] != 0 };
      job.variant = v[0], job.attention = a, job.run = run_attention;
      return answer_job (b, &job);
    }
  if (strncmp (question, "names gemm", 10) == 0)
    print_names (gemm_sm90_variant_name);
  else if (strncmp (question, "names attention", 15) == 0)
    print_names (attention_sm90_variant_name);
  else
    printf ("what?\n");
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
main (void)
{
  Bench b = {};
  char line[256];
  Status status = cuda_open (0, NULL, &b.s);
  if (status == STATUS_OK)
    status = allocate (&b);
  setvbuf (stdout, NULL, _IOLBF, 0);
  while (status == STATUS_OK && fgets (line, sizeof line, stdin) != NULL)
    status = answer (&b, line);
  if (status != STATUS_OK)
    fprintf (stderr, "%s %s\n", status_name (status), b.s ? cuda_detail (b.s) : "");
  cuda_close (b.s);
  return status != STATUS_OK;
}
