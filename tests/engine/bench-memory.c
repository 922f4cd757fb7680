/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether plans come true: requests at several budgets, and what streaming costs.
 *
 *   bench-memory MODEL OUT.json [SECONDS [DEVICE [TYPE,... [SIZE [PART,...]]]]]
 *
 * SIZE is the largest picture. Parts, in this order (all but the last unless named): `levels`: the
 * offload levels at one size, against a picture without a budget; `cells`: every budget x type x
 * size, against such pictures; `random`: random requests among the cells, while SECONDS last;
 * `encoders`: small budgets with a text encoder in 8 and 4 bit; `squeeze`: another program takes
 * the device's memory while pictures are drawn. Everything goes into OUT.json as soon as it is
 * known, and a table to standard output.
 * Exits with 1 if a picture differs from the resident run's, memory goes beyond the budget, or a
 * request fails that the plan said fits.
 */
#include "tests/engine/bench-memory.h"

#include "engine/files/json.h"

#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>

#define CELL_STEPS 4 /* enough to see a step's time; levels are measured with 8 */

#define LEVELS_SIZE 1024

static const int sizes[] = { 512, LEVELS_SIZE, 2048 };

const guint64 bench_caps[BENCH_N_CAPS] = { 6 * GIB, 8 * GIB, 12 * GIB, 16 * GIB, 24 * GIB };
const char *const bench_types[BENCH_N_TYPES] = { "bf16", "int4", "nvfp4" };

/* -- one picture --------------------------------------------------------------------------------
 */

typedef struct
{
  gint64 begun, phases[ENGINE_N_PHASES], ended;
  gint64 steps[ENGINE_REQUEST_MAX_STEPS + 1];
} Timeline;

static void
on_progress (EnginePhase phase, guint step, guint n_steps, Image *preview, gpointer user_data)
{
  Timeline *t = user_data;

  if (t->phases[phase] == 0)
    t->phases[phase] = g_get_monotonic_time ();
  if (phase == ENGINE_PHASE_DENOISE)
    t->steps[step] = g_get_monotonic_time ();
}

static double
seconds (gint64 from, gint64 to)
{
  return from > 0 && to > from ? (double)(to - from) / 1e6 : 0.0;
}

typedef struct
{
  gboolean ok;
  double total, step; /* of the later steps */
  double first_step;  /* from the phase's begin to the first step's end */
  guint64 peak;
  Image *image; /* (owned) */
} Result;

EngineRequest
bench_request (int type, int width, int height, int steps)
{
  EngineRequest r = ENGINE_REQUEST_INIT;

  r.precision = type > 0 ? ENGINE_PRECISION_SVDQUANT : ENGINE_PRECISION_BF16;
  r.width = width;
  r.height = height;
  r.steps = steps;
  r.seed = 42;
  return r;
}

static Result
draw (Engine *engine, const EngineRequest *request, GError **error)
{
  Timeline t = { .begun = g_get_monotonic_time () };
  Image *image = engine_generate (engine, request, on_progress, &t, NULL, error);
  Result result = { .ok = image != NULL, .image = image };
  EngineMemory memory;
  int n = request->steps;

  t.ended = g_get_monotonic_time ();
  engine_get_memory (engine, &memory);
  result.peak = memory.peak;
  if (image == NULL)
    return result;
  result.total = seconds (t.begun, t.ended);
  result.step = n > 1 ? seconds (t.steps[1], t.steps[n]) / (n - 1) : 0.0;
  result.first_step = seconds (t.steps[0], t.steps[1]);
  return result;
}

char *
bench_prompt (int first)
{
  GString *text = g_string_new (NULL);

  g_string_printf (text, "p%04d", first);
  for (int i = 0; i < 110; i++)
    g_string_append_printf (text, " word%d", i);
  return g_string_free (text, FALSE);
}

int
bench_difference (const Image *a, const Image *b)
{
  gsize n, other;
  const guint8 *x, *y;
  int most = 0;

  if (a == NULL || b == NULL)
    return 256;
  x = g_bytes_get_data (image_get_bytes (a), &n);
  y = g_bytes_get_data (image_get_bytes (b), &other);
  for (gsize i = 0; i < MAX (n, other); i++)
    most = MAX (most, n == other ? abs ((int)x[i] - (int)y[i]) : 256);
  return most;
}

