/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/bench-quality.h"

#include "engine/checkpoint/inspection.h"
#include "engine/files/atomic-file.h"
#include "engine/files/json.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>

#define MAX_PROMPTS_BYTES (4 << 20)
#define MAX_RECORD_BYTES  (1 << 16)
#define MAX_RUN_BYTES     (16 << 20)

static void
prompt_free (gpointer data)
{
  QualityPrompt *self = data;

  g_free (self->name);
  g_free (self->text);
  g_free (self);
}

void
quality_run_clear (QualityRun *self)
{
  for (guint c = 0; self->configurations != NULL && c < self->configurations->len; c++)
    {
      QualityConfiguration *configuration = g_ptr_array_index (self->configurations, c);

      for (guint p = 0; configuration->rows != NULL && p < self->prompts->len; p++)
        g_free (configuration->rows[p].error);
      g_free (configuration->rows);
      g_free (configuration->label);
      g_free (configuration->folder);
      g_free (configuration->model);
      g_free (configuration->transformer);
      g_free (configuration->text_encoder);
      g_free (configuration);
    }
  g_clear_pointer (&self->configurations, g_ptr_array_unref);
  g_clear_pointer (&self->prompts, g_ptr_array_unref);
  g_clear_pointer (&self->folder, g_free);
  g_clear_pointer (&self->device, g_free);
  g_clear_pointer (&self->device_name, g_free);
}

/* -- prompts -------------------------------------------------------------------------------------
 */

static gboolean
read_text (const char *path, gsize max_bytes, char **text, GError **error)
{
  gsize length;

  if (!g_file_get_contents (path, text, &length, error))
    return FALSE;
  if (length <= max_bytes && g_utf8_validate_len (*text, length, NULL))
    return TRUE;
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST,
               "%s: not UTF-8 text of at most %" G_GSIZE_FORMAT " bytes", path, max_bytes);
  g_clear_pointer (text, g_free);
  return FALSE;
}

/* "[name] text" or "text"; NULL if no text is left. */
static QualityPrompt *
parse_prompt (char *line, guint number)
{
  char *end = line[0] == '[' ? strchr (line, ']') : NULL;
  char *text = g_strstrip (end != NULL ? end + 1 : line);
  QualityPrompt *prompt;

  if (*text == '\0')
    return NULL;
  prompt = g_new0 (QualityPrompt, 1);
  prompt->name = end != NULL ? g_strndup (line + 1, (gsize)(end - line - 1))
                             : g_strdup_printf ("prompt %u", number);
  prompt->text = g_strdup (text);
  return prompt;
}

GPtrArray *
quality_prompts_load (const char *path, GError **error)
{
  g_autoptr (GPtrArray) prompts = g_ptr_array_new_with_free_func (prompt_free);
  g_autofree char *text = NULL;
  g_auto (GStrv) lines = NULL;

  if (!read_text (path, MAX_PROMPTS_BYTES, &text, error))
    return NULL;
  lines = g_strsplit (text, "\n", -1);
  for (guint i = 0; lines[i] != NULL; i++)
    {
      QualityPrompt *prompt;

      if (*g_strstrip (lines[i]) == '\0' || lines[i][0] == '#')
        continue;
      prompt = parse_prompt (lines[i], prompts->len + 1);
      if (prompt == NULL || prompts->len == QUALITY_MAX_PROMPTS)
        {
          g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST,
                       prompt == NULL ? "%s, line %u: a name without a prompt"
                                      : "%s, line %u: more than 1000 prompts",
                       path, i + 1);
          if (prompt != NULL)
            prompt_free (prompt);
          return NULL;
        }
      g_ptr_array_add (prompts, prompt);
    }
  if (prompts->len > 0)
    return g_steal_pointer (&prompts);
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST, "%s: there is no prompt in it", path);
  return NULL;
}

/* -- configurations ------------------------------------------------------------------------------
 */

