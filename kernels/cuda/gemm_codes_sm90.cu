/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of FP16 activations with weights that stay 4 bit on the card, on sm_90.
 *
 * The weights are the first operand, y^T = w x^T: that operand of wgmma may come from registers. So
 * a consumer warpgroup reads the codes of its 64 rows in the order of the instruction's fragments
 * (svdq_codes_pack), 16 bytes a thread for 64 k, multiplies them by their scales in registers, and
 * expanded weights are never written anywhere. Fragments of the next 64 k are made while the
 * products of these run. Code times scale is exact in FP16, so sums are those of level L1 but for
 * their order.
 *
 * The ring, its producer and the persistent tiles are as in gemm_sm90.cuh. A tile is 128 rows of w
 * by up to 256 tokens; the transposition back to [token, n] is stmatrix's.
 */
#include "kernels/cuda/expand_sm90.cuh"
#include "kernels/cuda/gemm_sm90.cuh"
#include "kernels/cuda/svdq_sm90.h"

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#define BLOCK_ROWS  64 /* rows and k of a block of packed codes */
#define BLOCK_K     64
#define CODES_BYTES (BLOCK_ROWS * BLOCK_K / 2)
#define BOX_TOKENS  32

/* Scales of a block: FP16 pairs of rows 8 apart; or E4M3, four such pairs. */
static constexpr __host__ __device__ int
block_bytes (SvdqFormat format)
{
  return CODES_BYTES + BLOCK_ROWS * (format == SVDQ_INT4 ? 2 : 4);
}

template <int TOKENS_, SvdqFormat FORMAT_, bool SWIGLU_> struct CodesTile
{
  static constexpr int TOKENS = TOKENS_, CONSUMERS = 2, ROWS = CONSUMERS * BLOCK_ROWS;
  static constexpr SvdqFormat FORMAT = FORMAT_;
  static constexpr bool SWIGLU = SWIGLU_;
  /* Whether codes are read a stage before they are expanded; NVFP4 gained nothing by it. */
  static constexpr bool AHEAD = FORMAT == SVDQ_INT4 && TOKENS == 192;
  static constexpr int THREADS = (CONSUMERS + 1) * WARPGROUP;
  static constexpr int X_BYTES = TOKENS * STAGE_BYTES_K, BLOCK_BYTES = block_bytes (FORMAT);
  static constexpr int STAGE_BYTES = X_BYTES + CONSUMERS * BLOCK_BYTES;
  static constexpr int OUT_ROWS = SWIGLU ? BLOCK_ROWS / 2 : BLOCK_ROWS; /* of w, a consumer */
  static constexpr int BOX_BYTES = BOX_TOKENS * OUT_ROWS * 2;
  static constexpr int STORE_BYTES = CONSUMERS * BUFFERS * BOX_BYTES;
  static constexpr int BARRIER_BYTES = 2 * MAX_STAGES * 8;
  static constexpr int ROOM = SHARED_PER_SM90 - SWIZZLE_ATOM_BYTES - BARRIER_BYTES - STORE_BYTES;
  static constexpr int STAGES = ROOM / STAGE_BYTES < 8 ? ROOM / STAGE_BYTES : 8;
  static constexpr int SHARED_BYTES
      = SWIZZLE_ATOM_BYTES + STAGES * STAGE_BYTES + STORE_BYTES + BARRIER_BYTES;

  /* Else the last box of a tile and the first of the next would share a buffer. */
  static_assert (TOKENS / BOX_TOKENS % BUFFERS == 0, "boxes take turns from tile to tile");
};

struct CodesMaps
{
  CUtensorMap x, y, low_x;
};

/* What the kernel reads besides. */
struct CodesWork
{
  const uint8_t *codes;
  const uint4 *up; /* fragments of proj_up */
  const float *bias, *x_scale, *w_scale;
  int m, n, k_stages, low_steps, x_bytes; /* x_bytes: that arrive a stage */
};

#ifdef HAVE_WGMMA

