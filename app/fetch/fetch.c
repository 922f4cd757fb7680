/* SPDX-License-Identifier: Apache-2.0 */
#include "app/fetch/fetch-private.h"

#include <string.h>

#define MAX_CONNECTIONS 16
#define MAX_CHANGES     3
#define MAX_WAIT_MS     60000

struct _Fetch
{
  char **urls;
  char *path;
  char *hash;
  GChecksumType hash_type;
  guint64 size;
  FetchOptions options;

  GMutex lock; /* over the rest */
  FetchPart *part;
  guint64 done, total;
  GPtrArray *hosts;
};

/* What the threads of one attempt share. */
typedef struct
{
  Fetch *fetch;
  const Probe *probe;
  const char *url; /* where redirects begin */
  FetchPart *part;
  GCancellable *stop; /* one thread's failure ends all */
  GMutex lock;        /* over the rest */
  guint next;         /* chunk that nobody has taken */
  Answer answer;
  GError *error;
} Attempt;

Fetch *
fetch_new (const char *const *urls, const char *path, GChecksumType hash_type, const char *hash,
           guint64 size, const FetchOptions *options)
{
  const FetchOptions usual = FETCH_OPTIONS_INIT;
  Fetch *self = g_new0 (Fetch, 1);

  self->urls = g_strdupv ((char **)urls);
  self->path = g_strdup (path);
  self->hash_type = hash_type;
  self->hash = g_strdup (hash);
  self->size = size;
  self->total = size;
  self->options = options != NULL ? *options : usual;
  self->options.connections = CLAMP (self->options.connections, 1, MAX_CONNECTIONS);
  self->hosts = g_ptr_array_new_with_free_func (g_free);
  g_mutex_init (&self->lock);
  return self;
}

void
fetch_free (Fetch *self)
{
  if (self == NULL)
    return;
  g_strfreev (self->urls);
  g_free (self->path);
  g_free (self->hash);
  g_ptr_array_unref (self->hosts);
  g_mutex_clear (&self->lock);
  g_free (self);
}

/* -- for others to look at ----------------------------------------------------------------------
 */

const FetchOptions *
fetch_options (Fetch *self)
{
  return &self->options;
}

void
fetch_note_host (Fetch *self, const char *host, const char *proxy)
{
  g_autofree char *noted
      = proxy != NULL ? g_strdup_printf ("%s via %s", host, proxy) : g_strdup (host);

  g_mutex_lock (&self->lock);
  if (!g_ptr_array_find_with_equal_func (self->hosts, noted, g_str_equal, NULL))
    g_ptr_array_add (self->hosts, g_steal_pointer (&noted));
  g_mutex_unlock (&self->lock);
}

void
fetch_set_done (Fetch *self, guint64 done, guint64 total)
{
  g_mutex_lock (&self->lock);
  self->done = done;
  if (total > 0)
    self->total = total;
  g_mutex_unlock (&self->lock);
}

void
fetch_get_progress (Fetch *self, guint64 *done, guint64 *total)
{
  g_mutex_lock (&self->lock);
  *done = self->part != NULL ? fetch_part_done (self->part) : self->done;
  *total = self->total;
  g_mutex_unlock (&self->lock);
}

char **
fetch_get_hosts (Fetch *self)
{
  char **hosts;

  g_mutex_lock (&self->lock);
  hosts = g_new0 (char *, self->hosts->len + 1);
  for (guint i = 0; i < self->hosts->len; i++)
    hosts[i] = g_strdup (g_ptr_array_index (self->hosts, i));
  g_mutex_unlock (&self->lock);
  return hosts;
}

static void
set_part (Fetch *self, FetchPart *part)
{
  g_mutex_lock (&self->lock);
  self->part = part;
  g_mutex_unlock (&self->lock);
}

/* -- trying again -------------------------------------------------------------------------------
 */

/* Waits longer each time, or as long as the server asks; FALSE if cancelled meanwhile. */
static gboolean
back_off (Client *client, guint failures, GCancellable *cancellable)
{
  const FetchOptions *options = &client->fetch->options;
  const guint shift = MIN (failures > 0 ? failures - 1 : 0, 10);
  guint64 wait = MIN ((guint64)options->wait_ms << shift, MAX_WAIT_MS);
  GPollFD poll;

  wait = MAX (wait, client->retry_after * G_GUINT64_CONSTANT (1000));
  client->retry_after = 0;
  if (g_cancellable_make_pollfd (cancellable, &poll))
    {
      g_poll (&poll, 1, (gint)wait);
      g_cancellable_release_fd (cancellable);
    }
  return !g_cancellable_is_cancelled (cancellable);
}

/* TRUE if it is worth another try: then the error is forgotten. */
static gboolean
may_retry (Client *client, Answer answer, guint *failures, GCancellable *cancellable,
           GError **error)
{
  if (answer != ANSWER_AGAIN || ++*failures >= client->fetch->options.patience
      || !back_off (client, *failures, cancellable))
    return FALSE;
  g_clear_error (error);
  return TRUE;
}

