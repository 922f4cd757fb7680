/* SPDX-License-Identifier: Apache-2.0 */
#include "app/generation/queue.h"

#include "app/generation/journal.h"

struct _TesseraQueue
{
  GObject parent_instance;

  /* Owned References */
  TesseraWorker *worker;
  TesseraHistory *history;
  Journal *journal;
  GPtrArray *waiting; /* of TesseraJob */
  GPtrArray *saving;  /* done, but not yet a file */
  GPtrArray *unsaved; /* done, but no file could be written: made again in the next session */
  TesseraJob *running;
  char *model, *device;   /* names, for the pictures' facts; NULL while none is open */
  const char *kernels[2]; /* by precision, likewise; static */
  int encoder_bits;       /* likewise; 0 for the model's own text encoder */

  JobTimings last[2]; /* by precision */
  gboolean paused, trouble;
};

static void list_model_init (GListModelInterface *iface);

G_DEFINE_FINAL_TYPE_WITH_CODE (TesseraQueue, queue, G_TYPE_OBJECT,
                               G_IMPLEMENT_INTERFACE (G_TYPE_LIST_MODEL, list_model_init))

enum
{
  PROP_RUNNING = 1,
  PROP_PAUSED,
  N_PROPS
};

enum
{
  FINISHED,
  SAVED,
  NOT_SAVED,
  N_SIGNALS
};

static GParamSpec *properties[N_PROPS];
static guint signals[N_SIGNALS];

static void start_next (TesseraQueue *self);

/* Everything that is not yet a file, in the order in which it is to be made again. */
static void
write_journal (TesseraQueue *self)
{
  g_autoptr (GPtrArray) jobs = NULL;

  if (self->journal == NULL)
    return;
  jobs = g_ptr_array_new ();
  g_ptr_array_extend (jobs, self->unsaved, NULL, NULL);
  g_ptr_array_extend (jobs, self->saving, NULL, NULL);
  if (self->running != NULL)
    g_ptr_array_add (jobs, self->running);
  g_ptr_array_extend (jobs, self->waiting, NULL, NULL);
  journal_write (self->journal, jobs);
}

static void
items_changed (TesseraQueue *self, guint position, guint removed, guint added)
{
  g_list_model_items_changed (G_LIST_MODEL (self), position, removed, added);
  write_journal (self);
}

typedef struct
{
  TesseraQueue *queue;
  TesseraJob *job;
  TesseraPicture *picture;
} Finished;

static void
finished_free (Finished *finished)
{
  g_object_unref (finished->queue);
  g_object_unref (finished->job);
  g_object_unref (finished->picture);
  g_free (finished);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Finished, finished_free)

static void
pause_for_trouble (TesseraQueue *self)
{
  self->trouble = TRUE;
  queue_set_paused (self, TRUE);
}

static void
on_saved (GObject *source, GAsyncResult *result, gpointer data)
{
  g_autoptr (Finished) finished = data;
  g_autoptr (GError) error = NULL;
  TesseraQueue *self = finished->queue;
  TesseraEntry *entry = history_add_finish (TESSERA_HISTORY (source), result, &error);

  if (entry == NULL && error != NULL)
    {
      g_ptr_array_add (self->unsaved, g_object_ref (finished->job));
      pause_for_trouble (self); /* a full disk takes the others' pictures no better */
    }
  g_ptr_array_remove (self->saving, finished->job);
  write_journal (self);
  if (entry != NULL)
    g_signal_emit (self, signals[SAVED], 0, entry);
  else if (error != NULL)
    g_signal_emit (self, signals[NOT_SAVED], 0, finished->picture, error);
}

static void
save (TesseraQueue *self, TesseraJob *job, TesseraPicture *picture)
{
  Finished *finished = g_new (Finished, 1);
  g_autofree char *stem = NULL;

  finished->queue = g_object_ref (self);
  finished->job = g_object_ref (job);
  finished->picture = g_object_ref (picture);
  g_ptr_array_add (self->saving, g_object_ref (job));
  stem = job_get_pair (job) ? g_strdup (job_get_pair (job)) : history_new_stem (self->history);
  history_add_async (self->history, picture, stem, on_saved, finished);
}

static void
set_running (TesseraQueue *self, TesseraJob *job)
{
  if (g_set_object (&self->running, job))
    g_object_notify_by_pspec (G_OBJECT (self), properties[PROP_RUNNING]);
}

