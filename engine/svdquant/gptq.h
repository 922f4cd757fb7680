/* SPDX-License-Identifier: Apache-2.0
 *
 * gptq.h - rounding that makes up for itself (Frantar et al. 2022)
 *
 * Columns are rounded one after the other, those with the most energy first; each one's error is
 * spread over the columns that are still to come, by the inverse of the inputs' Hessian. Scales are
 * chosen before and stay.
 */
#pragma once

#include "engine/svdquant/rounding.h"

/* Chooses `rounded`'s codes for residual [N, K], which is used up. hessian [K, K] = x^T x of `rows`
 * smoothed inputs, used up too; the fewer rows, the more it is damped. false, and nothing done, if
 * it is not positive definite even when damped. */
bool gptq_choose_codes (Rounded *rounded, float *residual, float *hessian, int64_t rows);