void
bench_fail (Bench *self, const char *what, const char *why)
{
  g_print ("FAILED: %s: %s\n", what, why);
  self->failures++;
}

void
bench_save (Bench *self)
{
  g_autoptr (GError) error = NULL;
  char *text;

  cJSON_DeleteItemFromObjectCaseSensitive (self->root, "failures");
  cJSON_AddNumberToObject (self->root, "failures", self->failures);
  text = cJSON_Print (self->root);
  if (!g_file_set_contents (self->output, text, -1, &error))
    bench_fail (self, "writing", error->message);
  cJSON_free (text);
}

/* -- parts of the benchmark ---------------------------------------------------------------------
 */

Engine *
bench_open (Bench *self, int type, const char *text_encoder)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (Engine) engine = NULL;
  EngineOptions options = { .device = self->device,
                            .calibration_file = self->calibration,
                            .text_encoder_file = text_encoder,
                            .svdquant_type = type > 0 ? bench_types[type] : NULL };

  if (self->only != NULL && strstr (self->only, bench_types[type]) == NULL)
    return NULL;
  engine = engine_new (self->model, &options, &error);
  if (engine != NULL
      && engine_supports (engine, type > 0 ? ENGINE_PRECISION_SVDQUANT : ENGINE_PRECISION_BF16,
                          &error))
    return g_steal_pointer (&engine);
  g_print ("%s: %s\n", bench_types[type], error->message);
  return NULL;
}

static cJSON *
add_row (Bench *self, const char *list, int type, int size)
{
  cJSON *array = cJSON_GetObjectItemCaseSensitive (self->root, list);
  cJSON *row = cJSON_CreateObject ();

  if (array == NULL)
    array = cJSON_AddArrayToObject (self->root, list);
  cJSON_AddItemToArray (array, row);
  cJSON_AddStringToObject (row, "type", bench_types[type]);
  cJSON_AddNumberToObject (row, "size", size);
  return row;
}

static void
add_result (cJSON *row, const EnginePlan *plan, const Result *result)
{
  cJSON_AddNumberToObject (row, "planned_peak", (double)plan->peak);
  cJSON_AddNumberToObject (row, "peak", (double)result->peak);
  cJSON_AddNumberToObject (row, "planned_seconds", plan->seconds);
  cJSON_AddNumberToObject (row, "seconds", result->total);
  cJSON_AddNumberToObject (row, "step", result->step);
  cJSON_AddNumberToObject (row, "first_step", result->first_step);
  cJSON_AddNumberToObject (row, "band", plan->band);
  cJSON_AddNumberToObject (row, "streamed", plan->parts[ENGINE_PART_TRANSFORMER].streamed);
  cJSON_AddNumberToObject (row, "encoder_streamed", plan->parts[ENGINE_PART_TEXT_ENCODER].streamed);
  cJSON_AddBoolToObject (row, "transformer_leaves", plan->parts[ENGINE_PART_TRANSFORMER].leaves);
  cJSON_AddBoolToObject (row, "encoder_leaves", plan->parts[ENGINE_PART_TEXT_ENCODER].leaves);
  cJSON_AddNumberToObject (row, "pinned", (double)plan->pinned);
}

/* Two pictures: one of a prompt that is the same for all, so that it can be compared, and which
 * loads what is not there; and one of a new prompt, which is timed. */
static gboolean
measure (Bench *self, Engine *engine, const EngineRequest *like, EnginePlan *plan, Result *result,
         const char *what)
{
  g_autofree char *other = bench_prompt (++self->prompt), *same = bench_prompt (0);
  g_autoptr (GError) error = NULL;
  EngineRequest r = *like;
  Result first;

  *plan = (EnginePlan){ 0 };
  r.prompt = other;
  if (!engine_plan (engine, &r, plan, &error))
    {
      bench_fail (self, what, error->message);
      return FALSE;
    }
  if (!plan->fits)
    return FALSE;
  r.prompt = same;
  r.steps = 2;
  first = draw (engine, &r, &error);
  if (first.ok)
    {
      r.prompt = other;
      r.steps = like->steps;
      *result = draw (engine, &r, &error);
      image_unref (result->image);
    }
  if (!first.ok || !result->ok)
    {
      bench_fail (self, what, error->message);
      image_unref (first.image);
      return FALSE;
    }
  result->image = first.image;
  result->peak = MAX (first.peak, result->peak);
  return TRUE;
}

