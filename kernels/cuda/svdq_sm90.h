/* SPDX-License-Identifier: Apache-2.0
 *
 * svdq_sm90.h - the kernels of SVDQuant linears on sm_90, as other files call them
 *
 * Two ways to run a 4-bit layer on a card without 4-bit arithmetic (spec svdquant 5.6). "Fast":
 * weights and activations in E4M3, a power of two a row; less exact than the file asks for in form,
 * closer to the unquantised layer in numbers. "Exact": codes of level L1 on both sides, multiplied
 * with their scales in FP16, where every such product is exact. All pointers are the device's.
 */
#pragma once

#include "kernels/cuda/launchers.h"
#include "kernels/cuda/svdq.h"

KERNELS_BEGIN_DECLS

#define SVDQ_SM90_MOST_K 10240

/* What activations become. */
typedef enum
{
  SVDQ_CODES_E4M3,      /* fast: E4M3 of x / smooth / scale */
  SVDQ_CODES_INT4_F16,  /* exact: FP16, L1 code * group scale / scale */
  SVDQ_CODES_NVFP4_F16, /* exact: FP16, L1 code * group scale */
} SvdqCodes;

/* x [m, k] BF16 -> codes [m, k] and a power of two a row; and low [m, LOW_RANK_PITCH] BF16 =
 * bf16 (x proj_down), with zeros behind `rank`, for E4M3 divided by the row's power. k is a
 * multiple of 64, at most 10240. */
typedef struct
{
  SvdqCodes kind;
  int m, k, rank;
  const void *x;
  const void *inverse;   /* [k / 2, 2] words, svdq_split_inverse; unused for E4M3 */
  const void *smooth;    /* [k] BF16; for E4M3 the inverse, svdq_transcode_e4m3 */
  const void *proj_down; /* svdq_low_rank_fragments; unused for rank 0 */
  void *codes;           /* E4M3 or FP16 */
  float *scale;          /* [m]; NULL, but not for E4M3: not wanted */
  void *low;             /* [m, LOW_RANK_PITCH (rank)] BF16 */
} SvdqQuantise;

/* E4M3, of any rank. A row's scale is its own, or 2^E4M3_HEADROOM times that of its first numbers
 * if that is greater: 64 SVDQ_E4M3_WARPS of them, above rank 32 64 SVDQ_E4M3_FEW_WARPS. */
#define SVDQ_E4M3_WARPS     15
#define SVDQ_E4M3_FEW_WARPS 7
#define E4M3_HEADROOM       4
Status svdq_quantise_e4m3_sm90 (Stream *s, const SvdqQuantise *q);

/* The kinds that are exact: of ranks up to SVDQ_CODES_RANK, and of those above, which take pairs of
 * blocks. INT4's rows have one scale, 2^INT4_EXPONENT, where it leaves every product of a code and
 * its group's scale exact: the sums that come of them are the same. */
#define SVDQ_CODES_RANK 32
#define INT4_EXPONENT   (-3)
Status svdq_quantise_codes_sm90 (Stream *s, const SvdqQuantise *q);
Status svdq_quantise_pairs_sm90 (Stream *s, const SvdqQuantise *q);

/* By the one of these that takes q. */
static inline Status
svdq_quantise_sm90 (Stream *s, const SvdqQuantise *q)
{
  if (q->kind == SVDQ_CODES_E4M3)
    return svdq_quantise_e4m3_sm90 (s, q);
  return q->rank <= SVDQ_CODES_RANK ? svdq_quantise_codes_sm90 (s, q)
                                    : svdq_quantise_pairs_sm90 (s, q);
}

/* 1 / smooth [k] F32, as SvdqWeights has it -> [k / 2, 2] words: for each two neighbours one of
 * their nearest BF16, and one of what those lack; NaN for inverses beyond 2^100 either way. k is
 * even. */
Status svdq_split_inverse (Stream *s, const float *inverse, int64_t k, void *out);

/* proj_down [rank, k] BF16 -> the order in which these read it, as many bytes. */
Status
svdq_low_rank_fragments (Stream *s, const void *proj_down, int64_t k, int rank, void *fragments);

/* w, without its proj_down, as ScaledGemm takes it: out [n, k] E4M3 of code * scale * outer /
 * scale, scale [n] a power of two, up [n, rank] = proj_up / scale. */
Status svdq_transcode_e4m3 (Stream *s, const SvdqWeights *w, void *out, float *scale, void *up,
                            void *inverse);

/* w, likewise, as CodesGemm takes it: svdq_codes_bytes of codes and scales, scale [n] what its sums
 * are multiplied by, up [n, rank] in fragments. */
size_t svdq_codes_bytes (SvdqFormat format, int64_t n, int64_t k);
Status svdq_codes_pack (Stream *s, const SvdqWeights *w, void *codes, float *scale, void *up);

/* proj_up [n, rank] BF16 -> the order in which CodesGemm reads it, as many bytes. */
Status svdq_up_fragments (Stream *s, const void *proj_up, int64_t n, int rank, void *fragments);

/* Fragments of either factor are rows of so many bytes, of 64 k or n; 16 ranks lie together. */
#define SVDQ_FRAGMENT_BYTES(rank) ((size_t)(rank)*64 * 2)

/* ScaledGemm's low_w of two pairs of factors: own [n, pitch of own_rank], divided by scale already,
 * and added [n, added_rank], which is not, -> out [n, pitch of both]. */
Status svdq_join_scaled (Stream *s, const void *own, int own_rank, const void *added,
                         int added_rank, const float *scale, int64_t n, void *out);

/* y [m, n] = (x [m, k] w^T) x_scale[m] w_scale[n] + low_x [m, rank] up^T + bias, w in blocks of
 * 4-bit codes and scales; y BF16. With swiglu as Gemm. */
typedef struct
{
  SvdqFormat format;
  const void *x;                  /* FP16 */
  const void *codes;              /* svdq_codes_pack */
  const float *x_scale, *w_scale; /* [m], NULL = 1; [n] */
  const void *low_x, *up;         /* BF16 [m, LOW_RANK_PITCH]; fragments, svdq_codes_pack */
  const float *bias;              /* [n] or NULL */
  void *y;
  int64_t stride; /* of rows of y, in numbers; a multiple of 8 */
  int64_t m, n, k;
  int rank;
  bool swiglu;
} CodesGemm;

Status gemm_codes_sm90 (Stream *s, const CodesGemm *g, int variant);
const char *gemm_codes_sm90_variant_name (int variant);

KERNELS_END_DECLS
