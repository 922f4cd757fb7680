/* SPDX-License-Identifier: Apache-2.0
 *
 * transformer-private.h - what the transformer is made of: transformer.c computes with it,
 * transformer-weights.c loads it
 */
#pragma once

#include "engine/transformer.h"

G_BEGIN_DECLS

#define TIME_FREQUENCIES 256 /* width of the sinusoid */

typedef struct
{
  Linear *qkv, *out, *w13, *w2;
  Linear *modulation; /* NULL in the context refiner */
  Tensor attention_norm1, attention_norm2, ffn_norm1, ffn_norm2;
  Tensor norm_q, norm_k;
} Block;

struct _Transformer
{
  TransformerConfig config;
  Linear *x_embedder, *cap_embedder, *time_in, *time_out, *final_modulation, *final_linear;
  Tensor cap_norm, x_pad, cap_pad;
  Block *blocks; /* noise refiner, then layers: all that are modulated, in order */
  Block *context_refiner;
  Shelf *shelf; /* (owned) of the context refiner's blocks, then the others; NULL: they stay */
};

/* Blocks with a modulation: the noise refiner's and the layers. */
static inline int
transformer_n_modulated (const TransformerConfig *c)
{
  return c->n_refiner_layers + c->n_layers;
}

G_END_DECLS
