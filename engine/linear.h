/* SPDX-License-Identifier: Apache-2.0
 *
 * linear.h - which hardware gets which way to run a linear layer
 *
 * The only place that knows. The table in linear.c is ordered best first; the first backend whose
 * `supports` says yes is taken (spec svdquant 5.8).
 */
#pragma once

#include "engine/context.h"

G_BEGIN_DECLS

/* The backend for this device, or NULL when there is none. `svdq` NULL: dense weights. */
const LinearBackend *
linear_choose (const DeviceCaps *caps, const StreamOptions *options, const SvdqFormat *svdq);

/* The same for weights in codes of 8 or 4 bit (kernels/weight-codes.h). */
const LinearBackend *linear_choose_coded (const DeviceCaps *caps, const StreamOptions *options);

/* How this device runs dense weights (`svdq` NULL) or an SVDQuant file type: by instructions of its
 * own ("native"), by converting to what it has ("fall-back"), or not at all ("none"); and how fast
 * against dense 16 bit on the same device: "faster", "similar", "slower", or "" for none. Static
 * strings. (spec svdquant 5.8) */
typedef struct
{
  const char *backend; /* its name, or "" */
  const char *path, *speed;
} LinearSupport;

LinearSupport
linear_support (const DeviceCaps *caps, const StreamOptions *options, const SvdqFormat *svdq);

/* "fast" or "exact" for the name of a backend of SVDQuant files, "" for others: a name may be that
 * of another build's. Static string. */
const char *linear_arithmetic (const char *backend);

/* What the layer takes of the device that `ctx` is about, from its shape alone (LinearBackend's
 * measure); all zero where nothing can run it. */
LinearMemory linear_measure (const Context *ctx, const LinearSource *source);

/* The ranks of a pair of factors for this layer, padded as its backend wants them; 0: it cannot
 * adapt it at all. Of dry layers, too. */
int64_t linear_adapted_rank (const Linear *linear, int64_t ranks);

/* What the layer, of a dry context, takes besides with a pair of so many ranks, of which
 * `workspace` is the whole; no `weights`: linear_adapt will be STATUS_UNSUPPORTED. */
LinearMemory linear_measure_adapted (const Linear *linear, int64_t ranks);

/* `base` and what `pair` adds as one layer, (transfer full): linear_free. Reads base's weights. */
Status linear_adapt (const Context *ctx, const Linear *base, const LowRankPair *pair, Linear **out);

/* Brings a layer to the device, (transfer full): linear_free. On a dry context it only has a size.
 */
Status linear_new (const Context *ctx, const LinearSource *source, Linear **out);
void linear_free (const Context *ctx, Linear *linear); /* NULL is a no-op */

/* Several layers on the same input as one, whose outputs lie side by side: files that quantise q, k
 * and v each for itself. Takes over `parts`, also on failure. A backend without apply_columns is
 * STATUS_UNSUPPORTED. */
Status linear_stack (const Context *ctx, Linear *const *parts, int n_parts, Linear **out);

/* out [M, N] = x [M, K] W^T + bias. On a dry context nothing is read. */
Status linear_apply (const Context *ctx, const Linear *linear, const Tensor *x, Tensor *out);

/* qkv [M, n_q + 2 n_kv, d]: linear_apply, then norm and rotation of q and k (Ops.qk_norm_rope), in
 * one pass where the backend has one. */
Status linear_apply_heads (const Context *ctx, const Linear *linear, const Tensor *x,
                           const HeadNorm *norm, Tensor *qkv);

/* Where a norm of `linear`'s input [M, K] goes, Ops.rms_norm's or residual_norm's `out`: `a`, or,
 * if the layer makes the norm itself on reading x, its factors at the begin of a's memory. */
Tensor linear_normed (const Context *ctx, const Linear *linear, const Tensor *a);

/* linear_apply, linear_apply_heads unless `heads` is NULL, or linear_apply_swiglu if out is half as
 * wide, to the norm of x [M, K] that was left in linear_normed (a). */
Status linear_apply_normed (const Context *ctx, const Linear *linear, const Tensor *x,
                            const Tensor *a, const HeadNorm *heads, Tensor *out);

/* out [M, F] = silu (w1 x) * (w3 x) for a layer of N = 2F made with `swiglu`; takes an [M, 2F]
 * buffer from the arena, and gives it back, unless the backend fuses it. All three add what the
 * layer's adapter does, if it has one. */
Status linear_apply_swiglu (const Context *ctx, const Linear *linear, const Tensor *x, Tensor *out);

G_END_DECLS
