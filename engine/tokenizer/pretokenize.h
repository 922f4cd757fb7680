/* SPDX-License-Identifier: Apache-2.0
 *
 * pretokenize.h - text into the pieces that BPE works on
 *
 * The one pattern of Qwen's tokenizers, written out by hand (spec z-image 2.2), and the
 * normalisation that comes before it. Both take time linear in the text.
 */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* The regular expression that pretokenize_next computes, as tokenizer.json spells it. */
#define PRETOKENIZE_PATTERN                                                                        \
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+"        \
  "[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* Bytes of the piece at the start of `text` (valid UTF-8 of `length` > 0 bytes): 1 to `length`. */
gsize pretokenize_next (const char *text, gsize length);

/* Valid UTF-8 from any bytes (transfer full): U+FFFD for each byte that cannot be read. */
GString *pretokenize_make_valid (const char *text, gsize length);

/* Unicode NFC of valid UTF-8 (transfer full). */
GString *pretokenize_nfc (const char *text, gsize length);

G_END_DECLS
