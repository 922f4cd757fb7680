/* SPDX-License-Identifier: Apache-2.0
 *
 * Activations on their way into a fast SVDQuant linear on sm_90: E4M3 under a power of two a row,
 * and the low-rank input. Blocks have 32 rows to themselves: 4224 rows are one block for each of
 * 132 multiprocessors.
 *
 * One thread asks the copy engine for what strips need, 32 rows of x and the fragments of
 * proj_down, into a ring of stages; so everything arrives in the order in which it is used,
 * whatever waits in the queues of the memory. Few rows wait for that thread, so it asks for several
 * strips at once where their fragments are small. Warps take the strips in turn. Each holds its
 * sums of the low-rank product to the end, so beyond rank 32 there are fewer of them, and beyond
 * 128 all is done again for the ranks that are left.
 *
 * A row's scale is chosen before all of the row was seen: E4M3 keeps its precision over 15 powers
 * of two, and the scale leaves four of them above what the warps' first strips call for. Rows for
 * which the choice was wrong are coded again.
 */
#include "kernels/cuda/strips_sm90.cuh"

#define CODERS_MEET   1   /* a named barrier */
#define LARGEST_FIRST 100 /* exponents end there (row_exponent) */
#define STAGE_ROOM    (MOST_SHARED - SVDQ_SM90_MOST_K * 2 - 1024) /* beside a block's other parts */

/* What a block finds out about its rows: the bits of greatest magnitudes. */
struct Found
{
  uint32_t first[ROWS]; /* of the warps' first strips */
  uint32_t most[ROWS];  /* of all */
};

/* The shape of a block: the warps that code, as many as have registers for sums of up to 16 STEPS
 * ranks, and a ring of stages of GROUP strips. */
template <int STEPS_, int GROUP_> struct Shape
{
  static constexpr int STEPS = STEPS_, GROUP = GROUP_, RANKS = STEPS * LOW_RANKS;
  static constexpr int WARPS = STEPS <= 2 ? SVDQ_E4M3_WARPS : SVDQ_E4M3_FEW_WARPS;
  static constexpr int CODERS = WARPS * 32, THREADS = CODERS + 32;
  static constexpr int X_BYTES = GROUP * STRIP_BYTES, DOWN_BYTES = STEPS * STEP_BYTES;
  static constexpr int STAGE_BYTES = X_BYTES + GROUP * DOWN_BYTES;
  static constexpr int STAGES = STAGE_ROOM / (STAGE_BYTES + 2 * 8);
  static_assert (WARPS * RANKS * PITCH * 4 <= STAGES * STAGE_BYTES, "all sums fit the stages");
  static_assert (STAGES * GROUP >= WARPS, "first strips are there before any is handed back");
};

/* A block's shared memory. */
template <typename S> struct Block
{
  /* x [strip], and the fragments [strip] of proj_down; at the end sums */
  alignas (1024) char stages[S::STAGES][S::STAGE_BYTES];
  uint4 inverse[SVDQ_SM90_MOST_K / 8];
  uint64_t full[S::STAGES], empty[S::STAGES], inverse_full; /* barriers */
  Found found;
};

/* Where a strip lies: its stage, whose turn it is there, its x and its fragments. */
struct Place
{
  int stage, turn;
  char *x;
  const Down *down;
};

/* -- loading ------------------------------------------------------------------------------------
 */

template <typename S>
static __device__ __forceinline__ void
begin (Block<S> &block)
{
  for (int i = 0; i < S::STAGES; i++)
    {
      barrier_init (shared_address (&block.full[i]), 1);
      barrier_init (shared_address (&block.empty[i]), S::GROUP * 32);
    }
  barrier_init (shared_address (&block.inverse_full), 1);
  barrier_init_fence ();
}

/* One thread: the fragments of `strips` strips in a row; at once, if they hold no other ranks. */
template <typename S>
static __device__ __forceinline__ void
load_down (const SvdqQuantise &q, const Ranks &ranks, int strip, int strips, char *to,
           uint32_t full)
{
  const int steps = q.rank / LOW_RANKS, bytes = ranks.steps * STEP_BYTES;
  const char *const from
      = (const char *)q.proj_down + ((size_t)strip * steps + ranks.first) * STEP_BYTES;
  if (steps == S::STEPS)
    bulk_load (shared_address (to), from, strips * bytes, full);
  else
    for (int i = 0; i < strips; i++)
      bulk_load (shared_address (to + i * S::DOWN_BYTES), from + (size_t)i * steps * STEP_BYTES,
                 bytes, full);
}