template <typename T> struct CodesLayout
{
  uint32_t x, codes, store, full, empty;

  static __device__ __forceinline__ CodesLayout
  make (uint32_t base)
  {
    CodesLayout l;
    l.x = (base + SWIZZLE_ATOM_BYTES - 1) / SWIZZLE_ATOM_BYTES * SWIZZLE_ATOM_BYTES;
    l.store = l.x + T::STAGES * T::X_BYTES;
    l.codes = l.store + T::STORE_BYTES;
    l.full = l.codes + T::STAGES * T::CONSUMERS * T::BLOCK_BYTES;
    l.empty = l.full + T::STAGES * 8;
    return l;
  }
};

/* One thread: fills the ring for every tile of this block. */
template <typename T>
static __device__ __forceinline__ void
produce_codes (const CodesLayout<T> &l, const CodesMaps &maps, const CodesWork &work,
               const TileOrder &order)
{
  const int tiles = order.row_tiles * order.column_tiles, last = work.n / BLOCK_ROWS - 1;
  const int low_stages = CEIL_DIV (work.low_steps, LOW_RANK_K / 16);
  RingPlace<T> at;
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x)
    {
      const TilePlace place = tile_place (order, tile);
      const int token = place.row * T::TOKENS;
      for (int k = 0; k < work.k_stages + low_stages; k++)
        {
          const bool low = k >= work.k_stages;
          const uint32_t full = l.full + at.stage * 8, x = l.x + at.stage * T::X_BYTES;
          barrier_wait (l.empty + at.stage * 8, at.phase ^ 1);
          barrier_expect (full, work.x_bytes + (low ? 0 : T::CONSUMERS * T::BLOCK_BYTES));
          if (low)
            tma_load (x, &maps.low_x, (k - work.k_stages) * LOW_RANK_K, token, full);
          else
            tma_load (x, &maps.x, k * BLOCK_K, token, full);
          for (int i = 0; i < T::CONSUMERS && !low; i++)
            {
              const int block = min (place.column * T::CONSUMERS + i, last);
              bulk_load (l.codes + (at.stage * T::CONSUMERS + i) * T::BLOCK_BYTES,
                         work.codes + ((size_t)block * work.k_stages + k) * T::BLOCK_BYTES,
                         T::BLOCK_BYTES, full);
            }
          at.advance ();
        }
    }
}

/* -- codes to fragments -------------------------------------------------------------------------
 */

static __device__ __forceinline__ uint4
shared_load_16 (uint32_t address)
{
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

/* What a thread takes of a stage's codes: a word for each 16 k, and the scales of its two rows. */
template <typename T> struct Packed
{
  uint32_t words[4], scales[T::FORMAT == SVDQ_INT4 ? 1 : 2];
};

/* Waits for a stage and reads the codes of this warpgroup's rows. */
template <typename T>
static __device__ __forceinline__ void
read_codes (const CodesLayout<T> &l, const RingPlace<T> &at, int group, Packed<T> &packed)
{
  const int thread = threadIdx.x % WARPGROUP, pair = thread / 32 * 8 + thread % 32 / 4;
  const uint32_t block = l.codes + (at.stage * T::CONSUMERS + group) * T::BLOCK_BYTES;
  barrier_wait (l.full + at.stage * 8, at.phase);
  const uint4 codes = shared_load_16 (block + thread * 16);
  packed.words[0] = codes.x, packed.words[1] = codes.y;
  packed.words[2] = codes.z, packed.words[3] = codes.w;
  if constexpr (T::FORMAT == SVDQ_INT4)
    asm volatile("ld.shared.u32 %0, [%1];"
                 : "=r"(packed.scales[0])
                 : "r"(block + CODES_BYTES + pair * 4)
                 : "memory");
  else
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];"
                 : "=r"(packed.scales[0]), "=r"(packed.scales[1])
                 : "r"(block + CODES_BYTES + pair * 8)
                 : "memory");
}

/* The fragments of this warpgroup's rows, 4 words for each 16 k. */
template <typename T>
static __device__ __forceinline__ void
expand (const Packed<T> &packed, uint32_t (&out)[16])
{
#pragma unroll
  for (int i = 0; i < 4; i++)
    {
      uint32_t both = packed.scales[0];
      if constexpr (T::FORMAT == SVDQ_NVFP4)
        {
          const uint16_t bytes = (uint16_t)(packed.scales[i / 2] >> i % 2 * 16);
          const __half2_raw raw = __nv_cvt_fp8x2_to_halfraw2 (bytes, __NV_E4M3);
          both = (uint32_t)raw.x | (uint32_t)raw.y << 16;
        }
      const uint32_t low = as_bits (__low2half2 (as_halves (both)));
      const uint32_t high = as_bits (__high2half2 (as_halves (both)));
      if (T::FORMAT == SVDQ_INT4)
        int4_fragment (packed.words[i], low, high, out + 4 * i);
      else
        nvfp4_fragment (packed.words[i], low, high, out + 4 * i);
    }
}

