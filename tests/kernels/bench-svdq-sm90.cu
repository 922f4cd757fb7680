/* SPDX-License-Identifier: Apache-2.0
 *
 * Times SVDQuant linears on sm_90, one question a line on the standard input, one answer a line:
 *
 *   gemm VARIANT M N K SWIGLU RANK           -> milliseconds, or "unsupported": our BF16 product
 *   e4m3 VARIANT M N K SWIGLU RANK           the product of the fast path alone
 *   codes0, codes1 VARIANT M N K SWIGLU RANK that of the exact path, INT4 and NVFP4
 *   turns VARIANT M N K SWIGLU RANK          as e4m3, by warpgroups in turn
 *   fast, fastturns, exact0, exact1 ...      the same with quantising
 *   quantise M K KIND RANK                   quantising alone; KIND: SvdqCodes
 *   names e4m3, names turns, names codes     names of the variants, from 0, by tabs
 *
 * bench-svdq-sm90.py asks, and asks PyTorch in turn with it, so that both meet the card in the same
 * state.
 */
#include "kernels/cuda/svdq_sm90.h"
#include "tests/kernels/cuda-reference.cuh"
#include "tests/kernels/recorded-time.cuh"

#include <string.h>

#define LARGEST_INPUT  ((size_t)4608 * 11520)
#define LARGEST_WEIGHT ((size_t)20480 * 3840)
#define LARGEST_OUTPUT ((size_t)4608 * 20480)

typedef struct
{
  Stream *s;
  bf16 *x, *w, *out, *low_x, *low_w, *down, *smooth;
  uint8_t *codes, *codes16, *w8; /* codes: E4M3, so that no product meets others' bits */
  float *scales, *x_scales;
  void *inverse; /* svdq_split_inverse */
  Stopwatch watch;
} Bench;

typedef struct Job
{
  int variant, m, n, k, rank, kind;
  bool swiglu;
  Status (*run) (Bench *b, const struct Job *job);
} Job;

static Status
run_gemm (Bench *b, const Job *j)
{
  const Gemm g
      = { b->x, b->w, NULL, b->out, j->m, j->n, j->k, j->swiglu, false, false, NULL, NULL, 0 };
  return gemm_sm90 (b->s, &g, j->variant);
}

static Status
run_e4m3 (Bench *b, const Job *j)
{
  const Gemm product
      = { b->codes, b->w8, NULL, b->out, j->m, j->n, j->k, j->swiglu, false, false, NULL, NULL, 0 };
  const ScaledGemm g = { product, b->x_scales, b->scales, b->low_x, b->low_w, j->rank, 0 };
  return gemm_e4m3_sm90 (b->s, &g, j->variant);
}

static Status
run_turns (Bench *b, const Job *j)
{
  const Gemm product
      = { b->codes, b->w8, NULL, b->out, j->m, j->n, j->k, j->swiglu, false, false, NULL, NULL, 0 };
  const ScaledGemm g = { product, b->x_scales, b->scales, b->low_x, b->low_w, j->rank, 0 };
  return gemm_turns_sm90 (b->s, &g, j->variant);
}

static Status
run_quantise (Bench *b, const Job *j)
{
  const bool fast = j->kind == SVDQ_CODES_E4M3;
  const SvdqQuantise q = { (SvdqCodes)j->kind,
                           j->m,
                           j->k,
                           j->rank,
                           b->x,
                           b->inverse,
                           b->smooth,
                           b->down,
                           fast ? b->codes : b->codes16,
                           b->x_scales,
                           b->low_x };
  return svdq_quantise_sm90 (b->s, &q);
}

static Status
run_codes (Bench *b, const Job *j)
{
  const CodesGemm g = { j->kind == SVDQ_CODES_NVFP4_F16 ? SVDQ_NVFP4 : SVDQ_INT4,
                        j->run == run_codes ? (void *)b->x : b->codes16,
                        b->w8,
                        b->x_scales,
                        b->scales,
                        b->low_x,
                        b->low_w,
                        NULL,
                        b->out,
                        j->swiglu ? j->n / 2 : j->n,
                        j->m,
                        j->n,
                        j->k,
                        j->rank,
                        j->swiglu };
  return gemm_codes_sm90 (b->s, &g, j->variant);
}

static Status
run_exact (Bench *b, const Job *j)
{
  CHECK (run_quantise (b, j));
  return run_codes (b, j);
}

static Status
run_fast (Bench *b, const Job *j)
{
  CHECK (run_quantise (b, j));
  return run_e4m3 (b, j);
}

static Status
run_fast_turns (Bench *b, const Job *j)
{
  CHECK (run_quantise (b, j));
  return run_turns (b, j);
}

