/* SPDX-License-Identifier: Apache-2.0
 *
 * tessera-cli plan: what a picture will take of memory and time, before anything is loaded
 */
#include "engine/cli/cli.h"

#include "engine/engine.h"
#include "engine/files/json.h"

#define DEFAULT_CARD 89 /* compute capability * 10 of a card that is planned for without a name */

static const char *const part_names[ENGINE_N_PARTS] = { "text_encoder", "transformer", "decoder" };
static const char *const phase_names[ENGINE_N_PHASES] = { "load", "encode", "denoise", "decode" };

typedef struct
{
  char *model, *transformer, *prompt, *size, *precision, *device, *memory_budget, *offload, *card;
  char *arithmetic, *text_encoder;
  int steps, tokens;
  gboolean json;
} Options;

static void
options_clear (Options *o)
{
  char **strings[]
      = { &o->model, &o->transformer,   &o->prompt,  &o->size,         &o->precision, &o->device,
          &o->card,  &o->memory_budget, &o->offload, &o->text_encoder, &o->arithmetic };

  for (guint i = 0; i < G_N_ELEMENTS (strings); i++)
    g_free (*strings[i]);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Options, options_clear)

/* -- the engine ---------------------------------------------------------------------------------
 */

/* "8.9" -> 89 */
static gboolean
parse_card (const char *text, int *out, GError **error)
{
  char *end;
  double value;

  if (text == NULL)
    return TRUE;
  value = g_ascii_strtod (text, &end);
  if (end == text || *end != '\0' || value < 7.5 || value > 20.0)
    return cli_usage_error (error, "--card is \"%s\"; it must be a compute capability, such as 8.9",
                            text);
  *out = (int)(value * 10 + 0.5);
  return TRUE;
}

/* The device that is asked for; or, where there is none and a budget is named, one like it. */
static Engine *
open_engine (const Options *o, EngineOptions *options, GError **error)
{
  gboolean gpu = o->device != NULL && g_str_has_prefix (o->device, "cuda");
  g_autoptr (GError) own = NULL;
  Engine *engine;

  if (options->planned_sm > 0 && options->memory_budget == 0)
    {
      cli_usage_error (error, "--card needs --memory-budget");
      return NULL;
    }
  engine = engine_new (o->model, options, &own);
  if (engine == NULL && gpu && options->memory_budget > 0
      && g_error_matches (own, ENGINE_ERROR, ENGINE_ERROR_NO_DEVICE))
    {
      options->planned_sm = DEFAULT_CARD;
      return engine_new (o->model, options, error);
    }
  if (engine == NULL)
    g_propagate_error (error, g_steal_pointer (&own));
  return engine;
}

/* -- what fits instead --------------------------------------------------------------------------
 */

typedef struct
{
  EnginePrecision precision;
  int width, height;
} Suggestion;

static gboolean
fits (Engine *engine, const EngineRequest *request)
{
  EnginePlan plan;

  return engine_plan_at (engine, request, ENGINE_OFFLOAD_AUTO, &plan, NULL) && plan.fits;
}

/* The nearest that fits at any level: this precision at this size, the other one, then smaller
 * pictures. */
static gboolean
find_suggestion (Engine *engine, const EngineRequest *request, Suggestion *out)
{
  EngineRequest r = *request;

  for (int eighths = 8; eighths >= 2; eighths--)
    for (int other = 0; other < 2; other++)
      {
        r.precision = other == 0
                          ? request->precision
                          : ENGINE_PRECISION_BF16 + ENGINE_PRECISION_SVDQUANT - request->precision;
        r.width = MAX (request->width * eighths / 8 / 16 * 16, ENGINE_REQUEST_MIN_SIZE);
        r.height = MAX (request->height * eighths / 8 / 16 * 16, ENGINE_REQUEST_MIN_SIZE);
        if (fits (engine, &r))
          {
            *out = (Suggestion){ r.precision, r.width, r.height };
            return TRUE;
          }
      }
  return FALSE;
}

/* -- printing -----------------------------------------------------------------------------------
 */

static void
add_bytes (cJSON *object, const char *name, guint64 bytes)
{
  cJSON_AddNumberToObject (object, name, (double)bytes);
}

static cJSON *
part_to_json (const EnginePlanPart *part)
{
  cJSON *object = cJSON_CreateObject ();

  add_bytes (object, "bytes", part->bytes);
  cJSON_AddBoolToObject (object, "leaves", part->leaves);
  add_bytes (object, "pinned", part->pinned);
  cJSON_AddNumberToObject (object, "blocks", part->blocks);
  cJSON_AddNumberToObject (object, "streamed", part->streamed);
  return object;
}

