/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/engine.h"

#include "engine/observe.h"
#include "engine/plan.h"

#include <stdatomic.h>
#include <unistd.h>

/* Of what is free when the engine plans, the part that activations may take: other programs and
 * the kernels' own scratch need the rest. */
#define USABLE_SHARE 0.8

struct _Engine
{
  Models models;
  Device device;
  char *trace_path;
  EngineLinearSeen seen; /* see observe.h */
  gpointer seen_data;
  /* Written by the engine's thread, read by any. */
  atomic_uint_fast64_t weights, activations, peak;
};

void
engine_init_process (char **argv)
{
  static const char variable[] = "OMP_WAIT_POLICY";

  if (g_getenv (variable) == NULL && g_setenv (variable, "passive", TRUE))
    execv ("/proc/self/exe", argv); /* comes back only on failure; then things are just slower */
}

/* From the program's own folder upwards: an installed tree has it in share, a source tree in data.
 */
char *
engine_find_builtin_model (void)
{
  static const char *const places[] = { "share/tessera/models/sketch", "data/models/sketch" };
  g_autofree char *folder = g_file_read_link ("/proc/self/exe", NULL);

  for (int level = 0; folder != NULL && level < 5; level++)
    {
      g_autofree char *below = folder;

      folder = g_path_get_dirname (below);
      for (guint i = 0; i < G_N_ELEMENTS (places); i++)
        {
          g_autofree char *index = g_build_filename (folder, places[i], "model_index.json", NULL);

          if (g_file_test (index, G_FILE_TEST_IS_REGULAR))
            return g_path_get_dirname (index);
        }
    }
  return NULL;
}

/* -- life ---------------------------------------------------------------------------------------
 */

Engine *
engine_new (const char *model_dir, const EngineOptions *options, GError **error)
{
  Engine *self = g_new0 (Engine, 1);
  const char *file = options != NULL ? options->transformer_file : NULL;
  const char *type = options != NULL ? options->svdquant_type : NULL;

  if (device_open (&self->device, options, error)
      && models_open (&self->models, &self->device, model_dir, file, type, error))
    return self;
  engine_free (self);
  return NULL;
}

void
engine_free (Engine *self)
{
  if (self == NULL)
    return;
  models_close (&self->models, &self->device);
  device_close (&self->device);
  g_free (self->trace_path);
  g_free (self);
}

void
engine_trim (Engine *self)
{
  models_release (&self->models, &self->device);
  atomic_store (&self->weights, 0);
}

void
engine_set_trace (Engine *self, const char *path)
{
  g_free (self->trace_path);
  self->trace_path = g_strdup (path);
}

/* -- questions ----------------------------------------------------------------------------------
 */

gboolean
engine_supports (Engine *self, EnginePrecision precision, GError **error)
{
  Weights *weights = models_weights (&self->models, MODELS_TRANSFORMER, precision, error);
  SvdqFormat format;

  if (weights == NULL)
    return FALSE;
  if (precision != ENGINE_PRECISION_SVDQUANT || !weights_svdq_format (weights, &format)
      || linear_choose (&self->device.caps, &self->device.options, &format) != NULL)
    return TRUE;
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_UNSUPPORTED,
               "%s cannot run SVDQuant files of %s in this build: choose BF16, or the CPU",
               self->device.caps.name, format == SVDQ_INT4 ? "INT4" : "NVFP4");
  return FALSE;
}

gboolean
engine_uses_guidance (Engine *self)
{
  return !checkpoint_is_distilled (self->models.checkpoint);
}

int
engine_get_native_size (Engine *self)
{
  int size = checkpoint_vae (self->models.checkpoint)->sample_size / 16 * 16;

  return CLAMP (size, ENGINE_REQUEST_MIN_SIZE, ENGINE_REQUEST_MAX_SIZE);
}

void
engine_get_device (Engine *self, EngineDevice *device)
{
  device_describe (&self->device, device);
}

void
engine_get_memory (Engine *self, EngineMemory *memory)
{
  *memory = (EngineMemory){
    .weights = atomic_load (&self->weights),
    .activations = atomic_load (&self->activations),
    .peak = atomic_load (&self->peak),
  };
  memory->reserved = memory->weights + memory->activations;
}

/* -- planning -----------------------------------------------------------------------------------
 */

/* Bytes that activations may take beside the weights. */
static guint64
activation_limit (const Engine *self, guint64 weights)
{
  guint64 budget = self->device.options.memory_budget;

  if (budget == 0)
    budget = (guint64)((double)self->device.caps.free_memory * USABLE_SHARE);
  return budget > weights ? budget - weights : 0;
}

static guint64
all_weights (const Engine *self, EnginePrecision precision)
{
  guint64 sum = 0;

  for (int part = 0; part < MODELS_N_PARTS; part++)
    sum += plan_weights (&self->models, &self->device, (ModelsPart)part, precision);
  return sum;
}

static gboolean
count_arenas (Engine *self, PipelineRun *run, PlanArenas *arenas, GError **error)
{
  guint64 weights = all_weights (self, run->request->precision);
  Status status
      = plan_arenas (&self->models, &self->device, run, activation_limit (self, weights), arenas);

  if (status == STATUS_OK)
    return TRUE;
  device_set_error (&self->device, status, "planning", error);
  return FALSE;
}

