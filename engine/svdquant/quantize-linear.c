/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/svdquant/quantize-linear.h"

#include "engine/engine.h"
#include "engine/svdquant/gptq.h"
#include "engine/svdquant/judge.h"
#include "engine/svdquant/matrix.h"
#include "kernels/svdq-math.h"

#include <math.h>
#include <string.h>

#define GRID              20   /* steps of the exponents' grid (spec 4.1) */
#define ITERATIONS        3    /* power iterations of a factorisation from nothing */
#define SEARCH_ITERATIONS 1    /* while candidates are compared */
#define REFINEMENTS       8    /* at most */
#define FREE_REFINEMENTS  5    /* at level 0 */
#define ACTIVATION_LIMIT  2000 /* of |x / s| for NVFP4, whose scales end at 448 6 = 2688 */

typedef struct
{
  const QuantizeProblem *problem;
  const QuantizeSettings *settings;
  GCancellable *cancellable;
  QuantizeResult *result;
  Judge *judge;
  float *column_max; /* [K] greatest |W| of each column */
  float *input_max;  /* [K] greatest |x|; NULL at level 0 */
  float *smooth;     /* [K] */
  float *what;       /* [N, K] W diag (s) */
  float *residual;   /* [N, K] */
  float *expanded;   /* [N, K] what the codes stand for */
} Work;

/* -- smoothing -------------------------------------------------------------------------------- */

static void
greatest_by_column (const float *values, int64_t rows, int64_t k, float *out)
{
  memset (out, 0, (size_t)k * sizeof *out);
  for (int64_t row = 0; row < rows; row++)
    for (int64_t i = 0; i < k; i++)
      out[i] = MAX (out[i], fabsf (values[row * k + i]));
}

/* s = a^alpha / w^beta, scaled to a geometric mean of 1 and clipped where there are no inputs to
 * judge by; as it will be stored, in BF16. */
static void
set_smooth (Work *work, double alpha, double beta)
{
  int64_t k = work->problem->k;
  double mean = 0.0, widest = 0.0;
  gboolean good = TRUE;

  for (int64_t i = 0; i < k; i++)
    {
      double a = work->input_max != NULL ? work->input_max[i] : 1.0;
      double s = pow (a, alpha) / pow (work->column_max[i], beta);

      work->smooth[i] = s > 0.0 ? (float)s : 1.0f;
      good = good && isfinite (work->smooth[i]);
      mean += log (work->smooth[i]) / (double)k;
    }
  for (int64_t i = 0; i < k; i++)
    {
      double s = good ? work->smooth[i] * exp (-mean) : 1.0;

      if (work->input_max == NULL)
        s = CLAMP (s, 0.25, 4.0);
      else
        widest = MAX (widest, work->input_max[i] / s);
      work->smooth[i] = (float)s;
    }
  if (work->settings->format == SVDQ_NVFP4 && widest > ACTIVATION_LIMIT)
    for (int64_t i = 0; i < k; i++)
      work->smooth[i] *= (float)(widest / ACTIVATION_LIMIT);
  for (int64_t i = 0; i < k; i++)
    {
      work->result->smooth[i] = bf16_from_float (work->smooth[i]);
      work->smooth[i] = bf16_to_float (work->result->smooth[i]);
    }
  for (int64_t n = 0; n < work->problem->n; n++)
    for (int64_t i = 0; i < k; i++)
      work->what[n * k + i] = work->problem->weight[n * k + i] * work->smooth[i];
  work->result->factors->has_basis = FALSE;
}

/* -- one state of the layer ------------------------------------------------------------------- */

static void
round_residual (Work *work, gboolean search)
{
  Rounded *rounded = work->result->rounded;

  factors_subtract (work->result->factors, work->what, work->smooth, work->residual);
  rounded_choose_scales (rounded, work->residual, search);
  rounded_choose_codes (rounded, work->residual);
  rounded_expand (rounded, work->expanded);
}

/* What the search goes by: output error on the inputs, or weight error without. */
static double
cost (Work *work)
{
  return judge_cost (work->judge, work->result->factors, work->smooth, work->residual,
                     work->expanded);
}

static QuantizeError
measure (Work *work)
{
  return judge_error (work->judge, work->result->factors, work->smooth, work->residual,
                      work->expanded);
}

/* -- stages ----------------------------------------------------------------------------------- */

