/* SPDX-License-Identifier: Apache-2.0
 *
 * inventory.h - the tensors that a model of given sizes needs
 *
 * The one list of names and shapes, by the reference's names (spec z-image 3, 5.1, 6). The models
 * ask for their weights themselves; this list is for saying what is missing without running one.
 */
#pragma once

#include "engine/checkpoint/checkpoint.h"

G_BEGIN_DECLS

/* `name` is only valid during the call. */
typedef void (*InventoryFunc) (const char *name, int rank, const int64_t *shape,
                               gpointer user_data);

/* Calls `func` for every tensor that is needed. */
void
inventory_transformer (const TransformerConfig *config, InventoryFunc func, gpointer user_data);
/* Without the last layer and the final norm, which are never used (spec 3). */
void
inventory_text_encoder (const TextEncoderConfig *config, InventoryFunc func, gpointer user_data);
void inventory_vae_decoder (const VaeConfig *config, InventoryFunc func, gpointer user_data);
void inventory_vae_encoder (const VaeConfig *config, InventoryFunc func, gpointer user_data);

G_END_DECLS
