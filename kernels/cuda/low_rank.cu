/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/low_rank.h"

#include <stdlib.h>

#define NUMBER_BYTES 2   /* BF16 or FP16 */
#define ROW_UNIT     128 /* of slabs: whole tiles */
#define THREADS      256

/* A layer of any backend that has no weights of its own, but for what is added. */
typedef struct
{
  Linear base;
  LowRank added;
} AdaptedLinear;

size_t
low_rank_input_bytes (int64_t m, int64_t rank)
{
  return device_aligned ((size_t)m * rank * NUMBER_BYTES);
}

size_t
low_rank_bytes (int64_t n, int64_t k, int64_t rank)
{
  return low_rank_input_bytes (k, rank) + low_rank_input_bytes (n, rank);
}

LowRank
low_rank_at (void *memory, int64_t k, int64_t rank)
{
  return { rank, memory, (char *)memory + low_rank_input_bytes (k, rank) };
}

static bool
is_matrix (const Tensor *t, int64_t rows, int64_t columns)
{
  return t->rank == 2 && t->shape[0] == rows && t->shape[1] == columns;
}

static Status
load (Stream *s, const LowRankPair *pair, AdaptedLinear *l)
{
  const DType type = device_activation (&s->caps);
  const int64_t n = l->base.n, k = l->base.k, rank = pair->down.shape[0];
  REQUIRE (s, rank >= 1 && rank % l->base.backend->adapt_unit == 0 && rank <= INT32_MAX / 64);
  REQUIRE (s, is_matrix (&pair->down, rank, k) && is_matrix (&pair->up, n, rank));
  l->base.bytes = low_rank_bytes (n, k, rank);
  void *memory = NULL;
  CHECK (stream_alloc (s, l->base.bytes, &memory));
  l->added = low_rank_at (memory, k, rank);
  CHECK (stream_upload_weights (s, &pair->down, type, l->added.down));
  return stream_upload_weights (s, &pair->up, type, l->added.up);
}

Status
low_rank_adapt (Stream *s, const Linear *base, const LowRankPair *pair, size_t workspace,
                Linear **out)
{
  *out = NULL;
  AdaptedLinear *l = (AdaptedLinear *)calloc (1, sizeof *l);
  if (l == NULL)
    return STATUS_NO_MEMORY;
  l->base = *base;
  l->base.of = base;
  l->base.memory = NULL;
  l->base.memory_bytes = 0;
  Status status = load (s, pair, l);
  if (status == STATUS_OK)
    status = stream_workspace_join (s, workspace);
  if (status == STATUS_OK)
    *out = &l->base;
  else
    {
      stream_free (s, l->added.down);
      free (l);
    }
  return status;
}

void
low_rank_release (Stream *s, Linear *adapted)
{
  stream_free (s, ((AdaptedLinear *)adapted)->added.down);
  stream_workspace_leave (s);
  free (adapted);
}

LowRank
low_rank_of (const Linear *linear)
{
  return linear->of != NULL ? ((const AdaptedLinear *)linear)->added : LowRank{};
}

static __global__ void
join_kernel (const uint4 *a, int a_units, const uint4 *b, int b_units, uint4 *out, int64_t rows)
{
  const int units = a_units + b_units;
  for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < rows * units;
       i += (int64_t)gridDim.x * THREADS)
    {
      const int64_t row = i / units;
      const int at = (int)(i % units);
      out[i] = at < a_units ? a[row * a_units + at] : b[row * b_units + at - a_units];
    }
}

Status
low_rank_join (Stream *s, const void *a, size_t a_bytes, const void *b, size_t b_bytes,
               int64_t rows, void *out)
{
  const int64_t count = (int64_t)(a_bytes + b_bytes) / (int64_t)sizeof (uint4);
  const int64_t blocks = CEIL_DIV (rows * count, THREADS), most = s->caps.multiprocessors * 8;
  REQUIRE (s, a_bytes % sizeof (uint4) == 0 && b_bytes % sizeof (uint4) == 0);
  REQUIRE (s, count <= INT32_MAX);
  launch_kernel (join_kernel, (unsigned)(blocks < most ? blocks : most), THREADS, 0, s->compute,
                 (const uint4 *)a, (int)(a_bytes / sizeof (uint4)), (const uint4 *)b,
                 (int)(b_bytes / sizeof (uint4)), (uint4 *)out, rows);
  return LAUNCHED (s);
}

/* low [m, rank] = x [m, k] down^T */
static Status
make_low (Stream *s, const LowRank *added, const Gemm *of, void *low)
{
  Gemm g = {};
  g.x = of->x;
  g.w = added->down;
  g.y = low;
  g.m = of->m;
  g.n = added->rank;
  g.k = of->k;
  return gemm (s, &g);
}

Status
low_rank_gemm (Stream *s, const Linear *adapted, const Gemm *g, GemmProduct product)
{
  const LowRank added = low_rank_of (adapted);
  const int64_t even = CEIL_DIV (g->m, CEIL_DIV (g->m, LOW_RANK_ROWS));
  const int64_t most = CEIL_DIV (even, ROW_UNIT) * ROW_UNIT;
  const int64_t x_bytes = g->k * NUMBER_BYTES;
  const int64_t y_bytes = (g->swiglu ? g->n / 2 : g->n) * (g->wide ? 4 : NUMBER_BYTES);
  for (int64_t row = 0; row < g->m; row += most)
    {
      Gemm part = *g;
      part.m = g->m - row < most ? g->m - row : most;
      part.x = (const char *)g->x + row * x_bytes;
      part.y = (char *)g->y + row * y_bytes;
      part.low = s->workspace;
      part.up = added.up;
      part.rank = added.rank;
      CHECK (make_low (s, &added, &part, s->workspace));
      CHECK (product (s, &part));
    }
  return STATUS_OK;
}
