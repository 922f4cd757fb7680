/* SPDX-License-Identifier: Apache-2.0
 *
 * test-models-window.c - a model in each state that needs no network
 */
#include "app/models/models-window.h"

#include "fake-desktop.h"
#include "tests/app/harness.h"

#include <glib/gstdio.h>
#include <unistd.h>

static const char *const MODELS[] = { "to have", "begun", "here", "on a disk that is away" };

/* `thousands`: the models' sizes are 7, 8, ... of so many zeros. */
static void
write_catalogue (const char *path, const char *thousands)
{
  g_autoptr (GString) text = g_string_new (
      "{\"version\":1,\"mirrors\":[{\"name\":\"A\",\"url\":\"https://example.org/{path}\"}],"
      "\"models\":[");
  g_autoptr (GError) error = NULL;

  for (guint i = 0; i < G_N_ELEMENTS (MODELS); i++)
    g_string_append_printf (
        text,
        "%s{\"id\":\"m%u\",\"name\":\"A Model %s\",\"precision\":\"bf16\","
        "\"licence\":\"Apache-2.0\",\"page\":\"https://example.org/\",\"min_sm\":120,"
        "\"min_memory\":8000000000,\"files\":["
        "{\"path\":\"model_index.json\",\"repository\":\"o/n\",\"about\":%u%s,"
        "\"size\":2,\"md5\":\"99914b932bd37a50b983c5e7c90ae93b\"}]}",
        i > 0 ? "," : "", i, MODELS[i], i + 7, thousands);
  g_string_append (text, "]}");
  g_file_set_contents (path, text->str, -1, &error);
  g_assert_no_error (error);
}

/* -- looking for widgets ------------------------------------------------------------------------
 */

/* The n-th button that is seen below `widget`, with that label or tooltip. */
static GtkWidget *
find_button (GtkWidget *widget, const char *text, int *n)
{
  const char *label = GTK_IS_BUTTON (widget) ? gtk_button_get_label (GTK_BUTTON (widget)) : NULL;

  if (!gtk_widget_get_visible (widget))
    return NULL;
  if (GTK_IS_BUTTON (widget)
      && (g_strcmp0 (label, text) == 0
          || g_strcmp0 (gtk_widget_get_tooltip_text (widget), text) == 0)
      && (*n)-- == 0)
    return widget;
  for (GtkWidget *child = gtk_widget_get_first_child (widget); child != NULL;
       child = gtk_widget_get_next_sibling (child))
    {
      GtkWidget *found = find_button (child, text, n);

      if (found != NULL)
        return found;
    }
  return NULL;
}

static void
press (TesseraModelsWindow *window, const char *text, int n)
{
  GtkWidget *button = find_button (GTK_WIDGET (window), text, &n);

  g_assert_nonnull (button);
  g_assert_true (gtk_widget_is_sensitive (button));
  g_signal_emit_by_name (button, "clicked");
}

static int
count_buttons (TesseraModelsWindow *window, const char *text)
{
  int n = 100;

  g_assert_null (find_button (GTK_WIDGET (window), text, &n));
  return 100 - n;
}

/* What the row of that title says below it, or NULL. */
static const char *
find_subtitle (GtkWidget *widget, const char *title)
{
  const char *found = NULL;

  if (ADW_IS_ACTION_ROW (widget)
      && g_str_equal (adw_preferences_row_get_title (ADW_PREFERENCES_ROW (widget)), title))
    return adw_action_row_get_subtitle (ADW_ACTION_ROW (widget));
  for (GtkWidget *child = gtk_widget_get_first_child (widget); child != NULL && found == NULL;
       child = gtk_widget_get_next_sibling (child))
    found = find_subtitle (child, title);
  return found;
}

static AdwMessageDialog *
find_dialog (void)
{
  GListModel *windows = gtk_window_get_toplevels ();

  for (guint i = 0; i < g_list_model_get_n_items (windows); i++)
    {
      g_autoptr (GtkWidget) window = g_list_model_get_item (windows, i);

      if (ADW_IS_MESSAGE_DIALOG (window) && gtk_widget_get_mapped (window))
        return ADW_MESSAGE_DIALOG (window);
    }
  return NULL;
}

