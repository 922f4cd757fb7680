/* SPDX-License-Identifier: Apache-2.0
 *
 * Convolution on sm_90: wgmma fed by bulk tensor copies.
 *
 * A tile is a patch of 16 x 16 pixels and 128 channels. For each tap and 64 input channels, one
 * copy brings the shifted patch of the picture: the copy engine writes zeros where the patch lies
 * outside, which is the padding. One producer warp keeps a ring of stages full; two warpgroups
 * multiply, each 8 rows of the patch. Blocks are persistent: the producer is already in the next
 * tile while this one is written.
 */
#include "kernels/cuda/conv.cuh"
#include "kernels/cuda/tma.cuh"
#include "kernels/cuda/wgmma.cuh"

#define PATCH        16 /* pixels a side */
#define CHANNELS     128
#define STAGE_K      64
#define STAGES       4
#define WARPGROUP    128
#define CONSUMERS    2
#define THREADS      ((CONSUMERS + 1) * WARPGROUP)
#define PATCH_BYTES  (PATCH * PATCH * STAGE_K * 2)
#define WEIGHT_BYTES (CHANNELS * STAGE_K * 2)
#define STAGE_BYTES  (PATCH_BYTES + WEIGHT_BYTES)
#define COLUMNS      32 /* channels a warp writes at once */
#define PITCH        (COLUMNS + 8)
#define PIECE_BYTES  (16 * PITCH * 4)
#define SHARED_BYTES                                                                               \
  (SWIZZLE_ATOM_BYTES + STAGES * STAGE_BYTES + CONSUMERS * 4 * PIECE_BYTES + 2 * STAGES * 8)
#define SHARED_PER_SM90 232448

static_assert (SHARED_BYTES <= SHARED_PER_SM90, "the ring is too long");

/* Tiles are numbered channels first, then along the patches of a row, then down, then phases: what
 * runs at one time reads the same part of the picture. */
typedef struct
{
  int across, down, channels, count;
} Tiles;

typedef struct
{
  int x, y, channel, phase;
} Place;

/* -- kernel -------------------------------------------------------------------------------------
 */

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

static __device__ __forceinline__ Place
place_of (const Tiles &tiles, int tile)
{
  Place place;
  place.channel = tile % tiles.channels * CHANNELS;
  tile /= tiles.channels;
  place.x = tile % tiles.across * PATCH;
  tile /= tiles.across;
  place.y = tile % tiles.down * PATCH;
  place.phase = tile / tiles.down;
  return place;
}

static __device__ __forceinline__ void
load_patch (uint32_t shared, const CUtensorMap *map, int channel, int x, int y, uint32_t barrier)
{
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
               "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(shared),
               "l"(map), "r"(channel), "r"(x), "r"(y), "r"(barrier)
               : "memory");
}

/* One thread: fills the ring for every tile of this block. */
static __device__ __forceinline__ void
produce (const ConvLaunch<bf16> &c, const Tiles &tiles, const CUtensorMap *picture,
         const CUtensorMap *weight, uint32_t ring, uint32_t full, uint32_t empty)
{
  int stage = 0, parity = 0;
  for (int tile = blockIdx.x; tile < tiles.count; tile += gridDim.x)
    {
      const Place place = place_of (tiles, tile);
      const int row = place.phase * (int)c.n + place.channel;
      const int left = place.x + c.offset + (c.upsample ? place.phase % 2 : 0);
      const int top = place.y + c.offset + (c.upsample ? place.phase / 2 : 0);
      int k = 0;
      for (int tap = 0; tap < c.side * c.side; tap++)
        for (int channel = 0; channel < c.c_in; channel += STAGE_K, k += STAGE_K)
          {
            const uint32_t patch = ring + stage * STAGE_BYTES, barrier = full + stage * 8;
            barrier_wait (empty + stage * 8, parity ^ 1);
            barrier_expect (barrier, STAGE_BYTES);
            load_patch (patch, picture, channel, left + tap % c.side, top + tap / c.side, barrier);
            tma_load (patch + PATCH_BYTES, weight, k, row, barrier);
            if (++stage == STAGES)
              stage = 0, parity ^= 1;
          }
    }
}

