/* SPDX-License-Identifier: Apache-2.0 */
#include "app/generation/worker.h"

#include "app/memory/advice.h"
#include "app/models/models.h"

/* What both threads know. It has its own count so that neither must outlive the other. */
typedef struct
{
  gatomicrefcount refs;
  GAsyncQueue *mailbox; /* of GTask, each with an Order */
  GRWLock lock;         /* of `engine`, against questions from other threads */
  Engine *engine;       /* changed by the engine's thread only */
} Shared;

typedef struct _Order Order;
struct _Order
{
  void (*carry_out) (Shared *shared, GTask *task, Order *order);
  TesseraJob *job;
  EngineRequest *request;
  char *dir, *file, *device, *transformer_file, *text_encoder_file, *calibration_file;
  EngineOptions options;
  WorkerFunc work;
  gpointer work_data;
  GDestroyNotify free_work_data;
  gboolean last, failed;
};

struct _TesseraWorker
{
  GObject parent_instance;

  /* Owned References */
  Shared *shared;

  gboolean stopped;
};

G_DEFINE_FINAL_TYPE (TesseraWorker, worker, G_TYPE_OBJECT)

static void
shared_unref (Shared *shared)
{
  if (!g_atomic_ref_count_dec (&shared->refs))
    return;
  g_async_queue_unref (shared->mailbox);
  g_rw_lock_clear (&shared->lock);
  g_free (shared);
}

static void
order_free (Order *order)
{
  g_clear_object (&order->job);
  engine_request_free (order->request);
  g_free (order->dir);
  g_free (order->file);
  g_free (order->device);
  g_free (order->transformer_file);
  g_free (order->text_encoder_file);
  g_free (order->calibration_file);
  if (order->free_work_data != NULL)
    order->free_work_data (order->work_data);
  g_free (order);
}

void
model_info_free (ModelInfo *info)
{
  if (info == NULL)
    return;
  g_free (info->path);
  g_free (info->name);
  g_free (info->reason[0]);
  g_free (info->reason[1]);
  g_free (info->encoder_reason);
  g_free (info);
}

/* Engine's thread: puts `engine` in the place of the old one, which is freed. */
static void
replace_engine (Shared *shared, Engine *engine)
{
  Engine *old;

  g_rw_lock_writer_lock (&shared->lock);
  old = shared->engine;
  shared->engine = engine;
  g_rw_lock_writer_unlock (&shared->lock);
  engine_free (old);
}

/* The model's own text encoder serves where another cannot: *reason (transfer full) says why. */
static Engine *
open_engine (const Order *order, char **reason, GError **error)
{
  EngineOptions options = order->options;
  g_autoptr (GError) refused = NULL;
  Engine *engine = engine_new (order->dir, &options, &refused);

  if (engine != NULL || options.text_encoder_file == NULL)
    {
      if (refused != NULL)
        g_propagate_error (error, g_steal_pointer (&refused));
      return engine;
    }
  options.text_encoder_file = NULL;
  engine = engine_new (order->dir, &options, error);
  if (engine != NULL)
    *reason = g_strdup (refused->message);
  return engine;
}

static void
describe_encoders (ModelInfo *info, Engine *engine)
{
  info->encoder_bits = engine_get_text_encoder_bits (engine);
  for (guint i = 0; i < G_N_ELEMENTS (info->encoders); i++)
    {
      g_autofree char *path = models_find_text_encoder (info->path, i == 0 ? 8 : 4);

      info->encoders[i] = path != NULL;
    }
}

