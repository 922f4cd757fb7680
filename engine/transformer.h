/* SPDX-License-Identifier: Apache-2.0
 *
 * transformer.h - the denoiser (ZImageTransformer2DModel; spec z-image 5, transformer_z_image.py)
 *
 * One forward predicts the velocity, about x0 - noise, of latents at a noise level. What does not
 * depend on the step is computed once per prompt: the caption's path through the context refiner,
 * the modulation vectors of every step, the RoPE table.
 */
#pragma once

#include "engine/memory/shelf.h"

G_BEGIN_DECLS

typedef struct _Transformer Transformer;
typedef struct _TransformerRun TransformerRun;

/* Check loader_failed; the result is freed in any case. */
Transformer *transformer_new (Loader *loader, const TransformerConfig *config);
void transformer_free (const Context *ctx, Transformer *self); /* NULL is a no-op */

/* The linear of this name (Linear.name), or NULL if there is none. */
const Linear *transformer_find_linear (const Transformer *self, const char *name);

/* What takes the blocks' weights off the device (borrowed), if it was loaded so; else NULL. They
 * must be there while a run lives. */
Shelf *transformer_shelf (Transformer *self);

/* Prepares one prompt on latents of [channels, height, width]: embeds [n, cap_feat_dim] F32 host,
 * sigmas[steps] of the schedule. What the run holds stays in the arena until the caller releases
 * it; *run (transfer full) is freed before that, also after an error. */
Status transformer_begin (const Context *ctx, Transformer *self, const float *embeds, int n,
                          int height, int width, const float *sigmas, int steps,
                          TransformerRun **run);
void transformer_end (const Context *ctx, TransformerRun *run); /* NULL is a no-op */

/* velocity = the model's output for `latents` at step `step`, both [channels, height, width] F32
 * host memory, before the sign flip of the pipeline. */
Status transformer_step (const Context *ctx, Transformer *self, TransformerRun *run, int step,
                         const float *latents, float *velocity);

G_END_DECLS
