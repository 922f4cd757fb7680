/* SPDX-License-Identifier: Apache-2.0
 *
 * Activations on their way to 4 bit: codes, scales, and the low-rank product x proj_down.
 *
 * A block takes 64 rows of x and a range of k, 64 k at a time through a ring of cp.async. From the
 * same tile its threads make codes, eight numbers each, and its warps the low-rank product, by
 * 16-bit mma. Ranges are summed by a second kernel in ascending order; how many there are depends
 * on the sizes alone, so that equal input gives equal bits.
 *
 * x / smooth is a product with the reciprocal. That is exact: both have 8 significant bits, so
 * their quotient is never nearer than 2^-17 of its size to where rounding to BF16 turns, and the
 * product is at most 2^-22 off. It does not hold for quotients below the normal numbers, which
 * matter only in groups that have no larger ones; those groups, and groups with what is not a
 * number, are divided.
 */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/svdq.cuh"
#include "kernels/cuda/svdq.h"

#define ROWS        64
#define STEP_K      64
#define THREADS     256
#define STAGES      3
#define ROW_BYTES   (STEP_K * 2)
#define X_BYTES     (ROWS * ROW_BYTES)
#define WARPS_ALONG 2 /* and four down, 16 rows each */
#define MOST_RANK   128
#define WANTED      512 /* blocks: enough to fill any card */
#define LEAST_STEPS 2   /* of a range */

/* Groups whose greatest magnitude, as BF16 bits, lies outside are divided: 2^-110, infinity. */
#define LEAST_BITS 0x0880u
#define LIMIT_BITS 0x7f80u

struct Quantise
{
  const bf16 *x, *smooth, *down; /* down [rank, k] */
  const float *inverse;
  uint8_t *codes;
  void *scales;
  bf16 *lora;
  float *partial; /* [splits, m, rank]; NULL: one range writes lora */
  int m, k, rank, splits;
  int64_t pitch;
};

/* RANK columns of the low-rank product a block; 0 = none. */
template <int RANK> struct Ring
{
  static constexpr int DOWN = X_BYTES, INVERSE = DOWN + RANK * ROW_BYTES;
  static constexpr int STAGE_BYTES = INVERSE + STEP_K * (int)sizeof (float);
  static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES;
};

static __device__ __forceinline__ uint32_t
chunk_at (int row, int chunk)
{
  return row * ROW_BYTES + (chunk ^ row % 8) * 16;
}

/* -- copying ------------------------------------------------------------------------------------
 */

template <int COUNT>
static __device__ __forceinline__ void
copy_rows (uint32_t shared, const bf16 *matrix, int first, int limit, int k0, int k)
{
#pragma unroll
  for (int i = 0; i < COUNT * 8 / THREADS; i++)
    {
      const int at = i * THREADS + threadIdx.x, row = at / 8, chunk = at % 8;
      const bool inside = first + row < limit;
      cp_async_16 (shared + chunk_at (row, chunk),
                   inside ? matrix + (size_t)(first + row) * k + k0 + chunk * 8 : matrix, inside);
    }
}

template <int RANK>
static __device__ __forceinline__ void
copy_stage (const Quantise &q, uint32_t ring, int step, int last, int row)
{
  typedef Ring<RANK> R;
  const uint32_t shared = ring + step % STAGES * R::STAGE_BYTES;
  if (step < last)
    {
      copy_rows<ROWS> (shared, q.x, row, q.m, step * STEP_K, q.k);
      if (RANK > 0)
        copy_rows<RANK> (shared + R::DOWN, q.down, (int)blockIdx.z * RANK, q.rank, step * STEP_K,
                         q.k);
      if (threadIdx.x < STEP_K / 4)
        cp_async_16 (shared + R::INVERSE + threadIdx.x * 16,
                     q.inverse + step * STEP_K + threadIdx.x * 4, true);
    }
  cp_async_commit (); /* an empty group too: the waits count groups */
}

/* -- quantising ---------------------------------------------------------------------------------
 */