/* -- ranges -------------------------------------------------------------------------------------
 */

/* Index of a chunk that is not complete, now the caller's; -1 if none is left. */
static gint64
take_chunk (Attempt *attempt)
{
  const guint n = fetch_part_n_chunks (attempt->part);
  gint64 taken = -1;

  g_mutex_lock (&attempt->lock);
  while (taken < 0 && attempt->next < n && attempt->answer == ANSWER_OK)
    {
      guint64 start;
      gsize length, done;

      fetch_part_get_chunk (attempt->part, attempt->next, &start, &length, &done);
      if (done < length)
        taken = attempt->next;
      attempt->next++;
    }
  g_mutex_unlock (&attempt->lock);
  return taken;
}

static Answer
get_chunk (Client *client, Attempt *attempt, guint i, GError **error)
{
  guint failures = 0;
  gsize before = 0;

  for (;;)
    {
      guint64 start;
      gsize length, done;
      Answer answer
          = client_get_chunk (client, attempt->probe, attempt->part, i, attempt->stop, error);

      if (answer == ANSWER_OK)
        return answer;
      fetch_part_get_chunk (attempt->part, i, &start, &length, &done);
      if (done > before)
        failures = 0;
      before = done;
      /* The address that a redirect gave may have expired: begin where it began. */
      if (answer == ANSWER_REFUSED && !g_str_equal (client->url, attempt->url))
        answer = ANSWER_AGAIN;
      g_free (client->url);
      client->url = g_strdup (attempt->url);
      if (!may_retry (client, answer, &failures, attempt->stop, error))
        return answer;
    }
}

static gpointer
range_thread (gpointer data)
{
  Attempt *attempt = data;
  Client client;
  gint64 i;

  client_init (&client, attempt->fetch, attempt->probe->url);
  while ((i = take_chunk (attempt)) >= 0)
    {
      g_autoptr (GError) error = NULL;
      Answer answer = get_chunk (&client, attempt, (guint)i, &error);

      if (answer == ANSWER_OK)
        continue;
      g_mutex_lock (&attempt->lock);
      if (attempt->answer == ANSWER_OK) /* the first failure is the cause of the others */
        {
          attempt->answer = answer;
          attempt->error = g_steal_pointer (&error);
        }
      g_mutex_unlock (&attempt->lock);
      g_cancellable_cancel (attempt->stop);
    }
  client_clear (&client);
  return NULL;
}

static void
on_cancelled (GCancellable *cancellable, gpointer data)
{
  g_cancellable_cancel (data);
}

static Answer
get_ranges (Fetch *self, FetchPart *part, const Probe *probe, const char *url,
            GCancellable *cancellable, GError **error)
{
  Attempt attempt = { .fetch = self, .probe = probe, .url = url, .part = part };
  GThread *threads[MAX_CONNECTIONS];
  const guint n = MIN (self->options.connections, MAX (fetch_part_n_chunks (part), 1));
  gulong handler = 0;

  attempt.stop = g_cancellable_new ();
  g_mutex_init (&attempt.lock);
  if (cancellable != NULL)
    handler = g_cancellable_connect (cancellable, G_CALLBACK (on_cancelled), attempt.stop, NULL);
  for (guint i = 0; i < n; i++)
    threads[i] = g_thread_new ("fetch", range_thread, &attempt);
  for (guint i = 0; i < n; i++)
    g_thread_join (threads[i]);
  g_cancellable_disconnect (cancellable, handler);
  g_object_unref (attempt.stop);
  g_mutex_clear (&attempt.lock);
  if (attempt.error != NULL)
    g_propagate_error (error, attempt.error);
  return attempt.answer;
}

/* -- one mirror ---------------------------------------------------------------------------------
 */

static Answer
check_digest (Fetch *self, const Probe *probe, GCancellable *cancellable, GError **error)
{
  g_autofree char *part = g_strconcat (self->path, ".part", NULL);
  g_autofree char *found = NULL;
  const char *expected = self->hash != NULL ? self->hash : probe->sha256;

  if (expected == NULL)
    return ANSWER_OK;
  found = fetch_file_digest (part, self->hash != NULL ? self->hash_type : G_CHECKSUM_SHA256, NULL,
                             cancellable, error);
  if (found == NULL)
    return ANSWER_FAILED;
  if (g_str_equal (found, expected))
    return ANSWER_OK;
  g_set_error (error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
               "%s: the checksum is %s, but %s was published", self->path, found, expected);
  return ANSWER_CHANGED;
}

