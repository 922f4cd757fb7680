/* SPDX-License-Identifier: Apache-2.0
 *
 * fetch-tool.c - fetches one file as told on the command line, for test-fetch.py
 *
 * With --pause=BYTES it cancels itself once so much is there. Prints "ok" or "DOMAIN-CODE MESSAGE"
 * as its last line, and before it "host NAME" for each host.
 */
#include "app/fetch/fetch.h"

#include <stdio.h>
#include <unistd.h>

typedef struct
{
  GCancellable *cancellable;
  Fetch *fetch;
  guint64 bytes;
} Pause;

static gpointer
pause_thread (gpointer data)
{
  const Pause *pause = data;
  guint64 done = 0, total;

  for (; done < pause->bytes; g_usleep (2000))
    fetch_get_progress (pause->fetch, &done, &total);
  g_cancellable_cancel (pause->cancellable);
  return NULL;
}

int
main (int argc, char **argv)
{
  FetchOptions options = FETCH_OPTIONS_INIT;
  g_autofree char *hash = NULL, *md5 = NULL, *path = NULL;
  g_auto (GStrv) urls = NULL, hosts = NULL;
  gint64 size = 0, pause_at = 0;
  int connections = 4, chunk = 65536, stall = 1, patience = 5, wait = 10;
  const GOptionEntry entries[] = {
    { "path", 0, 0, G_OPTION_ARG_FILENAME, &path, NULL, NULL },
    { "sha256", 0, 0, G_OPTION_ARG_STRING, &hash, NULL, NULL },
    { "md5", 0, 0, G_OPTION_ARG_STRING, &md5, NULL, NULL },
    { "size", 0, 0, G_OPTION_ARG_INT64, &size, NULL, NULL },
    { "connections", 0, 0, G_OPTION_ARG_INT, &connections, NULL, NULL },
    { "chunk", 0, 0, G_OPTION_ARG_INT, &chunk, NULL, NULL },
    { "stall", 0, 0, G_OPTION_ARG_INT, &stall, NULL, NULL },
    { "patience", 0, 0, G_OPTION_ARG_INT, &patience, NULL, NULL },
    { "wait", 0, 0, G_OPTION_ARG_INT, &wait, NULL, NULL },
    { "pause", 0, 0, G_OPTION_ARG_INT64, &pause_at, NULL, NULL },
    { G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_STRING_ARRAY, &urls, NULL, NULL },
    { NULL },
  };
  g_autoptr (GOptionContext) context = g_option_context_new (NULL);
  g_autoptr (GCancellable) cancellable = g_cancellable_new ();
  g_autoptr (GError) error = NULL;
  g_autoptr (Fetch) fetch = NULL;
  Pause pause;
  gboolean done;

  g_option_context_add_main_entries (context, entries, NULL);
  if (!g_option_context_parse (context, &argc, &argv, &error))
    g_error ("%s", error->message);
  options.connections = (guint)connections;
  options.chunk = (gsize)chunk;
  options.stall_seconds = (guint)stall;
  options.patience = (guint)patience;
  options.wait_ms = (guint)wait;
  fetch = fetch_new ((const char *const *)urls, path, md5 ? G_CHECKSUM_MD5 : G_CHECKSUM_SHA256,
                     md5 ? md5 : hash, (guint64)size, &options);
  if (pause_at > 0)
    {
      pause = (Pause){ cancellable, fetch, (guint64)pause_at };
      g_thread_unref (g_thread_new ("pause", pause_thread, &pause));
    }
  done = fetch_run (fetch, cancellable, &error);
  hosts = fetch_get_hosts (fetch);
  for (guint i = 0; hosts[i] != NULL; i++)
    printf ("host %s\n", hosts[i]);
  if (done)
    puts ("ok");
  else
    printf ("%s-%d %s\n", g_quark_to_string (error->domain), error->code, error->message);
  fflush (stdout);
  _exit (done ? 0 : 1); /* the pause may still be asleep */
}
