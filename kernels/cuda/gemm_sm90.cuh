/* SPDX-License-Identifier: Apache-2.0
 *
 * gemm_sm90.cuh - matrix products on sm_90: wgmma fed by bulk tensor copies
 *
 * A block is one producer warp and one to three consumer warpgroups. The producer copies tiles of
 * x and w, 128 bytes of each row at a time, into a ring of stages; each consumer multiplies its 64
 * rows of the tile by all its columns. Blocks are persistent: block b computes tiles b, b + blocks,
 * ...; while consumers write one tile, the producer already loads the next.
 *
 * Operands are BF16, or E4M3 with a power of two for each row of x and of w (ScaledGemm). Either
 * may add a low-rank branch: more stages of the same ring, in BF16, into the same sums. Beside E4M3
 * its operands come divided by the two powers, so that one multiplication at the end serves all.
 *
 * Tile shapes are many because of the last wave: a card of 132 multiprocessors is busy to the end
 * only if the number of tiles is just below a multiple of 132. 4224 tokens are 33 x 128 or 22 x 192
 * rows: so 4 n tiles of 240 columns, or 6 n of 192 or 216, come out even. `gemm_cycles` weighs it.
 */
#pragma once

#include "kernels/cuda/launchers.h"
#include "kernels/cuda/tma.cuh"
#include "kernels/cuda/wgmma.cuh"

#define STAGE_BYTES_K   SWIZZLE_ROW_BYTES /* of each row of both operands: one swizzled row */
#define WGMMA_BYTES_K   32                /* that one instruction multiplies */
#define LOW_RANK_K      64                /* ranks a stage: BF16 */
#define WGMMA_ROWS      64
#define WARPGROUP       128
#define WARP_ROWS       16
#define SHARED_PER_SM90 232448 /* bytes a block may have */

/* Registers a thread, of the 65536 of a multiprocessor: the consumers' and the producer's. */
#define REGISTERS_OF_3     160
#define REGISTERS_OF_1_2   232
#define REGISTERS_PRODUCER 32

#define MAX_STAGES   12
#define BUFFERS      2  /* boxes of a warp: one is filled while the other is stored */
#define SMALLEST_BOX 24 /* columns */
#define LARGEST_BOX  72

/* Columns that a warp stages at once for its store, of `out` columns in `bytes` for all warps: as
 * many as fit. An eighth of it is odd, so that the rows of a box fall into different banks. */
static constexpr int
box_columns (int out, int warps, int bytes)
{
  int box = SMALLEST_BOX;
  for (int wider = SMALLEST_BOX; wider <= LARGEST_BOX; wider += 16)
    if (wider <= out && warps * BUFFERS * WARP_ROWS * wider * 2 <= bytes)
      box = wider;
  return box;
}

/* A tile of 64 CONSUMERS rows: as many stages as fit beside the smallest boxes. SCALED: operands
 * are E4M3, and there are scales and a low-rank branch. */
