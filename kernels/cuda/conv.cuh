/* SPDX-License-Identifier: Apache-2.0
 *
 * conv.cuh - what the convolution kernels share: a prepared convolution and one launch of it
 *
 * A convolution is a matrix product without its left matrix in memory: row m is an output pixel,
 * column k = (tap, input channel), and each k-chunk of a row is read from the picture itself.
 * Weights lie as [phases, n, k], n and k padded with zeros. An upsampling 3x3 convolution
 * becomes four 2x2 convolutions of the small picture, one for each phase of the output: taps that
 * fall on the same input pixel are added beforehand (spec z-image 8.3), 4/9 of the work.
 */
#pragma once

#include "kernels/cuda/common.cuh"

struct Conv
{
  int c_out, c_in;
  int size;   /* 1 or 3 */
  int stride; /* 1 or 2 */
  bool upsample;

  /* For tensor cores; NULL when c_in is no multiple of 8. */
  void *weight; /* [phases, n, k], the activations' type */
  int phases;   /* 4 when upsampling, else 1 */
  int side;     /* taps a side: 1, 2 or 3 */
  int64_t n, k; /* padded extents */
  float *plain; /* [size * size * c_in, c_out] for the plain kernel; else NULL */
  float *bias;  /* [n], zeros where there is none */
};

/* One launch. The picture's pixels are counted in rows of `width`. */
template <typename T> struct ConvLaunch
{
  const T *x, *weight, *residual; /* residual may be NULL */
  const float *bias;
  T *out;
  int height, width; /* of x */
  int rows, columns; /* output pixels of one phase */
  int c_in, c_out;
  int side, stride;
  int offset; /* of the first tap from the pixel; phases add their own */
  int64_t n, k;
  bool upsample;
};

/* Where pixel m of `phase` lies in the output. */
template <typename T>
static __device__ __forceinline__ int64_t
conv_output_pixel (const ConvLaunch<T> &c, int phase, int m)
{
  if (!c.upsample)
    return m;
  const int row = m / c.columns, column = m % c.columns;
  return (int64_t)(2 * row + phase / 2) * (2 * c.columns) + 2 * column + phase % 2;
}

/* The residual of eight channels of a pixel, or zeros. Read for all of a thread's outputs before
 * the first of them is stored, since the compiler may not move reads above stores by itself. */
template <typename T>
static __device__ __forceinline__ uint4
conv_residual8 (const ConvLaunch<T> &c, int64_t pixel, int channel)
{
  if (c.residual == NULL || pixel < 0 || channel >= c.c_out || c.c_out % 8 != 0)
    return make_uint4 (0, 0, 0, 0);
  return *reinterpret_cast<const uint4 *> (c.residual + pixel * c.c_out + channel);
}

/* Eight sums of one pixel (-1: outside), channels from `channel`: bias and residual added, rounded,
 * stored. */
template <typename T>
static __device__ __forceinline__ void
conv_store8 (const ConvLaunch<T> &c, int64_t pixel, int channel, float v[8], uint4 residual)
{
  if (pixel < 0 || channel >= c.c_out)
    return;
  const int64_t at = pixel * c.c_out + channel;
  float b[8], r[8];
  load8 (c.bias + channel, b);
  unpack8<T> (residual, r);
#pragma unroll
  for (int j = 0; j < 8; j++)
    v[j] += b[j] + r[j];
  if (c.c_out % 8 == 0)
    {
      store8 (c.out + at, v);
      return;
    }
#pragma unroll
  for (int j = 0; j < 8; j++)
    if (channel + j < c.c_out)
      {
        const float rest = c.residual ? to_float (c.residual[at + j]) : 0.0f;
        c.out[at + j] = from_float<T> (v[j] + rest);
      }
}

/* conv_mma.cu: warp MMA, either type. */
Status conv_mma (Stream *s, const Conv *conv, const ConvLaunch<bf16> *launch);
Status conv_mma (Stream *s, const Conv *conv, const ConvLaunch<f16> *launch);

/* conv_sm90.cu: wgmma. Whether it may run, and it. */
bool conv_sm90_takes (const Stream *s, const Conv *conv, const ConvLaunch<bf16> *launch);
Status conv_sm90 (Stream *s, const Conv *conv, const ConvLaunch<bf16> *launch);
