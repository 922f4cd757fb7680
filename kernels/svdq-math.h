/* SPDX-License-Identifier: Apache-2.0
 *
 * svdq-math.h - the number formats of SVDQuant, and how activations are quantised
 *
 * Shared by the reference, the CPU backend and the quantiser, so that they cannot drift apart.
 * Levels are those of spec svdquant 8.3; what is here is level L1, the contract of our kernels:
 * one scale, rounded to its stored form, for quantising and for dequantising alike.
 * Needs round-to-nearest mode and a build without FP contraction.
 */
#pragma once

#include "kernels/tensor.h"

#include <math.h>
#include <string.h>

#define SVDQ_INT4_GROUP  64
#define SVDQ_NVFP4_GROUP 16

#define SVDQ_E4M3_MAX 448.0f
#define SVDQ_E2M1_MAX 6.0f

static inline uint32_t
svdq_bits (float value)
{
  uint32_t bits;

  memcpy (&bits, &value, sizeof bits);
  return bits;
}

static inline float
svdq_float (uint32_t bits)
{
  float value;

  memcpy (&value, &bits, sizeof value);
  return value;
}

/* `value` rounded to BF16, as float; NaN stays NaN. Inline, for loops over activations. */
static inline float
svdq_round_bf16 (float value)
{
  uint32_t bits = svdq_bits (value);
  uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;

  return value == value ? svdq_float (rounded) : value;
}

/* E4M3, nearest with ties to even, saturating at 448 (infinity too); NaN becomes 0x7f. */
static inline uint8_t
svdq_e4m3_from_float (float value)
{
  uint8_t sign = (uint8_t)(svdq_bits (value) >> 24 & 0x80);
  float magnitude = fabsf (value);
  uint32_t bits = svdq_bits (magnitude);

  if (!(magnitude == magnitude))
    return 0x7f;
  if (magnitude >= SVDQ_E4M3_MAX)
    return sign | 0x7e;
  if (magnitude < 0x1p-6f) /* steps of 2^-9; eight of them carry into the first normal */
    return (uint8_t)(sign | (uint8_t)rintf (magnitude * 0x1p9f));

  bits += 0x7ffffu + ((bits >> 20) & 1u);
  return (uint8_t)(sign | ((bits >> 20) - ((127 - 7) << 3)));
}

/* E2M1 code: magnitude 0, 0.5, 1, 1.5, 2, 3, 4, 6 by its low three bits, bit 3 the sign. Nearest,
 * ties to the even code, saturating at 6; NaN becomes 7 (+6), as the hardware has it. */
static inline uint8_t
svdq_e2m1_from_float (float value)
{
  float a = fabsf (value);
  uint8_t sign = (uint8_t)(svdq_bits (value) >> 28 & 8);
  int code = (a > 0.25f) + (a >= 0.75f) + (a > 1.25f) + (a >= 1.75f) + (a > 2.5f) + (a >= 3.5f)
             + (a > 5.0f);

  return (uint8_t)(a == a ? sign | code : 7);
}

/* Twice the value of an E2M1 code: an integer, -12..12. */
static inline int
svdq_e2m1_doubled (uint8_t code)
{
  static const int8_t doubled[8] = { 0, 1, 2, 3, 4, 6, 8, 12 };

  return code & 8 ? -doubled[code & 7] : doubled[code & 7];
}

/* A two's-complement nibble, -8..7. */
static inline int
svdq_int4 (uint8_t code)
{
  return ((code & 15) ^ 8) - 8;
}

/* INT4 code in -7..7. NaN, from 0 times an infinite reciprocal, becomes 0. */
static inline int
svdq_int4_from_float (float value)
{
  float rounded = rintf (value);

  rounded = rounded > 7.0f ? 7.0f : rounded;
  rounded = rounded < -7.0f ? -7.0f : rounded;
  return rounded == rounded ? (int)rounded : 0;
}

/* The scale of an INT4 group with greatest magnitude `amax`, as BF16 bits. */
static inline uint16_t
svdq_int4_scale (float amax)
{
  return bf16_from_float (amax * (1.0f / 7.0f));
}

/* The scale of an NVFP4 group. `keep_tiny`: groups too small for E4M3 get its least scale, where
 * they would otherwise vanish (spec svdquant 1.3). */
static inline uint8_t
svdq_nvfp4_scale (float amax, bool keep_tiny)
{
  uint8_t scale = svdq_e4m3_from_float (amax * (1.0f / 6.0f));

  return scale == 0 && keep_tiny && amax > 0.0f ? 1 : scale;
}

/* What codes are multiplied out of: 1 / scale, or 0 for a group of zeros. */
static inline float
svdq_reciprocal (float scale)
{
  return scale > 0.0f ? 1.0f / scale : 0.0f;
}

/* The greatest magnitude of a group. Compared as bits, which is the order of magnitudes and lets a
 * NaN through, so that it shows in the output. */
static inline float
svdq_greatest (const float *x, int count)
{
  uint32_t greatest = 0;

  for (int i = 0; i < count; i++)
    {
      uint32_t bits = svdq_bits (x[i]) & 0x7fffffffu;

      greatest = bits > greatest ? bits : greatest;
    }
  return svdq_float (greatest);
}

/* An activation on its way to 4 bit: divided by its smoothing factor, rounded to BF16. */
static inline float
svdq_smoothed (float x, float smooth)
{
  return svdq_round_bf16 (x / smooth);
}

/* Quantises one group of 64 smoothed activations: codes -7..7, returns the scale. */
static inline float
svdq_quantise_int4 (const float *xh, int8_t *codes)
{
  float amax = svdq_greatest (xh, SVDQ_INT4_GROUP);
  float scale = bf16_to_float (svdq_int4_scale (amax));
  float reciprocal = svdq_reciprocal (scale);

  for (int i = 0; i < SVDQ_INT4_GROUP; i++)
    codes[i] = (int8_t)svdq_int4_from_float (xh[i] * reciprocal);
  return scale;
}

/* Quantises one group of 16 smoothed activations: codes are doubled E2M1 values, -12..12. */
static inline float
svdq_quantise_nvfp4 (const float *xh, int8_t *codes)
{
  float amax = svdq_greatest (xh, SVDQ_NVFP4_GROUP);
  float scale = e4m3_to_float (svdq_nvfp4_scale (amax, false));
  float reciprocal = svdq_reciprocal (scale);

  for (int i = 0; i < SVDQ_NVFP4_GROUP; i++)
    codes[i] = (int8_t)svdq_e2m1_doubled (svdq_e2m1_from_float (xh[i] * reciprocal));
  return scale;
}
