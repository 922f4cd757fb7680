/* SPDX-License-Identifier: Apache-2.0 */
#include "app/generation/journal.h"

#include "engine/files/atomic-file.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define SCHEMA "tessera.queue/v1"
#define MAX_SIZE                                                                                   \
  (64 * 1024 * 1024) /* bytes of a file that is believed: a prompt has 1 MiB at most */
#define MAX_JOBS 1000

struct _Journal
{
  char *path;
  int owner; /* of a file that is locked while this journal is in use; -1 if there is none */
  GMutex lock;
  GCond done;
  char *next;       /* guarded by lock: the newest text not yet written */
  gboolean writing; /* guarded by lock: a pool thread is at it */
};

/* Pool thread: writes until nothing new has come. */
static void
write_in_thread (GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
  Journal *self = data;
  g_autofree char *folder = g_path_get_dirname (self->path);

  g_mkdir_with_parents (folder, 0700);
  g_mutex_lock (&self->lock);
  while (self->next != NULL)
    {
      g_autofree char *text = g_steal_pointer (&self->next);
      g_autoptr (GError) error = NULL;

      g_mutex_unlock (&self->lock);
      /* A journal that cannot be written costs nothing but its purpose: work goes on. */
      if (!atomic_file_put_text (self->path, text, &error))
        g_message ("What waits would not survive the end of the program: %s", error->message);
      g_mutex_lock (&self->lock);
    }
  self->writing = FALSE;
  g_cond_broadcast (&self->done);
  g_mutex_unlock (&self->lock);
}

static char *
to_json (GPtrArray *jobs)
{
  cJSON *root = cJSON_CreateObject (), *list;
  char *printed, *text;

  cJSON_AddStringToObject (root, "schema", SCHEMA);
  list = cJSON_AddArrayToObject (root, "jobs");
  for (guint i = 0; i < jobs->len; i++)
    {
      g_autofree char *request = engine_request_to_json (job_get_request (jobs->pdata[i]));
      const char *pair = job_get_pair (jobs->pdata[i]);
      cJSON *item = cJSON_CreateObject ();

      cJSON_AddItemToObject (item, "request", cJSON_Parse (request));
      if (pair != NULL)
        cJSON_AddStringToObject (item, "pair", pair);
      cJSON_AddItemToArray (list, item);
    }
  printed = cJSON_PrintUnformatted (root);
  text = g_strdup (printed);
  cJSON_free (printed);
  cJSON_Delete (root);
  return text;
}

void
journal_write (Journal *self, GPtrArray *jobs)
{
  char *text = to_json (jobs);
  gboolean start;

  g_mutex_lock (&self->lock);
  g_free (self->next);
  self->next = text;
  start = !self->writing;
  self->writing = TRUE;
  g_mutex_unlock (&self->lock);

  if (start)
    {
      g_autoptr (GTask) task = g_task_new (NULL, NULL, NULL, NULL);

      g_task_set_task_data (task, self, NULL);
      g_task_run_in_thread (task, write_in_thread);
    }
}

gboolean
journal_is_writing (Journal *self)
{
  gboolean writing;

  g_mutex_lock (&self->lock);
  writing = self->writing;
  g_mutex_unlock (&self->lock);
  return writing;
}

static TesseraJob *
job_from_json (const cJSON *item)
{
  const cJSON *object = cJSON_GetObjectItemCaseSensitive (item, "request");
  const char *pair = cJSON_GetStringValue (cJSON_GetObjectItemCaseSensitive (item, "pair"));
  char *text = cJSON_IsObject (object) ? cJSON_PrintUnformatted (object) : NULL;
  g_autoptr (EngineRequest) request = NULL;

  if (text != NULL)
    request = engine_request_from_json (text, strlen (text), NULL);
  cJSON_free (text);
  if (request == NULL || !engine_request_validate (request, NULL))
    return NULL;
  /* The pair becomes part of a file's name. */
  if (pair != NULL && (strlen (pair) > 64 || strspn (pair, "0123456789-") != strlen (pair)))
    pair = NULL;
  return job_new (request, pair);
}

/* The program writes this file anew as soon as the queue changes: what it did not understand, be it
 * damaged or another version's, goes aside. */
static void
keep_aside (const char *path, const char *text, gsize length)
{
  g_autofree char *aside = g_strconcat (path, ".unread", NULL);
  g_autoptr (GError) error = NULL;

  if (g_file_set_contents_full (aside, text, (gssize)length, G_FILE_SET_CONTENTS_CONSISTENT, 0600,
                                &error))
    g_message ("%s: not everything in it could be read; a copy is %s", path, aside);
  else
    g_message ("%s: not everything in it could be read, nor copied: %s", path, error->message);
}

GPtrArray *
journal_read (const char *path)
{
  GPtrArray *jobs = g_ptr_array_new_with_free_func (g_object_unref);
  g_autofree char *text = NULL;
  const cJSON *item, *list;
  gboolean whole;
  GStatBuf status;
  cJSON *root;
  gsize length;

  if (g_stat (path, &status) != 0 || !S_ISREG (status.st_mode) || status.st_size > MAX_SIZE
      || !g_file_get_contents (path, &text, &length, NULL))
    return jobs;
  root = cJSON_ParseWithLength (text, length);
  list = cJSON_GetObjectItemCaseSensitive (root, "jobs");
  whole = cJSON_IsArray (list);
  cJSON_ArrayForEach (item, list)
  {
    TesseraJob *job = jobs->len < MAX_JOBS ? job_from_json (item) : NULL;

    if (job != NULL)
      g_ptr_array_add (jobs, job);
    else
      whole = FALSE;
  }
  cJSON_Delete (root);
  if (!whole)
    keep_aside (path, text, length);
  return jobs;
}

/* -1 with errno: EWOULDBLOCK if another program holds the lock. */
static int
take_lock (const char *journal)
{
  g_autofree char *path = g_strconcat (journal, ".lock", NULL);
  g_autofree char *folder = g_path_get_dirname (journal);
  int fd, code;

  g_mkdir_with_parents (folder, 0700);
  fd = g_open (path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0 || flock (fd, LOCK_EX | LOCK_NB) == 0)
    return fd;
  code = errno;
  close (fd);
  errno = code;
  return -1;
}

Journal *
journal_new (const char *path)
{
  Journal *self;
  int owner = take_lock (path);

  if (owner < 0 && errno == EWOULDBLOCK)
    return NULL;
  self = g_new0 (Journal, 1);
  self->owner = owner;
  self->path = g_strdup (path);
  g_mutex_init (&self->lock);
  g_cond_init (&self->done);
  return self;
}

void
journal_free (Journal *self)
{
  if (self == NULL)
    return;
  g_mutex_lock (&self->lock);
  while (self->writing)
    g_cond_wait (&self->done, &self->lock);
  g_mutex_unlock (&self->lock);
  g_mutex_clear (&self->lock);
  g_cond_clear (&self->done);
  if (self->owner >= 0)
    close (self->owner);
  g_free (self->path);
  g_free (self);
}
