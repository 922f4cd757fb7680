/* SPDX-License-Identifier: Apache-2.0
 *
 * fetch-part.h - a file that is still being downloaded, and what of it is there already
 *
 * PATH.part has the file's full length from the start; PATH.part.journal says how many bytes of
 * each chunk are in it. The journal is written after the bytes it speaks of, so a program that is
 * killed loses at most one write. After a crash of the whole machine only chunks count that were
 * flushed to the disk before they were noted as such. Any thread may write to its own chunk.
 */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct _FetchPart FetchPart;

/* Opens what is there for a file of `size` bytes whose `validator` (ETag or date) is this one, or
 * begins anew. NULL validator: always anew. Errors: G_FILE_ERROR_*, G_IO_ERROR_NO_SPACE before
 * anything is written if the disk has too little room. */
FetchPart *fetch_part_open (const char *path, guint64 size, gsize chunk, const char *validator,
                            GError **error);
void fetch_part_free (FetchPart *self); /* closes; the files stay. NULL is a no-op */

guint fetch_part_n_chunks (const FetchPart *self);
guint64 fetch_part_done (FetchPart *self); /* bytes that are there */
/* Where chunk `i` begins, how long it is, and how many bytes of it are there. */
void fetch_part_get_chunk (FetchPart *self, guint i, guint64 *start, gsize *length, gsize *done);

/* Appends to chunk `i`; not beyond its end. Errors: G_FILE_ERROR_*, G_IO_ERROR_NO_SPACE. */
gboolean
fetch_part_append (FetchPart *self, guint i, const void *data, gsize bytes, GError **error);

/* Flushes PATH.part to the disk and gives it its name; the journal goes. */
gboolean fetch_part_commit (const char *path, GError **error);

/* Bytes on the disk of what is left of earlier attempts at `path`, which has holes; and of all that
 * is below a folder, of attempts and of files that are whole. */
guint64 fetch_part_bytes (const char *path);
guint64 fetch_bytes_below (const char *folder);

/* Removes what is left of earlier attempts at `path`. */
void fetch_part_discard (const char *path);

/* Digest of the file so far, in lower case hex (transfer full). Errors: G_FILE_ERROR_*,
 * G_IO_ERROR_CANCELLED. `done`: bytes are added to it as they are read, by __atomic; may be NULL.
 */
char *fetch_file_digest (const char *path, GChecksumType type, guint64 *done,
                         GCancellable *cancellable, GError **error);
/* FALSE with G_IO_ERROR_NO_SPACE if the disk of `path` has less than `bytes` to give. */
gboolean fetch_check_space (const char *path, guint64 bytes, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (FetchPart, fetch_part_free)

G_END_DECLS
