/* SPDX-License-Identifier: Apache-2.0 */
#include "app/download.h"

#include "app/adopt.h"
#include "app/fetch-part.h"
#include "app/move.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#define INDEX       "model_index.json"
#define MARK        ".downloading" /* in the model's folder: asked for, and not yet whole */
#define INTERVAL_MS 250
#define SMOOTHING   0.15 /* weight of the latest interval in the rate */

struct _TesseraDownload
{
  GObject parent_instance;

  Catalogue *catalogue;
  const CatalogueModel *model;
  char *dir;
  FetchOptions options;
  DownloadState state;
  gboolean paused; /* by the user */
  char *error;

  GCancellable *cancellable; /* of the run, or NULL */
  guint timer;
  guint64 last_fetched;
  double rate;

  GMutex lock; /* over what the thread writes */
  Fetch *current;
  guint64 finished, expected; /* bytes of whole files; of those to come, as far as known */
  guint64 found;              /* bytes that were there, or in another folder */
  GPtrArray *hosts;
  TreeProgress move;
};

G_DEFINE_FINAL_TYPE (TesseraDownload, download, G_TYPE_OBJECT)

enum
{
  CHANGED,
  N_SIGNALS
};

static guint signals[N_SIGNALS];

/* -- one file, on the thread --------------------------------------------------------------------
 */

static guint64
known_bytes (const CatalogueFile *file)
{
  return MAX (file->size, file->about);
}

static void
note_hosts (TesseraDownload *self, Fetch *fetch)
{
  g_auto (GStrv) hosts = fetch_get_hosts (fetch);

  for (guint i = 0; hosts[i] != NULL; i++)
    if (!g_ptr_array_find_with_equal_func (self->hosts, hosts[i], g_str_equal, NULL))
      g_ptr_array_add (self->hosts, g_strdup (hosts[i]));
}

static void
set_current (TesseraDownload *self, Fetch *fetch)
{
  g_mutex_lock (&self->lock);
  if (self->current != NULL)
    note_hosts (self, self->current);
  self->current = fetch;
  g_mutex_unlock (&self->lock);
}

/* Nothing if it is not there. `fetched`: by this run. */
static void
note_finished (TesseraDownload *self, const CatalogueFile *file, const char *path, gboolean fetched)
{
  GStatBuf status;

  if (g_stat (path, &status) != 0)
    return;
  g_mutex_lock (&self->lock);
  self->finished += (guint64)status.st_size;
  self->found += fetched ? 0 : (guint64)status.st_size;
  self->expected -= MIN (self->expected, known_bytes (file));
  g_mutex_unlock (&self->lock);
}

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

static Fetch *
make_fetch (TesseraDownload *self, const CatalogueFile *file, const char *path)
{
  g_autoptr (GPtrArray) urls = g_ptr_array_new_with_free_func (g_free);

  for (guint i = 0; i < self->catalogue->mirrors->len; i++)
    g_ptr_array_add (urls, catalogue_url (g_ptr_array_index (self->catalogue->mirrors, i), file));
  g_ptr_array_add (urls, NULL);
  return fetch_new ((const char *const *)urls->pdata, path, file->hash_type, file->hash, file->size,
                    &self->options);
}

/* Adds what is there of the model, and is FALSE only after an error. Without a published hash the
 * server is asked what the file should be. */
static gboolean
look_here (TesseraDownload *self, const CatalogueFile *file, const char *const *folders,
           GCancellable *cancellable, GError **error)
{
  g_autofree char *path = g_build_filename (self->dir, file->path, NULL);
  g_autofree char *folder = g_path_get_dirname (path);
  g_autoptr (Fetch) fetch = make_fetch (self, file, path);
  g_autofree char *sha256 = NULL;
  g_autoptr (GError) problem = NULL;
  guint64 size = 0;

  if (!g_file_test (path, G_FILE_TEST_IS_REGULAR)) /* it has no name: it is not whole */
    {
      if (g_mkdir_with_parents (folder, 0777) != 0)
        {
          g_set_error (error, G_IO_ERROR, G_IO_ERROR_FAILED, "%s: cannot be made", folder);
          return FALSE;
        }
      set_current (self, fetch);
      if (folders[0] != NULL && file->hash == NULL && file->size == 0)
        fetch_look (fetch, &size, &sha256,
                    cancellable); /* if it fails, so will the rest, and say why */
      adopt_file (file, sha256, size, folders, path, cancellable, &problem);
      set_current (self, NULL);
    }
  note_finished (self, file, path, FALSE);
  if (problem != NULL)
    g_propagate_error (error, g_steal_pointer (&problem));
  return problem == NULL;
}

