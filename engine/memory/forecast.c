/* SPDX-License-Identifier: Apache-2.0
 *
 * What a request will take, told beforehand. Only reads what does not change while an engine
 * lives, so that it need not wait for one that computes.
 */
#include "engine/engine-private.h"

#include "engine/lora/adapters.h"
#include "kernels/host-memory.h"

/* Of the memory that is free, what other programs and, on a GPU, the driver's own needs (recorded
 * launches, code of kernels) are left. */
#define CPU_USABLE  0.8
#define GPU_RESERVE ((guint64)320 << 20)
#define HOST_USABLE 0.7 /* of the main memory that is available, what images may take */

const char *
engine_offload_name (EngineOffload offload)
{
  static const char *const names[ENGINE_N_OFFLOADS] = { "auto", "none", "model", "stream" };

  return names[offload];
}

char *
engine_find_calibration_file (void)
{
  return g_build_filename (g_get_user_cache_dir (), "tessera", "calibration.json", NULL);
}

guint64
forecast_limit (const Engine *self)
{
  guint64 budget = self->device.options.memory_budget, held = atomic_load (&self->held), free;
  DeviceCaps caps = self->device.caps;

  if (self->device.stream == NULL)
    return budget;
  (void)self->device.ops->query (caps.index, &caps);
  free = caps.kind == DEVICE_CUDA
             ? (caps.free_memory > GPU_RESERVE ? caps.free_memory - GPU_RESERVE : 0)
             : (guint64)((double)caps.free_memory * CPU_USABLE);
  return budget != 0 ? MIN (budget, free + held) : free + held;
}

guint64
forecast_host_limit (const Engine *self)
{
  return (guint64)((double)host_available () * HOST_USABLE) + atomic_load (&self->pinned);
}

/* -- time ---------------------------------------------------------------------------------------
 */

/* Models of other widths run at other speeds; so do the types of transformer files. */
char *
forecast_kind (const Engine *self, const char *phase, const EngineRequest *request)
{
  static const char *const formats[] = { "int4", "nvfp4" };
  const char *type = "bf16";
  Weights *weights;
  SvdqFormat format;

  if (g_str_equal (phase, "denoise") && request->precision == ENGINE_PRECISION_SVDQUANT)
    {
      weights = models_weights (&self->models, MODELS_TRANSFORMER, request->precision, NULL);
      type = weights != NULL && weights_svdq_format (weights, &format)
                 ? formats[format == SVDQ_NVFP4]
                 : "svdquant";
    }
  else if (g_str_equal (phase, "encode"))
    {
      int bits = weights_code_bits (models_weights (&self->models, MODELS_TEXT_ENCODER, 0, NULL));

      type = bits == 8 ? "8 bit" : bits == 4 ? "4 bit" : type;
    }
  return g_strdup_printf ("%s %s %d", phase, type,
                          checkpoint_transformer (self->models.checkpoint)->dim);
}

double
forecast_work (const DryWork *work)
{
  return work->linear + work->attention + work->conv;
}

static double
predict (const Engine *self, const char *phase, const EngineRequest *request, double work)
{
  g_autofree char *kind = forecast_kind (self, phase, request);

  return calibration_predict (self->calibration, kind, work);
}

static gboolean
is_loaded_again (const PartPlacement *p)
{
  return p->leaves && !p->image;
}

