/* SPDX-License-Identifier: Apache-2.0
 *
 * "Benchmark this computer": what is measured of the small model, that it can be cancelled, what
 * the file says, and how figures look.
 */
#include "app/models/speed-page.h"
#include "harness.h"

#include <cjson/cJSON.h>
#include <string.h>

typedef struct
{
  char *folder;
  GSettings *settings;
  TesseraWorker *worker;
  GtkWidget *window;
  TesseraSpeedPage *page;
  gboolean opened, stopped;
} Fixture;

static void
on_opened (GObject *source, GAsyncResult *result, gpointer data)
{
  g_autoptr (GError) error = NULL;
  ModelInfo *model = worker_open_finish (TESSERA_WORKER (source), result, &error);

  g_assert_no_error (error);
  model_info_free (model);
  ((Fixture *)data)->opened = TRUE;
}

static void
on_stopped (GObject *source, GAsyncResult *result, gpointer data)
{
  ((Fixture *)data)->stopped = TRUE;
}

static void
set_up (Fixture *f, gconstpointer data)
{
  g_autofree char *model = tiny_model ();

  f->folder = make_folder ();
  f->settings = g_settings_new (APP_ID);
  g_settings_set_string (f->settings, "model", model);
  f->worker = worker_new ();
  f->page = speed_page_new (f->worker, f->settings);
  speed_page_set_patience (f->page, 0); /* the smallest size */
  f->window = adw_preferences_window_new ();
  gtk_window_set_default_size (GTK_WINDOW (f->window), 640, 720);
  adw_preferences_window_add (ADW_PREFERENCES_WINDOW (f->window), ADW_PREFERENCES_PAGE (f->page));
  gtk_window_present (GTK_WINDOW (f->window));
}

static void
tear_down (Fixture *f, gconstpointer data)
{
  gtk_window_destroy (GTK_WINDOW (f->window));
  worker_stop_async (f->worker, on_stopped, f);
  WAIT_FOR (f->stopped);
  WAIT_FOR_END_OF (f->worker);
  g_settings_reset (f->settings, "model");
  g_object_unref (f->settings);
  remove_folder (f->folder);
  g_free (f->folder);
}

static void
open_tiny (Fixture *f)
{
  g_autofree char *dir = tiny_model ();
  EngineOptions options = { .device = "cpu" };

  worker_open_async (f->worker, dir, &options, NULL, on_opened, f);
  WAIT_FOR (f->opened);
}

static double
number_in (const cJSON *object, const char *key)
{
  const cJSON *item = cJSON_GetObjectItemCaseSensitive (object, key);

  g_assert_true (cJSON_IsNumber (item));
  return item->valuedouble;
}

/* The figures hang together, and the file says the same. */
static void
test_measure (Fixture *f, gconstpointer data)
{
  g_autofree char *path = g_build_filename (f->folder, "speed.json", NULL);
  g_autofree char *text = NULL;
  g_autoptr (GError) error = NULL;
  const Speed *speed;
  const cJSON *list, *last;
  cJSON *root;

  open_tiny (f);
  speed_page_start (f->page);
  g_assert_true (speed_page_is_running (f->page));
  WAIT_FOR (speed_page_get_shown (f->page) != NULL);
  g_assert_false (speed_page_is_running (f->page));
  speed = speed_page_get_shown (f->page);
  for (int i = 0; i < SPEED_N_STEPS; i++)
    {
      const Benchmark *run = &speed->runs[ENGINE_PRECISION_BF16][i];

      g_assert_cmpint (run->request->steps, ==, SPEED_STEPS[i]);
      g_assert_cmpuint (run->request->seed, ==, 42);
      g_assert_cmpint (run->request->width, ==, run->request->height);
      g_assert_cmpfloat (run->median.step, >, 0);
      g_assert_cmpfloat (run->median.total, >=, run->median.denoise);
      g_assert_cmpfloat (run->first.load, >, 0);
      g_assert_cmpuint (run->memory.peak, >, run->memory.weights);
      g_assert_cmpfloat (benchmark_share (run), >, 0);
    }
  g_assert_null (speed->runs[ENGINE_PRECISION_SVDQUANT][0].request); /* the model has none */

  g_assert_true (speed_save (speed, path, &error));
  g_assert_no_error (error);
  g_assert_true (g_file_get_contents (path, &text, NULL, NULL));
  root = cJSON_Parse (text);
  list = cJSON_GetObjectItemCaseSensitive (root, "benchmarks");
  g_assert_cmpint (cJSON_GetArraySize (list), ==, SPEED_N_STEPS);
  last = cJSON_GetArrayItem (list, SPEED_N_STEPS - 1);
  g_assert_cmpfloat (number_in (last, "steps"), ==, 20);
  g_assert_cmpfloat (number_in (cJSON_GetObjectItemCaseSensitive (last, "floor"), "share"), >, 0);
  cJSON_Delete (root);
}

static void
test_cancel (Fixture *f, gconstpointer data)
{
  open_tiny (f);
  speed_page_start (f->page);
  speed_page_cancel (f->page);
  g_assert_false (speed_page_is_running (f->page));
  g_assert_null (speed_page_get_shown (f->page));
  /* A second run is not mistaken for the first, whose end comes only now. */
  speed_page_start (f->page);
  WAIT_FOR (!speed_page_is_running (f->page));
  g_assert_nonnull (speed_page_get_shown (f->page));
}

/* Without a model there is a sentence, and nothing breaks. */
static void
test_no_model (Fixture *f, gconstpointer data)
{
  speed_page_start (f->page);
  WAIT_FOR (!speed_page_is_running (f->page));
  g_assert_null (speed_page_get_shown (f->page));
}

/* -- Looks --------------------------------------------------------------------------------------
 */

static void
make_up (Benchmark *run, EnginePrecision precision, int steps, double step)
{
  EngineRequest request = ENGINE_REQUEST_INIT;

  request.precision = precision;
  request.steps = steps;
  run->request = engine_request_copy (&request);
  g_strlcpy (run->device.name, "A graphics card", sizeof run->device.name);
  run->median.step = step;
  run->median.total = step * steps + 0.4;
  run->first.total = run->median.total + 8.5;
  run->memory.peak = (guint64)((precision == ENGINE_PRECISION_BF16 ? 19.2 : 13.1) * 0x1p30);
  run->product_rate = 160e12;
  run->step_operations = 56.6e12;
}

static void
test_shot (Fixture *f, gconstpointer data)
{
  Speed *speed = g_new0 (Speed, 1);

  for (int i = 0; i < SPEED_N_STEPS; i++)
    {
      make_up (&speed->runs[0][i], ENGINE_PRECISION_BF16, SPEED_STEPS[i], 0.42);
      make_up (&speed->runs[1][i], ENGINE_PRECISION_SVDQUANT, SPEED_STEPS[i], 0.19);
    }
  speed_page_show (f->page, speed);
  settle (f->window);
  check_shot (f->window, "speed-page");
}

int
main (int argc, char *argv[])
{
  init_display (&argc, &argv);
#define ADD(name, function) g_test_add ("/speed/" name, Fixture, NULL, set_up, function, tear_down)
  ADD ("measure", test_measure);
  ADD ("cancel", test_cancel);
  ADD ("no-model", test_no_model);
  ADD ("shot", test_shot);
#undef ADD
  return g_test_run ();
}