template <int CONSUMERS_, int COLUMNS_, bool SWIGLU_, bool SCALED_> struct Tile
{
  static constexpr int CONSUMERS = CONSUMERS_, ROWS = CONSUMERS_ * WGMMA_ROWS, COLUMNS = COLUMNS_;
  static constexpr bool SWIGLU = SWIGLU_, SCALED = SCALED_;
  static constexpr int STAGE_K = STAGE_BYTES_K / (SCALED ? 1 : 2);
  static constexpr int OUT_COLUMNS = SWIGLU ? COLUMNS / 2 : COLUMNS;
  static constexpr int THREADS = (CONSUMERS + 1) * WARPGROUP; /* registers move by warpgroups */
  static constexpr int X_BYTES = ROWS * STAGE_BYTES_K, W_BYTES = COLUMNS * STAGE_BYTES_K;
  static constexpr int STAGE_BYTES = X_BYTES + W_BYTES;
  static constexpr int WARPS = CONSUMERS * 4;
  static constexpr int BARRIER_BYTES = 2 * MAX_STAGES * 8;
  /* The ring is aligned by hand to an atom of the swizzle. */
  static constexpr int ROOM = SHARED_PER_SM90 - SWIZZLE_ATOM_BYTES - BARRIER_BYTES;
  static constexpr int FIT = (ROOM - WARPS * BUFFERS * WARP_ROWS * SMALLEST_BOX * 2) / STAGE_BYTES;
  static constexpr int STAGES = FIT < MAX_STAGES ? FIT : MAX_STAGES;
  static constexpr int BOX = box_columns (OUT_COLUMNS, WARPS, ROOM - STAGES * STAGE_BYTES);
  static constexpr int BOX_BYTES = WARP_ROWS * BOX * 2;
  static constexpr int STORE_BYTES = WARPS * BUFFERS * BOX_BYTES;
  static constexpr int SHARED_BYTES
      = SWIZZLE_ATOM_BYTES + STAGES * STAGE_BYTES + STORE_BYTES + BARRIER_BYTES;

  static_assert (STAGES >= 3 && SHARED_BYTES <= SHARED_PER_SM90, "the ring has its size");
  static_assert (BOX / 8 % 2 == 1 && BOX_BYTES % 128 == 0, "boxes without bank conflicts");
  static_assert (BOX <= OUT_COLUMNS && COLUMNS % (SWIGLU ? 16 : 8) == 0, "whole pairs of blocks");
};

/* Tiles are numbered down `group` rows of tiles, then along: what runs at one time then forms a
 * near-square patch, which reads the least. */
struct TileOrder
{
  int row_tiles, column_tiles, group;
};

struct TilePlace
{
  int row, column;
};

static __device__ __forceinline__ TilePlace
tile_place (const TileOrder &order, int tile)
{
  const int per_group = order.group * order.column_tiles;
  const int first = tile / per_group * order.group;
  const int rows = min (order.group, order.row_tiles - first);
  const int rest = tile % per_group;
  TilePlace place = { first + rest % rows, rest / rows };
  return place;
}

/* Where a kernel's operands lie; low_x and low_w are unused without a low-rank branch. */
struct GemmMaps
{
  CUtensorMap x, w, y, low_x, low_w;
};

/* F32 vectors, or NULL: y = sums * x_scale[row] * w_scale[column] + bias[column]. */
struct GemmVectors
{
  const float *bias, *x_scale, *w_scale;
};