/* One thread: all strips of the block's rows. */
template <typename S>
static __device__ __forceinline__ void
load (Block<S> &block, const CUtensorMap *x_map, const SvdqQuantise &q, const Ranks &ranks,
      int first)
{
  const int strips = q.k / STRIP_K;
  const uint32_t inverse_full = shared_address (&block.inverse_full);
  int stage = 0, phase = 1;
  barrier_expect (inverse_full, q.k * 2);
  bulk_load (shared_address (block.inverse), q.smooth, q.k * 2, inverse_full);
  for (int strip = 0; strip < strips; strip += S::GROUP)
    {
      char *const x = block.stages[stage];
      const uint32_t full = shared_address (&block.full[stage]);
      const int there = min (S::GROUP, strips - strip);
      barrier_wait (shared_address (&block.empty[stage]), phase);
      barrier_expect (full, S::X_BYTES + there * ranks.steps * STEP_BYTES);
      tma_load_boxes (shared_address (x), x_map, strip, first, full);
      if (S::STEPS > 0)
        load_down<S> (q, ranks, strip, there, x + S::X_BYTES, full);
      if (++stage == S::STAGES)
        stage = 0, phase ^= 1;
    }
}

/* -- one strip ----------------------------------------------------------------------------------
 */

template <typename S>
static __device__ __forceinline__ Place
place_of (Block<S> &block, int strip)
{
  const int group = strip / S::GROUP, stage = group % S::STAGES, at = strip % S::GROUP;
  char *const x = block.stages[stage];
  return { stage, group / S::STAGES, x + at * STRIP_BYTES,
           reinterpret_cast<const Down *> (x + S::X_BYTES + at * S::DOWN_BYTES) };
}

/* The inverses of sixteen smoothing factors, in BF16. */
static __device__ __forceinline__ void
take_inverse (const uint4 *inverse, Sixteen &out)
{
#pragma unroll
  for (int half = 0; half < 2; half++)
    {
      const uint4 v = inverse[threadIdx.x % 4 * 2 + half];
      out[half][0] = v.x, out[half][1] = v.y, out[half][2] = v.z, out[half][3] = v.w;
    }
}

/* The numbers smoothed; `most`: their greatest magnitudes, in two halves that the caller joins. */
static __device__ __forceinline__ void
smooth (const Sixteen &by, Sixteen &x, uint32_t &most)
{
#pragma unroll
  for (int half = 0; half < 2; half++)
#pragma unroll
    for (int w = 0; w < 4; w++)
      {
        x[half][w] = mul_bf16x2 (x[half][w], by[half][w]);
        most = __vmaxu2 (most, x[half][w] & 0x7fff7fffu);
      }
}

static __device__ __forceinline__ void
write_codes (const SvdqQuantise &q, int row, int k, const Sixteen &x, int exponent)
{
  const uint32_t twice = (__float_as_uint (power_of_two (-exponent)) >> 16) * 0x10001u;
  const uint2 a = codes_e4m3 (x[0], twice), b = codes_e4m3 (x[1], twice);
  if (row < q.m)
    *reinterpret_cast<uint4 *> ((uint8_t *)q.codes + (size_t)row * q.k + k)
        = make_uint4 (a.x, a.y, b.x, b.y);
}

/* The greatest magnitude of a row of this lane, from its two halves, for the block. */
static __device__ __forceinline__ void
share_greatest (uint32_t *rows, int j, uint32_t most)
{
  const int lane = threadIdx.x % 32;
  uint32_t row = max (most & 0xffff, most >> 16) << 16;
  row = max (row, __shfl_xor_sync (0xffffffffu, row, 1));
  row = max (row, __shfl_xor_sync (0xffffffffu, row, 2));
  if (lane % 4 == 0)
    atomicMax (&rows[8 * j + lane / 4], row);
}

/* -- scales -------------------------------------------------------------------------------------
 */

/* The exponent with which a row is coded first. */
static __device__ __forceinline__ int
first_exponent (const Found &found, int row)
{
  const int seen = row_exponent<SVDQ_CODES_E4M3> (__uint_as_float (found.first[row]));
  return min (seen + E4M3_HEADROOM, LARGEST_FIRST);
}

/* What it is in the end. */
static __device__ __forceinline__ int
last_exponent (const Found &found, int row)
{
  return max (first_exponent (found, row),
              row_exponent<SVDQ_CODES_E4M3> (__uint_as_float (found.most[row])));
}

/* What the first scales are made of: the greatest of this warp's first strip. */
template <typename S>
static __device__ __forceinline__ void
look_ahead (Block<S> &block)
{
  const int warp = threadIdx.x / 32;
  const Place place = place_of (block, warp);
  Sixteen by;
  barrier_wait (shared_address (&block.inverse_full), 0);
  barrier_wait (shared_address (&block.full[place.stage]), 0);
  take_inverse (block.inverse + warp * (STRIP_K / 8), by);
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    {
      Sixteen x;
      uint32_t most = 0;
      take (place.x, j, x);
      smooth (by, x, most);
      share_greatest (block.found.first, j, most);
    }
}

