/* SPDX-License-Identifier: Apache-2.0 */
#include "app/models/speed.h"

/* Seconds that the products of all steps may take at the rate of a bare one. */
#define GPU_LIMIT 300

const int SPEED_STEPS[SPEED_N_STEPS] = { 8, 20 };

typedef struct
{
  char *model;
  SpeedProgress *progress;
  gint before, in_all; /* steps of the runs before, and of all */
  gboolean supported[2];
  EngineDevice device;
  double rate, operations; /* see Benchmark */
  double patience;         /* as GPU_LIMIT, of a processor */
} Measuring;

void
speed_free (Speed *self)
{
  if (self == NULL)
    return;
  for (int i = 0; i < 2 * SPEED_N_STEPS; i++)
    benchmark_clear (&self->runs[i / SPEED_N_STEPS][i % SPEED_N_STEPS]);
  g_free (self);
}

SpeedProgress *
speed_progress_new (void)
{
  SpeedProgress *self = g_new0 (SpeedProgress, 1);

  self->refs = 1;
  self->permille = -1;
  return self;
}

SpeedProgress *
speed_progress_ref (SpeedProgress *self)
{
  g_atomic_int_inc (&self->refs);
  return self;
}

void
speed_progress_unref (SpeedProgress *self)
{
  if (g_atomic_int_dec_and_test (&self->refs))
    g_free (self);
}

/* -- the engine's thread ------------------------------------------------------------------------
 */

static void
measuring_free (gpointer data)
{
  Measuring *self = data;

  speed_progress_unref (self->progress);
  g_free (self->model);
  g_free (self);
}

static void
on_progress (EnginePhase phase, guint step, guint n_steps, Image *preview, gpointer data)
{
  Measuring *self = data;

  g_atomic_int_set (&self->progress->permille, 1000 * (self->before + (gint)step) / self->in_all);
}

static gboolean
fits (Engine *engine, const Measuring *self, EngineRequest *request, gboolean *yes, GError **error)
{
  *yes = TRUE;
  for (int p = 0; p < 2 && *yes; p++)
    {
      EnginePlan plan;

      if (!self->supported[p])
        continue;
      request->precision = p;
      if (!engine_plan (engine, request, &plan, error))
        return FALSE;
      *yes = plan.fits;
    }
  return TRUE;
}

/* Sets the largest square of the protocol that fits in all precisions that there are, and whose
 * steps are not too many operations for this device; the smallest is never too much. */
static gboolean
choose_size (Engine *engine, Measuring *self, EngineRequest *request, GError **error)
{
  static const int sides[] = { 1024, 768, 512, 256, 128, 64 };
  const double limit = self->device.gpu ? GPU_LIMIT : self->patience;
  const EngineOptions options = { .device = self->device.id };

  if (!benchmark_measure_rate (&options, &self->rate, error))
    return FALSE;
  for (guint i = 0; i < G_N_ELEMENTS (sides); i++)
    {
      gboolean yes;

      request->width = request->height = sides[i];
      if (!fits (engine, self, request, &yes, error)
          || !benchmark_count_operations (self->model, &options, request, &self->operations, error))
        return FALSE;
      if (yes
          && (i == G_N_ELEMENTS (sides) - 1 || self->rate <= 0
              || self->in_all * self->operations / self->rate <= limit))
        return TRUE;
    }
  g_set_error_literal (error, ENGINE_ERROR, ENGINE_ERROR_MEMORY,
                       "Not even the smallest picture fits into the memory of the device");
  return FALSE;
}

static gboolean
measure_all (Engine *engine, Measuring *self, GCancellable *cancellable, Speed *out,
             EngineRequest *request, GError **error)
{
  for (int i = 0; i < 2 * SPEED_N_STEPS; i++)
    {
      const int precision = i / SPEED_N_STEPS, steps = i % SPEED_N_STEPS;
      Benchmark *run = &out->runs[precision][steps];

      if (!self->supported[precision])
        continue;
      g_atomic_int_set (&self->progress->run, i);
      request->precision = precision;
      request->steps = SPEED_STEPS[steps];
      if (steps == 0)
        engine_trim (engine); /* for the cold start */
      if (!benchmark_run (engine, self->model, request, 1, on_progress, self, cancellable, run,
                          error))
        return FALSE;
      run->product_rate = self->rate;
      run->step_operations = self->operations;
      self->before += 2 * request->steps;
    }
  return TRUE;
}

static void
measure (Engine *engine, GTask *task, gpointer data)
{
  Measuring *self = data;
  EngineRequest request = ENGINE_REQUEST_INIT;
  GError *error = NULL;
  Speed *speed;

  if (engine == NULL)
    {
      g_task_return_new_error (task, ENGINE_ERROR, ENGINE_ERROR_MODEL, "No model is open");
      return;
    }
  request.prompt = "a red apple on a yellow background";
  request.seed = 42;
  for (int p = 0; p < 2; p++)
    if ((self->supported[p] = engine_supports (engine, p, NULL)))
      self->in_all += 2 * (SPEED_STEPS[0] + SPEED_STEPS[1]);
  if (self->in_all == 0)
    {
      engine_supports (engine, ENGINE_PRECISION_BF16, &error); /* says why */
      g_task_return_error (task, error);
      return;
    }
  g_atomic_int_set (&self->progress->permille, 0);
  engine_get_device (engine, &self->device);
  engine_trim (engine); /* the bare product wants memory */
  speed = g_new0 (Speed, 1);
  if (choose_size (engine, self, &request, &error)
      && measure_all (engine, self, g_task_get_cancellable (task), speed, &request, &error))
    {
      g_task_return_pointer (task, speed, (GDestroyNotify)speed_free);
      return;
    }
  speed_free (speed);
  g_task_return_error (task, error);
}

/* -- the main thread ----------------------------------------------------------------------------
 */

void
speed_measure_async (TesseraWorker *worker, const char *model, double patience,
                     SpeedProgress *progress, GCancellable *cancellable,
                     GAsyncReadyCallback callback, gpointer data)
{
  Measuring *measuring = g_new0 (Measuring, 1);

  measuring->model = g_strdup (model);
  measuring->patience = patience;
  measuring->progress = speed_progress_ref (progress);
  worker_run_async (worker, measure, measuring, measuring_free, cancellable, callback, data);
}

Speed *
speed_measure_finish (GAsyncResult *result, GError **error)
{
  return g_task_propagate_pointer (G_TASK (result), error);
}

gboolean
speed_save (const Speed *self, const char *path, GError **error)
{
  const Benchmark *runs[2 * SPEED_N_STEPS];
  int n = 0;

  for (int i = 0; i < 2 * SPEED_N_STEPS; i++)
    if (self->runs[i / SPEED_N_STEPS][i % SPEED_N_STEPS].request != NULL)
      runs[n++] = &self->runs[i / SPEED_N_STEPS][i % SPEED_N_STEPS];
  return benchmark_save (runs, n, path, error);
}
