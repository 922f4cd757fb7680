/* SPDX-License-Identifier: Apache-2.0
 *
 * svdq.h - SVDQuant linears on the card: what their kernels read, and the steps they share
 *
 *   y [M, N] = Qa(x / smooth) Qw^T outer + bf16(x proj_down) proj_up^T + bias
 *
 * Roundings are those of level L1 (spec svdquant 8.3). A linear runs in two steps: `svdq_quantise`
 * turns x into codes, scales and the low-rank input, then a product (SvdqProduct) of the path at
 * hand makes y of them. N and K are multiples of 64, the rank one of 16 (0 = no low-rank branch).
 * All pointers are device memory, aligned to 256 bytes; numbers of 16 bits are BF16 bits.
 * "half" is BF16, or FP16 where that is what activations are stored in (svdquant.md, sm_75).
 */
#pragma once

#include "kernels/kernels.h"

KERNELS_BEGIN_DECLS

/* -- weights ---------------------------------------------------------------------------------- */

/* Weights as a file has them but for three orders:
 *  - with swiglu, the rows of qweight, proj_up, outer and bias, and the columns of wscales, are in
 *    turn 8 of w1 and 8 of w3 (gemm_interleave), so that one thread holds both factors;
 *  - NVFP4 scales of 64 k lie together, as the block-scaled mma takes them: one 32-bit word;
 *  - proj_down is transposed: a product reads it as it reads any weight. */
typedef struct
{
  SvdqFormat format;
  int64_t n, k;
  int rank;
  bool swiglu, has_outer, has_bias;
  uint64_t bytes; /* of `memory` */
  void *memory;   /* holds all below; the Linear's, that is base.memory */

  uint8_t *qweight;    /* [N, K/2]; low nibble = even k; two's complement, or E2M1 */
  void *wscales;       /* INT4: BF16 [K/64, N]; NVFP4: E4M3 [K/64, N, 4] */
  uint16_t *smooth;    /* [K] BF16; NVFP4: divided by `unit` */
  float *inverse;      /* [K] 1 / smooth, see svdq_quantise.cu */
  uint16_t *proj_down; /* [R, K] half; NULL without a low-rank branch */
  uint16_t *proj_up;   /* [N, R] half; NULL likewise */
  float *outer;        /* [N]; NULL = 1; NVFP4: divided by `unit` */
  float *bias;         /* [N]; NULL = 0 */
  float unit;          /* of the product, before the bias: what x was divided by, a power of two */
} SvdqWeights;

/* Brings source->svdq and its bias to the card, through the pinned ring and under the budget; waits
 * for it. On failure nothing is held. STATUS_UNSUPPORTED for sizes that do not fit. */
Status svdq_weights_load (Stream *s, const LinearSource *source, SvdqWeights *out);
void svdq_weights_free (Stream *s, SvdqWeights *w); /* an all-zero one is a no-op */

/* The same bytes lie at `memory` now; NULL: nowhere. (LinearBackend.move) */
void svdq_weights_move (SvdqWeights *w, void *memory);

/* What svdq_weights_load will take of the card: `loading` until it returns. */
void svdq_weights_measure (const LinearSource *source, SvdqWeights *w, LinearMemory *out);

/* -- activations ------------------------------------------------------------------------------ */

#define SVDQ_PITCH 128 /* rows of scales are padded to a multiple of this */

/* Quantised rows. What lies behind row m of a row of scales is arbitrary. */
typedef struct
{
  int64_t m, pitch; /* pitch: m rounded up to SVDQ_PITCH */
  uint8_t *codes;   /* [M, K/2], as qweight */
  void *scales;     /* INT4: BF16 [K/64, pitch]; NVFP4: E4M3 [K/64, pitch, 4] */
  uint16_t *lora;   /* [M, R] half: x proj_down; NULL without a low-rank branch */
} SvdqActivations;

/* Bytes that m quantised rows take in one block, and their places in the block at `memory`. */
size_t svdq_activations_bytes (const SvdqWeights *w, int64_t m);
SvdqActivations svdq_activations_in (const SvdqWeights *w, int64_t m, void *memory);

/* x [M, K] half -> a->codes, a->scales, a->lora. Sums of lora are FP32, of 16-bit products, in an
 * order that depends on M, K and R alone: equal input gives equal bits. */
Status svdq_quantise (Stream *s, const SvdqWeights *w, const void *x, const SvdqActivations *a);

