/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/cli.h"

#include "engine/svdquant/convert.h"

#include <stdio.h>
#include <unistd.h>

/* One line on a terminal, whole per cents only. */
static void
show_progress (double fraction, gpointer user_data)
{
  int *shown = user_data;
  int percent = (int)(fraction * 100);

  if (percent == *shown || !isatty (STDERR_FILENO))
    return;
  *shown = percent;
  fprintf (stderr, "\r%3d %%%s", percent, percent == 100 ? "\n" : "");
}

gboolean
cli_convert (int argc, char **argv, GError **error)
{
  g_autofree char *out = NULL;
  const GOptionEntry entries[] = {
    { "output", 'o', 0, G_OPTION_ARG_FILENAME, &out, "The file to write", "FILE" },
    { NULL },
  };
  g_autoptr (CliInterrupt) interrupt = NULL;
  const char *in;
  gboolean good;
  int shown = -1;

  if (!cli_parse (argc, argv,
                  "Rewrites an SVDQuant transformer of any published format in this program's own "
                  "order of numbers, which loads fastest and needs no copy. No number changes.",
                  entries, "PATH", &in, error))
    return FALSE;
  if (out == NULL)
    {
      g_set_error (error, G_OPTION_ERROR, G_OPTION_ERROR_FAILED,
                   "-o FILE is missing: where to write");
      return FALSE;
    }
  interrupt = cli_interrupt_new ();
  good
      = svdq_convert (in, out, show_progress, &shown, cli_interrupt_cancellable (interrupt), error);
  if (good)
    printf ("%s\n", out);
  return good;
}
