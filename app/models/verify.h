/* SPDX-License-Identifier: Apache-2.0
 *
 * verify.h - whether the files of a model are what was published
 */
#pragma once

#include "app/models/tree.h"

#include "engine/checkpoint/catalogue.h"

G_BEGIN_DECLS

/* Reads every file of a model whose hash was published and compares; blocking. FALSE with
 * G_IO_ERROR_INVALID_DATA or _NOT_FOUND naming the first wrong file; with any other error, and when
 * it is cancelled, nothing is touched. `mend`: at the end all that are wrong are deleted, and
 * model_index.json with them, so that a download brings them back. `progress`: of what is read. */
gboolean verify_model (const CatalogueModel *model, const char *dir, gboolean mend,
                       TreeProgress *progress, GCancellable *cancellable, GError **error);

G_END_DECLS
