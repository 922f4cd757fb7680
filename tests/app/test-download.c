/* SPDX-License-Identifier: Apache-2.0
 *
 * test-download.c - a small model from a server in this process
 *
 * The server gives tests/data/tiny-zimage under /good and nothing under /bad.
 */
#include "app/models/download.h"

#include "app/models/adopt.h"
#include "app/models/verify.h"

#include <glib/gstdio.h>
#include <libsoup/soup.h>
#include <string.h>

#define LIMIT 60 /* seconds before a wait counts as hung */

typedef struct
{
  SoupServer *server;
  guint port;
  char *folder, *models;
  GHashTable *asked; /* path -> number of requests */
  Catalogue *catalogue;
  TesseraDownload *download;
} Fixture;

static const char *const FILES[] = {
  "model_index.json",         "scheduler/scheduler_config.json",
  "text_encoder/config.json", "text_encoder/model.safetensors",
  "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json",
  "transformer/config.json",  "transformer/diffusion_pytorch_model.safetensors",
  "vae/config.json",          "vae/diffusion_pytorch_model.safetensors",
};

static char *
source_path (const char *file)
{
  return g_build_filename (g_getenv ("TESSERA_TEST_DATA"), "tiny-zimage", file, NULL);
}

/* Everything has run by the time a request is answered, so counting needs no lock. */
static void
on_request (SoupServer *server, SoupServerMessage *message, const char *path, GHashTable *query,
            gpointer data)
{
  Fixture *f = data;
  g_autofree char *source = NULL, *text = NULL;
  gsize length = 0;
  SoupMessageHeaders *headers = soup_server_message_get_response_headers (message);
  guint count = GPOINTER_TO_UINT (g_hash_table_lookup (f->asked, path));

  g_hash_table_replace (f->asked, g_strdup (path), GUINT_TO_POINTER (count + 1));
  if (g_str_equal (path, "/good/o/n/made-up.index.json"))
    text = g_strdup ("{\"weight_map\":{\"a\":\"config.json\",\"b\":\"config.json\"}}");
  else if (g_str_equal (path, "/good/o/n/config.json"))
    text = g_strdup ("a shard");
  if (text != NULL)
    length = strlen (text);
  else if (g_str_has_prefix (path, "/good/o/n/"))
    {
      source = source_path (path + strlen ("/good/o/n/"));
      g_file_get_contents (source, &text, &length, NULL);
    }
  if (text == NULL)
    {
      soup_server_message_set_status (message, 404, NULL);
      return;
    }
  soup_message_headers_replace (headers, "ETag", "\"same\"");
  soup_server_message_set_status (message, 200, NULL);
  soup_server_message_set_response (message, "application/octet-stream", SOUP_MEMORY_COPY, text,
                                    length);
}

static char *
describe_file (const char *file, gboolean hashes)
{
  g_autofree char *path = source_path (file);
  g_autofree char *text = NULL, *md5 = NULL;
  g_autoptr (GError) error = NULL;
  gsize length;

  if (!hashes)
    return g_strdup_printf ("{\"path\":\"%s\",\"repository\":\"o/n\"}", file);
  g_file_get_contents (path, &text, &length, &error);
  g_assert_no_error (error);
  md5 = g_compute_checksum_for_data (G_CHECKSUM_MD5, (const guchar *)text, length);
  return g_strdup_printf ("{\"path\":\"%s\",\"repository\":\"o/n\",\"size\":%" G_GSIZE_FORMAT
                          ",\"md5\":\"%s\"}",
                          file, length, md5);
}

static void
make_catalogue (Fixture *f, const char *first_mirror, gboolean hashes, const char *more)
{
  g_autoptr (GString) text = g_string_new ("{\"version\":1,\"mirrors\":[");
  g_autoptr (GError) error = NULL;

  g_string_append_printf (
      text,
      "{\"name\":\"A\",\"url\":\"http://127.0.0.1:%u/%s/{repository}/{path}\"},"
      "{\"name\":\"B\",\"url\":\"http://localhost:%u/good/{repository}/{path}\"}"
      "],\"models\":[{\"id\":\"tiny\",\"name\":\"Tiny\",\"precision\":\"bf16\","
      "\"licence\":\"Apache-2.0\",\"page\":\"https://example.org/\",\"files\":[",
      f->port, first_mirror, f->port);
  for (guint i = 0; i < G_N_ELEMENTS (FILES); i++)
    {
      g_autofree char *file = describe_file (FILES[i], hashes);

      g_string_append_printf (text, "%s%s", i > 0 ? "," : "", file);
    }
  g_string_append_printf (text, "%s]}]}", more);
  f->catalogue = catalogue_parse (text->str, text->len, "test.json", &error);
  g_assert_no_error (error);
}

