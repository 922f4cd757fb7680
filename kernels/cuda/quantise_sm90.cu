/* SPDX-License-Identifier: Apache-2.0
 *
 * Activations on their way into an SVDQuant linear on sm_90: smoothed, quantised, and multiplied
 * by proj_down, in one reading.
 *
 * A cluster of blocks takes 32 rows at a time, each block a part of K, each warp 64 or 128 of it. A
 * thread keeps its numbers in registers from the first product to the codes, while its warp's
 * numbers of the next 32 rows come into shared memory. What rows need as a whole, the greatest
 * magnitude and the low-rank product, meets in shared memory, first of the block, then of the
 * cluster, in a fixed order.
 *
 * x is the second operand of mma.sync: a thread's 16 neighbours are its k of four instructions.
 * proj_down is stored in the matching order (svdq_low_rank_fragments).
 */
#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/codes_sm90.cuh"
#include "kernels/cuda/mma.cuh"

#define ROW_BLOCKS  4
#define ROWS        (ROW_BLOCKS * 8) /* of x, a cluster's turn */
#define STRIP_K     64               /* of K, that a warp reads at once: 128 bytes of each row */
#define STRIP_BYTES (ROWS * STRIP_K * 2)
#define STRIP_STEPS 4  /* of 16 k */
#define PITCH       40 /* of a rank's row of tokens: stores fall into different banks */
#define LOW_RANKS   16 /* that are multiplied at a time */
#define MOST_SHARED 231000
#define MOST_HELD   2 /* steps of 16 ranks whose fragments stay in shared memory */

/* The shape of a block: its warps, and the strips of 64 k of each. */
template <int WARPS_, int STRIPS_> struct Block
{
  static constexpr int WARPS = WARPS_, STRIPS = STRIPS_, THREADS = WARPS * 32;
  static constexpr int K = WARPS * STRIPS * STRIP_K;
  static constexpr int X_BYTES = WARPS * STRIPS * STRIP_BYTES;
  static constexpr int PARTIAL_BYTES = WARPS * LOW_RANKS * PITCH * 4;
  static constexpr int STEP_BYTES = WARPS * STRIPS * STRIP_STEPS * 512; /* fragments of 16 ranks */
};

/* x of one thread: [strip][block of 8 rows] sixteen numbers as two times four words. */
template <typename B> using Numbers = uint32_t[B::STRIPS][ROW_BLOCKS][2][4];

/* -- reading ------------------------------------------------------------------------------------
 */

/* A block's shared memory. */
struct Shared
{
  char *x;          /* [warp][strip][row] 128 bytes */
  float *partial;   /* [warp][rank][token] */
  float *sums;      /* [rank][token], of this block's K */
  uint4 *fragments; /* [held step][warp][strip][16 k][lane] */
  int held;         /* steps whose fragments are there */
};

/* Where a warp's numbers lie. */
struct Place
{
  int first; /* row of the turn's 32 */
  int strip; /* the warp's first, of K */
};

/* Chunks of 16 bytes change places in odd rows, so that eight lanes of two rows, which read every
 * other chunk, meet no bank twice. */
static __device__ __forceinline__ int
chunk_at (int row, int chunk)
{
  return row * 128 + (chunk ^ (row & 1)) * 16;
}

template <typename B>
static __device__ __forceinline__ char *
strip_at (const Shared &shared, int i)
{
  return shared.x + ((int)threadIdx.x / 32 * B::STRIPS + i) * STRIP_BYTES;
}

/* Begins the reading of 32 rows: a warp's own numbers, whole lines at a time. */
template <typename B>
static __device__ __forceinline__ void
prefetch (const SvdqQuantise &q, const Place &p, const Shared &shared)
{
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < B::STRIPS; i++)
    {
      const int k = (p.strip + i) * STRIP_K + lane % 8 * 8;
      const uint32_t target = shared_address (strip_at<B> (shared, i));
#pragma unroll
      for (int r = 0; r < ROWS; r += 4)
        {
          const int row = r + lane / 8;
          const bool inside = p.first + row < q.m && k < q.k;
          cp_async_16 (target + chunk_at (row, lane % 8),
                       (const bf16 *)q.x + (inside ? (p.first + row) * q.k + k : 0), inside);
        }
    }
  cp_async_commit ();
}

