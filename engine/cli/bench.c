/* SPDX-License-Identifier: Apache-2.0
 *
 * tessera-cli bench: what is measured is a word of its own
 */
#include "engine/cli/cli.h"

static const struct
{
  const char *name;
  CliCommand run;
} kinds[] = {
  { "speed", cli_bench_speed },
  { "quality", cli_bench_quality },
};

gboolean
cli_bench (int argc, char **argv, GError **error)
{
  GString *names = g_string_new (NULL);
  g_autofree char *list = NULL;

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
