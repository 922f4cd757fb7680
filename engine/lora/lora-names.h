/* SPDX-License-Identifier: Apache-2.0
 *
 * lora-names.h - which layer a LoRA's tensor belongs to, and what it is of it
 *
 * Trainers name the same layers in many ways (spec z-image 9). Names are compared with dots and
 * underscores alike and without the prefixes that trainers put before them, so there is one table,
 * of the layers that the model has, and none of spellings.
 */
#pragma once

#include "engine/checkpoint/checkpoint.h"

G_BEGIN_DECLS

/* A layer of the transformer as a file may name it, and where that is in the engine's. */
typedef struct
{
  const char *name;     /* the reference's: "layers.0.attention.to_k" */
  const char *linear;   /* the engine's: "layers.0.attention.to_qkv" (Linear.name) */
  int64_t rows, in;     /* of the layer */
  int64_t first, total; /* its rows in the engine's layer begin at `first` of `total` */
} LoraTarget;

/* All layers of a transformer of these sizes. */
typedef struct _LoraTargets LoraTargets;
LoraTargets *lora_targets_new (const TransformerConfig *config);
void lora_targets_free (LoraTargets *self); /* NULL is a no-op */

/* The layer that the first `length` bytes of `module` name, or NULL. */
const LoraTarget *lora_targets_find (const LoraTargets *self, const char *module, gsize length);

typedef enum
{
  LORA_ROLE_DOWN,
  LORA_ROLE_UP,
  LORA_ROLE_ALPHA,
  LORA_ROLE_OTHER, /* of a known kind that is not applied */
  LORA_ROLE_NONE,
} LoraRole;

typedef struct
{
  LoraRole role;
  gsize module;     /* length of the layer's name, with which the tensor's begins */
  const char *what; /* static; of OTHER: why it is left out */
} LoraMeaning;

LoraMeaning lora_name_read (const char *name);

/* `name` with its ending `suffix` replaced by `other` (interned). */
const char *lora_name_with (const char *name, const char *suffix, const char *other);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (LoraTargets, lora_targets_free)

G_END_DECLS
