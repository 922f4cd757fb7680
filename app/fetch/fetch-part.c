/* SPDX-License-Identifier: Apache-2.0 */
#include "app/fetch/fetch-part.h"

#include "app/models/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define MAGIC       "TSRAPRT1"
#define MAX_CHUNKS  (1 << 20)
#define SPARE_SPACE (G_GUINT64_CONSTANT (64) << 20) /* a full disk helps nobody */

/* The journal: this, then n_chunks entries. Only this machine reads it, so no byte order. */
typedef struct
{
  char magic[8];
  guint64 size, chunk, n_chunks;
  char boot[48];
  char validator[256];
} Header;

typedef struct
{
  guint32 done;    /* bytes */
  guint32 flushed; /* 1: all of it is on the disk */
} Entry;

struct _FetchPart
{
  char *part, *journal;
  int part_fd, journal_fd;
  Header header;
  Entry *entries;
  GMutex lock; /* over entries */
};

static gboolean
fail (const char *path, int code, GError **error)
{
  if (code == ENOSPC || code == EDQUOT)
    g_set_error (error, G_IO_ERROR, G_IO_ERROR_NO_SPACE, "%s: the disk is full", path);
  else
    g_set_error (error, G_FILE_ERROR, (gint)g_file_error_from_errno (code),
                 "%s: cannot be written: %s", path, g_strerror (code));
  return FALSE;
}

static gboolean
write_at (int fd, const void *data, gsize bytes, guint64 at)
{
  const char *from = data;

  while (bytes > 0)
    {
      gssize written = pwrite (fd, from, bytes, (off_t)at);

      if (written < 0 && errno == EINTR)
        continue;
      if (written <= 0)
        return FALSE;
      from += written;
      at += (guint64)written;
      bytes -= (gsize)written;
    }
  return TRUE;
}

/* Names this run of the machine: the page cache lives as long as it does. */
static void
get_boot (char *out, gsize size)
{
  g_autofree char *text = NULL;

  memset (out, 0, size);
  if (g_file_get_contents ("/proc/sys/kernel/random/boot_id", &text, NULL, NULL))
    g_strlcpy (out, g_strchomp (text), size);
}

static gsize
chunk_length (const FetchPart *self, guint i)
{
  const guint64 start = (guint64)i * self->header.chunk;

  return (gsize)MIN (self->header.chunk, self->header.size - start);
}

/* -- opening ------------------------------------------------------------------------------------
 */

gboolean
fetch_check_space (const char *path, guint64 bytes, GError **error)
{
  g_autofree char *folder = g_path_get_dirname (path);
  g_autofree char *needs = NULL, *has = NULL;
  struct statvfs status;
  guint64 room;

  if (statvfs (folder, &status) != 0)
    return fail (folder, errno, error);
  room = (guint64)status.f_bavail * status.f_frsize;
  if (room >= SPARE_SPACE && room - SPARE_SPACE >= bytes)
    return TRUE;
  needs = g_format_size (bytes + SPARE_SPACE);
  has = g_format_size (room);
  g_set_error (error, G_IO_ERROR, G_IO_ERROR_NO_SPACE, "%s: needs %s, and the disk has %s left",
               path, needs, has);
  return FALSE;
}

/* Takes over the counts of an old journal if all of it makes sense and speaks of the same file. */
static gboolean
read_journal (FetchPart *self, const char *validator)
{
  const gsize bytes = self->header.n_chunks * sizeof (Entry);
  struct stat part, journal;
  Header old;
  gboolean same_boot;

  if (validator == NULL || fstat (self->part_fd, &part) != 0
      || fstat (self->journal_fd, &journal) != 0 || (guint64)part.st_size != self->header.size
      || (guint64)journal.st_size != sizeof old + bytes
      || pread (self->journal_fd, &old, sizeof old, 0) != (gssize)sizeof old
      || pread (self->journal_fd, self->entries, bytes, sizeof old) != (gssize)bytes)
    return FALSE;
  if (memcmp (old.magic, MAGIC, sizeof old.magic) != 0 || old.size != self->header.size
      || old.chunk != self->header.chunk || old.n_chunks != self->header.n_chunks
      || memcmp (old.validator, self->header.validator, sizeof old.validator) != 0)
    return FALSE;
  same_boot = old.boot[0] != '\0' && memcmp (old.boot, self->header.boot, sizeof old.boot) == 0;
  for (guint i = 0; i < self->header.n_chunks; i++)
    {
      Entry *entry = &self->entries[i];

      if (entry->done > chunk_length (self, i))
        return FALSE;
      if (!same_boot && entry->flushed != 1)
        entry->done = 0;
    }
  return TRUE;
}

