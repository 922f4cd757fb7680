/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/metrics/metrics-private.h"

#include "engine/engine.h"

#include <math.h>
#include <string.h>

/* Four floats that the compiler keeps in a register; loads need no alignment. */
typedef float Lanes __attribute__ ((vector_size (16), aligned (4), may_alias));
#define LANES 4
#define BLOCK (4 * LANES) /* columns that are summed in registers, all taps in one go */

void
metrics_filter_column (const MetricsFilter *filter, const float *in, gsize stride, int n,
                       float *out)
{
  int x = 0;

  for (; x + BLOCK <= n; x += BLOCK)
    {
      Lanes sum[BLOCK / LANES] = { 0 };
      Lanes *to = (Lanes *)(out + x);

      for (int t = 0; t < filter->taps; t++)
        {
          const Lanes *from = (const Lanes *)(in + (gsize)t * stride + x);
          const float weight = filter->weights[t];

          sum[0] += weight * from[0];
          sum[1] += weight * from[1];
          sum[2] += weight * from[2];
          sum[3] += weight * from[3];
        }
      for (int i = 0; i < BLOCK / LANES; i++)
        to[i] = sum[i];
    }
  for (; x < n; x++)
    {
      float sum = 0;

      for (int t = 0; t < filter->taps; t++)
        sum += filter->weights[t] * in[(gsize)t * stride + (gsize)x];
      out[x] = sum;
    }
}

void
metrics_filter_row (const MetricsFilter *filter, const float *in, int n, float *out)
{
  metrics_filter_column (filter, in, 1, n, out);
}

static gboolean
same_size (Image *a, Image *b)
{
  return image_get_width (a) == image_get_width (b) && image_get_height (a) == image_get_height (b);
}

static const guint8 *
image_data (Image *image)
{
  return g_bytes_get_data (image_get_bytes (image), NULL);
}

/* -- numbers -------------------------------------------------------------------------------------
 */

/* Exact: integers up to 2^16 * 3 * pixels. */
static void
compare_values (Image *a, Image *b, Metrics *out)
{
  const gsize pixels = (gsize)image_get_width (a) * (gsize)image_get_height (a);
  const guint8 *va = image_data (a), *vb = image_data (b);
  guint64 squares = 0, sum = 0;

  for (gsize i = 0; i < pixels; i++)
    {
      int largest = 0;

      for (gsize c = 3 * i; c < 3 * i + 3; c++)
        {
          int difference = ABS (va[c] - vb[c]);

          largest = MAX (largest, difference);
          sum += (guint64)difference;
          squares += (guint64)(difference * difference);
        }
      out->max_difference = MAX (out->max_difference, largest);
      out->pixels_changed += largest > 0;
    }
  out->mean_difference = (double)sum / (3.0 * (double)pixels);
  out->psnr = squares == 0 ? INFINITY
                           : 10.0 * log10 (255.0 * 255.0 * 3.0 * (double)pixels / (double)squares);
}

gboolean
metrics_compare (Image *a, Image *b, const MetricsOptions *options, GCancellable *cancellable,
                 Metrics *out, GError **error)
{
  const double pixels_per_degree = options != NULL && options->pixels_per_degree > 0
                                       ? options->pixels_per_degree
                                       : METRICS_FLIP_PIXELS_PER_DEGREE;

  if (!same_size (a, b))
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST,
                   "the pictures are of different sizes, %d x %d and %d x %d; only pictures of one "
                   "size can be compared",
                   image_get_width (a), image_get_height (a), image_get_width (b),
                   image_get_height (b));
      return FALSE;
    }
  *out = (Metrics){ .ssim = NAN, .ms_ssim = NAN, .flip = NAN, .lpips = NAN };
  compare_values (a, b, out);
  if (!g_cancellable_is_cancelled (cancellable))
    metrics_ssim (a, b, cancellable, &out->ssim, &out->ms_ssim);
  if (!g_cancellable_is_cancelled (cancellable))
    out->flip = metrics_flip (a, b, pixels_per_degree, cancellable);
  if (g_cancellable_set_error_if_cancelled (cancellable, error))
    return FALSE;
  return options == NULL || options->lpips == NULL
         || metrics_lpips (options->lpips, a, b, cancellable, &out->lpips, error);
}

