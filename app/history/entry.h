/* SPDX-License-Identifier: Apache-2.0
 *
 * entry.h - one picture of the history: a PNG file, read when it is looked at
 */
#pragma once

#include "app/history/picture.h"

G_BEGIN_DECLS

#define TESSERA_TYPE_ENTRY (entry_get_type ())
G_DECLARE_FINAL_TYPE (TesseraEntry, entry, TESSERA, ENTRY, GObject)

#define ENTRY_THUMBNAIL_SIZE 192

/* `picture` may be given when it has just been made; else it is read from the file on demand. */
TesseraEntry *entry_new (const char *path, TesseraPicture *picture);

const char *entry_get_path (TesseraEntry *self);
const char *entry_get_name (TesseraEntry *self); /* the file's name; newer ones sort later */

/* Properties `thumbnail` (GdkTexture) and `label` (prompt and precision) fill once asked for. */
void entry_ensure_thumbnail (TesseraEntry *self);
GdkTexture *entry_get_thumbnail (TesseraEntry *self); /* NULL until it is there */
const char *entry_get_label (TesseraEntry *self);

/* The whole picture, from a pool thread (transfer full). */
void entry_load_async (TesseraEntry *self, GCancellable *cancellable, GAsyncReadyCallback callback,
                       gpointer data);
TesseraPicture *entry_load_finish (TesseraEntry *self, GAsyncResult *result, GError **error);

G_END_DECLS
