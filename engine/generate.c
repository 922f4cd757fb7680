/* SPDX-License-Identifier: Apache-2.0
 *
 * One request, phase by phase, with the weights where its placement wants them. A phase that runs
 * out of memory is tried again with less: working memory and parts that wait are given back, the
 * picture is decoded in bands, blocks are streamed. What earlier phases and steps have computed
 * stays.
 */
#include "engine/engine-private.h"

#include <string.h>

/* A step that takes less than so many times what its copies do may have waited for some of them,
 * though it took longer than they: they come in bursts. It still says more than nothing. */
#define STREAM_HELD_UP         2.0
#define STREAM_HELD_UP_UNKNOWN 1.1

typedef struct
{
  Engine *engine;
  PipelineRun *run;
  GCancellable *cancellable;
  PlanFacts facts;
  Placement placement;
} Course;

typedef struct
{
  EnginePhase phase;
  ModelsPart part;
  Status (*run) (const Context *ctx, const Models *models, PipelineRun *run);
  const char *doing;
} Stage;

static const Stage stages[] = {
  { ENGINE_PHASE_ENCODE, MODELS_TEXT_ENCODER, pipeline_encode, "reading the prompt" },
  { ENGINE_PHASE_DENOISE, MODELS_TRANSFORMER, pipeline_denoise, "denoising" },
  { ENGINE_PHASE_DECODE, MODELS_DECODER, pipeline_decode, "decoding the picture" },
};

/* -- figures for the gauge ----------------------------------------------------------------------
 */

static void
note_memory (Engine *self, guint64 activations)
{
  const Ops *ops = self->device.ops;

  atomic_store (&self->activations, activations);
  atomic_store (&self->held, ops->allocated (self->device.stream));
  atomic_store (&self->peak, ops->peak (self->device.stream, false));
  atomic_store (&self->pinned, models_image_bytes (&self->models));
}

static double
seconds_since (gint64 begun)
{
  return (double)(g_get_monotonic_time () - begun) / 1e6;
}

/* -- placing ------------------------------------------------------------------------------------
 */

/* Weights of the precision that is not asked for are in the way of nothing until memory is short.
 */
static gboolean
release_other_precision (Engine *self, const EngineRequest *request)
{
  EnginePrecision other = request->precision == ENGINE_PRECISION_BF16 ? ENGINE_PRECISION_SVDQUANT
                                                                      : ENGINE_PRECISION_BF16;

  if (!models_is_loaded (&self->models, MODELS_TRANSFORMER, other))
    return FALSE;
  models_release_part (&self->models, &self->device, MODELS_TRANSFORMER, other);
  note_memory (self, 0);
  return TRUE;
}

/* Device memory that the other precision's transformer holds: what is held beyond this request's
 * parts. */
static guint64
held_by_others (const Course *self)
{
  const EngineRequest *r = self->run->request;
  EnginePrecision other
      = r->precision == ENGINE_PRECISION_BF16 ? ENGINE_PRECISION_SVDQUANT : ENGINE_PRECISION_BF16;
  const Models *models = &self->engine->models;
  const Device *device = &self->engine->device;
  guint64 held = device->ops->allocated (device->stream), own = 0;

  if (!models_is_loaded (models, MODELS_TRANSFORMER, other))
    return 0;
  for (int part = 0; part < MODELS_N_PARTS; part++)
    if (models_is_loaded (models, (ModelsPart)part, r->precision))
      own += self->facts.parts[part].total;
  return held > own ? held - own : 0;
}

static gboolean
refuse (const Course *self, guint64 limit, GError **error)
{
  g_autofree char *needed
      = g_format_size_full (plan_peak (&self->facts, &self->placement), G_FORMAT_SIZE_IEC_UNITS);
  g_autofree char *available = g_format_size_full (limit, G_FORMAT_SIZE_IEC_UNITS);

  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MEMORY,
               "this takes %s of device memory at least, and %s may be used%s", needed, available,
               self->engine->offload == ENGINE_OFFLOAD_AUTO
                   ? "; a smaller size, or SVDQuant, may fit"
                   : "; offload level \"auto\", a smaller size, or SVDQuant, may fit");
  return FALSE;
}

