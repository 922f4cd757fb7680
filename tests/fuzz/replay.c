/* SPDX-License-Identifier: Apache-2.0
 *
 * replay.c - stored inputs through a fuzz target, without libFuzzer
 *
 * replay FOLDER...: every file as it is, then a fixed number of mutants of each: bytes changed,
 * removed, repeated, and cut off. The same ones in every run.
 */
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

#define MUTANTS   150
#define MAX_EDITS 6

static void
run (const GByteArray *input)
{
  /* An exact copy on the heap: reading beyond it shows under AddressSanitizer. */
  g_autofree guint8 *copy = g_memdup2 (input->data, input->len);

  LLVMFuzzerTestOneInput (copy != NULL ? copy : (const guint8 *)"", input->len);
}

static void
mutate (GRand *rand, GByteArray *input)
{
  static const guint8 telling[] = { 0, 1, 0x7f, 0x80, 0xff, '"', '{', '[', '9', '-', '\\', ',' };
  int edits = g_rand_int_range (rand, 1, MAX_EDITS + 1);

  while (edits-- > 0 && input->len > 0)
    {
      guint at = (guint)g_rand_int_range (rand, 0, (gint32)input->len);
      guint length = (guint)g_rand_int_range (rand, 1, 9);
      guint n = MIN (input->len - at, length);
      guint8 piece[8];

      switch (g_rand_int_range (rand, 0, 5))
        {
        case 0:
          input->data[at] = (guint8)g_rand_int_range (rand, 0, 256);
          break;
        case 1:
          input->data[at] = telling[g_rand_int_range (rand, 0, G_N_ELEMENTS (telling))];
          break;
        case 2:
          g_byte_array_remove_range (input, at, n);
          break;
        case 3:
          for (guint i = 0; i < n; i++)
            piece[i] = input->data[at + i];
          g_byte_array_append (input, piece, n);
          break;
        default:
          if (edits == 0)
            g_byte_array_set_size (input, at);
        }
    }
}

static guint
replay_folder (const char *folder)
{
  g_autoptr (GDir) listing = g_dir_open (folder, 0, NULL);
  const char *name;
  guint n = 0;

  while (listing != NULL && (name = g_dir_read_name (listing)) != NULL)
    {
      g_autofree char *path = g_build_filename (folder, name, NULL);
      g_autofree char *contents = NULL;
      g_autoptr (GRand) rand = g_rand_new_with_seed (g_str_hash (name));
      gsize length;

      if (!g_file_get_contents (path, &contents, &length, NULL))
        continue;
      for (int i = 0; i <= MUTANTS; i++)
        {
          g_autoptr (GByteArray) input = g_byte_array_new ();

          g_byte_array_append (input, (const guint8 *)contents, (guint)length);
          if (i > 0)
            mutate (rand, input);
          run (input);
        }
      n++;
    }
  return n;
}

int
main (int argc, char **argv)
{
  guint n = 0;

  for (int i = 1; i < argc; i++)
    n += replay_folder (argv[i]);
  g_print ("%u inputs and %d mutants of each\n", n, MUTANTS);
  return n > 0 ? EXIT_SUCCESS : EXIT_FAILURE; /* an empty corpus tests nothing */
}