static void
set_up (Fixture *f, gconstpointer data)
{
  g_autoptr (GError) error = NULL;
  GSList *uris;

  f->folder = g_dir_make_tmp ("tessera-download-XXXXXX", &error);
  g_assert_no_error (error);
  f->models = g_build_filename (f->folder, "models", NULL);
  f->asked = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  f->server = soup_server_new (NULL, NULL);
  soup_server_add_handler (f->server, NULL, on_request, f, NULL);
  soup_server_listen_local (f->server, 0, SOUP_SERVER_LISTEN_IPV4_ONLY, &error);
  g_assert_no_error (error);
  uris = soup_server_get_uris (f->server);
  f->port = (guint)g_uri_get_port (uris->data);
  g_slist_free_full (uris, (GDestroyNotify)g_uri_unref);
}

static void
tear_down (Fixture *f, gconstpointer data)
{
  const char *argv[] = { "rm", "-rf", f->folder, NULL };

  g_clear_object (&f->download);
  g_clear_pointer (&f->catalogue, catalogue_unref);
  soup_server_disconnect (f->server);
  g_clear_object (&f->server);
  g_spawn_sync (NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL, NULL);
  g_hash_table_unref (f->asked);
  g_free (f->models);
  g_free (f->folder);
}

static void
make_download (Fixture *f)
{
  const FetchOptions options
      = { .connections = 2, .chunk = 1 << 20, .stall_seconds = 20, .patience = 2, .wait_ms = 10 };

  g_clear_object (&f->download);
  f->download
      = download_new (f->catalogue, catalogue_find (f->catalogue, "tiny"), f->models, &options);
}

static void
wait_for (Fixture *f, DownloadState state)
{
  const gint64 end = g_get_monotonic_time () + LIMIT * G_USEC_PER_SEC;

  while ((download_get_state (f->download) == DOWNLOAD_RUNNING
          || download_get_state (f->download) == DOWNLOAD_MOVING
          || download_get_state (f->download) == DOWNLOAD_CHECKING)
         && g_get_monotonic_time () < end)
    g_main_context_iteration (NULL, TRUE);
  if (download_get_error (f->download) != NULL && state != DOWNLOAD_FAILED)
    g_error ("%s", download_get_error (f->download));
  g_assert_cmpint (download_get_state (f->download), ==, state);
}

static guint
times_asked (Fixture *f, const char *file)
{
  g_autofree char *path = g_strconcat ("/good/o/n/", file, NULL);

  return GPOINTER_TO_UINT (g_hash_table_lookup (f->asked, path));
}

static void
check_files (Fixture *f)
{
  for (guint i = 0; i < G_N_ELEMENTS (FILES); i++)
    {
      g_autofree char *source = source_path (FILES[i]);
      g_autofree char *path = g_build_filename (download_get_dir (f->download), FILES[i], NULL);
      g_autofree char *a = NULL, *b = NULL;
      gsize n, m;

      g_assert_true (g_file_get_contents (source, &a, &n, NULL));
      g_assert_true (g_file_get_contents (path, &b, &m, NULL));
      g_assert_cmpmem (a, n, b, m);
    }
}

/* -- cases --------------------------------------------------------------------------------------
 */

static void
test_whole (Fixture *f, gconstpointer data)
{
  guint64 done, total;
  double rate;
  int left;
  g_auto (GStrv) hosts = NULL;

  make_catalogue (f, "good", TRUE, "");
  make_download (f);
  g_assert_cmpint (download_get_state (f->download), ==, DOWNLOAD_IDLE);
  download_start (f->download, NULL);
  wait_for (f, DOWNLOAD_DONE);
  check_files (f);
  download_get_progress (f->download, &done, &total, &rate, &left);
  g_assert_cmpuint (done, ==, total);
  g_assert_cmpuint (done, ==, catalogue_model_bytes (catalogue_find (f->catalogue, "tiny")));
  g_assert_cmpuint (done, ==, download_get_bytes_here (f->download));
  hosts = download_get_hosts (f->download);
  g_assert_cmpuint (g_strv_length (hosts), ==, 1);
  g_assert_cmpstr (hosts[0], ==, "127.0.0.1");

  /* It is seen to be there, and asks for nothing more. */
  make_download (f);
  g_assert_cmpint (download_get_state (f->download), ==, DOWNLOAD_DONE);
  g_hash_table_remove_all (f->asked);
  download_start (f->download, NULL);
  wait_for (f, DOWNLOAD_DONE);
  g_assert_cmpuint (g_hash_table_size (f->asked), ==, 0);
}

