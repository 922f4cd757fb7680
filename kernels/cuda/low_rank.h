/* SPDX-License-Identifier: Apache-2.0
 *
 * low_rank.h - layers to which LoRA files add, as products on the card take it
 *
 * y += low up^T with low = x down^T. The first is more K of the product that makes y, in the same
 * sums, so that nothing reads or writes y once more. The second of a dense layer (Gemm.low) reads x
 * once and writes few columns, to the workspace. A 4-bit layer has such a branch of its own: there
 * both pairs of factors are laid together before each product, a few megabytes that stay in L2, so
 * that neither quantising nor products know of it.
 */
#pragma once

#include "kernels/cuda/launchers.h"

KERNELS_BEGIN_DECLS

/* Rows whose `low` the workspace holds, for products that take all rows at once otherwise: a
 * picture of 2048 x 2048 and its caption. */
#define LOW_RANK_ROWS 18432

/* Of the activations' type, device. */
typedef struct
{
  int64_t rank;    /* 0: nothing is added */
  void *down, *up; /* [rank, k], and behind it [n, rank] in the order of the layer's rows */
} LowRank;

/* Bytes of both factors, and their places in a block of so many. */
size_t low_rank_bytes (int64_t n, int64_t k, int64_t rank);
LowRank low_rank_at (void *memory, int64_t k, int64_t rank);

/* Bytes of `low` for m rows. */
size_t low_rank_input_bytes (int64_t m, int64_t rank);

/* For LinearBackend.adapt: a layer with the numbers of `pair`, *out (transfer full), whose `of` is
 * base; `workspace`: bytes that its products take. Any backend's release and apply get it, too.
 * STATUS_UNSUPPORTED for factors of other sizes, or a rank that is no multiple of adapt_unit. */
Status low_rank_adapt (Stream *s, const Linear *base, const LowRankPair *pair, size_t workspace,
                       Linear **out);
void low_rank_release (Stream *s, Linear *adapted);

/* What is added to it, borrowed; nothing if it is not adapted. */
LowRank low_rank_of (const Linear *linear);

/* out = rows of a_bytes of `a` and b_bytes of `b`, multiples of 16, side by side. */
Status low_rank_join (Stream *s, const void *a, size_t a_bytes, const void *b, size_t b_bytes,
                      int64_t rows, void *out);

/* `g` by `product`, with what the layer adds; `low` is at the begin of the workspace, which has
 * room for LOW_RANK_ROWS rows: more go in slabs. */
typedef Status (*GemmProduct) (Stream *s, const Gemm *g);
Status low_rank_gemm (Stream *s, const Linear *adapted, const Gemm *g, GemmProduct product);

KERNELS_END_DECLS
