/* SPDX-License-Identifier: Apache-2.0
 *
 * tessera-cli bench speed: seconds of each phase, memory, cold start, share of the floor
 */
#include "engine/cli/cli.h"

#include "engine/computer/benchmark.h"
#include "engine/files/atomic-file.h"

#include <string.h>

typedef struct
{
  char *model, *transformer, *prompt, *size, *device, *precision, *json_file, *memory_budget,
      *offload, *arithmetic, *text_encoder;
  char **lora_texts, **lora_files;
  GArray *loras; /* EngineLora */
  int steps, runs, tokens;
} Options;

static void
options_clear (Options *o)
{
  char **strings[] = { &o->model,   &o->transformer, &o->prompt,      &o->size,
                       &o->device,  &o->precision,   &o->json_file,   &o->memory_budget,
                       &o->offload, &o->arithmetic,  &o->text_encoder };

  for (guint i = 0; i < G_N_ELEMENTS (strings); i++)
    g_free (*strings[i]);
  g_strfreev (o->lora_texts);
  g_strfreev (o->lora_files);
  g_clear_pointer (&o->loras, g_array_unref);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Options, options_clear)

static void
print_row (const char *name, const BenchmarkTimes *t, double load)
{
  g_autofree char *loading = load > 0 ? g_strdup_printf ("%.3f s", load) : g_strdup ("");

  g_print ("| %s | %s | %.4f s | %.4f s | %.3f s | %.4f s | %.3f s |\n", name, loading, t->encode,
           t->step, t->denoise, t->decode, t->total + load - (load > 0 ? t->load : 0));
}

static void
print_report (const Benchmark *b)
{
  const EngineRequest *request = b->request;
  g_autofree char *warm = g_strdup_printf ("warm, median of %d", b->n_warm);

  g_print ("%s on %s, %dx%d, %d steps, %s (%s)\n\n", b->model, b->device.name, request->width,
           request->height, request->steps, engine_precision_name (request->precision), b->kernels);
  g_print ("| run | load | encode | a step | denoise | decode | total |\n"
           "|---|---|---|---|---|---|---|\n");
  print_row ("first", &b->first, b->first.load + b->open);
  print_row (warm, &b->median, 0);
  g_print ("\npeak device memory %.2f GiB, of it weights %.2f GiB\n",
           (double)b->memory.peak / 0x1p30, (double)b->memory.weights / 0x1p30);
  if (benchmark_floor (b) > 0)
    g_print ("floor of a step %.4f s (%.3g TFLOP at the %.3g TFLOP/s of a bare 16-bit product); "
             "its share of the measured step %.2f\n",
             benchmark_floor (b), b->step_operations * 1e-12, b->product_rate * 1e-12,
             benchmark_share (b));
}

static gboolean
write_json (const char *path, const Benchmark *benchmark, GError **error)
{
  g_autofree char *text = benchmark_to_json (benchmark);

  return atomic_file_put_text (path, text, error);
}

/* A prompt of as many words as make `tokens` ids on a made-up model. */
static char *
filler_prompt (int tokens)
{
  GString *text = g_string_new ("word");

  for (int i = 9; i < tokens; i++)
    g_string_append_printf (text, " word%d", i);
  return g_string_free (text, FALSE);
}

