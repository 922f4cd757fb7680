/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention without a score matrix by warp-level mma, head dim up to 128, FP16; and the choice
 * among the attentions there are.
 *
 * A warp owns 16 query rows of one head and keeps its queries, scores, probabilities and outputs
 * in registers (Dao 2023). The block streams 64 keys and 64 values at a time through two buffers
 * each; the next keys travel while this block's scores are multiplied, the next values while its
 * outputs are. Head dims below 64 or 128 are padded with zeros in shared memory.
 */
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/softmax.cuh"

#define N_WARPS 8
#define THREADS (N_WARPS * 32)
#define ROWS    (N_WARPS * 16)
#define KEYS    64

template <typename T> struct Heads
{
  const T *qkv;
  T *out;
  int m, n_q, n_kv, d;
  float scale; /* log2(e) / sqrt(d) */
  bool causal;
};

template <int D> struct Sizes
{
  static constexpr int ROW_BYTES = D * 2;
  static constexpr int TILE_BYTES = KEYS * ROW_BYTES;
  static constexpr int SHARED_BYTES = 4 * TILE_BYTES; /* keys and values, two each */
  static constexpr int STEPS = D / 16;
  static_assert (ROWS * ROW_BYTES <= SHARED_BYTES, "queries pass through the same memory");
};

/* This warp's 16 rows of q as first operands. */
template <int D, typename T>
static __device__ __forceinline__ void
load_queries (const Heads<T> &a, uint32_t shared, const T *q, size_t pitch, int row,
              uint32_t (&fragments)[Sizes<D>::STEPS][4])
{
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  copy_rows<ROWS, D, THREADS> (shared, q + row * pitch, pitch, a.m - row, a.d);
  cp_async_commit ();
  cp_async_wait<0> ();
  __syncthreads ();
#pragma unroll
  for (int i = 0; i < Sizes<D>::STEPS; i++)
    load_a (fragments[i], shared, lane, warp * 16, i * 2, D * 2);
  __syncthreads ();
}

template <int D, typename T>
static __device__ __forceinline__ void
multiply_keys (float (&scores)[KEYS / 8][4], const uint32_t (&q)[Sizes<D>::STEPS][4], uint32_t keys)
{
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
    for (int i = 0; i < 4; i++)
      scores[j][i] = 0.0f;
#pragma unroll
  for (int i = 0; i < Sizes<D>::STEPS; i++)
#pragma unroll
    for (int j = 0; j < KEYS / 16; j++)
      {
        uint32_t b[4];
        load_b (b, keys, lane, j * 16, i * 2, D * 2);
        mma<T> (scores[2 * j], q[i], b[0], b[1]);
        mma<T> (scores[2 * j + 1], q[i], b[2], b[3]);
      }
}

template <int D, typename T>
static __device__ __forceinline__ void
multiply_values (float (&out)[D / 8][4], const float (&p)[KEYS / 8][4], uint32_t values)
{
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < KEYS / 16; i++)
    {
      const float (*c)[4] = &p[2 * i];
      const uint32_t a[4] = { pack2<T> (c[0][0], c[0][1]), pack2<T> (c[0][2], c[0][3]),
                              pack2<T> (c[1][0], c[1][1]), pack2<T> (c[1][2], c[1][3]) };
#pragma unroll
      for (int j = 0; j < D / 16; j++)
        {
          uint32_t b[4];
          ldmatrix_x4_trans (b, values + chunk_at (i * 16 + lane % 16, j * 2 + lane / 16, D * 2));
          mma<T> (out[2 * j], a, b[0], b[1]);
          mma<T> (out[2 * j + 1], a, b[2], b[3]);
        }
    }
}

