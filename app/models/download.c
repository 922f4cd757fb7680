/* SPDX-License-Identifier: Apache-2.0 */
#include "app/models/download.h"

#include "app/fetch/fetch-part.h"
#include "app/models/model-fetch.h"
#include "app/models/models.h"
#include "app/models/move.h"
#include "app/models/verify.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <unistd.h>

#define MARK        ".downloading" /* in the model's folder: asked for, and not yet whole */
#define INTERVAL_MS 250
#define SMOOTHING   0.15 /* weight of the latest interval in the rate */

struct _TesseraDownload
{
  GObject parent_instance;

  Catalogue *catalogue;
  const CatalogueModel *model;
  char *dir;
  ModelFetch *fetch;
  DownloadState state;
  gboolean paused; /* by the user */
  char *error;

  GCancellable *cancellable; /* of the run, or NULL */
  guint timer;
  guint64 last_fetched;
  double rate;

  DownloadCheck check;
  TreeProgress work; /* of a move or a check */
};

G_DEFINE_FINAL_TYPE (TesseraDownload, download, G_TYPE_OBJECT)

enum
{
  CHANGED,
  N_SIGNALS
};

static guint signals[N_SIGNALS];

/* -- on the thread ------------------------------------------------------------------------------
 */

static void
set_mark (TesseraDownload *self, gboolean wanted)
{
  g_autofree char *path = g_build_filename (self->dir, MARK, NULL);
  int fd;

  if (!wanted)
    {
      g_unlink (path);
      return;
    }
  fd = g_open (path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (fd >= 0)
    close (fd);
}

static gboolean
make_folder (TesseraDownload *self, GError **error)
{
  g_autofree char *missing = move_describe_missing (self->dir);

  if (missing != NULL)
    g_set_error (error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND, "%s", missing);
  else if (g_mkdir_with_parents (self->dir, 0777) != 0)
    g_set_error (error, G_IO_ERROR, G_IO_ERROR_FAILED, "%s: cannot be made", self->dir);
  else
    return TRUE;
  return FALSE;
}

static void
run_thread (GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
  TesseraDownload *self = source;
  GError *error = NULL;
  gboolean done = make_folder (self, &error);

  if (done)
    {
      set_mark (self, TRUE);
      done = model_fetch_run (self->fetch, data, cancellable, &error);
    }
  if (done)
    g_task_return_boolean (task, TRUE);
  else
    g_task_return_error (task, error);
}

/* -- on the main thread -------------------------------------------------------------------------
 */

static void
get_progress (TesseraDownload *self, ModelFetchProgress *progress)
{
  if (self->state != DOWNLOAD_MOVING && self->state != DOWNLOAD_CHECKING)
    {
      model_fetch_get_progress (self->fetch, progress);
      return;
    }
  progress->total = __atomic_load_n (&self->work.total, __ATOMIC_RELAXED);
  progress->done = progress->fetched = __atomic_load_n (&self->work.done, __ATOMIC_RELAXED);
  progress->looking = FALSE;
}

/* What was found on the disk came at no rate. */
static gboolean
on_interval (gpointer data)
{
  TesseraDownload *self = data;
  ModelFetchProgress progress;
  double now;

  get_progress (self, &progress);
  now = (double)(progress.fetched - MIN (progress.fetched, self->last_fetched)) * 1000
        / INTERVAL_MS;
  self->rate = self->rate > 0 ? self->rate + SMOOTHING * (now - self->rate) : now;
  self->last_fetched = progress.fetched;
  g_signal_emit (self, signals[CHANGED], 0);
  return G_SOURCE_CONTINUE;
}

/* What begins and ends alike for a download, a move and a check. */
static void
begin_run (TesseraDownload *self, DownloadState state)
{
  g_clear_pointer (&self->error, g_free);
  self->check = CHECK_NONE;
  self->state = state;
  self->paused = FALSE;
  self->last_fetched = 0;
  self->cancellable = g_cancellable_new ();
  self->timer = g_timeout_add (INTERVAL_MS, on_interval, self);
}

static void
end_run (TesseraDownload *self)
{
  g_clear_object (&self->cancellable);
  g_clear_handle_id (&self->timer, g_source_remove);
  self->rate = 0;
}

static void
on_run (GObject *source, GAsyncResult *result, gpointer data)
{
  TesseraDownload *self = TESSERA_DOWNLOAD (source);
  g_autoptr (GError) error = NULL;

  end_run (self);
  if (g_task_propagate_boolean (G_TASK (result), &error))
    {
      self->state = DOWNLOAD_DONE;
      if (self->check == CHECK_MENDS) /* a fetched file is compared, too */
        self->check = CHECK_GOOD;
    }
  else if (g_error_matches (error, G_IO_ERROR, G_IO_ERROR_CANCELLED))
    self->state = DOWNLOAD_PAUSED;
  else
    {
      self->state = DOWNLOAD_FAILED;
      self->error = g_strdup (error->message);
    }
  if (self->state == DOWNLOAD_DONE || self->paused)
    set_mark (self, FALSE);
  g_signal_emit (self, signals[CHANGED], 0);
}

void
download_start (TesseraDownload *self, const char *const *folders)
{
  g_autoptr (GTask) task = NULL;

  g_return_if_fail (TESSERA_IS_DOWNLOAD (self));

  if (self->cancellable != NULL)
    return;
  begin_run (self, DOWNLOAD_RUNNING);
  task = g_task_new (self, self->cancellable, on_run, NULL);
  if (folders != NULL)
    g_task_set_task_data (task, g_strdupv ((char **)folders), (GDestroyNotify)g_strfreev);
  g_task_run_in_thread (task, run_thread);
  g_signal_emit (self, signals[CHANGED], 0);
}

void
download_pause (TesseraDownload *self)
{
  g_return_if_fail (TESSERA_IS_DOWNLOAD (self));

  self->paused = TRUE;
  g_cancellable_cancel (self->cancellable);
}

void
download_interrupt (TesseraDownload *self)
{
  g_return_if_fail (TESSERA_IS_DOWNLOAD (self));

  g_cancellable_cancel (self->cancellable);
}

gboolean
download_was_interrupted (TesseraDownload *self)
{
  g_autofree char *path = g_build_filename (self->dir, MARK, NULL);

  return self->cancellable == NULL && g_file_test (path, G_FILE_TEST_EXISTS);
}

void
download_forget (TesseraDownload *self)
{
  g_return_if_fail (TESSERA_IS_DOWNLOAD (self) && self->cancellable == NULL);

  self->state = DOWNLOAD_IDLE;
  self->check = CHECK_NONE;
  g_clear_pointer (&self->error, g_free);
}

guint64
download_get_bytes_here (TesseraDownload *self)
{
  return fetch_bytes_below (self->dir);
}

gboolean
download_any_interrupted (const char *models_dir)
{
  g_autoptr (GDir) dir = g_dir_open (models_dir, 0, NULL);
  gboolean any = FALSE;
  const char *name;

  while (dir != NULL && !any && (name = g_dir_read_name (dir)) != NULL)
    {
      g_autofree char *path = g_build_filename (models_dir, name, MARK, NULL);

      any = g_file_test (path, G_FILE_TEST_EXISTS);
    }
  return any;
}

/* -- moving -------------------------------------------------------------------------------------
 */

static void
move_thread (GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
  TesseraDownload *self = source;
  GError *error = NULL;

  if (move_model (self->dir, data, &self->work, cancellable, &error))
    g_task_return_boolean (task, TRUE);
  else
    g_task_return_error (task, error);
}

static void
on_moved (GObject *source, GAsyncResult *result, gpointer data)
{
  TesseraDownload *self = TESSERA_DOWNLOAD (source);
  g_autoptr (GError) error = NULL;

  end_run (self);
  self->state = DOWNLOAD_DONE;
  if (!g_task_propagate_boolean (G_TASK (result), &error)
      && !g_error_matches (error, G_IO_ERROR, G_IO_ERROR_CANCELLED))
    self->error = g_strdup (error->message);
  g_signal_emit (self, signals[CHANGED], 0);
}

void
download_move (TesseraDownload *self, const char *folder)
{
  g_autoptr (GTask) task = NULL;

  g_return_if_fail (TESSERA_IS_DOWNLOAD (self));

  if (self->state != DOWNLOAD_DONE || self->cancellable != NULL)
    return;
  self->work = (TreeProgress){ 0 };
  begin_run (self, DOWNLOAD_MOVING);
  task = g_task_new (self, self->cancellable, on_moved, NULL);
  g_task_set_task_data (task, g_strdup (folder), g_free);
  /* A move that was finished when Cancel came is one. */
  g_task_set_check_cancellable (task, FALSE);
  g_task_run_in_thread (task, move_thread);
  g_signal_emit (self, signals[CHANGED], 0);
}

/* -- checking -----------------------------------------------------------------------------------
 */

static void
check_thread (GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
  TesseraDownload *self = source;
  GError *error = NULL;

  if (verify_model (self->model, self->dir, TRUE, &self->work, cancellable, &error))
    g_task_return_boolean (task, TRUE);
  else
    g_task_return_error (task, error);
}

static void
on_checked (GObject *source, GAsyncResult *result, gpointer data)
{
  TesseraDownload *self = TESSERA_DOWNLOAD (source);
  g_autoptr (GError) error = NULL;

  end_run (self);
  self->state = DOWNLOAD_DONE;
  if (g_task_propagate_boolean (G_TASK (result), &error))
    self->check = CHECK_GOOD;
  else if (g_error_matches (error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA)
           || g_error_matches (error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND))
    {
      download_start (self, g_task_get_task_data (G_TASK (result)));
      self->check = CHECK_MENDS;
    }
  else if (!g_error_matches (error, G_IO_ERROR, G_IO_ERROR_CANCELLED))
    {
      self->check = CHECK_FAILED;
      self->error = g_strdup (error->message);
    }
  g_signal_emit (self, signals[CHANGED], 0);
}

void
download_check (TesseraDownload *self, const char *const *folders)
{
  g_autoptr (GTask) task = NULL;

  g_return_if_fail (TESSERA_IS_DOWNLOAD (self));

  if (self->state != DOWNLOAD_DONE || self->cancellable != NULL)
    return;
  self->work = (TreeProgress){ 0 };
  begin_run (self, DOWNLOAD_CHECKING);
  task = g_task_new (self, self->cancellable, on_checked, NULL);
  g_task_set_task_data (task, g_strdupv ((char **)folders), (GDestroyNotify)g_strfreev);
  /* What was deleted as damaged when Cancel came must be fetched again. */
  g_task_set_check_cancellable (task, FALSE);
  g_task_run_in_thread (task, check_thread);
  g_signal_emit (self, signals[CHANGED], 0);
}

DownloadCheck
download_get_check (TesseraDownload *self)
{
  return self->check;
}

gboolean
download_set_folder (TesseraDownload *self, const char *folder, GError **error)
{
  g_return_val_if_fail (TESSERA_IS_DOWNLOAD (self) && self->state == DOWNLOAD_IDLE, FALSE);

  return move_prepare (self->dir, folder, error);
}

/* -- what is asked of it ------------------------------------------------------------------------
 */

DownloadState
download_get_state (TesseraDownload *self)
{
  return self->state;
}

const char *
download_get_name (TesseraDownload *self)
{
  return self->model->name;
}

const char *
download_get_dir (TesseraDownload *self)
{
  return self->dir;
}

const char *
download_get_error (TesseraDownload *self)
{
  return self->error;
}

void
download_get_progress (TesseraDownload *self, guint64 *done, guint64 *total, double *rate,
                       int *seconds_left)
{
  ModelFetchProgress progress;

  get_progress (self, &progress);
  *done = progress.done;
  *total = progress.total;
  *rate = self->rate;
  *seconds_left = self->rate > 1 && *total > *done
                      ? (int)MIN ((double)(*total - *done) / self->rate, G_MAXINT)
                      : -1;
}

gboolean
download_is_looking (TesseraDownload *self)
{
  ModelFetchProgress progress;

  get_progress (self, &progress);
  return progress.looking;
}

char **
download_get_hosts (TesseraDownload *self)
{
  return model_fetch_get_hosts (self->fetch);
}

/* -- life ---------------------------------------------------------------------------------------
 */

TesseraDownload *
download_new (Catalogue *catalogue, const CatalogueModel *model, const char *models_dir,
              const FetchOptions *options)
{
  TesseraDownload *self = g_object_new (TESSERA_TYPE_DOWNLOAD, NULL);
  g_autofree char *missing = NULL;

  self->catalogue = catalogue_ref (catalogue); /* owns the model, too */
  self->model = model;
  self->dir = g_build_filename (models_dir, model->id, NULL);
  self->fetch = model_fetch_new (catalogue, model, self->dir, options);
  missing = move_describe_missing (self->dir);
  if (missing != NULL)
    {
      self->state = DOWNLOAD_FAILED;
      self->error = g_steal_pointer (&missing);
    }
  else if (models_is_model (self->dir) && !download_was_interrupted (self))
    self->state = DOWNLOAD_DONE;
  else if (g_file_test (self->dir, G_FILE_TEST_IS_DIR))
    self->state = DOWNLOAD_PAUSED;
  return self;
}

static void
download_finalize (GObject *object)
{
  TesseraDownload *self = TESSERA_DOWNLOAD (object);

  g_clear_handle_id (&self->timer, g_source_remove);
  model_fetch_free (self->fetch);
  g_free (self->error);
  g_free (self->dir);
  catalogue_unref (self->catalogue);
  G_OBJECT_CLASS (download_parent_class)->finalize (object);
}

static void
download_class_init (TesseraDownloadClass *klass)
{
  G_OBJECT_CLASS (klass)->finalize = download_finalize;
  signals[CHANGED] = g_signal_new ("changed", TESSERA_TYPE_DOWNLOAD, G_SIGNAL_RUN_LAST, 0, NULL,
                                   NULL, NULL, G_TYPE_NONE, 0);
}

static void
download_init (TesseraDownload *self)
{
}
