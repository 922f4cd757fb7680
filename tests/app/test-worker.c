/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine's thread with the real engine and the small model: order, cancelling, errors.
 */
#include "app/generation/worker.h"
#include "harness.h"

#include <string.h>

typedef struct
{
  TesseraWorker *worker;
  GString *order; /* a letter for each answer */
  guint answers;
  WorkerPlan plan; /* the last answer */
  gboolean cancelled;
  GError *errors[8];
  Image *images[8];
  gboolean stopped;
} Fixture;

static void
on_opened (GObject *source, GAsyncResult *result, gpointer data)
{
  Fixture *f = data;
  ModelInfo *info = worker_open_finish (TESSERA_WORKER (source), result, &f->errors[f->answers++]);

  if (info != NULL)
    {
      g_assert_true (info->supports[ENGINE_PRECISION_BF16]);
      g_assert_cmpstr (info->name, ==, "tiny-zimage");
      g_assert_cmpuint (info->device.total_memory, >, 0);
    }
  model_info_free (info);
}

static void
on_generated (GObject *source, GAsyncResult *result, gpointer data)
{
  Fixture *f = data;

  f->images[f->answers]
      = worker_generate_finish (TESSERA_WORKER (source), result, &f->errors[f->answers]);
  g_string_append_c (f->order, f->images[f->answers] ? 'P' : '-');
  f->answers++;
}

static void
on_stopped (GObject *source, GAsyncResult *result, gpointer data)
{
  g_assert_true (worker_stop_finish (TESSERA_WORKER (source), result, NULL));
  ((Fixture *)data)->stopped = TRUE;
}

static void
set_up (Fixture *f, gconstpointer data)
{
  f->worker = worker_new ();
  f->order = g_string_new (NULL);
}

static void
clear_answers (Fixture *f)
{
  for (guint i = 0; i < G_N_ELEMENTS (f->errors); i++)
    {
      g_clear_error (&f->errors[i]);
      g_clear_pointer (&f->images[i], image_unref);
    }
  f->answers = 0;
  g_string_truncate (f->order, 0);
}

static void
tear_down (Fixture *f, gconstpointer data)
{
  worker_stop_async (f->worker, on_stopped, f);
  WAIT_FOR (f->stopped);
  WAIT_FOR_END_OF (f->worker);
  clear_answers (f);
  g_string_free (f->order, TRUE);
}

static void
open_tiny (Fixture *f)
{
  g_autofree char *dir = tiny_model ();
  EngineOptions options = { .device = "cpu" };

  worker_open_async (f->worker, dir, &options, NULL, on_opened, f);
  WAIT_FOR (f->answers == 1);
  g_assert_no_error (f->errors[0]);
  clear_answers (f);
}

/* Three jobs, the one in the middle cancelled before its turn: order kept, two pictures. */
static void
test_order (Fixture *f, gconstpointer data)
{
  EngineRequest request = small_request ();
  TesseraJob *jobs[3];

  open_tiny (f);
  for (guint i = 0; i < 3; i++)
    {
      request.seed = i;
      jobs[i] = job_new (&request, NULL);
      worker_generate_async (f->worker, jobs[i], on_generated, f);
    }
  job_cancel (jobs[1]);
  WAIT_FOR (f->answers == 3);
  g_assert_cmpstr (f->order->str, ==, "P-P");
  g_assert_error (f->errors[1], G_IO_ERROR, G_IO_ERROR_CANCELLED);
  g_assert_false (g_bytes_equal (image_get_bytes (f->images[0]), image_get_bytes (f->images[2])));
  for (guint i = 0; i < 3; i++)
    g_object_unref (jobs[i]);
}

static void
cancel_when_denoising (TesseraJob *job)
{
  if (job_get_fraction (job) > 0.25)
    job_cancel (job);
}

/* Cancelled while it runs: no picture, and the engine is fit for the next job. */
static void
test_cancel_in_flight (Fixture *f, gconstpointer data)
{
  EngineRequest request = small_request ();
  g_autoptr (TesseraJob) job = NULL;
  g_autoptr (TesseraJob) next = job_new (&request, NULL);

  open_tiny (f);
  request.steps = 100;
  job = job_new (&request, NULL);
  job_begin (job, NULL);
  g_signal_connect (job, "notify::fraction", G_CALLBACK (cancel_when_denoising), NULL);
  worker_generate_async (f->worker, job, on_generated, f);
  worker_generate_async (f->worker, next, on_generated, f);
  WAIT_FOR (f->answers == 2);
  g_assert_cmpstr (f->order->str, ==, "-P");
  g_assert_error (f->errors[0], G_IO_ERROR, G_IO_ERROR_CANCELLED);
}

/* A folder that is no model is an error that names it; what is asked of no model says so. */
static void
test_no_model (Fixture *f, gconstpointer data)
{
  EngineRequest request = small_request ();
  g_autofree char *folder = make_folder ();
  g_autoptr (TesseraJob) job = job_new (&request, NULL);
  EngineMemory memory;
  EngineDevice device;

  worker_open_async (f->worker, folder, NULL, NULL, on_opened, f);
  worker_generate_async (f->worker, job, on_generated, f);
  WAIT_FOR (f->answers == 2);
  g_assert_nonnull (f->errors[0]);
  g_assert_nonnull (strstr (f->errors[0]->message, folder));
  g_assert_error (f->errors[1], ENGINE_ERROR, ENGINE_ERROR_MODEL);
  g_assert_false (worker_get_memory (f->worker, &memory, &device));
  remove_folder (folder);
}