/* Chooses where weights go, beside the other precision's if both fit. */
static gboolean
place (Course *self, GError **error)
{
  Engine *engine = self->engine;
  PipelineRun probe = { .request = self->run->request,
                        .adapters = self->run->adapters,
                        .ids = { self->run->ids[0], self->run->ids[1] } };
  guint64 limit, host_limit = forecast_host_limit (engine), others;
  Status status = plan_count (&engine->models, &engine->device, &probe, &self->facts);

  if (status != STATUS_OK)
    {
      device_set_error (&engine->device, status, "planning", error);
      return FALSE;
    }
  note_memory (engine, 0);
  limit = forecast_limit (engine);
  others = held_by_others (self);
  if (others > 0 && others < limit
      && plan_choose (&self->facts, engine->offload, limit - others, host_limit, &self->placement)
      && !self->placement.parts[MODELS_TRANSFORMER].leaves)
    return TRUE;
  release_other_precision (engine, self->run->request);
  limit = forecast_limit (engine);
  if (plan_choose (&self->facts, engine->offload, limit, host_limit, &self->placement))
    return TRUE;
  refuse (self, limit, error);
  if (atomic_load (&engine->held) > limit)
    engine_trim (engine); /* the budget was larger once */
  return FALSE;
}

/* What was loaded for another placement goes first; then the request's own peak begins. */
static void
make_room (Course *self)
{
  Engine *engine = self->engine;

  for (int part = 0; part < MODELS_N_PARTS; part++)
    models_release_misplaced (&engine->models, &engine->device, (ModelsPart)part,
                              self->run->request->precision, &self->placement.parts[part]);
  (void)engine->device.ops->peak (engine->device.stream, true);
  note_memory (engine, 0);
}

/* A placement that takes less in `stage` than the one that failed, by a sixteenth of what
 * placements can change; FALSE if there is none. */
static gboolean
step_down (Course *self, const Stage *stage)
{
  Engine *engine = self->engine;
  guint64 peaks[ENGINE_N_PHASES], before, limit;

  plan_peaks (&self->facts, &self->placement, peaks);
  before = MAX (peaks[stage->phase], peaks[ENGINE_PHASE_LOAD]);
  if (release_other_precision (engine, self->run->request))
    return TRUE;
  for (int part = 0; part < MODELS_N_PARTS; part++)
    if ((ModelsPart)part != stage->part)
      models_release_part (&engine->models, &engine->device, (ModelsPart)part,
                           self->run->request->precision);
  engine->device.ops->trim (engine->device.stream);
  note_memory (engine, 0);

  limit = MIN (forecast_limit (engine), before - (before - MIN (before, self->facts.working)) / 16);
  return plan_choose (&self->facts, ENGINE_OFFLOAD_AUTO, limit, forecast_host_limit (engine),
                      &self->placement);
}

/* -- loading ------------------------------------------------------------------------------------
 */

static gboolean
is_encoded (const PipelineRun *run)
{
  return run->embeds[0] != NULL && (run->ids[1] == NULL || run->embeds[1] != NULL);
}

/* What stays on the device, or waits in images, is made ready first; what is loaded each time only
 * when its phase comes. */
static Status
load_parts (Course *self, GError **error)
{
  Engine *engine = self->engine;
  PipelineRun *run = self->run;

  for (int part = 0; part < MODELS_N_PARTS; part++)
    {
      const PartPlacement *p = &self->placement.parts[part];
      gint64 begun = g_get_monotonic_time ();
      gboolean there
          = models_is_loaded (&engine->models, (ModelsPart)part, run->request->precision);
      g_autofree char *kind = forecast_kind (engine, "load", run->request);

      if (run->progress != NULL)
        run->progress (ENGINE_PHASE_LOAD, (guint)part, MODELS_N_PARTS, NULL, run->user_data);
      if ((p->leaves && !p->image) || (part == MODELS_TEXT_ENCODER && is_encoded (run)))
        continue;
      CHECK (models_load (&engine->models, &engine->device, (ModelsPart)part,
                          run->request->precision, p, self->cancellable, error));
      note_memory (engine, 0);
      if (!there && !p->image)
        calibration_add (engine->calibration, kind, (double)self->facts.parts[part].total,
                         seconds_since (begun));
    }
  return STATUS_OK;
}

/* -- a phase ------------------------------------------------------------------------------------
 */

/* Only the transformer's blocks have layers of these names. */
static void
report_linear (gpointer user_data, const Linear *linear, const Tensor *x)
{
  static const char *const names[]
      = { ".attention.to_qkv", ".attention.to_out.0", ".feed_forward.w13", ".feed_forward.w2" };
  Engine *self = user_data;

  for (guint i = 0; linear->name != NULL && i < G_N_ELEMENTS (names); i++)
    if (g_str_has_suffix (linear->name, names[i]))
      self->seen (linear->name, x->data, tensor_count (x) / linear->k, linear->k, self->seen_data);
}

static size_t
arena_bytes (const Course *self, const Stage *stage)
{
  if (stage->phase == ENGINE_PHASE_ENCODE)
    return self->facts.encode;
  if (stage->phase == ENGINE_PHASE_DENOISE)
    return self->facts.denoise;
  for (int i = 0; i < PLAN_N_BANDS; i++)
    if (plan_bands[i] == self->placement.band)
      return self->facts.decode[i];
  return self->facts.decode[0];
}

