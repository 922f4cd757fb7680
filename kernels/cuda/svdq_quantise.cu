/* SPDX-License-Identifier: Apache-2.0
 *
 * Activations on their way to 4 bit: codes, scales, and the low-rank product x proj_down.
 *
 * A block takes 32 rows of x and a range of k, 64 k at a time through a ring of cp.async. From the
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

#define ROWS        32
#define STEP_K      64
#define THREADS     (ROWS * 4)
#define STAGES      3
#define ROW_BYTES   (STEP_K * 2)
#define X_BYTES     (ROWS * ROW_BYTES)
#define WARPS_ALONG 2 /* and two down, 16 rows each */
#define MOST_RANK   128
#define WANTED      1024 /* blocks: enough to fill any card */
#define WANTED_LOW  512  /* with a low rank, whose sums are to be added again */
#define LEAST_STEPS 2    /* of a range */

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

/* 64 columns of COUNT rows; `from` is the thread's own eight of the first row, `left` the rows from
 * there to the matrix's end. Zeros beyond it, where nothing is read. */
template <int COUNT>
static __device__ __forceinline__ void
copy_rows (uint32_t shared, const bf16 *from, int left, int k)
{
  const int row = threadIdx.x / 8, chunk = threadIdx.x % 8;
#pragma unroll
  for (int i = 0; i < COUNT; i += THREADS / 8)
    cp_async_16 (shared + chunk_at (i + row, chunk), from + (size_t)i * k, i < left);
}

/* Where a thread's share of every stage begins. */
struct Source
{
  const bf16 *x, *down;
  const float *inverse;
  int rows_left, ranks_left;
};

template <int RANK>
static __device__ __forceinline__ Source
source_of (const Quantise &q, int row)
{
  const int own = threadIdx.x / 8, chunk = threadIdx.x % 8, rank = (int)blockIdx.z * RANK + own;
  return { q.x + (size_t)(row + own) * q.k + chunk * 8,
           RANK > 0 ? q.down + (size_t)rank * q.k + chunk * 8 : NULL, q.inverse + threadIdx.x * 4,
           q.m - row - own, q.rank - rank };
}

template <int RANK>
static __device__ __forceinline__ void
copy_stage (const Source &from, uint32_t ring, int step, int last, int k)
{
  typedef Ring<RANK> R;
  const uint32_t shared = ring + step % STAGES * R::STAGE_BYTES;
  if (step < last)
    {
      copy_rows<ROWS> (shared, from.x + step * STEP_K, from.rows_left, k);
      if (RANK > 0)
        copy_rows<RANK> (shared + R::DOWN, from.down + step * STEP_K, from.ranks_left, k);
      if (threadIdx.x < STEP_K / 4)
        cp_async_16 (shared + R::INVERSE + threadIdx.x * 16, from.inverse + step * STEP_K, true);
    }
  cp_async_commit (); /* an empty group too: the waits count groups */
}

/* -- quantising ---------------------------------------------------------------------------------
 */

static __device__ __forceinline__ __nv_bfloat162
magnitudes (uint32_t h)
{
  return __habs2 (*reinterpret_cast<const __nv_bfloat162 *> (&h));
}

