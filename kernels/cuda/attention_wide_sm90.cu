/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention for one head dim of 512, the VAE's, on sm_90: wgmma fed by bulk tensor copies.
 *
 * 64 rows of 512 outputs fill the registers of two warpgroups, 256 columns each. Each warpgroup
 * computes the scores of half of a block of keys; maxima and probabilities go through shared memory
 * to both. Queries, one block of keys and one of values fill the rest of it: keys arrive while
 * outputs are multiplied, values while scores are. The bytes that 64 rows draw from L2 for their
 * products are the limit, not the products.
 */
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/tma.cuh"
#include "kernels/cuda/wgmma.cuh"

#include <math.h>

#define D               512
#define ROWS            64 /* queries of a block */
#define KEYS            64
#define OWN_KEYS        32 /* whose scores a warpgroup computes */
#define OWN_COLUMNS     256
#define PANELS          (D / SWIZZLE_COLUMNS)
#define PANEL_BYTES     (64 * SWIZZLE_ROW_BYTES)
#define TILE_BYTES      (PANELS * PANEL_BYTES)
#define P_BYTES         PANEL_BYTES
#define STATS_BYTES     (2 * ROWS * 4)
#define SHARED_BYTES    (SWIZZLE_ATOM_BYTES + 3 * TILE_BYTES + P_BYTES + STATS_BYTES + 5 * 8)
#define SHARED_PER_SM90 232448
#define WARPGROUP       128
#define CONSUMERS       2
#define THREADS         ((CONSUMERS + 1) * WARPGROUP)
#define LOG2_E          1.4426950408889634f
/* As in attention_sm90.cuh: a row keeps an old maximum until a score is 2^8 above it. */
#define LAZY_MAXIMUM 8.0f

static_assert (SHARED_BYTES <= SHARED_PER_SM90, "one block of keys and values is too long");
static_assert (ROWS == 64 && KEYS == 64, "a panel has 64 rows");

struct WideWork
{
  int m, n_q, n_kv;
  float scale; /* log2(e) / sqrt(d) */
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

struct WideLayout
{
  uint32_t q, k, v, p, stats, q_full, k_full, k_empty, v_full, v_empty;

