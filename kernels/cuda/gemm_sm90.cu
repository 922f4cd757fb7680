/* SPDX-License-Identifier: Apache-2.0
 *
 * Matrix products on sm_90: wgmma fed by bulk tensor copies.
 *
 * A block is one producer warp and one to three consumer warpgroups. The producer copies tiles of
 * x and w, 64 k at a time, into a ring of stages; each consumer multiplies its 64 rows of the tile
 * by all its columns. Blocks are persistent: block b computes tiles b, b + blocks, ...; while
 * consumers write one tile, the producer already loads the next.
 *
 * Tile shapes are many because of the last wave: a card of 132 multiprocessors is busy to the end
 * only if the number of tiles is just below a multiple of 132. 4224 tokens are 33 x 128 or 22 x 192
 * rows: so 4 n tiles of 240 columns, or 6 n of 192 or 216, come out even. `pick_variant` weighs it.
 */
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/tma.cuh"
#include "kernels/cuda/wgmma.cuh"

#define STAGE_K         64 /* one swizzled row of each operand */
#define WGMMA_K         16
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

/* A tile of 64 CONSUMERS rows: as many stages as fit beside the smallest boxes. */
template <int CONSUMERS_, int COLUMNS_, bool SWIGLU_> struct Tile
{
  static constexpr int CONSUMERS = CONSUMERS_, ROWS = CONSUMERS_ * WGMMA_ROWS, COLUMNS = COLUMNS_;
  static constexpr bool SWIGLU = SWIGLU_;
  static constexpr int OUT_COLUMNS = SWIGLU ? COLUMNS / 2 : COLUMNS;
  static constexpr int THREADS = (CONSUMERS + 1) * WARPGROUP; /* registers move by warpgroups */
  static constexpr int X_BYTES = ROWS * STAGE_K * 2, W_BYTES = COLUMNS * STAGE_K * 2;
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

/* One thread: fills the ring for every tile of this block. `stage_bytes` are what arrives: a
 * product with few rows of x leaves the rest of the stage as it is, and what that gives is not
 * written. */
template <typename T>
static __device__ __forceinline__ void
produce (const Layout<T> &l, const CUtensorMap *x_map, const CUtensorMap *w_map,
         const TileOrder &order, int k_stages, int stage_bytes)
{
  const int tiles = order.row_tiles * order.column_tiles;
  int stage = 0, phase = 0;
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x)
    {
      const TilePlace place = tile_place (order, tile);
      for (int k = 0; k < k_stages; k++)
        {
          const uint32_t x = l.ring + stage * T::STAGE_BYTES, w = x + T::X_BYTES;
          const uint32_t full = l.full + stage * 8;
          barrier_wait (l.empty + stage * 8, phase ^ 1);
          barrier_expect (full, stage_bytes);
          tma_load (x, x_map, k * STAGE_K, place.row * T::ROWS, full);
          tma_load (w, w_map, k * STAGE_K, place.column * T::COLUMNS, full);
          if (++stage == T::STAGES)
            stage = 0, phase ^= 1;
        }
    }
}

/* Two neighbouring outputs of this thread, in the 8 output columns numbered i of the tile, 8 h rows
 * below its first row. `column`: where the tile begins in the columns of the product. */
template <int COLUMNS, bool SWIGLU>
static __device__ __forceinline__ uint32_t
output (const float (&d)[COLUMNS / 2], int i, int h, const float *bias, int column, int n)
{
  const int at = SWIGLU ? 8 * i : 4 * i;
  float low = d[at + 2 * h], high = d[at + 2 * h + 1];
  float up_low = SWIGLU ? d[at + 2 * h + 4] : 0.0f, up_high = SWIGLU ? d[at + 2 * h + 5] : 0.0f;
  /* n is even, so a pair is inside or outside as a whole. */
  const int c = column + at * 2 + threadIdx.x % 4 * 2;
  if (bias != NULL && c < n)
    {
      const float2 b = __ldg (reinterpret_cast<const float2 *> (bias + c));
      low += b.x, high += b.y;
      if (SWIGLU)
        {
          const float2 up = __ldg (reinterpret_cast<const float2 *> (bias + c + 8));
          up_low += up.x, up_high += up.y;
        }
    }
  if (SWIGLU)
    low = silu_of (low) * up_low, high = silu_of (high) * up_high;
  return pack2 (low, high);
}

