/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/svdquant/convert.h"

#include "engine/checkpoint/checkpoint-private.h"
#include "engine/engine.h"
#include "engine/files/json.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define CHUNK (1 << 20)

typedef struct
{
  Safetensors *file;  /* owned */
  SvdqReader *reader; /* owned */
  char *prefix;       /* owned */
  SvdqProgress progress;
  gpointer user_data;
  GCancellable *cancellable;
  guint64 done, total; /* bytes read for the hash, and bytes written */
} Conversion;

static void
conversion_clear (Conversion *self)
{
  svdq_reader_free (self->reader);
  safetensors_free (self->file);
  g_free (self->prefix);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Conversion, conversion_clear)

const char *
svdq_part_name (SvdqPart part)
{
  static const char *const names[SVDQ_N_PARTS]
      = { "qweight", "wscales", "smooth_factor", "proj_down", "proj_up", "wtscale", "wcscales" };

  return names[part];
}

static gboolean
advance (Conversion *self, guint64 bytes, GError **error)
{
  self->done += bytes;
  if (self->progress != NULL)
    self->progress (MIN ((double)self->done / (double)MAX (self->total, 1), 1.0), self->user_data);
  return !g_cancellable_set_error_if_cancelled (self->cancellable, error);
}

/* -- the source's hash ------------------------------------------------------------------------ */

static gboolean
hash_file (Conversion *self, const char *path, GChecksum *sum, GError **error)
{
  g_autofree guchar *chunk = g_malloc (CHUNK);
  FILE *file = fopen (path, "rb");
  gboolean good = file != NULL;
  size_t bytes;

  while (good && (bytes = fread (chunk, 1, CHUNK, file)) > 0)
    {
      g_checksum_update (sum, chunk, (gssize)bytes);
      if (!advance (self, bytes, error))
        {
          fclose (file);
          return FALSE;
        }
    }
  if (file == NULL || ferror (file))
    {
      int code = errno;

      g_set_error (error, G_FILE_ERROR, (gint)g_file_error_from_errno (code), "%s: %s", path,
                   g_strerror (code));
      good = FALSE;
    }
  if (file != NULL)
    fclose (file);
  return good;
}

/* SHA-256 of the file, or of its shards one after the other in the order of their names. */
static char *
hash_source (Conversion *self, GError **error)
{
  g_autoptr (GChecksum) sum = g_checksum_new (G_CHECKSUM_SHA256);
  g_autoptr (GHashTable) seen = g_hash_table_new (g_str_hash, g_str_equal);
  g_autoptr (GList) paths = NULL;
  SafetensorsInfo info;

  for (guint i = 0; i < safetensors_count (self->file); i++)
    if (safetensors_info (self->file, safetensors_name (self->file, i), &info))
      g_hash_table_add (seen, (gpointer)info.file);
  paths = g_list_sort (g_hash_table_get_keys (seen), (GCompareFunc)strcmp);
  for (GList *l = paths; l != NULL; l = l->next)
    if (!hash_file (self, l->data, sum, error))
      return NULL;
  return g_strdup (g_checksum_get_string (sum));
}

/* -- metadata --------------------------------------------------------------------------------- */

char *
svdq_describe_canonical (SvdqFormat format, int rank, const char *source, const char *sha256)
{
  g_autoptr (cJSON) root = cJSON_CreateObject ();
  cJSON *from;

  cJSON_AddNumberToObject (root, "version", 1);
  cJSON_AddStringToObject (root, "vectors", "logical");
  cJSON_AddStringToObject (root, "precision", format == SVDQ_INT4 ? "int4" : "nvfp4");
  cJSON_AddNumberToObject (root, "group", format == SVDQ_INT4 ? 64 : 16);
  cJSON_AddNumberToObject (root, "rank", rank);
  cJSON_AddStringToObject (root, "gate_up", "w1,w3");
  cJSON_AddStringToObject (root, "qkv", "q,k,v");
  from = cJSON_AddObjectToObject (root, "source");
  if (source != NULL)
    cJSON_AddStringToObject (from, "file", source);
  if (sha256 != NULL)
    cJSON_AddStringToObject (from, "sha256", sha256);
  cJSON_AddStringToObject (root, "tool", "tessera " TESSERA_VERSION);
  return json_print (root, FALSE);
}

/* The transformer's config: the file's own, or that of the folder it lies in. */
static char *
find_config (const Conversion *self)
{
  const char *own = safetensors_metadata (self->file, "config");
  g_autofree char *folder = g_path_get_dirname (safetensors_path (self->file));
  g_autofree char *path = g_build_filename (folder, "config.json", NULL);
  char *text = NULL;

  if (own != NULL)
    return g_strdup (own);
  if (g_file_get_contents (path, &text, NULL, NULL) && g_utf8_validate (text, -1, NULL))
    return text;
  g_free (text);
  return NULL;
}

