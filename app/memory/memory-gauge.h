/* SPDX-License-Identifier: Apache-2.0
 *
 * memory-gauge.h - how full the computing device's memory is, and who holds it
 *
 * On a graphics card that is graphics memory, else main memory. A mark on the bar shows how far
 * the next picture will fill it.
 */
#pragma once

#include "app/memory/nvml.h"
#include "engine/engine.h"

#include <gtk/gtk.h>

G_BEGIN_DECLS

#define TESSERA_TYPE_MEMORY_GAUGE (memory_gauge_get_type ())
G_DECLARE_FINAL_TYPE (TesseraMemoryGauge, memory_gauge, TESSERA, MEMORY_GAUGE, GtkWidget)

/* What is held now. */
void memory_gauge_set_memory (TesseraMemoryGauge *self, const EngineMemory *memory,
                              const EngineDevice *device);
/* Whose the rest is; NULL: not known, then it is what is used and not the engine's. */
void memory_gauge_set_shares (TesseraMemoryGauge *self, const NvmlMemory *shares);
/* What the next picture will take; NULL: not known. */
void memory_gauge_set_plan (TesseraMemoryGauge *self, const EnginePlan *plan);

/* "11.2 GB": one number for people, in the unit in which memory is sold (transfer full). */
char *format_memory (guint64 bytes);

G_END_DECLS