/* The greatest magnitude, as BF16 bits, among the lanes of a group; a NaN wins. */
template <int LANES>
static __device__ __forceinline__ uint32_t
greatest (const uint32_t h[4], uint32_t lanes)
{
  uint32_t most = 0;
#pragma unroll
  for (int i = 0; i < 4; i++)
    {
      const uint32_t low = h[i] & 0x7fffu, high = h[i] >> 16 & 0x7fffu;
      most = max (most, max (low, high));
    }
#pragma unroll
  for (int lane = 1; lane < LANES; lane *= 2)
    most = max (most, __shfl_xor_sync (lanes, most, lane));
  return most;
}

static __device__ __forceinline__ float
half_of (const uint32_t h[4], int i)
{
  return __uint_as_float (i % 2 ? h[i / 2] & 0xffff0000u : h[i / 2] << 16);
}

/* Codes of normal groups need no clamp: a scale is at most 2^-8 too small, and 7.03 is 7. */
static __device__ __forceinline__ uint32_t
int4_codes (const uint32_t h[4], float reciprocal)
{
  /* Codes plus 8 are positive nibbles. Magic's bits shifted along are a constant. */
  constexpr uint32_t EXCESS = SVDQ_MAGIC_BITS * 0x11111111u;
  uint32_t word = 0;
#pragma unroll
  for (int i = 7; i >= 0; i--)
    word = (word << 4)
           + __float_as_uint (__fadd_rn (__fmul_rn (half_of (h, i), reciprocal), SVDQ_MAGIC + 8));
  return (word - EXCESS) ^ 0x88888888u;
}

static __device__ uint32_t
int4_codes_clamped (const uint32_t h[4], float reciprocal)
{
  uint32_t word = 0;
  for (int i = 7; i >= 0; i--) /* NaN becomes 0 */
    word = word << 4
           | (min (max (__float2int_rn (__fmul_rn (half_of (h, i), reciprocal)), -7), 7) & 15);
  return word;
}

static __device__ __forceinline__ uint32_t
nvfp4_codes (const uint32_t h[4], float reciprocal)
{
  uint32_t word = 0;
#pragma unroll
  for (int i = 0; i < 4; i++)
    word |= svdq_e2m1_pair (__fmul_rn (half_of (h, 2 * i), reciprocal),
                            __fmul_rn (half_of (h, 2 * i + 1), reciprocal))
            << 8 * i;
  return word;
}

/* The scale of a group, as stored, and what its numbers are multiplied by. */
template <bool INT4>
static __device__ __forceinline__ uint32_t
scale_of (uint32_t most, float *reciprocal)
{
  const float amax = __uint_as_float (most << 16);
  uint32_t bits;
  float scale;
  if (INT4)
    {
      bits = __bfloat16_as_ushort (__float2bfloat16_rn (__fmul_rn (amax, 1.0f / 7.0f)));
      scale = __uint_as_float (bits << 16);
    }
  else
    {
      bits = svdq_e4m3 (__fmul_rn (amax, 1.0f / 6.0f));
      scale = bits == 0x7f ? 0.0f : svdq_e4m3_value (bits);
    }
  *reciprocal = scale > 0.0f ? __frcp_rn (scale) : 0.0f;
  return bits;
}

/* A group that products do not do right. */
template <bool INT4>
static __device__ __noinline__ uint2
divided (uint4 x, const bf16 *smooth, uint32_t lanes)
{
  float v[8], s[8], reciprocal;
  unpack8 (x, v);
  load8 (smooth, s);
  uint32_t h[4];
  for (int i = 0; i < 4; i++)
    h[i] = pack2 (__fdiv_rn (v[2 * i], s[2 * i]), __fdiv_rn (v[2 * i + 1], s[2 * i + 1]));
  const uint32_t scale = scale_of<INT4> (greatest < INT4 ? 8 : 2 > (h, lanes), &reciprocal);
  return make_uint2 (INT4 ? int4_codes_clamped (h, reciprocal) : nvfp4_codes (h, reciprocal),
                     scale);
}

