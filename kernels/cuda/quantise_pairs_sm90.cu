/* SPDX-License-Identifier: Apache-2.0
 *
 * As quantise_codes_sm90.cu, for ranks above 32: by clusters of two blocks, which have 64 rows to
 * themselves, and of which each takes half of K, so that it reads no more than half of proj_down.
 *
 * Two warps beside each other have the same strip, of 32 rows each, and share its part of
 * proj_down. A thread has as many sums as there are ranks: more of them, fewer warps; and beyond
 * 128 all is done again for the ranks that are left. At the end a block adds its warps' sums and
 * hands them to the block of the cluster that writes those rows.
 */
#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/exact_sm90.cuh"

#define PARTS       2 /* of rows, and of K: blocks of a cluster */
#define SLOTS       3 /* strips of a warp in shared memory */
#define LEAST_STEPS 3
#define MOST_STEPS  8 /* times LOW_RANKS, of a launch */

/* Whose sums a warp's slots have room for, times LOW_RANKS. */
#define HELD_STEPS (SLOTS * STRIP_BYTES / (LOW_RANKS * PITCH * 4))

/* The shape of a block. */
template <int STEPS_> struct Shape
{
  static constexpr int STEPS = STEPS_, RANKS = STEPS * LOW_RANKS;
  static constexpr int WARPS = STEPS <= 4 ? 12 : 8, THREADS = WARPS * 32;
  static constexpr int TURNS = WARPS / PARTS; /* strips of a block at a time */
};

/* Where a warp's numbers lie. */
struct Place
{
  int first; /* row */
  int strip; /* of K: strip, strip + WARPS, ... to below strips */
  int strips;
  int count; /* warps that have a strip together */
  Ranks ranks;
};

/* A block's shared memory. */
template <typename S> struct Block
{
  alignas (1024) char x[S::WARPS][SLOTS][STRIP_BYTES]; /* and then codes; at the end sums */
  uint4 groups[SCALES];                                /* nvfp4_group, int4_group */
  uint4 inverse[S::WARPS][SLOTS][STRIP_K / 4];
  Down down[S::TURNS][S::STEPS];
  uint64_t down_full[S::TURNS], down_empty[S::TURNS]; /* barriers */
  uint64_t full[S::WARPS][SLOTS];
  alignas (16) float sums[PARTS][S::RANKS * PITCH]; /* of each block, for this one's rows */
  uint32_t odd_rows[PARTS]; /* of the cluster's rows, a bit for each that is coded again */
  Again again;
};

/* -- reading ------------------------------------------------------------------------------------
 */

/* Begins the reading of a strip, if there is one: one lane. */
template <typename S>
static __device__ __forceinline__ void
prefetch (const SvdqQuantise &q, const CUtensorMap *map, const Place &p, Block<S> &block, int strip,
          int slot)
{
  if (strip >= p.strips)
    return;
  const int warp = threadIdx.x / 32, bytes = STRIP_K * 4;
  const uint32_t full = shared_address (&block.full[warp][slot]);
  barrier_expect (full, STRIP_BYTES + bytes);
  bulk_load (shared_address (block.inverse[warp][slot]),
             (const char *)q.inverse + (size_t)strip * bytes, bytes, full);
  tma_load (shared_address (block.x[warp][slot]), map, strip * STRIP_K, p.first, full);
}

/* Likewise of its part of proj_down, in fragments (svdq_low_rank_fragments), for all warps that
 * have the strip: one lane of them. */
template <typename S>
static __device__ __forceinline__ void
prefetch_down (const SvdqQuantise &q, const Place &p, Block<S> &block, int strip)
{
  if (strip >= p.strips)
    return;
  const int turn = threadIdx.x / 32 / PARTS, bytes = S::STEPS * STEP_BYTES;
  const size_t step = (size_t)strip * (q.rank / LOW_RANKS) + p.ranks.first;
  const uint32_t full = shared_address (&block.down_full[turn]);
  barrier_expect (full, bytes);
  bulk_load (shared_address (block.down[turn]), (const char *)q.proj_down + step * STEP_BYTES,
             bytes, full);
}

