/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/computer/benchmark.h"

#include "engine/files/atomic-file.h"
#include "engine/files/json.h"

#include <stdlib.h>
#include <string.h>

#define SCHEMA "tessera.benchmark/v1"

/* One run: when each phase began, when it ended, and each step's end. */
typedef struct
{
  gint64 begun[ENGINE_N_PHASES], ended;
  gint64 steps[ENGINE_REQUEST_MAX_STEPS + 1];
  EngineProgress progress;
  gpointer user_data;
  guint done, in_all; /* steps of the runs before, and of all of them */
} Timeline;

void
benchmark_clear (Benchmark *self)
{
  g_clear_pointer (&self->model, g_free);
  g_clear_pointer (&self->request, engine_request_free);
  g_clear_pointer (&self->warm, g_free);
}

/* -- measuring ----------------------------------------------------------------------------------
 */

static void
on_progress (EnginePhase phase, guint step, guint n_steps, Image *preview, gpointer user_data)
{
  Timeline *self = user_data;
  gint64 now = g_get_monotonic_time ();

  if (self->begun[phase] == 0)
    self->begun[phase] = now;
  if (phase != ENGINE_PHASE_DENOISE)
    return;
  if (step <= ENGINE_REQUEST_MAX_STEPS)
    self->steps[step] = now;
  if (self->progress != NULL)
    self->progress (phase, self->done + step, self->in_all, preview, self->user_data);
}

static double
seconds (gint64 from, gint64 to)
{
  return (double)(to - from) / 1e6;
}

static BenchmarkTimes
times_of (const Timeline *t, int n_steps)
{
  BenchmarkTimes times = {
    .load = seconds (t->begun[ENGINE_PHASE_LOAD], t->begun[ENGINE_PHASE_ENCODE]),
    .encode = seconds (t->begun[ENGINE_PHASE_ENCODE], t->begun[ENGINE_PHASE_DENOISE]),
    .denoise = seconds (t->begun[ENGINE_PHASE_DENOISE], t->begun[ENGINE_PHASE_DECODE]),
    .decode = seconds (t->begun[ENGINE_PHASE_DECODE], t->ended),
    .total = seconds (t->begun[ENGINE_PHASE_LOAD], t->ended),
  };

  /* The first step also prepares the prompt and, on a GPU, records the launches. */
  times.step
      = n_steps > 1 ? seconds (t->steps[1], t->steps[n_steps]) / (n_steps - 1) : times.denoise;
  return times;
}

static int
compare_doubles (gconstpointer a, gconstpointer b)
{
  double x = *(const double *)a, y = *(const double *)b;

  return (x > y) - (x < y);
}

