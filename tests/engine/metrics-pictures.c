/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/engine/metrics-pictures.h"

#include "engine/files/safetensors.h"

#include <stdlib.h>

/* A number from 0 to 255 for every (a, b, c). */
static int
mix (guint32 a, guint32 b, guint32 c, guint32 seed)
{
  guint32 h = a * 2654435761u + b * 2246822519u + c * 3266489917u + seed * 668265263u;

  h ^= h >> 15;
  h *= 2246822519u;
  h ^= h >> 13;
  h *= 3266489917u;
  return (int)(h >> 16 & 255);
}

static int
mix_at (int x, int y, int c, guint32 seed)
{
  return mix ((guint32)x, (guint32)y, (guint32)c, seed);
}

/* 0 to 255 and back. */
static int
triangle (int v, int period)
{
  v %= 2 * period;
  return (v < period ? v : 2 * period - v) * 255 / period;
}

static int
waves (int x, int y, int c)
{
  return triangle (x * (c + 1) + y * 2, 37);
}

/* Smooth ground, discs with hard edges, a little grain. */
static int
hills (int x, int y, int c, int width, int height)
{
  int value = (waves (x, y, c) + triangle (y * (3 - c) + x, 61)) / 2;

  for (int i = 0; i < 4; i++)
    {
      int dx = x - width * (2 * i + 1) / 8, dy = y - height * (i % 2 + 1) / 3;
      int radius = MIN (width, height) * (i + 2) / 16;

      if (dx * dx + dy * dy < radius * radius)
        value = mix_at (i, 7, c, 3);
    }
  return CLAMP (value + mix_at (x, y, c, 2) / 32 - 4, 0, 255);
}

static int
scene_value (const char *name, int x, int y, int c, int width, int height)
{
  if (g_str_equal (name, "black"))
    return 0;
  if (g_str_equal (name, "white"))
    return 255;
  if (g_str_equal (name, "grey"))
    return 119;
  if (g_str_equal (name, "noise"))
    return mix_at (x, y, c, 1);
  if (g_str_equal (name, "checker"))
    return (x / 4 + y / 4) % 2 * 255;
  if (g_str_equal (name, "ramp"))
    return x * 255 / MAX (width - 1, 1);
  if (g_str_equal (name, "waves"))
    return waves (x, y, c);
  g_assert_cmpstr (name, ==, "hills");
  return hills (x, y, c, width, height);
}

/* A picture's values, with the edge repeated outside. */
typedef struct
{
  int width, height;
  const guint8 *bytes;
} View;

static int
at (const View *v, int x, int y, int c)
{
  x = CLAMP (x, 0, v->width - 1);
  y = CLAMP (y, 0, v->height - 1);
  return v->bytes[3 * (y * v->width + x) + c];
}

static int
blurred (const View *v, int x, int y, int c)
{
  int sum = 0;

  for (int i = 0; i < 9; i++)
    sum += at (v, x + i % 3 - 1, y + i / 3 - 1, c);
  return sum / 9;
}

static int
change_value (const char *name, const View *v, int x, int y, int c)
{
  const int value = at (v, x, y, c);

  if (g_str_equal (name, "equal"))
    return value;
  if (g_str_equal (name, "shift"))
    return at (v, x - 1, y, c);
  if (g_str_equal (name, "pixel"))
    return x == v->width / 2 && y == v->height / 2 ? 255 - value : value;
  if (g_str_equal (name, "grain"))
    return CLAMP (value + mix_at (x, y, c, 9) / 16 - 8, 0, 255);
  if (g_str_equal (name, "bright"))
    return MIN (value + 16, 255);
  if (g_str_equal (name, "flat"))
    return (value + 128) / 2;
  if (g_str_equal (name, "poster"))
    return value / 32 * 32;
  if (g_str_equal (name, "swap"))
    return at (v, x, y, 2 - c);
  if (g_str_equal (name, "invert"))
    return 255 - value;
  if (g_str_equal (name, "blur"))
    return blurred (v, x, y, c);
  return scene_value (name, x, y, c, v->width, v->height);
}

