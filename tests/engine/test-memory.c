/* SPDX-License-Identifier: Apache-2.0
 *
 * Short of memory: every allocation of a generation fails in its turn, budgets of all sizes are
 * kept, levels give the same picture, and what was computed is not lost. Runs on the CPU, whose
 * every block comes from aligned_alloc; the linker puts ours in front of it.
 */
#include "engine/weight-only/quantize-encoder.h"
#include "tests/engine/tiny-engine.h"

#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>

void *__real_aligned_alloc (size_t alignment, size_t bytes);
void *__wrap_aligned_alloc (size_t alignment, size_t bytes);

/* Which allocations fail. */
static struct
{
  gboolean counting;
  int n;       /* made so far */
  int first;   /* the first that fails; 0 = none */
  gboolean on; /* all behind it fail, too */
} fault;

void *
__wrap_aligned_alloc (size_t alignment, size_t bytes)
{
  if (fault.counting)
    {
      fault.n++;
      if (fault.first > 0 && (fault.n == fault.first || (fault.on && fault.n > fault.first)))
        return NULL;
    }
  return __real_aligned_alloc (alignment, bytes);
}

static void
fail_at (int first, gboolean on)
{
  fault.counting = TRUE;
  fault.n = 0;
  fault.first = first;
  fault.on = on;
}

static void
assert_nothing_held (Engine *engine)
{
  EngineMemory memory;

  engine_trim (engine);
  engine_get_memory (engine, &memory);
  g_assert_cmpuint (memory.reserved, ==, 0);
  g_assert_cmpuint (memory.pinned, ==, 0);
}

/* -- allocations that fail ----------------------------------------------------------------------
 */

/* One generation in a new engine with the n-th allocation failing: the right picture, or an error
 * of memory; and nothing is left of either. TRUE if it was the picture. */
static gboolean
survive (const char *text_encoder, int n, gboolean on, Image *expected)
{
  g_autoptr (Engine) engine = tiny_engine_open ("cpu", text_encoder);
  EngineRequest r = tiny_request (64, 64);
  g_autoptr (GError) error = NULL;
  g_autoptr (Image) image = NULL;

  fail_at (n, on);
  image = engine_generate (engine, &r, NULL, NULL, NULL, &error);
  fault.counting = FALSE;
  if (image != NULL)
    g_assert_true (tiny_equal (image, expected));
  else
    g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_MEMORY);
  assert_nothing_held (engine);
  return image != NULL;
}

/* step: one in so many is tried. */
static void
check_allocations (const char *text_encoder, int step)
{
  g_autoptr (Engine) engine = tiny_engine_open ("cpu", text_encoder);
  EngineRequest r = tiny_request (64, 64);
  g_autoptr (Image) expected = NULL;
  int n, pictures = 0;

  fail_at (0, FALSE);
  expected = tiny_draw (engine, &r);
  n = fault.n;
  fault.counting = FALSE;
  g_assert_cmpint (n, >, 50);

  for (int i = 1; i <= n; i += step)
    pictures += survive (text_encoder, i, FALSE, expected);
  g_test_message ("%d allocations; with one of them failing, %d pictures", n, pictures);
  g_assert_cmpint (pictures, >, n / step / 2); /* it goes on with less */
  for (int i = 1; i <= n; i += 5 * step)
    survive (text_encoder, i, TRUE, expected);
}

static void
test_every_allocation (void)
{
  check_allocations (NULL, 1);
}

/* The text encoder's layers are the first that are loaded. */
static void
test_coded_encoder (void)
{
  g_autofree char *model = g_build_filename (g_getenv ("TESSERA_TEST_DATA"), "tiny-zimage", NULL);
  g_autofree char *dir = g_dir_make_tmp ("memory-XXXXXX", NULL);
  g_autofree char *file = g_build_filename (dir, "encoder.safetensors", NULL);
  g_autofree char *text = g_strconcat (file, ".txt", NULL),
                  *json = g_strconcat (file, ".json", NULL);
  const QuantizeEncoderJob job = { model, file, 4, NULL };
  g_autoptr (GError) error = NULL;

  quantize_encoder (&job, NULL, NULL, NULL, &error);
  g_assert_no_error (error);
  check_allocations (file, 7);
  g_unlink (file);
  g_unlink (text);
  g_unlink (json);
  g_assert_cmpint (g_rmdir (dir), ==, 0);
}

/* -- budgets ------------------------------------------------------------------------------------
 */

