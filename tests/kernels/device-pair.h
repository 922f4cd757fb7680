/* SPDX-License-Identifier: Apache-2.0
 *
 * device-pair.h - numbers on the host and the same on a card, for the tests of ops_cuda
 *
 * Every run draws fresh random numbers and prints from what. Outputs are poisoned with NaN, so what
 * a kernel forgets to write fails. Results are TAP lines.
 */
#pragma once

#include "kernels/kernels.h"

/* Rounding a result to BF16 costs 1.7e-3 of its size on average; sums of rounded parts more. */
#define ROUNDED 2.5e-3
#define SUMMED  4e-3

typedef struct
{
  Stream *stream;
  DType activation, residual; /* the device's */
  uint64_t state;             /* of the random numbers */
  int n_tests, n_failed;
} Run;

typedef struct
{
  Tensor host, device; /* host: F32 */
} Pair;

/* Opens the first card. 0, or what main should return: 77 where there is none, which is said. */
int run_begin (Run *run);

/* Closes it, checks that nothing is left allocated, prints the plan; what main should return. */
int run_end (Run *run);

/* Ends the program unless `status` is STATUS_OK. */
void require (Run *run, Status status, const char *what);

/* One test. */
void check (Run *run, bool ok, const char *name);

/* [a, b, c] random numbers in [center - 1, center + 1] that `type` holds exactly: pair_drop. */
Pair pair_random (Run *run, DType type, float center, int64_t a, int64_t b, int64_t c);

/* An output [a, b, c] of the device's activation type, NaN everywhere: pair_drop. */
Pair pair_output (Run *run, int64_t a, int64_t b, int64_t c);
void pair_drop (Run *run, Pair *pair);

/* One test: compares what the device wrote with `expected` [count] by relative RMS, and frees that.
 * Where that is NaN, any number will do. */
void pair_compare (Run *run, Pair *out, double *expected, double limit, const char *name);

/* Views: [a, b, c] as [a b, c], and as one vector. */
Tensor rows_of (Tensor t);
Tensor vector_of (Tensor t);

/* The numbers of an F32 tensor on the host: free. */
double *doubles (const Tensor *t);

double silu (double x);
