/* SPDX-License-Identifier: Apache-2.0
 *
 * FLIP for pictures of ordinary range (LDR).
 *
 * P. Andersson et al., "FLIP: A Difference Evaluator for Alternating Images", 2020. What the eye
 * cannot resolve at the viewing distance is filtered away; the rest is compared as colours (HyAB
 * distance of Hunt-adjusted CIELab) and as features (edges and points of the lightness), and the
 * features raise the colour error. Filters are separated as in the reference code 1.7.
 */
#include "engine/metrics/metrics-private.h"

#include <math.h>
#include <string.h>

#define COLOUR_EXPONENT 0.7  /* q_c */
#define COLOUR_KNEE     0.4  /* p_c, share of the largest distance */
#define COLOUR_KNEE_ERR 0.95 /* p_t, the error there */
#define FEATURE_WIDTH   0.082
#define PICTURES        2
#define LARGEST_PPD     1000.0 /* keeps the filters' size sane */

/* Channels of a picture in the opponent space YCxCz. */
enum
{
  Y,
  CX,
  CZ,
  N_CHANNELS,
};

/* Filters: contrast sensitivity (of Cz a sum of two), and a Gaussian with its derivatives. */
enum
{
  SENSE_Y,
  SENSE_CX,
  SENSE_CZ_1,
  SENSE_CZ_2,
  GAUSS,
  FIRST,
  SECOND,
  N_FILTERS,
};

/* What stays the same for all bands. */
typedef struct
{
  int width, height;
  int reach;         /* rows and columns a filter sees on each side, the largest of them */
  float linear[256]; /* sRGB bytes to linear light */
  MetricsFilter filters[N_FILTERS];
  float largest; /* colour distance of green to blue, to the power q_c */
} Flip;

static const float white[3] = { 0.950428545f, 1.0f, 1.088900371f };
static const float white_inverse[3] = { 1.052156925f, 1.0f, 0.918357670f };

/* -- colours -------------------------------------------------------------------------------------
 */

static inline void
linear_to_xyz (const float rgb[3], float xyz[3])
{
  xyz[0] = (10135552.0f * rgb[0] + 8788810.0f * rgb[1] + 4435075.0f * rgb[2]) / 24577794.0f;
  xyz[1] = (2613072.0f * rgb[0] + 8788810.0f * rgb[1] + 887015.0f * rgb[2]) / 12288897.0f;
  xyz[2] = (1425312.0f * rgb[0] + 8788810.0f * rgb[1] + 70074185.0f * rgb[2]) / 73733382.0f;
}

static inline void
ycxcz_to_linear (const float ycc[3], float rgb[3])
{
  const float y = (ycc[Y] + 16.0f) / 116.0f;
  const float xyz[3]
      = { (y + ycc[CX] / 500.0f) * white[0], y * white[1], (y - ycc[CZ] / 200.0f) * white[2] };

  rgb[0] = 3.241003275f * xyz[0] - 1.537398934f * xyz[1] - 0.498615861f * xyz[2];
  rgb[1] = -0.969224334f * xyz[0] + 1.875930071f * xyz[1] + 0.041554224f * xyz[2];
  rgb[2] = 0.055639423f * xyz[0] - 0.204011202f * xyz[1] + 1.057148933f * xyz[2];
}

/* CIELab of linear light, a and b weakened in the dark (Hunt's effect). */
static inline void
linear_to_hunt_lab (const float rgb[3], float lab[3])
{
  const float knee = 216.0f / 24389.0f; /* (6/29)^3 */
  float xyz[3];

  linear_to_xyz (rgb, xyz);
  for (int c = 0; c < 3; c++)
    {
      const float t = xyz[c] * white_inverse[c];

      xyz[c] = t > knee ? cbrtf (t) : t * (841.0f / 108.0f) + 4.0f / 29.0f;
    }
  lab[0] = 116.0f * xyz[1] - 16.0f;
  lab[1] = 0.01f * lab[0] * 500.0f * (xyz[0] - xyz[1]);
  lab[2] = 0.01f * lab[0] * 200.0f * (xyz[1] - xyz[2]);
}

/* HyAB distance to the power q_c. */
static inline float
colour_distance (const float a[3], const float b[3])
{
  const float hyab
      = fabsf (a[0] - b[0]) + sqrtf ((a[1] - b[1]) * (a[1] - b[1]) + (a[2] - b[2]) * (a[2] - b[2]));

  return powf (hyab, (float)COLOUR_EXPONENT);
}