static void
answer (const char *response)
{
  AdwMessageDialog *dialog;

  WAIT_FOR (find_dialog () != NULL);
  dialog = find_dialog ();
  adw_message_dialog_response (dialog, response);
  gtk_window_destroy (GTK_WINDOW (dialog));
}

/* -- cases --------------------------------------------------------------------------------------
 */

typedef struct
{
  char *folder, *here;
  GSettings *settings;
  TesseraModelsWindow *window;
} Fixture;

static void
set_up (Fixture *f, gconstpointer data)
{
  g_autofree char *catalogue = NULL, *begun = NULL, *index = NULL, *away = NULL;

  f->folder = make_folder ();
  catalogue = g_build_filename (f->folder, "catalogue.json", NULL);
  begun = g_build_filename (f->folder, "m1", NULL);
  f->here = g_build_filename (f->folder, "m2", NULL);
  index = g_build_filename (f->here, "model_index.json", NULL);
  away = g_build_filename (f->folder, "m3", NULL);
  write_catalogue (catalogue, data != NULL ? data : "000000000");
  g_setenv ("TESSERA_CATALOGUE", catalogue, TRUE);
  g_assert_cmpint (g_mkdir (begun, 0755) + g_mkdir (f->here, 0755), ==, 0);
  g_assert_true (g_file_set_contents (index, "{}", -1, NULL));
  g_assert_cmpint (symlink ("/media/disk/models/m3", away), ==, 0);
  g_assert_false (models_window_is_due (f->folder)); /* begun, and paused */
  f->settings = g_settings_new (APP_ID);
  f->window = models_window_new (NULL, f->settings, f->folder);
  gtk_window_set_default_size (GTK_WINDOW (f->window), 640, 560);
  gtk_window_present (GTK_WINDOW (f->window));
  settle (GTK_WIDGET (f->window));
}

static void
tear_down (Fixture *f, gconstpointer data)
{
  gtk_window_destroy (GTK_WINDOW (f->window));
  g_settings_reset (f->settings, "model");
  g_clear_object (&f->settings);
  remove_folder (f->folder);
  g_free (f->folder);
  g_free (f->here);
}

static void
test_shots (Fixture *f, gconstpointer data)
{
  check_shot (GTK_WIDGET (f->window), "models-window");
  press (f->window, "_Download…", 0);
  WAIT_FOR (find_dialog () != NULL);
  settle (GTK_WIDGET (find_dialog ()));
  check_shot (GTK_WIDGET (find_dialog ()), "models-licence");
  answer ("cancel");
}

/* Of the built-in model and the others one is in use, whoever says so. */
static void
test_in_use (Fixture *f, gconstpointer data)
{
  g_autofree char *dir = NULL;

  g_assert_cmpint (count_buttons (f->window, "In Use"), ==, 1);
  g_assert_cmpint (count_buttons (f->window, "_Use"), ==, 1);
  press (f->window, "_Use", 0);
  dir = g_settings_get_string (f->settings, "model");
  g_assert_cmpstr (dir, ==, f->here);
  g_assert_cmpint (count_buttons (f->window, "In Use"), ==, 1);
  press (f->window, "_Use", 0); /* now that is the built-in one's */
  g_assert_null (g_settings_get_user_value (f->settings, "model"));
  g_settings_set_string (f->settings, "model", "/another/folder");
  g_assert_cmpint (count_buttons (f->window, "In Use"), ==, 0);
  g_assert_cmpint (count_buttons (f->window, "_Use"), ==, 2);
}

/* Where there is no wastebasket it asks; and what is in use is not used any more. */
static void
test_remove (Fixture *f, gconstpointer data)
{
  g_autofree char *basket = g_build_filename (g_get_user_data_dir (), "Trash", NULL);
  g_autofree char *other = g_build_filename (f->folder, "m1", NULL);

  g_assert_cmpint (g_mkdir_with_parents (g_get_user_data_dir (), 0755), ==, 0);
  g_assert_true (g_file_set_contents (basket, "in the way", -1, NULL));
  g_settings_set_string (f->settings, "model", f->here);
  press (f->window, "Move to the Wastebasket", 1);
  answer ("cancel");
  g_assert_true (g_file_test (f->here, G_FILE_TEST_IS_DIR));
  press (f->window, "Move to the Wastebasket", 1);
  answer ("delete");
  WAIT_FOR (count_buttons (f->window, "_Download…") == 2);
  g_assert_false (g_file_test (f->here, G_FILE_TEST_EXISTS));
  g_assert_true (g_file_test (other, G_FILE_TEST_IS_DIR));
  g_assert_null (g_settings_get_user_value (f->settings, "model"));
}

