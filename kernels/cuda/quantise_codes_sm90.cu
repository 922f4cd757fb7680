/* SPDX-License-Identifier: Apache-2.0
 *
 * Activations on their way into an exact SVDQuant linear on sm_90, for ranks up to 32: by blocks
 * that have 32 rows to themselves. 4224 rows are one block for each of 132 multiprocessors.
 *
 * K goes in strips of 64 to the block's warps in turn, so that they read neighbours at one time.
 * The copy engine fills a ring of strips for each warp, and what its numbers meet. A strip is read
 * into registers once, all 32 rows at a time, as warps are few and wait for results of their own:
 * for the low-rank product, whose sums stay there to the end, and for its codes. Those go back to
 * where x lay, from where the copy engine takes them.
 */
#include "kernels/cuda/exact_sm90.cuh"

#define WARPS      16
#define THREADS    (WARPS * 32)
#define SLOTS      2 /* strips of a warp in shared memory */
#define MOST_STEPS (SVDQ_CODES_RANK / LOW_RANKS)

static_assert (MOST_STEPS * LOW_RANKS * PITCH * 4 <= SLOTS * STRIP_BYTES,
               "a warp's sums fit its slots");
static_assert (MOST_STEPS * LOW_RANKS * ROWS / TOKENS <= THREADS, "all sums are added at once");

struct Place
{
  int first, strips; /* row of the block; of K: a warp's are warp, warp + WARPS, ... */
};

/* What a warp has in shared memory. */
struct alignas (1024) Ring
{
  char x[SLOTS][STRIP_BYTES]; /* and then codes; at the end sums */
  Down down[MOST_STEPS];
  uint4 inverse[SLOTS][STRIP_K / 4];
  uint64_t full[SLOTS], down_full; /* barriers */
};

struct Block
{
  Ring rings[WARPS];
  uint4 groups[SCALES]; /* nvfp4_group, int4_group */
  uint32_t odd_rows;    /* that are coded again, a bit each */
  Again again;
};

/* -- reading and writing ------------------------------------------------------------------------
 */

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

/* Adds the warps' sums: a thread has one rank of four tokens. */
template <int STEPS>
static __device__ __forceinline__ void
write_low (const SvdqQuantise &q, const Place &p, const Block &block)
{
  constexpr int RANKS = STEPS * LOW_RANKS;
  const int rank = threadIdx.x % RANKS, token = threadIdx.x / RANKS * TOKENS;
  if (token < ROWS)
    write_tokens (q, p.first + token, rank,
                  add_up<WARPS> ((const float *)block.rings[0].x + rank * PITCH + token,
                                 sizeof (Ring) / sizeof (float)));
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
      Sixteen x[ROW_BLOCKS], smoothed[ROW_BLOCKS];
      uint32_t most[ROW_BLOCKS];
#pragma unroll
      for (int j = 0; j < ROW_BLOCKS; j++)
        take (ring.x[slot], j, x[j]);
      if (lane == 0)
        {
          tma_store_wait_read<0> ();
          if (turn > 0)
            prefetch (q, x_map, p, ring, strip + (SLOTS - 1) * WARPS, (turn - 1) % SLOTS);
        }
      __syncwarp ();
      /* What INT4's lanes tell each other is on its way while the low-rank product runs. */
      if (CODES == SVDQ_CODES_INT4_F16)
        smooth<CODES> (ring.inverse[slot], x, smoothed, most);
      if (STEPS > 0)
        {
          barrier_wait (shared_address (&ring.down_full), turn & 1);
#pragma unroll
          for (int step = 0; step < STEPS; step++)
            lower (ring.down[step], x, sum[step]);
          tma_store_fence (); /* what comes next must not overtake the reading */
          __syncwarp ();
          if (lane == 0)
            prefetch_down<STEPS> (q, p, ring, strip + WARPS);
        }
      if (CODES == SVDQ_CODES_NVFP4_F16)
        smooth<CODES> (ring.inverse[slot], x, smoothed, most);
      code<CODES> (block.groups, most, smoothed, odd_rows);
      write_codes (codes_map, p.first, strip * STRIP_K, ring.x[slot], smoothed);
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
#ifdef FOR_SM90
  extern __shared__ __align__ (1024) char shared[];
  Block &block = *reinterpret_cast<Block *> (shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const Place p = { (int)blockIdx.x * ROWS, q.k / STRIP_K };

  if (lane == 0)
    begin_ring<STEPS> (q, &x_map, p, block.rings[warp]);
  begin_block<CODES, THREADS> (q, p.first, block.groups);
  if (threadIdx.x == 0)
    block.odd_rows = 0;
  if (STEPS > 0)
    clear_low<THREADS> (q, p.first);
  __syncthreads ();

  float sum[STEPS > 0 ? STEPS : 1][ROW_BLOCKS][4] = {};
  const uint32_t odd_rows = take_strips<CODES, STEPS> (q, &x_map, &codes_map, p, block, sum);

  if (lane == 0)
    tma_store_wait_read<0> ();
#pragma unroll
  for (int j = 0; j < ROW_BLOCKS; j++)
    if ((odd_rows >> 8 * j & 1) != 0 && p.first + 8 * j + lane / 4 < q.m)
      atomicOr (&block.odd_rows, 1u << (8 * j + lane / 4));
  __syncwarp ();
  if constexpr (STEPS > 0)
    share_sums<0, STEPS> (block.rings[warp].x[0], sum);
  __syncthreads ();
  if constexpr (STEPS > 0)
    write_low<STEPS> (q, p, block);
  if (block.odd_rows != 0)
    {
      if (lane == 0)
        tma_store_wait_all ();
      __syncthreads ();
      code_again<CODES, THREADS> (q, p.first, block.odd_rows, block.again);
    }
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
  CHECK (check_quantise (s, q));
  REQUIRE (s, q->kind != SVDQ_CODES_E4M3 && q->rank <= SVDQ_CODES_RANK);
  return q->kind == SVDQ_CODES_INT4_F16 ? launch_for<SVDQ_CODES_INT4_F16> (s, q)
                                        : launch_for<SVDQ_CODES_NVFP4_F16> (s, q);
}