/* -- filters -------------------------------------------------------------------------------------
 */

/* A sensitivity's Gaussian with the paper's parameters, in pixels: exp (-pi^2 x^2 / b). */
static double
fill_sensitivity (MetricsFilter *filter, double factor, double b, double pixels_per_degree)
{
  double sum = 0;

  for (int i = 0; i < filter->taps; i++)
    {
      double x = (i - filter->taps / 2) / pixels_per_degree;
      double value = factor * exp (-G_PI * G_PI * x * x / b);

      filter->weights[i] = (float)value;
      sum += value;
    }
  return sum;
}

static void
scale (MetricsFilter *filter, double factor)
{
  for (int i = 0; i < filter->taps; i++)
    filter->weights[i] = (float)(filter->weights[i] * factor);
}

static void
make_sensitivities (Flip *self, double ppd)
{
  MetricsFilter *f = self->filters;
  double first, second, norm;

  scale (&f[SENSE_Y], 1 / fill_sensitivity (&f[SENSE_Y], 1, 0.0047, ppd));
  scale (&f[SENSE_CX], 1 / fill_sensitivity (&f[SENSE_CX], 1, 0.0053, ppd));
  /* Each of the two is applied along both axes, so each carries the root of its weight. */
  first = fill_sensitivity (&f[SENSE_CZ_1], sqrt (34.1 * sqrt (G_PI / 0.04)), 0.04, ppd);
  second = fill_sensitivity (&f[SENSE_CZ_2], sqrt (13.5 * sqrt (G_PI / 0.025)), 0.025, ppd);
  norm = 1 / sqrt (first * first + second * second);
  scale (&f[SENSE_CZ_1], norm);
  scale (&f[SENSE_CZ_2], norm);
}

/* Positive and negative weights of a derivative sum to 1 and -1. */
static void
balance (MetricsFilter *filter)
{
  double positive = 0, negative = 0;

  for (int i = 0; i < filter->taps; i++)
    if (filter->weights[i] > 0)
      positive += filter->weights[i];
    else
      negative -= filter->weights[i];
  for (int i = 0; i < filter->taps; i++)
    {
      double sum = filter->weights[i] > 0 ? positive : negative;

      if (sum > 0)
        filter->weights[i] = (float)(filter->weights[i] / sum);
    }
}

static void
make_features (Flip *self, double deviation)
{
  MetricsFilter *f = self->filters;
  double sum = 0;

  for (int i = 0; i < f[GAUSS].taps; i++)
    {
      double x = i - f[GAUSS].taps / 2;
      double g = exp (-x * x / (2 * deviation * deviation));

      sum += g;
      f[GAUSS].weights[i] = (float)g;
      f[FIRST].weights[i] = (float)(-x * g);
      f[SECOND].weights[i] = (float)((x * x / (deviation * deviation) - 1) * g);
    }
  scale (&f[GAUSS], 1 / sum);
  balance (&f[FIRST]);
  balance (&f[SECOND]);
}

static void
flip_init (Flip *self, Image *image, double ppd)
{
  const int colour_reach = (int)ceil (3 * sqrt (0.04 / (2 * G_PI * G_PI)) * ppd);
  const double deviation = 0.5 * FEATURE_WIDTH * ppd;
  const int feature_reach = (int)ceil (3 * deviation);
  static const float green[3] = { 0, 1, 0 }, blue[3] = { 0, 0, 1 };
  float green_lab[3], blue_lab[3];

  self->width = image_get_width (image);
  self->height = image_get_height (image);
  self->reach = MAX (colour_reach, feature_reach);
  for (int i = 0; i < N_FILTERS; i++)
    {
      self->filters[i].taps = 2 * (i < GAUSS ? colour_reach : feature_reach) + 1;
      self->filters[i].weights = g_new (float, (gsize)self->filters[i].taps);
    }
  make_sensitivities (self, ppd);
  make_features (self, deviation);
  for (int i = 0; i < 256; i++)
    self->linear[i]
        = i <= 10 ? (float)(i / 255.0 / 12.92) : (float)pow ((i / 255.0 + 0.055) / 1.055, 2.4);
  linear_to_hunt_lab (green, green_lab);
  linear_to_hunt_lab (blue, blue_lab);
  self->largest = colour_distance (green_lab, blue_lab);
}