  static __device__ __forceinline__ WideLayout
  make (uint32_t base)
  {
    WideLayout l;
    l.q = (base + SWIZZLE_ATOM_BYTES - 1) / SWIZZLE_ATOM_BYTES * SWIZZLE_ATOM_BYTES;
    l.k = l.q + TILE_BYTES;
    l.v = l.k + TILE_BYTES;
    l.p = l.v + TILE_BYTES;
    l.stats = l.p + P_BYTES;
    l.q_full = l.stats + STATS_BYTES;
    l.k_full = l.q_full + 8;
    l.k_empty = l.k_full + 8;
    l.v_full = l.k_empty + 8;
    l.v_empty = l.v_full + 8;
    return l;
  }
};

/* A warpgroup's part: rows r and r + 8 a thread, as wgmma leaves sums. */
struct WideRows
{
  float out[2][64]; /* 128 columns each */
  float maximum[2], sum[2];
};

static __device__ __forceinline__ void
load_tile (uint32_t shared, const CUtensorMap *map, int column, int row, uint32_t barrier)
{
  barrier_expect (barrier, TILE_BYTES);
#pragma unroll
  for (int i = 0; i < PANELS; i++)
    tma_load (shared + i * PANEL_BYTES, map, column + i * SWIZZLE_COLUMNS, row, barrier);
}

/* One thread: the queries, then every block of keys and values. */
static __device__ __forceinline__ void
produce (const WideLayout &l, const CUtensorMap *map, const WideWork &work, int head, int row)
{
  const int k_column = (work.n_q + head / (work.n_q / work.n_kv)) * D;
  const int v_column = k_column + work.n_kv * D, blocks = CEIL_DIV (work.m, KEYS);
  load_tile (l.q, map, head * D, row, l.q_full);
  for (int j = 0; j < blocks; j++)
    {
      barrier_wait (l.k_empty, j % 2 ^ 1);
      load_tile (l.k, map, k_column, j * KEYS, l.k_full);
      barrier_wait (l.v_empty, j % 2 ^ 1);
      load_tile (l.v, map, v_column, j * KEYS, l.v_full);
    }
}

/* scores = q k^T for this warpgroup's keys; waits for them. */
static __device__ __forceinline__ void
multiply_keys (float (&scores)[OWN_KEYS / 2], const WideLayout &l, int group)
{
  const uint32_t keys = l.k + group * OWN_KEYS * SWIZZLE_ROW_BYTES;
  wgmma_fence ();
#pragma unroll
  for (int i = 0; i < D / 16; i++)
    wgmma_ss<OWN_KEYS> (scores, wgmma_k_major (l.q + i / 4 * PANEL_BYTES) + 2 * (i % 4),
                        wgmma_k_major (keys + i / 4 * PANEL_BYTES) + 2 * (i % 4), i > 0);
  wgmma_commit ();
  wgmma_wait<0> ();
  wgmma_touch (scores);
}

/* out += p v: all probabilities by this warpgroup's columns. */
static __device__ __forceinline__ void
multiply_values (WideRows &rows, const WideLayout &l, int group)
{
  const uint32_t values = l.v + group * (OWN_COLUMNS / SWIZZLE_COLUMNS) * PANEL_BYTES;
  const int lane = threadIdx.x % 32, line = threadIdx.x / 32 % 4 * 16 + lane % 16;
  uint32_t p[KEYS / 16][4];
#pragma unroll
  for (int i = 0; i < KEYS / 16; i++)
    ldmatrix_x4 (p[i], l.p + line * SWIZZLE_ROW_BYTES + ((2 * i + lane / 16) ^ line % 8) * 16);
  wgmma_fence ();
#pragma unroll
  for (int i = 0; i < KEYS / 16; i++)
#pragma unroll
    for (int half = 0; half < 2; half++)
      wgmma_rs<128> (rows.out[half], p[i],
                     wgmma_mn_major (values + half * 2 * PANEL_BYTES + i * 16 * SWIZZLE_ROW_BYTES,
                                     PANEL_BYTES));
  wgmma_commit ();
  wgmma_wait<0> ();
  wgmma_touch (rows.out[0]);
  wgmma_touch (rows.out[1]);
}

/* One number a row from each warpgroup, to both. The numbers may be written again after the next
 * barrier of all consumers. */
static __device__ __forceinline__ void
exchange (float *stats, int group, int own_row, const float (&own)[2], float (&other)[2])
{
  if (threadIdx.x % 4 == 0)
    {
      stats[group * ROWS + own_row] = own[0];
      stats[group * ROWS + own_row + 8] = own[1];
    }
  named_barrier (1, CONSUMERS * WARPGROUP);
  other[0] = stats[(group ^ 1) * ROWS + own_row];
  other[1] = stats[(group ^ 1) * ROWS + own_row + 8];
}

/* The larger of both warpgroups' maxima, where it is worth the move; outputs and sums follow. */
static __device__ __forceinline__ void
raise_maximum (const float (&scores)[OWN_KEYS / 2], WideRows &rows, float scale, float *stats,
               int group, int own_row)
{
  float own[2], other[2], factor[2];
  bool raised = false;
#pragma unroll
  for (int h = 0; h < 2; h++)
    {
      float m = fmaxf (scores[2 * h], scores[2 * h + 1]);
#pragma unroll
      for (int i = 1; i < OWN_KEYS / 8; i++)
        m = fmaxf (m, fmaxf (scores[4 * i + 2 * h], scores[4 * i + 2 * h + 1]));
      m = fmaxf (m, __shfl_xor_sync (0xffffffffu, m, 1));
      own[h] = fmaxf (m, __shfl_xor_sync (0xffffffffu, m, 2));
    }
  exchange (stats, group, own_row, own, other);
#pragma unroll
  for (int h = 0; h < 2; h++)
    {
      const float m = fmaxf (own[h], other[h]);
      const bool higher = (m - rows.maximum[h]) * scale > LAZY_MAXIMUM;
      factor[h] = higher ? exp2f ((rows.maximum[h] - m) * scale) : 1.0f;
      rows.maximum[h] = higher ? m : rows.maximum[h];
      rows.sum[h] *= factor[h];
      raised |= higher;
    }
  if (!__any_sync (0xffffffffu, raised))
    return;
#pragma unroll
  for (int half = 0; half < 2; half++)
#pragma unroll
    for (int i = 0; i < 64; i++)
      rows.out[half][i] *= factor[i / 2 % 2];
}

/* Scores -> probabilities, into the sums and as BF16 into shared memory, rows of 64 keys. */
static __device__ __forceinline__ void
store_probabilities (float (&scores)[OWN_KEYS / 2], WideRows &rows, float scale, uint32_t p,
                     int group)
{
  const int lane = threadIdx.x % 32, line = threadIdx.x / 32 % 4 * 16 + lane % 16;
#pragma unroll
  for (int i = 0; i < OWN_KEYS / 2; i++)
    {
      const int h = i / 2 % 2;
      scores[i] = exp2f (fmaf (scores[i], scale, -rows.maximum[h] * scale));
      rows.sum[h] += scores[i];
    }
#pragma unroll
  for (int i = 0; i < OWN_KEYS / 8; i += 2)
    {
      const int chunk = group * (OWN_KEYS / 8) + i + lane / 16;
      const float *s = &scores[4 * i];
      stmatrix_x4 (p + line * SWIZZLE_ROW_BYTES + (chunk ^ line % 8) * 16, pack2 (s[0], s[1]),
                   pack2 (s[2], s[3]), pack2 (s[4], s[5]), pack2 (s[6], s[7]));
    }
}

static __device__ __forceinline__ void
consume (const WideLayout &l, float *stats, bf16 *out, const WideWork &work, int head, int row,
         int group)
{
  const int lane = threadIdx.x % 32, own_row = threadIdx.x / 32 % 4 * 16 + lane / 4;
  const bool leader = threadIdx.x % WARPGROUP == 0;
  const int blocks = CEIL_DIV (work.m, KEYS);
  WideRows rows;
#pragma unroll
  for (int i = 0; i < 64; i++)
    rows.out[0][i] = rows.out[1][i] = 0.0f;
  rows.maximum[0] = rows.maximum[1] = -INFINITY;
  rows.sum[0] = rows.sum[1] = 0.0f;

  barrier_wait (l.q_full, 0);
  for (int j = 0; j < blocks; j++)
    {
      float scores[OWN_KEYS / 2];
      barrier_wait (l.k_full, j % 2);
      multiply_keys (scores, l, group);
      if (leader)
        barrier_arrive (l.k_empty);
      if ((j + 1) * KEYS > work.m)
#pragma unroll
        for (int i = 0; i < OWN_KEYS / 2; i++)
          if (j * KEYS + group * OWN_KEYS + i / 4 * 8 + lane % 4 * 2 + i % 2 >= work.m)
            scores[i] = -INFINITY;
      /* Its barrier also says that both have read the last probabilities. */
      raise_maximum (scores, rows, work.scale, stats, group, own_row);
      store_probabilities (scores, rows, work.scale, l.p, group);
      named_barrier (1, CONSUMERS * WARPGROUP);
      barrier_wait (l.v_full, j % 2);
      multiply_values (rows, l, group);
      if (leader)
        barrier_arrive (l.v_empty);
    }

  float other[2];
#pragma unroll
  for (int h = 0; h < 2; h++)
    {
      rows.sum[h] += __shfl_xor_sync (0xffffffffu, rows.sum[h], 1);
      rows.sum[h] += __shfl_xor_sync (0xffffffffu, rows.sum[h], 2);
    }
  exchange (stats, group, own_row, rows.sum, other);
#pragma unroll
  for (int h = 0; h < 2; h++)
    {
      const float inverse = 1.0f / (rows.sum[h] + other[h]);
      const int r = row + own_row + 8 * h;
      bf16 *target = out + ((size_t)r * work.n_q + head) * D + group * OWN_COLUMNS + lane % 4 * 2;
      if (r < work.m)
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
          for (int i = 0; i < 16; i++)
            *reinterpret_cast<uint32_t *> (target + half * 128 + i * 8)
                = pack2 (rows.out[half][4 * i + 2 * h] * inverse,
                         rows.out[half][4 * i + 2 * h + 1] * inverse);
    }
}

#endif

static __global__ void
__launch_bounds__ (THREADS, 1)
    attention_wide_sm90_kernel (const __grid_constant__ CUtensorMap map, bf16 *out, WideWork work)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ char shared[];
  const uint32_t start = shared_address (shared);
  const WideLayout l = WideLayout::make (start);
  const int group = threadIdx.x / WARPGROUP, row = blockIdx.x * ROWS, head = blockIdx.y;
  if (threadIdx.x == 0)
    {
      barrier_init (l.q_full, 1);
      barrier_init (l.k_full, 1);
      barrier_init (l.v_full, 1);
      barrier_init (l.k_empty, CONSUMERS);
      barrier_init (l.v_empty, CONSUMERS);
      barrier_init_fence ();
    }
  __syncthreads ();
  if (group == CONSUMERS)
    {
      registers_shrink<24> ();
      if (threadIdx.x == CONSUMERS * WARPGROUP)
        produce (l, &map, work, head, row);
    }
  else
    {
      registers_grow<240> ();
      consume (l, reinterpret_cast<float *> (shared + (l.stats - start)), out, work, head, row,
               group);
    }
#endif
}

