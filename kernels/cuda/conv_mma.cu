/* SPDX-License-Identifier: Apache-2.0
 *
 * Convolution on warp-level matrix instructions: a block computes BM pixels x BN channels, its
 * operands pass through a ring of shared-memory stages filled by cp.async, which also writes the
 * zeros outside the picture; on sm_75 by way of registers. Rows in shared memory are swizzled so
 * that neither the copies nor ldmatrix meet bank conflicts.
 */
#include "kernels/cuda/conv.cuh"
#include "kernels/cuda/mma.cuh"

/* -- kernel -------------------------------------------------------------------------------------
 */

#define THREADS 128
#define BM      128

/* Of type T, BN channels a block, BK of the sum a stage, WARPS_M of the four warps along the
 * pixels. */
template <typename T, int BN_, int BK_, int STAGES_, int WARPS_M_> struct Tile
{
  typedef T Number;
  static constexpr int BN = BN_, BK = BK_, STAGES = STAGES_, WARPS_M = WARPS_M_;
  static constexpr int WARPS_N = THREADS / 32 / WARPS_M;
  static constexpr int WARP_M = BM / WARPS_M, WARP_N = BN / WARPS_N; /* a warp's share */
  static constexpr int MI = WARP_M / 16, NI = WARP_N / 8;            /* in fragments */
  static constexpr int CHUNKS = BK / 8;                              /* 16 bytes each, in a row */
  static constexpr int ROW_STEP = THREADS / CHUNKS;
  static constexpr int A_LOADS = BM / ROW_STEP, B_LOADS = BN / ROW_STEP;
  static constexpr int A_BYTES = BM * BK * 2, STAGE_BYTES = A_BYTES + BN * BK * 2;
  static constexpr int PITCH = WARP_N + 8; /* floats of a row on its way out */
  static constexpr int OUT_BYTES = THREADS / 32 * 16 * PITCH * 4;
  static constexpr int RING_BYTES = STAGES * STAGE_BYTES;
  static constexpr int BYTES = RING_BYTES > OUT_BYTES ? RING_BYTES : OUT_BYTES;
};

/* Byte offset of a chunk of a row in shared memory. Rows of 128 bytes mix in their number, rows
 * of 64 share a line of banks in pairs. */
template <typename T>
static __device__ __forceinline__ uint32_t
swizzled (int row, int chunk)
{
  const int turn = T::CHUNKS == 8 ? row & 7 : (row >> 1) & 3;
  return row * (T::BK * 2) + ((chunk ^ turn) << 4);
}

/* What one thread copies: chunk `threadIdx.x % CHUNKS` of A_LOADS pixels and B_LOADS channels. */
template <typename T> struct Loader
{
  typedef ConvLaunch<typename T::Number> Launch;
  int pixel[T::A_LOADS];     /* of the first tap; may lie outside */
  uint32_t taps[T::A_LOADS]; /* bit t: tap t lies inside the picture */
  const typename T::Number *weight;
  int channel, tap_x, tap_y; /* where this thread's next chunk begins */
  AsyncCopy<T::A_LOADS> pixels;
  AsyncCopy<T::B_LOADS> weights;

  __device__ __forceinline__ void
  init (const Launch &c, int first_pixel, int first_channel, int phase)
  {
    const int row = threadIdx.x / T::CHUNKS, chunk = threadIdx.x % T::CHUNKS;
    const int down = c.upsample ? phase / 2 : 0, right = c.upsample ? phase % 2 : 0;
#pragma unroll
    for (int i = 0; i < T::A_LOADS; i++)
      {
        const int m = first_pixel + row + i * T::ROW_STEP;
        const int y = m / c.columns * c.stride + c.offset + down;
        const int x = m % c.columns * c.stride + c.offset + right;
        pixel[i] = y * c.width + x;
        taps[i] = 0;
        if (m < c.rows * c.columns)
          for (int t = 0; t < c.side * c.side; t++)
            {
              const int ty = y + t / c.side, tx = x + t % c.side;
              if (ty >= 0 && ty < c.height && tx >= 0 && tx < c.width)
                taps[i] |= 1u << t;
            }
      }
    weight = c.weight + ((int64_t)phase * c.n + first_channel + row) * c.k + chunk * 8;
    channel = chunk * 8;
    tap_x = tap_y = 0;
    settle (c);
  }

  /* Carries `channel` over into the next taps. */
  __device__ __forceinline__ void
  settle (const Launch &c)
  {
    while (channel >= c.c_in)
      {
        channel -= c.c_in;
        if (++tap_x == c.side)
          {
            tap_x = 0;
            tap_y++;
          }
      }
  }

  /* Asks for the next BK of the sum; they are in `stage` when it is `finish`ed and waited for. */
  __device__ __forceinline__ void
  load (const Launch &c, uint32_t stage)
  {
    const int row = threadIdx.x / T::CHUNKS, chunk = threadIdx.x % T::CHUNKS;
    const int tap = tap_y * c.side + tap_x, shift = tap_y * c.width + tap_x;
#pragma unroll
    for (int i = 0; i < T::A_LOADS; i++)
      {
        const bool inside = taps[i] >> tap & 1;
        const typename T::Number *from = c.x + (int64_t)(pixel[i] + shift) * c.c_in + channel;
        pixels.start (i, stage + swizzled<T> (row + i * T::ROW_STEP, chunk), inside ? from : c.x,
                      inside);
      }
#pragma unroll
    for (int i = 0; i < T::B_LOADS; i++)
      weights.start (i, stage + T::A_BYTES + swizzled<T> (row + i * T::ROW_STEP, chunk),
                     weight + (int64_t)i * T::ROW_STEP * c.k, true);
    weight += T::BK;
    channel += T::BK;
    settle (c);
  }

  __device__ __forceinline__ void
  finish (uint32_t stage)
  {
    const int row = threadIdx.x / T::CHUNKS, chunk = threadIdx.x % T::CHUNKS;
#pragma unroll
    for (int i = 0; i < T::A_LOADS; i++)
      pixels.finish (i, stage + swizzled<T> (row + i * T::ROW_STEP, chunk));
#pragma unroll
    for (int i = 0; i < T::B_LOADS; i++)
      weights.finish (i, stage + T::A_BYTES + swizzled<T> (row + i * T::ROW_STEP, chunk));
  }
};

