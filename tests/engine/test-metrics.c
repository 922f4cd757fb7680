/* SPDX-License-Identifier: Apache-2.0
 *
 * What must hold for any metric, and the difference map.
 */
#include "engine/engine.h"
#include "engine/metrics/metrics.h"

#include <math.h>
#include <string.h>

static Image *
flat (int width, int height, guint8 value)
{
  const gsize bytes = 3 * (gsize)width * (gsize)height;
  guint8 *data = g_malloc (bytes);
  g_autoptr (GBytes) held = NULL;

  memset (data, value, bytes);
  held = g_bytes_new_take (data, bytes);
  return image_new (width, height, held);
}

static Image *
noise (int width, int height, guint32 seed)
{
  g_autoptr (GRand) rand = g_rand_new_with_seed (seed);
  const gsize bytes = 3 * (gsize)width * (gsize)height;
  guint8 *data = g_malloc (bytes);
  g_autoptr (GBytes) held = NULL;

  for (gsize i = 0; i < bytes; i++)
    data[i] = (guint8)g_rand_int_range (rand, 0, 256);
  held = g_bytes_new_take (data, bytes);
  return image_new (width, height, held);
}

static void
test_equal (void)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (Image) a = noise (170, 163, 1);
  Metrics m;

  g_assert_true (metrics_compare (a, a, NULL, NULL, &m, &error));
  g_assert_no_error (error);
  g_assert_true (isinf (m.psnr));
  g_assert_cmpfloat_with_epsilon (m.ssim, 1, 1e-12);
  g_assert_cmpfloat_with_epsilon (m.ms_ssim, 1, 1e-12);
  g_assert_cmpfloat (m.flip, ==, 0);
  g_assert_cmpfloat (m.mean_difference, ==, 0);
  g_assert_cmpint (m.max_difference, ==, 0);
  g_assert_cmpuint (m.pixels_changed, ==, 0);
  g_assert_true (isnan (m.lpips));
}

static void
test_opposite (void)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (Image) black = flat (64, 48, 0), white = flat (64, 48, 255);
  Metrics m;

  g_assert_true (metrics_compare (black, white, NULL, NULL, &m, &error));
  g_assert_cmpfloat (m.psnr, ==, 0);
  g_assert_cmpfloat (m.ssim, <, 1e-3);
  g_assert_cmpfloat (m.flip, >, 0.9);
  g_assert_cmpfloat (m.mean_difference, ==, 255);
  g_assert_cmpuint (m.pixels_changed, ==, 64 * 48);
  g_assert_true (isnan (m.ms_ssim)); /* too small for five scales */
}

static void
test_symmetric (void)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (Image) a = noise (200, 161, 2), b = noise (200, 161, 3);
  Metrics ab, ba;

  g_assert_true (metrics_compare (a, b, NULL, NULL, &ab, &error));
  g_assert_true (metrics_compare (b, a, NULL, NULL, &ba, &error));
  g_assert_cmpfloat (ab.psnr, ==, ba.psnr);
  g_assert_cmpfloat_with_epsilon (ab.ssim, ba.ssim, 1e-7);
  g_assert_cmpfloat_with_epsilon (ab.ms_ssim, ba.ms_ssim, 1e-7);
  g_assert_cmpfloat_with_epsilon (ab.flip, ba.flip, 1e-7);
}

/* Too small for some metrics, never for the others. */
static void
test_small (void)
{
  static const int sizes[][2] = { { 1, 1 }, { 1, 70 }, { 10, 11 }, { 11, 11 }, { 12, 3 } };

  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (Image) a = noise (sizes[i][0], sizes[i][1], 4);
      g_autoptr (Image) b = noise (sizes[i][0], sizes[i][1], 5);
      Metrics m;

      g_assert_true (metrics_compare (a, b, NULL, NULL, &m, &error));
      g_assert_true (isfinite (m.psnr) && m.flip > 0 && m.flip <= 1);
      g_assert_cmpint (isnan (m.ssim) != 0, ==, MIN (sizes[i][0], sizes[i][1]) < 11);
      g_assert_true (isnan (m.ms_ssim));
    }
}

static void
test_viewing_distance (void)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (Image) a = noise (64, 64, 6), b = noise (64, 64, 7);
  MetricsOptions near = { .pixels_per_degree = 20 }, far = { .pixels_per_degree = 120 };
  Metrics m_near, m_far;

  g_assert_true (metrics_compare (a, b, &near, NULL, &m_near, &error));
  g_assert_true (metrics_compare (a, b, &far, NULL, &m_far, &error));
  g_assert_cmpfloat (m_near.flip, >, m_far.flip);
}

static void
test_refusals (void)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GCancellable) cancellable = g_cancellable_new ();
  g_autoptr (Image) a = flat (20, 30, 9), b = flat (30, 20, 9);
  Metrics m;

  g_assert_false (metrics_compare (a, b, NULL, NULL, &m, &error));
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST);
  g_assert_nonnull (strstr (error->message, "20 x 30"));
  g_clear_error (&error);
  g_assert_null (metrics_difference (a, b));
  g_assert_null (metrics_difference_raw (a, b));
  g_cancellable_cancel (cancellable);
  g_assert_false (metrics_compare (a, a, NULL, cancellable, &m, &error));
  g_assert_error (error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
}

static void
test_difference (void)
{
  const guint8 left[] = { 10, 20, 30, 255, 0, 7, 0, 0, 0 };
  const guint8 right[] = { 10, 20, 30, 253, 9, 7, 0, 0, 200 };
  const guint8 expected[] = { 0, 9, 200 };
  g_autoptr (GBytes) left_bytes = g_bytes_new (left, sizeof left);
  g_autoptr (GBytes) right_bytes = g_bytes_new (right, sizeof right);
  g_autoptr (Image) a = image_new (3, 1, left_bytes), b = image_new (3, 1, right_bytes);
  g_autoptr (GBytes) raw = metrics_difference_raw (a, b);
  g_autoptr (Image) map = metrics_difference (a, b);
  const guint8 *colours = g_bytes_get_data (image_get_bytes (map), NULL);

  g_assert_cmpmem (g_bytes_get_data (raw, NULL), g_bytes_get_size (raw), expected, 3);
  for (int i = 0; i < 3; i++)
    {
      guint8 rgb[3];

      metrics_difference_colour (expected[i], rgb);
      g_assert_cmpmem (colours + 3 * i, 3, rgb, 3);
    }
}

/* The scale rises in luminance from step to step, and ends where it says. */
static void
test_colours (void)
{
  guint8 last[3], rgb[3];
  double before = -1;

  for (int i = 0; i <= METRICS_DIFFERENCE_FULL; i++)
    {
      double luminance;

      metrics_difference_colour (i, rgb);
      luminance
          = 0.2126 * pow (rgb[0], 2.2) + 0.7152 * pow (rgb[1], 2.2) + 0.0722 * pow (rgb[2], 2.2);
      g_assert_cmpfloat (luminance, >, before);
      before = luminance;
    }
  metrics_difference_colour (255, last);
  g_assert_cmpmem (last, 3, rgb, 3);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/metrics/equal", test_equal);
  g_test_add_func ("/metrics/opposite", test_opposite);
  g_test_add_func ("/metrics/symmetric", test_symmetric);
  g_test_add_func ("/metrics/small", test_small);
  g_test_add_func ("/metrics/viewing-distance", test_viewing_distance);
  g_test_add_func ("/metrics/refusals", test_refusals);
  g_test_add_func ("/metrics/difference", test_difference);
  g_test_add_func ("/metrics/colours", test_colours);
  return g_test_run ();
}
