/* SPDX-License-Identifier: Apache-2.0
 *
 * test-move.c - a model goes from disk to disk, whatever comes in between
 *
 * The other disk is /dev/shm. `test-move --child HOME FOLDER PROGRESS` is the program that is
 * killed: it moves, and counts in the file PROGRESS.
 */
#include "app/models/move.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define KILLS 20
#define BYTES 8000301 /* of all files */

typedef struct
{
  char *folder, *models, *home; /* on one disk */
  char *near;                   /* another folder on it */
  char *far;                    /* on the other; NULL if there is none */
  TreeProgress progress;
} Fixture;

static const struct
{
  const char *path;
  gsize bytes;
} FILES[] = {
  { "model_index.json", 300 },
  { "transformer/config.json", 0 },
  { "transformer/a.safetensors", 5000000 },
  { "text_encoder/deep/b.safetensors", 3000001 },
};

static char *
make_bytes (guint i)
{
  char *bytes = g_malloc (FILES[i].bytes + 1);

  for (gsize k = 0; k < FILES[i].bytes; k++)
    bytes[k] = (char)(k * 2654435761u >> (13 + i));
  return bytes;
}

/* A shell with the folders in variables: M the models', N near, F far. */
static void
sh (Fixture *f, const char *script)
{
  g_autofree char *text = g_strdup_printf ("set -e; M='%s' N='%s' F='%s'\n%s", f->models, f->near,
                                           f->far != NULL ? f->far : "", script);
  const char *argv[] = { "sh", "-c", text, NULL };
  g_autoptr (GError) error = NULL;
  int status;

  g_spawn_sync (NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, &status,
                &error);
  g_assert_no_error (error);
  g_assert_cmpint (status, ==, 0);
}

static gboolean
is_other_disk (const char *a, const char *b)
{
  GStatBuf first, second;

  return g_stat (a, &first) == 0 && g_stat (b, &second) == 0 && first.st_dev != second.st_dev;
}

static void
set_up (Fixture *f, gconstpointer data)
{
  g_autoptr (GError) error = NULL;

  f->folder = g_dir_make_tmp ("tessera-move-XXXXXX", &error);
  g_assert_no_error (error);
  f->models = g_build_filename (f->folder, "models", NULL);
  f->home = g_build_filename (f->models, "tiny", NULL);
  f->near = g_build_filename (f->folder, "near by", NULL);
  g_assert_cmpint (g_mkdir (f->near, 0755), ==, 0);
  for (guint i = 0; i < G_N_ELEMENTS (FILES); i++)
    {
      g_autofree char *path = g_build_filename (f->home, FILES[i].path, NULL);
      g_autofree char *dir = g_path_get_dirname (path);
      g_autofree char *bytes = make_bytes (i);

      g_assert_cmpint (g_mkdir_with_parents (dir, 0755), ==, 0);
      g_assert_true (g_file_set_contents (path, bytes, (gssize)FILES[i].bytes, NULL));
    }
  if (is_other_disk ("/dev/shm", f->folder))
    f->far = g_mkdtemp (g_strdup ("/dev/shm/tessera-move-XXXXXX"));
}

static void
tear_down (Fixture *f, gconstpointer data)
{
  sh (f, "chmod -R u+rwx \"$M\"; rm -rf \"$M\" \"$N\"; [ -z \"$F\" ] || rm -rf \"$F\"");
  g_rmdir (f->folder);
  g_free (f->folder);
  g_free (f->models);
  g_free (f->home);
  g_free (f->near);
  g_free (f->far);
}

static gboolean
lacks_disk (Fixture *f)
{
  if (f->far != NULL)
    return FALSE;
  g_test_skip ("/dev/shm is not another disk than the temporary folder");
  return TRUE;
}

static guint
count_names (const char *folder)
{
  g_autoptr (GDir) dir = g_dir_open (folder, 0, NULL);
  guint n = 0;

  while (dir != NULL && g_dir_read_name (dir) != NULL)
    n++;
  return n;
}

