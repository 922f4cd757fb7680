/* SPDX-License-Identifier: Apache-2.0 */
#include "app/models/model-fetch.h"

#include "app/fetch/fetch-part.h"
#include "app/models/adopt.h"

#include <glib/gstdio.h>

struct _ModelFetch
{
  Catalogue *catalogue;
  const CatalogueModel *model;
  char *dir;
  FetchOptions options;

  GMutex lock; /* over what follows */
  Fetch *current;
  gboolean looking;
  guint64 finished, expected; /* bytes of whole files; of those to come, as far as known */
  guint64 copied;             /* of the file that is being taken over */
  guint64 found;              /* bytes that were there, or in another folder */
  GPtrArray *hosts;
};

/* -- counting -----------------------------------------------------------------------------------
 */

static gboolean
is_index (const CatalogueFile *file)
{
  return g_str_equal (file->path, "model_index.json");
}

static guint64
known_bytes (const CatalogueFile *file)
{
  return MAX (file->size, file->about);
}

static void
note_hosts (ModelFetch *self, Fetch *fetch)
{
  g_auto (GStrv) hosts = fetch_get_hosts (fetch);

  for (guint i = 0; hosts[i] != NULL; i++)
    if (!g_ptr_array_find_with_equal_func (self->hosts, hosts[i], g_str_equal, NULL))
      g_ptr_array_add (self->hosts, g_strdup (hosts[i]));
}

static void
set_current (ModelFetch *self, Fetch *fetch)
{
  g_mutex_lock (&self->lock);
  if (self->current != NULL)
    note_hosts (self, self->current);
  self->current = fetch;
  g_mutex_unlock (&self->lock);
}

static void
set_looking (ModelFetch *self, gboolean looking)
{
  g_mutex_lock (&self->lock);
  self->looking = looking;
  g_mutex_unlock (&self->lock);
}

static void
begin (ModelFetch *self)
{
  g_mutex_lock (&self->lock);
  self->finished = self->found = self->copied = 0;
  self->expected = catalogue_model_bytes (self->model);
  g_mutex_unlock (&self->lock);
}

/* Nothing if it is not there. `fetched`: by this run. */
static void
note_finished (ModelFetch *self, const CatalogueFile *file, const char *path, gboolean fetched)
{
  GStatBuf status;

  if (g_stat (path, &status) != 0)
    return;
  g_mutex_lock (&self->lock);
  self->copied = 0;
  self->finished += (guint64)status.st_size;
  self->found += fetched ? 0 : (guint64)status.st_size;
  self->expected -= MIN (self->expected, known_bytes (file));
  g_mutex_unlock (&self->lock);
}

/* -- one file -----------------------------------------------------------------------------------
 */

static Fetch *
make_fetch (ModelFetch *self, const CatalogueFile *file, const char *path)
{
  g_autoptr (GPtrArray) urls = g_ptr_array_new_with_free_func (g_free);

  for (guint i = 0; i < self->catalogue->mirrors->len; i++)
    g_ptr_array_add (urls, catalogue_url (g_ptr_array_index (self->catalogue->mirrors, i), file));
  g_ptr_array_add (urls, NULL);
  return fetch_new ((const char *const *)urls->pdata, path, file->hash_type, file->hash, file->size,
                    &self->options);
}

static void
on_copied (goffset done, goffset of, gpointer data)
{
  ModelFetch *self = data;

  g_mutex_lock (&self->lock);
  self->copied = (guint64)done;
  g_mutex_unlock (&self->lock);
}

/* Without a published hash the server is asked what the file should be. */
static gboolean
take_over (ModelFetch *self, const CatalogueFile *file, const char *path,
           const char *const *folders, GCancellable *cancellable, GError **error)
{
  g_autoptr (Fetch) fetch = make_fetch (self, file, path);
  g_autofree char *sha256 = NULL, *from = NULL;
  guint64 size = 0;

  if (folders[0] == NULL)
    return TRUE;
  if (file->hash == NULL && file->size == 0)
    {
      set_current (self, fetch);
      fetch_look (fetch, &size, &sha256,
                  cancellable); /* if it fails, so will the rest, and say why */
      set_current (self, NULL);
    }
  from = adopt_find (file, sha256, size, folders, cancellable);
  if (from != NULL)
    return adopt_take (from, path, on_copied, self, cancellable, error);
  return !g_cancellable_set_error_if_cancelled (cancellable, error);
}

