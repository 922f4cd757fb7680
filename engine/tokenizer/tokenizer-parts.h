/* SPDX-License-Identifier: Apache-2.0
 *
 * tokenizer-parts.h - a tokenizer in several files, as the single one
 *
 * Pipelines that were saved with the Python tokenizer have vocab.json and merges.txt, and the added
 * tokens in tokenizer_config.json ("added_tokens_decoder") or added_tokens.json; so has ComfyUI.
 * What such files leave out - NFC, the pattern - is what transformers' Qwen2Tokenizer has built in.
 */
#pragma once

#include "engine/files/json.h"

G_BEGIN_DECLS

/* TRUE if `dir` has vocab.json and merges.txt. */
gboolean tokenizer_parts_are_there (const char *dir);

/* The files of `dir` in the form of a tokenizer.json (transfer full: cJSON_Delete), not checked
 * beyond what it takes to do so. Errors: ENGINE_ERROR_MODEL, G_FILE_ERROR_*, naming the file. */
cJSON *tokenizer_parts_load (const char *dir, gsize max_bytes, GError **error);

G_END_DECLS