/* Not this job's fault, nor will the next ones fare better: it waits in front of them. */
static void
put_back (TesseraQueue *self, TesseraJob *job)
{
  g_ptr_array_insert (self->waiting, 0, job_new (job_get_request (job), job_get_pair (job)));
  items_changed (self, 0, 0, 1);
  pause_for_trouble (self);
}

static void
on_generated (GObject *source, GAsyncResult *result, gpointer data)
{
  g_autoptr (TesseraQueue) self = data;
  g_autoptr (GError) error = NULL;
  g_autoptr (Image) image = worker_generate_finish (TESSERA_WORKER (source), result, &error);
  g_autoptr (TesseraJob) job = g_object_ref (self->running);
  g_autoptr (TesseraPicture) picture = NULL;

  job_finish (job, error);
  if (image != NULL)
    {
      const EngineRequest *request = job_get_request (job);
      PictureFacts facts = {
        .seconds = job_get_seconds (job),
        .device = self->device,
        .kernels = self->kernels[request->precision],
        .model = self->model,
        .encoder_bits = self->encoder_bits,
        .pair = job_get_pair (job),
      };

      self->last[request->precision] = *job_get_timings (job);
      /* The next one will not load the model again. */
      self->last[request->precision].seconds[ENGINE_PHASE_LOAD] = 0;
      picture = picture_new (image, request, &facts);
      save (self, job, picture);
    }
  set_running (self, NULL);
  if (g_error_matches (error, ENGINE_ERROR, ENGINE_ERROR_DEVICE_LOST)
      || g_error_matches (error, ENGINE_ERROR, ENGINE_ERROR_CHANGED))
    put_back (self, job);
  g_signal_emit (self, signals[FINISHED], 0, job, picture);
  start_next (self);
  write_journal (self);
}

static void
start_next (TesseraQueue *self)
{
  g_autoptr (TesseraJob) job = NULL;

  if (self->running != NULL || self->paused || self->model == NULL || self->waiting->len == 0)
    return;
  job = g_ptr_array_steal_index (self->waiting, 0);
  set_running (self, job);
  items_changed (self, 0, 1, 0);
  job_begin (job, &self->last[job_get_request (job)->precision]);
  worker_generate_async (self->worker, job, on_generated, g_object_ref (self));
}

void
queue_add (TesseraQueue *self, TesseraJob *job)
{
  g_ptr_array_add (self->waiting, g_object_ref (job));
  items_changed (self, self->waiting->len - 1, 0, 1);
  start_next (self);
}

void
queue_remove (TesseraQueue *self, guint position)
{
  g_return_if_fail (position < self->waiting->len);

  g_ptr_array_remove_index (self->waiting, position);
  items_changed (self, position, 1, 0);
}

void
queue_move (TesseraQueue *self, guint from, guint to)
{
  TesseraJob *job;

  g_return_if_fail (from < self->waiting->len && to < self->waiting->len);

  if (from == to)
    return;
  job = g_ptr_array_steal_index (self->waiting, from);
  g_list_model_items_changed (G_LIST_MODEL (self), from, 1, 0);
  g_ptr_array_insert (self->waiting, to, job);
  items_changed (self, to, 0, 1);
}

void
queue_clear (TesseraQueue *self)
{
  const guint n = self->waiting->len;

  if (n == 0)
    return;
  g_ptr_array_set_size (self->waiting, 0);
  items_changed (self, 0, n, 0);
}

TesseraJob *
queue_get_running (TesseraQueue *self)
{
  return self->running;
}

gboolean
queue_get_paused (TesseraQueue *self)
{
  return self->paused;
}

gboolean
queue_has_trouble (TesseraQueue *self)
{
  return self->trouble;
}

void
queue_set_paused (TesseraQueue *self, gboolean paused)
{
  if (self->paused == paused)
    return;
  self->paused = paused;
  self->trouble = self->trouble && paused;
  g_object_notify_by_pspec (G_OBJECT (self), properties[PROP_PAUSED]);
  start_next (self);
}

void
queue_set_model (TesseraQueue *self, const ModelInfo *model)
{
  g_clear_pointer (&self->model, g_free);
  g_clear_pointer (&self->device, g_free);
  memset (self->last, 0, sizeof self->last);
  if (model == NULL)
    return;
  self->model = g_strdup (model->name);
  self->device = g_strdup (model->device.name);
  self->encoder_bits = model->encoder_bits < 16 ? model->encoder_bits : 0;
  memcpy (self->kernels, model->kernels, sizeof self->kernels);
  start_next (self);
}

