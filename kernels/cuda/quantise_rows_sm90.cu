/* SPDX-License-Identifier: Apache-2.0
 *
 * Activations on their way into a fast SVDQuant linear on sm_90, as quantise_sm90.cu, by blocks
 * that have 32 rows to themselves: 4224 rows are one block for each of 132 multiprocessors.
 *
 * K goes in strips of 64 to the block's warps in turn, so that they read neighbours at one time.
 * Each warp has a ring of three strips. A strip is read from shared memory into registers once, for
 * the low-rank product, whose sums stay in registers to the end, and for its codes, which leave
 * while later strips arrive.
 *
 * So a row's scale is chosen before all of the row was seen. E4M3 keeps its precision over 15
 * powers of two: the scale leaves four of them above what the warps' first strips, 960 K, call for.
 * Rows for which the choice was wrong are coded again. Exact kinds are quantise_codes_sm90.cu's.
 */
#include "kernels/cuda/codes_sm90.cuh"
#include "kernels/cuda/mma.cuh"

#define ROW_BLOCKS  4
#define ROWS        (ROW_BLOCKS * 8)
#define STRIP_K     64
#define STRIP_BYTES (ROWS * STRIP_K * 2)
#define STRIP_STEPS 4 /* of 16 k */
#define WARPS       SVDQ_ROWS_WARPS
#define THREADS     (WARPS * 32)
#define SLOTS       3  /* strips of a warp in shared memory */
#define LOW_RANKS   16 /* of one mma */
#define MOST_STEPS  2  /* times LOW_RANKS */
#define PITCH       36 /* of a rank's row of tokens: reads fall into different banks */
#define TOKENS      4  /* that a thread adds up at once */

#define SLOTS_BYTES  (SLOTS * STRIP_BYTES)
#define SHARED_BYTES (WARPS * SLOTS_BYTES)
static_assert (MOST_STEPS * LOW_RANKS * PITCH * 4 <= SLOTS_BYTES, "a warp's sums fit its slots");
static_assert (MOST_STEPS * LOW_RANKS * ROWS / TOKENS <= THREADS, "all sums are added at once");

/* Eight numbers by two: sixteen neighbours of a row. */
typedef uint32_t Sixteen[2][4];

struct Place
{
  int first, strips; /* row of the block; strips of this warp: warp, warp + WARPS, ... */
};

/* What the block finds out about its rows. Magnitudes are the bits of an FP32 number. */
struct Found
{
  uint32_t first[ROWS]; /* the greatest of the warps' first strips */
  uint32_t most[ROWS];  /* of all */
};

struct Shared
{
  char *all, *x; /* slots: of all warps, of this one */
  Found *found;
};

/* -- reading ------------------------------------------------------------------------------------
 */

/* Chunks of 16 bytes change places in odd rows, so that eight lanes of two rows, which read every
 * other chunk, meet no bank twice. */
static __device__ __forceinline__ int
chunk_at (int row, int chunk)
{
  return row * 128 + (chunk ^ (row & 1)) * 16;
}

static __device__ __forceinline__ int
strip_of (int i)
{
  return (int)threadIdx.x / 32 + i * WARPS;
}

/* Begins the reading of this warp's strip i, if there is one; a group of copies in any case. */
static __device__ __forceinline__ void
prefetch (const SvdqQuantise &q, const Place &p, const Shared &shared, int i, int slot)
{
  const int lane = threadIdx.x % 32;
  if (i >= 0 && i < p.strips)
    {
      const uint32_t target = shared_address (shared.x + slot * STRIP_BYTES);
      const bf16 *from = (const bf16 *)q.x + strip_of (i) * STRIP_K + lane % 8 * 8;
#pragma unroll
      for (int r = 0; r < ROWS; r += 4)
        {
          const int row = r + lane / 8;
          const bool inside = p.first + row < q.m;
          cp_async_16 (target + chunk_at (row, lane % 8),
                       from + (inside ? (size_t)(p.first + row) * q.k : 0), inside);
        }
    }
  cp_async_commit ();
}

