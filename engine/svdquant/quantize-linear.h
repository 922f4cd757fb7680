/* SPDX-License-Identifier: Apache-2.0
 *
 * quantize-linear.h - one dense linear as SVDQuant
 *
 * The recipe of spec svdquant 4.3: smoothing factors, low-rank factors refined in turn with the
 * rounding, and the residual rounded plainly or by GPTQ. Without inputs the judge is the weight's
 * own error; with inputs it is the output's, activations quantised as the kernels do.
 */
#pragma once

#include "engine/svdquant/factor.h"
#include "engine/svdquant/rounding.h"

#include <gio/gio.h>

G_BEGIN_DECLS

typedef enum
{
  QUANTIZE_DATA_FREE,  /* level 0 */
  QUANTIZE_CALIBRATED, /* level 1: smoothing and refinement judged on outputs */
  QUANTIZE_GPTQ,       /* level 2: and GPTQ on the residual */
} QuantizeLevel;

typedef struct
{
  SvdqFormat format;
  int rank;
  QuantizeLevel level;
} QuantizeSettings;

typedef struct
{
  int64_t n, k;
  const float *weight; /* [N, K] */
  const float *inputs; /* [M, K] raw inputs to learn from; NULL at level 0 */
  const float *held;   /* [H, K] inputs to judge by only; NULL = none */
  int64_t n_inputs, n_held;
} QuantizeProblem;

/* Relative errors, root of squares over root of squares. */
typedef struct
{
  double weight; /* of the weight that the layer stands for */
  double output; /* of the outputs on held-out inputs; NAN without */
} QuantizeError;

typedef struct
{
  SvdqSource source; /* into the members below; `outer` is NULL */
  Factors *factors;
  Rounded *rounded;
  uint16_t *smooth; /* [K] BF16 */
  double alpha, beta;
  int refinements;
  /* Rounding to nearest with a low-rank branch and no more; after the choice of smoothing; after
   * refinement; at the end. */
  QuantizeError plain, smoothed, refined, final;
} QuantizeResult;

/* (transfer full: quantize_result_free). NULL with ENGINE_ERROR_MEMORY, ENGINE_ERROR_MODEL for
 * weights or inputs that are not finite, or G_IO_ERROR_CANCELLED. */
QuantizeResult *quantize_linear (const QuantizeProblem *problem, const QuantizeSettings *settings,
                                 GCancellable *cancellable, GError **error);
void quantize_result_free (QuantizeResult *self); /* NULL is a no-op */

G_DEFINE_AUTOPTR_CLEANUP_FUNC (QuantizeResult, quantize_result_free)

G_END_DECLS
