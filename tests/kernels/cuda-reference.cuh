/* SPDX-License-Identifier: Apache-2.0
 *
 * cuda-reference.cuh - random inputs, plain FP32 references and comparison, all on the card
 *
 * For the tests and the benchmark of the heavy kernels. The references share no code with what
 * they check: no tensor cores, no tiles of the same shape, sums in FP32.
 */
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/launchers.h"
#include "tests/kernels/patience.h"

#include <cuda_fp8.h>
#include <math.h>

#define POISON 0xff /* every byte of an output before a run: a NaN in BF16 */

/* -- inputs -------------------------------------------------------------------------------------
 */

static __device__ __forceinline__ uint32_t
mix (uint64_t x)
{
  x ^= x >> 33, x *= 0xff51afd7ed558ccdull;
  x ^= x >> 33, x *= 0xc4ceb9fe1a85ec53ull;
  return (uint32_t)(x ^ x >> 33);
}

/* A number of E4M3, for random_kernel. */
struct E4m3
{
  uint8_t bits;
  E4m3 () = default;
  __device__ __forceinline__ explicit E4m3 (float v)
      : bits (__nv_cvt_float_to_fp8 (v, __NV_SATFINITE, __NV_E4M3))
  {
  }
};

/* Near enough to normal: the sum of four uniforms, variance 1, times `scale`. */
template <typename T>
static __global__ void
random_kernel (T *out, size_t n, uint64_t seed, float scale)
{
  for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
       i += (size_t)gridDim.x * blockDim.x)
    {
      float sum = 0.0f;
      for (int j = 0; j < 4; j++)
        sum += mix (seed * 0x9e3779b97f4a7c15ull + i * 4 + j) * 2.3283064e-10f - 0.5f;
      out[i] = (T)(sum * 1.7320508f * scale);
    }
}

/* -- references ---------------------------------------------------------------------------------
 */

#define REF_TILE 64
#define REF_K    16

/* y [m, n] F32 = x [m, k] w [n, k]^T + bias. Blocks of 16 x 16 threads, 4 x 4 outputs each. */
static __global__ void
reference_gemm_kernel (const bf16 *x, const bf16 *w, const float *bias, float *y, int m, int n,
                       int k)
{
  __shared__ float xs[REF_K][REF_TILE + 1], ws[REF_K][REF_TILE + 1];
  const int row = blockIdx.y * REF_TILE, column = blockIdx.x * REF_TILE;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  float sum[4][4] = {};
  for (int k0 = 0; k0 < k; k0 += REF_K)
    {
      for (int i = threadIdx.x; i < REF_TILE * REF_K; i += 256)
        {
          const int r = i / REF_K, c = i % REF_K;
          const bool in_k = k0 + c < k;
          xs[c][r] = in_k && row + r < m ? (float)x[(size_t)(row + r) * k + k0 + c] : 0.0f;
          ws[c][r] = in_k && column + r < n ? (float)w[(size_t)(column + r) * k + k0 + c] : 0.0f;
        }
      __syncthreads ();
      for (int c = 0; c < REF_K; c++)
        for (int i = 0; i < 4; i++)
          for (int j = 0; j < 4; j++)
            sum[i][j] += xs[c][ty + 16 * i] * ws[c][tx + 16 * j];
      __syncthreads ();
    }
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < 4; j++)
      {
        const int r = row + ty + 16 * i, c = column + tx + 16 * j;
        if (r < m && c < n)
          y[(size_t)r * n + c] = sum[i][j] + (bias ? bias[c] : 0.0f);
      }
}

/* The interleaved columns of y [m, n] -> out [m, n / 2] = silu(w1) * w3. */
static __global__ void
reference_swiglu_kernel (const float *y, float *out, int m, int n)
{
  const size_t f = n / 2, count = m * f;
  for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count;
       i += (size_t)gridDim.x * blockDim.x)
    {
      const size_t r = i / f, c = i % f;
      const float *pair = y + r * n + c / 8 * 16 + c % 8;
      out[i] = pair[0] / (1.0f + expf (-pair[0])) * pair[8];
    }
}

/* One block a query row and head; m scores in shared memory. out [m, n_q d] F32. */
static __global__ void
reference_attention_kernel (const bf16 *qkv, float *out, int m, int n_q, int n_kv, int d,
                            bool causal)
{
  extern __shared__ __align__ (16) char shared[];
  float *scores = reinterpret_cast<float *> (shared);
  __shared__ float partial[32];
  const int row = blockIdx.x, head = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warps = blockDim.x / 32, keys = causal ? row + 1 : m;
  const size_t pitch = (size_t)(n_q + 2 * n_kv) * d;
  const bf16 *q = qkv + row * pitch + (size_t)head * d;
  const bf16 *k = qkv + (size_t)(n_q + head / (n_q / n_kv)) * d, *v = k + (size_t)n_kv * d;
  float best = -INFINITY;
  for (int j = warp; j < keys; j += warps)
    {
      float dot = 0.0f;
      for (int i = lane; i < d; i += 32)
        dot += (float)q[i] * (float)k[j * pitch + i];
      dot = warp_sum (dot) / sqrtf ((float)d);
      if (lane == 0)
        scores[j] = dot;
      best = fmaxf (best, dot);
    }
  if (lane == 0)
    partial[warp] = best;
  __syncthreads ();
  for (int i = 0; i < warps; i++)
    best = fmaxf (best, partial[i]);
  __syncthreads ();
  float sum = 0.0f;
  for (int j = threadIdx.x; j < keys; j += blockDim.x)
    sum += scores[j] = expf (scores[j] - best);
  sum = warp_sum (sum);
  if (lane == 0)
    partial[warp] = sum;
  __syncthreads ();
  sum = 0.0f;
  for (int i = 0; i < warps; i++)
    sum += partial[i];
  for (int i = threadIdx.x; i < d; i += blockDim.x)
    {
      float value = 0.0f;
      for (int j = 0; j < keys; j++)
        value += scores[j] * (float)v[j * pitch + i];
      out[((size_t)row * n_q + head) * d + i] = value / sum;
    }
}

