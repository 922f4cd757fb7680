/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/stream.h"

#include <math.h>
#include <string.h>

/* Pixels summed in FP32 before the sums go on in double. */
#define CHUNK_PIXELS 128

/* A picture is cut into this many slices whatever the number of threads, and their sums are added
 * in order: the same picture comes out on every machine with the same instructions. */
#define SLICES 32

/* Per channel: sums of the differences to a pivot, and of their squares. With the picture's first
 * pixel as the pivot the differences stay small far from zero, where plain squares would cancel. */
typedef struct
{
  double *sum, *squares;
} Moments;

static void
slice_moments (const Simd *simd, const float *x, const float *pivot, int64_t pixels,
               int64_t channels, float *part, const Moments *out)
{
  memset (out->sum, 0, (size_t)channels * sizeof (double));
  memset (out->squares, 0, (size_t)channels * sizeof (double));
  for (int64_t first = 0; first < pixels; first += CHUNK_PIXELS)
    {
      int64_t n = pixels - first < CHUNK_PIXELS ? pixels - first : CHUNK_PIXELS;

      memset (part, 0, (size_t)(2 * channels) * sizeof (float));
      simd->channel_sums (x + first * channels, pivot, n, channels, part, part + channels);
      for (int64_t c = 0; c < channels; c++)
        {
          out->sum[c] += part[c];
          out->squares[c] += part[channels + c];
        }
    }
}

/* The moments of the picture, in those of slice 0. `slices` has SLICES of them. */
static void
picture_moments (Stream *s, const float *x, int64_t pixels, int64_t channels, float *parts,
                 const Moments *slices)
{
  int64_t height = (pixels + SLICES - 1) / SLICES;

#pragma omp parallel for num_threads(s->threads) if (pixels * channels > PARALLEL_MIN)
  for (int64_t i = 0; i < SLICES; i++)
    {
      int64_t first = i * height < pixels ? i * height : pixels;
      int64_t n = pixels - first < height ? pixels - first : height;

      slice_moments (s->simd, x + first * channels, x, n, channels, parts + i * 2 * channels,
                     &slices[i]);
    }
  for (int64_t i = 1; i < SLICES; i++)
    for (int64_t c = 0; c < channels; c++)
      {
        slices[0].sum[c] += slices[i].sum[c];
        slices[0].squares[c] += slices[i].squares[c];
      }
}

/* By channel: out = (x - centre) * factor + offset. */
typedef struct
{
  float *centre, *factor, *offset;
} Affine;

/* Mean and variance of one group's channels, `first` and following. */
static void
group_moments (const float *pivot, const Moments *moments, int64_t pixels, int64_t first,
               int64_t per_group, double *mean, double *variance)
{
  double count = (double)(pixels * per_group);

  *mean = *variance = 0.0;
  for (int64_t c = first; c < first + per_group; c++)
    *mean += (moments->sum[c] + (double)pixels * pivot[c]) / count;
  for (int64_t c = first; c < first + per_group; c++)
    {
      double distance = pivot[c] - *mean;

      *variance += (moments->squares[c] + 2.0 * distance * moments->sum[c]
                    + (double)pixels * distance * distance)
                   / count;
    }
}

/* The affine maps of one group's channels. On entry factor and offset hold weight and bias. */
static void
group_affine (double mean, double inverse_deviation, int64_t first, int64_t per_group,
              const Affine *out)
{
  for (int64_t c = first; c < first + per_group; c++)
    {
      double scale = out->factor[c] * inverse_deviation;

      out->centre[c] = (float)mean;
      out->factor[c] = (float)scale;
      out->offset[c] = (float)(out->offset[c] + (out->centre[c] - mean) * scale);
    }
}

static Status
check_shapes (Stream *s, const Tensor *x, int64_t groups, const Tensor *weight, const Tensor *bias,
              const Tensor *out)
{
  int64_t channels = x->shape[2];

  if (x->rank == 3 && x->dtype == DTYPE_F32 && groups > 0 && channels % groups == 0
      && (out == NULL
          || (out->dtype == DTYPE_F32 && tensor_same_shape (x, out)
              && tensor_count (weight) == channels && tensor_count (bias) == channels)))
    return STATUS_OK;
  return cpu_fail (s, STATUS_UNSUPPORTED, "group norm of mismatched shapes");
}