/* After look_here. */
static gboolean
get_file (TesseraDownload *self, const CatalogueFile *file, GCancellable *cancellable,
          GError **error)
{
  g_autofree char *path = g_build_filename (self->dir, file->path, NULL);
  g_autoptr (Fetch) fetch = make_fetch (self, file, path);
  gboolean done;

  if (g_file_test (path, G_FILE_TEST_IS_REGULAR))
    return TRUE;
  g_mutex_lock (&self->lock);
  self->found += fetch_part_bytes (path);
  g_mutex_unlock (&self->lock);
  set_current (self, fetch);
  done = fetch_run (fetch, cancellable, error);
  set_current (self, NULL);
  if (done)
    note_finished (self, file, path, TRUE);
  return done;
}

static gboolean
get_shards (TesseraDownload *self, const CatalogueFile *index, const char *const *folders,
            GCancellable *cancellable, GError **error)
{
  g_autofree char *path = g_build_filename (self->dir, index->path, NULL);
  g_autofree char *text = NULL;
  g_autoptr (GPtrArray) files = NULL;
  gsize length;

  if (!g_file_get_contents (path, &text, &length, error))
    return FALSE;
  files = catalogue_shards (index, text, length, error);
  for (guint i = 0; files != NULL && i < files->len; i++)
    if (!look_here (self, g_ptr_array_index (files, i), folders, cancellable, error)
        || !get_file (self, g_ptr_array_index (files, i), cancellable, error))
      return FALSE;
  return files != NULL;
}

/* -- the model, on the thread -------------------------------------------------------------------
 */

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

/* For all that is to come: nobody wants to wait for most of a model that does not fit. */
static gboolean
check_room (TesseraDownload *self, GError **error)
{
  const guint64 all = catalogue_model_bytes (self->model), here = download_get_bytes_here (self);
  g_autofree char *inside = g_strconcat (self->dir, "/", NULL);

  return here >= all || fetch_check_space (inside, all - here, error);
}

static gboolean
get_model (TesseraDownload *self, const char *const *folders, GCancellable *cancellable,
           GError **error)
{
  const GPtrArray *files = self->model->files;
  const CatalogueFile *index = NULL;

  if (!make_folder (self, error))
    return FALSE;
  set_mark (self, TRUE);
  for (guint i = 0; i < files->len; i++)
    {
      const CatalogueFile *file = g_ptr_array_index (files, i);

      if (g_str_equal (file->path, INDEX))
        index = file;
      else if (!look_here (self, file, folders, cancellable, error))
        return FALSE;
    }
  if (!check_room (self, error))
    return FALSE;
  for (guint i = 0; i < files->len; i++)
    {
      const CatalogueFile *file = g_ptr_array_index (files, i);

      if (file != index
          && (!get_file (self, file, cancellable, error)
              || (file->shards && !get_shards (self, file, folders, cancellable, error))))
        return FALSE;
    }
  return index == NULL
         || (look_here (self, index, folders, cancellable, error)
             && get_file (self, index, cancellable, error));
}

static void
run_thread (GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
  g_auto (GStrv) none = g_new0 (char *, 1);
  GError *error = NULL;

  if (get_model (source, data != NULL ? data : none, cancellable, &error))
    g_task_return_boolean (task, TRUE);
  else
    g_task_return_error (task, error);
}

/* -- on the main thread -------------------------------------------------------------------------
 */

