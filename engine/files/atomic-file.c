/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE /* O_TMPFILE */
#include "engine/files/atomic-file.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

/* Characters that mkstemp replaces, and the longest name of a file on every usual file system. */
#define RANDOM_PART "XXXXXX"
#define MAX_NAME    255

struct _AtomicFile
{
  char *path;      /* as it was asked for */
  char *place;     /* where it comes to lie: behind the symbolic links, if `path` is one */
  char *temporary; /* NULL while the file has no name, and once it has its own */
  int fd;          /* -1 once closed */
};

static gboolean
fail_at (const char *path, int code, GError **error)
{
  g_set_error (error, G_FILE_ERROR, (gint)g_file_error_from_errno (code),
               "%s: cannot be written: %s", path, g_strerror (code));
  return FALSE;
}

static gboolean
fail (AtomicFile *self, int code, GError **error)
{
  return fail_at (self->path, code, error);
}

/* What may be replaced: nothing at all, or a regular file. As root, renaming over /dev/null would
 * work. */
static gboolean
check_place (AtomicFile *self, GError **error)
{
  GStatBuf status;

  if (self->path[0] == '\0')
    g_set_error_literal (error, G_FILE_ERROR, G_FILE_ERROR_INVAL,
                         "the name of the file to write is empty");
  else if (self->place == NULL)
    return fail (self, errno, error);
  else if (g_stat (self->place, &status) != 0)
    return errno == ENOENT || fail (self, errno, error);
  else if (S_ISREG (status.st_mode))
    return TRUE;
  else if (S_ISDIR (status.st_mode))
    return fail (self, EISDIR, error);
  else
    g_set_error (error, G_FILE_ERROR, G_FILE_ERROR_INVAL,
                 "%s: cannot be written: it is not a regular file", self->path);
  return FALSE;
}

/* The file behind the links of `path`, there or not (transfer full); NULL with errno. */
static char *
follow_links (const char *path)
{
  g_autofree char *place = g_strdup (path);

  for (int i = 0; i < 40; i++) /* as often as the kernel does */
    {
      g_autofree char *target = g_file_read_link (place, NULL);
      g_autofree char *folder = g_path_get_dirname (place);

      if (target == NULL)
        return g_steal_pointer (&place);
      g_free (place);
      place = g_path_is_absolute (target) ? g_strdup (target)
                                          : g_build_filename (folder, target, NULL);
    }
  errno = ELOOP;
  return NULL;
}

/* A hidden name in the same folder, ending in `random`; a long name is cut. */
static char *
name_temporary (const char *place, const char *random)
{
  g_autofree char *folder = g_path_get_dirname (place);
  g_autofree char *name = g_path_get_basename (place);
  const int room = MAX_NAME - (int)strlen ("..") - (int)strlen (random);

  return g_strdup_printf ("%s/.%.*s.%s", folder, room, name, random);
}

/* A file without a name goes with the program, however that ends. -1 where the file system has
 * none, or where it could not be given a name later. */
static int
open_unnamed (const char *place)
{
  g_autofree char *folder = g_path_get_dirname (place);
  int fd = g_open (folder, O_RDWR | O_TMPFILE | O_CLOEXEC, 0666);

  if (fd >= 0 && access ("/proc/self/fd", X_OK) != 0)
    {
      close (fd);
      return -1;
    }
  return fd;
}

/* For sandboxes that allow no links: what was written, once more, under a temporary name. */
static gboolean
copy_to_name (AtomicFile *self)
{
  g_autofree char *name = name_temporary (self->place, RANDOM_PART);
  g_autofree char *piece = g_malloc (1 << 20);
  int copy = g_mkstemp_full (name, O_WRONLY | O_CLOEXEC, 0666), unnamed = self->fd;
  gssize got;

  if (copy < 0)
    return FALSE;
  self->fd = copy; /* where atomic_file_write writes */
  self->temporary = g_steal_pointer (&name);
  lseek (unnamed, 0, SEEK_SET);
  while ((got = read (unnamed, piece, 1 << 20)) > 0
         && atomic_file_write (self, piece, (gsize)got, NULL))
    ;
  close (unnamed);
  return got == 0 && fsync (copy) == 0;
}

