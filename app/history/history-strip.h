/* SPDX-License-Identifier: Apache-2.0
 *
 * history-strip.h - the history as a row of thumbnails, newest first
 *
 * Emits `chosen` when one or two entries are selected by the user or by the functions here.
 */
#pragma once

#include "app/history/history.h"

#include <gtk/gtk.h>

G_BEGIN_DECLS

#define TESSERA_TYPE_HISTORY_STRIP (history_strip_get_type ())
G_DECLARE_FINAL_TYPE (TesseraHistoryStrip, history_strip, TESSERA, HISTORY_STRIP, GtkWidget)

/* `menu` (may be NULL) opens over an entry, which is selected first. */
void
history_strip_set_history (TesseraHistoryStrip *self, TesseraHistory *history, GMenuModel *menu);

/* The selected entries, the newer one first (transfer none); NULL when there are fewer. */
void
history_strip_get_chosen (TesseraHistoryStrip *self, TesseraEntry **first, TesseraEntry **second);
/* Selects one entry and scrolls to it; NULL selects none. */
void history_strip_choose (TesseraHistoryStrip *self, TesseraEntry *entry);
/* The entry at `position`, or the last if there are not so many; nothing where there is none. */
void history_strip_choose_at (TesseraHistoryStrip *self, guint position);
/* All selected entries, and the position of the first (transfer full; empty: no position). */
GPtrArray *history_strip_get_selected (TesseraHistoryStrip *self, guint *position);
/* Selects the entry that is `offset` later (+, older) or earlier (-) than the selected one. */
void history_strip_move (TesseraHistoryStrip *self, int offset);

/* Opens the menu at the entry with the keyboard focus; FALSE if none has it. */
gboolean history_strip_popup_menu (TesseraHistoryStrip *self);

G_END_DECLS