/* A warp: its 16 rows through shared memory to y. The last box moves back so as to end with the
 * tile; what it repeats is the same. `row`: where they lie in y. */
template <typename T>
static __device__ __forceinline__ void
store_rows (const float (&d)[T::COLUMNS / 2], uint32_t staging, const CUtensorMap *y_map,
            const float *bias, int row, int column, int n)
{
  constexpr int OUT = T::OUT_COLUMNS, PITCH = T::BOX * 2;
  const int lane = threadIdx.x % 32;
  const uint32_t lane_offset = lane % 16 * PITCH + lane / 16 * 16;
#define OUTPUT(i, h) output<T::COLUMNS, T::SWIGLU> (d, i, h, bias, column, n)
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

/* d = x w (+ d if `add`), 16 of k. 216 columns go in two instructions: one would need more
 * registers than a block of 512 threads has at its start, and the compiler looks no further. */
template <int COLUMNS>
static __device__ __forceinline__ void
multiply (float (&d)[COLUMNS / 2], uint64_t x, uint64_t w, int add)
{
  if constexpr (COLUMNS == 216)
    {
      constexpr uint64_t ROWS_112 = 112 * STAGE_K * 2 >> 4; /* of w, as a step of a descriptor */
      wgmma_ss<112> (reinterpret_cast<float (&)[56]> (d), x, w, add);
      wgmma_ss<104> (reinterpret_cast<float (&)[52]> (d[56]), x, w + ROWS_112, add);
    }
  else
    wgmma_ss<COLUMNS> (d, x, w, add);
}

/* A consumer warpgroup: its rows of every tile of this block. */
template <typename T>
static __device__ __forceinline__ void
consume (const Layout<T> &l, const CUtensorMap *y_map, const float *bias, const TileOrder &order,
         int n, int k_stages, int group)
{
  const int warp = threadIdx.x / 32 % 4;
  const bool speaker = threadIdx.x % WARPGROUP == 0;
  const uint32_t staging = l.store + (group * 4 + warp) * BUFFERS * T::BOX_BYTES;
  const int tiles = order.row_tiles * order.column_tiles;
  int stage = 0, phase = 0;
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x)
    {
      float d[T::COLUMNS / 2];
      int previous = 0;
      for (int k = 0; k < k_stages; k++)
        {
          const uint32_t base = l.ring + stage * T::STAGE_BYTES;
          const uint64_t x = wgmma_k_major (base + group * (WGMMA_ROWS * STAGE_K * 2));
          const uint64_t w = wgmma_k_major (base + T::X_BYTES);
          barrier_wait (l.full + stage * 8, phase);
          wgmma_fence ();
#pragma unroll
          for (int i = 0; i < STAGE_K / WGMMA_K; i++)
            multiply<T::COLUMNS> (d, x + 2 * i, w + 2 * i, k > 0 || i > 0);
          wgmma_commit ();
          /* The products of the stage before are done when only this stage's run. */
          wgmma_wait<1> ();
          if (k > 0 && speaker)
            barrier_arrive (l.empty + previous * 8);
          previous = stage;
          if (++stage == T::STAGES)
            stage = 0, phase ^= 1;
        }
      wgmma_wait<0> ();
      wgmma_touch (d);
      if (speaker)
        barrier_arrive (l.empty + previous * 8);
      const TilePlace place = tile_place (order, tile);
      const int row = place.row * T::ROWS + group * WGMMA_ROWS + warp * WARP_ROWS;
      store_rows<T> (d, staging, y_map, bias, row, place.column * T::COLUMNS, n);
    }
  tma_store_wait_all ();
}