gboolean
engine_plan (Engine *self, const EngineRequest *request, EnginePlan *plan, GError **error)
{
  PipelineRun run = { .request = request };
  PlanArenas arenas;
  gboolean counted;

  *plan = (EnginePlan){ 0 };
  if (!engine_request_validate (request, error)
      || !engine_supports (self, request->precision, error))
    return FALSE;
  pipeline_tokenize (&self->models, &run);
  counted = count_arenas (self, &run, &arenas, error);
  pipeline_run_clear (&run);
  if (!counted)
    return FALSE;

  plan->weights = all_weights (self, request->precision);
  plan->phase_peak[ENGINE_PHASE_LOAD] = plan->weights;
  plan->phase_peak[ENGINE_PHASE_ENCODE] = plan->weights + arenas.encode;
  plan->phase_peak[ENGINE_PHASE_DENOISE] = plan->weights + arenas.denoise;
  plan->phase_peak[ENGINE_PHASE_DECODE] = plan->weights + arenas.decode;
  plan->activations = MAX (MAX (arenas.encode, arenas.denoise), arenas.decode);
  plan->peak = plan->weights + plan->activations;
  plan->available = plan->weights + activation_limit (self, plan->weights);
  plan->fits = plan->peak <= plan->available;
  return TRUE;
}

/* -- a request ----------------------------------------------------------------------------------
 */

typedef Status (*PhaseFunc) (const Context *ctx, const Models *models, PipelineRun *run);

gboolean
engine_observe (Engine *self, EngineLinearSeen seen, gpointer user_data, GError **error)
{
  if (self->device.caps.kind != DEVICE_CPU)
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_UNSUPPORTED,
                   "only the CPU's linear layers can be observed");
      return FALSE;
    }
  self->seen = seen;
  self->seen_data = user_data;
  return TRUE;
}

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

/* Runs a phase in an arena of its own. */
static gboolean
run_phase (Engine *self, PhaseFunc phase, size_t bytes, PipelineRun *run, const char *doing,
           GCancellable *cancellable, GError **error)
{
  const Ops *ops = self->device.ops;
  Stream *stream = self->device.stream;
  Arena arena = { 0 };
  LinearObserver observer = { .before = report_linear, .user_data = self };
  Context ctx = { .ops = ops,
                  .stream = stream,
                  .activation = ops->activation,
                  .arena = &arena,
                  .caps = &self->device.caps,
                  .options = &self->device.options,
                  .cancellable = cancellable,
                  .observer = self->seen != NULL ? &observer : NULL };
  Status status = arena_init (&arena, ops, stream, bytes);

  atomic_store (&self->activations, bytes);
  if (status == STATUS_OK)
    {
      guint64 held = ops->allocated (stream);

      atomic_store (&self->peak, MAX (atomic_load (&self->peak), held));
      status = phase (&ctx, &self->models, run);
      held = ops->allocated (stream);
      atomic_store (&self->peak, MAX (atomic_load (&self->peak), held));
    }
  arena_clear (&arena);
  atomic_store (&self->activations, 0);
  if (status == STATUS_OK)
    return TRUE;
  device_set_error (&self->device, status, doing, error);
  return FALSE;
}

static gboolean
load_all (Engine *self, PipelineRun *run, GCancellable *cancellable, GError **error)
{
  for (int part = 0; part < MODELS_N_PARTS; part++)
    {
      if (run->progress != NULL)
        run->progress (ENGINE_PHASE_LOAD, (guint)part, MODELS_N_PARTS, NULL, run->user_data);
      if (!models_load (&self->models, &self->device, (ModelsPart)part, run->request->precision,
                        cancellable, error))
        return FALSE;
      atomic_store (&self->weights, self->device.ops->allocated (self->device.stream));
    }
  return TRUE;
}

static gboolean
run_all (Engine *self, PipelineRun *run, GCancellable *cancellable, GError **error)
{
  PlanArenas arenas;

  pipeline_tokenize (&self->models, run);
  return pipeline_start (&self->models, run, error) && load_all (self, run, cancellable, error)
         && count_arenas (self, run, &arenas, error)
         && run_phase (self, pipeline_encode, arenas.encode, run, "reading the prompt", cancellable,
                       error)
         && run_phase (self, pipeline_denoise, arenas.denoise, run, "denoising", cancellable, error)
         && run_phase (self, pipeline_decode, arenas.decode, run, "decoding the picture",
                       cancellable, error);
}

Image *
engine_generate (Engine *self, const EngineRequest *request, EngineProgress progress,
                 gpointer user_data, GCancellable *cancellable, GError **error)
{
  g_autoptr (Trace) trace = self->trace_path != NULL ? trace_new () : NULL;
  PipelineRun run
      = { .request = request, .trace = trace, .progress = progress, .user_data = user_data };
  g_autoptr (Image) image = NULL;

  if (!engine_request_validate (request, error)
      || !engine_supports (self, request->precision, error)
      || g_cancellable_set_error_if_cancelled (cancellable, error))
    return NULL;

  atomic_store (&self->peak, 0);
  if (run_all (self, &run, cancellable, error))
    image = pipeline_image (&run);
  pipeline_run_clear (&run);
  if (image != NULL && trace != NULL && !trace_write (trace, self->trace_path, error))
    return NULL;
  return g_steal_pointer (&image);
}
