/* SPDX-License-Identifier: Apache-2.0
 *
 * What moves when memory is short, by the CUDA back end on the emulated card: weights that take
 * turns and stream, budgets, other programs, allocations that fail, cancellation. Copies and maths
 * are on queues of their own, which the card serves as late, as early and as oddly as it may, and
 * every picture must be the resident one's bytes.
 */
#include "engine/engine.h"
#include "engine/weight-only/quantize-encoder.h"
#include "tests/engine/emulated/card.h"
#include "tests/engine/lora-files.h"
#include "tests/engine/tiny-engine.h"

#include <glib/gstdio.h>
#include <string.h>

#define CARD_BYTES ((guint64)4 << 30)
#define MIB        ((guint64)1 << 20)
#define SEED       20260123

/* Nothing of the card is held, and the card says so, too. */
static void
assert_nothing_held (Engine *engine)
{
  EngineMemory memory;

  engine_trim (engine);
  engine_get_memory (engine, &memory);
  g_assert_cmpuint (memory.reserved, ==, 0);
  g_assert_cmpuint (memory.pinned, ==, 0);
  g_assert_cmpuint (card_get_free (), ==, CARD_BYTES);
}

/* -- levels and budgets -------------------------------------------------------------------------
 */

/* Draws at every level that moves something, a second time with the images of the weights made. */
static void
check_levels (Engine *engine, const EngineRequest *r, Image *expected)
{
  for (EngineOffload level = ENGINE_OFFLOAD_MODEL; level <= ENGINE_OFFLOAD_STREAM; level++)
    for (int again = 0; again < 2; again++)
      {
        g_autoptr (Image) image = NULL;
        EngineMemory memory;
        EnginePlan plan;

        card_serve (level == ENGINE_OFFLOAD_MODEL ? CARD_LATE
                    : again                       ? CARD_OTHERS_FIRST
                                                  : CARD_BY_CHANCE);
        engine_set_limits (engine, level, 0);
        g_assert_true (engine_plan (engine, r, &plan, NULL));
        image = tiny_draw (engine, r);
        engine_get_memory (engine, &memory);
        g_assert_true (tiny_equal (image, expected));
        g_assert_cmpuint (memory.peak, <=, plan.peak);
      }
}

static void
test_levels (void)
{
  g_autoptr (Engine) engine = tiny_engine_open ("cuda", NULL);
  EngineRequest r = tiny_request (64, 64);
  g_autoptr (Image) expected = NULL;

  card_serve (CARD_AT_ONCE);
  expected = tiny_draw (engine, &r);
  check_levels (engine, &r, expected);
  assert_nothing_held (engine);
}

/* One budget for each way that a smaller one leads to, and one that is too small for any. */
static void
test_budgets (void)
{
  g_autoptr (Engine) engine = tiny_engine_open ("cuda", NULL);
  EngineRequest r = tiny_request (64, 64);
  g_autoptr (Image) expected = NULL;
  EnginePlan plan, last = { 0 };
  guint64 cap;
  int ways = 0;

  card_serve (CARD_AT_ONCE);
  r.prompt = "a blue square";
  expected = tiny_draw (engine, &r);
  engine_trim (engine);
  card_serve (CARD_LATE);
  g_assert_true (engine_plan (engine, &r, &plan, NULL));
  for (cap = plan.peak; plan.fits; cap -= MIB / 8)
    {
      g_autoptr (Image) image = NULL;
      EngineMemory memory;

      engine_set_limits (engine, ENGINE_OFFLOAD_AUTO, cap);
      g_assert_true (engine_plan (engine, &r, &plan, NULL));
      if (!plan.fits
          || (memcmp (plan.parts, last.parts, sizeof plan.parts) == 0 && plan.band == last.band))
        continue;
      last = plan;
      ways++;
      image = tiny_draw (engine, &r);
      engine_get_memory (engine, &memory);
      g_assert_cmpuint (memory.peak, <=, cap);
      g_assert_cmpuint (memory.peak, <=, plan.peak);
      if (plan.band == 0)
        g_assert_true (tiny_equal (image, expected));
    }
  g_test_message ("%d ways, down to %.2f MiB", ways, (double)cap / (double)MIB);
  g_assert_cmpint (ways, >=, 3);
  g_assert_null (engine_generate (engine, &r, NULL, NULL, NULL, NULL));
  assert_nothing_held (engine);
}

/* -- a machine that is not ours alone -----------------------------------------------------------
 */

typedef struct
{
  int call, when;        /* of progress */
  guint64 others;        /* bytes that another program takes then */
  int failing;           /* the n-th allocation from then on fails; 0: none */
  GCancellable *cancels; /* then; NULL: nobody cancels */
} Event;

static void
on_progress (EnginePhase phase, guint step, guint n_steps, Image *preview, gpointer user_data)
{
  Event *self = user_data;

  if (self->call++ != self->when)
    return;
  card_set_others (self->others);
  if (self->failing > 0)
    (void)card_fail_allocation (self->failing);
  if (self->cancels != NULL)
    g_cancellable_cancel (self->cancels);
}

/* The picture, or an error of memory, and then the picture once there is memory again. */
static gboolean
survive (Event *event, const EngineRequest *r, Image *expected)
{
  g_autoptr (Engine) engine = tiny_engine_open ("cuda", NULL);
  g_autoptr (GError) error = NULL;
  g_autoptr (Image) image = engine_generate (engine, r, on_progress, event, NULL, &error);
  gboolean at_once = image != NULL;

  card_set_others (0);
  (void)card_fail_allocation (0);
  if (!at_once)
    {
      g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_MEMORY);
      image = tiny_draw (engine, r);
    }
  g_assert_true (tiny_equal (image, expected));
  assert_nothing_held (engine);
  return at_once;
}

