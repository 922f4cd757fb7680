/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/engine.h"
#include "engine/files/json.h"

#include <math.h>
#include <string.h>

#define SCHEMA   "tessera.request/v1"
#define MAX_TEXT (1 << 20) /* of a prompt, in bytes */
#define MAX_JSON (4 << 20)

/* -- validation ---------------------------------------------------------------------------------
 */

static gboolean
check_range (const char *what, double value, double low, double high, GError **error)
{
  if (value >= low && value <= high) /* false for NaN */
    return TRUE;
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST, "%s is %g; it must be from %g to %g",
               what, value, low, high);
  return FALSE;
}

static gboolean
check_size (const char *what, int value, GError **error)
{
  if (!check_range (what, value, ENGINE_REQUEST_MIN_SIZE, ENGINE_REQUEST_MAX_SIZE, error))
    return FALSE;
  if (value % 16 == 0)
    return TRUE;
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST,
               "%s is %d; it must be a multiple of 16, such as %d", what, value, value / 16 * 16);
  return FALSE;
}

static gboolean
check_text (const char *what, const char *text, GError **error)
{
  if (text != NULL && strlen (text) > MAX_TEXT)
    g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST, "%s is longer than 1 MiB", what);
  else if (text != NULL && !g_utf8_validate (text, -1, NULL))
    g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST, "%s is not valid UTF-8", what);
  else
    return TRUE;
  return FALSE;
}

static gboolean
check_loras (const EngineRequest *r, GError **error)
{
  if (r->n_loras > ENGINE_REQUEST_MAX_LORAS)
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST, "there are %u LoRAs; %d are the most",
                   r->n_loras, ENGINE_REQUEST_MAX_LORAS);
      return FALSE;
    }
  for (guint i = 0; i < r->n_loras; i++)
    if (r->loras[i].file == NULL || *r->loras[i].file == '\0')
      {
        g_set_error_literal (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST, "a LoRA has no file");
        return FALSE;
      }
    else if (!check_range ("a LoRA's strength", r->loras[i].strength, -8, 8, error))
      return FALSE;
  return TRUE;
}

gboolean
engine_request_validate (const EngineRequest *r, GError **error)
{
  if (r->prompt == NULL)
    {
      g_set_error_literal (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST, "the prompt is missing");
      return FALSE;
    }
  return check_text ("the prompt", r->prompt, error)
         && check_text ("the negative prompt", r->negative, error)
         && check_size ("the width", r->width, error) && check_size ("the height", r->height, error)
         && check_range ("the number of steps", r->steps, 1, ENGINE_REQUEST_MAX_STEPS, error)
         && check_range ("the guidance", r->guidance, 0, 50, error)
         && check_range ("the CFG normalization", r->cfg_normalization, 0, 50, error)
         && check_range ("the CFG truncation", r->cfg_truncation, 0, 1, error)
         && check_range ("the precision", r->precision, 0, ENGINE_PRECISION_SVDQUANT, error)
         && check_range ("the noise", r->noise, 0, ENGINE_NOISE_TORCH_CUDA, error)
         && check_loras (r, error);
}

/* -- copies and names ---------------------------------------------------------------------------
 */

static const EngineLora *
copy_loras (const EngineRequest *request)
{
  EngineLora *loras = request->n_loras > 0 ? g_new (EngineLora, request->n_loras) : NULL;

  for (guint i = 0; i < request->n_loras; i++)
    loras[i] = (EngineLora){ g_strdup (request->loras[i].file), request->loras[i].strength };
  return loras;
}

static gboolean
same_loras (const EngineRequest *a, const EngineRequest *b)
{
  if (a->n_loras != b->n_loras)
    return FALSE;
  for (guint i = 0; i < a->n_loras; i++)
    if (!g_str_equal (a->loras[i].file, b->loras[i].file)
        || a->loras[i].strength != b->loras[i].strength)
      return FALSE;
  return TRUE;
}

EngineRequest *
engine_request_copy (const EngineRequest *request)
{
  EngineRequest *copy = g_memdup2 (request, sizeof *request);

  copy->prompt = g_strdup (request->prompt);
  copy->negative = g_strdup (request->negative);
  copy->latents_file = g_strdup (request->latents_file);
  copy->loras = copy_loras (request);
  return copy;
}

void
engine_request_free (EngineRequest *request)
{
  if (request == NULL)
    return;
  g_free ((char *)request->prompt);
  g_free ((char *)request->negative);
  g_free ((char *)request->latents_file);
  for (guint i = 0; i < request->n_loras; i++)
    g_free ((char *)request->loras[i].file);
  g_free ((EngineLora *)request->loras);
  g_free (request);
}