struct GemmSize
{
  int m, n;
  int k_stages;    /* of x and w */
  int low_steps;   /* of 16 ranks */
  int stage_bytes; /* what arrives a stage */
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAVE_WGMMA 1
#endif

#ifdef HAVE_WGMMA

/* Shared memory of a block: the ring, the boxes for the stores, the barriers. */
template <typename T> struct Layout
{
  uint32_t ring, store, full, empty;

  static __device__ __forceinline__ Layout
  make (uint32_t base)
  {
    Layout l;
    l.ring = (base + SWIZZLE_ATOM_BYTES - 1) / SWIZZLE_ATOM_BYTES * SWIZZLE_ATOM_BYTES;
    l.store = l.ring + T::STAGES * T::STAGE_BYTES;
    l.full = l.store + T::STORE_BYTES;
    l.empty = l.full + T::STAGES * 8;
    return l;
  }
};

/* One thread: makes the barriers of the ring. `consumers`: how many hand each stage back. */
template <typename T, typename L>
static __device__ __forceinline__ void
begin_ring (const L &l, int consumers)
{
  for (int i = 0; i < T::STAGES; i++)
    {
      barrier_init (l.full + i * 8, 1);
      barrier_init (l.empty + i * 8, consumers);
    }
  barrier_init_fence ();
}

/* Which stage of the ring a thread is at, and the parity of its turn. */
template <typename T> struct RingPlace
{
  int stage = 0, phase = 0;

  __device__ __forceinline__ void
  advance ()
  {
    if (++stage == T::STAGES)
      stage = 0, phase ^= 1;
  }
};

/* One thread: fills the ring for every tile of this block. A product with few rows of x leaves the
 * rest of the stage as it is, and what that gives is not written. */
template <typename T>
static __device__ __forceinline__ void
produce (const Layout<T> &l, const GemmMaps &maps, const TileOrder &order, const GemmSize &size)
{
  const int tiles = order.row_tiles * order.column_tiles;
  const int low_stages = CEIL_DIV (size.low_steps, LOW_RANK_K / 16);
  RingPlace<T> at;
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x)
    {
      const TilePlace place = tile_place (order, tile);
      for (int k = 0; k < size.k_stages + low_stages; k++)
        {
          const bool low = k >= size.k_stages;
          const uint32_t x = l.ring + at.stage * T::STAGE_BYTES, w = x + T::X_BYTES;
          const uint32_t full = l.full + at.stage * 8;
          const int column = low ? (k - size.k_stages) * LOW_RANK_K : k * T::STAGE_K;
          barrier_wait (l.empty + at.stage * 8, at.phase ^ 1);
          barrier_expect (full, size.stage_bytes);
          tma_load (x, low ? &maps.low_x : &maps.x, column, place.row * T::ROWS, full);
          tma_load (w, low ? &maps.low_w : &maps.w, column, place.column * T::COLUMNS, full);
          at.advance ();
        }
    }
}

/* Asks for the vectors that a tile ends with while there is time: a line of 128 bytes a thread. */
template <typename T>
static __device__ __forceinline__ void
prefetch_vectors (const GemmVectors &v, const TilePlace &place, const GemmSize &size)
{
  constexpr int LINE = 32;
  const int at = (int)threadIdx.x % WARPGROUP * LINE;
  const int row = place.row * T::ROWS + at, column = place.column * T::COLUMNS + at;
  if (at < T::ROWS && row < size.m)
    prefetch_line (v.x_scale + row);
  if (at < T::COLUMNS && column < size.n)
    {
      prefetch_line (v.w_scale + column);
      if (v.bias != NULL)
        prefetch_line (v.bias + column);
    }
}

/* Two neighbouring columns of the product at `column`: sums times scales, plus the bias. */
template <bool SCALED>
static __device__ __forceinline__ float2
finished (float low, float high, const GemmVectors &v, float x_scale, int column, int n)
{
  float2 pair = { low, high };
  /* n is even, so a pair is inside or outside as a whole. */
  if (column >= n)
    return pair;
  if (SCALED)
    {
      const float2 scale = __ldg (reinterpret_cast<const float2 *> (v.w_scale + column));
      pair.x *= x_scale * scale.x, pair.y *= x_scale * scale.y;
    }
  if (v.bias != NULL)
    {
      const float2 bias = __ldg (reinterpret_cast<const float2 *> (v.bias + column));
      pair.x += bias.x, pair.y += bias.y;
    }
  return pair;
}

/* Two neighbouring outputs of this thread, in the 8 output columns numbered i of the tile, 8 h rows
 * below its first row. `column`: where the tile begins in the columns of the product. */
template <typename T>
static __device__ __forceinline__ uint32_t
output (const float (&d)[T::COLUMNS / 2], int i, int h, const GemmVectors &v,
        const float (&x_scale)[2], int column, int n)
{
  const int at = T::SWIGLU ? 8 * i : 4 * i;
  const int c = column + at * 2 + threadIdx.x % 4 * 2;
  float2 pair = finished<T::SCALED> (d[at + 2 * h], d[at + 2 * h + 1], v, x_scale[h], c, n);
  if (T::SWIGLU)
    {
      const float2 up
          = finished<T::SCALED> (d[at + 2 * h + 4], d[at + 2 * h + 5], v, x_scale[h], c + 8, n);
      pair.x = silu_of (pair.x) * up.x, pair.y = silu_of (pair.y) * up.y;
    }
  return pack2 (pair.x, pair.y);
}

