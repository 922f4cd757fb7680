/* SPDX-License-Identifier: Apache-2.0
 *
 * What a benchmark counts and writes. How fast anything is depends on the machine and is not asked.
 */
#include "engine/computer/benchmark.h"
#include "engine/files/json.h"

#include <math.h>
#include <string.h>

/* A step of the published model at 1024 x 1024 with a caption of 128 tokens: 4096 and 4224 tokens
 * through blocks of 4 * 3840^2 + 3 * 3840 * 10240 weights, twice and thirty times, with attention.
 */
static void
test_operations (void)
{
  EngineRequest request = ENGINE_REQUEST_INIT;
  g_autoptr (GString) prompt = g_string_new ("word");
  g_autoptr (GError) error = NULL;
  const double weights = 4.0 * 3840 * 3840 + 3.0 * 3840 * 10240;
  const double expected = 2 * (2 * 4096 * weights + 4.0 * 4096 * 4096 * 3840)
                          + 30 * (2 * 4224 * weights + 4.0 * 4224 * 4224 * 3840);
  const EngineOptions options = { .device = "cpu" };
  double operations = 0;

  for (int i = 9; i < 120; i++)
    g_string_append (prompt, " word");
  request.prompt = prompt->str;
  g_assert_true (benchmark_count_operations ("synthetic:z-image-turbo", &options, &request,
                                             &operations, &error));
  g_assert_no_error (error);
  g_assert_cmpfloat (fabs (operations / expected - 1), <, 1e-9);
}

static void
test_run (void)
{
  g_autofree char *model = g_build_filename (g_getenv ("TESSERA_TEST_DATA"), "tiny-zimage", NULL);
  const EngineOptions options = { .device = "cpu" };
  EngineRequest request = ENGINE_REQUEST_INIT;
  g_autoptr (GError) error = NULL;
  g_autoptr (Engine) engine = engine_new (model, &options, &error);
  g_auto (Benchmark) run = { 0 };
  g_autofree char *text = NULL;
  g_autoptr (cJSON) json = NULL;

  g_assert_no_error (error);
  request.width = request.height = 64;
  request.steps = 3;
  g_assert_true (benchmark_run (engine, model, &request, 2, NULL, NULL, NULL, &run, &error));
  g_assert_no_error (error);
  g_assert_cmpfloat (run.first.load, >, 0);
  g_assert_cmpfloat (run.median.step, >, 0);
  g_assert_cmpfloat (run.median.step, <=, MAX (run.warm[0].step, run.warm[1].step));
  g_assert_cmpfloat (run.median.denoise, >, run.median.step);
  g_assert_cmpuint (run.memory.peak, >, 0);

  /* Without a rate there is no floor; with one it is simple. */
  g_assert_cmpfloat (benchmark_share (&run), ==, 0);
  run.product_rate = 100;
  run.step_operations = 50 * run.median.step;
  g_assert_cmpfloat (fabs (benchmark_share (&run) - 0.5), <, 1e-9);
  text = benchmark_to_json (&run);
  json = json_parse (text, strlen (text), "benchmark", &error);
  g_assert_no_error (error);
  g_assert_cmpint (cJSON_GetArraySize (cJSON_GetObjectItem (json, "warm")), ==, 2);
  g_assert_cmpfloat (
      cJSON_GetObjectItem (cJSON_GetObjectItem (json, "floor"), "share")->valuedouble, >, 0.4);
}

static void
test_cancelled (void)
{
  g_autofree char *model = g_build_filename (g_getenv ("TESSERA_TEST_DATA"), "tiny-zimage", NULL);
  const EngineOptions options = { .device = "cpu" };
  EngineRequest request = ENGINE_REQUEST_INIT;
  g_autoptr (Engine) engine = engine_new (model, &options, NULL);
  g_autoptr (GCancellable) cancellable = g_cancellable_new ();
  g_autoptr (GError) error = NULL;
  g_auto (Benchmark) run = { 0 };

  g_cancellable_cancel (cancellable);
  g_assert_false (
      benchmark_run (engine, model, &request, 1, NULL, NULL, cancellable, &run, &error));
  g_assert_error (error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
}

int
main (int argc, char *argv[])
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/benchmark/operations", test_operations);
  g_test_add_func ("/benchmark/run", test_run);
  g_test_add_func ("/benchmark/cancelled", test_cancelled);
  return g_test_run ();
}
