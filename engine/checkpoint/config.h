/* SPDX-License-Identifier: Apache-2.0
 *
 * config.h - the JSON files of a model folder
 *
 * Types and ranges of every value are checked, and so is every switch that would ask for
 * mathematics this engine does not have: such a model is refused by the name of the key.
 */
#pragma once

#include "engine/checkpoint/checkpoint.h"

G_BEGIN_DECLS

/* Each reads `dir`/PART/config.json. Errors: ENGINE_ERROR_MODEL naming file and key, or
 * G_FILE_ERROR_*. t_hidden of the transformer is left at 1024: only its weights know it. */
gboolean config_read_transformer (const char *dir, TransformerConfig *out, GError **error);
gboolean config_read_text_encoder (const char *dir, TextEncoderConfig *out, GError **error);
gboolean config_read_vae (const char *dir, VaeConfig *out, GError **error);
gboolean config_read_scheduler (const char *dir, SchedulerConfig *out, GError **error);

/* Whether it has the files by which a model folder is known, read or not. */
gboolean config_is_model_folder (const char *dir);
/* Refuses a model_index.json of another pipeline; a folder without the file passes. */
gboolean config_check_pipeline (const char *dir, GError **error);

G_END_DECLS
