/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/bench-quality.h"

#include <math.h>

/* A mean of what there is. */
typedef struct
{
  double sum;
  guint count;
} Mean;

static void
mean_add (Mean *self, double value)
{
  if (!isfinite (value))
    return;
  self->sum += value;
  self->count++;
}

static double
mean_of (const Mean *self)
{
  return self->count > 0 ? self->sum / self->count : NAN;
}

/* -- figures -------------------------------------------------------------------------------------
 */

static double
ratio (double a, double b)
{
  return b > 0 ? a / b : NAN;
}

/* How much less than the baseline's; NAN if either is not known. */
static double
reduction (guint64 bytes, guint64 baseline)
{
  return bytes > 0 && baseline > 0 ? 1 - (double)bytes / (double)baseline : NAN;
}

static void
add_memory (QualitySummary *self, const QualityRow *row)
{
  self->weights = MAX (self->weights, row->weights);
  self->activations = MAX (self->activations, row->activations);
  self->peak = MAX (self->peak, row->peak);
  self->system_peak = MAX (self->system_peak, row->system_peak);
}

static void
sum_times (const QualityRun *run, const QualityConfiguration *c, QualitySummary *out)
{
  Mean seconds = { 0 }, load = { 0 }, step = { 0 };

  for (guint p = 0; p < run->prompts->len; p++)
    {
      const QualityRow *row = &c->rows[p];

      if (!row->done)
        {
          out->failed++;
          continue;
        }
      out->drawn++;
      add_memory (out, row);
      mean_add (&seconds, row->seconds);
      mean_add (&step, row->step_seconds > 0 ? row->step_seconds : NAN);
      mean_add (&load, row->load_seconds > 0 ? row->load_seconds : NAN);
    }
  out->seconds = mean_of (&seconds);
  out->step_seconds = mean_of (&step);
  out->load_seconds = mean_of (&load);
}

static void
sum_quality (const QualityRun *run, const QualityConfiguration *c, QualitySummary *out)
{
  const QualityConfiguration *baseline = g_ptr_array_index (run->configurations, 0);
  Mean psnr = { 0 }, ssim = { 0 }, ms_ssim = { 0 }, flip = { 0 }, lpips = { 0 };
  double own = 0, theirs = 0;

  for (guint p = 0; p < run->prompts->len; p++)
    {
      const QualityRow *row = &c->rows[p];

      if (row->done && baseline->rows[p].done)
        {
          own += row->seconds;
          theirs += baseline->rows[p].seconds;
        }
      if (!row->compared)
        continue;
      out->equal += row->metrics.pixels_changed == 0;
      mean_add (&psnr, row->metrics.psnr);
      mean_add (&ssim, row->metrics.ssim);
      mean_add (&ms_ssim, row->metrics.ms_ssim);
      mean_add (&flip, row->metrics.flip);
      mean_add (&lpips, row->metrics.lpips);
    }
  out->speedup = ratio (theirs, own);
  out->psnr = mean_of (&psnr);
  out->ssim = mean_of (&ssim);
  out->ms_ssim = mean_of (&ms_ssim);
  out->flip = mean_of (&flip);
  out->lpips = mean_of (&lpips);
}

QualitySummary
quality_summarise (const QualityRun *run, const QualityConfiguration *configuration)
{
  const QualityConfiguration *baseline = g_ptr_array_index (run->configurations, 0);
  QualitySummary out = { 0 }, base = { 0 };

  sum_times (run, configuration, &out);
  sum_times (run, baseline, &base);
  sum_quality (run, configuration, &out);
  out.reduction = reduction (out.peak, base.peak);
  out.system_reduction = reduction (out.system_peak, base.system_peak);
  return out;
}

/* -- text ----------------------------------------------------------------------------------------
 */

#define DASH "–"

char *
quality_number (double value, int decimals, const char *unit)
{
  return isfinite (value) ? g_strdup_printf ("%.*f%s", decimals, value, unit) : g_strdup (DASH);
}

