/* SPDX-License-Identifier: Apache-2.0
 *
 * 30 pairs of pictures, and what the public implementations say of them.
 */
#include "engine/engine.h"
#include "engine/files/json.h"
#include "engine/metrics/metrics.h"
#include "tests/engine/metrics-pictures.h"

#include <glib/gstdio.h>
#include <math.h>
#include <string.h>

#define PAIRS 30

static const struct
{
  const char *key;
  gsize offset; /* in Metrics */
  double limit;
} metrics[] = {
  { "psnr", offsetof (Metrics, psnr), 1e-4 },       { "ssim", offsetof (Metrics, ssim), 1e-4 },
  { "ms_ssim", offsetof (Metrics, ms_ssim), 1e-4 }, { "flip", offsetof (Metrics, flip), 1e-3 },
  { "lpips", offsetof (Metrics, lpips), 1e-3 },
};

typedef struct
{
  char *dir, *weights;
} Fixture;

static void
set_up (Fixture *self, gconstpointer data)
{
  g_autoptr (GError) error = NULL;

  self->dir = g_dir_make_tmp ("metrics-XXXXXX", &error);
  g_assert_no_error (error);
  self->weights = g_build_filename (self->dir, "weights.safetensors", NULL);
}

static void
tear_down (Fixture *self, gconstpointer data)
{
  g_unlink (self->weights);
  g_assert_cmpint (g_rmdir (self->dir), ==, 0);
  g_free (self->weights);
  g_free (self->dir);
}

static cJSON *
load_expected (void)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path
      = g_build_filename (g_getenv ("TESSERA_TEST_DATA"), "metrics", "expected.json", NULL);
  cJSON *rows = json_load (path, 1 << 20, &error);

  g_assert_no_error (error);
  g_assert_cmpint (cJSON_GetArraySize (rows), ==, PAIRS);
  return rows;
}

static int
get_int (const cJSON *row, const char *key)
{
  return cJSON_GetObjectItem (row, key)->valueint;
}

static void
check_row (const cJSON *row, MetricsLpips *lpips, double worst[])
{
  const char *scene = cJSON_GetStringValue (cJSON_GetObjectItem (row, "scene"));
  const char *change = cJSON_GetStringValue (cJSON_GetObjectItem (row, "change"));
  const cJSON *sums = cJSON_GetObjectItem (row, "sums");
  g_autoptr (GError) error = NULL;
  g_autoptr (Image) a = metrics_picture (scene, get_int (row, "width"), get_int (row, "height"));
  g_autoptr (Image) b = metrics_picture_change (change, a);
  MetricsOptions options = { .lpips = lpips };
  Metrics got;

  g_assert_cmpfloat ((double)metrics_picture_sum (a), ==,
                     cJSON_GetArrayItem (sums, 0)->valuedouble);
  g_assert_cmpfloat ((double)metrics_picture_sum (b), ==,
                     cJSON_GetArrayItem (sums, 1)->valuedouble);
  g_assert_true (metrics_compare (a, b, &options, NULL, &got, &error));
  g_assert_no_error (error);
  for (guint i = 0; i < G_N_ELEMENTS (metrics); i++)
    {
      const cJSON *expected = cJSON_GetObjectItem (row, metrics[i].key);
      double value = *(const double *)((const char *)&got + metrics[i].offset);

      if (cJSON_IsNull (expected))
        g_assert_false (isfinite (value));
      else
        {
          double error_size = fabs (value - expected->valuedouble);

          worst[i] = MAX (worst[i], error_size);
          if (!(error_size <= metrics[i].limit))
            g_error ("%s and %s, %d x %d: %s is %.6f, the reference has %.6f", scene, change,
                     get_int (row, "width"), get_int (row, "height"), metrics[i].key, value,
                     expected->valuedouble);
        }
    }
}

static void
test_golden (Fixture *self, gconstpointer data)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (cJSON) rows = load_expected ();
  g_autoptr (MetricsLpips) lpips = NULL;
  double worst[G_N_ELEMENTS (metrics)] = { 0 };
  const cJSON *row;

  metrics_write_weights (self->weights, FALSE, -1);
  lpips = metrics_lpips_open (self->weights, &error);
  g_assert_no_error (error);
  g_assert_false (metrics_lpips_is_published (lpips));
  cJSON_ArrayForEach (row, rows) check_row (row, lpips, worst);
  for (guint i = 0; i < G_N_ELEMENTS (metrics); i++)
    g_test_message ("%s: at most %.1e from the reference", metrics[i].key, worst[i]);
}

/* The same weights under torchvision's names give the same number. */
static void
test_names (Fixture *self, gconstpointer data)
{
  g_autoptr (Image) a = metrics_picture ("hills", 64, 64), b = metrics_picture ("waves", 64, 64);
  double values[2];

  for (int i = 0; i < 2; i++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (MetricsLpips) lpips = NULL;
      MetricsOptions options = { 0 };
      Metrics m;

      metrics_write_weights (self->weights, i == 1, -1);
      options.lpips = lpips = metrics_lpips_open (self->weights, &error);
      g_assert_no_error (error);
      g_assert_true (metrics_compare (a, b, &options, NULL, &m, &error));
      values[i] = m.lpips;
    }
  g_assert_cmpfloat (values[0], >, 0);
  g_assert_cmpfloat (values[0], ==, values[1]);
}

static void
test_damaged (Fixture *self, gconstpointer data)
{
  g_autoptr (GError) error = NULL;

  metrics_write_weights (self->weights, FALSE, 3);
  g_assert_null (metrics_lpips_open (self->weights, &error));
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL);
  g_assert_nonnull (strstr (error->message, "net.slice4.8.bias"));
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add ("/metrics/golden", Fixture, NULL, set_up, test_golden, tear_down);
  g_test_add ("/metrics/lpips-names", Fixture, NULL, set_up, test_names, tear_down);
  g_test_add ("/metrics/lpips-damaged", Fixture, NULL, set_up, test_damaged, tear_down);
  return g_test_run ();
}
