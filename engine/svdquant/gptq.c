/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/svdquant/gptq.h"

#include "engine/svdquant/matrix.h"

#include <glib.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of the mean of the diagonal. The second is for each input channel per row of inputs: directions
 * that few rows have shown are not to be trusted. */
#define DAMPING     0.01
#define FEW_DAMPING 0.1

typedef struct
{
  float energy;
  int64_t column;
} Column;

static int
by_energy (gconstpointer a, gconstpointer b)
{
  const Column *left = a, *right = b;

  return left->energy < right->energy ? -1
         : left->energy > right->energy
             ? 1
             : (left->column > right->column) - (left->column < right->column);
}

/* Least energy first. */
static Column *
order_columns (const float *hessian, int64_t k)
{
  Column *columns = g_new (Column, (gsize)k);

  for (int64_t i = 0; i < k; i++)
    columns[i] = (Column){ hessian[i * k + i], i };
  qsort (columns, (size_t)k, sizeof *columns, by_energy);
  return columns;
}

/* Puts the columns of each row in order; for a symmetric matrix the rows, too. */
static void
permute_columns (float *matrix, int64_t rows, int64_t k, const Column *columns)
{
#pragma omp parallel
  {
    g_autofree float *copy = g_new (float, (gsize)k);

#pragma omp for
    for (int64_t row = 0; row < rows; row++)
      {
        memcpy (copy, matrix + row * k, (size_t)k * sizeof *copy);
        for (int64_t i = 0; i < k; i++)
          matrix[row * k + i] = copy[columns[i].column];
      }
  }
}

static void
transpose (float *a, int64_t k)
{
  for (int64_t i = 0; i < k; i++)
    for (int64_t j = 0; j < i; j++)
      {
        float x = a[i * k + j];

        a[i * k + j] = a[j * k + i];
        a[j * k + i] = x;
      }
}

/* The lower triangle X with X^T X = (H + damping)^-1, in H's place. Rounding goes from the last
 * column to the first, so that the usual upper factor becomes this one. */
static bool
prepare_hessian (float *hessian, int64_t k, const Column *columns, double damping)
{
  g_autofree float *work = g_new (float, (gsize)MATRIX_BLOCK *(gsize)k);
  double mean = 0.0;

  permute_columns (hessian, k, k, columns);
  transpose (hessian, k);
  permute_columns (hessian, k, k, columns);
  for (int64_t i = 0; i < k; i++)
    mean += hessian[i * k + i] / (double)k;
  for (int64_t i = 0; i < k; i++)
    hessian[i * k + i] += (float)(mean * damping);
  if (!matrix_cholesky (hessian, k))
    return false;
  matrix_invert_lower (hessian, k, work);
  return true;
}

/* Columns [first, last) of one row, from the last on; errors go to `errors` [last - first]. */
static void
round_row (Rounded *rounded, int64_t row, float *values, const float *x, int64_t k,
           const Column *columns, int64_t first, int64_t last, float *errors)
{
  for (int64_t t = last - 1; t >= first; t--)
    {
      int64_t column = columns[t].column;
      float nearest, error;
      uint8_t code = rounded_nearest (rounded->format, values[t],
                                      rounded_scale (rounded, row, column), &nearest);

      rounded_set (rounded, row, column, code);
      error = (values[t] - nearest) / x[t * k + t];
      errors[t - first] = error;
      for (int64_t i = first; i < t; i++)
        values[i] -= error * x[t * k + i];
    }
}

bool
gptq_choose_codes (Rounded *rounded, float *residual, float *hessian, int64_t rows)
{
  int64_t n = rounded->n, k = rounded->k;
  double damping = DAMPING + FEW_DAMPING * (double)k / (double)rows;
  g_autofree Column *columns = order_columns (hessian, k);
  g_autofree float *errors = g_new (float, (gsize)MATRIX_BLOCK *(gsize)n);

  if (!prepare_hessian (hessian, k, columns, damping))
    return false;
  permute_columns (residual, n, k, columns);
  for (int64_t last = k; last > 0; last -= MIN (last, MATRIX_BLOCK))
    {
      int64_t first = MAX (last - MATRIX_BLOCK, 0), size = last - first;

#pragma omp parallel for
      for (int64_t row = 0; row < n; row++)
        round_row (rounded, row, residual + row * k, hessian, k, columns, first, last,
                   errors + row * size);
      matrix_multiply ('N', 'N', n, first, size, -1.0f, errors, size, hessian + first * k, k, 1.0f,
                       residual, k);
    }
  return true;
}
