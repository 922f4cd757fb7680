/* SPDX-License-Identifier: Apache-2.0
 *
 * Norms over the rows of [M, D]. A row lies in the registers of one block in packs of 8 numbers, so
 * memory is read once and written once; a block stays for several rows, so the vectors are read
 * once a block. Statistics are FP32; results are rounded once.
 *
 * A norm is written as its rows, or as the factors that its reader multiplies x by.
 */
#include "kernels/cuda/ops.cuh"

/* -- kernels ------------------------------------------------------------------------------------
 */

/* Eight numbers of a row of d, from number 8 p. ODD: d is no multiple of 8, so rows begin at any
 * address and end inside a pack; what lies behind the end reads as zero and is not written. */
template <bool ODD, typename X>
static __device__ __forceinline__ Pack<X>
load_pack (const X *row, int p, int d)
{
  if constexpr (!ODD)
    return 8 * p < d ? reinterpret_cast<const Pack<X> *> (row)[p] : Pack<X>{};
  else
    {
      float v[8];
#pragma unroll
      for (int j = 0; j < 8; j++)
        v[j] = 8 * p + j < d ? to_float (row[8 * p + j]) : 0.0f;
      return pack8<X> (v);
    }
}

template <bool ODD, typename X>
static __device__ __forceinline__ void
store_pack (X *row, int p, int d, Pack<X> bits)
{
  if (!ODD)
    {
      reinterpret_cast<Pack<X> *> (row)[p] = bits;
      return;
    }
  float v[8];
  unpack8<X> (bits, v);
#pragma unroll
  for (int j = 0; j < 8; j++)
    if (8 * p + j < d)
      row[8 * p + j] = from_float<X> (v[j]);
}

template <bool ODD>
static __device__ __forceinline__ void
multiply_pack (float v[8], const float *vector, int p, int d)
{
  float w[8];
  if (!ODD)
    load8 (vector + 8 * p, w);
  else
#pragma unroll
    for (int j = 0; j < 8; j++)
      w[j] = 8 * p + j < d ? vector[8 * p + j] : 0.0f;
#pragma unroll
  for (int j = 0; j < 8; j++)
    v[j] *= w[j];
}

/* The pack i of a thread. */
template <int THREADS>
static __device__ __forceinline__ int
pack_of (int i)
{
  return i * THREADS + threadIdx.x;
}

/* Eight factors for each pack of a thread: a * b, where NULL is 1. Read once for all rows. */
template <int THREADS, int PACKS, bool ODD> struct Factors
{
  float f[PACKS][8];

  __device__ __forceinline__ void
  load (const float *a, const float *b, int d)
  {
#pragma unroll
    for (int i = 0; i < PACKS; i++)
      {
        const int p = pack_of<THREADS> (i);
#pragma unroll
        for (int j = 0; j < 8; j++)
          f[i][j] = 1.0f;
        if (a && 8 * p < d)
          multiply_pack<ODD> (f[i], a, p, d);
        if (b && 8 * p < d)
          multiply_pack<ODD> (f[i], b, p, d);
      }
  }

  __device__ __forceinline__ void
  store (float *out, int d) const
  {
#pragma unroll
    for (int i = 0; i < PACKS; i++)
      if (8 * pack_of<THREADS> (i) < d)
        store_pack<ODD> (out, pack_of<THREADS> (i), d, pack8<float> (f[i]));
  }
};