static void
add_metadata (const Conversion *self, SafetensorsWriter *writer, const char *sha256)
{
  g_autofree char *name = g_path_get_basename (safetensors_path (self->file));
  g_autofree char *config = find_config (self);
  g_autofree char *canonical = NULL;
  int rank = 0;

  for (guint i = 0; i < svdq_reader_count (self->reader); i++)
    rank = MAX (rank, svdq_reader_info (self->reader, i).rank);
  canonical
      = svdq_describe_canonical (svdq_reader_info (self->reader, 0).format, rank, name, sha256);
  safetensors_writer_metadata (writer, "svdq_canonical", canonical);
  if (config != NULL)
    safetensors_writer_metadata (writer, "config", config);
}

/* -- tensors ---------------------------------------------------------------------------------- */

static const void *
produce_part (guint index, gpointer user_data, GError **error)
{
  Conversion *self = user_data;
  Tensor t;

  if (!svdq_reader_part (self->reader, index / SVDQ_N_PARTS, (SvdqPart)(index % SVDQ_N_PARTS), &t,
                         error)
      || !advance (self, tensor_bytes (&t), error))
    return NULL;
  return t.data;
}

static const void *
produce_dense (guint index, gpointer user_data, GError **error)
{
  Conversion *self = user_data;
  Tensor t;

  if (!safetensors_find (self->file, safetensors_name (self->file, index), &t)
      || !advance (self, tensor_bytes (&t), error))
    return NULL;
  return t.data;
}

static void
add_linear (Conversion *self, SafetensorsWriter *writer, guint index)
{
  SvdqLinearInfo info = svdq_reader_info (self->reader, index);
  gboolean int4 = info.format == SVDQ_INT4;

  for (int part = 0; part < (int4 ? SVDQ_WTSCALE : SVDQ_N_PARTS); part++)
    {
      g_autofree char *name = g_strconcat (info.base, ".", svdq_part_name ((SvdqPart)part), NULL);
      Tensor t = svdq_reader_shape (self->reader, index, (SvdqPart)part);

      safetensors_writer_add_later (writer, name, t.dtype, t.rank, t.shape, produce_part,
                                    index * SVDQ_N_PARTS + (guint)part, self);
    }
}

static gboolean
add_dense (Conversion *self, SafetensorsWriter *writer, guint index, GError **error)
{
  const char *stored = safetensors_name (self->file, index);
  Tensor t;

  if (!g_str_has_prefix (stored, self->prefix)
      || svdq_reader_base_of (self->reader, stored) != NULL)
    return TRUE;
  if (!safetensors_find (self->file, stored, &t))
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                   "%s: tensor %s has a type or a shape that cannot be copied",
                   safetensors_path (self->file), stored);
      return FALSE;
    }
  safetensors_writer_add_later (writer, stored + strlen (self->prefix), t.dtype, t.rank, t.shape,
                                produce_dense, index, self);
  return TRUE;
}

static gboolean
open_source (Conversion *self, const char *in, GError **error)
{
  g_autofree char *inside = NULL;

  if (g_file_test (in, G_FILE_TEST_IS_DIR))
    {
      inside = checkpoint_find_file (in, CHECKPOINT_TRANSFORMER, error);
      if (inside == NULL)
        return FALSE;
      in = inside;
    }
  self->file = safetensors_open (in, error);
  if (self->file == NULL)
    return FALSE;
  self->prefix = weights_find_prefix (self->file);
  if (!svdq_reader_open (self->file, self->prefix, &self->reader, error))
    return FALSE;
  if (self->reader == NULL)
    g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                 "%s: no SVDQuant weights here (to make some from BF16 weights: quantize)", in);
  return self->reader != NULL;
}

gboolean
svdq_convert (const char *in, const char *out, SvdqProgress progress, gpointer user_data,
              GCancellable *cancellable, GError **error)
{
  g_auto (Conversion) self
      = { .progress = progress, .user_data = user_data, .cancellable = cancellable };
  g_autoptr (SafetensorsWriter) writer = safetensors_writer_new ();
  g_autofree char *sha256 = NULL;

  if (!open_source (&self, in, error))
    return FALSE;
  self.total = 2 * safetensors_bytes (self.file);
  sha256 = hash_source (&self, error);
  if (sha256 == NULL)
    return FALSE;
  add_metadata (&self, writer, sha256);
  for (guint i = 0; i < svdq_reader_count (self.reader); i++)
    add_linear (&self, writer, i);
  for (guint i = 0; i < safetensors_count (self.file); i++)
    if (!add_dense (&self, writer, i, error))
      return FALSE;
  return safetensors_writer_write (writer, out, error);
}
