/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether plans come true: requests at several budgets, and what streaming costs.
 *
 *   bench-memory MODEL OUT.json [SECONDS [DEVICE [TYPE,... [SIZE]]]]
 *
 * SIZE is the largest picture for the 4-bit types, which cards without such products compute
 * slowly. First pictures without a budget, for reference and to calibrate; then the offload levels
 * at one size; then every budget x type x size; then, while SECONDS last, random requests.
 * Everything goes into OUT.json, and a table to standard output. Exits with 1 if a picture differs
 * from the resident run's, memory goes beyond the budget, or a request fails that the plan said
 * fits.
 */
#include "engine/engine.h"
#include "engine/json.h"

#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>

#define GIB        ((guint64)1 << 30)
#define CELL_STEPS 4 /* enough to see a step's time; levels are measured with 8 */

static const guint64 caps[] = { 6 * GIB, 8 * GIB, 12 * GIB, 16 * GIB, 24 * GIB };
static const int sizes[] = { 512, 1024, 2048 };
static const char *const types[] = { "bf16", "int4", "nvfp4" };

typedef struct
{
  gint64 begun, phases[ENGINE_N_PHASES], ended;
  gint64 steps[ENGINE_REQUEST_MAX_STEPS + 1];
} Timeline;

typedef struct
{
  const char *model, *device, *only;
  char *calibration;
  Engine *engines[G_N_ELEMENTS (types)]; /* NULL: this type cannot be run */
  char *hashes[G_N_ELEMENTS (types)][G_N_ELEMENTS (sizes)];
  gint64 deadline;
  int prompt; /* a new one each time, so that none is remembered */
  int failures;
  int largest; /* of 4-bit pictures */
  cJSON *root;
} Bench;

/* -- one picture --------------------------------------------------------------------------------
 */

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
  char *hash; /* of the pixels */
} Result;

static EngineRequest
make_request (int type, int width, int height, int steps)
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
  g_autoptr (Image) image = engine_generate (engine, request, on_progress, &t, NULL, error);
  Result result = { .ok = image != NULL };
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
  result.hash = g_compute_checksum_for_bytes (G_CHECKSUM_SHA1, image_get_bytes (image));
  return result;
}

/* Words enough for 128 tokens; the first one makes the prompt a new one of the same embeddings'
 * length, but of other embeddings. */
static char *
make_prompt (int first)
{
  GString *text = g_string_new (NULL);

  g_string_printf (text, "p%d", first);
  for (int i = 0; i < 110; i++)
    g_string_append_printf (text, " word%d", i);
  return g_string_free (text, FALSE);
}

static void
fail (Bench *self, const char *what, const char *why)
{
  g_print ("FAILED: %s: %s\n", what, why);
  self->failures++;
}

/* -- parts of the benchmark ---------------------------------------------------------------------
 */

static void
open_engines (Bench *self)
{
  for (guint i = 0; i < G_N_ELEMENTS (types); i++)
    {
      g_autoptr (GError) error = NULL;
      EngineOptions options = { .device = self->device,
                                .calibration_file = self->calibration,
                                .svdquant_type = i > 0 ? types[i] : NULL };

      if (self->only != NULL && strstr (self->only, types[i]) == NULL)
        continue;
      self->engines[i] = engine_new (self->model, &options, &error);
      if (self->engines[i] != NULL
          && engine_supports (self->engines[i],
                              i > 0 ? ENGINE_PRECISION_SVDQUANT : ENGINE_PRECISION_BF16, &error))
        continue;
      g_print ("%s: %s\n", types[i], error->message);
      g_clear_pointer (&self->engines[i], engine_free);
    }
}

