/* SPDX-License-Identifier: Apache-2.0
 *
 * rounding.h - weights to codes and scales (kernels/weight-codes.h)
 *
 * Scales come first, then codes from the scales as they are stored, so that codes can be made again
 * at any time.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

G_BEGIN_DECLS

/* Sums of squares: of what rounding has changed, and of the weights; and both with every k weighted
 * by its importance. */
typedef struct
{
  double error, size;
  double weighted_error, weighted_size;
} RoundingError;

/* The scales of a row of k weights, BF16 [k / CODES_GROUP]: of some about the plain one, and the
 * one of least squares, that with the least error. importance [k]: how much an error of each k
 * matters; NULL: all the same. Adds to *sums. */
void rounding_choose_scales (const float *row, const float *importance, int64_t k, int bits,
                             uint16_t *scales, RoundingError *sums);

/* The nearest codes, I8 [k] or U8 [k / 2]. */
void
rounding_choose_codes (const float *row, const uint16_t *scales, int64_t k, int bits, void *codes);

G_END_DECLS
