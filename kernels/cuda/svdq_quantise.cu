/* SPDX-License-Identifier: Apache-2.0
 *
 * Activations on their way to 4 bit: codes, scales, and the low-rank product x proj_down.
 *
 * A block takes 32 rows of x and a range of k, 64 k at a time through a ring of cp.async. From the
 * same tile its threads make codes, eight numbers each, and its warps the low-rank product, by
 * 16-bit mma. Ranges are summed by a second kernel in ascending order; how many there are depends
 * on the sizes alone, so that equal input gives equal bits.
 *
 * NORMED: x is what a norm read, not what it wrote. Its rows are made in the tile, by the roundings
 * of norm.cu, and never lie in memory.
 */
#include "kernels/cuda/mma_tile.cuh"
#include "kernels/cuda/svdq.h"
#include "kernels/cuda/svdq_codes.cuh"

#define ROWS         32
#define STEP_K       64
#define THREADS      (ROWS * 4)
#define ROW_BYTES    (STEP_K * 2)
#define X_BYTES      (ROWS * ROW_BYTES)
#define VECTOR_BYTES (STEP_K * 4) /* of F32 */
#define WARPS_ALONG  2            /* and two down, 16 rows each */
#define WANTED       1024         /* blocks: enough to fill any card */
#define WANTED_LOW   512          /* with a low rank, whose sums are to be added again */
#define LEAST_STEPS  2            /* of a range */

/* Where activations are FP16, a multiprocessor has no room for more. */
template <typename T> struct Limits
{
  static constexpr int STAGES = 3, MOST_RANK = 128;
};

template <> struct Limits<f16>
{
  static constexpr int STAGES = 2, MOST_RANK = 64;
};

template <typename T> struct Quantise
{
  const T *x;
  const bf16 *smooth;
  const T *down; /* [rank, k] */
  const float *inverse;
  uint8_t *codes;
  void *scales;
  T *lora;
  float *partial; /* [splits, m, rank]; NULL: one range writes lora */
  int m, k, rank, splits;
  int64_t pitch;
  const float *by_row, *by_column; /* of a norm: [m], [k] */
};

/* RANK columns of the low-rank product a block; 0 = none. */
template <int RANK, bool NORMED, typename T> struct Ring
{
  static constexpr int STAGES = Limits<T>::STAGES, VECTORS = NORMED ? 2 : 1;
  static constexpr int DOWN = X_BYTES, INVERSE = DOWN + RANK * ROW_BYTES;
  static constexpr int BY_COLUMN = INVERSE + VECTOR_BYTES;
  static constexpr int STAGE_BYTES = INVERSE + VECTORS * VECTOR_BYTES;
  static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES;
};

/* -- copying ------------------------------------------------------------------------------------
 */

/* 64 columns of COUNT rows; `from` is the thread's own eight of the first row, `left` the rows from
 * there to the matrix's end. Zeros beyond it, where nothing is read. */
template <int COUNT> struct Rows
{
  static constexpr int STEP = THREADS / 8, COPIES = COUNT / STEP;
  AsyncCopy<COPIES> copies;

  template <typename T>
  __device__ __forceinline__ void
  start (uint32_t shared, const T *from, int left, int k)
  {
    const int row = threadIdx.x / 8, chunk = threadIdx.x % 8;
#pragma unroll
    for (int i = 0; i < COPIES; i++)
      copies.start (i, shared + chunk_at (i * STEP + row, chunk, ROW_BYTES),
                    from + (size_t)(i * STEP) * k, i * STEP < left);
  }

  __device__ __forceinline__ void
  finish (uint32_t shared)
  {
    const int row = threadIdx.x / 8, chunk = threadIdx.x % 8;
#pragma unroll
    for (int i = 0; i < COPIES; i++)
      copies.finish (i, shared + chunk_at (i * STEP + row, chunk, ROW_BYTES));
  }
};

template <> struct Rows<0>
{
};

