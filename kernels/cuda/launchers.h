/* SPDX-License-Identifier: Apache-2.0
 *
 * launchers.h - the heavy kernels of the CUDA backend, as its other files call them
 *
 * Launchers: device pointers and sizes in, work queued on the stream's compute queue. All sums
 * are FP32, all results BF16 or, on sm_75, FP16. Pointers are aligned to 16 bytes and rows are
 * dense.
 */
#pragma once

#include "kernels/kernels.h"

KERNELS_BEGIN_DECLS

/* The compute capability that the wgmma kernels run on; no card's in a build without 90a, where
 * their code is empty and an sm_90 card takes the kernels of sm_80. */
#ifdef HAVE_SM90A
#define WGMMA_SM 90
#else
#define WGMMA_SM -1
#endif

/* The first compute capabilities that the kernels of each type run on; no card's where the build
 * has none of that type. */
#ifdef HAVE_SM80
#define FIRST_BF16_SM 80
#else
#define FIRST_BF16_SM INT32_MAX
#endif
#ifdef HAVE_SM75
#define FIRST_F16_SM 75
#else
#define FIRST_F16_SM INT32_MAX
#endif

/* y [m, n] = x [m, k] w^T + bias, w [n, k]; x, w, y of the activations' type, bias [n] F32 or NULL.
 * n and k are multiples of 8, m >= 1.
 * With swiglu, w is interleaved (gemm_interleave) and y [m, n / 2] = silu(x w1^T) * (x w3^T);
 * n is then a multiple of 16.
 * FP16 alone: y may be F32 (`wide`), x comes and swiglu's y goes as kernels.h says. */
typedef struct
{
  const void *x, *w;
  const float *bias;
  void *y;
  int64_t m, n, k;
  bool swiglu;
  bool wide, after_swiglu; /* FP16: y is F32; x is times SWIGLU_F16_SCALE */
  /* What is added to the same sums, before bias and swiglu: low [m, rank] up [n, rank]^T, up in the
   * order of w's rows. rank is a multiple of 16, on sm_90 of 64; 0 = nothing. */
  const void *low, *up;
  int64_t rank;
} Gemm;

/* What FP16's sums are to be multiplied by. */
static inline float
gemm_factor (const Gemm *g)
{
  return g->after_swiglu ? 1.0f / SWIGLU_F16_SCALE : 1.0f;
}

/* The best product for the stream's device: all that a caller needs. */
Status gemm (Stream *s, const Gemm *g);

/* The products there are. sm90: wgmma; `variant` -1 picks a tile, others name one, for tests and
 * benchmark (gemm_sm90_variant_name gives NULL behind the last). sm80: mma.sync, sm_80 up. sm75:
 * the same in FP16. few_rows: either type, m up to GEMM_FEW_ROWS, without `low`, at the speed of
 * reading w. */
#define GEMM_FEW_ROWS 16
Status gemm_sm90 (Stream *s, const Gemm *g, int variant);
const char *gemm_sm90_variant_name (int variant);
bool gemm_sm90_variant_has_swiglu (int variant);
Status gemm_sm80 (Stream *s, const Gemm *g);
Status gemm_sm75 (Stream *s, const Gemm *g);
Status gemm_few_rows (Stream *s, const Gemm *g);

/* `product` with x and w in E4M3, times powers of two of its rows, plus a low-rank branch:
 *   sums [m, n] = x_scale[m] w_scale[n] (x w^T + low_x low_w^T) + bias, then swiglu if asked for.
 * k is a multiple of 16. sm_90 only; variants as above. */
#define LOW_RANK_PITCH(rank) (((rank) + 63) / 64 * 64)

typedef struct
{
  Gemm product;
  const float *x_scale, *w_scale; /* [m], [n] */
  const void *low_x, *low_w; /* BF16 [m, pitch], [n, pitch], divided by the scales; zeros behind
                                `rank`, pitch = LOW_RANK_PITCH: a box partly outside is slow */
  int rank;                  /* a multiple of 16; 0 = none */
  int64_t stride;            /* of rows of y, in numbers; 0 = dense */
} ScaledGemm;

Status gemm_e4m3_sm90 (Stream *s, const ScaledGemm *g, int variant);
const char *gemm_e4m3_sm90_variant_name (int variant);

/* The same by two warpgroups in turn, one writing its tile while the other multiplies. */
Status gemm_turns_sm90 (Stream *s, const ScaledGemm *g, int variant);
const char *gemm_turns_sm90_variant_name (int variant);

/* Rows [w1; w3] of `from` [2 f, k] -> `to`, in turn 8 rows of w1 and 8 rows of w3: the order
 * that lets one thread hold both factors of an output. f and k are multiples of 8. */
#define INTERLEAVE_ROWS 8 /* the columns of an mma tile */
Status gemm_interleave (Stream *s, const void *from, void *to, int64_t f, int64_t k);

/* softmax(q k^T / sqrt(d)) v on qkv [m, n_q + 2 n_kv, d] -> out [m, n_q d]: Ops.attention. */
typedef struct
{
  const void *qkv;
  void *out;
  int64_t m;
  int n_q, n_kv, d;
  bool causal;
} Attention;

/* sm90: wgmma, d 64 or 128; variants as above. mma: either type, d up to 128; wide: up to 512. */
Status attention_sm90 (Stream *s, const Attention *a, int variant);
const char *attention_sm90_variant_name (int variant);
int attention_sm90_variant_dim (int variant);
Status attention_mma (Stream *s, const Attention *a);
Status attention_wide (Stream *s, const Attention *a);
/* wgmma, d 512 and not causal. */
Status attention_wide_sm90 (Stream *s, const Attention *a);

/* The best of them: the entry of Ops. */
Status cuda_attention (Stream *s, const Tensor *qkv, int n_q, int n_kv, bool causal, Tensor *out);

KERNELS_END_DECLS