/* The fragments of 64 ranks of proj_up, for the block of rows. */
static __device__ __forceinline__ void
load_up (const CodesWork &work, int block, int step, uint32_t (&out)[16])
{
#pragma unroll
  for (int i = 0; i < 4; i++)
    if (step + i < work.low_steps)
      {
        const uint4 v = __ldg (work.up + ((size_t)block * work.low_steps + step + i) * WARPGROUP
                               + threadIdx.x % WARPGROUP);
        out[4 * i] = v.x, out[4 * i + 1] = v.y, out[4 * i + 2] = v.z, out[4 * i + 3] = v.w;
      }
}

template <int COUNT>
static __device__ __forceinline__ void
keep (uint32_t (&v)[COUNT])
{
#pragma unroll
  for (int i = 0; i < COUNT; i++)
    asm volatile("" : "+r"(v[i])::"memory");
}

/* -- products -----------------------------------------------------------------------------------
 */

/* Where a consumer is in its tile. */
template <typename T> struct Progress
{
  RingPlace<T> at;   /* the stage whose fragments are ready */
  int previous = -1; /* the stage whose products run; < 0: none */

  /* AHEAD: */
  RingPlace<T> ahead; /* the stage whose codes are to be read next */
  int unread = 0;     /* stages of the tile whose codes were not read */
  Packed<T> packed;   /* codes of the stage behind `at` */
};

/* Reads the codes of the next stage, if there is one in this tile. */
template <typename T>
static __device__ __forceinline__ void
read_ahead (const CodesLayout<T> &l, Progress<T> &p, int group)
{
  if (p.unread == 0)
    return;
  p.unread--;
  read_codes<T> (l, p.ahead, group, p.packed);
  p.ahead.advance ();
}

/* The fragments of the stage at `p.at`. */
template <typename T>
static __device__ __forceinline__ void
make_fragments (const CodesLayout<T> &l, Progress<T> &p, int group, uint32_t (&out)[16])
{
  if constexpr (T::AHEAD)
    {
      expand<T> (p.packed, out);
      read_ahead<T> (l, p, group);
    }
  else
    {
      Packed<T> packed;
      read_codes<T> (l, p.at, group, packed);
      expand<T> (packed, out);
    }
}

/* Starts the products of one stage with fragments `now`, and meanwhile makes those of the next in
 * `then`; behind the last stage, of proj_up. */
template <typename T>
static __device__ __forceinline__ void
step (const CodesLayout<T> &l, const CodesWork &work, Progress<T> &p, float (&d)[T::TOKENS / 2],
      uint32_t (&now)[16], uint32_t (&then)[16], int group, int block, bool last)
{
  const uint64_t x = wgmma_k_major (l.x + p.at.stage * T::X_BYTES);
  wgmma_fence ();
#pragma unroll
  for (int i = 0; i < 4; i++)
    wgmma_rs_f16<T::TOKENS> (d, now + 4 * i, x + 2 * i, p.previous >= 0 || i > 0);
  wgmma_commit ();
  wgmma_wait<1> ();
  keep (then);
  if (p.previous >= 0 && threadIdx.x % WARPGROUP == 0)
    barrier_arrive (l.empty + p.previous * 8);
  p.previous = p.at.stage;
  p.at.advance ();
  if (!last)
    make_fragments<T> (l, p, group, then);
  else
    load_up (work, block, 0, then);
}

