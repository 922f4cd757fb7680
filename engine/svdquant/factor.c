/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/svdquant/factor.h"

#include "engine/svdquant/matrix.h"
#include "kernels/tensor.h"

#include <glib.h>
#include <math.h>
#include <string.h>

#define OVERSAMPLING 10

int64_t
factor_width (int rank, int64_t n, int64_t k)
{
  return MIN (rank + OVERSAMPLING, MIN (n, k));
}

Factors *
factors_new (int64_t n, int64_t k, int rank)
{
  Factors *self = g_new0 (Factors, 1);

  self->n = n;
  self->k = k;
  self->rank = rank;
  self->down = g_new (uint16_t, (gsize)(k * rank));
  self->up = g_new (uint16_t, (gsize)(n * rank));
  self->basis = g_new (float, (gsize)(k * factor_width (rank, n, k)));
  return self;
}

void
factors_free (Factors *self)
{
  if (self == NULL)
    return;
  g_free (self->down);
  g_free (self->up);
  g_free (self->basis);
  g_free (self);
}

/* Numbers around 0 from a fixed sequence: the same file for the same weights (xorshift64*). */
static void
fill_random (float *out, int64_t count)
{
  uint64_t state = 0x9e3779b97f4a7c15u;

  for (int64_t i = 0; i < count; i++)
    {
      state ^= state >> 12;
      state ^= state << 25;
      state ^= state >> 27;
      out[i] = (float)(int32_t)((state * 0x2545f4914f6cdd1du) >> 32) * 0x1p-31f;
    }
}

/* Directions of greatest stretch within the space of q: eigenvectors of b b^T, b [l, K]. */
static void
small_svd (const float *b, int64_t l, int64_t k, double *values, double *vectors)
{
  g_autofree float *gram = g_new (float, (gsize)(l * l));
  g_autofree double *square = g_new (double, (gsize)(l * l));

  matrix_multiply ('N', 'T', l, l, k, 1.0f, b, k, b, k, 0.0f, gram, l);
  for (int64_t i = 0; i < l; i++)
    for (int64_t j = 0; j < l; j++)
      square[i * l + j] = 0.5 * ((double)gram[i * l + j] + gram[j * l + i]);
  matrix_eigen (square, (int)l, values, vectors);
}

/* up = q U S, down = V / s with V^T = S^-1 U^T b. */
static void
write_factors (Factors *self, const float *q, const float *b, int64_t l, const float *smooth)
{
  g_autofree double *values = g_new (double, (gsize)l);
  g_autofree double *vectors = g_new (double, (gsize)(l * l));
  g_autofree float *turn = g_new (float, (gsize)(l * self->rank));
  g_autofree float *wide = g_new (float, (gsize)(MAX (self->n, self->k) * self->rank));
  int64_t rank = self->rank;

  small_svd (b, l, self->k, values, vectors);
  for (int64_t i = 0; i < l; i++)
    for (int64_t r = 0; r < rank; r++)
      turn[i * rank + r]
          = r < l ? (float)(vectors[i * l + r] * sqrt (fmax (values[r], 0.0))) : 0.0f;
  matrix_multiply ('N', 'N', self->n, rank, l, 1.0f, q, l, turn, rank, 0.0f, wide, rank);
  for (int64_t i = 0; i < self->n * rank; i++)
    self->up[i] = bf16_from_float (wide[i]);

  for (int64_t i = 0; i < l; i++)
    for (int64_t r = 0; r < rank; r++)
      turn[i * rank + r]
          = r < l && values[r] > 0.0 ? (float)(vectors[i * l + r] / sqrt (values[r])) : 0.0f;
  matrix_multiply ('T', 'N', self->k, rank, l, 1.0f, b, self->k, turn, rank, 0.0f, wide, rank);
  for (int64_t k = 0; k < self->k; k++)
    for (int64_t r = 0; r < rank; r++)
      self->down[k * rank + r] = bf16_from_float (wide[k * rank + r] / smooth[k]);
}

void
factors_fit (Factors *self, const float *what, const float *smooth, int iterations)
{
  int64_t n = self->n, k = self->k, l = factor_width (self->rank, n, k);
  g_autofree float *y = g_new (float, (gsize)(n * l));
  g_autofree float *b = g_new (float, (gsize)(k * l));
  g_autofree float *work = g_new (float, (gsize)(MAX (n, k) * l));

  if (!self->has_basis)
    fill_random (self->basis, k * l);
  for (int i = 0; i <= iterations; i++)
    {
      if (i > 0) /* basis = what^T y, [K, l] */
        matrix_multiply ('T', 'N', k, l, n, 1.0f, what, k, y, l, 0.0f, self->basis, l);
      matrix_orthonormalise (self->basis, k, l, work);
      matrix_multiply ('N', 'N', n, l, k, 1.0f, what, k, self->basis, l, 0.0f, y, l);
      matrix_orthonormalise (y, n, l, work);
    }
  self->has_basis = TRUE;
  matrix_multiply ('T', 'N', l, k, n, 1.0f, y, l, what, k, 0.0f, b, k);
  write_factors (self, y, b, l, smooth);
}

void
factors_subtract (const Factors *self, const float *what, const float *smooth, float *residual)
{
  int64_t n = self->n, k = self->k, rank = self->rank;
  g_autofree float *up = g_new (float, (gsize)(n * rank));
  g_autofree float *down = g_new (float, (gsize)(k * rank));

  for (int64_t i = 0; i < n * rank; i++)
    up[i] = bf16_to_float (self->up[i]);
  for (int64_t i = 0; i < k * rank; i++)
    down[i] = bf16_to_float (self->down[i]) * smooth[i / rank];
  memcpy (residual, what, (size_t)(n * k) * sizeof *residual);
  matrix_multiply ('N', 'T', n, k, rank, -1.0f, up, rank, down, rank, 1.0f, residual, k);
}