/* While its files are read a model can be neither used nor removed, and the check can be ended. */
static void
test_check (Fixture *f, gconstpointer data)
{
  const int discards = count_buttons (f->window, "Move to the Wastebasket");
  const char *subtitle;

  press (f->window, "Check Files", 0);
  g_assert_cmpint (count_buttons (f->window, "_Cancel"), ==, 1);
  g_assert_cmpint (count_buttons (f->window, "Move to the Wastebasket"), ==, discards - 1);
  WAIT_FOR (count_buttons (f->window, "_Cancel") == 0);
  g_assert_cmpstr (find_subtitle (GTK_WIDGET (f->window), "A Model here"), ==,
                   "Every file is as it was published");
  press (f->window, "Check Files", 0);
  press (f->window, "_Cancel", 0);
  WAIT_FOR (count_buttons (f->window, "_Cancel") == 0);
  /* Files as small as these may have been read before Cancel came: then that is what it says. */
  subtitle = find_subtitle (GTK_WIDGET (f->window), "A Model here");
  if (g_strcmp0 (subtitle, "Every file is as it was published") != 0)
    g_assert_cmpstr (subtitle, ==, "On this computer");
}

/* The desktop answers in order: after this its earlier answers are here, and need only be read. */
static void
let_answers_arrive (void)
{
  GDBusConnection *bus = g_application_get_dbus_connection (g_application_get_default ());
  g_autoptr (GVariant) reply = g_dbus_connection_call_sync (
      bus, "org.gnome.SessionManager", "/org/gnome/SessionManager", "org.gnome.SessionManager",
      "Uninhibit", g_variant_new ("(u)", 1), NULL, G_DBUS_CALL_FLAGS_NONE, -1, NULL, NULL);

  g_assert_nonnull (reply);
  while (g_main_context_iteration (NULL, FALSE))
    continue;
}

/* Another model's folder has the one file; who looks elsewhere is told that it is there now. */
static void
test_told (Fixture *f, gconstpointer data)
{
  FakeDesktop *desktop = g_object_get_data (G_OBJECT (g_application_get_default ()), "desktop");
  const guint from = fake_desktop_count (desktop);

  press (f->window, "_Download…", 0);
  answer ("download");
  gtk_widget_set_visible (GTK_WIDGET (f->window), FALSE);
  WAIT_FOR (fake_desktop_was_asked (desktop, from, "Notify Model Ready|A Model to have"));
  let_answers_arrive ();
  gtk_window_present (GTK_WINDOW (f->window));
  WAIT_FOR (fake_desktop_was_asked (desktop, from, "CloseNotification"));
  g_assert_cmpint (count_buttons (f->window, "_Use"), ==, 2);
}

int
main (int argc, char **argv)
{
  g_autofree char *home = make_folder ();
  g_autoptr (GtkApplication) app = NULL;
  FakeDesktop *desktop;
  int result;

  g_setenv ("CUDA_VISIBLE_DEVICES", "", TRUE); /* the same on every machine */
  g_setenv ("XDG_DATA_HOME", home, TRUE);      /* its wastebasket is in the way of a test */
  init_display (&argc, &argv);
  desktop = fake_desktop_new ();
  g_assert_nonnull (desktop);
  app = test_application ();
  g_object_set_data (G_OBJECT (app), "desktop", desktop);
#define ADD(name, zeros, function)                                                                 \
  g_test_add ("/models-window/" name, Fixture, zeros, set_up, function, tear_down)
  ADD ("shots", NULL, test_shots);
  ADD ("in-use", NULL, test_in_use);
  ADD ("remove", NULL, test_remove);
  ADD ("check", NULL, test_check);
  ADD ("told", "", test_told);
  result = g_test_run ();
  fake_desktop_free (desktop);
  remove_folder (home);
  return result;
}
