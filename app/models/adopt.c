/* SPDX-License-Identifier: Apache-2.0 */
#include "app/models/adopt.h"

#include "app/fetch/fetch-part.h"

#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

static void
add_folder (GPtrArray *folders, char *folder)
{
  if (g_file_test (folder, G_FILE_TEST_IS_DIR))
    g_ptr_array_add (folders, folder);
  else
    g_free (folder);
}

char **
adopt_list_folders (const char *models_dir, const char *more)
{
  g_autoptr (GPtrArray) folders = g_ptr_array_new ();
  g_autoptr (GDir) dir = g_dir_open (models_dir, 0, NULL);
  const char *hub = g_getenv ("HF_HUB_CACHE"), *hf_home = g_getenv ("HF_HOME"), *name;

  if (more != NULL)
    {
      add_folder (folders, g_strdup (more));
      add_folder (folders, g_build_filename (more, "models", NULL)); /* ComfyUI */
      add_folder (folders, g_build_filename (more, "hub", NULL));    /* Hugging Face */
    }
  if (hub != NULL)
    add_folder (folders, g_strdup (hub));
  else if (hf_home != NULL)
    add_folder (folders, g_build_filename (hf_home, "hub", NULL));
  else
    add_folder (folders, g_build_filename (g_get_user_cache_dir (), "huggingface", "hub", NULL));
  add_folder (folders, g_build_filename (g_get_home_dir (), "ComfyUI", "models", NULL));
  while (dir != NULL && (name = g_dir_read_name (dir)) != NULL)
    add_folder (folders, g_build_filename (models_dir, name, NULL));
  g_ptr_array_add (folders, NULL);
  return (char **)g_ptr_array_free (g_steal_pointer (&folders), FALSE);
}

/* -- candidates ---------------------------------------------------------------------------------
 */

static void
add_snapshots (GPtrArray *paths, const char *folder, const char *source)
{
  g_autofree char *snapshots = g_build_filename (folder, "snapshots", NULL);
  g_autoptr (GDir) dir = g_dir_open (snapshots, 0, NULL);
  const char *commit;

  while (dir != NULL && (commit = g_dir_read_name (dir)) != NULL)
    g_ptr_array_add (paths, g_build_filename (snapshots, commit, source, NULL));
}

/* Hugging Face's cache: models--OWNER--NAME/snapshots/COMMIT/PATH. Owners change their names. */
static void
add_cached (GPtrArray *paths, const char *folder, const CatalogueFile *file)
{
  const char *slash = strchr (file->repository, '/');
  g_autofree char *ending = g_strconcat ("--", slash != NULL ? slash + 1 : file->repository, NULL);
  g_autoptr (GDir) dir = g_dir_open (folder, 0, NULL);
  const char *name;

  while (dir != NULL && (name = g_dir_read_name (dir)) != NULL)
    if (g_str_has_prefix (name, "models--") && g_str_has_suffix (name, ending))
      {
        g_autofree char *repository = g_build_filename (folder, name, NULL);

        add_snapshots (paths, repository, file->source);
      }
}

static GPtrArray *
list_candidates (const char *const *folders, const CatalogueFile *file)
{
  static const char *const kinds[]
      = { "", "diffusion_models", "unet", "text_encoders", "clip", "vae" };
  GPtrArray *paths = g_ptr_array_new_with_free_func (g_free);
  g_autofree char *name = g_path_get_basename (file->source);

  for (guint i = 0; folders[i] != NULL; i++)
    {
      g_ptr_array_add (paths, g_build_filename (folders[i], file->path, NULL));
      g_ptr_array_add (paths, g_build_filename (folders[i], file->source, NULL));
      add_cached (paths, folders[i], file);
      for (guint k = 0; k < G_N_ELEMENTS (kinds); k++)
        g_ptr_array_add (paths, g_build_filename (folders[i], kinds[k], name, NULL));
    }
  return paths;
}

/* FALSE also if it is not there. */
static gboolean
is_same (const char *path, const CatalogueFile *file, const char *sha256, guint64 size,
         GCancellable *cancellable)
{
  const char *expected = file->hash != NULL ? file->hash : sha256;
  const guint64 length = file->size > 0 ? file->size : size;
  g_autofree char *digest = NULL;
  GStatBuf status;

  if (g_stat (path, &status) != 0 || !S_ISREG (status.st_mode)
      || (length > 0 && (guint64)status.st_size != length))
    return FALSE;
  if (expected == NULL)
    return length > 0;
  digest = fetch_file_digest (path, file->hash != NULL ? file->hash_type : G_CHECKSUM_SHA256, NULL,
                              cancellable, NULL);
  return digest != NULL && g_str_equal (digest, expected);
}

char *
adopt_find (const CatalogueFile *file, const char *sha256, guint64 size, const char *const *folders,
            GCancellable *cancellable)
{
  g_autoptr (GPtrArray) candidates = list_candidates (folders, file);

  for (guint i = 0; i < candidates->len && !g_cancellable_is_cancelled (cancellable); i++)
    {
      const char *candidate = g_ptr_array_index (candidates, i);

      if (is_same (candidate, file, sha256, size, cancellable))
        return g_strdup (candidate);
    }
  return NULL;
}

gboolean
adopt_take (const char *from, const char *path, GFileProgressCallback progress, gpointer data,
            GCancellable *cancellable, GError **error)
{
  g_autofree char *real = realpath (from, NULL);
  g_autofree char *part = g_strconcat (path, ".part", NULL);
  g_autoptr (GFile) source = g_file_new_for_path (real != NULL ? real : from);
  g_autoptr (GFile) target = g_file_new_for_path (part);

  fetch_part_discard (path);
  if (real != NULL && link (real, path) == 0)
    return TRUE;
  return g_file_copy (source, target, G_FILE_COPY_OVERWRITE, cancellable, progress, data, error)
         && fetch_part_commit (path, error);
}
