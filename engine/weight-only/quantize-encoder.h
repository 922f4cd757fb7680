/* SPDX-License-Identifier: Apache-2.0
 *
 * quantize-encoder.h - a dense text encoder as one in 8 or 4 bit
 *
 * One linear at a time: in memory are its weights and the scales of all, 1/32 of a byte a weight.
 * Codes are made from the scales while the file is written. What the encoder never uses is left
 * out; linears whose inputs are not whole groups of CODES_GROUP stay as they are.
 */
#pragma once

#include "engine/weight-only/rounding.h"

#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct
{
  const char *model;          /* folder with a dense text encoder */
  const char *out;            /* the file to write; the report is OUT.json and OUT.txt */
  int bits;                   /* 8 or 4 */
  const char *const *prompts; /* whose inputs weight the errors; NULL: weights alone decide */
} QuantizeEncoderJob;

/* `doing` names the linear, or what else is done; `left` is an estimate in seconds, below 0 while
 * there is none. */
typedef void (*QuantizeEncoderProgress) (double fraction, double left, const char *doing,
                                         gpointer user_data);

/* Writes the file and the report. Errors: ENGINE_ERROR_MODEL, _MEMORY, _REQUEST; G_FILE_ERROR_*;
 * G_IO_ERROR_CANCELLED. */
gboolean quantize_encoder (const QuantizeEncoderJob *job, QuantizeEncoderProgress progress,
                           gpointer user_data, GCancellable *cancellable, GError **error);

/* -- the report, for the tests too ------------------------------------------------------------ */

/* A linear: relative RMS error of its weights, and with each k weighted by its importance
 * (encode.h). */
typedef struct
{
  char *base; /* owned */
  gint64 n, k;
  double error, weighted;
} EncoderLine;

/* A prompt that nothing was learnt from: its embeddings against the dense encoder's, relative RMS
 * error, and the cosine of the angle between a token's two, mean and least. */
typedef struct
{
  const char *prompt; /* static */
  guint tokens;
  double error, cosine, least_cosine;
} EncoderPrompt;

typedef struct
{
  const QuantizeEncoderJob *job;
  GArray *lines;   /* EncoderLine, owned */
  GArray *prompts; /* EncoderPrompt, owned */
  RoundingError whole;
  guint64 bytes, dense_bytes; /* of the linears, in codes and scales, and before */
  double seconds;
} EncoderReport;

/* Compares embeddings [tokens, features] of float. */
EncoderPrompt
encoder_compare (const char *prompt, const GArray *dense, const GArray *quantised, int features);
gboolean encoder_write_report (const EncoderReport *report, GError **error);

G_END_DECLS
