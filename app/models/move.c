/* SPDX-License-Identifier: Apache-2.0 */
#include "app/models/move.h"

#include "app/fetch/fetch-part.h"
#include "engine/files/atomic-file.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The names that one move uses. */
typedef struct
{
  char *home, *models_dir; /* MODELS_DIR/ID, MODELS_DIR */
  char *journal;           /* MODELS_DIR/ID.move: target and source, a line each */
  char *old, *link;        /* MODELS_DIR/ID.old, ID.link: while the link takes the folder's place */
  char *source;            /* where the files are, without links */
  char *target;            /* FOLDER/ID: home itself if it moves back */
  char *copy, *whole;      /* what is being copied; what makes the move done once it is there */
} Move;

/* -- small questions ----------------------------------------------------------------------------
 */

static gboolean
is_link (const char *path)
{
  GStatBuf status;

  return g_lstat (path, &status) == 0 && S_ISLNK (status.st_mode);
}

static gboolean
is_same_folder (const char *a, const char *b)
{
  GStatBuf first, second;

  return g_stat (a, &first) == 0 && g_stat (b, &second) == 0 && first.st_dev == second.st_dev
         && first.st_ino == second.st_ino;
}

char *
move_target (const char *home)
{
  g_autofree char *target = g_file_read_link (home, NULL);
  g_autofree char *folder = g_path_get_dirname (home);

  return target != NULL ? g_canonicalize_filename (target, folder) : NULL;
}

char *
move_describe_missing (const char *home)
{
  g_autofree char *target = move_target (home);

  if (target == NULL || g_file_test (home, G_FILE_TEST_IS_DIR))
    return NULL;
  return g_strdup_printf ("%s: is not there; attach the disk that has it", target);
}

/* -- names --------------------------------------------------------------------------------------
 */

static void
move_clear (Move *self)
{
  g_free (self->home);
  g_free (self->models_dir);
  g_free (self->journal);
  g_free (self->old);
  g_free (self->link);
  g_free (self->source);
  g_free (self->target);
  g_free (self->copy);
  g_free (self->whole);
}

/* Takes over source and target. */
static void
name_all (Move *self, const char *home, char *source, char *target)
{
  const gboolean back = g_str_equal (target, home);

  *self = (Move){ .home = g_strdup (home), .source = source, .target = target };
  self->models_dir = g_path_get_dirname (home);
  self->journal = g_strconcat (home, ".move", NULL);
  self->old = g_strconcat (home, ".old", NULL);
  self->link = g_strconcat (home, ".link", NULL);
  self->copy = g_strconcat (target, ".moving", NULL);
  /* The link holds the name that the model wants back, until the very end. */
  self->whole = back ? g_strconcat (home, ".moved", NULL) : g_strdup (target);
}

static gboolean
write_journal (const Move *self, GError **error)
{
  g_autofree char *text = g_strdup_printf ("%s\n%s\n", self->target, self->source);

  if (strchr (self->target, '\n') == NULL && strchr (self->source, '\n') == NULL)
    return atomic_file_put_text (self->journal, text, error);
  g_set_error (error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
               "%s: a line break in a folder's name", self->target);
  return FALSE;
}

/* FALSE if it is not what write_journal writes. */
static gboolean
read_journal (Move *self, const char *home)
{
  g_autofree char *journal = g_strconcat (home, ".move", NULL);
  g_autofree char *name = g_path_get_basename (home);
  g_autofree char *text = NULL, *target = NULL;
  g_auto (GStrv) lines = NULL;

  if (!g_file_get_contents (journal, &text, NULL, NULL))
    return FALSE;
  lines = g_strsplit (text, "\n", 3);
  if (g_strv_length (lines) != 3 || lines[2][0] != '\0')
    return FALSE;
  target = g_path_get_basename (lines[0]);
  if (!g_path_is_absolute (lines[0]) || !g_path_is_absolute (lines[1])
      || !g_str_equal (target, name))
    return FALSE;
  name_all (self, home, g_strdup (lines[1]), g_strdup (lines[0]));
  return TRUE;
}

/* -- the end of a move --------------------------------------------------------------------------
 */

static gboolean
point_home_to_target (const Move *self, GError **error)
{
  tree_remove_known (self->old, self->target, TRUE);
  g_unlink (self->link);
  if (symlink (self->target, self->link) != 0)
    return tree_fail (self->link, "made", errno, error);
  if (tree_is_folder (self->home) && g_rename (self->home, self->old) != 0)
    return tree_fail (self->old, "made", errno, error);
  return g_rename (self->link, self->home) == 0 || tree_fail (self->home, "made", errno, error);
}

static gboolean
put_back_home (const Move *self, GError **error)
{
  if (!tree_is_folder (self->whole)) /* it has been put there */
    return TRUE;
  if (is_link (self->home))
    g_unlink (self->home);
  return g_rename (self->whole, self->home) == 0 || tree_fail (self->home, "made", errno, error);
}

/* Once self->whole is there. May be begun again as often as it is interrupted. */
static gboolean
finish (const Move *self, GError **error)
{
  const gboolean back = g_str_equal (self->target, self->home);
  g_autofree char *folder = g_path_get_dirname (self->target);

  tree_sync_folder (folder);
  if (!(back ? put_back_home (self, error) : point_home_to_target (self, error)))
    return FALSE;
  tree_sync_folder (self->models_dir);
  tree_remove_known (self->old, self->target, TRUE);
  if (!g_str_equal (self->source, self->home) && !is_same_folder (self->source, self->target))
    tree_remove_known (self->source, self->target, TRUE);
  g_unlink (self->journal);
  return TRUE;
}