static void
test_second_mirror (Fixture *f, gconstpointer data)
{
  g_auto (GStrv) hosts = NULL;

  make_catalogue (f, "bad", FALSE, "");
  make_download (f);
  download_start (f->download, NULL);
  wait_for (f, DOWNLOAD_DONE);
  check_files (f);
  hosts = download_get_hosts (f->download);
  g_assert_cmpuint (g_strv_length (hosts), ==, 2);
}

static void
test_shards (Fixture *f, gconstpointer data)
{
  g_autofree char *path = NULL, *text = NULL;

  make_catalogue (f, "good", TRUE,
                  ",{\"path\":\"extra/made-up.index.json\",\"source\":\"made-up.index.json\","
                  "\"repository\":\"o/n\",\"shards\":true}");
  make_download (f);
  download_start (f->download, NULL);
  wait_for (f, DOWNLOAD_DONE);
  path = g_build_filename (download_get_dir (f->download), "extra", "config.json", NULL);
  g_assert_true (g_file_get_contents (path, &text, NULL, NULL));
  g_assert_cmpstr (text, ==, "a shard");
}

static void
test_pause (Fixture *f, gconstpointer data)
{
  make_catalogue (f, "good", TRUE, "");
  make_download (f);
  download_start (f->download, NULL);
  download_pause (f->download);
  wait_for (f, DOWNLOAD_PAUSED);
  make_download (f);
  g_assert_cmpint (download_get_state (f->download), ==, DOWNLOAD_PAUSED);
  g_assert_false (download_was_interrupted (f->download));
  g_assert_false (download_any_interrupted (f->models));
  download_start (f->download, NULL);
  wait_for (f, DOWNLOAD_DONE);
  check_files (f);
}

/* Unlike a pause it leaves a mark, until all is there. */
static void
test_interrupted (Fixture *f, gconstpointer data)
{
  make_catalogue (f, "good", TRUE, "");
  make_download (f);
  download_start (f->download, NULL);
  while (g_hash_table_size (f->asked) == 0)
    g_main_context_iteration (NULL, TRUE);
  download_interrupt (f->download);
  wait_for (f, DOWNLOAD_PAUSED);
  g_assert_true (download_any_interrupted (f->models));
  make_download (f);
  g_assert_cmpint (download_get_state (f->download), ==, DOWNLOAD_PAUSED);
  g_assert_true (download_was_interrupted (f->download));
  download_start (f->download, NULL);
  wait_for (f, DOWNLOAD_DONE);
  check_files (f);
  g_assert_false (download_any_interrupted (f->models));
}

/* A download to another folder, a move to a third one, and that one's disk is away for a while. */
static void
test_places (Fixture *f, gconstpointer data)
{
  g_autofree char *first = g_build_filename (f->folder, "first", NULL);
  g_autofree char *second = g_build_filename (f->folder, "second", NULL);
  g_autofree char *away = g_build_filename (f->folder, "away", NULL);
  g_autofree char *nothing = NULL, *moved = g_build_filename (second, "tiny", FILES[3], NULL);
  g_autoptr (GError) error = NULL;

  g_assert_cmpint (g_mkdir (first, 0755) + g_mkdir (second, 0755), ==, 0);
  make_catalogue (f, "good", TRUE, "");
  make_download (f);
  download_set_folder (f->download, first, &error);
  g_assert_no_error (error);
  download_start (f->download, NULL);
  wait_for (f, DOWNLOAD_DONE);
  check_files (f);
  download_move (f->download, second);
  wait_for (f, DOWNLOAD_DONE);
  check_files (f);
  g_assert_true (g_file_test (moved, G_FILE_TEST_IS_REGULAR));
  nothing = g_build_filename (first, "tiny", NULL);
  g_assert_false (g_file_test (nothing, G_FILE_TEST_EXISTS));

  g_assert_cmpint (g_rename (second, away), ==, 0);
  make_download (f);
  wait_for (f, DOWNLOAD_FAILED);
  g_assert_nonnull (strstr (download_get_error (f->download), "second/tiny: is not there"));
  download_start (f->download, NULL);
  wait_for (f, DOWNLOAD_FAILED);
  g_assert_cmpint (g_rename (away, second), ==, 0);
  g_hash_table_remove_all (f->asked);
  download_start (f->download, NULL);
  wait_for (f, DOWNLOAD_DONE);
  g_assert_cmpuint (g_hash_table_size (f->asked), ==, 0);
}