Status
attention_wide_sm90 (Stream *s, const Attention *a)
{
  REQUIRE (s, s->caps.sm == WGMMA_SM);
  REQUIRE (s, a->d == D && !a->causal);
  REQUIRE (s, a->m >= 1 && a->m <= INT32_MAX / 2);
  REQUIRE (s, a->n_kv >= 1 && a->n_q % a->n_kv == 0 && a->n_q <= 65535);
  TensorMapEncoder encode = NULL;
  CUtensorMap map;
  CHECK (tensor_map_encoder (s, &encode));
  CHECK (tensor_map (s, encode, a->qkv, a->m, (int64_t)(a->n_q + 2 * a->n_kv) * D, 64,
                     SWIZZLE_COLUMNS, TENSOR_SWIZZLED, &map));
  CUDA_CHECK (s, cudaFuncSetAttribute (attention_wide_sm90_kernel,
                                       cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES));
  const WideWork work = { (int)a->m, a->n_q, a->n_kv, LOG2_E / sqrtf ((float)a->d) };
  const dim3 grid (CEIL_DIV (work.m, ROWS), a->n_q);
  launch_kernel (attention_wide_sm90_kernel, grid, THREADS, SHARED_BYTES, s->compute, map,
                 (bf16 *)a->out, work);
  return LAUNCHED (s);
}