/* Runs a phase in an arena of its own. */
static Status
run_in_arena (Course *self, const Stage *stage)
{
  Engine *engine = self->engine;
  Arena arena = { 0 };
  LinearObserver observer = { .before = report_linear, .user_data = engine };
  Context ctx = { .ops = engine->device.ops,
                  .stream = engine->device.stream,
                  .activation = device_activation (&engine->device.caps),
                  .residual = device_residual (&engine->device.caps),
                  .arena = &arena,
                  .caps = &engine->device.caps,
                  .options = &engine->device.options,
                  .cancellable = self->cancellable,
                  .observer = engine->seen != NULL ? &observer : NULL };
  size_t bytes = arena_bytes (self, stage);
  Status status = arena_init (&arena, ctx.ops, ctx.stream, bytes);

  note_memory (engine, status == STATUS_OK ? bytes : 0);
  self->run->band = self->placement.band;
  if (status == STATUS_OK)
    status = stage->run (&ctx, &engine->models, self->run);
  arena_clear (&arena);
  note_memory (engine, 0);
  return status;
}

/* The prompts' embeddings, if they are known. */
static void
recall_prompts (Course *self)
{
  PipelineRun *run = self->run;
  gsize features = (gsize)checkpoint_text_encoder (self->engine->models.checkpoint)->hidden;

  for (int i = 0; i < 2 && run->ids[i] != NULL; i++)
    run->embeds[i] = prompt_cache_find (self->engine->prompts, run->ids[i], features);
}

static void
remember_prompts (Course *self)
{
  PipelineRun *run = self->run;
  gsize features = (gsize)checkpoint_text_encoder (self->engine->models.checkpoint)->hidden;

  for (int i = 0; i < 2 && run->ids[i] != NULL; i++)
    prompt_cache_add (self->engine->prompts, run->ids[i], run->embeds[i], features);
}

/* What the copies of a phase say of the link, if it waited for nothing else; FALSE if they did not
 * hold the maths up, whose time it then is. known: there is a time of the maths already. */
static gboolean
learn_link (Course *self, const Stage *stage, double entering, double running, gboolean known)
{
  Calibration *calibration = self->engine->calibration;
  const PartPlacement *p = &self->placement.parts[stage->part];
  PlanTraffic traffic = plan_traffic (&self->facts, &self->placement);
  double step = (double)traffic.step;

  if (!p->image)
    return FALSE;
  if (stage->phase == ENGINE_PHASE_ENCODE && p->streamed > 0)
    {
      calibration_add (calibration, FORECAST_LINK, (double)traffic.prompt, entering + running);
      return TRUE;
    }
  if (stage->phase != ENGINE_PHASE_DENOISE)
    return p->streamed > 0;
  if (p->streamed == 0)
    {
      calibration_add (calibration, FORECAST_LINK, (double)traffic.picture, entering);
      return FALSE;
    }
  if (calibration_predict (calibration, FORECAST_LINK, step) == 0.0)
    calibration_add (calibration, FORECAST_LINK, step, running);
  return running < (known ? STREAM_HELD_UP : STREAM_HELD_UP_UNKNOWN)
                       * calibration_predict (calibration, FORECAST_LINK, step);
}

/* Remembers how long a phase took: getting ready, and running, for the transformer one step. */
static void
learn (Course *self, const Stage *stage, double entering, double running)
{
  static const char *const names[ENGINE_N_PHASES] = { "", "encode", "denoise", "decode" };
  Engine *engine = self->engine;
  double work = forecast_work (&self->facts.work[stage->phase]);
  g_autofree char *kind = forecast_kind (engine, names[stage->phase], self->run->request);

  if (stage->phase == ENGINE_PHASE_DECODE && self->placement.band > 0)
    running /= FORECAST_BANDS_COST;
  if (!learn_link (self, stage, entering, running,
                   calibration_predict (engine->calibration, kind, work) > 0))
    calibration_add (engine->calibration, kind, work, running);
}

static Status
run_stage (Course *self, const Stage *stage, GError **error)
{
  Engine *engine = self->engine;
  EnginePrecision precision = self->run->request->precision;
  const PartPlacement *p = &self->placement.parts[stage->part];
  gboolean there;
  gint64 begun, entered;
  int done = self->run->steps_done;
  Status status;

  if (stage->phase == ENGINE_PHASE_ENCODE && is_encoded (self->run))
    return STATUS_OK;
  there = models_is_loaded (&engine->models, stage->part, precision);
  begun = g_get_monotonic_time ();
  status = models_enter (&engine->models, &engine->device, stage->part, precision, p,
                         self->cancellable, error);
  if (status == STATUS_OK && there && p->image)
    status = engine->device.ops->wait (engine->device.stream);
  entered = g_get_monotonic_time ();
  if (status == STATUS_OK)
    status = run_in_arena (self, stage);
  if (status == STATUS_OK)
    learn (self, stage, there ? (double)(entered - begun) / 1e6 : 0.0,
           seconds_since (entered) / MAX (self->run->steps_done - done, 1));
  models_leave (&engine->models, &engine->device, stage->part, precision, p);
  note_memory (engine, 0);
  if (status == STATUS_OK && stage->phase == ENGINE_PHASE_ENCODE && p->leaves)
    remember_prompts (self);
  return status;
}

