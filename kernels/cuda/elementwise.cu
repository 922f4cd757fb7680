/* SPDX-License-Identifier: Apache-2.0
 *
 * Operations on each number by itself.
 */
#include "kernels/cuda/ops.cuh"

/* -- kernels ------------------------------------------------------------------------------------
 */

#define THREADS 256
#define BATCH   4 /* packs of 8 that a thread has in flight */

/* out [M, F] = silu(x[:, :F]) * x[:, F:]; `packs` = F / 8. IN_TURN: packs of both halves alternate.
 */
template <bool IN_TURN>
static __global__ void
__launch_bounds__ (THREADS)
    silu_mul_kernel (const bf16 *__restrict__ x, bf16 *__restrict__ out, int packs)
{
  const uint4 *gate = reinterpret_cast<const uint4 *> (x) + (size_t)blockIdx.y * 2 * packs;
  const uint4 *up = gate + (IN_TURN ? 1 : packs);
  uint4 *to = reinterpret_cast<uint4 *> (out) + (size_t)blockIdx.y * packs;
  const int first = blockIdx.x * THREADS * BATCH + threadIdx.x;
  uint4 a[BATCH], b[BATCH];
#pragma unroll
  for (int i = 0; i < BATCH; i++)
    if (first + i * THREADS < packs)
      {
        const int at = (first + i * THREADS) * (IN_TURN ? 2 : 1);
        a[i] = gate[at];
        b[i] = up[at];
      }
#pragma unroll
  for (int i = 0; i < BATCH; i++)
    if (first + i * THREADS < packs)
      {
        float g[8], u[8];
        unpack8 (a[i], g);
        unpack8 (b[i], u);
#pragma unroll
        for (int j = 0; j < 8; j++)
          g[j] = silu_of (g[j]) * u[j];
        to[first + i * THREADS] = pack8 (g);
      }
}

/* The same for any F. */
static __global__ void
__launch_bounds__ (THREADS)
    silu_mul_odd_kernel (const bf16 *__restrict__ x, bf16 *__restrict__ out, int64_t f, int64_t n)
{
  const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i >= n)
    return;
  const bf16 *gate = x + i / f * 2 * f + i % f;
  out[i] = __float2bfloat16_rn (silu_of (__bfloat162float (gate[0])) * __bfloat162float (gate[f]));
}

static __global__ void
__launch_bounds__ (THREADS) silu_kernel (const bf16 *x, bf16 *out, int64_t n)
{
  const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 8;
  if (i + 8 <= n)
    {
      float v[8];
      load8 (x + i, v);
#pragma unroll
      for (int j = 0; j < 8; j++)
        v[j] = silu_of (v[j]);
      store8 (out + i, v);
    }
  else
    for (int64_t j = i; j < n; j++)
      out[j] = __float2bfloat16_rn (silu_of (__bfloat162float (x[j])));
}

/* m [S, 4, D] -> out [S, 4, D]: quarters 0 and 2 are scales, 1 and 3 gates. */
static __global__ void
__launch_bounds__ (THREADS)
    modulation_kernel (const bf16 *__restrict__ m, float *__restrict__ out, int64_t n, int64_t d)
{
  const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i >= n)
    return;
  const float v = __bfloat162float (m[i]);
  out[i] = i / d % 2 == 0 ? 1.0f + v : tanhf (v);
}

static __global__ void
__launch_bounds__ (THREADS)
    one_plus_kernel (const bf16 *__restrict__ x, float *__restrict__ out, int64_t n)
{
  const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i < n)
    out[i] = 1.0f + __bfloat162float (x[i]);
}

/* T: uint4 where rows are a multiple of 16 bytes, else one number. */
template <typename T>
static __global__ void
__launch_bounds__ (THREADS)
    fill_rows_kernel (const T *__restrict__ row, T *__restrict__ out, int64_t width, int64_t total)
{
  const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i < total)
    out[i] = row[i % width];
}

/* -- launchers ----------------------------------------------------------------------------------
 */

static unsigned
blocks_for (int64_t items)
{
  return (unsigned)CEIL_DIV (items, THREADS);
}