static void
flip_clear (Flip *self)
{
  for (int i = 0; i < N_FILTERS; i++)
    g_free (self->filters[i].weights);
}

/* -- a band of rows ------------------------------------------------------------------------------
 */

/* One picture's planes of a band, all with `reach` more rows above and below, [rows, width]: each
 * of the seven filters applied along x. */
typedef struct
{
  float *line;               /* (owned) a row of YCxCz with `reach` more columns on each side */
  float *along_x[N_FILTERS]; /* (owned) */
} Planes;

static void
planes_init (Planes *self, const Flip *flip, int rows)
{
  self->line = g_new (float, N_CHANNELS *(gsize)(flip->width + 2 * flip->reach));
  for (int i = 0; i < N_FILTERS; i++)
    self->along_x[i] = g_new (float, (gsize)rows *(gsize)flip->width);
}

static void
planes_clear (Planes *self)
{
  g_free (self->line);
  for (int i = 0; i < N_FILTERS; i++)
    g_free (self->along_x[i]);
}

/* A row of the picture as YCxCz, its ends repeated outwards. */
static void
load_line (const Flip *flip, const guint8 *row, float *line)
{
  const int stride = flip->width + 2 * flip->reach;

  for (int x = 0; x < flip->width; x++)
    {
      const float rgb[3] = { flip->linear[row[3 * x]], flip->linear[row[3 * x + 1]],
                             flip->linear[row[3 * x + 2]] };
      float *out = line + flip->reach + x;
      float xyz[3];

      linear_to_xyz (rgb, xyz);
      for (int c = 0; c < 3; c++)
        xyz[c] *= white_inverse[c];
      out[Y * stride] = 116.0f * xyz[1] - 16.0f;
      out[CX * stride] = 500.0f * (xyz[0] - xyz[1]);
      out[CZ * stride] = 200.0f * (xyz[1] - xyz[2]);
    }
  for (int c = 0; c < N_CHANNELS; c++)
    for (int x = 0; x < flip->reach; x++)
      {
        float *start = line + c * stride;

        start[x] = start[flip->reach];
        start[flip->reach + flip->width + x] = start[flip->reach + flip->width - 1];
      }
}

/* Rows first - reach to first + rows + reach of the picture; rows outside repeat the edge. */
static void
fill_planes (Planes *self, const Flip *flip, Image *image, int first, int rows)
{
  static const int source[N_FILTERS] = { Y, CX, CZ, CZ, Y, Y, Y };
  const guint8 *bytes = g_bytes_get_data (image_get_bytes (image), NULL);
  const int stride = flip->width + 2 * flip->reach;

  for (int i = 0; i < rows + 2 * flip->reach; i++)
    {
      const int y = CLAMP (first - flip->reach + i, 0, flip->height - 1);

      load_line (flip, bytes + 3 * (gsize)y * (gsize)flip->width, self->line);
      for (int f = 0; f < N_FILTERS; f++)
        metrics_filter_row (&flip->filters[f],
                            self->line + source[f] * stride + flip->reach
                                - flip->filters[f].taps / 2,
                            flip->width, self->along_x[f] + (gsize)i * (gsize)flip->width);
    }
}

/* Filters plane `from` down the columns with `filter`, for row y of the band. */
static void
filter_down (const Planes *self, const Flip *flip, int from, int filter, int y, float *out)
{
  const MetricsFilter *f = &flip->filters[filter];

  metrics_filter_column (
      f, self->along_x[from] + (gsize)(y + flip->reach - f->taps / 2) * (gsize)flip->width,
      (gsize)flip->width, flip->width, out);
}

/* What a row of one picture looks like once both filters are through. */
typedef struct
{
  float *channels[4]; /* Y, Cx and the two parts of Cz */
  float *edges[2];    /* first derivatives along x, y */
  float *points[2];   /* second derivatives */
} Seen;

static void
see_row (const Planes *planes, const Flip *flip, int y, Seen *seen)
{
  for (int f = SENSE_Y; f <= SENSE_CZ_2; f++)
    filter_down (planes, flip, f, f, y, seen->channels[f]);
  filter_down (planes, flip, FIRST, GAUSS, y, seen->edges[0]);
  filter_down (planes, flip, GAUSS, FIRST, y, seen->edges[1]);
  filter_down (planes, flip, SECOND, GAUSS, y, seen->points[0]);
  filter_down (planes, flip, GAUSS, SECOND, y, seen->points[1]);
}