/* Another program leaves little or nothing, at some moment. */
static void
test_squeeze (void)
{
  static const guint64 left[] = { 0, 600 * MIB, 560 * MIB };
  g_autoptr (Engine) engine = tiny_engine_open ("cuda", NULL);
  EngineRequest r = tiny_request (64, 64);
  g_autoptr (Image) expected = NULL;
  Event count = { .when = -1 };
  int at_once = 0, tries = 0;

  card_serve (CARD_BY_CHANCE);
  expected = engine_generate (engine, &r, on_progress, &count, NULL, NULL);
  g_assert_nonnull (expected);
  assert_nothing_held (engine);
  for (int when = 0; when < count.call; when += 2, tries++)
    {
      Event event = { .when = when, .others = CARD_BYTES - left[tries % G_N_ELEMENTS (left)] };

      at_once += survive (&event, &r, expected);
    }
  g_test_message ("%d of %d pictures at once", at_once, tries);
  g_assert_cmpint (at_once, >, 0);
}

static void
test_allocations (void)
{
  g_autoptr (Engine) engine = tiny_engine_open ("cuda", NULL);
  EngineRequest r = tiny_request (64, 64);
  g_autoptr (Image) expected = NULL;
  int n, at_once = 0, tries = 0;

  card_serve (CARD_OTHERS_FIRST);
  (void)card_fail_allocation (0);
  expected = tiny_draw (engine, &r);
  n = card_fail_allocation (0);
  assert_nothing_held (engine);
  for (int i = 1; i <= n; i += n / 4, tries++)
    {
      Event event = { .when = 0, .failing = i };

      at_once += survive (&event, &r, expected);
    }
  g_test_message ("%d allocations; of %d that failed, %d were no matter", n, tries, at_once);
  g_assert_cmpint (at_once, >, tries / 2);
}

static void
test_cancel (void)
{
  g_autoptr (Engine) engine = tiny_engine_open ("cuda", NULL);
  EngineRequest r = tiny_request (64, 64);

  card_serve (CARD_LATE);
  engine_set_limits (engine, ENGINE_OFFLOAD_STREAM, 0);
  for (int when = 3; when < 6; when++)
    {
      g_autoptr (GCancellable) cancellable = g_cancellable_new ();
      g_autoptr (GError) error = NULL;
      Event event = { .when = when, .cancels = cancellable };

      g_assert_null (engine_generate (engine, &r, on_progress, &event, cancellable, &error));
      g_assert_error (error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
    }
  assert_nothing_held (engine);
}

/* -- other weights ------------------------------------------------------------------------------
 */

static void
test_coded_encoder (void)
{
  g_autofree char *model = g_build_filename (g_getenv ("TESSERA_TEST_DATA"), "tiny-zimage", NULL);
  g_autofree char *dir = g_dir_make_tmp ("memory-XXXXXX", NULL);
  g_autofree char *file = g_build_filename (dir, "encoder.safetensors", NULL);
  g_autofree char *text = g_strconcat (file, ".txt", NULL);
  g_autofree char *json = g_strconcat (file, ".json", NULL);
  const QuantizeEncoderJob job = { model, file, 4, NULL };
  EngineRequest r = tiny_request (64, 64);
  g_autoptr (GError) error = NULL;
  g_autoptr (Engine) engine = NULL;
  g_autoptr (Image) expected = NULL;

  quantize_encoder (&job, NULL, NULL, NULL, &error);
  g_assert_no_error (error);
  engine = tiny_engine_open ("cuda", file);
  card_serve (CARD_AT_ONCE);
  expected = tiny_draw (engine, &r);
  check_levels (engine, &r, expected);
  assert_nothing_held (engine);
  g_unlink (file);
  g_unlink (text);
  g_unlink (json);
  g_assert_cmpint (g_rmdir (dir), ==, 0);
}

static void
test_lora (void)
{
  static const char *const blocks[] = { "layers.0", "noise_refiner.0", NULL };
  g_autofree char *base_path
      = g_build_filename (g_getenv ("TESSERA_TEST_DATA"), "tiny-zimage", "transformer",
                          "diffusion_pytorch_model.safetensors", NULL);
  g_autoptr (GError) error = NULL;
  g_autoptr (Safetensors) base = safetensors_open (base_path, &error);
  LoraSample sample = { .base = base, .blocks = blocks, .rank = 4, .seed = SEED };
  g_autoptr (Engine) engine = tiny_engine_open ("cuda", NULL);
  EngineRequest r = tiny_request (64, 64);
  g_autoptr (Image) plain = NULL, expected = NULL;
  EngineLora lora = { .strength = 0.7 };
  char *file;

  g_assert_no_error (error);
  lora.file = file = lora_sample_write (&sample, LORA_PEFT);
  card_serve (CARD_AT_ONCE);
  plain = tiny_draw (engine, &r);
  r.loras = &lora;
  r.n_loras = 1;
  expected = tiny_draw (engine, &r);
  g_assert_false (g_bytes_equal (image_get_bytes (plain), image_get_bytes (expected)));
  check_levels (engine, &r, expected);
  assert_nothing_held (engine);
  lora_remove (file);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/emulated-memory/levels", test_levels);
  g_test_add_func ("/emulated-memory/budgets", test_budgets);
  g_test_add_func ("/emulated-memory/squeeze", test_squeeze);
  g_test_add_func ("/emulated-memory/allocations", test_allocations);
  g_test_add_func ("/emulated-memory/cancel", test_cancel);
  g_test_add_func ("/emulated-memory/coded-encoder", test_coded_encoder);
  g_test_add_func ("/emulated-memory/lora", test_lora);
  return g_test_run ();
}
