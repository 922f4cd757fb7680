/* SPDX-License-Identifier: Apache-2.0
 *
 * speed.h - "Benchmark this computer": the open model, measured on the engine's thread
 *
 * The protocol is that by which the 4-bit model was published: 1024 x 1024, 8 and 20 steps, seed 42
 * (pull request #3830 of vllm-project/vllm-omni), or the next smaller square that fits and of
 * which the products alone would not take too long; in each precision that the model and the device
 * can run.
 */
#pragma once

#include "app/generation/worker.h"
#include "engine/computer/benchmark.h"

G_BEGIN_DECLS

#define SPEED_N_STEPS 2

extern const int SPEED_STEPS[SPEED_N_STEPS]; /* 8, 20 */

/* All figures; those of a precision that cannot be run are all zero. */
typedef struct
{
  Benchmark runs[2][SPEED_N_STEPS]; /* by precision and by SPEED_STEPS */
} Speed;

void speed_free (Speed *self); /* NULL is a no-op */

/* How far it is; shared by both threads. */
typedef struct
{
  gint refs;
  gint permille; /* of all steps; -1: waits for the engine */
  gint run;      /* 2 * precision + index of steps */
} SpeedProgress;

SpeedProgress *speed_progress_new (void); /* (transfer full) */
SpeedProgress *speed_progress_ref (SpeedProgress *self);
void speed_progress_unref (SpeedProgress *self);

/* `model`: the folder that is open; `patience`: seconds that the bare products of all steps may
 * take on a processor, which decides the size. Errors: ENGINE_ERROR_MODEL when none is,
 * ENGINE_ERROR_MEMORY when nothing fits, engine_generate's. */
void speed_measure_async (TesseraWorker *worker, const char *model, double patience,
                          SpeedProgress *progress, GCancellable *cancellable,
                          GAsyncReadyCallback callback, gpointer data);
Speed *speed_measure_finish (GAsyncResult *result, GError **error); /* (transfer full) */

/* Blocks. */
gboolean speed_save (const Speed *self, const char *path, GError **error);

G_END_DECLS