static gboolean
begin (FetchPart *self, GError **error)
{
  const gsize bytes = self->header.n_chunks * sizeof (Entry);

  memset (self->entries, 0, bytes);
  if (ftruncate (self->journal_fd, 0) != 0 || ftruncate (self->part_fd, 0) != 0)
    return fail (self->part, errno, error);
  if (!fetch_check_space (self->part, self->header.size, error))
    return FALSE;
  if (ftruncate (self->part_fd, (off_t)self->header.size) != 0)
    return fail (self->part, errno, error);
  if (!write_at (self->journal_fd, &self->header, sizeof self->header, 0)
      || !write_at (self->journal_fd, self->entries, bytes, sizeof self->header))
    return fail (self->journal, errno, error);
  return TRUE;
}

/* Room for what is missing: a part has holes where nothing is yet. */
static gboolean
check_missing (FetchPart *self, GError **error)
{
  const guint64 done = fetch_part_done (self);

  return fetch_check_space (self->part, self->header.size - done, error);
}

FetchPart *
fetch_part_open (const char *path, guint64 size, gsize chunk, const char *validator, GError **error)
{
  g_autoptr (FetchPart) self = g_new0 (FetchPart, 1);
  const guint64 n_chunks = (size + chunk - 1) / chunk;

  g_mutex_init (&self->lock);
  self->part = g_strconcat (path, ".part", NULL);
  self->journal = g_strconcat (path, ".part.journal", NULL);
  self->part_fd = self->journal_fd = -1;
  if (n_chunks > MAX_CHUNKS || chunk > G_MAXUINT32)
    {
      g_set_error (error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                   "%s: %" G_GUINT64_FORMAT " bytes are no size of a model's file", path, size);
      return NULL;
    }
  memcpy (self->header.magic, MAGIC, sizeof self->header.magic);
  self->header.size = size;
  self->header.chunk = chunk;
  self->header.n_chunks = n_chunks;
  get_boot (self->header.boot, sizeof self->header.boot);
  if (validator != NULL)
    g_strlcpy (self->header.validator, validator, sizeof self->header.validator);
  self->entries = g_new0 (Entry, n_chunks + 1);
  self->part_fd = g_open (self->part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (self->part_fd < 0 && !fail (self->part, errno, error))
    return NULL;
  self->journal_fd = g_open (self->journal, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (self->journal_fd < 0 && !fail (self->journal, errno, error))
    return NULL;
  if (read_journal (self, validator) ? check_missing (self, error) : begin (self, error))
    return g_steal_pointer (&self);
  return NULL;
}

void
fetch_part_free (FetchPart *self)
{
  if (self == NULL)
    return;
  if (self->part_fd >= 0)
    close (self->part_fd);
  if (self->journal_fd >= 0)
    close (self->journal_fd);
  g_mutex_clear (&self->lock);
  g_free (self->entries);
  g_free (self->part);
  g_free (self->journal);
  g_free (self);
}

/* -- use ----------------------------------------------------------------------------------------
 */

guint
fetch_part_n_chunks (const FetchPart *self)
{
  return (guint)self->header.n_chunks;
}

guint64
fetch_part_done (FetchPart *self)
{
  guint64 sum = 0;

  g_mutex_lock (&self->lock);
  for (guint i = 0; i < self->header.n_chunks; i++)
    sum += self->entries[i].done;
  g_mutex_unlock (&self->lock);
  return sum;
}

void
fetch_part_get_chunk (FetchPart *self, guint i, guint64 *start, gsize *length, gsize *done)
{
  *start = (guint64)i * self->header.chunk;
  *length = chunk_length (self, i);
  g_mutex_lock (&self->lock);
  *done = self->entries[i].done;
  g_mutex_unlock (&self->lock);
}

gboolean
fetch_part_append (FetchPart *self, guint i, const void *data, gsize bytes, GError **error)
{
  const guint64 place = sizeof (Header) + i * sizeof (Entry);
  guint64 start;
  gsize length, done;
  Entry entry;

  fetch_part_get_chunk (self, i, &start, &length, &done);
  g_return_val_if_fail (bytes <= length - done, FALSE);
  if (!write_at (self->part_fd, data, bytes, start + done))
    return fail (self->part, errno, error);
  entry = (Entry){ .done = (guint32)(done + bytes) };
  g_mutex_lock (&self->lock);
  self->entries[i] = entry;
  g_mutex_unlock (&self->lock);
  if (!write_at (self->journal_fd, &entry, sizeof entry, place))
    return fail (self->journal, errno, error);
  if (entry.done < length)
    return TRUE;
  if (fdatasync (self->part_fd) != 0)
    return fail (self->part, errno, error);
  entry.flushed = 1;
  if (!write_at (self->journal_fd, &entry, sizeof entry, place))
    return fail (self->journal, errno, error);
  return TRUE;
}

gboolean
fetch_part_commit (const char *path, GError **error)
{
  g_autofree char *part = g_strconcat (path, ".part", NULL);
  g_autofree char *journal = g_strconcat (path, ".part.journal", NULL);
  int fd = g_open (part, O_RDONLY | O_CLOEXEC | O_NOFOLLOW, 0);
  gboolean flushed = fd >= 0 && fsync (fd) == 0;
  int code = errno;

  if (fd >= 0)
    close (fd);
  if (!flushed)
    return fail (part, code, error);
  if (g_rename (part, path) != 0)
    return fail (path, errno, error);
  g_unlink (journal);
  return TRUE;
}

guint64
fetch_part_bytes (const char *path)
{
  g_autofree char *part = g_strconcat (path, ".part", NULL);
  GStatBuf status;

  if (g_stat (part, &status) != 0)
    return 0;
  return MIN ((guint64)status.st_size, (guint64)status.st_blocks * 512);
}

guint64
fetch_bytes_below (const char *folder)
{
  guint64 bytes = 0;
  Tree tree;

  tree_list (&tree, folder, NULL); /* also a part of the list will do */
  for (guint i = 0; i < tree.files->len; i++)
    {
      g_autofree char *path = g_build_filename (folder, tree.files->pdata[i], NULL);
      GStatBuf status;

      if (g_str_has_suffix (path, ".part"))
        {
          path[strlen (path) - strlen (".part")] = '\0';
          bytes += fetch_part_bytes (path);
        }
      else if (g_stat (path, &status) == 0)
        bytes += (guint64)status.st_size;
    }
  tree_clear (&tree);
  return bytes;
}

void
fetch_part_discard (const char *path)
{
  g_autofree char *part = g_strconcat (path, ".part", NULL);
  g_autofree char *journal = g_strconcat (path, ".part.journal", NULL);

  g_unlink (journal);
  g_unlink (part);
}

char *
fetch_file_digest (const char *path, GChecksumType type, guint64 *done, GCancellable *cancellable,
                   GError **error)
{
  g_autoptr (GChecksum) sum = g_checksum_new (type);
  const gsize size = 1 << 20;
  g_autofree guint8 *buffer = g_malloc (size);
  int fd = g_open (path, O_RDONLY | O_CLOEXEC, 0);
  gssize got = -1;

  while (fd >= 0 && !g_cancellable_set_error_if_cancelled (cancellable, error)
         && (got = read (fd, buffer, size)) > 0)
    {
      g_checksum_update (sum, buffer, got);
      if (done != NULL)
        __atomic_add_fetch (done, (guint64)got, __ATOMIC_RELAXED);
    }
  if (fd >= 0)
    close (fd);
  if (got == 0)
    return g_strdup (g_checksum_get_string (sum));
  if (!g_cancellable_is_cancelled (cancellable))
    g_set_error (error, G_FILE_ERROR, (gint)g_file_error_from_errno (errno),
                 "%s: cannot be read: %s", path, g_strerror (errno));
  return NULL;
}