/* -- keeping what was computed ------------------------------------------------------------------
 */

static void
forget (Engine *self)
{
  g_clear_pointer (&self->kept.request, g_free);
  g_clear_pointer (&self->kept.latents, g_free);
}

static void
keep (Course *self)
{
  Engine *engine = self->engine;

  forget (engine);
  if (self->run->steps_done == 0 || self->run->request->n_loras > 0) /* named, not known again */
    return;
  engine->kept = (Kept){ engine_request_to_json (self->run->request),
                         g_steal_pointer (&self->run->latents), self->run->steps_done };
}

/* Goes on where the same request ended for want of memory. */
static void
resume (Course *self)
{
  Kept *kept = &self->engine->kept;
  g_autofree char *request = engine_request_to_json (self->run->request);

  if (kept->request != NULL && g_str_equal (kept->request, request)
      && self->run->request->latents_file == NULL)
    {
      g_free (self->run->latents);
      self->run->latents = g_steal_pointer (&kept->latents);
      self->run->steps_done = kept->steps_done;
    }
  forget (self->engine);
}

/* -- the whole ----------------------------------------------------------------------------------
 */

static gboolean
fail (Course *self, Status status, const char *doing, GError **error)
{
  if (status == STATUS_NO_MEMORY)
    keep (self);
  if (error != NULL && *error == NULL)
    device_set_error (&self->engine->device, status, doing, error);
  return FALSE;
}

/* Each try takes less than the one before, so they end. */
static gboolean
run_stages (Course *self, GError **error)
{
  guint next = 0;
  gboolean loaded = FALSE;

  while (next < G_N_ELEMENTS (stages))
    {
      const Stage *stage = &stages[next];
      Status status = loaded ? STATUS_OK : load_parts (self, error);

      if (status == STATUS_OK)
        {
          loaded = TRUE;
          status = run_stage (self, stage, error);
        }
      if (status == STATUS_OK)
        next++;
      else if (status != STATUS_NO_MEMORY || !step_down (self, stage))
        return fail (self, status, loaded ? stage->doing : "loading the model", error);
    }
  return TRUE;
}

static gboolean
run_all (Course *self, GError **error)
{
  Engine *engine = self->engine;

  if (!pipeline_tokenize (&engine->models, self->run, error)
      || !pipeline_start (&engine->models, self->run, error) || !place (self, error))
    return FALSE;
  make_room (self);
  resume (self);
  /* An encoder that is at hand costs less than being wrong about it ever could. */
  if (self->placement.parts[MODELS_TEXT_ENCODER].leaves)
    recall_prompts (self);
  return run_stages (self, error);
}

Image *
engine_generate (Engine *self, const EngineRequest *request, EngineProgress progress,
                 gpointer user_data, GCancellable *cancellable, GError **error)
{
  g_autoptr (Trace) trace = self->trace_path != NULL ? trace_new () : NULL;
  PipelineRun run
      = { .request = request, .trace = trace, .progress = progress, .user_data = user_data };
  Course course = { .engine = self, .run = &run, .cancellable = cancellable };
  g_autoptr (GError) own = NULL;
  g_autoptr (Image) image = NULL;

  if (!engine_request_validate (request, error)
      || !engine_supports (self, request->precision, error)
      || !checkpoint_check_unchanged (self->models.checkpoint, error)
      || g_cancellable_set_error_if_cancelled (cancellable, error))
    return NULL;
  if (self->device.stream == NULL)
    {
      g_set_error_literal (error, ENGINE_ERROR, ENGINE_ERROR_NO_DEVICE,
                           "this engine only plans: it was opened for a card that is not there");
      return NULL;
    }

  if (!models_open_adapters (&self->models, &self->device, request, self->lora_folder, error))
    return NULL;
  run.adapters = self->models.adapters;

  if (run_all (&course, &own))
    image = pipeline_image (&run);
  pipeline_run_clear (&run);
  (void)calibration_save (self->calibration, NULL); /* only forecasts suffer */
  if (own != NULL)
    g_propagate_error (error, g_steal_pointer (&own));
  if (image != NULL && trace != NULL && !trace_write (trace, self->trace_path, error))
    return NULL;
  return g_steal_pointer (&image);
}
