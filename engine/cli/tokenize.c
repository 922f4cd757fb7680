/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/cli.h"

#include "engine/tokenizer/tokenizer.h"

#include <stdio.h>

gboolean
cli_tokenize (int argc, char **argv, GError **error)
{
  g_autofree char *dir = NULL;
  g_autofree char *prompt = NULL;
  gboolean json = FALSE;
  const GOptionEntry entries[] = {
    { "tokenizer", 0, 0, G_OPTION_ARG_FILENAME, &dir,
      "Folder that holds tokenizer.json, or vocab.json and merges.txt", "DIR" },
    { "prompt", 0, 0, G_OPTION_ARG_FILENAME, &prompt, "The prompt", "TEXT" },
    { "json", 0, 0, G_OPTION_ARG_NONE, &json, "Print JSON (the only form there is)", NULL },
    { NULL },
  };
  g_autoptr (Tokenizer) tokenizer = NULL;
  g_autoptr (GArray) ids = NULL;

  if (!cli_parse (argc, argv, "Prints the token ids of a prompt in its chat template, as JSON.",
                  entries, NULL, NULL, error))
    return FALSE;
  if (dir == NULL || prompt == NULL)
    {
      g_set_error (error, G_OPTION_ERROR, G_OPTION_ERROR_FAILED, "%s is missing",
                   dir == NULL ? "--tokenizer DIR" : "--prompt TEXT");
      return FALSE;
    }
  tokenizer = tokenizer_new (dir, error);
  if (tokenizer == NULL)
    return FALSE;
  ids = tokenizer_encode_prompt (tokenizer, prompt, TOKENIZER_MAX_PROMPT);
  fputs ("{\"ids\": [", stdout);
  for (guint i = 0; i < ids->len; i++)
    printf ("%s%" G_GINT64_FORMAT, i > 0 ? ", " : "", g_array_index (ids, gint64, i));
  puts ("]}");
  return TRUE;
}
