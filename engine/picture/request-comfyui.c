/* SPDX-License-Identifier: Apache-2.0
 *
 * What ComfyUI writes into its pictures: the graph that made them, as `prompt` (nodes by id, with
 * literal inputs or links [id, slot]) and as `workflow` (what its editor shows: a list of nodes
 * with nameless values, and a list of links). There is no list of settings in it, so the sampler is
 * looked for, and from there each input is followed to where its value is.
 */
#include "engine/engine.h"
#include "engine/files/json.h"

#include <math.h>
#include <string.h>

#define MAX_TEXT    (4 << 20)
#define MAX_NODES   1024
#define USUAL_SHIFT 3.0 /* Z-Image-Turbo's; models here have theirs (spec z-image 1.6) */
#define MAX_HOPS    16  /* links followed for one value; a graph may be a circle */

typedef struct
{
  const cJSON *nodes; /* by id */
  EngineRequest *request;
  GString *ignored;
} Graph;

/* -- JSON as it is written there ----------------------------------------------------------------
 */

/* Length of the word at the beginning of `text` that Python writes and JSON has not, or 0. */
static gsize
foreign_word (const char *text)
{
  static const char *const words[] = { "NaN", "Infinity", "-Infinity" };

  for (gsize i = 0; i < G_N_ELEMENTS (words); i++)
    if (g_str_has_prefix (text, words[i]))
      return strlen (words[i]);
  return 0;
}

/* The text with NaN as null, and integers too long for a double as strings (transfer full): seeds
 * have 64 bits. */
static char *
make_readable (const char *text)
{
  GString *out = g_string_sized_new (strlen (text) + 64);
  gboolean quoted = FALSE;

  for (const char *p = text; *p != '\0';)
    {
      const gsize digits = quoted ? 0 : strspn (p, "0123456789");
      const gsize word = quoted ? 0 : foreign_word (p);
      gsize n = digits > 0 ? digits : 1;

      if (*p == '"')
        quoted = !quoted;
      else if (quoted && *p == '\\' && p[1] != '\0')
        n = 2;
      if (digits >= 16 && p > text && strchr (".-+eE", p[-1]) == NULL
          && strchr (".eE", p[digits]) == NULL)
        g_string_append_printf (out, "\"%.*s\"", (int)digits, p);
      else if (word > 0)
        g_string_append (out, "null");
      else
        g_string_append_len (out, p, (gssize)n);
      p += word > 0 ? word : n;
    }
  return g_string_free (out, FALSE);
}

static const cJSON *
member (const cJSON *object, const char *key)
{
  return cJSON_GetObjectItemCaseSensitive (object, key);
}

/* -- The editor's form --------------------------------------------------------------------------
 */

/* Names of the nameless values of the nodes that matter, in their order. */
static const struct
{
  const char *type;
  const char *names[8];
} WIDGETS[] = {
  { "KSampler", { "seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise" } },
  { "KSamplerAdvanced", { "", "noise_seed", "", "steps", "cfg", "sampler_name", "scheduler" } },
  { "SamplerCustom", { "", "noise_seed", "", "cfg" } },
  { "RandomNoise", { "noise_seed" } },
  { "BasicScheduler", { "scheduler", "steps", "denoise" } },
  { "KSamplerSelect", { "sampler_name" } },
  { "CFGGuider", { "cfg" } },
  { "CLIPTextEncode", { "text" } },
  { "EmptyLatentImage", { "width", "height" } },
  { "EmptySD3LatentImage", { "width", "height" } },
  { "UNETLoader", { "unet_name" } },
  { "LoraLoader", { "lora_name", "strength_model" } },
  { "LoraLoaderModelOnly", { "lora_name", "strength_model" } },
  { "ModelSamplingAuraFlow", { "shift" } },
  { "ModelSamplingSD3", { "shift" } },
  { "CheckpointLoaderSimple", { "ckpt_name" } },
  { "PrimitiveInt", { "value" } },
  { "PrimitiveFloat", { "value" } },
  { "PrimitiveString", { "value" } },
  { "PrimitiveStringMultiline", { "value" } },
};

