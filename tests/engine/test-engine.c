/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine as a program uses it: again and again, cancelled, refused, measured.
 */
#include "tests/engine/tiny-engine.h"

#include <glib/gstdio.h>
#include <string.h>

static void
test_repeatable (void)
{
  g_autoptr (Engine) engine = tiny_engine_open ("cpu", NULL);
  EngineRequest r = tiny_request (96, 64);
  g_autoptr (Image) first = engine_generate (engine, &r, NULL, NULL, NULL, NULL);
  g_autoptr (Image) again = engine_generate (engine, &r, NULL, NULL, NULL, NULL);
  g_autoptr (Image) other = NULL;
  g_autoptr (Image) reloaded = NULL;

  g_assert_true (g_bytes_equal (image_get_bytes (first), image_get_bytes (again)));
  r.seed = 8;
  other = engine_generate (engine, &r, NULL, NULL, NULL, NULL);
  g_assert_false (g_bytes_equal (image_get_bytes (first), image_get_bytes (other)));
  engine_trim (engine);
  r.seed = 7;
  reloaded = engine_generate (engine, &r, NULL, NULL, NULL, NULL);
  g_assert_true (g_bytes_equal (image_get_bytes (first), image_get_bytes (reloaded)));
}

/* Every size the request allows must run; the odd ones have padded tokens. */
static void
test_sizes (void)
{
  static const int sizes[][2] = { { 64, 64 }, { 80, 144 }, { 208, 112 }, { 272, 64 } };
  g_autoptr (Engine) engine = tiny_engine_open ("cpu", NULL);

  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      EngineRequest r = tiny_request (96, 64);
      g_autoptr (GError) error = NULL;
      g_autoptr (Image) image = NULL;

      r.width = sizes[i][0];
      r.height = sizes[i][1];
      r.steps = 1;
      image = engine_generate (engine, &r, NULL, NULL, NULL, &error);
      g_assert_no_error (error);
      g_assert_cmpint (image_get_width (image), ==, r.width);
      g_assert_cmpint (image_get_height (image), ==, r.height);
    }
}

/* -- progress and cancelling --------------------------------------------------------------------
 */

typedef struct
{
  GCancellable *cancellable;
  EnginePhase cancel_phase;
  guint calls, previews;
  int last_phase, last_step;
} Watch;

static void
on_progress (EnginePhase phase, guint step, guint n_steps, Image *preview, gpointer user_data)
{
  Watch *self = user_data;

  g_assert_cmpint ((int)phase, >=, self->last_phase);
  g_assert_cmpuint (step, <=, n_steps);
  if ((int)phase == self->last_phase)
    g_assert_cmpint ((int)step, >, self->last_step);
  self->last_phase = (int)phase;
  self->last_step = (int)step;
  self->calls++;
  if (preview != NULL)
    {
      self->previews++;
      g_assert_cmpint (image_get_width (preview), ==, 96 / 8);
      g_assert_cmpint (image_get_height (preview), ==, 64 / 8);
    }
  if (self->cancellable != NULL && phase == self->cancel_phase)
    g_cancellable_cancel (self->cancellable);
}

static void
test_progress (void)
{
  g_autoptr (Engine) engine = tiny_engine_open ("cpu", NULL);
  EngineRequest r = tiny_request (96, 64);
  Watch watch = { .last_phase = -1 };
  g_autoptr (Image) image = engine_generate (engine, &r, on_progress, &watch, NULL, NULL);

  g_assert_nonnull (image);
  g_assert_cmpint (watch.last_phase, ==, ENGINE_PHASE_DECODE);
  g_assert_cmpuint (watch.previews, ==, 2);
}

