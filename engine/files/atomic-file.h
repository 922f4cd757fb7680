/* SPDX-License-Identifier: Apache-2.0
 *
 * atomic-file.h - a file that appears whole or not at all
 *
 * Bytes go to a file of the same folder that has no name yet, or a temporary one where the file
 * system cannot do that; the commit flushes them to the disk and renames. Until then the file that
 * may have been there stays as it was. A symbolic link stays one: the file behind it is replaced.
 * Folders, devices and pipes are refused.
 */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct _AtomicFile AtomicFile;

/* Errors of all: G_FILE_ERROR_* naming `path` and the cause. */
AtomicFile *atomic_file_new (const char *path, GError **error);
gboolean atomic_file_write (AtomicFile *self, const void *data, gsize bytes, GError **error);
/* Flushes, gives the file its name and frees nothing: call atomic_file_free in every case. */
gboolean atomic_file_commit (AtomicFile *self, GError **error);
/* A text file in one go. Errors as above. */
gboolean atomic_file_put_text (const char *path, const char *text, GError **error);

/* Whether a file could be written there, to say so before hours of work. Errors as above. */
gboolean atomic_file_check (const char *path, GError **error);

/* Removes the temporary file unless it was committed. NULL is a no-op. */
void atomic_file_free (AtomicFile *self);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (AtomicFile, atomic_file_free)

G_END_DECLS
