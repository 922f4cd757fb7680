/* SPDX-License-Identifier: Apache-2.0
 *
 * run-bar.h - Generate and Cancel, the progress of the running job, and what waits behind it
 */
#pragma once

#include "app/generation/queue.h"

#include <gtk/gtk.h>

G_BEGIN_DECLS

#define TESSERA_TYPE_RUN_BAR (run_bar_get_type ())
G_DECLARE_FINAL_TYPE (TesseraRunBar, run_bar, TESSERA, RUN_BAR, GtkWidget)

/* Shows `queue` from now on. The buttons activate win.generate and win.cancel. */
void run_bar_set_queue (TesseraRunBar *self, TesseraQueue *queue);
/* Why Generate is insensitive, as its tooltip; NULL: it is not. */
void run_bar_set_reason (TesseraRunBar *self, const char *reason);

G_END_DECLS
