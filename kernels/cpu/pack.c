/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/conv.h"

#include <string.h>

/* Pixels moved together: enough to fill whole cache lines in the packed array, few enough to stay
 * in the first-level cache whatever the strides. */
#define PIXELS 8

int64_t
packed_count (int64_t channels, int block, int64_t rows, int64_t width)
{
  return (channels + block - 1) / block * block * rows * width;
}

static void
pack_row (const float *x, int64_t channels, int64_t width, int block, int64_t plane, float *out)
{
  for (int64_t start = 0; start < width; start += PIXELS)
    {
      int64_t end = width - start < PIXELS ? width : start + PIXELS;

      for (int64_t c = 0; c < channels; c += block)
        {
          float *to = out + c / block * plane;

          if (channels - c >= 8 && block == 8)
            for (int64_t p = start; p < end; p++)
              memcpy (to + p * 8, x + p * channels + c, 8 * sizeof (float));
          else if (channels - c >= 16 && block == 16)
            for (int64_t p = start; p < end; p++)
              memcpy (to + p * 16, x + p * channels + c, 16 * sizeof (float));
          else
            for (int64_t p = start; p < end; p++)
              for (int i = 0; i < block; i++)
                to[p * block + i] = c + i < channels ? x[p * channels + c + i] : 0.0f;
        }
    }
}

void
pack_rows (Stream *s, const Tensor *x, int64_t first, int64_t rows, int block, float *out)
{
  int64_t width = x->shape[1];
  int64_t channels = x->shape[2];
  int64_t plane = rows * width * block;

#pragma omp parallel for num_threads(s->threads) if (rows * width * channels > PARALLEL_MIN)
  for (int64_t row = 0; row < rows; row++)
    {
      int64_t from = first + row;
      float *to = out + row * width * block;

      if (from >= 0 && from < x->shape[0])
        pack_row ((const float *)x->data + from * width * channels, channels, width, block, plane,
                  to);
      else
        for (int64_t c = 0; c < channels; c += block)
          memset (to + c / block * plane, 0, (size_t)(width * block) * sizeof (float));
    }
}

/* One row; `step` is the distance of neighbouring output pixels, residual may be NULL or out. */
static void
unpack_row (const float *packed, int64_t channels, int64_t width, int block, int64_t plane,
            int64_t step, const float *residual, float *out)
{
  for (int64_t start = 0; start < width; start += PIXELS)
    {
      int64_t end = width - start < PIXELS ? width : start + PIXELS;

      for (int64_t c = 0; c < channels; c += block)
        {
          const float *from = packed + c / block * plane;
          int64_t n = channels - c < block ? channels - c : block;

          if (n == 8 && residual == NULL)
            for (int64_t p = start; p < end; p++)
              memcpy (out + p * step + c, from + p * block, 8 * sizeof (float));
          else if (n == 8)
            for (int64_t p = start; p < end; p++)
              for (int i = 0; i < 8; i++)
                out[p * step + c + i] = from[p * block + i] + residual[p * step + c + i];
          else
            for (int64_t p = start; p < end; p++)
              for (int i = 0; i < n; i++)
                out[p * step + c + i]
                    = from[p * block + i] + (residual != NULL ? residual[p * step + c + i] : 0.0f);
        }
    }
}

void
unpack_rows (Stream *s, const float *packed, int block, int64_t rows, int64_t width,
             const Placement *place, const Tensor *residual, Tensor *out)
{
  int64_t channels = out->shape[2];
  int64_t plane = rows * width * block;
  int64_t row_step = out->shape[1] * channels;

#pragma omp parallel for num_threads(s->threads) if (rows * width * channels > PARALLEL_MIN)
  for (int64_t row = 0; row < rows; row++)
    {
      int64_t at = (place->row + row * place->zoom) * row_step + place->column * channels;

      unpack_row (
          packed + row * width * block, channels, width, block, plane, place->zoom * channels,
          residual != NULL ? (const float *)residual->data + at : NULL, (float *)out->data + at);
    }
}
