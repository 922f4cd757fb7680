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
template <bool IN_TURN, typename T>
static __global__ void
__launch_bounds__ (THREADS)
    silu_mul_kernel (const T *__restrict__ x, T *__restrict__ out, int packs)
{
  if (!Activation<T>::RUNS_HERE)
    return;
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
        unpack8<T> (a[i], g);
        unpack8<T> (b[i], u);
#pragma unroll
        for (int j = 0; j < 8; j++)
          g[j] = swiglu_stored<T> (silu_of (g[j]) * u[j]);
        to[first + i * THREADS] = pack8<T> (g);
      }
}

/* The same for any F. */
template <typename T>
static __global__ void
__launch_bounds__ (THREADS)
    silu_mul_odd_kernel (const T *__restrict__ x, T *__restrict__ out, int64_t f, int64_t n)
{
  if (!Activation<T>::RUNS_HERE)
    return;
  const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i >= n)
    return;
  const T *gate = x + i / f * 2 * f + i % f;
  out[i] = from_float<T> (swiglu_stored<T> (silu_of (to_float (gate[0])) * to_float (gate[f])));
}

template <typename T>
static __global__ void
__launch_bounds__ (THREADS) silu_kernel (const T *x, T *out, int64_t n)
{
  if (!Activation<T>::RUNS_HERE)
    return;
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
      out[j] = from_float<T> (silu_of (to_float (x[j])));
}

/* m [S, 4, D] -> out [S, 4, D]: quarters 0 and 2 are scales, 1 and 3 gates. */
template <typename T>
static __global__ void
__launch_bounds__ (THREADS)
    modulation_kernel (const T *__restrict__ m, float *__restrict__ out, int64_t n, int64_t d)
{
  if (!Activation<T>::RUNS_HERE)
    return;
  const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i >= n)
    return;
  const float v = to_float (m[i]);
  out[i] = i / d % 2 == 0 ? 1.0f + v : tanhf (v);
}

template <typename T>
static __global__ void
__launch_bounds__ (THREADS)
    one_plus_kernel (const T *__restrict__ x, float *__restrict__ out, int64_t n)
{
  if (!Activation<T>::RUNS_HERE)
    return;
  const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i < n)
    out[i] = 1.0f + to_float (x[i]);
}

/* Word: 16 bytes where rows are a multiple of them, else 2 of them. */
template <typename Word>
static __global__ void
__launch_bounds__ (THREADS) fill_rows_kernel (const Word *__restrict__ row, Word *__restrict__ out,
                                              int64_t width, int64_t total)
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

/* Of the device's type. */
static bool
is_activation (const Stream *s, const Tensor *t)
{
  return t->dtype == device_activation (&s->caps);
}

/* Calls FUNCTION<T> for the type of x. */
#define BY_TYPE(FUNCTION, x, ...)                                                                  \
  ((x)->dtype == DTYPE_F16 ? FUNCTION<f16> (__VA_ARGS__) : FUNCTION<bf16> (__VA_ARGS__))

template <typename T>
static Status
silu_mul (Stream *s, const Tensor *x, int turn, Tensor *out)
{
  const int64_t m = x->shape[0], f = x->shape[1] / 2;
  if (f % 8 != 0)
    {
      launch_kernel (silu_mul_odd_kernel<T>, blocks_for (m * f), THREADS, 0, s->compute,
                     (const T *)x->data, (T *)out->data, f, m * f);
      return LAUNCHED (s);
    }
  const int packs = (int)(f / 8);
  const auto kernel = turn == 8 ? silu_mul_kernel<true, T> : silu_mul_kernel<false, T>;
  /* The grid's second extent ends at 65535: longer inputs take several launches. */
  for (int64_t row = 0; row < m; row += 65535)
    {
      const int64_t rows = m - row < 65535 ? m - row : 65535;
      const dim3 grid ((unsigned)CEIL_DIV (packs, THREADS * BATCH), (unsigned)rows);
      launch_kernel (kernel, grid, THREADS, 0, s->compute, (const T *)x->data + row * 2 * f,
                     (T *)out->data + row * f, packs);
    }
  return LAUNCHED (s);
}

