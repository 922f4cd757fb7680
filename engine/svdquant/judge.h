/* SPDX-License-Identifier: Apache-2.0
 *
 * judge.h - how far a quantised linear is from the dense one
 */
#pragma once

#include "engine/svdquant/quantize-linear.h"

G_BEGIN_DECLS

typedef struct _Judge Judge;

/* The problem is borrowed. NULL without memory. */
Judge *judge_new (const QuantizeProblem *problem, SvdqFormat format);
void judge_free (Judge *self); /* NULL is a no-op */

/* The square error that a search makes small: of the outputs on the inputs to learn from,
 * activations quantised as at level L1; without inputs, of the weight as it acts on raw inputs.
 * residual and expanded [N, K]: the residual before and after rounding, in the smoothed space. */
double judge_cost (Judge *self, const Factors *factors, const float *smooth, const float *residual,
                   const float *expanded);

/* Relative errors, the output's on held-out inputs. */
QuantizeError judge_error (Judge *self, const Factors *factors, const float *smooth,
                           const float *residual, const float *expanded);

/* x^T x of the smoothed inputs, [K, K]. */
void judge_hessian (const Judge *self, const float *smooth, float *hessian);

G_END_DECLS
