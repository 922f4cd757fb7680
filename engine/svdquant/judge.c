/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/svdquant/judge.h"

#include "engine/svdquant/matrix.h"
#include "kernels/svdq-math.h"

#include <math.h>
#include <string.h>

/* Rows that outputs are compared on; more only tell the same again. */
#define MAX_ROWS 256

/* Inputs, and what the dense layer makes of them. */
typedef struct
{
  float *x; /* [rows, K] */
  float *y; /* [rows, N] */
  int64_t rows;
  double norm; /* sum of squares of y */
} Trial;

struct _Judge
{
  const QuantizeProblem *problem;
  SvdqFormat format;
  double weight_norm;
  Trial learnt, held;
};

/* At most MAX_ROWS of `rows` rows, evenly spread. */
static gboolean
trial_init (Trial *self, const QuantizeProblem *p, const float *inputs, int64_t rows)
{
  self->rows = inputs != NULL ? MIN (rows, MAX_ROWS) : 0;
  if (self->rows == 0)
    return TRUE;
  self->x = g_try_new (float, (gsize)(self->rows * p->k));
  self->y = g_try_new (float, (gsize)(self->rows * p->n));
  if (self->x == NULL || self->y == NULL)
    return FALSE;
  for (int64_t i = 0; i < self->rows; i++)
    memcpy (self->x + i * p->k, inputs + i * rows / self->rows * p->k,
            (size_t)p->k * sizeof (float));
  matrix_multiply ('N', 'T', self->rows, p->n, p->k, 1.0f, self->x, p->k, p->weight, p->k, 0.0f,
                   self->y, p->n);
  self->norm = matrix_squares (self->y, NULL, self->rows * p->n);
  return TRUE;
}

Judge *
judge_new (const QuantizeProblem *problem, SvdqFormat format)
{
  Judge *self = g_new0 (Judge, 1);

  self->problem = problem;
  self->format = format;
  self->weight_norm = matrix_squares (problem->weight, NULL, problem->n * problem->k);
  if (trial_init (&self->learnt, problem, problem->inputs, problem->n_inputs)
      && trial_init (&self->held, problem, problem->held, problem->n_held))
    return self;
  judge_free (self);
  return NULL;
}

void
judge_free (Judge *self)
{
  if (self == NULL)
    return;
  g_free (self->learnt.x);
  g_free (self->learnt.y);
  g_free (self->held.x);
  g_free (self->held.y);
  g_free (self);
}

/* Sum of squares of (residual - expanded) / s. */
static double
weight_squares (const Judge *self, const float *smooth, const float *residual,
                const float *expanded)
{
  int64_t n = self->problem->n, k = self->problem->k;
  double sum = 0.0;

#pragma omp parallel for reduction(+ : sum)
  for (int64_t row = 0; row < n; row++)
    for (int64_t i = 0; i < k; i++)
      {
        double d = ((double)residual[row * k + i] - expanded[row * k + i]) / smooth[i];

        sum += d * d;
      }
  return sum;
}

/* One row divided by s, quantised and expanded again. */
static void
quantise_row (SvdqFormat format, const float *x, const float *smooth, int64_t k, float *out)
{
  int group = format == SVDQ_INT4 ? SVDQ_INT4_GROUP : SVDQ_NVFP4_GROUP;
  int8_t codes[SVDQ_INT4_GROUP];

  for (int64_t i = 0; i < k; i++)
    out[i] = svdq_smoothed (x[i], smooth[i]);
  for (int64_t first = 0; first < k; first += group)
    {
      float scale = format == SVDQ_INT4 ? svdq_quantise_int4 (out + first, codes)
                                        : 0.5f * svdq_quantise_nvfp4 (out + first, codes);

      for (int i = 0; i < group; i++)
        out[first + i] = scale * (float)codes[i];
    }
}

/* y += bf16 (bf16 (x) P_down) P_up^T */
static void
add_low_rank (const Trial *trial, const Factors *f, float *y)
{
  int64_t rank = f->rank;
  g_autofree float *factor = g_new (float, (gsize)(MAX (f->n, f->k) * rank));
  g_autofree float *rounded = g_new (float, (gsize)(trial->rows * f->k));
  g_autofree float *lowered = g_new (float, (gsize)(trial->rows * rank));

  for (int64_t i = 0; i < trial->rows * f->k; i++)
    rounded[i] = svdq_round_bf16 (trial->x[i]);
  for (int64_t i = 0; i < f->k * rank; i++)
    factor[i] = bf16_to_float (f->down[i]);
  matrix_multiply ('N', 'N', trial->rows, rank, f->k, 1.0f, rounded, f->k, factor, rank, 0.0f,
                   lowered, rank);
  for (int64_t i = 0; i < trial->rows * rank; i++)
    lowered[i] = svdq_round_bf16 (lowered[i]);
  for (int64_t i = 0; i < f->n * rank; i++)
    factor[i] = bf16_to_float (f->up[i]);
  matrix_multiply ('N', 'T', trial->rows, f->n, rank, 1.0f, lowered, rank, factor, rank, 1.0f, y,
                   f->n);
}

static double
output_squares (const Judge *self, const Trial *trial, const Factors *factors, const float *smooth,
                const float *expanded)
{
  int64_t n = self->problem->n, k = self->problem->k;
  g_autofree float *x = g_new (float, (gsize)(trial->rows * k));
  g_autofree float *y = g_new (float, (gsize)(trial->rows * n));

#pragma omp parallel for
  for (int64_t i = 0; i < trial->rows; i++)
    quantise_row (self->format, trial->x + i * k, smooth, k, x + i * k);
  matrix_multiply ('N', 'T', trial->rows, n, k, 1.0f, x, k, expanded, k, 0.0f, y, n);
  add_low_rank (trial, factors, y);
  return matrix_squares (y, trial->y, trial->rows * n);
}

double
judge_cost (Judge *self, const Factors *factors, const float *smooth, const float *residual,
            const float *expanded)
{
  if (self->learnt.rows == 0)
    return weight_squares (self, smooth, residual, expanded);
  return output_squares (self, &self->learnt, factors, smooth, expanded);
}

QuantizeError
judge_error (Judge *self, const Factors *factors, const float *smooth, const float *residual,
             const float *expanded)
{
  QuantizeError error = { .output = NAN };

  error.weight
      = sqrt (weight_squares (self, smooth, residual, expanded) / fmax (self->weight_norm, 1e-300));
  if (self->held.rows > 0)
    error.output = sqrt (output_squares (self, &self->held, factors, smooth, expanded)
                         / fmax (self->held.norm, 1e-300));
  return error;
}

void
judge_hessian (const Judge *self, const float *smooth, float *hessian)
{
  const QuantizeProblem *p = self->problem;
  g_autofree float *x = g_new (float, (gsize)(p->n_inputs * p->k));

  for (int64_t i = 0; i < p->n_inputs * p->k; i++)
    x[i] = p->inputs[i] / smooth[i % p->k];
  matrix_multiply ('T', 'N', p->k, p->k, p->n_inputs, 1.0f, x, p->k, x, p->k, 0.0f, hessian, p->k);
}
