/* SPDX-License-Identifier: Apache-2.0
 *
 * adopt.h - files that other programs have already downloaded
 *
 * A candidate is taken only if its hash is the published one, or, where none was published, if its
 * length is; it is linked where the disk allows it and copied otherwise, so that the other program
 * may delete its own.
 */
#pragma once

#include "engine/catalogue.h"

G_BEGIN_DECLS

/* Where other programs keep models on this computer (transfer full: g_strfreev): Hugging Face's
 * cache, ComfyUI's folders, and the models in `models_dir`; before them `more`, a folder of any
 * program or NULL. Folders that are not there are left out. */
char **adopt_list_folders (const char *models_dir, const char *more);

/* TRUE if `file` was found in one of `folders` and is now at `path`. FALSE without an error: it was
 * not; with one: G_IO_ERROR_CANCELLED, or `path` cannot be written. `sha256`, `size`: what is known
 * beyond the catalogue, or NULL and 0. */
gboolean adopt_file (const CatalogueFile *file, const char *sha256, guint64 size,
                     const char *const *folders, const char *path, GCancellable *cancellable,
                     GError **error);

G_END_DECLS