#endif /* HAVE_WGMMA */

template <typename T>
static __global__ void
__launch_bounds__ (T::THREADS, 1)
    gemm_sm90_kernel (const __grid_constant__ CUtensorMap x_map,
                      const __grid_constant__ CUtensorMap w_map,
                      const __grid_constant__ CUtensorMap y_map, const float *bias, TileOrder order,
                      int n, int k_stages, int stage_bytes)
{
#ifdef HAVE_WGMMA
  extern __shared__ char shared[];
  const Layout<T> l = Layout<T>::make (shared_address (shared));
  const int group = threadIdx.x / WARPGROUP;

  if (threadIdx.x == 0)
    {
      for (int i = 0; i < T::STAGES; i++)
        {
          barrier_init (l.full + i * 8, 1);
          barrier_init (l.empty + i * 8, T::CONSUMERS);
        }
      barrier_init_fence ();
      tma_prefetch_map (&x_map);
      tma_prefetch_map (&w_map);
      tma_prefetch_map (&y_map);
    }
  __syncthreads ();

  if (group == T::CONSUMERS)
    {
      registers_shrink<REGISTERS_PRODUCER> ();
      if (threadIdx.x == T::CONSUMERS * WARPGROUP)
        produce<T> (l, &x_map, &w_map, order, k_stages, stage_bytes);
    }
  else
    {
      registers_grow<T::CONSUMERS == 3 ? REGISTERS_OF_3 : REGISTERS_OF_1_2> ();
      consume<T> (l, &y_map, bias, order, n, k_stages, group);
    }
#endif
}

/* -- launching ----------------------------------------------------------------------------------
 */

#define GROUP_TILES 11 /* rows of tiles in a group: 11 x 12 tiles are a wave of 132 */

template <typename T>
static Status
launch (Stream *s, const Gemm *g)
{
  TensorMapEncoder encode = NULL;
  CUtensorMap x_map, w_map, y_map;
  const int x_rows = g->m < T::ROWS ? (int)CEIL_DIV (g->m, 8) * 8 : T::ROWS;
  CHECK (tensor_map_encoder (s, &encode));
  CHECK (tensor_map (s, encode, g->x, g->m, g->k, x_rows, STAGE_K, true, &x_map));
  CHECK (tensor_map (s, encode, g->w, g->n, g->k, T::COLUMNS, STAGE_K, true, &w_map));
  CHECK (tensor_map (s, encode, g->y, g->m, T::SWIGLU ? g->n / 2 : g->n, WARP_ROWS, T::BOX, false,
                     &y_map));

  const TileOrder order
      = { (int)CEIL_DIV (g->m, T::ROWS), (int)CEIL_DIV (g->n, T::COLUMNS), GROUP_TILES };
  const int64_t tiles = (int64_t)order.row_tiles * order.column_tiles;
  REQUIRE (s, tiles <= INT32_MAX / 2);
  const int blocks = tiles < s->caps.multiprocessors ? (int)tiles : s->caps.multiprocessors;
  const int stage_bytes = x_rows * STAGE_K * 2 + T::W_BYTES;
  auto *kernel = gemm_sm90_kernel<T>;
  CUDA_CHECK (s, cudaFuncSetAttribute (kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       T::SHARED_BYTES));
  kernel<<<blocks, T::THREADS, T::SHARED_BYTES, s->compute>>> (
      x_map, w_map, y_map, g->bias, order, (int)g->n, (int)CEIL_DIV (g->k, STAGE_K), stage_bytes);
  return LAUNCHED (s);
}

/* -- choosing -----------------------------------------------------------------------------------
 */

/* A tile shape as a value. */
typedef struct
{
  const char *name;
  int rows, columns;
  double peak; /* share of the tensor cores' peak that its multiplications reach, on an H200 */
  Status (*plain) (Stream *s, const Gemm *g);
  Status (*swiglu) (Stream *s, const Gemm *g); /* NULL: an odd number of 8 columns */
} Variant;