static void
print_json (Engine *engine, const EngineRequest *r, const EngineOptions *options,
            const EnginePlan *plan)
{
  g_autoptr (cJSON) root = cJSON_CreateObject ();
  cJSON *phases, *parts, *seconds;
  EngineDevice device;
  Suggestion s;

  engine_get_device (engine, &device);
  cJSON_AddStringToObject (root, "device", device.name);
  cJSON_AddNumberToObject (root, "width", r->width);
  cJSON_AddNumberToObject (root, "height", r->height);
  cJSON_AddNumberToObject (root, "steps", r->steps);
  cJSON_AddStringToObject (root, "precision", engine_precision_name (r->precision));
  cJSON_AddNumberToObject (root, "text_encoder_bits", engine_get_text_encoder_bits (engine));
  cJSON_AddStringToObject (root, "offload", engine_offload_name (options->offload));
  cJSON_AddBoolToObject (root, "fits", plan->fits);
  add_bytes (root, "peak", plan->peak);
  add_bytes (root, "available", plan->available);
  add_bytes (root, "weights", plan->weights);
  add_bytes (root, "activations", plan->activations);
  add_bytes (root, "working", plan->working);
  add_bytes (root, "pinned", plan->pinned);
  cJSON_AddNumberToObject (root, "band", plan->band);
  phases = cJSON_AddObjectToObject (root, "phase_peak");
  for (int i = 0; i < ENGINE_N_PHASES; i++)
    add_bytes (phases, phase_names[i], plan->phase_peak[i]);
  parts = cJSON_AddObjectToObject (root, "parts");
  for (int i = 0; i < ENGINE_N_PARTS; i++)
    cJSON_AddItemToObject (parts, part_names[i], part_to_json (&plan->parts[i]));
  seconds = cJSON_AddObjectToObject (root, "phase_seconds");
  for (int i = 0; i < ENGINE_N_PHASES; i++)
    cJSON_AddNumberToObject (seconds, phase_names[i], plan->phase_seconds[i]);
  cJSON_AddNumberToObject (root, "seconds", plan->seconds);
  if (!plan->fits && find_suggestion (engine, r, &s))
    {
      cJSON *suggestion = cJSON_AddObjectToObject (root, "suggestion");

      cJSON_AddStringToObject (suggestion, "precision", engine_precision_name (s.precision));
      cJSON_AddNumberToObject (suggestion, "width", s.width);
      cJSON_AddNumberToObject (suggestion, "height", s.height);
    }
  cli_print_json (root);
}

static char *
describe_part (const EnginePlanPart *part)
{
  g_autofree char *pinned = g_format_size_full (part->pinned, G_FORMAT_SIZE_IEC_UNITS);

  if (!part->leaves)
    return g_strdup ("stays on the device");
  if (part->pinned == 0)
    return g_strdup ("is loaded for its phase");
  if (part->streamed == 0)
    return g_strdup_printf ("comes for its phase from %s of host memory", pinned);
  return g_strdup_printf ("%d of %d blocks pass through, from %s of host memory", part->streamed,
                          part->blocks, pinned);
}

static void
print_text (Engine *engine, const EngineRequest *r, const EnginePlan *plan)
{
  g_autofree char *peak = g_format_size_full (plan->peak, G_FORMAT_SIZE_IEC_UNITS);
  g_autofree char *available = g_format_size_full (plan->available, G_FORMAT_SIZE_IEC_UNITS);
  EngineDevice device;
  Suggestion s;

  engine_get_device (engine, &device);
  g_print ("%dx%d, %d steps, %s on %s\n%s: %s at most, %s may be used\n", r->width, r->height,
           r->steps, engine_precision_name (r->precision), device.name,
           plan->fits ? "fits" : "does not fit", peak, available);
  for (int i = 0; i < ENGINE_N_PARTS; i++)
    {
      g_autofree char *bytes = g_format_size_full (plan->parts[i].bytes, G_FORMAT_SIZE_IEC_UNITS);
      g_autofree char *way = describe_part (&plan->parts[i]);

      g_print ("  %-13s %9s  %s\n", part_names[i], bytes, way);
    }
  for (int i = 0; i < ENGINE_N_PHASES; i++)
    {
      g_autofree char *bytes = g_format_size_full (plan->phase_peak[i], G_FORMAT_SIZE_IEC_UNITS);

      g_print ("  %-13s %9s", phase_names[i], bytes);
      if (plan->phase_seconds[i] > 0)
        g_print ("  %.2f s", plan->phase_seconds[i]);
      g_print ("%s\n", i == ENGINE_PHASE_DECODE && plan->band > 0 ? "  in bands" : "");
    }
  if (plan->seconds > 0)
    g_print ("about %.1f s once it is loaded\n", plan->seconds);
  else
    g_print ("no time yet: nothing has been drawn on this device\n");
  if (!plan->fits && find_suggestion (engine, r, &s))
    g_print ("what fits: %dx%d in %s\n", s.width, s.height, engine_precision_name (s.precision));
}

