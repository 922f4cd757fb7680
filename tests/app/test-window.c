/* SPDX-License-Identifier: Apache-2.0
 *
 * The main window in each of its states: what is shown, which actions are enabled, and how it
 * looks, light and dark.
 */
#include "app/memory-gauge.h"
#include "app/restore-report.h"
#include "app/window.h"
#include "harness.h"

#include <string.h>

typedef struct
{
  char *folder;
  GtkApplication *app;
  GSettings *settings;
  TesseraWorker *worker;
  TesseraHistory *history;
  TesseraQueue *queue;
  TesseraWindow *window;
  guint finished;
  gboolean stopped;
} Fixture;

static void
count_finished (Fixture *f)
{
  f->finished++;
}

static void
set_up (Fixture *f, gconstpointer data)
{
  g_autofree char *history = NULL;

  f->folder = make_folder ();
  history = g_build_filename (f->folder, "history", NULL);
  f->app = (GtkApplication *)data;
  f->settings = g_settings_new (APP_ID);
  f->worker = worker_new ();
  f->history = history_new (history);
  f->queue = queue_new (f->worker, f->history, NULL);
  f->window = window_new (f->app, f->worker, f->history, f->queue, f->settings);
  g_signal_connect_swapped (f->queue, "finished", G_CALLBACK (count_finished), f);
  gtk_window_present (GTK_WINDOW (f->window));
  WAIT_FOR (!history_get_loading (f->history));
  controls_set_seed (window_get_controls (f->window), 42);
}

static void
on_stopped (GObject *source, GAsyncResult *result, gpointer data)
{
  ((Fixture *)data)->stopped = TRUE;
}

static void
reset_settings (GSettings *settings)
{
  g_autoptr (GSettingsSchema) schema = NULL;
  g_auto (GStrv) keys = NULL;

  g_object_get (settings, "settings-schema", &schema, NULL);
  keys = g_settings_schema_list_keys (schema);
  for (int i = 0; keys[i] != NULL; i++)
    g_settings_reset (settings, keys[i]);
}

static void
tear_down (Fixture *f, gconstpointer data)
{
  gpointer window = f->window;

  queue_stop (f->queue);
  g_object_add_weak_pointer (G_OBJECT (f->window), &window);
  gtk_window_destroy (GTK_WINDOW (f->window));
  WAIT_FOR (window == NULL);
  worker_stop_async (f->worker, on_stopped, f);
  WAIT_FOR (f->stopped && queue_get_running (f->queue) == NULL && !queue_is_saving (f->queue));
  g_signal_handlers_disconnect_by_data (f->queue, f);
  WAIT_FOR_END_OF (f->queue);
  WAIT_FOR_END_OF (f->history);
  WAIT_FOR_END_OF (f->worker);
  reset_settings (f->settings);
  g_object_unref (f->settings);
  remove_folder (f->folder);
  g_free (f->folder);
}

static gboolean
enabled (Fixture *f, const char *action)
{
  return g_action_group_get_action_enabled (G_ACTION_GROUP (f->window), action);
}

static void
activate (Fixture *f, const char *action)
{
  g_assert_true (enabled (f, action));
  g_action_group_activate_action (G_ACTION_GROUP (f->window), action, NULL);
}

static void
on_opened (GObject *source, GAsyncResult *result, gpointer data)
{
  Fixture *f = data;
  g_autoptr (GError) error = NULL;
  ModelInfo *model = worker_open_finish (TESSERA_WORKER (source), result, &error);

  g_assert_no_error (error);
  window_set_model (f->window, model);
  queue_set_model (f->queue, model);
  model_info_free (model);
}

static void
open_tiny (Fixture *f)
{
  g_autofree char *dir = tiny_model ();
  EngineOptions options = { .device = "cpu" };

  controls_set_size (window_get_controls (f->window), 64, 64);
  g_settings_set_int (f->settings, "steps", 2);
  worker_open_async (f->worker, dir, &options, NULL, on_opened, f);
  WAIT_FOR (enabled (f, "generate"));
}

static const char *
shown (Fixture *f)
{
  return window_get_shown (f->window);
}