/* The model is whole, in `folder` (NULL: at home), and nowhere else is anything. */
static void
check (Fixture *f, const char *folder)
{
  g_autofree char *target = move_target (f->home);
  g_autofree char *expected = folder != NULL ? g_build_filename (folder, "tiny", NULL) : NULL;

  g_assert_cmpstr (target, ==, expected);
  for (guint i = 0; i < G_N_ELEMENTS (FILES); i++)
    {
      g_autofree char *path = g_build_filename (f->home, FILES[i].path, NULL);
      g_autofree char *bytes = make_bytes (i);
      g_autofree char *found = NULL;
      gsize length;

      g_assert_true (g_file_get_contents (path, &found, &length, NULL));
      g_assert_cmpmem (found, length, bytes, FILES[i].bytes);
    }
  g_assert_cmpuint (count_names (f->models), ==, 1);
  g_assert_cmpuint (count_names (f->near), ==, folder == f->near);
  if (f->far != NULL)
    g_assert_cmpuint (count_names (f->far), ==, folder != NULL && folder == f->far);
}

static void
move (Fixture *f, const char *folder)
{
  g_autoptr (GError) error = NULL;

  move_model (f->home, folder, &f->progress, NULL, &error);
  g_assert_no_error (error);
}

/* -- cases --------------------------------------------------------------------------------------
 */

static void
test_one_disk (Fixture *f, gconstpointer data)
{
  move (f, f->near);
  check (f, f->near);
  g_assert_cmpuint (f->progress.done, ==, 0); /* nothing was copied */
  move (f, f->models);
  check (f, NULL);
}

static void
test_two_disks (Fixture *f, gconstpointer data)
{
  if (lacks_disk (f))
    return;
  move (f, f->far);
  check (f, f->far);
  g_assert_cmpuint (f->progress.total, ==, BYTES);
  g_assert_cmpuint (f->progress.done, ==, BYTES);
  move (f, f->near); /* from disk to disk: the link at home changes */
  check (f, f->near);
  move (f, f->far);
  check (f, f->far);
  move (f, f->models);
  check (f, NULL);
}

static void
refuse (Fixture *f, const char *folder, int code)
{
  g_autoptr (GError) error = NULL;

  g_assert_false (move_model (f->home, folder, &f->progress, NULL, &error));
  g_assert_error (error, G_IO_ERROR, code);
}

static void
test_refused (Fixture *f, gconstpointer data)
{
  g_autofree char *inside = g_build_filename (f->home, "transformer", NULL);
  g_autoptr (GCancellable) cancellable = g_cancellable_new ();
  g_autoptr (GError) error = NULL, second = NULL;

  refuse (f, inside, G_IO_ERROR_INVALID_ARGUMENT);
  refuse (f, f->models, G_IO_ERROR_EXISTS);
  sh (f, "touch \"$N/tiny\"");
  refuse (f, f->near, G_IO_ERROR_EXISTS);
  sh (f, "rm \"$N/tiny\"; ln -s /etc/hostname \"$M/tiny/link\"");
  refuse (f, f->near, G_IO_ERROR_NOT_SUPPORTED);
  sh (f, "rm \"$M/tiny/link\"");
  g_assert_false (move_model (f->home, "/nowhere", &f->progress, NULL, &error));
  g_assert_error (error, G_FILE_ERROR, G_FILE_ERROR_NOENT);
  check (f, NULL);
  if (lacks_disk (f))
    return;
  sh (f, "truncate -s 4T \"$M/tiny/huge\"");
  refuse (f, f->far, G_IO_ERROR_NO_SPACE);
  sh (f, "rm \"$M/tiny/huge\"");
  check (f, NULL);
  g_cancellable_cancel (cancellable);
  g_assert_false (move_model (f->home, f->far, &f->progress, cancellable, &second));
  g_assert_error (second, G_IO_ERROR, G_IO_ERROR_CANCELLED);
  check (f, NULL);
}

