/* SPDX-License-Identifier: Apache-2.0
 *
 * matrix.h - the dense linear algebra of the quantiser
 *
 * Row-major F32 throughout; `lda` and the like are row lengths. Products run on oneDNN; what is
 * small runs in double.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* c [m, n] = alpha op (a) op (b) + beta c; 'T' transposes, 'N' does not. */
void matrix_multiply (char op_a, char op_b, int64_t m, int64_t n, int64_t k, float alpha,
                      const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                      float *c, int64_t ldc);

/* Makes the columns of y [n, l] orthonormal, keeping the space they span (Cholesky QR, three times,
 * the first with a shift). `work` holds n l floats. */
void matrix_orthonormalise (float *y, int64_t n, int64_t l, float *work);

/* Eigenvalues, greatest first, and eigenvectors (columns of `vectors`) of the symmetric a [n, n],
 * which is overwritten (cyclic Jacobi). */
void matrix_eigen (double *a, int n, double *values, double *vectors);

/* a = L L^T in its lower triangle, [n, n]; the upper triangle is left as it was. false if a is not
 * positive definite. */
bool matrix_cholesky (float *a, int64_t n);

/* The inverse of the lower triangle of a, in its place; the upper one becomes zeros. `work` holds
 * MATRIX_BLOCK n floats. */
void matrix_invert_lower (float *a, int64_t n, float *work);

#define MATRIX_BLOCK 128

/* Sum of squares of a - b (b NULL: of a). */
double matrix_squares (const float *a, const float *b, int64_t count);
