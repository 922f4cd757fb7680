/* SPDX-License-Identifier: Apache-2.0
 *
 * conv.h - between channels-last pictures and oneDNN's packed channels
 *
 * Packed: [ceil(C / block), rows, width, block], block 8 or 16; channels beyond C are zeros.
 */
#pragma once

#include "kernels/cpu/stream.h"

/* Numbers in a packed array. */
int64_t packed_count (int64_t channels, int block, int64_t rows, int64_t width);

/* Packs `rows` rows of the picture x [H, W, C] from row `first` on; rows outside are zeros. */
void pack_rows (Stream *s, const Tensor *x, int64_t first, int64_t rows, int block, float *out);

/* Where unpacked rows go: row r, column c to out[row + zoom r, column + zoom c]. */
typedef struct
{
  int64_t row, column, zoom;
} Placement;

/* Unpacks `rows` rows of `width` pixels into the picture out [H, W, C], adding `residual` (of out's
 * shape, may be out itself; NULL: none). */
void unpack_rows (Stream *s, const float *packed, int block, int64_t rows, int64_t width,
                  const Placement *place, const Tensor *residual, Tensor *out);