/* Where a thread's share of every stage begins. */
template <typename T> struct Source
{
  const T *x, *down;
  const float *vector; /* four numbers of one of them */
  int rows_left, ranks_left;
};

template <int RANK, bool NORMED, typename T>
static __device__ __forceinline__ Source<T>
source_of (const Quantise<T> &q, int row)
{
  const bool column = NORMED && threadIdx.x >= STEP_K / 4;
  const int own = threadIdx.x / 8, chunk = threadIdx.x % 8, rank = (int)blockIdx.z * RANK + own;
  return { q.x + (size_t)(row + own) * q.k + chunk * 8,
           RANK > 0 ? q.down + (size_t)rank * q.k + chunk * 8 : NULL,
           (column ? q.by_column - STEP_K : q.inverse) + threadIdx.x * 4, q.m - row - own,
           q.rank - rank };
}

/* A thread's share of one stage on its way. */
template <int RANK, bool NORMED, typename T> struct Stage
{
  typedef Ring<RANK, NORMED, T> R;
  Rows<ROWS> x;
  Rows<RANK> down;
  AsyncCopy<1> vector;

  __device__ __forceinline__ void
  start (const Source<T> &from, uint32_t ring, int step, int last, int k)
  {
    const uint32_t shared = ring + step % R::STAGES * R::STAGE_BYTES;
    if (step < last)
      {
        x.start (shared, from.x + step * STEP_K, from.rows_left, k);
        if constexpr (RANK > 0)
          down.start (shared + R::DOWN, from.down + step * STEP_K, from.ranks_left, k);
        if (threadIdx.x < R::VECTORS * STEP_K / 4)
          vector.start (0, shared + R::INVERSE + threadIdx.x * 16, from.vector + step * STEP_K,
                        true);
      }
    cp_async_commit (); /* an empty group too: the waits count groups */
  }

  __device__ __forceinline__ void
  finish (uint32_t ring, int step, int last)
  {
    const uint32_t shared = ring + step % R::STAGES * R::STAGE_BYTES;
    if (step >= last)
      return;
    x.finish (shared);
    if constexpr (RANK > 0)
      down.finish (shared + R::DOWN);
    if (threadIdx.x < R::VECTORS * STEP_K / 4)
      vector.finish (0, shared + R::INVERSE + threadIdx.x * 16);
  }
};

/* -- quantising ---------------------------------------------------------------------------------
 */

template <bool INT4, typename T>
static __device__ __forceinline__ void
write_coded (const Quantise<T> &q, const Coded &c, int64_t m, int step, int chunk)
{
  reinterpret_cast<uint32_t *> (q.codes)[m * (q.k / 8) + step * 8 + chunk] = c.codes;
  if (INT4 && chunk == 0)
    static_cast<uint16_t *> (q.scales)[step * q.pitch + m] = (uint16_t)c.scale;
  if (!INT4 && chunk % 2 == 0)
    static_cast<uint8_t *> (q.scales)[(step * q.pitch + m) * 4 + chunk / 2] = (uint8_t)c.scale;
}

/* A thread has eight columns of two rows, and eight lanes share a row: a norm's factors of those.
 */
template <typename T>
static __device__ __forceinline__ void
load_by_row (const Quantise<T> &q, int row, float (&by_row)[2])
{
  const int first = row + threadIdx.x / 32 * 8 + threadIdx.x % 32 / 8;
#pragma unroll
  for (int i = 0; i < 2; i++)
    by_row[i] = q.by_row[min (first + i * 4, q.m - 1)];
}