static void
name_widgets (const cJSON *node, const char *type, cJSON *inputs)
{
  const cJSON *values = member (node, "widgets_values");

  for (gsize i = 0; i < G_N_ELEMENTS (WIDGETS); i++)
    for (int j = 0; g_str_equal (WIDGETS[i].type, type) && j < 8; j++)
      {
        const cJSON *value = cJSON_GetArrayItem (values, j);

        if (WIDGETS[i].names[j] != NULL && WIDGETS[i].names[j][0] != '\0' && value != NULL)
          cJSON_AddItemToObject (inputs, WIDGETS[i].names[j], cJSON_Duplicate (value, FALSE));
      }
}

/* [id, slot] of the node that link `number` comes from, or NULL (transfer full). */
static cJSON *
origin_of_link (GHashTable *links, const cJSON *number)
{
  const cJSON *link = cJSON_IsNumber (number)
                          ? g_hash_table_lookup (links, GINT_TO_POINTER (number->valueint))
                          : NULL;
  cJSON *origin;
  char id[24];

  if (link == NULL)
    return NULL;
  origin = cJSON_CreateArray ();
  g_snprintf (id, sizeof id, "%d", cJSON_GetArrayItem (link, 1)->valueint);
  cJSON_AddItemToArray (origin, cJSON_CreateString (id));
  cJSON_AddItemToArray (origin, cJSON_CreateNumber (0));
  return origin;
}

/* Links by number; those that are not [number, node, …] are left out. */
static GHashTable *
index_links (const cJSON *list)
{
  GHashTable *links = g_hash_table_new (NULL, NULL);
  const cJSON *link;

  cJSON_ArrayForEach (link, list) if (cJSON_IsNumber (cJSON_GetArrayItem (link, 0))
                                      && cJSON_IsNumber (cJSON_GetArrayItem (link, 1)))
      g_hash_table_insert (links, GINT_TO_POINTER (cJSON_GetArrayItem (link, 0)->valueint),
                           (gpointer)link);
  return links;
}

/* The editor's form as nodes by id (transfer full). */
static cJSON *
nodes_of_workflow (const cJSON *root)
{
  g_autoptr (GHashTable) links = index_links (member (root, "links"));
  cJSON *nodes = cJSON_CreateObject ();
  const cJSON *node, *input;

  cJSON_ArrayForEach (node, member (root, "nodes"))
  {
    const char *type = cJSON_GetStringValue (member (node, "type"));
    const cJSON *id = member (node, "id");
    char name[24];
    cJSON *copy, *inputs;

    if (type == NULL || !cJSON_IsNumber (id))
      continue;
    g_snprintf (name, sizeof name, "%d", id->valueint);
    copy = cJSON_AddObjectToObject (nodes, name);
    cJSON_AddStringToObject (copy, "class_type", type);
    inputs = cJSON_AddObjectToObject (copy, "inputs");
    /* Links first: an input that is linked keeps the value it had before. */
    cJSON_ArrayForEach (input, member (node, "inputs"))
    {
      const char *key = cJSON_GetStringValue (member (input, "name"));
      cJSON *origin = key != NULL ? origin_of_link (links, member (input, "link")) : NULL;

      if (origin != NULL)
        cJSON_AddItemToObject (inputs, key, origin);
    }
    name_widgets (node, type, inputs);
  }
  return nodes;
}

/* -- Following links ----------------------------------------------------------------------------
 */

/* The node that a link leads to, or NULL if `value` is none. */
static const cJSON *
linked (const Graph *self, const cJSON *value)
{
  const char *id = cJSON_GetStringValue (cJSON_GetArrayItem (value, 0));

  return cJSON_IsArray (value) && id != NULL ? member (self->nodes, id) : NULL;
}

static const cJSON *
input_of (const cJSON *node, const char *key)
{
  return member (member (node, "inputs"), key);
}

