/* SPDX-License-Identifier: Apache-2.0
 *
 * verify.h - whether the files of a model are what was published
 */
#pragma once

#include "engine/checkpoint/catalogue.h"

G_BEGIN_DECLS

/* Reads every file of a model whose hash was published and compares; blocking. FALSE with
 * G_IO_ERROR_INVALID_DATA or _NOT_FOUND naming the first wrong file. `mend`: then it is deleted,
 * and model_index.json with it, so that a download brings both back. */
gboolean verify_model (const CatalogueModel *model, const char *dir, gboolean mend,
                       GCancellable *cancellable, GError **error);

G_END_DECLS
