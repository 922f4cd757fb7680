/* SPDX-License-Identifier: Apache-2.0
 *
 * The end of the decoder in bands. Its last level has the largest maps by far. Convolutions see
 * only a few rows around their own, so a band with as many rows more at either side comes out as
 * in the whole picture; but a GroupNorm needs the moments of all of it. So the bands run once for
 * each norm: up to it, with the moments of those before, to find its own; and then to the end.
 */
#include "engine/vae-private.h"

#include <math.h>

typedef struct
{
  const Context *ctx; /* with an arena of its own: what the map leaves free */
  const Vae *self;
  int n_norms, stop;  /* how many norms there are; which one is to be measured, or n_norms */
  int next;           /* which norm comes next */
  Tensor moments;     /* [n_norms, groups, 2], device */
  int64_t core, rows; /* the band's own rows of what is computed now */
  gboolean measured;  /* the band ends here */
  float *found;       /* [groups, 2] of the band, host */
} Band;

static const Level *
last_level (const Vae *self)
{
  return &self->levels[self->config.n_blocks - 1];
}

static Tensor
moments_of (const Band *b, int norm)
{
  Tensor row = tensor_rows (&b->moments, norm, 1);

  return tensor_2d (DTYPE_F32, row.data, b->moments.shape[1], 2);
}

/* The next norm, or its moments; b->measured says which it was. */
static Status
band_norm (Band *b, const Norm *norm, const Tensor *x, Tensor *out)
{
  const Ops *ops = b->ctx->ops;
  Tensor moments = moments_of (b, b->next);

  if (b->next++ < b->stop)
    return ops->group_norm_by (b->ctx->stream, x, &moments, &norm->weight, &norm->bias, TRUE, out);
  b->measured = TRUE;
  if (!context_is_dry (b->ctx))
    {
      Tensor core = tensor_rows (x, b->core, b->rows);
      Tensor host = moments;

      host.data = b->found;
      CHECK (
          ops->group_moments (b->ctx->stream, &core, (int)b->moments.shape[1], NORM_EPS, &moments));
      CHECK (ops->download (b->ctx->stream, &moments, &host));
    }
  return STATUS_OK;
}

static ArenaEnd
other (ArenaEnd end)
{
  return end == ARENA_LOW ? ARENA_HIGH : ARENA_LOW;
}

static Status
new_map (const Band *b, ArenaEnd end, const Tensor *like, int64_t channels, Tensor *out)
{
  return arena_tensor_at (b->ctx->arena, end, out, b->ctx->activation, like->shape[0],
                          like->shape[1], channels, 0);
}

/* As in vae.c, but that it may end at a norm. */
static Status
band_resnet (Band *b, const Resnet *r, Map *map)
{
  const Ops *ops = b->ctx->ops;
  Stream *s = b->ctx->stream;
  ArenaEnd spare = other (map->end);
  Tensor a, h, sum;

  CHECK (context_check_cancelled (b->ctx));
  if (r->in == r->out)
    {
      CHECK (new_map (b, spare, &map->x, r->in, &a));
      CHECK (new_map (b, spare, &map->x, r->out, &h));
      CHECK (band_norm (b, &r->norm1, &map->x, &a));
      if (b->measured)
        return STATUS_OK;
      CHECK (ops->conv2d (s, r->conv1, &a, NULL, &h));
      CHECK (band_norm (b, &r->norm2, &h, &h));
      if (b->measured)
        return STATUS_OK;
      CHECK (ops->conv2d (s, r->conv2, &h, &map->x, &map->x));
      arena_release (b->ctx->arena, spare, 0);
      return STATUS_OK;
    }

  CHECK (new_map (b, spare, &map->x, r->out, &sum));
  CHECK (ops->conv2d (s, r->shortcut, &map->x, NULL, &sum));
  CHECK (band_norm (b, &r->norm1, &map->x, &map->x));
  if (b->measured)
    return STATUS_OK;
  CHECK (new_map (b, map->end, &map->x, r->out, &h));
  CHECK (ops->conv2d (s, r->conv1, &map->x, NULL, &h));
  CHECK (band_norm (b, &r->norm2, &h, &h));
  if (b->measured)
    return STATUS_OK;
  CHECK (ops->conv2d (s, r->conv2, &h, &sum, &sum));
  arena_release (b->ctx->arena, map->end, 0);
  map->x = sum;
  map->end = spare;
  return STATUS_OK;
}

/* Rows [first, first + count) of the map, through the sampler or as a copy. */
static Status
band_begin (Band *b, const Map *map, int64_t first, int64_t count, Map *out)
{
  const Vae *self = b->self;
  int n = self->config.n_blocks;
  Tensor rows = tensor_rows (&map->x, first, count);
  int64_t zoom = n > 1 ? 2 : 1;

  out->end = ARENA_LOW;
  CHECK (arena_tensor_at (b->ctx->arena, out->end, &out->x, b->ctx->activation, zoom * count,
                          zoom * rows.shape[1], rows.shape[2], 0));
  if (n > 1)
    return b->ctx->ops->conv2d (b->ctx->stream, self->levels[n - 2].sampler, &rows, NULL, &out->x);
  return b->ctx->ops->copy (b->ctx->stream, &rows, &out->x);
}

