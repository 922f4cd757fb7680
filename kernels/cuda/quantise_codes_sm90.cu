/* SPDX-License-Identifier: Apache-2.0
 *
 * Activations on their way into an exact SVDQuant linear on sm_90, as quantise_sm90.cu, by blocks
 * that have 32 rows to themselves: 4224 rows are one block for each of 132 multiprocessors.
 *
 * K goes in strips of 64 to the block's warps in turn, so that they read neighbours at one time.
 * The copy engine fills a ring of strips for each warp, and what its numbers meet. A strip is read
 * into registers once, all 32 rows at a time, as warps are few and wait for results of their own:
 * for the low-rank product, whose sums stay there to the end, and for its codes. Those go back to
 * where x lay, from where the copy engine takes them.
 *
 * The arithmetic of two numbers a word is exact for ordinary groups, and for INT4 under one scale
 * for all rows. Rows that have other groups are coded again at the end, by divisions.
 */
#include "kernels/cuda/codes_sm90.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/tma.cuh"

#define ROW_BLOCKS  4
#define ROWS        (ROW_BLOCKS * 8)
#define STRIP_K     64
#define STRIP_BYTES (ROWS * STRIP_K * 2)
#define STRIP_STEPS 4 /* of 16 k */
#define WARPS       16
#define THREADS     (WARPS * 32)
#define SLOTS       2  /* strips of a warp in shared memory */
#define LOW_RANKS   16 /* of one mma */
#define MOST_STEPS  2  /* times LOW_RANKS */
#define STEP_BYTES  (LOW_RANKS * STRIP_K * 2)
#define PITCH       36  /* of a rank's row of tokens: reads fall into different banks */
#define TOKENS      4   /* that a thread adds up at once */
#define SCALES      128 /* E4M3's, without signs; significands of BF16 */

static_assert (MOST_STEPS * LOW_RANKS * PITCH * 4 <= SLOTS * STRIP_BYTES,
               "a warp's sums fit its slots");
static_assert (MOST_STEPS * LOW_RANKS * ROWS / TOKENS <= THREADS, "all sums are added at once");

/* Eight numbers by two: sixteen neighbours of a row. */
typedef uint32_t Sixteen[2][4];

struct Place
{
  int first, strips; /* row of the block; of K: a warp's are warp, warp + WARPS, ... */
};

/* What the block finds out about rows that are coded again. */
struct Again
{
  uint32_t rows;  /* a bit each */
  uint32_t most;  /* of one: its greatest magnitude, as the bits of FP32 */
  uint32_t unfit; /* not 0: a group's scale is not right under INT4_EXPONENT */
};

/* What a warp has in shared memory. */
struct alignas (1024) Ring
{
  char x[SLOTS][STRIP_BYTES]; /* and then codes; at the end sums */
  uint4 down[MOST_STEPS][STRIP_STEPS][32];
  uint4 inverse[SLOTS][STRIP_K / 4];
  uint64_t full[SLOTS], down_full; /* barriers */
};

struct Block
{
  Ring rings[WARPS];
  uint4 groups[SCALES]; /* nvfp4_group, int4_group */
  Again again;
};

/* -- reading and writing ------------------------------------------------------------------------
 */

/* Chunks of 16 bytes lie as the copy engine swizzles them: eight lanes of two rows, which read
 * every other chunk, meet no bank twice. */
static __device__ __forceinline__ int
chunk_at (int row, int chunk)
{
  return row * 128 + (chunk ^ (row & 7)) * 16;
}

/* Begins the reading of a strip, if there is one: one lane. */
static __device__ __forceinline__ void
prefetch (const SvdqQuantise &q, const CUtensorMap *map, const Place &p, Ring &ring, int strip,
          int slot)
{
  if (strip >= p.strips)
    return;
  const uint32_t full = shared_address (&ring.full[slot]);
  barrier_expect (full, STRIP_BYTES + sizeof ring.inverse[slot]);
  tma_load (shared_address (ring.x[slot]), map, strip * STRIP_K, p.first, full);
  bulk_load (shared_address (ring.inverse[slot]),
             (const char *)q.inverse + strip * sizeof ring.inverse[slot], sizeof ring.inverse[slot],
             full);
}