/* Counts the file if it is there, or in another folder; FALSE only after an error. */
static gboolean
look_here (ModelFetch *self, const CatalogueFile *file, const char *const *folders,
           GCancellable *cancellable, GError **error)
{
  g_autofree char *path = g_build_filename (self->dir, file->path, NULL);
  g_autofree char *folder = g_path_get_dirname (path);

  if (g_mkdir_with_parents (folder, 0777) != 0)
    {
      g_set_error (error, G_IO_ERROR, G_IO_ERROR_FAILED, "%s: cannot be made", folder);
      return FALSE;
    }
  /* What has its name is whole. */
  if (!g_file_test (path, G_FILE_TEST_IS_REGULAR)
      && !take_over (self, file, path, folders, cancellable, error))
    return FALSE;
  note_finished (self, file, path, FALSE);
  return TRUE;
}

/* After look_here. */
static gboolean
get_file (ModelFetch *self, const CatalogueFile *file, GCancellable *cancellable, GError **error)
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
get_shards (ModelFetch *self, const CatalogueFile *index, const char *const *folders,
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

/* -- the model ----------------------------------------------------------------------------------
 */

/* For all that is to come: nobody wants to wait for most of a model that does not fit. */
static gboolean
check_room (ModelFetch *self, GError **error)
{
  const guint64 all = catalogue_model_bytes (self->model), here = fetch_bytes_below (self->dir);
  g_autofree char *inside = g_strconcat (self->dir, "/", NULL);

  return here >= all || fetch_check_space (inside, all - here, error);
}

static gboolean
look_for_all (ModelFetch *self, const char *const *folders, GCancellable *cancellable,
              GError **error)
{
  gboolean done = TRUE;

  set_looking (self, TRUE);
  for (guint i = 0; i < self->model->files->len && done; i++)
    {
      const CatalogueFile *file = g_ptr_array_index (self->model->files, i);

      done = is_index (file) || look_here (self, file, folders, cancellable, error);
    }
  set_looking (self, FALSE);
  return done;
}

gboolean
model_fetch_run (ModelFetch *self, const char *const *folders, GCancellable *cancellable,
                 GError **error)
{
  static const char *const none[] = { NULL };
  const GPtrArray *files = self->model->files;
  const CatalogueFile *index = NULL;

  if (folders == NULL)
    folders = none;
  begin (self);
  if (!look_for_all (self, folders, cancellable, error) || !check_room (self, error))
    return FALSE;
  for (guint i = 0; i < files->len; i++)
    {
      const CatalogueFile *file = g_ptr_array_index (files, i);

      if (is_index (file))
        index = file;
      else if (!get_file (self, file, cancellable, error)
               || (file->shards && !get_shards (self, file, folders, cancellable, error)))
        return FALSE;
    }
  return index == NULL
         || (look_here (self, index, folders, cancellable, error)
             && get_file (self, index, cancellable, error));
}

/* -- what is asked of it ------------------------------------------------------------------------
 */

void
model_fetch_get_progress (ModelFetch *self, ModelFetchProgress *progress)
{
  guint64 done = 0, of = 0;

  g_mutex_lock (&self->lock);
  if (self->current != NULL)
    fetch_get_progress (self->current, &done, &of);
  progress->looking = self->looking;
  progress->done = self->finished + self->copied + done;
  progress->total = self->finished + MAX (self->expected, MAX (of, self->copied));
  progress->fetched = self->finished + done - MIN (self->found, self->finished + done);
  g_mutex_unlock (&self->lock);
}

char **
model_fetch_get_hosts (ModelFetch *self)
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

ModelFetch *
model_fetch_new (Catalogue *catalogue, const CatalogueModel *model, const char *dir,
                 const FetchOptions *options)
{
  const FetchOptions usual = FETCH_OPTIONS_INIT;
  ModelFetch *self = g_new0 (ModelFetch, 1);

  self->catalogue = catalogue_ref (catalogue); /* owns the model, too */
  self->model = model;
  self->dir = g_strdup (dir);
  self->options = options != NULL ? *options : usual;
  g_mutex_init (&self->lock);
  self->hosts = g_ptr_array_new_with_free_func (g_free);
  return self;
}

void
model_fetch_free (ModelFetch *self)
{
  if (self == NULL)
    return;
  g_mutex_clear (&self->lock);
  g_ptr_array_unref (self->hosts);
  g_free (self->dir);
  catalogue_unref (self->catalogue);
  g_free (self);
}