/* A warp: its 16 rows through shared memory to y. The last box moves back so as to end with the
 * tile; what it repeats is the same. `row`: where they lie in y. */
template <typename T>
static __device__ __forceinline__ void
store_rows (const float (&d)[T::COLUMNS / 2], uint32_t staging, const CUtensorMap *y_map,
            const GemmVectors &v, int row, int column, const GemmSize &size)
{
  constexpr int OUT = T::OUT_COLUMNS, PITCH = T::BOX * 2;
  const int lane = threadIdx.x % 32;
  const uint32_t lane_offset = lane % 16 * PITCH + lane / 16 * 16;
  float x_scale[2] = { 1.0f, 1.0f };
  if (T::SCALED)
    for (int h = 0; h < 2; h++)
      x_scale[h] = __ldg (v.x_scale + min (row + lane / 4 + 8 * h, size.m - 1));
#define OUTPUT(i, h) output<T> (d, i, h, v, x_scale, column, size.n)
#pragma unroll
  for (int box = 0; box < CEIL_DIV (OUT, T::BOX); box++)
    {
      const int start = min (box * T::BOX, OUT - T::BOX);
      const uint32_t target = staging + box % BUFFERS * T::BOX_BYTES;
      /* With an odd number of boxes the last one of a tile and the first of the next share a
       * buffer: a product with few k comes back before it has been read. */
      if (box == 0)
        tma_store_wait_read<0> ();
      else
        tma_store_wait_read<BUFFERS - 1> ();
      __syncwarp ();
#pragma unroll
      for (int i = start / 8; i + 1 < (start + T::BOX) / 8; i += 2)
        stmatrix_x4 (target + lane_offset + (i * 8 - start) * 2, OUTPUT (i, 0), OUTPUT (i, 1),
                     OUTPUT (i + 1, 0), OUTPUT (i + 1, 1));
      const int last = (start + T::BOX) / 8 - 1;
      stmatrix_x2 (target + lane_offset + (T::BOX / 8 - 1) * 16, OUTPUT (last, 0),
                   OUTPUT (last, 1));
      tma_store_fence ();
      __syncwarp ();
      if (lane == 0)
        {
          tma_store (y_map, (T::SWIGLU ? column / 2 : column) + start, row, target);
          tma_store_commit ();
        }
    }
#undef OUTPUT
}

/* d = x w (+ d if `add`), 32 bytes of k. 216 columns go in two instructions: one would need more
 * registers than a block of 512 threads has at its start, and the compiler looks no further. */
template <int COLUMNS, bool E4M3>
static __device__ __forceinline__ void
multiply (float (&d)[COLUMNS / 2], uint64_t x, uint64_t w, int add)
{
  if constexpr (COLUMNS == 216)
    {
      constexpr uint64_t ROWS_112 = 112 * STAGE_BYTES_K >> 4; /* of w, as a step of a descriptor */
      multiply<112, E4M3> (reinterpret_cast<float (&)[56]> (d), x, w, add);
      multiply<104, E4M3> (reinterpret_cast<float (&)[52]> (d[56]), x, w + ROWS_112, add);
    }
  else if constexpr (E4M3)
    wgmma_ss_e4m3<COLUMNS> (d, x, w, add);
  else
    wgmma_ss<COLUMNS> (d, x, w, add);
}

/* Multiplies one stage, `steps` instructions of it. When this returns, the products of the stage
 * before are done, and it is handed back; `previous` < 0: there is none. */