static void
carry_out_open (Shared *shared, GTask *task, Order *order)
{
  GError *error = NULL;
  char *encoder_reason = NULL;
  ModelInfo *info;
  Engine *engine;

  if (g_task_return_error_if_cancelled (task))
    return;
  /* The old model goes first: two do not fit. */
  replace_engine (shared, NULL);
  engine = open_engine (order, &encoder_reason, &error);
  if (engine == NULL)
    {
      g_task_return_error (task, error);
      return;
    }
  replace_engine (shared, engine);

  info = g_new0 (ModelInfo, 1);
  info->encoder_reason = encoder_reason;
  info->path = g_strdup (order->dir);
  info->name = g_path_get_basename (order->dir);
  describe_encoders (info, engine);
  info->arithmetics = engine_has_both_arithmetics (engine);
  info->guidance = engine_uses_guidance (engine);
  info->native_size = engine_get_native_size (engine);
  engine_get_device (engine, &info->device);
  for (int i = ENGINE_PRECISION_BF16; i <= ENGINE_PRECISION_SVDQUANT; i++)
    {
      g_autoptr (GError) why = NULL;

      info->supports[i] = engine_supports (engine, i, &why);
      info->kernels[i] = engine_get_kernels (engine, i);
      info->reason[i] = why != NULL ? g_strdup (why->message) : NULL;
    }
  g_task_return_pointer (task, info, (GDestroyNotify)model_info_free);
}

static void
return_no_model (GTask *task)
{
  g_task_return_new_error (task, ENGINE_ERROR, ENGINE_ERROR_MODEL, "No model is open");
}

/* Pool thread: the engine answers this while it computes. */
static void
plan_in_thread (GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
  Shared *shared = TESSERA_WORKER (source)->shared;
  const Order *order = data;
  const EngineRequest *request = order->request;
  g_autofree WorkerPlan *found = g_new0 (WorkerPlan, 1);
  GError *error = NULL;

  g_rw_lock_reader_lock (&shared->lock);
  if (shared->engine == NULL)
    return_no_model (task);
  else if (!engine_plan (shared->engine, request, &found->plan, &error))
    g_task_return_error (task, error);
  else
    {
      EngineRequest other;

      if ((order->failed || !found->plan.fits)
          && advice_find (shared->engine, request, order->failed, &other))
        {
          found->advised = TRUE;
          found->precision = other.precision;
          found->width = other.width;
          found->height = other.height;
        }
      g_task_return_pointer (task, g_steal_pointer (&found), g_free);
    }
  g_rw_lock_reader_unlock (&shared->lock);
}

void
worker_lora_free (WorkerLora *self)
{
  if (self == NULL)
    return;
  g_free (self->reasons);
  g_free (self);
}

/* Pool thread. */
static void
check_lora_in_thread (GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
  Shared *shared = TESSERA_WORKER (source)->shared;
  WorkerLora *found = g_new0 (WorkerLora, 1);
  GError *error = NULL;

  g_rw_lock_reader_lock (&shared->lock);
  if (shared->engine == NULL)
    g_task_return_new_error (task, G_IO_ERROR, G_IO_ERROR_NOT_INITIALIZED, "No model is open");
  else
    {
      found->reasons = engine_check_lora (shared->engine, ((Order *)data)->file, &found->applied,
                                          &found->left_out, &error);
      if (found->reasons == NULL)
        g_task_return_error (task, error);
      else
        g_task_return_pointer (task, g_steal_pointer (&found), (GDestroyNotify)worker_lora_free);
    }
  g_rw_lock_reader_unlock (&shared->lock);
  worker_lora_free (found);
}

static void
on_progress (EnginePhase phase, guint step, guint n_steps, Image *preview, gpointer data)
{
  job_set_progress (data, phase, step, n_steps, preview);
}

static void
carry_out_generate (Shared *shared, GTask *task, Order *order)
{
  GCancellable *cancellable = g_task_get_cancellable (task);
  GError *error = NULL;
  Image *image;

  if (g_task_return_error_if_cancelled (task))
    return;
  if (shared->engine == NULL)
    {
      return_no_model (task);
      return;
    }
  image = engine_generate (shared->engine, job_get_request (order->job), on_progress, order->job,
                           cancellable, &error);
  if (image != NULL)
    {
      g_task_return_pointer (task, image, (GDestroyNotify)image_unref);
      return;
    }
  /* After a fault of the device nothing but engine_free is allowed. */
  if (g_error_matches (error, ENGINE_ERROR, ENGINE_ERROR_DEVICE_LOST))
    replace_engine (shared, NULL);
  g_task_return_error (task, error);
}

static void
carry_out_work (Shared *shared, GTask *task, Order *order)
{
  if (!g_task_return_error_if_cancelled (task))
    order->work (shared->engine, task, order->work_data);
}