static gboolean
wants (const Bench *self, const char *part)
{
  return self->parts != NULL ? strstr (self->parts, part) != NULL : !g_str_equal (part, "squeeze");
}

/* Without a budget; the second picture of each is timed, and remembered as a calibration. */
static void
run_reference (Bench *self, int type)
{
  g_print (
      "\n| type | size | seconds | a step | planned GiB | peak GiB |\n|---|---|---|---|---|---|\n");
  engine_set_limits (self->engines[type], ENGINE_OFFLOAD_NONE, 0);
  for (guint i = 0; i < BENCH_N_SIZES; i++)
    {
      EngineRequest r = bench_request (type, sizes[i], sizes[i], CELL_STEPS);
      Result result = { 0 };
      EnginePlan plan;

      if (sizes[i] > self->largest || (sizes[i] != LEVELS_SIZE && !wants (self, "cells")))
        continue;
      if (!measure (self, self->engines[type], &r, &plan, &result, "reference"))
        continue;
      self->images[type][i] = result.image;
      add_result (add_row (self, "reference", type, sizes[i]), &plan, &result);
      g_print ("| %s | %d | %.3f | %.4f | %.3f | %.3f |\n", bench_types[type], sizes[i],
               result.total, result.step, (double)plan.peak / GIB, (double)result.peak / GIB);
      bench_save (self);
    }
}

/* Seconds a byte of the link to the device, from the calibration: the best that was seen, for
 * least else happened beside it; 0 if none was. */
static double
link_speed (Bench *self, const char *device)
{
  g_autoptr (cJSON) root = json_load (self->calibration, 1 << 20, NULL);
  const cJSON *point;
  double best = 0.0;

  cJSON_ArrayForEach (point, cJSON_GetObjectItemCaseSensitive (
                                 cJSON_GetObjectItemCaseSensitive (root, device), "link"))
  {
    const cJSON *bytes = cJSON_GetArrayItem (point, 0), *seconds = cJSON_GetArrayItem (point, 1);
    double speed = seconds->valuedouble / bytes->valuedouble;

    best = best > 0 ? MIN (best, speed) : speed;
  }
  return best;
}

/* Turns and streaming at 16 GiB, against the resident picture. */
static void
run_levels (Bench *self, int type)
{
  static const EngineOffload levels[]
      = { ENGINE_OFFLOAD_NONE, ENGINE_OFFLOAD_MODEL, ENGINE_OFFLOAD_STREAM };
  EngineRequest r = bench_request (type, LEVELS_SIZE, LEVELS_SIZE, 8);
  EngineDevice device;

  engine_get_device (self->engines[type], &device);
  for (guint i = 0; i < G_N_ELEMENTS (levels); i++)
    {
      Result result = { 0 };
      EnginePlan plan;
      cJSON *row;

      engine_set_limits (self->engines[type], levels[i],
                         levels[i] == ENGINE_OFFLOAD_NONE ? 0 : 16 * GIB);
      if (!measure (self, self->engines[type], &r, &plan, &result, engine_offload_name (levels[i])))
        continue;
      row = add_row (self, "levels", type, LEVELS_SIZE);
      cJSON_AddStringToObject (row, "level", engine_offload_name (levels[i]));
      cJSON_AddNumberToObject (row, "seconds_a_byte", link_speed (self, device.name));
      for (int part = 0; part < 2; part++)
        cJSON_AddNumberToObject (row, part == 0 ? "encoder_pinned" : "transformer_pinned",
                                 (double)plan.parts[part].pinned);
      add_result (row, &plan, &result);
      g_print ("level %s: %.4f s, a step %.4f s, first %.4f s, peak %.2f GiB, link %.2f GB/s, "
               "pinned %.3f GB\n",
               engine_offload_name (levels[i]), result.total, result.step, result.first_step,
               (double)result.peak / GIB, 1e-9 / link_speed (self, device.name),
               1e-9 * (double)plan.pinned);
      if (bench_difference (result.image, self->images[type][1]) != 0)
        bench_fail (self, "level", "the picture is not the resident one");
      image_unref (result.image);
      bench_save (self);
    }
}

/* Draws at a budget and adds what came of it to `row`. Bands of the decoder round otherwise than
 * the whole does. */
