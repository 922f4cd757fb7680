/* SPDX-License-Identifier: Apache-2.0
 *
 * job.h - one generation as an object
 *
 * A job is a request on its way to a picture. The window binds to its properties, which change on
 * the main thread only; the engine's thread reports through job_set_progress, and many reports
 * become as many notifications as the main loop has time for.
 */
#pragma once

#include "engine/engine.h"

#include <gdk/gdk.h>

G_BEGIN_DECLS

typedef enum
{
  JOB_WAITING,
  JOB_RUNNING,
  JOB_DONE,
  JOB_CANCELLED,
  JOB_FAILED,
} JobState;

/* Seconds that the phases of a finished job took: the next one's estimate. All zero = unknown. */
typedef struct
{
  double seconds[ENGINE_N_PHASES];
} JobTimings;

#define TESSERA_TYPE_JOB (job_get_type ())
G_DECLARE_FINAL_TYPE (TesseraJob, job, TESSERA, JOB, GObject)

/* `request` is copied; `pair` (may be NULL) is an id that two jobs to be compared share. */
TesseraJob *job_new (const EngineRequest *request, const char *pair);

const EngineRequest *job_get_request (TesseraJob *self);
const char *job_get_pair (TesseraJob *self); /* NULL if it is not one of a pair */
GCancellable *job_get_cancellable (TesseraJob *self);
JobState job_get_state (TesseraJob *self);
double job_get_fraction (TesseraJob *self);     /* of the whole job, 0 to 1 */
const char *job_get_text (TesseraJob *self);    /* "Step 3 of 8, about 4 s left" */
GdkTexture *job_get_preview (TesseraJob *self); /* NULL until there is one */
const GError *job_get_error (TesseraJob *self); /* when JOB_FAILED */
const JobTimings *job_get_timings (TesseraJob *self);
double job_get_seconds (TesseraJob *self); /* from job_begin to job_finish */

/* "SVDQuant, 1024 × 768, seed 42" (transfer full). */
char *job_describe (TesseraJob *self);

/* Main thread: a waiting job starts to run; `expected` may be NULL. */
void job_begin (TesseraJob *self, const JobTimings *expected);

/* (any thread) `step` of `n_steps` of a phase are done; `preview` (may be NULL) is referenced. */
void
job_set_progress (TesseraJob *self, EnginePhase phase, guint step, guint n_steps, Image *preview);

/* Main thread: the end. `error` NULL means done, G_IO_ERROR_CANCELLED cancelled, others failed. */
void job_finish (TesseraJob *self, const GError *error);

/* Asks the engine to stop; job_finish follows when it has. */
void job_cancel (TesseraJob *self);

const char *precision_label (EnginePrecision precision); /* "BF16", "SVDQuant" */

G_END_DECLS
