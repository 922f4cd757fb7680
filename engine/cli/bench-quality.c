/* SPDX-License-Identifier: Apache-2.0
 *
 * tessera-cli bench quality: draw prompts with several precisions, and compare
 */
#include "engine/cli/bench-quality.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct
{
  char *model, *baseline, *prompts, *size, *seed, *precision, *device, *memory_budget, *lpips;
  char *output;
  char **transformers, **text_encoders;
  int steps;
} Options;

static void
options_clear (Options *o)
{
  char **strings[] = { &o->model,     &o->baseline, &o->prompts,       &o->size,  &o->seed,
                       &o->precision, &o->device,   &o->memory_budget, &o->lpips, &o->output };

  for (guint i = 0; i < G_N_ELEMENTS (strings); i++)
    g_free (*strings[i]);
  g_strfreev (o->transformers);
  g_strfreev (o->text_encoders);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Options, options_clear)

/* -- what to run ---------------------------------------------------------------------------------
 */

/* Letters and digits of the label, for a folder's name that a page can point to. */
static char *
folder_name (guint index, const char *label)
{
  GString *name = g_string_new (index == 0 ? "baseline" : NULL);

  if (index > 0)
    g_string_append_printf (name, "%u", index);
  g_string_append_c (name, '-');
  for (const char *c = label; *c != '\0'; c++)
    if (g_ascii_isalnum (*c))
      g_string_append_c (name, g_ascii_tolower (*c));
    else if (name->str[name->len - 1] != '-')
      g_string_append_c (name, '-');
  if (name->str[name->len - 1] == '-')
    g_string_truncate (name, name->len - 1);
  return g_string_free (name, FALSE);
}

/* Adds a configuration; its precision is the checkpoint's unless `told`. */
static gboolean
add_configuration (QualityRun *run, const char *model, const char *transformer, const char *told,
                   GError **error)
{
  g_autofree char *precision = quality_precision_of (model, transformer, error);
  const EnginePrecision found = precision != NULL && g_str_has_prefix (precision, "SVDQuant")
                                    ? ENGINE_PRECISION_SVDQUANT
                                    : ENGINE_PRECISION_BF16;
  EngineRequest request = { .precision = found };
  QualityConfiguration *c;

  if (precision == NULL || !cli_parse_precision (told, &request, NULL, error))
    return FALSE;
  c = g_new0 (QualityConfiguration, 1);
  g_ptr_array_add (run->configurations, c);
  c->model = g_strdup (model);
  c->transformer = g_strdup (transformer);
  c->precision = request.precision;
  c->label = request.precision != found ? g_strdup_printf ("%s run as %s", precision, told)
                                        : g_steal_pointer (&precision);
  return TRUE;
}

/* Adds the model with another text encoder. */
static gboolean
add_text_encoder (QualityRun *run, const char *model, const char *text_encoder, const char *told,
                  GError **error)
{
  const int bits = engine_find_text_encoder_bits (text_encoder, error);
  QualityConfiguration *c;
  char *label;

  if (bits == 0 || !add_configuration (run, model, NULL, told, error))
    return FALSE;
  c = g_ptr_array_index (run->configurations, run->configurations->len - 1);
  c->text_encoder = g_strdup (text_encoder);
  label = g_strdup_printf ("%s, text encoder in %d bit", c->label, bits);
  g_free (c->label);
  c->label = label;
  return TRUE;
}

static QualityConfiguration *
configuration_at (const QualityRun *run, guint index)
{
  return g_ptr_array_index (run->configurations, index);
}

/* "SVDQuant INT4 (file)" (transfer full). */
static char *
long_label (const QualityConfiguration *c)
{
  g_autofree char *base = g_path_get_basename (c->text_encoder != NULL  ? c->text_encoder
                                               : c->transformer != NULL ? c->transformer
                                                                        : c->model);

  if (g_str_has_suffix (base, ".safetensors"))
    base[strlen (base) - strlen (".safetensors")] = '\0';
  return g_strdup_printf ("%s (%s)", c->label, base);
}

/* A label that the baseline or another has too gets the name of the file or folder. */
static void
name_configurations (QualityRun *run)
{
  const guint n = run->configurations->len;
  char *longer[QUALITY_MAX_CONFIGURATIONS + 1] = { NULL };

  for (guint i = 1; i < n; i++)
    for (guint j = 0; j < n; j++)
      if (i != j && longer[i] == NULL
          && g_str_equal (configuration_at (run, i)->label, configuration_at (run, j)->label))
        longer[i] = long_label (configuration_at (run, i));
  for (guint i = 0; i < n; i++)
    {
      QualityConfiguration *c = configuration_at (run, i);

      if (longer[i] != NULL)
        {
          g_free (c->label);
          c->label = longer[i];
        }
      c->folder = folder_name (i, c->label);
    }
}