/* This warp has read it; the first of those that share it begins with the next when all have. To
 * wait later, behind what lanes tell each other, took longer (tried.md). */
template <typename S>
static __device__ __forceinline__ void
leave_down (const SvdqQuantise &q, const Place &p, Block<S> &block, int strip)
{
  const uint32_t empty = shared_address (&block.down_empty[threadIdx.x / 32 / PARTS]);
  barrier_arrive (empty);
  if (threadIdx.x % (32 * PARTS) != 0)
    return;
  barrier_wait (empty, strip / S::WARPS & 1);
  tma_store_fence (); /* what comes next must not overtake the reading */
  prefetch_down (q, p, block, strip + S::WARPS);
}

/* -- the low-rank sums --------------------------------------------------------------------------
 */

/* Adds COUNT times 16 ranks' sums of the warps for each part of the rows, in their order, and hands
 * them to the block that writes those: a thread has one rank of four tokens at a time. */
template <int FROM, int COUNT, typename S>
static __device__ __forceinline__ void
send_sums (Block<S> &block)
{
  constexpr int RANKS = COUNT * LOW_RANKS, PIECES = RANKS * ROWS / TOKENS;
  float *const sums = block.sums[cluster_rank ()] + FROM * LOW_RANKS * PITCH;
  for (int i = threadIdx.x; i < PARTS * PIECES; i += S::THREADS)
    {
      const int part = i / PIECES, at = i % RANKS * PITCH + i % PIECES / RANKS * TOKENS;
      const float4 sum
          = add_up<S::TURNS> ((const float *)block.x[part] + at, sizeof block.x[0] * PARTS / 4);
      cluster_store (shared_address (sums + at), part, sum);
    }
}

/* All sums, as many at a time as the warps' slots hold. */
template <int FROM, typename S>
static __device__ __forceinline__ void
exchange_sums (Block<S> &block, const float (&sum)[S::STEPS][ROW_BLOCKS][4])
{
  constexpr int LEFT = S::STEPS - FROM, COUNT = LEFT < HELD_STEPS ? LEFT : HELD_STEPS;
  if (FROM > 0)
    __syncthreads ();
  share_sums<FROM, COUNT> (block.x[threadIdx.x / 32][0], sum);
  __syncthreads ();
  send_sums<FROM, COUNT> (block);
  if constexpr (LEFT > COUNT)
    exchange_sums<FROM + COUNT> (block, sum);
}

/* Adds the blocks' sums. */
template <typename S>
static __device__ __forceinline__ void
write_low (const SvdqQuantise &q, const Place &p, int first, const Block<S> &block)
{
  for (int i = threadIdx.x; i < S::RANKS * ROWS / TOKENS; i += S::THREADS)
    {
      const int rank = i % S::RANKS, token = i / S::RANKS * TOKENS;
      write_tokens (q, first + token, p.ranks.first * LOW_RANKS + rank,
                    add_up<PARTS> (&block.sums[0][rank * PITCH + token], S::RANKS * PITCH));
    }
}

/* -- the kernel ---------------------------------------------------------------------------------
 */

template <typename S>
static __device__ __forceinline__ Place
place_of (const SvdqQuantise &q, const Ranks &ranks)
{
  const int warp = threadIdx.x / 32, rank = cluster_rank ();
  const int cluster = ((int)blockIdx.x - rank) * ROWS, first = cluster + warp % PARTS * ROWS;
  return { first, rank * S::TURNS + warp / PARTS, first < q.m ? q.k / STRIP_K : 0,
           min ((int)CEIL_DIV (q.m - cluster, ROWS), PARTS), ranks };
}

