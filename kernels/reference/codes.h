/* SPDX-License-Identifier: Apache-2.0
 *
 * codes.h - what weights kept as codes mean, one number at a time (weight-codes.h)
 */
#pragma once

#include "kernels/tensor.h"

KERNELS_BEGIN_DECLS

/* out [rows, K] F32 = the weights of codes I8 [rows, K], or U8 [rows, K/2], and scales BF16
 * [rows, K / CODES_GROUP]. */
void codes_reference (const Tensor *codes, const Tensor *scales, float *out);

KERNELS_END_DECLS