/* What it would have written there, of x; STORE: in its place, too. */
template <bool STORE, typename T>
static __device__ __forceinline__ void
norm_stage (char *x, const float *by_column, const float (&by_row)[2], uint4 (&normed)[2])
{
  const int lane = threadIdx.x % 32, chunk = lane % 8;
  const int first = threadIdx.x / 32 * 8 + lane / 8;
  float columns[8];
  unpack_floats (reinterpret_cast<const Floats8 *> (by_column)[chunk], columns);
#pragma unroll
  for (int i = 0; i < 2; i++)
    {
      uint4 *at = reinterpret_cast<uint4 *> (x + chunk_at (first + i * 4, chunk, ROW_BYTES));
      float v[8];
      unpack8<T> (*at, v);
#pragma unroll
      for (int j = 0; j < 8; j++)
        v[j] = v[j] * by_row[i] * columns[j];
      normed[i] = pack8<T> (v);
      if (STORE)
        *at = normed[i];
    }
}

/* Of x, or of what norm_stage made of it. */
template <bool INT4, bool NORMED, typename T>
static __device__ __forceinline__ void
quantise_stage (const Quantise<T> &q, const char *x, const uint4 (&normed)[2],
                const float *inverse_at, int step, int row)
{
  const int lane = threadIdx.x % 32, chunk = lane % 8;
  const int first = threadIdx.x / 32 * 8 + lane / 8;
  const float4 low = reinterpret_cast<const float4 *> (inverse_at)[chunk * 2];
  const float4 high = reinterpret_cast<const float4 *> (inverse_at)[chunk * 2 + 1];
  uint4 bits[2];
  Coded made[2];
  bool unusual = false;
#pragma unroll
  for (int i = 0; i < 2; i++)
    {
      float v[8];
      Smoothed<T> h;
      bits[i]
          = NORMED
                ? normed[i]
                : *reinterpret_cast<const uint4 *> (x + chunk_at (first + i * 4, chunk, ROW_BYTES));
      unpack8<T> (bits[i], v);
      h.set (v, low, high);
      const uint32_t most = h.template greatest<LANES_OF (INT4)> ();
      unusual |= most - LEAST_BITS >= LIMIT_BITS - LEAST_BITS && row + first + i * 4 < q.m;
      made[i] = code_group<INT4> (h, most);
    }
  if (__any_sync (0xffffffffu, unusual))
    for (int i = 0; i < 2; i++)
      made[i] = code_divided<INT4, T> (bits[i], q.smooth + step * STEP_K + chunk * 8);
#pragma unroll
  for (int i = 0; i < 2; i++)
    if (row + first + i * 4 < q.m)
      write_coded<INT4> (q, made[i], row + first + i * 4, step, chunk);
}

/* -- the low-rank product -----------------------------------------------------------------------
 */

template <int RANK, typename T>
static __device__ __forceinline__ void
lower_stage (float (&d)[RANK / WARPS_ALONG / 8][4], uint32_t x, uint32_t down)
{
  constexpr int ALONG = RANK / WARPS_ALONG / 8;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row = warp / WARPS_ALONG * 16, column = warp % WARPS_ALONG * ALONG * 8;
#pragma unroll
  for (int step = 0; step < STEP_K / 16; step++)
    {
      uint32_t a[4];
      ldmatrix_x4 (a, x + chunk_at (row + lane % 16, step * 2 + lane / 16, ROW_BYTES));
#pragma unroll
      for (int j = 0; j < ALONG / 2; j++)
        {
          uint32_t b[4];
          ldmatrix_x4 (b, down
                              + chunk_at (column + j * 16 + lane / 16 * 8 + lane % 8,
                                          step * 2 + lane / 8 % 2, ROW_BYTES));
          mma<T> (d[2 * j], a, b[0], b[1]);
          mma<T> (d[2 * j + 1], a, b[2], b[3]);
        }
    }
}