static void
carry_out_trim (Shared *shared, GTask *task, Order *order)
{
  if (shared->engine != NULL)
    engine_trim (shared->engine);
  g_task_return_boolean (task, TRUE);
}

static void
carry_out_stop (Shared *shared, GTask *task, Order *order)
{
  replace_engine (shared, NULL);
  g_task_return_boolean (task, TRUE);
}

/* The last reference to a task is dropped where its job and widgets may be freed. */
static void
unref_on_main_thread (GTask *task)
{
  g_idle_add_once ((GSourceOnceFunc)g_object_unref, task);
}

static gpointer
engine_thread (gpointer data)
{
  Shared *shared = data;
  gboolean last = FALSE;

  while (!last)
    {
      GTask *task = g_async_queue_pop (shared->mailbox);
      Order *order = g_task_get_task_data (task);

      last = order->last;
      order->carry_out (shared, task, order);
      unref_on_main_thread (task);
    }
  shared_unref (shared);
  return NULL;
}

/* A task with its order, still on this side. */
static GTask *
compose (TesseraWorker *self, gpointer tag,
         void (*carry_out) (Shared *shared, GTask *task, Order *order), GCancellable *cancellable,
         GAsyncReadyCallback callback, gpointer data)
{
  GTask *task = g_task_new (self, cancellable, callback, data);
  Order *order = g_new0 (Order, 1);

  order->carry_out = carry_out;
  g_task_set_source_tag (task, tag);
  /* The result of a finished picture is kept even if Cancel came a moment too late. */
  g_task_set_check_cancellable (task, FALSE);
  g_task_set_task_data (task, order, (GDestroyNotify)order_free);
  return task;
}

static void
post (TesseraWorker *self, GTask *task)
{
  g_return_if_fail (!self->stopped);

  g_async_queue_push (self->shared->mailbox, task);
}

void
worker_open_async (TesseraWorker *self, const char *dir, const EngineOptions *options,
                   GCancellable *cancellable, GAsyncReadyCallback callback, gpointer data)
{
  GTask *task = compose (self, worker_open_async, carry_out_open, cancellable, callback, data);
  Order *order = g_task_get_task_data (task);

  order->dir = g_strdup (dir);
  if (options != NULL)
    {
      order->options = *options;
      order->device = g_strdup (options->device);
      order->options.device = order->device;
      order->transformer_file = g_strdup (options->transformer_file);
      order->options.transformer_file = order->transformer_file;
      order->text_encoder_file = g_strdup (options->text_encoder_file);
      order->options.text_encoder_file = order->text_encoder_file;
      order->calibration_file = g_strdup (options->calibration_file);
      order->options.calibration_file = order->calibration_file;
    }
  post (self, task);
}

ModelInfo *
worker_open_finish (TesseraWorker *self, GAsyncResult *result, GError **error)
{
  g_return_val_if_fail (g_task_is_valid (result, self), NULL);

  return g_task_propagate_pointer (G_TASK (result), error);
}

void
worker_plan_async (TesseraWorker *self, const EngineRequest *request, gboolean failed,
                   GCancellable *cancellable, GAsyncReadyCallback callback, gpointer data)
{
  g_autoptr (GTask) task = compose (self, worker_plan_async, NULL, cancellable, callback, data);
  Order *order = g_task_get_task_data (task);

  order->request = engine_request_copy (request);
  order->failed = failed;
  g_task_run_in_thread (task, plan_in_thread);
}

gboolean
worker_plan_finish (TesseraWorker *self, GAsyncResult *result, WorkerPlan *plan, GError **error)
{
  g_autofree WorkerPlan *found = NULL;

  g_return_val_if_fail (g_task_is_valid (result, self), FALSE);

  found = g_task_propagate_pointer (G_TASK (result), error);
  if (found != NULL)
    *plan = *found;
  return found != NULL;
}

void
worker_check_lora_async (TesseraWorker *self, const char *file, GCancellable *cancellable,
                         GAsyncReadyCallback callback, gpointer data)
{
  g_autoptr (GTask) task
      = compose (self, worker_check_lora_async, NULL, cancellable, callback, data);

  ((Order *)g_task_get_task_data (task))->file = g_strdup (file);
  g_task_run_in_thread (task, check_lora_in_thread);
}

