/* SPDX-License-Identifier: Apache-2.0
 *
 * How long residual_norm and svdq_quantise take behind one another, the norm written as rows or
 * made where it is quantised ("apart"), in turn: medians of ROUNDS recordings, a line of JSON each.
 * Arguments: rows of x (4224 1088).
 */
#include "kernels/cuda/ops.cuh"
#include "kernels/cuda/svdq.h"
#include "tests/kernels/recorded-time.cuh"

#define K        3840
#define SETS     4 /* of buffers: in turn, none is in L2 when it is read */
#define LAUNCHES 48
#define ROUNDS   9
#define EPS      1e-5f

typedef struct
{
  Stream *s;
  Stopwatch watch;
  SvdqWeights w;
  SvdqActivations a;
  Tensor x[SETS], y[SETS], normed[SETS];
  Tensor factors, vector;
} Bench;

/* What is timed: bits of NORM and QUANTISE, of rows or apart. */
enum
{
  NORM = 1,
  QUANTISE = 2,
  APART = 4,
  KINDS = 8,
};

/* BF16 numbers between 2^-3 and 2 and of either sign, or F32 ones between 2^-7 and 2. */
static __global__ void
fill_kernel (uint32_t *out, int64_t count, uint32_t keep, uint32_t set)
{
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < count;
       i += (int64_t)gridDim.x * blockDim.x)
    out[i] = ((uint32_t)((i + 1) * 2654435761u) * 2246822519u & keep) | set;
}

static Status
filled (Stream *s, Tensor *t)
{
  const bool wide = t->dtype == DTYPE_F32;
  const size_t bytes = tensor_count (t) * dtype_size (t->dtype);
  CHECK (stream_alloc (s, bytes, &t->data));
  launch_kernel (fill_kernel, 1024, 256, 0, s->compute, (uint32_t *)t->data, (int64_t)(bytes / 4),
                 wide ? 0x03ffffffu : 0x80ff80ffu, wide ? 0x3c000000u : 0x3f003f00u);
  return LAUNCHED (s);
}

static Status
filled_vector (Stream *s, DType type, int64_t count, void *out)
{
  Tensor t = tensor_1d (type, NULL, count);
  CHECK (filled (s, &t));
  *(void **)out = t.data;
  return STATUS_OK;
}

static Status
allocate (Bench *b, SvdqFormat format, int64_t m, int rank)
{
  b->w = {};
  b->w.format = format;
  b->w.n = b->w.k = K;
  b->w.rank = rank;
  CHECK (filled_vector (b->s, DTYPE_BF16, K, &b->w.smooth));
  CHECK (filled_vector (b->s, DTYPE_F32, K, &b->w.inverse));
  CHECK (filled_vector (b->s, DTYPE_BF16, (int64_t)K * (rank > 0 ? rank : 1), &b->w.proj_down));
  CHECK (stream_alloc (b->s, svdq_activations_bytes (&b->w, m), &b->w.memory));
  b->a = svdq_activations_in (&b->w, m, b->w.memory);
  b->vector = tensor_1d (DTYPE_F32, NULL, K);
  b->factors = tensor_1d (DTYPE_F32, NULL, K + m);
  CHECK (filled (b->s, &b->vector));
  CHECK (filled (b->s, &b->factors));
  for (int i = 0; i < SETS; i++)
    for (Tensor *t : { &b->x[i], &b->y[i], &b->normed[i] })
      {
        *t = tensor_2d (DTYPE_BF16, NULL, m, K);
        CHECK (filled (b->s, t));
      }
  return STATUS_OK;
}

static void
release (Bench *b)
{
  for (void *p : { (void *)b->w.smooth, (void *)b->w.inverse, (void *)b->w.proj_down, b->w.memory,
                   b->vector.data, b->factors.data })
    stream_free (b->s, p);
  for (int i = 0; i < SETS; i++)
    for (Tensor *t : { &b->x[i], &b->y[i], &b->normed[i] })
      stream_free (b->s, t->data);
}

static Status
work (Bench *b, int kind, int set)
{
  const bool apart = (kind & APART) != 0;
  const float *by = (const float *)b->factors.data;
  Tensor *v = &b->vector;
  if (kind & NORM)
    CHECK (cuda_residual_norm (b->s, &b->x[set], &b->y[set], v, v, v, v, EPS,
                               apart ? &b->factors : &b->normed[set]));
  if (kind & QUANTISE)
    CHECK (apart ? svdq_quantise_normed (b->s, &b->w, b->x[set].data, by + K, by, &b->a)
                 : svdq_quantise (b->s, &b->w, b->normed[set].data, &b->a));
  return STATUS_OK;
}

/* All kinds in turn, on so many sets of buffers. */
static Status
measure (Bench *b, int sets)
{
  float times[KINDS][ROUNDS];
  for (int round = 0; round < ROUNDS; round++)
    for (int kind = 0; kind < KINDS; kind++)
      if (kind & (NORM | QUANTISE))
        {
          CHECK (time_recording (
              &b->watch, [=] (int i) { return work (b, kind, i % sets); }, LAUNCHES, REPLAYS,
              &times[kind][round]));
          times[kind][round] *= 1e3f / LAUNCHES;
        }
  printf ("{\"format\": \"%s\", \"m\": %d, \"rank\": %d, \"sets\": %d",
          b->w.format == SVDQ_INT4 ? "int4" : "nvfp4", (int)b->a.m, b->w.rank, sets);
  for (int kind = 0; kind < KINDS; kind++)
    if (kind & (NORM | QUANTISE))
      {
        qsort (times[kind], ROUNDS, sizeof times[kind][0], compare_floats);
        printf (", \"%s%s%s\": [%.2f, %.2f, %.2f]", kind & NORM ? "norm " : "",
                kind & QUANTISE ? "quantise " : "", kind & APART ? "apart" : "rows",
                times[kind][ROUNDS / 2], times[kind][0], times[kind][ROUNDS - 1]);
      }
  printf ("}\n");
  fflush (stdout);
  return STATUS_OK;
}

static Status
bench_rows (Bench *b, int64_t m)
{
  for (int format = SVDQ_INT4; format <= SVDQ_NVFP4; format++)
    for (int rank : { 0, 32, 128 })
      {
        CHECK (allocate (b, (SvdqFormat)format, m, rank));
        CHECK (measure (b, 1));
        CHECK (measure (b, SETS));
        release (b);
      }
  return STATUS_OK;
}

int
main (int argc, char **argv)
{
  Bench b = {};
  void *first = NULL; /* the stream's scratch comes with it */
  Status status = cuda_open (0, NULL, &b.s);
  if (status == STATUS_OK)
    status = cuda_alloc (b.s, 1, &first);
  if (status == STATUS_OK)
    status = stopwatch_new (b.s, &b.watch);
  for (int i = 1; i < (argc > 1 ? argc : 3) && status == STATUS_OK; i++)
    status = bench_rows (&b, argc > 1 ? atoll (argv[i]) : i == 1 ? 4224 : 1088);
  if (status != STATUS_OK)
    fprintf (stderr, "%s %s\n", status_name (status), b.s ? cuda_detail (b.s) : "");
  stream_free (b.s, first);
  cuda_close (b.s);
  return status != STATUS_OK;
}
