/* SPDX-License-Identifier: Apache-2.0
 *
 * idle-trim.h - gives the device's memory back when nothing has been made for a while
 */
#pragma once

#include "app/generation/queue.h"

G_BEGIN_DECLS

#define TESSERA_TYPE_IDLE_TRIM (idle_trim_get_type ())
G_DECLARE_FINAL_TYPE (TesseraIdleTrim, idle_trim, TESSERA, IDLE_TRIM, GObject)

/* After as many minutes as the setting `idle-minutes` says, 0 = never. `minute`: how many
 * milliseconds one has, which a test may shorten. */
TesseraIdleTrim *
idle_trim_new (TesseraQueue *queue, TesseraWorker *worker, GSettings *settings, guint minute);

G_END_DECLS
