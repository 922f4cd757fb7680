/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/bench-quality.h"

#include "engine/files/json.h"

#include <math.h>
#include <string.h>

/* -- comparing -----------------------------------------------------------------------------------
 */

/* A picture that cannot be read or compared makes its row a failed one. FALSE: interrupted. */
static gboolean
compare_row (QualityRun *run, const QualityConfiguration *c, guint p, const MetricsOptions *options,
             GCancellable *cancellable, GError **error)
{
  const QualityConfiguration *baseline = g_ptr_array_index (run->configurations, 0);
  g_autofree char *first = quality_row_path (run, baseline, p, ".png");
  g_autofree char *second = quality_row_path (run, c, p, ".png");
  QualityRow *row = &c->rows[p];
  g_autoptr (GError) failure = NULL;
  g_autoptr (Image) a = image_load_png (first, NULL, &failure), b = NULL;

  if (a != NULL)
    b = image_load_png (second, NULL, &failure);
  row->compared
      = b != NULL && metrics_compare (a, b, options, cancellable, &row->metrics, &failure);
  if (row->compared)
    return TRUE;
  if (g_error_matches (failure, G_IO_ERROR, G_IO_ERROR_CANCELLED))
    {
      g_propagate_error (error, g_steal_pointer (&failure));
      return FALSE;
    }
  g_free (row->error);
  row->error = g_strdup (failure->message);
  return TRUE;
}

static gboolean
compare_all (QualityRun *run, MetricsLpips *lpips, gboolean progress, GCancellable *cancellable,
             GError **error)
{
  const QualityConfiguration *baseline = g_ptr_array_index (run->configurations, 0);
  const MetricsOptions options = { .lpips = lpips };

  for (guint i = 1; i < run->configurations->len; i++)
    for (guint p = 0; p < run->prompts->len; p++)
      {
        const QualityConfiguration *c = g_ptr_array_index (run->configurations, i);

        if (progress)
          g_printerr ("\r\033[KComparing %s: %u of %u", c->label, p + 1, run->prompts->len);
        if (c->rows[p].done && baseline->rows[p].done
            && !compare_row (run, c, p, &options, cancellable, error))
          return FALSE;
      }
  return TRUE;
}

/* -- JSON ----------------------------------------------------------------------------------------
 */

/* A number, or null where there is none. */
static void
add_number (cJSON *object, const char *key, double value)
{
  if (isfinite (value))
    cJSON_AddNumberToObject (object, key, value);
  else
    cJSON_AddNullToObject (object, key);
}

/* Bytes, or null where they are not known. */
static void
add_bytes (cJSON *object, const char *key, guint64 bytes)
{
  add_number (object, key, bytes > 0 ? (double)bytes : NAN);
}

static void
add_metrics (cJSON *object, double psnr, double ssim, double ms_ssim, double flip, double lpips)
{
  add_number (object, "psnr", psnr);
  add_number (object, "ssim", ssim);
  add_number (object, "ms_ssim", ms_ssim);
  add_number (object, "flip", flip);
  add_number (object, "lpips", lpips);
}

static cJSON *
summary_to_json (const QualitySummary *s)
{
  cJSON *object = cJSON_CreateObject ();

  cJSON_AddNumberToObject (object, "drawn", s->drawn);
  cJSON_AddNumberToObject (object, "failed", s->failed);
  cJSON_AddNumberToObject (object, "equal", s->equal);
  add_number (object, "seconds", s->seconds);
  add_number (object, "load_seconds", s->load_seconds);
  add_number (object, "step_seconds", s->step_seconds);
  add_number (object, "speedup", s->speedup);
  add_bytes (object, "weights", s->weights);
  add_bytes (object, "activations", s->activations);
  add_bytes (object, "peak", s->peak);
  add_number (object, "reduction", s->reduction);
  add_bytes (object, "system_peak", s->system_peak);
  add_number (object, "system_reduction", s->system_reduction);
  add_metrics (object, s->psnr, s->ssim, s->ms_ssim, s->flip, s->lpips);
  return object;
}

static cJSON *
row_to_json (const QualityPrompt *prompt, const QualityRow *row)
{
  cJSON *object = cJSON_CreateObject ();

  cJSON_AddStringToObject (object, "name", prompt->name);
  if (row->error != NULL)
    cJSON_AddStringToObject (object, "error", row->error);
  add_number (object, "seconds", row->done ? row->seconds : NAN);
  add_number (object, "load_seconds", row->done ? row->load_seconds : NAN);
  add_number (object, "step_seconds", row->step_seconds > 0 ? row->step_seconds : NAN);
  add_bytes (object, "weights", row->weights);
  add_bytes (object, "activations", row->activations);
  add_bytes (object, "peak", row->peak);
  add_bytes (object, "system_peak", row->system_peak);
  if (!row->compared)
    return object;
  add_metrics (object, row->metrics.psnr, row->metrics.ssim, row->metrics.ms_ssim,
               row->metrics.flip, row->metrics.lpips);
  cJSON_AddBoolToObject (object, "equal", row->metrics.pixels_changed == 0);
  add_number (object, "mean_difference", row->metrics.mean_difference);
  add_number (object, "max_difference", row->metrics.max_difference);
  return object;
}