static void
run_cell (Bench *self, Engine *engine, guint64 cap, const EngineRequest *r, const Image *resident,
          cJSON *row, const char *what)
{
  Result result = { 0 };
  EnginePlan plan;
  char planned[16] = "none yet", off[16] = "";
  gboolean drawn;
  int differ;

  engine_set_limits (engine, ENGINE_OFFLOAD_AUTO, cap);
  drawn = measure (self, engine, r, &plan, &result, what);
  cJSON_AddNumberToObject (row, "cap", (double)cap);
  cJSON_AddBoolToObject (row, "fits", plan.fits);
  if (!drawn)
    {
      g_print ("| %s | %s |\n", what, plan.fits ? "failed" : "refused");
      return;
    }
  differ = resident != NULL ? bench_difference (result.image, resident) : 0;
  add_result (row, &plan, &result);
  if (resident != NULL)
    cJSON_AddNumberToObject (row, "differs_by", differ);
  if (result.peak > cap)
    bench_fail (self, what, "more memory than the budget");
  if (differ > (plan.band > 0 ? 2 : 0))
    bench_fail (self, what, "the picture is not the resident one");
  if (plan.seconds > 0) /* 0: nothing was drawn yet that says how long it will take */
    {
      g_snprintf (planned, sizeof planned, "%.3f", plan.seconds);
      g_snprintf (off, sizeof off, "%+.0f %%", (plan.seconds / result.total - 1) * 100);
    }
  g_print ("| %s | %.2f | %.2f | %+.1f %% | %s | %.3f | %s | %s%s, %d, band %d |\n", what,
           (double)plan.peak / GIB, (double)result.peak / GIB,
           ((double)plan.peak / (double)result.peak - 1) * 100, planned, result.total, off,
           plan.parts[ENGINE_PART_TEXT_ENCODER].leaves ? "encoder" : "",
           plan.parts[ENGINE_PART_TRANSFORMER].leaves ? "+transformer" : "",
           plan.parts[ENGINE_PART_TRANSFORMER].streamed, plan.band);
  image_unref (result.image);
}

#define CELL_HEAD                                                                                  \
  "\n| cap, type, size | planned GiB | peak GiB | | planned s | s | | leaves, streamed, band "     \
  "|\n|---|---|---|---|---|---|---|---|\n"

static void
run_cells (Bench *self, int type, Randoms *randoms, gint64 deadline)
{
  g_print (CELL_HEAD);
  for (int i = 0; i < BENCH_N_CAPS; i++)
    {
      for (guint size = 0; size < BENCH_N_SIZES; size++)
        if (sizes[size] <= self->largest)
          {
            EngineRequest r = bench_request (type, sizes[size], sizes[size], CELL_STEPS);
            g_autofree char *what = g_strdup_printf ("%d GiB, %s, %d", (int)(bench_caps[i] / GIB),
                                                     bench_types[type], sizes[size]);

            run_cell (self, self->engines[type], bench_caps[i], &r, self->images[type][size],
                      add_row (self, "cells", type, sizes[size]), what);
            bench_save (self);
          }
      bench_random_run (randoms, type, ENGINE_OFFLOAD_AUTO, i, deadline);
    }
}

/* All there is to know of a type, in an order in which weights change their places seldom. */
static void
run_type (Bench *self, int type, Randoms *randoms)
{
  /* BF16 takes longer than the others. */
  gint64 deadline = self->begun + (self->deadline - self->begun) * (4 + 3 * type) / 10;

  run_reference (self, type);
  bench_random_residents (randoms, type);
  bench_random_run (randoms, type, ENGINE_OFFLOAD_NONE, -1, deadline);
  if (wants (self, "levels") && self->largest >= LEVELS_SIZE)
    run_levels (self, type);
  bench_random_run (randoms, type, ENGINE_OFFLOAD_STREAM, -1, deadline);
  bench_random_run (randoms, type, ENGINE_OFFLOAD_MODEL, -1, deadline);
  if (wants (self, "cells"))
    run_cells (self, type, randoms, deadline);
  bench_random_settle (randoms, type);
  engine_trim (self->engines[type]);
}

/* The small budgets with a text encoder in codes; at 12 GiB and 1024 first, whose picture stands
 * for the others. */
