/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/files/atomic-file.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

struct _AtomicFile
{
  char *path;
  char *temporary; /* NULL once renamed */
  int fd;          /* -1 once closed */
};

static gboolean
fail (AtomicFile *self, int code, GError **error)
{
  g_set_error (error, G_FILE_ERROR, (gint)g_file_error_from_errno (code),
               "%s: cannot be written: %s", self->path, g_strerror (code));
  return FALSE;
}

AtomicFile *
atomic_file_new (const char *path, GError **error)
{
  g_autoptr (AtomicFile) self = g_new0 (AtomicFile, 1);
  g_autofree char *folder = g_path_get_dirname (path);
  g_autofree char *name = g_path_get_basename (path);

  self->path = g_strdup (path);
  self->fd = -1;
  if (g_file_test (path, G_FILE_TEST_IS_DIR))
    {
      fail (self, EISDIR, error);
      return NULL;
    }
  self->temporary = g_strdup_printf ("%s/.%s.XXXXXX", folder, name);
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
  int fd = self->fd;

  if (fsync (fd) != 0)
    return fail (self, errno, error);
  self->fd = -1;
  if (close (fd) != 0)
    return fail (self, errno, error);
  if (g_rename (self->temporary, self->path) != 0)
    return fail (self, errno, error);
  g_clear_pointer (&self->temporary, g_free);
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
  g_free (self);
}

gboolean
atomic_file_put_text (const char *path, const char *text, GError **error)
{
  g_autoptr (AtomicFile) file = atomic_file_new (path, error);

  return file != NULL && atomic_file_write (file, text, strlen (text), error)
         && atomic_file_commit (file, error);
}
