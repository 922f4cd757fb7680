/* SPDX-License-Identifier: Apache-2.0
 *
 * The queue with the real engine: order, what survives, what happens when the disk says no, and
 * two hundred generations started and cancelled at moments that a seeded generator picks.
 */
#include "app/generation/journal.h"
#include "app/generation/queue.h"
#include "app/memory/idle-trim.h"
#include "harness.h"
#include "tests/engine/model-copy.h"

#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

typedef struct
{
  char *folder, *journal;
  TesseraWorker *worker;
  TesseraHistory *history;
  TesseraQueue *queue;
  GString *order; /* a letter for each finished job */
  guint saved, not_saved;
  gboolean stopped;
} Fixture;

static void
on_finished (Fixture *f, TesseraJob *job, TesseraPicture *picture)
{
  static const char letters[] = { [JOB_DONE] = 'D', [JOB_CANCELLED] = 'C', [JOB_FAILED] = 'F' };

  g_assert_true ((picture != NULL) == (job_get_state (job) == JOB_DONE));
  g_string_append_c (f->order, letters[job_get_state (job)]);
}

static void
count_saved (Fixture *f)
{
  f->saved++;
}

static void
count_not_saved (Fixture *f)
{
  f->not_saved++;
}

static void
on_opened (GObject *source, GAsyncResult *result, gpointer data)
{
  g_autoptr (GError) error = NULL;
  ModelInfo *info = worker_open_finish (TESSERA_WORKER (source), result, &error);

  g_assert_no_error (error);
  queue_set_model (data, info);
  model_info_free (info);
}

static void
make_queue (Fixture *f)
{
  f->queue = queue_new (f->worker, f->history, f->journal);
  g_signal_connect_swapped (f->queue, "finished", G_CALLBACK (on_finished), f);
  g_signal_connect_swapped (f->queue, "saved", G_CALLBACK (count_saved), f);
  g_signal_connect_swapped (f->queue, "not-saved", G_CALLBACK (count_not_saved), f);
}

static void
set_up (Fixture *f, gconstpointer data)
{
  g_autofree char *history = NULL;

  f->folder = make_folder ();
  f->journal = g_build_filename (f->folder, "queue.json", NULL);
  history = g_build_filename (f->folder, "history", NULL);
  f->order = g_string_new (NULL);
  f->worker = worker_new ();
  f->history = history_new (history);
  make_queue (f);
  WAIT_FOR (!history_get_loading (f->history));
}

static void
open_model (Fixture *f, const char *dir)
{
  EngineOptions options = { .device = "cpu" };

  worker_open_async (f->worker, dir, &options, NULL, on_opened, f->queue);
}

static void
open_tiny (Fixture *f)
{
  g_autofree char *dir = tiny_model ();

  open_model (f, dir);
}

static void
on_stopped (GObject *source, GAsyncResult *result, gpointer data)
{
  ((Fixture *)data)->stopped = TRUE;
}

static void
tear_down (Fixture *f, gconstpointer data)
{
  WAIT_FOR (!queue_is_saving (f->queue));
  worker_stop_async (f->worker, on_stopped, f);
  WAIT_FOR (f->stopped && queue_get_running (f->queue) == NULL);
  g_signal_handlers_disconnect_by_data (f->queue, f);
  WAIT_FOR_END_OF (f->queue);
  g_clear_object (&f->history);
  WAIT_FOR_END_OF (f->worker);
  g_string_free (f->order, TRUE);
  remove_folder (f->folder);
  g_free (f->folder);
  g_free (f->journal);
}

static void
add (Fixture *f, guint64 seed, int steps)
{
  EngineRequest request = small_request ();
  g_autoptr (TesseraJob) job = NULL;

  request.seed = seed;
  request.steps = steps;
  job = job_new (&request, NULL);
  queue_add (f->queue, job);
}

static guint
n_waiting (Fixture *f)
{
  return g_list_model_get_n_items (G_LIST_MODEL (f->queue));
}

static guint64
seed_at (Fixture *f, guint position)
{
  g_autoptr (TesseraJob) job = g_list_model_get_item (G_LIST_MODEL (f->queue), position);

  return job_get_request (job)->seed;
}

