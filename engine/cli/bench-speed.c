/* SPDX-License-Identifier: Apache-2.0
 *
 * tessera-cli bench speed: seconds of each phase, memory, cold start
 */
#include "engine/cli/cli.h"

#include "engine/atomic-file.h"
#include "engine/engine.h"
#include "engine/json.h"

#include <stdlib.h>
#include <string.h>

#define MAX_STEPS 100
#define MAX_RUNS  100

/* One run: when each phase began, when it ended, and each step's end. */
typedef struct
{
  gint64 begun[ENGINE_N_PHASES], ended;
  gint64 steps[MAX_STEPS + 1];
} Timeline;

typedef struct
{
  char *model, *transformer, *prompt, *size, *device, *precision, *json_file, *memory_budget,
      *offload;
  char **lora_texts, **lora_files;
  GArray *loras; /* EngineLora */
  int steps, runs, tokens;
} Options;

static void
options_clear (Options *o)
{
  char **strings[] = { &o->model,     &o->transformer, &o->prompt,        &o->size,   &o->device,
                       &o->precision, &o->json_file,   &o->memory_budget, &o->offload };

  for (guint i = 0; i < G_N_ELEMENTS (strings); i++)
    g_free (*strings[i]);
  g_strfreev (o->lora_texts);
  g_strfreev (o->lora_files);
  g_clear_pointer (&o->loras, g_array_unref);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Options, options_clear)

static void
on_progress (EnginePhase phase, guint step, guint n_steps, Image *preview, gpointer user_data)
{
  Timeline *self = user_data;
  gint64 now = g_get_monotonic_time ();

  if (self->begun[phase] == 0)
    self->begun[phase] = now;
  if (phase == ENGINE_PHASE_DENOISE && step <= MAX_STEPS)
    self->steps[step] = now;
}

static double
seconds (gint64 from, gint64 to)
{
  return (double)(to - from) / 1e6;
}

/* -- a table of runs ----------------------------------------------------------------------------
 */

typedef struct
{
  double load, encode, step, denoise, decode, total;
} Times;

