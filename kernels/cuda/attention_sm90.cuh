/* SPDX-License-Identifier: Apache-2.0
 *
 * attention_sm90.cuh - the arithmetic of one warpgroup of attention_sm90.cu
 *
 * A thread holds two rows of its warp's 16, r and r + 8, four threads a row, in the layout of
 * wgmma's sums (wgmma.cuh). S is the Shape of the kernel. Compiles to nothing below sm_90a.
 */
#pragma once

#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/tma.cuh"
#include "kernels/cuda/wgmma.cuh"

#include <math.h>

#define WGMMA_K    16
#define GROUP_ROWS 64 /* query rows of a warpgroup */
#define LOG2_E     1.4426950408889634f
/* A row keeps an old maximum until a score exceeds it by this many powers of two: the sums stay
 * exact in FP32 and the outputs need no rescaling in most blocks of keys. */
#define LAZY_MAXIMUM 8.0f

/* What there is to do: row_tiles x n_q tiles of S::ROWS query rows of one head. */
struct Work
{
  int m, n_q, n_kv, d, row_tiles;
  float scale_log2; /* log2(e) / sqrt(d) */
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

template <typename S> struct Rows
{
  float out[S::D / 2];
  float maximum[2], sum[2]; /* maximum: of the scores, unscaled; sum: this thread's share */
};

/* scores = q k^T, queued and committed. */
template <typename S>
static __device__ __forceinline__ void
start_scores (float (&scores)[S::KEYS / 2], uint32_t q, uint32_t k)
{
  wgmma_fence ();
#pragma unroll
  for (int i = 0; i < S::D / WGMMA_K; i++)
    {
      const int panel = i * WGMMA_K / SWIZZLE_COLUMNS, inside = i % (SWIZZLE_COLUMNS / WGMMA_K);
      wgmma_ss<S::KEYS> (scores, wgmma_k_major (q + panel * S::Q_PANEL) + 2 * inside,
                         wgmma_k_major (k + panel * S::KV_PANEL) + 2 * inside, i > 0);
    }
  wgmma_commit ();
}

/* out += p v, queued and committed. */
template <typename S>
static __device__ __forceinline__ void
start_outputs (float (&out)[S::D / 2], const uint32_t (&p)[S::KEYS / 4], uint32_t v)
{
  wgmma_fence ();
#pragma unroll
  for (int i = 0; i < S::KEYS / WGMMA_K; i++)
    wgmma_rs<S::D> (out, p + 4 * i,
                    wgmma_mn_major (v + i * WGMMA_K * SWIZZLE_ROW_BYTES, S::KV_PANEL));
  wgmma_commit ();
}

/* Keys that row r, or r + 8, must not see get a score of minus infinity. */
template <typename S, bool CAUSAL>
static __device__ __forceinline__ void
mask (float (&scores)[S::KEYS / 2], const Work &work, int first_key, int row)
{
#pragma unroll
  for (int i = 0; i < S::KEYS / 2; i++)
    {
      const int key = first_key + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
      const int last = CAUSAL ? min (work.m - 1, row + i / 2 % 2 * 8) : work.m - 1;
      if (key > last)
        scores[i] = -INFINITY;
    }
}

/* Maxima of both rows with these scores; returns whether any row of the warp moved its maximum,
 * with what the old outputs are worth in `factor`. */
template <typename S>
static __device__ __forceinline__ bool
raise_maximum (const float (&scores)[S::KEYS / 2], Rows<S> &rows, float scale, float (&factor)[2])
{
  bool raised = false;
#pragma unroll
  for (int h = 0; h < 2; h++)
    {
      float m = fmaxf (scores[2 * h], scores[2 * h + 1]);
#pragma unroll
      for (int i = 1; i < S::KEYS / 8; i++)
        m = fmaxf (m, fmaxf (scores[4 * i + 2 * h], scores[4 * i + 2 * h + 1]));
      m = fmaxf (m, __shfl_xor_sync (0xffffffffu, m, 1));
      m = fmaxf (m, __shfl_xor_sync (0xffffffffu, m, 2));
      const bool higher = (m - rows.maximum[h]) * scale > LAZY_MAXIMUM;
      factor[h] = higher ? exp2f ((rows.maximum[h] - m) * scale) : 1.0f;
      rows.maximum[h] = higher ? m : rows.maximum[h];
      raised |= higher;
    }
  return __any_sync (0xffffffffu, raised);
}

template <typename S>
static __device__ __forceinline__ void
rescale (Rows<S> &rows, const float (&factor)[2])
{
#pragma unroll
  for (int i = 0; i < S::D / 2; i++)
    rows.out[i] *= factor[i / 2 % 2];
}

/* Scores -> probabilities against the maxima, and into the sums. In place. */
template <typename S>
static __device__ __forceinline__ void
exponentials (float (&scores)[S::KEYS / 2], Rows<S> &rows, float scale)
{
#pragma unroll
  for (int h = 0; h < 2; h++)
    {
      const float shift = rows.maximum[h] * scale;
      float even = 0.0f, odd = 0.0f;
#pragma unroll
      for (int i = 0; i < S::KEYS / 8; i++)
        {
          float *pair = &scores[4 * i + 2 * h];
          pair[0] = exp2_fast (fmaf (pair[0], scale, -shift));
          pair[1] = exp2_fast (fmaf (pair[1], scale, -shift));
          even += pair[0];
          odd += pair[1];
        }
      rows.sum[h] += even + odd;
    }
}

/* The sums' layout of the first product is the operands' layout of the second. */
template <typename S>
static __device__ __forceinline__ void
pack (const float (&scores)[S::KEYS / 2], uint32_t (&p)[S::KEYS / 4])
{
#pragma unroll
  for (int i = 0; i < S::KEYS / 4; i++)
    p[i] = pack2 (scores[2 * i], scores[2 * i + 1]);
}

#endif /* __CUDA_ARCH_FEAT_SM90_ALL */