/* Sixteen neighbours of this lane's row in block j. */
static __device__ __forceinline__ void
take (const Shared &shared, int slot, int j, Sixteen &x)
{
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; half++)
    {
      const uint4 v = *reinterpret_cast<const uint4 *> (
          shared.x + slot * STRIP_BYTES + chunk_at (8 * j + lane / 4, lane % 4 * 2 + half));
      x[half][0] = v.x, x[half][1] = v.y, x[half][2] = v.z, x[half][3] = v.w;
    }
}

/* The fragments of 16 ranks for a strip (svdq_low_rank_fragments). */
template <int STEPS>
static __device__ __forceinline__ void
load_down (const SvdqQuantise &q, int strip, int step, uint4 (&down)[STRIP_STEPS])
{
#pragma unroll
  for (int i = 0; i < STRIP_STEPS; i++)
    down[i] = __ldg ((const uint4 *)q.proj_down
                     + (((size_t)strip * STEPS + step) * STRIP_STEPS + i) * 32 + threadIdx.x % 32);
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

/* -- the work on sixteen numbers ----------------------------------------------------------------
 */

/* The BF16 inverse of sixteen smoothing factors. */
static __device__ __forceinline__ void
load_inverse (const SvdqQuantise &q, int k, Sixteen &by)
{
#pragma unroll
  for (int half = 0; half < 2; half++)
    {
      const uint4 v = __ldg (reinterpret_cast<const uint4 *> ((const bf16 *)q.smooth + k) + half);
      by[half][0] = v.x, by[half][1] = v.y, by[half][2] = v.z, by[half][3] = v.w;
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

/* Their codes. */
static __device__ __forceinline__ void
write_codes (const SvdqQuantise &q, int row, int k, const Sixteen &x, int exponent)
{
  const uint32_t twice = (__float_as_uint (power_of_two (-exponent)) >> 16) * 0x10001u;
  const uint2 a = codes_e4m3 (x[0], twice), b = codes_e4m3 (x[1], twice);
  if (row < q.m)
    *reinterpret_cast<uint4 *> ((uint8_t *)q.codes + (size_t)row * q.k + k)
        = make_uint4 (a.x, a.y, b.x, b.y);
}

/* -- scales -------------------------------------------------------------------------------------
 */

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

/* The exponent with which a row is coded first. */
static __device__ __forceinline__ int
first_exponent (const Found &found, int row)
{
  return min (row_exponent<SVDQ_CODES_E4M3> (__uint_as_float (found.first[row])) + E4M3_HEADROOM,
              100);
}

/* What it is in the end. */
static __device__ __forceinline__ int
last_exponent (const Found &found, int row)
{
  return max (first_exponent (found, row),
              row_exponent<SVDQ_CODES_E4M3> (__uint_as_float (found.most[row])));
}

/* What E4M3's first scale is made of: the greatest of this warp's first strip. */
static __device__ __forceinline__ void
look_ahead (const SvdqQuantise &q, const Shared &shared)
{
  const int lane = threadIdx.x % 32;
  Sixteen by;
  load_inverse (q, strip_of (0) * STRIP_K + lane % 4 * 16, by);
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    {
      Sixteen x;
      uint32_t most = 0;
      take (shared, 0, j, x);
      smooth (by, x, most);
      share_greatest (shared.found->first, j, most);
    }
}

/* -- the low-rank product -----------------------------------------------------------------------
 */

/* This warp's sums, for the others, in place of its strips. */
template <int STEPS>
static __device__ __forceinline__ void
share_sums (const Shared &shared, const float (&sum)[STEPS][ROW_BLOCKS][4])
{
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 0; step < STEPS; step++)
#pragma unroll
    for (int j = 0; j < ROW_BLOCKS; j++)
#pragma unroll
      for (int h = 0; h < 2; h++)
        {
          float *const rank = (float *)shared.x + (step * LOW_RANKS + 8 * h + lane / 4) * PITCH;
          *reinterpret_cast<float2 *> (rank + 8 * j + lane % 4 * 2)
              = make_float2 (sum[step][j][2 * h], sum[step][j][2 * h + 1]);
        }
}

/* Adds the warps' sums, in their order: a thread has one rank of four tokens. */
template <int STEPS>
static __device__ __forceinline__ void
write_low (const SvdqQuantise &q, const Place &p, const Shared &shared)
{
  constexpr int RANKS = STEPS * LOW_RANKS;
  const int rank = threadIdx.x % RANKS, token = threadIdx.x / RANKS * TOKENS;
  if (token >= ROWS)
    return;
  float sum[TOKENS] = {};
#pragma unroll
  for (int warp = 0; warp < WARPS; warp++)
    {
      const float4 more = *reinterpret_cast<const float4 *> (
          shared.all + warp * SLOTS_BYTES + (rank * PITCH + token) * sizeof (float));
      sum[0] += more.x, sum[1] += more.y, sum[2] += more.z, sum[3] += more.w;
    }
  bf16 *const low = (bf16 *)q.low + rank;
#pragma unroll
  for (int i = 0; i < TOKENS; i++)
    {
      const int row = p.first + token + i;
      const float v = __bfloat162float (__float2bfloat16_rn (sum[i]))
                      * power_of_two (-last_exponent (*shared.found, token + i));
      if (row < q.m)
        low[(size_t)row * LOW_RANK_PITCH (q.rank)] = __float2bfloat16_rn (v);
    }
}

/* Zeros behind the last rank. */
static __device__ __forceinline__ void
clear_low (const SvdqQuantise &q, const Place &p)
{
  const int pitch = LOW_RANK_PITCH (q.rank), chunks = (pitch - q.rank) / 8;
  for (int i = threadIdx.x; i < ROWS * chunks; i += THREADS)
    {
      const int row = p.first + i / chunks;
      if (row < q.m)
        *reinterpret_cast<uint4 *> ((bf16 *)q.low + (size_t)row * pitch + q.rank + i % chunks * 8)
            = make_uint4 (0, 0, 0, 0);
    }
}

/* -- the kernel ---------------------------------------------------------------------------------
 */

/* All codes of this warp once more, from x. */
static __device__ __forceinline__ void
code_again (const SvdqQuantise &q, const Place &p, const Shared &shared,
            const int (&own)[ROW_BLOCKS])
{
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < SLOTS; i++)
    prefetch (q, p, shared, i, i);
#pragma unroll 1
  for (int i = 0, slot = 0; i < p.strips; i++, slot = slot == SLOTS - 1 ? 0 : slot + 1)
    {
      const int k = strip_of (i) * STRIP_K + lane % 4 * 16;
      Sixteen by;
      load_inverse (q, k, by);
      cp_async_wait<SLOTS - 1> ();
      __syncwarp ();
#pragma unroll
      for (int j = 0; j < ROW_BLOCKS; j++)
        {
          Sixteen x;
          uint32_t most = 0;
          take (shared, slot, j, x);
          smooth (by, x, most);
          write_codes (q, p.first + 8 * j + lane / 4, k, x, own[j]);
        }
      __syncwarp ();
      prefetch (q, p, shared, i + SLOTS, slot);
    }
}

/* What remains when the block has met: scales, and codes of rows that have another one now. */
static __device__ __forceinline__ void
settle (const SvdqQuantise &q, const Place &p, const Shared &shared)
{
  const Found &found = *shared.found;
  const int row = threadIdx.x, lane = threadIdx.x % 32;
  if (q.scale != NULL && row < ROWS && p.first + row < q.m)
    q.scale[p.first + row] = power_of_two (last_exponent (found, row));
  int own[ROW_BLOCKS];
  bool other = false;
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    {
      own[j] = last_exponent (found, 8 * j + lane / 4);
      other = other || own[j] != first_exponent (found, 8 * j + lane / 4);
    }
  /* A warp has all rows: the whole block agrees. */
  if (!__any_sync (0xffffffffu, other))
    return;
  __syncthreads ();
  code_again (q, p, shared, own);
}

template <int STEPS>
static __global__ void
__launch_bounds__ (THREADS, 1) quantise_rows_kernel (SvdqQuantise q)
{
  extern __shared__ __align__ (128) char shared[];
  __shared__ Found found;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const Shared room = { shared, shared + warp * SLOTS_BYTES, &found };
  const Place p = { (int)blockIdx.x * ROWS, (q.k / STRIP_K - warp + WARPS - 1) / WARPS };

#pragma unroll
  for (int i = 0; i < SLOTS; i++)
    prefetch (q, p, room, i, i);
  if (threadIdx.x < ROWS)
    found.first[threadIdx.x] = found.most[threadIdx.x] = 0;
  if (STEPS > 0)
    clear_low (q, p);
  __syncthreads ();
  cp_async_wait<SLOTS - 1> ();
  __syncwarp ();
  if (p.strips > 0)
    look_ahead (q, room);
  __syncthreads ();

  int own[ROW_BLOCKS];
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    own[j] = first_exponent (found, 8 * j + lane / 4);
  float sum[STEPS > 0 ? STEPS : 1][ROW_BLOCKS][4] = {};
  uint32_t most[ROW_BLOCKS] = {};
#pragma unroll 1
  for (int i = 0, slot = 0; i < p.strips; i++, slot = slot == SLOTS - 1 ? 0 : slot + 1)
    {
      const int strip = strip_of (i), k = strip * STRIP_K + lane % 4 * 16;
      uint4 down[STEPS > 0 ? STEPS : 1][STRIP_STEPS];
      Sixteen by;
#pragma unroll
      for (int step = 0; step < STEPS; step++)
        load_down<STEPS> (q, strip, step, down[step]);
      load_inverse (q, k, by);
      cp_async_wait<SLOTS - 1> ();
      __syncwarp ();
#pragma unroll
      for (int j = 0; j < ROW_BLOCKS; j++)
        {
          Sixteen x;
          take (room, slot, j, x);
#pragma unroll
          for (int step = 0; step < STEPS; step++)
            lower (down[step], x, sum[step][j]);
          smooth (by, x, most[j]);
          write_codes (q, p.first + 8 * j + lane / 4, k, x, own[j]);
        }
      __syncwarp ();
      prefetch (q, p, room, i + SLOTS, slot);
    }

    /* The block meets. */
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    share_greatest (found.most, j, most[j]);
  if constexpr (STEPS > 0)
    share_sums<STEPS> (room, sum);
  __syncthreads ();
  if constexpr (STEPS > 0)
    write_low<STEPS> (q, p, room);
  settle (q, p, room);
}

/* -- launching ----------------------------------------------------------------------------------
 */

template <int STEPS>
static Status
launch (Stream *s, const SvdqQuantise *q)
{
  auto *kernel = quantise_rows_kernel<STEPS>;
  CUDA_CHECK (
      s, cudaFuncSetAttribute (kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES));
  launch_kernel (kernel, (unsigned)CEIL_DIV (q->m, ROWS), THREADS, SHARED_BYTES, s->compute, *q);
  return LAUNCHED (s);
}

Status
svdq_quantise_rows_sm90 (Stream *s, const SvdqQuantise *q)
{
  if (q->kind != SVDQ_CODES_E4M3)
    return svdq_quantise_codes_sm90 (s, q);
  REQUIRE (s, s->caps.sm == 90);
  REQUIRE (s, q->m >= 1 && q->k >= 64 && q->k % STRIP_K == 0 && q->k <= SVDQ_SM90_MOST_K);
  REQUIRE (s, (int64_t)q->m * q->k <= INT32_MAX / 2);
  REQUIRE (s, q->rank >= 0 && q->rank % LOW_RANKS == 0 && q->rank <= MOST_STEPS * LOW_RANKS);
  switch (q->rank / LOW_RANKS)
    {
    case 0:
      return launch<0> (s, q);
    case 1:
      return launch<1> (s, q);
    default:
      return launch<2> (s, q);
    }
}
