/* SPDX-License-Identifier: Apache-2.0
 *
 * test-models-window.c - a model in each state that needs no network
 */
#include "app/models-window.h"

#include "tests/app/harness.h"

#include <glib/gstdio.h>
#include <unistd.h>

static const char *const MODELS[] = { "to have", "begun", "here", "on a disk that is away" };

static void
write_catalogue (const char *path)
{
  g_autoptr (GString) text = g_string_new (
      "{\"version\":1,\"mirrors\":[{\"name\":\"A\",\"url\":\"https://example.org/{path}\"}],"
      "\"models\":[");
  g_autoptr (GError) error = NULL;

  for (guint i = 0; i < G_N_ELEMENTS (MODELS); i++)
    g_string_append_printf (
        text,
        "%s{\"id\":\"m%u\",\"name\":\"A Model %s\",\"precision\":\"bf16\","
        "\"licence\":\"Apache-2.0\",\"page\":\"https://example.org/\",\"files\":["
        "{\"path\":\"model_index.json\",\"repository\":\"o/n\",\"about\":%u000000000}]}",
        i > 0 ? "," : "", i, MODELS[i], i + 7);
  g_string_append (text, "]}");
  g_file_set_contents (path, text->str, -1, &error);
  g_assert_no_error (error);
}

static void
test_shot (void)
{
  g_autofree char *folder = g_dir_make_tmp ("tessera-models-XXXXXX", NULL);
  g_autofree char *catalogue = g_build_filename (folder, "catalogue.json", NULL);
  g_autofree char *begun = g_build_filename (folder, "m1", NULL);
  g_autofree char *here = g_build_filename (folder, "m2", NULL);
  g_autofree char *index = g_build_filename (here, "model_index.json", NULL);
  g_autofree char *away = g_build_filename (folder, "m3", NULL);
  g_autoptr (GSettings) settings = g_settings_new (APP_ID);
  const char *argv[] = { "rm", "-rf", folder, NULL };
  TesseraModelsWindow *window;

  write_catalogue (catalogue);
  g_setenv ("TESSERA_CATALOGUE", catalogue, TRUE);
  g_assert_cmpint (g_mkdir (begun, 0755) + g_mkdir (here, 0755), ==, 0);
  g_assert_true (g_file_set_contents (index, "{}", -1, NULL));
  g_assert_cmpint (symlink ("/media/disk/models/m3", away), ==, 0);
  g_assert_false (models_window_is_due (folder)); /* begun, and paused */
  window = models_window_new (NULL, settings, folder);
  gtk_window_set_default_size (GTK_WINDOW (window), 640, 560);
  gtk_window_present (GTK_WINDOW (window));
  settle (GTK_WIDGET (window));
  check_shot (GTK_WIDGET (window), "models-window");
  gtk_window_destroy (GTK_WINDOW (window));
  g_spawn_sync (NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL, NULL);
}

int
main (int argc, char **argv)
{
  init_display (&argc, &argv);
  g_test_add_func ("/models-window/shot", test_shot);
  return g_test_run ();
}
