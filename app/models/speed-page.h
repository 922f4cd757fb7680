/* SPDX-License-Identifier: Apache-2.0
 *
 * speed-page.h - "Benchmark this computer": start, progress, figures, and saving them
 */
#pragma once

#include "app/models/speed.h"

#include <adwaita.h>

G_BEGIN_DECLS

#define TESSERA_TYPE_SPEED_PAGE (speed_page_get_type ())
G_DECLARE_FINAL_TYPE (TesseraSpeedPage, speed_page, TESSERA, SPEED_PAGE, AdwPreferencesPage)

/* The model measured is the one that `settings` name, which `worker` has open. */
TesseraSpeedPage *speed_page_new (TesseraWorker *worker, GSettings *settings);

/* See speed_measure_async; 10 unless it is set. */
void speed_page_set_patience (TesseraSpeedPage *self, double seconds);

/* Begins, unless it is at it; what the button does. */
void speed_page_start (TesseraSpeedPage *self);
void speed_page_cancel (TesseraSpeedPage *self);
gboolean speed_page_is_running (TesseraSpeedPage *self);

/* Shows figures (transfer full). */
void speed_page_show (TesseraSpeedPage *self, Speed *speed);
const Speed *speed_page_get_shown (TesseraSpeedPage *self); /* NULL: none yet */

G_END_DECLS
