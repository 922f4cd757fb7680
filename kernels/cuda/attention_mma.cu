/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention without a score matrix by warp-level mma (Dao 2023), head dim up to 128.
 *
 * A warp owns 32 query rows of one head and keeps their scores, probabilities and outputs in
 * registers, so that each fragment of keys and values that it reads from shared memory is used
 * twice. Queries stay in shared memory beside one block of keys and one of values: the values
 * travel while the scores are multiplied, the next keys while the outputs are. Exponentials are
 * taken for 16 keys at a time, between the products with their values. Head dims below 64 or 128
 * are padded with zeros in shared memory.
 *
 * FP16 is for sm_75, where copies pass through registers (AsyncCopy) and a multiprocessor has 64
 * KiB of shared memory. There a warp owns 16 rows of 128 and holds its queries in registers, too:
 * two blocks fit.
 *
 * Outputs and sums follow a row's maximum only when it has grown 2^ROOM-fold, which after the first
 * keys is rare; that depends on the row alone, so results repeat.
 */
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/softmax.cuh"

#define ROOM           8.0f /* powers of two; FP32 sums and 16-bit probabilities have far more */
#define RESERVED_BYTES 1024 /* of shared memory, that a block takes beside its own, sm_80 up */

/* T: type of activations; D: head dim, padded; TILES: of 16 query rows, of a warp; KEYS: at a time;
 * BLOCKS: a multiprocessor, as registers allow; HOLDING: queries stay in registers, having come
 * through the memory of keys and values. */
template <typename T, int D_, int WARPS, int TILES_, int KEYS_, int BLOCKS_, bool HOLDING_ = false>
struct Shape
{
  typedef T Number;
  static constexpr int D = D_, TILES = TILES_, KEYS = KEYS_, BLOCKS = BLOCKS_;
  static constexpr bool HOLDING = HOLDING_;
  static constexpr int THREADS = WARPS * 32, WARP_ROWS = TILES * 16, ROWS = WARPS * WARP_ROWS;
  static constexpr int STEPS = D / 16, ROW_BYTES = D * 2;
  static constexpr int QUERY_BYTES = ROWS * ROW_BYTES, KEY_BYTES = KEYS * ROW_BYTES;
  static constexpr int SHARED_BYTES = (HOLDING ? 0 : QUERY_BYTES) + 2 * KEY_BYTES;
  static_assert (!HOLDING || QUERY_BYTES <= 2 * KEY_BYTES, "room for queries on their way");
};

template <typename T> struct Heads
{
  const T *qkv;
  T *out;
  int m, n_q, n_kv, d, pitch; /* pitch: of rows of qkv */
  float scale;                /* log2(e) / sqrt(d) */
  bool causal;
};

template <typename S> using Scores = float[S::TILES][S::KEYS / 8][4];

/* `shift`: what is taken from scores times scale, a row's maximum or up to ROOM below it. */
template <typename S> struct Rows
{
  float out[S::TILES][S::D / 8][4];
  float shift[S::TILES][2], sum[S::TILES][2];
};

/* -- to shared memory ---------------------------------------------------------------------------
 */

/* Where in shared memory copy `i` of a thread goes. Every thread copies 16 bytes of each STRIDE-th
 * row, in loops that count from zero: one that counts from the thread's number is not unrolled, and
 * its addresses and branches were a quarter of all instructions. */
template <typename S>
static __device__ __forceinline__ uint32_t
target (uint32_t shared, int i)
{
  constexpr int CHUNKS = S::D / CHUNK, STRIDE = S::THREADS / CHUNKS;
  return shared + chunk_at (threadIdx.x / CHUNKS + i * STRIDE, threadIdx.x % CHUNKS, S::ROW_BYTES);
}

/* The block's rows: `from` is the first, `limit` of them are there. */
template <typename S>
static __device__ __forceinline__ void
copy_queries (uint32_t shared, const typename S::Number *from, int pitch, int limit, int columns)
{
  constexpr int CHUNKS = S::D / CHUNK, STRIDE = S::THREADS / CHUNKS, COUNT = S::ROWS / STRIDE;
  const int row = threadIdx.x / CHUNKS, column = threadIdx.x % CHUNKS * CHUNK;
  AsyncCopy<COUNT> copies;
  const typename S::Number *own = from + (size_t)row * pitch + column;
  if (limit >= S::ROWS && columns == S::D)
#pragma unroll
    for (int i = 0; i < COUNT; i++, own += STRIDE * (size_t)pitch)
      copies.start (i, target<S> (shared, i), own, true);
  else
#pragma unroll
    for (int i = 0; i < COUNT; i++, own += STRIDE * (size_t)pitch)
      {
        const bool inside = row + i * STRIDE < limit && column < columns;
        copies.start (i, target<S> (shared, i), inside ? own : from, inside);
      }
#pragma unroll
  for (int i = 0; i < COUNT; i++)
    copies.finish (i, target<S> (shared, i));
}