/* The first of `keys` (ended by NULL) that is an input of `node`. */
static const cJSON *
first_input (const cJSON *node, const char *const *keys)
{
  const cJSON *value = NULL;

  for (; value == NULL && *keys != NULL; keys++)
    value = input_of (node, *keys);
  return value;
}

/* The literal that input `key` has, here or where its links lead; NULL if there is none. */
static const cJSON *
literal (const Graph *self, const cJSON *node, const char *key)
{
  static const char *const inner[] = { "value",      "text", "string", "prompt", "seed",
                                       "noise_seed", "int",  "number", "Value",  NULL };
  const cJSON *value = input_of (node, key);

  for (int hop = 0; hop < MAX_HOPS && cJSON_IsArray (value); hop++)
    value = first_input (linked (self, value), inner);
  return cJSON_IsArray (value) ? NULL : value;
}

/* `node` or one behind its inputs `through` that has the input `key`; NULL if none has. */
static const cJSON *
find_with (const Graph *self, const cJSON *node, const char *const *through, const char *key)
{
  for (int hop = 0; hop < MAX_HOPS && node != NULL; hop++)
    {
      if (input_of (node, key) != NULL)
        return node;
      node = linked (self, first_input (node, through));
    }
  return NULL;
}

static const char *const TO_LATENT[]
    = { "latent_image", "samples", "latent", "image", "pixels", NULL };
static const char *const TO_SIGMAS[] = { "sigmas", NULL };
static const char *const TO_NOISE[] = { "noise", NULL };
static const char *const TO_GUIDER[] = { "guider", NULL };
static const char *const TO_SAMPLER[] = { "sampler", NULL };
static const char *const TO_MODEL[] = { "model", "guider", NULL };

/* The first sampler: of several, that which begins with an empty picture of a size. */
static const cJSON *
find_sampler (const Graph *self)
{
  const cJSON *node, *any = NULL;

  cJSON_ArrayForEach (node, self->nodes)
  {
    const cJSON *latent = linked (self, input_of (node, "latent_image"));

    if (latent == NULL)
      continue;
    if (any == NULL)
      any = node;
    if (input_of (latent, "width") != NULL)
      return node;
  }
  return any;
}

/* -- Taking over --------------------------------------------------------------------------------
 */

static void
ignore (Graph *self, const char *what, const char *value)
{
  g_string_append_printf (self->ignored, "%s: %s\n", what, value);
}

static void
ignore_text (Graph *self, const cJSON *node, const char *key, const char *what, const char *usual)
{
  const char *value = cJSON_GetStringValue (literal (self, node, key));

  if (value != NULL && g_strcmp0 (value, usual) != 0)
    ignore (self, what, value);
}

static void
take_int (Graph *self, const cJSON *value, const char *what, int low, int high, int multiple,
          int *out)
{
  g_autofree char *text = NULL;

  if (cJSON_IsNumber (value) && value->valuedouble >= low && value->valuedouble <= high
      && value->valuedouble == floor (value->valuedouble) && value->valueint % multiple == 0)
    {
      *out = value->valueint;
      return;
    }
  text = cJSON_IsNumber (value) ? g_strdup_printf ("%g", value->valuedouble) : g_strdup ("unknown");
  ignore (self, what, text);
}

static void
take_seed (Graph *self, const cJSON *sampler)
{
  const cJSON *node = find_with (self, sampler, TO_NOISE, "noise_seed");
  const cJSON *value = input_of (sampler, "seed") != NULL ? literal (self, sampler, "seed")
                                                          : literal (self, node, "noise_seed");
  const char *text = cJSON_GetStringValue (value);

  if (json_is_count (value, &self->request->seed)
      || (text != NULL
          && g_ascii_string_to_unsigned (text, 10, 0, G_MAXUINT64, &self->request->seed, NULL)))
    return;
  ignore (self, "Seed", "unknown");
}

