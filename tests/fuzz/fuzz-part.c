/* SPDX-License-Identifier: Apache-2.0
 *
 * The journal of a download that was interrupted. Whatever it claims, what is there lies inside the
 * chunks, and the rest can be appended.
 */
#include "app/fetch/fetch-part.h"
#include "tests/fuzz/fuzz.h"

#include <glib/gstdio.h>
#include <string.h>

#define SIZE  100
#define CHUNK 16

/* The place of the boot's name in a journal, which no stored input can know. */
#define BOOT_AT     32
#define BOOT_LENGTH 48

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  static const char zeros[SIZE] = { 0 };
  g_autofree uint8_t *journal = g_memdup2 (data, size);
  g_autofree char *boot = NULL, *path = g_build_filename (fuzz_folder (), "f", NULL);
  g_autoptr (GError) error = NULL;
  g_autoptr (FetchPart) part = NULL;

  if (size > BOOT_AT + BOOT_LENGTH && data[BOOT_AT] == '=' /* this boot's */
      && g_file_get_contents ("/proc/sys/kernel/random/boot_id", &boot, NULL, NULL))
    {
      memset (journal + BOOT_AT, 0, BOOT_LENGTH);
      g_strlcpy ((char *)journal + BOOT_AT, g_strchomp (boot), BOOT_LENGTH);
    }
  fuzz_file ("f.part", zeros, SIZE);
  fuzz_file ("f.part.journal", journal, size);
  part = fetch_part_open (path, SIZE, CHUNK, "etag", &error);
  g_assert_no_error (error);
  for (guint i = 0; i < fetch_part_n_chunks (part); i++)
    {
      guint64 start;
      gsize length, done;

      fetch_part_get_chunk (part, i, &start, &length, &done);
      g_assert_cmpuint (start + length, <=, SIZE);
      g_assert_cmpuint (done, <=, length);
      g_assert_true (fetch_part_append (part, i, zeros, length - done, &error));
    }
  g_assert_cmpuint (fetch_part_done (part), ==, SIZE);
  return 0;
}