template <typename T, bool E4M3>
static __device__ __forceinline__ void
consume_stage (const Layout<T> &l, float (&d)[T::COLUMNS / 2], RingPlace<T> &at, int &previous,
               int group, int steps)
{
  const uint32_t base = l.ring + at.stage * T::STAGE_BYTES;
  const uint64_t x = wgmma_k_major (base + group * (WGMMA_ROWS * STAGE_BYTES_K));
  const uint64_t w = wgmma_k_major (base + T::X_BYTES);
  barrier_wait (l.full + at.stage * 8, at.phase);
  wgmma_fence ();
#pragma unroll
  for (int i = 0; i < STAGE_BYTES_K / WGMMA_BYTES_K; i++)
    {
      if (i >= steps)
        break;
      multiply<T::COLUMNS, E4M3> (d, x + 2 * i, w + 2 * i, previous >= 0 || i > 0);
    }
  wgmma_commit ();
  wgmma_wait<1> ();
  if (previous >= 0 && threadIdx.x % WARPGROUP == 0)
    barrier_arrive (l.empty + previous * 8);
  previous = at.stage;
  at.advance ();
}

/* A consumer warpgroup: its rows of every tile of this block. */
template <typename T>
static __device__ __forceinline__ void
consume (const Layout<T> &l, const CUtensorMap *y_map, const GemmVectors &v, const TileOrder &order,
         const GemmSize &size, int group)
{
  constexpr int STEPS = STAGE_BYTES_K / WGMMA_BYTES_K;
  const int warp = threadIdx.x / 32 % 4;
  const uint32_t staging = l.store + (group * 4 + warp) * BUFFERS * T::BOX_BYTES;
  const int tiles = order.row_tiles * order.column_tiles;
  /* BF16: the low-rank branch is more of the same, with zeros up to a whole stage. */
  const int stages = size.k_stages + CEIL_DIV (size.low_steps, LOW_RANK_K / 16);
  RingPlace<T> at;
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x)
    {
      const TilePlace place = tile_place (order, tile);
      float d[T::COLUMNS / 2];
      int previous = -1;
      if (T::SCALED)
        prefetch_vectors<T> (v, place, size);
      for (int k = 0; k < (T::SCALED ? size.k_stages : stages); k++)
        consume_stage<T, T::SCALED> (l, d, at, previous, group, STEPS);
      if (T::SCALED && size.low_steps > 0)
        wgmma_wait<0> (); /* instructions of two shapes are not ordered on the same sums */
      if (T::SCALED)
        for (int steps = size.low_steps; steps > 0; steps -= STEPS)
          consume_stage<T, false> (l, d, at, previous, group, steps);
      wgmma_wait<0> ();
      wgmma_touch (d);
      if (threadIdx.x % WARPGROUP == 0)
        barrier_arrive (l.empty + previous * 8);
      const int row = place.row * T::ROWS + group * WGMMA_ROWS + warp * WARP_ROWS;
      store_rows<T> (d, staging, y_map, v, row, place.column * T::COLUMNS, size);
    }
  tma_store_wait_all ();
}

#endif /* HAVE_WGMMA */

template <typename T>
static __global__ void
__launch_bounds__ (T::THREADS, 1)
    gemm_sm90_kernel (const __grid_constant__ GemmMaps maps, GemmVectors vectors, TileOrder order,
                      GemmSize size)
{
#ifdef HAVE_WGMMA
  extern __shared__ char shared[];
  const Layout<T> l = Layout<T>::make (shared_address (shared));
  const int group = threadIdx.x / WARPGROUP;

  if (threadIdx.x == 0)
    {
      begin_ring<T> (l, T::CONSUMERS);
      tma_prefetch_map (&maps.x);
      tma_prefetch_map (&maps.w);
      tma_prefetch_map (&maps.y);
    }
  __syncthreads ();

  if (group == T::CONSUMERS)
    {
      registers_shrink<REGISTERS_PRODUCER> ();
      if (threadIdx.x == T::CONSUMERS * WARPGROUP)
        produce<T> (l, maps, order, size);
    }
  else
    {
      registers_grow<T::CONSUMERS == 3 ? REGISTERS_OF_3 : REGISTERS_OF_1_2> ();
      consume<T> (l, &maps.y, vectors, order, size, group);
    }
#endif
}