/* -- Behaviour ----------------------------------------------------------------------------------
 */

static void
test_generate (Fixture *f, gconstpointer data)
{
  TesseraPicture *picture;

  g_assert_cmpstr (shown (f), ==, "message");
  g_assert_false (enabled (f, "generate"));
  open_tiny (f);
  g_assert_cmpstr (shown (f), ==, "empty");
  g_assert_false (enabled (f, "cancel"));
  g_assert_false (enabled (f, "save"));
  g_assert_false (enabled (f, "view"));

  controls_set_prompt (window_get_controls (f->window), "a red circle");
  activate (f, "generate");
  g_assert_true (enabled (f, "cancel"));
  g_assert_true (enabled (f, "generate"));
  WAIT_FOR (f->finished == 1);
  g_assert_cmpstr (shown (f), ==, "picture");
  g_assert_false (enabled (f, "cancel"));
  g_assert_true (enabled (f, "save"));
  picture = compare_view_get_first (window_get_view (f->window));
  g_assert_cmpstr (picture_get_request (picture)->prompt, ==, "a red circle");
  WAIT_FOR (enabled (f, "delete"));

  activate (f, "delete");
  g_assert_cmpstr (shown (f), ==, "empty");
  g_assert_cmpuint (g_list_model_get_n_items (G_LIST_MODEL (f->history)), ==, 0);
  activate (f, "undo-delete");
  WAIT_FOR (g_str_equal (shown (f), "picture"));
}

/* Nothing is said about something the user did: the old picture stays. */
static void
test_cancel (Fixture *f, gconstpointer data)
{
  TesseraCompareView *view = window_get_view (f->window);
  TesseraPicture *before;

  open_tiny (f);
  activate (f, "generate");
  WAIT_FOR (f->finished == 1 && enabled (f, "delete"));
  before = compare_view_get_first (view);
  g_settings_set_int (f->settings, "steps", 100);
  activate (f, "generate");
  WAIT_FOR (job_get_fraction (queue_get_running (f->queue)) > 0);
  activate (f, "cancel");
  WAIT_FOR (f->finished == 2);
  g_assert_cmpstr (shown (f), ==, "picture");
  g_assert_true (compare_view_get_first (view) == before);
}

/* A batch is that many jobs with seeds in a row. */
static void
test_batch (Fixture *f, gconstpointer data)
{
  open_tiny (f);
  g_settings_set_boolean (f->settings, "new-seed", FALSE);
  g_settings_set_int (f->settings, "batch", 3);
  activate (f, "generate");
  g_assert_cmpuint (job_get_request (queue_get_running (f->queue))->seed, ==, 42);
  for (guint i = 0; i < 2; i++)
    {
      g_autoptr (TesseraJob) job = g_list_model_get_item (G_LIST_MODEL (f->queue), i);

      g_assert_cmpuint (job_get_request (job)->seed, ==, 43 + i);
    }
  WAIT_FOR (f->finished == 3);
  WAIT_FOR (g_list_model_get_n_items (G_LIST_MODEL (f->history)) == 3);
}

static void
test_new_seed (Fixture *f, gconstpointer data)
{
  EngineRequest request;

  open_tiny (f);
  activate (f, "new-seed");
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

  open_tiny (f);
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

  open_tiny (f);
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

  open_tiny (f);
  controls_set_prompt (controls, "what was said");
  controls_set_size (controls, 768, 1360);
  g_assert_cmpint (g_settings_get_int (f->settings, "width"), ==, 768);
  g_assert_cmpint (g_settings_get_int (f->settings, "height"), ==, 1360);
  {
    g_autofree char *prompt = g_settings_get_string (f->settings, "prompt");

    g_assert_cmpstr (prompt, ==, "what was said");
  }
}

#define GIGABYTE ((guint64)1 << 30)

/* -- Looks --------------------------------------------------------------------------------------
 */

static const WorkerPlan FITTING = {
  .plan = { .peak = 14 * GIGABYTE, .available = 22 * GIGABYTE, .fits = TRUE, .seconds = 6.2 },
};

/* The plan that the window asks for ends in an error, for there is no engine; then ours is shown.
 */
