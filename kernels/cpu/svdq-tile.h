/* SPDX-License-Identifier: Apache-2.0
 *
 * svdq-tile.h - the inner loops of SVDQuant linears, once for each instruction set
 *
 * svdq-tile.c is compiled three times, for any x86-64 or other processor, for AVX2, and for AVX-512
 * with VNNI, and each time defines one table. All tables read the same layout and give the same
 * bits for the 4-bit part: integer sums are exact, and each group enters FP32 by one FMA, in
 * ascending order (spec svdquant 8.3). The functions know no threads.
 *
 * Layout of weights, for each block of SVDQ_BLOCK outputs:
 *   codes   [K/8, 16, 4]  byte (n, j): low nibble k = 8i + j, high nibble k = 8i + 4 + j;
 *                         INT4 codes are stored plus 8, NVFP4 codes as they are
 *   scales  [K/G, 16]     BF16, which holds every E4M3 value
 *   up      [R, 16]       BF16
 */
#pragma once

#include "kernels/kernels.h"

#define SVDQ_BLOCK     16 /* outputs of a block */
#define SVDQ_TILE_ROWS 4  /* rows of activations that a tile takes */

/* What is subtracted, times the sum of a group's activation codes, for weights being unsigned. */
#define SVDQ_INT4_OFFSET  8
#define SVDQ_NVFP4_OFFSET 12

typedef struct
{
  SvdqFormat format;
  int64_t k;
  int rank;
  const uint8_t *codes;
  const uint16_t *scales, *up;
  const float *outer; /* [16] times 1/4 for NVFP4, whose codes are doubled */
  const float *bias;  /* [16] or NULL */
} SvdqBlock;

/* Quantised activations, from the tile's first row on. */
typedef struct
{
  const int8_t *codes;  /* [rows, K] INT4 values, or doubled E2M1 values */
  const float *scales;  /* [rows, K/G] */
  const int32_t *sums;  /* [rows, K/G] sum of a group's codes, times the format's offset */
  const float *lowered; /* [rows, R] x P_down, rounded to BF16 */
} SvdqRows;

typedef struct
{
  const char *name;
  /* One row x [k] divided by smooth [k] and quantised. */
  void (*quantise) (SvdqFormat format, const float *x, const float *smooth, int64_t k,
                    int8_t *codes, float *scales, int32_t *sums);
  /* lowered [rows, rank] = bf16 (bf16 (x) P_down), x [rows, k], down [R/16, K, 16] BF16. */
  void (*lower) (const float *x, int rows, int64_t k, const uint16_t *down, int rank,
                 float *lowered);
  /* out [rows, 16], 1 to SVDQ_TILE_ROWS rows: the 4-bit sum, low rank, bias. */
  void (*tile) (const SvdqBlock *block, const SvdqRows *x, int rows, float *out);
} SvdqTiles;

/* Makes a Linear of linear_cpu_svdq use other tiles than the best: for tests. */
void svdq_linear_use (Linear *linear, const SvdqTiles *tiles);

extern const SvdqTiles svdq_tiles_portable;
extern const SvdqTiles svdq_tiles_avx2;
extern const SvdqTiles svdq_tiles_vnni;