static char *
bytes_text (guint64 bytes)
{
  return bytes > 0 ? cli_format_bytes (bytes) : g_strdup (DASH);
}

static char *
percent_text (double share)
{
  return quality_number (100 * share, 1, " %");
}

/* PSNR has no value for equal pictures: that is good news, not missing news. */
static char *
psnr_text (double psnr, gboolean equal)
{
  return equal ? g_strdup ("equal") : quality_number (psnr, 2, " dB");
}

char *
quality_banner (const QualityRun *run)
{
  GString *text = g_string_new (NULL);

  g_string_append_printf (text, "%dx%d, %d steps, seed %" G_GUINT64_FORMAT ", %u prompts, on %s\n",
                          run->request.width, run->request.height, run->request.steps,
                          run->request.seed, run->prompts->len, run->device_name);
  for (guint i = 0; i < run->configurations->len; i++)
    {
      const QualityConfiguration *c = g_ptr_array_index (run->configurations, i);

      g_string_append_printf (text, "%s: %s, %s\n", i == 0 ? "Baseline" : "Compared", c->label,
                              c->text_encoder != NULL  ? c->text_encoder
                              : c->transformer != NULL ? c->transformer
                                                       : c->model);
    }
  if (run->lpips != NULL)
    g_string_append_printf (text, "LPIPS: %s, %s\n", run->lpips,
                            run->lpips_published ? "linear layers v0.1"
                                                 : "linear layers unknown: not to be compared with "
                                                   "published figures");
  return g_string_free (text, FALSE);
}

/* -- tables --------------------------------------------------------------------------------------
 */

static QualityTable *
table_new (const char *title, const char *note, const char *const *header)
{
  QualityTable *self = g_new0 (QualityTable, 1);

  self->title = title;
  self->note = note;
  self->columns = g_strv_length ((char **)header);
  self->cells = g_ptr_array_new_with_free_func (g_free);
  for (guint i = 0; i < self->columns; i++)
    g_ptr_array_add (self->cells, g_strdup (header[i]));
  return self;
}

static void
table_free (gpointer data)
{
  QualityTable *self = data;

  g_ptr_array_unref (self->cells);
  g_free (self);
}

/* Takes the text. */
static void
add_cell (QualityTable *self, char *text)
{
  g_ptr_array_add (self->cells, text);
}

static QualityTable *
summary_table (const QualityRun *run)
{
  static const char *const header[]
      = { "",     "mean time", "a step", "speed-up", "peak memory", "reduction", "PSNR",
          "SSIM", "MS-SSIM",   "FLIP",   "LPIPS",    "pictures",    NULL };
  QualityTable *table = table_new (
      "Summary",
      "Means over the prompts. Times are from prompt to pixels, without loading the model. PSNR, "
      "SSIM, MS-SSIM, FLIP and LPIPS are against the baseline's pictures; FLIP and LPIPS are 0 for "
      "equal ones.",
      header);

  for (guint i = 0; i < run->configurations->len; i++)
    {
      const QualityConfiguration *c = g_ptr_array_index (run->configurations, i);
      QualitySummary s = quality_summarise (run, c);

      add_cell (table, g_strdup (c->label));
      add_cell (table, quality_number (s.seconds, 2, " s"));
      add_cell (table, quality_number (s.step_seconds, 3, " s"));
      add_cell (table, i == 0 ? g_strdup (DASH) : quality_number (s.speedup, 2, "×"));
      add_cell (table, bytes_text (s.peak));
      add_cell (table, i == 0 ? g_strdup (DASH) : percent_text (s.reduction));
      add_cell (table, psnr_text (s.psnr, s.equal > 0 && !isfinite (s.psnr)));
      add_cell (table, quality_number (s.ssim, 4, ""));
      add_cell (table, quality_number (s.ms_ssim, 4, ""));
      add_cell (table, quality_number (s.flip, 4, ""));
      add_cell (table, quality_number (s.lpips, 4, ""));
      add_cell (table, g_strdup_printf ("%u of %u", s.drawn, run->prompts->len));
    }
  return table;
}