template <int RANK, typename T>
static __device__ __forceinline__ void
write_lowered (const Quantise<T> &q, const float (&d)[RANK / WARPS_ALONG / 8][4], int row)
{
  constexpr int ALONG = RANK / WARPS_ALONG / 8;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first = (int)blockIdx.z * RANK + warp % WARPS_ALONG * ALONG * 8 + lane % 4 * 2;
#pragma unroll
  for (int j = 0; j < ALONG; j++)
#pragma unroll
    for (int h = 0; h < 2; h++)
      {
        const int m = row + warp / WARPS_ALONG * 16 + h * 8 + lane / 4, r = first + j * 8;
        if (m >= q.m || r >= q.rank)
          continue;
        if (q.partial != NULL)
          *reinterpret_cast<float2 *> (q.partial + ((size_t)blockIdx.y * q.m + m) * (size_t)q.rank
                                       + r)
              = make_float2 (d[j][2 * h], d[j][2 * h + 1]);
        else
          *reinterpret_cast<uint32_t *> (q.lora + (size_t)m * q.rank + r)
              = pack2<T> (d[j][2 * h], d[j][2 * h + 1]);
      }
}

template <bool INT4, int RANK, bool NORMED, typename T>
static __global__ void
__launch_bounds__ (THREADS, RANK > 64   ? 2
                            : RANK > 32 ? 3
                                        : 4) quantise_kernel (Quantise<T> q)
{
  if (!Activation<T>::RUNS_HERE)
    return;
  extern __shared__ __align__ (128) char shared[];
  typedef Ring<RANK, NORMED, T> R;
  const uint32_t ring = shared_address (shared);
  const int steps = q.k / STEP_K, row = (int)blockIdx.x * ROWS;
  const int first = (int)((int64_t)steps * blockIdx.y / q.splits);
  const int last = (int)((int64_t)steps * (blockIdx.y + 1) / q.splits);

  float d[RANK > 0 ? RANK / WARPS_ALONG / 8 : 1][4] = {};
  const Source<T> from = source_of<RANK, NORMED> (q, row);
  Stage<RANK, NORMED, T> next;
  float by_row[2];
  if constexpr (NORMED)
    load_by_row (q, row, by_row);
  for (int step = first; step < first + R::STAGES - 1; step++)
    {
      next.start (from, ring, step, last, q.k);
      next.finish (ring, step, last);
    }
  for (int step = first; step < last; step++)
    {
      cp_async_wait<R::STAGES - 2> ();
      __syncthreads (); /* the stage is there, and the one before it is read by all */
      next.start (from, ring, step + R::STAGES - 1, last, q.k);
      const int at = step % R::STAGES * R::STAGE_BYTES;
      uint4 normed[2];
      if constexpr (NORMED)
        norm_stage<(RANK > 0), T> (shared + at,
                                   reinterpret_cast<const float *> (shared + at + R::BY_COLUMN),
                                   by_row, normed);
      if constexpr (NORMED && RANK > 0)
        __syncthreads (); /* all of the stage is normed */
      if (blockIdx.z == 0)
        quantise_stage<INT4, NORMED> (q, shared + at, normed,
                                      reinterpret_cast<const float *> (shared + at + R::INVERSE),
                                      step, row);
      if constexpr (RANK > 0)
        lower_stage<RANK, T> (d, ring + at, ring + at + R::DOWN);
      next.finish (ring, step + R::STAGES - 1, last);
    }
  if constexpr (RANK > 0)
    write_lowered<RANK> (q, d, row);
}

/* lora = the sum of the ranges, in ascending order; two numbers a thread. */
template <typename T>
static __global__ void
sum_kernel (const float2 *__restrict__ partial, uint32_t *__restrict__ lora, int64_t pairs,
            int splits)
{
  const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
  if (i >= pairs)
    return;
  float2 sum = partial[i];
  for (int split = 1; split < splits; split++)
    {
      const float2 more = partial[split * pairs + i];
      sum.x += more.x;
      sum.y += more.y;
    }
  lora[i] = pack2<T> (sum.x, sum.y);
}

/* -- launching ----------------------------------------------------------------------------------
 */