static inline void
seen_lab (const Seen *seen, int x, float lab[3])
{
  const float ycc[3]
      = { seen->channels[0][x], seen->channels[1][x], seen->channels[2][x] + seen->channels[3][x] };
  float rgb[3];

  ycxcz_to_linear (ycc, rgb);
  for (int c = 0; c < 3; c++)
    rgb[c] = CLAMP (rgb[c], 0.0f, 1.0f);
  linear_to_hunt_lab (rgb, lab);
}

static inline float
strength (float *const derivatives[2], int x)
{
  return sqrtf (derivatives[0][x] * derivatives[0][x] + derivatives[1][x] * derivatives[1][x]);
}

static double
row_error (const Flip *flip, const Seen seen[PICTURES])
{
  const float knee = (float)COLOUR_KNEE * flip->largest;
  double sum = 0;

  for (int x = 0; x < flip->width; x++)
    {
      float lab[PICTURES][3], colour, edge, point, feature;

      for (int p = 0; p < PICTURES; p++)
        seen_lab (&seen[p], x, lab[p]);
      colour = colour_distance (lab[0], lab[1]);
      colour = colour < knee ? colour * (float)COLOUR_KNEE_ERR / knee
                             : (float)COLOUR_KNEE_ERR
                                   + (colour - knee) / (flip->largest - knee)
                                         * (1.0f - (float)COLOUR_KNEE_ERR);
      edge = fabsf (strength (seen[0].edges, x) - strength (seen[1].edges, x));
      point = fabsf (strength (seen[0].points, x) - strength (seen[1].points, x));
      /* The filters saw a lightness of 0 to 116; the exponent q_f is 0.5. */
      feature = sqrtf ((float)G_SQRT2 / 2 * MAX (edge, point) / 116.0f);
      sum += powf (colour, 1.0f - feature);
    }
  return sum;
}

static double
band_error (const Flip *flip, Image *const pictures[PICTURES], int first, int rows)
{
  g_autofree float *lines = g_new (float, PICTURES * 8 * (gsize)flip->width);
  Planes planes[PICTURES];
  Seen seen[PICTURES];
  double sum = 0;

  for (int p = 0; p < PICTURES; p++)
    {
      float *line = lines + 8 * (gsize)p * (gsize)flip->width;

      for (int i = 0; i < 4; i++, line += flip->width)
        seen[p].channels[i] = line;
      for (int i = 0; i < 2; i++, line += 2 * (gsize)flip->width)
        {
          seen[p].edges[i] = line;
          seen[p].points[i] = line + flip->width;
        }
      planes_init (&planes[p], flip, rows + 2 * flip->reach);
      fill_planes (&planes[p], flip, pictures[p], first, rows);
    }
  for (int y = 0; y < rows; y++)
    {
      for (int p = 0; p < PICTURES; p++)
        see_row (&planes[p], flip, y, &seen[p]);
      sum += row_error (flip, seen);
    }
  for (int p = 0; p < PICTURES; p++)
    planes_clear (&planes[p]);
  return sum;
}

double
metrics_flip (Image *a, Image *b, double pixels_per_degree, GCancellable *cancellable)
{
  Image *const pictures[PICTURES] = { a, b };
  const int height = image_get_height (a);
  const int bands = (height + METRICS_BAND_ROWS - 1) / METRICS_BAND_ROWS;
  g_autofree double *sums = g_new0 (double, (gsize)bands);
  double total = 0;
  Flip flip;

  flip_init (&flip, a, CLAMP (pixels_per_degree, 1.0, LARGEST_PPD));
#pragma omp parallel for schedule(dynamic)
  for (int i = 0; i < bands; i++)
    if (!g_cancellable_is_cancelled (cancellable))
      sums[i] = band_error (&flip, pictures, i * METRICS_BAND_ROWS,
                            MIN (METRICS_BAND_ROWS, height - i * METRICS_BAND_ROWS));
  for (int i = 0; i < bands; i++)
    total += sums[i];
  flip_clear (&flip);
  return total / ((double)flip.width * height);
}
