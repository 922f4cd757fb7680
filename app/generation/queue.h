/* SPDX-License-Identifier: Apache-2.0
 *
 * queue.h - jobs in line: one runs, the others wait
 *
 * A list model of TesseraJob, the running one not among them. Whatever is not yet a file in the
 * history is written to a journal, so that a crash or a restart loses nothing; jobs read back from
 * it wait until queue_set_paused (FALSE), lest one that ends the program is started for ever.
 */
#pragma once

#include "app/generation/worker.h"
#include "app/history/history.h"

G_BEGIN_DECLS

#define TESSERA_TYPE_QUEUE (queue_get_type ())
G_DECLARE_FINAL_TYPE (TesseraQueue, queue, TESSERA, QUEUE, GObject)

/* Signals:
 *   finished (job, picture)      picture is NULL unless the job is JOB_DONE
 *   saved (entry)                the picture of a finished job is in the history
 *   not-saved (picture, error)   it could not be written; the picture is the only copy
 * Properties: running (TesseraJob or NULL), paused. Both emit notify.
 * `journal`: path of the file, read at once; NULL = none. */
TesseraQueue *queue_new (TesseraWorker *worker, TesseraHistory *history, const char *journal);

/* Puts a job at the end, and starts it if nothing runs. */
void queue_add (TesseraQueue *self, TesseraJob *job);
void queue_remove (TesseraQueue *self, guint position);
/* Moves the waiting job `from` to where `to` is. */
void queue_move (TesseraQueue *self, guint from, guint to);
void queue_clear (TesseraQueue *self);

TesseraJob *queue_get_running (TesseraQueue *self); /* NULL when idle */
gboolean queue_get_paused (TesseraQueue *self);
/* Whether the queue paused by itself: a picture could not be written, or none can be drawn until
 * somebody sees to it. The jobs concerned stay in the journal. */
gboolean queue_has_trouble (TesseraQueue *self);
/* While paused nothing new is started. */
void queue_set_paused (TesseraQueue *self, gboolean paused);

/* Nothing can run until a model is open; its name goes into the pictures. NULL: none is. */
void queue_set_model (TesseraQueue *self, const ModelInfo *model);

/* The app ends: what is unfinished stays in the journal for the next start, and the running job is
 * cancelled. */
void queue_stop (TesseraQueue *self);

/* TRUE while a picture or the journal is being written. */
gboolean queue_is_saving (TesseraQueue *self);

G_END_DECLS