char *
quality_precision_of (const char *model, const char *transformer, GError **error)
{
  const char *path = transformer != NULL ? transformer : model;
  g_autoptr (Inspection) inspection = inspection_new (path, error);

  if (inspection == NULL)
    return NULL;
  for (guint i = 0; i < inspection->parts->len; i++)
    {
      const InspectionPart *part = g_ptr_array_index (inspection->parts, i);

      if (part->precision != NULL
          && (transformer != NULL || g_str_equal (part->name, "transformer")))
        return g_strdup (part->precision);
    }
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL, "%s: there is no transformer in it", path);
  return NULL;
}

/* -- the folder ----------------------------------------------------------------------------------
 */

char *
quality_row_path (const QualityRun *self, const QualityConfiguration *configuration, guint prompt,
                  const char *suffix)
{
  return g_strdup_printf ("%s/%s/%03u%s", self->folder, configuration->folder, prompt + 1, suffix);
}

gboolean
quality_write_text (const QualityRun *self, const char *name, const char *text, GError **error)
{
  g_autofree char *path = g_build_filename (self->folder, name, NULL);

  return atomic_file_put_text (path, text, error);
}

/* All that decides the pictures. */
static char *
describe_run (const QualityRun *self)
{
  g_autoptr (cJSON) root = cJSON_CreateObject ();
  g_autofree char *seed = g_strdup_printf ("%" G_GUINT64_FORMAT, self->request.seed);
  cJSON *prompts, *configurations;

  cJSON_AddStringToObject (root, "schema", "tessera bench quality 1");
  cJSON_AddNumberToObject (root, "width", self->request.width);
  cJSON_AddNumberToObject (root, "height", self->request.height);
  cJSON_AddNumberToObject (root, "steps", self->request.steps);
  cJSON_AddStringToObject (root, "seed", seed);
  cJSON_AddStringToObject (root, "device", self->device);
  cJSON_AddNumberToObject (root, "memory_budget", (double)self->memory_budget);
  configurations = cJSON_AddArrayToObject (root, "configurations");
  for (guint i = 0; i < self->configurations->len; i++)
    {
      const QualityConfiguration *c = g_ptr_array_index (self->configurations, i);
      cJSON *item = cJSON_CreateObject ();

      cJSON_AddStringToObject (item, "label", c->label);
      cJSON_AddStringToObject (item, "precision", engine_precision_name (c->precision));
      cJSON_AddStringToObject (item, "model", c->model);
      if (c->transformer != NULL)
        cJSON_AddStringToObject (item, "transformer", c->transformer);
      if (c->text_encoder != NULL)
        cJSON_AddStringToObject (item, "text_encoder", c->text_encoder);
      cJSON_AddItemToArray (configurations, item);
    }
  prompts = cJSON_AddArrayToObject (root, "prompts");
  for (guint i = 0; i < self->prompts->len; i++)
    {
      const QualityPrompt *p = g_ptr_array_index (self->prompts, i);
      cJSON *item = cJSON_CreateObject ();

      cJSON_AddStringToObject (item, "name", p->name);
      cJSON_AddStringToObject (item, "prompt", p->text);
      cJSON_AddItemToArray (prompts, item);
    }
  return json_print (root, TRUE);
}

static gboolean
make_folder (const char *path, GError **error)
{
  if (g_mkdir_with_parents (path, 0777) == 0)
    return TRUE;
  g_set_error (error, G_FILE_ERROR, (gint)g_file_error_from_errno (errno),
               "%s: the folder cannot be made: %s", path, g_strerror (errno));
  return FALSE;
}

/* Writes run.json, or finds the same there. */
static gboolean
claim_folder (const QualityRun *self, GError **error)
{
  g_autofree char *path = g_build_filename (self->folder, "run.json", NULL);
  g_autofree char *wanted = describe_run (self);
  g_autofree char *found = NULL;

  if (!g_file_test (path, G_FILE_TEST_EXISTS))
    return atomic_file_put_text (path, wanted, error);
  if (!read_text (path, MAX_RUN_BYTES, &found, error))
    return FALSE;
  if (g_str_equal (wanted, found))
    return TRUE;
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST,
               "%s was begun with other models, prompts or settings; choose another folder, or "
               "remove this one",
               self->folder);
  return FALSE;
}

