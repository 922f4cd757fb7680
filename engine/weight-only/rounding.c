/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/weight-only/rounding.h"

#include "kernels/tensor.h"
#include "kernels/weight-codes.h"

#include <math.h>
#include <string.h>

#define LARGEST 127.0f /* of the table's values, and of codes of 8 bit */

static const float table[16] = CODES_TABLE;

/* Scales that are tried, as parts of the one that just holds the greatest weight. Smaller ones cut
 * it off for the others' good. 4 bit: either sign, as the table is not symmetrical. */
static const float parts4[] = { 0.74f, 0.8f, 0.85f, 0.9f, 0.95f, 1.0f, 1.05f, 1.1f };
static const float parts8[] = { 0.94f, 0.97f, 0.99f, 1.0f, 1.02f };

/* The values of the nearest codes. */
static void
round_group (const float *w, float scale, int bits, float *values)
{
  float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;

  if (bits == 8)
    {
#pragma omp simd
      for (int i = 0; i < CODES_GROUP; i++)
        {
          float value = rintf (w[i] * inverse);

          values[i] = value > LARGEST ? LARGEST : value < -LARGEST ? -LARGEST : value;
        }
      return;
    }
  for (int i = 0; i < CODES_GROUP; i++)
    values[i] = table[0];
  for (int j = 1; j < 16; j++)
    {
      float middle = 0.5f * (table[j - 1] + table[j]), step = table[j] - table[j - 1];

#pragma omp simd
      for (int i = 0; i < CODES_GROUP; i++)
        values[i] += w[i] * inverse > middle ? step : 0.0f;
    }
}

static float
error_of (const float *w, const float *importance, const float *values, float scale)
{
  float sum = 0.0f;

#pragma omp simd reduction(+ : sum)
  for (int i = 0; i < CODES_GROUP; i++)
    {
      float error = w[i] - values[i] * scale;

      sum += importance[i] * error * error;
    }
  return sum;
}

/* What makes the error of these values least. */
static float
best_scale (const float *w, const float *importance, const float *values)
{
  float product = 0.0f, square = 0.0f;

#pragma omp simd reduction(+ : product, square)
  for (int i = 0; i < CODES_GROUP; i++)
    {
      product += importance[i] * values[i] * w[i];
      square += importance[i] * values[i] * values[i];
    }
  return square > 0.0f ? product / square : 0.0f;
}

typedef struct
{
  float scale, error;
} Choice;

static void
try_scale (const float *w, const float *importance, int bits, float scale, Choice *best)
{
  float stored = bf16_to_float (bf16_from_float (scale)), values[CODES_GROUP], error;

  round_group (w, stored, bits, values);
  error = error_of (w, importance, values, stored);
  if (error < best->error)
    *best = (Choice){ stored, error };
}

static float
choose_scale (const float *w, const float *importance, int bits)
{
  const float *parts = bits == 8 ? parts8 : parts4;
  guint n = bits == 8 ? G_N_ELEMENTS (parts8) : G_N_ELEMENTS (parts4);
  Choice best = { 0.0f, INFINITY };
  float greatest = 0.0f, values[CODES_GROUP];

  for (int i = 0; i < CODES_GROUP; i++)
    greatest = MAX (greatest, fabsf (w[i]));
  if (greatest == 0.0f)
    return 0.0f;
  for (guint i = 0; i < n; i++)
    {
      try_scale (w, importance, bits, greatest / LARGEST * parts[i], &best);
      if (bits == 4)
        try_scale (w, importance, bits, -greatest / LARGEST * parts[i], &best);
    }
  round_group (w, best.scale, bits, values);
  try_scale (w, importance, bits, best_scale (w, importance, values), &best);
  return best.scale;
}

void
rounding_choose_scales (const float *row, const float *importance, int64_t k, int bits,
                        uint16_t *scales, RoundingError *sums)
{
  float ones[CODES_GROUP];

  for (int i = 0; i < CODES_GROUP; i++)
    ones[i] = 1.0f;
  for (int64_t first = 0; first < k; first += CODES_GROUP)
    {
      const float *w = row + first, *h = importance != NULL ? importance + first : ones;
      float scale = choose_scale (w, h, bits), values[CODES_GROUP];

      scales[first / CODES_GROUP] = bf16_from_float (scale);
      round_group (w, scale, bits, values);
      for (int i = 0; i < CODES_GROUP; i++)
        {
          double error = (double)w[i] - (double)values[i] * scale, size = w[i];

          sums->error += error * error;
          sums->size += size * size;
          sums->weighted_error += (double)h[i] * error * error;
          sums->weighted_size += (double)h[i] * size * size;
        }
    }
}

void
rounding_choose_codes (const float *row, const uint16_t *scales, int64_t k, int bits, void *codes)
{
  uint8_t *bytes = codes;

  for (int64_t first = 0; first < k; first += CODES_GROUP)
    {
      float values[CODES_GROUP];

      round_group (row + first, bf16_to_float (scales[first / CODES_GROUP]), bits, values);
      for (int i = 0; i < CODES_GROUP; i++)
        {
          int64_t at = first + i;
          uint8_t code = 0;

          if (bits == 8)
            {
              bytes[at] = (uint8_t)(int8_t)values[i];
              continue;
            }
          while (code < 15 && values[i] > table[code])
            code++;
          bytes[at / 2] = (uint8_t)(at % 2 == 0 ? code : bytes[at / 2] | code << 4);
        }
    }
}