/* Waits for them; each lane takes 16 neighbours of each of its rows. */
template <typename B>
static __device__ __forceinline__ void
take (const Shared &shared, Numbers<B> &x)
{
  const int lane = threadIdx.x % 32;
  cp_async_wait<0> ();
  __syncwarp ();
#pragma unroll
  for (int i = 0; i < B::STRIPS; i++)
#pragma unroll
    for (int j = 0; j < ROW_BLOCKS; j++)
#pragma unroll
      for (int half = 0; half < 2; half++)
        {
          const uint4 v = *reinterpret_cast<const uint4 *> (
              strip_at<B> (shared, i) + chunk_at (8 * j + lane / 4, lane % 4 * 2 + half));
          uint32_t (&to)[4] = x[i][j][half];
          to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
        }
  __syncwarp ();
}

/* Where the fragments of 16 ranks and of 16 k of a strip are. */
static __device__ __forceinline__ size_t
fragment_at (const SvdqQuantise &q, int strip, int step, int k_step)
{
  return (((size_t)strip * (q.rank / LOW_RANKS) + step) * STRIP_STEPS + k_step) * 32
         + threadIdx.x % 32;
}

template <typename B>
static __device__ __forceinline__ int
held_at (int i, int step, int k_step)
{
  const int strip = (step * B::WARPS + (int)threadIdx.x / 32) * B::STRIPS + i;
  return (strip * STRIP_STEPS + k_step) * 32 + (int)threadIdx.x % 32;
}

/* The fragments of this warp's strips and their first ranks, to shared memory. */
template <typename B>
static __device__ __forceinline__ void
prefetch_fragments (const SvdqQuantise &q, const Place &p, const Shared &shared)
{
  for (int step = 0; step < shared.held; step++)
    for (int i = 0; i < B::STRIPS; i++)
      for (int k_step = 0; k_step < STRIP_STEPS; k_step++)
        {
          const bool inside = (p.strip + i) * STRIP_K < q.k;
          cp_async_16 (shared_address (shared.fragments + held_at<B> (i, step, k_step)),
                       (const uint4 *)q.proj_down
                           + (inside ? fragment_at (q, p.strip + i, step, k_step) : 0),
                       inside);
        }
}

/* -- the low-rank product -----------------------------------------------------------------------
 */

/* Fragments of 16 ranks for a strip, from shared memory or past it: all asked for before the first
 * is used. */
template <typename B>
static __device__ __forceinline__ void
load_down (const SvdqQuantise &q, const Place &p, const Shared &shared, int step, int strip,
           uint4 (&a)[STRIP_STEPS])
{
#pragma unroll
  for (int i = 0; i < STRIP_STEPS; i++)
    {
      a[i] = make_uint4 (0, 0, 0, 0);
      if (step < shared.held)
        a[i] = shared.fragments[held_at<B> (strip, step, i)];
      else if ((p.strip + strip) * STRIP_K < q.k)
        a[i] = __ldg ((const uint4 *)q.proj_down + fragment_at (q, p.strip + strip, step, i));
    }
}

/* 16 ranks of x proj_down, of this warp's K, to shared.partial. */
template <typename B>
static __device__ __forceinline__ void
lower_step (const SvdqQuantise &q, const Place &p, const Shared &shared, const Numbers<B> &x,
            int step)
{
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float sum[ROW_BLOCKS][4] = {};
#pragma unroll
  for (int strip = 0; strip < B::STRIPS; strip++)
    {
      uint4 a[STRIP_STEPS];
      load_down<B> (q, p, shared, step, strip, a);
#pragma unroll
      for (int i = 0; i < STRIP_STEPS; i++)
        {
          const uint32_t down[4] = { a[i].x, a[i].y, a[i].z, a[i].w };
#pragma unroll
          for (int j = 0; j < ROW_BLOCKS; j++)
            mma_bf16 (sum[j], down, x[strip][j][i / 2][i % 2 * 2],
                      x[strip][j][i / 2][i % 2 * 2 + 1]);
        }
    }
  float *target = shared.partial + (warp * LOW_RANKS + lane / 4) * PITCH + lane % 4 * 2;
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    {
      *reinterpret_cast<float2 *> (target + 8 * j) = make_float2 (sum[j][0], sum[j][1]);
      *reinterpret_cast<float2 *> (target + 8 * PITCH + 8 * j) = make_float2 (sum[j][2], sum[j][3]);
    }
}