/* Likewise of its part of proj_down, in fragments (svdq_low_rank_fragments). */
template <int STEPS>
static __device__ __forceinline__ void
prefetch_down (const SvdqQuantise &q, const Place &p, Ring &ring, int strip)
{
  constexpr int BYTES = STEPS * STEP_BYTES;
  if (STEPS == 0 || strip >= p.strips)
    return;
  const uint32_t full = shared_address (&ring.down_full);
  barrier_expect (full, BYTES);
  bulk_load (shared_address (ring.down), (const char *)q.proj_down + (size_t)strip * BYTES, BYTES,
             full);
}

static __device__ __forceinline__ uint4 *
sixteen_at (Ring &ring, int slot, int j, int half)
{
  const int lane = threadIdx.x % 32;
  return reinterpret_cast<uint4 *> (ring.x[slot]
                                    + chunk_at (8 * j + lane / 4, lane % 4 * 2 + half));
}

/* Sixteen neighbours of this lane's row in block j. */
static __device__ __forceinline__ void
take (Ring &ring, int slot, int j, Sixteen &x)
{
#pragma unroll
  for (int half = 0; half < 2; half++)
    {
      const uint4 v = *sixteen_at (ring, slot, j, half);
      x[half][0] = v.x, x[half][1] = v.y, x[half][2] = v.z, x[half][3] = v.w;
    }
}

/* -- the low-rank product -----------------------------------------------------------------------
 */

/* Adds the products of a strip with 16 ranks. */
static __device__ __forceinline__ void
lower (const uint4 (&down)[STRIP_STEPS][32], const Sixteen (&x)[ROW_BLOCKS],
       float (&sum)[ROW_BLOCKS][4])
{
#pragma unroll
  for (int i = 0; i < STRIP_STEPS; i++)
    {
      const uint4 v = down[i][threadIdx.x % 32];
      const uint32_t a[4] = { v.x, v.y, v.z, v.w };
#pragma unroll
      for (int j = 0; j < ROW_BLOCKS; j++)
        mma_bf16 (sum[j], a, x[j][i / 2][i % 2 * 2], x[j][i / 2][i % 2 * 2 + 1]);
    }
}

/* This warp's sums, for the others, in place of its strips. */
template <int STEPS>
static __device__ __forceinline__ void
share_sums (Ring &ring, const float (&sum)[STEPS][ROW_BLOCKS][4])
{
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 0; step < STEPS; step++)
#pragma unroll
    for (int j = 0; j < ROW_BLOCKS; j++)
#pragma unroll
      for (int h = 0; h < 2; h++)
        {
          float *const rank = (float *)ring.x + (step * LOW_RANKS + 8 * h + lane / 4) * PITCH;
          *reinterpret_cast<float2 *> (rank + 8 * j + lane % 4 * 2)
              = make_float2 (sum[step][j][2 * h], sum[step][j][2 * h + 1]);
        }
}