static void
pretend_plan (Fixture *f, const WorkerPlan *plan)
{
  for (int i = 0; i < 30; i++)
    {
      g_usleep (10000);
      while (g_main_context_iteration (NULL, FALSE))
        ;
    }
  window_show_plan (f->window, plan);
}

/* A model and memory that are the same on every machine. Nothing of it is run. */
static void
pretend_model (Fixture *f, gboolean svdquant)
{
  ModelInfo model = {
    .path = (char *)"/models/Z-Image-Turbo",
    .name = (char *)"Z-Image-Turbo",
    .supports = { TRUE, svdquant },
    .reason = { NULL, svdquant ? NULL : (char *)"no quantised weights" },
  };
  EngineDevice device
      = { .gpu = TRUE, .total_memory = 24 * GIGABYTE, .free_memory = 24 * GIGABYTE * 53 / 100 };
  EngineMemory memory
      = { .weights = 7 * GIGABYTE, .activations = 2 * GIGABYTE, .reserved = GIGABYTE };
  TesseraMemoryGauge *gauge = TESSERA_MEMORY_GAUGE (
      gtk_widget_get_template_child (GTK_WIDGET (f->window), TESSERA_TYPE_WINDOW, "gauge"));

  g_strlcpy (device.name, "A graphics card", sizeof device.name);
  window_set_model (f->window, &model);
  memory_gauge_set_memory (gauge, &memory, &device);
  controls_set_prompt (window_get_controls (f->window),
                       "Hills above a lake at sunset, long exposure, soft light");
  pretend_plan (f, &FITTING);
}

static void
both_ways (Fixture *f, const char *name)
{
  g_autofree char *dark = g_strconcat (name, "-dark", NULL);
  AdwStyleManager *style = adw_style_manager_get_default ();

  check_shot (GTK_WIDGET (f->window), name);
  adw_style_manager_set_color_scheme (style, ADW_COLOR_SCHEME_FORCE_DARK);
  check_shot (GTK_WIDGET (f->window), dark);
  adw_style_manager_set_color_scheme (style, ADW_COLOR_SCHEME_DEFAULT);
}

static void
test_shot_messages (Fixture *f, gconstpointer data)
{
  static const struct
  {
    MessageState state;
    const char *details, *name;
  } shots[] = {
    { MESSAGE_WELCOME, NULL, "window-welcome" },
    { MESSAGE_INCOMPLETE, "vae/config.json: no such file", "window-incomplete" },
    { MESSAGE_NO_DEVICE, "no CUDA driver", "window-no-device" },
    { MESSAGE_LOST, "an illegal memory access", "window-lost" },
  };

  for (guint i = 0; i < G_N_ELEMENTS (shots); i++)
    {
      window_show_message (f->window, shots[i].state, shots[i].details);
      g_assert_cmpstr (shown (f), ==, "message");
      g_assert_false (enabled (f, "generate"));
      both_ways (f, shots[i].name);
    }
}

static void
test_shot_empty (Fixture *f, gconstpointer data)
{
  pretend_model (f, FALSE);
  both_ways (f, "window-empty");
}

static void
on_blocker_done (GObject *source, GAsyncResult *result, gpointer data)
{
  g_autoptr (Image) image = worker_generate_finish (TESSERA_WORKER (source), result, NULL);

  g_assert_null (image);
}

/* The engine's thread is kept busy with a job that the queue does not know, so that the progress of
 * the one that waits behind it is what this test says. */
