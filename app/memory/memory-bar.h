/* SPDX-License-Identifier: Apache-2.0
 *
 * memory-bar.h - a level bar of parts, drawn in shades of the accent colour, with a mark
 */
#pragma once

#include <gtk/gtk.h>

G_BEGIN_DECLS

#define MEMORY_BAR_PARTS 4

#define TESSERA_TYPE_MEMORY_BAR (memory_bar_get_type ())
G_DECLARE_FINAL_TYPE (TesseraMemoryBar, memory_bar, TESSERA, MEMORY_BAR, GtkWidget)

/* Shares of the whole, from the start: others', then ours; `mark` is where the next picture's peak
 * will be, negative for none, above 1 when it does not fit. */
void memory_bar_set (TesseraMemoryBar *self, const double parts[MEMORY_BAR_PARTS], double mark);

G_END_DECLS
