/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/engine/model-copy.h"

#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

static const char *const folders[]
    = { "scheduler", "text_encoder", "tokenizer", "transformer", "vae" };

static const char *const files[] = {
  "model_index.json",
  "scheduler/scheduler_config.json",
  "text_encoder/config.json",
  "text_encoder/model.safetensors",
  "tokenizer/tokenizer.json",
  "transformer/config.json",
  "transformer/diffusion_pytorch_model.safetensors",
  "vae/config.json",
  "vae/diffusion_pytorch_model.safetensors",
};

char *
test_data_path (const char *name)
{
  return g_build_filename (g_getenv ("TESSERA_TEST_DATA"), name, NULL);
}

char *
model_copy_new (void)
{
  g_autoptr (GError) error = NULL;
  char *dir = g_dir_make_tmp ("model-XXXXXX", &error);

  g_assert_no_error (error);
  for (guint i = 0; i < G_N_ELEMENTS (folders); i++)
    {
      g_autofree char *path = g_build_filename (dir, folders[i], NULL);
      g_assert_cmpint (g_mkdir (path, 0700), ==, 0);
    }
  for (guint i = 0; i < G_N_ELEMENTS (files); i++)
    {
      g_autofree char *name = g_build_filename ("tiny-zimage", files[i], NULL);
      g_autofree char *target = test_data_path (name);
      model_copy_replace (dir, files[i], target);
    }
  return dir;
}

static void
remove_contents (const char *dir)
{
  g_autoptr (GDir) listing = g_dir_open (dir, 0, NULL);
  const char *name;

  while (listing != NULL && (name = g_dir_read_name (listing)) != NULL)
    {
      g_autofree char *path = g_build_filename (dir, name, NULL);
      g_unlink (path);
    }
}

void
model_copy_free (char *dir)
{
  for (guint i = 0; i < G_N_ELEMENTS (folders); i++)
    {
      g_autofree char *path = g_build_filename (dir, folders[i], NULL);
      remove_contents (path);
      g_rmdir (path);
    }
  remove_contents (dir);
  g_assert_cmpint (g_rmdir (dir), ==, 0);
  g_free (dir);
}

void
model_copy_replace (const char *dir, const char *file, const char *target)
{
  g_autofree char *path = g_build_filename (dir, file, NULL);

  g_unlink (path);
  if (target != NULL)
    g_assert_cmpint (symlink (target, path), ==, 0);
}

void
model_copy_write (const char *dir, const char *file, const char *text)
{
  g_autofree char *path = g_build_filename (dir, file, NULL);

  g_unlink (path);
  g_assert_true (g_file_set_contents (path, text, -1, NULL));
}

void
model_copy_edit (const char *dir, const char *file, const char *from, const char *to)
{
  g_autofree char *path = g_build_filename (dir, file, NULL);
  g_autofree char *text = NULL;
  g_autoptr (GString) edited = NULL;

  g_assert_true (g_file_get_contents (path, &text, NULL, NULL));
  g_assert_nonnull (strstr (text, from));
  edited = g_string_new (text);
  g_string_replace (edited, from, to, 1);
  model_copy_write (dir, file, edited->str);
}
