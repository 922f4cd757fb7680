/* SPDX-License-Identifier: Apache-2.0 */
#include "app/lora/lora-folder.h"

#include "engine/checkpoint/inspection.h"
#include "engine/engine.h"
#include "engine/files/atomic-file.h"

#include <string.h>

#define ENDING    ".safetensors"
#define PIECE     ((gsize)1 << 20) /* bytes copied at a time */
#define MAX_NAMES 100              /* tried for a file whose own is taken */

char *
lora_folder_get (void)
{
  return g_build_filename (g_get_user_data_dir (), "tessera", "loras", NULL);
}

char *
lora_folder_of_model (const char *model_dir)
{
  return g_build_filename (model_dir, "loras", NULL);
}

static int
compare_names (gconstpointer a, gconstpointer b)
{
  return strcmp (*(const char *const *)a, *(const char *const *)b);
}

char **
lora_folder_list (const char *folder)
{
  g_autoptr (GPtrArray) names = g_ptr_array_new ();
  g_autoptr (GDir) dir = g_dir_open (folder, 0, NULL);
  const char *name;

  /* Names go into settings and pictures as text. */
  while (dir != NULL && (name = g_dir_read_name (dir)) != NULL)
    if (name[0] != '.' && g_str_has_suffix (name, ENDING) && g_utf8_validate (name, -1, NULL))
      g_ptr_array_add (names, g_strdup (name));
  g_ptr_array_sort (names, compare_names);
  g_ptr_array_add (names, NULL);
  return (char **)g_ptr_array_free (g_steal_pointer (&names), FALSE);
}

/* -- adding -------------------------------------------------------------------------------------
 */

/* A look at the header: what is certainly none need not be copied. */
static gboolean
check_kind (const char *path, GError **error)
{
  g_autoptr (Inspection) inspection = inspection_new (path, error);
  const InspectionPart *part;

  if (inspection == NULL)
    return FALSE;
  part = inspection->parts->len > 0 ? inspection->parts->pdata[0] : NULL;
  if (part != NULL && g_strcmp0 (part->kind, "LoRA") == 0)
    return TRUE;
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL, "%s is no LoRA: it is a %s", path,
               part != NULL ? part->kind : inspection->kind);
  return FALSE;
}

static GInputStream *
open_file (const char *path, GCancellable *cancellable, GError **error)
{
  g_autoptr (GFile) file = g_file_new_for_path (path);

  return G_INPUT_STREAM (g_file_read (file, cancellable, error));
}

/* Same length and bytes; FALSE also if one cannot be read. */
static gboolean
are_same (const char *a, const char *b, GCancellable *cancellable)
{
  g_autoptr (GInputStream) first = open_file (a, cancellable, NULL);
  g_autoptr (GInputStream) second = open_file (b, cancellable, NULL);
  g_autofree guint8 *pieces = g_malloc (2 * PIECE);
  gsize read[2] = { 1, 1 };

  if (first == NULL || second == NULL)
    return FALSE;
  while (read[0] > 0)
    if (!g_input_stream_read_all (first, pieces, PIECE, &read[0], cancellable, NULL)
        || !g_input_stream_read_all (second, pieces + PIECE, PIECE, &read[1], cancellable, NULL)
        || read[0] != read[1] || memcmp (pieces, pieces + PIECE, read[0]) != 0)
      return FALSE;
  return TRUE;
}

static gboolean
copy (const char *from, const char *to, GCancellable *cancellable, GError **error)
{
  g_autoptr (GInputStream) in = open_file (from, cancellable, error);
  g_autoptr (AtomicFile) out = in != NULL ? atomic_file_new (to, error) : NULL;
  g_autofree guint8 *piece = g_malloc (PIECE);
  gsize read = 1;

  while (out != NULL && read > 0)
    if (!g_input_stream_read_all (in, piece, PIECE, &read, cancellable, error)
        || !atomic_file_write (out, piece, read, error))
      return FALSE;
  return out != NULL && atomic_file_commit (out, error);
}

/* "style.safetensors", "style 2.safetensors", ... (transfer full) */
static char *
nth_name (const char *name, guint n)
{
  g_autofree char *stem = g_strndup (name, strlen (name) - strlen (ENDING));

  return n == 1 ? g_strdup (name) : g_strdup_printf ("%s %u" ENDING, stem, n);
}

/* The name under which `path` is in `folder` now (transfer full). */
static char *
add (const char *folder, const char *path, GCancellable *cancellable, GError **error)
{
  g_autofree char *own = g_path_get_basename (path);
  g_autofree char *text = g_utf8_make_valid (own, -1);

  if (!g_str_has_suffix (text, ENDING))
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL, "%s does not end in " ENDING, path);
      return NULL;
    }
  if (!check_kind (path, error))
    return NULL;
  g_mkdir_with_parents (folder, 0700);
  for (guint n = 1; n <= MAX_NAMES; n++)
    {
      g_autofree char *name = nth_name (text, n);
      g_autofree char *to = g_build_filename (folder, name, NULL);

      if (!g_file_test (to, G_FILE_TEST_EXISTS))
        return copy (path, to, cancellable, error) ? g_steal_pointer (&name) : NULL;
      if (are_same (path, to, cancellable))
        return g_steal_pointer (&name);
    }
  g_set_error (error, G_IO_ERROR, G_IO_ERROR_EXISTS, "%s has too many files named like %s", folder,
               text);
  return NULL;
}

static void
add_in_thread (GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
  g_autofree char *path = g_file_get_path (data);
  const char *folder = g_object_get_data (G_OBJECT (task), "folder");
  GError *error = NULL;
  char *name = NULL;

  if (path != NULL)
    name = add (folder, path, cancellable, &error);
  else
    g_set_error_literal (&error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                         "the file is not on this computer");
  if (name != NULL)
    g_task_return_pointer (task, name, g_free);
  else
    g_task_return_error (task, error);
}

void
lora_folder_add_async (const char *folder, GFile *file, GCancellable *cancellable,
                       GAsyncReadyCallback callback, gpointer data)
{
  g_autoptr (GTask) task = g_task_new (NULL, cancellable, callback, data);

  g_task_set_source_tag (task, lora_folder_add_async);
  g_task_set_task_data (task, g_object_ref (file), g_object_unref);
  g_object_set_data_full (G_OBJECT (task), "folder", g_strdup (folder), g_free);
  g_task_run_in_thread (task, add_in_thread);
}

char *
lora_folder_add_finish (GAsyncResult *result, GError **error)
{
  return g_task_propagate_pointer (G_TASK (result), error);
}

void
lora_folder_remove (const char *folder, const char *name)
{
  g_autofree char *path = g_build_filename (folder, name, NULL);
  g_autoptr (GFile) file = g_file_new_for_path (path);

  if (!g_file_trash (file, NULL, NULL))
    g_file_delete (file, NULL, NULL);
}
