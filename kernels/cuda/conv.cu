/* SPDX-License-Identifier: Apache-2.0
 *
 * Convolutions: weights into the kernels' layout, and which kernel runs. A picture whose channels
 * are no multiple of 8 (the encoder's three) takes the plain kernel below.
 */
#include "kernels/cuda/conv.cuh"
#include "kernels/cuda/ops.cuh"

#include <stdlib.h>

/* -- kernels ------------------------------------------------------------------------------------
 */

#define THREADS 256

/* raw [Cout, Cin, size, size] -> packed [phases, n, k], k = (tap, Cin). */
template <typename T>
static __global__ void
__launch_bounds__ (THREADS)
    pack_kernel (const float *__restrict__ raw, T *__restrict__ packed, int c_out, int c_in,
                 int size, int side, int n, int k, int64_t total)
{
  if (!Activation<T>::RUNS_HERE)
    return;
  const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i >= total)
    return;
  const int row = (int)(i / k), column = (int)(i - (int64_t)row * k);
  const int phase = row / n, out = row % n, tap = column / c_in, in = column % c_in;
  float sum = 0;
  if (out < c_out && tap < side * side)
    for (int ky = 0; ky < size; ky++)
      for (int kx = 0; kx < size; kx++)
        {
          /* Which tap of the small picture the upsampled tap falls on. */
          const int ty = side == 2 ? (ky + phase / 2 + 1) / 2 - phase / 2 : ky;
          const int tx = side == 2 ? (kx + phase % 2 + 1) / 2 - phase % 2 : kx;
          if (ty == tap / side && tx == tap % side)
            sum += raw[(((int64_t)out * c_in + in) * size + ky) * size + kx];
        }
  packed[i] = from_float<T> (sum);
}

/* raw [Cout, Cin, taps] -> plain [taps, Cin, Cout]. */
static __global__ void
__launch_bounds__ (THREADS)
    pack_plain_kernel (const float *__restrict__ raw, float *__restrict__ plain, int c_out,
                       int c_in, int taps)
{
  const int i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= c_out * c_in * taps)
    return;
  const int out = i % c_out, in = i / c_out % c_in, tap = i / c_out / c_in;
  plain[i] = raw[(out * c_in + in) * taps + tap];
}

/* Eight channels of one pixel a thread. */
template <typename T>
static __global__ void
__launch_bounds__ (THREADS)
    plain_kernel (const ConvLaunch<T> c, const float *__restrict__ weight, int pad, int64_t total)
{
  if (!Activation<T>::RUNS_HERE)
    return;
  const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i >= total)
    return;
  const int packs = CEIL_DIV (c.c_out, 8), channel = (int)(i % packs) * 8, up = c.upsample ? 2 : 1;
  const int64_t pixel = i / packs;
  const int row = (int)(pixel / c.columns), column = (int)(pixel % c.columns);
  float v[8] = {};
  for (int t = 0; t < c.side * c.side; t++)
    {
      const int y = row * c.stride + t / c.side - pad, x = column * c.stride + t % c.side - pad;
      if (y < 0 || y >= c.height * up || x < 0 || x >= c.width * up)
        continue;
      const T *from = c.x + ((int64_t)(y / up) * c.width + x / up) * c.c_in;
      const float *w = weight + (int64_t)t * c.c_in * c.c_out + channel;
      for (int in = 0; in < c.c_in; in++)
        {
          const float value = to_float (from[in]);
#pragma unroll
          for (int j = 0; j < 8; j++)
            if (channel + j < c.c_out)
              v[j] += value * w[(int64_t)in * c.c_out + j];
        }
    }
  conv_store8 (c, pixel, channel, v, conv_residual8 (c, pixel, channel));
}

/* -- weights ------------------------------------------------------------------------------------
 */

static Status
fill_bias (Stream *s, const Tensor *bias, Conv *conv)
{
  void *memory;
  CHECK (stream_alloc (s, (size_t)conv->n * sizeof (float), &memory));
  conv->bias = (float *)memory;
  /* On the queue that the values travel on, so the zeros come first. */
  CUDA_CHECK (s, cudaMemsetAsync (memory, 0, (size_t)conv->n * sizeof (float), s->upload));
  if (bias->data)
    CHECK (stream_upload_weights (s, bias, DTYPE_F32, memory));
  return STATUS_OK;
}

