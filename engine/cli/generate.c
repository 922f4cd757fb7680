/* SPDX-License-Identifier: Apache-2.0
 *
 * tessera-cli generate: one picture from one prompt
 */
#include "engine/cli/cli.h"

#include "engine/engine.h"
#include "engine/files/atomic-file.h"
#include "engine/files/json.h"

#include <unistd.h>

#define MAX_THREADS 1024 /* a stack each: many more, and OpenMP ends the program */

typedef struct
{
  char *model, *transformer, *prompt, *negative, *size, *precision, *device, *cpu_math, *noise;
  char *latents, *trace, *output, *memory_budget, *offload, *arithmetic, *seed, *text_encoder;
  char **lora_texts, **lora_files;
  GArray *loras; /* EngineLora */
  double guidance, cfg_normalization, cfg_truncation;
  int steps, threads;
  gboolean json;
} Options;

static void
options_clear (Options *o)
{
  char **strings[]
      = { &o->model,      &o->transformer, &o->prompt,        &o->negative, &o->size,
          &o->precision,  &o->device,      &o->cpu_math,      &o->noise,    &o->latents,
          &o->trace,      &o->output,      &o->memory_budget, &o->offload,  &o->seed,
          &o->arithmetic, &o->text_encoder };

  for (guint i = 0; i < G_N_ELEMENTS (strings); i++)
    g_free (*strings[i]);
  g_strfreev (o->lora_texts);
  g_strfreev (o->lora_files);
  g_clear_pointer (&o->loras, g_array_unref);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Options, options_clear)

/* -- options to a request ------------------------------------------------------------------------
 */

static gboolean
fill_request (Options *o, EngineRequest *r, EngineOptions *e, GError **error)
{
  static const char *const noises[] = { "torch-cpu", "torch-cuda", NULL };
  int noise = (int)r->noise;

  r->prompt = o->prompt;
  r->negative = o->negative;
  r->steps = o->steps;
  r->guidance = o->guidance;
  r->cfg_normalization = o->cfg_normalization;
  r->cfg_truncation = o->cfg_truncation;
  r->latents_file = o->latents;
  if (o->seed != NULL && !g_ascii_string_to_unsigned (o->seed, 10, 0, G_MAXUINT64, &r->seed, NULL))
    return cli_usage_error (error, "--seed is \"%s\"; it must be a number from 0 to 2^64 - 1",
                            o->seed);
  if (!cli_parse_size (o->size, r, error)
      || !cli_parse_precision (o->precision, r, &e->svdquant_type, error)
      || !cli_parse_choice ("--noise", o->noise, noises, &noise, error)
      || !cli_parse_loras (o->lora_texts, r, o->loras, &o->lora_files, error))
    return FALSE;
  r->noise = (EngineNoise)noise;
  return engine_request_validate (r, error);
}

static gboolean
fill_engine_options (const Options *o, EngineOptions *e, GError **error)
{
  static const char *const maths[] = { "fp32", "bf16", NULL };
  int math = 0;

  if (!cli_parse_choice ("--cpu-math", o->cpu_math, maths, &math, error)
      || !cli_parse_arithmetic (o->arithmetic, &e->exact, error)
      || !cli_parse_bytes (o->memory_budget, &e->memory_budget, error)
      || !cli_parse_offload (o->offload, &e->offload, error))
    return FALSE;
  if (o->threads < 0 || o->threads > MAX_THREADS)
    return cli_usage_error (error, "--threads is %d; it must be from 0 (all cores) to %d",
                            o->threads, MAX_THREADS);
  e->device = o->device;
  e->transformer_file = o->transformer;
  e->text_encoder_file = o->text_encoder;
  e->bf16_math = math == 1;
  e->threads = o->threads;
  return TRUE;
}

