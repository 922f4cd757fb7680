/* SPDX-License-Identifier: Apache-2.0
 *
 * svdq_heads.cuh - products of 4-bit codes for q, k and v, whose tiles end in q's and k's norm and
 * rotation
 *
 * A tile is as wide as a head. Its outputs lie in shared memory as they would be written, rounded;
 * from there sixteen lanes take a row each, as they would from memory (rope.cuh): so every bit is
 * that of the product and Ops.qk_norm_rope behind it. The tables of rotations are read again for
 * each head, from L2. Registers are free by then.
 */
#pragma once

#include "kernels/cuda/rope.cuh"
#include "kernels/cuda/svdq_tile.cuh"

#define SVDQ_HEAD_LANES (SVDQ_HEAD / 8)

struct SvdqHeadsArgs
{
  SvdqProductArgs p;
  SvdqHeads heads;
};

/* -- outputs ------------------------------------------------------------------------------------
 */

/* Staged rows of one head, PITCH numbers apart, to y's from `row` on; each sixteen of them lie
 * APART rows of y apart. All of a block's THREADS call it together. */
template <typename A, int ROWS, int APART, int PITCH, int THREADS> struct SvdqHeadRows
{
  static constexpr int STEP = THREADS / SVDQ_HEAD_LANES; /* rows that a block takes at a time */
  static constexpr int STEPS = ROWS / STEP;
  static constexpr int BATCH = 4; /* steps whose loads a thread has in flight */
  static_assert (16 % STEP == 0 && STEPS % BATCH == 0, "whole steps");

  const A *from; /* the thread's share of the first step */
  A *y;
  int64_t stride;
  int row, m, lane; /* the row of that share, in y; its place in a head */

  __device__ __forceinline__
  SvdqHeadRows (const SvdqProductArgs &p, const A *staged, int first, int column)
      : stride (p.stride), m (p.m)
  {
    int thread = threadIdx.x;
    asm volatile(""
                 : "+r"(thread),
                   "+r"(first)); /* or else the sums have to do with fewer registers */
    lane = thread % SVDQ_HEAD_LANES;
    row = first + thread / SVDQ_HEAD_LANES;
    from = staged + thread / SVDQ_HEAD_LANES * PITCH + 8 * lane;
    y = (A *)p.y + column + 8 * lane;
  }

  __device__ __forceinline__ int
  row_at (int step) const
  {
    return row + step * STEP / 16 * APART + step * STEP % 16;
  }

  __device__ __forceinline__ uint4
  read (int step) const
  {
    return *reinterpret_cast<const uint4 *> (from + step * STEP * PITCH);
  }

  __device__ __forceinline__ void
  write (int step, uint4 bits) const
  {
    if (row_at (step) < m)
      *reinterpret_cast<uint4 *> (y + row_at (step) * stride) = bits;
  }

  /* As they are: those of v. */
  __device__ __forceinline__ void
  copy () const
  {
#pragma unroll
    for (int step = 0; step < STEPS; step++)
      write (step, read (step));
  }

  /* Normed by `weights` and turned. */
  __device__ __forceinline__ void
  turn (const SvdqHeads &heads, const float *weights) const
  {
    float weight[8];
    load8 (weights + 8 * lane, weight);
#pragma unroll 1
    for (int first = 0; first < STEPS; first += BATCH)
      {
        /* Behind the last row there is no table; what is made of the last one is not written. */
        float turns[BATCH][8];
#pragma unroll
        for (int i = 0; i < BATCH; i++)
          load8 (heads.table + (int64_t)min (row_at (first + i), m - 1) * SVDQ_HEAD + 8 * lane,
                 turns[i]);
#pragma unroll
        for (int i = 0; i < BATCH; i++)
          {
            float v[8];
            unpack8<A> (read (first + i), v);
            const float factor = head_factor<SVDQ_HEAD_LANES> (v, heads.eps);
#pragma unroll
            for (int j = 0; j < 8; j++)
              v[j] *= factor * weight[j];
            rotate8<SVDQ_HEAD_LANES, true> (v, turns[i], lane);
            write (first + i, pack8<A> (v));
          }
      }
  }

  /* Whichever head it is. */
  __device__ __forceinline__ void
  finish (const SvdqHeads &heads, int head) const
  {
    if (head < heads.n_q + heads.n_kv)
      turn (heads, head < heads.n_q ? heads.q_weight : heads.k_weight);
    else
      copy ();
  }
};

/* -- the kernel ---------------------------------------------------------------------------------
 */

template <typename T, typename Math>
static __global__ void
__launch_bounds__ (T::THREADS, T::BLOCKS) svdq_heads_kernel (SvdqHeadsArgs args)
{
  if (!Math::RUNS || !Activation<bf16>::RUNS_HERE)
    return;
  static_assert (T::ROWS * T::OUT_PITCH * 2 <= T::SHARED_BYTES, "outputs are staged in the ring");
  static_assert (T::COLUMNS == SVDQ_HEAD, "a tile is a head");
  extern __shared__ __align__ (128) char shared[];
  const SvdqProductArgs &p = args.p;
  const MmaPlace at = svdq_place<T> (p);

  float d[T::DOWN][T::ALONG][4] = {};
  svdq_sum<T, Math> (p, d, shared_address (shared), at);
  bf16 *staged = reinterpret_cast<bf16 *> (shared);
  stage_outputs<T, false> (p.bias, p.n, d, staged, at);
  __syncthreads ();
  const SvdqHeadRows<bf16, T::ROWS, 16, T::OUT_PITCH, T::THREADS> rows (p, staged, at.row,
                                                                        at.column);
  rows.finish (args.heads, at.column / SVDQ_HEAD);
}

/* -- launching ----------------------------------------------------------------------------------
 */

/* `g` and its heads as the kernels want them, but for the tiles. */
static inline Status
svdq_describe_heads (Stream *s, const SvdqGemm *g, SvdqHeadsArgs *out)
{
  const SvdqHeads *h = g->heads;
  REQUIRE (s, !g->w->swiglu && !g->wide);
  REQUIRE (s, h->n_q >= 0 && h->n_kv >= 0 && h->n_q <= 4096 && h->n_kv <= 4096);
  REQUIRE (s, g->w->n == (int64_t)(h->n_q + 2 * h->n_kv) * SVDQ_HEAD);
  out->heads = *h;
  return svdq_describe (s, g, &out->p);
}

template <typename T, typename Math>
static Status
svdq_launch_heads_tile (Stream *s, SvdqHeadsArgs args)
{
  unsigned blocks = 0;
  CHECK (svdq_count_tiles<T> (s, &args.p, &blocks));
  auto *kernel = svdq_heads_kernel<T, Math>;
  CUDA_CHECK (s, cudaFuncSetAttribute (kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       T::SHARED_BYTES));
  launch_kernel (kernel, blocks, T::THREADS, T::SHARED_BYTES, s->compute, args);
  return LAUNCHED (s);
}

/* As svdq_launch, with g->heads; both tiles are a head wide. */
template <typename Large, typename Small, typename Math>
static Status
svdq_launch_heads (Stream *s, const SvdqGemm *g, SvdqFormat format)
{
  SvdqHeadsArgs args = {};
  REQUIRE (s, g->w->format == format && s->caps.sm >= 80);
  CHECK (svdq_describe_heads (s, g, &args));
  if (mma_tiles<Large> (args.p.m, args.p.n) >= s->caps.multiprocessors)
    return svdq_launch_heads_tile<Large, Math> (s, args);
  return svdq_launch_heads_tile<Small, Math> (s, args);
}
