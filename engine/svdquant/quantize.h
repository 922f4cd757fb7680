/* SPDX-License-Identifier: Apache-2.0
 *
 * quantize.h - a dense transformer as a canonical SVDQuant file
 *
 * One linear at a time, so memory is that of the largest. Each finished linear lies in a folder
 * beside the result, OUT.parts; begun again with the same settings, the work goes on from there.
 * The folder is removed when the result is written.
 */
#pragma once

#include "engine/svdquant/calibrate.h"
#include "engine/svdquant/quantize-linear.h"

G_BEGIN_DECLS

typedef struct
{
  const char *model; /* folder with dense weights */
  const char *out;   /* the file to write; the report is OUT.json and OUT.txt */
  QuantizeSettings settings;
  int feed_forward_rank; /* of w13 and w2; 0 = settings.rank */
  CalibratePlan plan;    /* levels 1 and 2; without `weights` */
} QuantizeJob;

/* `doing` names the linear, or what else is done; `left` is an estimate in seconds, below 0 while
 * there is none. */
typedef void (*QuantizeProgress) (double fraction, double left, const char *doing,
                                  gpointer user_data);

/* Errors: ENGINE_ERROR_MODEL, _MEMORY, _REQUEST for settings that cannot be; G_FILE_ERROR_*;
 * G_IO_ERROR_CANCELLED. */
gboolean quantize_model (const QuantizeJob *job, QuantizeProgress progress, gpointer user_data,
                         GCancellable *cancellable, GError **error);

/* The prompts that calibrate where none are given; NULL-terminated. */
const char *const *quantize_default_prompts (void);

/* -- the report, for the tests too ------------------------------------------------------------ */

typedef struct
{
  char *base; /* owned */
  int64_t n, k;
  int rank, refinements;
  double alpha, beta, seconds;
  QuantizeError plain, smoothed, refined, final;
} QuantizeLine;

/* What a part's metadata says of the linear; `line` is cleared by the array that holds it. */
char *quantize_line_to_json (const QuantizeLine *line); /* (transfer full) */
gboolean quantize_line_from_json (const char *text, QuantizeLine *line, GError **error);
void quantize_line_clear (QuantizeLine *line);

/* Writes OUT.json and OUT.txt from `lines` (QuantizeLine). */
gboolean quantize_write_report (const QuantizeJob *job, GArray *lines, GError **error);

G_END_DECLS
