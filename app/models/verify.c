/* SPDX-License-Identifier: Apache-2.0 */
#include "app/models/verify.h"

#include "app/fetch/fetch-part.h"

#include <glib/gstdio.h>

#define INDEX "model_index.json"

/* Of the files that can be compared with anything. */
static guint64
bytes_to_read (const CatalogueModel *model, const char *dir)
{
  guint64 bytes = 0;

  for (guint i = 0; i < model->files->len; i++)
    {
      const CatalogueFile *file = g_ptr_array_index (model->files, i);
      g_autofree char *path = g_build_filename (dir, file->path, NULL);
      GStatBuf status;

      if (file->hash != NULL && g_stat (path, &status) == 0)
        bytes += status.st_size;
    }
  return bytes;
}

/* FALSE with an error if it is not what was published. */
static gboolean
check_file (const CatalogueFile *file, const char *path, guint64 *done, GCancellable *cancellable,
            GError **error)
{
  g_autofree char *digest = NULL;

  if (!g_file_test (path, G_FILE_TEST_IS_REGULAR))
    {
      g_set_error (error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND, "%s: is missing", path);
      return FALSE;
    }
  if (file->hash == NULL)
    return TRUE;
  digest = fetch_file_digest (path, file->hash_type, done, cancellable, error);
  if (digest == NULL)
    return FALSE;
  if (g_str_equal (digest, file->hash))
    return TRUE;
  g_set_error (error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
               "%s: the checksum is %s, but %s was published", path, digest, file->hash);
  return FALSE;
}

static gboolean
can_be_mended (const GError *error)
{
  return g_error_matches (error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA)
         || g_error_matches (error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND);
}

gboolean
verify_model (const CatalogueModel *model, const char *dir, gboolean mend, TreeProgress *progress,
              GCancellable *cancellable, GError **error)
{
  g_autoptr (GPtrArray) wrong = g_ptr_array_new_with_free_func (g_free);
  g_autofree char *index = g_build_filename (dir, INDEX, NULL);
  g_autoptr (GError) first = NULL;

  __atomic_store_n (&progress->total, bytes_to_read (model, dir), __ATOMIC_RELAXED);
  __atomic_store_n (&progress->done, 0, __ATOMIC_RELAXED);
  for (guint i = 0; i < model->files->len; i++)
    {
      const CatalogueFile *file = g_ptr_array_index (model->files, i);
      g_autofree char *path = g_build_filename (dir, file->path, NULL);
      g_autoptr (GError) problem = NULL;

      if (check_file (file, path, &progress->done, cancellable, &problem))
        continue;
      if (!can_be_mended (problem))
        {
          g_propagate_error (error, g_steal_pointer (&problem));
          return FALSE;
        }
      g_ptr_array_add (wrong, g_steal_pointer (&path));
      if (first == NULL)
        first = g_steal_pointer (&problem);
    }
  if (first == NULL)
    return TRUE;
  if (mend)
    g_unlink (index); /* before the others: without a file it is no model */
  for (guint i = 0; mend && i < wrong->len; i++)
    g_unlink (wrong->pdata[i]);
  g_propagate_error (error, g_steal_pointer (&first));
  return FALSE;
}
