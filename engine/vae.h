/* SPDX-License-Identifier: Apache-2.0
 *
 * vae.h - latents to pixels and back (AutoencoderKL; spec z-image 6, autoencoder_kl.py)
 *
 * Inside, pictures are channels-last. Decoder and encoder are separate, since a picture from text
 * needs only the first.
 */
#pragma once

#include "engine/loader.h"

G_BEGIN_DECLS

typedef struct _Vae Vae; /* one direction */

#define VAE_SCALE 8 /* pixels a latent, each way */

/* Check loader_failed; the results are freed in any case. */
Vae *vae_new_decoder (Loader *loader, const VaeConfig *config);
Vae *vae_new_encoder (Loader *loader, const VaeConfig *config);
void vae_free (const Context *ctx, Vae *self); /* NULL is a no-op */

/* pixels [height * scale, width * scale, 3] F32, about -1..1, from latents [channels, height,
 * width] F32 as the sampler has them (scaling is undone inside); both host memory. `band`: rows of
 * latents whose full-size maps are in memory at once; 0: all. Bands take half the memory and more
 * than twice the time, and have no seams. The whole arena is used. */
Status vae_decode (const Context *ctx, Vae *self, const float *latents, int height, int width,
                   int band, float *pixels);

/* The distribution's mean, scaled for the sampler: latents [channels, height, width] from pixels
 * [height * scale, width * scale, 3] in -1..1. */
Status vae_encode (const Context *ctx, Vae *self, const float *pixels, int height, int width,
                   float *latents);

/* RGB8 from decoded pixels: round (clamp (y / 2 + 1/2, 0, 1) * 255), ties to even. */
void vae_round_pixels (const float *pixels, gsize n, guint8 *rgb);

G_END_DECLS