static Status
answer (Bench *b, const char *question)
{
  static const struct
  {
    const char *name;
    Status (*run) (Bench *b, const Job *job);
  } runs[] = { { "gemm", run_gemm },  { "e4m3", run_e4m3 },   { "turns", run_turns },
               { "fast", run_fast },  { "codes", run_codes }, { "fastturns", run_fast_turns },
               { "exact", run_exact } };
  char op[32];
  int v[6];
  Job job = {};
  int format = 0;
  const int words
      = sscanf (question, "%31s %d %d %d %d %d %d", op, &v[0], &v[1], &v[2], &v[3], &v[4], &v[5]);
  const size_t length = words > 0 ? strlen (op) : 0;
  if (length > 1 && (strncmp (op, "codes", 5) == 0 || strncmp (op, "exact", 5) == 0))
    {
      format = op[length - 1] == '1' ? SVDQ_CODES_NVFP4_F16 : SVDQ_CODES_INT4_F16;
      op[length - 1] = 0;
    }
  if (words == 7)
    for (auto &run : runs)
      if (strcmp (op, run.name) == 0)
        job.variant = v[0], job.m = v[1], job.n = v[2], job.k = v[3], job.swiglu = v[4] != 0,
        job.rank = v[5], job.kind = format, job.run = run.run;
  if (words == 5 && strcmp (op, "quantise") == 0)
    job.m = v[0], job.k = v[1], job.kind = v[2], job.rank = v[3], job.run = run_quantise;
  if (job.run != NULL)
    return answer_time (&b->watch, [&] (int) { return job.run (b, &job); });
  answer_names (strstr (question, "turns")   ? gemm_turns_sm90_variant_name
                : strstr (question, "codes") ? gemm_codes_sm90_variant_name
                                             : gemm_e4m3_sm90_variant_name);
  return STATUS_OK;
}

/* Factors from 0.5 to 2, and their inverse. */
static Status
smoothing (Bench *b)
{
  static uint16_t smooth[20480];
  static float inverse[20480];
  float *copy;
  for (int i = 0; i < 20480; i++)
    {
      smooth[i] = bf16_from_float (0.5f + i * 2654435761u % 1000 * 0.0015f);
      inverse[i] = 1.0f / bf16_to_float (smooth[i]);
    }
  CHECK (stream_alloc (b->s, sizeof inverse, (void **)&copy));
  CUDA_CHECK (b->s, cudaMemcpy (b->smooth, smooth, sizeof smooth, cudaMemcpyHostToDevice));
  CUDA_CHECK (b->s, cudaMemcpy (copy, inverse, sizeof inverse, cudaMemcpyHostToDevice));
  CHECK (svdq_split_inverse (b->s, copy, 20480, b->inverse));
  CHECK (cuda_wait (b->s));
  stream_free (b->s, copy);
  return STATUS_OK;
}

static Status
allocate (Bench *b)
{
  Stream *s = b->s;
  CHECK (stream_alloc (s, LARGEST_INPUT * sizeof (bf16), (void **)&b->x));
  CHECK (stream_alloc (s, LARGEST_WEIGHT * sizeof (bf16), (void **)&b->w));
  CHECK (stream_alloc (s, LARGEST_WEIGHT, (void **)&b->w8));
  CHECK (stream_alloc (s, LARGEST_INPUT, (void **)&b->codes));
  CHECK (stream_alloc (s, LARGEST_INPUT * 2, (void **)&b->codes16));
  CHECK (stream_alloc (s, LARGEST_OUTPUT * sizeof (bf16), (void **)&b->out));
  CHECK (stream_alloc (s, 20480 * 128 * sizeof (bf16), (void **)&b->low_x));
  CHECK (stream_alloc (s, 20480 * 128 * sizeof (bf16), (void **)&b->low_w));
  CHECK (stream_alloc (s, 20480 * 128 * sizeof (bf16), (void **)&b->down));
  CHECK (stream_alloc (s, 20480 * sizeof (float), (void **)&b->scales));
  CHECK (stream_alloc (s, 20480 * sizeof (float), (void **)&b->x_scales));
  CHECK (stream_alloc (s, 20480 * sizeof (float), &b->inverse));
  CHECK (stream_alloc (s, 20480 * sizeof (bf16), (void **)&b->smooth));
  CHECK (random_bf16 (s, b->x, LARGEST_INPUT, 1, 1.0f));
  CHECK (random_bf16 (s, b->w, LARGEST_WEIGHT, 2, 0.016f));
  CHECK (random_bf16 (s, b->low_x, 20480 * 128, 3, 1.0f));
  CHECK (random_bf16 (s, b->low_w, 20480 * 128, 4, 1.0f));
  CHECK (random_bf16 (s, b->down, 20480 * 128, 5, 0.02f));
  CHECK (smoothing (b));
  CHECK (random_f32 (s, b->scales, 20480, 7, 0.001f));
  CHECK (random_f32 (s, b->x_scales, 20480, 10, 0.03f));
  CHECK (random_e4m3 (s, b->w8, LARGEST_WEIGHT, 8, 80.0f));
  CHECK (random_e4m3 (s, b->codes, LARGEST_INPUT, 9, 80.0f));
  return cuda_wait (s);
}

int
main (void)
{
  return answer_questions (allocate, answer);
}