/* Eight numbers of x at columns `column` on -> their codes, and their group's scale. */
template <bool INT4>
static __device__ __forceinline__ uint2
quantise8 (const Quantise &q, uint4 x, const float inverse[8], int column)
{
  constexpr int LANES = INT4 ? 8 : 2;
  const int lane = threadIdx.x % 32;
  const uint32_t lanes = ((1u << LANES) - 1) << (lane - lane % LANES);
  float v[8], reciprocal;
  uint32_t h[4];
  unpack8 (x, v);
#pragma unroll
  for (int i = 0; i < 4; i++)
    h[i] = pack2 (__fmul_rn (v[2 * i], inverse[2 * i]),
                  __fmul_rn (v[2 * i + 1], inverse[2 * i + 1]));
  const uint32_t most = greatest<LANES> (h, lanes);
  if (most - LEAST_BITS >= LIMIT_BITS - LEAST_BITS)
    return divided<INT4> (x, q.smooth + column, lanes);
  const uint32_t scale = scale_of<INT4> (most, &reciprocal);
  return make_uint2 (INT4 ? int4_codes (h, reciprocal) : nvfp4_codes (h, reciprocal), scale);
}

template <bool INT4>
static __device__ __forceinline__ void
quantise_stage (const Quantise &q, const char *x, const float *inverse_at, int step, int row)
{
  const int lane = threadIdx.x % 32, chunk = lane % 8;
  const int first = threadIdx.x / 32 * 8 + lane / 8;
  float inverse[8];
  *reinterpret_cast<float4 *> (inverse) = reinterpret_cast<const float4 *> (inverse_at)[2 * chunk];
  *reinterpret_cast<float4 *> (inverse + 4)
      = reinterpret_cast<const float4 *> (inverse_at)[2 * chunk + 1];
#pragma unroll
  for (int r = first; r < first + 8; r += 4)
    {
      const int64_t m = row + r;
      if (m >= q.m)
        continue; /* the lanes of a group share their row */
      const uint4 bits = *reinterpret_cast<const uint4 *> (x + chunk_at (r, chunk));
      const uint2 made = quantise8<INT4> (q, bits, inverse, step * STEP_K + chunk * 8);
      reinterpret_cast<uint32_t *> (q.codes)[m * (q.k / 8) + step * 8 + chunk] = made.x;
      if (INT4 && chunk == 0)
        static_cast<uint16_t *> (q.scales)[step * q.pitch + m] = (uint16_t)made.y;
      if (!INT4 && chunk % 2 == 0)
        static_cast<uint8_t *> (q.scales)[(step * q.pitch + m) * 4 + chunk / 2] = (uint8_t)made.y;
    }
}

/* -- the low-rank product -----------------------------------------------------------------------
 */

template <int RANK>
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
      ldmatrix_x4 (a, x + chunk_at (row + lane % 16, step * 2 + lane / 16));
#pragma unroll
      for (int j = 0; j < ALONG / 2; j++)
        {
          uint32_t b[4];
          ldmatrix_x4 (b, down
                              + chunk_at (column + j * 16 + lane / 16 * 8 + lane % 8,
                                          step * 2 + lane / 8 % 2));
          mma_bf16 (d[2 * j], a, b[0], b[1]);
          mma_bf16 (d[2 * j + 1], a, b[2], b[3]);
        }
    }
}

template <int RANK>
static __device__ __forceinline__ void
write_lowered (const Quantise &q, const float (&d)[RANK / WARPS_ALONG / 8][4], int row)
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
              = pack2 (d[j][2 * h], d[j][2 * h + 1]);
      }
}