template <typename T> struct Fragments
{
  uint32_t a[T::MI][4];
  uint32_t b[T::NI / 2][4];

  /* `a_row`, `b_row`: this lane's offsets at k = 0; a step of 16 k flips bits above them. */
  __device__ __forceinline__ void
  load (uint32_t stage, uint32_t a_row, uint32_t b_row, int step)
  {
#pragma unroll
    for (int i = 0; i < T::MI; i++)
      ldmatrix_x4 (a[i], stage + (a_row ^ (step << 5)) + i * 16 * T::BK * 2);
#pragma unroll
    for (int i = 0; i < T::NI / 2; i++)
      ldmatrix_x4 (b[i], stage + T::A_BYTES + (b_row ^ (step << 5)) + i * 16 * T::BK * 2);
  }
};

template <typename T>
static __global__ void
__launch_bounds__ (THREADS, 2) conv_mma_kernel (const ConvLaunch<typename T::Number> c)
{
  if (!Activation<typename T::Number>::RUNS_HERE)
    return;
  extern __shared__ __align__ (128) char shared[];
  const uint32_t ring = shared_address (shared);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, phase = blockIdx.z;
  const int warp_m = warp % T::WARPS_M * T::WARP_M, warp_n = warp / T::WARPS_M * T::WARP_N;
  /* Blocks with the same pixels run side by side, so the picture is read from L2. */
  const int tiles_n = (int)(c.n / T::BN);
  const int first_pixel = blockIdx.x / tiles_n * BM;
  const int first_channel = blockIdx.x % tiles_n * T::BN;
  const int steps = (int)(c.k / T::BK);

  Loader<T> loader;
  loader.init (c, first_pixel, first_channel, phase);
#pragma unroll
  for (int i = 0; i < T::STAGES - 1; i++)
    {
      if (i < steps)
        {
          loader.load (c, ring + i * T::STAGE_BYTES);
          loader.finish (ring + i * T::STAGE_BYTES);
        }
      cp_async_commit ();
    }

  const uint32_t a_row = swizzled<T> (warp_m + lane % 16, lane / 16);
  const uint32_t b_row = swizzled<T> (warp_n + lane % 8 + lane / 16 * 8, lane / 8 % 2);
  float sums[T::MI][T::NI][4] = {};
  for (int step = 0; step < steps; step++)
    {
      cp_async_wait<T::STAGES - 2> ();
      __syncthreads ();
      const int ahead = step + T::STAGES - 1;
      if (ahead < steps)
        loader.load (c, ring + ahead % T::STAGES * T::STAGE_BYTES);
      cp_async_commit ();

      const uint32_t stage = ring + step % T::STAGES * T::STAGE_BYTES;
      Fragments<T> f[2];
      f[0].load (stage, a_row, b_row, 0);
#pragma unroll
      for (int k = 0; k < T::BK / 16; k++)
        {
          if (k + 1 < T::BK / 16)
            f[(k + 1) % 2].load (stage, a_row, b_row, k + 1);
#pragma unroll
          for (int i = 0; i < T::MI; i++)
#pragma unroll
            for (int j = 0; j < T::NI; j++)
              mma<typename T::Number> (sums[i][j], f[k % 2].a[i], f[k % 2].b[j / 2][j % 2 * 2],
                                       f[k % 2].b[j / 2][j % 2 * 2 + 1]);
        }
      if (ahead < steps)
        loader.finish (ring + ahead % T::STAGES * T::STAGE_BYTES);
    }
  cp_async_wait<0> ();
  __syncthreads ();

  /* Out through the warp's own piece of shared memory, so that rows leave in whole sectors. */
  float *piece = reinterpret_cast<float *> (shared) + warp * 16 * T::PITCH;
  constexpr int LANES = T::WARP_N / 8, ROWS = 32 / LANES; /* of a row; rows at once */
  const int column = lane % LANES * 8, channel = first_channel + warp_n + column;
#pragma unroll
  for (int i = 0; i < T::MI; i++)
    {
      int64_t pixel[16 / ROWS];
      uint4 residual[16 / ROWS];
#pragma unroll
      for (int j = 0; j < 16 / ROWS; j++)
        {
          const int m = first_pixel + warp_m + 16 * i + lane / LANES + j * ROWS;
          pixel[j] = m < c.rows * c.columns ? conv_output_pixel (c, phase, m) : -1;
          residual[j] = conv_residual8 (c, pixel[j], channel);
        }
#pragma unroll
      for (int j = 0; j < T::NI; j++)
#pragma unroll
        for (int half = 0; half < 2; half++)
          *reinterpret_cast<float2 *> (piece + (lane / 4 + 8 * half) * T::PITCH + 8 * j
                                       + lane % 4 * 2)
              = make_float2 (sums[i][j][2 * half], sums[i][j][2 * half + 1]);
      __syncwarp ();
#pragma unroll
      for (int j = 0; j < 16 / ROWS; j++)
        {
          const float4 *from
              = reinterpret_cast<float4 *> (piece + (lane / LANES + j * ROWS) * T::PITCH + column);
          const float4 low = from[0], high = from[1];
          float v[8] = { low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w };
          conv_store8 (c, pixel[j], channel, v, residual[j]);
        }
      __syncwarp ();
    }
}

