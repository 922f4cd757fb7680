/* SPDX-License-Identifier: Apache-2.0 */
#include "app/models/models.h"

#include "engine/engine.h"

#include <string.h>

gboolean
models_is_model (const char *dir)
{
  g_autofree char *index = g_build_filename (dir, "model_index.json", NULL);

  return g_file_test (index, G_FILE_TEST_IS_REGULAR);
}

char *
models_find_builtin (void)
{
  const char *const *folders = g_get_system_data_dirs ();

  for (int i = 0; folders[i] != NULL; i++)
    {
      g_autofree char *dir = g_build_filename (folders[i], "tessera", "models", "sketch", NULL);

      if (models_is_model (dir))
        return g_steal_pointer (&dir);
    }
  if (models_is_model (BUILTIN_MODEL))
    return g_strdup (BUILTIN_MODEL);
  return engine_find_builtin_model (); /* for a program that is not installed */
}

gboolean
models_has_better (const char *dir)
{
#ifdef HAVE_DOWNLOAD
  g_autofree char *builtin = models_find_builtin ();

  return dir != NULL && g_strcmp0 (dir, builtin) == 0;
#else
  return FALSE;
#endif
}

char *
models_find_text_encoder (const char *dir, int bits)
{
  g_autofree char *folder = g_build_filename (dir, "text_encoders", NULL);
  g_autoptr (GDir) names = g_dir_open (folder, 0, NULL);
  g_autofree char *found = NULL;
  const char *name;

  /* Of several the first by name: an order that does not depend on the disk. */
  while (names != NULL && (name = g_dir_read_name (names)) != NULL)
    {
      g_autofree char *path = g_build_filename (folder, name, NULL);

      if (!g_str_has_suffix (name, ".safetensors") || name[0] == '.'
          || (found != NULL && strcmp (path, found) > 0)
          || engine_find_text_encoder_bits (path, NULL) != bits)
        continue;
      g_free (found);
      found = g_steal_pointer (&path);
    }
  return g_steal_pointer (&found);
}

/* It lies beside the built-in model. */
char *
models_find_catalogue (void)
{
  const char *other = g_getenv ("TESSERA_CATALOGUE");
  g_autofree char *builtin = models_find_builtin ();
  g_autofree char *folder = builtin != NULL ? g_path_get_dirname (builtin) : NULL;

  if (other != NULL)
    return g_strdup (other);
  return folder != NULL ? g_build_filename (folder, "catalogue.json", NULL) : NULL;
}

char *
models_choose (GSettings *settings)
{
  g_autofree char *dir = g_settings_get_string (settings, "model");

  return dir[0] != '\0' ? g_steal_pointer (&dir) : models_find_builtin ();
}
