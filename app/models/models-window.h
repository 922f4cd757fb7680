/* SPDX-License-Identifier: Apache-2.0
 *
 * models-window.h - models to have and to use, this computer's state, and the hosts contacted
 *
 * Closing hides it: downloads go on. Destroying it interrupts them; they go on as soon as there is
 * such a window again, also while it is hidden.
 */
#pragma once

#include <adwaita.h>

G_BEGIN_DECLS

#define TESSERA_TYPE_MODELS_WINDOW (models_window_get_type ())
G_DECLARE_FINAL_TYPE (TesseraModelsWindow, models_window, TESSERA, MODELS_WINDOW,
                      AdwPreferencesWindow)

/* `models_dir`: where models are kept. A model that is chosen goes to the key "model". */
TesseraModelsWindow *
models_window_new (GtkWindow *parent, GSettings *settings, const char *models_dir);

/* To be asked at the start of the program: ends moves that were interrupted, and is TRUE if a
 * download was, for which the window should be made. */
gboolean models_window_is_due (const char *models_dir);

G_END_DECLS
