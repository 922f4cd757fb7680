/* SPDX-License-Identifier: Apache-2.0
 *
 * svdq-half.h - what an SVDQuant linear makes of FP16 rows, on the host (svdquant.md, sm_75)
 *
 * Codes, scales and their sum are level L1's (spec svdquant 8.3), low-rank factors and input FP16.
 * Behind a swiglu, NVFP4's codes and scales are those of x before it was divided, as a scale ends
 * at 2^-9; a BF16 one has no end that matters.
 */
#pragma once

#include "kernels/reference/svdq.h"
#include "kernels/svdq-math.h"
#include "tests/kernels/svdq-layer.h"

#include <stdlib.h>
#include <vector>

#define HALF_MAX 65504.0f

static inline float
clamped (double v)
{
  return v > HALF_MAX ? HALF_MAX : v < -HALF_MAX ? -HALF_MAX : (float)v;
}

/* As the card keeps a low-rank factor. */
static inline float
factor (uint16_t bf16_bits)
{
  return f16_to_float (f16_from_float (clamped (bf16_to_float (bf16_bits))));
}

/* A layer, FP16 rows for it, and what those become. */
struct HalfHost
{
  SvdqLayer *layer;
  int64_t m;
  float times = 1.0f; /* x is quantised as that many times what is stored */
  std::vector<uint16_t> x, lora;
  std::vector<float> wide;   /* x */
  std::vector<int8_t> codes; /* INT4, or doubled E2M1 */
  std::vector<float> scales; /* [m, k / group] */

  bool
  int4 () const
  {
    return layer->source.format == SVDQ_INT4;
  }

  int
  group () const
  {
    return int4 () ? SVDQ_INT4_GROUP : SVDQ_NVFP4_GROUP;
  }

  HalfHost (SvdqLayer *of, int64_t rows, float size, bool after_swiglu = false)
      : layer (of), m (rows)
  {
    if (after_swiglu && !int4 ())
      times = 1.0f / SWIGLU_F16_SCALE;
    for (int64_t i = 0; i < m * layer->k; i++)
      x.push_back (f16_from_float (svdq_layer_uniform (layer)
                                   * (svdq_layer_random (layer) % 50 ? size : 20 * size)));
    for (int64_t i = 0; i < layer->k && m > 3; i++)
      x[3 * layer->k + i] = 0;
    quantise ();
  }

  void
  quantise ()
  {
    const int64_t k = layer->k;
    const int rank = layer->source.rank;
    wide.clear (), codes.resize (m * k), scales.clear (), lora.clear ();
    for (uint16_t bits : x)
      wide.push_back (f16_to_float (bits));
    for (int64_t row = 0; row < m; row++)
      {
        for (int64_t first = 0; first < k; first += group ())
          {
            float xh[SVDQ_INT4_GROUP];
            int8_t *to = &codes[row * k + first];
            for (int i = 0; i < group (); i++)
              xh[i] = svdq_smoothed (times * wide[row * k + first + i],
                                     bf16_to_float (layer->smooth[first + i]));
            scales.push_back (int4 () ? svdq_quantise_int4 (xh, to) : svdq_quantise_nvfp4 (xh, to));
          }
        for (int r = 0; r < rank; r++)
          lora.push_back (f16_from_float (clamped (lowered (row, r, NULL))));
      }
  }

  double
  lowered (int64_t row, int r, double *terms) const
  {
    double sum = 0.0, magnitude = 0.0;
    for (int64_t i = 0; i < layer->k; i++)
      {
        const double term
            = (double)wide[row * layer->k + i] * factor (layer->down[i * layer->source.rank + r]);
        sum += term, magnitude += fabs (term);
      }
    if (terms != NULL)
      *terms = magnitude;
    return sum;
  }

  /* The 4-bit sum of level L1, [m, n]. */
  std::vector<float>
  sums () const
  {
    std::vector<float> y (m * layer->n), quantised = wide;
    SvdqSource source = layer->source;
    source.rank = 0;
    for (float &v : quantised)
      v *= times;
    if (svdq_reference (SVDQ_LEVEL_CONTRACT, &source, layer->n, layer->k, NULL, quantised.data (),
                        m, y.data ())
        != STATUS_OK)
      exit (1);
    for (float &v : y)
      v /= times;
    return y;
  }

  /* The magnitudes of its terms. */
  double
  terms (int64_t row, int64_t n) const
  {
    double sum = 0.0;
    for (int64_t i = 0; i < layer->k; i++)
      sum += fabs (codes[row * layer->k + i] * (int4 () ? 1.0 : 0.5)
                   * scales[(row * layer->k + i) / group ()]
                   * svdq_residual (&layer->source, layer->n, layer->k, n, i));
    return sum / times;
  }

  double
  raised (int64_t row, int64_t n, double *terms) const
  {
    double sum = 0.0;
    const int rank = layer->source.rank;
    *terms = 0.0;
    for (int r = 0; r < rank; r++)
      {
        const double term
            = (double)f16_to_float (lora[row * rank + r]) * factor (layer->up[n * rank + r]);
        sum += term, *terms += fabs (term);
      }
    return sum;
  }
};