static Answer
fetch_in_ranges (Fetch *self, const Probe *probe, const char *url, GCancellable *cancellable,
                 GError **error)
{
  g_autoptr (FetchPart) part
      = fetch_part_open (self->path, probe->size, self->options.chunk, probe->validator, error);
  Answer answer;

  if (part == NULL)
    return ANSWER_FAILED;
  fetch_set_done (self, 0, probe->size);
  set_part (self, part);
  answer = get_ranges (self, part, probe, url, cancellable, error);
  if (answer == ANSWER_OK)
    answer = check_digest (self, probe, cancellable, error);
  if (answer == ANSWER_OK && !fetch_part_commit (self->path, error))
    answer = ANSWER_FAILED;
  fetch_set_done (self, fetch_part_done (part), probe->size);
  set_part (self, NULL);
  return answer;
}

/* No ranges: nothing to resume, and a break means to begin again. */
static Answer
fetch_whole (Fetch *self, Client *client, const Probe *probe, const char *url,
             GCancellable *cancellable, GError **error)
{
  const guint64 expected = self->size > 0 ? self->size : probe->size;
  guint failures = 0;
  guint64 size = 0;
  Answer answer;

  fetch_part_discard (self->path);
  if (!fetch_check_space (self->path, expected, error))
    return ANSWER_FAILED;
  fetch_set_done (self, 0, expected);
  do
    {
      g_free (client->url);
      client->url = g_strdup (url);
      answer = client_get_whole (client, self->path, &size, cancellable, error);
    }
  while (may_retry (client, answer, &failures, cancellable, error));
  if (answer != ANSWER_OK)
    return answer;
  if (expected > 0 ? size != expected : self->hash == NULL && probe->sha256 == NULL)
    {
      g_set_error (error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                   "%s: got %" G_GUINT64_FORMAT " bytes, which nothing confirms", self->path, size);
      return ANSWER_CHANGED;
    }
  answer = check_digest (self, probe, cancellable, error);
  if (answer == ANSWER_OK && !fetch_part_commit (self->path, error))
    answer = ANSWER_FAILED;
  return answer;
}

static Answer
check_size (Fetch *self, const Probe *probe, GError **error)
{
  if (self->size == 0 || probe->size == 0 || probe->size == self->size)
    return ANSWER_OK;
  g_set_error (error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
               "%s: the server has %" G_GUINT64_FORMAT " bytes, but %" G_GUINT64_FORMAT
               " were published",
               self->path, probe->size, self->size);
  return ANSWER_REFUSED;
}

static Answer
fetch_once (Fetch *self, const char *url, GCancellable *cancellable, GError **error)
{
  Probe probe = { 0 };
  Client client;
  guint failures = 0;
  Answer answer;

  client_init (&client, self, url);
  do
    {
      probe_clear (&probe);
      g_free (client.url);
      client.url = g_strdup (url);
      answer = client_probe (&client, &probe, cancellable, error);
    }
  while (may_retry (&client, answer, &failures, cancellable, error));
  if (answer == ANSWER_OK)
    answer = check_size (self, &probe, error);
  if (answer == ANSWER_OK)
    answer = probe.ranges && !probe.empty
                 ? fetch_in_ranges (self, &probe, url, cancellable, error)
                 : fetch_whole (self, &client, &probe, url, cancellable, error);
  client_clear (&client);
  probe_clear (&probe);
  return answer;
}

gboolean
fetch_run (Fetch *self, GCancellable *cancellable, GError **error)
{
  Answer answer = ANSWER_REFUSED;

  for (guint i = 0; self->urls[i] != NULL; i++)
    {
      guint changes = 0;

      do
        {
          g_clear_error (error);
          answer = fetch_once (self, self->urls[i], cancellable, error);
          if (answer == ANSWER_CHANGED)
            fetch_part_discard (self->path);
        }
      while (answer == ANSWER_CHANGED && ++changes < MAX_CHANGES);
      if (answer == ANSWER_OK)
        return TRUE;
      if (answer == ANSWER_FAILED || g_cancellable_is_cancelled (cancellable))
        break;
    }
  if (g_cancellable_is_cancelled (cancellable) && answer != ANSWER_OK)
    {
      g_clear_error (error);
      g_cancellable_set_error_if_cancelled (cancellable, error);
    }
  return FALSE;
}

gboolean
fetch_look (Fetch *self, guint64 *size, char **sha256, GCancellable *cancellable)
{
  Answer answer = ANSWER_REFUSED;

  for (guint i = 0; self->urls[i] != NULL && answer != ANSWER_OK; i++)
    {
      Probe probe = { 0 };
      Client client;
      g_autoptr (GError) ignored = NULL;

      client_init (&client, self, self->urls[i]);
      answer = client_probe (&client, &probe, cancellable, &ignored);
      if (answer == ANSWER_OK)
        {
          *size = probe.size;
          *sha256 = g_steal_pointer (&probe.sha256);
        }
      client_clear (&client);
      probe_clear (&probe);
    }
  return answer == ANSWER_OK;
}
