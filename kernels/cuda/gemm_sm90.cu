/* SPDX-License-Identifier: Apache-2.0
 *
 * Matrix products on sm_90: wgmma fed by bulk tensor copies.
 *
 * A block is one producer warp and one to three consumer warpgroups. The producer copies tiles of
 * x and w, 64 k at a time, into a ring of stages; each consumer multiplies its 64 rows of the tile
 * by all its columns. Blocks are persistent: block b computes tiles b, b + blocks, ...; while
 * consumers write one tile, the producer already loads the next.
 *
 * Tile shapes are many because of the last wave: a 132-processor card is busy to the end only if
 * the number of tiles is just below a multiple of 132. 4224 tokens are 33 x 128 or 22 x 192 rows,
 * so 16 k tiles of 240 columns, or 6 k of 216, come out even. `pick_variant` weighs it.
 *
 * Two blocks may form a cluster that shares one operand: each loads half of it and multicasts it
 * to both, which saves a fifth of the traffic from L2.
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

/* Which operand a cluster of two shares: its blocks are neighbours along the other axis. */
typedef enum
{
  SHARE_NOTHING,
  SHARE_X, /* same rows, neighbouring columns */
  SHARE_W, /* same columns, neighbouring rows */
} Share;

/* A tile shape. BOX is the number of columns a warp stages at once for its store: BOX / 8 is odd,
 * so that the rows of a staged box fall into different banks. */
template <int CONSUMERS_, int COLUMNS_, Share SHARE_, int STAGES_, int BOX_, int BUFFERS_>
struct Tile
{
  static constexpr int CONSUMERS = CONSUMERS_, ROWS = CONSUMERS_ * WGMMA_ROWS, COLUMNS = COLUMNS_;
  static constexpr Share SHARE = SHARE_;
  static constexpr int CLUSTER = SHARE == SHARE_NOTHING ? 1 : 2;
  static constexpr int STAGES = STAGES_, BOX = BOX_, BUFFERS = BUFFERS_;
  static constexpr int THREADS = (CONSUMERS + 1) * WARPGROUP; /* registers move by warpgroups */
  static constexpr int X_BYTES = ROWS * STAGE_K * 2, W_BYTES = COLUMNS * STAGE_K * 2;
  static constexpr int STAGE_BYTES = X_BYTES + W_BYTES;
  static constexpr int BOX_BYTES = WARP_ROWS * BOX * 2;
  static constexpr int STORE_BYTES = CONSUMERS * 4 * BUFFERS * BOX_BYTES;
  static constexpr int BARRIER_BYTES = 2 * STAGES * 8;
  /* The ring is aligned by hand to an atom of the swizzle. */
  static constexpr int SHARED_BYTES
      = SWIZZLE_ATOM_BYTES + STAGES * STAGE_BYTES + STORE_BYTES + BARRIER_BYTES;
  static constexpr int X_BOX_ROWS = SHARE == SHARE_X ? ROWS / 2 : ROWS;
  static constexpr int W_BOX_ROWS = SHARE == SHARE_W ? COLUMNS / 2 : COLUMNS;
  /* A thread, of the 65536 of a multiprocessor. */
  static constexpr int CONSUMER_REGISTERS = CONSUMERS == 3 ? 160 : 232;
  static constexpr int PRODUCER_REGISTERS = CONSUMERS == 3 ? 32 : 40;

  static_assert (SHARED_BYTES <= SHARED_PER_SM90, "the ring is too long");
  static_assert (X_BOX_ROWS % 8 == 0 && W_BOX_ROWS % 8 == 0, "halves are whole atoms");
  static_assert (BOX / 8 % 2 == 1 && BOX_BYTES % 128 == 0, "boxes without bank conflicts");
};

/* Tiles are numbered down `group` rows of tiles, then along: what runs at one time then forms a
 * near-square patch, which reads the least. Counted in clusters where two blocks share. */
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

template <typename T>
static __device__ __forceinline__ TilePlace
block_place (const TileOrder &order, int tile, int rank)
{
  TilePlace place = tile_place (order, tile);
  if (T::SHARE == SHARE_W)
    place.row = place.row * 2 + rank;
  if (T::SHARE == SHARE_X)
    place.column = place.column * 2 + rank;
  return place;
}

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