/* Sixteen pixels, one row of the patch, by 128 channels, out through the warp's own piece of shared
 * memory so that they leave in whole sectors. `d`: as wgmma leaves them. */
static __device__ __forceinline__ void
store_row (const ConvLaunch<bf16> &c, const float (&d)[64], float *piece, const Place &place,
           int row)
{
  constexpr int PARTS = CHANNELS / COLUMNS;
  const int lane = threadIdx.x % 32, channel = place.channel + lane % 4 * 8;
  int64_t pixel[2];
  uint4 residual[PARTS][2];
#pragma unroll
  for (int half = 0; half < 2; half++)
    {
      const int x = place.x + lane / 4 + 8 * half;
      const bool inside = x < c.columns && row < c.rows;
      pixel[half] = inside ? conv_output_pixel (c, place.phase, row * c.columns + x) : -1;
#pragma unroll
      for (int part = 0; part < PARTS; part++)
        residual[part][half] = conv_residual8 (c, pixel[half], channel + part * COLUMNS);
    }
#pragma unroll
  for (int part = 0; part < PARTS; part++)
    {
#pragma unroll
      for (int i = 0; i < COLUMNS / 8; i++)
#pragma unroll
        for (int half = 0; half < 2; half++)
          {
            const int at = 4 * (part * COLUMNS / 8 + i) + 2 * half;
            *reinterpret_cast<float2 *> (piece + (lane / 4 + 8 * half) * PITCH + 8 * i
                                         + lane % 4 * 2)
                = make_float2 (d[at], d[at + 1]);
          }
      __syncwarp ();
#pragma unroll
      for (int half = 0; half < 2; half++)
        {
          const float4 *from
              = reinterpret_cast<float4 *> (piece + (lane / 4 + 8 * half) * PITCH + lane % 4 * 8);
          const float4 low = from[0], high = from[1];
          float v[8] = { low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w };
          conv_store8 (c, pixel[half], channel + part * COLUMNS, v, residual[part][half]);
        }
      __syncwarp ();
    }
}

/* A warpgroup: its 8 rows of every patch of this block, as two products of 64 pixels. */
static __device__ __forceinline__ void
consume (const ConvLaunch<bf16> &c, const Tiles &tiles, uint32_t ring, uint32_t full,
         uint32_t empty, float *piece, int group)
{
  const int warp = threadIdx.x / 32 % 4, steps = (int)(c.k / STAGE_K);
  const bool leader = threadIdx.x % WARPGROUP == 0;
  int stage = 0, parity = 0;
  for (int tile = blockIdx.x; tile < tiles.count; tile += gridDim.x)
    {
      float d[2][64];
      int previous = 0;
      for (int step = 0; step < steps; step++)
        {
          const uint32_t base = ring + stage * STAGE_BYTES;
          const uint64_t x = wgmma_k_major (base + group * (PATCH_BYTES / 2));
          const uint64_t w = wgmma_k_major (base + PATCH_BYTES);
          barrier_wait (full + stage * 8, parity);
          wgmma_fence ();
#pragma unroll
          for (int i = 0; i < STAGE_K / 16; i++)
            {
              wgmma_ss<128> (d[0], x + 2 * i, w + 2 * i, step > 0 || i > 0);
              wgmma_ss<128> (d[1], x + (PATCH_BYTES / 4 >> 4) + 2 * i, w + 2 * i,
                             step > 0 || i > 0);
            }
          wgmma_commit ();
          wgmma_wait<1> ();
          if (step > 0 && leader)
            barrier_arrive (empty + previous * 8);
          previous = stage;
          if (++stage == STAGES)
            stage = 0, parity ^= 1;
        }
      wgmma_wait<0> ();
      wgmma_touch (d[0]);
      wgmma_touch (d[1]);
      if (leader)
        barrier_arrive (empty + previous * 8);
      const Place place = place_of (tiles, tile);
      store_row (c, d[0], piece, place, place.y + 8 * group + warp);
      store_row (c, d[1], piece, place, place.y + 8 * group + 4 + warp);
    }
}

#endif