static gboolean
add_configurations (QualityRun *run, const char *model, const Options *o, GError **error)
{
  const char *baseline = o->baseline != NULL ? o->baseline : model;
  const guint n_transformers = o->transformers != NULL ? g_strv_length (o->transformers) : 0;
  const guint n_encoders = o->text_encoders != NULL ? g_strv_length (o->text_encoders) : 0;

  if (!add_configuration (run, baseline, NULL, NULL, error))
    return FALSE;
  if (n_transformers + n_encoders == 0 && o->baseline == NULL && o->precision == NULL)
    return cli_usage_error (error,
                            "there is nothing to compare with the baseline: give --transformer, "
                            "--text-encoder, --baseline-model or --precision");
  if (n_transformers + n_encoders == 0)
    return add_configuration (run, model, NULL, o->precision, error);
  if (n_transformers + n_encoders >= QUALITY_MAX_CONFIGURATIONS)
    return cli_usage_error (error, "more than %d transformers and text encoders",
                            QUALITY_MAX_CONFIGURATIONS - 1);
  for (guint i = 0; i < n_transformers; i++)
    if (!add_configuration (run, model, o->transformers[i], o->precision, error))
      return FALSE;
  for (guint i = 0; i < n_encoders; i++)
    if (!add_text_encoder (run, model, o->text_encoders[i], o->precision, error))
      return FALSE;
  return TRUE;
}

/* The device by its name, and the size the model was made for where none is asked for. */
static gboolean
ask_engine (QualityRun *run, gboolean any_size, GError **error)
{
  const QualityConfiguration *baseline = g_ptr_array_index (run->configurations, 0);
  EngineOptions options = { .device = run->device, .memory_budget = run->memory_budget };
  g_autoptr (Engine) engine = engine_new (baseline->model, &options, error);
  EngineDevice device;

  if (engine == NULL)
    return FALSE;
  engine_get_device (engine, &device);
  run->device_name = g_strdup (device.name);
  run->gpu = device.gpu;
  if (any_size)
    run->request.width = run->request.height = engine_get_native_size (engine);
  return TRUE;
}

static gboolean
prepare (QualityRun *run, const Options *o, GError **error)
{
  EngineRequest request = ENGINE_REQUEST_INIT;
  g_autofree char *builtin = o->model == NULL ? engine_find_builtin_model () : NULL;
  const char *model = o->model != NULL ? o->model : builtin;

  if (model == NULL)
    return cli_usage_error (error, "--model DIR is missing, and the built-in model was not found");
  if (o->prompts == NULL || o->output == NULL)
    return cli_usage_error (error, "--prompts FILE and --output FOLDER are needed");
  request.seed = 42;
  request.steps = o->steps;
  if (o->seed != NULL
      && !g_ascii_string_to_unsigned (o->seed, 10, 0, G_MAXUINT64, &request.seed, NULL))
    return cli_usage_error (error, "--seed is \"%s\"; it must be a number from 0 to 2^64 - 1",
                            o->seed);
  if (!cli_parse_size (o->size, &request, error) || !engine_request_validate (&request, error)
      || !cli_parse_bytes (o->memory_budget, &run->memory_budget, error))
    return FALSE;
  run->request = request;
  run->folder = g_strdup (o->output);
  run->device = g_strdup (o->device != NULL ? o->device : "auto");
  run->configurations = g_ptr_array_new ();
  run->prompts = quality_prompts_load (o->prompts, error);
  if (run->prompts == NULL || !add_configurations (run, model, o, error))
    return FALSE;
  name_configurations (run);
  return ask_engine (run, o->size == NULL, error) && quality_run_open (run, error);
}

/* -- measuring -----------------------------------------------------------------------------------
 */

/* A picture in the making. */
typedef struct
{
  Engine *engine;
  QualityRow *row;
  guint64 free_before; /* GPU: free memory before the engine took any */
  gint64 loading, encoding, first_step, last_step;
  guint steps;
} Watch;

/* Memory of this process in use on the device, by whoever manages it. */
static guint64
resident_bytes (void)
{
  g_autofree char *text = NULL;
  guint64 pages = 0;

  if (g_file_get_contents ("/proc/self/statm", &text, NULL, NULL)
      && sscanf (text, "%*u %" G_GINT64_MODIFIER "u", &pages) == 1)
    return pages * (guint64)sysconf (_SC_PAGESIZE);
  return 0;
}

static guint64
free_bytes (Engine *engine)
{
  g_autoptr (GArray) devices = engine_list_devices ();
  EngineDevice own;

  engine_get_device (engine, &own);
  for (guint i = 0; i < devices->len; i++)
    {
      const EngineDevice *device = &g_array_index (devices, EngineDevice, i);

      if (g_str_equal (device->id, own.id))
        return device->free_memory;
    }
  return 0;
}

