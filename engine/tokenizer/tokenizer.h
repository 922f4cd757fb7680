/* SPDX-License-Identifier: Apache-2.0
 *
 * tokenizer.h - text to ids
 *
 * Byte-level BPE as Qwen's tokenizer.json describes it (spec z-image 2): added tokens matched
 * literally, NFC, the pre-tokenisation pattern, byte mapping, merges by rank. Other tokenizer
 * models, normalisers or patterns are refused by name.
 */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct _Tokenizer Tokenizer;

#define TOKENIZER_MAX_PROMPT 512 /* ids kept of a prompt (spec z-image 2.4) */

/* Reads `dir`/tokenizer.json, or where there is none vocab.json and merges.txt
 * (tokenizer-parts.h). Errors: ENGINE_ERROR_MODEL, G_FILE_ERROR_*, naming the file. */
Tokenizer *tokenizer_new (const char *dir, GError **error);
void tokenizer_free (Tokenizer *self); /* NULL is a no-op */

/* Ids of `text` as it stands (transfer full: g_array_unref), element gint64. `text` is UTF-8;
 * invalid bytes are replaced by U+FFFD. n log n in the length. */
GArray *tokenizer_encode (Tokenizer *self, const char *text, gssize length);

/* Ids of a prompt in its chat template (spec 2.3), cut to at most `max_ids` from the right. */
GArray *tokenizer_encode_prompt (Tokenizer *self, const char *prompt, guint max_ids);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Tokenizer, tokenizer_free)

G_END_DECLS
