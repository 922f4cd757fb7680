/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/checkpoint/scaled.h"

#include "engine/error.h"
#include "engine/files/json.h"

#include <math.h>
#include <string.h>

#define MAX_DESCRIPTION 4096
#define MAX_METADATA    (1 << 20)
#define MAX_ROTATION    4096
#define MXFP8_BLOCK     32
#define NVFP4_BLOCK     16
#define TILE_ROWS       128
#define TILE_COLUMNS    4

const char *const scaled_companions[] = { ".weight_scale",
                                          ".scale_weight",
                                          ".weight_scale_2",
                                          ".input_scale",
                                          ".scale_input",
                                          ".comfy_quant",
                                          NULL };

static const struct
{
  ScaledKind kind;
  const char *format, *name, *dtype; /* as descriptions, and as people name it */
} kinds[] = {
  { SCALED_E4M3, "float8_e4m3fn", "FP8", "F8_E4M3" },
  { SCALED_E5M2, "float8_e5m2", "FP8", "F8_E5M2" },
  { SCALED_MXFP8, "mxfp8", "MXFP8", "F8_E4M3" },
  { SCALED_NVFP4, "nvfp4", "NVFP4", "U8" },
  { SCALED_INT8, "int8_tensorwise", "INT8", "I8" },
};

/* -- descriptions ------------------------------------------------------------------------------
 */

static cJSON *
read_description_tensor (Safetensors *file, const char *base)
{
  g_autofree char *name = g_strconcat (base, ".comfy_quant", NULL);
  Tensor t;

  if (!safetensors_find (file, name, &t) || dtype_size (t.dtype) != 1
      || tensor_bytes (&t) > MAX_DESCRIPTION)
    return NULL;
  return json_parse (t.data, tensor_bytes (&t), safetensors_path (file), NULL);
}

/* {"layers": {BASE: {"format": ...}}}, where bases may lack the prefix that the names have. */
static cJSON *
read_description_metadata (Safetensors *file, const char *base)
{
  const char *text = safetensors_metadata (file, "_quantization_metadata");
  gsize length = text != NULL ? strlen (text) : 0;
  g_autoptr (cJSON) json = NULL;
  const cJSON *layers, *found;

  if (text == NULL || length > MAX_METADATA || strstr (text, "layers") == NULL)
    return NULL;
  json = json_parse (text, length, safetensors_path (file), NULL);
  layers = cJSON_GetObjectItemCaseSensitive (json, "layers");
  found = cJSON_GetObjectItemCaseSensitive (layers, base);
  for (const char *dot = base; found == NULL && (dot = strchr (dot, '.')) != NULL;)
    found = cJSON_GetObjectItemCaseSensitive (layers, ++dot);
  return found != NULL ? cJSON_Duplicate (found, TRUE) : NULL;
}

static cJSON *
read_description (Safetensors *file, const char *base)
{
  cJSON *json = read_description_tensor (file, base);

  return json != NULL ? json : read_description_metadata (file, base);
}

static const char *
format_of (const cJSON *description)
{
  const cJSON *format = cJSON_GetObjectItemCaseSensitive (description, "format");

  return cJSON_GetStringValue (format != NULL ? format : description);
}

char *
scaled_describe (Safetensors *file, const char *base)
{
  g_autoptr (cJSON) description = read_description (file, base);

  return g_strdup (format_of (description));
}

static int
read_rotation (const cJSON *description)
{
  const cJSON *of[] = { description, cJSON_GetObjectItemCaseSensitive (description, "params") };

  for (int i = 0; i < 2; i++)
    {
      const cJSON *size = cJSON_GetObjectItemCaseSensitive (of[i], "convrot_groupsize");

      if (cJSON_IsTrue (cJSON_GetObjectItemCaseSensitive (of[i], "convrot")))
        return cJSON_IsNumber (size) ? size->valueint : 256;
    }
  return 0;
}

/* -- finding ------------------------------------------------------------------------------------
 */

typedef struct
{
  Safetensors *file;
  const char *name;
  char *base; /* owned */
  SafetensorsInfo info;
  cJSON *description; /* owned; NULL if there is none */
  GError **error;
} Finder;

