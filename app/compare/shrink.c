/* SPDX-License-Identifier: Apache-2.0 */
#include "app/compare/shrink.h"

#define ONE 16384u /* sum of the weights of an output pixel */

/* Which source pixels make an output pixel along one side, and how much each counts. */
typedef struct
{
  int taps;         /* most source pixels of one output pixel */
  int *first;       /* by output pixel */
  guint16 *weights; /* `taps` for each output pixel, together ONE */
} Filter;

static void
filter_clear (Filter *self)
{
  g_free (self->first);
  g_free (self->weights);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Filter, filter_clear)

static void
filter_init (Filter *self, int from, int to)
{
  const double step = (double)from / to;

  self->taps = (int)(2 * step) + 2;
  self->first = g_new (int, to);
  self->weights = g_new0 (guint16, (gsize)to * self->taps);
  for (int i = 0; i < to; i++)
    {
      const double middle = (i + 0.5) * step;
      guint16 *weights = self->weights + (gsize)i * self->taps;
      double sum = 0;
      guint given = 0;

      self->first[i] = CLAMP ((int)(middle - step), 0, MAX (0, from - self->taps));
      for (int pass = 0; pass < 2; pass++)
        for (int t = 0; t < self->taps && self->first[i] + t < from; t++)
          {
            const double distance = ABS (self->first[i] + t + 0.5 - middle);
            const double weight = MAX (0, 1 - distance / step);

            if (pass == 0)
              sum += weight;
            else
              given += weights[t] = weight / sum * ONE;
          }
      /* What rounding down has left goes to the middle. */
      weights[CLAMP ((int)middle - self->first[i], 0, self->taps - 1)] += ONE - given;
    }
}

/* One row of `from` pixels into one of `to`. */
static void
shrink_row (const Filter *filter, const guint8 *from, int n_from, guint8 *to, int n_to)
{
  for (int x = 0; x < n_to; x++)
    {
      const guint16 *weights = filter->weights + (gsize)x * filter->taps;
      const int taps = MIN (filter->taps, n_from - filter->first[x]);
      const guint8 *p = from + 4 * (gsize)filter->first[x];
      guint sum[4] = { ONE / 2, ONE / 2, ONE / 2, ONE / 2 };

      for (int t = 0; t < taps; t++, p += 4)
        for (int c = 0; c < 4; c++)
          sum[c] += weights[t] * p[c];
      for (int c = 0; c < 4; c++)
        to[4 * x + c] = sum[c] / ONE;
    }
}

/* `sums` += weight * row. */
static void
add_row (guint *sums, const guint8 *row, guint weight, int n)
{
  for (int i = 0; i < n; i++)
    sums[i] += weight * row[i];
}

GdkTexture *
texture_shrink (GdkTexture *texture, int width, int height)
{
  const int from_width = gdk_texture_get_width (texture);
  const int from_height = gdk_texture_get_height (texture);
  const int row = 4 * width;
  g_autofree guint8 *pixels = g_malloc ((gsize)4 * from_width * from_height);
  g_autofree guint8 *narrow = g_malloc ((gsize)row * from_height);
  g_autofree guint *sums = g_new (guint, row);
  g_autoptr (GBytes) bytes = NULL;
  g_auto (Filter) across = { 0 }, down = { 0 };
  guint8 *out = g_malloc ((gsize)row * height);

  filter_init (&across, from_width, width);
  filter_init (&down, from_height, height);
  gdk_texture_download (texture, pixels, (gsize)4 * from_width);
  for (int y = 0; y < from_height; y++)
    shrink_row (&across, pixels + (gsize)4 * from_width * y, from_width, narrow + (gsize)row * y,
                width);
  for (int y = 0; y < height; y++)
    {
      for (int i = 0; i < row; i++)
        sums[i] = ONE / 2;
      for (int t = 0; t < down.taps && down.first[y] + t < from_height; t++)
        add_row (sums, narrow + (gsize)row * (down.first[y] + t),
                 down.weights[(gsize)y * down.taps + t], row);
      for (int i = 0; i < row; i++)
        out[(gsize)row * y + i] = sums[i] / ONE;
    }
  bytes = g_bytes_new_take (out, (gsize)row * height);
  return gdk_memory_texture_new (width, height, GDK_MEMORY_DEFAULT, bytes, row);
}

GdkTexture *
texture_shrink_to_fit (GdkTexture *texture, int size)
{
  const int width = gdk_texture_get_width (texture), height = gdk_texture_get_height (texture);
  const int longest = MAX (width, height);

  if (longest <= size)
    return g_object_ref (texture);
  return texture_shrink (texture, MAX (1, (int)((gint64)width * size / longest)),
                         MAX (1, (int)((gint64)height * size / longest)));
}