/* Median over the runs of the member at `offset`. */
static double
median_of (const BenchmarkTimes *runs, int n, gsize offset)
{
  double values[BENCHMARK_MAX_RUNS];

  for (int i = 0; i < n; i++)
    values[i] = *(const double *)((const char *)&runs[i] + offset);
  qsort (values, (gsize)n, sizeof *values, compare_doubles);
  return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static BenchmarkTimes
medians (const BenchmarkTimes *runs, int n)
{
#define MEDIAN(member) median_of (runs, n, G_STRUCT_OFFSET (BenchmarkTimes, member))
  return (BenchmarkTimes){
    .load = MEDIAN (load),
    .encode = MEDIAN (encode),
    .denoise = MEDIAN (denoise),
    .decode = MEDIAN (decode),
    .total = MEDIAN (total),
    .step = MEDIAN (step),
  };
#undef MEDIAN
}

gboolean
benchmark_run (Engine *engine, const char *model, const EngineRequest *request, int n_warm,
               EngineProgress progress, gpointer user_data, GCancellable *cancellable,
               Benchmark *out, GError **error)
{
  g_return_val_if_fail (n_warm >= 1 && n_warm <= BENCHMARK_MAX_RUNS, FALSE);

  *out = (Benchmark){
    .model = g_strdup (model),
    .request = engine_request_copy (request),
    .warm = g_new0 (BenchmarkTimes, n_warm),
    .n_warm = n_warm,
  };
  engine_get_device (engine, &out->device);
  out->kernels = engine_get_kernels (engine, request->precision);
  for (int i = 0; i <= n_warm; i++)
    {
      Timeline timeline = { .progress = progress,
                            .user_data = user_data,
                            .done = (guint)(i * request->steps),
                            .in_all = (guint)((1 + n_warm) * request->steps) };
      g_autoptr (Image) image
          = engine_generate (engine, request, on_progress, &timeline, cancellable, error);
      guint64 peak = out->memory.peak;

      if (image == NULL)
        return FALSE;
      timeline.ended = g_get_monotonic_time ();
      *(i == 0 ? &out->first : &out->warm[i - 1]) = times_of (&timeline, request->steps);
      engine_get_memory (engine, &out->memory);
      out->memory.peak = MAX (out->memory.peak, peak);
    }
  out->median = medians (out->warm, n_warm);
  return TRUE;
}

double
benchmark_floor (const Benchmark *self)
{
  return self->product_rate > 0 ? self->step_operations / self->product_rate : 0;
}

double
benchmark_share (const Benchmark *self)
{
  return self->median.step > 0 ? benchmark_floor (self) / self->median.step : 0;
}

/* -- JSON ---------------------------------------------------------------------------------------
 */

static cJSON *
times_to_json (const BenchmarkTimes *t)
{
  cJSON *object = cJSON_CreateObject ();

  cJSON_AddNumberToObject (object, "load", t->load);
  cJSON_AddNumberToObject (object, "encode", t->encode);
  cJSON_AddNumberToObject (object, "denoise", t->denoise);
  cJSON_AddNumberToObject (object, "step", t->step);
  cJSON_AddNumberToObject (object, "decode", t->decode);
  cJSON_AddNumberToObject (object, "total", t->total);
  return object;
}

static cJSON *
to_json (const Benchmark *self)
{
  cJSON *root = cJSON_CreateObject (), *warm, *floor;

  cJSON_AddStringToObject (root, "model", self->model);
  cJSON_AddStringToObject (root, "device", self->device.name);
  cJSON_AddStringToObject (root, "version", TESSERA_VERSION);
  cJSON_AddStringToObject (root, "precision", engine_precision_name (self->request->precision));
  cJSON_AddStringToObject (root, "kernels", self->kernels);
  cJSON_AddNumberToObject (root, "width", self->request->width);
  cJSON_AddNumberToObject (root, "height", self->request->height);
  cJSON_AddNumberToObject (root, "steps", self->request->steps);
  cJSON_AddNumberToObject (root, "peak_memory", (double)self->memory.peak);
  cJSON_AddNumberToObject (root, "weights", (double)self->memory.weights);
  cJSON_AddNumberToObject (root, "open", self->open);
  cJSON_AddItemToObject (root, "first", times_to_json (&self->first));
  warm = cJSON_AddArrayToObject (root, "warm");
  for (int i = 0; i < self->n_warm; i++)
    cJSON_AddItemToArray (warm, times_to_json (&self->warm[i]));
  cJSON_AddItemToObject (root, "median", times_to_json (&self->median));
  if (benchmark_floor (self) > 0)
    {
      floor = cJSON_AddObjectToObject (root, "floor");
      cJSON_AddNumberToObject (floor, "product_rate", self->product_rate);
      cJSON_AddNumberToObject (floor, "step_operations", self->step_operations);
      cJSON_AddNumberToObject (floor, "step", benchmark_floor (self));
      cJSON_AddNumberToObject (floor, "share", benchmark_share (self));
    }
  return root;
}

char *
benchmark_to_json (const Benchmark *self)
{
  g_autoptr (cJSON) json = to_json (self);

  return json_print (json, TRUE);
}

gboolean
benchmark_save (const Benchmark *const *all, int n, const char *path, GError **error)
{
  g_autoptr (cJSON) root = cJSON_CreateObject ();
  g_autofree char *text = NULL;
  cJSON *list;

  cJSON_AddStringToObject (root, "schema", SCHEMA);
  list = cJSON_AddArrayToObject (root, "benchmarks");
  for (int i = 0; i < n; i++)
    cJSON_AddItemToArray (list, to_json (all[i]));
  text = json_print (root, TRUE);
  return atomic_file_put_text (path, text, error);
}