/* The same of x times a factor of its row, [M], times one of its column, [K], rounded to half: what
 * a norm would have written. BF16 only. */
Status svdq_quantise_normed (Stream *s, const SvdqWeights *w, const void *x, const float *by_row,
                             const float *by_column, const SvdqActivations *a);

/* -- products --------------------------------------------------------------------------------- */

/* Norm and rotation of q and k on their way to y (Ops.qk_norm_rope, ROPE_INTERLEAVED), of heads of
 * SVDQ_HEAD numbers: N is n_q + 2 n_kv of them. */
#define SVDQ_HEAD 128

typedef struct
{
  const float *q_weight, *k_weight; /* [128] */
  const float *table;               /* [M, 64, 2] */
  float eps;
  int n_q, n_kv;
} SvdqHeads;

/* y + stride row [N, or N/2 with swiglu] = the linear on quantised rows; stride in numbers, a
 * multiple of 8; y half, or F32 if `wide`, which FP16 alone has beside it; aligned to 16 bytes. */
typedef struct
{
  const SvdqWeights *w;
  const SvdqActivations *a;
  void *y;
  int64_t stride;
  bool wide;
  const SvdqHeads *heads; /* NULL: outputs as they are; neither swiglu nor wide otherwise */
} SvdqGemm;

typedef Status (*SvdqProduct) (Stream *s, const SvdqGemm *g);

/* INT4 by 4-bit mma, sm_75 up: native on sm_75, 80, 86 and 89, emulated above. Without a low-rank
 * branch equal to L1 in every bit. _sm75: the one for FP16, to which the other passes it on. */
Status svdq_gemm_int4 (Stream *s, const SvdqGemm *g);
Status svdq_gemm_int4_sm75 (Stream *s, const SvdqGemm *g);

/* INT4 by 8-bit integer mma, sm_80 up, native everywhere: the same results. */
Status svdq_gemm_int8 (Stream *s, const SvdqGemm *g);

/* The compute capabilities that have the block-scaled instruction and code for it in this build:
 * that of 120a runs on sm_120 alone, that of 120f on its successors too. */
#if defined(HAVE_SM120F)
#define FP4_FIRST_SM 120
#define FP4_LAST_SM  129
#elif defined(HAVE_SM120A)
#define FP4_FIRST_SM 120
#define FP4_LAST_SM  120
#else
#define FP4_FIRST_SM 1
#define FP4_LAST_SM  0
#endif

/* NVFP4. fp4: by the block-scaled instruction. fp4_expanded: codes times scales in FP16, which is
 * exact, sm_75 up. Both within 2^-20 of the sum of all terms' magnitudes of L1, before rounding. */
Status svdq_gemm_fp4 (Stream *s, const SvdqGemm *g);
Status svdq_gemm_fp4_expanded (Stream *s, const SvdqGemm *g);
Status svdq_gemm_fp4_sm75 (Stream *s, const SvdqGemm *g);

/* -- linears ---------------------------------------------------------------------------------- */

/* What the LinearBackends have in common, but for the product. Rows of x pass through the stream's
 * workspace, in slabs when there are more than SVDQ_SLAB_ROWS. `apply` is the backend's
 * apply_columns with all of them. */
#define SVDQ_SLAB_ROWS 4608

Status svdq_linear_prepare (Stream *s, const LinearSource *source, const LinearBackend *backend,
                            SvdqProduct product, Linear **out);
Status svdq_linear_apply (Stream *s, const Linear *linear, const Tensor *x, Tensor *out);
Status svdq_linear_apply_columns (Stream *s, const Linear *linear, const Tensor *x, int64_t first,
                                  Tensor *out);
Status svdq_linear_apply_heads (Stream *s, const Linear *linear, const Tensor *x,
                                const HeadNorm *norm, Tensor *qkv);
Status svdq_linear_apply_normed (Stream *s, const Linear *linear, const Tensor *x,
                                 const Tensor *factors, const HeadNorm *heads, Tensor *out);
void svdq_linear_release (Stream *s, Linear *linear);
void svdq_linear_move (Linear *linear, void *memory);
void svdq_linear_measure (const LinearSource *source, LinearMemory *out);
Status svdq_linear_adapt (Stream *s, const Linear *base, const LowRankPair *pair, Linear **out);
void svdq_linear_measure_adapted (const LinearSource *source, int64_t rank, LinearMemory *out);

KERNELS_END_DECLS