/* A name beside `place`, which the rename then takes: a link cannot replace a file. */
static gboolean
give_name (AtomicFile *self)
{
  g_autofree char *file = g_strdup_printf ("/proc/self/fd/%d", self->fd);

  for (int i = 0; i < 100; i++)
    {
      g_autofree char *random = g_strdup_printf ("%08x", g_random_int ());
      g_autofree char *name = name_temporary (self->place, random);

      if (linkat (AT_FDCWD, file, AT_FDCWD, name, AT_SYMLINK_FOLLOW) == 0)
        {
          self->temporary = g_steal_pointer (&name);
          return TRUE;
        }
      if (errno != EEXIST)
        break;
    }
  return copy_to_name (self);
}

/* So that a power cut does not take the new name back. A disk that cannot has done its best. */
static void
sync_folder (const char *place)
{
  g_autofree char *folder = g_path_get_dirname (place);
  int fd = g_open (folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);

  if (fd < 0)
    return;
  (void)fsync (fd);
  close (fd);
}

AtomicFile *
atomic_file_new (const char *path, GError **error)
{
  g_autoptr (AtomicFile) self = g_new0 (AtomicFile, 1);

  self->path = g_strdup (path);
  self->place = follow_links (path);
  self->fd = -1;
  if (!check_place (self, error))
    return NULL;
  self->fd = open_unnamed (self->place);
  if (self->fd >= 0)
    return g_steal_pointer (&self);
  self->temporary = name_temporary (self->place, RANDOM_PART);
  self->fd = g_mkstemp_full (self->temporary, O_WRONLY | O_CLOEXEC, 0666);
  if (self->fd < 0)
    {
      int code = errno;

      g_clear_pointer (&self->temporary, g_free);
      fail (self, code, error);
      return NULL;
    }
  return g_steal_pointer (&self);
}

gboolean
atomic_file_write (AtomicFile *self, const void *data, gsize bytes, GError **error)
{
  const char *from = data;

  while (bytes > 0)
    {
      /* One call of write() moves less than 2 GiB. */
      gssize written = write (self->fd, from, MIN (bytes, (gsize)1 << 30));

      if (written < 0 && errno == EINTR)
        continue;
      if (written < 0)
        return fail (self, errno, error);
      from += written;
      bytes -= (gsize)written;
    }
  return TRUE;
}

gboolean
atomic_file_commit (AtomicFile *self, GError **error)
{
  int fd;

  if (fsync (self->fd) != 0 || (self->temporary == NULL && !give_name (self)))
    return fail (self, errno, error);
  fd = self->fd;
  self->fd = -1;
  if (close (fd) != 0)
    return fail (self, errno, error);
  if (g_rename (self->temporary, self->place) != 0)
    return fail (self, errno, error);
  g_clear_pointer (&self->temporary, g_free);
  sync_folder (self->place);
  return TRUE;
}

void
atomic_file_free (AtomicFile *self)
{
  if (self == NULL)
    return;
  if (self->fd >= 0)
    close (self->fd);
  if (self->temporary != NULL)
    g_unlink (self->temporary);
  g_free (self->temporary);
  g_free (self->path);
  g_free (self->place);
  g_free (self);
}

gboolean
atomic_file_check (const char *path, GError **error)
{
  g_autoptr (AtomicFile) file = atomic_file_new (path, error);

  return file != NULL;
}

gboolean
atomic_file_put_text (const char *path, const char *text, GError **error)
{
  g_autoptr (AtomicFile) file = atomic_file_new (path, error);

  return file != NULL && atomic_file_write (file, text, strlen (text), error)
         && atomic_file_commit (file, error);
}
