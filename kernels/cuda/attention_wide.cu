/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention for head dims up to 512 (the VAE has one head of 512), by warp-level mma.
 *
 * One warp cannot hold 16 rows of 512 outputs, so 2 or 4 warps share 16 query rows. Each computes
 * the scores of its share of the keys over all of d; maxima and probabilities are exchanged through
 * shared memory; then each multiplies all probabilities by its 128 columns of the values.
 * Keys are read while outputs are multiplied and values while scores are, one buffer each.
 */
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/softmax.cuh"

#define KEYS         32
#define WARP_COLUMNS 128 /* of the outputs */
#define P_PITCH                                                                                    \
  (KEYS * 2 + 16) /* bytes of a row of probabilities, padded against bank conflicts                \
                   */

/* T: type of activations; D: head dim, padded; TEAMS: groups of 16 query rows. SHARING: keys and
 * values take turns in one buffer, where memory is short; what comes next waits in registers, or
 * half of it. */
template <typename T, int D_, int TEAMS_, bool SHARING_ = false> struct Sizes
{
  typedef T Number;
  static constexpr int D = D_, TEAMS = TEAMS_;
  static constexpr bool SHARING = SHARING_;
  static constexpr int TEAM_WARPS = D / WARP_COLUMNS, TEAM_THREADS = TEAM_WARPS * 32;
  static constexpr int THREADS = TEAMS * TEAM_THREADS;
  static constexpr int ROWS = TEAMS * 16;
  static constexpr int OWN_KEYS = KEYS / TEAM_WARPS; /* whose scores a warp computes */
  static constexpr int ROW_BYTES = D * 2;
  static constexpr int Q_BYTES = ROWS * ROW_BYTES, TILE_BYTES = KEYS * ROW_BYTES;
  static constexpr int P_BYTES = ROWS * P_PITCH;
  static constexpr int STATS_BYTES = TEAM_WARPS * ROWS * 4;
  static constexpr int HELD_ROWS = SHARING && D > 256 ? KEYS / 2 : KEYS; /* as registers allow */
  static constexpr int BUFFERS_BYTES = (SHARING ? 1 : 2) * TILE_BYTES;
  static constexpr int SHARED_BYTES = Q_BYTES + BUFFERS_BYTES + P_BYTES + STATS_BYTES;
};

template <typename T> struct WideHeads
{
  const T *qkv;
  T *out;
  int m, n_q, n_kv, d;
  float scale; /* log2(e) / sqrt(d) */
  bool causal;
};

static __device__ __forceinline__ void
team_barrier (int team, int threads)
{
  named_barrier (1 + team, threads);
}

/* This warp's scores: 16 rows by OWN_KEYS keys. */
template <typename S>
static __device__ __forceinline__ void
multiply_keys (float (&scores)[S::OWN_KEYS / 8][4], uint32_t q, uint32_t keys, int q_row,
               int first_key)
{
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < S::OWN_KEYS / 8; j++)
#pragma unroll
    for (int i = 0; i < 4; i++)
      scores[j][i] = 0.0f;
#pragma unroll 2
  for (int i = 0; i < S::D / 32; i++)
    {
      uint32_t a[2][4];
      load_a (a[0], q, lane, q_row, i * 4, S::ROW_BYTES);
      load_a (a[1], q, lane, q_row, i * 4 + 2, S::ROW_BYTES);
#pragma unroll
      for (int j = 0; j < S::OWN_KEYS / 8; j++)
        {
          uint32_t b[4]; /* 8 keys by 32 of d */
          ldmatrix_x4 (
              b, keys + chunk_at (first_key + j * 8 + lane % 8, i * 4 + lane / 8, S::ROW_BYTES));
          mma<typename S::Number> (scores[j], a[0], b[0], b[1]);
          mma<typename S::Number> (scores[j], a[1], b[2], b[3]);
        }
    }
}

template <typename S>
static __device__ __forceinline__ void
multiply_values (float (&out)[WARP_COLUMNS / 8][4], uint32_t p, uint32_t values, int q_row,
                 int first_column)
{
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < KEYS / 16; i++)
    {
      uint32_t a[4];
      ldmatrix_x4 (a, p + (q_row + lane % 16) * P_PITCH + i * 32 + lane / 16 * 16);
#pragma unroll
      for (int j = 0; j < WARP_COLUMNS / 16; j++)
        {
          uint32_t b[4];
          ldmatrix_x4_trans (b, values
                                    + chunk_at (i * 16 + lane % 16,
                                                first_column / CHUNK + j * 2 + lane / 16,
                                                S::ROW_BYTES));
          mma<typename S::Number> (out[2 * j], a, b[0], b[1]);
          mma<typename S::Number> (out[2 * j + 1], a, b[2], b[3]);
        }
    }
}

