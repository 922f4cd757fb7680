/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/fuzz/fuzz.h"

#include <gio/gio.h>
#include <glib/gstdio.h>
#include <stdlib.h>

static char *folder; /* libFuzzer owns main: there is no other place to keep these */
static char *path;

static void
remove_tree (const char *dir)
{
  g_autoptr (GDir) listing = g_dir_open (dir, 0, NULL);
  const char *name;

  while (listing != NULL && (name = g_dir_read_name (listing)) != NULL)
    {
      g_autofree char *child = g_build_filename (dir, name, NULL);

      if (!g_file_test (child, G_FILE_TEST_IS_SYMLINK) && g_file_test (child, G_FILE_TEST_IS_DIR))
        remove_tree (child);
      g_remove (child);
    }
}

static void
clean_up (void)
{
  remove_tree (folder);
  g_rmdir (folder);
  g_clear_pointer (&folder, g_free);
  g_clear_pointer (&path, g_free);
}

const char *
fuzz_folder (void)
{
  if (folder == NULL)
    {
      folder = g_dir_make_tmp ("fuzz-XXXXXX", NULL);
      g_assert_nonnull (folder);
      atexit (clean_up);
    }
  return folder;
}

const char *
fuzz_file (const char *name, const void *data, gsize size)
{
  g_free (path);
  path = g_build_filename (fuzz_folder (), name, NULL);
  g_unlink (path); /* GLib 2.74 does not truncate: a longer input's end would stay */
  g_assert_true (
      g_file_set_contents_full (path, data, (gssize)size, G_FILE_SET_CONTENTS_NONE, 0600, NULL));
  return path;
}

char *
fuzz_test_data (const char *name)
{
  return g_build_filename (g_getenv ("TESSERA_TEST_DATA"), name, NULL);
}