static QualityTable *
memory_table (const QualityRun *run)
{
  static const char *const on_gpu[]
      = { "", "weights", "activations", "peak", "reduction", "by the driver", "reduction", NULL };
  static const char *const on_cpu[]
      = { "", "weights", "activations", "peak", "reduction", "resident memory", "reduction", NULL };
  QualityTable *table = table_new (
      "Memory",
      run->gpu
          ? "The first columns are the engine's own count: the most held at any moment, the arena "
            "of activations in it, and the rest, weights and scratch. The last columns "
            "are how much free memory the driver lost while the pictures were drawn."
          : "The first columns are the engine's own count: the most held at any moment, the arena "
            "of activations in it, and the rest, weights and scratch. The last columns "
            "are the resident memory of the whole process, which also holds the mapped files.",
      run->gpu ? on_gpu : on_cpu);

  for (guint i = 0; i < run->configurations->len; i++)
    {
      const QualityConfiguration *c = g_ptr_array_index (run->configurations, i);
      QualitySummary s = quality_summarise (run, c);

      add_cell (table, g_strdup (c->label));
      add_cell (table, bytes_text (s.weights));
      add_cell (table, bytes_text (s.activations));
      add_cell (table, bytes_text (s.peak));
      add_cell (table, i == 0 ? g_strdup (DASH) : percent_text (s.reduction));
      add_cell (table, bytes_text (s.system_peak));
      add_cell (table, i == 0 ? g_strdup (DASH) : percent_text (s.system_reduction));
    }
  return table;
}

static void
add_prompt (QualityTable *table, const QualityRun *run, const QualityConfiguration *c, guint p)
{
  const QualityConfiguration *baseline = g_ptr_array_index (run->configurations, 0);
  const QualityPrompt *prompt = g_ptr_array_index (run->prompts, p);
  const QualityRow *row = &c->rows[p], *base = &baseline->rows[p];

  add_cell (table, g_strdup (prompt->name));
  add_cell (table, g_strdup (c->label));
  add_cell (table, quality_number (base->done ? base->seconds : NAN, 2, " s"));
  add_cell (table, quality_number (row->done ? row->seconds : NAN, 2, " s"));
  if (row->compared)
    {
      add_cell (table, psnr_text (row->metrics.psnr, row->metrics.pixels_changed == 0));
      add_cell (table, quality_number (row->metrics.ssim, 4, ""));
      add_cell (table, quality_number (row->metrics.ms_ssim, 4, ""));
      add_cell (table, quality_number (row->metrics.flip, 4, ""));
      add_cell (table, quality_number (row->metrics.lpips, 4, ""));
    }
  else
    for (int i = 0; i < 5; i++)
      add_cell (table, g_strdup (DASH));
  if (row->error != NULL)
    add_cell (table, g_strdup_printf ("failed: %s", row->error));
  else if (base->error != NULL)
    add_cell (table, g_strdup_printf ("the baseline failed: %s", base->error));
  else
    add_cell (table, g_strdup (""));
}

static QualityTable *
prompt_table (const QualityRun *run)
{
  static const char *const header[]
      = { "prompt",  "compared", "baseline time", "time", "PSNR", "SSIM",
          "MS-SSIM", "FLIP",     "LPIPS",         "",     NULL };
  QualityTable *table = table_new ("Prompts", NULL, header);

  for (guint p = 0; p < run->prompts->len; p++)
    for (guint i = 1; i < run->configurations->len; i++)
      add_prompt (table, run, g_ptr_array_index (run->configurations, i), p);
  return table;
}

GPtrArray *
quality_tables (const QualityRun *run)
{
  GPtrArray *tables = g_ptr_array_new_with_free_func (table_free);

  g_ptr_array_add (tables, summary_table (run));
  g_ptr_array_add (tables, memory_table (run));
  g_ptr_array_add (tables, prompt_table (run));
  return tables;
}
