/* SPDX-License-Identifier: Apache-2.0
 *
 * history.h - a list model over a folder of PNG files, newest first
 *
 * The folder is the only storage: what is in it is the history, whoever put it there. A file is
 * called STEM-PRECISION.png, where STEM is the moment at which it was asked for; two pictures made
 * to be compared share it.
 */
#pragma once

#include "app/history/entry.h"

#include <gio/gio.h>

G_BEGIN_DECLS

#define TESSERA_TYPE_HISTORY (history_get_type ())
G_DECLARE_FINAL_TYPE (TesseraHistory, history, TESSERA, HISTORY, GObject)

/* A GListModel of TesseraEntry. The folder is made when it is missing, read on a pool thread
 * (property `loading`), and watched. */
TesseraHistory *history_new (const char *folder);
const char *history_get_folder (TesseraHistory *self);
gboolean history_get_loading (TesseraHistory *self);

/* A name for this request, later than any before it in this process (transfer full). */
char *history_new_stem (TesseraHistory *self);
/* The name for `now`, or the one after `last` (or NULL) where that is as late: clocks are set back,
 * and local time goes back every autumn (transfer full). */
char *history_stem_at (GDateTime *now, const char *last);

/* Saves under `stem` on a pool thread, then shows the entry (transfer none) at the top. */
void history_add_async (TesseraHistory *self, TesseraPicture *picture, const char *stem,
                        GAsyncReadyCallback callback, gpointer data);
TesseraEntry *history_add_finish (TesseraHistory *self, GAsyncResult *result, GError **error);

/* The other precision of the same pair, or NULL. */
TesseraEntry *history_find_twin (TesseraHistory *self, TesseraEntry *entry);
gboolean history_find (TesseraHistory *self, TesseraEntry *entry, guint *position);

/* Takes an entry out of sight; its file goes when history_forget is called, to the wastebasket
 * where there is one. history_bring_back undoes it until then. */
void history_remove (TesseraHistory *self, TesseraEntry *entry);
void history_bring_back (TesseraHistory *self, TesseraEntry *entry);
void history_forget (TesseraHistory *self, TesseraEntry *entry);

G_END_DECLS
