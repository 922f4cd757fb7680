/* SPDX-License-Identifier: Apache-2.0 */
#include "app/difference.h"

#include <glib/gi18n.h>
#include <math.h>

#define SCALE_END 64 /* largest difference of a channel that the map tells apart */

typedef struct
{
  Image *first, *second;
} Pair;

typedef struct /* from the pool thread */
{
  Image *map;
  double mean; /* of absolute differences, 0 to 1 */
  double psnr; /* dB; infinite for equal pictures */
} Measured;

void
difference_free (Difference *self)
{
  if (self == NULL)
    return;
  g_clear_object (&self->map);
  g_free (self->text);
  g_free (self);
}

static void
pair_free (Pair *pair)
{
  image_unref (pair->first);
  image_unref (pair->second);
  g_free (pair);
}

static void
measured_free (Measured *measured)
{
  image_unref (measured->map);
  g_free (measured);
}

/* The colour of a difference: dark to bright in even steps, so that it also reads in grey. */
static void
colour_of (int difference, guint8 rgb[3])
{
  static const guint8 stops[][3] = {
    { 0, 0, 4 }, { 87, 16, 110 }, { 188, 55, 84 }, { 249, 142, 9 }, { 252, 255, 164 },
  };
  const int n = G_N_ELEMENTS (stops) - 1;
  const int position = MIN (difference, SCALE_END) * n;
  const int stop = MIN (position / SCALE_END, n - 1), rest = position - stop * SCALE_END;

  for (int c = 0; c < 3; c++)
    rgb[c] = stops[stop][c] + (stops[stop + 1][c] - stops[stop][c]) * rest / SCALE_END;
}

static void
measure_in_thread (GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
  Pair *pair = data;
  const int width = image_get_width (pair->first), height = image_get_height (pair->first);
  const gsize n_pixels = (gsize)width * height;
  const guint8 *a = g_bytes_get_data (image_get_bytes (pair->first), NULL);
  const guint8 *b = g_bytes_get_data (image_get_bytes (pair->second), NULL);
  Measured *measured = g_new0 (Measured, 1);
  guint8 *map = g_malloc (3 * n_pixels);
  g_autoptr (GBytes) bytes = NULL;
  guint64 sum = 0, squares = 0;

  for (gsize i = 0; i < n_pixels; i++)
    {
      int largest = 0;

      for (gsize c = 3 * i; c < 3 * i + 3; c++)
        {
          const int d = ABS (a[c] - b[c]);

          largest = MAX (largest, d);
          sum += d;
          squares += (guint64)d * d;
        }
      colour_of (largest, map + 3 * i);
    }
  bytes = g_bytes_new_take (map, 3 * n_pixels);
  measured->map = image_new (width, height, bytes);
  measured->mean = sum / (255.0 * 3 * n_pixels);
  measured->psnr = 10 * log10 (255.0 * 255.0 * 3 * n_pixels / squares);
  g_task_return_pointer (task, measured, (GDestroyNotify)measured_free);
}

void
difference_measure_async (TesseraPicture *first, TesseraPicture *second, GCancellable *cancellable,
                          GAsyncReadyCallback callback, gpointer data)
{
  g_autoptr (GTask) task = g_task_new (NULL, cancellable, callback, data);
  Pair *pair = g_new (Pair, 1);

  pair->first = image_ref (picture_get_image (first));
  pair->second = image_ref (picture_get_image (second));
  g_task_set_task_data (task, pair, (GDestroyNotify)pair_free);
  g_task_run_in_thread (task, measure_in_thread);
}

Difference *
difference_measure_finish (GAsyncResult *result, GError **error)
{
  Measured *measured = g_task_propagate_pointer (G_TASK (result), error);
  Difference *self;

  if (measured == NULL)
    return NULL;
  self = g_new (Difference, 1);
  self->map = texture_from_image (measured->map);
  if (isinf (measured->psnr))
    self->text = g_strdup (_ ("The pictures are equal"));
  else
    self->text = g_strdup_printf (_ ("difference %.1f %%, PSNR %.1f dB"), 100 * measured->mean,
                                  measured->psnr);
  measured_free (measured);
  return self;
}

GdkTexture *
difference_ramp (void)
{
  g_autoptr (GBytes) bytes = NULL;
  guint8 *pixels = g_malloc (3 * (SCALE_END + 1));

  for (int i = 0; i <= SCALE_END; i++)
    colour_of (i, pixels + 3 * i);
  bytes = g_bytes_new_take (pixels, 3 * (SCALE_END + 1));
  return gdk_memory_texture_new (SCALE_END + 1, 1, GDK_MEMORY_R8G8B8, bytes, 3 * (SCALE_END + 1));
}
