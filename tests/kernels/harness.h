/* SPDX-License-Identifier: Apache-2.0
 *
 * harness.h - one device against the reference
 *
 * A Pair is a tensor twice: on the reference device in F32, and on the device under test in its own
 * type. Inputs are random numbers that the device's type can hold, so that both see the same;
 * outputs start as NaN, and so does a guard behind each of them, which must stay so.
 */
#pragma once

#include "kernels/kernels.h"

#define HARNESS_MAX_PAIRS 16

typedef struct
{
  Tensor reference; /* F32, host memory */
  Tensor device;
  float scale; /* of the device's numbers */
  bool output;
} Pair;

typedef struct
{
  const Ops *ops;
  DType activation;
  Stream *stream;
  Stream *reference;
  uint64_t seed;
  int n_pairs;
  Pair pairs[HARNESS_MAX_PAIRS]; /* of the running case; freed after it */
  int n_tests, n_failed;
  char reason[256]; /* why the running case failed */
} Harness;

/* Opens both devices. False, with a "Bail out!" line, when that is not possible. */
bool harness_open (Harness *self, const Ops *ops, const StreamOptions *options);
void harness_close (Harness *self);

/* A uniform random number in [-1, 1). */
float harness_random (Harness *self);

/* `count` random numbers of a floating type in memory that the caller frees. */
void *harness_random_array (Harness *self, DType dtype, int64_t count, float size);

/* A new input of random numbers in offset + size * [-1, 1), of the activation type; or of F32, as
 * parameters are. The shape is that of `like`, whose data is not looked at. */
Pair *harness_input (Harness *self, Tensor like, float offset, float size);
Pair *harness_parameter (Harness *self, Tensor like, float offset, float size);

/* A new output. */
Pair *harness_output (Harness *self, Tensor like);
Pair *harness_f32_output (Harness *self, Tensor like);
/* One for silu (a) * b, which FP16 has times SWIGLU_F16_SCALE. */
Pair *harness_swiglu_output (Harness *self, Tensor like);

/* An output that starts as a copy of `pair`: for work in place. */
Pair *harness_in_place (Harness *self, const Pair *pair);

/* True when relative RMS error is at most `limit`, the largest single error at most 30 times that
 * of the output's RMS, nothing is NaN, and the guard is whole; else notes a reason. */
bool harness_check (Harness *self, const Pair *output, double limit);

/* True when both calls succeeded; else notes a reason. */
bool harness_both_ok (Harness *self, Status reference, Status device);

/* Frees the case's pairs and prints its TAP line. */
void harness_report (Harness *self, bool passed, const char *format, ...)
    __attribute__ ((format (printf, 3, 4)));

/* Prints a TAP line for what this machine cannot run. */
void harness_skip (Harness *self, const char *reason);

/* Prints the plan; returns the program's exit status. */
int harness_finish (const Harness *self);