/* The journal stays if the copy does, since the source is on a disk that is not there. */
static void
undo (const Move *self)
{
  tree_remove_known (self->copy, self->source, FALSE);
  if (!tree_is_folder (self->copy))
    g_unlink (self->journal);
}

static void
wait_for_disk (const Move *self)
{
  if (tree_is_folder (self->old) && !is_link (self->home))
    g_rename (self->old, self->home);
  if (g_file_test (self->home, G_FILE_TEST_IS_DIR)) /* the model can be used: let it be */
    g_unlink (self->journal);
}

static void
recover (const Move *self)
{
  const gboolean back = g_str_equal (self->target, self->home);
  g_autofree char *folder = g_path_get_dirname (self->target);
  g_autoptr (GError) error = NULL;

  if (tree_is_folder (self->whole) || (back && tree_is_folder (self->home)))
    {
      if (!finish (self, &error))
        g_warning ("%s", error->message);
    }
  else if (tree_is_folder (folder))
    undo (self);
  else
    wait_for_disk (self);
}

void
move_recover (const char *models_dir)
{
  g_autoptr (GDir) dir = g_dir_open (models_dir, 0, NULL);
  const char *name;

  while (dir != NULL && (name = g_dir_read_name (dir)) != NULL)
    if (g_str_has_suffix (name, ".move"))
      {
        g_autofree char *path = g_build_filename (models_dir, name, NULL);
        g_autofree char *home = g_strndup (path, strlen (path) - strlen (".move"));
        Move move;

        if (!read_journal (&move, home))
          {
            g_warning ("%s: does not say which move was under way", path);
            continue;
          }
        recover (&move);
        move_clear (&move);
      }
}

/* -- the move -----------------------------------------------------------------------------------
 */

/* Where the model shall be: FOLDER/ID if that can be. */
static gboolean
choose_target (Move *self, const char *home, const char *folder, GError **error)
{
  g_autofree char *models_dir = g_path_get_dirname (home);
  g_autofree char *name = g_path_get_basename (home);
  g_autofree char *real = realpath (folder, NULL);
  g_autofree char *source = realpath (home, NULL);
  const gboolean back = is_same_folder (folder, models_dir);
  g_autofree char *path = g_build_filename (folder, name, NULL);
  g_autofree char *target = back ? g_strdup (home) : g_canonicalize_filename (path, NULL);
  g_autofree char *inside = source != NULL ? g_strconcat (source, "/", NULL) : NULL;
  g_autofree char *place = real != NULL ? g_strconcat (real, "/", NULL) : NULL;
  GStatBuf status;

  if (real == NULL)
    return tree_fail (folder, "opened", errno, error);
  if (inside != NULL && g_str_has_prefix (place, inside))
    {
      g_set_error (error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT, "%s: is in the model itself",
                   folder);
      return FALSE;
    }
  if (back ? tree_is_folder (home) : g_lstat (target, &status) == 0)
    {
      g_set_error (error, G_IO_ERROR, G_IO_ERROR_EXISTS, "%s: is there already", target);
      return FALSE;
    }
  name_all (self, home, g_steal_pointer (&source), g_steal_pointer (&target));
  return TRUE;
}

static gboolean
bring_over (const Move *self, TreeProgress *progress, GCancellable *cancellable, GError **error)
{
  Tree tree;
  gboolean done = FALSE;

  if (!tree_list (&tree, self->source, error))
    {
      tree_clear (&tree);
      return FALSE;
    }
  __atomic_store_n (&progress->total, tree.bytes, __ATOMIC_RELAXED);
  __atomic_store_n (&progress->done, 0, __ATOMIC_RELAXED);
  tree_remove_known (self->copy, self->source, FALSE); /* of a move that was given up */
  if (g_rename (self->source, self->whole) == 0)
    done = TRUE; /* one disk */
  else if (fetch_check_space (self->copy, tree.bytes, error))
    done = (tree_copy (&tree, self->source, self->copy, progress, cancellable, error)
            && (g_rename (self->copy, self->whole) == 0
                || tree_fail (self->whole, "made", errno, error)));
  tree_clear (&tree);
  return done;
}

gboolean
move_model (const char *home, const char *folder, TreeProgress *progress, GCancellable *cancellable,
            GError **error)
{
  g_autofree char *absolute = g_canonicalize_filename (home, NULL);
  Move move = { 0 };
  gboolean done = FALSE;

  if (!choose_target (&move, absolute, folder, error))
    return FALSE;
  if (move.source == NULL)
    tree_fail (home, "opened", ENOENT, error);
  else if (write_journal (&move, error))
    {
      done = bring_over (&move, progress, cancellable, error);
      if (done)
        done = finish (&move, error);
      else
        undo (&move);
    }
  move_clear (&move);
  return done;
}

gboolean
move_prepare (const char *home, const char *folder, GError **error)
{
  g_autofree char *absolute = g_canonicalize_filename (home, NULL);
  Move move = { 0 };
  gboolean done = FALSE;

  if (tree_is_folder (absolute) || is_link (absolute))
    {
      g_set_error (error, G_IO_ERROR, G_IO_ERROR_EXISTS, "%s: is there already", home);
      return FALSE;
    }
  if (!choose_target (&move, absolute, folder, error))
    return FALSE;
  if (g_mkdir_with_parents (move.models_dir, 0777) != 0)
    tree_fail (move.models_dir, "made", errno, error);
  else if (g_str_equal (move.target, absolute))
    done = TRUE;
  else if (g_mkdir (move.target, 0777) != 0)
    tree_fail (move.target, "made", errno, error);
  else
    done = point_home_to_target (&move, error);
  move_clear (&move);
  return done;
}
