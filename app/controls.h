/* SPDX-License-Identifier: Apache-2.0
 *
 * controls.h - the left pane: all that can be said about the next picture
 *
 * Emits `changed` when any of it changes. What the open model refuses is insensitive and says why.
 */
#pragma once

#include "app/lora/lora-list.h"

#include <gtk/gtk.h>

G_BEGIN_DECLS

typedef enum
{
  RUN_BF16,
  RUN_SVDQUANT,
  RUN_BOTH,
} RunPrecision;

/* Of SVDQuant files, where a device has both; the setting `arithmetic`. */
typedef enum
{
  ARITHMETIC_FAST,
  ARITHMETIC_EXACT,
} Arithmetic;

#define TESSERA_TYPE_CONTROLS (controls_get_type ())
G_DECLARE_FINAL_TYPE (TesseraControls, controls, TESSERA, CONTROLS, GtkWidget)

/* Remembers everything in `settings` from now on, and starts from what is remembered. */
void controls_bind_settings (TesseraControls *self, GSettings *settings);

/* What the model can do; NULL: nothing is known. Copied. */
void controls_set_model (TesseraControls *self, const ModelInfo *model);
/* Element: EngineDevice; chosen by the setting `device`. */
void controls_set_devices (TesseraControls *self, GArray *devices);

/* Fills *request; its strings are borrowed and live until the next change. With RUN_BOTH its
 * precision is BF16, the one that needs more. */
void controls_get_request (TesseraControls *self, EngineRequest *request);
RunPrecision controls_get_run (TesseraControls *self);
TesseraLoraList *controls_get_loras (TesseraControls *self);
int controls_get_batch (TesseraControls *self);
gboolean controls_get_new_seed (TesseraControls *self); /* a new one before each run */

/* Takes over all that this model can use; *ignored (transfer full, may be NULL) gets a line for
 * each value that was not taken over, or is "". */
void controls_set_request (TesseraControls *self, const EngineRequest *request, char **ignored);
void controls_set_run (TesseraControls *self, RunPrecision run);
void controls_set_size (TesseraControls *self, int width, int height);
void controls_set_prompt (TesseraControls *self, const char *prompt);

/* A random seed, or this one, into its entry. */
void controls_draw_seed (TesseraControls *self);
void controls_set_seed (TesseraControls *self, guint64 seed);
void controls_focus_prompt (TesseraControls *self);

G_END_DECLS