/* Keys and values: what a thread copies of each KEYS of them, keys first. */
template <typename S> struct Column
{
  static constexpr int CHUNKS = S::D / CHUNK, STRIDE = S::THREADS / CHUNKS;
  static constexpr int COUNT = S::KEYS / STRIDE;
  static_assert (COUNT * STRIDE == S::KEYS && (STRIDE % 8 == 0 || 8 % STRIDE == 0), "whole rows");
  typedef typename S::Number T;
  typedef AsyncCopy<COUNT> Copies;
  const T *next; /* key to copy */
  int limit;     /* rows from this number on, or right of d, are zeros */
  uint32_t at;   /* where the first row goes, in a block of keys or values */

  __device__ __forceinline__
  Column (const Heads<T> &a, int kv_head)
  {
    const int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    next = a.qkv + (size_t)(a.n_q + kv_head) * a.d + (size_t)row * a.pitch + chunk * CHUNK;
    limit = chunk * CHUNK < a.d ? a.m - row : 0;
    at = chunk_at (row, chunk, S::ROW_BYTES);
  }

  /* Where copy `i` goes. */
  __device__ __forceinline__ uint32_t
  place (uint32_t shared, int i) const
  {
    return ((shared + at) ^ i * STRIDE % 8 * 16) + i * STRIDE * S::ROW_BYTES;
  }

  /* KEYS rows, the first of them number `first`; leaves `from` behind them. */
  __device__ __forceinline__ void
  start (Copies &copies, const Heads<T> &a, uint32_t shared, int first, const T *&from) const
  {
#pragma unroll
    for (int i = 0; i < COUNT; i++, from += STRIDE * (size_t)a.pitch)
      {
        const bool inside = first + i * STRIDE < limit;
        copies.start (i, place (shared, i), inside ? from : a.qkv, inside);
      }
    cp_async_commit ();
  }

  __device__ __forceinline__ void
  start_keys (Copies &copies, const Heads<T> &a, uint32_t shared, int first)
  {
    start (copies, a, shared, first, next);
  }

  /* Of the keys that were copied last: no second pointer, so that no register is spilled. */
  __device__ __forceinline__ void
  start_values (Copies &copies, const Heads<T> &a, uint32_t shared, int first) const
  {
    const T *from = next - S::KEYS * (size_t)a.pitch + (size_t)a.n_kv * a.d;
    start (copies, a, shared, first, from);
  }

  /* Where copies do not travel by themselves. */
  __device__ __forceinline__ void
  finish (Copies &copies, uint32_t shared) const
  {
#pragma unroll
    for (int i = 0; i < COUNT; i++)
      copies.finish (i, place (shared, i));
  }
};

/* -- products -----------------------------------------------------------------------------------
 */

/* `address` of a fragment, `pair` times 32 bytes further along its rows: see chunk_at. */
static __device__ __forceinline__ uint32_t
along (uint32_t address, int pair)
{
  return (address ^ pair % 4 * 32) + pair / 4 * 128;
}

/* A warp's queries. */
template <typename S> struct Queries
{
  uint32_t address; /* this thread's, for load_a */
  uint32_t held[S::HOLDING ? S::STEPS : 1][S::TILES][4];

  /* From shared memory, which is free when all threads have been here. */
  __device__ __forceinline__ void
  hold ()
  {
    cp_async_commit ();
    cp_async_wait<0> ();
    __syncthreads ();
#pragma unroll
    for (int i = 0; i < S::STEPS; i++)
#pragma unroll
      for (int t = 0; t < S::TILES; t++)
        ldmatrix_x4 (held[i][t], along (address, i) + t * 16 * S::ROW_BYTES);
    __syncthreads ();
  }

  __device__ __forceinline__ void
  load (uint32_t (&q)[S::TILES][4], int step) const
  {
#pragma unroll
    for (int t = 0; t < S::TILES; t++)
      if constexpr (S::HOLDING)
#pragma unroll
        for (int i = 0; i < 4; i++)
          q[t][i] = held[step][t][i];
      else
        ldmatrix_x4 (q[t], along (address, step) + t * 16 * S::ROW_BYTES);
  }
};

