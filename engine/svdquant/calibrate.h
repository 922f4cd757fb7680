/* SPDX-License-Identifier: Apache-2.0
 *
 * calibrate.h - inputs of every linear, sampled while real pictures are made
 *
 * Rows go to files as they come, a few thousand for each linear in BF16: what the whole model was
 * fed would not fit into memory. Once the pictures are done the folder says so, and what made it;
 * an interrupted calibration starts again.
 */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct
{
  const char *const *prompts; /* NULL-terminated */
  int steps;                  /* of each picture */
  int size;                   /* of its sides, in pixels */
  gint64 rows;                /* kept of each linear's inputs, about */
  const char *weights;        /* tells the model's weights from others of the same path */
} CalibratePlan;

/* `fraction` 0 to 1 of the pictures' steps. */
typedef void (*CalibrateProgress) (double fraction, gpointer user_data);

/* Fills `dir` unless it holds the same plan's rows already. Errors: the engine's, G_FILE_ERROR_*,
 * G_IO_ERROR_CANCELLED. */
gboolean calibrate (const char *model, const CalibratePlan *plan, const char *dir,
                    CalibrateProgress progress, gpointer user_data, GCancellable *cancellable,
                    GError **error);

/* The inputs of linear `base`, [*rows, k] F32 (transfer full). */
float *calibrate_read (const char *dir, const char *base, gint64 k, gint64 *rows, GError **error);

G_END_DECLS