static void
test_prepare (Fixture *f, gconstpointer data)
{
  g_autofree char *other = g_build_filename (f->models, "other", NULL);
  g_autofree char *target = NULL, *expected = g_build_filename (f->near, "other", NULL);
  g_autoptr (GError) error = NULL;

  move_prepare (other, f->near, &error);
  g_assert_no_error (error);
  target = move_target (other);
  g_assert_cmpstr (target, ==, expected);
  g_assert_true (g_file_test (other, G_FILE_TEST_IS_DIR));
  g_assert_false (move_prepare (other, f->near, &error));
  g_assert_error (error, G_IO_ERROR, G_IO_ERROR_EXISTS);
}

/* What somebody else has put into the folder that is left is not deleted with it. */
static void
test_foreign_file (Fixture *f, gconstpointer data)
{
  g_autofree char *note = NULL;

  if (lacks_disk (f))
    return;
  sh (f,
      "cp -r \"$M/tiny\" \"$F/tiny\"; mv \"$M/tiny\" \"$M/tiny.old\"; ln -s \"$F/tiny\" \"$M/tiny\""
      "; touch \"$M/tiny.old/note\"; printf '%s\\n' \"$F/tiny\" \"$M/tiny\" >\"$M/tiny.move\"");
  move_recover (f->models);
  note = g_build_filename (f->models, "tiny.old", "note", NULL);
  g_assert_true (g_file_test (note, G_FILE_TEST_EXISTS));
  sh (f, "rm -r \"$M/tiny.old\"");
  check (f, f->far);
}

/* -- interrupted --------------------------------------------------------------------------------
 */

#define AWAY "printf '%s\\n' \"$F/tiny\" \"$M/tiny\" >\"$M/tiny.move\";"
#define BACK "printf '%s\\n' \"$M/tiny\" \"$F/tiny\" >\"$M/tiny.move\";"
#define PART(copy)                                                                                 \
  "mkdir -p " copy "/transformer; head -c 99 \"$M/tiny/transformer/a.safetensors\" >" copy         \
  "/transformer/a.safetensors;"
#define WHOLE "cp -r \"$M/tiny\" \"$F/tiny\";"
#define OLD   "mv \"$M/tiny\" \"$M/tiny.old\";"
#define LINK  "ln -s \"$F/tiny\" \"$M/tiny\";"
#define THERE WHOLE "rm -r \"$M/tiny\";" LINK BACK

static const struct
{
  const char *name, *script;
  gboolean far; /* where it must be in the end */
} states[] = {
  { "begun", AWAY, FALSE },
  { "copying", AWAY PART ("\"$F/tiny.moving\""), FALSE },
  { "copied", AWAY WHOLE, TRUE },
  { "renamed", AWAY WHOLE "rm -r \"$M/tiny\";", TRUE },
  { "link-made", AWAY WHOLE "ln -s \"$F/tiny\" \"$M/tiny.link\";", TRUE },
  { "taken-down", AWAY WHOLE OLD "ln -s \"$F/tiny\" \"$M/tiny.link\";", TRUE },
  { "linked", AWAY WHOLE OLD LINK, TRUE },
  { "deleting", AWAY WHOLE OLD LINK "rm -r \"$M/tiny.old/transformer\";", TRUE },
  { "deleted", AWAY WHOLE OLD LINK "rm -r \"$M/tiny.old\";", TRUE },
  { "back-begun", THERE, TRUE },
  { "back-copying", THERE PART ("\"$M/tiny.moving\""), TRUE },
  { "back-copied", THERE "cp -r \"$F/tiny\" \"$M/tiny.moved\";", FALSE },
  { "back-unlinked", THERE "cp -r \"$F/tiny\" \"$M/tiny.moved\"; rm \"$M/tiny\";", FALSE },
  { "back-there", THERE "rm \"$M/tiny\"; cp -r \"$F/tiny\" \"$M/tiny\";", FALSE },
  { "back-deleting", THERE "rm \"$M/tiny\"; mv \"$F/tiny\" \"$M/tiny\"; mkdir \"$F/tiny\";",
    FALSE },
  { "disk-away", "printf '/nowhere/tiny\\n%s\\n' \"$M/tiny\" >\"$M/tiny.move\"", FALSE },
  { "disk-away-late", OLD "printf '/nowhere/tiny\\n%s\\n' \"$M/tiny\" >\"$M/tiny.move\"", FALSE },
};

