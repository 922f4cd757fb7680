/* SPDX-License-Identifier: Apache-2.0
 *
 * restore-report.h - a card that says what was and was not taken over from a picture's settings
 */
#pragma once

#include "app/history/picture.h"

#include <gtk/gtk.h>

G_BEGIN_DECLS

#define TESSERA_TYPE_RESTORE_REPORT (restore_report_get_type ())
G_DECLARE_FINAL_TYPE (TesseraRestoreReport, restore_report, TESSERA, RESTORE_REPORT, GtkWidget)

/* `name`: of the file; `ignored`: lines of what this model could not use, from controls. */
void restore_report_show (TesseraRestoreReport *self, const char *name, TesseraPicture *picture,
                          const char *ignored);
/* The file could not be read, or says nothing. `details` may be NULL. */
void
restore_report_show_failure (TesseraRestoreReport *self, const char *name, const char *details);
void restore_report_hide (TesseraRestoreReport *self);

/* TRUE while it is seen; its text is borrowed. */
gboolean restore_report_is_shown (TesseraRestoreReport *self);
const char *restore_report_get_text (TesseraRestoreReport *self);

G_END_DECLS
