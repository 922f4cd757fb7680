/* SPDX-License-Identifier: Apache-2.0
 *
 * worker.h - the engine's thread and its mailbox
 *
 * All engine calls but those for any thread are made on one thread, in the order in which they
 * were asked for. A GTask is the envelope: callback, cancellable, result, and the way back to the
 * main thread. Functions without a note are for the main thread.
 */
#pragma once

#include "app/generation/job.h"

G_BEGIN_DECLS

/* What an opened model can do. */
typedef struct
{
  char *path, *name;
  gboolean supports[2];   /* by EnginePrecision */
  char *reason[2];        /* the engine's words when it does not, else NULL */
  const char *kernels[2]; /* what computes the transformer's layers; static */
  gboolean arithmetics;   /* the device has a fast and an exact one for SVDQuant */
  gboolean guidance;      /* takes guidance and a negative prompt */
  int native_size;        /* pixels a side that it draws best */
  gboolean encoders[2];   /* text encoders of 8 and of 4 bit lie in its folder */
  int encoder_bits;       /* of the one in use, 16 for the model's own */
  char *encoder_reason;   /* the engine's words when the one asked for cannot be used, else NULL */
  EngineDevice device;    /* what computes */
} ModelInfo;

void model_info_free (ModelInfo *info);

#define TESSERA_TYPE_WORKER (worker_get_type ())
G_DECLARE_FINAL_TYPE (TesseraWorker, worker, TESSERA, WORKER, GObject)

TesseraWorker *worker_new (void);

/* Opens a model in place of the one that is open. `options` may be NULL; strings are copied. Where
 * its text_encoder_file cannot be used, the model's own is. */
void worker_open_async (TesseraWorker *self, const char *dir, const EngineOptions *options,
                        GCancellable *cancellable, GAsyncReadyCallback callback, gpointer data);
ModelInfo *worker_open_finish (TesseraWorker *self, GAsyncResult *result, GError **error);

/* What a request will take, and if it does not fit, what would (see advice.h). */
typedef struct
{
  EnginePlan plan;
  gboolean advised;
  EnginePrecision precision;
  int width, height;
} WorkerPlan;

/* Does not wait for the picture that is being made. `failed`: the request has turned out not to
 * fit, whatever its plan says. */
void worker_plan_async (TesseraWorker *self, const EngineRequest *request, gboolean failed,
                        GCancellable *cancellable, GAsyncReadyCallback callback, gpointer data);
gboolean
worker_plan_finish (TesseraWorker *self, GAsyncResult *result, WorkerPlan *plan, GError **error);

/* What of a LoRA file fits the open model: see engine_check_lora. */
typedef struct
{
  guint applied, left_out; /* layers */
  char *reasons;           /* lines */
} WorkerLora;

void worker_lora_free (WorkerLora *self);

/* Does not wait for the picture that is being made, either. G_IO_ERROR_NOT_INITIALIZED: no model is
 * open. */
void worker_check_lora_async (TesseraWorker *self, const char *file, GCancellable *cancellable,
                              GAsyncReadyCallback callback, gpointer data);
WorkerLora *worker_check_lora_finish (TesseraWorker *self, GAsyncResult *result, GError **error);

/* Makes the job's picture; progress goes to the job, whose cancellable stops it. */
void worker_generate_async (TesseraWorker *self, TesseraJob *job, GAsyncReadyCallback callback,
                            gpointer data);
Image *worker_generate_finish (TesseraWorker *self, GAsyncResult *result, GError **error);

/* Calls `work` on the engine's thread with the open engine, or NULL if no model is open. It ends
 * the task. */
typedef void (*WorkerFunc) (Engine *engine, GTask *task, gpointer work_data);
void worker_run_async (TesseraWorker *self, WorkerFunc work, gpointer work_data,
                       GDestroyNotify free_work_data, GCancellable *cancellable,
                       GAsyncReadyCallback callback, gpointer data);

/* Gives device memory back once what was asked for before is done. */
void worker_trim (TesseraWorker *self);

/* What the open engine holds and what the device has; FALSE when no model is open. */
gboolean worker_get_memory (TesseraWorker *self, EngineMemory *memory, EngineDevice *device);

/* Ends the thread after what was asked for before, and frees the engine. Nothing may be asked for
 * afterwards. */
void worker_stop_async (TesseraWorker *self, GAsyncReadyCallback callback, gpointer data);
gboolean worker_stop_finish (TesseraWorker *self, GAsyncResult *result, GError **error);

G_END_DECLS
