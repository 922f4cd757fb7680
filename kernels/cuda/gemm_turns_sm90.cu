/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of E4M3 with a low-rank branch on sm_90, by two warpgroups that take turns.
 *
 * In gemm_sm90.cuh all consumers of a block work on one tile, and the tensor cores rest while they
 * write it. Here each consumer warpgroup has a tile of its own, 128 rows by 128 or 160 columns, and
 * while one multiplies the other scales, applies swiglu and writes. The ring is shared: tiles go
 * through it one behind the other, so a warpgroup steps over the stages of the other's tile.
 *
 * A warpgroup may wait for a stage only when the turn before in that stage is known to be full: the
 * barrier tells two turns apart by parity alone. Hence the turns, handed over by named barriers
 * once the last stage of a tile has been seen.
 */
#include "kernels/cuda/gemm_sm90.cuh"

#define BLOCKS_OF_ROWS 2 /* of 64, that a warpgroup multiplies */
#define FIRST_TURN     1 /* named barriers: 1 and 2 */

/* Of 512 for three warpgroups: 160 columns take 160 for their sums alone. */
#define REGISTERS_IN_TURN 240
#define REGISTERS_LOADING 24

/* Columns that a warp stages at once: the box with the fewest columns written twice, of those that
 * fit; the widest of equals. */
static constexpr int
best_box (int out, int warps, int bytes)
{
  int best = SMALLEST_BOX;
  for (int box = SMALLEST_BOX; box <= LARGEST_BOX; box += 16)
    if (box <= out && warps * BUFFERS * WARP_ROWS * box * 2 <= bytes
        && CEIL_DIV (out, box) * box <= CEIL_DIV (out, best) * best)
      best = box;
  return best;
}

/* As Tile, but CONSUMERS tiles are in the making at a time. */
template <int COLUMNS, bool SWIGLU> struct TurnTile : Tile<2, COLUMNS, SWIGLU, true>
{
  static_assert (TurnTile::ROWS == BLOCKS_OF_ROWS * WGMMA_ROWS, "a warpgroup has a tile to itself");
  static constexpr int BOX = best_box (TurnTile::OUT_COLUMNS, TurnTile::WARPS,
                                       TurnTile::ROOM - TurnTile::STAGES * TurnTile::STAGE_BYTES);
  static constexpr int BOX_BYTES = WARP_ROWS * BOX * 2;
  static constexpr int STORE_BYTES = TurnTile::WARPS * BUFFERS * BOX_BYTES;
  static constexpr int SHARED_BYTES = SWIZZLE_ATOM_BYTES + TurnTile::STAGES * TurnTile::STAGE_BYTES
                                      + STORE_BYTES + TurnTile::BARRIER_BYTES;
  static_assert (SHARED_BYTES <= SHARED_PER_SM90, "the ring has its size");
  static_assert (BOX / 8 % 2 == 1 && BOX_BYTES % 128 == 0, "boxes without bank conflicts");
  static_assert (COLUMNS % 16 == 0, "whole pairs of blocks");
};

#ifdef HAVE_WGMMA

template <typename T>
static __device__ __forceinline__ void
step_over (RingPlace<T> &at, int stages)
{
  at.stage += stages;
  at.phase ^= at.stage / T::STAGES & 1;
  at.stage %= T::STAGES;
}

/* Waits for a stage. `last` of the tile: the other warpgroup may go on to the stages behind it. */
template <typename T>
static __device__ __forceinline__ void
await_stage (const Layout<T> &l, const RingPlace<T> &at, bool last, int other)
{
  barrier_wait (l.full + at.stage * 8, at.phase);
  if (last)
    named_barrier_arrive (other, 2 * WARPGROUP);
}

/* Multiplies STEPS times 32 bytes of k of a stage, from `first` on, by both halves of the rows. */
template <typename T, bool E4M3, int STEPS>
static __device__ __forceinline__ void
multiply_steps (uint32_t stage, float (&upper)[T::COLUMNS / 2], float (&lower)[T::COLUMNS / 2],
                int first, bool add)
{
  const uint64_t x = wgmma_k_major (stage) + 2 * first;
  const uint64_t w = wgmma_k_major (stage + T::X_BYTES) + 2 * first;
  constexpr uint64_t BELOW = WGMMA_ROWS * STAGE_BYTES_K >> 4;
  wgmma_fence ();
#pragma unroll
  for (int i = 0; i < STEPS; i++)
    {
      multiply<T::COLUMNS, E4M3> (upper, x + 2 * i, w + 2 * i, add || i > 0);
      multiply<T::COLUMNS, E4M3> (lower, x + BELOW + 2 * i, w + 2 * i, add || i > 0);
    }
  wgmma_commit ();
}

/* When this returns, the products of the stage before the newest are done: it is handed back. */
template <typename T>
static __device__ __forceinline__ void
hand_back (const Layout<T> &l, RingPlace<T> &at, bool any)
{
  wgmma_wait<1> ();
  if (any && threadIdx.x % WARPGROUP == 0)
    barrier_arrive (l.empty + (at.stage == 0 ? T::STAGES - 1 : at.stage - 1) * 8);
  at.advance ();
}