/* Adds the warps' sums, in their order: a thread has one rank of four tokens. */
template <int STEPS>
static __device__ __forceinline__ void
write_low (const SvdqQuantise &q, const Place &p, const Block &block)
{
  constexpr int RANKS = STEPS * LOW_RANKS;
  const int rank = threadIdx.x % RANKS, token = threadIdx.x / RANKS * TOKENS;
  if (token >= ROWS)
    return;
  float sum[TOKENS] = {};
#pragma unroll
  for (int warp = 0; warp < WARPS; warp++)
    {
      const float *const sums = (const float *)block.rings[warp].x;
      const float4 more = *reinterpret_cast<const float4 *> (sums + rank * PITCH + token);
      sum[0] += more.x, sum[1] += more.y, sum[2] += more.z, sum[3] += more.w;
    }
  bf16 *const low = (bf16 *)q.low + rank;
#pragma unroll
  for (int i = 0; i < TOKENS; i++)
    {
      const int row = p.first + token + i;
      if (row < q.m)
        low[(size_t)row * LOW_RANK_PITCH (q.rank)] = __float2bfloat16_rn (sum[i]);
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

/* -- codes --------------------------------------------------------------------------------------
 */

/* INT4: the greatest magnitudes of two groups, in a word, of those of four lanes. */
static __device__ __forceinline__ uint32_t
greatest_of_quad (uint32_t most)
{
  most = __vmaxu2 (most, __shfl_xor_sync (0xffffffffu, most, 1));
  return __vmaxu2 (most, __shfl_xor_sync (0xffffffffu, most, 2));
}

/* What a group meets, by its greatest magnitude; whether it is none for the packed arithmetic. */
template <SvdqCodes CODES>
static __device__ __forceinline__ uint4
group_of (const uint4 *groups, uint32_t most, bool &odd)
{
  if (CODES == SVDQ_CODES_NVFP4_F16)
    {
      const float scale = __uint_as_float (most << 16) * (1.0f / 6.0f);
      odd = most >= LIMIT_BITS;
      return groups[__nv_cvt_float_to_fp8 (scale, __NV_SATFINITE, __NV_E4M3)];
    }
  const float scale = __uint_as_float (most << 16) * (1.0f / 7.0f);
  const uint32_t twice = pack2 (scale, scale);
  odd = most != 0 && !int4_fits (twice & 0xffff);
  return int4_group_of (groups, twice);
}

template <SvdqCodes CODES>
static __device__ __forceinline__ uint32_t
pair_packed (uint32_t x, const uint4 &group)
{
  return CODES == SVDQ_CODES_NVFP4_F16 ? nvfp4_pair_packed (x, group) : int4_pair_packed (x, group);
}

/* The codes of a strip; notes rows of this lane that have others. */
template <SvdqCodes CODES>
static __device__ __forceinline__ void
code (const uint4 *groups, const uint4 (&inverse)[STRIP_K / 4], Sixteen (&x)[ROW_BLOCKS],
      uint32_t &odd_rows)
{
  const uint4 *const by = inverse + threadIdx.x % 4 * 4;
  const uint4 by_first[2] = { by[0], by[1] }, by_second[2] = { by[2], by[3] };
  uint32_t most[ROW_BLOCKS];
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    {
      smooth_packed (x[j][0], by_first[0], by_first[1]);
      smooth_packed (x[j][1], by_second[0], by_second[1]);
      most[j] = greatest16 (x[j]);
    }
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS && CODES == SVDQ_CODES_INT4_F16; j += 2)
    {
      const uint32_t both = greatest_of_quad (most[j] | most[j + 1] << 16);
      most[j] = both & 0xffff, most[j + 1] = both >> 16;
    }
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    {
      bool odd;
      const uint4 group = group_of<CODES> (groups, most[j], odd);
      odd_rows |= (uint32_t)odd << 8 * j;
#pragma unroll
      for (int half = 0; half < 2; half++)
#pragma unroll
        for (int w = 0; w < 4; w++)
          x[j][half][w] = pair_packed<CODES> (x[j][half][w], group);
    }
}

/* Codes to where their strip lay, and on. */
static __device__ __forceinline__ void
write_codes (const CUtensorMap *map, const Place &p, Ring &ring, int strip, int slot,
             const Sixteen (&x)[ROW_BLOCKS])
{
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
#pragma unroll
    for (int half = 0; half < 2; half++)
      *sixteen_at (ring, slot, j, half)
          = make_uint4 (x[j][half][0], x[j][half][1], x[j][half][2], x[j][half][3]);
  tma_store_fence ();
  __syncwarp ();
  if (threadIdx.x % 32 == 0)
    {
      tma_store (map, strip * STRIP_K, p.first, shared_address (ring.x[slot]));
      tma_store_commit ();
    }
}

/* -- rows once more -----------------------------------------------------------------------------
 */

/* Sixteen smoothed neighbours from x itself, zeros from k on. */
static __device__ __forceinline__ void
take_again (const SvdqQuantise &q, int row, int k, Sixteen &x)
{
#pragma unroll
  for (int half = 0; half < 2; half++)
    {
      uint4 v = make_uint4 (0, 0, 0, 0);
      if (k < q.k)
        v = *reinterpret_cast<const uint4 *> ((const bf16 *)q.x + (size_t)row * q.k + k + 8 * half);
      x[half][0] = v.x, x[half][1] = v.y, x[half][2] = v.z, x[half][3] = v.w;
      if (k < q.k)
        divide8 (x[half], q, k + 8 * half);
    }
}

/* INT4's exponent of a row: its own, where INT4_EXPONENT is not exact. */
static __device__ __forceinline__ int
exponent_of_row (const SvdqQuantise &q, int row, Again &again)
{
  if (threadIdx.x == 0)
    again.most = again.unfit = 0;
  __syncthreads ();
  for (int first = 0; first < q.k; first += THREADS * 16)
    {
      Sixteen x;
      take_again (q, row, first + (int)threadIdx.x * 16, x);
      const float scale = group_scale<SVDQ_CODES_INT4_F16> (x);
      atomicMax (&again.most, max (greatest8 (x[0]), greatest8 (x[1])) << 16);
      if (scale != 0.0f && !int4_fits (__float_as_uint (scale) >> 16))
        atomicMax (&again.unfit, 1u);
    }
  __syncthreads ();
  const int own = row_exponent<SVDQ_CODES_INT4_F16> (__uint_as_float (again.most));
  return again.unfit != 0 ? own : INT4_EXPONENT;
}

/* A row, by divisions: the whole block. */
template <SvdqCodes CODES>
static __device__ __forceinline__ void
code_row (const SvdqQuantise &q, int row, Again &again)
{
  const int exponent = CODES == SVDQ_CODES_INT4_F16 ? exponent_of_row (q, row, again) : 0;
  if (q.scale != NULL && threadIdx.x == 0)
    q.scale[row] = power_of_two (exponent);
  for (int first = 0; first < q.k; first += THREADS * 16)
    {
      const int k = first + (int)threadIdx.x * 16;
      Sixteen x;
      take_again (q, row, k, x);
      const float scale = group_scale<CODES> (x);
      const float reciprocal = scale > 0.0f ? __frcp_rn (scale) : 0.0f;
      uint4 *const out = reinterpret_cast<uint4 *> ((__half *)q.codes + (size_t)row * q.k + k);
      for (int half = 0; half < 2 && k < q.k; half++)
        out[half] = codes_f16<CODES> (x[half], scale, reciprocal, power_of_two (-exponent));
    }
}

/* All rows noted by some lane; codes from before have left. */
template <SvdqCodes CODES>
static __device__ __forceinline__ void
code_again (const SvdqQuantise &q, const Place &p, Again &again)
{
  if (threadIdx.x % 32 == 0)
    tma_store_wait_all ();
  __syncthreads ();
#pragma unroll 1
  for (uint32_t rows = again.rows; rows != 0; rows &= rows - 1)
    {
      code_row<CODES> (q, p.first + __ffs (rows) - 1, again);
      __syncthreads ();
    }
}

/* -- the kernel ---------------------------------------------------------------------------------
 */

/* Barriers, and the first strips: one lane of each warp. */
template <int STEPS>
static __device__ __forceinline__ void
begin_ring (const SvdqQuantise &q, const CUtensorMap *map, const Place &p, Ring &ring)
{
  const int warp = threadIdx.x / 32;
  for (int i = 0; i < SLOTS; i++)
    barrier_init (shared_address (&ring.full[i]), 1);
  barrier_init (shared_address (&ring.down_full), 1);
  barrier_init_fence ();
  prefetch_down<STEPS> (q, p, ring, warp);
  for (int i = 0; i < SLOTS; i++)
    prefetch (q, map, p, ring, warp + i * WARPS, i);
}

template <SvdqCodes CODES>
static __device__ __forceinline__ void
begin_block (const SvdqQuantise &q, const Place &p, Block &block)
{
  for (int i = threadIdx.x; i < SCALES; i += THREADS)
    block.groups[i] = CODES == SVDQ_CODES_NVFP4_F16 ? nvfp4_group (i) : int4_group (i);
  if (q.scale != NULL && threadIdx.x < ROWS && p.first + (int)threadIdx.x < q.m)
    q.scale[p.first + threadIdx.x]
        = CODES == SVDQ_CODES_NVFP4_F16 ? 1.0f : power_of_two (INT4_EXPONENT);
  if (threadIdx.x == 0)
    block.again.rows = 0;
}

/* This warp's strips: their codes, and its sums of the low-rank product. Returns what `code` notes.
 */
template <SvdqCodes CODES, int STEPS>
static __device__ __forceinline__ uint32_t
take_strips (const SvdqQuantise &q, const CUtensorMap *x_map, const CUtensorMap *codes_map,
             const Place &p, Block &block, float (&sum)[STEPS > 0 ? STEPS : 1][ROW_BLOCKS][4])
{
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Ring &ring = block.rings[warp];
  uint32_t odd_rows = 0;
#pragma unroll 1
  for (int strip = warp, turn = 0; strip < p.strips; strip += WARPS, turn++)
    {
      const int slot = turn % SLOTS;
      barrier_wait (shared_address (&ring.full[slot]), turn / SLOTS & 1);
      Sixteen x[ROW_BLOCKS];
#pragma unroll
      for (int j = 0; j < ROW_BLOCKS; j++)
        take (ring, slot, j, x[j]);
      if (STEPS > 0)
        {
          barrier_wait (shared_address (&ring.down_full), turn & 1);
#pragma unroll
          for (int step = 0; step < STEPS; step++)
            lower (ring.down[step], x, sum[step]);
          tma_store_fence (); /* what comes next must not overtake the reading */
          __syncwarp ();
        }
      if (lane == 0)
        {
          prefetch_down<STEPS> (q, p, ring, strip + WARPS);
          tma_store_wait_read<0> ();
          if (turn > 0)
            prefetch (q, x_map, p, ring, strip + (SLOTS - 1) * WARPS, (turn - 1) % SLOTS);
        }
      __syncwarp ();
      code<CODES> (block.groups, ring.inverse[slot], x, odd_rows);
      write_codes (codes_map, p, ring, strip, slot, x);
      __syncwarp ();
    }
  return odd_rows;
}

template <SvdqCodes CODES, int STEPS>
static __global__ void
__launch_bounds__ (THREADS, 1)
    quantise_codes_kernel (SvdqQuantise q, const __grid_constant__ CUtensorMap x_map,
                           const __grid_constant__ CUtensorMap codes_map)
{
#if !defined __CUDA_ARCH__ || __CUDA_ARCH__ >= 900
  extern __shared__ __align__ (1024) char shared[];
  Block &block = *reinterpret_cast<Block *> (shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const Place p = { (int)blockIdx.x * ROWS, q.k / STRIP_K };

  if (lane == 0)
    begin_ring<STEPS> (q, &x_map, p, block.rings[warp]);
  begin_block<CODES> (q, p, block);
  if (STEPS > 0)
    clear_low (q, p);
  __syncthreads ();

  float sum[STEPS > 0 ? STEPS : 1][ROW_BLOCKS][4] = {};
  const uint32_t odd_rows = take_strips<CODES, STEPS> (q, &x_map, &codes_map, p, block, sum);

  if (lane == 0)
    tma_store_wait_read<0> ();
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    if ((odd_rows >> 8 * j & 1) != 0 && p.first + 8 * j + lane / 4 < q.m)
      atomicOr (&block.again.rows, 1u << (8 * j + lane / 4));
  __syncwarp ();
  if constexpr (STEPS > 0)
    share_sums<STEPS> (block.rings[warp], sum);
  __syncthreads ();
  if constexpr (STEPS > 0)
    write_low<STEPS> (q, p, block);
  if (block.again.rows != 0)
    code_again<CODES> (q, p, block.again);
#endif
}

/* -- launching ----------------------------------------------------------------------------------
 */

template <SvdqCodes CODES, int STEPS>
static Status
launch (Stream *s, const SvdqQuantise *q)
{
  TensorMapEncoder encode = NULL;
  CUtensorMap x = {}, codes = {};
  CHECK (tensor_map_encoder (s, &encode));
  CHECK (tensor_map (s, encode, q->x, q->m, q->k, ROWS, STRIP_K, TENSOR_SWIZZLED, &x));
  CHECK (tensor_map (s, encode, q->codes, q->m, q->k, ROWS, STRIP_K, TENSOR_SWIZZLED, &codes));
  auto *kernel = quantise_codes_kernel<CODES, STEPS>;
  CUDA_CHECK (s, cudaFuncSetAttribute (kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       (int)sizeof (Block)));
  launch_kernel (kernel, (unsigned)CEIL_DIV (q->m, ROWS), THREADS, sizeof (Block), s->compute, *q,
                 x, codes);
  return LAUNCHED (s);
}

template <SvdqCodes CODES>
static Status
launch_for (Stream *s, const SvdqQuantise *q)
{
  switch (q->rank / LOW_RANKS)
    {
    case 0:
      return launch<CODES, 0> (s, q);
    case 1:
      return launch<CODES, 1> (s, q);
    default:
      return launch<CODES, 2> (s, q);
    }
}

Status
svdq_quantise_codes_sm90 (Stream *s, const SvdqQuantise *q)
{
  REQUIRE (s, s->caps.sm == 90);
  REQUIRE (s, q->m >= 1 && q->k >= 64 && q->k % STRIP_K == 0 && q->k <= SVDQ_SM90_MOST_K);
  REQUIRE (s, (int64_t)q->m * q->k <= INT32_MAX / 2);
  REQUIRE (s, q->rank >= 0 && q->rank % LOW_RANKS == 0 && q->rank <= MOST_STEPS * LOW_RANKS);
  REQUIRE (s, q->kind != SVDQ_CODES_E4M3);
  return q->kind == SVDQ_CODES_INT4_F16 ? launch_for<SVDQ_CODES_INT4_F16> (s, q)
                                        : launch_for<SVDQ_CODES_NVFP4_F16> (s, q);
}