/* A row of d numbers of type X in the registers of a block. */
template <int THREADS, int PACKS, bool ODD, typename X> struct Row
{
  Pack<X> bits[PACKS];

  __device__ __forceinline__ void
  load (const X *row, int d)
  {
#pragma unroll
    for (int i = 0; i < PACKS; i++)
      bits[i] = load_pack<ODD, X> (row, pack_of<THREADS> (i), d);
  }

  __device__ __forceinline__ float
  sum () const
  {
    float total = 0;
#pragma unroll
    for (int i = 0; i < PACKS; i++)
      {
        float v[8];
        unpack8<X> (bits[i], v);
#pragma unroll
        for (int j = 0; j < 8; j++)
          total += v[j];
      }
    return total;
  }

  /* Of the numbers' distances from `mean`. */
  __device__ __forceinline__ float
  sum_of_squares (float mean, int d) const
  {
    float total = 0;
#pragma unroll
    for (int i = 0; i < PACKS; i++)
      {
        const int p = pack_of<THREADS> (i);
        float v[8];
        unpack8<X> (bits[i], v);
#pragma unroll
        for (int j = 0; j < 8; j++)
          if (ODD ? 8 * p + j < d : 8 * p < d)
            total += (v[j] - mean) * (v[j] - mean);
      }
    return total;
  }

  /* out = (row - shift) * factor * factors. */
  template <typename T>
  __device__ __forceinline__ void
  store (float shift, float factor, const Factors<THREADS, PACKS, ODD> &factors, T *out,
         int d) const
  {
#pragma unroll
    for (int i = 0; i < PACKS; i++)
      {
        const int p = pack_of<THREADS> (i);
        float v[8];
        unpack8<X> (bits[i], v);
#pragma unroll
        for (int j = 0; j < 8; j++)
          v[j] = (v[j] - shift) * factor * factors.f[i][j];
        if (8 * p < d)
          store_pack<ODD, T> (out, p, d, pack8<T> (v));
      }
  }

  /* row += factor * added * factors, rounded. */
  __device__ __forceinline__ void
  add (const Row &added, float factor, const Factors<THREADS, PACKS, ODD> &factors)
  {
#pragma unroll
    for (int i = 0; i < PACKS; i++)
      {
        float v[8], sum[8];
        unpack8<X> (added.bits[i], v);
        unpack8<X> (bits[i], sum);
#pragma unroll
        for (int j = 0; j < 8; j++)
          sum[j] += factor * v[j] * factors.f[i][j];
        bits[i] = pack8<X> (sum);
      }
  }

  __device__ __forceinline__ void
  store_plain (X *out, int d) const
  {
#pragma unroll
    for (int i = 0; i < PACKS; i++)
      if (8 * pack_of<THREADS> (i) < d)
        store_pack<ODD, X> (out, pack_of<THREADS> (i), d, bits[i]);
  }
};

/* What a norm writes, T: normed rows of the activations' type, or, F32, factors of x: of the
 * columns, then of the rows. */
template <typename T> struct Written : Activation<T>
{
  static constexpr bool FACTORS = false;
};

template <> struct Written<float> : Activation<bf16>
{
  static constexpr bool FACTORS = true;
};

/* Blocks of an SM that the registers are shared out for; the grid has as many. */
#define BLOCKS_LIGHT(threads) (1024 / (threads))
#define BLOCKS_HEAVY(threads) (512 / (threads))
/* Rows of F32 take twice the registers. */
#define BLOCKS_OF(X, threads) (sizeof (X) == 4 ? BLOCKS_HEAVY (threads) : BLOCKS_LIGHT (threads))

/* Every kernel: a block takes rows blockIdx.x, blockIdx.x + gridDim.x, ... and asks for the next
 * row before it works on this one. Sums alternate between two places in shared memory, so that one
 * barrier a sum is enough. */

template <typename Factors>
static __device__ __forceinline__ void
store_factors (float factor, const Factors &factors, float *out, int r, int d)
{
  if (r == 0)
    factors.store (out, d);
  if (threadIdx.x == 0)
    out[d + r] = factor;
}

/* MEAN: subtract the mean first (layer norm). */
template <int THREADS, int PACKS, bool ODD, bool MEAN, typename X, typename T>
static __device__ __forceinline__ void
norm_rows (const X *x, const float *weight, const float *scale, float eps, T *out, int m, int d)
{
  if (!Written<T>::RUNS_HERE)
    return;
  __shared__ float shared[2][2][THREADS / 32];
  Factors<THREADS, PACKS, ODD> factors;
  Row<THREADS, PACKS, ODD, X> row, next;
  row.load (x + (size_t)blockIdx.x * d, d);
  factors.load (weight, scale, d);
  int turn = 0;
  for (int r = blockIdx.x; r < m; r += gridDim.x, turn ^= 1)
    {
      if (r + (int)gridDim.x < m)
        next.load (x + (size_t)(r + gridDim.x) * d, d);
      const float mean = MEAN ? block_sum<THREADS> (row.sum (), shared[turn][0]) / d : 0.0f;
      const float square = block_sum<THREADS> (row.sum_of_squares (mean, d), shared[turn][1]) / d;
      if constexpr (Written<T>::FACTORS)
        store_factors (rsqrtf (square + eps), factors, out, r, d);
      else
        row.store (mean, rsqrtf (square + eps), factors, out + (size_t)r * d, d);
      row = next;
    }
}

template <int THREADS, int PACKS, bool ODD, typename X, typename T>
static __global__ void
__launch_bounds__ (THREADS, BLOCKS_OF (X, THREADS))
    rms_norm_kernel (const X *x, const float *weight, const float *scale, float eps, T *out, int m,
                     int d)
{
  norm_rows<THREADS, PACKS, ODD, false> (x, weight, scale, eps, out, m, d);
}

