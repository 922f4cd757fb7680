/* SPDX-License-Identifier: Apache-2.0
 *
 * ops.cuh - the maths of ops_cuda that needs no matrix product; meanings as in kernels.h
 *
 * All work is queued on `compute`. Rows that are multiples of 8 numbers run at full speed. What a
 * kernel cannot take is STATUS_UNSUPPORTED, with the reason in the stream's detail.
 */
#pragma once

#include "kernels/cuda/common.cuh"

/* norm.cu: D up to 8192. */
Status cuda_rms_norm (Stream *s, const Tensor *x, const Tensor *weight, const Tensor *scale,
                      float eps, Tensor *out);
Status cuda_residual_norm (Stream *s, Tensor *x, const Tensor *y, const Tensor *post,
                           const Tensor *gate, const Tensor *next, const Tensor *scale, float eps,
                           Tensor *out);
Status cuda_layer_norm (Stream *s, const Tensor *x, const Tensor *scale, float eps, Tensor *out);

/* group_norm.cu: C a multiple of 8, up to 2048. */
Status cuda_group_norm (Stream *s, const Tensor *x, const Tensor *weight, const Tensor *bias,
                        int groups, float eps, bool silu, Tensor *out);

/* rope.cu: heads of 16, 32, 64, 128 or 256. */
Status cuda_qk_norm_rope (Stream *s, Tensor *qkv, int n_q, int n_kv, const Tensor *q_weight,
                          const Tensor *k_weight, float eps, const Tensor *table,
                          RopePairing pairing);

/* elementwise.cu: any width. */
Status cuda_silu_mul (Stream *s, const Tensor *x, int turn, Tensor *out);
Status cuda_silu (Stream *s, const Tensor *x, Tensor *out);
Status cuda_modulation (Stream *s, const Tensor *m, Tensor *out);
Status cuda_one_plus (Stream *s, const Tensor *x, Tensor *out);
Status cuda_fill_rows (Stream *s, const Tensor *row, Tensor *out);

/* conv.cu: 1x1 and 3x3, any number of channels; multiples of 8 run on tensor cores. */
Status cuda_group_moments (Stream *s, const Tensor *x, int groups, float eps, Tensor *out);
Status cuda_group_norm_by (Stream *s, const Tensor *x, const Tensor *by, const Tensor *weight,
                           const Tensor *bias, bool silu, Tensor *out);
Status cuda_conv_prepare (Stream *s, const ConvSource *source, Conv **out);
uint64_t cuda_conv_bytes (const ConvSource *source);
Status
cuda_conv2d (Stream *s, const Conv *conv, const Tensor *x, const Tensor *residual, Tensor *out);
void cuda_conv_release (Stream *s, Conv *conv);
