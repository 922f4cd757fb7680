/* SPDX-License-Identifier: Apache-2.0
 *
 * models.h - where models are
 */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

/* The folder of the model that comes with the app, or NULL (transfer full). */
char *models_find_builtin (void);

/* The catalogue that comes with the app, or NULL (transfer full). TESSERA_CATALOGUE names another,
 * for tests. */
char *models_find_catalogue (void);

/* The folder to open: what `settings` names, else the built-in one, else NULL (transfer full). */
char *models_choose (GSettings *settings);

/* The quantised transformer that lies in a model's folder, whose name begins with "svdq-" as the
 * published ones do, or NULL (transfer full). INT4 before NVFP4: it runs on more devices. */
char *models_find_quantised (const char *dir);

/* The size that a model draws best, when that is not the usual megapixel. */
gboolean models_get_native_size (const char *dir, int *width, int *height);

/* TRUE if `dir` looks like a model folder: a check of names only, from any thread. */
gboolean models_is_model (const char *dir);

G_END_DECLS
