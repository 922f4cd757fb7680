/* SPDX-License-Identifier: Apache-2.0
 *
 * svdq-host.h - an SVDQuant linear and its quantised input, made up on the host
 *
 * For the tests of the products on the card: random weights and activations, activations quantised
 * by the arithmetic that the reference uses, and for each output its exact value and the sum of its
 * terms' magnitudes, which bounds what a sum in another order may differ by (spec svdquant 8.3).
 */
#pragma once

#include "kernels/reference/svdq.h"
#include "kernels/svdq-math.h"

#include <random>
#include <vector>

struct HostSize
{
  int m, n, k, rank;
  bool swiglu, bias, outer;
};

struct HostLinear
{
  SvdqFormat format;
  HostSize size;
  std::vector<uint8_t> qweight, wscales; /* INT4: wscales are BF16 bits */
  std::vector<uint16_t> smooth, down, up;
  std::vector<float> outer, bias, x; /* x [m, k] */

  int64_t pitch; /* as SvdqActivations */
  std::vector<uint8_t> codes, scales;
  std::vector<uint16_t> lora;

  int
  group () const
  {
    return format == SVDQ_INT4 ? SVDQ_INT4_GROUP : SVDQ_NVFP4_GROUP;
  }

  SvdqSource
  source () const
  {
    SvdqSource s = {};
    s.format = format;
    s.rank = size.rank;
    s.qweight = qweight.data ();
    s.wscales = wscales.data ();
    s.smooth = smooth.data ();
    s.proj_down = down.data ();
    s.proj_up = up.data ();
    s.outer = size.outer ? outer.data () : NULL;
    return s;
  }

  /* -- single numbers ----------------------------------------------------------------------- */

  static double
  value (SvdqFormat format, uint8_t byte, bool high)
  {
    const uint8_t code = high ? byte >> 4 : byte & 15;
    return format == SVDQ_INT4 ? svdq_int4 (code) : svdq_e2m1_doubled (code) * 0.5;
  }

  double
  weight (int row, int column) const
  {
    return value (format, qweight[((size_t)row * size.k + column) / 2], column & 1);
  }

  double
  weight_scale (int row, int g) const
  {
    const size_t at = (size_t)g * size.n + row;
    return format == SVDQ_INT4 ? bf16_to_float (((const uint16_t *)wscales.data ())[at])
                               : e4m3_to_float (wscales[at]);
  }

  double
  code (int row, int column) const
  {
    return value (format, codes[((size_t)row * size.k + column) / 2], column & 1);
  }

  /* Where the scale of group g of a row lies. */
  size_t
  scale_at (int row, int g) const
  {
    return format == SVDQ_INT4 ? (size_t)g * pitch + row
                               : ((size_t)(g / 4) * pitch + row) * 4 + g % 4;
  }

  double
  scale (int row, int g) const
  {
    const size_t at = scale_at (row, g);
    return format == SVDQ_INT4 ? bf16_to_float (((const uint16_t *)scales.data ())[at])
                               : e4m3_to_float (scales[at]);
  }

  /* Output (row, n) before rounding, and the sum of its terms' magnitudes. */
  double
  evaluate (int row, int n, double *terms) const
  {
    double sum = 0.0, low_rank = 0.0;
    *terms = 0.0;
    for (int g = 0; g < size.k / group (); g++)
      {
        double products = 0.0, magnitudes = 0.0;
        for (int i = g * group (); i < (g + 1) * group (); i++)
          {
            const double product = code (row, i) * weight (n, i);
            products += product;
            magnitudes += fabs (product);
          }
        const double by = scale (row, g) * weight_scale (n, g);
        if (by == 0.0)
          continue;
        sum += products * by;
        *terms += magnitudes * by;
      }
    if (size.outer)
      sum *= outer[n], *terms *= outer[n];
    for (int r = 0; r < size.rank; r++)
      {
        const double term = (double)bf16_to_float (lora[(size_t)row * size.rank + r])
                            * bf16_to_float (up[(size_t)n * size.rank + r]);
        low_rank += term;
        *terms += fabs (term);
      }
    if (size.bias)
      low_rank += bias[n], *terms += fabs (bias[n]);
    return sum + low_rank;
  }