static cJSON *
add_row (Bench *self, const char *list, int type, int size)
{
  cJSON *array = cJSON_GetObjectItemCaseSensitive (self->root, list);
  cJSON *row = cJSON_CreateObject ();

  if (array == NULL)
    array = cJSON_AddArrayToObject (self->root, list);
  cJSON_AddItemToArray (array, row);
  cJSON_AddStringToObject (row, "type", types[type]);
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
measure (Bench *self, int type, int size, int steps, EnginePlan *plan, Result *result,
         const char *what)
{
  g_autofree char *other = make_prompt (++self->prompt), *same = make_prompt (0);
  g_autoptr (GError) error = NULL;
  EngineRequest r = make_request (type, size, size, steps);
  Result first;

  r.prompt = other;
  if (!engine_plan (self->engines[type], &r, plan, &error))
    {
      fail (self, what, error->message);
      return FALSE;
    }
  if (!plan->fits)
    return FALSE;
  r.prompt = same;
  r.steps = 2;
  first = draw (self->engines[type], &r, &error);
  if (first.ok)
    {
      r.prompt = other;
      r.steps = steps;
      *result = draw (self->engines[type], &r, &error);
      g_free (result->hash);
    }
  if (!first.ok || !result->ok)
    {
      fail (self, what, error->message);
      return FALSE;
    }
  result->hash = first.hash;
  result->peak = MAX (first.peak, result->peak);
  return TRUE;
}

/* Without a budget; the second picture of each is timed, and remembered as a calibration. */
static void
run_reference (Bench *self, int type)
{
  g_print (
      "\n| type | size | seconds | a step | planned GiB | peak GiB |\n|---|---|---|---|---|---|\n");
  engine_set_limits (self->engines[type], ENGINE_OFFLOAD_NONE, 0);
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      Result result = { 0 };
      EnginePlan plan;

      if (type > 0 && sizes[i] > self->largest)
        continue;
      if (!measure (self, type, sizes[i], CELL_STEPS, &plan, &result, "reference"))
        continue;
      self->hashes[type][i] = result.hash;
      add_result (add_row (self, "reference", type, sizes[i]), &plan, &result);
      g_print ("| %s | %d | %.3f | %.4f | %.3f | %.3f |\n", types[type], sizes[i], result.total,
               result.step, (double)plan.peak / GIB, (double)result.peak / GIB);
    }
}

/* Seconds a byte of the link to the device, from the calibration; 0 if it is not known. */
static double
link_speed (Bench *self, const char *device)
{
  g_autoptr (cJSON) root = json_load (self->calibration, 1 << 20, NULL);
  const cJSON *list
      = cJSON_GetObjectItemCaseSensitive (cJSON_GetObjectItemCaseSensitive (root, device), "link");
  const cJSON *point = cJSON_GetArrayItem (list, cJSON_GetArraySize (list) - 1);

  if (!cJSON_IsArray (point))
    return 0.0;
  return cJSON_GetArrayItem (point, 1)->valuedouble / cJSON_GetArrayItem (point, 0)->valuedouble;
}

/* Turns and streaming at 16 GiB, 1024 x 1024, against the resident picture. */
static void
run_levels (Bench *self, int type)
{
  static const EngineOffload levels[]
      = { ENGINE_OFFLOAD_NONE, ENGINE_OFFLOAD_MODEL, ENGINE_OFFLOAD_STREAM };
  EngineDevice device;

  engine_get_device (self->engines[type], &device);
  for (guint i = 0; i < G_N_ELEMENTS (levels); i++)
    {
      Result result = { 0 };
      EnginePlan plan;
      cJSON *row;

      engine_set_limits (self->engines[type], levels[i],
                         levels[i] == ENGINE_OFFLOAD_NONE ? 0 : 16 * GIB);
      if (!measure (self, type, 1024, 8, &plan, &result, engine_offload_name (levels[i])))
        continue;
      row = add_row (self, "levels", type, 1024);
      cJSON_AddStringToObject (row, "level", engine_offload_name (levels[i]));
      cJSON_AddNumberToObject (row, "seconds_a_byte", link_speed (self, device.name));
      for (int part = 0; part < 2; part++)
        cJSON_AddNumberToObject (row, part == 0 ? "encoder_pinned" : "transformer_pinned",
                                 (double)plan.parts[part].pinned);
      add_result (row, &plan, &result);
      g_print ("level %s: %.3f s, a step %.4f s, first %.4f s, peak %.2f GiB, link %.1f GB/s%s\n",
               engine_offload_name (levels[i]), result.total, result.step, result.first_step,
               (double)result.peak / GIB, 1e-9 / link_speed (self, device.name),
               g_strcmp0 (result.hash, self->hashes[type][1]) == 0 ? "" : ", PICTURE DIFFERS");
      if (g_strcmp0 (result.hash, self->hashes[type][1]) != 0)
        fail (self, "level", "the picture is not the resident one");
      g_free (result.hash);
    }
}

