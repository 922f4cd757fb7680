/* SPDX-License-Identifier: Apache-2.0
 *
 * A job as the window sees it: properties change on the main thread, and not more often than that
 * has time for.
 */
#include "app/generation/job.h"
#include "harness.h"

#include <string.h>

static void
count (gpointer counter)
{
  ++*(guint *)counter;
}

static gpointer
report_from_thread (gpointer data)
{
  for (guint i = 1; i <= 10000; i++)
    job_set_progress (data, ENGINE_PHASE_DENOISE, i, 10000, NULL);
  return NULL;
}

/* Ten thousand reports while the main loop does not turn are one notification. */
static void
test_coalescing (void)
{
  EngineRequest request = small_request ();
  g_autoptr (TesseraJob) job = job_new (&request, NULL);
  guint notified = 0;

  job_begin (job, NULL);
  g_signal_connect_swapped (job, "notify::fraction", G_CALLBACK (count), &notified);
  g_thread_join (g_thread_new ("reports", report_from_thread, job));
  g_assert_cmpuint (notified, ==, 0);
  WAIT_FOR (notified > 0);
  while (g_main_context_iteration (NULL, FALSE))
    ;
  g_assert_cmpuint (notified, ==, 1);
  g_assert_nonnull (strstr (job_get_text (job), "10000 of 10000"));
}

static double
fraction_at (TesseraJob *job, EnginePhase phase, guint step, guint n_steps)
{
  job_set_progress (job, phase, step, n_steps, NULL);
  while (g_main_context_iteration (NULL, FALSE))
    ;
  return job_get_fraction (job);
}

/* One bar for all phases, which never runs backwards and weighs them as the last job did. */
static void
test_fraction (void)
{
  EngineRequest request = small_request ();
  g_autoptr (TesseraJob) job = job_new (&request, NULL);
  const JobTimings last = { { 0, 1, 8, 1 } };
  double before = 0;

  job_begin (job, &last);
  g_assert_cmpfloat_with_epsilon (fraction_at (job, ENGINE_PHASE_ENCODE, 1, 1), 0.1, 1e-9);
  g_assert_cmpfloat_with_epsilon (fraction_at (job, ENGINE_PHASE_DENOISE, 2, 8), 0.3, 1e-9);
  g_assert_cmpfloat_with_epsilon (fraction_at (job, ENGINE_PHASE_DENOISE, 1, 8), 0.3, 1e-9);
  for (guint step = 2; step <= 8; step++)
    {
      const double now = fraction_at (job, ENGINE_PHASE_DENOISE, step, 8);

      g_assert_cmpfloat (now, >=, before);
      before = now;
    }
  g_assert_cmpfloat_with_epsilon (fraction_at (job, ENGINE_PHASE_DECODE, 1, 1), 1.0, 1e-9);
}

/* Reports from after the end change nothing. */
static void
test_end (void)
{
  EngineRequest request = small_request ();
  g_autoptr (TesseraJob) done = job_new (&request, NULL);
  g_autoptr (TesseraJob) failed = job_new (&request, NULL);
  g_autoptr (TesseraJob) cancelled = job_new (&request, NULL);
  g_autoptr (GError) memory = g_error_new_literal (ENGINE_ERROR, ENGINE_ERROR_MEMORY, "too large");
  g_autoptr (GError) stopped = g_error_new_literal (G_IO_ERROR, G_IO_ERROR_CANCELLED, "cancelled");

  job_begin (done, NULL);
  job_set_progress (done, ENGINE_PHASE_DENOISE, 1, 8, NULL);
  job_finish (done, NULL);
  g_assert_cmpfloat (job_get_fraction (done), ==, 1.0);
  g_assert_cmpfloat (fraction_at (done, ENGINE_PHASE_DENOISE, 2, 8), ==, 1.0);
  g_assert_cmpint (job_get_state (done), ==, JOB_DONE);
  g_assert_cmpfloat (job_get_timings (done)->seconds[ENGINE_PHASE_DENOISE], >=, 0);

  job_begin (failed, NULL);
  job_finish (failed, memory);
  g_assert_cmpint (job_get_state (failed), ==, JOB_FAILED);
  g_assert_error (job_get_error (failed), ENGINE_ERROR, ENGINE_ERROR_MEMORY);

  job_begin (cancelled, NULL);
  job_cancel (cancelled);
  g_assert_true (g_cancellable_is_cancelled (job_get_cancellable (cancelled)));
  job_finish (cancelled, stopped);
  g_assert_cmpint (job_get_state (cancelled), ==, JOB_CANCELLED);
  g_assert_null (job_get_error (cancelled));
}

/* A job must not change with the request it was made from. */
static void
test_copies (void)
{
  EngineRequest request = small_request ();
  g_autofree char *prompt = g_strdup ("first");
  g_autoptr (TesseraJob) job = NULL;
  g_autofree char *text = NULL;

  request.prompt = prompt;
  request.seed = G_MAXUINT64;
  job = job_new (&request, "20260101-120000-000");
  memset (prompt, 'x', 5);
  g_assert_cmpstr (job_get_request (job)->prompt, ==, "first");
  text = job_describe (job);
  g_assert_cmpstr (text, ==, "BF16, 64 × 64, seed 18446744073709551615");
}

int
main (int argc, char *argv[])
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/job/coalescing", test_coalescing);
  g_test_add_func ("/job/fraction", test_fraction);
  g_test_add_func ("/job/end", test_end);
  g_test_add_func ("/job/copies", test_copies);
  return g_test_run ();
}
