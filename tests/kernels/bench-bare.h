/* SPDX-License-Identifier: Apache-2.0
 *
 * bench-bare.h - oneDNN alone, as fast as it goes: what our layers are measured against
 *
 * A Bare is one primitive on its own arrays, in the layouts that oneDNN prefers; bringing data into
 * those layouts is not timed.
 */
#pragma once

#include <stdint.h>

typedef struct Bare Bare;

/* [m, k] x [n, k]^T, F32, rows as our layers have them, with bias. */
Bare *bare_product (int64_t m, int64_t n, int64_t k);

/* height x width is the input's; size 1 or 3, stride 1 or 2, padded as ours are. */
Bare *bare_conv (int64_t height, int64_t width, int64_t c_in, int64_t c_out, int size, int stride);

/* Runs it once. */
void bare_run (Bare *self);

/* NULL is a no-op. */
void bare_free (Bare *self);
