/* SPDX-License-Identifier: Apache-2.0
 *
 * bpe.h - byte pairs merged by rank
 *
 * The model part of a tokenizer: bytes become ids, and the adjacent pair of lowest rank is merged
 * until none is listed (spec z-image 2.2). n log n in the length of a piece.
 */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct _Bpe Bpe;

/* `bytes`: the id of each single byte; `n_merges`: most merges that will be added. */
Bpe *bpe_new (const guint32 bytes[256], guint n_merges);
void bpe_free (Bpe *self); /* NULL is a no-op */

/* The next merge, one rank below all before it: `left` followed by `right` becomes `merged`. */
void bpe_add_merge (Bpe *self, guint32 left, guint32 right, guint32 merged);

/* Appends the ids of a piece to `out` (gint64). Not thread-safe: buffers are kept between calls. */
void bpe_encode (Bpe *self, const char *piece, gsize length, GArray *out);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Bpe, bpe_free)

G_END_DECLS