template <int D, typename T>
static __global__ void
__launch_bounds__ (THREADS) attention_mma_kernel (Heads<T> a)
{
  if (!Activation<T>::RUNS_HERE)
    return;
  extern __shared__ __align__ (128) char shared[];
  const uint32_t keys = shared_address (shared), values = keys + 2 * Sizes<D>::TILE_BYTES;
  const int head = blockIdx.y, kv_head = head / (a.n_q / a.n_kv);
  const int lane = threadIdx.x % 32;
  /* Longest rows first under the mask, so that the last wave is short. */
  const int row = (gridDim.x - 1 - blockIdx.x) * ROWS;
  const int own_row = row + threadIdx.x / 32 * 16 + lane / 4;
  const size_t pitch = (size_t)(a.n_q + 2 * a.n_kv) * a.d;
  const T *k = a.qkv + (size_t)(a.n_q + kv_head) * a.d, *v = k + (size_t)a.n_kv * a.d;
  const int key_blocks = CEIL_DIV (a.causal ? min (a.m, row + ROWS) : a.m, KEYS);

  uint32_t q[Sizes<D>::STEPS][4];
  load_queries<D, T> (a, keys, a.qkv + (size_t)head * a.d, pitch, row, q);
  float out[D / 8][4] = {}, maximum[2] = { -INFINITY, -INFINITY }, sum[2] = { 0.0f, 0.0f };

  copy_rows<KEYS, D, THREADS> (keys, k, pitch, a.m, a.d);
  cp_async_commit ();
  copy_rows<KEYS, D, THREADS> (values, v, pitch, a.m, a.d);
  cp_async_commit ();
  for (int j = 0; j < key_blocks; j++)
    {
      const int next = (j + 1) * KEYS, buffer = j % 2 * Sizes<D>::TILE_BYTES;
      const int other = Sizes<D>::TILE_BYTES - buffer;
      float scores[KEYS / 8][4];
      RowsCopy<KEYS, D, THREADS> next_keys, next_values;
      cp_async_wait<1> (); /* the keys; the values may still travel */
      __syncthreads ();
      if (j + 1 < key_blocks)
        next_keys.start (keys + other, k + next * pitch, pitch, a.m - next, a.d);
      cp_async_commit ();
      multiply_keys<D, T> (scores, q, keys + buffer);
      if (j + 1 < key_blocks)
        next_keys.finish (keys + other);
      if (next > a.m || a.causal)
        mask_scores (scores, j * KEYS, own_row, a.m, a.causal);
#pragma unroll
      for (int h = 0; h < 2; h++)
        {
          /* Key 0 is seen by every row, so the maximum is a number from the first block on. */
          const float m = fmaxf (maximum[h], row_maximum (scores, h));
          const float factor = exp2f ((maximum[h] - m) * a.scale);
          maximum[h] = m;
          sum[h] = sum[h] * factor + row_exponentials (scores, h, m, a.scale);
#pragma unroll
          for (int i = 0; i < D / 8; i++)
            out[i][2 * h] *= factor, out[i][2 * h + 1] *= factor;
        }
      cp_async_wait<1> ();
      __syncthreads ();
      if (j + 1 < key_blocks)
        next_values.start (values + other, v + next * pitch, pitch, a.m - next, a.d);
      cp_async_commit ();
      multiply_values<D, T> (out, scores, values + buffer);
      if (j + 1 < key_blocks)
        next_values.finish (values + other);
    }
#pragma unroll
  for (int h = 0; h < 2; h++)
    {
      const float inverse = 1.0f / quad_sum (sum[h]);
      const int r = own_row + h * 8;
      T *target = a.out + ((size_t)r * a.n_q + head) * a.d;
#pragma unroll
      for (int i = 0; i < D / 8; i++)
        if (r < a.m && i * 8 < a.d)
          *reinterpret_cast<uint32_t *> (target + i * 8 + lane % 4 * 2)
              = pack2<T> (out[i][2 * h] * inverse, out[i][2 * h + 1] * inverse);
    }
}

template <int D, typename T>
static Status
launch_heads (Stream *s, const Heads<T> &a)
{
  CUDA_CHECK (s, cudaFuncSetAttribute (attention_mma_kernel<D, T>,
                                       cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       Sizes<D>::SHARED_BYTES));
  const dim3 grid (CEIL_DIV (a.m, ROWS), a.n_q);
  launch_kernel (attention_mma_kernel<D, T>, grid, THREADS, Sizes<D>::SHARED_BYTES, s->compute, a);
  return LAUNCHED (s);
}

Status
attention_mma (Stream *s, const Attention *a)
{
  if (device_activation (&s->caps) == DTYPE_BF16)
    return attention_mma_bf16 (s, a);
  REQUIRE (s, a->d >= 16 && a->d <= 128 && a->d % 16 == 0);
  REQUIRE (s, a->m >= 1 && a->m <= INT32_MAX / 2);
  REQUIRE (s, a->n_kv >= 1 && a->n_q % a->n_kv == 0 && a->n_q <= 65535);
  const Heads<f16> heads
      = { (const f16 *)a->qkv,          (f16 *)a->out, (int)a->m, a->n_q, a->n_kv, a->d,
          LOG2_E / sqrtf ((float)a->d), a->causal };
  return a->d <= 64 ? launch_heads<64> (s, heads) : launch_heads<128> (s, heads);
}

Status
cuda_attention (Stream *s, const Tensor *qkv, int n_q, int n_kv, bool causal, Tensor *out)
{
  REQUIRE (s, qkv->rank == 3 && qkv->dtype == out->dtype
                  && out->dtype == device_activation (&s->caps));
  REQUIRE (s, n_q >= 1 && n_kv >= 1 && n_q <= 65535 && n_kv <= 65535);
  REQUIRE (s, qkv->shape[1] == n_q + 2 * n_kv && qkv->shape[2] <= 512);
  REQUIRE (s, tensor_count (out) == qkv->shape[0] * n_q * qkv->shape[2]);
  const int d = (int)qkv->shape[2];
  const Attention a = { qkv->data, out->data, qkv->shape[0], n_q, n_kv, d, causal };
  if (s->caps.sm == WGMMA_SM && (d == 64 || d == 128))
    return attention_sm90 (s, &a, -1);
  if (s->caps.sm == WGMMA_SM && d == 512 && !causal)
    return attention_wide_sm90 (s, &a);
  return d <= 128 ? attention_mma (s, &a) : attention_wide (s, &a);
}