/* -- the end ------------------------------------------------------------------------------------
 */

/* Adds the warps' sums, a thread one rank of four tokens, and divides by the rows' scales. */
template <typename S>
static __device__ __forceinline__ void
write_low (const SvdqQuantise &q, const Ranks &ranks, int first, const Block<S> &block)
{
  for (int at = threadIdx.x; at < S::RANKS * (ROWS / TOKENS); at += S::CODERS)
    {
      const int rank = at % S::RANKS, token = at / S::RANKS * TOKENS;
      if (rank >= ranks.steps * LOW_RANKS)
        continue;
      float4 sum
          = add_up<S::WARPS> ((const float *)block.stages + rank * PITCH + token, S::RANKS * PITCH);
      float *const of_token[TOKENS] = { &sum.x, &sum.y, &sum.z, &sum.w };
#pragma unroll
      for (int i = 0; i < TOKENS; i++)
        *of_token[i] = __bfloat162float (__float2bfloat16_rn (*of_token[i]))
                       * power_of_two (-last_exponent (block.found, token + i));
      write_tokens (q, first + token, ranks.first * LOW_RANKS + rank, sum);
    }
}

/* All codes of this warp's strips once more, from x. */
template <typename S>
static __device__ __forceinline__ void
code_again (const SvdqQuantise &q, int first, const int (&own)[ROW_BLOCKS])
{
  const int lane = threadIdx.x % 32;
  for (int strip = threadIdx.x / 32; strip < q.k / STRIP_K; strip += S::WARPS)
#pragma unroll
    for (int j = 0; j < ROW_BLOCKS; j++)
      {
        const int row = first + 8 * j + lane / 4, k = strip * STRIP_K + lane % 4 * 16;
        Sixteen x, by;
        uint32_t most = 0;
        if (row >= q.m)
          continue;
#pragma unroll
        for (int half = 0; half < 2; half++)
          {
            const uint4 v
                = __ldg ((const uint4 *)((const bf16 *)q.x + (size_t)row * q.k + k) + half);
            x[half][0] = v.x, x[half][1] = v.y, x[half][2] = v.z, x[half][3] = v.w;
          }
        take_inverse ((const uint4 *)q.smooth + strip * (STRIP_K / 8), by);
        smooth (by, x, most);
        write_codes (q, row, k, x, own[j]);
      }
}

/* What remains when the block has met: scales, and codes of rows that have another one now. */
template <typename S>
static __device__ __forceinline__ void
settle (const SvdqQuantise &q, int first, const Found &found)
{
  const int lane = threadIdx.x % 32, row = first + (int)threadIdx.x;
  if (threadIdx.x < ROWS && row < q.m)
    q.scale[row] = power_of_two (last_exponent (found, threadIdx.x));
  int own[ROW_BLOCKS];
  bool other = false;
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    {
      own[j] = last_exponent (found, 8 * j + lane / 4);
      other = other || own[j] != first_exponent (found, 8 * j + lane / 4);
    }
  if (__any_sync (0xffffffffu, other))
    code_again<S> (q, first, own);
}

/* -- the kernel ---------------------------------------------------------------------------------
 */

/* One strip: its codes; adds to the sums and to the greatest. */
template <typename S>
static __device__ __forceinline__ void
code_strip (const SvdqQuantise &q, int low_steps, int row, int k, const Place &place,
            const Sixteen &by, const int (&own)[ROW_BLOCKS],
            float (&sum)[S::STEPS > 0 ? S::STEPS : 1][ROW_BLOCKS][4], uint32_t (&most)[ROW_BLOCKS])
{
  Sixteen x[ROW_BLOCKS];
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    take (place.x, j, x[j]);
#pragma unroll
  for (int step = 0; step < S::STEPS; step++)
    if (S::STEPS <= 2 || step < low_steps)
      lower (place.down[step], x, sum[step]);
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    {
      smooth (by, x[j], most[j]);
      write_codes (q, row + 8 * j, k, x[j], own[j]);
    }
}

