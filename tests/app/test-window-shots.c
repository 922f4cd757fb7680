/* SPDX-License-Identifier: Apache-2.0
 *
 * How the main window looks in each of its states, light and dark.
 */
#include "app/memory/memory-gauge.h"
#include "app/models/models.h"
#include "window-fixture.h"

#define GIGABYTE ((guint64)1 << 30)

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
pretend_model_in (Fixture *f, const char *path, gboolean svdquant)
{
  ModelInfo model = {
    .path = (char *)path,
    .name = (char *)"Z-Image-Turbo",
    .supports = { TRUE, svdquant },
    .reason = { NULL, svdquant ? NULL : (char *)"no quantised weights" },
  };
  EngineDevice device
      = { .gpu = TRUE, .total_memory = 24 * GIGABYTE, .free_memory = 24 * GIGABYTE * 53 / 100 };
  EngineMemory memory
      = { .weights = 7 * GIGABYTE, .activations = 2 * GIGABYTE, .reserved = 10 * GIGABYTE };
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
pretend_model (Fixture *f, gboolean svdquant)
{
  pretend_model_in (f, "/models/Z-Image-Turbo", svdquant);
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
      g_assert_cmpstr (fixture_shown (f), ==, "message");
      g_assert_false (fixture_enabled (f, "generate"));
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
test_shot_empty_small (Fixture *f, gconstpointer data)
{
  g_autofree char *builtin = models_find_builtin ();

  pretend_model_in (f, builtin, FALSE);
  both_ways (f, "window-empty-small");
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

  fixture_open_tiny (f);
  /* A window that asks a worker without an engine: the memory shown must not be this machine's. */
  gtk_window_destroy (GTK_WINDOW (f->window));
  fixture_reset_settings (f->settings);
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

/* As the queue tells of a picture that could not be made. */
static void
fail (Fixture *f, EngineError code, const char *text)
{
  g_autoptr (GError) error = g_error_new_literal (ENGINE_ERROR, code, text);
  EngineRequest request = small_request ();
  g_autoptr (TesseraJob) job = job_new (&request, NULL);

  job_begin (job, NULL);
  job_finish (job, error);
  g_signal_emit_by_name (f->queue, "finished", job, NULL);
  g_assert_cmpstr (fixture_shown (f), ==, "problem");
}

static void
test_shot_problems (Fixture *f, gconstpointer data)
{
  static const WorkerPlan plan = {
    .advised = TRUE,
    .precision = ENGINE_PRECISION_SVDQUANT,
    .width = 1248,
    .height = 832,
  };
  EngineRequest request;

  pretend_model (f, TRUE);
  fail (f, ENGINE_ERROR_MEMORY, "the decoder needs 3.1 GiB, 2.2 GiB are left");
  pretend_plan (f, &FITTING);
  window_show_way_out (f->window, &plan);
  both_ways (f, "window-memory");
  fail (f, ENGINE_ERROR_MODEL,
        "transformer/a.safetensors: layers.3.attention.to_q.weight is missing");
  both_ways (f, "window-failed");
  fixture_activate (f, "dismiss");
  g_assert_cmpstr (fixture_shown (f), ==, "empty");
  fail (f, ENGINE_ERROR_MEMORY, "the decoder needs 3.1 GiB, 2.2 GiB are left");
  window_show_way_out (f->window, &plan);
  fixture_activate (f, "use-way-out");
  g_assert_cmpstr (fixture_shown (f), ==, "empty");
  controls_get_request (window_get_controls (f->window), &request);
  g_assert_cmpint (request.precision, ==, ENGINE_PRECISION_SVDQUANT);
  g_assert_cmpint (request.width, ==, 1248);
  g_assert_cmpint (request.height, ==, 832);
}

/* What will not fit is said before, with a way out. */
static void
test_shot_too_large (Fixture *f, gconstpointer data)
{
  static const WorkerPlan plan = {
    .plan = { .peak = 26 * GIGABYTE, .available = 22 * GIGABYTE },
    .advised = TRUE,
    .precision = ENGINE_PRECISION_SVDQUANT,
    .width = 1024,
    .height = 1024,
  };
  EngineRequest request;

  pretend_model (f, TRUE);
  window_show_plan (f->window, &plan);
  g_assert_false (fixture_enabled (f, "generate"));
  both_ways (f, "window-too-large");
  fixture_activate (f, "use-advice");
  controls_get_request (window_get_controls (f->window), &request);
  g_assert_cmpint (request.precision, ==, ENGINE_PRECISION_SVDQUANT);
  window_show_plan (f->window, &FITTING);
  g_assert_true (fixture_enabled (f, "generate"));
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
  g_assert_true (fixture_enabled (f, "view"));
  WAIT_FOR (compare_view_is_measured (view));
  show_view (f, "side-by-side");
  both_ways (f, "window-side-by-side");
  show_view (f, "slider");
  both_ways (f, "window-slider");
  show_view (f, "difference");
  both_ways (f, "window-difference");
}

static void
shoot_pair (Fixture *f, const char *name)
{
  g_autoptr (TesseraPicture) first = landscape (512, 384, ENGINE_PRECISION_BF16, 0);
  g_autoptr (TesseraPicture) second = landscape (512, 384, ENGINE_PRECISION_SVDQUANT, 24);

  pretend_model (f, TRUE);
  fill_history (f);
  window_show_picture (f->window, first, second);
  WAIT_FOR (compare_view_is_measured (window_get_view (f->window)));
  show_view (f, "slider");
  g_object_set (compare_view_get_canvas (window_get_view (f->window)), "split", 0.3, NULL);
  both_ways (f, name);
}

/* Where reading goes from right to left, so does the window. */
static void
test_shot_mirrored (Fixture *f, gconstpointer data)
{
  gtk_window_destroy (GTK_WINDOW (f->window));
  gtk_widget_set_default_direction (GTK_TEXT_DIR_RTL);
  f->window = window_new (f->app, f->worker, f->history, f->queue, f->settings);
  gtk_window_present (GTK_WINDOW (f->window));
  controls_set_seed (window_get_controls (f->window), 42);
  shoot_pair (f, "window-mirrored");
  gtk_widget_set_default_direction (GTK_TEXT_DIR_LTR);
}

/* The style is chosen when the program starts, so this is a run of its own. */
static void
test_shot_contrast (Fixture *f, gconstpointer data)
{
  if (!adw_style_manager_get_high_contrast (adw_style_manager_get_default ()))
    {
      g_test_skip ("not started in high contrast");
      return;
    }
  shoot_pair (f, "window-contrast");
}

int
main (int argc, char *argv[])
{
  g_autoptr (GtkApplication) app = NULL;

  init_display (&argc, &argv);
  app = test_application ();
#define ADD(name, function)                                                                        \
  g_test_add ("/window-shots/" name, Fixture, app, fixture_set_up, function, fixture_tear_down)
  ADD ("messages", test_shot_messages);
  ADD ("empty", test_shot_empty);
  ADD ("empty-small", test_shot_empty_small);
  ADD ("pictures", test_shot_pictures);
  ADD ("working", test_shot_working);
  ADD ("problems", test_shot_problems);
  ADD ("too-large", test_shot_too_large);
  ADD ("mirrored", test_shot_mirrored);
  ADD ("contrast", test_shot_contrast);
#undef ADD
  return g_test_run ();
}