gboolean
cli_bench_speed (int argc, char **argv, GError **error)
{
  g_auto (Options) o = {
    .steps = 8, .runs = 3, .tokens = 128, .loras = g_array_new (FALSE, FALSE, sizeof (EngineLora))
  };
  const GOptionEntry entries[] = {
    { "model", 'm', 0, G_OPTION_ARG_FILENAME, &o.model,
      "Model folder (default: the built-in sketch model), or synthetic:z-image-turbo for random "
      "weights of the real sizes",
      "DIR" },
    { "transformer", 0, 0, G_OPTION_ARG_FILENAME, &o.transformer,
      "Transformer file to use; synthetic:int4:RANK beside a synthetic model", "FILE" },
    { "text-encoder", 0, 0, G_OPTION_ARG_FILENAME, &o.text_encoder, CLI_TEXT_ENCODER_HELP, "FILE" },
    { "prompt", 'p', 0, G_OPTION_ARG_FILENAME, &o.prompt, "Prompt (default: filler words)",
      "TEXT" },
    { "tokens", 0, 0, G_OPTION_ARG_INT, &o.tokens,
      "Length of the filler on a synthetic model (default: 128)", "N" },
    { "size", 0, 0, G_OPTION_ARG_STRING, &o.size,
      "Multiples of 16 from 64 to 2048 (default: the model's own)", "WxH" },
    { "steps", 0, 0, G_OPTION_ARG_INT, &o.steps, "Denoising steps (default: 8)", "N" },
    { "precision", 0, 0, G_OPTION_ARG_STRING, &o.precision, CLI_PRECISION_HELP, "P" },
    { "lora", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &o.lora_texts,
      "LoRA and its strength, 1 if not given; may be repeated", "FILE[:S]" },
    { "arithmetic", 0, 0, G_OPTION_ARG_STRING, &o.arithmetic, CLI_ARITHMETIC_HELP, "A" },
    { "device", 'd', 0, G_OPTION_ARG_STRING, &o.device, CLI_DEVICE_HELP, "D" },
    { "memory-budget", 0, 0, G_OPTION_ARG_STRING, &o.memory_budget,
      "Most device memory to hold, such as 16GiB", "B" },
    { "offload", 0, 0, G_OPTION_ARG_STRING, &o.offload, CLI_OFFLOAD_HELP, "L" },
    { "runs", 0, 0, G_OPTION_ARG_INT, &o.runs, "Warm runs after the first (default: 3)", "N" },
    { "json-file", 0, 0, G_OPTION_ARG_FILENAME, &o.json_file, "Write all figures here, as JSON",
      "FILE" },
    G_OPTION_ENTRY_NULL,
  };
  EngineRequest request = ENGINE_REQUEST_INIT;
  EngineOptions options = { 0 };
  g_autoptr (Engine) engine = NULL;
  g_autofree char *filler = NULL;
  g_auto (Benchmark) benchmark = { 0 };
  gint64 started;
  double open;

  if (!cli_parse (argc, argv, "Measures how long a picture takes.", entries, NULL, NULL, error))
    return FALSE;
  if (o.model == NULL)
    o.model = engine_find_builtin_model ();
  if (o.model == NULL || o.runs < 1 || o.runs > BENCHMARK_MAX_RUNS || o.tokens < 9
      || o.tokens > 512)
    {
      g_set_error (error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                   "--model DIR is needed; --runs is 1 to %d, --tokens 9 to 512",
                   BENCHMARK_MAX_RUNS);
      return FALSE;
    }
  filler = filler_prompt (o.tokens);
  request.prompt = o.prompt != NULL ? o.prompt : filler;
  request.steps = o.steps;
  request.seed = 42;
  options.device = o.device;
  options.transformer_file = o.transformer;
  options.text_encoder_file = o.text_encoder;
  if (!cli_parse_size (o.size, &request, error)
      || !cli_parse_precision (o.precision, &request, &options.svdquant_type, error)
      || !cli_parse_arithmetic (o.arithmetic, &options.exact, error)
      || !cli_parse_bytes (o.memory_budget, &options.memory_budget, error)
      || !cli_parse_loras (o.lora_texts, &request, o.loras, &o.lora_files, error)
      || !cli_parse_offload (o.offload, &options.offload, error)
      || !engine_request_validate (&request, error)
      || (o.json_file != NULL && !atomic_file_check (o.json_file, error)))
    return FALSE;

  started = g_get_monotonic_time ();
  engine = engine_new (o.model, &options, error);
  if (engine == NULL)
    return FALSE;
  open = (double)(g_get_monotonic_time () - started) / 1e6;
  cli_choose_precision (engine, o.precision, o.transformer, &request);
  if (o.size == NULL)
    request.width = request.height = engine_get_native_size (engine);
  if (!benchmark_run (engine, o.model, &request, o.runs, NULL, NULL, NULL, &benchmark, error))
    return FALSE;
  g_clear_pointer (&engine, engine_free); /* the product wants the memory */
  benchmark.open = open;
  if (!benchmark_measure_rate (&options, &benchmark.product_rate, error)
      || !benchmark_count_operations (o.model, &options, &request, &benchmark.step_operations,
                                      error))
    return FALSE;
  print_report (&benchmark);
  return o.json_file == NULL || write_json (o.json_file, &benchmark, error);
}
