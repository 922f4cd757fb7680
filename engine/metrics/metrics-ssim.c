/* SPDX-License-Identifier: Apache-2.0
 *
 * SSIM and MS-SSIM, one channel at a time.
 *
 * Values are taken less 128: variances do not change by that, and FP32 is then good for 1e-5.
 */
#include "engine/metrics/metrics-private.h"

#include <math.h>

#define WINDOW 11
#define SIGMA  1.5
#define C1     (0.01 * 255 * 0.01 * 255)
#define C2     (0.03 * 255 * 0.03 * 255)
#define LEVELS 5
#define CENTRE 128.0f

/* One channel of both pictures. */
typedef struct
{
  int width, height;
  float *a, *b; /* (owned) */
} Pair;

/* Moments that a window needs. */
enum
{
  MEAN_A,
  MEAN_B,
  SQUARE_A,
  SQUARE_B,
  PRODUCT,
  N_MOMENTS,
};

static void
pair_clear (Pair *self)
{
  g_clear_pointer (&self->a, g_free);
  g_clear_pointer (&self->b, g_free);
}

static void
fill_window (MetricsFilter *filter)
{
  double sum = 0, values[WINDOW];

  for (int i = 0; i < WINDOW; i++)
    sum += values[i] = exp (-pow (i - WINDOW / 2, 2) / (2 * SIGMA * SIGMA));
  for (int i = 0; i < WINDOW; i++)
    filter->weights[i] = (float)(values[i] / sum);
}

/* The five moments of `rows` rows from `first`, filtered along x: moments[m] is [rows, n]. */
static void
filter_rows (const Pair *pair, const MetricsFilter *window, int first, int rows, float *products,
             float *moments[N_MOMENTS])
{
  const int n = pair->width - WINDOW + 1;

  for (int y = 0; y < rows; y++)
    {
      const float *restrict a = pair->a + (gsize)(first + y) * (gsize)pair->width;
      const float *restrict b = pair->b + (gsize)(first + y) * (gsize)pair->width;
      const gsize at = (gsize)y * (gsize)n;

      metrics_filter_row (window, a, n, moments[MEAN_A] + at);
      metrics_filter_row (window, b, n, moments[MEAN_B] + at);
      for (int m = SQUARE_A; m <= PRODUCT; m++)
        {
          const float *restrict left = m == SQUARE_B ? b : a;
          const float *restrict right = m == SQUARE_A ? a : b;

#pragma omp simd
          for (int x = 0; x < pair->width; x++)
            products[x] = left[x] * right[x];
          metrics_filter_row (window, products, n, moments[m] + at);
        }
    }
}

/* Adds a row of windows: row[m] is [n]. */
static void
add_row (float *const row[N_MOMENTS], int n, double *ssim, double *structure)
{
  for (int x = 0; x < n; x++)
    {
      const double a = row[MEAN_A][x], b = row[MEAN_B][x];
      const double variances = row[SQUARE_A][x] - a * a + (row[SQUARE_B][x] - b * b);
      const double covariance = row[PRODUCT][x] - a * b;
      const double level_a = a + CENTRE, level_b = b + CENTRE;
      const double cs = (2 * covariance + C2) / (variances + C2);

      *structure += cs;
      *ssim += cs * (2 * level_a * level_b + C1) / (level_a * level_a + level_b * level_b + C1);
    }
}

/* Sums over the windows whose top row is in [first, first + rows). */
static void
sum_band (const Pair *pair, const MetricsFilter *window, int first, int rows, double *ssim,
          double *structure)
{
  const int n = pair->width - WINDOW + 1;
  const gsize plane = (gsize)n * (gsize)(rows + WINDOW - 1);
  g_autofree float *products = g_new (float, (gsize)pair->width);
  g_autofree float *planes = g_new (float, N_MOMENTS *plane);
  g_autofree float *filtered = g_new (float, N_MOMENTS *(gsize)n);
  float *moments[N_MOMENTS], *row[N_MOMENTS];

  for (gsize m = 0; m < N_MOMENTS; m++)
    {
      moments[m] = planes + m * plane;
      row[m] = filtered + m * (gsize)n;
    }
  filter_rows (pair, window, first, rows + WINDOW - 1, products, moments);
  for (int y = 0; y < rows; y++)
    {
      for (int m = 0; m < N_MOMENTS; m++)
        metrics_filter_column (window, moments[m] + (gsize)y * (gsize)n, (gsize)n, n, row[m]);
      add_row (row, n, ssim, structure);
    }
}

