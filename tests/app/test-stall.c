/* SPDX-License-Identifier: Apache-2.0
 *
 * Does the window stay alive while the engine works? A timer of the main loop notes how late it is
 * while pictures are made and pictures of 2048 x 2048 arrive. What is asserted is the median, which
 * a busy machine does not spoil; the worst is printed, and the most that the main thread itself
 * computed between two turns: what it would be late by if it had a processor to itself.
 */
#include "app/window.h"
#include "harness.h"

#include <time.h>

#define INTERVAL 5  /* ms between the timer's turns */
#define LIMIT    50 /* ms that a person does not notice */

typedef struct
{
  GArray *gaps; /* of double, ms */
  gint64 last;
  double computed, most; /* ms of the main thread's own time: until now, and in one turn */
} Pulse;

static double
thread_time (void)
{
  struct timespec now;

  clock_gettime (CLOCK_THREAD_CPUTIME_ID, &now);
  return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

static gboolean
on_pulse (gpointer data)
{
  Pulse *pulse = data;
  const gint64 now = g_get_monotonic_time ();
  const double gap = (now - pulse->last) / 1000.0 - INTERVAL, computed = thread_time ();

  pulse->most = MAX (pulse->most, computed - pulse->computed);
  pulse->computed = computed;
  pulse->last = now;
  g_array_append_val (pulse->gaps, gap);
  return G_SOURCE_CONTINUE;
}

static int
compare_gaps (gconstpointer a, gconstpointer b)
{
  const double x = *(const double *)a, y = *(const double *)b;

  return x < y ? -1 : x > y;
}

typedef struct
{
  TesseraWindow *window;
  TesseraQueue *queue;
  guint finished, added;
  gboolean opened, stopped;
} Run;

static void
on_opened (GObject *source, GAsyncResult *result, gpointer data)
{
  Run *run = data;
  g_autoptr (GError) error = NULL;
  ModelInfo *model = worker_open_finish (TESSERA_WORKER (source), result, &error);

  g_assert_no_error (error);
  window_set_model (run->window, model);
  queue_set_model (run->queue, model);
  model_info_free (model);
  run->opened = TRUE;
}

static void
count_finished (Run *run)
{
  run->finished++;
}

static void
on_added (GObject *source, GAsyncResult *result, gpointer data)
{
  g_assert_nonnull (history_add_finish (TESSERA_HISTORY (source), result, NULL));
  ((Run *)data)->added++;
}

static void
on_stopped (GObject *source, GAsyncResult *result, gpointer data)
{
  ((Run *)data)->stopped = TRUE;
}

/* Four generations of the small model, while three large pairs are shown, measured and saved. */
static void
work (Run *run, TesseraHistory *history)
{
  g_autoptr (TesseraPicture) first = landscape (2048, 2048, ENGINE_PRECISION_BF16, 0);
  g_autoptr (TesseraPicture) second = landscape (2048, 2048, ENGINE_PRECISION_SVDQUANT, 24);
  Pulse pulse
      = { g_array_new (FALSE, FALSE, sizeof (double)), g_get_monotonic_time (), thread_time (), 0 };
  const guint source = g_timeout_add (INTERVAL, on_pulse, &pulse);
  double median, worst;

  for (guint i = 0; i < 4; i++)
    {
      EngineRequest request = small_request ();
      g_autoptr (TesseraJob) job = NULL;

      request.width = request.height = 256;
      request.seed = i;
      job = job_new (&request, NULL);
      queue_add (run->queue, job);
    }
  for (guint i = 0; i < 3; i++)
    {
      g_autofree char *stem = history_new_stem (history);

      window_show_picture (run->window, first, i % 2 ? second : NULL);
      history_add_async (history, i % 2 ? second : first, stem, on_added, run);
      WAIT_FOR (run->added == i + 1);
    }
  WAIT_FOR (run->finished == 4);
  g_source_remove (source);
  g_array_sort (pulse.gaps, compare_gaps);
  median = g_array_index (pulse.gaps, double, pulse.gaps->len / 2);
  worst = g_array_index (pulse.gaps, double, pulse.gaps->len - 1);
  g_test_message ("%u turns, late by %.1f ms in the median, %.1f ms at worst; %.1f ms computed at "
                  "most in one turn",
                  pulse.gaps->len, median, worst, pulse.most);
  g_assert_cmpfloat (median, <, LIMIT);
  g_array_unref (pulse.gaps);
}

static void
test_stall (void)
{
  g_autoptr (GtkApplication) app = test_application ();
  g_autofree char *folder = make_folder ();
  g_autofree char *dir = tiny_model ();
  g_autoptr (GSettings) settings = g_settings_new (APP_ID);
  TesseraWorker *worker = worker_new ();
  TesseraHistory *history = history_new (folder);
  EngineOptions options = { .device = "cpu" };
  Run run = { .queue = queue_new (worker, history, NULL) };

  run.window = window_new (app, worker, history, run.queue, settings);
  g_signal_connect_swapped (run.queue, "finished", G_CALLBACK (count_finished), &run);
  gtk_window_present (GTK_WINDOW (run.window));
  worker_open_async (worker, dir, &options, NULL, on_opened, &run);
  WAIT_FOR (run.opened && !history_get_loading (history));
  /* Opening the window is another matter. */
  settle (GTK_WIDGET (run.window));
  work (&run, history);
  WAIT_FOR (!queue_is_saving (run.queue));
  gtk_window_destroy (GTK_WINDOW (run.window));
  worker_stop_async (worker, on_stopped, &run);
  WAIT_FOR (run.stopped);
  g_signal_handlers_disconnect_by_data (run.queue, &run);
  WAIT_FOR_END_OF (run.queue);
  WAIT_FOR_END_OF (history);
  WAIT_FOR_END_OF (worker);
  remove_folder (folder);
}

int
main (int argc, char *argv[])
{
  init_display (&argc, &argv);
  g_test_add_func ("/window/stall", test_stall);
  return g_test_run ();
}
