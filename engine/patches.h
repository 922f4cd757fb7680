/* SPDX-License-Identifier: Apache-2.0
 *
 * patches.h - latents as a sequence: patches, padding, positions, time (spec z-image 5.2-5.6)
 *
 * Host arithmetic in FP32; the transformer uploads what these make.
 */
#pragma once

#include "engine/checkpoint/checkpoint.h"

G_BEGIN_DECLS

/* Latents [channels, height, width] cut into rows x columns patches. */
typedef struct
{
  int height, width; /* latents */
  int rows, columns; /* patches */
  int count, padded; /* rows * columns, and that rounded up to 32 */
} PatchGrid;

/* Of latents height x width, both multiples of the patch. */
PatchGrid patches_grid (const TransformerConfig *c, int height, int width);

/* n rounded up to a multiple of 32: both streams are padded so (5.4). */
int patches_padded (int n);

/* patches [count, patch * patch * channels], channel fastest, and back (5.3). */
void patches_from_latents (const TransformerConfig *c, const PatchGrid *grid, const float *latents,
                           float *patches);
void patches_to_latents (const TransformerConfig *c, const PatchGrid *grid, const float *patches,
                         float *latents);

/* [padded + caption, head_dim/2, 2] = (cos, sin) for image rows, then caption rows (5.5, 5.6);
 * (transfer full: g_free). */
float *patches_rope_table (const TransformerConfig *c, const PatchGrid *grid, int caption);

/* [steps, width] = cosines, then sines, of (1 - sigma) t_scale f_k (5.2); (transfer full). */
float *patches_time_sinusoid (const float *sigmas, int steps, double t_scale, int width);

G_END_DECLS