template <int THREADS, int PACKS, bool ODD, typename X, typename T>
static __global__ void
__launch_bounds__ (THREADS, ODD ? BLOCKS_HEAVY (THREADS) : BLOCKS_OF (X, THREADS))
    layer_norm_kernel (const X *x, const float *scale, float eps, T *out, int m, int d)
{
  norm_rows<THREADS, PACKS, ODD, true> (x, NULL, scale, eps, out, m, d);
}

/* x += gate * RMS(y) * post; out = RMS(x) * next * scale. The second norm reads the x that was
 * stored, rounding included: whoever reads x later must see the same numbers. */
template <int THREADS, int PACKS, bool ODD, typename X, typename T>
static __global__ void
__launch_bounds__ (THREADS, BLOCKS_HEAVY (THREADS))
    residual_norm_kernel (X *x, const X *y, const float *post, const float *gate, const float *next,
                          const float *scale, float eps, T *out, int m, int d)
{
  if (!Written<T>::RUNS_HERE)
    return;
  __shared__ float shared[2][2][THREADS / 32];
  Factors<THREADS, PACKS, ODD> y_factors, x_factors;
  Row<THREADS, PACKS, ODD, X> row, added, next_row, next_added;
  added.load (y + (size_t)blockIdx.x * d, d);
  row.load (x + (size_t)blockIdx.x * d, d);
  y_factors.load (post, gate, d);
  x_factors.load (next, scale, d);
  int turn = 0;
  for (int r = blockIdx.x; r < m; r += gridDim.x, turn ^= 1)
    {
      if (r + (int)gridDim.x < m)
        {
          next_added.load (y + (size_t)(r + gridDim.x) * d, d);
          next_row.load (x + (size_t)(r + gridDim.x) * d, d);
        }
      float factor = 1.0f;
      if (post)
        factor = rsqrtf (block_sum<THREADS> (added.sum_of_squares (0.0f, d), shared[turn][0]) / d
                         + eps);
      row.add (added, factor, y_factors);
      row.store_plain (x + (size_t)r * d, d);
      if (out)
        {
          const float square
              = block_sum<THREADS> (row.sum_of_squares (0.0f, d), shared[turn][1]) / d;
          if constexpr (Written<T>::FACTORS)
            store_factors (rsqrtf (square + eps), x_factors, out, r, d);
          else
            row.store (0.0f, rsqrtf (square + eps), x_factors, out + (size_t)r * d, d);
        }
      row = next_row;
      added = next_added;
    }
}

/* -- launchers ----------------------------------------------------------------------------------
 */

#define MAX_ROW 8192

static const float *
floats (const Tensor *t)
{
  return t ? (const float *)t->data : NULL;
}

static bool
is_vector (const Tensor *t, int64_t d)
{
  return t == NULL || (t->dtype == DTYPE_F32 && tensor_count (t) == d);
}

static bool
is_factors (const Tensor *x, const Tensor *out)
{
  return out != NULL && x->dtype == DTYPE_BF16 && out->dtype == DTYPE_F32
         && tensor_count (out) == x->shape[0] + x->shape[1];
}

/* `out` has the activations' type, or is a norm's factors; x that or the residual stream's. */
static Status
check_rows (Stream *s, const Tensor *x, const Tensor *out)
{
  const int64_t d = x->shape[1];
  const DType activation = device_activation (&s->caps);
  REQUIRE (s, x->dtype == activation || x->dtype == device_residual (&s->caps));
  REQUIRE (s, x->rank == 2);
  REQUIRE (s, d > 0 && d <= MAX_ROW);
  REQUIRE (s, x->shape[0] > 0 && x->shape[0] <= INT32_MAX);
  REQUIRE (s, out == NULL || is_factors (x, out)
                  || (out->dtype == activation && tensor_same_shape (x, out)));
  return STATUS_OK;
}

/* As many blocks as run at once, but no more than give each the same number of rows. */
static unsigned
blocks_for (const Stream *s, int64_t m, int per_sm)
{
  const int64_t most = (int64_t)s->caps.multiprocessors * per_sm;
  const int64_t rows = CEIL_DIV (m, most);
  return (unsigned)CEIL_DIV (m, rows);
}

/* Threads and packs a thread, so that a row fits the registers of one block. */
#define LAUNCH(kernel, BLOCKS, THREADS, PACKS, ODD, s, m, ...)                                     \
  launch_kernel (kernel<THREADS, PACKS, ODD, X, T>, blocks_for (s, m, BLOCKS (THREADS)), THREADS,  \
                 0, (s)->compute, __VA_ARGS__, (int)(m), d)