/* The low-rank product of this block's K, to shared.sums. */
template <typename B>
static __device__ __forceinline__ void
lower (const SvdqQuantise &q, const Place &p, const Shared &shared, const Numbers<B> &x)
{
#pragma unroll 1
  for (int step = 0; step < q.rank / LOW_RANKS; step++)
    {
      lower_step<B> (q, p, shared, x, step);
      __syncthreads ();
      for (int i = threadIdx.x; i < LOW_RANKS * ROWS; i += B::THREADS)
        {
          const float *from = shared.partial + i / ROWS * PITCH + i % ROWS;
          float sum = 0.0f;
#pragma unroll
          for (int warp = 0; warp < B::WARPS; warp++)
            sum += from[warp * LOW_RANKS * PITCH];
          shared.sums[step * LOW_RANKS * ROWS + i] = sum;
        }
      __syncthreads ();
    }
}

/* -- codes --------------------------------------------------------------------------------------
 */

/* The numbers smoothed; the greatest magnitude of each row in this block -> greatest. */
template <SvdqCodes CODES, typename B>
static __device__ __forceinline__ void
smooth (const SvdqQuantise &q, const Place &p, Numbers<B> &x, float *of_warps, float *greatest)
{
  const int lane = threadIdx.x % 32;
  uint32_t most[ROW_BLOCKS] = {};
#pragma unroll
  for (int i = 0; i < B::STRIPS; i++)
    {
      if ((p.strip + i) * STRIP_K >= q.k)
        break;
#pragma unroll
      for (int half = 0; half < 2; half++)
        {
          const int k = (p.strip + i) * STRIP_K + lane % 4 * 16 + half * 8;
          uint4 by = {};
          if (CODES == SVDQ_CODES_E4M3)
            by = __ldg (reinterpret_cast<const uint4 *> ((const bf16 *)q.smooth + k));
#pragma unroll
          for (int j = 0; j < ROW_BLOCKS; j++)
            {
              uint32_t (&v)[4] = x[i][j][half];
              if (CODES != SVDQ_CODES_E4M3)
                {
                  most[j] = max (most[j], smooth8 (v, q, k));
                  continue;
                }
              v[0] = mul_bf16x2 (v[0], by.x), v[1] = mul_bf16x2 (v[1], by.y);
              v[2] = mul_bf16x2 (v[2], by.z), v[3] = mul_bf16x2 (v[3], by.w);
              most[j] = max (most[j], greatest8 (v));
            }
        }
    }
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    {
      most[j] = max (most[j], __shfl_xor_sync (0xffffffffu, most[j], 1));
      most[j] = max (most[j], __shfl_xor_sync (0xffffffffu, most[j], 2));
      if (lane % 4 == 0)
        of_warps[threadIdx.x / 32 * ROWS + 8 * j + lane / 4] = __uint_as_float (most[j] << 16);
    }
  __syncthreads ();
  if (threadIdx.x < ROWS)
    {
      uint32_t row = 0;
#pragma unroll
      for (int warp = 0; warp < B::WARPS; warp++)
        row = max (row, __float_as_uint (of_warps[warp * ROWS + threadIdx.x]));
      greatest[threadIdx.x] = __uint_as_float (row);
    }
}