Status
cuda_silu_mul (Stream *s, const Tensor *x, int turn, Tensor *out)
{
  const int64_t m = x->shape[0], f = x->shape[1] / 2;
  REQUIRE (s, is_activation (s, x) && out->dtype == x->dtype && x->rank == 2);
  REQUIRE (s, x->shape[1] % 2 == 0 && f <= INT32_MAX && tensor_count (out) == m * f);
  REQUIRE (s, turn == 0 || (turn == 8 && f % 8 == 0));
  return BY_TYPE (silu_mul, x, s, x, turn, out);
}

template <typename T>
static Status
silu (Stream *s, const Tensor *x, Tensor *out)
{
  const int64_t n = tensor_count (x);
  launch_kernel (silu_kernel<T>, blocks_for (CEIL_DIV (n, 8)), THREADS, 0, s->compute,
                 (const T *)x->data, (T *)out->data, n);
  return LAUNCHED (s);
}

Status
cuda_silu (Stream *s, const Tensor *x, Tensor *out)
{
  const int64_t n = tensor_count (x);
  REQUIRE (s, is_activation (s, x) && out->dtype == x->dtype && tensor_count (out) == n);
  return BY_TYPE (silu, x, s, x, out);
}

template <typename T>
static Status
modulation (Stream *s, const Tensor *m, Tensor *out)
{
  const int64_t n = tensor_count (m);
  launch_kernel (modulation_kernel<T>, blocks_for (n), THREADS, 0, s->compute, (const T *)m->data,
                 (float *)out->data, n, m->shape[1] / 4);
  return LAUNCHED (s);
}

Status
cuda_modulation (Stream *s, const Tensor *m, Tensor *out)
{
  const int64_t n = tensor_count (m);
  REQUIRE (s, is_activation (s, m) && out->dtype == DTYPE_F32 && tensor_count (out) == n);
  REQUIRE (s, m->rank == 2 && m->shape[1] % 4 == 0);
  return BY_TYPE (modulation, m, s, m, out);
}

template <typename T>
static Status
one_plus (Stream *s, const Tensor *x, Tensor *out)
{
  const int64_t n = tensor_count (x);
  launch_kernel (one_plus_kernel<T>, blocks_for (n), THREADS, 0, s->compute, (const T *)x->data,
                 (float *)out->data, n);
  return LAUNCHED (s);
}

Status
cuda_one_plus (Stream *s, const Tensor *x, Tensor *out)
{
  const int64_t n = tensor_count (x);
  REQUIRE (s, is_activation (s, x) && out->dtype == DTYPE_F32 && tensor_count (out) == n);
  return BY_TYPE (one_plus, x, s, x, out);
}

/* Rows whose bytes are a multiple of Word. */
template <typename Word>
static Status
fill_rows (Stream *s, const Tensor *row, Tensor *out)
{
  const int64_t width = (int64_t)(tensor_bytes (row) / sizeof (Word));
  const int64_t total = (int64_t)(tensor_bytes (out) / sizeof (Word));
  launch_kernel (fill_rows_kernel<Word>, blocks_for (total), THREADS, 0, s->compute,
                 (const Word *)row->data, (Word *)out->data, width, total);
  return LAUNCHED (s);
}

Status
cuda_fill_rows (Stream *s, const Tensor *row, Tensor *out)
{
  const int64_t d = tensor_count (row), n = tensor_count (out);
  REQUIRE (s, is_activation (s, row) || row->dtype == device_residual (&s->caps));
  REQUIRE (s, out->dtype == row->dtype && d > 0 && n % d == 0);
  if (n == 0)
    return STATUS_OK;
  /* A view of rows may begin anywhere that rows of 16 bytes do not. */
  if (tensor_bytes (row) % 16 == 0 && (uintptr_t)row->data % 16 == 0
      && (uintptr_t)out->data % 16 == 0)
    return fill_rows<uint4> (s, row, out);
  return fill_rows<uint16_t> (s, row, out);
}