static __global__ void
__launch_bounds__ (THREADS, 1) conv_sm90_kernel (const ConvLaunch<bf16> c, const Tiles tiles,
                                                 const __grid_constant__ CUtensorMap picture,
                                                 const __grid_constant__ CUtensorMap weight)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ char shared[];
  const uint32_t start = shared_address (shared);
  const uint32_t ring = CEIL_DIV (start, SWIZZLE_ATOM_BYTES) * SWIZZLE_ATOM_BYTES;
  const uint32_t pieces = ring + STAGES * STAGE_BYTES;
  const uint32_t full = pieces + CONSUMERS * 4 * PIECE_BYTES, empty = full + STAGES * 8;
  const int group = threadIdx.x / WARPGROUP;

  if (threadIdx.x == 0)
    {
      for (int i = 0; i < STAGES; i++)
        {
          barrier_init (full + i * 8, 1);
          barrier_init (empty + i * 8, CONSUMERS);
        }
      barrier_init_fence ();
      tma_prefetch_map (&picture);
      tma_prefetch_map (&weight);
    }
  __syncthreads ();
  if (group == CONSUMERS)
    {
      registers_shrink<40> ();
      if (threadIdx.x == CONSUMERS * WARPGROUP)
        produce (c, tiles, &picture, &weight, ring, full, empty);
    }
  else
    {
      registers_grow<232> ();
      float *piece
          = reinterpret_cast<float *> (shared + (pieces - start) + threadIdx.x / 32 * PIECE_BYTES);
      consume (c, tiles, ring, full, empty, piece, group);
    }
#endif
}

/* -- launcher -----------------------------------------------------------------------------------
 */

/* The picture as the copy engine sees it: boxes of 16 x 16 pixels by 64 channels. */
static Status
picture_map (Stream *s, TensorMapEncoder encode, const ConvLaunch<bf16> *c, CUtensorMap *out)
{
  const cuuint64_t extent[3] = { (cuuint64_t)c->c_in, (cuuint64_t)c->width, (cuuint64_t)c->height };
  const cuuint64_t pitch[2]
      = { (cuuint64_t)c->c_in * sizeof (bf16), (cuuint64_t)c->c_in * c->width * sizeof (bf16) };
  const cuuint32_t box[3] = { STAGE_K, PATCH, PATCH }, step[3] = { 1, 1, 1 };
  const CUresult result
      = encode (out, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, (void *)c->x, extent, pitch, box, step,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  REQUIRE (s, result == CUDA_SUCCESS);
  return STATUS_OK;
}

bool
conv_sm90_takes (const Stream *s, const Conv *conv, const ConvLaunch<bf16> *c)
{
  /* Machine code of sm_90a, and not what the driver made of the PTX for older cards. */
  cudaFuncAttributes attributes;
  if (s->caps.sm != 90 || cudaFuncGetAttributes (&attributes, conv_sm90_kernel) != cudaSuccess
      || attributes.ptxVersion < 90)
    return false;
  /* Small pictures leave most multiprocessors without a patch. */
  return conv->c_in % STAGE_K == 0 && conv->n % CHANNELS == 0 && conv->stride == 1
         && c->rows >= 2 * PATCH && c->columns >= 2 * PATCH;
}

Status
conv_sm90 (Stream *s, const Conv *conv, const ConvLaunch<bf16> *c)
{
  TensorMapEncoder encode = NULL;
  CUtensorMap picture, weight;
  CHECK (tensor_map_encoder (s, &encode));
  CHECK (picture_map (s, encode, c, &picture));
  CHECK (tensor_map (s, encode, c->weight, conv->phases * c->n, c->k, CHANNELS, STAGE_K,
                     TENSOR_SWIZZLED, &weight));
  Tiles tiles;
  tiles.across = CEIL_DIV (c->columns, PATCH);
  tiles.down = CEIL_DIV (c->rows, PATCH);
  tiles.channels = (int)(c->n / CHANNELS);
  tiles.count = tiles.across * tiles.down * tiles.channels * conv->phases;
  const int blocks = tiles.count < s->caps.multiprocessors ? tiles.count : s->caps.multiprocessors;
  CUDA_CHECK (s, cudaFuncSetAttribute (conv_sm90_kernel,
                                       cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES));
  launch_kernel (conv_sm90_kernel, blocks, THREADS, SHARED_BYTES, s->compute, *c, tiles, picture,
                 weight);
  return LAUNCHED (s);
}