/* Sums times the scales of their row and token. */
template <typename T>
static __device__ __forceinline__ void
scale_sums (const CodesWork &work, float (&d)[T::TOKENS / 2], int row, int token)
{
  const float low = __ldg (work.w_scale + min (row, work.n - 1));
  const float high = __ldg (work.w_scale + min (row + 8, work.n - 1));
#pragma unroll
  for (int i = 0; i < T::TOKENS / 8; i++)
    {
      const int t = token + 8 * i + threadIdx.x % 4 * 2;
      float a = 1.0f, b = 1.0f;
      if (work.x_scale != NULL)
        {
          a = __ldg (work.x_scale + min (t, work.m - 1));
          b = __ldg (work.x_scale + min (t + 1, work.m - 1));
        }
      d[4 * i] *= a * low, d[4 * i + 1] *= b * low;
      d[4 * i + 2] *= a * high, d[4 * i + 3] *= b * high;
    }
}

/* The low-rank branch; the fragments of its first 64 ranks are in `up`. */
template <typename T>
static __device__ __forceinline__ void
add_low_rank (const CodesLayout<T> &l, const CodesWork &work, RingPlace<T> &at,
              float (&d)[T::TOKENS / 2], uint32_t (&up)[16], int block)
{
  for (int first = 0; first < work.low_steps; first += 4)
    {
      const uint64_t x = wgmma_k_major (l.x + at.stage * T::X_BYTES);
      if (first > 0)
        load_up (work, block, first, up);
      barrier_wait (l.full + at.stage * 8, at.phase);
      wgmma_fence ();
#pragma unroll
      for (int i = 0; i < 4; i++)
        {
          if (first + i >= work.low_steps)
            break;
          wgmma_rs_k_major<T::TOKENS> (d, up + 4 * i, x + 2 * i, 1);
        }
      wgmma_commit ();
      wgmma_wait<0> ();
      wgmma_touch (d);
      keep (up);
      if (threadIdx.x % WARPGROUP == 0)
        barrier_arrive (l.empty + at.stage * 8);
      at.advance ();
    }
}

/* Two tokens' outputs of one row of w, or of a pair of rows with swiglu: for 8 tokens numbered i,
 * h rows of 8 below the first. */
template <typename T>
static __device__ __forceinline__ uint32_t
output_pair (const float (&d)[T::TOKENS / 2], int i, int h, const float (&bias)[2])
{
  float a = d[4 * i + 2 * h] + bias[h], b = d[4 * i + 2 * h + 1] + bias[h];
  if (T::SWIGLU)
    {
      a = silu_of (a) * (d[4 * i + 2] + bias[1]);
      b = silu_of (b) * (d[4 * i + 3] + bias[1]);
    }
  return pack2 (a, b);
}

/* A warpgroup: its outputs through shared memory to y, 32 tokens at once. Rows of 128 bytes are
 * swizzled; those of 64, with swiglu, are not: half as many, four to a bank. */
template <typename T>
static __device__ __forceinline__ void
store_tokens (const float (&d)[T::TOKENS / 2], uint32_t staging, const CUtensorMap *y_map,
              const CodesWork &work, int group, int row, int column, int token)
{
  constexpr int PITCH = T::OUT_ROWS * 2;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  float bias[2] = { 0.0f, 0.0f };
  if (work.bias != NULL)
    for (int h = 0; h < 2; h++)
      bias[h] = __ldg (work.bias + min (row + 8 * h, work.n - 1));
#pragma unroll
  for (int box = 0; box < T::TOKENS / BOX_TOKENS; box++)
    {
      const uint32_t target = staging + box % BUFFERS * T::BOX_BYTES;
      if (threadIdx.x % WARPGROUP == 0)
        tma_store_wait_read<BUFFERS - 1> ();
      named_barrier (1 + group, WARPGROUP);
#pragma unroll
      for (int i = 0; i < BOX_TOKENS / 8; i += T::SWIGLU ? 4 : 2)
        {
          const int at = box * (BOX_TOKENS / 8) + i;
          if (T::SWIGLU)
            stmatrix_x4_trans (target + (8 * i + lane) * PITCH + warp * 16,
                               output_pair<T> (d, at, 0, bias), output_pair<T> (d, at + 1, 0, bias),
                               output_pair<T> (d, at + 2, 0, bias),
                               output_pair<T> (d, at + 3, 0, bias));
          else
            stmatrix_x4_trans (target + (8 * i + lane / 16 * 8 + lane % 8) * PITCH
                                   + ((warp * 2 + lane / 8 % 2) ^ lane % 8) * 16,
                               output_pair<T> (d, at, 0, bias), output_pair<T> (d, at, 1, bias),
                               output_pair<T> (d, at + 1, 0, bias),
                               output_pair<T> (d, at + 1, 1, bias));
        }
      tma_store_fence ();
      named_barrier (1 + group, WARPGROUP);
      if (threadIdx.x % WARPGROUP == 0)
        {
          tma_store (y_map, column, token + box * BOX_TOKENS, target);
          tma_store_commit ();
        }
    }
}

