/* SPDX-License-Identifier: Apache-2.0
 *
 * lora-row.h - one LoRA file: whether it is used, how strongly, and what of it fits the model
 *
 * Emits `changed` when what it adds to a picture may have changed, and `remove` when it is to go.
 */
#pragma once

#include "app/generation/worker.h"

#include <adwaita.h>

G_BEGIN_DECLS

typedef enum
{
  LORA_ABSENT,   /* nowhere */
  LORA_OF_USER,  /* in the user's folder: can be removed */
  LORA_OF_MODEL, /* came with the model */
} LoraPlace;

#define TESSERA_TYPE_LORA_ROW (lora_row_get_type ())
G_DECLARE_FINAL_TYPE (TesseraLoraRow, lora_row, TESSERA, LORA_ROW, AdwPreferencesRow)

/* `file`: its name in one of the LoRA folders. It is off, of strength 1, and absent. */
TesseraLoraRow *lora_row_new (const char *file);
const char *lora_row_get_file (TesseraLoraRow *self);

void lora_row_set_place (TesseraLoraRow *self, LoraPlace place);
LoraPlace lora_row_get_place (TesseraLoraRow *self);

/* Both emit `changed`. */
void lora_row_set_active (TesseraLoraRow *self, gboolean active);
void lora_row_set_strength (TesseraLoraRow *self, double strength);
gboolean lora_row_get_active (TesseraLoraRow *self);
double lora_row_get_strength (TesseraLoraRow *self);

/* FALSE: it cannot be switched on, for there are as many already as a picture can have. */
void lora_row_set_available (TesseraLoraRow *self, gboolean available);

/* Asks the open model what of the file fits it, unless that is known or being asked. */
void lora_row_check (TesseraLoraRow *self, TesseraWorker *worker);
void lora_row_forget_check (TesseraLoraRow *self); /* there is another model, or another file */

/* TRUE if it is on and nothing is known that forbids it: then it is a part of requests. */
gboolean lora_row_is_used (TesseraLoraRow *self);
/* What it says of itself, such as "Applied to 12 layers" (borrowed). */
const char *lora_row_get_text (TesseraLoraRow *self);

G_END_DECLS