/* One band to b->stop or to the pixels of its own rows. */
static Status
band_run (Band *b, const Map *map, int64_t first, int64_t count, float *pixels)
{
  const Level *level = last_level (b->self);
  Map at;
  Tensor rgb, core, host;

  b->next = 0;
  b->measured = FALSE;
  CHECK (band_begin (b, map, first, count, &at));
  for (int i = 0; i < level->n_resnets && !b->measured; i++)
    CHECK (band_resnet (b, &level->resnets[i], &at));
  if (!b->measured)
    CHECK (band_norm (b, &b->self->norm_out, &at.x, &at.x));
  if (b->measured)
    return STATUS_OK;
  CHECK (new_map (b, other (at.end), &at.x, 3, &rgb));
  CHECK (b->ctx->ops->conv2d (b->ctx->stream, b->self->conv_out, &at.x, NULL, &rgb));
  core = tensor_rows (&rgb, b->core, b->rows);
  host = core;
  host.dtype = DTYPE_F32;
  host.data = pixels;
  return b->ctx->ops->download (b->ctx->stream, &core, &host);
}

/* How many rows of the result one row beyond the band's edge can reach: one a 3x3 convolution. */
static int
reach (const Vae *self)
{
  return 2 * last_level (self)->n_resnets + 2;
}

/* Adds a band's moments, of `weight` of the picture, to sums of means and of squares. */
static void
add_moments (const Band *b, double weight, double *sums)
{
  for (int64_t g = 0; g < b->moments.shape[1]; g++)
    {
      double mean = b->found[2 * g], inverse = b->found[2 * g + 1];
      double variance = 1.0 / (inverse * inverse) - NORM_EPS;

      sums[2 * g] += weight * mean;
      sums[2 * g + 1] += weight * (variance + mean * mean);
    }
}

static Status
put_moments (const Band *b, const double *sums, int norm)
{
  int64_t groups = b->moments.shape[1];
  Tensor device = moments_of (b, norm), host = device;

  for (int64_t g = 0; g < groups; g++)
    {
      double mean = sums[2 * g], variance = MAX (sums[2 * g + 1] - mean * mean, 0.0);

      b->found[2 * g] = (float)mean;
      b->found[2 * g + 1] = (float)(1.0 / sqrt (variance + NORM_EPS));
    }
  host.data = b->found;
  return b->ctx->ops->upload (b->ctx->stream, &host, &device);
}

/* All bands up to b->stop. */
static Status
pass (Band *b, const Map *map, int64_t step, float *pixels)
{
  int64_t zoom = b->self->config.n_blocks > 1 ? 2 : 1, height = map->x.shape[0];
  int64_t halo = (reach (b->self) + zoom - 1) / zoom, row = zoom * zoom * map->x.shape[1] * 3;
  g_autofree double *sums = g_new0 (double, (gsize)(2 * b->moments.shape[1]));

  for (int64_t first = 0; first < height; first += step)
    {
      int64_t last = MIN (first + step, height);
      int64_t from = MAX (first - halo, 0), to = MIN (last + halo, height);

      if (context_is_dry (b->ctx)) /* the largest band there can be */
        from = 0, to = MIN (step + 2 * halo, height);
      b->core = zoom * (first - from);
      b->rows = zoom * (last - first);
      CHECK (band_run (b, map, from, to - from, pixels != NULL ? pixels + first * row : NULL));
      arena_release (b->ctx->arena, ARENA_LOW, 0);
      arena_release (b->ctx->arena, ARENA_HIGH, 0);
      if (context_is_dry (b->ctx))
        return STATUS_OK;
      if (b->measured)
        add_moments (b, (double)(last - first) / (double)height, sums);
    }
  return b->stop < b->n_norms ? put_moments (b, sums, b->stop) : STATUS_OK;
}

Status
vae_decode_bands (const Context *ctx, const Vae *self, const Map *map, int height, int band,
                  float *pixels)
{
  Context own = *ctx;
  Arena rest;
  Band b = { .ctx = &own, .self = self, .n_norms = 2 * last_level (self)->n_resnets + 1 };
  g_autofree float *found = g_new (float, 2 * (gsize)self->config.groups);
  Status status = STATUS_OK;

  CHECK (arena_tensor_at (ctx->arena, other (map->end), &b.moments, DTYPE_F32, b.n_norms,
                          self->config.groups, 2, 0));
  b.found = found;
  arena_take_rest (ctx->arena, &rest);
  own.arena = &rest;
  for (b.stop = context_is_dry (ctx) ? b.n_norms : 0; b.stop <= b.n_norms && status == STATUS_OK;
       b.stop++)
    status = pass (&b, map, band * map->x.shape[0] / height, pixels);
  arena_give_rest (ctx->arena, &rest);
  arena_release (ctx->arena, ARENA_LOW, 0);
  arena_release (ctx->arena, ARENA_HIGH, 0);
  return status;
}
