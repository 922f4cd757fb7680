/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/svdquant/rounding.h"

#include "kernels/svdq-math.h"

#include <glib.h>

static int64_t
group_of (SvdqFormat format)
{
  return format == SVDQ_INT4 ? SVDQ_INT4_GROUP : SVDQ_NVFP4_GROUP;
}

Rounded *
rounded_new (SvdqFormat format, int64_t n, int64_t k)
{
  Rounded *self = g_new0 (Rounded, 1);

  self->format = format;
  self->n = n;
  self->k = k;
  self->qweight = g_malloc0 ((gsize)(n * k / 2));
  self->wscales = g_malloc0 ((gsize)(n * k / group_of (format)) * (format == SVDQ_INT4 ? 2 : 1));
  self->wtscale = 0x3f80;
  return self;
}

void
rounded_free (Rounded *self)
{
  if (self == NULL)
    return;
  g_free (self->qweight);
  g_free (self->wscales);
  g_free (self);
}

uint8_t
rounded_nearest (SvdqFormat format, float value, float scale, float *rounded)
{
  float ratio = value / scale;

  if (format == SVDQ_INT4)
    {
      int code = svdq_int4_from_float (ratio);

      *rounded = (float)code * scale;
      return (uint8_t)(code & 15);
    }
  else
    {
      uint8_t code = svdq_e2m1_from_float (ratio);

      *rounded = 0.5f * (float)svdq_e2m1_doubled (code) * scale;
      return code == 8 ? 0 : code; /* no negative zero */
    }
}

float
rounded_scale (const Rounded *self, int64_t row, int64_t column)
{
  int64_t at = column / group_of (self->format) * self->n + row;

  if (self->format == SVDQ_INT4)
    return bf16_to_float (((const uint16_t *)self->wscales)[at]);
  return e4m3_to_float (((const uint8_t *)self->wscales)[at]) * bf16_to_float (self->wtscale);
}

void
rounded_set (Rounded *self, int64_t row, int64_t column, uint8_t code)
{
  uint8_t *byte = &self->qweight[(row * self->k + column) / 2];

  *byte = (uint8_t)(column & 1 ? (*byte & 15) | code << 4 : (*byte & 0xf0) | code);
}

/* -- scales ----------------------------------------------------------------------------------- */

static float
group_error (SvdqFormat format, const float *values, int64_t group, float scale)
{
  float sum = 0.0f;

  for (int64_t i = 0; i < group; i++)
    {
      float rounded;

      rounded_nearest (format, values[i], scale, &rounded);
      sum += (rounded - values[i]) * (rounded - values[i]);
    }
  return sum;
}

/* INT4: clipping the largest number a little makes all others finer. */
static uint16_t
int4_scale (const float *values, bool search)
{
  static const float shares[] = { 1.0f, 0.95f, 0.9f, 0.85f, 0.8f };
  float amax = svdq_greatest (values, SVDQ_INT4_GROUP), least = INFINITY;
  uint16_t best = 0x3f80; /* any scale does for zeros */

  for (size_t i = 0; i < (search ? G_N_ELEMENTS (shares) : 1); i++)
    {
      uint16_t scale = bf16_from_float (amax * shares[i] / 7.0f);
      float error;

      if (scale == 0)
        break;
      error = search ? group_error (SVDQ_INT4, values, SVDQ_INT4_GROUP, bf16_to_float (scale)) : 0;
      if (error < least)
        {
          least = error;
          best = scale;
        }
    }
  return best;
}

/* NVFP4: the stored scales about the plain one, and about the one that makes the largest number a
 * 4 and not a 6. */
static uint8_t
nvfp4_scale (const float *values, float outer, bool search)
{
  float amax = svdq_greatest (values, SVDQ_NVFP4_GROUP), least = INFINITY;
  uint8_t plain = svdq_e4m3_from_float (amax / 6.0f / outer);
  uint8_t four = svdq_e4m3_from_float (amax / 4.0f / outer);
  int candidates[] = { plain, plain - 1, plain + 1, four, four + 1 };
  uint8_t best = MAX (plain, 1);

  for (size_t i = 0; search && i < G_N_ELEMENTS (candidates); i++)
    {
      float error;

      if (candidates[i] < 1 || candidates[i] > 0x7e)
        continue;
      error = group_error (SVDQ_NVFP4, values, SVDQ_NVFP4_GROUP,
                           e4m3_to_float ((uint8_t)candidates[i]) * outer);
      if (error < least)
        {
          least = error;
          best = (uint8_t)candidates[i];
        }
    }
  return best;
}

/* BF16, rounded up if the largest group would pass E4M3's range otherwise. */
static uint16_t
outer_scale (const float *residual, int64_t count)
{
  float amax = 0.0f, wanted;
  uint16_t outer;

#pragma omp parallel for reduction(max : amax)
  for (int64_t i = 0; i < count; i++)
    amax = fabsf (residual[i]) > amax ? fabsf (residual[i]) : amax;
  wanted = amax / 6.0f / SVDQ_E4M3_MAX;
  outer = bf16_from_float (wanted);
  if (bf16_to_float (outer) < wanted)
    outer++;
  return outer > 0 ? outer : 0x3f80;
}

void
rounded_choose_scales (Rounded *self, const float *residual, bool search)
{
  int64_t n = self->n, k = self->k, group = group_of (self->format);
  float outer = 1.0f;

  if (self->format == SVDQ_NVFP4)
    {
      self->wtscale = outer_scale (residual, n * k);
      outer = bf16_to_float (self->wtscale);
    }
#pragma omp parallel for
  for (int64_t row = 0; row < n; row++)
    for (int64_t g = 0; g < k / group; g++)
      {
        const float *values = residual + row * k + g * group;

        if (self->format == SVDQ_INT4)
          ((uint16_t *)self->wscales)[g * n + row] = int4_scale (values, search);
        else
          ((uint8_t *)self->wscales)[g * n + row] = nvfp4_scale (values, outer, search);
      }
}

/* -- codes ------------------------------------------------------------------------------------ */

void
rounded_choose_codes (Rounded *self, const float *residual)
{
  int64_t k = self->k, group = group_of (self->format);

#pragma omp parallel for
  for (int64_t row = 0; row < self->n; row++)
    for (int64_t first = 0; first < k; first += group)
      {
        float scale = rounded_scale (self, row, first), unused;
        const float *values = residual + row * k + first;
        uint8_t *out = self->qweight + (row * k + first) / 2;

        for (int64_t i = 0; i < group; i += 2)
          {
            uint8_t low = rounded_nearest (self->format, values[i], scale, &unused);
            uint8_t high = rounded_nearest (self->format, values[i + 1], scale, &unused);

            out[i / 2] = (uint8_t)(low | high << 4);
          }
      }
}

void
rounded_expand (const Rounded *self, float *out)
{
  int64_t k = self->k, group = group_of (self->format);

#pragma omp parallel for
  for (int64_t row = 0; row < self->n; row++)
    for (int64_t first = 0; first < k; first += group)
      {
        float scale = rounded_scale (self, row, first) * (self->format == SVDQ_INT4 ? 1.0f : 0.5f);
        const uint8_t *codes = self->qweight + (row * k + first) / 2;
        float *to = out + row * k + first;

        for (int64_t i = 0; i < group; i++)
          {
            uint8_t code = i & 1 ? codes[i / 2] >> 4 : codes[i / 2] & 15;

            to[i] = scale
                    * (float)(self->format == SVDQ_INT4 ? svdq_int4 (code)
                                                        : svdq_e2m1_doubled (code));
          }
      }
}
