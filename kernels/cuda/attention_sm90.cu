/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention on sm_90 without a score matrix: wgmma fed by bulk tensor copies.
 *
 * A block takes 64 query rows a consumer warpgroup, of one head; a producer thread streams keys
 * and values through two rings. The softmax runs while scores arrive (Milakov & Gimelshein 2018;
 * Dao et al. 2022): a row keeps its maximum m, its sum l and its unnormalised output. Scores and
 * probabilities never leave registers.
 *
 * Exponentials and matrix products run in different units, so while one warpgroup is in its
 * softmax the others must multiply: they start their scores in turns, or else all would do the
 * same at the same time. With PIPELINED a warpgroup also starts the scores of the next block of
 * keys before it multiplies the probabilities of the last (Shah et al. 2024).
 *
 * 4224 rows of 30 heads are 660 tiles of 192: five even waves on 132 multiprocessors.
 */
#include "kernels/cuda/attention_sm90.cuh"
#include "kernels/cuda/launchers.h"

#define WARPGROUP       128
#define SHARED_PER_SM90 232448

template <int D_, int CONSUMERS_, int KEYS_, bool PIPELINED_> struct Shape
{
  static constexpr int D = D_, CONSUMERS = CONSUMERS_, KEYS = KEYS_;
  static constexpr bool PIPELINED = PIPELINED_;
  static constexpr int STAGES = 2, PANELS = D / SWIZZLE_COLUMNS;
  static constexpr int ROWS = CONSUMERS * GROUP_ROWS;
  static constexpr int THREADS = (CONSUMERS + 1) * WARPGROUP;
  static constexpr int Q_PANEL = GROUP_ROWS * SWIZZLE_ROW_BYTES, Q_GROUP = PANELS * Q_PANEL;
  static constexpr int Q_BYTES = CONSUMERS * Q_GROUP;
  static constexpr int KV_PANEL = KEYS * SWIZZLE_ROW_BYTES, KV_BYTES = PANELS * KV_PANEL;
  static constexpr int N_BARRIERS = 2 + 4 * STAGES;
  static constexpr int SHARED_BYTES
      = SWIZZLE_ATOM_BYTES + Q_BYTES + 2 * STAGES * KV_BYTES + 8 * N_BARRIERS;
  static constexpr int CONSUMER_REGISTERS = CONSUMERS == 3 ? 160 : 240;
  static constexpr int PRODUCER_REGISTERS = CONSUMERS == 3 ? 32 : 24;

  static_assert (SHARED_BYTES <= SHARED_PER_SM90, "the rings are too long");
  static_assert (KEYS % WGMMA_K == 0, "whole steps of the second product");
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAVE_WGMMA 1
#endif

#ifdef HAVE_WGMMA

template <typename S> struct Layout
{
  uint32_t q, k, v, q_full, q_empty, k_full, k_empty, v_full, v_empty;

  static __device__ __forceinline__ Layout
  make (uint32_t base)
  {
    Layout l;
    l.q = (base + SWIZZLE_ATOM_BYTES - 1) / SWIZZLE_ATOM_BYTES * SWIZZLE_ATOM_BYTES;
    l.k = l.q + S::Q_BYTES;
    l.v = l.k + S::STAGES * S::KV_BYTES;
    l.q_full = l.v + S::STAGES * S::KV_BYTES;
    l.q_empty = l.q_full + 8;
    l.k_full = l.q_empty + 8;
    l.k_empty = l.k_full + 8 * S::STAGES;
    l.v_full = l.k_empty + 8 * S::STAGES;
    l.v_empty = l.v_full + 8 * S::STAGES;
    return l;
  }
};

/* Longest rows first where the mask makes rows unequal, so that the last wave is short. */
struct Place
{
  int head, row, key_blocks;
};

template <typename S, bool CAUSAL>
static __device__ __forceinline__ Place
place_of (const Work &work, int tile)
{
  Place p;
  if (CAUSAL)
    {
      p.head = tile % work.n_q;
      p.row = (work.row_tiles - 1 - tile / work.n_q) * S::ROWS;
    }
  else
    {
      p.head = tile / work.row_tiles;
      p.row = tile % work.row_tiles * S::ROWS;
    }
  const int keys = CAUSAL ? min (work.m, p.row + S::ROWS) : work.m;
  p.key_blocks = CEIL_DIV (keys, S::KEYS);
  return p;
}

template <typename S>
static __device__ __forceinline__ void
load_panels (uint32_t shared, const CUtensorMap *map, int column, int row, uint32_t barrier)
{
  barrier_expect (barrier, S::KV_BYTES);
#pragma unroll
  for (int i = 0; i < S::PANELS; i++)
    tma_load (shared + i * S::KV_PANEL, map, column + i * SWIZZLE_COLUMNS, row, barrier);
}

/* One thread: queries, keys and values of every tile of this block. */
template <typename S, bool CAUSAL>
static __device__ __forceinline__ void
produce (const Layout<S> &l, const CUtensorMap *q_map, const CUtensorMap *kv_map, const Work &work)
{
  int stage = 0, phase = 0, q_phase = 0;
  for (int tile = blockIdx.x; tile < work.row_tiles * work.n_q; tile += gridDim.x)
    {
      const Place p = place_of<S, CAUSAL> (work, tile);
      const int kv_head = p.head / (work.n_q / work.n_kv);
      const int k_column = (work.n_q + kv_head) * S::D;
      const int v_column = k_column + work.n_kv * S::D;
      barrier_wait (l.q_empty, q_phase ^ 1);
      q_phase ^= 1;
      barrier_expect (l.q_full, S::Q_BYTES);
      for (int i = 0; i < S::CONSUMERS * S::PANELS; i++)
        tma_load (l.q + i * S::Q_PANEL, q_map, p.head * S::D + i % S::PANELS * SWIZZLE_COLUMNS,
                  p.row + i / S::PANELS * GROUP_ROWS, l.q_full);
      for (int j = 0; j < p.key_blocks; j++)
        {
          barrier_wait (l.k_empty + 8 * stage, phase ^ 1);
          load_panels<S> (l.k + stage * S::KV_BYTES, kv_map, k_column, j * S::KEYS,
                          l.k_full + 8 * stage);
          barrier_wait (l.v_empty + 8 * stage, phase ^ 1);
          load_panels<S> (l.v + stage * S::KV_BYTES, kv_map, v_column, j * S::KEYS,
                          l.v_full + 8 * stage);
          if (++stage == S::STAGES)
            stage = 0, phase ^= 1;
        }
    }
}

/* -- one warpgroup --------------------------------------------------------------------------------
 */

/* out / l, as BF16, through the warpgroup's own part of q to memory. */
template <typename S>
static __device__ __forceinline__ void
write_rows (Rows<S> &rows, uint32_t q, const CUtensorMap *out_map, int column, int row, int group)
{
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
#pragma unroll
  for (int h = 0; h < 2; h++)
    {
      float sum = rows.sum[h];
      sum += __shfl_xor_sync (0xffffffffu, sum, 1);
      sum += __shfl_xor_sync (0xffffffffu, sum, 2);
      const float inverse = 1.0f / sum;
#pragma unroll
      for (int i = 0; i < S::D / 8; i++)
        rows.out[4 * i + 2 * h] *= inverse, rows.out[4 * i + 2 * h + 1] *= inverse;
    }
  named_barrier (1 + group, WARPGROUP); /* all of the group have read their q */
  const int line = warp * 16 + lane % 16;
#pragma unroll
  for (int i = 0; i < S::D / 8; i += 2)
    {
      const int chunk = (i + lane / 16) % 8;
      const float *o = &rows.out[4 * i];
      stmatrix_x4 (q + i / 8 * S::Q_PANEL + line * SWIZZLE_ROW_BYTES + (chunk ^ line % 8) * 16,
                   pack2 (o[0], o[1]), pack2 (o[2], o[3]), pack2 (o[4], o[5]), pack2 (o[6], o[7]));
    }
  tma_store_fence ();
  named_barrier (1 + group, WARPGROUP);
  if (threadIdx.x % WARPGROUP == 0)
    {
      for (int i = 0; i < S::PANELS; i++)
        tma_store (out_map, column + i * SWIZZLE_COLUMNS, row, q + i * S::Q_PANEL);
      tma_store_commit ();
      tma_store_wait_read<0> ();
    }
}

/* Warpgroups take turns in starting products: a barrier for each, passed round. */
template <typename S>
static __device__ __forceinline__ void
turn_take (int group)
{
  named_barrier (1 + S::CONSUMERS + group, 2 * WARPGROUP);
}

template <typename S>
static __device__ __forceinline__ void
turn_pass (int group)
{
  named_barrier_arrive (1 + S::CONSUMERS + (group + 1) % S::CONSUMERS, 2 * WARPGROUP);
}

/* Where a consumer stands in the rings. */
struct Ring
{
  int stage, phase;
};

template <typename S>
static __device__ __forceinline__ void
ring_next (Ring &r)
{
  if (++r.stage == S::STAGES)
    r.stage = 0, r.phase ^= 1;
}

static __device__ __forceinline__ void
give_back (uint32_t empty, const Ring &r)
{
  if (threadIdx.x % WARPGROUP == 0)
    barrier_arrive (empty + 8 * r.stage);
}

/* One block of keys after the other: scores, softmax, outputs. */
template <typename S, bool CAUSAL>
static __device__ __forceinline__ void
attend_serial (const Layout<S> &l, Rows<S> &rows, Ring &ring, const Work &work, uint32_t q, int row,
               int key_blocks, int group)
{
  for (int j = 0; j < key_blocks; j++)
    {
      float scores[S::KEYS / 2], factor[2];
      uint32_t p[S::KEYS / 4];
      barrier_wait (l.k_full + 8 * ring.stage, ring.phase);
      turn_take<S> (group);
      start_scores<S> (scores, q, l.k + ring.stage * S::KV_BYTES);
      turn_pass<S> (group);
      wgmma_wait<0> ();
      wgmma_touch (scores);
      give_back (l.k_empty, ring);
      if ((j + 1) * S::KEYS > (CAUSAL ? min (work.m, row + 1) : work.m))
        mask<S, CAUSAL> (scores, work, j * S::KEYS, row);
      if (raise_maximum<S> (scores, rows, work.scale_log2, factor))
        {
          rescale<S> (rows, factor);
          rows.sum[0] *= factor[0], rows.sum[1] *= factor[1];
        }
      exponentials<S> (scores, rows, work.scale_log2);
      pack<S> (scores, p);
      barrier_wait (l.v_full + 8 * ring.stage, ring.phase);
      start_outputs<S> (rows.out, p, l.v + ring.stage * S::KV_BYTES);
      wgmma_wait<0> ();
      wgmma_touch (rows.out);
      give_back (l.v_empty, ring);
      ring_next<S> (ring);
    }
}

/* The softmax of block j runs while the outputs of block j - 1 are multiplied. */
template <typename S, bool CAUSAL>
static __device__ __forceinline__ void
attend_pipelined (const Layout<S> &l, Rows<S> &rows, Ring &ring, const Work &work, uint32_t q,
                  int row, int key_blocks, int group)
{
  float scores[S::KEYS / 2], factor[2];
  uint32_t p[S::KEYS / 4];
  Ring behind = ring; /* of the values: one block back */
  barrier_wait (l.k_full + 8 * ring.stage, ring.phase);
  turn_take<S> (group);
  start_scores<S> (scores, q, l.k + ring.stage * S::KV_BYTES);
  turn_pass<S> (group);
  wgmma_wait<0> ();
  wgmma_touch (scores);
  give_back (l.k_empty, ring);
  ring_next<S> (ring);
  if (key_blocks == 1 || CAUSAL)
    mask<S, CAUSAL> (scores, work, 0, row);
  raise_maximum<S> (scores, rows, work.scale_log2, factor); /* nothing to rescale yet */
  exponentials<S> (scores, rows, work.scale_log2);
  pack<S> (scores, p);

  for (int j = 1; j < key_blocks; j++)
    {
      barrier_wait (l.k_full + 8 * ring.stage, ring.phase);
      turn_take<S> (group);
      start_scores<S> (scores, q, l.k + ring.stage * S::KV_BYTES);
      barrier_wait (l.v_full + 8 * behind.stage, behind.phase);
      start_outputs<S> (rows.out, p, l.v + behind.stage * S::KV_BYTES);
      turn_pass<S> (group);
      wgmma_wait<1> ();
      wgmma_touch (scores);
      give_back (l.k_empty, ring);
      if ((j + 1) * S::KEYS > (CAUSAL ? min (work.m, row + 1) : work.m))
        mask<S, CAUSAL> (scores, work, j * S::KEYS, row);
      const bool raised = raise_maximum<S> (scores, rows, work.scale_log2, factor);
      rows.sum[0] *= factor[0], rows.sum[1] *= factor[1];
      exponentials<S> (scores, rows, work.scale_log2);
      wgmma_wait<0> ();
      wgmma_touch (rows.out);
      give_back (l.v_empty, behind);
      if (raised)
        rescale<S> (rows, factor);
      pack<S> (scores, p);
      ring_next<S> (ring);
      ring_next<S> (behind);
    }
  barrier_wait (l.v_full + 8 * behind.stage, behind.phase);
  start_outputs<S> (rows.out, p, l.v + behind.stage * S::KV_BYTES);
  wgmma_wait<0> ();
  wgmma_touch (rows.out);
  give_back (l.v_empty, behind);
}

template <typename S, bool CAUSAL>
static __device__ __forceinline__ void
consume (const Layout<S> &l, const CUtensorMap *out_map, const Work &work, int group)
{
  const uint32_t q = l.q + group * S::Q_GROUP;
  const int own_row = threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
  Ring ring = { 0, 0 };
  int q_phase = 0;
  if (group == S::CONSUMERS - 1)
    turn_pass<S> (group); /* the first turn is group 0's */
  for (int tile = blockIdx.x; tile < work.row_tiles * work.n_q; tile += gridDim.x)
    {
      const Place p = place_of<S, CAUSAL> (work, tile);
      const int group_row = p.row + group * GROUP_ROWS;
      Rows<S> rows;
#pragma unroll
      for (int i = 0; i < S::D / 2; i++)
        rows.out[i] = 0.0f;
      rows.maximum[0] = rows.maximum[1] = -INFINITY;
      rows.sum[0] = rows.sum[1] = 0.0f;
      barrier_wait (l.q_full, q_phase);
      q_phase ^= 1;
      if (S::PIPELINED)
        attend_pipelined<S, CAUSAL> (l, rows, ring, work, q, group_row + own_row, p.key_blocks,
                                     group);
      else
        attend_serial<S, CAUSAL> (l, rows, ring, work, q, group_row + own_row, p.key_blocks, group);
      write_rows<S> (rows, q, out_map, p.head * S::D, group_row, group);
      if (threadIdx.x % WARPGROUP == 0)
        barrier_arrive (l.q_empty);
    }
  /* Takes the turn that the last pass left over, so that no barrier ends half full. */
  if (group == 0)
    turn_take<S> (group);
  tma_store_wait_all ();
}

#endif /* HAVE_WGMMA */

template <typename S, bool CAUSAL>
static __global__ void
__launch_bounds__ (S::THREADS, 1)
    attention_sm90_kernel (const __grid_constant__ CUtensorMap q_map,
                           const __grid_constant__ CUtensorMap kv_map,
                           const __grid_constant__ CUtensorMap out_map, Work work)
{
#ifdef HAVE_WGMMA
  extern __shared__ char shared[];
  const Layout<S> l = Layout<S>::make (shared_address (shared));
  const int group = threadIdx.x / WARPGROUP;
  if (threadIdx.x == 0)
    {
      barrier_init (l.q_full, 1);
      barrier_init (l.q_empty, S::CONSUMERS);
      for (int i = 0; i < S::STAGES; i++)
        {
          barrier_init (l.k_full + 8 * i, 1);
          barrier_init (l.v_full + 8 * i, 1);
          barrier_init (l.k_empty + 8 * i, S::CONSUMERS);
          barrier_init (l.v_empty + 8 * i, S::CONSUMERS);
        }
      barrier_init_fence ();
    }
  __syncthreads ();
  if (group == S::CONSUMERS)
    {
      registers_shrink<S::PRODUCER_REGISTERS> ();
      if (threadIdx.x == S::CONSUMERS * WARPGROUP)
        produce<S, CAUSAL> (l, &q_map, &kv_map, work);
    }
  else
    {
      registers_grow<S::CONSUMER_REGISTERS> ();
      consume<S, CAUSAL> (l, &out_map, work, group);
    }
#endif
}

/* -- launching ----------------------------------------------------------------------------------
 */

template <typename S, bool CAUSAL>
static Status
launch (Stream *s, const Attention *a)
{
  TensorMapEncoder encode = NULL;
  CUtensorMap q_map, kv_map, out_map;
  const int64_t columns = (int64_t)(a->n_q + 2 * a->n_kv) * a->d;
  CHECK (tensor_map_encoder (s, &encode));
  CHECK (tensor_map (s, encode, a->qkv, a->m, columns, GROUP_ROWS, SWIZZLE_COLUMNS, TENSOR_SWIZZLED,
                     &q_map));
  CHECK (tensor_map (s, encode, a->qkv, a->m, columns, S::KEYS, SWIZZLE_COLUMNS, TENSOR_SWIZZLED,
                     &kv_map));
  CHECK (tensor_map (s, encode, a->out, a->m, (int64_t)a->n_q * a->d, GROUP_ROWS, SWIZZLE_COLUMNS,
                     TENSOR_SWIZZLED, &out_map));

  Work work = { (int)a->m, a->n_q, a->n_kv, a->d, (int)CEIL_DIV (a->m, S::ROWS), 0.0f };
  work.scale_log2 = LOG2_E / sqrtf ((float)a->d);
  const int tiles = work.row_tiles * a->n_q;
  auto *kernel = attention_sm90_kernel<S, CAUSAL>;
  CUDA_CHECK (s, cudaFuncSetAttribute (kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       S::SHARED_BYTES));
  launch_kernel (kernel, min (tiles, s->caps.multiprocessors), S::THREADS, S::SHARED_BYTES,
                 s->compute, q_map, kv_map, out_map, work);
  return LAUNCHED (s);
}

/* -- choosing -----------------------------------------------------------------------------------
 */

typedef struct
{
  const char *name;
  int d, rows, keys;
  double cycles; /* that a tile takes for one block of keys, as measured on an H200 (README.md) */
  Status (*full) (Stream *s, const Attention *a);
  Status (*causal) (Stream *s, const Attention *a);
} Variant;

#define SHAPE(name, d, consumers, keys, pipelined, cycles)                                         \
  {                                                                                                \
    name, d, consumers *GROUP_ROWS, keys, cycles,                                                  \
        launch<Shape<d, consumers, keys, pipelined>, false>,                                       \
        launch<Shape<d, consumers, keys, pipelined>, true>                                         \
  }

static const Variant variants[] = {
  SHAPE ("d128 192x128", 128, 3, 128, false, 3950.0),
  SHAPE ("d128 192x80 pipelined", 128, 3, 80, true, 2500.0),
  SHAPE ("d128 128x128 pipelined", 128, 2, 128, true, 3000.0),
  SHAPE ("d64 192x128", 64, 3, 128, false, 2800.0),
};
#define N_VARIANTS ((int)(sizeof variants / sizeof variants[0]))

const char *
attention_sm90_variant_name (int variant)
{
  return variant < N_VARIANTS ? variants[variant].name : NULL;
}

int
attention_sm90_variant_dim (int variant)
{
  return variants[variant].d;
}

/* Waves of tiles, each as long as its longest tile. */
static double
cycles_of (const Stream *s, const Attention *a, const Variant *v)
{
  const int64_t tiles = CEIL_DIV (a->m, v->rows) * a->n_q;
  return CEIL_DIV (tiles, s->caps.multiprocessors) * CEIL_DIV (a->m, v->keys) * v->cycles;
}

static const Variant *
pick_variant (const Stream *s, const Attention *a)
{
  const Variant *best = NULL;
  for (int i = 0; i < N_VARIANTS; i++)
    if (variants[i].d == a->d
        && (best == NULL || cycles_of (s, a, &variants[i]) < cycles_of (s, a, best)))
      best = &variants[i];
  return best;
}

Status
attention_sm90 (Stream *s, const Attention *a, int variant)
{
  REQUIRE (s, s->caps.sm == WGMMA_SM);
  REQUIRE (s, a->d == 64 || a->d == 128);
  REQUIRE (s, a->m >= 1 && a->m <= INT32_MAX / 2 && a->n_kv >= 1 && a->n_q % a->n_kv == 0);
  const Variant *v = variant < 0 ? pick_variant (s, a) : &variants[variant];
  REQUIRE (s, v->d == a->d);
  return a->causal ? v->causal (s, a) : v->full (s, a);
}