static double
try_smooth (Work *work, double alpha, double beta)
{
  set_smooth (work, alpha, beta);
  factors_fit (work->result->factors, work->what, work->smooth, SEARCH_ITERATIONS);
  round_residual (work, FALSE);
  return cost (work);
}

typedef struct
{
  double alpha, beta, cost;
} Choice;

static void
consider (Work *work, Choice *best, double alpha, double beta)
{
  double found;

  if (g_cancellable_is_cancelled (work->cancellable))
    return;
  found = try_smooth (work, alpha, beta);
  if (found < best->cost)
    *best = (Choice){ alpha, beta, found };
}

/* 39 candidates with inputs; without, none or the weights' own span (spec 4.1, 4.2). */
static void
choose_smooth (Work *work)
{
  Choice best = { 0.0, 0.0, INFINITY };

  consider (work, &best, 0.0, 0.0);
  if (work->settings->level == QUANTIZE_DATA_FREE)
    {
      if (work->settings->format == SVDQ_INT4)
        consider (work, &best, 0.0, 0.5);
    }
  else
    for (int i = 1; i < GRID; i++)
      {
        consider (work, &best, (double)i / GRID, 0.0);
        consider (work, &best, (double)i / GRID, 1.0 - (double)i / GRID);
      }
  work->result->alpha = best.alpha;
  work->result->beta = best.beta;
  set_smooth (work, best.alpha, best.beta);
  factors_fit (work->result->factors, work->what, work->smooth, ITERATIONS);
  round_residual (work, FALSE);
}

typedef struct
{
  uint16_t *down, *up;
} Saved;

static void
save (const Factors *factors, Saved *saved)
{
  memcpy (saved->down, factors->down, (size_t)(factors->k * factors->rank) * sizeof (uint16_t));
  memcpy (saved->up, factors->up, (size_t)(factors->n * factors->rank) * sizeof (uint16_t));
}

static void
restore (Factors *factors, const Saved *saved)
{
  memcpy (factors->down, saved->down, (size_t)(factors->k * factors->rank) * sizeof (uint16_t));
  memcpy (factors->up, saved->up, (size_t)(factors->n * factors->rank) * sizeof (uint16_t));
}

/* Factors what rounding leaves, in turn with rounding, while it helps. */
static void
refine (Work *work)
{
  Factors *factors = work->result->factors;
  int64_t count = work->problem->n * work->problem->k;
  int most = work->settings->level == QUANTIZE_DATA_FREE ? FREE_REFINEMENTS : REFINEMENTS;
  Saved best = { g_new (uint16_t, (gsize)(factors->k * factors->rank)),
                 g_new (uint16_t, (gsize)(factors->n * factors->rank)) };
  double least;

  round_residual (work, TRUE);
  least = cost (work);
  save (factors, &best);
  for (int i = 0; i < most && !g_cancellable_is_cancelled (work->cancellable); i++)
    {
      double found;

#pragma omp parallel for
      for (int64_t j = 0; j < count; j++)
        work->residual[j] = work->what[j] - work->expanded[j];
      factors_fit (factors, work->residual, work->smooth, 1);
      round_residual (work, TRUE);
      found = cost (work);
      if (!(found < least))
        break;
      least = found;
      work->result->refinements = i + 1;
      save (factors, &best);
    }
  restore (factors, &best);
  round_residual (work, TRUE);
  g_free (best.down);
  g_free (best.up);
}

static double
verdict (Work *work)
{
  return work->problem->n_held > 0 ? measure (work).output : cost (work);
}

/* GPTQ, kept only if it does no worse on inputs that it was not made for, where there are any. */
static gboolean
compensate (Work *work, GError **error)
{
  int64_t k = work->problem->k;
  Rounded *rounded = work->result->rounded;
  gsize bytes = (gsize)(rounded->n * k / 2);
  g_autofree float *hessian = g_try_new (float, (gsize)(k * k));
  g_autofree uint8_t *before = g_memdup2 (rounded->qweight, bytes);
  double least = verdict (work);

  if (hessian == NULL)
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MEMORY,
                   "no memory for a matrix of %" G_GINT64_FORMAT " x %" G_GINT64_FORMAT, (gint64)k,
                   (gint64)k);
      return FALSE;
    }
  judge_hessian (work->judge, work->smooth, hessian);
  if (gptq_choose_codes (rounded, work->residual, hessian, work->problem->n_inputs))
    {
      rounded_expand (rounded, work->expanded);
      factors_subtract (work->result->factors, work->what, work->smooth, work->residual);
      if (verdict (work) <= least)
        return TRUE;
    }
  memcpy (rounded->qweight, before, bytes);
  factors_subtract (work->result->factors, work->what, work->smooth, work->residual);
  rounded_expand (rounded, work->expanded);
  return TRUE;
}

