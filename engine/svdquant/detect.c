/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/svdquant/detect.h"

#include "engine/checkpoint/scaled.h"
#include "engine/engine.h"

#include <string.h>

const char *
svdq_kind_name (SvdqKind kind)
{
  static const char *const names[] = { "dense",         "Tessera canonical",          "Nunchaku",
                                       "Nunchaku Lite", "vllm-omni (vectors packed)", "vllm-omni",
                                       "Comfy kitchen" };

  return names[kind];
}

/* What the names in a file say. */
typedef struct
{
  const char *qweight, *qweight_i32, *net0, *split_q, *kitchen, *modelopt, *scale2, *convrot;
} Signs;

static gboolean
has_dtype (Safetensors *file, const char *name, const char *dtype)
{
  SafetensorsInfo info;

  return safetensors_info (file, name, &info) && g_str_equal (info.dtype, dtype);
}

static char *
format_of (Safetensors *file, const char *name, const char *ending)
{
  g_autofree char *base = g_strndup (name, strlen (name) - strlen (ending));

  return scaled_describe (file, base);
}

/* Descriptions of other formats are for scaled.c, those that cannot be read for check_kitchen. */
static gboolean
is_svdquant_note (Safetensors *file, const char *name)
{
  g_autofree char *format = format_of (file, name, ".comfy_quant");

  return format == NULL || g_str_has_prefix (format, "svdquant");
}

static gboolean
is_described (Safetensors *file, const char *name)
{
  g_autofree char *format = format_of (file, name, ".weight_scale_2");

  return format != NULL;
}

static void
read_sign (Safetensors *file, const char *name, Signs *signs)
{
  if (g_str_has_suffix (name, ".qweight"))
    {
      signs->qweight = name;
      if (has_dtype (file, name, "I32"))
        signs->qweight_i32 = name;
      if (strstr (name, "feed_forward.net.") != NULL)
        signs->net0 = name;
      if (g_str_has_suffix (name, "attention.to_q.qweight"))
        signs->split_q = name;
    }
  else if (g_str_has_suffix (name, ".comfy_quant"))
    signs->kitchen = is_svdquant_note (file, name) ? name : signs->kitchen;
  else if (strstr (name, "svdquant_lora_") != NULL)
    signs->modelopt = name;
  else if (g_str_has_suffix (name, ".weight_scale_2"))
    signs->scale2 = is_described (file, name) ? signs->scale2 : name;
  else if (strstr (name, "convrot") != NULL)
    signs->convrot = name;
}

static gboolean
refuse (Safetensors *file, const char *what, const char *name, GError **error)
{
  g_set_error (
      error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
      "%s: %s (tensor %s), which this program does not read. It reads F32, BF16 and F16 "
      "weights, ComfyUI's FP8, MXFP8, NVFP4 and INT8, SVDQuant files of Nunchaku, Nunchaku "
      "Lite, vllm-omni and Comfy kitchen (natural layout), and its own",
      safetensors_path (file), what, name);
  return FALSE;
}

/* A `.comfy_quant` tensor is a short JSON text: {"format": "svdquant_w4a4", "layout": ...}. */
static gboolean
check_kitchen (Safetensors *file, const char *name, GError **error)
{
  g_autoptr (cJSON) json = NULL;
  g_autofree char *what = NULL;
  const cJSON *format, *layout;
  Tensor t;

  if (!safetensors_find (file, name, &t) || dtype_size (t.dtype) != 1 || tensor_bytes (&t) > 4096)
    return refuse (file, "an unreadable description of quantised weights", name, error);
  json = json_parse (t.data, tensor_bytes (&t), safetensors_path (file), error);
  if (json == NULL)
    return FALSE;
  format = cJSON_GetObjectItemCaseSensitive (json, "format");
  layout = cJSON_GetObjectItemCaseSensitive (json, "layout");
  if (!cJSON_IsString (format) || !g_str_equal (format->valuestring, "svdquant_w4a4"))
    {
      what = g_strdup_printf ("weights of Comfy's format \"%.40s\"",
                              cJSON_IsString (format) ? format->valuestring : "?");
      return refuse (file, what, name, error);
    }
  if (cJSON_IsString (layout) && g_str_equal (layout->valuestring, "kitchen_tile_packed_w4a4"))
    return refuse (file, "Comfy kitchen's tile-packed layout", name, error);
  if (cJSON_IsTrue (cJSON_GetObjectItemCaseSensitive (json, "act_unsigned")))
    return refuse (file, "unsigned activations", name, error);
  return TRUE;
}

static gboolean
check_all_kitchen (Safetensors *file, GError **error)
{
  for (guint i = 0; i < safetensors_count (file); i++)
    {
      const char *name = safetensors_name (file, i);

      if (g_str_has_suffix (name, ".comfy_quant") && !check_kitchen (file, name, error))
        return FALSE;
    }
  return TRUE;
}

gboolean
svdq_detect (Safetensors *file, const char *prefix, SvdqKind *kind, GError **error)
{
  Signs signs = { 0 };

  *kind = SVDQ_DENSE;
  for (guint i = 0; i < safetensors_count (file); i++)
    if (g_str_has_prefix (safetensors_name (file, i), prefix))
      read_sign (file, safetensors_name (file, i), &signs);

  if (signs.modelopt != NULL)
    return refuse (file, "ModelOpt's NVFP4_SVD weights", signs.modelopt, error);
  if (signs.convrot != NULL)
    return refuse (file, "\"convrot\" weights", signs.convrot, error);
  if (signs.kitchen != NULL)
    {
      *kind = SVDQ_KITCHEN;
      return check_all_kitchen (file, error);
    }
  if (signs.scale2 != NULL)
    return refuse (file, "NVFP4 weights without a low-rank branch, and not ComfyUI's", signs.scale2,
                   error);
  if (signs.qweight_i32 != NULL)
    return refuse (file, "AWQ W4A16 weights", signs.qweight_i32, error);
  if (signs.qweight == NULL)
    return TRUE;
  if (safetensors_metadata (file, "svdq_canonical") != NULL)
    *kind = SVDQ_CANONICAL;
  else if (signs.split_q != NULL)
    *kind = SVDQ_LITE;
  else
    *kind = signs.net0 != NULL ? SVDQ_NUNCHAKU : SVDQ_VLLM;
  return TRUE;
}

static gboolean
check_method (const cJSON *entry, const char *path, GError **error)
{
  const cJSON *method = cJSON_GetObjectItemCaseSensitive (entry, "quant_method");

  if (!cJSON_IsString (method) || g_str_equal (method->valuestring, "svdquant")
      || g_str_equal (method->valuestring, "nunchaku_lite"))
    return TRUE;
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
               "%s: quantization_config asks for \"%.40s\"; this program reads BF16 weights and "
               "SVDQuant",
               path, method->valuestring);
  return FALSE;
}

/* The entry of a map by component that the transformer falls under: by name, or the default. */
static const cJSON *
component_entry (const cJSON *map)
{
  const cJSON *entry = cJSON_GetObjectItemCaseSensitive (map, "transformer");

  return entry != NULL ? entry : cJSON_GetObjectItemCaseSensitive (map, "default");
}

gboolean
svdq_check_config (const cJSON *config, const char *path, GError **error)
{
  const cJSON *quantization = cJSON_GetObjectItemCaseSensitive (config, "quantization_config");

  if (!cJSON_IsObject (quantization))
    return TRUE;
  if (cJSON_HasObjectItem (quantization, "quant_method"))
    return check_method (quantization, path, error);
  return check_method (component_entry (quantization), path, error);
}