WorkerLora *
worker_check_lora_finish (TesseraWorker *self, GAsyncResult *result, GError **error)
{
  g_return_val_if_fail (g_task_is_valid (result, self), NULL);

  return g_task_propagate_pointer (G_TASK (result), error);
}

void
worker_generate_async (TesseraWorker *self, TesseraJob *job, GAsyncReadyCallback callback,
                       gpointer data)
{
  GTask *task = compose (self, worker_generate_async, carry_out_generate, job_get_cancellable (job),
                         callback, data);

  ((Order *)g_task_get_task_data (task))->job = g_object_ref (job);
  post (self, task);
}

Image *
worker_generate_finish (TesseraWorker *self, GAsyncResult *result, GError **error)
{
  g_return_val_if_fail (g_task_is_valid (result, self), NULL);

  return g_task_propagate_pointer (G_TASK (result), error);
}

void
worker_run_async (TesseraWorker *self, WorkerFunc work, gpointer work_data,
                  GDestroyNotify free_work_data, GCancellable *cancellable,
                  GAsyncReadyCallback callback, gpointer data)
{
  GTask *task = compose (self, worker_run_async, carry_out_work, cancellable, callback, data);
  Order *order = g_task_get_task_data (task);

  order->work = work;
  order->work_data = work_data;
  order->free_work_data = free_work_data;
  post (self, task);
}

void
worker_trim (TesseraWorker *self)
{
  post (self, compose (self, worker_trim, carry_out_trim, NULL, NULL, NULL));
}

gboolean
worker_get_memory (TesseraWorker *self, EngineMemory *memory, EngineDevice *device)
{
  gboolean open;

  g_rw_lock_reader_lock (&self->shared->lock);
  open = self->shared->engine != NULL;
  if (open)
    {
      engine_get_memory (self->shared->engine, memory);
      engine_get_device (self->shared->engine, device);
    }
  g_rw_lock_reader_unlock (&self->shared->lock);
  return open;
}

void
worker_stop_async (TesseraWorker *self, GAsyncReadyCallback callback, gpointer data)
{
  GTask *task = compose (self, worker_stop_async, carry_out_stop, NULL, callback, data);

  ((Order *)g_task_get_task_data (task))->last = TRUE;
  post (self, task);
  self->stopped = TRUE;
}

gboolean
worker_stop_finish (TesseraWorker *self, GAsyncResult *result, GError **error)
{
  g_return_val_if_fail (g_task_is_valid (result, self), FALSE);

  return g_task_propagate_boolean (G_TASK (result), error);
}

TesseraWorker *
worker_new (void)
{
  return g_object_new (TESSERA_TYPE_WORKER, NULL);
}

static void
worker_finalize (GObject *object)
{
  TesseraWorker *self = TESSERA_WORKER (object);

  /* Tasks hold the worker, so when it goes none is under way but the last. */
  if (!self->stopped)
    {
      GTask *task = g_task_new (NULL, NULL, NULL, NULL);
      Order *order = g_new0 (Order, 1);

      order->carry_out = carry_out_stop;
      order->last = TRUE;
      g_task_set_task_data (task, order, (GDestroyNotify)order_free);
      g_async_queue_push (self->shared->mailbox, task);
    }
  shared_unref (self->shared);
  G_OBJECT_CLASS (worker_parent_class)->finalize (object);
}

static void
worker_class_init (TesseraWorkerClass *klass)
{
  G_OBJECT_CLASS (klass)->finalize = worker_finalize;
}

static void
worker_init (TesseraWorker *self)
{
  Shared *shared = g_new0 (Shared, 1);

  g_atomic_ref_count_init (&shared->refs);
  g_atomic_ref_count_inc (&shared->refs); /* the thread's */
  shared->mailbox = g_async_queue_new ();
  g_rw_lock_init (&shared->lock);
  self->shared = shared;
  g_thread_unref (g_thread_new ("engine", engine_thread, shared));
}