/* -- comparison ---------------------------------------------------------------------------------
 */

typedef struct
{
  double error, reference; /* sums of squares */
  float worst;             /* largest |difference| / (rms + |reference|) */
  unsigned bad;            /* not finite */
} Difference;

static __global__ void
difference_kernel (const bf16 *got, const float *want, size_t n, float rms, Difference *out)
{
  double error = 0.0, reference = 0.0;
  float worst = 0.0f;
  unsigned bad = 0;
  for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
       i += (size_t)gridDim.x * blockDim.x)
    {
      const float a = (float)got[i], b = want[i];
      if (!isfinite (a))
        bad++;
      else
        {
          error += (double)(a - b) * (a - b);
          worst = fmaxf (worst, fabsf (a - b) / (rms + fabsf (b)));
        }
      reference += (double)b * b;
    }
  atomicAdd (&out->error, error);
  atomicAdd (&out->reference, reference);
  atomicAdd (&out->bad, bad);
  atomicMax ((int *)&out->worst, __float_as_int (worst)); /* not negative: ordered as integers */
}

/* Relative RMS error, and the worst single number. */
typedef struct
{
  double relative, worst;
  unsigned bad;
} Error;

/* Twice over the numbers: the second time the first's RMS is known. */
static inline Status
compare (Stream *s, const bf16 *got, const float *want, size_t n, Difference *scratch, Error *out)
{
  Difference host = {};
  for (int pass = 0; pass < 2; pass++)
    {
      const float rms = (float)sqrt (host.reference / n);
      CUDA_CHECK (s, cudaMemsetAsync (scratch, 0, sizeof *scratch, s->compute));
      LAUNCH_ONCE (
          launch_kernel (difference_kernel, 1024, 256, 0, s->compute, got, want, n, rms, scratch));
      CHECK (LAUNCHED (s));
      CUDA_CHECK (
          s, cudaMemcpyAsync (&host, scratch, sizeof host, cudaMemcpyDeviceToHost, s->compute));
      CHECK (cuda_wait (s));
    }
  out->relative = sqrt (host.error / host.reference);
  out->worst = host.worst;
  out->bad = host.bad;
  return STATUS_OK;
}

/* -- on the host --------------------------------------------------------------------------------
 */

template <typename T>
static Status
random_numbers (Stream *s, T *out, size_t n, uint64_t seed, float scale)
{
  LAUNCH_ONCE (launch_kernel (random_kernel<T>, 1024, 256, 0, s->compute, out, n, seed, scale));
  return LAUNCHED (s);
}

static inline Status
random_bf16 (Stream *s, bf16 *out, size_t n, uint64_t seed, float scale)
{
  return random_numbers (s, out, n, seed, scale);
}

static inline Status
random_f32 (Stream *s, float *out, size_t n, uint64_t seed, float scale)
{
  return random_numbers (s, out, n, seed, scale);
}

static inline Status
random_e4m3 (Stream *s, uint8_t *out, size_t n, uint64_t seed, float scale)
{
  return random_numbers (s, (E4m3 *)out, n, seed, scale);
}

/* `full` is room for m x n numbers, used with swiglu only. */
static inline Status
reference_gemm (Stream *s, const Gemm *g, float *full, float *out)
{
  const dim3 grid (CEIL_DIV (g->n, REF_TILE), CEIL_DIV (g->m, REF_TILE));
  float *y = g->swiglu ? full : out;
  LAUNCH_ONCE (launch_kernel (reference_gemm_kernel, grid, 256, 0, s->compute, (const bf16 *)g->x,
                              (const bf16 *)g->w, g->bias, y, (int)g->m, (int)g->n, (int)g->k));
  if (g->swiglu)
    LAUNCH_ONCE (launch_kernel (reference_swiglu_kernel, 1024, 256, 0, s->compute, full, out,
                                (int)g->m, (int)g->n));
  return LAUNCHED (s);
}

static inline Status
reference_attention (Stream *s, const Attention *a, float *out)
{
  /* The compiler reads four scores at once, also where fewer are left. */
  const int shared = (int)(CEIL_DIV (a->m, 4) * 4 * sizeof (float));
  CUDA_CHECK (s, cudaFuncSetAttribute (reference_attention_kernel,
                                       cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  const dim3 grid ((unsigned)a->m, a->n_q);
  LAUNCH_ONCE (launch_kernel (reference_attention_kernel, grid, 128, shared, s->compute,
                              (const bf16 *)a->qkv, out, (int)a->m, a->n_q, a->n_kv, a->d,
                              a->causal));
  return LAUNCHED (s);
}
