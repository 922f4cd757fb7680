/* SPDX-License-Identifier: Apache-2.0
 *
 * tree.h - a folder of plain files and folders, as a model is: listed, copied, deleted
 *
 * Anything else in it (links, devices) is an error, so nothing outside the folder is ever touched.
 */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct
{
  GPtrArray *folders,
      *files; /* char *, paths below the root; folders: "" first, then parents first */
  guint64 bytes;
} Tree;

/* Bytes; only by __atomic while something is copied. */
typedef struct
{
  guint64 done, total;
} TreeProgress;

/* All below `root`. Errors: G_IO_ERROR_NOT_SUPPORTED naming what is no file of a model,
 * G_FILE_ERROR_*. tree_clear also after an error. */
gboolean tree_list (Tree *self, const char *root, GError **error);
void tree_clear (Tree *self);

/* Copies everything from one root to another that must not be there, down to the disk. Errors:
 * G_IO_ERROR_CANCELLED, _NO_SPACE, G_FILE_ERROR_*; then a part of the copy is left. */
gboolean tree_copy (const Tree *self, const char *from, const char *to, TreeProgress *progress,
                    GCancellable *cancellable, GError **error);

/* Deletes from `root` only what `model` has too: what else a person may have put there stays.
 * `whole`: only files of the same length. */
void tree_remove_known (const char *root, const char *model, gboolean whole);

/* Sets an error that says what cannot be done with which file; FALSE. */
gboolean tree_fail (const char *path, const char *what, int code, GError **error);
gboolean tree_is_folder (const char *path); /* itself: a link is none */
void tree_sync_folder (const char *path);   /* to the disk, where the file system can */

G_END_DECLS