/* `keys`: this thread's address for load_b. The fragments of the next step are read before this
 * one's are multiplied. */
template <typename S>
static __device__ __forceinline__ void
multiply_keys (Scores<S> &scores, const Queries<S> &queries, uint32_t keys)
{
  uint32_t q[2][S::TILES][4], k[2][S::KEYS / 16][4];
  const auto load = [&] (int i) {
    queries.load (q[i % 2], i);
#pragma unroll
    for (int j = 0; j < S::KEYS / 16; j++)
      ldmatrix_x4 (k[i % 2][j], along (keys, i) + j * 16 * S::ROW_BYTES);
  };
#pragma unroll
  for (int t = 0; t < S::TILES; t++)
#pragma unroll
    for (int j = 0; j < S::KEYS / 8; j++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        scores[t][j][i] = 0.0f;
  load (0);
#pragma unroll
  for (int i = 0; i < S::STEPS; i++)
    {
      if (i + 1 < S::STEPS)
        load (i + 1);
#pragma unroll
      for (int j = 0; j < S::KEYS / 8; j++)
#pragma unroll
        for (int t = 0; t < S::TILES; t++)
          mma<typename S::Number> (scores[t][j], q[i % 2][t], k[i % 2][j / 2][j % 2 * 2],
                                   k[i % 2][j / 2][j % 2 * 2 + 1]);
    }
}

/* Scores of 16 keys, from 16 `step` on -> probabilities, as a first operand, and into the sums. */
template <typename S>
static __device__ __forceinline__ void
take_exponentials (uint32_t (&p)[S::TILES][4], const Scores<S> &scores, Rows<S> &rows, float scale,
                   int step)
{
#pragma unroll
  for (int t = 0; t < S::TILES; t++)
#pragma unroll
    for (int i = 0; i < 4; i++)
      {
        const float *pair = &scores[t][2 * step + i / 2][i % 2 * 2];
        const float low = exp2_fast (fmaf (pair[0], scale, -rows.shift[t][i % 2]));
        const float high = exp2_fast (fmaf (pair[1], scale, -rows.shift[t][i % 2]));
        rows.sum[t][i % 2] += low + high;
        p[t][i] = pack_probabilities<typename S::Number> (low, high);
      }
}

/* Scores -> probabilities, times values, into the outputs. */
template <typename S>
static __device__ __forceinline__ void
multiply_values (Rows<S> &rows, const Scores<S> &scores, float scale, uint32_t values)
{
  constexpr int COUNT = S::KEYS / 16 * S::STEPS;
  uint32_t p[S::TILES][4], v[2][4];
  const auto load = [&] (int i) {
    ldmatrix_x4_trans (v[i % 2], along (values, i % S::STEPS) + i / S::STEPS * 16 * S::ROW_BYTES);
  };
  load (0);
#pragma unroll
  for (int i = 0; i < COUNT; i++)
    {
      if (i + 1 < COUNT)
        load (i + 1);
      if (i % S::STEPS == 0)
        take_exponentials<S> (p, scores, rows, scale, i / S::STEPS);
#pragma unroll
      for (int side = 0; side < 2; side++)
#pragma unroll
        for (int t = 0; t < S::TILES; t++)
          mma<typename S::Number> (rows.out[t][i % S::STEPS * 2 + side], p[t], v[i % 2][side * 2],
                                   v[i % 2][side * 2 + 1]);
    }
}

/* -- rows ---------------------------------------------------------------------------------------
 */

/* Where a maximum has outgrown its shift, outputs and sums follow. Key 0 is seen by every row, so
 * all shifts are numbers from the first keys on. */
template <typename S>
static __device__ __forceinline__ void
follow_maximum (Rows<S> &rows, const Scores<S> &scores, float scale)
{
  float top[S::TILES][2];
  bool grown = false;
#pragma unroll
  for (int t = 0; t < S::TILES; t++)
#pragma unroll
    for (int h = 0; h < 2; h++)
      {
        top[t][h] = own_maximum (scores[t], h) * scale;
        grown = grown || top[t][h] > rows.shift[t][h] + ROOM;
      }
  if (!__any_sync (0xffffffffu, grown))
    return;
#pragma unroll
  for (int t = 0; t < S::TILES; t++)
#pragma unroll
    for (int h = 0; h < 2; h++)
      {
        const float shift = quad_max (top[t][h]);
        if (!(shift > rows.shift[t][h] + ROOM))
          continue;
        const float factor = exp2_fast (rows.shift[t][h] - shift);
        rows.shift[t][h] = shift;
        rows.sum[t][h] *= factor;
#pragma unroll
        for (int i = 0; i < S::D / 8; i++)
          rows.out[t][i][2 * h] *= factor, rows.out[t][i][2 * h + 1] *= factor;
      }
}

template <typename S>
static __device__ __forceinline__ void
write_rows (const Heads<typename S::Number> &a, const Rows<S> &rows, int head, int first_row)
{
  typedef typename S::Number T;
#pragma unroll
  for (int t = 0; t < S::TILES; t++)
#pragma unroll
    for (int h = 0; h < 2; h++)
      {
        const float inverse = 1.0f / quad_sum (rows.sum[t][h]);
        const int r = first_row + t * 16 + h * 8;
        T *target = a.out + ((size_t)r * a.n_q + head) * a.d + threadIdx.x % 4 * 2;
#pragma unroll
        for (int i = 0; i < S::D / 8; i++)
          if (r < a.m && i * 8 < a.d)
            *reinterpret_cast<uint32_t *> (target + i * 8)
                = pack2<T> (rows.out[t][i][2 * h] * inverse, rows.out[t][i][2 * h + 1] * inverse);
      }
}

/* -- the kernel ---------------------------------------------------------------------------------
 */

template <typename S>
static __global__ void
__launch_bounds__ (S::THREADS, S::BLOCKS) attention_mma_kernel (Heads<typename S::Number> a)
{
  if (!Activation<typename S::Number>::RUNS_HERE)
    return;
  extern __shared__ __align__ (128) char shared[];
  const uint32_t queries = shared_address (shared);
  const uint32_t keys = queries + (S::HOLDING ? 0 : S::QUERY_BYTES);
  const uint32_t values = keys + S::KEY_BYTES;
  const int head = blockIdx.y;
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * S::WARP_ROWS;
  /* Longest rows first under the mask, so that the last wave is short. */
  const int row = (gridDim.x - 1 - blockIdx.x) * S::ROWS, own_row = row + warp_row + lane / 4;
  const int everyone_sees = a.causal ? min (a.m, row + 1) : a.m; /* keys before this one */
  const int end = a.causal ? min (a.m, row + S::ROWS) : a.m;     /* and none sees from here on */
  Column<S> column (a, head / (a.n_q / a.n_kv));
  /* As load_a, of values too, and load_b address the first of their fragments. */
  const uint32_t across = chunk_at (lane % 16, lane / 16, S::ROW_BYTES);
  const uint32_t down = chunk_at (lane / 16 * 8 + lane % 8, lane / 8 % 2, S::ROW_BYTES);
  Queries<S> own_queries;
  own_queries.address = queries + warp_row * S::ROW_BYTES + across;

  Rows<S> rows = {};
#pragma unroll
  for (int t = 0; t < S::TILES; t++)
    rows.shift[t][0] = rows.shift[t][1] = -INFINITY;
  copy_queries<S> (queries, a.qkv + (size_t)row * a.pitch + (size_t)head * a.d, a.pitch, a.m - row,
                   a.d);
  if constexpr (S::HOLDING)
    own_queries.hold ();
  {
    typename Column<S>::Copies copies;
    column.start_keys (copies, a, keys, 0);
    column.finish (copies, keys);
  }
  for (int first = 0; first < end; first += S::KEYS)
    {
      const int next = first + S::KEYS;
      Scores<S> scores;
      typename Column<S>::Copies next_values, next_keys;
      cp_async_wait<0> (); /* the keys are there */
      __syncthreads ();    /* for all, and the values before have been read */
      column.start_values (next_values, a, values, first);
      multiply_keys<S> (scores, own_queries, keys + down);
      column.finish (next_values, values);
      cp_async_wait<0> (); /* the values are there */
      __syncthreads ();    /* for all, and the keys have been read */
      if (next < end)
        column.start_keys (next_keys, a, keys, next);
      if (next > everyone_sees)
#pragma unroll
        for (int t = 0; t < S::TILES; t++)
          mask_scores (scores[t], first, own_row + t * 16, a.m, a.causal);
      follow_maximum<S> (rows, scores, a.scale);
      multiply_values<S> (rows, scores, a.scale, values + across);
      if (next < end)
        column.finish (next_keys, keys);
    }
  write_rows<S> (a, rows, head, own_row);
}

/* -- launching ----------------------------------------------------------------------------------
 */

template <typename S>
static Status
launch_shape (Stream *s, const Attention *a)
{
  typedef typename S::Number T;
  const Heads<T> heads = { (const T *)a->qkv,
                           (T *)a->out,
                           (int)a->m,
                           a->n_q,
                           a->n_kv,
                           a->d,
                           (a->n_q + 2 * a->n_kv) * a->d,
                           LOG2_E / sqrtf ((float)a->d),
                           a->causal };
  CUDA_CHECK (s,
              cudaFuncSetAttribute (attention_mma_kernel<S>,
                                    cudaFuncAttributeMaxDynamicSharedMemorySize, S::SHARED_BYTES));
  const dim3 grid (CEIL_DIV (a->m, S::ROWS), a->n_q);
  launch_kernel (attention_mma_kernel<S>, grid, S::THREADS, S::SHARED_BYTES, s->compute, heads);
  return LAUNCHED (s);
}

/* How many rows a multiprocessor takes on one after another; `shared`: its bytes of memory. */
template <typename S>
static int64_t
rows_in_turn (const Stream *s, const Attention *a, int shared)
{
  const int fit = shared / (S::SHARED_BYTES + RESERVED_BYTES);
  const int64_t held = fit < S::BLOCKS ? fit : S::BLOCKS;
  const int64_t blocks = CEIL_DIV (CEIL_DIV (a->m, S::ROWS) * a->n_q, s->caps.multiprocessors);
  return (blocks <= held ? blocks : CEIL_DIV (blocks, held) * held)
         * (a->m < S::ROWS ? a->m : S::ROWS);
}

/* Tall blocks read keys and values less often, short ones are spread more evenly. */
template <typename Tall, typename Short>
static Status
launch_either (Stream *s, const Attention *a, int shared)
{
  return rows_in_turn<Short> (s, a, shared) < rows_in_turn<Tall> (s, a, shared)
             ? launch_shape<Short> (s, a)
             : launch_shape<Tall> (s, a);
}

static Status
launch_f16 (Stream *s, const Attention *a)
{
  if (a->d <= 64)
    return launch_shape<Shape<f16, 64, 4, 2, 64, 2>> (s, a);
  return launch_shape<Shape<f16, 128, 4, 1, 64, 2, true>> (s, a);
}

static Status
launch_bf16 (Stream *s, const Attention *a)
{
  if (a->d <= 64)
    return launch_shape<Shape<bf16, 64, 4, 2, 64, 2>> (s, a);
  /* Eight warps a multiprocessor are worth more than many keys at a time: where it has 100 KiB,
   * their queries leave room for 32. */
  int shared = 0;
  CUDA_CHECK (
      s, cudaDeviceGetAttribute (&shared, cudaDevAttrMaxSharedMemoryPerMultiprocessor, s->device));
  typedef Shape<bf16, 128, 4, 2, 48, 2> Tall;
  if (shared >= Tall::BLOCKS * (Tall::SHARED_BYTES + RESERVED_BYTES))
    return launch_either<Tall, Shape<bf16, 128, 2, 2, 64, 4>> (s, a, shared);
  return launch_either<Shape<bf16, 128, 4, 2, 32, 2>, Shape<bf16, 128, 2, 2, 32, 3>> (s, a, shared);
}

Status
attention_mma (Stream *s, const Attention *a)
{
  REQUIRE (s, a->d >= 16 && a->d <= 128 && a->d % 16 == 0);
  REQUIRE (s, a->m >= 1 && a->m <= INT32_MAX / 2);
  REQUIRE (s, a->n_kv >= 1 && a->n_q % a->n_kv == 0 && a->n_q <= 65535);
  return device_activation (&s->caps) == DTYPE_F16 ? launch_f16 (s, a) : launch_bf16 (s, a);
}
