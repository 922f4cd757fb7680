/* SPDX-License-Identifier: Apache-2.0
 *
 * cli.h - tessera-cli, one file for each command
 *
 * A command writes its result to standard output and returns CLI_OK, or sets an error and returns
 * anything; main prints the error as one line and turns it into the exit status.
 */
#pragma once

#include "engine/engine.h"

#include <cjson/cJSON.h>
#include <gio/gio.h>

G_BEGIN_DECLS

typedef enum
{
  CLI_OK = 0,
  CLI_FAILED = 1,
  CLI_USAGE = 2,         /* G_OPTION_ERROR_* and ENGINE_ERROR_REQUEST */
  CLI_INTERRUPTED = 130, /* G_IO_ERROR_CANCELLED */
} CliStatus;

/* argv[0] is the command's name. */
typedef gboolean (*CliCommand) (int argc, char **argv, GError **error);

gboolean cli_generate (int argc, char **argv, GError **error);
gboolean cli_compare (int argc, char **argv, GError **error);
gboolean cli_inspect (int argc, char **argv, GError **error);
gboolean cli_tokenize (int argc, char **argv, GError **error);
gboolean cli_assemble (int argc, char **argv, GError **error);
gboolean cli_convert (int argc, char **argv, GError **error);
gboolean cli_quantize (int argc, char **argv, GError **error);
gboolean cli_plan (int argc, char **argv, GError **error);
gboolean cli_devices (int argc, char **argv, GError **error);
gboolean cli_doctor (int argc, char **argv, GError **error);
gboolean cli_bench (int argc, char **argv, GError **error);
gboolean cli_bench_quality (int argc, char **argv, GError **error);
gboolean cli_bench_speed (int argc, char **argv, GError **error);

/* Parses `entries` and answers --help. `positional` names what follows the options ("PATH", or
 * NULL for nothing) and *rest gets it, which must then be there. Text options should be
 * G_OPTION_ARG_FILENAME, which takes bytes as they are in any locale. */
gboolean cli_parse (int argc, char **argv, const char *summary, const GOptionEntry *entries,
                    const char *positional, const char **rest, GError **error);

/* G_OPTION_ERROR_BAD_VALUE; returns FALSE. */
gboolean cli_usage_error (GError **error, const char *format, ...) G_GNUC_PRINTF (2, 3);

#define CLI_TEXT_ENCODER_HELP                                                                      \
  "Text encoder to use instead of the folder's own, such as one in 8 bit"
#define CLI_PRECISION_HELP                                                                         \
  "bf16, svdquant, int4 or nvfp4 (default: what --transformer is, or else bf16)"
#define CLI_DEVICE_HELP  "auto (default), cpu, cuda or cuda:N"
#define CLI_OFFLOAD_HELP "Weights the device cannot hold: auto (default), none, model or stream"
#define CLI_ARITHMETIC_HELP                                                                        \
  "4-bit files: fast (default), or exact where the device has a faster one than the file's own"

/* Values of options that several commands take; NULL text changes nothing. "1024x768"; one of
 * `names` (NULL-terminated) as its index; "bf16", "svdquant", or unless svdquant_type is NULL,
 * "int4" or "nvfp4", which go there (static string); "fast" or "exact"; "16GiB". */
gboolean cli_parse_size (const char *text, EngineRequest *r, GError **error);
gboolean cli_parse_choice (const char *option, const char *text, const char *const *names, int *out,
                           GError **error);
gboolean cli_parse_precision (const char *text, EngineRequest *r, const char **svdquant_type,
                              GError **error);
/* Refuses the name of a picture that is not a PNG; NULL is fine. */
gboolean cli_check_png_name (const char *option, const char *path, GError **error);
/* Unless `told` names a precision: SVDQuant, if that is what the file `transformer` is (NULL for
 * none) or all that this model and device can run. */
void
cli_choose_precision (Engine *engine, const char *told, const char *transformer, EngineRequest *r);
/* "FILE" or "FILE:STRENGTH", NULL-terminated. The request points into `loras` (EngineLora), which
 * point into *files, a vector to be freed with g_strfreev. A file that is there gets its absolute
 * path; other names are the engine's to look for. */
gboolean
cli_parse_loras (char **texts, EngineRequest *r, GArray *loras, char ***files, GError **error);
gboolean cli_parse_arithmetic (const char *text, gboolean *exact, GError **error);
gboolean cli_parse_bytes (const char *text, guint64 *out, GError **error);
/* "auto", "none", "model" or "stream". */
gboolean cli_parse_offload (const char *text, EngineOffload *out, GError **error);

/* While one exists, SIGINT and SIGTERM cancel its cancellable (borrowed) instead of ending the
 * program. */
typedef struct _CliInterrupt CliInterrupt;
CliInterrupt *cli_interrupt_new (void);
GCancellable *cli_interrupt_cancellable (CliInterrupt *self);
void cli_interrupt_free (CliInterrupt *self);

/* Prints a JSON value and a newline on standard output. */
void cli_print_json (const cJSON *json);
/* "1,234,567", and "24.6 GB" (transfer full). */
char *cli_format_count (guint64 n);
char *cli_format_bytes (guint64 bytes);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (CliInterrupt, cli_interrupt_free)

G_END_DECLS