template <typename T>
static Status
pack_for_mma (Stream *s, const float *raw, Conv *conv)
{
  const int64_t total = conv->phases * conv->n * conv->k;
  CHECK (stream_alloc (s, (size_t)total * sizeof (T), &conv->weight));
  launch_kernel (pack_kernel<T>, (unsigned)CEIL_DIV (total, THREADS), THREADS, 0, s->compute, raw,
                 (T *)conv->weight, conv->c_out, conv->c_in, conv->size, conv->side, (int)conv->n,
                 (int)conv->k, total);
  return LAUNCHED (s);
}

static Status
pack (Stream *s, const float *raw, Conv *conv)
{
  const int taps = conv->size * conv->size;
  void *memory;
  if (conv->c_in % 8 != 0)
    {
      const int count = taps * conv->c_in * conv->c_out;
      CHECK (stream_alloc (s, (size_t)count * sizeof (float), &memory));
      conv->plain = (float *)memory;
      launch_kernel (pack_plain_kernel, CEIL_DIV (count, THREADS), THREADS, 0, s->compute, raw,
                     conv->plain, conv->c_out, conv->c_in, taps);
      return LAUNCHED (s);
    }
  return device_activation (&s->caps) == DTYPE_F16 ? pack_for_mma<f16> (s, raw, conv)
                                                   : pack_for_mma<bf16> (s, raw, conv);
}

/* The sizes of a layer, from the shape of its weight. */
static void
describe (const ConvSource *source, Conv *conv)
{
  const int64_t *shape = source->weight.shape;
  const int64_t tile = shape[0] <= 32 ? 32 : 128, depth = 64;
  conv->c_out = (int)shape[0];
  conv->c_in = (int)shape[1];
  conv->size = (int)shape[2];
  conv->stride = source->stride;
  conv->upsample = source->upsample;
  conv->phases = conv->upsample ? 4 : 1;
  conv->side = conv->upsample ? 2 : conv->size;
  conv->n = CEIL_DIV (conv->c_out, tile) * tile;
  conv->k = CEIL_DIV ((int64_t)conv->side * conv->side * conv->c_in, depth) * depth;
}

uint64_t
cuda_conv_bytes (const ConvSource *source)
{
  Conv conv = {};
  describe (source, &conv);
  const uint64_t weight = conv.c_in % 8 != 0
                              ? (uint64_t)tensor_count (&source->weight) * sizeof (float)
                              : (uint64_t)(conv.phases * conv.n * conv.k) * 2;
  return device_aligned (weight) + device_aligned ((size_t)conv.n * sizeof (float));
}

static Status
prepare (Stream *s, const ConvSource *source, Conv *conv)
{
  const Tensor *weight = &source->weight;
  void *raw;
  CHECK (fill_bias (s, &source->bias, conv));
  CHECK (stream_alloc (s, (size_t)tensor_count (weight) * sizeof (float), &raw));
  Status status = stream_upload_weights (s, weight, DTYPE_F32, raw);
  if (status == STATUS_OK)
    status = pack (s, (const float *)raw, conv);
  if (status == STATUS_OK)
    status = cuda_wait (s);
  stream_free (s, raw);
  return status;
}

Status
cuda_conv_prepare (Stream *s, const ConvSource *source, Conv **out)
{
  *out = NULL;
  const int64_t *shape = source->weight.shape;
  REQUIRE (s, source->weight.rank == 4 && shape[2] == shape[3]);
  REQUIRE (s, shape[2] == 3 || (shape[2] == 1 && source->stride == 1 && !source->upsample));
  REQUIRE (s, source->stride == 1 || (source->stride == 2 && !source->upsample));
  REQUIRE (s, shape[0] > 0 && shape[1] > 0 && shape[0] <= 8192 && shape[1] <= 8192);
  REQUIRE (s, source->bias.data == NULL || tensor_count (&source->bias) == shape[0]);

  Conv *conv = (Conv *)calloc (1, sizeof *conv);
  if (conv == NULL)
    return STATUS_NO_MEMORY;
  describe (source, conv);
  const Status status = prepare (s, source, conv);
  if (status != STATUS_OK)
    {
      cuda_conv_release (s, conv);
      return status;
    }
  *out = conv;
  return STATUS_OK;
}

