/* SPDX-License-Identifier: Apache-2.0
 *
 * lora-file.h - a LoRA file: low-rank additions to the transformer's linear layers
 *
 *   y += strength * scale * up (down x),   down [r, in], up [out, r]
 *
 * What a file holds beyond that is listed with the reason for which it is left out.
 */
#pragma once

#include "engine/files/safetensors.h"
#include "engine/lora/lora-names.h"

G_BEGIN_DECLS

typedef struct
{
  const LoraTarget *target; /* borrowed from the LoraTargets */
  Tensor down, up;          /* F32, BF16 or F16, two axes; views of the file */
  double scale;             /* alpha / r, or 1 */
} LoraPair;

typedef struct
{
  Safetensors *file;   /* owned */
  GArray *pairs;       /* LoraPair */
  GPtrArray *left_out; /* char *: "layers.0.attention.to_q: a LoKr", one each layer, sorted */
} LoraFile;

/* Reads names and shapes, and with `check` every number once, for a NaN would spoil all pictures.
 * `targets` is borrowed by the result. ENGINE_ERROR_MODEL naming the file, and the tensor, if it is
 * no LoRA for this model or damaged; a file of which a part fits is no error. */
LoraFile *
lora_file_open (const char *path, const LoraTargets *targets, gboolean check, GError **error);
void lora_file_free (LoraFile *self); /* NULL is a no-op */

/* TRUE if the names in a file are those of a LoRA, for whichever model. */
gboolean lora_file_detect (Safetensors *file);
/* The greatest rank of its pairs, by the shapes of their down factors. */
int lora_file_rank (Safetensors *file);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (LoraFile, lora_file_free)

G_END_DECLS
