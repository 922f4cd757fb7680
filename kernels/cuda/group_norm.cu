/* SPDX-License-Identifier: Apache-2.0
 *
 * Group norm (and SiLU) of a picture [H, W, C]. Three launches: sums by block, sums by group,
 * then the picture. A thread stays with 8 channels, so all that belongs to them is in registers.
 * Sums are of x - x0, x0 the group's first number, which keeps a large mean from eating the
 * variance; their order is fixed, so the same picture gives the same bytes.
 */
#include "kernels/cuda/ops.cuh"

/* -- kernels ------------------------------------------------------------------------------------
 */

#define THREADS      256
#define MAX_CHANNELS 2048
#define MAX_BLOCKS   1056 /* 8 for each SM of the largest card: enough to fill it */
#define BATCH        4    /* pixels a thread has in flight */

/* Which pixels and channels a thread has: `lanes` threads side by side cover the C channels. */
typedef struct
{
  int channel;           /* first of 8 */
  int64_t pixel, stride; /* first pixel, distance to the next */
  bool active;
} Share;

static __device__ __forceinline__ Share
share_of (int channels)
{
  const int lanes = channels / 8, rows = THREADS / lanes, row = threadIdx.x / lanes;
  Share share;
  share.channel = threadIdx.x % lanes * 8;
  share.active = row < rows;
  share.pixel = (int64_t)blockIdx.x * rows + row;
  share.stride = (int64_t)gridDim.x * rows;
  return share;
}

/* Calls work (at, v) for each pixel of a thread: v are its 8 numbers, which lie at x + at. */
template <typename T, typename Work>
static __device__ __forceinline__ void
for_each_pixel (const T *x, int64_t pixels, int channels, const Share &me, Work work)
{
  for (int64_t p = me.active ? me.pixel : pixels; p < pixels; p += BATCH * me.stride)
    {
      uint4 bits[BATCH];
#pragma unroll
      for (int i = 0; i < BATCH; i++)
        if (p + i * me.stride < pixels)
          bits[i]
              = *reinterpret_cast<const uint4 *> (x + (p + i * me.stride) * channels + me.channel);
#pragma unroll
      for (int i = 0; i < BATCH; i++)
        if (p + i * me.stride < pixels)
          {
            float v[8];
            unpack8<T> (bits[i], v);
            work ((p + i * me.stride) * channels + me.channel, v);
          }
    }
}

/* partial [blocks, groups] = (sum, sum of squares) of x - x0. */
template <typename T>
static __global__ void
__launch_bounds__ (THREADS)
    statistics_kernel (const T *__restrict__ x, int64_t pixels, int channels, int groups,
                       float2 *__restrict__ partial)
{
  if (!Activation<T>::RUNS_HERE)
    return;
  __shared__ float2 sums[THREADS][8];
  const Share me = share_of (channels);
  const int width = channels / groups;
  float first[8], sum[8] = {}, squares[8] = {};
#pragma unroll
  for (int j = 0; j < 8; j++)
    first[j] = to_float (x[(me.channel + j) / width * width]);

  for_each_pixel (x, pixels, channels, me, [&] (int64_t, const float (&v)[8]) {
#pragma unroll
    for (int j = 0; j < 8; j++)
      {
        const float difference = v[j] - first[j];
        sum[j] += difference;
        squares[j] += difference * difference;
      }
  });
#pragma unroll
  for (int j = 0; j < 8; j++)
    sums[threadIdx.x][j] = make_float2 (sum[j], squares[j]);
  __syncthreads ();

  /* Over the rows for each channel, then over the channels of each group. */
  const int lanes = channels / 8, rows = THREADS / lanes;
  for (int c = threadIdx.x; c < channels; c += THREADS)
    for (int row = 1; row < rows; row++)
      {
        const float2 part = sums[row * lanes + c / 8][c % 8];
        sums[c / 8][c % 8].x += part.x;
        sums[c / 8][c % 8].y += part.y;
      }
  __syncthreads ();
  for (int group = threadIdx.x; group < groups; group += THREADS)
    {
      float2 total = make_float2 (0, 0);
      for (int c = group * width; c < (group + 1) * width; c++)
        {
          total.x += sums[c / 8][c % 8].x;
          total.y += sums[c / 8][c % 8].y;
        }
      partial[(int64_t)blockIdx.x * groups + group] = total;
    }
}

/* One block a group: statistics [groups] = (mean, 1 / sqrt(variance + eps)). */
template <typename T>
static __global__ void
__launch_bounds__ (THREADS)
    moments_kernel (const float2 *__restrict__ partial, int blocks, const T *__restrict__ x,
                    int width, double count, float eps, float2 *__restrict__ statistics)
{
  if (!Activation<T>::RUNS_HERE)
    return;
  __shared__ double sums[2][THREADS];
  double sum = 0, squares = 0;
  for (int i = threadIdx.x; i < blocks; i += THREADS)
    {
      const float2 part = partial[(int64_t)i * gridDim.x + blockIdx.x];
      sum += part.x;
      squares += part.y;
    }
  sums[0][threadIdx.x] = sum;
  sums[1][threadIdx.x] = squares;
  for (int half = THREADS / 2; half > 0; half /= 2)
    {
      __syncthreads ();
      if (threadIdx.x < half)
        {
          sums[0][threadIdx.x] += sums[0][threadIdx.x + half];
          sums[1][threadIdx.x] += sums[1][threadIdx.x + half];
        }
    }
  if (threadIdx.x == 0)
    {
      const double shift = to_float (x[blockIdx.x * width]);
      const double mean = sums[0][0] / count;
      const double variance = fmax (sums[1][0] / count - mean * mean, 0.0);
      statistics[blockIdx.x] = make_float2 ((float)(shift + mean), rsqrtf ((float)variance + eps));
    }
}

