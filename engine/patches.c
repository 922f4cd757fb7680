/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/patches.h"

#include <math.h>
#include <string.h>

int
patches_padded (int n)
{
  return (n + 31) / 32 * 32;
}

PatchGrid
patches_grid (const TransformerConfig *c, int height, int width)
{
  PatchGrid grid = { .height = height, .width = width };

  grid.rows = height / c->patch;
  grid.columns = width / c->patch;
  grid.count = grid.rows * grid.columns;
  grid.padded = patches_padded (grid.count);
  return grid;
}

/* Copies one into the other. Planes of latents lie a power of two apart and would evict each other
 * from the cache if one number of each were read in turn, so a row of one plane is walked at once.
 */
static void
reorder (const TransformerConfig *c, const PatchGrid *g, float *patches, float *latents,
         gboolean to_patches)
{
  gsize area = (gsize)g->height * (gsize)g->width;
  gsize pixels = (gsize)(c->patch * c->patch), channels = (gsize)c->in_channels;

  for (int y = 0; y < g->rows * c->patch; y++)
    for (int channel = 0; channel < c->in_channels; channel++)
      {
        float *latent = latents + (gsize)channel * area + (gsize)y * (gsize)g->width;
        gsize token = (gsize)(y / c->patch) * (gsize)g->columns;
        float *patch = patches + token * pixels * channels + (gsize)channel
                       + (gsize)(y % c->patch * c->patch) * channels;

        for (int column = 0; column < g->columns; column++, patch += pixels * channels)
          for (int x = 0; x < c->patch; x++, latent++)
            if (to_patches)
              patch[(gsize)x * channels] = *latent;
            else
              *latent = patch[(gsize)x * channels];
      }
}

void
patches_from_latents (const TransformerConfig *c, const PatchGrid *grid, const float *latents,
                      float *patches)
{
  reorder (c, grid, patches, (float *)latents, TRUE);
}

void
patches_to_latents (const TransformerConfig *c, const PatchGrid *grid, const float *patches,
                    float *latents)
{
  reorder (c, grid, (float *)patches, latents, FALSE);
}

/* One axis's share of a token's row, for each of its positions: tokens repeat them. */
static float *
axis_shares (const TransformerConfig *c, int axis, int positions)
{
  int pairs = c->axes_dims[axis] / 2;
  float *shares = g_new (float, (gsize)positions *(gsize)pairs * 2);

  for (int j = 0; j < pairs; j++)
    {
      double frequency = pow (c->rope_theta, -2.0 * j / c->axes_dims[axis]);

      for (int i = 0; i < positions; i++)
        {
          float angle = (float)(i * frequency);

          shares[(i * pairs + j) * 2] = cosf (angle);
          shares[(i * pairs + j) * 2 + 1] = sinf (angle);
        }
    }
  return shares;
}

/* One token's row: each axis has its share of the pairs, and its own position. */
static void
rope_row (const TransformerConfig *c, float *const shares[3], const int position[3], float *row)
{
  for (int axis = 0; axis < 3; axis++)
    {
      gsize width = (gsize)(c->axes_dims[axis] / 2 * 2);

      memcpy (row, shares[axis] + (gsize)position[axis] * width, width * sizeof *row);
      row += width;
    }
}

float *
patches_rope_table (const TransformerConfig *c, const PatchGrid *grid, int caption)
{
  gsize width = (gsize)c->head_dim;
  float *table = g_new (float, (gsize)(grid->padded + caption) * width);
  float *row = table;
  float *shares[3] = { axis_shares (c, 0, caption + 2), axis_shares (c, 1, MAX (grid->rows, 1)),
                       axis_shares (c, 2, MAX (grid->columns, 1)) };

  for (int i = 0; i < grid->padded; i++, row += width)
    {
      gboolean pad = i >= grid->count;
      int position[3]
          = { pad ? 0 : caption + 1, pad ? 0 : i / grid->columns, pad ? 0 : i % grid->columns };

      rope_row (c, shares, position, row);
    }
  for (int i = 0; i < caption; i++, row += width)
    rope_row (c, shares, (int[]){ 1 + i, 0, 0 }, row);
  for (int axis = 0; axis < 3; axis++)
    g_free (shares[axis]);
  return table;
}

float *
patches_time_sinusoid (const float *sigmas, int steps, double t_scale, int width)
{
  float *out = g_new (float, (gsize)steps *(gsize)width);
  int half = width / 2;

  for (int s = 0; s < steps; s++)
    {
      float tau = (1000.0f - sigmas[s] * 1000.0f) / 1000.0f; /* rounded as the pipeline does */
      float a = tau * (float)t_scale;

      for (int k = 0; k < half; k++)
        {
          float frequency = expf (-logf (10000.0f) * (float)k / (float)half);

          out[s * width + k] = cosf (a * frequency);
          out[s * width + half + k] = sinf (a * frequency);
        }
    }
  return out;
}
