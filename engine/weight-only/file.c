/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/weight-only/file.h"

#include "engine/engine.h"
#include "engine/files/json.h"
#include "kernels/weight-codes.h"

#include <string.h>

#define VERSION      1
#define MAX_METADATA 65536

/* The first name of a linear in codes, or NULL. */
static const char *
find_codes (Safetensors *file)
{
  for (guint i = 0; i < safetensors_count (file); i++)
    if (g_str_has_suffix (safetensors_name (file, i), WEIGHT_ONLY_CODES))
      return safetensors_name (file, i);
  return NULL;
}

static gboolean
read_description (const char *text, const char *path, int *bits, GError **error)
{
  g_autoptr (cJSON) root = NULL;
  int version, group;

  if (strlen (text) > MAX_METADATA)
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL, "%s: its metadata is too long", path);
      return FALSE;
    }
  root = json_parse (text, strlen (text), path, error);
  if (root == NULL || !json_get_int (root, "version", 1, G_MAXINT, path, &version, error)
      || !json_get_int (root, "bits", 1, 64, path, bits, error)
      || !json_get_int (root, "group", 1, G_MAXINT, path, &group, error))
    return FALSE;
  if (version == VERSION && (*bits == 8 || *bits == 4) && group == CODES_GROUP)
    return TRUE;
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
               "%s: a text encoder of version %d, %d bit, groups of %d; this program reads version "
               "%d, 8 and 4 bit, groups of %d",
               path, version, *bits, group, VERSION, CODES_GROUP);
  return FALSE;
}

gboolean
weight_only_read_bits (Safetensors *file, int *bits, GError **error)
{
  const char *text = safetensors_metadata (file, WEIGHT_ONLY_KEY);
  const char *codes = find_codes (file);

  *bits = 0;
  if (text == NULL && codes == NULL)
    return TRUE;
  if (text != NULL && codes != NULL)
    return read_description (text, safetensors_path (file), bits, error);
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
               text == NULL ? "%s: has codes (%s), but nothing says of which kind"
                            : "%s: says that it is a quantised text encoder, but has no codes%.0s",
               safetensors_path (file), codes != NULL ? codes : "");
  return FALSE;
}

char *
weight_only_describe (int bits, const char *source, const char *sha256)
{
  g_autoptr (cJSON) root = cJSON_CreateObject ();
  cJSON *from;

  cJSON_AddNumberToObject (root, "version", VERSION);
  cJSON_AddNumberToObject (root, "bits", bits);
  cJSON_AddNumberToObject (root, "group", CODES_GROUP);
  from = cJSON_AddObjectToObject (root, "source");
  cJSON_AddStringToObject (from, "file", source);
  cJSON_AddStringToObject (from, "sha256", sha256);
  cJSON_AddStringToObject (root, "tool", "tessera " TESSERA_VERSION);
  return json_print (root, FALSE);
}

gboolean
weight_only_has (Safetensors *file, const char *base)
{
  g_autofree char *name = g_strconcat (base, WEIGHT_ONLY_CODES, NULL);
  SafetensorsInfo info;

  return safetensors_info (file, name, &info);
}

int
engine_find_text_encoder_bits (const char *path, GError **error)
{
  g_autoptr (Safetensors) file = safetensors_open (path, error);
  int bits;

  if (file == NULL || !weight_only_read_bits (file, &bits, error))
    return 0;
  if (bits != 0)
    return bits;
  for (guint i = 0; i < safetensors_count (file); i++)
    if (g_str_has_suffix (safetensors_name (file, i), "layers.0.self_attn.q_norm.weight"))
      return 16;
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL, "%s: not a text encoder", path);
  return 0;
}

static gboolean
find_part (Safetensors *file, const char *base, const char *suffix, DType dtype, int64_t rows,
           int64_t columns, Tensor *out, GError **error)
{
  g_autofree char *name = g_strconcat (base, suffix, NULL);
  gboolean there = safetensors_find (file, name, out);

  if (there && out->dtype == dtype && out->rank == 2 && out->shape[0] == rows
      && out->shape[1] == columns)
    return TRUE;
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
               "%s: tensor %s %s %s of shape [%" G_GINT64_FORMAT ", %" G_GINT64_FORMAT "]",
               safetensors_path (file), name, there ? "is not" : "is missing, expected",
               dtype_name (dtype), (gint64)rows, (gint64)columns);
  return FALSE;
}

gboolean
weight_only_find (Safetensors *file, const char *base, int bits, int64_t n, int64_t k,
                  Tensor *codes, Tensor *scales, GError **error)
{
  if (k % CODES_GROUP != 0)
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                   "%s: %s is quantised, but of %" G_GINT64_FORMAT
                   " inputs, which are not whole groups of %d",
                   safetensors_path (file), base, (gint64)k, CODES_GROUP);
      return FALSE;
    }
  return find_part (file, base, WEIGHT_ONLY_CODES, bits == 4 ? DTYPE_U8 : DTYPE_I8, n, k * bits / 8,
                    codes, error)
         && find_part (file, base, WEIGHT_ONLY_SCALES, DTYPE_BF16, n, k / CODES_GROUP, scales,
                       error);
}

gboolean
weight_only_check_scales (Safetensors *file, const char *base, const Tensor *scales, GError **error)
{
  const char *bytes = scales->data;
  int64_t count = tensor_count (scales);
  unsigned found = 0;

  for (int64_t i = 0; i < count; i++)
    {
      uint16_t bits;

      memcpy (&bits, bytes + i * 2, sizeof bits); /* at any address */
      found |= (bits & 0x7f80u) == 0x7f80u;
    }
  if (!found)
    return TRUE;
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
               "%s: %s%s has numbers that are not finite; the file is damaged",
               safetensors_path (file), base, WEIGHT_ONLY_SCALES);
  return FALSE;
}