static cJSON *
configuration_to_json (const QualityRun *run, const QualityConfiguration *c)
{
  cJSON *object = cJSON_CreateObject (), *rows;
  QualitySummary summary = quality_summarise (run, c);

  cJSON_AddStringToObject (object, "label", c->label);
  cJSON_AddStringToObject (object, "folder", c->folder);
  cJSON_AddStringToObject (object, "precision", engine_precision_name (c->precision));
  cJSON_AddStringToObject (object, "model", c->model);
  if (c->transformer != NULL)
    cJSON_AddStringToObject (object, "transformer", c->transformer);
  if (c->text_encoder != NULL)
    cJSON_AddStringToObject (object, "text_encoder", c->text_encoder);
  cJSON_AddItemToObject (object, "summary", summary_to_json (&summary));
  rows = cJSON_AddArrayToObject (object, "prompts");
  for (guint p = 0; p < run->prompts->len; p++)
    cJSON_AddItemToArray (rows, row_to_json (g_ptr_array_index (run->prompts, p), &c->rows[p]));
  return object;
}

/* The report as JSON; seconds and bytes. */
static char *
as_json (const QualityRun *run)
{
  g_autoptr (cJSON) root = cJSON_CreateObject ();
  g_autofree char *seed = g_strdup_printf ("%" G_GUINT64_FORMAT, run->request.seed);
  cJSON *configurations;

  cJSON_AddStringToObject (root, "schema", "tessera quality report 1");
  cJSON_AddStringToObject (root, "version", TESSERA_VERSION);
  cJSON_AddStringToObject (root, "device", run->device_name);
  cJSON_AddNumberToObject (root, "width", run->request.width);
  cJSON_AddNumberToObject (root, "height", run->request.height);
  cJSON_AddNumberToObject (root, "steps", run->request.steps);
  cJSON_AddStringToObject (root, "seed", seed);
  configurations = cJSON_AddArrayToObject (root, "configurations");
  for (guint i = 0; i < run->configurations->len; i++)
    cJSON_AddItemToArray (configurations,
                          configuration_to_json (run, g_ptr_array_index (run->configurations, i)));
  return json_print (root, TRUE);
}

/* -- Markdown ------------------------------------------------------------------------------------
 */

/* What would end a cell or begin markup is escaped. */
static void
append_cell (GString *text, const char *cell)
{
  g_string_append (text, "| ");
  for (; *cell != '\0'; cell++)
    {
      if (strchr ("|\\`*_<>[]", *cell) != NULL)
        g_string_append_c (text, '\\');
      g_string_append_c (text, strchr ("\r\n", *cell) != NULL ? ' ' : *cell);
    }
  g_string_append_c (text, ' ');
}

static void
append_table (GString *text, const QualityTable *table)
{
  g_string_append_printf (text, "\n## %s\n\n", table->title);
  for (guint i = 0; i < table->cells->len; i++)
    {
      append_cell (text, g_ptr_array_index (table->cells, i));
      if ((i + 1) % table->columns != 0)
        continue;
      g_string_append (text, "|\n");
      for (guint column = 0; i + 1 == table->columns && column < table->columns; column++)
        g_string_append (text, column + 1 < table->columns ? "|---" : "|---|\n");
    }
  if (table->note != NULL)
    g_string_append_printf (text, "\n%s\n", table->note);
}

static char *
as_markdown (const QualityRun *run)
{
  GString *text = g_string_new ("# What precision costs and gains\n\n");
  g_autoptr (GPtrArray) tables = quality_tables (run);
  g_autofree char *banner = quality_banner (run);
  g_auto (GStrv) lines = g_strsplit (g_strchomp (banner), "\n", -1);

  for (guint i = 0; lines[i] != NULL; i++)
    g_string_append_printf (text, "    %s\n", lines[i]);
  for (guint i = 0; i < tables->len; i++)
    append_table (text, g_ptr_array_index (tables, i));
  return g_string_free (text, FALSE);
}

gboolean
quality_report (QualityRun *run, MetricsLpips *lpips, gboolean progress, GCancellable *cancellable,
                GError **error)
{
  g_autofree char *json = NULL, *markdown = NULL, *html = NULL;

  if (!compare_all (run, lpips, progress, cancellable, error))
    return FALSE;
  json = as_json (run);
  markdown = as_markdown (run);
  html = quality_html (run);
  return quality_write_text (run, "report.json", json, error)
         && quality_write_text (run, "report.md", markdown, error)
         && quality_write_text (run, "report.html", html, error);
}
