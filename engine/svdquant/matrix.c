/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/svdquant/matrix.h"

#include <dnnl.h>
#include <glib.h>
#include <math.h>
#include <string.h>

void
matrix_multiply (char op_a, char op_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                 int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
  if (m > 0 && n > 0 && k > 0)
    dnnl_sgemm (op_a, op_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

double
matrix_squares (const float *a, const float *b, int64_t count)
{
  double sum = 0.0;

#pragma omp parallel for reduction(+ : sum)
  for (int64_t i = 0; i < count; i++)
    {
      double d = b != NULL ? (double)a[i] - b[i] : a[i];

      sum += d * d;
    }
  return sum;
}

/* -- small, in double ------------------------------------------------------------------------- */

/* a [n, n] = L L^T, lower triangle, stride ld; false at a pivot that is not positive. */
static bool
cholesky_small (double *a, int64_t n, int64_t ld)
{
  for (int64_t j = 0; j < n; j++)
    {
      double pivot = a[j * ld + j];

      for (int64_t k = 0; k < j; k++)
        pivot -= a[j * ld + k] * a[j * ld + k];
      if (!(pivot > 0.0))
        return false;
      a[j * ld + j] = sqrt (pivot);
      for (int64_t i = j + 1; i < n; i++)
        {
          double sum = a[i * ld + j];

          for (int64_t k = 0; k < j; k++)
            sum -= a[i * ld + k] * a[j * ld + k];
          a[i * ld + j] = sum / a[j * ld + j];
        }
    }
  return true;
}

/* inverse [n, n] of the lower triangle of l. */
static void
invert_small (const double *l, int64_t n, double *inverse)
{
  memset (inverse, 0, (size_t)(n * n) * sizeof *inverse);
  for (int64_t j = 0; j < n; j++)
    {
      inverse[j * n + j] = 1.0 / l[j * n + j];
      for (int64_t i = j + 1; i < n; i++)
        {
          double sum = 0.0;

          for (int64_t k = j; k < i; k++)
            sum += l[i * n + k] * inverse[k * n + j];
          inverse[i * n + j] = -sum / l[i * n + i];
        }
    }
}

/* y <- y R^-1 with R^T R = y^T y + shift. */
static void
cholesky_qr (float *y, int64_t n, int64_t l, double shift, float *work)
{
  g_autofree float *gram = g_new (float, (gsize)(l * l));
  g_autofree double *factor = g_new (double, (gsize)(l * l));
  g_autofree double *inverse = g_new (double, (gsize)(l * l));
  double trace = 0.0;

  matrix_multiply ('T', 'N', l, l, n, 1.0f, y, l, y, l, 0.0f, gram, l);
  for (int64_t i = 0; i < l; i++)
    trace += gram[i * l + i];
  for (bool done = false; !done; shift = shift * 10.0 + 1e-12)
    {
      for (int64_t i = 0; i < l * l; i++)
        factor[i] = gram[i] + (i % (l + 1) == 0 ? shift * trace + 1e-300 : 0.0);
      done = cholesky_small (factor, l, l) || shift > 1.0;
    }
  invert_small (factor, l, inverse);
  for (int64_t i = 0; i < l; i++)
    for (int64_t j = 0; j < l; j++)
      gram[i * l + j] = (float)inverse[j * l + i]; /* R^-1 = (L^-1)^T */
  memcpy (work, y, (size_t)(n * l) * sizeof *y);
  matrix_multiply ('N', 'N', n, l, l, 1.0f, work, l, gram, l, 0.0f, y, l);
}

void
matrix_orthonormalise (float *y, int64_t n, int64_t l, float *work)
{
  cholesky_qr (y, n, l, 1e-7, work);
  cholesky_qr (y, n, l, 0.0, work);
  cholesky_qr (y, n, l, 0.0, work);
}

/* Turns rows and columns p and q so that a[p][q] becomes 0. */
static void
rotate (double *a, int n, double *vectors, int p, int q)
{
  double theta = (a[q * n + q] - a[p * n + p]) / (2.0 * a[p * n + q]);
  double t = (theta < 0 ? -1.0 : 1.0) / (fabs (theta) + sqrt (theta * theta + 1.0));
  double c = 1.0 / sqrt (t * t + 1.0), s = t * c;

  for (int k = 0; k < n; k++)
    {
      double x = a[k * n + p], y = a[k * n + q];

      a[k * n + p] = c * x - s * y;
      a[k * n + q] = s * x + c * y;
    }
  for (int k = 0; k < n; k++)
    {
      double x = a[p * n + k], y = a[q * n + k];

      a[p * n + k] = c * x - s * y;
      a[q * n + k] = s * x + c * y;
    }
  for (int k = 0; k < n; k++)
    {
      double x = vectors[k * n + p], y = vectors[k * n + q];

      vectors[k * n + p] = c * x - s * y;
      vectors[k * n + q] = s * x + c * y;
    }
}

static void
swap_columns (double *vectors, int n, int a, int b)
{
  for (int k = 0; k < n; k++)
    {
      double x = vectors[k * n + a];

      vectors[k * n + a] = vectors[k * n + b];
      vectors[k * n + b] = x;
    }
}

void
matrix_eigen (double *a, int n, double *values, double *vectors)
{
  double off = 1.0, on = 0.0;

  for (int i = 0; i < n * n; i++)
    vectors[i] = i % (n + 1) == 0;
  for (int sweep = 0; sweep < 30 && off > 1e-26 * on; sweep++)
    {
      off = on = 0.0;
      for (int p = 0; p < n; p++)
        {
          on += a[p * n + p] * a[p * n + p];
          for (int q = p + 1; q < n; q++)
            {
              off += a[p * n + q] * a[p * n + q];
              if (a[p * n + q] != 0.0)
                rotate (a, n, vectors, p, q);
            }
        }
    }
  for (int i = 0; i < n; i++)
    values[i] = a[i * n + i];
  for (int i = 0; i < n; i++)
    for (int j = i + 1; j < n; j++)
      if (values[j] > values[i])
        {
          double x = values[i];

          values[i] = values[j];
          values[j] = x;
          swap_columns (vectors, n, i, j);
        }
}

/* -- large, by blocks ------------------------------------------------------------------------- */

/* Factors the diagonal block at `first`; its inverse goes to `inverse` [size, size]. */
static bool
factor_block (float *a, int64_t n, int64_t first, int64_t size, float *inverse)
{
  g_autofree double *block = g_new (double, (gsize)(size * size));
  g_autofree double *inverted = g_new (double, (gsize)(size * size));

  for (int64_t i = 0; i < size; i++)
    for (int64_t j = 0; j < size; j++)
      block[i * size + j] = a[(first + i) * n + first + j];
  if (!cholesky_small (block, size, size))
    return false;
  for (int64_t i = 0; i < size; i++)
    for (int64_t j = 0; j <= i; j++)
      a[(first + i) * n + first + j] = (float)block[i * size + j];
  invert_small (block, size, inverted);
  for (int64_t i = 0; i < size * size; i++)
    inverse[i] = (float)inverted[i];
  return true;
}

bool
matrix_cholesky (float *a, int64_t n)
{
  g_autofree float *inverse = g_new (float, MATRIX_BLOCK *MATRIX_BLOCK);
  g_autofree float *panel = g_new (float, (gsize)MATRIX_BLOCK *(gsize)n);
  const int64_t strip = 512;

  for (int64_t first = 0; first < n; first += MATRIX_BLOCK)
    {
      int64_t size = MIN (MATRIX_BLOCK, n - first), next = first + size;

      if (!factor_block (a, n, first, size, inverse))
        return false;
      /* The panel below: A21 L11^-T. */
      matrix_multiply ('N', 'T', n - next, size, size, 1.0f, a + next * n + first, n, inverse, size,
                       0.0f, panel, size);
      for (int64_t i = next; i < n; i++)
        memcpy (a + i * n + first, panel + (i - next) * size, (size_t)size * sizeof *a);
      /* What is right of it, up to the diagonal. */
      for (int64_t i = next; i < n; i += strip)
        {
          int64_t rows = MIN (strip, n - i);

          matrix_multiply ('N', 'T', rows, i + rows - next, size, -1.0f, panel + (i - next) * size,
                           size, panel, size, 1.0f, a + i * n + next, n);
        }
    }
  return true;
}

void
matrix_invert_lower (float *a, int64_t n, float *work)
{
  g_autofree double *block = g_new (double, MATRIX_BLOCK *MATRIX_BLOCK);
  g_autofree double *inverted = g_new (double, MATRIX_BLOCK *MATRIX_BLOCK);
  g_autofree float *inverse = g_new (float, MATRIX_BLOCK *MATRIX_BLOCK);

  for (int64_t i = 0; i < n; i++)
    memset (a + i * n + i + 1, 0, (size_t)(n - i - 1) * sizeof *a);
  /* The rows above are inverted already: X21 = -L22^-1 (L21 X11). */
  for (int64_t first = 0; first < n; first += MATRIX_BLOCK)
    {
      int64_t size = MIN (MATRIX_BLOCK, n - first);

      for (int64_t i = 0; i < size; i++)
        for (int64_t j = 0; j < size; j++)
          block[i * size + j] = a[(first + i) * n + first + j];
      invert_small (block, size, inverted);
      for (int64_t i = 0; i < size * size; i++)
        inverse[i] = (float)inverted[i];
      matrix_multiply ('N', 'N', size, first, first, 1.0f, a + first * n, n, a, n, 0.0f, work,
                       first);
      matrix_multiply ('N', 'N', size, first, size, -1.0f, inverse, size, work, first, 0.0f,
                       a + first * n, n);
      for (int64_t i = 0; i < size; i++)
        for (int64_t j = 0; j < size; j++)
          a[(first + i) * n + first + j] = j <= i ? inverse[i * size + j] : 0.0f;
    }
}