Status
cuda_silu_mul (Stream *s, const Tensor *x, int turn, Tensor *out)
{
  const int64_t m = x->shape[0], f = x->shape[1] / 2;
  REQUIRE (s, x->dtype == DTYPE_BF16 && out->dtype == DTYPE_BF16 && x->rank == 2);
  REQUIRE (s, x->shape[1] % 2 == 0 && f <= INT32_MAX && tensor_count (out) == m * f);
  REQUIRE (s, turn == 0 || (turn == 8 && f % 8 == 0));
  if (f % 8 != 0)
    {
      launch_kernel (silu_mul_odd_kernel, blocks_for (m * f), THREADS, 0, s->compute,
                     (const bf16 *)x->data, (bf16 *)out->data, f, m * f);
      return LAUNCHED (s);
    }
  const int packs = (int)(f / 8);
  const auto kernel = turn == 8 ? silu_mul_kernel<true> : silu_mul_kernel<false>;
  /* The grid's second extent ends at 65535: longer inputs take several launches. */
  for (int64_t row = 0; row < m; row += 65535)
    {
      const int64_t rows = m - row < 65535 ? m - row : 65535;
      const dim3 grid ((unsigned)CEIL_DIV (packs, THREADS * BATCH), (unsigned)rows);
      launch_kernel (kernel, grid, THREADS, 0, s->compute, (const bf16 *)x->data + row * 2 * f,
                     (bf16 *)out->data + row * f, packs);
    }
  return LAUNCHED (s);
}

Status
cuda_silu (Stream *s, const Tensor *x, Tensor *out)
{
  const int64_t n = tensor_count (x);
  REQUIRE (s, x->dtype == DTYPE_BF16 && out->dtype == DTYPE_BF16 && tensor_count (out) == n);
  launch_kernel (silu_kernel, blocks_for (CEIL_DIV (n, 8)), THREADS, 0, s->compute,
                 (const bf16 *)x->data, (bf16 *)out->data, n);
  return LAUNCHED (s);
}

Status
cuda_modulation (Stream *s, const Tensor *m, Tensor *out)
{
  const int64_t n = tensor_count (m);
  REQUIRE (s, m->dtype == DTYPE_BF16 && out->dtype == DTYPE_F32 && tensor_count (out) == n);
  REQUIRE (s, m->rank == 2 && m->shape[1] % 4 == 0);
  launch_kernel (modulation_kernel, blocks_for (n), THREADS, 0, s->compute, (const bf16 *)m->data,
                 (float *)out->data, n, m->shape[1] / 4);
  return LAUNCHED (s);
}

Status
cuda_one_plus (Stream *s, const Tensor *x, Tensor *out)
{
  const int64_t n = tensor_count (x);
  REQUIRE (s, x->dtype == DTYPE_BF16 && out->dtype == DTYPE_F32 && tensor_count (out) == n);
  launch_kernel (one_plus_kernel, blocks_for (n), THREADS, 0, s->compute, (const bf16 *)x->data,
                 (float *)out->data, n);
  return LAUNCHED (s);
}

Status
cuda_fill_rows (Stream *s, const Tensor *row, Tensor *out)
{
  const int64_t d = tensor_count (row), n = tensor_count (out);
  REQUIRE (s, row->dtype == DTYPE_BF16 && out->dtype == DTYPE_BF16 && d > 0 && n % d == 0);
  if (n == 0)
    return STATUS_OK;
  /* A view of rows may begin anywhere that rows of 16 bytes do not. */
  if (d % 8 == 0 && (uintptr_t)row->data % 16 == 0 && (uintptr_t)out->data % 16 == 0)
    launch_kernel (fill_rows_kernel<uint4>, blocks_for (n / 8), THREADS, 0, s->compute,
                   (const uint4 *)row->data, (uint4 *)out->data, d / 8, n / 8);
  else
    launch_kernel (fill_rows_kernel<bf16>, blocks_for (n), THREADS, 0, s->compute,
                   (const bf16 *)row->data, (bf16 *)out->data, d, n);
  return LAUNCHED (s);
}