/* Barriers, and the first strips: one lane of each warp. */
template <typename S>
static __device__ __forceinline__ void
begin_copies (const SvdqQuantise &q, const CUtensorMap *map, const Place &p, Block<S> &block)
{
  const int warp = threadIdx.x / 32, turn = warp / PARTS;
  const bool leads = warp % PARTS == 0;
  for (int i = 0; i < SLOTS; i++)
    barrier_init (shared_address (&block.full[warp][i]), 1);
  if (leads)
    {
      barrier_init (shared_address (&block.down_full[turn]), 1);
      barrier_init (shared_address (&block.down_empty[turn]), p.count * 32);
    }
  barrier_init_fence ();
  if (leads)
    prefetch_down (q, p, block, p.strip);
  for (int i = 0; i < SLOTS; i++)
    prefetch (q, map, p, block, p.strip + i * S::WARPS, i);
}

/* This warp's strips: their codes, and its sums of the low-rank product. Returns what `code` notes.
 */
template <SvdqCodes CODES, typename S>
static __device__ __forceinline__ uint32_t
take_strips (const SvdqQuantise &q, const CUtensorMap *x_map, const CUtensorMap *codes_map,
             const Place &p, Block<S> &block, float (&sum)[S::STEPS][ROW_BLOCKS][4])
{
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, turn = warp / PARTS;
  uint32_t odd_rows = 0;
#pragma unroll 1
  for (int strip = p.strip, slot = 0, parity = 0; strip < p.strips;
       strip += S::WARPS, parity ^= slot == SLOTS - 1, slot = slot == SLOTS - 1 ? 0 : slot + 1)
    {
      barrier_wait (shared_address (&block.full[warp][slot]), parity);
      if (lane == 0 && strip >= S::WARPS)
        {
          tma_store_wait_read<0> ();
          prefetch (q, x_map, p, block, strip + (SLOTS - 1) * S::WARPS,
                    slot == 0 ? SLOTS - 1 : slot - 1);
        }
      Sixteen x[ROW_BLOCKS];
      uint32_t most[ROW_BLOCKS];
#pragma unroll
      for (int j = 0; j < ROW_BLOCKS; j++)
        take (block.x[warp][slot], j, x[j]);
      barrier_wait (shared_address (&block.down_full[turn]), strip / S::WARPS & 1);
#pragma unroll
      for (int step = 0; step < S::STEPS; step++)
        lower (block.down[turn][step], x, sum[step]);
      leave_down (q, p, block, strip);
      smooth<CODES> (block.inverse[warp][slot], x, x, most);
      code<CODES> (block.groups, most, x, odd_rows);
      write_codes (codes_map, p.first, strip * STRIP_K, block.x[warp][slot], x);
      __syncwarp ();
    }
  return odd_rows;
}

/* Tells all blocks which of this lane's rows are coded again. */
template <typename S>
static __device__ __forceinline__ void
note (const SvdqQuantise &q, const Place &p, Block<S> &block, uint32_t odd_rows)
{
  const int row = threadIdx.x % 32 / 4;
  const uint32_t of_warp = shared_address (&block.odd_rows[threadIdx.x / 32 % PARTS]);
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    if ((odd_rows >> 8 * j & 1) != 0 && p.first + 8 * j + row < q.m)
      for (int to = 0; to < PARTS; to++)
        cluster_or (of_warp, to, 1u << (8 * j + row));
  __syncwarp ();
}

/* This block's rows of those that are coded again, once codes from before have left all blocks. */
template <SvdqCodes CODES, typename S>
static __device__ __forceinline__ void
code_noted (const SvdqQuantise &q, int first, Block<S> &block)
{
  uint32_t any = 0; /* in all blocks alike */
  for (int part = 0; part < PARTS; part++)
    any |= block.odd_rows[part];
  if (any == 0)
    return;
  if (threadIdx.x % 32 == 0)
    tma_store_wait_all ();
  __syncwarp ();
  cluster_arrive ();
  cluster_wait ();
  code_again<CODES, S::THREADS> (q, first, block.odd_rows[cluster_rank ()], block.again);
}

