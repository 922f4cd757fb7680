/* SPDX-License-Identifier: Apache-2.0
 *
 * svdq-layer.h - random SVDQuant layers and activations for tests, in host memory
 */
#pragma once

#include "kernels/kernels.h"

KERNELS_BEGIN_DECLS

typedef struct
{
  int64_t n, k;
  uint64_t state; /* of the random numbers */
  SvdqSource source;
  uint8_t *qweight;
  void *wscales;
  uint16_t *smooth, *down, *up;
  float *outer, *bias;
} SvdqLayer;

/* Codes are any nibbles, -8 too; smoothing factors lie between 2^-3 and 2; outer scales only for
 * NVFP4. The same seed gives the same layer. */
SvdqLayer *svdq_layer_new (SvdqFormat format, int64_t n, int64_t k, int rank, uint64_t seed);
void svdq_layer_free (SvdqLayer *self);

uint32_t svdq_layer_random (SvdqLayer *self);
float svdq_layer_uniform (SvdqLayer *self); /* in [-1, 1) */

/* m rows of activations as BF16 bits, with outliers; row 3 is zero. Free with free. */
uint16_t *svdq_layer_rows (SvdqLayer *self, int64_t m);

/* y [m, n] BF16 bits: level L1 on these rows, rounded once; with swiglu [m, n/2]. */
void svdq_layer_expected (const SvdqLayer *self, bool biased, bool swiglu, const uint16_t *x,
                          int64_t m, uint16_t *y);

/* How far apart two BF16 numbers are, in steps of the last place. */
int64_t svdq_layer_steps (uint16_t a, uint16_t b);

KERNELS_END_DECLS
