/* SPDX-License-Identifier: Apache-2.0
 *
 * Activations on their way into the fast path of an SVDQuant linear on sm_90: E4M3 under a power of
 * two a row, and the low-rank input. Blocks have 32 rows to themselves: 4224 rows are one block for
 * each of 132 multiprocessors.
 *
 * K goes in strips of 64. One thread asks the copy engine for all that a strip needs, 32 rows of x,
 * the inverse of the smoothing factors and the fragments of proj_down, into a ring of stages; so
 * everything arrives in the order in which it is used, whatever waits in the queues of the memory.
 * Warps take the strips in turn. Each holds its sums of the low-rank product to the end, so beyond
 * rank 32 there are fewer of them, and beyond 128 all is done again for the ranks that are left.
 *
 * A row's scale is chosen before all of the row was seen: E4M3 keeps its precision over 15 powers
 * of two, and the scale leaves four of them above what the warps' first strips call for. Rows for
 * which the choice was wrong are coded again.
 */
#include "kernels/cuda/codes_sm90.cuh"
#include "kernels/cuda/tma.cuh"

#define ROW_BLOCKS    4
#define ROWS          (ROW_BLOCKS * 8)
#define STRIP_K       64
#define STRIP_BYTES   (ROWS * STRIP_K * 2)
#define STRIP_STEPS   4    /* of 16 k */
#define STEP_BYTES    2048 /* the fragments of 16 ranks and a strip */
#define INVERSE_BYTES (STRIP_K * 2)
#define LOW_RANKS     16   /* of one mma */
#define PITCH         36   /* of a rank's row of tokens: reads fall into different banks */
#define TOKENS        4    /* that a thread adds up at once */
#define ALIGNMENT     1024 /* of a stage: x is swizzled */
#define SHARED_BYTES  (226 * 1024)
#define CODERS_MEET   1   /* a named barrier */
#define LARGEST_FIRST 100 /* exponents end there (row_exponent) */

/* Eight numbers by two: sixteen neighbours of a row. */
typedef uint32_t Sixteen[2][4];

/* The ranks of a launch, by 16. */
struct Ranks
{
  int first, steps;
};

/* What a block finds out about its rows: the bits of greatest magnitudes. */
struct Found
{
  uint32_t first[ROWS]; /* of the warps' first strips */
  uint32_t most[ROWS];  /* of all */
};

/* The warps that code: as many as have registers for sums of up to 16 STEPS ranks. */
template <int STEPS> struct Coders
{
  static constexpr int WARPS = STEPS <= 2 ? SVDQ_E4M3_WARPS : SVDQ_E4M3_FEW_WARPS;
  static constexpr int CODERS = WARPS * 32, THREADS = CODERS + 32;
};

/* A stage: x [row] 128 bytes, swizzled; fragments of up to 16 STEPS ranks. The inverses lie behind
 * all stages. */