gboolean
engine_request_comparable (const EngineRequest *a, const EngineRequest *b, const char **what)
{
  const char *difference = NULL;

  if (a->width != b->width || a->height != b->height)
    difference = "size";
  else if (g_strcmp0 (a->prompt, b->prompt) != 0)
    difference = "prompt";
  else if (a->seed != b->seed)
    difference = "seed";
  else if (a->noise != b->noise || g_strcmp0 (a->latents_file, b->latents_file) != 0)
    difference = "noise";
  else if (a->steps != b->steps)
    difference = "steps";
  else if (a->guidance != b->guidance || a->cfg_normalization != b->cfg_normalization
           || a->cfg_truncation != b->cfg_truncation)
    difference = "guidance";
  else if (a->guidance > 0
           && g_strcmp0 (a->negative ? a->negative : "", b->negative ? b->negative : "") != 0)
    difference = "negative prompt";
  else if (!same_loras (a, b))
    difference = "LoRA";
  if (what != NULL)
    *what = difference;
  return difference == NULL;
}

const char *
engine_precision_name (EnginePrecision precision)
{
  return precision == ENGINE_PRECISION_SVDQUANT ? "svdquant" : "bf16";
}

const char *
engine_noise_name (EngineNoise noise)
{
  return noise == ENGINE_NOISE_TORCH_CUDA ? "torch-cuda" : "torch-cpu";
}

/* -- JSON ---------------------------------------------------------------------------------------
 */

static cJSON *
loras_to_json (const EngineRequest *r)
{
  cJSON *array = cJSON_CreateArray ();

  for (guint i = 0; i < r->n_loras; i++)
    {
      g_autofree char *name = g_filename_display_basename (r->loras[i].file);
      cJSON *item = cJSON_CreateObject ();

      cJSON_AddStringToObject (item, "name", name);
      cJSON_AddNumberToObject (item, "strength", r->loras[i].strength);
      cJSON_AddItemToArray (array, item);
    }
  return array;
}

char *
engine_request_to_json (const EngineRequest *r)
{
  g_autoptr (cJSON) root = cJSON_CreateObject ();
  g_autofree char *seed = g_strdup_printf ("%" G_GUINT64_FORMAT, r->seed);

  cJSON_AddStringToObject (root, "schema", SCHEMA);
  cJSON_AddStringToObject (root, "prompt", r->prompt);
  if (r->negative != NULL)
    cJSON_AddStringToObject (root, "negative", r->negative);
  cJSON_AddStringToObject (root, "precision", engine_precision_name (r->precision));
  cJSON_AddNumberToObject (root, "width", r->width);
  cJSON_AddNumberToObject (root, "height", r->height);
  cJSON_AddNumberToObject (root, "steps", r->steps);
  /* As text: a JSON number is a double, and loses the last bits of a large seed. */
  cJSON_AddStringToObject (root, "seed", seed);
  cJSON_AddStringToObject (root, "noise", engine_noise_name (r->noise));
  cJSON_AddNumberToObject (root, "guidance", r->guidance);
  cJSON_AddNumberToObject (root, "cfg_normalization", r->cfg_normalization);
  cJSON_AddNumberToObject (root, "cfg_truncation", r->cfg_truncation);
  if (r->n_loras > 0)
    cJSON_AddItemToObject (root, "loras", loras_to_json (r));
  return json_print (root, FALSE);
}

static gboolean
wrong_type (const char *key, const char *wanted, GError **error)
{
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST, "the request's \"%s\" is not %s", key,
               wanted);
  return FALSE;
}

/* The getters leave *out alone when the key is absent. */
static gboolean
get_text (const cJSON *root, const char *key, const char **out, GError **error)
{
  const cJSON *item = cJSON_GetObjectItemCaseSensitive (root, key);

  if (item == NULL)
    return TRUE;
  if (!cJSON_IsString (item))
    return wrong_type (key, "a string", error);
  g_free ((char *)*out);
  *out = g_strdup (item->valuestring);
  return TRUE;
}

static gboolean
get_number (const cJSON *root, const char *key, double *out, GError **error)
{
  const cJSON *item = cJSON_GetObjectItemCaseSensitive (root, key);

  if (item == NULL)
    return TRUE;
  if (!cJSON_IsNumber (item))
    return wrong_type (key, "a number", error);
  *out = item->valuedouble;
  return TRUE;
}

static gboolean
get_int (const cJSON *root, const char *key, int *out, GError **error)
{
  double value = *out;

  if (!get_number (root, key, &value, error))
    return FALSE;
  if (!(value >= -1e6 && value <= 1e6) || value != floor (value))
    return wrong_type (key, "a whole number in range", error);
  *out = (int)value;
  return TRUE;
}