/* Copies run beside the maths, so the longer of the two counts. */
static void
estimate_time (const Engine *self, const EngineRequest *r, const PlanFacts *facts,
               const Placement *placement, EnginePlan *plan)
{
  PlanTraffic traffic = plan_traffic (facts, placement);
  double link = calibration_predict (self->calibration, FORECAST_LINK, 1e9) / 1e9;
  double *seconds = plan->phase_seconds;
  double step = predict (self, "denoise", r, forecast_work (&facts->work[ENGINE_PHASE_DENOISE]));
  double loads[MODELS_N_PARTS];
  gboolean moves = traffic.prompt + traffic.picture + traffic.step > 0, known;

  seconds[ENGINE_PHASE_ENCODE]
      = predict (self, "encode", r, forecast_work (&facts->work[ENGINE_PHASE_ENCODE]));
  seconds[ENGINE_PHASE_DECODE]
      = predict (self, "decode", r, forecast_work (&facts->work[ENGINE_PHASE_DECODE]));
  if (placement->band > 0)
    seconds[ENGINE_PHASE_DECODE] *= FORECAST_BANDS_COST;
  /* Maths that copies always hold up is never seen alone, and does not matter then. */
  known = (step > 0 || traffic.step > 0) && (seconds[ENGINE_PHASE_ENCODE] > 0 || traffic.prompt > 0)
          && seconds[ENGINE_PHASE_DECODE] > 0 && (link > 0 || !moves);
  for (int part = 0; part < MODELS_N_PARTS; part++)
    {
      loads[part] = predict (self, "load", r, (double)facts->parts[part].total);
      seconds[ENGINE_PHASE_LOAD] += loads[part];
    }
  if (!known)
    return;
  seconds[ENGINE_PHASE_ENCODE] = MAX (seconds[ENGINE_PHASE_ENCODE], link * (double)traffic.prompt);
  seconds[ENGINE_PHASE_DENOISE]
      = r->steps * MAX (step, link * (double)traffic.step) + link * (double)traffic.picture;
  if (is_loaded_again (&placement->parts[MODELS_TEXT_ENCODER]))
    seconds[ENGINE_PHASE_ENCODE] += loads[MODELS_TEXT_ENCODER];
  if (is_loaded_again (&placement->parts[MODELS_TRANSFORMER]))
    seconds[ENGINE_PHASE_DENOISE] += loads[MODELS_TRANSFORMER];
  plan->seconds
      = seconds[ENGINE_PHASE_ENCODE] + seconds[ENGINE_PHASE_DENOISE] + seconds[ENGINE_PHASE_DECODE];
}

/* -- the plan -----------------------------------------------------------------------------------
 */

static void
describe (const PlanFacts *facts, const Placement *placement, EnginePlan *plan)
{
  size_t activations = MAX (facts->encode, facts->denoise);
  int largest = 0;

  plan_peaks (facts, placement, plan->phase_peak);
  for (int phase = 0; phase < ENGINE_N_PHASES; phase++)
    if (plan->phase_peak[phase] > plan->phase_peak[largest])
      largest = phase;
  plan->peak = plan->phase_peak[largest];
  plan->working = facts->working;
  for (int i = 0; i < PLAN_N_BANDS; i++)
    if (plan_bands[i] == placement->band)
      activations = MAX (activations, facts->decode[i]);
  plan->activations = activations;
  plan->weights = plan->peak - MIN (plan->peak, plan->working + activations);
  plan->pinned = plan_pinned (facts, placement);
  plan->band = placement->band * VAE_SCALE;
  for (int part = 0; part < MODELS_N_PARTS; part++)
    {
      const PartPlacement *p = &placement->parts[part];

      plan->parts[part] = (EnginePlanPart){
        .bytes = p->unexpanded ? facts->unexpanded[part].total : facts->parts[part].total,
        .leaves = p->leaves,
        .pinned = p->image ? facts->parts[part].bundles : 0,
        .blocks = facts->parts[part].n_bundles,
        .streamed = p->streamed,
      };
    }
}

gboolean
engine_plan_at (Engine *self, const EngineRequest *request, EngineOffload offload, EnginePlan *plan,
                GError **error)
{
  PipelineRun run = { .request = request };
  Adapters *adapters;
  Placement placement;
  PlanFacts facts;
  gboolean tokenized;
  Status status;

  *plan = (EnginePlan){ 0 };
  if (!engine_request_validate (request, error)
      || !engine_supports (self, request->precision, error)
      || !models_look_at_adapters (&self->models, request, self->lora_folder, FALSE, &adapters,
                                   error))
    return FALSE;
  run.adapters = adapters;
  tokenized = pipeline_tokenize (&self->models, &run, error);
  status = tokenized ? plan_count (&self->models, &self->device, &run, &facts) : STATUS_OK;
  pipeline_run_clear (&run);
  adapters_free (NULL, adapters);
  if (!tokenized)
    return FALSE;
  if (status != STATUS_OK)
    {
      device_set_error (&self->device, status, "planning", error);
      return FALSE;
    }

  plan->available = forecast_limit (self);
  plan->fits
      = plan_choose (&facts, offload, plan->available, forecast_host_limit (self), &placement);
  describe (&facts, &placement, plan);
  estimate_time (self, request, &facts, &placement, plan);
  return TRUE;
}

gboolean
engine_plan (Engine *self, const EngineRequest *request, EnginePlan *plan, GError **error)
{
  return engine_plan_at (self, request, self->offload, plan, error);
}