static void
run_encoder (Bench *self, int type, const char *text_encoder)
{
  static const guint64 budgets[] = { 12 * GIB, 8 * GIB, 6 * GIB };
  g_autoptr (Engine) engine = bench_open (self, type, text_encoder);
  g_autoptr (Image) first = NULL;
  EngineRequest r = bench_request (type, 1024, 1024, CELL_STEPS);

  if (engine == NULL)
    return;
  engine_set_limits (engine, ENGINE_OFFLOAD_NONE, 0);
  {
    g_autofree char *same = bench_prompt (0);
    EngineRequest twice = r;
    Result result;

    twice.prompt = same;
    twice.steps = 2;
    result = draw (engine, &twice, NULL);
    first = result.image;
  }
  for (guint i = 0; i < G_N_ELEMENTS (budgets); i++)
    {
      g_autofree char *what = g_strdup_printf (
          "%d GiB, %s, 1024, encoder %s", (int)(budgets[i] / GIB), bench_types[type], text_encoder);
      cJSON *row = add_row (self, "encoders", type, 1024);

      cJSON_AddStringToObject (row, "encoder", text_encoder);
      run_cell (self, engine, budgets[i], &r, first, row, what);
      bench_save (self);
    }
}

static void
run_encoders (Bench *self)
{
  static const char *const encoders[] = { "synthetic:8", "synthetic:4" };

  g_print (CELL_HEAD);
  for (int type = 0; type < BENCH_N_TYPES; type++)
    for (guint i = 0; i < G_N_ELEMENTS (encoders); i++)
      if (type < 2) /* of 4-bit types one is enough: the encoder is the same */
        run_encoder (self, type, encoders[i]);
}

/* After engine_trim nothing is left. */
static void
check_trim (Bench *self)
{
  for (guint i = 0; i < BENCH_N_TYPES; i++)
    if (self->engines[i] != NULL)
      {
        EngineMemory memory;

        engine_trim (self->engines[i]);
        engine_get_memory (self->engines[i], &memory);
        if (memory.reserved != 0 || memory.pinned != 0)
          bench_fail (self, "trim", "something is still held");
      }
}

static void
run (Bench *self)
{
  Randoms *randoms = wants (self, "random") ? bench_random_new (self) : NULL;

  for (int type = 0; type < BENCH_N_TYPES; type++)
    self->engines[type] = bench_open (self, type, NULL);
  for (int type = 0; type < BENCH_N_TYPES; type++)
    if (self->engines[type] != NULL && (wants (self, "levels") || wants (self, "cells")))
      run_type (self, type, randoms);
  bench_random_free (randoms);
  if (wants (self, "encoders"))
    run_encoders (self);
  if (wants (self, "squeeze"))
    bench_squeeze (self);
  check_trim (self);
  bench_save (self);
}

int
main (int argc, char **argv)
{
  Bench self = { .root = cJSON_CreateObject () };

  engine_init_process (argv);
  if (argc == 3 && g_str_equal (argv[1], BENCH_TAKE))
    return bench_take_main (argv[2]);
  if (argc < 3)
    {
      g_printerr (
          "usage: bench-memory MODEL OUT.json [SECONDS [DEVICE [TYPE,... [SIZE [PART,...]]]]]\n"
          "SECONDS end parts random and squeeze; SIZE: the largest picture; others of PART: "
          "levels, "
          "cells, encoders\n");
      return 2;
    }
  self.model = argv[1];
  self.output = argv[2];
  self.device = argc > 4 ? argv[4] : "cuda";
  self.only = argc > 5 ? argv[5] : NULL;
  self.largest = argc > 6 ? atoi (argv[6]) : sizes[BENCH_N_SIZES - 1];
  self.parts = argc > 7 ? argv[7] : NULL;
  self.begun = g_get_monotonic_time ();
  self.deadline = g_get_monotonic_time () + G_USEC_PER_SEC * (argc > 3 ? atoi (argv[3]) : 300);
  self.calibration = g_strconcat (argv[2], ".calibration", NULL);
  g_unlink (self.calibration);
  cJSON_AddStringToObject (self.root, "model", self.model);
  run (&self);
  for (guint i = 0; i < BENCH_N_TYPES; i++)
    {
      engine_free (self.engines[i]);
      for (guint size = 0; size < BENCH_N_SIZES; size++)
        image_unref (self.images[i][size]);
    }
  g_free (self.calibration);
  cJSON_Delete (self.root);
  return self.failures > 0;
}