#define LAUNCH_ROWS(kernel, BLOCKS, s, x, ...)                                                     \
  do                                                                                               \
    {                                                                                              \
      const int64_t m = (x)->shape[0];                                                             \
      const int d = (int)(x)->shape[1];                                                            \
      if (d % 8 != 0)                                                                              \
        LAUNCH (kernel, BLOCKS, 512, 2, true, s, m, __VA_ARGS__);                                  \
      else if (d <= 1024)                                                                          \
        LAUNCH (kernel, BLOCKS, 128, 1, false, s, m, __VA_ARGS__);                                 \
      else if (d <= 2048)                                                                          \
        LAUNCH (kernel, BLOCKS, 256, 1, false, s, m, __VA_ARGS__);                                 \
      else if (d <= 4096)                                                                          \
        LAUNCH (kernel, BLOCKS, 256, 2, false, s, m, __VA_ARGS__);                                 \
      else                                                                                         \
        LAUNCH (kernel, BLOCKS, 512, 2, false, s, m, __VA_ARGS__);                                 \
    }                                                                                              \
  while (0)

/* Calls FUNCTION<X, T> for the types of x and of what a norm of it writes. */
#define BY_TYPE(FUNCTION, x, ...)                                                                  \
  ((x)->dtype == DTYPE_BF16  ? FUNCTION<bf16, bf16> (__VA_ARGS__)                                  \
   : (x)->dtype == DTYPE_F16 ? FUNCTION<f16, f16> (__VA_ARGS__)                                    \
                             : FUNCTION<float, f16> (__VA_ARGS__))

template <typename X, typename T>
static Status
rms_norm (Stream *s, const Tensor *x, const Tensor *weight, const Tensor *scale, float eps,
          Tensor *out)
{
  LAUNCH_ROWS (rms_norm_kernel, BLOCKS_LIGHT, s, x, (const X *)x->data, floats (weight),
               floats (scale), eps, (T *)out->data);
  return LAUNCHED (s);
}

Status
cuda_rms_norm (Stream *s, const Tensor *x, const Tensor *weight, const Tensor *scale, float eps,
               Tensor *out)
{
  CHECK (check_rows (s, x, out));
  REQUIRE (s, is_vector (weight, x->shape[1]) && is_vector (scale, x->shape[1]));
  if (is_factors (x, out))
    return rms_norm<bf16, float> (s, x, weight, scale, eps, out);
  return BY_TYPE (rms_norm, x, s, x, weight, scale, eps, out);
}

template <typename X, typename T>
static Status
residual_norm (Stream *s, Tensor *x, const Tensor *y, const Tensor *post, const Tensor *gate,
               const Tensor *next, const Tensor *scale, float eps, Tensor *out)
{
  LAUNCH_ROWS (residual_norm_kernel, BLOCKS_HEAVY, s, x, (X *)x->data, (const X *)y->data,
               floats (post), floats (gate), floats (next), floats (scale), eps,
               out ? (T *)out->data : NULL);
  return LAUNCHED (s);
}

Status
cuda_residual_norm (Stream *s, Tensor *x, const Tensor *y, const Tensor *post, const Tensor *gate,
                    const Tensor *next, const Tensor *scale, float eps, Tensor *out)
{
  CHECK (check_rows (s, x, out));
  REQUIRE (s, y->dtype == x->dtype && tensor_same_shape (x, y));
  const int64_t d = x->shape[1];
  REQUIRE (s, is_vector (post, d) && is_vector (gate, d));
  REQUIRE (s, is_vector (next, d) && is_vector (scale, d));
  if (is_factors (x, out))
    return residual_norm<bf16, float> (s, x, y, post, gate, next, scale, eps, out);
  return BY_TYPE (residual_norm, x, s, x, y, post, gate, next, scale, eps, out);
}

template <typename X, typename T>
static Status
layer_norm (Stream *s, const Tensor *x, const Tensor *scale, float eps, Tensor *out)
{
  LAUNCH_ROWS (layer_norm_kernel, BLOCKS_LIGHT, s, x, (const X *)x->data, floats (scale), eps,
               (T *)out->data);
  return LAUNCHED (s);
}

Status
cuda_layer_norm (Stream *s, const Tensor *x, const Tensor *scale, float eps, Tensor *out)
{
  CHECK (check_rows (s, x, out));
  REQUIRE (s, !is_factors (x, out)); /* which have no place for a mean */
  REQUIRE (s, is_vector (scale, x->shape[1]));
  return BY_TYPE (layer_norm, x, s, x, scale, eps, out);
}
