/* SPDX-License-Identifier: Apache-2.0 */
#include "app/models.h"

#include "engine/engine.h"

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
