/* SPDX-License-Identifier: Apache-2.0
 *
 * model-row.h - a model of the catalogue: what it is, how far it is, what can be done with it
 */
#pragma once

#include "app/models/download.h"

#include <adwaita.h>

G_BEGIN_DECLS

#define TESSERA_TYPE_MODEL_ROW (model_row_get_type ())
G_DECLARE_FINAL_TYPE (TesseraModelRow, model_row, TESSERA, MODEL_ROW, AdwActionRow)

/* "Use" writes the folder to the key "model" of `settings`. A download that an earlier run of the
 * program left under way goes on at once. */
TesseraModelRow *model_row_new (Catalogue *catalogue, const CatalogueModel *model,
                                const char *models_dir, GSettings *settings);
void model_row_recommend (TesseraModelRow *self); /* says that it suits this computer */
TesseraDownload *model_row_get_download (TesseraModelRow *self);

G_END_DECLS