static gboolean
parse (int argc, char **argv, Options *o, GError **error)
{
  const GOptionEntry entries[] = {
    { "model", 'm', 0, G_OPTION_ARG_FILENAME, &o->model,
      "Model folder (default: the built-in sketch model)", "DIR" },
    { "transformer", 0, 0, G_OPTION_ARG_FILENAME, &o->transformer,
      "Transformer file to use instead of the folder's own", "FILE" },
    { "text-encoder", 0, 0, G_OPTION_ARG_FILENAME, &o->text_encoder, CLI_TEXT_ENCODER_HELP,
      "FILE" },
    { "prompt", 'p', 0, G_OPTION_ARG_FILENAME, &o->prompt, "What to draw", "TEXT" },
    { "negative", 0, 0, G_OPTION_ARG_FILENAME, &o->negative, "What to keep out (with guidance)",
      "TEXT" },
    { "guidance", 0, 0, G_OPTION_ARG_DOUBLE, &o->guidance,
      "Guidance, 0 (default) = off (for the undistilled model)", "G" },
    { "cfg-normalization", 0, 0, G_OPTION_ARG_DOUBLE, &o->cfg_normalization,
      "Largest ratio of norms under guidance, 0 (default) = off", "F" },
    { "cfg-truncation", 0, 0, G_OPTION_ARG_DOUBLE, &o->cfg_truncation,
      "Time above which guidance is off, 1 (default) = never", "F" },
    { "seed", 's', 0, G_OPTION_ARG_STRING, &o->seed, "Seed of the noise (default: 0)", "N" },
    { "steps", 0, 0, G_OPTION_ARG_INT, &o->steps, "Denoising steps (default: 8)", "N" },
    { "size", 0, 0, G_OPTION_ARG_STRING, &o->size,
      "Multiples of 16 from 64 to 2048 (default: the model's own)", "WxH" },
    { "precision", 0, 0, G_OPTION_ARG_STRING, &o->precision, CLI_PRECISION_HELP, "P" },
    { "lora", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &o->lora_texts,
      "LoRA and its strength, 1 if not given; may be repeated", "FILE[:S]" },
    { "device", 'd', 0, G_OPTION_ARG_STRING, &o->device, CLI_DEVICE_HELP, "D" },
    { "cpu-math", 0, 0, G_OPTION_ARG_STRING, &o->cpu_math,
      "CPU matrix products in fp32 (default) or bf16 (where the processor has it)", "M" },
    { "arithmetic", 0, 0, G_OPTION_ARG_STRING, &o->arithmetic, CLI_ARITHMETIC_HELP, "A" },
    { "threads", 't', 0, G_OPTION_ARG_INT, &o->threads, "CPU threads, 0 (default) = all cores",
      "N" },
    { "memory-budget", 0, 0, G_OPTION_ARG_STRING, &o->memory_budget,
      "Most device memory to hold, such as 16GiB", "B" },
    { "offload", 0, 0, G_OPTION_ARG_STRING, &o->offload, CLI_OFFLOAD_HELP, "L" },
    { "noise", 0, 0, G_OPTION_ARG_STRING, &o->noise,
      "torch-cpu (default) or torch-cuda: whose random numbers", "KIND" },
    { "latents", 0, 0, G_OPTION_ARG_FILENAME, &o->latents,
      "Start from latents.init in this safetensors file", "FILE" },
    { "trace", 0, 0, G_OPTION_ARG_FILENAME, &o->trace, "Write every stage's tensors here", "FILE" },
    { "output", 'o', 0, G_OPTION_ARG_FILENAME, &o->output, "The picture (default: tessera.png)",
      "FILE.png" },
    { "json", 0, 0, G_OPTION_ARG_NONE, &o->json, "Print the result as JSON", NULL },
    G_OPTION_ENTRY_NULL,
  };

  return cli_parse (argc, argv, "Draws a picture from a prompt.", entries, NULL, NULL, error);
}

/* -- progress and interruption ------------------------------------------------------------------
 */

typedef struct
{
  gboolean shown; /* standard error is a terminal */
  gint64 started[ENGINE_N_PHASES], ended[ENGINE_N_PHASES];
} Progress;

static void
on_progress (EnginePhase phase, guint step, guint n_steps, Image *preview, gpointer user_data)
{
  static const char *const names[] = { "Loading", "Reading the prompt", "Drawing", "Decoding" };
  Progress *self = user_data;
  gint64 now = g_get_monotonic_time ();

  if (self->started[phase] == 0)
    {
      self->started[phase] = now;
      for (int i = 0; i < (int)phase; i++)
        if (self->ended[i] == 0)
          self->ended[i] = now;
    }
  if (!self->shown)
    return;
  if (phase == ENGINE_PHASE_DENOISE)
    g_printerr ("\r\033[K%s: step %u of %u", names[phase], step, n_steps);
  else
    g_printerr ("\r\033[K%s", names[phase]);
}

static double
phase_seconds (const Progress *self, EnginePhase phase, gint64 end)
{
  gint64 ended = self->ended[phase] != 0 ? self->ended[phase] : end;

  return self->started[phase] != 0 ? (double)(ended - self->started[phase]) / 1e6 : 0.0;
}

/* -- the result ---------------------------------------------------------------------------------
 */

/* What was applied of each LoRA, and on standard error what was not. */
static void
describe_loras (Engine *engine, cJSON *root)
{
  cJSON *array = cJSON_AddArrayToObject (root, "loras_applied");
  EngineLoraReport reports[ENGINE_REQUEST_MAX_LORAS];
  guint n = engine_get_loras (engine, reports, G_N_ELEMENTS (reports));

  for (guint i = 0; i < n; i++)
    {
      g_autofree char *name = g_filename_display_basename (reports[i].file);
      cJSON *item = cJSON_CreateObject ();

      cJSON_AddStringToObject (item, "name", name);
      cJSON_AddNumberToObject (item, "layers", reports[i].applied);
      cJSON_AddNumberToObject (item, "left_out", reports[i].left_out);
      cJSON_AddItemToArray (array, item);
      if (reports[i].left_out > 0)
        g_printerr ("%s: %u layers applied, %u left out:\n%s\n", name, reports[i].applied,
                    reports[i].left_out, reports[i].reasons);
    }
}