template <bool SILU, typename T>
static __global__ void
__launch_bounds__ (THREADS)
    normalize_kernel (const T *x, int64_t pixels, int channels, int width,
                      const float2 *__restrict__ statistics, const float *__restrict__ weight,
                      const float *__restrict__ bias, T *out)
{
  if (!Activation<T>::RUNS_HERE)
    return;
  const Share me = share_of (channels);
  if (!me.active)
    return;
  float factor[8], offset[8];
#pragma unroll
  for (int j = 0; j < 8; j++)
    {
      const float2 moments = statistics[(me.channel + j) / width];
      factor[j] = weight[me.channel + j] * moments.y;
      offset[j] = bias[me.channel + j] - moments.x * factor[j];
    }
  for_each_pixel (x, pixels, channels, me, [&] (int64_t at, float (&v)[8]) {
#pragma unroll
    for (int j = 0; j < 8; j++)
      {
        v[j] = v[j] * factor[j] + offset[j];
        if (SILU)
          v[j] = silu_of (v[j]);
      }
    store8 (out + at, v);
  });
}

/* -- launchers ----------------------------------------------------------------------------------
 */

/* How a picture of C channels is shared out. */
typedef struct
{
  const Tensor *x;
  int64_t pixels;
  int channels, blocks;
} Picture;

static Status
picture_of (Stream *s, const Tensor *x, Picture *out)
{
  REQUIRE (s, x->dtype == device_activation (&s->caps) && x->rank == 3);
  const int64_t pixels = x->shape[0] * x->shape[1], c = x->shape[2];
  REQUIRE (s, c % 8 == 0 && c <= MAX_CHANNELS && pixels > 0);
  const int rows = THREADS / ((int)c / 8);
  const int64_t wanted = CEIL_DIV (pixels, (int64_t)rows * BATCH);
  *out = Picture{ x, pixels, (int)c, (int)(wanted < MAX_BLOCKS ? wanted : MAX_BLOCKS) };
  return STATUS_OK;
}

template <typename T>
static Status
launch_moments (Stream *s, const Picture *p, int groups, float eps, float2 *out)
{
  const int width = p->channels / groups;
  const T *x = (const T *)p->x->data;
  float2 *partial = (float2 *)s->scratch + MAX_CHANNELS;
  launch_kernel (statistics_kernel<T>, p->blocks, THREADS, 0, s->compute, x, p->pixels, p->channels,
                 groups, partial);
  launch_kernel (moments_kernel<T>, groups, THREADS, 0, s->compute, partial, p->blocks, x, width,
                 (double)p->pixels * width, eps, out);
  return LAUNCHED (s);
}

static Status
moments (Stream *s, const Picture *p, int groups, float eps, float2 *out)
{
  REQUIRE (s, groups > 0 && p->channels % groups == 0);
  REQUIRE (s, sizeof (float2) * (MAX_CHANNELS + (size_t)groups * p->blocks) <= SCRATCH_BYTES);
  return p->x->dtype == DTYPE_F16 ? launch_moments<f16> (s, p, groups, eps, out)
                                  : launch_moments<bf16> (s, p, groups, eps, out);
}

template <typename T>
static Status
launch_normalize (Stream *s, const Picture *p, int groups, const float2 *by, const Tensor *weight,
                  const Tensor *bias, bool silu, Tensor *out)
{
  auto kernel = silu ? normalize_kernel<true, T> : normalize_kernel<false, T>;
  launch_kernel (kernel, p->blocks, THREADS, 0, s->compute, (const T *)p->x->data, p->pixels,
                 p->channels, p->channels / groups, by, (const float *)weight->data,
                 (const float *)bias->data, (T *)out->data);
  return LAUNCHED (s);
}

static Status
normalize (Stream *s, const Picture *p, int groups, const float2 *by, const Tensor *weight,
           const Tensor *bias, bool silu, Tensor *out)
{
  REQUIRE (s, out->dtype == p->x->dtype && tensor_count (out) == p->pixels * p->channels);
  REQUIRE (s, weight->dtype == DTYPE_F32 && tensor_count (weight) == p->channels);
  REQUIRE (s, bias->dtype == DTYPE_F32 && tensor_count (bias) == p->channels);
  auto launch = out->dtype == DTYPE_F16 ? launch_normalize<f16> : launch_normalize<bf16>;
  return launch (s, p, groups, by, weight, bias, silu, out);
}

Status
cuda_group_moments (Stream *s, const Tensor *x, int groups, float eps, Tensor *out)
{
  Picture p;
  CHECK (picture_of (s, x, &p));
  REQUIRE (s, out->dtype == DTYPE_F32 && tensor_count (out) == 2 * groups);
  return moments (s, &p, groups, eps, (float2 *)out->data);
}

Status
cuda_group_norm_by (Stream *s, const Tensor *x, const Tensor *by, const Tensor *weight,
                    const Tensor *bias, bool silu, Tensor *out)
{
  Picture p;
  CHECK (picture_of (s, x, &p));
  const int64_t groups = tensor_count (by) / 2;
  REQUIRE (s, by->dtype == DTYPE_F32 && groups > 0 && p.channels % groups == 0);
  return normalize (s, &p, (int)groups, (const float2 *)by->data, weight, bias, silu, out);
}

Status
cuda_group_norm (Stream *s, const Tensor *x, const Tensor *weight, const Tensor *bias, int groups,
                 float eps, bool silu, Tensor *out)
{
  Picture p;
  CHECK (picture_of (s, x, &p));
  CHECK (moments (s, &p, groups, eps, (float2 *)s->scratch));
  return normalize (s, &p, groups, (const float2 *)s->scratch, weight, bias, silu, out);
}