/* -- the command --------------------------------------------------------------------------------
 */

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
    { "prompt", 'p', 0, G_OPTION_ARG_FILENAME, &o->prompt, "Prompt (default: one of usual length)",
      "TEXT" },
    { "size", 0, 0, G_OPTION_ARG_STRING, &o->size,
      "Multiples of 16 from 64 to 2048 (default: the model's own)", "WxH" },
    { "steps", 0, 0, G_OPTION_ARG_INT, &o->steps, "Denoising steps (default: 8)", "N" },
    { "precision", 0, 0, G_OPTION_ARG_STRING, &o->precision, CLI_PRECISION_HELP, "P" },
    { "arithmetic", 0, 0, G_OPTION_ARG_STRING, &o->arithmetic, CLI_ARITHMETIC_HELP, "A" },
    { "device", 'd', 0, G_OPTION_ARG_STRING, &o->device, CLI_DEVICE_HELP, "D" },
    { "card", 0, 0, G_OPTION_ARG_STRING, &o->card,
      "Plan for a card of this compute capability, such as 8.9, here or not", "X.Y" },
    { "offload", 0, 0, G_OPTION_ARG_STRING, &o->offload, CLI_OFFLOAD_HELP, "L" },
    { "memory-budget", 0, 0, G_OPTION_ARG_STRING, &o->memory_budget,
      "Most device memory to hold, such as 16GiB", "B" },
    { "json", 0, 0, G_OPTION_ARG_NONE, &o->json, "Print the plan as JSON", NULL },
    G_OPTION_ENTRY_NULL,
  };

  return cli_parse (argc, argv, "Says what a picture takes, before anything is loaded.", entries,
                    NULL, NULL, error);
}

gboolean
cli_plan (int argc, char **argv, GError **error)
{
  static const char usual[] = "a wooden boat on a calm mountain lake at dawn, mist over the water, "
                              "pine trees on the shore, soft light, photograph, 35 mm, f/2.8";
  g_auto (Options) o = { .steps = 8 };
  EngineRequest request = ENGINE_REQUEST_INIT;
  g_autofree char *calibration = engine_find_calibration_file ();
  EngineOptions options = { .calibration_file = calibration };
  g_autoptr (Engine) engine = NULL;
  EnginePlan plan;

  if (!parse (argc, argv, &o, error))
    return FALSE;
  if (o.model == NULL)
    o.model = engine_find_builtin_model ();
  if (o.model == NULL)
    return cli_usage_error (error, "--model DIR is missing, and the built-in model was not found");
  request.prompt = o.prompt != NULL ? o.prompt : usual;
  request.steps = o.steps;
  options.device = o.device;
  options.transformer_file = o.transformer;
  options.text_encoder_file = o.text_encoder;
  if (!cli_parse_size (o.size, &request, error)
      || !cli_parse_precision (o.precision, &request, &options.svdquant_type, error)
      || !cli_parse_arithmetic (o.arithmetic, &options.exact, error)
      || !cli_parse_offload (o.offload, &options.offload, error)
      || !cli_parse_bytes (o.memory_budget, &options.memory_budget, error)
      || !parse_card (o.card, &options.planned_sm, error)
      || !engine_request_validate (&request, error))
    return FALSE;

  engine = open_engine (&o, &options, error);
  if (engine == NULL)
    return FALSE;
  cli_choose_precision (engine, o.precision, o.transformer, &request);
  if (o.size == NULL)
    request.width = request.height = engine_get_native_size (engine);
  if (!engine_plan (engine, &request, &plan, error))
    return FALSE;
  if (o.json)
    print_json (engine, &request, &options, &plan);
  else
    print_text (engine, &request, &plan);
  return TRUE;
}