static void
test_failure (Fixture *f, gconstpointer data)
{
  g_autofree char *index = NULL;

  make_catalogue (f, "good", TRUE, ",{\"path\":\"nowhere.bin\",\"repository\":\"o/n\"}");
  make_download (f);
  download_start (f->download, NULL);
  wait_for (f, DOWNLOAD_FAILED);
  g_assert_nonnull (strstr (download_get_error (f->download), "404"));
  index = g_build_filename (download_get_dir (f->download), "model_index.json", NULL);
  g_assert_false (g_file_test (index, G_FILE_TEST_EXISTS));
}

/* Said before anything is fetched, not after most of it was. */
static void
test_no_room (Fixture *f, gconstpointer data)
{
  make_catalogue (f, "good", TRUE,
                  ",{\"path\":\"huge.bin\",\"repository\":\"o/n\",\"about\":17000000000000}");
  make_download (f);
  download_start (f->download, NULL);
  wait_for (f, DOWNLOAD_FAILED);
  g_assert_nonnull (strstr (download_get_error (f->download), "needs 17.0"));
  g_assert_cmpuint (g_hash_table_size (f->asked), ==, 0);
  g_assert_cmpuint (download_get_bytes_here (f->download), ==, 0);
}

/* Copies a file of the model to where another program would have it. */
static void
put (Fixture *f, const char *file, const char *place)
{
  g_autofree char *from = source_path (file);
  g_autofree char *to = g_build_filename (f->folder, place, NULL);
  g_autofree char *dir = g_path_get_dirname (to);
  g_autofree char *text = NULL;
  gsize length;

  g_assert_cmpint (g_mkdir_with_parents (dir, 0755), ==, 0);
  g_assert_true (g_file_get_contents (from, &text, &length, NULL));
  g_assert_true (g_file_set_contents (to, text, (gssize)length, NULL));
}

static void
test_adopt (Fixture *f, gconstpointer data)
{
  g_autofree char *hub = g_build_filename (f->folder, "hub", NULL);
  g_autofree char *comfy = g_build_filename (f->folder, "comfy", NULL);
  g_autofree char *tree = g_build_filename (f->folder, "tree", NULL);
  const char *folders[] = { hub, comfy, tree, NULL };
  const gboolean hashes = GPOINTER_TO_INT (data);

  put (f, FILES[3], "hub/models--former-o--n/snapshots/0123/text_encoder/model.safetensors");
  put (f, FILES[7], "comfy/diffusion_models/diffusion_pytorch_model.safetensors");
  put (f, FILES[4], "tree/tokenizer/tokenizer.json");
  put (f, FILES[4], "tree/vae/config.json"); /* another file under a name that is wanted */
  make_catalogue (f, "good", hashes, "");
  make_download (f);
  download_start (f->download, folders);
  wait_for (f, DOWNLOAD_DONE);
  check_files (f);
  /* Without a published hash the server is asked for the length, and for no more. */
  g_assert_cmpuint (times_asked (f, FILES[3]), ==, hashes ? 0 : 1);
  g_assert_cmpuint (times_asked (f, FILES[7]), ==, hashes ? 0 : 1);
  g_assert_cmpuint (times_asked (f, FILES[4]), ==, hashes ? 0 : 1);
  g_assert_cmpuint (times_asked (f, FILES[8]), >=, 1);
}

/* A folder that a person chose may be a program's own, with the models in one that is in it. */
static void
test_adopt_chosen (Fixture *f, gconstpointer data)
{
  const gboolean hub = GPOINTER_TO_INT (data);
  const char *file = FILES[hub ? 3 : 7];
  g_autofree char *chosen = g_build_filename (f->folder, "chosen", NULL);
  g_auto (GStrv) folders = NULL;

  put (f, file,
       hub ? "chosen/hub/models--o--n/snapshots/0123/text_encoder/model.safetensors"
           : "chosen/models/diffusion_models/diffusion_pytorch_model.safetensors");
  folders = adopt_list_folders (f->models, chosen);
  make_catalogue (f, "good", TRUE, "");
  make_download (f);
  download_start (f->download, (const char *const *)folders);
  wait_for (f, DOWNLOAD_DONE);
  check_files (f);
  g_assert_cmpuint (times_asked (f, file), ==, 0);
}

