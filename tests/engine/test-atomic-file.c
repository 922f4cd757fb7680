/* SPDX-License-Identifier: Apache-2.0
 *
 * test-atomic-file.c - a file appears whole or not at all, and nothing else does
 */
#define _GNU_SOURCE /* O_TMPFILE */
#include "engine/files/atomic-file.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct
{
  char *folder;
} Fixture;

static void
set_up (Fixture *f, gconstpointer data)
{
  f->folder = g_dir_make_tmp ("atomic-XXXXXX", NULL);
  g_assert_nonnull (f->folder);
}

static char *
in (Fixture *f, const char *name)
{
  return g_build_filename (f->folder, name, NULL);
}

/* Names in the folder; with `clear`, not after this. */
static guint
count (Fixture *f, gboolean clear)
{
  g_autoptr (GDir) dir = g_dir_open (f->folder, 0, NULL);
  const char *name;
  guint n = 0;

  for (; (name = g_dir_read_name (dir)) != NULL; n++)
    if (clear)
      {
        g_autofree char *path = in (f, name);

        g_assert_cmpint (g_remove (path), ==, 0);
      }
  return n;
}

static void
tear_down (Fixture *f, gconstpointer data)
{
  count (f, TRUE);
  g_rmdir (f->folder);
  g_free (f->folder);
}

static void
put (const char *path, const char *text)
{
  GError *error = NULL;

  atomic_file_put_text (path, text, &error);
  g_assert_no_error (error);
}

static void
assert_text (const char *path, const char *text)
{
  g_autofree char *found = NULL;

  g_assert_true (g_file_get_contents (path, &found, NULL, NULL));
  g_assert_cmpstr (found, ==, text);
}

static void
assert_refused (const char *path, const char *cause)
{
  g_autoptr (GError) error = NULL;

  g_assert_false (atomic_file_put_text (path, "new", &error));
  g_assert_nonnull (error);
  g_assert_nonnull (strstr (error->message, cause));
  g_clear_error (&error);
  g_assert_false (atomic_file_check (path, &error));
}

static void
test_replaces (Fixture *f, gconstpointer data)
{
  g_autofree char *path = in (f, "a");
  const mode_t mask = umask (027);
  GStatBuf status;

  put (path, "old");
  umask (mask);
  g_assert_cmpint (g_stat (path, &status), ==, 0);
  g_assert_cmpint (status.st_mode & 0777, ==, 0640);
  g_assert_true (atomic_file_check (path, NULL));
  assert_text (path, "old");
  put (path, "new");
  assert_text (path, "new");
  g_assert_cmpuint (count (f, FALSE), ==, 1);
}

static void
test_given_up (Fixture *f, gconstpointer data)
{
  g_autofree char *path = in (f, "a");
  g_autoptr (AtomicFile) file = NULL;

  put (path, "old");
  file = atomic_file_new (path, NULL);
  g_assert_true (atomic_file_write (file, "new", 3, NULL));
  assert_text (path, "old");
  g_clear_pointer (&file, atomic_file_free);
  assert_text (path, "old");
  g_assert_cmpuint (count (f, FALSE), ==, 1);
}

/* The program ends in the middle, without a chance to clean up. */
static void
test_killed (Fixture *f, gconstpointer data)
{
  g_autofree char *path = in (f, "a");
  int probe = g_open (f->folder, O_WRONLY | O_TMPFILE | O_CLOEXEC, 0600), status;
  pid_t child;

  if (probe < 0)
    {
      g_test_skip ("this file system has no files without a name");
      return;
    }
  close (probe);
  put (path, "old");
  child = fork ();
  if (child == 0)
    {
      AtomicFile *file = atomic_file_new (path, NULL);

      _exit (file != NULL && atomic_file_write (file, "new", 3, NULL) ? 0 : 1);
    }
  g_assert_cmpint (waitpid (child, &status, 0), ==, child);
  g_assert_cmpint (status, ==, 0);
  assert_text (path, "old");
  g_assert_cmpuint (count (f, FALSE), ==, 1);
}

static void
test_links (Fixture *f, gconstpointer data)
{
  g_autofree char *real = in (f, "real"), *link = in (f, "link"), *next = in (f, "next");
  g_autofree char *loop = in (f, "loop");

  g_assert_cmpint (symlink ("real", link), ==, 0);
  g_assert_cmpint (symlink (link, next), ==, 0);
  put (next, "through two links to nothing");
  assert_text (real, "through two links to nothing");
  put (link, "again");
  assert_text (real, "again");
  g_assert_true (g_file_test (link, G_FILE_TEST_IS_SYMLINK));
  g_assert_true (g_file_test (next, G_FILE_TEST_IS_SYMLINK));
  g_assert_cmpint (symlink ("loop", loop), ==, 0);
  assert_refused (loop, loop);
  g_assert_cmpuint (count (f, FALSE), ==, 4);
}

static void
test_refused (Fixture *f, gconstpointer data)
{
  g_autofree char *pipe = in (f, "pipe"), *link = in (f, "link"), *missing = in (f, "no/file");
  GStatBuf status;

  g_assert_cmpint (mkfifo (pipe, 0600), ==, 0);
  g_assert_cmpint (symlink ("/dev/null", link), ==, 0);
  assert_refused (pipe, "not a regular file");
  assert_refused (link, "not a regular file");
  assert_refused (f->folder, f->folder);
  assert_refused (missing, missing);
  assert_refused ("", "is empty");
  g_assert_cmpint (g_lstat (pipe, &status), ==, 0);
  g_assert_true (S_ISFIFO (status.st_mode));
  g_assert_cmpuint (count (f, FALSE), ==, 2);
}

/* The temporary name is no longer than the name may be. */
static void
test_long_name (Fixture *f, gconstpointer data)
{
  g_autofree char *name = g_strnfill (255, 'n'), *longer = g_strnfill (256, 'n');
  g_autofree char *path = in (f, name), *too_long = in (f, longer);

  put (path, "text");
  assert_text (path, "text");
  assert_refused (too_long, "too long");
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
#define ADD(name, function)                                                                        \
  g_test_add ("/atomic-file/" name, Fixture, NULL, set_up, function, tear_down)
  ADD ("replaces", test_replaces);
  ADD ("given-up", test_given_up);
  ADD ("killed", test_killed);
  ADD ("links", test_links);
  ADD ("refused", test_refused);
  ADD ("long-name", test_long_name);
#undef ADD
  return g_test_run ();
}