  /* -- making one ---------------------------------------------------------------------------- */

  HostLinear (SvdqFormat kind, const HostSize &of, uint32_t seed) : format (kind), size (of)
  {
    std::mt19937 random (seed);
    std::normal_distribution<float> normal;
    const size_t weights = (size_t)size.n * size.k;
    const auto bf16 = [] (float value) { return bf16_from_float (value); };
    qweight.resize (weights / 2);
    for (uint8_t &byte : qweight)
      byte = (uint8_t)random ();
    const size_t groups = weights / group ();
    wscales.resize (format == SVDQ_INT4 ? groups * 2 : groups);
    for (size_t i = 0; i < groups; i++)
      if (format == SVDQ_INT4)
        ((uint16_t *)wscales.data ())[i] = bf16 (0.01f * (1.0f + fabsf (normal (random))));
      else
        wscales[i] = (uint8_t)(random () % 0x77); /* zero and the least ones too */
    for (int i = 0; i < size.k; i++)
      smooth.push_back (bf16 (0.5f + fabsf (normal (random))));
    for (int i = 0; i < size.k * size.rank; i++)
      down.push_back (bf16 (normal (random) / sqrtf ((float)size.k)));
    for (int i = 0; i < size.n * size.rank; i++)
      up.push_back (bf16 (normal (random)));
    for (int i = 0; i < size.n; i++)
      {
        outer.push_back (0.01f * (1.0f + fabsf (normal (random))));
        bias.push_back (normal (random));
      }
    for (int i = 0; i < size.m * size.k; i++)
      x.push_back (svdq_round_bf16 (normal (random) * (i % 97 == 0 ? 20.0f : 1.0f)));
    for (int i = 0; i < group () && size.m > 2; i++)
      x[2 * size.k + i] = 0.0f; /* a group of zeros */
    quantise ();
  }

  void
  allocate_activations ()
  {
    pitch = (size.m + 127) / 128 * 128;
    codes.assign ((size_t)size.m * size.k / 2, 0);
    /* What lies behind the last row is arbitrary. */
    scales.assign ((size_t)pitch * size.k / group () * (format == SVDQ_INT4 ? 2 : 1), 0x7f);
    lora.assign ((size_t)size.m * size.rank, 0);
  }

  void
  quantise_group (int row, int g)
  {
    float xh[SVDQ_INT4_GROUP];
    const size_t first = (size_t)row * size.k + g * group ();
    for (int i = 0; i < group (); i++)
      xh[i] = svdq_smoothed (x[first + i], bf16_to_float (smooth[g * group () + i]));
    const float amax = svdq_greatest (xh, group ());
    const size_t at = scale_at (row, g);
    float by;
    if (format == SVDQ_INT4)
      {
        const uint16_t bits = svdq_int4_scale (amax);
        ((uint16_t *)scales.data ())[at] = bits;
        by = svdq_reciprocal (bf16_to_float (bits));
      }
    else
      {
        scales[at] = svdq_nvfp4_scale (amax, false);
        by = svdq_reciprocal (e4m3_to_float (scales[at]));
      }
    for (int i = 0; i < group (); i++)
      {
        const uint8_t nibble = format == SVDQ_INT4
                                   ? (uint8_t)(svdq_int4_from_float (xh[i] * by) & 15)
                                   : svdq_e2m1_from_float (xh[i] * by);
        codes[(first + i) / 2] |= i & 1 ? nibble << 4 : nibble;
      }
  }

  void
  quantise ()
  {
    allocate_activations ();
    for (int row = 0; row < size.m; row++)
      {
        for (int g = 0; g < size.k / group (); g++)
          quantise_group (row, g);
        for (int r = 0; r < size.rank; r++)
          {
            double sum = 0.0;
            for (int i = 0; i < size.k; i++)
              sum += (double)x[(size_t)row * size.k + i]
                     * bf16_to_float (down[(size_t)i * size.rank + r]);
            lora[(size_t)row * size.rank + r] = bf16_from_float ((float)sum);
          }
      }
  }
};