/* A consumer warpgroup: every other tile of this block. */
template <typename T>
static __device__ __forceinline__ void
consume_in_turn (const Layout<T> &l, const CUtensorMap *y_map, const GemmVectors &v,
                 const TileOrder &order, const GemmSize &size, int group)
{
  constexpr int STEPS = STAGE_BYTES_K / WGMMA_BYTES_K;
  const int tiles = order.row_tiles * order.column_tiles;
  const int low_stages = CEIL_DIV (size.low_steps, STEPS), stages = size.k_stages + low_stages;
  const int mine = FIRST_TURN + group, other = FIRST_TURN + 1 - group;
  const int first = blockIdx.x + group * gridDim.x;
  RingPlace<T> at;
  if (group > 0)
    step_over (at, stages);
  for (int tile = first; tile < tiles; tile += 2 * gridDim.x)
    {
      const TilePlace place = tile_place (order, tile);
      float upper[T::COLUMNS / 2], lower[T::COLUMNS / 2];
      prefetch_vectors<T> (v, place, size);
      if (tile != (int)blockIdx.x)
        named_barrier (mine, 2 * WARPGROUP);
      const bool handing = tile + (int)gridDim.x < tiles;
      for (int k = 0; k < size.k_stages; k++)
        {
          await_stage<T> (l, at, handing && k + 1 == stages, other);
          multiply_steps<T, true, STEPS> (l.ring + at.stage * T::STAGE_BYTES, upper, lower, 0,
                                          k > 0);
          hand_back<T> (l, at, k > 0);
        }
      for (int steps = size.low_steps; steps > 0; steps -= STEPS)
        {
          /* In pairs: what lies behind the rank is zero. The other begins while this drains. */
          await_stage<T> (l, at, handing && steps <= STEPS, other);
          if (steps == size.low_steps)
            wgmma_wait<0> (); /* instructions of two shapes are not ordered on the same sums */
          multiply_steps<T, false, 2> (l.ring + at.stage * T::STAGE_BYTES, upper, lower, 0, true);
          if (steps > 2)
            multiply_steps<T, false, 2> (l.ring + at.stage * T::STAGE_BYTES, upper, lower, 2, true);
          hand_back<T> (l, at, true);
        }
      wgmma_wait<0> ();
      wgmma_touch (upper);
      wgmma_touch (lower);
      if (threadIdx.x % WARPGROUP == 0)
        barrier_arrive (l.empty + (at.stage == 0 ? T::STAGES - 1 : at.stage - 1) * 8);
      step_over (at, stages);
      const int warp = (int)threadIdx.x / 32 % 4;
      const uint32_t staging = l.store + (group * 4 + warp) * BUFFERS * T::BOX_BYTES;
      const int row = place.row * T::ROWS + warp * WARP_ROWS, column = place.column * T::COLUMNS;
      store_rows<T> (upper, staging, y_map, v, row, column, size);
      store_rows<T> (lower, staging, y_map, v, row + WGMMA_ROWS, column, size);
    }
  tma_store_wait_all ();
}

#endif /* HAVE_WGMMA */

template <typename T>
static __global__ void
__launch_bounds__ (T::THREADS, 1)
    gemm_turns_kernel (const __grid_constant__ GemmMaps maps, GemmVectors vectors, TileOrder order,
                       GemmSize size)
{
#ifdef HAVE_WGMMA
  extern __shared__ char shared[];
  const Layout<T> l = Layout<T>::make (shared_address (shared));
  const int group = threadIdx.x / WARPGROUP;

  if (threadIdx.x == 0)
    {
      begin_ring<T> (l, 1); /* one of the two warpgroups */
      tma_prefetch_map (&maps.x);
      tma_prefetch_map (&maps.w);
      tma_prefetch_map (&maps.y);
    }
  __syncthreads ();

  if (group == T::CONSUMERS)
    {
      registers_shrink<REGISTERS_LOADING> ();
      if (threadIdx.x == T::CONSUMERS * WARPGROUP)
        produce<T> (l, maps, order, size);
    }
  else
    {
      registers_grow<REGISTERS_IN_TURN> ();
      consume_in_turn<T> (l, &maps.y, vectors, order, size, group);
    }
#endif
}

template <typename T>
static Status
launch_turns (Stream *s, const ScaledGemm *scaled)
{
  return launch_blocks<T> (s, scaled, gemm_turns_kernel<T>);
}

#define TURNS(columns)                                                                             \
  {                                                                                                \
    "2x128x" #columns, BLOCKS_OF_ROWS *WGMMA_ROWS, columns, 0.85,                                  \
        launch_turns<TurnTile<columns, false>>, launch_turns<TurnTile<columns, true>>              \
  }

static const GemmVariant variants[] = { TURNS (128), TURNS (160) };
#define N_VARIANTS ((int)(sizeof variants / sizeof variants[0]))

const char *
gemm_turns_sm90_variant_name (int variant)
{
  return variant < N_VARIANTS ? variants[variant].name : NULL;
}

/* The fewest columns in a row of tiles behind one another; the wider tile of equals. */
static int
pick (const Stream *s, const Gemm *g)
{
  int64_t least = INT64_MAX;
  int best = 0;
  for (int i = N_VARIANTS - 1; i >= 0; i--)
    {
      const int64_t tiles
          = CEIL_DIV (g->m, variants[i].rows) * CEIL_DIV (g->n, variants[i].columns);
      const int64_t columns = CEIL_DIV (tiles, s->caps.multiprocessors) * variants[i].columns;
      if (columns < least)
        best = i, least = columns;
    }
  return best;
}

Status
gemm_turns_sm90 (Stream *s, const ScaledGemm *scaled, int variant)
{
  const Gemm *g = &scaled->product;
  CHECK (check_scaled (s, scaled));
  REQUIRE (s, variant < N_VARIANTS);
  variant = variant < 0 ? pick (s, g) : variant;
  return g->swiglu ? variants[variant].swiglu (s, scaled) : variants[variant].plain (s, scaled);
}
