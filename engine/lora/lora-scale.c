/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/lora/lora-scale.h"

#include "engine/files/json.h"

#include <math.h>
#include <string.h>

#define MAX_CONFIG (1 << 20)
#define MAX_ALPHA  1e6

struct _LoraScales
{
  Safetensors *file;  /* borrowed */
  cJSON *config;      /* owned; NULL if nothing is said */
  const char *prefix; /* static; of its keys */
};

/* {"transformer.lora_alpha": 16, ...}; text that is no JSON says nothing. */
static void
read_header (LoraScales *self)
{
  const char *text = safetensors_metadata (self->file, "lora_adapter_metadata");

  if (text == NULL || strlen (text) > MAX_CONFIG)
    return;
  self->config = json_parse (text, strlen (text), safetensors_path (self->file), NULL);
  self->prefix = "transformer.";
}

/* {"lora_alpha": 16, ...} */
static gboolean
read_neighbour (LoraScales *self, GError **error)
{
  const char *path = safetensors_path (self->file);
  g_autofree char *name = g_path_get_basename (path);
  g_autofree char *folder = g_path_get_dirname (path);
  g_autofree char *config = g_build_filename (folder, "adapter_config.json", NULL);

  if (!g_str_equal (name, "adapter_model.safetensors") || !g_file_test (config, G_FILE_TEST_EXISTS))
    return TRUE;
  self->config = json_load (config, MAX_CONFIG, error);
  self->prefix = "";
  return self->config != NULL;
}

LoraScales *
lora_scales_new (Safetensors *file, GError **error)
{
  g_autoptr (LoraScales) self = g_new0 (LoraScales, 1);

  self->file = file;
  read_header (self);
  return self->config != NULL || read_neighbour (self, error) ? g_steal_pointer (&self) : NULL;
}

void
lora_scales_free (LoraScales *self)
{
  if (self == NULL)
    return;
  cJSON_Delete (self->config);
  g_free (self);
}

static const cJSON *
setting (const LoraScales *self, const char *key)
{
  g_autofree char *full = g_strconcat (self->prefix != NULL ? self->prefix : "", key, NULL);

  return cJSON_GetObjectItemCaseSensitive (self->config, full);
}

/* The value of the pattern that names the layer: all of its name, or the end behind a dot. */
static const cJSON *
find_pattern (const cJSON *patterns, const char *module)
{
  const cJSON *item;

  cJSON_ArrayForEach (item, patterns)
  {
    gsize length = item->string != NULL ? strlen (item->string) : 0, whole = strlen (module);

    if (length > 0 && g_str_has_suffix (module, item->string)
        && (length == whole || module[whole - length - 1] == '.'))
      return item;
  }
  return NULL;
}

static double
configured_alpha (const LoraScales *self, const char *module, double fallback)
{
  const cJSON *alpha = find_pattern (setting (self, "alpha_pattern"), module);

  if (alpha == NULL)
    alpha = setting (self, "lora_alpha");
  return cJSON_IsNumber (alpha) && alpha->valuedouble > 0.0 && alpha->valuedouble <= MAX_ALPHA
             ? alpha->valuedouble
             : fallback;
}

/* One number of any type that trainers write: some forget to convert Python's own. */
static gboolean
read_number (Safetensors *file, const char *name, double *out)
{
  SafetensorsInfo info;
  Tensor t;

  if (safetensors_find (file, name, &t))
    {
      if (tensor_count (&t) != 1 || t.dtype == DTYPE_F8_E4M3)
        return FALSE;
      *out = tensor_get (&t, 0);
      return TRUE;
    }
  if (!safetensors_info (file, name, &info) || !g_str_equal (info.dtype, "F64")
      || info.bytes != sizeof *out)
    return FALSE;
  memcpy (out, safetensors_data (file, name), sizeof *out);
  return TRUE;
}

gboolean
lora_scales_get (const LoraScales *self, const char *module, const char *alpha, int64_t rank,
                 double *out)
{
  double value = (double)rank;
  gboolean root = FALSE;

  if (alpha != NULL)
    {
      if (!read_number (self->file, alpha, &value))
        return FALSE;
    }
  else if (self->config != NULL)
    {
      value = configured_alpha (self, module, value);
      root = cJSON_IsTrue (setting (self, "use_rslora"));
    }
  *out = value / (root ? sqrt ((double)rank) : (double)rank);
  return isfinite (*out) && fabs (value) <= MAX_ALPHA;
}
