/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/kernels/svdq-layer.h"

#include "kernels/reference/svdq.h"
#include "kernels/svdq-math.h"

#include <stdio.h>
#include <stdlib.h>

uint32_t
svdq_layer_random (SvdqLayer *self)
{
  self->state = self->state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(self->state >> 32);
}

float
svdq_layer_uniform (SvdqLayer *self)
{
  return (float)(svdq_layer_random (self) >> 8) / (float)(1 << 23) - 1.0f;
}

static uint16_t *
random_bf16 (SvdqLayer *self, int64_t count, float size)
{
  uint16_t *out = malloc ((size_t)(count + 1) * sizeof *out);

  for (int64_t i = 0; i < count; i++)
    out[i] = bf16_from_float (svdq_layer_uniform (self) * size);
  return out;
}

static void *
random_scales (SvdqLayer *self, SvdqFormat format, int64_t count)
{
  uint8_t *e4m3;

  if (format == SVDQ_INT4)
    return random_bf16 (self, count, 0.01f);
  e4m3 = malloc ((size_t)count);
  for (int64_t i = 0; i < count; i++)
    e4m3[i] = svdq_e4m3_from_float (fabsf (svdq_layer_uniform (self)) * 100.0f);
  return e4m3;
}

SvdqLayer *
svdq_layer_new (SvdqFormat format, int64_t n, int64_t k, int rank, uint64_t seed)
{
  SvdqLayer *self = calloc (1, sizeof *self);
  int64_t groups = k / (format == SVDQ_INT4 ? SVDQ_INT4_GROUP : SVDQ_NVFP4_GROUP);

  *self = (SvdqLayer){ .n = n, .k = k, .state = seed * 2654435761u + 1 };
  self->qweight = malloc ((size_t)(n * k / 2));
  for (int64_t i = 0; i < n * k / 2; i++)
    self->qweight[i] = (uint8_t)svdq_layer_random (self);
  self->wscales = random_scales (self, format, n * groups);
  self->smooth = malloc ((size_t)k * sizeof *self->smooth);
  for (int64_t i = 0; i < k; i++)
    self->smooth[i] = bf16_from_float (exp2f (svdq_layer_uniform (self) * 2.0f - 1.0f));
  self->down = random_bf16 (self, k * rank, 0.05f);
  self->up = random_bf16 (self, n * rank, 0.05f);
  self->outer = malloc ((size_t)n * sizeof (float));
  self->bias = malloc ((size_t)n * sizeof (float));
  for (int64_t i = 0; i < n; i++)
    {
      self->outer[i] = 0.0001f * (1.5f + svdq_layer_uniform (self));
      self->bias[i] = svdq_layer_uniform (self);
    }
  self->source = (SvdqSource){ format,        rank,
                               self->qweight, self->wscales,
                               self->smooth,  self->down,
                               self->up,      format == SVDQ_INT4 ? NULL : self->outer };
  return self;
}

void
svdq_layer_free (SvdqLayer *self)
{
  free (self->qweight);
  free (self->wscales);
  free (self->smooth);
  free (self->down);
  free (self->up);
  free (self->outer);
  free (self->bias);
  free (self);
}

uint16_t *
svdq_layer_rows (SvdqLayer *self, int64_t m)
{
  uint16_t *x = malloc ((size_t)(m * self->k) * sizeof *x);

  for (int64_t i = 0; i < m * self->k; i++)
    x[i] = bf16_from_float (svdq_layer_uniform (self)
                            * (svdq_layer_random (self) % 50 == 0 ? 40.0f : 2.0f));
  for (int64_t i = 0; i < self->k && m > 3; i++)
    x[3 * self->k + i] = 0;
  return x;
}

void
svdq_layer_expected (const SvdqLayer *self, bool biased, bool swiglu, const uint16_t *x, int64_t m,
                     uint16_t *y)
{
  int64_t n = self->n, k = self->k, half = n / 2;
  float *wide = malloc ((size_t)(m * k) * sizeof (float));
  float *sums = malloc ((size_t)(m * n) * sizeof (float));

  for (int64_t i = 0; i < m * k; i++)
    wide[i] = bf16_to_float (x[i]);
  if (svdq_reference (SVDQ_LEVEL_CONTRACT, &self->source, n, k, biased ? self->bias : NULL, wide, m,
                      sums)
      != STATUS_OK)
    {
      printf ("Bail out! the reference refuses %lld x %lld\n", (long long)n, (long long)k);
      exit (1);
    }
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < (swiglu ? half : n); j++)
      {
        double value = sums[i * n + j];

        if (swiglu)
          value = value / (1.0 + exp (-value)) * sums[i * n + half + j];
        y[i * (swiglu ? half : n) + j] = bf16_from_float ((float)value);
      }
  free (wide);
  free (sums);
}

int64_t
svdq_layer_steps (uint16_t a, uint16_t b)
{
  int64_t from = a & 0x8000 ? -(int64_t)(a & 0x7fff) : a;
  int64_t to = b & 0x8000 ? -(int64_t)(b & 0x7fff) : b;

  return from > to ? from - to : to - from;
}