template <bool INT4, int RANK>
static __global__ void
__launch_bounds__ (THREADS) quantise_kernel (Quantise q)
{
  extern __shared__ __align__ (128) char shared[];
  typedef Ring<RANK> R;
  const uint32_t ring = shared_address (shared);
  const int steps = q.k / STEP_K, row = (int)blockIdx.x * ROWS;
  const int first = (int)((int64_t)steps * blockIdx.y / q.splits);
  const int last = (int)((int64_t)steps * (blockIdx.y + 1) / q.splits);

  float d[RANK > 0 ? RANK / WARPS_ALONG / 8 : 1][4] = {};
  for (int step = first; step < first + STAGES - 1; step++)
    copy_stage<RANK> (q, ring, step, last, row);
  for (int step = first; step < last; step++)
    {
      cp_async_wait<STAGES - 2> ();
      __syncthreads (); /* the stage is there, and the one before it is read by all */
      copy_stage<RANK> (q, ring, step + STAGES - 1, last, row);
      const int at = step % STAGES * R::STAGE_BYTES;
      if (blockIdx.z == 0)
        quantise_stage<INT4> (
            q, shared + at, reinterpret_cast<const float *> (shared + at + R::INVERSE), step, row);
      if constexpr (RANK > 0)
        lower_stage<RANK> (d, ring + at, ring + at + R::DOWN);
    }
  if constexpr (RANK > 0)
    write_lowered<RANK> (q, d, row);
}

/* lora = the sum of the ranges, in ascending order; two numbers a thread. */
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
  lora[i] = pack2 (sum.x, sum.y);
}

/* -- launching ----------------------------------------------------------------------------------
 */

/* Ranges of k: enough blocks, each worth its start, and partial sums that fit into scratch. */
static int
choose_splits (int64_t m, int64_t k, int rank)
{
  const int64_t tiles = CEIL_DIV (m, ROWS), steps = k / STEP_K;
  const int64_t longest = CEIL_DIV (steps, LEAST_STEPS);
  int64_t splits = CEIL_DIV (WANTED, tiles);
  splits = splits < longest ? splits : longest;
  if (rank > 0)
    {
      const int64_t most = (int64_t)SCRATCH_BYTES / (m * rank * (int64_t)sizeof (float));
      splits = splits < most ? splits : most;
    }
  return splits > 1 ? (int)splits : 1;
}

template <bool INT4, int RANK>
static Status
launch (Stream *s, const Quantise &q)
{
  auto *kernel = quantise_kernel<INT4, RANK>;
  const dim3 grid ((unsigned)CEIL_DIV (q.m, ROWS), (unsigned)q.splits,
                   RANK > 0 ? (unsigned)CEIL_DIV (q.rank, RANK) : 1);
  CUDA_CHECK (s, cudaFuncSetAttribute (kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       Ring<RANK>::SHARED_BYTES));
  kernel<<<grid, THREADS, Ring<RANK>::SHARED_BYTES, s->compute>>> (q);
  CHECK (LAUNCHED (s));
  if (q.partial == NULL)
    return STATUS_OK;
  const int64_t pairs = (int64_t)q.m * q.rank / 2;
  sum_kernel<<<(unsigned)CEIL_DIV (pairs, 256), 256, 0, s->compute>>> (
      (const float2 *)q.partial, (uint32_t *)q.lora, pairs, q.splits);
  return LAUNCHED (s);
}

template <bool INT4>
static Status
launch_for_rank (Stream *s, const Quantise &q)
{
  if (q.rank == 0)
    return launch<INT4, 0> (s, q);
  if (q.rank <= 32)
    return launch<INT4, 32> (s, q);
  return q.rank <= 64 ? launch<INT4, 64> (s, q) : launch<INT4, MOST_RANK> (s, q);
}

Status
svdq_quantise (Stream *s, const SvdqWeights *w, const void *x, const SvdqActivations *a)
{
  REQUIRE (s, a->m >= 1 && a->m <= INT32_MAX / 2);
  Quantise q = { (const bf16 *)x,
                 (const bf16 *)w->smooth,
                 (const bf16 *)w->proj_down,
                 w->inverse,
                 a->codes,
                 a->scales,
                 (bf16 *)a->lora,
                 NULL,
                 (int)a->m,
                 (int)w->k,
                 w->rank,
                 choose_splits (a->m, w->k, w->rank),
                 a->pitch };
  if (q.splits > 1 && q.rank > 0)
    {
      REQUIRE (s, s->scratch != NULL);
      q.partial = (float *)s->scratch;
    }
  return w->format == SVDQ_INT4 ? launch_for_rank<true> (s, q) : launch_for_rank<false> (s, q);
}
