/* SPDX-License-Identifier: Apache-2.0
 *
 * reference.h - what the files of the reference device share
 *
 * The reference is slow and plain: one loop per formula, sums in double, F32 activations, no
 * threads. It is the yardstick of the tests and never the product's path.
 */
#pragma once

#include "kernels/host-memory.h"

struct Stream
{
  HostMemory memory;
  char detail[256]; /* text of the last failure */
};

/* Notes why a call failed, and returns `status`. */
Status reference_fail (Stream *s, Status status, const char *format, ...)
    __attribute__ ((format (printf, 3, 4)));

/* A copy of a tensor of any floating type as F32, to be freed with host_free. */
Status reference_widen (Stream *s, const Tensor *tensor, float **out);

/* The entries of ops_reference that are not in ops.c; see kernels.h. */
Status
reference_attention (Stream *s, const Tensor *qkv, int n_q, int n_kv, bool causal, Tensor *out);
Status reference_qk_norm_rope (Stream *s, Tensor *qkv, int n_q, int n_kv, const Tensor *q_weight,
                               const Tensor *k_weight, float eps, const Tensor *table,
                               RopePairing pairing);
Status reference_group_norm (Stream *s, const Tensor *x, const Tensor *weight, const Tensor *bias,
                             int groups, float eps, bool silu, Tensor *out);
Status reference_group_moments (Stream *s, const Tensor *x, int groups, float eps, Tensor *moments);
Status reference_group_norm_by (Stream *s, const Tensor *x, const Tensor *moments,
                                const Tensor *weight, const Tensor *bias, bool silu, Tensor *out);
Status reference_conv_prepare (Stream *s, const ConvSource *source, Conv **out);
uint64_t reference_conv_bytes (const ConvSource *source);
Status reference_conv2d (Stream *s, const Conv *conv, const Tensor *x, const Tensor *residual,
                         Tensor *out);
void reference_conv_release (Stream *s, Conv *conv);