/* A number a row and warp, combined over the team: `stats` [TEAM_WARPS][ROWS]. */
template <typename S>
static __device__ __forceinline__ void
exchange (float *stats, int team, int member, int q_row, const float (&own)[2],
          float (&all)[S::TEAM_WARPS][2])
{
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int h = 0; h < 2; h++)
    if (lane % 4 == 0)
      stats[member * S::ROWS + q_row + lane / 4 + h * 8] = own[h];
  team_barrier (team, S::TEAM_THREADS);
#pragma unroll
  for (int i = 0; i < S::TEAM_WARPS; i++)
#pragma unroll
    for (int h = 0; h < 2; h++)
      all[i][h] = stats[i * S::ROWS + q_row + lane / 4 + h * 8];
}

/* What is left of a copy of KEYS rows when those that were held have been written. */
template <typename S, typename T>
static __device__ __forceinline__ void
copy_rest (uint32_t shared, const T *from, size_t pitch, int limit, int columns)
{
  constexpr int HELD = S::HELD_ROWS;
  if constexpr (HELD < KEYS)
    copy_rows<KEYS - HELD, S::D, S::THREADS> (shared + HELD * S::ROW_BYTES, from + HELD * pitch,
                                              pitch, limit - HELD, columns);
}

template <typename S>
static __global__ void
__launch_bounds__ (S::THREADS, 1) attention_wide_kernel (WideHeads<typename S::Number> a)
{
  typedef typename S::Number T;
  if (!Activation<T>::RUNS_HERE)
    return;
  extern __shared__ __align__ (128) char shared[];
  const uint32_t q = shared_address (shared), keys = q + S::Q_BYTES;
  const uint32_t values = S::SHARING ? keys : keys + S::TILE_BYTES;
  char *p = shared + S::Q_BYTES + S::BUFFERS_BYTES;
  float *stats = reinterpret_cast<float *> (p + S::P_BYTES);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int team = warp / S::TEAM_WARPS, member = warp % S::TEAM_WARPS, q_row = team * 16;
  const int head = blockIdx.y, kv_head = head / (a.n_q / a.n_kv);
  const int row = (gridDim.x - 1 - blockIdx.x) * S::ROWS, own_row = row + q_row + lane / 4;
  const size_t pitch = (size_t)(a.n_q + 2 * a.n_kv) * a.d;
  const T *k = a.qkv + (size_t)(a.n_q + kv_head) * a.d, *v = k + (size_t)a.n_kv * a.d;
  const int key_blocks = CEIL_DIV (a.causal ? min (a.m, row + S::ROWS) : a.m, KEYS);

  float out[WARP_COLUMNS / 8][4] = {};
  float maximum[2] = { -INFINITY, -INFINITY }, sum[2] = { 0.0f, 0.0f };
  copy_rows<S::ROWS, S::D, S::THREADS> (q, a.qkv + (size_t)head * a.d + row * pitch, pitch,
                                        a.m - row, a.d);
  copy_rows<KEYS, S::D, S::THREADS> (keys, k, pitch, a.m, a.d);
  cp_async_commit ();
  if (!S::SHARING)
    copy_rows<KEYS, S::D, S::THREADS> (values, v, pitch, a.m, a.d);
  cp_async_commit ();
  for (int j = 0; j < key_blocks; j++)
    {
      const int next = (j + 1) * KEYS, own_key = member * S::OWN_KEYS;
      float scores[S::OWN_KEYS / 8][4], own[2], all[S::TEAM_WARPS][2];
      RowsCopy<S::HELD_ROWS, S::D, S::THREADS> copy;
      cp_async_wait<1> (); /* the keys; the values may still travel */
      __syncthreads ();
      if (S::SHARING)
        copy.start (values, v, pitch, a.m - j * KEYS, a.d);
      multiply_keys<S> (scores, q, keys, q_row, own_key);
      if (next > a.m || a.causal)
        mask_scores (scores, j * KEYS + own_key, own_row, a.m, a.causal);
      own[0] = row_maximum (scores, 0), own[1] = row_maximum (scores, 1);
      exchange<S> (stats, team, member, q_row, own, all);
#pragma unroll
      for (int h = 0; h < 2; h++)
        {
          float m = maximum[h];
#pragma unroll
          for (int i = 0; i < S::TEAM_WARPS; i++)
            m = fmaxf (m, all[i][h]);
          const float factor = exp2_fast ((maximum[h] - m) * a.scale);
          maximum[h] = m;
          sum[h] = sum[h] * factor + row_exponentials (scores, h, m, a.scale);
#pragma unroll
          for (int i = 0; i < WARP_COLUMNS / 8; i++)
            out[i][2 * h] *= factor, out[i][2 * h + 1] *= factor;
#pragma unroll
          for (int i = 0; i < S::OWN_KEYS / 8; i++)
            *reinterpret_cast<uint32_t *> (p + (q_row + lane / 4 + h * 8) * P_PITCH
                                           + (own_key + i * 8 + lane % 4 * 2) * 2)
                = pack_probabilities<T> (scores[i][2 * h], scores[i][2 * h + 1]);
        }
      cp_async_wait<0> (); /* the values */
      __syncthreads ();    /* and everyone's probabilities; the keys have been read */
      if (S::SHARING)
        {
          copy.finish (values);
          copy_rest<S> (values, v, pitch, a.m - j * KEYS, a.d);
          __syncthreads ();
        }
      k += KEYS * pitch;
      if (j + 1 < key_blocks)
        copy.start (keys, k, pitch, a.m - next, a.d);
      cp_async_commit ();
      multiply_values<S> (out, shared_address (p), values, q_row, member * WARP_COLUMNS);
      __syncthreads (); /* the values have been read */
      v += KEYS * pitch;
      if (j + 1 < key_blocks && S::SHARING)
        {
          copy.finish (keys);
          copy_rest<S> (keys, k, pitch, a.m - next, a.d);
        }
      if (j + 1 < key_blocks && !S::SHARING)
        copy_rows<KEYS, S::D, S::THREADS> (values, v, pitch, a.m - next, a.d);
      cp_async_commit ();
    }

  float own[2] = { quad_sum (sum[0]), quad_sum (sum[1]) }, all[S::TEAM_WARPS][2];
  exchange<S> (stats, team, member, q_row, own, all);
#pragma unroll
  for (int h = 0; h < 2; h++)
    {
      float total = 0.0f;
#pragma unroll
      for (int i = 0; i < S::TEAM_WARPS; i++)
        total += all[i][h];
      const float inverse = 1.0f / total;
      const int r = own_row + h * 8;
      T *target = a.out + ((size_t)r * a.n_q + head) * a.d;
#pragma unroll
      for (int i = 0; i < WARP_COLUMNS / 8; i++)
        {
          const int column = member * WARP_COLUMNS + i * 8;
          if (r < a.m && column < a.d)
            *reinterpret_cast<uint32_t *> (target + column + lane % 4 * 2)
                = pack2<T> (out[i][2 * h] * inverse, out[i][2 * h + 1] * inverse);
        }
    }
}

