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
 * Inputs are random, weights of small products rotate so that none stays in the cache.
 */
#include "tests/kernels/cuda-reference.cuh"
#include "tests/kernels/recorded-time.cuh"

#include <string.h>

#define ROTATION       8
#define SMALL_M        128 /* rows up to which the weights rotate */
#define LARGEST_INPUT  ((size_t)4224 * 11520)
#define LARGEST_WEIGHT ((size_t)20480 * 3840)

typedef struct
{
  Stream *s;
  bf16 *x, *w, *out;
  Stopwatch watch;
} Bench;

/* -- products -----------------------------------------------------------------------------------
 */

enum
{
  KERNEL_FEW_ROWS = -3,
  KERNEL_SM80 = -2,
  KERNEL_CHOSEN = -1,
};

/* With the weights numbered `turn`. */
static Status
run_gemm (const Bench *b, int variant, Gemm g, int turn)
{
  if (g.m <= SMALL_M)
    g.w = (const bf16 *)g.w + turn % ROTATION * (size_t)g.n * g.k;
  switch (variant)
    {
    case KERNEL_FEW_ROWS:
      return gemm_few_rows (b->s, &g);
    case KERNEL_SM80:
      return gemm_sm80 (b->s, &g);
    case KERNEL_CHOSEN:
      return gemm (b->s, &g);
    default:
      return gemm_sm90 (b->s, &g, variant);
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
run_attention (const Bench *b, int variant, const Attention *a)
{
  if (variant == KERNEL_WIDE)
    return attention_wide (b->s, a);
  if (variant == KERNEL_MMA)
    return attention_mma (b->s, a);
  if (variant >= 0)
    return attention_sm90 (b->s, a, variant);
  const Tensor qkv = tensor_3d (DTYPE_BF16, b->x, a->m, a->n_q + 2 * a->n_kv, a->d);
  Tensor out = tensor_2d (DTYPE_BF16, b->out, a->m, (int64_t)a->n_q * a->d);
  return cuda_attention (b->s, &qkv, a->n_q, a->n_kv, a->causal, &out);
}

/* -- questions and answers ----------------------------------------------------------------------
 */

static Status
answer (Bench *b, const char *question)
{
  int v[6];
  if (sscanf (question, "gemm %d %d %d %d %d", &v[0], &v[1], &v[2], &v[3], &v[4]) == 5)
    {
      const Gemm g
          = { b->x, b->w, NULL, b->out, v[1], v[2], v[3], v[4] != 0, false, false, NULL, NULL, 0 };
      return answer_time (&b->watch, [&] (int i) { return run_gemm (b, v[0], g, i); });
    }
  if (sscanf (question, "attention %d %d %d %d %d %d", &v[0], &v[1], &v[2], &v[3], &v[4], &v[5])
      == 6)
    {
      const Attention a = { b->x, b->out, v[1], v[2], v[3], v[4], v[5] != 0 };
      return answer_time (&b->watch, [&] (int) { return run_attention (b, v[0], &a); });
    }
  if (strncmp (question, "names gemm", 10) == 0)
    answer_names (gemm_sm90_variant_name);
  else if (strncmp (question, "names attention", 15) == 0)
    answer_names (attention_sm90_variant_name);
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
  CHECK (random_bf16 (s, b->x, LARGEST_INPUT, 1, 1.0f));
  CHECK (random_bf16 (s, b->w, weights, 2, 0.016f));
  return cuda_wait (s);
}

int
main (void)
{
  return answer_questions (allocate, answer);
}