/* Ranges of k: enough blocks, each worth its start, and partial sums that fit into scratch. */
static int
choose_splits (int64_t m, int64_t k, int rank)
{
  const int64_t tiles = CEIL_DIV (m, ROWS), steps = k / STEP_K;
  const int64_t longest = CEIL_DIV (steps, LEAST_STEPS);
  int64_t splits = CEIL_DIV (rank > 0 && rank <= 64 ? WANTED_LOW : WANTED, tiles);
  splits = splits < longest ? splits : longest;
  if (rank > 0)
    {
      const int64_t most = (int64_t)SCRATCH_BYTES / (m * rank * (int64_t)sizeof (float));
      splits = splits < most ? splits : most;
    }
  return splits > 1 ? (int)splits : 1;
}

template <bool INT4, int RANK, bool NORMED, typename T>
static Status
launch (Stream *s, const Quantise<T> &q)
{
  constexpr int SHARED_BYTES = Ring<RANK, NORMED, T>::SHARED_BYTES;
  auto *kernel = quantise_kernel<INT4, RANK, NORMED, T>;
  const dim3 grid ((unsigned)CEIL_DIV (q.m, ROWS), (unsigned)q.splits,
                   RANK > 0 ? (unsigned)CEIL_DIV (q.rank, RANK) : 1);
  CUDA_CHECK (
      s, cudaFuncSetAttribute (kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES));
  launch_kernel (kernel, grid, THREADS, SHARED_BYTES, s->compute, q);
  CHECK (LAUNCHED (s));
  if (q.partial == NULL)
    return STATUS_OK;
  const int64_t pairs = (int64_t)q.m * q.rank / 2;
  launch_kernel (sum_kernel<T>, (unsigned)CEIL_DIV (pairs, 256), 256, 0, s->compute,
                 (const float2 *)q.partial, (uint32_t *)q.lora, pairs, q.splits);
  return LAUNCHED (s);
}

template <bool INT4, bool NORMED, typename T>
static Status
launch_for_rank (Stream *s, const Quantise<T> &q)
{
  if (q.rank == 0)
    return launch<INT4, 0, NORMED> (s, q);
  if (q.rank <= 32)
    return launch<INT4, 32, NORMED> (s, q);
  return q.rank <= 64 ? launch<INT4, 64, NORMED> (s, q)
                      : launch<INT4, Limits<T>::MOST_RANK, NORMED> (s, q);
}

template <bool NORMED, typename T>
static Status
launch_for_format (Stream *s, const SvdqWeights *w, const void *x, const float *by_row,
                   const float *by_column, const SvdqActivations *a)
{
  Quantise<T> q = { (const T *)x,
                    (const bf16 *)w->smooth,
                    (const T *)w->proj_down,
                    w->inverse,
                    a->codes,
                    a->scales,
                    (T *)a->lora,
                    NULL,
                    (int)a->m,
                    (int)w->k,
                    w->rank,
                    choose_splits (a->m, w->k, w->rank),
                    a->pitch,
                    by_row,
                    by_column };
  if (q.splits > 1 && q.rank > 0)
    {
      REQUIRE (s, s->scratch != NULL);
      q.partial = (float *)s->scratch;
    }
  return w->format == SVDQ_INT4 ? launch_for_rank<true, NORMED> (s, q)
                                : launch_for_rank<false, NORMED> (s, q);
}

Status
svdq_quantise (Stream *s, const SvdqWeights *w, const void *x, const SvdqActivations *a)
{
  REQUIRE (s, a->m >= 1 && a->m <= INT32_MAX / 2);
  return device_activation (&s->caps) == DTYPE_F16
             ? launch_for_format<false, f16> (s, w, x, NULL, NULL, a)
             : launch_for_format<false, bf16> (s, w, x, NULL, NULL, a);
}

Status
svdq_quantise_normed (Stream *s, const SvdqWeights *w, const void *x, const float *by_row,
                      const float *by_column, const SvdqActivations *a)
{
  REQUIRE (s, a->m >= 1 && a->m <= INT32_MAX / 2);
  REQUIRE (s, device_activation (&s->caps) == DTYPE_BF16);
  return launch_for_format<true, bf16> (s, w, x, by_row, by_column, a);
}
