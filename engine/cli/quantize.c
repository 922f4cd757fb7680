/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/cli.h"

#include "engine/files/atomic-file.h"
#include "engine/svdquant/quantize.h"
#include "engine/weight-only/quantize-encoder.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_RANK  32
#define DEFAULT_STEPS 8
#define DEFAULT_SIZE  512
#define DEFAULT_ROWS  2048

typedef struct
{
  char *model, *out, *precision, *prompts, *part; /* owned */
  int rank, feed_forward_rank, level, steps, size, rows, bits;
} Options;

static void
options_clear (Options *o)
{
  g_free (o->model);
  g_free (o->out);
  g_free (o->precision);
  g_free (o->prompts);
  g_free (o->part);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Options, options_clear)

static gboolean
parse_options (int argc, char **argv, Options *o, GError **error)
{
  const GOptionEntry entries[] = {
    { "model", 'm', 0, G_OPTION_ARG_FILENAME, &o->model, "Folder of the BF16 model", "DIR" },
    { "output", 'o', 0, G_OPTION_ARG_FILENAME, &o->out,
      "The file to write; a report goes to FILE.txt and FILE.json", "FILE" },
    { "part", 0, 0, G_OPTION_ARG_FILENAME, &o->part,
      "transformer (default), as SVDQuant; or text-encoder, its weights alone in --bits", "NAME" },
    { "bits", 0, 0, G_OPTION_ARG_INT, &o->bits, "Of the text encoder's weights: 8 (default) or 4",
      "N" },
    { "precision", 0, 0, G_OPTION_ARG_FILENAME, &o->precision, "int4 (default) or nvfp4", "NAME" },
    { "rank", 'r', 0, G_OPTION_ARG_INT, &o->rank,
      "Rank of the 16-bit branch, a multiple of 16 (default: 32)", "R" },
    { "feed-forward-rank", 0, 0, G_OPTION_ARG_INT, &o->feed_forward_rank,
      "Another rank for the feed-forward's linears, which are less sensitive", "R" },
    { "level", 0, 0, G_OPTION_ARG_INT, &o->level,
      "0: from the weights alone; 1: calibrated on pictures; 2 (default): and GPTQ; the text "
      "encoder: on prompts, from 1 up",
      "N" },
    { "prompts", 0, 0, G_OPTION_ARG_FILENAME, &o->prompts,
      "Prompts to calibrate on, one a line (default: eight of our own)", "FILE" },
    { "steps", 0, 0, G_OPTION_ARG_INT, &o->steps, "Steps of each such picture (default: 8)", "N" },
    { "size", 0, 0, G_OPTION_ARG_INT, &o->size,
      "Its sides in pixels, a multiple of 16 (default: 512)", "N" },
    { "rows", 0, 0, G_OPTION_ARG_INT, &o->rows, "Inputs kept of each linear (default: 2048)", "N" },
    G_OPTION_ENTRY_NULL,
  };

  if (!cli_parse (argc, argv,
                  "Makes SVDQuant weights from a BF16 model, on the CPU, one linear at a time.\n"
                  "Interrupted, it goes on where it was when started again. Of the text encoder it "
                  "makes\none of 8 or 4 bit, in minutes.",
                  entries, NULL, NULL, error))
    return FALSE;
  if (o->model == NULL || o->out == NULL)
    return cli_usage_error (error,
                            "--model DIR and -o FILE are needed: what to read, and where to write");
  if (o->level < 0 || o->level > 2)
    return cli_usage_error (error, "--level is %d; it must be 0, 1 or 2", o->level);
  if (o->steps < 1 || o->steps > 100 || o->size < 32 || o->size > 2048 || o->rows < 64
      || o->rows > 1000000)
    return cli_usage_error (error, "--steps must be 1 to 100, --size 32 to 2048, --rows 64 to "
                                   "1000000");
  return TRUE;
}