template <int STEPS> struct Ring : Coders<STEPS>
{
  using Coders<STEPS>::WARPS;
  static constexpr int STAGE_BYTES = STRIP_BYTES + STEPS * STEP_BYTES;
  static constexpr int ROOM = SHARED_BYTES - ALIGNMENT;
  static constexpr int STAGES = ROOM / (STAGE_BYTES + INVERSE_BYTES + 2 * 8);
  static_assert (STAGE_BYTES % ALIGNMENT == 0, "stages are aligned");
  static_assert (WARPS * STEPS * LOW_RANKS * PITCH * 4 <= STAGES * STAGE_BYTES,
                 "the warps' sums fit the stages");
  static_assert (STAGES >= WARPS, "each warp's first strip is there before any is handed back");

  char *memory; /* the first stage */
  uint32_t stages, inverses, full, empty;

  static __device__ __forceinline__ Ring
  make (char *shared)
  {
    Ring r;
    const uint32_t base = shared_address (shared);
    r.stages = (base + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    r.memory = shared + (r.stages - base);
    r.inverses = r.stages + STAGES * STAGE_BYTES;
    r.full = r.inverses + STAGES * INVERSE_BYTES;
    r.empty = r.full + STAGES * 8;
    return r;
  }
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

/* -- loading ------------------------------------------------------------------------------------
 */

template <int STEPS>
static __device__ __forceinline__ void
begin (const Ring<STEPS> &ring)
{
  for (int i = 0; i < Ring<STEPS>::STAGES; i++)
    {
      barrier_init (ring.full + i * 8, 1);
      barrier_init (ring.empty + i * 8, 1);
    }
  barrier_init_fence ();
}

/* One thread: all strips of the block's rows. */
template <int STEPS>
static __device__ __forceinline__ void
load (const Ring<STEPS> &ring, const CUtensorMap *x_map, const SvdqQuantise &q, Ranks ranks,
      int first)
{
  const size_t pitch = (size_t)(q.rank / LOW_RANKS * STEP_BYTES);
  const char *const down = (const char *)q.proj_down + ranks.first * STEP_BYTES;
  const int down_bytes = ranks.steps * STEP_BYTES;
  int stage = 0, phase = 1;
  for (int strip = 0; strip < q.k / STRIP_K; strip++)
    {
      const uint32_t x = ring.stages + stage * Ring<STEPS>::STAGE_BYTES;
      const uint32_t full = ring.full + stage * 8;
      barrier_wait (ring.empty + stage * 8, phase);
      barrier_expect (full, STRIP_BYTES + INVERSE_BYTES + down_bytes);
      tma_load (x, x_map, strip * STRIP_K, first, full);
      bulk_load (ring.inverses + stage * INVERSE_BYTES,
                 (const char *)q.smooth + strip * INVERSE_BYTES, INVERSE_BYTES, full);
      if (STEPS > 0)
        bulk_load (x + STRIP_BYTES, down + strip * pitch, down_bytes, full);
      if (++stage == Ring<STEPS>::STAGES)
        stage = 0, phase ^= 1;
    }
}

/* -- one strip ----------------------------------------------------------------------------------
 */

static __device__ __forceinline__ uint4
load_shared (uint32_t address)
{
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

static __device__ __forceinline__ void
put (uint32_t (&to)[4], uint4 v)
{
  to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}

/* Sixteen neighbours of this lane's row in block j. The swizzle changes a chunk's number by its
 * row's. */
static __device__ __forceinline__ void
take (uint32_t x, int j, Sixteen &out)
{
  const int lane = threadIdx.x % 32, row = 8 * j + lane / 4;
#pragma unroll
  for (int half = 0; half < 2; half++)
    put (out[half], load_shared (x + row * 128 + ((lane % 4 * 2 + half) ^ (row & 7)) * 16));
}

static __device__ __forceinline__ void
take_inverse (uint32_t inverse, Sixteen &out)
{
#pragma unroll
  for (int half = 0; half < 2; half++)
    put (out[half], load_shared (inverse + (threadIdx.x % 4 * 2 + half) * 16));
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
template <int STEPS>
static __device__ __forceinline__ void
look_ahead (const Ring<STEPS> &ring, Found *found)
{
  const int warp = threadIdx.x / 32;
  Sixteen by;
  barrier_wait (ring.full + warp * 8, 0);
  take_inverse (ring.inverses + warp * INVERSE_BYTES, by);
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    {
      Sixteen x;
      uint32_t most = 0;
      take (ring.stages + warp * Ring<STEPS>::STAGE_BYTES, j, x);
      smooth (by, x, most);
      share_greatest (found->first, j, most);
    }
}

/* -- the low-rank product -----------------------------------------------------------------------
 */

/* The fragments of 16 ranks of a stage. */
static __device__ __forceinline__ void
take_down (uint32_t x, int step, uint4 (&down)[STRIP_STEPS])
{
#pragma unroll
  for (int i = 0; i < STRIP_STEPS; i++)
    down[i] = load_shared (x + STRIP_BYTES
                           + ((step * STRIP_STEPS + i) * 32 + threadIdx.x % 32) * sizeof (uint4));
}

/* Their products with sixteen neighbours of each row. */
static __device__ __forceinline__ void
lower (const uint4 (&down)[STRIP_STEPS], const Sixteen &x, float (&sum)[4])
{
#pragma unroll
  for (int i = 0; i < STRIP_STEPS; i++)
    {
      const uint32_t a[4] = { down[i].x, down[i].y, down[i].z, down[i].w };
      mma_bf16 (sum, a, x[i / 2][i % 2 * 2], x[i / 2][i % 2 * 2 + 1]);
    }
}

/* This warp's sums, for the others, in place of the stages. */
template <int STEPS>
static __device__ __forceinline__ void
share_sums (char *memory, const float (&sum)[STEPS][ROW_BLOCKS][4])
{
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float *const own = (float *)memory + warp * STEPS * LOW_RANKS * PITCH;
#pragma unroll
  for (int step = 0; step < STEPS; step++)
#pragma unroll
    for (int j = 0; j < ROW_BLOCKS; j++)
#pragma unroll
      for (int h = 0; h < 2; h++)
        *reinterpret_cast<float2 *> (own + (step * LOW_RANKS + 8 * h + lane / 4) * PITCH + 8 * j
                                     + lane % 4 * 2)
            = make_float2 (sum[step][j][2 * h], sum[step][j][2 * h + 1]);
}

/* Adds the warps' sums, in their order: a thread has one rank of four tokens. */
template <int STEPS>
static __device__ __forceinline__ void
write_low (const SvdqQuantise &q, Ranks ranks, int first, const char *memory, const Found &found)
{
  constexpr int RANKS = STEPS * LOW_RANKS;
  bf16 *const low = (bf16 *)q.low + ranks.first * LOW_RANKS;
  for (int at = threadIdx.x; at < RANKS * (ROWS / TOKENS); at += Coders<STEPS>::CODERS)
    {
      const int rank = at % RANKS, token = at / RANKS * TOKENS;
      float sum[TOKENS] = {};
      if (rank >= ranks.steps * LOW_RANKS)
        continue;
#pragma unroll
      for (int warp = 0; warp < Coders<STEPS>::WARPS; warp++)
        {
          const float4 more = *reinterpret_cast<const float4 *> (
              memory + ((warp * RANKS + rank) * PITCH + token) * sizeof (float));
          sum[0] += more.x, sum[1] += more.y, sum[2] += more.z, sum[3] += more.w;
        }
#pragma unroll
      for (int i = 0; i < TOKENS; i++)
        {
          const int row = first + token + i;
          const float v = __bfloat162float (__float2bfloat16_rn (sum[i]))
                          * power_of_two (-last_exponent (found, token + i));
          if (row < q.m)
            low[(size_t)row * LOW_RANK_PITCH (q.rank) + rank] = __float2bfloat16_rn (v);
        }
    }
}

/* Zeros behind the last rank. */
template <int STEPS>
static __device__ __forceinline__ void
clear_low (const SvdqQuantise &q, int first)
{
  const int pitch = LOW_RANK_PITCH (q.rank), chunks = (pitch - q.rank) / 8;
  for (int i = threadIdx.x; i < ROWS * chunks; i += Coders<STEPS>::CODERS)
    {
      const int row = first + i / chunks;
      if (row < q.m)
        *reinterpret_cast<uint4 *> ((bf16 *)q.low + (size_t)row * pitch + q.rank + i % chunks * 8)
            = make_uint4 (0, 0, 0, 0);
    }
}

/* -- the kernel ---------------------------------------------------------------------------------
 */

/* All codes of this warp's strips once more, from x. */
template <int STEPS>
static __device__ __forceinline__ void
code_again (const SvdqQuantise &q, int first, const int (&own)[ROW_BLOCKS])
{
  const int lane = threadIdx.x % 32;
  for (int strip = threadIdx.x / 32; strip < q.k / STRIP_K; strip += Coders<STEPS>::WARPS)
#pragma unroll
    for (int j = 0; j < ROW_BLOCKS; j++)
      {
        const int row = first + 8 * j + lane / 4, k = strip * STRIP_K + lane % 4 * 16;
        Sixteen x = {}, by;
        uint32_t most = 0;
#pragma unroll
        for (int half = 0; half < 2; half++)
          {
            put (by[half], __ldg ((const uint4 *)((const bf16 *)q.smooth + k) + half));
            if (row < q.m)
              put (x[half],
                   __ldg ((const uint4 *)((const bf16 *)q.x + (size_t)row * q.k + k) + half));
          }
        smooth (by, x, most);
        write_codes (q, row, k, x, own[j]);
      }
}

/* What remains when the block has met: scales, and codes of rows that have another one now. */
template <int STEPS>
static __device__ __forceinline__ void
settle (const SvdqQuantise &q, int first, const Found &found)
{
  const int row = threadIdx.x, lane = threadIdx.x % 32;
  if (q.scale != NULL && row < ROWS && first + row < q.m)
    q.scale[first + row] = power_of_two (last_exponent (found, row));
  int own[ROW_BLOCKS];
  bool other = false;
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    {
      own[j] = last_exponent (found, 8 * j + lane / 4);
      other = other || own[j] != first_exponent (found, 8 * j + lane / 4);
    }
  if (__any_sync (0xffffffffu, other))
    code_again<STEPS> (q, first, own);
}

template <int STEPS>
static __device__ __forceinline__ void
coders_meet ()
{
  asm volatile("bar.sync %0, %1;" ::"n"(CODERS_MEET), "n"(Coders<STEPS>::CODERS) : "memory");
}

/* One strip, whose stage begins at x: its codes; adds to the sums and to the greatest. */
template <int STEPS>
static __device__ __forceinline__ void
code_strip (const SvdqQuantise &q, int low_steps, int row, int k, uint32_t x, const Sixteen &by,
            const int (&own)[ROW_BLOCKS], float (&sum)[STEPS > 0 ? STEPS : 1][ROW_BLOCKS][4],
            uint32_t (&most)[ROW_BLOCKS])
{
  /* Few ranks' fragments stay in registers, so that x is taken once. */
  constexpr int KEPT = STEPS <= 2 ? STEPS : 0;
  uint4 kept[KEPT > 0 ? KEPT : 1][STRIP_STEPS];
#pragma unroll
  for (int step = 0; step < KEPT; step++)
    take_down (x, step, kept[step]);
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    {
      Sixteen v;
      take (x, j, v);
#pragma unroll
      for (int step = 0; step < KEPT; step++)
        lower (kept[step], v, sum[step][j]);
      smooth (by, v, most[j]);
      write_codes (q, row + 8 * j, k, v, own[j]);
    }
#pragma unroll
  for (int step = KEPT; step < STEPS; step++)
    if (step < low_steps)
      {
        uint4 down[STRIP_STEPS];
        take_down (x, step, down);
#pragma unroll
        for (int j = 0; j < ROW_BLOCKS; j++)
          {
            Sixteen v;
            take (x, j, v);
            lower (down, v, sum[step][j]);
          }
      }
}

/* The warps that code. */
template <int STEPS>
static __device__ __forceinline__ void
code (const Ring<STEPS> &ring, const SvdqQuantise &q, Ranks ranks, int first, Found *found)
{
  const int lane = threadIdx.x % 32, strips = q.k / STRIP_K;
  if (STEPS > 0)
    clear_low<STEPS> (q, first);
  if ((int)threadIdx.x / 32 < strips)
    look_ahead<STEPS> (ring, found);
  coders_meet<STEPS> ();
  int own[ROW_BLOCKS];
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    own[j] = first_exponent (*found, 8 * j + lane / 4);
  float sum[STEPS > 0 ? STEPS : 1][ROW_BLOCKS][4] = {};
  uint32_t most[ROW_BLOCKS] = {};
#pragma unroll 1
  for (int strip = threadIdx.x / 32; strip < strips; strip += Coders<STEPS>::WARPS)
    {
      const int stage = strip % Ring<STEPS>::STAGES, turn = strip / Ring<STEPS>::STAGES;
      const int k = strip * STRIP_K + lane % 4 * 16;
      const uint32_t x = ring.stages + stage * Ring<STEPS>::STAGE_BYTES;
      Sixteen by;
      /* A barrier tells turns apart by parity. Behind a strip of this warp, which has as many
       * stages as there are warps or more, `empty` is no more than one turn back. */
      barrier_wait (ring.empty + stage * 8, turn & 1 ^ 1);
      barrier_wait (ring.full + stage * 8, turn & 1);
      take_inverse (ring.inverses + stage * INVERSE_BYTES, by);
      code_strip<STEPS> (q, ranks.steps, first + lane / 4, k, x, by, own, sum, most);
      __syncwarp ();
      if (lane == 0)
        barrier_arrive (ring.empty + stage * 8);
    }
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    share_greatest (found->most, j, most[j]);
  coders_meet<STEPS> (); /* nobody reads a stage any more */
  if constexpr (STEPS > 0)
    {
      share_sums<STEPS> (ring.memory, sum);
      coders_meet<STEPS> ();
      write_low<STEPS> (q, ranks, first, ring.memory, *found);
    }
  settle<STEPS> (q, first, *found);
}

#endif

template <int STEPS>
static __global__ void
__launch_bounds__ (Coders<STEPS>::THREADS, 1)
    quantise_e4m3_kernel (const __grid_constant__ CUtensorMap x_map, SvdqQuantise q, Ranks ranks)
{
#if __CUDA_ARCH__ >= 900
  extern __shared__ char shared[];
  __shared__ Found found;
  const Ring<STEPS> ring = Ring<STEPS>::make (shared);
  const int first = (int)blockIdx.x * ROWS;
  constexpr int CODERS = Coders<STEPS>::CODERS;
  if (threadIdx.x == CODERS)
    {
      begin<STEPS> (ring);
      tma_prefetch_map (&x_map);
    }
  if (threadIdx.x < ROWS)
    found.first[threadIdx.x] = found.most[threadIdx.x] = 0;
  __syncthreads ();
  if (threadIdx.x < CODERS)
    code<STEPS> (ring, q, ranks, first, &found);
  else if (threadIdx.x == CODERS)
    load<STEPS> (ring, &x_map, q, ranks, first);
#endif
}

/* -- launching ----------------------------------------------------------------------------------
 */

template <int STEPS>
static Status
launch (Stream *s, const SvdqQuantise *q)
{
  auto *kernel = quantise_e4m3_kernel<STEPS>;
  constexpr int THREADS = Coders<STEPS>::THREADS;
  const int steps = q->rank / LOW_RANKS, blocks = (int)CEIL_DIV (q->m, ROWS);
  TensorMapEncoder encode = NULL;
  CUtensorMap x_map;
  CHECK (tensor_map_encoder (s, &encode));
  CHECK (tensor_map (s, encode, q->x, q->m, q->k, ROWS, STRIP_K, TENSOR_SWIZZLED, &x_map));
  CUDA_CHECK (
      s, cudaFuncSetAttribute (kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES));
  Ranks ranks = {};
  do
    {
      ranks.steps = min (steps - ranks.first, STEPS);
      launch_kernel (kernel, blocks, THREADS, SHARED_BYTES, s->compute, x_map, *q, ranks);
      CHECK (LAUNCHED (s));
      ranks.first += ranks.steps;
    }
  while (ranks.first < steps);
  return STATUS_OK;
}

Status
svdq_quantise_e4m3_sm90 (Stream *s, const SvdqQuantise *q)
{
  REQUIRE (s, s->caps.sm == 90 && q->kind == SVDQ_CODES_E4M3);
  REQUIRE (s, q->m >= 1 && q->k >= STRIP_K && q->k % STRIP_K == 0 && q->k <= SVDQ_SM90_MOST_K);
  REQUIRE (s, (int64_t)q->m * q->k <= INT32_MAX / 2);
  REQUIRE (s, q->rank >= 0 && q->rank % LOW_RANKS == 0);
  switch (q->rank / LOW_RANKS)
    {
    case 0:
      return launch<0> (s, q);
    case 1:
      return launch<1> (s, q);
    case 2:
      return launch<2> (s, q);
    case 3:
    case 4:
      return launch<4> (s, q);
    default:
      return launch<8> (s, q);
    }
}