static void
run_cell (Bench *self, guint64 cap, int type, guint size)
{
  g_autofree char *what
      = g_strdup_printf ("%s %d at %" G_GUINT64_FORMAT " GiB", types[type], sizes[size], cap / GIB);
  Result result = { 0 };
  EnginePlan plan;
  gboolean drawn, equal;
  cJSON *row;

  engine_set_limits (self->engines[type], ENGINE_OFFLOAD_AUTO, cap);
  drawn = measure (self, type, sizes[size], CELL_STEPS, &plan, &result, what);
  row = add_row (self, "cells", type, sizes[size]);
  cJSON_AddNumberToObject (row, "cap", (double)cap);
  cJSON_AddBoolToObject (row, "fits", plan.fits);
  if (!drawn)
    {
      g_print ("| %d | %s | %d | %s |\n", (int)(cap / GIB), types[type], sizes[size],
               plan.fits ? "failed" : "refused");
      return;
    }
  equal = g_strcmp0 (result.hash, self->hashes[type][size]) == 0;
  add_result (row, &plan, &result);
  cJSON_AddBoolToObject (row, "equal", equal);
  if (result.peak > cap)
    fail (self, what, "more memory than the budget");
  if (!equal && self->hashes[type][size] != NULL)
    fail (self, what, "the picture is not the resident one");
  g_print ("| %d | %s | %d | %.2f | %.2f | %+.1f %% | %.2f | %.2f | %+.0f %% | %s%s, %d |\n",
           (int)(cap / GIB), types[type], sizes[size], (double)plan.peak / GIB,
           (double)result.peak / GIB, ((double)plan.peak / (double)result.peak - 1) * 100,
           plan.seconds, result.total, (plan.seconds / result.total - 1) * 100,
           plan.parts[ENGINE_PART_TEXT_ENCODER].leaves ? "encoder" : "",
           plan.parts[ENGINE_PART_TRANSFORMER].leaves ? "+transformer" : "",
           plan.parts[ENGINE_PART_TRANSFORMER].streamed);
  g_free (result.hash);
}

static void
run_cells (Bench *self, int type)
{
  g_print (
      "\n| cap GiB | type | size | planned GiB | peak GiB | | planned s | s | | leaves, streamed "
      "|\n|---|---|---|---|---|---|---|---|---|---|\n");
  for (guint i = 0; i < G_N_ELEMENTS (caps); i++)
    for (guint size = 0; size < G_N_ELEMENTS (sizes); size++)
      if (g_get_monotonic_time () < self->deadline && (type == 0 || sizes[size] <= self->largest))
        run_cell (self, caps[i], type, size);
  engine_trim (self->engines[type]);
}

/* -- random requests ----------------------------------------------------------------------------
 */

typedef struct
{
  GCancellable *cancellable;
  int after; /* progress calls */
} Fuse;

static void
on_fuse (EnginePhase phase, guint step, guint n_steps, Image *preview, gpointer user_data)
{
  Fuse *fuse = user_data;

  if (fuse->after-- == 0)
    g_cancellable_cancel (fuse->cancellable);
}

