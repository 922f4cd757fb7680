/* SPDX-License-Identifier: Apache-2.0
 *
 * lora-files.h - LoRA files with known numbers, and a transformer into which they were merged
 */
#pragma once

#include "engine/files/safetensors.h"

G_BEGIN_DECLS

/* How the layers are called and what the factors are called. */
typedef enum
{
  LORA_PEFT,    /* transformer.layers.0.attention.to_q.lora_A.weight */
  LORA_ADAPTER, /* base_model.model.layers.0.attention.to_q.lora_A.default.weight */
  LORA_BARE,    /* layers.0.attention.to_q.lora_down.weight, .alpha */
  LORA_COMFY,   /* diffusion_model.layers.0.attention.qkv.lora_down.weight, .out: fused */
  LORA_KOHYA,   /* lora_unet_layers_0_attention_to_q.lora_down.weight, .alpha */
  LORA_LYCORIS, /* lycoris_layers_0_attention_to_q.lora_down.weight, .alpha */
  LORA_DOTS,    /* layers.0.attention.to.q.lora.down.weight, with copies of q, k, v */
  LORA_N_STYLES,
} LoraStyle;

/* A LoRA for a transformer file of the reference's names: rank `rank` for every linear of `blocks`
 * (such as "layers.0"; NULL-terminated), drawn from `seed`. Written as `style` it is the same LoRA
 * in every style. */
typedef struct
{
  Safetensors *base; /* borrowed */
  const char *const *blocks;
  int rank;
  guint32 seed;
} LoraSample;

/* Paths of new files (transfer full), to be removed with lora_remove. */
char *lora_sample_write (const LoraSample *self, LoraStyle style);
/* The base in F32 with each sample added, times its strength. */
char *lora_merge (Safetensors *base, const LoraSample *samples, const double *strengths, guint n);
void lora_remove (char *path);

/* out [rows] = up (down x) of the layer "layers.0.attention.to_q", x [in], in double precision;
 * FALSE if the sample has no such layer. */
gboolean lora_sample_apply (const LoraSample *self, const char *layer, const float *x, double *out);

G_END_DECLS