static void
test_budgets (void)
{
  g_autoptr (Engine) engine = tiny_engine_open ("cpu", NULL);
  g_autoptr (GRand) rand = g_rand_new_with_seed (20260117);
  g_autoptr (Engine) free_engine = tiny_engine_open ("cpu", NULL);
  int drawn = 0, refused = 0;

  for (int i = 0; i < 40; i++)
    {
      guint64 cap = (guint64)g_rand_int_range (rand, 20, 90) << 20;
      EngineOffload level = (EngineOffload)g_rand_int_range (rand, 0, ENGINE_N_OFFLOADS);
      EngineRequest r = tiny_request (64, 64);
      g_autoptr (GError) error = NULL;
      g_autoptr (Image) image = NULL;
      EngineMemory memory;
      EnginePlan plan;

      r.width = 16 * g_rand_int_range (rand, 4, 17);
      r.height = 16 * g_rand_int_range (rand, 4, 17);
      r.steps = 1;
      engine_set_limits (engine, level, cap);
      g_assert_true (engine_plan (engine, &r, &plan, &error));
      image = engine_generate (engine, &r, NULL, NULL, NULL, &error);
      engine_get_memory (engine, &memory);
      g_assert_cmpuint (memory.peak, <=, cap);
      if (plan.fits)
        {
          g_autoptr (Image) expected = tiny_draw (free_engine, &r);

          g_assert_no_error (error);
          g_assert_cmpuint (memory.peak, <=, plan.peak);
          if (plan.band == 0)
            g_assert_true (tiny_equal (image, expected));
          drawn++;
        }
      else
        {
          g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_MEMORY);
          refused++;
        }
    }
  g_test_message ("%d drawn, %d refused", drawn, refused);
  g_assert_cmpint (drawn, >, 5);
  g_assert_cmpint (refused, >, 5);
  assert_nothing_held (engine);
}

static void
test_levels (void)
{
  g_autoptr (Engine) engine = tiny_engine_open ("cpu", NULL);
  EngineRequest r = tiny_request (64, 64);
  g_autoptr (Image) expected = tiny_draw (engine, &r);

  for (EngineOffload level = 0; level < ENGINE_N_OFFLOADS; level++)
    {
      g_autoptr (Image) image = NULL;
      g_autoptr (Image) again = NULL;

      engine_set_limits (engine, level, 0);
      image = tiny_draw (engine, &r);
      again = tiny_draw (engine, &r); /* the prompt is remembered */
      g_assert_true (tiny_equal (image, expected));
      g_assert_true (tiny_equal (again, expected));
    }
  assert_nothing_held (engine);
}

/* -- planning beside a generation ---------------------------------------------------------------
 */

typedef struct
{
  Engine *engine;
  EnginePlan plan;
  gboolean planned;
} Beside;

static gpointer
plan_thread (gpointer data)
{
  Beside *self = data;
  EngineRequest r = tiny_request (64, 64);

  r.width = 128;
  self->planned = engine_plan (self->engine, &r, &self->plan, NULL);
  return NULL;
}

/* The engine waits here for a plan made on another thread, which so cannot wait for the engine. */
static void
on_progress (EnginePhase phase, guint step, guint n_steps, Image *preview, gpointer user_data)
{
  Beside *self = user_data;

  if (!self->planned)
    g_thread_join (g_thread_new ("plan", plan_thread, self));
}

static void
test_plan_beside (void)
{
  g_autoptr (Engine) engine = tiny_engine_open ("cpu", NULL);
  EngineRequest r = tiny_request (64, 64);
  Beside beside = { .engine = engine };
  g_autoptr (Image) image = engine_generate (engine, &r, on_progress, &beside, NULL, NULL);

  g_assert_nonnull (image);
  g_assert_true (beside.planned);
  g_assert_cmpuint (beside.plan.peak, >, 0);
}

/* -- going on -----------------------------------------------------------------------------------
 */

typedef struct
{
  gboolean starve; /* memory ends when decoding begins */
  guint first_step;
  int steps;
} Watch;

static void
on_watch (EnginePhase phase, guint step, guint n_steps, Image *preview, gpointer user_data)
{
  Watch *self = user_data;

  if (phase == ENGINE_PHASE_DENOISE && self->steps++ == 0)
    self->first_step = step;
  if (phase == ENGINE_PHASE_DENOISE && step == n_steps && self->starve)
    fail_at (1, TRUE);
}

/* When nothing is left the steps done are kept, for the same request only. */
static void
test_resume (void)
{
  g_autoptr (Engine) engine = tiny_engine_open ("cpu", NULL);
  EngineRequest r = tiny_request (64, 64);
  g_autoptr (Image) expected = tiny_draw (engine, &r);
  g_autoptr (GError) error = NULL;
  g_autoptr (Image) image = NULL;
  Watch watch = { .starve = TRUE };

  g_assert_null (engine_generate (engine, &r, on_watch, &watch, NULL, &error));
  fault.counting = FALSE;
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_MEMORY);
  g_clear_error (&error);

  watch = (Watch){ 0 };
  image = engine_generate (engine, &r, on_watch, &watch, NULL, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (watch.first_step, ==, (guint)r.steps);
  g_assert_true (tiny_equal (image, expected));

  g_clear_pointer (&image, image_unref);
  watch = (Watch){ 0 };
  image = engine_generate (engine, &r, on_watch, &watch, NULL, &error);
  g_assert_cmpuint (watch.first_step, ==, 0); /* only once */
  g_assert_true (tiny_equal (image, expected));
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/memory/levels", test_levels);
  g_test_add_func ("/memory/plan-beside", test_plan_beside);
  g_test_add_func ("/memory/resume", test_resume);
  g_test_add_func ("/memory/budgets", test_budgets);
  g_test_add_func ("/memory/coded-encoder", test_coded_encoder);
  g_test_add_func ("/memory/every-allocation", test_every_allocation);
  return g_test_run ();
}