/* -- launcher -----------------------------------------------------------------------------------
 */

template <typename T>
static Status
launch (Stream *s, const Conv *conv, const ConvLaunch<typename T::Number> *c)
{
  const int64_t tiles = CEIL_DIV ((int64_t)c->rows * c->columns, BM) * (c->n / T::BN);
  REQUIRE (s, tiles <= INT32_MAX && c->k % T::BK == 0);
  CUDA_CHECK (s, cudaFuncSetAttribute (conv_mma_kernel<T>,
                                       cudaFuncAttributeMaxDynamicSharedMemorySize, T::BYTES));
  const dim3 grid ((unsigned)tiles, 1, (unsigned)conv->phases);
  launch_kernel (conv_mma_kernel<T>, grid, THREADS, T::BYTES, s->compute, *c);
  return LAUNCHED (s);
}

Status
conv_mma (Stream *s, const Conv *conv, const ConvLaunch<bf16> *c)
{
  typedef Tile<bf16, 128, 64, 3, 2> Deep;  /* two blocks an SM where it has 227 or 164 KiB */
  typedef Tile<bf16, 128, 32, 3, 2> Flat;  /* two blocks where it has 100 KiB */
  typedef Tile<bf16, 32, 32, 4, 4> Narrow; /* few channels: the last convolution has three */

  if (conv->n % Deep::BN != 0)
    return launch<Narrow> (s, conv, c);
  int per_sm = 0;
  CUDA_CHECK (
      s, cudaDeviceGetAttribute (&per_sm, cudaDevAttrMaxSharedMemoryPerMultiprocessor, s->device));
  if (per_sm >= 2 * (Deep::BYTES + 1024))
    return launch<Deep> (s, conv, c);
  return launch<Flat> (s, conv, c);
}

/* sm_75: a second stage is enough, since a third would wait in registers as well. */
Status
conv_mma (Stream *s, const Conv *conv, const ConvLaunch<f16> *c)
{
  typedef Tile<f16, 128, 32, 2, 2> Wide; /* two blocks an SM, which has 64 KiB */
  typedef Tile<f16, 32, 32, 2, 4> Narrow;

  return conv->n % Wide::BN != 0 ? launch<Narrow> (s, conv, c) : launch<Wide> (s, conv, c);
}