static gboolean
get_seed (const cJSON *root, guint64 *out, GError **error)
{
  const cJSON *item = cJSON_GetObjectItemCaseSensitive (root, "seed");

  if (item == NULL)
    return TRUE;
  if (cJSON_IsString (item)
      && g_ascii_string_to_unsigned (item->valuestring, 10, 0, G_MAXUINT64, out, NULL))
    return TRUE;
  if (cJSON_IsNumber (item) && item->valuedouble >= 0 && item->valuedouble <= 0x1p53
      && item->valuedouble == floor (item->valuedouble))
    {
      *out = (guint64)item->valuedouble;
      return TRUE;
    }
  return wrong_type ("seed", "a whole number from 0 to 2^64 - 1", error);
}

/* One of the `n` names by `name_of`, as its index. */
static gboolean
get_choice (const cJSON *root, const char *key, const char *const *names, int *out, GError **error)
{
  const cJSON *item = cJSON_GetObjectItemCaseSensitive (root, key);
  g_autofree char *list = NULL;

  if (item == NULL)
    return TRUE;
  for (int i = 0; names[i] != NULL; i++)
    if (cJSON_IsString (item) && g_str_equal (item->valuestring, names[i]))
      {
        *out = i;
        return TRUE;
      }
  list = g_strjoinv (" or ", (char **)names);
  return wrong_type (key, list, error);
}

/* A name is that of a file in a folder that the engine knows, and never leads out of it. */
static gboolean
is_file_name (const char *name)
{
  return *name != '\0' && strlen (name) < 256 && strchr (name, '/') == NULL
         && !g_str_equal (name, ".") && !g_str_equal (name, "..");
}

static gboolean
get_loras (const cJSON *root, EngineRequest *r, GError **error)
{
  const cJSON *array = cJSON_GetObjectItemCaseSensitive (root, "loras"), *item;
  int n = cJSON_GetArraySize (array);
  EngineLora *loras;

  if (array == NULL)
    return TRUE;
  if (!cJSON_IsArray (array) || n > ENGINE_REQUEST_MAX_LORAS)
    return wrong_type ("loras", "a short list", error);
  r->loras = loras = g_new0 (EngineLora, (gsize)n);
  cJSON_ArrayForEach (item, array)
  {
    const cJSON *name = cJSON_GetObjectItemCaseSensitive (item, "name");
    double strength = 1.0;

    if (!cJSON_IsString (name) || !is_file_name (name->valuestring))
      return wrong_type ("loras", "a list of files' names", error);
    if (!get_number (item, "strength", &strength, error))
      return FALSE;
    loras[r->n_loras++] = (EngineLora){ g_strdup (name->valuestring), strength };
  }
  return TRUE;
}

static gboolean
read_object (const cJSON *root, EngineRequest *r, GError **error)
{
  static const char *const precisions[] = { "bf16", "svdquant", NULL };
  static const char *const noises[] = { "torch-cpu", "torch-cuda", NULL };
  int precision = 0, noise = 0;

  if (!get_text (root, "prompt", &r->prompt, error)
      || !get_text (root, "negative", &r->negative, error)
      || !get_choice (root, "precision", precisions, &precision, error)
      || !get_choice (root, "noise", noises, &noise, error)
      || !get_int (root, "width", &r->width, error) || !get_int (root, "height", &r->height, error)
      || !get_int (root, "steps", &r->steps, error) || !get_seed (root, &r->seed, error)
      || !get_number (root, "guidance", &r->guidance, error)
      || !get_number (root, "cfg_normalization", &r->cfg_normalization, error)
      || !get_number (root, "cfg_truncation", &r->cfg_truncation, error)
      || !get_loras (root, r, error))
    return FALSE;
  r->precision = (EnginePrecision)precision;
  r->noise = (EngineNoise)noise;
  return engine_request_validate (r, error);
}

EngineRequest *
engine_request_from_json (const char *json, gsize length, GError **error)
{
  static const EngineRequest initial = ENGINE_REQUEST_INIT;
  g_autoptr (EngineRequest) request = engine_request_copy (&initial);
  g_autoptr (cJSON) root = NULL;

  if (length <= MAX_JSON)
    root = json_parse (json, length, "the request", NULL);
  if (!cJSON_IsObject (root))
    {
      g_set_error_literal (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST,
                           "the request is not a JSON object");
      return NULL;
    }
  return read_object (root, request, error) ? g_steal_pointer (&request) : NULL;
}