/* Means over all windows: of SSIM, and of its contrast and structure part. */
static void
measure (const Pair *pair, GCancellable *cancellable, double *ssim, double *structure)
{
  const int rows = pair->height - WINDOW + 1;
  const int bands = (rows + METRICS_BAND_ROWS - 1) / METRICS_BAND_ROWS;
  const double windows = (double)rows * (pair->width - WINDOW + 1);
  g_autofree double *sums = g_new0 (double, 2 * (gsize)bands);
  float weights[WINDOW];
  MetricsFilter window = { WINDOW, weights };

  fill_window (&window);
#pragma omp parallel for schedule(dynamic)
  for (int i = 0; i < bands; i++)
    if (!g_cancellable_is_cancelled (cancellable))
      sum_band (pair, &window, i * METRICS_BAND_ROWS,
                MIN (METRICS_BAND_ROWS, rows - i * METRICS_BAND_ROWS), &sums[2 * i],
                &sums[2 * i + 1]);
  *ssim = *structure = 0;
  for (int i = 0; i < bands; i++)
    {
      *ssim += sums[2 * i] / windows;
      *structure += sums[2 * i + 1] / windows;
    }
}

static Pair
load_channel (Image *a, Image *b, int channel)
{
  Pair pair = { image_get_width (a), image_get_height (a), NULL, NULL };
  const gsize pixels = (gsize)pair.width * (gsize)pair.height;
  const guint8 *va = g_bytes_get_data (image_get_bytes (a), NULL);
  const guint8 *vb = g_bytes_get_data (image_get_bytes (b), NULL);

  pair.a = g_new (float, pixels);
  pair.b = g_new (float, pixels);
  for (gsize i = 0; i < pixels; i++)
    {
      pair.a[i] = (float)va[3 * i + (gsize)channel] - CENTRE;
      pair.b[i] = (float)vb[3 * i + (gsize)channel] - CENTRE;
    }
  return pair;
}

/* Means of 2 x 2 squares. An odd side gets one row or column of black before it, as in the
 * reference. */
static float *
halve_plane (const float *in, int width, int height, int new_width, int new_height)
{
  float *out = g_new (float, (gsize)new_width *(gsize)new_height);

  for (int y = 0; y < new_height; y++)
    for (int x = 0; x < new_width; x++)
      {
        float sum = 0;

        for (int i = 0; i < 4; i++)
          {
            int row = 2 * y + i / 2 - height % 2, column = 2 * x + i % 2 - width % 2;

            sum += row < 0 || column < 0 ? -CENTRE : in[(gsize)row * (gsize)width + (gsize)column];
          }
        out[(gsize)y * (gsize)new_width + (gsize)x] = sum / 4;
      }
  return out;
}

static void
halve (Pair *pair)
{
  Pair half = { (pair->width + 1) / 2, (pair->height + 1) / 2, NULL, NULL };

  half.a = halve_plane (pair->a, pair->width, pair->height, half.width, half.height);
  half.b = halve_plane (pair->b, pair->width, pair->height, half.width, half.height);
  pair_clear (pair);
  *pair = half;
}

void
metrics_ssim (Image *a, Image *b, GCancellable *cancellable, double *ssim, double *ms_ssim)
{
  static const double exponents[LEVELS] = { 0.0448, 0.2856, 0.3001, 0.2363, 0.1333 };
  const int side = MIN (image_get_width (a), image_get_height (a));
  const int levels = side >= METRICS_MS_SSIM_MIN_SIDE ? LEVELS : 1;

  *ssim = side >= METRICS_SSIM_MIN_SIDE ? 0 : NAN;
  *ms_ssim = levels == LEVELS ? 0 : NAN;
  for (int channel = 0; channel < 3 && side >= METRICS_SSIM_MIN_SIDE; channel++)
    {
      Pair pair = load_channel (a, b, channel);
      double product = 1;

      for (int level = 0; level < levels; level++)
        {
          double whole, structure;

          if (level > 0)
            halve (&pair);
          measure (&pair, cancellable, &whole, &structure);
          product *= pow (MAX (level + 1 < LEVELS ? structure : whole, 0), exponents[level]);
          if (level == 0)
            *ssim += whole / 3;
        }
      if (levels == LEVELS)
        *ms_ssim += product / 3;
      pair_clear (&pair);
    }
}