/* The record that goes into the PNG and to --json: the request and how it was met. */
static cJSON *
describe (Engine *engine, const EngineRequest *request, const Progress *progress, gint64 started,
          gint64 ended)
{
  static const char *const names[] = { "load", "encode", "denoise", "decode" };
  g_autofree char *base = engine_request_to_json (request);
  cJSON *root = cJSON_Parse (base);
  cJSON *seconds = cJSON_AddObjectToObject (root, "seconds");
  EngineDevice device;
  EngineMemory memory;

  engine_get_device (engine, &device);
  engine_get_memory (engine, &memory);
  for (int i = 0; i < ENGINE_N_PHASES; i++)
    cJSON_AddNumberToObject (seconds, names[i], phase_seconds (progress, (EnginePhase)i, ended));
  cJSON_AddNumberToObject (seconds, "total", (double)(ended - started) / 1e6);
  cJSON_AddStringToObject (root, "device", device.name);
  cJSON_AddStringToObject (root, "device_id", device.id);
  cJSON_AddStringToObject (root, "kernels", engine_get_kernels (engine, request->precision));
  if (engine_get_text_encoder_bits (engine) != 16)
    cJSON_AddNumberToObject (root, "text_encoder_bits", engine_get_text_encoder_bits (engine));
  cJSON_AddNumberToObject (root, "peak_memory", (double)memory.peak);
  cJSON_AddStringToObject (root, "version", TESSERA_VERSION);
  if (request->n_loras > 0)
    describe_loras (engine, root);
  return root;
}

static gboolean
save (Engine *engine, const Options *o, const EngineRequest *request, Image *image,
      const Progress *progress, gint64 started, GError **error)
{
  gint64 ended = g_get_monotonic_time ();
  g_autoptr (cJSON) record = describe (engine, request, progress, started, ended);
  g_autofree char *details = json_print (record, FALSE);
  ImageInfo info = { .request = (EngineRequest *)request, .details = details };

  if (!image_save_png (image, o->output, &info, error))
    return FALSE;
  if (o->json)
    {
      cJSON_AddStringToObject (record, "output", o->output);
      cli_print_json (record);
    }
  else
    g_print ("%s: %dx%d, seed %" G_GUINT64_FORMAT ", %.1f s\n", o->output, request->width,
             request->height, request->seed, (double)(ended - started) / 1e6);
  return TRUE;
}

static gboolean
generate (const Options *o, EngineRequest *request, const EngineOptions *engine_options,
          GError **error)
{
  g_autoptr (Engine) engine = NULL;
  g_autoptr (Image) image = NULL;
  g_autoptr (CliInterrupt) interrupt = NULL;
  Progress progress = { .shown = isatty (STDERR_FILENO) && !o->json };
  gint64 started = g_get_monotonic_time ();

  /* Before the work, not after it. */
  if (!atomic_file_check (o->output, error)
      || (o->trace != NULL && !atomic_file_check (o->trace, error)))
    return FALSE;
  engine = engine_new (o->model, engine_options, error);
  if (engine == NULL)
    return FALSE;
  cli_choose_precision (engine, o->precision, o->transformer, request);
  if (o->size == NULL)
    request->width = request->height = engine_get_native_size (engine);
  if (o->trace != NULL)
    engine_set_trace (engine, o->trace);
  interrupt = cli_interrupt_new ();
  image = engine_generate (engine, request, on_progress, &progress,
                           cli_interrupt_cancellable (interrupt), error);
  if (progress.shown)
    g_printerr ("\r\033[K");
  return image != NULL && save (engine, o, request, image, &progress, started, error);
}

gboolean
cli_generate (int argc, char **argv, GError **error)
{
  g_auto (Options) options = { .steps = 8,
                               .cfg_truncation = 1.0,
                               .loras = g_array_new (FALSE, FALSE, sizeof (EngineLora)) };
  EngineRequest request = ENGINE_REQUEST_INIT;
  g_autofree char *calibration = engine_find_calibration_file ();
  EngineOptions engine_options = { .calibration_file = calibration };

  if (!parse (argc, argv, &options, error))
    return FALSE;
  if (options.output == NULL)
    options.output = g_strdup ("tessera.png");
  if (options.model == NULL)
    options.model = engine_find_builtin_model ();
  if (options.model == NULL)
    return cli_usage_error (error, "--model DIR is missing, and the built-in model was not found");
  if (options.prompt == NULL)
    return cli_usage_error (error, "--prompt TEXT is missing");
  return cli_check_png_name ("--output", options.output, error)
         && fill_request (&options, &request, &engine_options, error)
         && engine_request_validate (&request, error)
         && fill_engine_options (&options, &engine_options, error)
         && generate (&options, &request, &engine_options, error);
}
