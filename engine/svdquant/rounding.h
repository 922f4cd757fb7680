/* SPDX-License-Identifier: Apache-2.0
 *
 * rounding.h - the 4-bit residual: scales and codes
 *
 * Scales come first, then codes from the scales as they are stored (spec svdquant 4.3).
 */
#pragma once

#include "kernels/kernels.h"

typedef struct
{
  SvdqFormat format;
  int64_t n, k;
  uint8_t *qweight; /* [N, K/2] */
  void *wscales;    /* [K/G, N] BF16 or E4M3 */
  uint16_t wtscale; /* BF16; 1 for INT4 */
} Rounded;

/* All codes and scales 0, the outer scale 1. */
Rounded *rounded_new (SvdqFormat format, int64_t n, int64_t k);
void rounded_free (Rounded *self); /* NULL is a no-op */

/* Chooses the scales of residual [N, K]. search: of a few scales about the plain one, each group
 * takes the one with the least error; otherwise greatest magnitude over greatest code. */
void rounded_choose_scales (Rounded *self, const float *residual, bool search);

/* Rounds every number to the nearest code. */
void rounded_choose_codes (Rounded *self, const float *residual);

/* The numbers the codes stand for, [N, K]. */
void rounded_expand (const Rounded *self, float *out);

/* One number: its scale, the nearest code, that code's value. */
float rounded_scale (const Rounded *self, int64_t row, int64_t column);
uint8_t rounded_nearest (SvdqFormat format, float value, float scale, float *rounded);
void rounded_set (Rounded *self, int64_t row, int64_t column, uint8_t code);
