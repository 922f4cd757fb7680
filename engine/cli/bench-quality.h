/* SPDX-License-Identifier: Apache-2.0
 *
 * bench-quality.h - what 4 bits cost and gain: the parts of tessera-cli bench quality
 *
 * A run draws every prompt with every configuration into a folder:
 *   run.json               what was asked; a run goes on only in a folder that asks the same
 *   CONFIGURATION/003.png  the third prompt's picture
 *   CONFIGURATION/003.json its seconds and memory, or the error; written last, so it marks what is
 *                          done
 *   report.json, report.md, report.html
 * Pictures are compared when the report is written, from the folder alone. So a run that was killed
 * and taken up again ends in the same report as one that was not.
 */
#pragma once

#include "engine/cli/cli.h"
#include "engine/engine.h"
#include "engine/metrics/metrics.h"

G_BEGIN_DECLS

/* Prompts and configurations of a run are few; a file that asks for more is a mistake. */
#define QUALITY_MAX_PROMPTS        1000
#define QUALITY_MAX_CONFIGURATIONS 16

typedef struct
{
  char *name, *text; /* owned */
} QualityPrompt;

/* One picture. All bytes are of the device that computes; 0 = not known. */
typedef struct
{
  gboolean done;
  char *error;         /* owned; why there is no picture, or NULL */
  double seconds;      /* from prompt to pixels, without loading the model */
  double load_seconds; /* 0 when the model was there already */
  double step_seconds; /* mean of the steps after the first */
  guint64 peak;        /* the most held at once, by our own accounting */
  guint64 activations; /* the arena of the largest phase */
  guint64 weights;     /* the rest of the peak: weights and the kernels' scratch */
  guint64 system_peak; /* the most at once, by the driver; resident memory for the CPU */
  gboolean compared;
  Metrics metrics; /* against the baseline's picture of the same prompt */
} QualityRow;

typedef struct
{
  char *label;        /* owned; "BF16", "SVDQuant INT4 (file)": what really runs */
  char *folder;       /* owned; inside the run's folder */
  char *model;        /* owned */
  char *transformer;  /* owned; NULL = the model's own */
  char *text_encoder; /* owned; NULL = the model's own */
  EnginePrecision precision;
  QualityRow *rows; /* (owned) one for each prompt */
} QualityConfiguration;

typedef struct
{
  char *folder;              /* owned */
  GPtrArray *prompts;        /* QualityPrompt */
  GPtrArray *configurations; /* QualityConfiguration; the first is the baseline */
  EngineRequest request;     /* size, steps, seed; prompt and precision are set for each picture */
  char *device;              /* owned; as asked for, "auto" if not */
  char *device_name;         /* owned; as found */
  gboolean gpu;
  guint64 memory_budget;
  const char *lpips;        /* borrowed; file of LPIPS' weights, or NULL */
  gboolean lpips_published; /* its linear layers are v0.1 */
} QualityRun;

void quality_run_clear (QualityRun *self);

/* -- bench-quality-records.c: the folder ---------------------------------------------------------
 */

/* Reads prompts, one a line, "[name] text" or "text"; empty lines and those that begin with # are
 * left out. Errors: G_FILE_ERROR_*, ENGINE_ERROR_REQUEST naming the line. */
GPtrArray *quality_prompts_load (const char *path, GError **error);
/* What `transformer`, or the transformer in folder `model`, is: "BF16", "SVDQuant INT4" (transfer
 * full). Errors: as inspection_new. */
char *quality_precision_of (const char *model, const char *transformer, GError **error);

/* Makes the folder, or finds the same run begun in it and reads its rows. Errors: G_FILE_ERROR_*,
 * ENGINE_ERROR_REQUEST if the folder holds another run. */
gboolean quality_run_open (QualityRun *self, GError **error);
/* Writes row `prompt` as done, after its picture (NULL for a row that failed). */
gboolean quality_row_save (const QualityRun *self, const QualityConfiguration *configuration,
                           guint prompt, Image *picture, GError **error);
/* "FOLDER/CONFIGURATION/003.png" (transfer full). */
char *quality_row_path (const QualityRun *self, const QualityConfiguration *configuration,
                        guint prompt, const char *suffix);
/* Writes text as a file of the run's folder. */
gboolean
quality_write_text (const QualityRun *self, const char *name, const char *text, GError **error);

/* -- bench-quality-summary.c: figures ------------------------------------------------------------
 */

/* Means over the pictures a configuration has; NAN where there is nothing to take a mean of. */
typedef struct
{
  guint drawn, failed, equal; /* equal: pictures that are the baseline's, bit for bit */
  double seconds, load_seconds, step_seconds;
  double speedup;                                  /* over prompts that both have */
  guint64 weights, activations, peak, system_peak; /* the largest of all rows */
  double reduction, system_reduction;              /* of the peaks, 0.25 = a quarter less */
  double psnr;                                     /* of pictures that differ */
  double ssim, ms_ssim, flip, lpips;
} QualitySummary;

QualitySummary quality_summarise (const QualityRun *run, const QualityConfiguration *configuration);

/* Tables of text, for Markdown and HTML alike. */
typedef struct
{
  const char *title;
  const char *note; /* NULL = none */
  guint columns;
  GPtrArray *cells; /* char *, row after row, the header first */
} QualityTable;

/* Summary, memory, prompts (transfer full). */
GPtrArray *quality_tables (const QualityRun *run);
/* The lines that say what was run, on what (transfer full). */
char *quality_banner (const QualityRun *run);
/* "0.1234", or a dash for what is not finite (transfer full). */
char *quality_number (double value, int decimals, const char *unit);

/* -- the reports ---------------------------------------------------------------------------------
 */

/* bench-quality-report.c: compares what can be compared, then writes the three files. `progress`:
 * on standard error. Errors: G_FILE_ERROR_*, G_IO_ERROR_CANCELLED. */
gboolean quality_report (QualityRun *run, MetricsLpips *lpips, gboolean progress,
                         GCancellable *cancellable, GError **error);
/* bench-quality-html.c (transfer full). Pictures are inside the page if they are not too many. */
char *quality_html (const QualityRun *run);

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (QualityRun, quality_run_clear)

G_END_DECLS
