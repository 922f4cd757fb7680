/* SPDX-License-Identifier: Apache-2.0
 *
 * adopt.h - files that other programs have already downloaded
 *
 * A candidate is taken only if its hash is the published one, or, where none was published, if its
 * length is; it is linked where the disk allows it and copied otherwise, so that the other program
 * may delete its own.
 */
#pragma once

#include "engine/checkpoint/catalogue.h"

G_BEGIN_DECLS

/* Where other programs keep models on this computer (transfer full: g_strfreev): Hugging Face's
 * cache, ComfyUI's folders, and the models in `models_dir`; before them `more`, a folder of any
 * program or NULL. Folders that are not there are left out. */
char **adopt_list_folders (const char *models_dir, const char *more);

/* Where in one of `folders` the file is (transfer full), or NULL. Reads candidates whole. `sha256`,
 * `size`: what is known beyond the catalogue, or NULL and 0. */
char *adopt_find (const CatalogueFile *file, const char *sha256, guint64 size,
                  const char *const *folders, GCancellable *cancellable);

/* Links the file `from` to `path`, which is not there, or copies it. `progress` may be NULL.
 * Errors: G_IO_ERROR_CANCELLED and others of a copy. */
gboolean adopt_take (const char *from, const char *path, GFileProgressCallback progress,
                     gpointer data, GCancellable *cancellable, GError **error);

G_END_DECLS