/* Asks for what a tile's end needs while there is time: F32 vectors, a line of 128 bytes a
 * thread. */
template <typename T>
static __device__ __forceinline__ void
prefetch_vectors (const CodesWork &work, int row, int token)
{
  constexpr int LINE = 32;
  const int first = (int)threadIdx.x % WARPGROUP * LINE;
  if (work.x_scale != NULL && first < T::TOKENS && token + first < work.m)
    prefetch_line (work.x_scale + token + first);
  if (first < BLOCK_ROWS)
    {
      prefetch_line (work.w_scale + row + first);
      if (work.bias != NULL)
        prefetch_line (work.bias + row + first);
    }
}

/* A consumer warpgroup: its 64 rows of w in every tile of this block. */
template <typename T>
static __device__ __forceinline__ void
consume_codes (const CodesLayout<T> &l, const CUtensorMap *y_map, const CodesWork &work,
               const TileOrder &order, int group)
{
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const uint32_t staging = l.store + group * BUFFERS * T::BOX_BYTES;
  const int tiles = order.row_tiles * order.column_tiles, last_block = work.n / BLOCK_ROWS - 1;
  Progress<T> p;
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x)
    {
      const TilePlace place = tile_place (order, tile);
      const int block = place.column * T::CONSUMERS + group, token = place.row * T::TOKENS;
      const int row = block * BLOCK_ROWS + warp * WARP_ROWS + lane / 4;
      const int held = min (block, last_block);
      float d[T::TOKENS / 2];
      uint32_t even[16] = {}, odd[16] = {};
      p.previous = -1;
      prefetch_vectors<T> (work, held * BLOCK_ROWS, token);
      if constexpr (T::AHEAD)
        {
          p.ahead = p.at;
          p.unread = work.k_stages;
          read_ahead<T> (l, p, group);
        }
      make_fragments<T> (l, p, group, even);
      for (int k = 0; k < work.k_stages; k += 2)
        {
          step<T> (l, work, p, d, even, odd, group, held, k + 1 == work.k_stages);
          if (k + 1 == work.k_stages)
            break;
          step<T> (l, work, p, d, odd, even, group, held, k + 2 == work.k_stages);
        }
      wgmma_wait<0> ();
      wgmma_touch (d);
      keep (even);
      keep (odd);
      if (threadIdx.x % WARPGROUP == 0)
        barrier_arrive (l.empty + p.previous * 8);
      if (work.k_stages % 2)
#pragma unroll
        for (int i = 0; i < 16; i++)
          even[i] = odd[i];
      scale_sums<T> (work, d, row, token);
      add_low_rank<T> (l, work, p.at, d, even, held);
      if (block <= last_block)
        store_tokens<T> (d, staging, y_map, work, group, row, block * T::OUT_ROWS, token);
    }
  if (threadIdx.x % WARPGROUP == 0)
    tma_store_wait_all ();
}

#endif /* HAVE_WGMMA */

template <typename T>
static __global__ void
__launch_bounds__ (T::THREADS, 1)
    gemm_codes_kernel (const __grid_constant__ CodesMaps maps, CodesWork work, TileOrder order)
{
#ifdef HAVE_WGMMA
  extern __shared__ char shared[];
  const CodesLayout<T> l = CodesLayout<T>::make (shared_address (shared));
  const int group = threadIdx.x / WARPGROUP;

  if (threadIdx.x == 0)
    {
      begin_ring<T> (l, T::CONSUMERS);
      tma_prefetch_map (&maps.x);
      tma_prefetch_map (&maps.y);
    }
  __syncthreads ();

  if (group == T::CONSUMERS)
    {
      registers_shrink<REGISTERS_PRODUCER> ();
      if (threadIdx.x == T::CONSUMERS * WARPGROUP)
        produce_codes<T> (l, maps, work, order);
    }
  else
    {
      registers_grow<REGISTERS_OF_1_2> ();
      consume_codes<T> (l, &maps.y, work, order, group);
    }
#endif
}

