/* SPDX-License-Identifier: Apache-2.0
 *
 * vae-private.h - what vae.c and vae-bands.c share
 */
#pragma once

#include "engine/vae.h"

G_BEGIN_DECLS

#define NORM_EPS 1e-6f /* of every GroupNorm (6.1) */
/* Numbers of a feature map from which a block takes milliseconds on a fast card. */
#define WAIT_FROM ((int64_t)1 << 25)

typedef struct
{
  Tensor weight, bias;
} Norm;

typedef struct
{
  int64_t in, out;
  Norm norm1, norm2;
  Conv *conv1, *conv2, *shortcut; /* shortcut NULL when in = out */
} Resnet;

typedef struct
{
  Norm norm;
  Linear *qkv, *out;
} Attention;

typedef struct
{
  int n_resnets;
  Resnet resnets[VAE_MAX_LAYERS + 1]; /* the decoder has one more a level */
  Conv *sampler;                      /* up or down; NULL on the last level */
} Level;

struct _Vae
{
  VaeConfig config;
  gboolean decoder;
  Conv *conv_in, *conv_out;
  Level levels[G_N_ELEMENTS (((VaeConfig *)0)->channels)];
  Resnet middle[2];
  Attention attention;
  Norm norm_out;
};

/* The feature map on its way: alone at its end of the arena, so that what follows is made at the
 * other end and the two change places. */
typedef struct
{
  Tensor x; /* [H, W, C] */
  ArenaEnd end;
} Map;

/* The end of a decoder, from `map` = what the last sampler reads (with one level: the first
 * resnet), of `height` latents: a few rows at a time, `band` in latents. pixels as for vae_decode.
 */
Status vae_decode_bands (const Context *ctx, const Vae *self, const Map *map, int height, int band,
                         float *pixels);

G_END_DECLS