/* This warp's strips. */
template <typename S>
static __device__ __forceinline__ void
code_strips (const SvdqQuantise &q, int low_steps, int first, Block<S> &block,
             float (&sum)[S::STEPS > 0 ? S::STEPS : 1][ROW_BLOCKS][4])
{
  const int lane = threadIdx.x % 32;
  int own[ROW_BLOCKS];
  uint32_t most[ROW_BLOCKS] = {};
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    own[j] = first_exponent (block.found, 8 * j + lane / 4);
#pragma unroll 1
  for (int strip = threadIdx.x / 32; strip < q.k / STRIP_K; strip += S::WARPS)
    {
      const Place place = place_of (block, strip);
      const uint32_t empty = shared_address (&block.empty[place.stage]);
      Sixteen by;
      /* A barrier tells turns apart by parity. As the ring holds a strip of each warp, and this
       * one's before was seen, `empty` is no more than one turn back. */
      barrier_wait (empty, (place.turn & 1) ^ 1);
      barrier_wait (shared_address (&block.full[place.stage]), place.turn & 1);
      take_inverse (block.inverse + strip * (STRIP_K / 8), by);
      code_strip<S> (q, low_steps, first + lane / 4, strip * STRIP_K + lane % 4 * 16, place, by,
                     own, sum, most);
      barrier_arrive (empty);
    }
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    share_greatest (block.found.most, j, most[j]);
}

/* The warps that code. */
template <typename S>
static __device__ __forceinline__ void
code (const SvdqQuantise &q, const Ranks &ranks, int first, Block<S> &block)
{
  float sum[S::STEPS > 0 ? S::STEPS : 1][ROW_BLOCKS][4] = {};
  if (S::STEPS > 0)
    clear_low<S::CODERS> (q, first);
  if ((int)threadIdx.x / 32 < q.k / STRIP_K)
    look_ahead (block);
  named_barrier (CODERS_MEET, S::CODERS);
  code_strips (q, ranks.steps, first, block, sum);
  named_barrier (CODERS_MEET, S::CODERS); /* nobody reads a stage any more */
  if constexpr (S::STEPS > 0)
    {
      share_sums<0, S::STEPS> (block.stages[0] + threadIdx.x / 32 * S::RANKS * PITCH * 4, sum);
      named_barrier (CODERS_MEET, S::CODERS);
      write_low (q, ranks, first, block);
    }
  settle<S> (q, first, block.found);
}

template <typename S>
static __global__ void
__launch_bounds__ (S::THREADS, 1)
    quantise_e4m3_kernel (SvdqQuantise q, Ranks ranks, const __grid_constant__ CUtensorMap x_map)
{
#ifdef FOR_SM90
  extern __shared__ __align__ (1024) char shared[];
  Block<S> &block = *reinterpret_cast<Block<S> *> (shared);
  const int first = (int)blockIdx.x * ROWS;
  if (threadIdx.x == S::CODERS)
    begin (block);
  if (threadIdx.x < ROWS)
    block.found.first[threadIdx.x] = block.found.most[threadIdx.x] = 0;
  __syncthreads ();
  if (threadIdx.x < S::CODERS)
    code (q, ranks, first, block);
  else if (threadIdx.x == S::CODERS)
    load (block, &x_map, q, ranks, first);
#endif
}

/* -- launching ----------------------------------------------------------------------------------
 */

template <int STEPS, int GROUP>
static Status
launch (Stream *s, const SvdqQuantise *q)
{
  typedef Shape<STEPS, GROUP> S;
  static_assert (sizeof (Block<S>) <= MOST_SHARED, "a block fits");
  auto *kernel = quantise_e4m3_kernel<S>;
  const int steps = q->rank / LOW_RANKS;
  TensorMapEncoder encode = NULL;
  CUtensorMap x = {};
  CHECK (tensor_map_encoder (s, &encode));
  CHECK (tensor_map_boxes (s, encode, q->x, q->m, q->k, ROWS, STRIP_K, GROUP, &x));
  CUDA_CHECK (s, cudaFuncSetAttribute (kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       (int)sizeof (Block<S>)));
  Ranks ranks = {};
  do
    {
      ranks.steps = steps - ranks.first < STEPS ? steps - ranks.first : STEPS;
      launch_kernel (kernel, (unsigned)CEIL_DIV (q->m, ROWS), S::THREADS, sizeof (Block<S>),
                     s->compute, *q, ranks, x);
      CHECK (LAUNCHED (s));
      ranks.first += ranks.steps;
    }
  while (ranks.first < steps);
  return STATUS_OK;
}

Status
svdq_quantise_e4m3_sm90 (Stream *s, const SvdqQuantise *q)
{
  CHECK (check_quantise (s, q));
  REQUIRE (s, q->kind == SVDQ_CODES_E4M3);
  switch (q->rank / LOW_RANKS)
    {
    case 0:
      return launch<0, 2> (s, q);
    case 1:
      return launch<1, 2> (s, q);
    case 2:
      return launch<2, 2> (s, q);
    case 3:
    case 4:
      return launch<4, 1> (s, q);
    default:
      return launch<8, 1> (s, q);
    }
}
