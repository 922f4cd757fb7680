/* SPDX-License-Identifier: Apache-2.0
 *
 * lora-list.h - the LoRA files at hand, and which of them the next picture has
 *
 * A row of the left pane that opens. Their order is that of requests, which counts for the last bit
 * of a picture. Emits `changed`, and `removed` (name) when a file was taken out of sight.
 */
#pragma once

#include "app/lora/lora-row.h"

G_BEGIN_DECLS

#define TESSERA_TYPE_LORA_LIST (lora_list_get_type ())
G_DECLARE_FINAL_TYPE (TesseraLoraList, lora_list, TESSERA, LORA_LIST, AdwExpanderRow)

/* Remembers files, strengths and what is on in `settings` from now on. */
void lora_list_bind_settings (TesseraLoraList *self, GSettings *settings);

/* Whom to ask what of a file fits. */
void lora_list_set_worker (TesseraLoraList *self, TesseraWorker *worker);
/* Folder of the model that is open; NULL: none is. */
void lora_list_set_model (TesseraLoraList *self, const char *model_dir);

/* Looks into the folders again. */
void lora_list_rescan (TesseraLoraList *self);

/* Those that are on and can be applied; borrowed until the next change. */
const EngineLora *lora_list_get (TesseraLoraList *self, guint *n);
/* Has on just these, found by name; `ignored` (may be NULL) gets a line for each that is nowhere.
 */
void lora_list_set (TesseraLoraList *self, const EngineLora *loras, guint n, GString *ignored);
/* Its row, or NULL. */
TesseraLoraRow *lora_list_find (TesseraLoraList *self, const char *file);
/* Switches one more on, which has just come into the folder. */
void lora_list_use (TesseraLoraList *self, const char *file);

/* What `removed` told of: its file goes for good, or comes back. */
void lora_list_forget_removed (TesseraLoraList *self);
void lora_list_bring_back (TesseraLoraList *self);

G_END_DECLS