/* Nothing runs before there is a model; then all do, in their order, into the history. */
static void
test_runs (Fixture *f, gconstpointer data)
{
  for (guint i = 0; i < 3; i++)
    add (f, i, 1);
  g_assert_cmpuint (n_waiting (f), ==, 3);
  g_assert_null (queue_get_running (f->queue));
  open_tiny (f);
  WAIT_FOR (f->saved == 3);
  g_assert_cmpstr (f->order->str, ==, "DDD");
  g_assert_cmpuint (g_list_model_get_n_items (G_LIST_MODEL (f->history)), ==, 3);
}

static void
test_reorder (Fixture *f, gconstpointer data)
{
  for (guint i = 0; i < 4; i++)
    add (f, i, 1);
  queue_move (f->queue, 3, 0);
  queue_move (f->queue, 1, 2);
  queue_remove (f->queue, 3);
  g_assert_cmpuint (n_waiting (f), ==, 3);
  g_assert_cmpuint (seed_at (f, 0), ==, 3);
  g_assert_cmpuint (seed_at (f, 1), ==, 1);
  g_assert_cmpuint (seed_at (f, 2), ==, 0);
  queue_clear (f->queue);
  g_assert_cmpuint (n_waiting (f), ==, 0);
}

/* The program ends while one job runs and two wait: a new one finds all three, and waits for a
 * word before it starts them. */
static void
test_restart (Fixture *f, gconstpointer data)
{
  TesseraQueue *first = f->queue;

  open_tiny (f);
  add (f, 10, 100);
  add (f, 11, 1);
  add (f, 12, 1);
  WAIT_FOR (queue_get_running (first) != NULL && job_get_fraction (queue_get_running (first)) > 0);
  queue_stop (first);
  WAIT_FOR (queue_get_running (first) == NULL);
  while (g_main_context_iteration (NULL, FALSE))
    ;
  g_assert_cmpstr (f->order->str, ==, "C");
  g_signal_handlers_disconnect_by_data (first, f);
  g_object_unref (first);

  make_queue (f);
  g_assert_true (queue_get_paused (f->queue));
  g_assert_cmpuint (n_waiting (f), ==, 3);
  g_assert_cmpuint (seed_at (f, 0), ==, 10);
  open_tiny (f);
  queue_remove (f->queue, 0);
  queue_set_paused (f->queue, FALSE);
  WAIT_FOR (f->saved == 2);
  WAIT_FOR (!queue_is_saving (f->queue));
  {
    g_autoptr (GPtrArray) left = journal_read (f->journal);

    g_assert_cmpuint (left->len, ==, 0);
  }
}

/* A history that cannot be written: the picture is handed over, nothing more is drawn in vain, and
 * what could not be kept is still asked for in the next session. */
static void
test_not_saved (Fixture *f, gconstpointer data)
{
  g_autofree char *folder = g_build_filename (f->folder, "history", NULL);

  remove_folder (folder);
  g_assert_true (g_file_set_contents (folder, "in the way", -1, NULL));
  open_tiny (f);
  for (guint i = 0; i < 20; i++)
    add (f, i, 1);
  WAIT_FOR (queue_get_paused (f->queue) && queue_get_running (f->queue) == NULL
            && !queue_is_saving (f->queue));
  g_assert_true (queue_has_trouble (f->queue));
  g_assert_cmpuint (f->not_saved, ==, f->order->len);
  g_assert_cmpuint (n_waiting (f), ==, 20 - f->not_saved);
  g_assert_cmpuint (n_waiting (f), >, 0);
  g_assert_cmpuint (f->saved, ==, 0);
  {
    g_autoptr (GPtrArray) left = journal_read (f->journal);

    g_assert_cmpuint (left->len, ==, 20);
  }
}

/* A model's file is rewritten where it lies: no job is used up on it, and opened again it draws. */
static void
test_model_changed (Fixture *f, gconstpointer data)
{
  char *dir = model_copy_new ();
  g_autofree char *file = g_build_filename (dir, "vae/diffusion_pytorch_model.safetensors", NULL);
  g_autofree char *bytes = NULL;
  gsize length;

  g_assert_true (g_file_get_contents (file, &bytes, &length, NULL));
  model_copy_replace (dir, "vae/diffusion_pytorch_model.safetensors", NULL);
  g_assert_true (g_file_set_contents (file, bytes, (gssize)length, NULL));
  open_model (f, dir);
  add (f, 1, 1);
  WAIT_FOR (f->saved == 1);
  g_assert_cmpint (truncate (file, (off_t)length - 1), ==, 0);
  add (f, 2, 1);
  add (f, 3, 1);
  WAIT_FOR (queue_get_paused (f->queue));
  g_assert_true (queue_has_trouble (f->queue));
  g_assert_cmpstr (f->order->str, ==, "DF");
  g_assert_cmpuint (n_waiting (f), ==, 2);
  g_assert_cmpuint (seed_at (f, 0), ==, 2);

  g_assert_true (g_file_set_contents (file, bytes, (gssize)length, NULL));
  open_model (f, dir);
  queue_set_paused (f->queue, FALSE);
  g_assert_false (queue_has_trouble (f->queue));
  WAIT_FOR (f->saved == 3);
  model_copy_free (dir);
}

