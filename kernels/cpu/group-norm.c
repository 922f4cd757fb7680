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

/* The affine maps of one group's channels, `first` and following, from their moments. On entry
 * factor and offset hold weight and bias. */
static void
group_affine (const float *pivot, const Moments *moments, int64_t pixels, int64_t first,
              int64_t per_group, float eps, const Affine *out)
{
  double count = (double)(pixels * per_group);
  double mean = 0.0;
  double variance = 0.0;

  for (int64_t c = first; c < first + per_group; c++)
    mean += (moments->sum[c] + (double)pixels * pivot[c]) / count;
  for (int64_t c = first; c < first + per_group; c++)
    {
      double distance = pivot[c] - mean;

      variance += (moments->squares[c] + 2.0 * distance * moments->sum[c]
                   + (double)pixels * distance * distance)
                  / count;
    }
  for (int64_t c = first; c < first + per_group; c++)
    {
      double scale = out->factor[c] / sqrt (variance + eps);

      out->centre[c] = (float)mean;
      out->factor[c] = (float)scale;
      out->offset[c] = (float)(out->offset[c] + (out->centre[c] - mean) * scale);
    }
}

Status
cpu_group_norm (Stream *s, const Tensor *x, const Tensor *weight, const Tensor *bias, int groups,
                float eps, bool silu, Tensor *out)
{
  int64_t channels = x->shape[2];
  int64_t pixels = x->shape[0] * x->shape[1];
  int64_t per_group = groups > 0 ? channels / groups : 0;
  const float *in = x->data;
  Moments slices[SLICES];
  Affine affine;
  void *scratch;
  float *floats;

  if (x->rank != 3 || x->dtype != DTYPE_F32 || out->dtype != DTYPE_F32
      || !tensor_same_shape (x, out) || per_group * groups != channels
      || tensor_count (weight) != channels || tensor_count (bias) != channels)
    return cpu_fail (s, STATUS_UNSUPPORTED, "group norm of mismatched shapes");
  CHECK (cpu_scratch (
      s, (size_t)channels * (2 * SLICES * sizeof (double) + (2 * SLICES + 3) * sizeof (float)),
      &scratch));
  for (int i = 0; i < SLICES; i++)
    slices[i] = (Moments){ (double *)scratch + 2 * i * channels,
                           (double *)scratch + (2 * i + 1) * channels };
  floats = (float *)((double *)scratch + 2 * SLICES * channels);
  affine = (Affine){ floats, floats + channels, floats + 2 * channels };
  picture_moments (s, in, pixels, channels, floats + 3 * channels, slices);

  memcpy (affine.factor, weight->data, (size_t)channels * sizeof (float));
  memcpy (affine.offset, bias->data, (size_t)channels * sizeof (float));
  for (int64_t c = 0; c < channels; c += per_group)
    group_affine (in, &slices[0], pixels, c, per_group, eps, &affine);
#pragma omp parallel for num_threads(s->threads) if (pixels * channels > PARALLEL_MIN)
  for (int64_t first = 0; first < pixels; first += CHUNK_PIXELS)
    {
      int64_t n = pixels - first < CHUNK_PIXELS ? pixels - first : CHUNK_PIXELS;

      s->simd->channel_affine (in + first * channels, affine.centre, affine.factor, affine.offset,
                               silu, n, channels, (float *)out->data + first * channels);
    }
  return STATUS_OK;
}