gboolean
scaled_is_type (const char *dtype)
{
  return !g_str_equal (dtype, "F32") && !g_str_equal (dtype, "BF16") && !g_str_equal (dtype, "F16");
}

static gboolean
find_kind (Finder *self, ScaledWeight *out)
{
  const char *format = format_of (self->description), *dtype = self->info.dtype;

  if (format == NULL && g_str_has_prefix (dtype, "F8_E"))
    format = g_str_equal (dtype, "F8_E5M2") ? "float8_e5m2" : "float8_e4m3fn";
  for (guint i = 0; i < G_N_ELEMENTS (kinds); i++)
    if (g_strcmp0 (kinds[i].format, format) == 0)
      {
        out->kind = kinds[i].kind;
        /* FP8 may lie in a container of bytes. */
        if (g_str_equal (dtype, kinds[i].dtype)
            || (out->kind <= SCALED_MXFP8 && g_str_equal (dtype, "U8")))
          return TRUE;
      }
  if (format == NULL)
    return FALSE;
  return error_fail_model (
      self->error, safetensors_path (self->file),
      "tensor %s has type %s and the format \"%.40s\", which this program does "
      "not read",
      self->name, dtype, format);
}

static gboolean
find_companion (Finder *self, const char *ending, Tensor *out)
{
  g_autofree char *name = g_strconcat (self->base, ending, NULL);
  SafetensorsInfo info;

  *out = (Tensor){ 0 };
  if (safetensors_find (self->file, name, out))
    return TRUE;
  /* E8M0 is no type of a Tensor: its bytes. */
  if (!safetensors_info (self->file, name, &info) || info.rank != 2
      || !g_str_equal (info.dtype, "F8_E8M0"))
    return FALSE;
  *out = tensor_2d (DTYPE_U8, (void *)safetensors_data (self->file, name), info.shape[0],
                    info.shape[1]);
  return TRUE;
}

static gboolean
is_number (const Tensor *t)
{
  return t->dtype == DTYPE_F32 || t->dtype == DTYPE_BF16 || t->dtype == DTYPE_F16;
}

static gboolean
refuse_scales (Finder *self)
{
  return error_fail_model (self->error, safetensors_path (self->file),
                           "the scales of tensor %s have a type or shape that does not fit it",
                           self->name);
}

/* One for all, one a row, or equal blocks of each row. */
static gboolean
find_plain_scales (Finder *self, ScaledWeight *out)
{
  int64_t rows = out->shape.shape[0], count;

  if (!find_companion (self, ".weight_scale", &out->scale)
      && !find_companion (self, ".scale_weight", &out->scale))
    return out->kind != SCALED_INT8 || refuse_scales (self);
  count = tensor_count (&out->scale);
  if (!is_number (&out->scale) || count < 1)
    return refuse_scales (self);
  if (count == 1)
    return TRUE;
  out->per_row = count / rows;
  if (out->shape.rank != 2 || count % rows != 0 || out->shape.shape[1] % out->per_row != 0)
    return refuse_scales (self);
  return TRUE;
}

static gboolean
find_tiled_scales (Finder *self, ScaledWeight *out, int64_t block, DType dtype)
{
  int64_t rows = out->shape.shape[0], columns = out->shape.shape[1] / block;
  int64_t tiles
      = (rows + TILE_ROWS - 1) / TILE_ROWS * ((columns + TILE_COLUMNS - 1) / TILE_COLUMNS);

  if (out->shape.rank != 2 || out->shape.shape[1] % block != 0
      || !find_companion (self, ".weight_scale", &out->scale) || out->scale.dtype != dtype
      || tensor_count (&out->scale) != tiles * TILE_ROWS * TILE_COLUMNS)
    return refuse_scales (self);
  out->per_row = columns;
  return TRUE;
}

static gboolean
find_global_scale (Finder *self, ScaledWeight *out)
{
  Tensor scale;

  if (!find_companion (self, ".weight_scale_2", &scale) || !is_number (&scale)
      || tensor_count (&scale) != 1 || !isfinite (tensor_get (&scale, 0)))
    return refuse_scales (self);
  out->global = tensor_get (&scale, 0);
  return TRUE;
}