/* Lines of the file that are not empty (transfer full: g_strfreev). */
static char **
read_prompts (const char *path, GError **error)
{
  g_autofree char *text = NULL;
  g_auto (GStrv) lines = NULL;
  g_autoptr (GStrvBuilder) prompts = g_strv_builder_new ();
  guint count = 0;

  if (!g_file_get_contents (path, &text, NULL, error))
    return NULL;
  if (!g_utf8_validate (text, -1, NULL))
    {
      cli_usage_error (error, "%s: not UTF-8 text", path);
      return NULL;
    }
  lines = g_strsplit (text, "\n", -1);
  for (guint i = 0; lines[i] != NULL; i++)
    if (*g_strstrip (lines[i]) != '\0' && ++count)
      g_strv_builder_add (prompts, lines[i]);
  if (count > 0)
    return g_strv_builder_end (prompts);
  cli_usage_error (error, "%s: no prompt in it", path);
  return NULL;
}

static void
show_progress (double fraction, double left, const char *doing, gpointer user_data)
{
  if (!isatty (STDERR_FILENO))
    return;
  fprintf (stderr, "\r\033[K%3d %% %s", (int)(fraction * 100), doing);
  if (left >= 0.0)
    fprintf (stderr, ", about %d min left", (int)(left / 60.0) + 1);
}

static gboolean
quantize_text_encoder (const Options *o, const char *const *prompts, GCancellable *cancellable,
                       GError **error)
{
  const QuantizeEncoderJob job = {
    .model = o->model,
    .out = o->out,
    .bits = o->bits,
    .prompts = o->level == QUANTIZE_DATA_FREE ? NULL : prompts,
  };

  if (o->bits != 8 && o->bits != 4)
    return cli_usage_error (error, "--bits is %d; it must be 8 or 4", o->bits);
  return quantize_encoder (&job, show_progress, NULL, cancellable, error);
}

gboolean
cli_quantize (int argc, char **argv, GError **error)
{
  static const char *const precisions[] = { "int4", "nvfp4", NULL };
  static const char *const parts[] = { "transformer", "text-encoder", NULL };
  g_auto (Options) o = { .rank = DEFAULT_RANK,
                         .bits = 8,
                         .level = QUANTIZE_GPTQ,
                         .steps = DEFAULT_STEPS,
                         .size = DEFAULT_SIZE,
                         .rows = DEFAULT_ROWS };
  g_auto (GStrv) prompts = NULL;
  const char *const *learnt;
  int format = SVDQ_INT4, part = 0;
  g_autoptr (CliInterrupt) interrupt = NULL;
  QuantizeJob job;
  gboolean good;

  if (!parse_options (argc, argv, &o, error)
      || !cli_parse_choice ("--precision", o.precision, precisions, &format, error)
      || !cli_parse_choice ("--part", o.part, parts, &part, error))
    return FALSE;
  /* Before hours of work, not after them. */
  if (!atomic_file_check (o.out, error))
    return FALSE;
  if (o.prompts != NULL && (prompts = read_prompts (o.prompts, error)) == NULL)
    return FALSE;
  learnt = prompts != NULL ? (const char *const *)prompts : quantize_default_prompts ();
  job = (QuantizeJob){
    .model = o.model,
    .out = o.out,
    .settings = { (SvdqFormat)format, o.rank, (QuantizeLevel)o.level },
    .feed_forward_rank = o.feed_forward_rank,
    .plan = { learnt, o.steps, o.size, o.rows },
  };
  interrupt = cli_interrupt_new ();
  if (part == 1)
    good = quantize_text_encoder (&o, learnt, cli_interrupt_cancellable (interrupt), error);
  else
    good = quantize_model (&job, show_progress, NULL, cli_interrupt_cancellable (interrupt), error);
  if (isatty (STDERR_FILENO))
    fprintf (stderr, "\r\033[K");
  if (good)
    printf ("%s\n", o.out);
  return good;
}
