/* SPDX-License-Identifier: Apache-2.0
 *
 * lora-scale.h - how much a LoRA's product counts
 *
 * alpha / r, where alpha is a tensor beside the factors, or what PEFT's configuration says of the
 * layer or of all; r where nobody says it. rsLoRA (Kalajdzievski 2023) divides by the root of r.
 * PEFT's configuration is in the header of files that diffusers wrote, and in adapter_config.json
 * beside those that PEFT wrote.
 */
#pragma once

#include "engine/files/safetensors.h"

G_BEGIN_DECLS

typedef struct _LoraScales LoraScales;

/* Reads what `file` and its folder say; `file` is borrowed by the result. ENGINE_ERROR_MODEL for a
 * configuration beside the file that cannot be read. */
LoraScales *lora_scales_new (Safetensors *file, GError **error);
void lora_scales_free (LoraScales *self); /* NULL is a no-op */

/* The factor of the layer `module`, as the file spells it; `alpha`: the name of its tensor, or
 * NULL. FALSE if it is no finite number. */
gboolean lora_scales_get (const LoraScales *self, const char *module, const char *alpha,
                          int64_t rank, double *out);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (LoraScales, lora_scales_free)

G_END_DECLS
