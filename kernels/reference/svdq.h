/* SPDX-License-Identifier: Apache-2.0
 *
 * svdq.h - exactly what an SVDQuant linear computes (spec svdquant 8.3)
 *
 * y = Qa(x / s) Qw^T outer + bf16(bf16(x) P_down) P_up^T + bias, at three levels of exactness.
 */
#pragma once

#include "kernels/kernels.h"

KERNELS_BEGIN_DECLS

typedef enum
{
  SVDQ_LEVEL_IDEAL,    /* L0: dequantised weights, activations as they are, all in FP64 */
  SVDQ_LEVEL_CONTRACT, /* L1: the roundings that our kernels promise, and no others */
  SVDQ_LEVEL_UPSTREAM, /* L2: Nunchaku's order on BF16, for comparing with its pictures only */
} SvdqLevel;

/* y [m, n] = the linear on x [m, k], F32, unrounded at the end but for L2. `bias` [n] or NULL.
 * k is a multiple of 64. STATUS_NO_MEMORY, or STATUS_UNSUPPORTED for other sizes. */
Status svdq_reference (SvdqLevel level, const SvdqSource *source, int64_t n, int64_t k,
                       const float *bias, const float *x, int64_t m, float *y);

/* The 4-bit part of weight (row, column) with all its scales: what multiplies x / s. */
double svdq_residual (const SvdqSource *source, int64_t n, int64_t k, int64_t row, int64_t column);

/* The weight that the linear stands for, smoothing and low-rank branch included (8.2). */
double svdq_weight (const SvdqSource *source, int64_t n, int64_t k, int64_t row, int64_t column);

KERNELS_END_DECLS