static void
take_guidance (Graph *self, const cJSON *sampler)
{
  const cJSON *node = find_with (self, sampler, TO_GUIDER, "cfg");
  const cJSON *cfg = literal (self, node, "cfg");

  /* CFG scales count from 1, guidance from 0 (spec z-image 1.6). */
  if (cJSON_IsNumber (cfg) && cfg->valuedouble > 1.0 && cfg->valuedouble <= 51.0)
    self->request->guidance = cfg->valuedouble - 1.0;
}

/* The text behind a condition (transfer full), or NULL if the way to it is not known. */
static char *
find_prompt (const Graph *self, const cJSON *condition)
{
  static const char *const through[]
      = { "conditioning", "positive", "conditioning_1", "conditioning_to", "cond", NULL };
  static const char *const keys[] = { "text", "prompt", "text_g", "t5xxl", "clip_l", NULL };
  const cJSON *node = linked (self, condition);

  for (int hop = 0; hop < MAX_HOPS && node != NULL; hop++)
    {
      const char *type = cJSON_GetStringValue (member (node, "class_type"));

      if (g_strcmp0 (type, "ConditioningZeroOut") == 0)
        return g_strdup ("");
      for (int i = 0; keys[i] != NULL; i++)
        {
          const char *text = cJSON_GetStringValue (literal (self, node, keys[i]));

          if (text != NULL)
            return g_strdup (text);
        }
      node = linked (self, first_input (node, through));
    }
  return NULL;
}

static void
take_prompts (Graph *self, const cJSON *sampler)
{
  static const char *const conditions[] = { "positive", "conditioning", NULL };
  const cJSON *node = find_with (self, sampler, TO_GUIDER, "positive");
  char *prompt;

  if (node == NULL)
    node = find_with (self, sampler, TO_GUIDER, "conditioning");
  prompt = find_prompt (self, first_input (node, conditions));
  if (prompt == NULL)
    ignore (self, "Prompt", "not found in the graph");
  else
    {
      g_free ((char *)self->request->prompt);
      self->request->prompt = prompt;
    }
  if (self->request->guidance > 0)
    self->request->negative = find_prompt (self, input_of (node, "negative"));
}

static void
take_size (Graph *self, const cJSON *sampler)
{
  const cJSON *node = find_with (self, sampler, TO_LATENT, "width");
  int width = 0, height = 0;

  take_int (self, literal (self, node, "width"), "Width", ENGINE_REQUEST_MIN_SIZE,
            ENGINE_REQUEST_MAX_SIZE, 16, &width);
  take_int (self, literal (self, node, "height"), "Height", ENGINE_REQUEST_MIN_SIZE,
            ENGINE_REQUEST_MAX_SIZE, 16, &height);
  if (width > 0 && height > 0)
    {
      self->request->width = width;
      self->request->height = height;
    }
}

/* FALSE if the node has no LoRA that a request can hold. */
static gboolean
take_lora (Graph *self, const cJSON *node, GArray *loras)
{
  const char *path = cJSON_GetStringValue (literal (self, node, "lora_name"));
  const cJSON *strength = literal (self, node, "strength_model");
  const char *name = path;
  EngineLora lora = { .strength = 1.0 };

  if (path == NULL || loras->len == ENGINE_REQUEST_MAX_LORAS)
    return FALSE;
  for (const char *p = path; *p != '\0'; p++) /* folders are written as on the other computer */
    if (*p == '/' || *p == '\\')
      name = p + 1;
  if (cJSON_IsNumber (strength))
    lora.strength = strength->valuedouble;
  if (*name == '\0' || g_str_equal (name, "..") || strlen (name) > 200
      || !(lora.strength >= -8.0 && lora.strength <= 8.0))
    return FALSE;
  lora.file = g_strdup (name);
  g_array_append_val (loras, lora);
  return TRUE;
}

