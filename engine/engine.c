/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/engine-private.h"

#include "engine/lora/adapters.h"

#include <signal.h>
#include <unistd.h>

/* Weights are read where the file is mapped. When it is cut short, or its disk fails, there is
 * nothing to go on with: this says so, and the signal, which then comes again, ends the program. */
static void
on_bus_error (int number)
{
  static const char text[]
      = "tessera: a model's file was cut short while it was read, or its disk failed; look "
        "whether the file is whole, and replace files by renaming, not by writing over them\n";
  gssize written = write (STDERR_FILENO, text, sizeof text - 1);

  (void)written;
}

void
engine_init_process (char **argv)
{
  static const char variable[] = "OMP_WAIT_POLICY";
  const struct sigaction action
      = { .sa_handler = on_bus_error, .sa_flags = (int)SA_RESETHAND | SA_RESTART };

  sigaction (SIGBUS, &action, NULL);

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

/* FALSE with an error if the text encoder is in codes and nothing here computes with them. */
static gboolean
check_text_encoder (Engine *self, GError **error)
{
  const Device *device = &self->device;

  if (engine_get_text_encoder_bits (self) == 16
      || linear_choose_coded (&device->caps, &device->options) != NULL)
    return TRUE;
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_UNSUPPORTED,
               "%s cannot run a text encoder in %d bit: leave it out, or choose the CPU",
               device->caps.name, engine_get_text_encoder_bits (self));
  return FALSE;
}

/* -- life ---------------------------------------------------------------------------------------
 */

Engine *
engine_new (const char *model_dir, const EngineOptions *options, GError **error)
{
  static const EngineOptions none = { 0 };
  Engine *self = g_new0 (Engine, 1);

  options = options != NULL ? options : &none;
  self->offload = options->offload;
  self->prompts = prompt_cache_new ();
  self->lora_folder = options->lora_folder != NULL
                          ? g_strdup (options->lora_folder)
                          : g_build_filename (g_get_user_data_dir (), "tessera", "loras", NULL);
  if (device_open (&self->device, options, error)
      && models_open (&self->models, &self->device, model_dir, options->transformer_file,
                      options->svdquant_type, options->text_encoder_file, error)
      && check_text_encoder (self, error))
    {
      self->calibration = calibration_new (options->calibration_file, self->device.caps.name);
      return self;
    }
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
  calibration_free (self->calibration);
  prompt_cache_free (self->prompts);
  g_free (self->kept.request);
  g_free (self->kept.latents);
  g_free (self->trace_path);
  g_free (self->lora_folder);
  g_free (self);
}

void
engine_trim (Engine *self)
{
  const Ops *ops = self->device.ops;

  models_release (&self->models, &self->device);
  if (self->device.stream == NULL)
    return;
  (void)ops->wait (self->device.stream);
  ops->trim (self->device.stream);
  (void)ops->peak (self->device.stream, true);
  atomic_store (&self->held, ops->allocated (self->device.stream));
  atomic_store (&self->peak, 0);
  atomic_store (&self->pinned, 0);
}

void
engine_set_limits (Engine *self, EngineOffload offload, guint64 memory_budget)
{
  self->offload = offload;
  self->device.options.memory_budget = memory_budget;
  if (self->device.stream != NULL)
    self->device.ops->set_budget (self->device.stream, memory_budget);
}

void
engine_set_trace (Engine *self, const char *path)
{
  g_free (self->trace_path);
  self->trace_path = g_strdup (path);
}

/* -- questions ----------------------------------------------------------------------------------
 */

/* What runs the transformer's layers; NULL if nothing does. */
static const LinearBackend *
transformer_backend (Engine *self, Weights *weights, EnginePrecision precision)
{
  SvdqFormat format;
  gboolean svdq = precision == ENGINE_PRECISION_SVDQUANT && weights_svdq_format (weights, &format);

  return linear_choose (&self->device.caps, &self->device.options, svdq ? &format : NULL);
}

const char *
engine_get_kernels (Engine *self, EnginePrecision precision)
{
  Weights *weights = models_weights (&self->models, MODELS_TRANSFORMER, precision, NULL);
  const LinearBackend *backend
      = weights != NULL ? transformer_backend (self, weights, precision) : NULL;

  return backend != NULL ? backend->name : "";
}

const char *
engine_get_arithmetic (const char *kernels)
{
  return linear_arithmetic (kernels);
}

gboolean
engine_has_both_arithmetics (Engine *self)
{
  Weights *weights
      = models_weights (&self->models, MODELS_TRANSFORMER, ENGINE_PRECISION_SVDQUANT, NULL);
  StreamOptions fast = { .exact = FALSE }, exact = { .exact = TRUE };
  SvdqFormat format;

  return weights != NULL && weights_svdq_format (weights, &format)
         && linear_choose (&self->device.caps, &fast, &format)
                != linear_choose (&self->device.caps, &exact, &format);
}

int
engine_get_text_encoder_bits (Engine *self)
{
  Weights *weights = models_weights (&self->models, MODELS_TEXT_ENCODER, 0, NULL);
  int bits = weights_code_bits (weights);

  return bits != 0 ? bits : 16;
}

gboolean
engine_supports (Engine *self, EnginePrecision precision, GError **error)
{
  Weights *weights = models_weights (&self->models, MODELS_TRANSFORMER, precision, error);
  SvdqFormat format = SVDQ_INT4;

  if (weights == NULL)
    return FALSE;
  if (transformer_backend (self, weights, precision) != NULL)
    return TRUE;
  weights_svdq_format (weights, &format);
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

guint
engine_get_loras (Engine *self, EngineLoraReport *reports, guint max)
{
  guint n = adapters_count (self->models.adapters);

  for (guint i = 0; i < MIN (n, max); i++)
    reports[i] = adapters_report (self->models.adapters, i);
  return n;
}

char *
engine_check_lora (Engine *self, const char *file, guint *applied, guint *left_out, GError **error)
{
  const EngineLora lora = { file, 1.0 };
  const EngineRequest request = { .loras = &lora, .n_loras = 1 };
  Adapters *adapters;
  EngineLoraReport report;
  char *reasons;

  if (!models_look_at_adapters (&self->models, &request, self->lora_folder, TRUE, &adapters, error))
    return NULL;
  report = adapters_report (adapters, 0);
  reasons = g_strdup (report.reasons);
  *applied = report.applied;
  *left_out = report.left_out;
  adapters_free (NULL, adapters);
  return reasons;
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
    .reserved = atomic_load (&self->held),
    .activations = atomic_load (&self->activations),
    .peak = atomic_load (&self->peak),
    .pinned = atomic_load (&self->pinned),
  };
  memory->weights = memory->reserved - MIN (memory->reserved, memory->activations);
}

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