static gboolean
run_stages (Work *work, GError **error)
{
  QuantizeResult *result = work->result;

  set_smooth (work, 0.0, 0.0);
  factors_fit (result->factors, work->what, work->smooth, ITERATIONS);
  round_residual (work, FALSE);
  result->plain = measure (work);
  choose_smooth (work);
  result->smoothed = measure (work);
  refine (work);
  result->refined = measure (work);
  if (g_cancellable_set_error_if_cancelled (work->cancellable, error))
    return FALSE;
  if (work->settings->level == QUANTIZE_GPTQ && !compensate (work, error))
    return FALSE;
  result->final = measure (work);
  return TRUE;
}

/* -- life ------------------------------------------------------------------------------------- */

void
quantize_result_free (QuantizeResult *self)
{
  if (self == NULL)
    return;
  factors_free (self->factors);
  rounded_free (self->rounded);
  g_free (self->smooth);
  g_free (self);
}

static QuantizeResult *
result_new (const QuantizeProblem *problem, const QuantizeSettings *settings)
{
  QuantizeResult *self = g_new0 (QuantizeResult, 1);

  self->factors = factors_new (problem->n, problem->k, settings->rank);
  self->rounded = rounded_new (settings->format, problem->n, problem->k);
  self->smooth = g_new (uint16_t, (gsize)problem->k);
  self->source = (SvdqSource){ .format = settings->format,
                               .rank = settings->rank,
                               .qweight = self->rounded->qweight,
                               .wscales = self->rounded->wscales,
                               .smooth = self->smooth,
                               .proj_down = self->factors->down,
                               .proj_up = self->factors->up };
  return self;
}

static void
work_clear (Work *work)
{
  judge_free (work->judge);
  g_free (work->column_max);
  g_free (work->input_max);
  g_free (work->smooth);
  g_free (work->what);
  g_free (work->residual);
  g_free (work->expanded);
}

static gboolean
work_init (Work *work, GError **error)
{
  const QuantizeProblem *p = work->problem;
  gsize count = (gsize)(p->n * p->k);

  work->column_max = g_new (float, (gsize)p->k);
  work->smooth = g_new (float, (gsize)p->k);
  work->what = g_try_new (float, count);
  work->residual = g_try_new (float, count);
  work->expanded = g_try_new (float, count);
  work->judge = judge_new (p, work->settings->format);
  if (work->what == NULL || work->residual == NULL || work->expanded == NULL || work->judge == NULL)
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MEMORY,
                   "no memory to quantise a linear layer of %" G_GINT64_FORMAT
                   " x %" G_GINT64_FORMAT,
                   (gint64)p->n, (gint64)p->k);
      return FALSE;
    }
  greatest_by_column (p->weight, p->n, p->k, work->column_max);
  if (work->settings->level != QUANTIZE_DATA_FREE)
    {
      work->input_max = g_new (float, (gsize)p->k);
      greatest_by_column (p->inputs, p->n_inputs, p->k, work->input_max);
    }
  return TRUE;
}

static gboolean
all_finite (const float *values, int64_t count)
{
  gboolean good = TRUE;

  for (int64_t i = 0; i < count; i++)
    good &= isfinite (values[i]) != 0;
  return good;
}

QuantizeResult *
quantize_linear (const QuantizeProblem *problem, const QuantizeSettings *settings,
                 GCancellable *cancellable, GError **error)
{
  g_autoptr (QuantizeResult) result = NULL;
  Work work = { .problem = problem, .settings = settings, .cancellable = cancellable };
  gboolean good;

  if (!all_finite (problem->weight, problem->n * problem->k)
      || (problem->inputs != NULL && !all_finite (problem->inputs, problem->n_inputs * problem->k)))
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                   "a weight or an input is infinite or NaN");
      return NULL;
    }
  result = result_new (problem, settings);
  work.result = result;
  good = work_init (&work, error) && run_stages (&work, error);
  work_clear (&work);
  return good ? g_steal_pointer (&result) : NULL;
}