/* Spoils two files; the check finds both, and both come again. */
static void
test_verify (Fixture *f, gconstpointer data)
{
  g_autofree char *path = NULL, *other = NULL;
  guint64 done, total;
  double rate;
  int left;

  make_catalogue (f, "good", TRUE, "");
  make_download (f);
  download_start (f->download, NULL);
  wait_for (f, DOWNLOAD_DONE);
  g_assert_cmpint (download_get_check (f->download), ==, CHECK_NONE);
  download_check (f->download, NULL);
  g_assert_cmpint (download_get_state (f->download), ==, DOWNLOAD_CHECKING);
  wait_for (f, DOWNLOAD_DONE);
  g_assert_cmpint (download_get_check (f->download), ==, CHECK_GOOD);

  path = g_build_filename (download_get_dir (f->download), FILES[3], NULL);
  other = g_build_filename (download_get_dir (f->download), FILES[5], NULL);
  g_assert_true (g_file_set_contents (path, "spoiled", -1, NULL));
  g_assert_cmpint (g_unlink (other), ==, 0);
  download_check (f->download, NULL);
  download_pause (f->download); /* at once: nothing is touched */
  wait_for (f, DOWNLOAD_DONE);
  g_assert_cmpint (download_get_check (f->download), ==, CHECK_NONE);
  g_assert_true (g_file_test (path, G_FILE_TEST_EXISTS));

  g_hash_table_remove_all (f->asked);
  download_check (f->download, NULL);
  wait_for (f, DOWNLOAD_DONE);
  g_assert_cmpint (download_get_check (f->download), ==, CHECK_GOOD);
  check_files (f);
  g_assert_cmpuint (g_hash_table_size (f->asked), ==, 3); /* model_index.json, too */
  download_get_progress (f->download, &done, &total, &rate, &left);
  g_assert_cmpuint (done, ==, total);
}

/* What is read is counted, and the first wrong file is named. */
static void
test_verify_model (Fixture *f, gconstpointer data)
{
  g_autofree char *path = NULL;
  g_autoptr (GError) error = NULL;
  TreeProgress progress = { 0 };
  const CatalogueModel *model;

  make_catalogue (f, "good", TRUE, "");
  make_download (f);
  download_start (f->download, NULL);
  wait_for (f, DOWNLOAD_DONE);
  model = catalogue_find (f->catalogue, "tiny");
  g_assert_true (
      verify_model (model, download_get_dir (f->download), FALSE, &progress, NULL, &error));
  g_assert_no_error (error);
  g_assert_cmpuint (progress.total, >, 0);
  g_assert_cmpuint (progress.done, ==, progress.total);
  path = g_build_filename (download_get_dir (f->download), FILES[3], NULL);
  g_assert_true (g_file_set_contents (path, "spoiled", -1, NULL));
  g_assert_false (
      verify_model (model, download_get_dir (f->download), TRUE, &progress, NULL, &error));
  g_assert_error (error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA);
  g_assert_nonnull (strstr (error->message, FILES[3]));
  g_assert_false (g_file_test (path, G_FILE_TEST_EXISTS));
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
#define ADD(path, data, function) g_test_add (path, Fixture, data, set_up, function, tear_down)
  ADD ("/download/whole", NULL, test_whole);
  ADD ("/download/second-mirror", NULL, test_second_mirror);
  ADD ("/download/shards", NULL, test_shards);
  ADD ("/download/pause", NULL, test_pause);
  ADD ("/download/interrupted", NULL, test_interrupted);
  ADD ("/download/places", NULL, test_places);
  ADD ("/download/failure", NULL, test_failure);
  ADD ("/download/no-room", NULL, test_no_room);
  ADD ("/download/adopt-by-hash", GINT_TO_POINTER (TRUE), test_adopt);
  ADD ("/download/adopt-by-length", GINT_TO_POINTER (FALSE), test_adopt);
  ADD ("/download/adopt-chosen/comfy", GINT_TO_POINTER (FALSE), test_adopt_chosen);
  ADD ("/download/adopt-chosen/hub", GINT_TO_POINTER (TRUE), test_adopt_chosen);
  ADD ("/download/verify", NULL, test_verify);
  ADD ("/download/verify-model", NULL, test_verify_model);
  return g_test_run ();
}