/* -- launching ----------------------------------------------------------------------------------
 */

template <typename T>
static Status
launch (Stream *s, const CodesGemm *g)
{
  const int x_rows = g->m < T::TOKENS ? (int)CEIL_DIV (g->m, 8) * 8 : T::TOKENS;
  TensorMapEncoder encode = NULL;
  CodesMaps maps = {};
  CHECK (tensor_map_encoder (s, &encode));
  CHECK (tensor_map (s, encode, g->x, g->m, g->k, x_rows, BLOCK_K, TENSOR_SWIZZLED, &maps.x));
  CHECK (tensor_map_strided (s, encode, g->y, g->m, T::SWIGLU ? g->n / 2 : g->n, g->stride,
                             BOX_TOKENS, T::OUT_ROWS, T::SWIGLU ? TENSOR_DENSE : TENSOR_SWIZZLED,
                             &maps.y));
  if (g->rank > 0)
    CHECK (tensor_map (s, encode, g->low_x, g->m, LOW_RANK_PITCH (g->rank), x_rows, LOW_RANK_K,
                       TENSOR_SWIZZLED, &maps.low_x));
  const CodesWork work = { (const uint8_t *)g->codes,
                           (const uint4 *)g->up,
                           g->bias,
                           g->x_scale,
                           g->w_scale,
                           (int)g->m,
                           (int)g->n,
                           (int)(g->k / BLOCK_K),
                           g->rank / 16,
                           x_rows * STAGE_BYTES_K };
  const TileOrder order
      = { (int)CEIL_DIV (g->m, T::TOKENS), (int)CEIL_DIV (g->n, T::ROWS), GROUP_TILES };
  return launch_persistent<T> (s, gemm_codes_kernel<T>, order, maps, work, order);
}

typedef struct
{
  const char *name;
  int tokens;
  Status (*run[2][2]) (Stream *s, const CodesGemm *g); /* [format][swiglu] */
} Variant;

#define VARIANT(tokens)                                                                            \
  {                                                                                                \
    "128x" #tokens, tokens,                                                                        \
    {                                                                                              \
      { launch<CodesTile<tokens, SVDQ_INT4, false>>, launch<CodesTile<tokens, SVDQ_INT4, true>> }, \
          { launch<CodesTile<tokens, SVDQ_NVFP4, false>>,                                          \
            launch<CodesTile<tokens, SVDQ_NVFP4, true>> },                                         \
    }                                                                                              \
  }

static const Variant variants[] = { VARIANT (64), VARIANT (128), VARIANT (192), VARIANT (256) };
#define N_VARIANTS ((int)(sizeof variants / sizeof variants[0]))

const char *
gemm_codes_sm90_variant_name (int variant)
{
  return variant < N_VARIANTS ? variants[variant].name : NULL;
}

/* The variant of the fewest cycles: as gemm_cycles, without the weights' bytes. */
static const Variant *
pick (const Stream *s, const CodesGemm *g)
{
  const Variant *best = NULL;
  double least = 0.0;
  for (int i = 0; i < N_VARIANTS; i++)
    {
      const int64_t tiles = CEIL_DIV (g->m, variants[i].tokens) * CEIL_DIV (g->n, 128);
      const int64_t waves = CEIL_DIV (tiles, s->caps.multiprocessors);
      const double cycles = waves * (g->k / 64.0 * (variants[i].tokens * 5.0 + 60.0) + 2000.0);
      if (best == NULL || cycles < least)
        best = &variants[i], least = cycles;
    }
  return best;
}

Status
gemm_codes_sm90 (Stream *s, const CodesGemm *g, int variant)
{
  REQUIRE (s, s->caps.sm == WGMMA_SM);
  REQUIRE (s, g->m >= 1 && g->m <= INT32_MAX && g->n <= INT32_MAX && g->k <= INT32_MAX);
  REQUIRE (s, g->n >= 64 && g->k >= 64 && g->n % 64 == 0 && g->k % 64 == 0);
  REQUIRE (s, g->rank >= 0 && g->rank % 16 == 0);
  const Variant *v = variant < 0 ? pick (s, g) : &variants[variant];
  return v->run[g->format][g->swiglu](s, g);
}