static void
run_random (Bench *self, GRand *rand, int *drawn, int *refused, int *cancelled)
{
  int type = g_rand_int_range (rand, 0, G_N_ELEMENTS (types));
  guint64 cap = caps[g_rand_int_range (rand, 0, G_N_ELEMENTS (caps))];
  EngineOffload level = (EngineOffload)g_rand_int_range (rand, 0, ENGINE_N_OFFLOADS);
  g_autoptr (GCancellable) cancellable = g_cancellable_new ();
  g_autoptr (GError) error = NULL;
  g_autoptr (Image) image = NULL;
  EngineRequest r = make_request (type, 64 * g_rand_int_range (rand, 4, 21),
                                  64 * g_rand_int_range (rand, 4, 21), 2);
  Fuse fuse = { cancellable, g_rand_int_range (rand, 0, 12) };
  EngineMemory memory;
  EnginePlan plan;

  if (self->engines[type] == NULL)
    return;
  engine_set_limits (self->engines[type], level, cap);
  if (!engine_plan (self->engines[type], &r, &plan, &error))
    {
      fail (self, "random plan", error->message);
      return;
    }
  image = engine_generate (self->engines[type], &r, on_fuse, &fuse, cancellable, &error);
  engine_get_memory (self->engines[type], &memory);
  if (memory.peak > MAX (cap, memory.reserved))
    fail (self, "random request", "more memory than the budget");
  if (image != NULL)
    (*drawn)++;
  else if (g_error_matches (error, G_IO_ERROR, G_IO_ERROR_CANCELLED))
    (*cancelled)++;
  else if (g_error_matches (error, ENGINE_ERROR, ENGINE_ERROR_MEMORY) && !plan.fits)
    (*refused)++;
  else
    fail (self, "random request", error->message);
}

static void
run_randoms (Bench *self, int most)
{
  g_autoptr (GRand) rand = g_rand_new_with_seed (20260117);
  int drawn = 0, refused = 0, cancelled = 0, n = 0;
  cJSON *object = cJSON_AddObjectToObject (self->root, "random");

  for (; n < most && g_get_monotonic_time () < self->deadline; n++)
    run_random (self, rand, &drawn, &refused, &cancelled);
  g_print ("\n%d random requests: %d drawn, %d refused beforehand, %d cancelled\n", n, drawn,
           refused, cancelled);
  cJSON_AddNumberToObject (object, "requests", n);
  cJSON_AddNumberToObject (object, "drawn", drawn);
  cJSON_AddNumberToObject (object, "refused", refused);
  cJSON_AddNumberToObject (object, "cancelled", cancelled);
}

/* After engine_trim nothing is left. */
static void
check_trim (Bench *self)
{
  for (guint i = 0; i < G_N_ELEMENTS (types); i++)
    if (self->engines[i] != NULL)
      {
        EngineMemory memory;

        engine_trim (self->engines[i]);
        engine_get_memory (self->engines[i], &memory);
        if (memory.reserved != 0 || memory.pinned != 0)
          fail (self, "trim", "something is still held");
      }
}

int
main (int argc, char **argv)
{
  Bench self = { .root = cJSON_CreateObject () };
  g_autoptr (GError) error = NULL;
  char *text;

  engine_init_process (argv);
  if (argc < 3)
    {
      g_printerr ("usage: bench-memory MODEL OUT.json [SECONDS [DEVICE [TYPE,... [SIZE]]]]\n");
      return 2;
    }
  self.model = argv[1];
  self.device = argc > 4 ? argv[4] : "cuda";
  self.only = argc > 5 ? argv[5] : NULL;
  self.largest = argc > 6 ? atoi (argv[6]) : sizes[G_N_ELEMENTS (sizes) - 1];
  self.deadline = g_get_monotonic_time () + G_USEC_PER_SEC * (argc > 3 ? atoi (argv[3]) : 300);
  self.calibration = g_strconcat (argv[2], ".calibration", NULL);
  g_unlink (self.calibration);
  cJSON_AddStringToObject (self.root, "model", self.model);
  open_engines (&self);
  for (guint type = 0; type < G_N_ELEMENTS (types); type++)
    if (self.engines[type] != NULL)
      {
        run_reference (&self, (int)type);
        if (type == 0 || self.largest > 1024)
          run_levels (&self, (int)type);
        run_cells (&self, (int)type);
      }
  run_randoms (&self, 500);
  check_trim (&self);
  cJSON_AddNumberToObject (self.root, "failures", self.failures);

  text = cJSON_Print (self.root);
  if (!g_file_set_contents (argv[2], text, -1, &error))
    g_printerr ("%s\n", error->message);
  for (guint i = 0; i < G_N_ELEMENTS (types); i++)
    engine_free (self.engines[i]);
  g_free (self.calibration);
  cJSON_free (text);
  cJSON_Delete (self.root);
  return self.failures > 0 || error != NULL;
}