static gboolean
find_rotation (Finder *self, ScaledWeight *out)
{
  int size = read_rotation (self->description), power = 4;

  if (size == 0)
    return TRUE;
  while (power < size && power < MAX_ROTATION)
    power *= 4;
  if (out->shape.rank != 2 || power != size || out->shape.shape[1] % size != 0)
    return error_fail_model (self->error, safetensors_path (self->file),
                             "tensor %s was rotated in groups of %d, which do not fit it",
                             self->name, size);
  out->rotation = size;
  return TRUE;
}

static gboolean
find_all_scales (Finder *self, ScaledWeight *out)
{
  switch (out->kind)
    {
    case SCALED_MXFP8:
      return find_tiled_scales (self, out, MXFP8_BLOCK, DTYPE_U8);
    case SCALED_NVFP4:
      return find_tiled_scales (self, out, NVFP4_BLOCK, DTYPE_F8_E4M3)
             && find_global_scale (self, out);
    case SCALED_INT8:
      return find_plain_scales (self, out) && find_rotation (self, out);
    case SCALED_E4M3:
    case SCALED_E5M2:
      return find_plain_scales (self, out);
    }
  return FALSE;
}

static gboolean
find_weight (Finder *self, ScaledWeight *out)
{
  Tensor smoothing;

  if (!find_kind (self, out))
    return FALSE;
  if (self->info.rank < 1 || self->info.rank > TENSOR_MAX_RANK || self->info.shape[0] < 1)
    return error_fail_model (self->error, safetensors_path (self->file),
                             "tensor %s of type %s has %d axes", self->name, self->info.dtype,
                             self->info.rank);
  if (find_companion (self, ".pre_quant_scale", &smoothing))
    return error_fail_model (
        self->error, safetensors_path (self->file),
        "tensor %s has smoothing factors (pre_quant_scale), which this program "
        "does not read",
        self->name);
  out->shape = (Tensor){ DTYPE_BF16, self->info.rank, { 1, 1, 1, 1 }, NULL };
  for (int i = 0; i < self->info.rank; i++)
    out->shape.shape[i] = self->info.shape[i];
  if (out->kind == SCALED_NVFP4)
    out->shape.shape[out->shape.rank - 1] *= 2;
  out->codes = safetensors_data (self->file, self->name);
  return find_all_scales (self, out);
}

gboolean
scaled_find (Safetensors *file, const char *name, ScaledWeight *out, GError **error)
{
  Finder finder = { .file = file, .name = name, .error = error };
  gboolean found;

  *out = (ScaledWeight){ .global = 1.0f };
  if (!safetensors_info (file, name, &finder.info) || !scaled_is_type (finder.info.dtype))
    return FALSE;
  finder.base = g_strdup (name);
  if (g_str_has_suffix (name, ".weight"))
    finder.base[strlen (name) - strlen (".weight")] = '\0';
  finder.description = read_description (file, finder.base);
  found = find_weight (&finder, out);
  cJSON_Delete (finder.description);
  g_free (finder.base);
  return found;
}

const char *
scaled_format (Safetensors *file)
{
  for (guint i = 0; i < safetensors_count (file); i++)
    {
      const char *name = safetensors_name (file, i);
      ScaledWeight weight;

      if (!g_str_has_suffix (name, ".weight") || !scaled_find (file, name, &weight, NULL))
        continue;
      for (guint k = 0; k < G_N_ELEMENTS (kinds); k++)
        if (kinds[k].kind == weight.kind)
          return kinds[k].name;
    }
  return NULL;
}

gboolean
scaled_is_note (const char *name)
{
  return g_str_equal (name, "scaled_fp8") || g_str_has_suffix (name, ".comfy_attention.config");
}

/* -- numbers ------------------------------------------------------------------------------------
 */

