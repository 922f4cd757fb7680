/* SPDX-License-Identifier: Apache-2.0
 *
 * safetensors.h - mapped weight files and their index
 *
 * A Safetensors is one file, or the shards that an index file names, mapped read-only. Headers
 * are checked before anything is used: length, JSON, dtypes, shape products against overflow,
 * every offset against the file, no two tensors overlapping (spec z-image 1.3). Data is never
 * copied; views live as long as the Safetensors.
 */
#pragma once

#include "kernels/tensor.h"

#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct _Safetensors Safetensors;

/* `path`: a .safetensors file or a .safetensors.index.json. Errors: ENGINE_ERROR_MODEL or
 * G_FILE_ERROR_*, each naming the file (and the shard or tensor) and the cause. */
Safetensors *safetensors_open (const char *path, GError **error);
void safetensors_free (Safetensors *self); /* NULL is a no-op */

/* FALSE with ENGINE_ERROR_CHANGED if somebody has written into a file that is mapped: what was read
 * of its header need not hold any longer, and reading beyond a new end kills the program. */
gboolean safetensors_check_unchanged (Safetensors *self, GError **error);

/* A view of `name`; FALSE if there is none. Tensors of more than 4 axes cannot be viewed. */
gboolean safetensors_find (Safetensors *self, const char *name, Tensor *out);

/* The bytes of `name`, of whichever type, where they lie in the file: at any address. NULL if there
 * is none. */
const void *safetensors_data (Safetensors *self, const char *name);

guint safetensors_count (Safetensors *self);
/* Names in file order, borrowed; index < safetensors_count. */
const char *safetensors_name (Safetensors *self, guint index);
/* Value of `key` in `__metadata__`, borrowed, or NULL. */
const char *safetensors_metadata (Safetensors *self, const char *key);
guint64 safetensors_bytes (Safetensors *self); /* payload of all shards */

/* What the header says of a tensor, viewable or not. All pointers are borrowed. */
typedef struct
{
  const char *dtype; /* as the file spells it, known here or not */
  const char *file;  /* path of the shard it lies in */
  int rank;          /* 0 to 8 */
  int64_t shape[8];
  guint64 bytes;
} SafetensorsInfo;

/* FALSE if there is no tensor `name`. */
gboolean safetensors_info (Safetensors *self, const char *name, SafetensorsInfo *out);
const char *safetensors_path (Safetensors *self);

/* An index without a file, for a model that is made up: `label` stands where a path would, and
 * tensors are views of memory that outlives it. */
Safetensors *safetensors_new_borrowed (const char *label);
void safetensors_add_borrowed (Safetensors *self, const char *name, const Tensor *tensor);
void safetensors_set_borrowed_metadata (Safetensors *self, const char *key,
                                        const char *value); /* copied */

/* Writes tensors to `path` under a temporary name and renames. Metadata pairs may be NULL (keys
 * and values alternate, NULL ends). */
typedef struct _SafetensorsWriter SafetensorsWriter;
SafetensorsWriter *safetensors_writer_new (void);
/* Adds a tensor; the data is borrowed until _write returns. rank 0..8 by `shape`. */
void safetensors_writer_add (SafetensorsWriter *self, const char *name, DType dtype, int rank,
                             const int64_t *shape, const void *data);
/* As _add, for data that need not be in memory all at once: `produce` is called while the file is
 * written, in any order of `index`; what it returns must live until its next call. NULL with an
 * error stops the writing. */
typedef const void *(*SafetensorsProduce) (guint index, gpointer user_data, GError **error);
void safetensors_writer_add_later (SafetensorsWriter *self, const char *name, DType dtype, int rank,
                                   const int64_t *shape, SafetensorsProduce produce, guint index,
                                   gpointer user_data);
void safetensors_writer_metadata (SafetensorsWriter *self, const char *key, const char *value);
gboolean safetensors_writer_write (SafetensorsWriter *self, const char *path, GError **error);
void safetensors_writer_free (SafetensorsWriter *self);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Safetensors, safetensors_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC (SafetensorsWriter, safetensors_writer_free)

G_END_DECLS
