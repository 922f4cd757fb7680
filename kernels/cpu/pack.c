/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/conv.h"

#include <string.h>

int64_t
packed_count (int64_t channels, int block, int64_t rows, int64_t width)
{
  return (channels + block - 1) / block * block * rows * width;
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
        s->simd->pack ((const float *)x->data + from * width * channels, channels, width, block,
                       plane, to);
      else
        for (int64_t c = 0; c < channels; c += block)
          memset (to + c / block * plane, 0, (size_t)(width * block) * sizeof (float));
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

      s->simd->unpack (
          packed + row * width * block, channels, width, block, plane, place->zoom * channels,
          residual != NULL ? (const float *)residual->data + at : NULL, (float *)out->data + at);
    }
}