template <SvdqCodes CODES, typename B>
static __device__ __forceinline__ void
write_codes (const SvdqQuantise &q, const Place &p, const Numbers<B> &x, const int *exponents)
{
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    {
      const int row = p.first + 8 * j + lane / 4;
      const float factor = power_of_two (-exponents[row - p.first]);
      const uint32_t twice = (__float_as_uint (factor) >> 16) * 0x10001u;
#pragma unroll
      for (int i = 0; i < B::STRIPS; i++)
        {
          const int k = (p.strip + i) * STRIP_K + lane % 4 * 16, at = row * q.k + k;
          const bool inside = row < q.m && k < q.k;
          if (CODES == SVDQ_CODES_E4M3)
            {
              const uint2 a = codes_e4m3 (x[i][j][0], twice), b = codes_e4m3 (x[i][j][1], twice);
              if (inside)
                *reinterpret_cast<uint4 *> ((uint8_t *)q.codes + at)
                    = make_uint4 (a.x, a.y, b.x, b.y);
              continue;
            }
          const float scale = group_scale<CODES> (x[i][j]);
          uint4 *out = reinterpret_cast<uint4 *> ((__half *)q.codes + (inside ? at : 0));
          if (!inside)
            continue;
          const float reciprocal = scale > 0.0f ? __frcp_rn (scale) : 0.0f;
          out[0] = codes_f16<CODES> (x[i][j][0], scale, reciprocal, factor);
          out[1] = codes_f16<CODES> (x[i][j][1], scale, reciprocal, factor);
        }
    }
}

/* This block's share of the low-rank product in BF16; the rows' scales. */
template <SvdqCodes CODES, typename B>
static __device__ __forceinline__ void
write_rows (const SvdqQuantise &q, const Place &p, const Shared &shared, const int *exponents)
{
  const int blocks = gridDim.x, pitch = LOW_RANK_PITCH (q.rank), row_of = threadIdx.x;
  if (blockIdx.x == 0 && q.scale != NULL && row_of < ROWS && p.first + row_of < q.m)
    q.scale[p.first + row_of] = power_of_two (exponents[row_of]);
  for (int i = blockIdx.x * B::THREADS + threadIdx.x; i < pitch * ROWS; i += blocks * B::THREADS)
    {
      const int row = i % ROWS, rank = i / ROWS;
      float sum = 0.0f;
      for (int block = 0; block < blocks && rank < q.rank; block++)
        sum += cluster_load (shared_address (shared.sums + rank * ROWS + row), block);
      sum = __bfloat162float (__float2bfloat16_rn (sum));
      if (CODES == SVDQ_CODES_E4M3)
        sum *= power_of_two (-exponents[row]);
      if (p.first + row < q.m)
        ((bf16 *)q.low)[(size_t)(p.first + row) * pitch + rank] = __float2bfloat16_rn (sum);
    }
}

/* What the cluster's blocks found is in their `greatest`: the rows' exponents. */
template <SvdqCodes CODES>
static __device__ __forceinline__ void
find_exponents (const float *greatest, int *exponents)
{
  if (threadIdx.x < ROWS)
    {
      uint32_t most = 0;
      for (int block = 0; block < (int)gridDim.x; block++)
        most = max (
            most, __float_as_uint (cluster_load (shared_address (greatest + threadIdx.x), block)));
      exponents[threadIdx.x]
          = CODES == SVDQ_CODES_NVFP4_F16 ? 0 : row_exponent<CODES> (__uint_as_float (most));
    }
  __syncthreads ();
}

/* -- the kernel ---------------------------------------------------------------------------------
 */