static void
sample_memory (Watch *self)
{
  EngineMemory memory;
  EngineDevice device;
  guint64 used;

  engine_get_memory (self->engine, &memory);
  engine_get_device (self->engine, &device);
  used = resident_bytes ();
  if (device.gpu)
    {
      guint64 now = free_bytes (self->engine);

      used = now < self->free_before ? self->free_before - now : 0;
    }
  self->row->peak = MAX (self->row->peak, memory.peak);
  self->row->system_peak = MAX (self->row->system_peak, used);
}

static void
on_progress (EnginePhase phase, guint step, guint n_steps, Image *preview, gpointer user_data)
{
  Watch *self = user_data;
  gint64 now = g_get_monotonic_time ();

  if (phase == ENGINE_PHASE_LOAD && self->loading == 0)
    self->loading = now;
  if (phase == ENGINE_PHASE_ENCODE && self->encoding == 0)
    self->encoding = now;
  if (phase == ENGINE_PHASE_DENOISE && step == 1)
    self->first_step = now;
  if (phase == ENGINE_PHASE_DENOISE && step > 1)
    {
      self->last_step = now;
      self->steps = step - 1;
    }
  /* Asking a driver takes time of its own: not between the steps that are timed. */
  if (phase != ENGINE_PHASE_DENOISE || step == n_steps)
    sample_memory (self);
}

static double
seconds (gint64 from, gint64 to)
{
  return (double)(to - from) / G_USEC_PER_SEC;
}

/* Draws one prompt. FALSE only if the run must stop: interrupted, or its folder is not writable. */
static gboolean
draw (const QualityRun *run, const QualityConfiguration *c, guint prompt, Engine *engine,
      guint64 free_before, GCancellable *cancellable, gboolean *lost, GError **error)
{
  QualityRow *row = &c->rows[prompt];
  Watch watch = { .engine = engine, .row = row, .free_before = free_before };
  EnginePlan plan;
  EngineRequest request = run->request;
  g_autoptr (GError) failure = NULL;
  g_autoptr (Image) picture = NULL;
  gint64 ended;

  request.prompt = ((QualityPrompt *)g_ptr_array_index (run->prompts, prompt))->text;
  request.precision = c->precision;
  if (engine_plan (engine, &request, &plan, &failure))
    picture = engine_generate (engine, &request, on_progress, &watch, cancellable, &failure);
  ended = g_get_monotonic_time ();
  if (picture != NULL)
    {
      sample_memory (&watch);
      row->activations = plan.activations;
      row->weights = row->peak > plan.activations ? row->peak - plan.activations : 0;
      row->load_seconds = watch.loading != 0 ? seconds (watch.loading, watch.encoding) : 0;
      row->seconds = seconds (watch.encoding, ended);
      row->step_seconds
          = watch.steps > 0 ? seconds (watch.first_step, watch.last_step) / watch.steps : 0;
    }
  else if (g_error_matches (failure, G_IO_ERROR, G_IO_ERROR_CANCELLED))
    {
      g_propagate_error (error, g_steal_pointer (&failure));
      return FALSE;
    }
  else
    {
      row->error = g_strdup (failure->message);
      *lost = g_error_matches (failure, ENGINE_ERROR, ENGINE_ERROR_DEVICE_LOST);
    }
  row->done = picture != NULL;
  return quality_row_save (run, c, prompt, picture, error);
}

/* Draws what a configuration lacks, with an engine of its own that ends with it. */
static gboolean
draw_all (const QualityRun *run, const QualityConfiguration *c, gboolean progress,
          GCancellable *cancellable, GError **error)
{
  const EngineOptions options = { .device = run->device,
                                  .transformer_file = c->transformer,
                                  .text_encoder_file = c->text_encoder,
                                  .memory_budget = run->memory_budget };
  g_autoptr (Engine) engine = NULL;
  guint64 free_before = 0;

  for (guint p = 0; p < run->prompts->len; p++)
    {
      const QualityPrompt *prompt = g_ptr_array_index (run->prompts, p);
      g_autoptr (GError) failure = NULL;
      gboolean lost = FALSE;

      if (c->rows[p].done)
        continue;
      if (progress)
        g_printerr ("\r\033[K%s: %u of %u, %s", c->label, p + 1, run->prompts->len, prompt->name);
      if (engine == NULL)
        {
          engine = engine_new (c->model, &options, &failure);
          free_before = engine != NULL && run->gpu ? free_bytes (engine) : 0;
        }
      if (engine == NULL)
        {
          c->rows[p].error = g_strdup (failure->message);
          if (!quality_row_save (run, c, p, NULL, error))
            return FALSE;
          continue;
        }
      if (!draw (run, c, p, engine, free_before, cancellable, &lost, error))
        return FALSE;
      if (lost)
        g_clear_pointer (&engine, engine_free);
    }
  return TRUE;
}