#define PLAIN(name, consumers, columns, peak)                                                      \
  {                                                                                                \
    name, consumers *WGMMA_ROWS, columns, peak, launch<Tile<consumers, columns, false>>, NULL      \
  }
#define BOTH(name, consumers, columns, peak)                                                       \
  {                                                                                                \
    name, consumers *WGMMA_ROWS, columns, peak, launch<Tile<consumers, columns, false>>,           \
        launch<Tile<consumers, columns, true>>                                                     \
  }

static const Variant variants[] = {
  PLAIN ("64x32", 1, 32, 0.80),    BOTH ("64x64", 1, 64, 0.80),    BOTH ("64x96", 1, 96, 0.80),
  BOTH ("64x160", 1, 160, 0.80),   BOTH ("64x192", 1, 192, 0.80),  BOTH ("128x80", 2, 80, 0.80),
  BOTH ("128x96", 2, 96, 0.80),    BOTH ("128x128", 2, 128, 0.80), BOTH ("128x160", 2, 160, 0.80),
  BOTH ("128x192", 2, 192, 0.79),  BOTH ("128x224", 2, 224, 0.80), BOTH ("128x240", 2, 240, 0.81),
  BOTH ("128x256", 2, 256, 0.80),  BOTH ("192x160", 3, 160, 0.81), BOTH ("192x192", 3, 192, 0.82),
  PLAIN ("192x216", 3, 216, 0.80),
};
#define N_VARIANTS ((int)(sizeof variants / sizeof variants[0]))

const char *
gemm_sm90_variant_name (int variant)
{
  return variant < N_VARIANTS ? variants[variant].name : NULL;
}

bool
gemm_sm90_variant_has_swiglu (int variant)
{
  return variants[variant].swiglu != NULL;
}

/* Cycles that a product takes with a tile, as measured on an H200 (README.md): a stage of 64 k
 * costs what its multiplications take, or its bytes at 50 a cycle from L2; the start and the end
 * of a tile cost a thousand more. */
static double
cycles_of (const Stream *s, const Gemm *g, const Variant *v)
{
  const double products_a_cycle = 2048.0, bytes_a_cycle = 50.0, tile_cycles = 1000.0;
  const int64_t tiles = CEIL_DIV (g->m, v->rows) * CEIL_DIV (g->n, v->columns);
  const int64_t waves = CEIL_DIV (tiles, s->caps.multiprocessors);
  const double x_rows = g->m < v->rows ? g->m : v->rows;
  const double multiply = v->rows * v->columns * STAGE_K / (products_a_cycle * v->peak);
  const double load = (x_rows + v->columns) * STAGE_K * 2 / bytes_a_cycle;
  return waves * (CEIL_DIV (g->k, STAGE_K) * (multiply > load ? multiply : load) + tile_cycles);
}

static int
pick_variant (const Stream *s, const Gemm *g)
{
  int best = -1;
  double least = 0.0;
  for (int i = 0; i < N_VARIANTS; i++)
    {
      if (g->swiglu && variants[i].swiglu == NULL)
        continue;
      const double cycles = cycles_of (s, g, &variants[i]);
      if (best < 0 || cycles < least)
        best = i, least = cycles;
    }
  return best;
}

Status
gemm_sm90 (Stream *s, const Gemm *g, int variant)
{
  REQUIRE (s, s->caps.sm == WGMMA_SM);
  REQUIRE (s, g->m >= 1 && g->m <= INT32_MAX && g->n <= INT32_MAX && g->k <= INT32_MAX);
  REQUIRE (s, g->n >= 8 && g->k >= 8 && g->n % (g->swiglu ? 16 : 8) == 0 && g->k % 8 == 0);
  const Variant *v = &variants[variant < 0 ? pick_variant (s, g) : variant];
  REQUIRE (s, !g->swiglu || v->swiglu != NULL);
  return g->swiglu ? v->swiglu (s, g) : v->plain (s, g);
}
