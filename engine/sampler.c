/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/sampler.h"

#include <math.h>

/* torch.linspace (1, 1/steps, steps) in FP32: from both ends to the middle, one rounding each. */
static float
linspace (int i, int steps)
{
  float last = (float)(1.0 / steps);
  float stride = steps > 1 ? (last - 1.0f) / (float)(steps - 1) : 0.0f;

  if (i < steps / 2 || steps == 1)
    return fmaf (stride, (float)i, 1.0f);
  return fmaf (-stride, (float)(steps - 1 - i), last);
}

void
sampler_sigmas (int steps, double shift, float *sigmas)
{
  for (int i = 0; i < steps; i++)
    {
      float u = linspace (i, steps);

      sigmas[i] = (float)shift * u / (1.0f + (float)(shift - 1.0) * u);
    }
  sigmas[steps] = 0.0f;
}

void
sampler_step (float *x, const float *v, gsize n, float from, float to)
{
  float dt = to - from;

  for (gsize i = 0; i < n; i++)
    {
      float product = dt * -v[i];

      x[i] += product;
    }
}

static double
norm (const float *v, gsize n)
{
  double sum = 0.0;

  for (gsize i = 0; i < n; i++)
    sum += (double)v[i] * v[i];
  return sqrt (sum);
}

void
sampler_guide (float *v, const float *positive, const float *negative, gsize n, double guidance,
               double normalization)
{
  double limit = normalization > 0.0 ? normalization * norm (positive, n) : INFINITY;
  double length;

  for (gsize i = 0; i < n; i++)
    v[i] = positive[i] + (float)guidance * (positive[i] - negative[i]);

  length = norm (v, n);
  if (length > limit)
    for (gsize i = 0; i < n; i++)
      v[i] *= (float)(limit / length);
}