static gboolean
get_bytes (const cJSON *root, const char *key, guint64 *out)
{
  return json_is_count (cJSON_GetObjectItemCaseSensitive (root, key), out);
}

static gboolean
parse_row (const cJSON *root, const char *path, QualityRow *row)
{
  const double long_time = 1e9;
  const char *text = NULL;

  if (!json_get_string_or (root, "error", NULL, path, &text, NULL))
    return FALSE;
  row->error = g_strdup (text);
  return json_get_double (root, "seconds", 0, long_time, path, &row->seconds, NULL)
         && json_get_double (root, "load_seconds", 0, long_time, path, &row->load_seconds, NULL)
         && json_get_double (root, "step_seconds", 0, long_time, path, &row->step_seconds, NULL)
         && get_bytes (root, "weights", &row->weights)
         && get_bytes (root, "activations", &row->activations)
         && get_bytes (root, "peak", &row->peak)
         && get_bytes (root, "system_peak", &row->system_peak);
}

/* A record that is missing or damaged is drawn again, and so is one that failed. */
static void
read_row (const QualityRun *self, const QualityConfiguration *configuration, guint prompt)
{
  g_autofree char *path = quality_row_path (self, configuration, prompt, ".json");
  g_autofree char *picture = quality_row_path (self, configuration, prompt, ".png");
  QualityRow *row = &configuration->rows[prompt];
  g_autoptr (cJSON) root = NULL;

  if (g_file_test (path, G_FILE_TEST_EXISTS) && g_file_test (picture, G_FILE_TEST_EXISTS))
    root = json_load (path, MAX_RECORD_BYTES, NULL);
  row->done = cJSON_IsObject (root) && parse_row (root, path, row) && row->error == NULL;
  if (row->done)
    return;
  g_free (row->error);
  *row = (QualityRow){ 0 };
}

gboolean
quality_run_open (QualityRun *self, GError **error)
{
  if (!make_folder (self->folder, error) || !claim_folder (self, error))
    return FALSE;
  for (guint i = 0; i < self->configurations->len; i++)
    {
      QualityConfiguration *configuration = g_ptr_array_index (self->configurations, i);
      g_autofree char *path = g_build_filename (self->folder, configuration->folder, NULL);

      if (!make_folder (path, error))
        return FALSE;
      configuration->rows = g_new0 (QualityRow, self->prompts->len);
      for (guint p = 0; p < self->prompts->len; p++)
        read_row (self, configuration, p);
    }
  return TRUE;
}

gboolean
quality_row_save (const QualityRun *self, const QualityConfiguration *configuration, guint prompt,
                  Image *picture, GError **error)
{
  const QualityRow *row = &configuration->rows[prompt];
  g_autofree char *record = quality_row_path (self, configuration, prompt, ".json");
  g_autofree char *path = quality_row_path (self, configuration, prompt, ".png");
  g_autoptr (cJSON) root = cJSON_CreateObject ();
  g_autofree char *text = NULL;

  if (picture != NULL && !image_save_png (picture, path, NULL, error))
    return FALSE;
  if (row->error != NULL)
    cJSON_AddStringToObject (root, "error", row->error);
  cJSON_AddNumberToObject (root, "seconds", row->seconds);
  cJSON_AddNumberToObject (root, "load_seconds", row->load_seconds);
  cJSON_AddNumberToObject (root, "step_seconds", row->step_seconds);
  cJSON_AddNumberToObject (root, "weights", (double)row->weights);
  cJSON_AddNumberToObject (root, "activations", (double)row->activations);
  cJSON_AddNumberToObject (root, "peak", (double)row->peak);
  cJSON_AddNumberToObject (root, "system_peak", (double)row->system_peak);
  text = json_print (root, TRUE);
  return atomic_file_put_text (record, text, error);
}
