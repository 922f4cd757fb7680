/* SPDX-License-Identifier: Apache-2.0 */
#include "app/models/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <unistd.h>

#define BUFFER_BYTES (1 << 20)
#define MAX_DEPTH    8
#define MAX_FILES    4096

gboolean
tree_fail (const char *path, const char *what, int code, GError **error)
{
  if (code == ENOSPC || code == EDQUOT)
    g_set_error (error, G_IO_ERROR, G_IO_ERROR_NO_SPACE, "%s: the disk is full", path);
  else
    g_set_error (error, G_FILE_ERROR, (gint)g_file_error_from_errno (code), "%s: cannot be %s: %s",
                 path, what, g_strerror (code));
  return FALSE;
}

gboolean
tree_is_folder (const char *path)
{
  GStatBuf status;

  return g_lstat (path, &status) == 0 && S_ISDIR (status.st_mode);
}

void
tree_sync_folder (const char *path)
{
  int fd = g_open (path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);

  if (fd < 0)
    return;
  fsync (fd); /* not every file system can; then there is nothing to be done */
  close (fd);
}

void
tree_clear (Tree *self)
{
  g_clear_pointer (&self->folders, g_ptr_array_unref);
  g_clear_pointer (&self->files, g_ptr_array_unref);
}

static gboolean
list_below (Tree *tree, const char *root, const char *below, int depth, GError **error)
{
  g_autofree char *folder = g_build_filename (root, below, NULL);
  g_autoptr (GDir) dir = g_dir_open (folder, 0, error);
  const char *name;

  if (dir == NULL)
    return FALSE;
  g_ptr_array_add (tree->folders, g_strdup (below));
  while ((name = g_dir_read_name (dir)) != NULL)
    {
      g_autofree char *path = g_build_filename (below, name, NULL);
      g_autofree char *full = g_build_filename (root, path, NULL);
      GStatBuf status;

      if (g_lstat (full, &status) != 0)
        return tree_fail (full, "read", errno, error);
      if (S_ISDIR (status.st_mode) && depth < MAX_DEPTH)
        {
          if (!list_below (tree, root, path, depth + 1, error))
            return FALSE;
        }
      else if (S_ISREG (status.st_mode) && tree->files->len < MAX_FILES)
        {
          tree->bytes += (guint64)status.st_size;
          g_ptr_array_add (tree->files, g_steal_pointer (&path));
        }
      else
        {
          g_set_error (error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                       "%s: neither a file nor a folder of a model", full);
          return FALSE;
        }
    }
  return TRUE;
}

gboolean
tree_list (Tree *self, const char *root, GError **error)
{
  *self = (Tree){ g_ptr_array_new_with_free_func (g_free), g_ptr_array_new_with_free_func (g_free),
                  0 };
  return list_below (self, root, "", 0, error);
}

static void
remove_listed (const Tree *tree, const char *root, const char *model, gboolean whole)
{
  for (guint i = 0; i < tree->files->len; i++)
    {
      g_autofree char *path = g_build_filename (root, tree->files->pdata[i], NULL);
      g_autofree char *other = g_build_filename (model, tree->files->pdata[i], NULL);
      GStatBuf a, b;

      if (g_lstat (path, &a) == 0 && S_ISREG (a.st_mode) && g_lstat (other, &b) == 0
          && (!whole || a.st_size == b.st_size))
        g_unlink (path);
    }
  for (guint i = tree->folders->len; i > 0; i--)
    {
      g_autofree char *folder = g_build_filename (root, tree->folders->pdata[i - 1], NULL);

      g_rmdir (folder);
    }
}

void
tree_remove_known (const char *root, const char *model, gboolean whole)
{
  Tree tree;

  if (!tree_is_folder (root))
    return;
  if (tree_list (&tree, model, NULL))
    remove_listed (&tree, root, model, whole);
  tree_clear (&tree);
}

static gboolean
copy_bytes (int from, int to, const char *path, guint64 bytes, TreeProgress *progress,
            GCancellable *cancellable, GError **error)
{
  g_autofree char *buffer = g_malloc (BUFFER_BYTES);

  while (bytes > 0)
    {
      gssize got;

      if (g_cancellable_set_error_if_cancelled (cancellable, error))
        return FALSE;
      got = read (from, buffer, (gsize)MIN (bytes, BUFFER_BYTES));
      if (got < 0 && errno == EINTR)
        continue;
      if (got <= 0)
        return tree_fail (path, "copied", got < 0 ? errno : EIO, error);
      for (gssize at = 0, written; at < got; at += MAX (written, 0))
        {
          written = write (to, buffer + at, (gsize)(got - at));
          if (written == 0 || (written < 0 && errno != EINTR))
            return tree_fail (path, "written", written < 0 ? errno : EIO, error);
        }
      bytes -= (guint64)got;
      __atomic_add_fetch (&progress->done, (guint64)got, __ATOMIC_RELAXED);
    }
  return fsync (to) == 0 || tree_fail (path, "written", errno, error);
}

static gboolean
copy_file (const char *from_root, const char *to_root, const char *file, TreeProgress *progress,
           GCancellable *cancellable, GError **error)
{
  g_autofree char *path = g_build_filename (from_root, file, NULL);
  g_autofree char *copy = g_build_filename (to_root, file, NULL);
  int from = g_open (path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
  int to = from >= 0 ? g_open (copy, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666) : -1;
  int code = errno;
  struct stat status;
  gboolean done = FALSE;

  if (to < 0 || fstat (from, &status) != 0)
    tree_fail (from < 0 ? path : copy, from < 0 ? "read" : "written", code, error);
  else
    done = copy_bytes (from, to, copy, (guint64)status.st_size, progress, cancellable, error);
  if (to >= 0)
    close (to);
  if (from >= 0)
    close (from);
  return done;
}

gboolean
tree_copy (const Tree *self, const char *from, const char *to, TreeProgress *progress,
           GCancellable *cancellable, GError **error)
{
  for (guint i = 0; i < self->folders->len; i++)
    {
      g_autofree char *folder = g_build_filename (to, self->folders->pdata[i], NULL);

      if (g_mkdir (folder, 0777) != 0)
        return tree_fail (folder, "made", errno, error);
    }
  for (guint i = 0; i < self->files->len; i++)
    if (!copy_file (from, to, self->files->pdata[i], progress, cancellable, error))
      return FALSE;
  for (guint i = 0; i < self->folders->len; i++)
    {
      g_autofree char *folder = g_build_filename (to, self->folders->pdata[i], NULL);

      tree_sync_folder (folder);
    }
  return TRUE;
}
