/* SPDX-License-Identifier: Apache-2.0
 *
 * journal.h - the file in which unfinished jobs survive
 *
 * One JSON object, replaced as a whole: a reader sees the old list or the new one. Written on a
 * pool thread, so that flushing to a slow disk does not hold the window up.
 */
#pragma once

#include "app/generation/job.h"

G_BEGIN_DECLS

typedef struct _Journal Journal;

/* NULL while another program keeps its jobs there (PATH.lock is locked). */
Journal *journal_new (const char *path);
/* Writes what is left to write, then frees; NULL is a no-op. */
void journal_free (Journal *self);

/* `jobs` (of TesseraJob, borrowed) become the file's content soon. */
void journal_write (Journal *self, GPtrArray *jobs);
gboolean journal_is_writing (Journal *self);

/* The jobs of a journal (transfer full). What is damaged or invalid is left out, and the file kept
 * as PATH.unread; a file that is not there has none. */
GPtrArray *journal_read (const char *path);

G_END_DECLS