static void
test_cancel (void)
{
  g_autoptr (Engine) engine = tiny_engine_open ("cpu", NULL);
  g_autoptr (Image) image = NULL;
  EngineRequest r = tiny_request (96, 64);

  for (int phase = 0; phase < ENGINE_N_PHASES; phase++)
    {
      g_autoptr (GCancellable) cancellable = g_cancellable_new ();
      g_autoptr (GError) error = NULL;
      Watch watch = { .cancellable = cancellable, .cancel_phase = phase, .last_phase = -1 };

      g_assert_null (engine_generate (engine, &r, on_progress, &watch, cancellable, &error));
      g_assert_error (error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
      engine_trim (engine);
    }
  image = engine_generate (engine, &r, NULL, NULL, NULL, NULL);
  g_assert_nonnull (image); /* it still works */
}

/* -- refusals -----------------------------------------------------------------------------------
 */

static void
test_refusals (void)
{
  g_autoptr (Engine) engine = tiny_engine_open ("cpu", NULL);
  EngineRequest r = tiny_request (96, 64);
  g_autoptr (GError) error = NULL;
  EngineOptions options = { .device = "toaster" };

  r.width = 100;
  g_assert_null (engine_generate (engine, &r, NULL, NULL, NULL, &error));
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST);
  g_clear_error (&error);

  r = tiny_request (96, 64);
  r.precision = ENGINE_PRECISION_SVDQUANT;
  g_assert_false (engine_supports (engine, r.precision, &error));
  g_clear_error (&error);
  g_assert_null (engine_generate (engine, &r, NULL, NULL, NULL, &error));
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL);
  g_clear_error (&error);

  r = tiny_request (96, 64);
  r.latents_file = "/nowhere.safetensors";
  g_assert_null (engine_generate (engine, &r, NULL, NULL, NULL, &error));
  g_assert_nonnull (strstr (error->message, "/nowhere.safetensors"));
  g_clear_error (&error);

  g_assert_null (engine_new ("/nowhere", NULL, &error));
  g_assert_nonnull (strstr (error->message, "/nowhere"));
  g_clear_error (&error);
  g_assert_null (engine_new (".", &options, &error));
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_NO_DEVICE);
}

static void
test_latents_file (void)
{
  g_autofree char *path = g_build_filename (g_get_tmp_dir (), "tessera-latents-XXXXXX", NULL);
  g_autoptr (Engine) engine = tiny_engine_open ("cpu", NULL);
  EngineRequest r = tiny_request (96, 64);
  g_autoptr (GError) error = NULL;
  g_autoptr (Image) image = NULL;
  g_autoptr (Image) again = NULL;

  g_close (g_mkstemp (path), NULL);
  engine_set_trace (engine, path);
  image = engine_generate (engine, &r, NULL, NULL, NULL, &error);
  g_assert_no_error (error);
  engine_set_trace (engine, NULL);
  r.latents_file = path;
  r.seed = 1234; /* not used */
  again = engine_generate (engine, &r, NULL, NULL, NULL, &error);
  g_assert_no_error (error);
  g_assert_true (g_bytes_equal (image_get_bytes (image), image_get_bytes (again)));

  r.width = 64; /* the file's latents have another shape */
  g_assert_null (engine_generate (engine, &r, NULL, NULL, NULL, &error));
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST);
  g_unlink (path);
}

/* -- memory -------------------------------------------------------------------------------------
 */

/* What the device held at most is what the plan says: weights and the largest arena, and the
 * kernels' scratch, which stays below a tenth. */
static void
test_plan (void)
{
  g_autoptr (Engine) engine = tiny_engine_open ("cpu", NULL);
  EngineRequest r = tiny_request (96, 64);
  g_autoptr (GError) error = NULL;
  g_autoptr (Image) image = NULL;
  EnginePlan plan;
  EngineMemory memory;

  r.width = r.height = 512;
  r.steps = 1;
  g_assert_true (engine_plan (engine, &r, &plan, &error));
  g_assert_no_error (error);
  g_assert_true (plan.fits);
  image = engine_generate (engine, &r, NULL, NULL, NULL, &error);
  g_assert_no_error (error);
  engine_get_memory (engine, &memory);
  g_test_message ("planned %.1f MB, peak %.1f MB", (double)plan.peak / 1e6,
                  (double)memory.peak / 1e6);
  g_assert_cmpuint (memory.peak, <=, plan.peak + plan.peak / 10);
  g_assert_cmpuint (memory.peak, >=, plan.activations);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/engine/repeatable", test_repeatable);
  g_test_add_func ("/engine/sizes", test_sizes);
  g_test_add_func ("/engine/progress", test_progress);
  g_test_add_func ("/engine/cancel", test_cancel);
  g_test_add_func ("/engine/refusals", test_refusals);
  g_test_add_func ("/engine/latents-file", test_latents_file);
  g_test_add_func ("/engine/plan", test_plan);
  return g_test_run ();
}
