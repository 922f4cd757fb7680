/* SPDX-License-Identifier: Apache-2.0
 *
 * The main window in its states: what is shown, and which actions are enabled.
 */
#include "app/history/history-strip.h"
#include "app/history/restore-report.h"
#include "app/memory/memory-gauge.h"
#include "app/message-page.h"
#include "window-fixture.h"

#include <string.h>

static void
test_generate (Fixture *f, gconstpointer data)
{
  TesseraPicture *picture;

  g_assert_cmpstr (fixture_shown (f), ==, "message");
  g_assert_false (fixture_enabled (f, "generate"));
  fixture_open_tiny (f);
  g_assert_cmpstr (fixture_shown (f), ==, "empty");
  g_assert_false (fixture_enabled (f, "cancel"));
  g_assert_false (fixture_enabled (f, "save"));
  g_assert_false (fixture_enabled (f, "view"));

  controls_set_prompt (window_get_controls (f->window), "a red circle");
  fixture_activate (f, "generate");
  g_assert_true (fixture_enabled (f, "cancel"));
  g_assert_true (fixture_enabled (f, "generate"));
  WAIT_FOR (f->finished == 1);
  g_assert_cmpstr (fixture_shown (f), ==, "picture");
  g_assert_false (fixture_enabled (f, "cancel"));
  g_assert_true (fixture_enabled (f, "save"));
  picture = compare_view_get_first (window_get_view (f->window));
  g_assert_cmpstr (picture_get_request (picture)->prompt, ==, "a red circle");
  WAIT_FOR (fixture_enabled (f, "delete"));

  fixture_activate (f, "delete");
  g_assert_cmpstr (fixture_shown (f), ==, "empty");
  g_assert_cmpuint (g_list_model_get_n_items (G_LIST_MODEL (f->history)), ==, 0);
  fixture_activate (f, "undo-delete");
  WAIT_FOR (g_str_equal (fixture_shown (f), "picture"));
}

/* Nothing is said about something the user did: the old picture stays. */
static void
test_cancel (Fixture *f, gconstpointer data)
{
  TesseraCompareView *view = window_get_view (f->window);
  TesseraPicture *before;

  fixture_open_tiny (f);
  fixture_activate (f, "generate");
  WAIT_FOR (f->finished == 1 && fixture_enabled (f, "delete"));
  before = compare_view_get_first (view);
  g_settings_set_int (f->settings, "steps", 100);
  fixture_activate (f, "generate");
  WAIT_FOR (job_get_fraction (queue_get_running (f->queue)) > 0);
  fixture_activate (f, "cancel");
  WAIT_FOR (f->finished == 2);
  g_assert_cmpstr (fixture_shown (f), ==, "picture");
  g_assert_true (compare_view_get_first (view) == before);
}

/* A batch is that many jobs with seeds in a row. */
static void
test_batch (Fixture *f, gconstpointer data)
{
  fixture_open_tiny (f);
  g_settings_set_boolean (f->settings, "new-seed", FALSE);
  g_settings_set_int (f->settings, "batch", 3);
  fixture_activate (f, "generate");
  g_assert_cmpuint (job_get_request (queue_get_running (f->queue))->seed, ==, 42);
  for (guint i = 0; i < 2; i++)
    {
      g_autoptr (TesseraJob) job = g_list_model_get_item (G_LIST_MODEL (f->queue), i);

      g_assert_cmpuint (job_get_request (job)->seed, ==, 43 + i);
    }
  WAIT_FOR (f->finished == 3);
  WAIT_FOR (g_list_model_get_n_items (G_LIST_MODEL (f->history)) == 3);
}

static gpointer
template_child (gpointer widget, GType type, const char *name)
{
  return gtk_widget_get_template_child (GTK_WIDGET (widget), type, name);
}

static guint
n_in_history (Fixture *f)
{
  return g_list_model_get_n_items (G_LIST_MODEL (f->history));
}