static Times
times_of (const Timeline *t, int n_steps)
{
  Times times = {
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

/* Median over runs of the member at `offset`. */
static double
median (const Times *runs, int n, gsize offset)
{
  double values[MAX_RUNS];

  for (int i = 0; i < n; i++)
    values[i] = *(const double *)((const char *)&runs[i] + offset);
  qsort (values, (gsize)n, sizeof *values, compare_doubles);
  return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

#define MEDIAN(runs, n, member) median (runs, n, G_STRUCT_OFFSET (Times, member))

static cJSON *
times_to_json (const Times *t)
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

/* -- measuring ----------------------------------------------------------------------------------
 */

/* The first run loads the model (cold start); the others are warm. */
static gboolean
measure (Engine *engine, const EngineRequest *request, int n_runs, Times *runs, GError **error)
{
  for (int i = 0; i <= n_runs; i++)
    {
      Timeline timeline = { 0 };
      g_autoptr (Image) image
          = engine_generate (engine, request, on_progress, &timeline, NULL, error);

      if (image == NULL)
        return FALSE;
      timeline.ended = g_get_monotonic_time ();
      runs[i] = times_of (&timeline, request->steps);
    }
  return TRUE;
}

static gboolean
write_json (const char *path, const cJSON *root, GError **error)
{
  char *text = cJSON_Print (root);
  g_autoptr (AtomicFile) file = atomic_file_new (path, error);
  gboolean ok = file != NULL && atomic_file_write (file, text, strlen (text), error)
                && atomic_file_write (file, "\n", 1, error) && atomic_file_commit (file, error);

  cJSON_free (text);
  return ok;
}

static gboolean
report (const Options *o, const EngineRequest *request, Engine *engine, const Times *runs,
        double open_seconds, GError **error)
{
  g_autoptr (cJSON) root = cJSON_CreateObject ();
  cJSON *warm = cJSON_AddArrayToObject (root, "warm");
  const Times *w = runs + 1;
  int n = o->runs;
  EngineDevice device;
  EngineMemory memory;

  engine_get_device (engine, &device);
  engine_get_memory (engine, &memory);
  g_print ("%s on %s, %dx%d, %d steps, %s\n\n", o->model, device.name, request->width,
           request->height, request->steps, engine_precision_name (request->precision));
  g_print ("| run | load | encode | a step | denoise | decode | total |\n"
           "|---|---|---|---|---|---|---|\n"
           "| first | %.3f s | %.4f s | %.4f s | %.3f s | %.4f s | %.3f s |\n",
           runs[0].load + open_seconds, runs[0].encode, runs[0].step, runs[0].denoise,
           runs[0].decode, runs[0].total + open_seconds);
  g_print ("| warm, median of %d | | %.4f s | %.4f s | %.3f s | %.4f s | %.3f s |\n\n", n,
           MEDIAN (w, n, encode), MEDIAN (w, n, step), MEDIAN (w, n, denoise),
           MEDIAN (w, n, decode), MEDIAN (w, n, total));
  g_print ("peak device memory %.2f GiB, of it weights %.2f GiB\n", (double)memory.peak / 0x1p30,
           (double)memory.weights / 0x1p30);
  if (o->json_file == NULL)
    return TRUE;

  cJSON_AddStringToObject (root, "model", o->model);
  cJSON_AddStringToObject (root, "device", device.name);
  cJSON_AddStringToObject (root, "version", TESSERA_VERSION);
  cJSON_AddStringToObject (root, "precision", engine_precision_name (request->precision));
  cJSON_AddNumberToObject (root, "width", request->width);
  cJSON_AddNumberToObject (root, "height", request->height);
  cJSON_AddNumberToObject (root, "steps", request->steps);
  cJSON_AddNumberToObject (root, "peak_memory", (double)memory.peak);
  cJSON_AddNumberToObject (root, "weights", (double)memory.weights);
  cJSON_AddNumberToObject (root, "open", open_seconds);
  cJSON_AddItemToObject (root, "first", times_to_json (&runs[0]));
  for (int i = 0; i < n; i++)
    cJSON_AddItemToArray (warm, times_to_json (&w[i]));
  return write_json (o->json_file, root, error);
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
      "Model folder, or synthetic:z-image-turbo for random weights of the real sizes", "DIR" },
    { "transformer", 0, 0, G_OPTION_ARG_FILENAME, &o.transformer,
      "Transformer file to use; synthetic:int4:RANK beside a synthetic model", "FILE" },
    { "prompt", 'p', 0, G_OPTION_ARG_FILENAME, &o.prompt, "Prompt (default: filler words)",
      "TEXT" },
    { "tokens", 0, 0, G_OPTION_ARG_INT, &o.tokens, "Length of the filler on a synthetic model",
      "N" },
    { "size", 0, 0, G_OPTION_ARG_STRING, &o.size, "Multiples of 16 from 64 to 2048", "WxH" },
    { "steps", 0, 0, G_OPTION_ARG_INT, &o.steps, "Denoising steps", "N" },
    { "precision", 0, 0, G_OPTION_ARG_STRING, &o.precision, "bf16, svdquant, int4 or nvfp4", "P" },
    { "lora", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &o.lora_texts,
      "LoRA and its strength, 1 if not given; may be repeated", "FILE[:S]" },
    { "device", 'd', 0, G_OPTION_ARG_STRING, &o.device, "auto, cpu, cuda or cuda:N", "D" },
    { "memory-budget", 0, 0, G_OPTION_ARG_STRING, &o.memory_budget, "Most device memory to hold",
      "B" },
    { "offload", 0, 0, G_OPTION_ARG_STRING, &o.offload, "auto, none, model or stream", "L" },
    { "runs", 0, 0, G_OPTION_ARG_INT, &o.runs, "Warm runs after the first", "N" },
    { "json-file", 0, 0, G_OPTION_ARG_FILENAME, &o.json_file, "Write all figures here", "FILE" },
    G_OPTION_ENTRY_NULL,
  };
  EngineRequest request = ENGINE_REQUEST_INIT;
  EngineOptions options = { 0 };
  g_autoptr (Engine) engine = NULL;
  g_autofree char *filler = NULL;
  Times runs[MAX_RUNS + 1];
  gint64 started, opened;

  if (!cli_parse (argc, argv, "Measures how long a picture takes.", entries, NULL, NULL, error))
    return FALSE;
  if (o.model == NULL || o.runs < 1 || o.runs > MAX_RUNS || o.tokens < 9 || o.tokens > 512)
    {
      g_set_error (error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                   "--model is needed; --runs is 1 to %d, --tokens 9 to 512", MAX_RUNS);
      return FALSE;
    }
  filler = filler_prompt (o.tokens);
  request.prompt = o.prompt != NULL ? o.prompt : filler;
  request.steps = o.steps;
  request.seed = 42;
  options.device = o.device;
  options.transformer_file = o.transformer;
  if (!cli_parse_size (o.size, &request, error)
      || !cli_parse_precision (o.precision, &request, &options.svdquant_type, error)
      || !cli_parse_bytes (o.memory_budget, &options.memory_budget, error)
      || !cli_parse_loras (o.lora_texts, &request, o.loras, &o.lora_files, error)
      || !cli_parse_offload (o.offload, &options.offload, error)
      || !engine_request_validate (&request, error))
    return FALSE;

  started = g_get_monotonic_time ();
  engine = engine_new (o.model, &options, error);
  if (engine == NULL)
    return FALSE;
  opened = g_get_monotonic_time ();
  return measure (engine, &request, o.runs, runs, error)
         && report (&o, &request, engine, runs, seconds (started, opened), error);
}
