/* SPDX-License-Identifier: Apache-2.0
 *
 * trace-compare.h - a run's trace against the reference's, tensor by tensor
 */
#pragma once

#include "engine/files/safetensors.h"

G_BEGIN_DECLS

/* ||actual - golden|| / ||golden|| of the tensor `name`; fails the test if either file lacks it, or
 * the shapes differ. */
double trace_relative_rms (Safetensors *actual, Safetensors *golden, const char *name);

/* Largest absolute difference. */
double trace_largest_difference (Safetensors *actual, Safetensors *golden, const char *name);

/* Share of equal values of a U8 tensor. */
double trace_equal_share (Safetensors *actual, Safetensors *golden, const char *name);

G_END_DECLS