void
queue_stop (TesseraQueue *self)
{
  g_return_if_fail (TESSERA_IS_QUEUE (self));

  /* From here on the journal must not learn that the running job is gone. */
  write_journal (self);
  g_clear_pointer (&self->journal, journal_free);
  queue_set_paused (self, TRUE);
  if (self->running != NULL)
    job_cancel (self->running);
}

gboolean
queue_is_saving (TesseraQueue *self)
{
  return self->saving->len > 0 || (self->journal != NULL && journal_is_writing (self->journal));
}

TesseraQueue *
queue_new (TesseraWorker *worker, TesseraHistory *history, const char *journal)
{
  TesseraQueue *self = g_object_new (TESSERA_TYPE_QUEUE, NULL);

  self->worker = g_object_ref (worker);
  self->history = g_object_ref (history);
  self->journal = journal != NULL ? journal_new (journal) : NULL;
  if (self->journal != NULL)
    {
      g_autoptr (GPtrArray) jobs = journal_read (journal);

      g_ptr_array_extend_and_steal (self->waiting, g_steal_pointer (&jobs));
      self->paused = self->waiting->len > 0;
    }
  return self;
}

static GType
get_item_type (GListModel *model)
{
  return TESSERA_TYPE_JOB;
}

static guint
get_n_items (GListModel *model)
{
  return TESSERA_QUEUE (model)->waiting->len;
}

static gpointer
get_item (GListModel *model, guint position)
{
  GPtrArray *waiting = TESSERA_QUEUE (model)->waiting;

  return position < waiting->len ? g_object_ref (waiting->pdata[position]) : NULL;
}

static void
list_model_init (GListModelInterface *iface)
{
  iface->get_item_type = get_item_type;
  iface->get_n_items = get_n_items;
  iface->get_item = get_item;
}

static void
queue_get_property (GObject *object, guint id, GValue *value, GParamSpec *pspec)
{
  TesseraQueue *self = TESSERA_QUEUE (object);

  switch (id)
    {
    case PROP_RUNNING:
      g_value_set_object (value, self->running);
      break;
    case PROP_PAUSED:
      g_value_set_boolean (value, self->paused);
      break;
    default:
      G_OBJECT_WARN_INVALID_PROPERTY_ID (object, id, pspec);
    }
}

static void
queue_finalize (GObject *object)
{
  TesseraQueue *self = TESSERA_QUEUE (object);

  g_clear_object (&self->running);
  g_clear_object (&self->worker);
  g_clear_object (&self->history);
  g_clear_pointer (&self->journal, journal_free);
  g_ptr_array_unref (self->waiting);
  g_ptr_array_unref (self->saving);
  g_ptr_array_unref (self->unsaved);
  g_free (self->model);
  g_free (self->device);
  G_OBJECT_CLASS (queue_parent_class)->finalize (object);
}

static void
queue_class_init (TesseraQueueClass *klass)
{
  GObjectClass *object_class = G_OBJECT_CLASS (klass);
  const GParamFlags flags = G_PARAM_READABLE | G_PARAM_STATIC_STRINGS;

  object_class->get_property = queue_get_property;
  object_class->finalize = queue_finalize;

  properties[PROP_RUNNING] = g_param_spec_object ("running", NULL, NULL, TESSERA_TYPE_JOB, flags);
  properties[PROP_PAUSED] = g_param_spec_boolean ("paused", NULL, NULL, FALSE, flags);
  g_object_class_install_properties (object_class, N_PROPS, properties);

  signals[FINISHED]
      = g_signal_new ("finished", TESSERA_TYPE_QUEUE, G_SIGNAL_RUN_LAST, 0, NULL, NULL, NULL,
                      G_TYPE_NONE, 2, TESSERA_TYPE_JOB, TESSERA_TYPE_PICTURE);
  signals[SAVED] = g_signal_new ("saved", TESSERA_TYPE_QUEUE, G_SIGNAL_RUN_LAST, 0, NULL, NULL,
                                 NULL, G_TYPE_NONE, 1, TESSERA_TYPE_ENTRY);
  signals[NOT_SAVED]
      = g_signal_new ("not-saved", TESSERA_TYPE_QUEUE, G_SIGNAL_RUN_LAST, 0, NULL, NULL, NULL,
                      G_TYPE_NONE, 2, TESSERA_TYPE_PICTURE, G_TYPE_ERROR);
}

static void
queue_init (TesseraQueue *self)
{
  self->waiting = g_ptr_array_new_with_free_func (g_object_unref);
  self->saving = g_ptr_array_new_with_free_func (g_object_unref);
  self->unsaved = g_ptr_array_new_with_free_func (g_object_unref);
}
