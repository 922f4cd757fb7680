/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/weight-only/quantize-encoder.h"

#include "engine/files/atomic-file.h"
#include "engine/files/json.h"

#include <math.h>
#include <string.h>

EncoderPrompt
encoder_compare (const char *prompt, const GArray *dense, const GArray *quantised, int features)
{
  const float *a = (const float *)(const void *)dense->data;
  const float *b = (const float *)(const void *)quantised->data;
  EncoderPrompt out = { prompt, dense->len / (guint)features, 0.0, 0.0, 1.0 };
  double error = 0.0, size = 0.0;

  for (guint token = 0; token < out.tokens; token++)
    {
      double aa = 0.0, ab = 0.0, bb = 0.0, cosine;

      for (int i = 0; i < features; i++, a++, b++)
        {
          aa += (double)*a * *a;
          ab += (double)*a * *b;
          bb += (double)*b * *b;
          error += ((double)*a - *b) * ((double)*a - *b);
        }
      size += aa;
      cosine = aa > 0.0 && bb > 0.0 ? ab / sqrt (aa * bb) : 0.0;
      out.cosine += cosine / out.tokens;
      out.least_cosine = MIN (out.least_cosine, cosine);
    }
  out.error = size > 0.0 ? sqrt (error / size) : 0.0;
  return out;
}

static double
whole_error (const EncoderReport *report)
{
  return report->whole.size > 0.0 ? sqrt (report->whole.error / report->whole.size) : 0.0;
}

static char *
print_text (const EncoderReport *report)
{
  GString *out = g_string_new (NULL);

  g_string_append_printf (
      out,
      "Text encoder in %d bit, %s\n%.1f MB of linears became %.1f MB, in %.0f s. "
      "Relative error of all weights: %.5f\n\n"
      "Embeddings of prompts that nothing was learnt from, against the dense "
      "encoder's:\n%8s %8s %8s  %s\n",
      report->job->bits,
      report->job->prompts != NULL ? "errors weighted by the inputs of prompts"
                                   : "from the weights alone",
      (double)report->dense_bytes / 1e6, (double)report->bytes / 1e6, report->seconds,
      whole_error (report), "error", "cosine", "least", "prompt");
  for (guint i = 0; i < report->prompts->len; i++)
    {
      const EncoderPrompt *p = &g_array_index (report->prompts, EncoderPrompt, i);

      g_string_append_printf (out, "%8.5f %8.5f %8.5f  %s (%u tokens)\n", p->error, p->cosine,
                              p->least_cosine, p->prompt, p->tokens);
    }
  g_string_append (out,
                   "\nLinears, relative error of the weights, and weighted by their inputs:\n");
  for (guint i = 0; i < report->lines->len; i++)
    {
      const EncoderLine *line = &g_array_index (report->lines, EncoderLine, i);

      g_string_append_printf (out, "%-40s %6" G_GINT64_FORMAT " x %-6" G_GINT64_FORMAT " %8.5f",
                              line->base, line->n, line->k, line->error);
      if (report->job->prompts != NULL)
        g_string_append_printf (out, " %8.5f", line->weighted);
      g_string_append_c (out, '\n');
    }
  return g_string_free (out, FALSE);
}

static void
add_prompts (cJSON *root, const EncoderReport *report)
{
  cJSON *list = cJSON_AddArrayToObject (root, "prompts");

  for (guint i = 0; i < report->prompts->len; i++)
    {
      const EncoderPrompt *p = &g_array_index (report->prompts, EncoderPrompt, i);
      cJSON *item = cJSON_CreateObject ();

      cJSON_AddStringToObject (item, "prompt", p->prompt);
      cJSON_AddNumberToObject (item, "tokens", p->tokens);
      cJSON_AddNumberToObject (item, "error", p->error);
      cJSON_AddNumberToObject (item, "cosine", p->cosine);
      cJSON_AddNumberToObject (item, "least_cosine", p->least_cosine);
      cJSON_AddItemToArray (list, item);
    }
}

static void
add_linears (cJSON *root, const EncoderReport *report)
{
  cJSON *list = cJSON_AddArrayToObject (root, "linears");

  for (guint i = 0; i < report->lines->len; i++)
    {
      const EncoderLine *line = &g_array_index (report->lines, EncoderLine, i);
      cJSON *item = cJSON_CreateObject ();

      cJSON_AddStringToObject (item, "linear", line->base);
      cJSON_AddNumberToObject (item, "outputs", (double)line->n);
      cJSON_AddNumberToObject (item, "inputs", (double)line->k);
      cJSON_AddNumberToObject (item, "error", line->error);
      if (report->job->prompts != NULL)
        cJSON_AddNumberToObject (item, "weighted_error", line->weighted);
      cJSON_AddItemToArray (list, item);
    }
}

static char *
print_json (const EncoderReport *report)
{
  g_autoptr (cJSON) root = cJSON_CreateObject ();

  cJSON_AddNumberToObject (root, "bits", report->job->bits);
  cJSON_AddBoolToObject (root, "calibrated", report->job->prompts != NULL);
  cJSON_AddNumberToObject (root, "error", whole_error (report));
  cJSON_AddNumberToObject (root, "bytes", (double)report->bytes);
  cJSON_AddNumberToObject (root, "dense_bytes", (double)report->dense_bytes);
  cJSON_AddNumberToObject (root, "seconds", report->seconds);
  add_prompts (root, report);
  add_linears (root, report);
  return json_print (root, TRUE);
}

static gboolean
write_part (const char *out, const char *ending, const char *text, GError **error)
{
  g_autofree char *path = g_strconcat (out, ending, NULL);

  return atomic_file_put_text (path, text, error);
}

gboolean
encoder_write_report (const EncoderReport *report, GError **error)
{
  g_autofree char *text = print_text (report);
  g_autofree char *json = print_json (report);

  return write_part (report->job->out, ".txt", text, error)
         && write_part (report->job->out, ".json", json, error);
}