/* The greatest magnitude, as BF16 bits, among the lanes of a group; a NaN wins. */
template <bool INT4>
static __device__ __forceinline__ uint32_t
greatest (const uint32_t h[4])
{
  constexpr int LANES = INT4 ? 8 : 2;
  __nv_bfloat162 most = __hmax2_nan (__hmax2_nan (magnitudes (h[0]), magnitudes (h[1])),
                                     __hmax2_nan (magnitudes (h[2]), magnitudes (h[3])));
#pragma unroll
  for (int lane = 1; lane < LANES; lane *= 2)
    most = __hmax2_nan (most, __shfl_xor_sync (0xffffffffu, most, lane));
  const uint32_t both = *reinterpret_cast<const uint32_t *> (&most);
  return max (both & 0xffffu, both >> 16);
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

/* 1 / v, correctly rounded, for a `v` of 8 significant bits between 2^-125 and 2^125: one step of
 * Newton's method is 2^-45 off, and such a quotient never that near to where rounding turns. */
static __device__ __forceinline__ float
reciprocal_of (float v)
{
  const float r = reciprocal_estimate (v);
  return __fmaf_rn (__fmaf_rn (-v, r, 1.0f), r, r);
}

/* Eight numbers' codes, and their group's scale as stored. */
struct Coded
{
  uint32_t codes, scale;
};

/* The scale of a normal group. */
template <bool INT4>
static __device__ __forceinline__ Coded
code_group (const uint32_t h[4], uint32_t most)
{
  const float amax = __uint_as_float (most << 16);
  if (INT4)
    {
      const __nv_bfloat16 scale = __float2bfloat16_rn (__fmul_rn (amax, 1.0f / 7.0f));
      return { int4_codes (h, reciprocal_of (__bfloat162float (scale))),
               __bfloat16_as_ushort (scale) };
    }
  const uint32_t bits = svdq_e4m3 (__fmul_rn (amax, 1.0f / 6.0f));
  const float reciprocal = bits != 0 ? reciprocal_of (svdq_e4m3_value (bits)) : 0.0f;
  return { nvfp4_codes (h, reciprocal), bits };
}

/* The same for any group, dividing. All lanes of a warp. */
template <bool INT4>
static __device__ __noinline__ Coded
code_divided (uint4 x, const bf16 *smooth)
{
  float v[8], s[8];
  unpack8 (x, v);
  load8 (smooth, s);
  uint32_t h[4];
  for (int i = 0; i < 4; i++)
    h[i] = pack2 (__fdiv_rn (v[2 * i], s[2 * i]), __fdiv_rn (v[2 * i + 1], s[2 * i + 1]));
  const float amax = __uint_as_float (greatest<INT4> (h) << 16);
  Coded out;
  float scale;
  if (INT4)
    {
      out.scale = __bfloat16_as_ushort (__float2bfloat16_rn (__fmul_rn (amax, 1.0f / 7.0f)));
      scale = __uint_as_float (out.scale << 16);
    }
  else
    {
      out.scale = svdq_e4m3 (__fmul_rn (amax, 1.0f / 6.0f));
      scale = out.scale == 0x7f ? 0.0f : svdq_e4m3_value (out.scale);
    }
  const float reciprocal = scale > 0.0f ? __frcp_rn (scale) : 0.0f;
  out.codes = INT4 ? int4_codes_clamped (h, reciprocal) : nvfp4_codes (h, reciprocal);
  return out;
}

template <bool INT4>
static __device__ __forceinline__ void
write_coded (const Quantise &q, const Coded &c, int64_t m, int step, int chunk)
{
  reinterpret_cast<uint32_t *> (q.codes)[m * (q.k / 8) + step * 8 + chunk] = c.codes;
  if (INT4 && chunk == 0)
    static_cast<uint16_t *> (q.scales)[step * q.pitch + m] = (uint16_t)c.scale;
  if (!INT4 && chunk % 2 == 0)
    static_cast<uint8_t *> (q.scales)[(step * q.pitch + m) * 4 + chunk / 2] = (uint8_t)c.scale;
}

/* Eight columns of two rows a thread; eight lanes share a row. */
template <bool INT4>
static __device__ __forceinline__ void
quantise_stage (const Quantise &q, const char *x, const float *inverse_at, int step, int row)
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
      uint32_t h[4];
      bits[i] = *reinterpret_cast<const uint4 *> (x + chunk_at (first + i * 4, chunk));
      unpack8 (bits[i], v);
      h[0] = pack2 (__fmul_rn (v[0], low.x), __fmul_rn (v[1], low.y));
      h[1] = pack2 (__fmul_rn (v[2], low.z), __fmul_rn (v[3], low.w));
      h[2] = pack2 (__fmul_rn (v[4], high.x), __fmul_rn (v[5], high.y));
      h[3] = pack2 (__fmul_rn (v[6], high.z), __fmul_rn (v[7], high.w));
      const uint32_t most = greatest<INT4> (h);
      unusual |= most - LEAST_BITS >= LIMIT_BITS - LEAST_BITS && row + first + i * 4 < q.m;
      made[i] = code_group<INT4> (h, most);
    }
  if (__any_sync (0xffffffffu, unusual))
    for (int i = 0; i < 2; i++)
      made[i] = code_divided<INT4> (bits[i], q.smooth + step * STEP_K + chunk * 8);
#pragma unroll
  for (int i = 0; i < 2; i++)
    if (row + first + i * 4 < q.m)
      write_coded<INT4> (q, made[i], row + first + i * 4, step, chunk);
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
__launch_bounds__ (THREADS, RANK > 64   ? 2
                            : RANK > 32 ? 3
                                        : 4) quantise_kernel (Quantise q)
{
  extern __shared__ __align__ (128) char shared[];
  typedef Ring<RANK> R;
  const uint32_t ring = shared_address (shared);
  const int steps = q.k / STEP_K, row = (int)blockIdx.x * ROWS;
  const int first = (int)((int64_t)steps * blockIdx.y / q.splits);
  const int last = (int)((int64_t)steps * (blockIdx.y + 1) / q.splits);

  float d[RANK > 0 ? RANK / WARPS_ALONG / 8 : 1][4] = {};
  const Source from = source_of<RANK> (q, row);
  for (int step = first; step < first + STAGES - 1; step++)
    copy_stage<RANK> (from, ring, step, last, q.k);
  for (int step = first; step < last; step++)
    {
      cp_async_wait<STAGES - 2> ();
      __syncthreads (); /* the stage is there, and the one before it is read by all */
      copy_stage<RANK> (from, ring, step + STAGES - 1, last, q.k);
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
  int64_t splits = CEIL_DIV (rank > 0 && rank <= 64 ? WANTED_LOW : WANTED, tiles);
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
  launch_kernel (kernel, grid, THREADS, Ring<RANK>::SHARED_BYTES, s->compute, q);
  CHECK (LAUNCHED (s));
  if (q.partial == NULL)
    return STATUS_OK;
  const int64_t pairs = (int64_t)q.m * q.rank / 2;
  launch_kernel (sum_kernel, (unsigned)CEIL_DIV (pairs, 256), 256, 0, s->compute,
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
