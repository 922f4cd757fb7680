/* SPDX-License-Identifier: Apache-2.0 */
#include "app/compare/difference.h"

#include "engine/metrics/metrics.h"

#include <glib/gi18n.h>
#include <math.h>

typedef struct
{
  Image *first, *second;
} Pair;

typedef struct /* from the pool thread */
{
  Image *map;
  Metrics metrics;
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

static void
measure_in_thread (GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
  Pair *pair = data;
  Measured *measured = g_new0 (Measured, 1);
  GError *error = NULL;

  if (!metrics_compare (pair->first, pair->second, NULL, cancellable, &measured->metrics, &error))
    {
      measured_free (measured);
      g_task_return_error (task, error);
      return;
    }
  measured->map = metrics_difference (pair->first, pair->second);
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

static char *
describe (const Metrics *metrics)
{
  const double difference = 100 * metrics->mean_difference / 255;

  if (isinf (metrics->psnr))
    return g_strdup (_ ("The pictures are equal"));
  if (isnan (metrics->ssim))
    return g_strdup_printf (_ ("difference %.1f %%, PSNR %.1f dB, FLIP %.3f"), difference,
                            metrics->psnr, metrics->flip);
  return g_strdup_printf (_ ("difference %.1f %%, PSNR %.1f dB, SSIM %.3f, FLIP %.3f"), difference,
                          metrics->psnr, metrics->ssim, metrics->flip);
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
  self->text = describe (&measured->metrics);
  measured_free (measured);
  return self;
}

GdkTexture *
difference_ramp (void)
{
  const int width = 3 * (METRICS_DIFFERENCE_FULL + 1), height = 10;
  guint8 *pixels = g_malloc (3 * width * height);
  g_autoptr (GBytes) bytes = NULL;

  for (int i = 0; i < width * height; i++)
    metrics_difference_colour (i % width / 3, pixels + 3 * i);
  bytes = g_bytes_new_take (pixels, 3 * width * height);
  return gdk_memory_texture_new (width, height, GDK_MEMORY_R8G8B8, bytes, 3 * width);
}