/* What is deleted is what is selected; what was next to it is shown, or nothing if none is left. */
static void
test_delete (Fixture *f, gconstpointer data)
{
  TesseraHistoryStrip *strip = template_child (f->window, TESSERA_TYPE_WINDOW, "strip");
  TesseraCompareView *view = window_get_view (f->window);
  g_autoptr (TesseraEntry) oldest = NULL;

  fixture_open_tiny (f);
  g_settings_set_boolean (f->settings, "new-seed", FALSE);
  g_settings_set_int (f->settings, "batch", 3);
  fixture_activate (f, "generate");
  WAIT_FOR (f->finished == 3 && n_in_history (f) == 3 && fixture_enabled (f, "delete"));
  history_strip_choose_at (strip, 1);
  WAIT_FOR (picture_get_request (compare_view_get_first (view))->seed == 43);
  fixture_activate (f, "delete");
  g_assert_false (fixture_enabled (f, "delete")); /* not twice, whatever is seen meanwhile */
  WAIT_FOR (fixture_enabled (f, "delete"));
  g_assert_cmpuint (picture_get_request (compare_view_get_first (view))->seed, ==, 42);
  g_assert_cmpuint (n_in_history (f), ==, 2);

  gtk_widget_activate_action (template_child (strip, TESSERA_TYPE_HISTORY_STRIP, "list"),
                              "list.select-all", NULL);
  WAIT_FOR (picture_get_request (compare_view_get_first (view))->seed == 44);
  fixture_activate (f, "delete");
  g_assert_cmpuint (n_in_history (f), ==, 0);
  g_assert_cmpstr (fixture_shown (f), ==, "empty");
  fixture_activate (f, "undo-delete");
  g_assert_cmpuint (n_in_history (f), ==, 2);
  WAIT_FOR (g_str_equal (fixture_shown (f), "picture"));
}

/* A window that comes to a history shows the newest of it, and takes what is typed for the prompt.
 */
static void
test_begin (Fixture *f, gconstpointer data)
{
  TesseraWindow *again;

  fixture_open_tiny (f);
  g_assert_true (
      gtk_root_get_focus (GTK_ROOT (f->window))
      == template_child (window_get_controls (f->window), TESSERA_TYPE_CONTROLS, "prompt"));
  fixture_activate (f, "generate");
  WAIT_FOR (f->finished == 1 && fixture_enabled (f, "delete"));
  again = window_new (f->app, f->worker, f->history, f->queue, f->settings);
  WAIT_FOR (compare_view_get_first (window_get_view (again)) != NULL);
  gtk_window_destroy (GTK_WINDOW (again));
}

/* What to do first, that it is being done, and then the picture. */
static void
test_example (Fixture *f, gconstpointer data)
{
  TesseraMessagePage *empty = template_child (f->window, TESSERA_TYPE_WINDOW, "empty");
  GtkWidget *view_switch = template_child (f->window, TESSERA_TYPE_WINDOW, "view_switch");
  const EngineRequest *request;

  fixture_open_tiny (f);
  g_assert_cmpint (message_page_get_state (empty), !=, MESSAGE_MAKING);
  g_assert_nonnull (gtk_widget_get_tooltip_text (view_switch));
  fixture_activate (f, "try-example");
  g_assert_cmpint (message_page_get_state (empty), ==, MESSAGE_MAKING);
  WAIT_FOR (f->finished == 1);
  g_assert_cmpint (message_page_get_state (empty), !=, MESSAGE_MAKING);
  g_assert_cmpstr (fixture_shown (f), ==, "picture");
  request = picture_get_request (compare_view_get_first (window_get_view (f->window)));
  g_assert_nonnull (strstr (request->prompt, "a cat"));
}

/* Long times are said in minutes, and memory in the units of the engine's own messages. */
static void
test_forecast (Fixture *f, gconstpointer data)
{
  gpointer gauge = template_child (f->window, TESSERA_TYPE_WINDOW, "gauge");
  GtkLabel *label = template_child (gauge, TESSERA_TYPE_MEMORY_GAUGE, "forecast");
  EnginePlan plan = { .peak = 14ull << 30, .available = 24ull << 30, .fits = TRUE };

  plan.seconds = 6;
  memory_gauge_set_plan (gauge, &plan);
  g_assert_cmpstr (gtk_label_get_label (label), ==, "The next image needs 14.0 GiB and about 6 s");
  plan.seconds = 4423;
  memory_gauge_set_plan (gauge, &plan);
  g_assert_cmpstr (gtk_label_get_label (label), ==,
                   "The next image needs 14.0 GiB and about 74 min");
}

static void
test_new_seed (Fixture *f, gconstpointer data)
{
  EngineRequest request;

  fixture_open_tiny (f);
  fixture_activate (f, "new-seed");
  controls_get_request (window_get_controls (f->window), &request);
  g_assert_cmpuint (request.seed, !=, 42);
  g_assert_cmpuint (request.seed, <=, G_MAXUINT32);
  g_assert_cmpuint (g_settings_get_uint64 (f->settings, "seed"), ==, request.seed);
}

static TesseraRestoreReport *
report_of (Fixture *f)
{
  return TESSERA_RESTORE_REPORT (
      gtk_widget_get_template_child (GTK_WIDGET (f->window), TESSERA_TYPE_WINDOW, "report"));
}