static void
test_shot_working (Fixture *f, gconstpointer data)
{
  g_autoptr (TesseraPicture) before = landscape (512, 384, ENGINE_PRECISION_BF16, 0);
  g_autoptr (TesseraPicture) preview = landscape (64, 64, ENGINE_PRECISION_BF16, 40);
  EngineRequest request = small_request ();
  g_autoptr (TesseraJob) blocker = NULL;
  TesseraWorker *idle = worker_new ();
  TesseraJob *job;

  open_tiny (f);
  /* A window that asks a worker without an engine: the memory shown must not be this machine's. */
  gtk_window_destroy (GTK_WINDOW (f->window));
  reset_settings (f->settings);
  f->window = window_new (f->app, idle, f->history, f->queue, f->settings);
  g_object_unref (idle);
  gtk_window_present (GTK_WINDOW (f->window));
  controls_set_seed (window_get_controls (f->window), 42);
  pretend_model (f, TRUE);
  request.steps = 100;
  request.width = request.height = 512;
  blocker = job_new (&request, NULL);
  worker_generate_async (f->worker, blocker, on_blocker_done, NULL);
  for (guint i = 0; i < 3; i++)
    {
      g_autoptr (TesseraJob) next = job_new (&request, NULL);

      queue_add (f->queue, next);
    }
  job = queue_get_running (f->queue);
  g_assert_nonnull (job);
  window_show_picture (f->window, before, NULL);
  job_set_progress (job, ENGINE_PHASE_DENOISE, 0, 8, picture_get_image (preview));
  WAIT_FOR (job_get_preview (job) != NULL);
  pretend_plan (f, &FITTING);
  both_ways (f, "window-working");
  queue_stop (f->queue);
  job_cancel (blocker);
  WAIT_FOR (queue_get_running (f->queue) == NULL);
}

static void
on_added (GObject *source, GAsyncResult *result, gpointer data)
{
  g_assert_nonnull (history_add_finish (TESSERA_HISTORY (source), result, NULL));
  ++*(guint *)data;
}

/* Puts pictures into the history as if they had been made, and waits for their thumbnails. */
static void
fill_history (Fixture *f)
{
  guint added = 0;

  for (guint i = 0; i < 4; i++)
    {
      g_autofree char *stem = g_strdup_printf ("2026010%u-120000-000", i + 1);
      g_autoptr (TesseraPicture) picture
          = landscape (256, 192 + 32 * (i % 3), i % 2, i % 2 ? 20 : 0);

      history_add_async (f->history, picture, stem, on_added, &added);
    }
  WAIT_FOR (added == 4);
  settle (GTK_WIDGET (f->window));
  for (guint i = 0; i < 4; i++)
    {
      g_autoptr (TesseraEntry) entry = g_list_model_get_item (G_LIST_MODEL (f->history), i);

      WAIT_FOR (entry_get_thumbnail (entry) != NULL);
    }
}

static void
show_view (Fixture *f, const char *view)
{
  g_action_group_change_action_state (G_ACTION_GROUP (f->window), "view",
                                      g_variant_new_string (view));
}

static void
test_shot_pictures (Fixture *f, gconstpointer data)
{
  TesseraCompareView *view = window_get_view (f->window);
  g_autoptr (TesseraPicture) first = landscape (512, 384, ENGINE_PRECISION_BF16, 0);
  g_autoptr (TesseraPicture) second = landscape (512, 384, ENGINE_PRECISION_SVDQUANT, 24);

  pretend_model (f, TRUE);
  fill_history (f);
  window_show_picture (f->window, first, NULL);
  both_ways (f, "window-result");
  window_show_picture (f->window, first, second);
  g_assert_true (enabled (f, "view"));
  WAIT_FOR (compare_view_is_measured (view));
  show_view (f, "side-by-side");
  both_ways (f, "window-side-by-side");
  show_view (f, "slider");
  both_ways (f, "window-slider");
  show_view (f, "difference");
  both_ways (f, "window-difference");
}

int
main (int argc, char *argv[])
{
  g_autoptr (GtkApplication) app = NULL;

  init_display (&argc, &argv);
  app = test_application ();
#define ADD(name, function) g_test_add ("/window/" name, Fixture, app, set_up, function, tear_down)
  ADD ("generate", test_generate);
  ADD ("cancel", test_cancel);
  ADD ("batch", test_batch);
  ADD ("new-seed", test_new_seed);
  ADD ("restore", test_restore);
  ADD ("restore-fails", test_restore_fails);
  ADD ("remembered", test_remembered);
  ADD ("shot-messages", test_shot_messages);
  ADD ("shot-empty", test_shot_empty);
  ADD ("shot-pictures", test_shot_pictures);
  ADD ("shot-working", test_shot_working);
#undef ADD
  return g_test_run ();
}