/* -- the map -------------------------------------------------------------------------------------
 */

GBytes *
metrics_difference_raw (Image *a, Image *b)
{
  const gsize pixels = (gsize)image_get_width (a) * (gsize)image_get_height (a);
  const guint8 *va = image_data (a), *vb = image_data (b);
  guint8 *map;

  if (!same_size (a, b))
    return NULL;
  map = g_malloc (pixels);
  for (gsize i = 0; i < pixels; i++)
    {
      int largest = 0;

      for (gsize c = 3 * i; c < 3 * i + 3; c++)
        largest = MAX (largest, ABS (va[c] - vb[c]));
      map[i] = (guint8)largest;
    }
  return g_bytes_new_take (map, pixels);
}

/* OKLab to an sRGB byte each; see B. Ottosson, "A perceptual color space for image processing". */
static void
oklab_to_rgb (const double lab[3], guint8 rgb[3])
{
  const double l = lab[0] + 0.3963377774 * lab[1] + 0.2158037573 * lab[2];
  const double m = lab[0] - 0.1055613458 * lab[1] - 0.0638541728 * lab[2];
  const double s = lab[0] - 0.0894841775 * lab[1] - 1.2914855480 * lab[2];
  const double cubes[3] = { l * l * l, m * m * m, s * s * s };
  static const double rows[3][3] = { { 4.0767416621, -3.3077115913, 0.2309699292 },
                                     { -1.2684380046, 2.6097574011, -0.3413193965 },
                                     { -0.0041960863, -0.7034186147, 1.7076147010 } };

  for (int c = 0; c < 3; c++)
    {
      double linear = rows[c][0] * cubes[0] + rows[c][1] * cubes[1] + rows[c][2] * cubes[2];
      double value = linear <= 0.0031308 ? 12.92 * linear : 1.055 * pow (linear, 1.0 / 2.4) - 0.055;

      rgb[c] = (guint8)lround (255.0 * CLAMP (value, 0.0, 1.0));
    }
}

void
metrics_difference_colour (int difference, guint8 rgb[3])
{
  /* Lightness rises all the way, so the map also reads without colour. */
  static const double corners[][3] = {
    { 0.17, 0.005, -0.040 }, { 0.38, 0.070, -0.150 }, { 0.56, 0.180, 0.000 },
    { 0.74, 0.090, 0.130 },  { 0.96, -0.015, 0.090 },
  };
  double lengths[G_N_ELEMENTS (corners) - 1], total = 0, along, lab[3];
  guint part = 0;

  for (guint i = 0; i < G_N_ELEMENTS (lengths); i++)
    {
      lengths[i] = sqrt (pow (corners[i + 1][0] - corners[i][0], 2)
                         + pow (corners[i + 1][1] - corners[i][1], 2)
                         + pow (corners[i + 1][2] - corners[i][2], 2));
      total += lengths[i];
    }
  along = total * CLAMP (difference, 0, METRICS_DIFFERENCE_FULL) / METRICS_DIFFERENCE_FULL;
  while (part + 1 < G_N_ELEMENTS (lengths) && along > lengths[part])
    along -= lengths[part++];
  for (int c = 0; c < 3; c++)
    lab[c] = corners[part][c] + (corners[part + 1][c] - corners[part][c]) * along / lengths[part];
  oklab_to_rgb (lab, rgb);
}

Image *
metrics_difference (Image *a, Image *b)
{
  g_autoptr (GBytes) map = metrics_difference_raw (a, b);
  g_autoptr (GBytes) bytes = NULL;
  guint8 colours[METRICS_DIFFERENCE_FULL + 1][3];
  const guint8 *values;
  guint8 *picture;
  gsize pixels;

  if (map == NULL)
    return NULL;
  values = g_bytes_get_data (map, &pixels);
  for (int i = 0; i <= METRICS_DIFFERENCE_FULL; i++)
    metrics_difference_colour (i, colours[i]);
  picture = g_malloc (3 * pixels);
  for (gsize i = 0; i < pixels; i++)
    memcpy (picture + 3 * i, colours[MIN (values[i], METRICS_DIFFERENCE_FULL)], 3);
  bytes = g_bytes_new_take (picture, 3 * pixels);
  return image_new (image_get_width (a), image_get_height (a), bytes);
}