/* -- launching ----------------------------------------------------------------------------------
 */

#define GROUP_TILES 11 /* rows of tiles in a group: 11 x 12 tiles are a wave of 132 */

/* Blocks that stay until the tiles of `order` are done, on every multiprocessor if there are so
 * many. `arguments`: the kernel's. */
template <typename T, typename... Parameters, typename... Arguments>
static Status
launch_persistent (Stream *s, void (*kernel) (Parameters...), const TileOrder &order,
                   const Arguments &...arguments)
{
  const int64_t tiles = (int64_t)order.row_tiles * order.column_tiles;
  REQUIRE (s, tiles <= INT32_MAX / 2);
  const int blocks = tiles < s->caps.multiprocessors ? (int)tiles : s->caps.multiprocessors;
  CUDA_CHECK (s, cudaFuncSetAttribute (kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       T::SHARED_BYTES));
  launch_kernel (kernel, blocks, T::THREADS, T::SHARED_BYTES, s->compute, arguments...);
  return LAUNCHED (s);
}

/* The maps of the low-rank branch, read in boxes as tall as those of x and w. */
static inline Status
low_rank_maps (Stream *s, TensorMapEncoder encode, const ScaledGemm *g, int x_rows, int columns,
               GemmMaps *maps)
{
  const int64_t ranks = LOW_RANK_PITCH (g->rank);
  CHECK (tensor_map (s, encode, g->low_x, g->product.m, ranks, x_rows, LOW_RANK_K, TENSOR_SWIZZLED,
                     &maps->low_x));
  return tensor_map (s, encode, g->low_w, g->product.n, ranks, columns, LOW_RANK_K, TENSOR_SWIZZLED,
                     &maps->low_w);
}

typedef void (*GemmKernel) (GemmMaps maps, GemmVectors vectors, TileOrder order, GemmSize size);

/* Persistent blocks of `kernel`, whose tile is T. */
template <typename T>
static Status
launch_blocks (Stream *s, const ScaledGemm *scaled, GemmKernel kernel)
{
  const Gemm *g = &scaled->product;
  const TensorKind kind = T::SCALED ? TENSOR_SWIZZLED_BYTES : TENSOR_SWIZZLED;
  const int x_rows = g->m < T::ROWS ? (int)CEIL_DIV (g->m, 8) * 8 : T::ROWS;
  const int64_t columns = T::SWIGLU ? g->n / 2 : g->n;
  TensorMapEncoder encode = NULL;
  GemmMaps maps = {};
  CHECK (tensor_map_encoder (s, &encode));
  CHECK (tensor_map (s, encode, g->x, g->m, g->k, x_rows, T::STAGE_K, kind, &maps.x));
  CHECK (tensor_map (s, encode, g->w, g->n, g->k, T::COLUMNS, T::STAGE_K, kind, &maps.w));
  CHECK (tensor_map_strided (s, encode, g->y, g->m, columns,
                             scaled->stride > 0 ? scaled->stride : columns, WARP_ROWS, T::BOX,
                             TENSOR_DENSE, &maps.y));
  if (scaled->rank > 0)
    CHECK (low_rank_maps (s, encode, scaled, x_rows, T::COLUMNS, &maps));

  const int64_t stages = CEIL_DIV (g->k, T::STAGE_K);
  const GemmVectors vectors = { g->bias, scaled->x_scale, scaled->w_scale };
  const GemmSize size = { (int)g->m, (int)g->n, (int)stages, scaled->rank / 16,
                          (x_rows + T::COLUMNS) * STAGE_BYTES_K };
  const TileOrder order
      = { (int)CEIL_DIV (g->m, T::ROWS), (int)CEIL_DIV (g->n, T::COLUMNS), GROUP_TILES };
  return launch_persistent<T> (s, kernel, order, maps, vectors, order, size);
}

