/* SPDX-License-Identifier: Apache-2.0
 *
 * Matrix products for up to 16 rows of x, at the speed of reading w once.
 *
 * A block takes 16 rows of w, or 8 where 16 would leave multiprocessors idle; its warps share k.
 * The rows of w are the first operand of mma.m16n8k16 and the rows of x the second, both straight
 * from memory: a sum does not care for the order of k, so a thread reads 16 bytes, 8 neighbouring
 * k, and uses them as its 4 + 4 numbers of two mma steps. No shared memory, no rearranging.
 */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/mma.cuh"

#define N_WARPS 8
#define CHUNK   8  /* k that a thread reads at once */
#define STEP_K  32 /* k that a warp reads at once: four threads a row */
#define READS   8  /* of w that a thread has in flight */

/* T: x and w; Y: what y is stored as. */
template <typename T_, typename Y_ = T_> struct FewRows
{
  typedef T_ T;
  typedef Y_ Y;
  const T *x, *w;
  const float *bias;
  Y *y;
  int m, n, k;
  float factor; /* of the sums; FP16 alone */
};

template <typename T>
static __device__ __forceinline__ uint4
read_chunk (const T *matrix, int row, int rows, int k0, int k)
{
  return row < rows && k0 < k
             ? __ldg (reinterpret_cast<const uint4 *> (matrix + (size_t)row * k + k0))
             : make_uint4 (0, 0, 0, 0);
}

/* HALVES: groups of 8 rows of x. d[half] is the mma tile [16 rows of w, 8 rows of x]; with ROWS 8
 * its lower half is of no use. */
template <int HALVES, int ROWS, typename P>
static __device__ __forceinline__ void
multiply (const P &p, int first, float (&d)[HALVES][4])
{
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int line = lane / 4, offset = lane % 4 * CHUNK;
  constexpr int UNROLL = READS * 8 / ROWS;
  for (int k0 = warp * STEP_K + offset; k0 - offset < p.k; k0 += N_WARPS * STEP_K * UNROLL)
    {
      uint4 low[UNROLL], high[UNROLL];
#pragma unroll
      for (int u = 0; u < UNROLL; u++)
        {
          const int k = k0 + u * N_WARPS * STEP_K;
          low[u] = read_chunk (p.w, first + line, p.n, k, p.k);
          high[u] = ROWS == 16 ? read_chunk (p.w, first + line + 8, p.n, k, p.k) : low[u];
        }
#pragma unroll
      for (int u = 0; u < UNROLL; u++)
        {
          const uint32_t a0[4] = { low[u].x, high[u].x, low[u].y, high[u].y };
          const uint32_t a1[4] = { low[u].z, high[u].z, low[u].w, high[u].w };
#pragma unroll
          for (int half = 0; half < HALVES; half++)
            {
              const uint4 b
                  = read_chunk (p.x, half * 8 + line, p.m, k0 + u * N_WARPS * STEP_K, p.k);
              mma<typename P::T> (d[half], a0, b.x, b.y);
              mma<typename P::T> (d[half], a1, b.z, b.w);
            }
        }
    }
}

/* A sum of column c, with what belongs to it. */
template <typename P>
static __device__ __forceinline__ float
sum_at (const P &p, float sum, int c)
{
  if constexpr (Activation<typename P::T>::DTYPE == DTYPE_F16)
    sum *= p.factor;
  return sum + (p.bias ? p.bias[c] : 0.0f);
}

/* Output of the sums for rows c (and c + 8 of w with swiglu) of this block and row r of x. */
template <bool SWIGLU, int HALVES, int ROWS, typename P>
static __device__ __forceinline__ void
write_output (const P &p, const float (&sums)[ROWS][HALVES * 8], int first, int c, int r)
{
  if (r >= p.m || first + c >= p.n)
    return;
  float value = sum_at (p, sums[c][r], first + c);
  if (SWIGLU)
    value = swiglu_stored<typename P::T> (silu_of (value)
                                          * sum_at (p, sums[(c + 8) % ROWS][r], first + c + 8));
  const size_t at = SWIGLU ? (size_t)r * (p.n / 2) + first / 2 + c : (size_t)r * p.n + first + c;
  p.y[at] = from_float<typename P::Y> (value);
}