static gboolean
run_all (QualityRun *run, MetricsLpips *lpips, GError **error)
{
  g_autoptr (CliInterrupt) interrupt = cli_interrupt_new ();
  GCancellable *cancellable = cli_interrupt_cancellable (interrupt);
  gboolean progress = isatty (STDERR_FILENO), ok = TRUE;

  for (guint i = 0; ok && i < run->configurations->len; i++)
    ok = draw_all (run, g_ptr_array_index (run->configurations, i), progress, cancellable, error);
  ok = ok && quality_report (run, lpips, progress, cancellable, error);
  if (progress)
    g_printerr ("\r\033[K");
  if (!ok && error != NULL && g_error_matches (*error, G_IO_ERROR, G_IO_ERROR_CANCELLED))
    g_prefix_error (error,
                    "%s keeps what is done; the same command goes on from there: ", run->folder);
  return ok;
}

/* A prompt that fails is a row of the report. A run without a single picture is a failure. */
static gboolean
check_drawn (const QualityRun *run, GError **error)
{
  const char *reason = NULL;

  for (guint i = 0; i < run->configurations->len; i++)
    {
      const QualityConfiguration *c = g_ptr_array_index (run->configurations, i);

      for (guint p = 0; p < run->prompts->len; p++)
        if (c->rows[p].done)
          return TRUE;
        else if (reason == NULL)
          reason = c->rows[p].error;
    }
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_UNSUPPORTED, "no picture could be drawn: %s",
               reason);
  return FALSE;
}

static gboolean
parse (int argc, char **argv, Options *o, GError **error)
{
  const GOptionEntry entries[] = {
    { "model", 'm', 0, G_OPTION_ARG_FILENAME, &o->model,
      "Model folder (default: the built-in sketch model)", "DIR" },
    { "baseline-model", 0, 0, G_OPTION_ARG_FILENAME, &o->baseline,
      "Model folder of the baseline (default: the same)", "DIR" },
    { "transformer", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &o->transformers,
      "Transformer file to compare; may be given again", "FILE" },
    { "text-encoder", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &o->text_encoders,
      "Text encoder file to compare, with the model's own transformer; may be given again",
      "FILE" },
    { "prompts", 0, 0, G_OPTION_ARG_FILENAME, &o->prompts,
      "Prompts, one a line: \"[name] text\" or \"text\"", "FILE" },
    { "size", 0, 0, G_OPTION_ARG_STRING, &o->size,
      "Multiples of 16 from 64 to 2048 (default: what the model was made for)", "WxH" },
    { "steps", 0, 0, G_OPTION_ARG_INT, &o->steps, "Denoising steps (default: 8)", "N" },
    { "seed", 's', 0, G_OPTION_ARG_STRING, &o->seed, "Seed of the noise (default: 42)", "N" },
    { "precision", 0, 0, G_OPTION_ARG_STRING, &o->precision,
      "bf16 or svdquant (default: what the checkpoint is)", "P" },
    { "device", 'd', 0, G_OPTION_ARG_STRING, &o->device, CLI_DEVICE_HELP, "D" },
    { "memory-budget", 0, 0, G_OPTION_ARG_STRING, &o->memory_budget,
      "Most device memory to hold, such as 16GiB", "B" },
    { "lpips-weights", 0, 0, G_OPTION_ARG_FILENAME, &o->lpips,
      "Weights for LPIPS (see tessera-cli compare --help)", "FILE" },
    { "output", 'o', 0, G_OPTION_ARG_FILENAME, &o->output,
      "Folder for pictures and reports; a run that stopped goes on in it", "FOLDER" },
    G_OPTION_ENTRY_NULL,
  };

  return cli_parse (argc, argv,
                    "Draws prompts with each precision and says what it costs and gains: time, "
                    "memory, and how far\nthe pictures are from the baseline's.",
                    entries, NULL, NULL, error);
}

gboolean
cli_bench_quality (int argc, char **argv, GError **error)
{
  g_auto (Options) options = { .steps = 8 };
  g_auto (QualityRun) run = { 0 };
  g_autoptr (MetricsLpips) lpips = NULL;
  g_autofree char *banner = NULL;

  if (!parse (argc, argv, &options, error) || !prepare (&run, &options, error))
    return FALSE;
  if (options.lpips != NULL)
    {
      lpips = metrics_lpips_open (options.lpips, error);
      if (lpips == NULL)
        return FALSE;
    }
  run.lpips = options.lpips;
  run.lpips_published = lpips != NULL && metrics_lpips_is_published (lpips);
  banner = quality_banner (&run);
  g_print ("%s\n", banner);
  if (!run_all (&run, lpips, error))
    return FALSE;
  g_print ("%s/report.md, report.json and report.html are written\n", run.folder);
  return check_drawn (&run, error);
}
