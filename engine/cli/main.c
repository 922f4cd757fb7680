/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/cli.h"

#include "engine/engine.h"
#include "engine/files/json.h"

#include <locale.h>
#include <stdio.h>
#include <string.h>

static const struct
{
  const char *name;
  CliCommand run;
  const char *summary;
} commands[] = {
  { "generate", cli_generate, "draw a picture from a prompt" },
  { "inspect", cli_inspect, "say what a file or a model folder is, and what it lacks" },
  { "compare", cli_compare, "say how much two pictures differ" },
  { "tokenize", cli_tokenize, "print the token ids of a prompt" },
  { "bench", cli_bench, "measure speed, or what precision costs and gains" },
  { "assemble", cli_assemble, "make a model folder of files that ComfyUI has, by links" },
  { "convert", cli_convert, "rewrite a published SVDQuant file in this program's order" },
  { "quantize", cli_quantize, "make SVDQuant weights from BF16 ones" },
  { "plan", cli_plan, "say what a picture takes of memory and time" },
  { "devices", cli_devices, "list what can compute on this machine" },
  { "doctor", cli_doctor, "say what is wrong with this machine, and what mends it" },
};

gboolean
cli_parse (int argc, char **argv, const char *summary, const GOptionEntry *entries,
           const char *positional, const char **rest, GError **error)
{
  g_autoptr (GOptionContext) context = g_option_context_new (positional);
  g_autofree char *program = g_strconcat ("tessera-cli ", argv[0], NULL);

  g_set_prgname (program);
  g_option_context_set_summary (context, summary);
  g_option_context_add_main_entries (context, entries, NULL);
  if (!g_option_context_parse (context, &argc, &argv, error))
    return FALSE;
  if (argc > 1 && strcmp (argv[1], "--") == 0)
    {
      argc--;
      argv++;
    }
  if (argc > (positional != NULL ? 2 : 1))
    g_set_error (error, G_OPTION_ERROR, G_OPTION_ERROR_FAILED,
                 "unexpected argument %s (a text of several words needs quotes)",
                 argv[positional != NULL ? 2 : 1]);
  else if (positional != NULL && argc < 2)
    g_set_error (error, G_OPTION_ERROR, G_OPTION_ERROR_FAILED, "%s is missing", positional);
  else
    {
      if (positional != NULL)
        *rest = argv[1];
      return TRUE;
    }
  return FALSE;
}

void
cli_print_json (const cJSON *json)
{
  g_autofree char *text = json_print (json, FALSE);

  puts (text != NULL ? text : "null");
}

char *
cli_format_count (guint64 n)
{
  g_autofree char *digits = g_strdup_printf ("%" G_GUINT64_FORMAT, n);
  GString *text = g_string_new (NULL);
  gsize length = strlen (digits);

  for (gsize i = 0; i < length; i++)
    {
      if (i > 0 && (length - i) % 3 == 0)
        g_string_append_c (text, ',');
      g_string_append_c (text, digits[i]);
    }
  return g_string_free (text, FALSE);
}

char *
cli_format_bytes (guint64 bytes)
{
  static const char *const units[] = { "kB", "MB", "GB", "TB" };
  double value = (double)bytes / 1000;
  guint unit = 0;

  if (bytes < 1000)
    return g_strdup_printf ("%u bytes", (guint)bytes);
  for (; value >= 999.95 && unit + 1 < G_N_ELEMENTS (units); unit++)
    value /= 1000;
  return g_strdup_printf ("%.1f %s", value, units[unit]);
}

static void
print_help (void)
{
  puts ("Usage:\n  tessera-cli COMMAND [OPTION…]\n\nPictures from text, on this computer.\n\n"
        "Commands:");
  for (guint i = 0; i < G_N_ELEMENTS (commands); i++)
    printf ("  %-10s %s\n", commands[i].name, commands[i].summary);
  puts ("\nEach command answers --help; tessera-cli --version says which version this is.\n"
        "Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.");
}

static CliStatus
status_of (const GError *error)
{
  if (g_error_matches (error, G_IO_ERROR, G_IO_ERROR_CANCELLED))
    return CLI_INTERRUPTED;
  if (error->domain == G_OPTION_ERROR
      || g_error_matches (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST))
    return CLI_USAGE;
  return CLI_FAILED;
}

/* One line, whatever a file name holds. */
static void
print_error (const GError *error)
{
  g_autofree char *line = g_strdup (error->message);

  fprintf (stderr, "tessera-cli: error: %s\n", g_strdelimit (line, "\r\n", ' '));
}

static gboolean
run (int argc, char **argv, GError **error)
{
  const char *name = argc > 1 ? argv[1] : NULL;

  if (name == NULL)
    g_set_error (error, G_OPTION_ERROR, G_OPTION_ERROR_FAILED,
                 "no command given; tessera-cli --help lists them");
  else if (strcmp (name, "--help") == 0 || strcmp (name, "-h") == 0 || strcmp (name, "help") == 0)
    {
      print_help ();
      return TRUE;
    }
  else if (strcmp (name, "--version") == 0)
    {
      puts ("tessera-cli " TESSERA_VERSION);
      return TRUE;
    }
  else
    {
      for (guint i = 0; i < G_N_ELEMENTS (commands); i++)
        if (strcmp (name, commands[i].name) == 0)
          return commands[i].run (argc - 1, argv + 1, error);
      g_set_error (error, G_OPTION_ERROR, G_OPTION_ERROR_FAILED,
                   "no command %s; tessera-cli --help lists them", name);
    }
  return FALSE;
}

int
main (int argc, char **argv)
{
  g_autoptr (GError) error = NULL;

  engine_init_process (argv);
  setlocale (LC_CTYPE, ""); /* not LC_NUMERIC: numbers are for machines too */
  run (argc, argv, &error);
  if (error == NULL && (fflush (stdout) != 0 || ferror (stdout)))
    g_set_error (&error, G_FILE_ERROR, G_FILE_ERROR_IO, "standard output cannot be written");
  if (error == NULL)
    return CLI_OK;
  fflush (stdout);
  print_error (error);
  return status_of (error);
}