/* Scratch for the moments of `channels` channels and an affine map of each. */
static Status
take_scratch (Stream *s, int64_t channels, Moments slices[SLICES], float **parts, Affine *affine)
{
  void *scratch;
  float *floats;

  CHECK (cpu_scratch (
      s, (size_t)channels * (2 * SLICES * sizeof (double) + (2 * SLICES + 3) * sizeof (float)),
      &scratch));
  for (int i = 0; i < SLICES; i++)
    slices[i] = (Moments){ (double *)scratch + 2 * i * channels,
                           (double *)scratch + (2 * i + 1) * channels };
  floats = (float *)((double *)scratch + 2 * SLICES * channels);
  *affine = (Affine){ floats, floats + channels, floats + 2 * channels };
  *parts = floats + 3 * channels;
  return STATUS_OK;
}

static void
apply_affine (Stream *s, const Tensor *x, const Affine *affine, bool silu, Tensor *out)
{
  int64_t channels = x->shape[2], pixels = x->shape[0] * x->shape[1];
  const float *in = x->data;

#pragma omp parallel for num_threads(s->threads) if (pixels * channels > PARALLEL_MIN)
  for (int64_t first = 0; first < pixels; first += CHUNK_PIXELS)
    {
      int64_t n = pixels - first < CHUNK_PIXELS ? pixels - first : CHUNK_PIXELS;

      s->simd->channel_affine (in + first * channels, affine->centre, affine->factor,
                               affine->offset, silu, n, channels,
                               (float *)out->data + first * channels);
    }
}

Status
cpu_group_moments (Stream *s, const Tensor *x, int groups, float eps, Tensor *moments)
{
  int64_t channels = x->shape[2], pixels = x->shape[0] * x->shape[1];
  Moments slices[SLICES];
  Affine affine;
  float *parts;

  CHECK (check_shapes (s, x, groups, NULL, NULL, NULL));
  if (moments->dtype != DTYPE_F32 || tensor_count (moments) != 2 * groups)
    return cpu_fail (s, STATUS_UNSUPPORTED, "group moments of mismatched shapes");
  CHECK (take_scratch (s, channels, slices, &parts, &affine));
  picture_moments (s, x->data, pixels, channels, parts, slices);
  for (int g = 0; g < groups; g++)
    {
      double mean, variance;

      group_moments (x->data, &slices[0], pixels, g * (channels / groups), channels / groups, &mean,
                     &variance);
      ((float *)moments->data)[2 * g] = (float)mean;
      ((float *)moments->data)[2 * g + 1] = (float)(1.0 / sqrt (variance + eps));
    }
  return STATUS_OK;
}

Status
cpu_group_norm_by (Stream *s, const Tensor *x, const Tensor *moments, const Tensor *weight,
                   const Tensor *bias, bool silu, Tensor *out)
{
  int64_t channels = x->shape[2], groups = moments->shape[0];
  const float *by = moments->data;
  Moments slices[SLICES];
  Affine affine;
  float *parts;

  CHECK (check_shapes (s, x, groups, weight, bias, out));
  CHECK (take_scratch (s, channels, slices, &parts, &affine));
  memcpy (affine.factor, weight->data, (size_t)channels * sizeof (float));
  memcpy (affine.offset, bias->data, (size_t)channels * sizeof (float));
  for (int64_t g = 0; g < groups; g++)
    group_affine (by[2 * g], by[2 * g + 1], g * (channels / groups), channels / groups, &affine);
  apply_affine (s, x, &affine, silu, out);
  return STATUS_OK;
}

Status
cpu_group_norm (Stream *s, const Tensor *x, const Tensor *weight, const Tensor *bias, int groups,
                float eps, bool silu, Tensor *out)
{
  int64_t channels = x->shape[2], pixels = x->shape[0] * x->shape[1], per_group;
  Moments slices[SLICES];
  Affine affine;
  float *parts;

  CHECK (check_shapes (s, x, groups, weight, bias, out));
  CHECK (take_scratch (s, channels, slices, &parts, &affine));
  picture_moments (s, x->data, pixels, channels, parts, slices);
  memcpy (affine.factor, weight->data, (size_t)channels * sizeof (float));
  memcpy (affine.offset, bias->data, (size_t)channels * sizeof (float));
  per_group = channels / groups;
  for (int64_t c = 0; c < channels; c += per_group)
    {
      double mean, variance;

      group_moments (x->data, &slices[0], pixels, c, per_group, &mean, &variance);
      group_affine (mean, 1.0 / sqrt (variance + eps), c, per_group, &affine);
    }
  apply_affine (s, x, &affine, silu, out);
  return STATUS_OK;
}