/* A PNG of ours gives its settings back, and what this model cannot do is reported. */
static void
test_restore (Fixture *f, gconstpointer data)
{
  g_autoptr (TesseraPicture) picture = landscape (320, 240, ENGINE_PRECISION_SVDQUANT, 0);
  g_autofree char *path = g_build_filename (f->folder, "dropped.png", NULL);
  g_autoptr (GFile) file = g_file_new_for_path (path);
  EngineRequest request;

  fixture_open_tiny (f);
  g_assert_true (picture_save (picture, path, NULL));
  window_restore_from (f->window, file);
  WAIT_FOR (restore_report_is_shown (report_of (f)));
  controls_get_request (window_get_controls (f->window), &request);
  g_assert_cmpstr (request.prompt, ==, "Hills above a lake at sunset");
  g_assert_cmpint (request.width, ==, 320);
  g_assert_cmpint (request.height, ==, 240);
  g_assert_cmpuint (request.seed, ==, 42);
  g_assert_false (g_settings_get_boolean (f->settings, "new-seed"));
  if (request.precision != ENGINE_PRECISION_SVDQUANT)
    g_assert_nonnull (strstr (restore_report_get_text (report_of (f)), "SVDQuant"));
}

/* A file that is no picture changes nothing and says why. */
static void
test_restore_fails (Fixture *f, gconstpointer data)
{
  g_autofree char *path = g_build_filename (f->folder, "dropped.png", NULL);
  g_autoptr (GFile) file = g_file_new_for_path (path);
  EngineRequest request;

  fixture_open_tiny (f);
  controls_set_prompt (window_get_controls (f->window), "unchanged");
  g_assert_true (g_file_set_contents (path, "no picture", -1, NULL));
  window_restore_from (f->window, file);
  WAIT_FOR (restore_report_is_shown (report_of (f)));
  g_assert_nonnull (strstr (restore_report_get_text (report_of (f)), "dropped.png"));
  controls_get_request (window_get_controls (f->window), &request);
  g_assert_cmpstr (request.prompt, ==, "unchanged");
}

/* Settings outlive the window. */
static void
test_remembered (Fixture *f, gconstpointer data)
{
  TesseraControls *controls = window_get_controls (f->window);

  fixture_open_tiny (f);
  controls_set_prompt (controls, "what was said");
  controls_set_size (controls, 768, 1360);
  g_assert_cmpint (g_settings_get_int (f->settings, "width"), ==, 768);
  g_assert_cmpint (g_settings_get_int (f->settings, "height"), ==, 1360);
  {
    g_autofree char *prompt = g_settings_get_string (f->settings, "prompt");

    g_assert_cmpstr (prompt, ==, "what was said");
  }
}

/* Fast or exact is a question only where a device can do both. */
static void
test_arithmetic (Fixture *f, gconstpointer data)
{
  GObject *row = gtk_widget_get_template_child (GTK_WIDGET (window_get_controls (f->window)),
                                                TESSERA_TYPE_CONTROLS, "arithmetic");
  ModelInfo model = { .name = (char *)"a model", .supports = { TRUE, TRUE } };

  controls_set_model (window_get_controls (f->window), &model);
  g_assert_false (gtk_widget_get_visible (GTK_WIDGET (row)));
  model.arithmetics = TRUE;
  controls_set_model (window_get_controls (f->window), &model);
  g_assert_true (gtk_widget_get_visible (GTK_WIDGET (row)));
  g_object_set (row, "selected", (guint)ARITHMETIC_EXACT, NULL);
  g_assert_cmpint (g_settings_get_enum (f->settings, "arithmetic"), ==, ARITHMETIC_EXACT);
}

int
main (int argc, char *argv[])
{
  g_autoptr (GtkApplication) app = NULL;

  init_display (&argc, &argv);
  app = test_application ();
#define ADD(name, function)                                                                        \
  g_test_add ("/window/" name, Fixture, app, fixture_set_up, function, fixture_tear_down)
  ADD ("generate", test_generate);
  ADD ("cancel", test_cancel);
  ADD ("batch", test_batch);
  ADD ("delete", test_delete);
  ADD ("begin", test_begin);
  ADD ("example", test_example);
  ADD ("forecast", test_forecast);
  ADD ("new-seed", test_new_seed);
  ADD ("restore", test_restore);
  ADD ("restore-fails", test_restore_fails);
  ADD ("remembered", test_remembered);
  ADD ("arithmetic", test_arithmetic);
#undef ADD
  return g_test_run ();
}