static void
test_states (Fixture *f, gconstpointer data)
{
  if (lacks_disk (f))
    return;
  for (guint i = 0; i < G_N_ELEMENTS (states); i++)
    {
      g_test_message ("%s", states[i].name);
      sh (f, states[i].script);
      move_recover (f->models);
      move_recover (f->models);
      check (f, states[i].far ? f->far : NULL);
      if (states[i].far)
        move (f, f->models);
    }
}

static void
test_damaged_journal (Fixture *f, gconstpointer data)
{
  const char *scripts[] = { "echo >\"$M/tiny.move\"", "echo nonsense >\"$M/tiny.move\"",
                            "printf '/etc\\n/etc\\n' >\"$M/tiny.move\"",
                            "printf 'tiny\\ntiny\\n' >\"$M/tiny.move\"" };

  for (guint i = 0; i < G_N_ELEMENTS (scripts); i++)
    {
      sh (f, scripts[i]);
      g_test_expect_message (NULL, G_LOG_LEVEL_WARNING, "*does not say which move*");
      move_recover (f->models);
      g_test_assert_expected_messages ();
    }
  sh (f, "rm \"$M/tiny.move\"");
  check (f, NULL);
}

/* There and back, killed after a random number of bytes each time, or a moment after the last. */
static void
test_killed (Fixture *f, gconstpointer data)
{
  g_autofree char *counter = NULL;
  TreeProgress *progress;
  guint undone = 0;
  int fd;

  if (lacks_disk (f))
    return;
  counter = g_build_filename (f->folder, "progress", NULL);
  fd = g_open (counter, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  g_assert_cmpint (ftruncate (fd, sizeof *progress), ==, 0);
  progress = mmap (NULL, sizeof *progress, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  g_assert_true (progress != MAP_FAILED);
  for (guint i = 0; i < KILLS; i++)
    {
      g_autofree char *before = move_target (f->home), *after = NULL;
      const char *to = before != NULL ? f->models : f->far;
      const char *argv[] = { "/proc/self/exe", "--child", f->home, to, counter, NULL };
      const guint64 enough = (guint64)g_test_rand_int_range (1, 12000000);
      g_autoptr (GError) error = NULL;
      int status = 0;
      GPid pid;

      *progress = (TreeProgress){ 0 };
      g_spawn_async (NULL, (char **)argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL, &pid,
                     &error);
      g_assert_no_error (error);
      while (__atomic_load_n (&progress->done, __ATOMIC_RELAXED) < MIN (enough, BYTES)
             && waitpid (pid, &status, WNOHANG) == 0)
        g_usleep (50);
      if (enough > BYTES)
        g_usleep ((gulong)(enough - BYTES) / 400);
      kill (pid, SIGKILL);
      waitpid (pid, &status, 0);
      move_recover (f->models);
      after = move_target (f->home);
      undone += g_strcmp0 (before, after) == 0;
      check (f, after != NULL ? f->far : NULL);
    }
  g_test_message ("%u of %d moves were undone", undone, KILLS);
  munmap (progress, sizeof *progress);
  close (fd);
  g_unlink (counter);
}

static int
run_child (char **argv)
{
  int fd = g_open (argv[4], O_RDWR | O_CLOEXEC, 0);
  TreeProgress *progress = mmap (NULL, sizeof *progress, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

  return progress == MAP_FAILED || !move_model (argv[2], argv[3], progress, NULL, NULL);
}

int
main (int argc, char **argv)
{
  if (argc == 5 && g_str_equal (argv[1], "--child"))
    return run_child (argv);
  g_test_init (&argc, &argv, NULL);
#define ADD(path, function) g_test_add (path, Fixture, NULL, set_up, function, tear_down)
  ADD ("/move/one-disk", test_one_disk);
  ADD ("/move/two-disks", test_two_disks);
  ADD ("/move/refused", test_refused);
  ADD ("/move/prepare", test_prepare);
  ADD ("/move/foreign-file", test_foreign_file);
  ADD ("/move/states", test_states);
  ADD ("/move/damaged-journal", test_damaged_journal);
  ADD ("/move/killed", test_killed);
  return g_test_run ();
}