template <int HALVES, int ROWS, bool SWIGLU, typename P>
static __global__ void
__launch_bounds__ (N_WARPS * 32) gemm_few_rows_kernel (P p)
{
  if (!Activation<typename P::T>::RUNS_HERE)
    return;
  static_assert (!SWIGLU || ROWS == 16, "both factors in one block");
  __shared__ float partial[N_WARPS][ROWS][HALVES * 8];
  __shared__ float sums[ROWS][HALVES * 8];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first = blockIdx.x * ROWS;

  float d[HALVES][4] = {};
  multiply<HALVES, ROWS> (p, first, d);
#pragma unroll
  for (int half = 0; half < HALVES; half++)
#pragma unroll
    for (int i = 0; i < ROWS / 4; i++)
      partial[warp][lane / 4 + i / 2 * 8][half * 8 + lane % 4 * 2 + i % 2] = d[half][i];
  __syncthreads ();

  constexpr int OUTPUTS = ROWS * HALVES * 8;
  if (threadIdx.x < OUTPUTS)
    {
      const int c = threadIdx.x % ROWS, r = threadIdx.x / ROWS;
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < N_WARPS; i++)
        sum += partial[i][c][r];
      sums[c][r] = sum;
    }
  __syncthreads ();
  if (threadIdx.x < OUTPUTS)
    {
      const int c = threadIdx.x % ROWS, r = threadIdx.x / ROWS;
      if (!SWIGLU || c < 8)
        write_output<SWIGLU, HALVES, ROWS> (p, sums, first, c, r);
    }
}

#define FULL_BLOCKS 2 /* a multiprocessor: enough reads in flight to fill the bus */

template <int HALVES, typename P>
static Status
launch (Stream *s, const P &p, bool swiglu)
{
  const int threads = N_WARPS * 32, by16 = CEIL_DIV (p.n, 16), by8 = CEIL_DIV (p.n, 8);
  if (swiglu)
    launch_kernel (gemm_few_rows_kernel<HALVES, 16, true, P>, by16, threads, 0, s->compute, p);
  else if (HALVES == 2
           || by16 >= FULL_BLOCKS * s->caps.multiprocessors) /* x is read twice as often */
    launch_kernel (gemm_few_rows_kernel<HALVES, 16, false, P>, by16, threads, 0, s->compute, p);
  else
    launch_kernel (gemm_few_rows_kernel<HALVES, 8, false, P>, by8, threads, 0, s->compute, p);
  return LAUNCHED (s);
}

template <typename T, typename Y>
static Status
launch_as (Stream *s, const Gemm *g)
{
  const FewRows<T, Y> p = { (const T *)g->x, (const T *)g->w, g->bias,   (Y *)g->y,
                            (int)g->m,       (int)g->n,       (int)g->k, gemm_factor (g) };
  return g->m <= 8 ? launch<1> (s, p, g->swiglu) : launch<2> (s, p, g->swiglu);
}

Status
gemm_few_rows (Stream *s, const Gemm *g)
{
  REQUIRE (s, g->m >= 1 && g->m <= GEMM_FEW_ROWS && g->rank == 0);
  REQUIRE (s, g->n >= 8 && g->n % (g->swiglu ? 16 : 8) == 0 && g->n <= INT32_MAX / 2);
  REQUIRE (s, g->k >= 8 && g->k % 8 == 0 && g->k <= INT32_MAX / 2);
  if (device_activation (&s->caps) != DTYPE_F16)
    {
      REQUIRE (s, !g->after_swiglu && !g->wide);
      return launch_as<bf16, bf16> (s, g);
    }
  return g->wide ? launch_as<f16, float> (s, g) : launch_as<f16, f16> (s, g);
}