/* One thread: fills the ring for every tile of this block. */
template <typename T>
static __device__ __forceinline__ void
produce (const Layout<T> &l, const CUtensorMap *x_map, const CUtensorMap *w_map,
         const TileOrder &order, int k_stages, int rank, int first, int step)
{
  constexpr uint16_t EVERYONE = (1 << T::CLUSTER) - 1;
  const int tiles = order.row_tiles * order.column_tiles;
  int stage = 0, phase = 0;
  for (int tile = first; tile < tiles; tile += step)
    {
      const TilePlace place = block_place<T> (order, tile, rank);
      const int row = place.row * T::ROWS, column = place.column * T::COLUMNS;
      for (int k = 0; k < k_stages; k++)
        {
          const uint32_t x = l.ring + stage * T::STAGE_BYTES, w = x + T::X_BYTES;
          const uint32_t full = l.full + stage * 8;
          barrier_wait (l.empty + stage * 8, phase ^ 1);
          barrier_expect (full, T::STAGE_BYTES);
          if (T::SHARE == SHARE_X)
            tma_load_multicast (x + rank * (T::X_BYTES / 2), x_map, k * STAGE_K,
                                row + rank * T::X_BOX_ROWS, full, EVERYONE);
          else
            tma_load (x, x_map, k * STAGE_K, row, full);
          if (T::SHARE == SHARE_W)
            tma_load_multicast (w + rank * (T::W_BYTES / 2), w_map, k * STAGE_K,
                                column + rank * T::W_BOX_ROWS, full, EVERYONE);
          else
            tma_load (w, w_map, k * STAGE_K, column, full);
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
template <typename T, bool SWIGLU>
static __device__ __forceinline__ void
store_rows (const float (&d)[T::COLUMNS / 2], uint32_t staging, const CUtensorMap *y_map,
            const float *bias, int row, int column, int n)
{
  constexpr int OUT = SWIGLU ? T::COLUMNS / 2 : T::COLUMNS, PITCH = T::BOX * 2;
  const int lane = threadIdx.x % 32;
  const uint32_t lane_offset = lane % 16 * PITCH + lane / 16 * 16;
#define OUTPUT(i, h) output<T::COLUMNS, SWIGLU> (d, i, h, bias, column, n)
#pragma unroll
  for (int box = 0; box < CEIL_DIV (OUT, T::BOX); box++)
    {
      const int start = min (box * T::BOX, OUT - T::BOX);
      const uint32_t target = staging + box % T::BUFFERS * T::BOX_BYTES;
      tma_store_wait_read<T::BUFFERS - 1> ();
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
          tma_store (y_map, (SWIGLU ? column / 2 : column) + start, row, target);
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
template <typename T, bool SWIGLU>
static __device__ __forceinline__ void
consume (const Layout<T> &l, const CUtensorMap *y_map, const float *bias, const TileOrder &order,
         int n, int k_stages, int group, int rank, int first, int step)
{
  const int warp = threadIdx.x / 32 % 4, thread = threadIdx.x % WARPGROUP;
  const uint32_t staging = l.store + (group * 4 + warp) * T::BUFFERS * T::BOX_BYTES;
  const int tiles = order.row_tiles * order.column_tiles;
  int stage = 0, phase = 0;
  for (int tile = first; tile < tiles; tile += step)
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
          if (k > 0 && thread < T::CLUSTER)
            {
              if (T::CLUSTER == 1)
                barrier_arrive (l.empty + previous * 8);
              else
                barrier_arrive_at (l.empty + previous * 8, thread);
            }
          previous = stage;
          if (++stage == T::STAGES)
            stage = 0, phase ^= 1;
        }
      wgmma_wait<0> ();
      wgmma_touch (d);
      if (thread < T::CLUSTER)
        {
          if (T::CLUSTER == 1)
            barrier_arrive (l.empty + previous * 8);
          else
            barrier_arrive_at (l.empty + previous * 8, thread);
        }
      const TilePlace place = block_place<T> (order, tile, rank);
      const int row = place.row * T::ROWS + group * WGMMA_ROWS + warp * WARP_ROWS;
      const int column = place.column * T::COLUMNS;
      store_rows<T, SWIGLU> (d, staging, y_map, bias, row, column, n);
    }
  tma_store_wait_all ();
}

#endif /* HAVE_WGMMA */

template <typename T, bool SWIGLU>
static __global__ void
__launch_bounds__ (T::THREADS, 1)
    gemm_sm90_kernel (const __grid_constant__ CUtensorMap x_map,
                      const __grid_constant__ CUtensorMap w_map,
                      const __grid_constant__ CUtensorMap y_map, const float *bias, TileOrder order,
                      int n, int k_stages)
{
#ifdef HAVE_WGMMA
  extern __shared__ char shared[];
  const Layout<T> l = Layout<T>::make (shared_address (shared));
  const int group = threadIdx.x / WARPGROUP;
  const int rank = T::CLUSTER == 1 ? 0 : (int)cluster_rank ();
  const int first = blockIdx.x / T::CLUSTER, step = gridDim.x / T::CLUSTER;

  if (threadIdx.x == 0)
    {
      for (int i = 0; i < T::STAGES; i++)
        {
          barrier_init (l.full + i * 8, 1);
          barrier_init (l.empty + i * 8, T::CONSUMERS * T::CLUSTER);
        }
      barrier_init_fence ();
      tma_prefetch_map (&x_map);
      tma_prefetch_map (&w_map);
      tma_prefetch_map (&y_map);
    }
  if (T::CLUSTER == 1)
    __syncthreads ();
  else
    cluster_sync ();

  if (group == T::CONSUMERS)
    {
      registers_shrink<T::PRODUCER_REGISTERS> ();
      if (threadIdx.x == T::CONSUMERS * WARPGROUP)
        produce<T> (l, &x_map, &w_map, order, k_stages, rank, first, step);
    }
  else
    {
      registers_grow<T::CONSUMER_REGISTERS> ();
      consume<T, SWIGLU> (l, &y_map, bias, order, n, k_stages, group, rank, first, step);
    }
  /* The other block of the cluster may still write here, or arrive at these barriers. */
  if (T::CLUSTER > 1)
    {
      __syncwarp ();
      cluster_sync ();
    }
#endif
}

/* -- launching ----------------------------------------------------------------------------------
 */

template <typename T, bool SWIGLU>
static Status
launch (Stream *s, const Gemm *g, int group)
{
  TensorMapEncoder encode = NULL;
  CUtensorMap x_map, w_map, y_map;
  CHECK (tensor_map_encoder (s, &encode));
  CHECK (tensor_map (s, encode, g->x, g->m, g->k, T::X_BOX_ROWS, STAGE_K, true, &x_map));
  CHECK (tensor_map (s, encode, g->w, g->n, g->k, T::W_BOX_ROWS, STAGE_K, true, &w_map));
  CHECK (tensor_map (s, encode, g->y, g->m, SWIGLU ? g->n / 2 : g->n, WARP_ROWS, T::BOX, false,
                     &y_map));

  TileOrder order;
  order.row_tiles = (int)CEIL_DIV (g->m, T::ROWS * (T::SHARE == SHARE_W ? 2 : 1));
  order.column_tiles = (int)CEIL_DIV (g->n, T::COLUMNS * (T::SHARE == SHARE_X ? 2 : 1));
  order.group = group;
  const int tiles = order.row_tiles * order.column_tiles * T::CLUSTER;
  const int most = s->caps.multiprocessors / T::CLUSTER * T::CLUSTER;

  auto *kernel = gemm_sm90_kernel<T, SWIGLU>;
  CUDA_CHECK (s, cudaFuncSetAttribute (kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       T::SHARED_BYTES));
  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = T::CLUSTER;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3 (tiles < most ? tiles : most);
  config.blockDim = dim3 (T::THREADS);
  config.dynamicSmemBytes = T::SHARED_BYTES;
  config.stream = s->compute;
  config.attrs = &cluster;
  config.numAttrs = T::CLUSTER > 1 ? 1 : 0;
  CUDA_CHECK (s, cudaLaunchKernelEx (&config, kernel, x_map, w_map, y_map, g->bias, order,
                                     (int)g->n, (int)CEIL_DIV (g->k, STAGE_K)));
  return STATUS_OK;
}

/* A variant: a tile shape as a value. `share_rows` etc. count blocks of a cluster. */
typedef struct
{
  const char *name;
  int rows, columns, cluster_rows, cluster_columns, group;
  Status (*plain) (Stream *s, const Gemm *g, int group);
  Status (*swiglu) (Stream *s, const Gemm *g, int group); /* NULL: columns are no multiple of 16 */
} Variant;

#define PLAIN(...)  launch<Tile<__VA_ARGS__>, false>
#define SWIGLU(...) launch<Tile<__VA_ARGS__>, true>

/* clang-format off */
static const Variant variants[] = {
  { "128x256",      128, 256, 1, 1, 11, PLAIN (2, 256, SHARE_NOTHING, 4, 56, 2), SWIGLU (2, 256, SHARE_NOTHING, 4, 56, 2) },
  { "128x256 x2m",  128, 256, 2, 1, 8, PLAIN (2, 256, SHARE_W, 4, 56, 2), SWIGLU (2, 256, SHARE_W, 4, 56, 2) },
  { "128x256 x2n",  128, 256, 1, 2, 11, PLAIN (2, 256, SHARE_X, 4, 56, 2), SWIGLU (2, 256, SHARE_X, 4, 56, 2) },
  { "128x256 x2n g33", 128, 256, 1, 2, 33, PLAIN (2, 256, SHARE_X, 4, 56, 2), SWIGLU (2, 256, SHARE_X, 4, 56, 2) },
  { "128x240",      128, 240, 1, 1, 11, PLAIN (2, 240, SHARE_NOTHING, 4, 40, 2), NULL },
  { "128x240 x2n",  128, 240, 1, 2, 11, PLAIN (2, 240, SHARE_X, 4, 40, 2), NULL },
  { "128x240 x2n g33", 128, 240, 1, 2, 33, PLAIN (2, 240, SHARE_X, 4, 40, 2), NULL },
  { "128x240 x2m",  128, 240, 2, 1, 8, PLAIN (2, 240, SHARE_W, 4, 40, 2), NULL },
  { "192x216",      192, 216, 1, 1, 11, PLAIN (3, 216, SHARE_NOTHING, 4, 24, 2), NULL },
  { "192x216 x2n",  192, 216, 1, 2, 11, PLAIN (3, 216, SHARE_X, 4, 24, 2), NULL },
  { "192x216 x2n b",192, 216, 1, 2, 11, PLAIN (3, 216, SHARE_X, 4, 56, 1), NULL },
  { "192x192 x2n",  192, 192, 1, 2, 11, PLAIN (3, 192, SHARE_X, 4, 40, 2), SWIGLU (3, 192, SHARE_X, 4, 40, 2) },
  { "192x192 x2m",  192, 192, 2, 1, 11, PLAIN (3, 192, SHARE_W, 4, 40, 2), SWIGLU (3, 192, SHARE_W, 4, 40, 2) },
  { "128x128",      128, 128, 1, 1, 11, PLAIN (2, 128, SHARE_NOTHING, 5, 72, 1), SWIGLU (2, 128, SHARE_NOTHING, 5, 56, 1) },
  { "64x128",       64, 128, 1, 1, 8, PLAIN (1, 128, SHARE_NOTHING, 8, 72, 1), SWIGLU (1, 128, SHARE_NOTHING, 8, 56, 1) },
  { "64x64",        64, 64, 1, 1, 8, PLAIN (1, 64, SHARE_NOTHING, 12, 56, 1), SWIGLU (1, 64, SHARE_NOTHING, 12, 24, 1) },
  { "64x32",        64, 32, 1, 1, 8, PLAIN (1, 32, SHARE_NOTHING, 16, 24, 1), NULL },
};
/* clang-format on */
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

/* The variant whose waves take the least time: each wave costs a tile's work plus the start and
 * end of a tile, worth about 24 columns of 128 rows. Small tiles read more than they multiply. */
static int
pick_variant (const Stream *s, const Gemm *g)
{
  int best = 0;
  double least = 0.0;
  for (int i = 0; i < N_VARIANTS; i++)
    {
      const Variant *v = &variants[i];
      if (g->swiglu && v->swiglu == NULL)
        continue;
      const int64_t cluster = v->cluster_rows * v->cluster_columns;
      const int64_t tiles = CEIL_DIV (g->m, v->rows * v->cluster_rows)
                            * CEIL_DIV (g->n, v->columns * v->cluster_columns);
      const int64_t waves = CEIL_DIV (tiles, s->caps.multiprocessors / cluster);
      const double traffic = 1.0 / v->rows + 1.0 / v->columns;
      const double work = v->rows * (v->columns + 24) * (1.0 + 16.0 * traffic);
      const double time = waves * work;
      if (i == 0 || time < least)
        best = i, least = time;
    }
  return best;
}

Status
gemm_sm90 (Stream *s, const Gemm *g, int variant)
{
  REQUIRE (s, s->caps.sm == 90);
  REQUIRE (s, g->m >= 1 && g->m <= INT32_MAX && g->n <= INT32_MAX && g->k <= INT32_MAX);
  REQUIRE (s, g->n >= 8 && g->k >= 8 && g->n % (g->swiglu ? 16 : 8) == 0 && g->k % 8 == 0);
  const Variant *v = &variants[variant < 0 ? pick_variant (s, g) : variant];
  if (g->swiglu)
    {
      REQUIRE (s, v->swiglu != NULL);
      return v->swiglu (s, g, v->group);
    }
  return v->plain (s, g, v->group);
}