static guint64
get_done (TesseraDownload *self, guint64 *total, guint64 *fetched)
{
  guint64 done = 0, of = 0, finished, expected, found;

  if (self->state == DOWNLOAD_MOVING)
    {
      *total = __atomic_load_n (&self->move.total, __ATOMIC_RELAXED);
      *fetched = __atomic_load_n (&self->move.done, __ATOMIC_RELAXED);
      return *fetched;
    }
  g_mutex_lock (&self->lock);
  if (self->current != NULL)
    fetch_get_progress (self->current, &done, &of);
  finished = self->finished;
  expected = self->expected;
  found = self->found;
  g_mutex_unlock (&self->lock);
  *total = finished + MAX (expected, of);
  *fetched = finished + done - MIN (found, finished + done);
  return finished + done;
}

/* What was found on the disk came at no rate. */
static gboolean
on_interval (gpointer data)
{
  TesseraDownload *self = data;
  guint64 total, fetched;
  double now;

  get_done (self, &total, &fetched);
  now = (double)(fetched - MIN (fetched, self->last_fetched)) * 1000 / INTERVAL_MS;
  self->rate = self->rate > 0 ? self->rate + SMOOTHING * (now - self->rate) : now;
  self->last_fetched = fetched;
  g_signal_emit (self, signals[CHANGED], 0);
  return G_SOURCE_CONTINUE;
}

/* What begins and ends alike for a download and a move. */
static void
begin_run (TesseraDownload *self, DownloadState state)
{
  g_clear_pointer (&self->error, g_free);
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
    self->state = DOWNLOAD_DONE;
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
  self->finished = self->found = 0;
  self->expected = catalogue_model_bytes (self->model);
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

  if (move_model (self->dir, data, &self->move, cancellable, &error))
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
  self->move = (TreeProgress){ 0 };
  begin_run (self, DOWNLOAD_MOVING);
  task = g_task_new (self, self->cancellable, on_moved, NULL);
  g_task_set_task_data (task, g_strdup (folder), g_free);
  /* A move that was finished when Cancel came is one. */
  g_task_set_check_cancellable (task, FALSE);
  g_task_run_in_thread (task, move_thread);
  g_signal_emit (self, signals[CHANGED], 0);
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
  guint64 fetched;

  *done = get_done (self, total, &fetched);
  *rate = self->rate;
  *seconds_left = self->rate > 1 && *total > *done
                      ? (int)MIN ((double)(*total - *done) / self->rate, G_MAXINT)
                      : -1;
}

char **
download_get_hosts (TesseraDownload *self)
{
  char **hosts;

  g_mutex_lock (&self->lock);
  if (self->current != NULL)
    note_hosts (self, self->current);
  hosts = g_new0 (char *, self->hosts->len + 1);
  for (guint i = 0; i < self->hosts->len; i++)
    hosts[i] = g_strdup (g_ptr_array_index (self->hosts, i));
  g_mutex_unlock (&self->lock);
  return hosts;
}

/* -- life ---------------------------------------------------------------------------------------
 */

TesseraDownload *
download_new (Catalogue *catalogue, const CatalogueModel *model, const char *models_dir,
              const FetchOptions *options)
{
  const FetchOptions usual = FETCH_OPTIONS_INIT;
  TesseraDownload *self = g_object_new (TESSERA_TYPE_DOWNLOAD, NULL);
  g_autofree char *index = NULL, *missing = NULL;

  self->catalogue = catalogue_ref (catalogue); /* owns the model, too */
  self->model = model;
  self->options = options != NULL ? *options : usual;
  self->dir = g_build_filename (models_dir, model->id, NULL);
  index = g_build_filename (self->dir, INDEX, NULL);
  missing = move_describe_missing (self->dir);
  if (missing != NULL)
    {
      self->state = DOWNLOAD_FAILED;
      self->error = g_steal_pointer (&missing);
    }
  else if (g_file_test (index, G_FILE_TEST_IS_REGULAR) && !download_was_interrupted (self))
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
  g_mutex_clear (&self->lock);
  g_ptr_array_unref (self->hosts);
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
  g_mutex_init (&self->lock);
  self->hosts = g_ptr_array_new_with_free_func (g_free);
}