template <typename T>
static Status
launch (Stream *s, const ScaledGemm *scaled)
{
  return launch_blocks<T> (s, scaled, gemm_sm90_kernel<T>);
}

/* -- choosing -----------------------------------------------------------------------------------
 */

/* A tile shape as a value. */
typedef struct
{
  const char *name;
  int rows, columns;
  double peak; /* share of the tensor cores' peak that its multiplications reach, on an H200 */
  Status (*plain) (Stream *s, const ScaledGemm *g);
  Status (*swiglu) (Stream *s, const ScaledGemm *g); /* NULL: an odd number of 8 columns */
} GemmVariant;

#define GEMM_PLAIN(name, consumers, columns, scaled, peak)                                         \
  {                                                                                                \
    name, consumers *WGMMA_ROWS, columns, peak, launch<Tile<consumers, columns, false, scaled>>,   \
        NULL                                                                                       \
  }
#define GEMM_BOTH(name, consumers, columns, scaled, peak)                                          \
  {                                                                                                \
    name, consumers *WGMMA_ROWS, columns, peak, launch<Tile<consumers, columns, false, scaled>>,   \
        launch<Tile<consumers, columns, true, scaled>>                                             \
  }

/* Cycles that a product of rows of `k_bytes` takes with a tile, as measured on an H200 (README.md):
 * a stage costs what its multiplications take, or its bytes at 50 a cycle from L2; the start and
 * the end of a tile cost a thousand more, with swiglu's exponentials five. E4M3 has half as many
 * stages of the same cost. */
static inline double
gemm_cycles (const Stream *s, const Gemm *g, int64_t k_bytes, const GemmVariant *v)
{
  const double products_a_cycle = 2048.0, bytes_a_cycle = 50.0,
               tile_cycles = g->swiglu && k_bytes == g->k ? 5000.0 : 1000.0;
  const int64_t tiles = CEIL_DIV (g->m, v->rows) * CEIL_DIV (g->n, v->columns);
  const int64_t waves = CEIL_DIV (tiles, s->caps.multiprocessors);
  const double x_rows = g->m < v->rows ? g->m : v->rows;
  const double multiply = v->rows * v->columns * (STAGE_BYTES_K / 2) / (products_a_cycle * v->peak);
  const double load = (x_rows + v->columns) * STAGE_BYTES_K / bytes_a_cycle;
  return waves
         * (CEIL_DIV (k_bytes, STAGE_BYTES_K) * (multiply > load ? multiply : load) + tile_cycles);
}

/* Whether the kernels of E4M3 take a product. */
static inline Status
check_scaled (Stream *s, const ScaledGemm *scaled)
{
  const Gemm *g = &scaled->product;
  REQUIRE (s, s->caps.sm == WGMMA_SM);
  REQUIRE (s, g->m >= 1 && g->m <= INT32_MAX && g->n <= INT32_MAX && g->k <= INT32_MAX);
  REQUIRE (s, g->n >= 8 && g->k >= 16 && g->n % (g->swiglu ? 16 : 8) == 0 && g->k % 16 == 0);
  REQUIRE (s, scaled->rank >= 0 && scaled->rank % 16 == 0);
  return STATUS_OK;
}

/* The variant of the fewest cycles. */
static inline int
gemm_pick (const Stream *s, const Gemm *g, int64_t k_bytes, const GemmVariant *variants, int count)
{
  int best = -1;
  double least = 0.0;
  for (int i = 0; i < count; i++)
    {
      if (g->swiglu && variants[i].swiglu == NULL)
        continue;
      const double cycles = gemm_cycles (s, g, k_bytes, &variants[i]);
      if (best < 0 || cycles < least)
        best = i, least = cycles;
    }
  return best;
}