gboolean
scaled_check (const ScaledWeight *self, Safetensors *file, const char *name, GError **error)
{
  int64_t count = self->scale.data != NULL ? tensor_count (&self->scale) : 0;
  gboolean good = TRUE;

  if (self->kind == SCALED_MXFP8) /* 255 is NaN */
    good = count == 0 || memchr (self->scale.data, 0xff, (gsize)count) == NULL;
  else
    for (int64_t i = 0; i < count; i++)
      good = good && isfinite (tensor_get (&self->scale, i));
  return good
         || error_fail_model (error, safetensors_path (file),
                              "a scale of tensor %s is infinite or NaN", name);
}

/* What each code stands for; of NVFP4 those of 4 bits. */
static void
fill_values (ScaledKind kind, float values[256])
{
  static const float e2m1[] = { 0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f };

  for (int code = 0; code < 256; code++)
    switch (kind)
      {
      case SCALED_E4M3:
      case SCALED_MXFP8:
        values[code] = e4m3_to_float ((uint8_t)code);
        break;
      case SCALED_E5M2: /* the upper byte of an F16 */
        values[code] = f16_to_float ((uint16_t)(code << 8));
        break;
      case SCALED_NVFP4:
        values[code] = code & 8 ? -e2m1[code & 7] : e2m1[code & 7];
        break;
      case SCALED_INT8:
        values[code] = (float)(int8_t)code;
        break;
      }
}

/* Scale number `column` of a row. */
static float
scale_at (const ScaledWeight *self, int64_t row, int64_t column)
{
  int64_t across = (self->per_row + TILE_COLUMNS - 1) / TILE_COLUMNS, at;

  if (self->scale.data == NULL)
    return 1.0f;
  if (self->per_row == 0)
    return tensor_get (&self->scale, 0);
  if (self->kind != SCALED_MXFP8 && self->kind != SCALED_NVFP4)
    return tensor_get (&self->scale, row * self->per_row + column);
  at = (row / TILE_ROWS * across + column / TILE_COLUMNS) * TILE_ROWS * TILE_COLUMNS + row % 32 * 16
       + row % TILE_ROWS / 32 * TILE_COLUMNS + column % TILE_COLUMNS;
  if (self->kind == SCALED_MXFP8)
    return ldexpf (1.0f, ((const uint8_t *)self->scale.data)[at] - 127);
  return tensor_get (&self->scale, at) * self->global;
}

/* Multiplies by the Hadamard matrix that is a Kronecker power of
 * [[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]] / 2, which is its own inverse. */
static void
rotate (float *x, int size)
{
  for (int stride = 1; stride < size; stride *= 4)
    for (int i = 0; i < size; i++)
      if (i / stride % 4 == 0)
        {
          float *at = x + i, a = at[0], b = at[stride], c = at[2 * stride], d = at[3 * stride];
          float sum = (a + b + c + d) / 2.0f;

          at[0] = sum - d;
          at[stride] = sum - c;
          at[2 * stride] = sum - b;
          at[3 * stride] = sum - a;
        }
}

static void
expand_row (const ScaledWeight *self, const float values[256], int64_t row, int64_t width,
            float *out)
{
  int64_t blocks = MAX (self->per_row, 1), block = width / blocks;
  gboolean pairs = self->kind == SCALED_NVFP4;
  const uint8_t *codes = self->codes + row * (pairs ? width / 2 : width);

  for (int64_t b = 0; b < blocks; b++)
    {
      float scale = scale_at (self, row, b);

      for (int64_t i = b * block; i < (b + 1) * block; i++)
        {
          int code = pairs ? codes[i / 2] >> (i % 2 == 0 ? 4 : 0) & 15 : codes[i];

          out[i] = values[code] * scale;
        }
    }
  for (int64_t i = 0; self->rotation > 0 && i < width; i += self->rotation)
    rotate (out + i, self->rotation);
}

void
scaled_expand (const ScaledWeight *self, int64_t first, int64_t rows, uint16_t *out)
{
  int64_t width = tensor_count (&self->shape) / self->shape.shape[0];
  g_autofree float *row = g_new (float, (gsize)width);
  float values[256];

  fill_values (self->kind, values);
  for (int64_t r = 0; r < rows; r++)
    {
      expand_row (self, values, first + r, width, row);
      for (int64_t i = 0; i < width; i++)
        out[r * width + i] = bf16_from_float (row[i]);
    }
}
