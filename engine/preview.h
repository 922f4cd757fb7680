/* SPDX-License-Identifier: Apache-2.0
 *
 * preview.h - a picture in the making, from latents, for next to nothing
 *
 * A linear map from a latent's channels to one RGB pixel, fitted once to the decoder at hand: the
 * least squares of a few decoded random latents against their own 8x8 averages.
 */
#pragma once

#include "engine/picture/image.h"
#include "engine/vae.h"

G_BEGIN_DECLS

#define PREVIEW_MAX_CHANNELS 64

typedef struct
{
  int channels;                              /* 0: not fitted */
  float weight[3][PREVIEW_MAX_CHANNELS + 1]; /* the last one is the constant */
} PreviewMap;

/* Decodes a small random latent to fit the map. Takes and gives back its own device memory. */
Status preview_fit (const Context *ctx, Vae *decoder, int channels, PreviewMap *map);
/* That memory, in bytes, beside the decoder's weights. Nothing runs. */
Status preview_measure (const Context *ctx, Vae *decoder, gsize *bytes);

/* (transfer full) a width x height picture of latents [channels, height, width], or NULL when the
 * map is not fitted. */
Image *preview_render (const PreviewMap *map, const float *latents, int height, int width);

G_END_DECLS
