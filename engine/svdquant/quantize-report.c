/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/svdquant/quantize.h"

#include "engine/files/atomic-file.h"
#include "engine/files/json.h"

#include <math.h>
#include <string.h>

void
quantize_line_clear (QuantizeLine *line)
{
  g_clear_pointer (&line->base, g_free);
}

static void
add_error (cJSON *object, const char *stage, const QuantizeError *error)
{
  cJSON *item = cJSON_AddObjectToObject (object, stage);

  cJSON_AddNumberToObject (item, "weight", error->weight);
  if (isfinite (error->output))
    cJSON_AddNumberToObject (item, "output", error->output);
}

static cJSON *
line_to_object (const QuantizeLine *line)
{
  cJSON *root = cJSON_CreateObject ();

  cJSON_AddStringToObject (root, "linear", line->base);
  cJSON_AddNumberToObject (root, "outputs", (double)line->n);
  cJSON_AddNumberToObject (root, "inputs", (double)line->k);
  cJSON_AddNumberToObject (root, "rank", line->rank);
  cJSON_AddNumberToObject (root, "alpha", line->alpha);
  cJSON_AddNumberToObject (root, "beta", line->beta);
  cJSON_AddNumberToObject (root, "refinements", line->refinements);
  cJSON_AddNumberToObject (root, "seconds", line->seconds);
  add_error (root, "plain", &line->plain);
  add_error (root, "smoothed", &line->smoothed);
  add_error (root, "refined", &line->refined);
  add_error (root, "final", &line->final);
  return root;
}

char *
quantize_line_to_json (const QuantizeLine *line)
{
  g_autoptr (cJSON) root = line_to_object (line);

  return json_print (root, FALSE);
}

static double
number (const cJSON *object, const char *key)
{
  const cJSON *item = cJSON_GetObjectItemCaseSensitive (object, key);

  return cJSON_IsNumber (item) ? item->valuedouble : NAN;
}

static QuantizeError
read_error (const cJSON *root, const char *stage)
{
  const cJSON *item = cJSON_GetObjectItemCaseSensitive (root, stage);

  return (QuantizeError){ number (item, "weight"), number (item, "output") };
}

static int
whole (const cJSON *object, const char *key)
{
  double value = number (object, key);

  return value >= 0.0 && value <= 1e6 ? (int)value : 0;
}

gboolean
quantize_line_from_json (const char *text, QuantizeLine *line, GError **error)
{
  g_autoptr (cJSON) root = json_parse (text, strlen (text), "report", error);
  const char *base;

  if (root == NULL || !json_get_string_or (root, "linear", "?", "report", &base, error))
    return FALSE;
  *line = (QuantizeLine){ .base = g_strdup (base),
                          .n = whole (root, "outputs"),
                          .k = whole (root, "inputs"),
                          .rank = whole (root, "rank"),
                          .refinements = whole (root, "refinements"),
                          .alpha = number (root, "alpha"),
                          .beta = number (root, "beta"),
                          .seconds = number (root, "seconds"),
                          .plain = read_error (root, "plain"),
                          .smoothed = read_error (root, "smoothed"),
                          .refined = read_error (root, "refined"),
                          .final = read_error (root, "final") };
  return TRUE;
}

/* -- the two files ---------------------------------------------------------------------------- */

static void
print_error (GString *out, const QuantizeError *error)
{
  if (isfinite (error->output))
    g_string_append_printf (out, "  %6.4f %6.4f", error->weight, error->output);
  else
    g_string_append_printf (out, "  %6.4f      -", error->weight);
}

static char *
print_text (const QuantizeJob *job, GArray *lines)
{
  GString *out = g_string_new (NULL);

  g_string_append_printf (out,
                          "%s, level %d, rank %d\nRelative errors, of the weight and of outputs on "
                          "inputs that were held back.\n\n%-36s %4s %4s %4s  %-13s  %-13s  %-13s  "
                          "%-13s %8s\n",
                          job->settings.format == SVDQ_INT4 ? "INT4" : "NVFP4",
                          (int)job->settings.level, job->settings.rank, "linear", "rank", "a", "b",
                          "plain", "smoothed", "refined", "final", "seconds");
  for (guint i = 0; i < lines->len; i++)
    {
      const QuantizeLine *line = &g_array_index (lines, QuantizeLine, i);

      g_string_append_printf (out, "%-36s %4d %4.2f %4.2f", line->base, line->rank, line->alpha,
                              line->beta);
      print_error (out, &line->plain);
      print_error (out, &line->smoothed);
      print_error (out, &line->refined);
      print_error (out, &line->final);
      g_string_append_printf (out, " %8.1f\n", line->seconds);
    }
  return g_string_free (out, FALSE);
}

static char *
print_json (const QuantizeJob *job, GArray *lines)
{
  g_autoptr (cJSON) root = cJSON_CreateObject ();
  cJSON *list;

  cJSON_AddStringToObject (root, "precision", job->settings.format == SVDQ_INT4 ? "int4" : "nvfp4");
  cJSON_AddNumberToObject (root, "level", (double)job->settings.level);
  cJSON_AddNumberToObject (root, "rank", job->settings.rank);
  list = cJSON_AddArrayToObject (root, "linears");
  for (guint i = 0; i < lines->len; i++)
    cJSON_AddItemToArray (list, line_to_object (&g_array_index (lines, QuantizeLine, i)));
  return json_print (root, TRUE);
}

static gboolean
write_part (const char *out, const char *ending, const char *text, GError **error)
{
  g_autofree char *path = g_strconcat (out, ending, NULL);

  return atomic_file_put_text (path, text, error);
}

gboolean
quantize_write_report (const QuantizeJob *job, GArray *lines, GError **error)
{
  g_autofree char *text = print_text (job, lines);
  g_autofree char *json = print_json (job, lines);

  return write_part (job->out, ".txt", text, error) && write_part (job->out, ".json", json, error);
}