static void
delete_some_file (Fixture *f)
{
  g_autoptr (TesseraEntry) entry = g_list_model_get_item (G_LIST_MODEL (f->history), 0);

  if (entry != NULL)
    g_unlink (entry_get_path (entry));
}

static gboolean
is_half_written (const char *folder)
{
  g_autoptr (GDir) dir = g_dir_open (folder, 0, NULL);
  const char *name;

  while ((name = g_dir_read_name (dir)) != NULL)
    {
      g_autofree char *path = g_build_filename (folder, name, NULL);
      g_autoptr (TesseraPicture) picture = picture_load (path, NULL);

      if (picture == NULL)
        return TRUE;
    }
  return FALSE;
}

/* Two hundred generations, most of them cancelled after a few turns of the main loop, while files
 * vanish under the history. */
static void
test_stress (Fixture *f, gconstpointer data)
{
  g_autoptr (GRand) rand = g_rand_new_with_seed (20260101);
  guint started = 0;

  open_tiny (f);
  while (started < 200)
    {
      const int turns = g_rand_int_range (rand, 0, 60);

      add (f, started++, g_rand_int_range (rand, 1, 5));
      for (int i = 0; i < turns; i++)
        g_main_context_iteration (NULL, FALSE);
      if (queue_get_running (f->queue) != NULL && g_rand_int_range (rand, 0, 10) > 0)
        job_cancel (queue_get_running (f->queue));
      if (g_rand_int_range (rand, 0, 4) == 0)
        delete_some_file (f);
      if (n_waiting (f) > 3)
        queue_remove (f->queue, g_rand_int_range (rand, 0, n_waiting (f)));
      if (g_rand_int_range (rand, 0, 3) == 0)
        WAIT_FOR (queue_get_running (f->queue) == NULL
                  || job_get_fraction (queue_get_running (f->queue)) > 0);
    }
  queue_clear (f->queue);
  WAIT_FOR (queue_get_running (f->queue) == NULL);
  /* On a busy computer all of those may have ended first; this one has a hundred steps to be
   * cancelled in. */
  add (f, started, 100);
  WAIT_FOR (job_get_fraction (queue_get_running (f->queue)) > 0);
  job_cancel (queue_get_running (f->queue));
  WAIT_FOR (queue_get_running (f->queue) == NULL && !queue_is_saving (f->queue));
  g_assert_null (strchr (f->order->str, 'F'));
  g_assert_nonnull (strchr (f->order->str, 'C'));
  g_assert_false (is_half_written (history_get_folder (f->history)));
}

/* When nothing was made for a while, the memory is given back. */
static void
test_idle (Fixture *f, gconstpointer data)
{
  g_autoptr (GSettings) settings = g_settings_new (APP_ID);
  g_autoptr (TesseraIdleTrim) idle = NULL;
  EngineMemory memory;
  EngineDevice device;

  g_settings_set_uint (settings, "idle-minutes", 1);
  idle = idle_trim_new (f->queue, f->worker, settings, 1);
  open_tiny (f);
  add (f, 1, 1);
  WAIT_FOR (f->saved == 1);
  WAIT_FOR (worker_get_memory (f->worker, &memory, &device) && memory.weights == 0);
  g_settings_reset (settings, "idle-minutes");
}

int
main (int argc, char *argv[])
{
  g_test_init (&argc, &argv, NULL);
#define ADD(name, function) g_test_add ("/queue/" name, Fixture, NULL, set_up, function, tear_down)
  ADD ("runs", test_runs);
  ADD ("reorder", test_reorder);
  ADD ("restart", test_restart);
  ADD ("not-saved", test_not_saved);
  ADD ("model-changed", test_model_changed);
  ADD ("idle", test_idle);
  ADD ("stress", test_stress);
#undef ADD
  return g_test_run ();
}
