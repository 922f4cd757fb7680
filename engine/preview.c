/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/preview.h"

#include "engine/noise.h"

#include <math.h>

#define FIT_SIDE  16   /* latents */
#define FIT_BLOCK 4    /* latents of one colour: averages must show what a channel does alone */
#define FIT_SEED  1    /* any: the fit should be the same each time */
#define RIDGE     1e-3 /* keeps channels that do nothing from running away */

/* Solves A x = b for `columns` right sides in place; A [n, n] symmetric positive definite. */
static void
solve (double *a, double *b, int n, int columns)
{
  for (int i = 0; i < n; i++)
    for (int j = i + 1; j < n; j++)
      {
        double f = a[j * n + i] / a[i * n + i];

        for (int k = i; k < n; k++)
          a[j * n + k] -= f * a[i * n + k];
        for (int c = 0; c < columns; c++)
          b[j * columns + c] -= f * b[i * columns + c];
      }
  for (int i = n - 1; i >= 0; i--)
    for (int c = 0; c < columns; c++)
      {
        for (int k = i + 1; k < n; k++)
          b[i * columns + c] -= a[i * n + k] * b[k * columns + c];
        b[i * columns + c] /= a[i * n + i];
      }
}

/* Random latents, constant over blocks. */
static void
random_latents (float *latents, int channels)
{
  int blocks = FIT_SIDE / FIT_BLOCK;
  gsize n = (gsize)(channels * blocks * blocks);
  g_autofree float *noise = g_new (float, n);

  noise_torch_cpu (FIT_SEED, noise, n);
  for (int ch = 0; ch < channels; ch++)
    for (int y = 0; y < FIT_SIDE; y++)
      for (int x = 0; x < FIT_SIDE; x++)
        latents[(ch * FIT_SIDE + y) * FIT_SIDE + x]
            = noise[(ch * blocks + y / FIT_BLOCK) * blocks + x / FIT_BLOCK];
}

/* Mean colour of the pixels of latent (y, x). */
static void
mean_colour (const float *pixels, int y, int x, double rgb[3])
{
  rgb[0] = rgb[1] = rgb[2] = 0.0;
  for (int py = y * VAE_SCALE; py < (y + 1) * VAE_SCALE; py++)
    for (int px = x * VAE_SCALE; px < (x + 1) * VAE_SCALE; px++)
      for (int c = 0; c < 3; c++)
        rgb[c] += pixels[(py * FIT_SIDE * VAE_SCALE + px) * 3 + c] / (VAE_SCALE * VAE_SCALE);
}

/* Normal equations of all latents against their colours. */
static void
fit (const float *latents, const float *pixels, int channels, PreviewMap *map)
{
  int n = channels + 1;
  g_autofree double *a = g_new0 (double, (gsize)(n * n));
  g_autofree double *b = g_new0 (double, (gsize)(n * 3));

  for (int y = 0; y < FIT_SIDE; y++)
    for (int x = 0; x < FIT_SIDE; x++)
      {
        double v[PREVIEW_MAX_CHANNELS + 1], rgb[3];

        for (int ch = 0; ch < channels; ch++)
          v[ch] = latents[(ch * FIT_SIDE + y) * FIT_SIDE + x];
        v[channels] = 1.0;
        mean_colour (pixels, y, x, rgb);
        for (int i = 0; i < n; i++)
          {
            for (int j = 0; j < n; j++)
              a[i * n + j] += v[i] * v[j];
            for (int c = 0; c < 3; c++)
              b[i * 3 + c] += v[i] * rgb[c];
          }
      }
  for (int i = 0; i < n; i++)
    a[i * n + i] += RIDGE * FIT_SIDE * FIT_SIDE;
  solve (a, b, n, 3);
  for (int i = 0; i < n; i++)
    for (int c = 0; c < 3; c++)
      map->weight[c][i] = (float)b[i * 3 + c];
  map->channels = channels;
}

Status
preview_measure (const Context *ctx, Vae *decoder, gsize *bytes)
{
  Context dry = *ctx;
  Arena counting;

  arena_init_counting (&counting);
  dry.ops = &ops_dry;
  dry.stream = NULL;
  dry.arena = &counting;
  CHECK (vae_decode (&dry, decoder, NULL, FIT_SIDE, FIT_SIDE, 0, NULL));
  *bytes = counting.peak;
  return STATUS_OK;
}

Status
preview_fit (const Context *ctx, Vae *decoder, int channels, PreviewMap *map)
{
  gsize side = FIT_SIDE * VAE_SCALE, bytes;
  g_autofree float *latents = g_new (float, (gsize)channels *FIT_SIDE *FIT_SIDE);
  g_autofree float *pixels = g_new (float, side *side * 3);
  Context own = *ctx;
  Arena arena = { 0 };
  Status status;

  map->channels = 0;
  if (channels > PREVIEW_MAX_CHANNELS)
    return STATUS_OK;
  random_latents (latents, channels);

  CHECK (preview_measure (ctx, decoder, &bytes));
  own.arena = &arena;
  CHECK (arena_init (&arena, ctx->ops, ctx->stream, bytes));
  status = vae_decode (&own, decoder, latents, FIT_SIDE, FIT_SIDE, 0, pixels);
  arena_clear (&arena);
  CHECK (status);
  fit (latents, pixels, channels, map);
  return STATUS_OK;
}

/* One colour of a row of latents. Channel after channel: their planes lie a power of two apart, and
 * would evict each other from the cache if they were read in turn. */
static void
colour_row (const PreviewMap *map, int colour, const float *latents, gsize area, int width,
            float *row)
{
  const float *weight = map->weight[colour];

  for (int x = 0; x < width; x++)
    row[x] = weight[map->channels];
  for (int ch = 0; ch < map->channels; ch++, latents += area)
    for (int x = 0; x < width; x++)
      row[x] += weight[ch] * latents[x];
}

Image *
preview_render (const PreviewMap *map, const float *latents, int height, int width)
{
  gsize area = (gsize)height * (gsize)width;
  g_autofree float *pixels = NULL, *row = NULL;
  g_autofree guint8 *rgb = NULL;
  g_autoptr (GBytes) bytes = NULL;

  if (map->channels == 0)
    return NULL;
  pixels = g_new (float, area * 3);
  rgb = g_new (guint8, area * 3);
  row = g_new (float, (gsize)width);
  for (int y = 0; y < height; y++)
    for (int c = 0; c < 3; c++)
      {
        gsize first = (gsize)y * (gsize)width;

        colour_row (map, c, latents + first, area, width, row);
        for (int x = 0; x < width; x++)
          pixels[(first + (gsize)x) * 3 + (gsize)c] = row[x];
      }
  vae_round_pixels (pixels, area * 3, rgb);
  bytes = g_bytes_new_take (g_steal_pointer (&rgb), area * 3);
  return image_new (width, height, bytes);
}