/* -- launching ----------------------------------------------------------------------------------
 */

template <typename S>
static Status
launch (Stream *s, const Attention *a)
{
  typedef typename S::Number T;
  const WideHeads<T> heads = {
    (const T *)a->qkv, (T *)a->out, (int)a->m, a->n_q, a->n_kv, a->d, LOG2_E / sqrtf ((float)a->d),
    a->causal
  };
  CUDA_CHECK (s,
              cudaFuncSetAttribute (attention_wide_kernel<S>,
                                    cudaFuncAttributeMaxDynamicSharedMemorySize, S::SHARED_BYTES));
  const dim3 grid (CEIL_DIV (a->m, S::ROWS), a->n_q);
  launch_kernel (attention_wide_kernel<S>, grid, S::THREADS, S::SHARED_BYTES, s->compute, heads);
  return LAUNCHED (s);
}

Status
attention_wide (Stream *s, const Attention *a)
{
  REQUIRE (s, a->d >= 16 && a->d <= 512 && a->d % 16 == 0);
  REQUIRE (s, a->m >= 1 && a->m <= INT32_MAX / 2);
  REQUIRE (s, a->n_kv >= 1 && a->n_q % a->n_kv == 0 && a->n_q <= 65535);
  /* sm_75 has 64 KiB for a block. */
  if (device_activation (&s->caps) == DTYPE_F16)
    return a->d <= 256 ? launch<Sizes<f16, 256, 2, true>> (s, a)
                       : launch<Sizes<f16, 512, 1, true>> (s, a);
  int shared = 0;
  CUDA_CHECK (s,
              cudaDeviceGetAttribute (&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, s->device));
  if (a->d <= 256)
    return launch<Sizes<bf16, 256, 4>> (s, a);
  /* 64 rows read keys and values half as often as 32, where they fit. */
  if (shared >= Sizes<bf16, 512, 4>::SHARED_BYTES)
    return launch<Sizes<bf16, 512, 4>> (s, a);
  return launch<Sizes<bf16, 512, 2>> (s, a);
}
