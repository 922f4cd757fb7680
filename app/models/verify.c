/* SPDX-License-Identifier: Apache-2.0 */
#include "app/models/verify.h"

#include "app/fetch/fetch-part.h"

#include <glib/gstdio.h>

#define INDEX "model_index.json"

gboolean
verify_model (const CatalogueModel *model, const char *dir, gboolean mend,
              GCancellable *cancellable, GError **error)
{
  for (guint i = 0; i < model->files->len; i++)
    {
      const CatalogueFile *file = g_ptr_array_index (model->files, i);
      g_autofree char *path = g_build_filename (dir, file->path, NULL);
      g_autofree char *digest = NULL;

      if (!g_file_test (path, G_FILE_TEST_IS_REGULAR))
        {
          g_set_error (error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND, "%s: is missing", path);
          return FALSE;
        }
      if (file->hash == NULL)
        continue;
      digest = fetch_file_digest (path, file->hash_type, cancellable, error);
      if (digest == NULL)
        return FALSE;
      if (g_str_equal (digest, file->hash))
        continue;
      g_set_error (error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                   "%s: the checksum is %s, but %s was published", path, digest, file->hash);
      if (mend)
        {
          g_autofree char *index = g_build_filename (dir, INDEX, NULL);

          g_unlink (index); /* first: without a file it is no model */
          g_unlink (path);
        }
      return FALSE;
    }
  return TRUE;
}