void
cuda_conv_release (Stream *s, Conv *conv)
{
  if (conv == NULL)
    return;
  stream_free (s, conv->weight);
  stream_free (s, conv->plain);
  stream_free (s, conv->bias);
  free (conv);
}

/* -- launcher -----------------------------------------------------------------------------------
 */

/* The plain kernel walks the output as it is; the others walk one phase of it. */
template <typename T>
static Status
conv_plain (Stream *s, const Conv *conv, ConvLaunch<T> c)
{
  c.side = conv->size;
  c.rows *= conv->upsample ? 2 : 1;
  c.columns *= conv->upsample ? 2 : 1;
  const int64_t total = (int64_t)c.rows * c.columns * CEIL_DIV (conv->c_out, 8);
  const int pad = conv->size == 3 && conv->stride == 1 ? 1 : 0;
  REQUIRE (s, CEIL_DIV (total, THREADS) <= INT32_MAX);
  launch_kernel (plain_kernel<T>, (unsigned)CEIL_DIV (total, THREADS), THREADS, 0, s->compute, c,
                 conv->plain, pad, total);
  return LAUNCHED (s);
}

static Status
conv_tensor (Stream *s, const Conv *conv, const ConvLaunch<bf16> *c)
{
  return conv_sm90_takes (s, conv, c) ? conv_sm90 (s, conv, c) : conv_mma (s, conv, c);
}

static Status
conv_tensor (Stream *s, const Conv *conv, const ConvLaunch<f16> *c)
{
  return conv_mma (s, conv, c);
}

template <typename T>
static Status
launch (Stream *s, const Conv *conv, const Tensor *x, const Tensor *residual, Tensor *out)
{
  ConvLaunch<T> c = {};
  c.x = (const T *)x->data;
  c.weight = (const T *)conv->weight;
  c.residual = residual ? (const T *)residual->data : NULL;
  c.bias = conv->bias;
  c.out = (T *)out->data;
  c.height = (int)x->shape[0];
  c.width = (int)x->shape[1];
  c.rows = (int)x->shape[0] / conv->stride;
  c.columns = (int)x->shape[1] / conv->stride;
  c.c_in = conv->c_in;
  c.c_out = conv->c_out;
  c.side = conv->side;
  c.stride = conv->stride;
  /* Stride 2 pads on the right and bottom only. */
  c.offset = conv->size == 3 && conv->stride == 1 ? -1 : 0;
  c.n = conv->n;
  c.k = conv->k;
  c.upsample = conv->upsample;
  if (conv->plain)
    return conv_plain (s, conv, c);
  return conv_tensor (s, conv, &c);
}

Status
cuda_conv2d (Stream *s, const Conv *conv, const Tensor *x, const Tensor *residual, Tensor *out)
{
  REQUIRE (s, x->dtype == device_activation (&s->caps) && out->dtype == x->dtype && x->rank == 3);
  REQUIRE (s, x->shape[2] == conv->c_in && x->shape[0] * x->shape[1] <= INT32_MAX / 16);
  REQUIRE (s, residual == NULL || tensor_same_shape (residual, out));
  const int64_t up = conv->upsample ? 2 : 1, height = x->shape[0] / conv->stride,
                width = x->shape[1] / conv->stride;
  REQUIRE (s, out->rank == 3 && out->shape[0] == up * height && out->shape[1] == up * width
                  && out->shape[2] == conv->c_out && height > 0 && width > 0);

  return x->dtype == DTYPE_F16 ? launch<f16> (s, conv, x, residual, out)
                               : launch<bf16> (s, conv, x, residual, out);
}