/* Between the sampler and the model's file: LoRAs, and what turns the schedule. */
static void
take_model (Graph *self, const cJSON *sampler)
{
  g_autoptr (GArray) loras = g_array_new (FALSE, FALSE, sizeof (EngineLora));
  g_autoptr (GHashTable) taken = g_hash_table_new (NULL, NULL);
  const cJSON *node = sampler;

  for (int hop = 0; hop < MAX_HOPS && node != NULL; hop++)
    {
      const cJSON *shift = literal (self, node, "shift");

      if (g_hash_table_add (taken, (gpointer)node) && input_of (node, "lora_name") != NULL
          && !take_lora (self, node, loras))
        g_hash_table_remove (taken, node);
      if (cJSON_IsNumber (shift) && shift->valuedouble != USUAL_SHIFT)
        {
          g_autofree char *text = g_strdup_printf ("%g", shift->valuedouble);

          ignore (self, "Shift", text);
        }
      node = linked (self, first_input (node, TO_MODEL));
    }
  self->request->n_loras = loras->len;
  self->request->loras = (EngineLora *)(void *)g_array_free (g_steal_pointer (&loras), FALSE);
  cJSON_ArrayForEach (node, self->nodes) if (!g_hash_table_contains (taken, node))
      ignore_text (self, node, "lora_name", "LoRA", NULL);
}

/* What has no equal here but changes the picture. */
static void
report_rest (Graph *self, const cJSON *sampler)
{
  static const char *const models[] = { "unet_name", "ckpt_name", NULL };
  const cJSON *denoise = literal (self, find_with (self, sampler, TO_SIGMAS, "denoise"), "denoise");

  ignore_text (self, find_with (self, sampler, TO_SAMPLER, "sampler_name"), "sampler_name",
               "Sampler", "euler");
  ignore_text (self, find_with (self, sampler, TO_SIGMAS, "scheduler"), "scheduler",
               "Schedule type", "simple");
  if (cJSON_IsNumber (denoise) && denoise->valuedouble < 1)
    {
      g_autofree char *text = g_strdup_printf ("%g", denoise->valuedouble);

      ignore (self, "Denoise", text);
    }
  for (int i = 0; models[i] != NULL; i++)
    ignore_text (self, find_with (self, sampler, TO_MODEL, models[i]), models[i], "Model", NULL);
}

EngineRequest *
engine_request_from_comfyui (const char *text, gsize length, char **ignored, GError **error)
{
  static const EngineRequest initial = ENGINE_REQUEST_INIT;
  g_autoptr (EngineRequest) request = engine_request_copy (&initial);
  g_autoptr (GString) report = g_string_new (NULL);
  g_autofree char *whole = length <= MAX_TEXT ? g_strndup (text, length) : g_strdup ("");
  g_autofree char *readable = make_readable (whole);
  g_autoptr (cJSON) root = json_parse (readable, strlen (readable), "the graph", error);
  g_autoptr (cJSON) converted = NULL;
  Graph graph = { root, request, report };
  const cJSON *sampler;

  if (root == NULL)
    return NULL;
  if (cJSON_IsArray (member (root, "nodes")))
    graph.nodes = converted = nodes_of_workflow (root);
  sampler = cJSON_GetArraySize (graph.nodes) <= MAX_NODES ? find_sampler (&graph) : NULL;
  if (sampler == NULL)
    {
      g_set_error_literal (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST,
                           "the graph has no sampler that is known, or too many nodes");
      return NULL;
    }
  take_seed (&graph, sampler);
  take_int (&graph, literal (&graph, find_with (&graph, sampler, TO_SIGMAS, "steps"), "steps"),
            "Steps", 1, ENGINE_REQUEST_MAX_STEPS, 1, &request->steps);
  take_size (&graph, sampler);
  take_guidance (&graph, sampler);
  take_prompts (&graph, sampler);
  take_model (&graph, sampler);
  report_rest (&graph, sampler);
  if (!engine_request_validate (request, error))
    return NULL;
  if (ignored != NULL)
    *ignored = g_strdup (report->str);
  return g_steal_pointer (&request);
}
