/* SPDX-License-Identifier: Apache-2.0
 *
 * factor.h - the low-rank branch of a linear
 *
 * A truncated SVD by random projection with power iterations (Halko, Martinsson and Tropp 2011),
 * with the singular values in the up factor and orthonormal rows in the down factor, as the
 * published files have them (spec svdquant 1.1).
 */
#pragma once

#include <stdint.h>

typedef struct
{
  int64_t n, k;
  int rank;
  uint16_t *down; /* [K, R] BF16, divided by the smoothing factors */
  uint16_t *up;   /* [N, R] BF16 */
  float *basis;   /* [K, factor_width]: the last row space, where the next factorisation begins */
  int has_basis;
} Factors;

/* Columns that are carried along: the rank and a few more. */
int64_t factor_width (int rank, int64_t n, int64_t k);

/* (transfer full: factors_free), NULL without memory. */
Factors *factors_new (int64_t n, int64_t k, int rank);
void factors_free (Factors *self); /* NULL is a no-op */

/* Factors what [N, K] = W diag (smooth), rounding both factors to BF16. */
void factors_fit (Factors *self, const float *what, const float *smooth, int iterations);

/* residual [N, K] = what - the product of the *rounded* factors, in the smoothed space: so the
 * rounding of the factors is left to the residual (spec svdquant 4.1). */
void
factors_subtract (const Factors *self, const float *what, const float *smooth, float *residual);
