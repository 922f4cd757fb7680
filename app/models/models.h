/* SPDX-License-Identifier: Apache-2.0
 *
 * models.h - where models are
 */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

/* The folder of the model that comes with the app, or NULL (transfer full). */
char *models_find_builtin (void);

/* TRUE if the model in `dir` is the built-in one and the app can download others. */
gboolean models_has_better (const char *dir);

/* The catalogue that comes with the app, or NULL (transfer full). TESSERA_CATALOGUE names another,
 * for tests. */
char *models_find_catalogue (void);

/* The folder to open: what `settings` names, else the built-in one, else NULL (transfer full). */
char *models_choose (GSettings *settings);

/* A text encoder of `bits` (8 or 4) in the model's folder text_encoders, or NULL (transfer full).
 * Reads the headers that are there; from any thread. */
char *models_find_text_encoder (const char *dir, int bits);

/* TRUE if `dir` looks like a model folder: a check of names only, from any thread. */
gboolean models_is_model (const char *dir);

G_END_DECLS