static void
on_planned (GObject *source, GAsyncResult *result, gpointer data)
{
  Fixture *f = data;

  worker_plan_finish (TESSERA_WORKER (source), result, &f->plan, &f->errors[f->answers]);
  f->answers++;
}

static void
test_plan (Fixture *f, gconstpointer data)
{
  EngineRequest request = small_request ();
  EngineMemory memory;
  EngineDevice device;

  open_tiny (f);
  worker_plan_async (f->worker, &request, FALSE, NULL, on_planned, f);
  WAIT_FOR (f->answers == 1);
  g_assert_no_error (f->errors[0]);
  g_assert_cmpuint (f->plan.plan.peak, >, 0);
  g_assert_true (f->plan.plan.fits);
  g_assert_false (f->plan.advised);
  request.width = 65;
  worker_plan_async (f->worker, &request, FALSE, NULL, on_planned, f);
  WAIT_FOR (f->answers == 2);
  g_assert_error (f->errors[1], ENGINE_ERROR, ENGINE_ERROR_REQUEST);
  g_assert_true (worker_get_memory (f->worker, &memory, &device));
}

static void
on_cancelled (GObject *source, GAsyncResult *result, gpointer data)
{
  g_autoptr (GError) error = NULL;

  g_assert_null (worker_generate_finish (TESSERA_WORKER (source), result, &error));
  g_assert_error (error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
  ((Fixture *)data)->cancelled = TRUE;
}

/* A forecast does not wait for the picture that is being made: that one ends only when it is told
 * to, after the answer. */
static void
test_plan_meanwhile (Fixture *f, gconstpointer data)
{
  EngineRequest request = small_request ();
  g_autoptr (TesseraJob) job = NULL;

  open_tiny (f);
  request.steps = ENGINE_REQUEST_MAX_STEPS;
  request.width = request.height = 1024;
  job = job_new (&request, NULL);
  job_begin (job, NULL);
  worker_generate_async (f->worker, job, on_cancelled, f);
  WAIT_FOR (job_get_fraction (job) > 0);
  worker_plan_async (f->worker, &request, FALSE, NULL, on_planned, f);
  WAIT_FOR (f->answers == 1);
  g_assert_no_error (f->errors[0]);
  g_assert_false (f->cancelled);
  job_cancel (job);
  WAIT_FOR (f->cancelled);
}

/* With no more than what the smallest picture takes, one of 1024 x 1024 is told what would do. */
static void
test_advice (Fixture *f, gconstpointer data)
{
  g_autofree char *dir = tiny_model ();
  EngineOptions options = { .device = "cpu" };
  EngineRequest request = small_request ();

  open_tiny (f);
  request.width = request.height = 64;
  worker_plan_async (f->worker, &request, FALSE, NULL, on_planned, f);
  WAIT_FOR (f->answers == 1);
  options.memory_budget = f->plan.plan.peak;
  worker_open_async (f->worker, dir, &options, NULL, on_opened, f);
  WAIT_FOR (f->answers == 2);
  request.width = request.height = 1024;
  worker_plan_async (f->worker, &request, FALSE, NULL, on_planned, f);
  WAIT_FOR (f->answers == 3);
  g_assert_no_error (f->errors[2]);
  g_assert_false (f->plan.plan.fits);
  g_assert_true (f->plan.advised);
  g_assert_cmpint (f->plan.width, ==, f->plan.height);
  g_assert_cmpint (f->plan.width, >=, 64);
  g_assert_cmpint (f->plan.width, <, 1024);
}

/* What was tried and did not fit is not offered again, though its plan says that it fits. */
static void
test_advice_after_failure (Fixture *f, gconstpointer data)
{
  EngineRequest request = small_request ();

  open_tiny (f);
  request.width = request.height = 1024;
  worker_plan_async (f->worker, &request, TRUE, NULL, on_planned, f);
  WAIT_FOR (f->answers == 1);
  g_assert_no_error (f->errors[0]);
  g_assert_true (f->plan.plan.fits);
  g_assert_true (f->plan.advised);
  g_assert_cmpint (f->plan.width, <, 1024);
}

int
main (int argc, char *argv[])
{
  g_test_init (&argc, &argv, NULL);
#define ADD(name, function) g_test_add ("/worker/" name, Fixture, NULL, set_up, function, tear_down)
  ADD ("order", test_order);
  ADD ("cancel-in-flight", test_cancel_in_flight);
  ADD ("no-model", test_no_model);
  ADD ("plan", test_plan);
  ADD ("plan-meanwhile", test_plan_meanwhile);
  ADD ("advice", test_advice);
  ADD ("advice-after-failure", test_advice_after_failure);
#undef ADD
  return g_test_run ();
}
