/* SPDX-License-Identifier: Apache-2.0
 *
 * Activations on their way into an SVDQuant linear on sm_90, as quantise_sm90.cu, by blocks that
 * have 32 rows to themselves: 4224 rows are one block for each of 132 multiprocessors.
 *
 * K goes in strips of 64 to the block's warps in turn, so that they read neighbours at one time.
 * Each warp has a ring of three strips. A strip is read from shared memory into registers once: for
 * the low-rank product, whose sums stay in registers to the end, and for the greatest magnitude of
 * its rows. Then the block meets, once, and rows' scales and low-rank products are made of what the
 * warps found. Codes come from what is still at hand: the ring's three strips and one in registers,
 * 16 K of 15 warps, which is all of K = 3840. What is not is read again, newest first, as it is in
 * L2 then.
 *
 * Where no scale of whole rows is wanted, NVFP4, or the greatest magnitudes are known, codes are
 * written on the first reading.
 */
#include "kernels/cuda/codes_sm90.cuh"
#include "kernels/cuda/mma.cuh"

#define ROW_BLOCKS  4
#define ROWS        (ROW_BLOCKS * 8)
#define STRIP_K     64
#define STRIP_BYTES (ROWS * STRIP_K * 2)
#define STRIP_STEPS 4 /* of 16 k */
#define WARPS       15
#define THREADS     (WARPS * 32)
#define SLOTS       3  /* strips of a warp in shared memory */
#define LOW_RANKS   16 /* of one mma */
#define MOST_STEPS  2  /* times LOW_RANKS */
#define PITCH       40 /* of a rank's row of tokens: stores fall into different banks */
#define ADDERS      (LOW_RANKS * ROWS / 2) /* threads that add two sums of all warps */

#define X_BYTES        (WARPS * SLOTS * STRIP_BYTES)
#define PARTIAL_FLOATS (WARPS * LOW_RANKS * PITCH)
#define SHARED_BYTES   (X_BYTES + (PARTIAL_FLOATS + WARPS * ROWS) * 4)

/* Eight numbers by two: sixteen neighbours of a row. */
typedef uint32_t Sixteen[2][4];

struct Place
{
  int first, strips; /* row of the block; strips of this warp: warp, warp + WARPS, ... */
};

