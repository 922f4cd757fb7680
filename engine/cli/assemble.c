/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/cli.h"

#include "engine/checkpoint/assemble.h"

#include <stdio.h>

gboolean
cli_assemble (int argc, char **argv, GError **error)
{
  g_autofree char *out = NULL, *from = NULL, *transformer = NULL, *encoder = NULL, *vae = NULL;
  g_autofree char *tokenizer = NULL;
  double shift = 3.0;
  const GOptionEntry entries[] = {
    { "from", 0, 0, G_OPTION_ARG_FILENAME, &from, "Folder to search for what is not named", "DIR" },
    { "transformer", 0, 0, G_OPTION_ARG_FILENAME, &transformer, "Z-Image's transformer", "FILE" },
    { "text-encoder", 0, 0, G_OPTION_ARG_FILENAME, &encoder, "Qwen3-4B", "FILE" },
    { "vae", 0, 0, G_OPTION_ARG_FILENAME, &vae, "FLUX's VAE", "FILE" },
    { "tokenizer", 0, 0, G_OPTION_ARG_FILENAME, &tokenizer,
      "Folder with tokenizer.json, or vocab.json and merges.txt", "DIR" },
    { "shift", 0, 0, G_OPTION_ARG_DOUBLE, &shift, "3 for Z-Image-Turbo (default), 6 for Z-Image",
      "NUMBER" },
    { "output", 'o', 0, G_OPTION_ARG_FILENAME, &out, "The folder to make", "DIR" },
    { NULL },
  };
  AssembleJob job;

  if (!cli_parse (argc, argv,
                  "Makes a model folder of files that another program keeps, such as ComfyUI, by "
                  "links to them: nothing large is copied, and the files have to stay.",
                  entries, NULL, NULL, error))
    return FALSE;
  if (out == NULL)
    return cli_usage_error (error, "-o DIR is missing: which folder to make");
  if (!(shift >= 0.01 && shift <= 100.0))
    return cli_usage_error (error, "--shift is not between 0.01 and 100");
  job = (AssembleJob){ .from = from,
                       .files = { [CHECKPOINT_TRANSFORMER] = transformer,
                                  [CHECKPOINT_TEXT_ENCODER] = encoder,
                                  [CHECKPOINT_VAE] = vae },
                       .tokenizer = tokenizer,
                       .shift = shift };
  if (!assemble_model (&job, out, error))
    return FALSE;
  printf ("%s\n", out);
  return TRUE;
}