template <SvdqCodes CODES, typename S>
static __global__ void
__launch_bounds__ (S::THREADS, 1)
    quantise_pairs_kernel (SvdqQuantise q, Ranks ranks, const __grid_constant__ CUtensorMap x_map,
                           const __grid_constant__ CUtensorMap codes_map)
{
#ifdef FOR_SM90
  extern __shared__ __align__ (1024) char shared[];
  Block<S> &block = *cluster_own<Block<S>> (shared);
  const int lane = threadIdx.x % 32, first = (int)blockIdx.x * ROWS;
  const Place p = place_of<S> (q, ranks);
  if (lane == 0)
    begin_copies (q, &x_map, p, block);
  begin_block<CODES, S::THREADS> (q, first, block.groups);
  if (threadIdx.x < PARTS)
    block.odd_rows[threadIdx.x] = 0;
  clear_low<S::THREADS> (q, first);
  __syncthreads ();
  cluster_arrive ();

  float sum[S::STEPS][ROW_BLOCKS][4] = {};
  const uint32_t odd_rows = take_strips<CODES> (q, &x_map, &codes_map, p, block, sum);

  if (lane == 0)
    tma_store_wait_read<0> ();
  __syncwarp ();
  cluster_wait (); /* all blocks have begun */
  if (__any_sync (0xffffffffu, odd_rows != 0))
    note (q, p, block, odd_rows);
  exchange_sums<0> (block, sum);
  cluster_arrive ();
  cluster_wait (); /* nobody reaches into another block from here on */
  write_low (q, p, first, block);
  code_noted<CODES> (q, first, block);
#endif
}

/* -- launching ----------------------------------------------------------------------------------
 */

template <SvdqCodes CODES, int STEPS>
static Status
launch (Stream *s, const SvdqQuantise *q, const Ranks &ranks, const CUtensorMap &x,
        const CUtensorMap &codes)
{
  if constexpr (STEPS > LEAST_STEPS)
    if (ranks.steps < STEPS)
      return launch<CODES, STEPS - 1> (s, q, ranks, x, codes);
  typedef Shape<STEPS> S;
  static_assert (sizeof (Block<S>) <= MOST_SHARED, "a block fits");
  auto *kernel = quantise_pairs_kernel<CODES, S>;
  CUDA_CHECK (s, cudaFuncSetAttribute (kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       (int)sizeof (Block<S>)));
  launch_clusters (kernel, PARTS, (unsigned)CEIL_DIV (q->m, ROWS * PARTS) * PARTS, S::THREADS,
                   sizeof (Block<S>), s->compute, *q, ranks, x, codes);
  return LAUNCHED (s);
}

/* In as few launches as there must be, of much the same number of ranks. */
Status
svdq_quantise_pairs_sm90 (Stream *s, const SvdqQuantise *q)
{
  CHECK (check_quantise (s, q));
  REQUIRE (s, q->kind != SVDQ_CODES_E4M3 && q->rank >= LEAST_STEPS * LOW_RANKS);
  TensorMapEncoder encode = NULL;
  CUtensorMap x = {}, codes = {};
  CHECK (tensor_map_encoder (s, &encode));
  CHECK (tensor_map (s, encode, q->x, q->m, q->k, ROWS, STRIP_K, TENSOR_SWIZZLED, &x));
  CHECK (tensor_map (s, encode, q->codes, q->m, q->k, ROWS, STRIP_K, TENSOR_SWIZZLED, &codes));
  const int steps = q->rank / LOW_RANKS, launches = (int)CEIL_DIV (steps, MOST_STEPS);
  Ranks ranks = {};
  for (int left = launches; left > 0; left--, ranks.first += ranks.steps)
    {
      ranks.steps = (int)CEIL_DIV (steps - ranks.first, left);
      CHECK (q->kind == SVDQ_CODES_INT4_F16
                 ? (launch<SVDQ_CODES_INT4_F16, MOST_STEPS> (s, q, ranks, x, codes))
                 : (launch<SVDQ_CODES_NVFP4_F16, MOST_STEPS> (s, q, ranks, x, codes)));
    }
  return STATUS_OK;
}
