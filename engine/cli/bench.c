/* SPDX-License-Identifier: Apache-2.0
 *
 * tessera-cli bench: what is measured is a word of its own
 */
#include "engine/cli/cli.h"

static const struct
{
  const char *name;
  CliCommand run;
  const char *summary;
} kinds[] = {
  { "speed", cli_bench_speed, "how long a picture takes, phase by phase" },
  { "quality", cli_bench_quality, "what each precision costs and gains, over many prompts" },
};

static gboolean
print_help (void)
{
  g_print ("Usage:\n  tessera-cli bench KIND [OPTION…]\n\nMeasures this computer.\n\nKinds:\n");
  for (guint i = 0; i < G_N_ELEMENTS (kinds); i++)
    g_print ("  %-10s %s\n", kinds[i].name, kinds[i].summary);
  g_print ("\nEach kind answers --help.\n");
  return TRUE;
}

gboolean
cli_bench (int argc, char **argv, GError **error)
{
  GString *names;
  g_autofree char *list = NULL;

  if (argc > 1 && (g_str_equal (argv[1], "--help") || g_str_equal (argv[1], "-h")))
    return print_help ();
  names = g_string_new (NULL);
  for (guint i = 0; i < G_N_ELEMENTS (kinds); i++)
    {
      if (argc > 1 && g_str_equal (argv[1], kinds[i].name))
        {
          g_autofree char *command = g_strconcat ("bench ", kinds[i].name, NULL);

          g_string_free (names, TRUE);
          argv[1] = command; /* as the help calls it */
          return kinds[i].run (argc - 1, argv + 1, error);
        }
      g_string_append_printf (names, "%s%s", i > 0 ? " or " : "", kinds[i].name);
    }
  list = g_string_free (names, FALSE);
  return cli_usage_error (error, "bench what? It can be %s", list);
}