static Image *
draw (const char *scene, const char *change, View *v)
{
  const gsize size = 3 * (gsize)v->width * (gsize)v->height;
  guint8 *bytes = g_malloc (size), *out = bytes;
  g_autoptr (GBytes) held = g_bytes_new_take (bytes, size);

  for (int y = 0; y < v->height; y++)
    for (int x = 0; x < v->width; x++)
      for (int c = 0; c < 3; c++)
        *out++ = (guint8)(change != NULL ? change_value (change, v, x, y, c)
                                         : scene_value (scene, x, y, c, v->width, v->height));
  return image_new (v->width, v->height, held);
}

Image *
metrics_picture (const char *scene, int width, int height)
{
  View view = { width, height, NULL };

  return draw (scene, NULL, &view);
}

Image *
metrics_picture_change (const char *change, Image *a)
{
  View view
      = { image_get_width (a), image_get_height (a), g_bytes_get_data (image_get_bytes (a), NULL) };

  return draw (NULL, change, &view);
}

guint64
metrics_picture_sum (Image *image)
{
  gsize size;
  const guint8 *bytes = g_bytes_get_data (image_get_bytes (image), &size);
  guint64 sum = 0;

  for (gsize i = 0; i < size; i++)
    sum += bytes[i];
  return sum;
}

/* -- weights -------------------------------------------------------------------------------------
 */

enum
{
  WEIGHT,
  BIAS,
  LINEAR,
};

/* Numbers of -1 to 1 times scale, from their place alone. */
static float *
made_up (GPtrArray *keep, gsize count, guint32 kind, guint32 layer, float scale)
{
  float *values = g_new (float, count);

  for (gsize i = 0; i < count; i++)
    {
      int value = mix ((guint32)i, layer, kind, 5) - 128;

      values[i] = (float)(kind == LINEAR ? abs (value) : value) / 128.0f * scale;
    }
  g_ptr_array_add (keep, values);
  return values;
}

static void
add (SafetensorsWriter *writer, const char *stem, const char *part, int rank, const int64_t *shape,
     const float *values)
{
  g_autofree char *name = g_strconcat (stem, part, NULL);

  safetensors_writer_add (writer, name, DTYPE_F32, rank, shape, values);
}

void
metrics_write_weights (const char *path, gboolean torchvision, int without)
{
  static const struct
  {
    int index;
    int64_t c_in, c_out, size;
    float scale;
  } layers[] = { { 0, 3, 64, 11, 1.0f / 8 },
                 { 3, 64, 192, 5, 1.0f / 16 },
                 { 6, 192, 384, 3, 1.0f / 16 },
                 { 8, 384, 256, 3, 1.0f / 32 },
                 { 10, 256, 256, 3, 1.0f / 16 } };
  g_autoptr (SafetensorsWriter) writer = safetensors_writer_new ();
  g_autoptr (GPtrArray) keep = g_ptr_array_new_with_free_func (g_free);
  g_autoptr (GError) error = NULL;

  for (guint i = 0; i < G_N_ELEMENTS (layers); i++)
    {
      const int64_t in = layers[i].c_in, out = layers[i].c_out, size = layers[i].size;
      const int64_t shape[4] = { out, in, size, size }, linear_shape[4] = { 1, out, 1, 1 };
      g_autofree char *stem = torchvision
                                  ? g_strdup_printf ("features.%d", layers[i].index)
                                  : g_strdup_printf ("net.slice%u.%d", i + 1, layers[i].index);
      g_autofree char *linear = g_strdup_printf (torchvision ? "lins.%u" : "lin%u", i);

      add (writer, stem, ".weight", 4, shape,
           made_up (keep, (gsize)(out * in * size * size), WEIGHT, i, layers[i].scale));
      if ((int)i != without)
        add (writer, stem, ".bias", 1, shape, made_up (keep, (gsize)out, BIAS, i, 1.0f / 16));
      add (writer, linear, ".model.1.weight", 4, linear_shape,
           made_up (keep, (gsize)out, LINEAR, i, 1.0f));
    }
  g_assert_true (safetensors_writer_write (writer, path, &error));
  g_assert_no_error (error);
}