struct Shared
{
  char *x;         /* this warp's slots */
  float *partial;  /* [warp][rank][token] */
  float *of_warps; /* [warp][row] */
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

static __device__ __forceinline__ void
lower_strip (const Shared &shared, int slot, const uint4 (&down)[STRIP_STEPS],
             float (&sum)[ROW_BLOCKS][4])
{
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    {
      Sixteen x;
      take (shared, slot, j, x);
      lower (down, x, sum[j]);
    }
}

/* -- the work on sixteen numbers ----------------------------------------------------------------
 */

/* The BF16 inverse of sixteen smoothing factors; unused but for E4M3. */
template <SvdqCodes CODES>
static __device__ __forceinline__ void
load_inverse (const SvdqQuantise &q, int k, Sixteen &by)
{
  if constexpr (CODES == SVDQ_CODES_E4M3)
#pragma unroll
    for (int half = 0; half < 2; half++)
      {
        const uint4 v = __ldg (reinterpret_cast<const uint4 *> ((const bf16 *)q.smooth + k) + half);
        by[half][0] = v.x, by[half][1] = v.y, by[half][2] = v.z, by[half][3] = v.w;
      }
}

/* The numbers smoothed; `most`: their greatest magnitudes, in two halves that the caller joins. */
template <SvdqCodes CODES>
static __device__ __forceinline__ void
smooth (const SvdqQuantise &q, int k, const Sixteen &by, Sixteen &x, uint32_t &most)
{
#pragma unroll
  for (int half = 0; half < 2; half++)
    if constexpr (CODES != SVDQ_CODES_E4M3)
      most = __vmaxu2 (most, smooth8 (x[half], q, k + 8 * half));
    else
#pragma unroll
      for (int w = 0; w < 4; w++)
        {
          x[half][w] = times_bf16 (x[half][w], by[half][w]);
          most = __vmaxu2 (most, x[half][w] & 0x7fff7fffu);
        }
}

/* Their codes. */
template <SvdqCodes CODES>
static __device__ __forceinline__ void
write_codes (const SvdqQuantise &q, int row, int k, const Sixteen &x, int exponent)
{
  const float factor = power_of_two (-exponent);
  const size_t at = (size_t)row * q.k + k;
  if (CODES == SVDQ_CODES_E4M3)
    {
      const uint32_t twice = (__float_as_uint (factor) >> 16) * 0x10001u;
      const uint2 a = codes_e4m3 (x[0], twice), b = codes_e4m3 (x[1], twice);
      if (row < q.m)
        *reinterpret_cast<uint4 *> ((uint8_t *)q.codes + at) = make_uint4 (a.x, a.y, b.x, b.y);
      return;
    }
  const float scale = group_scale<CODES> (x);
  const float reciprocal = scale > 0.0f ? __frcp_rn (scale) : 0.0f;
  const uint4 a = codes_f16<CODES> (x[0], scale, reciprocal, factor);
  const uint4 b = codes_f16<CODES> (x[1], scale, reciprocal, factor);
  uint4 *out = reinterpret_cast<uint4 *> ((__half *)q.codes + (row < q.m ? at : 0));
  if (row < q.m)
    out[0] = a, out[1] = b;
}

/* The codes of a strip in shared memory, or in registers (`held`). */
template <SvdqCodes CODES>
static __device__ __forceinline__ void
code_strip (const SvdqQuantise &q, const Place &p, const Shared &shared, int i, int slot,
            const int (&exponents)[ROW_BLOCKS])
{
  const int lane = threadIdx.x % 32, k = strip_of (i) * STRIP_K + lane % 4 * 16;
  Sixteen by;
  load_inverse<CODES> (q, k, by);
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    {
      Sixteen x;
      uint32_t most = 0;
      take (shared, slot, j, x);
      smooth<CODES> (q, k, by, x, most);
      write_codes<CODES> (q, p.first + 8 * j + lane / 4, k, x, exponents[j]);
    }
}

/* -- the block's sums ---------------------------------------------------------------------------
 */

/* 16 ranks of this warp's sums, for the others. */
static __device__ __forceinline__ void
share_sums (const Shared &shared, const float (&sum)[ROW_BLOCKS][4])
{
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float *target = shared.partial + (warp * LOW_RANKS + lane / 4) * PITCH + lane % 4 * 2;
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    {
      *reinterpret_cast<float2 *> (target + 8 * j) = make_float2 (sum[j][0], sum[j][1]);
      *reinterpret_cast<float2 *> (target + 8 * PITCH + 8 * j) = make_float2 (sum[j][2], sum[j][3]);
    }
}

/* Of all warps, in their order: a rank of two tokens. ADDERS threads. */
static __device__ __forceinline__ float2
add_sums (const Shared &shared)
{
  const float *from
      = shared.partial + threadIdx.x / (ROWS / 2) * PITCH + threadIdx.x % (ROWS / 2) * 2;
  float2 sum = { 0.0f, 0.0f };
#pragma unroll
  for (int warp = 0; warp < WARPS; warp++)
    {
      const float2 more = *reinterpret_cast<const float2 *> (from + warp * LOW_RANKS * PITCH);
      sum.x += more.x, sum.y += more.y;
    }
  return sum;
}

template <SvdqCodes CODES>
static __device__ __forceinline__ void
write_low (const SvdqQuantise &q, const Place &p, float2 sum, int step, const int *exponents)
{
  const int token = threadIdx.x % (ROWS / 2) * 2, rank = threadIdx.x / (ROWS / 2);
  const float sums[2] = { sum.x, sum.y };
#pragma unroll
  for (int i = 0; i < 2; i++)
    {
      float v = __bfloat162float (__float2bfloat16_rn (sums[i]));
      if (CODES == SVDQ_CODES_E4M3)
        v *= power_of_two (-exponents[token + i]);
      if (p.first + token + i < q.m)
        ((bf16 *)q.low)[(size_t)(p.first + token + i) * LOW_RANK_PITCH (q.rank) + step * LOW_RANKS
                        + rank]
            = __float2bfloat16_rn (v);
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

template <SvdqCodes CODES>
static __device__ __forceinline__ int
exponent_of (float amax)
{
  return CODES == SVDQ_CODES_NVFP4_F16 ? 0 : row_exponent<CODES> (amax);
}

/* Codes, once scales are known: of the strips at hand, then of those read again. */
template <SvdqCodes CODES>
static __device__ __forceinline__ void
code_rest (const SvdqQuantise &q, const Place &p, const Shared &shared,
           const Sixteen (&held)[ROW_BLOCKS], const int *exponents)
{
  const int lane = threadIdx.x % 32;
  int own[ROW_BLOCKS];
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    own[j] = exponents[8 * j + lane / 4];
#pragma unroll 1
  for (int i = p.strips - 1; i >= 0 && i >= p.strips - SLOTS; i--)
    {
      const int slot = i % SLOTS;
      code_strip<CODES> (q, p, shared, i, slot, own);
      __syncwarp ();
      prefetch (q, p, shared, i - SLOTS - 1, slot);
    }
  if (p.strips <= SLOTS)
    return;
  const int last = p.strips - 1 - SLOTS, k = strip_of (last) * STRIP_K + lane % 4 * 16;
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    write_codes<CODES> (q, p.first + 8 * j + lane / 4, k, held[j], own[j]);
#pragma unroll 1
  for (int i = last - 1; i >= 0; i--)
    {
      const int slot = (i + SLOTS + 1) % SLOTS;
      cp_async_wait<SLOTS - 1> ();
      __syncwarp ();
      code_strip<CODES> (q, p, shared, i, slot, own);
      __syncwarp ();
      prefetch (q, p, shared, i - SLOTS, slot);
    }
}

/* KNOWN: `greatest` [m] has the rows' greatest magnitudes once smoothed, or none are needed. */
template <SvdqCodes CODES, int STEPS, bool KNOWN>
static __global__ void
__launch_bounds__ (THREADS, 1) quantise_rows_kernel (SvdqQuantise q, const float *greatest)
{
  /* INT4 takes many registers for its smoothing: then the numbers are read once more. */
  constexpr bool APART = CODES == SVDQ_CODES_INT4_F16 && !KNOWN;
  extern __shared__ __align__ (128) char shared[];
  __shared__ int exponents[ROWS];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float *const partial = (float *)(shared + X_BYTES);
  const Shared room = { shared + warp * SLOTS * STRIP_BYTES, partial, partial + PARTIAL_FLOATS };
  const Place p = { (int)blockIdx.x * ROWS, (q.k / STRIP_K - warp + WARPS - 1) / WARPS };

  int own[ROW_BLOCKS] = {}; /* exponents of this lane's rows */
#pragma unroll
  for (int i = 0; i < SLOTS; i++)
    prefetch (q, p, room, i, i);
  if (KNOWN)
#pragma unroll
    for (int j = 0; j < ROW_BLOCKS; j++)
      {
        const int row = p.first + 8 * j + lane / 4;
        own[j] = exponent_of<CODES> (greatest != NULL && row < q.m ? greatest[row] : 0.0f);
        if (warp == 0 && lane % 4 == 0)
          exponents[8 * j + lane / 4] = own[j];
      }

  float sum[STEPS > 0 ? STEPS : 1][ROW_BLOCKS][4] = {};
  uint32_t most[ROW_BLOCKS] = {};
  Sixteen held[ROW_BLOCKS] = {};
#pragma unroll 1
  for (int i = 0, slot = 0; i < p.strips; i++, slot = slot == SLOTS - 1 ? 0 : slot + 1)
    {
      const int strip = strip_of (i), k = strip * STRIP_K + lane % 4 * 16;
      uint4 first[STRIP_STEPS], second[STRIP_STEPS];
      Sixteen by;
      if constexpr (STEPS > 0)
        load_down<STEPS> (q, strip, 0, first);
      cp_async_wait<SLOTS - 1> ();
      __syncwarp ();
      if constexpr (STEPS > 1)
        load_down<STEPS> (q, strip, 1, second);
      if constexpr (STEPS > 1 || (APART && STEPS > 0))
        lower_strip (room, slot, first, sum[0]);
      if constexpr (STEPS > 1 && APART)
        lower_strip (room, slot, second, sum[1]);
      load_inverse<CODES> (q, k, by);
#pragma unroll
      for (int j = 0; j < ROW_BLOCKS; j++)
        {
          Sixteen x;
          take (room, slot, j, x);
          if constexpr (STEPS > 0 && !APART)
            lower (STEPS > 1 ? second : first, x, sum[STEPS - 1][j]);
          smooth<CODES> (q, k, by, x, most[j]);
          if constexpr (KNOWN)
            write_codes<CODES> (q, p.first + 8 * j + lane / 4, k, x, own[j]);
          else if (i == p.strips - 1 - SLOTS)
#pragma unroll
            for (int w = 0; w < 8; w++)
              held[j][w / 4][w % 4] = x[w / 4][w % 4];
        }
      __syncwarp ();
      prefetch (q, p, room, i + SLOTS, slot);
    }

  /* The block meets. */
  if (!KNOWN)
#pragma unroll
    for (int j = 0; j < ROW_BLOCKS; j++)
      {
        uint32_t row = max (most[j] & 0xffff, most[j] >> 16);
        row = max (row, __shfl_xor_sync (0xffffffffu, row, 1));
        row = max (row, __shfl_xor_sync (0xffffffffu, row, 2));
        if (lane % 4 == 0)
          room.of_warps[warp * ROWS + 8 * j + lane / 4] = __uint_as_float (row << 16);
      }
  if (STEPS > 0)
    share_sums (room, sum[0]);
  __syncthreads ();
  float2 added = {};
  if (STEPS > 0 && threadIdx.x < ADDERS)
    added = add_sums (room);
  if (!KNOWN && threadIdx.x >= THREADS - ROWS)
    {
      const int row = threadIdx.x - (THREADS - ROWS);
      uint32_t amax = 0;
#pragma unroll
      for (int w = 0; w < WARPS; w++)
        amax = max (amax, __float_as_uint (room.of_warps[w * ROWS + row]));
      exponents[row] = exponent_of<CODES> (__uint_as_float (amax));
    }
  __syncthreads ();
  if (STEPS > 1)
    share_sums (room, sum[STEPS > 1 ? 1 : 0]);
  if (STEPS > 0 && threadIdx.x < ADDERS)
    write_low<CODES> (q, p, added, 0, exponents);
  if (STEPS > 0)
    clear_low (q, p);
  if (q.scale != NULL && threadIdx.x < ROWS && p.first + (int)threadIdx.x < q.m)
    q.scale[p.first + threadIdx.x] = power_of_two (exponents[threadIdx.x]);
  if (STEPS > 1)
    {
      __syncthreads ();
      if (threadIdx.x < ADDERS)
        write_low<CODES> (q, p, add_sums (room), 1, exponents);
    }
  if constexpr (!KNOWN)
    code_rest<CODES> (q, p, room, held, exponents);
}

/* -- launching ----------------------------------------------------------------------------------
 */

template <SvdqCodes CODES, int STEPS, bool KNOWN>
static Status
launch (Stream *s, const SvdqQuantise *q, const float *greatest)
{
  auto *kernel = quantise_rows_kernel<CODES, STEPS, KNOWN>;
  CUDA_CHECK (
      s, cudaFuncSetAttribute (kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES));
  const unsigned blocks = (unsigned)CEIL_DIV (q->m, ROWS);
  launch_kernel (kernel, blocks, THREADS, SHARED_BYTES, s->compute, *q, greatest);
  return LAUNCHED (s);
}

template <SvdqCodes CODES, bool KNOWN>
static Status
launch_for_rank (Stream *s, const SvdqQuantise *q, const float *greatest)
{
  switch (q->rank / LOW_RANKS)
    {
    case 0:
      return launch<CODES, 0, KNOWN> (s, q, greatest);
    case 1:
      return launch<CODES, 1, KNOWN> (s, q, greatest);
    default:
      return launch<CODES, 2, KNOWN> (s, q, greatest);
    }
}

template <SvdqCodes CODES>
static Status
launch_for (Stream *s, const SvdqQuantise *q, const float *greatest)
{
  return greatest != NULL ? launch_for_rank<CODES, true> (s, q, greatest)
                          : launch_for_rank<CODES, false> (s, q, NULL);
}

Status
svdq_quantise_rows_sm90 (Stream *s, const SvdqQuantise *q, const float *greatest)
{
  REQUIRE (s, s->caps.sm == 90);
  REQUIRE (s, q->m >= 1 && q->k >= 64 && q->k % STRIP_K == 0 && q->k <= SVDQ_SM90_MOST_K);
  REQUIRE (s, (int64_t)q->m * q->k <= INT32_MAX / 2);
  REQUIRE (s, q->rank >= 0 && q->rank % LOW_RANKS == 0 && q->rank <= MOST_STEPS * LOW_RANKS);
  switch (q->kind)
    {
    case SVDQ_CODES_E4M3:
      return launch_for<SVDQ_CODES_E4M3> (s, q, greatest);
    case SVDQ_CODES_INT4_F16:
      return launch_for<SVDQ_CODES_INT4_F16> (s, q, greatest);
    default:
      return launch_for_rank<SVDQ_CODES_NVFP4_F16, true> (s, q, NULL);
    }
}