template <SvdqCodes CODES, typename B>
static __global__ void
__launch_bounds__ (B::THREADS, 1) quantise_kernel (SvdqQuantise q, int held)
{
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__ (128) char memory[];
  __shared__ float greatest[ROWS];
  __shared__ int exponents[ROWS];
  char *const behind = memory + B::X_BYTES + B::PARTIAL_BYTES;
  const Shared shared = { memory, (float *)(memory + B::X_BYTES),
                          (float *)(behind + held * B::STEP_BYTES), (uint4 *)behind, held };
  Place p = { (int)blockIdx.y * ROWS,
              ((int)blockIdx.x * B::WARPS + (int)threadIdx.x / 32) * B::STRIPS };
  Numbers<B> x;

  prefetch_fragments<B> (q, p, shared);
  prefetch<B> (q, p, shared);
  cluster_arrive ();
  for (; p.first < q.m; p.first += gridDim.y * ROWS)
    {
      take<B> (shared, x);
      Place following = p;
      following.first += gridDim.y * ROWS;
      if (following.first < q.m)
        prefetch<B> (q, following, shared);
      cluster_wait (); /* others have read what this block found for the rows before */
      lower<B> (q, p, shared, x);
      smooth<CODES, B> (q, p, x, shared.partial, greatest);
      cluster_arrive ();
      cluster_wait ();
      find_exponents<CODES> (greatest, exponents);
      write_rows<CODES, B> (q, p, shared, exponents);
      cluster_arrive ();
      write_codes<CODES, B> (q, p, x, exponents);
    }
  cluster_wait ();
#endif
}

/* -- launching ----------------------------------------------------------------------------------
 */

/* As many clusters as run at once, or as share the rows evenly. */
template <SvdqCodes CODES, typename B>
static Status
launch (Stream *s, const SvdqQuantise *q)
{
  const int steps = q->rank / LOW_RANKS, blocks = (int)CEIL_DIV (q->k, B::K);
  const size_t fixed = B::X_BYTES + B::PARTIAL_BYTES + (size_t)q->rank * ROWS * sizeof (float);
  int held = steps < MOST_HELD ? steps : MOST_HELD;
  while (held > 0 && fixed + (size_t)held * B::STEP_BYTES > MOST_SHARED)
    held--;
  REQUIRE (s, fixed <= MOST_SHARED);
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = blocks, cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3 (blocks);
  config.blockDim = dim3 (B::THREADS);
  config.dynamicSmemBytes = fixed + (size_t)held * B::STEP_BYTES;
  config.stream = s->compute;
  config.attrs = &cluster, config.numAttrs = 1;
  auto *kernel = quantise_kernel<CODES, B>;
  int clusters = 0;
  CUDA_CHECK (
      s, cudaFuncSetAttribute (kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, MOST_SHARED));
  CUDA_CHECK (s, cudaOccupancyMaxActiveClusters (&clusters, kernel, &config));
  REQUIRE (s, clusters >= 1);
  const int turns = (int)CEIL_DIV (q->m, ROWS);
  config.gridDim.y = (unsigned)CEIL_DIV (turns, CEIL_DIV (turns, clusters));
  CUDA_CHECK (s, cudaLaunchKernelEx (&config, kernel, *q, held));
  return LAUNCHED (s);
}

/* Pairs of blocks always fill the card; larger clusters leave some of its multiprocessors alone. */
template <SvdqCodes CODES>
static Status
launch_for (Stream *s, const SvdqQuantise *q)
{
  return q->k <= 2 * Block<15, 2>::K ? launch<CODES, Block<15, 2>> (s, q)
                                     : launch<CODES, Block<20, 1>> (s, q);
}

Status
svdq_quantise_sm90 (Stream *s, const SvdqQuantise *q)
{
  REQUIRE (s, s->caps.sm == 90);
  REQUIRE (s, q->m >= 1 && q->k >= 64 && q->k % 64 == 0 && q->k <= SVDQ_SM90_MOST_K);
  REQUIRE (s, (int64_t)q->m * q->k <= INT32_MAX / 2);
  REQUIRE (s, q->rank >= 0 && q->rank % LOW_RANKS == 0);
  switch (q->kind)
    {
    case SVDQ_CODES_E4M3:
      return launch_for<SVDQ_CODES_E4M3> (s, q);
    case SVDQ_CODES_INT4_F16:
      return launch_for<SVDQ_CODES_INT4_F16> (s, q);
    default:
      return launch_for<SVDQ_CODES_NVFP4_F16> (s, q);
    }
}
