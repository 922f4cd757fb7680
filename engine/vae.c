/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/vae.h"

#include <math.h>
#include <string.h>

#define NORM_EPS 1e-6f /* of every GroupNorm (6.1) */
/* Numbers of a feature map from which a block takes milliseconds on a fast card. */
#define WAIT_FROM ((int64_t)1 << 25)

typedef struct
{
  Tensor weight, bias;
} Norm;

typedef struct
{
  int64_t in, out;
  Norm norm1, norm2;
  Conv *conv1, *conv2, *shortcut; /* shortcut NULL when in = out */
} Resnet;

typedef struct
{
  Norm norm;
  Linear *qkv, *out;
} Attention;

typedef struct
{
  int n_resnets;
  Resnet resnets[VAE_MAX_LAYERS + 1]; /* the decoder has one more a level */
  Conv *sampler;                      /* up or down; NULL on the last level */
} Level;

struct _Vae
{
  VaeConfig config;
  gboolean decoder;
  Conv *conv_in, *conv_out;
  Level levels[G_N_ELEMENTS (((VaeConfig *)0)->channels)];
  Resnet middle[2];
  Attention attention;
  Norm norm_out;
};

/* -- weights ------------------------------------------------------------------------------------
 */

static void
load_norm (Loader *loader, Norm *norm, const char *prefix, const char *name, int64_t channels)
{
  load_vector (loader, &norm->weight, channels, "%s%s.weight", prefix, name);
  load_vector (loader, &norm->bias, channels, "%s%s.bias", prefix, name);
}

static void load_resnet (Loader *loader, Resnet *resnet, int64_t in, int64_t out,
                         const char *format, ...) G_GNUC_PRINTF (5, 6);

static void
load_resnet (Loader *loader, Resnet *resnet, int64_t in, int64_t out, const char *format, ...)
{
  g_autofree char *prefix = NULL;
  va_list arguments;

  va_start (arguments, format);
  prefix = g_strdup_vprintf (format, arguments);
  va_end (arguments);

  resnet->in = in;
  resnet->out = out;
  load_norm (loader, &resnet->norm1, prefix, "norm1", in);
  resnet->conv1 = load_conv (loader, prefix, "conv1", in, out, 3, 1, FALSE);
  load_norm (loader, &resnet->norm2, prefix, "norm2", out);
  resnet->conv2 = load_conv (loader, prefix, "conv2", out, out, 3, 1, FALSE);
  if (in != out)
    resnet->shortcut = load_conv (loader, prefix, "conv_shortcut", in, out, 1, 1, FALSE);
}

static void
load_middle (Loader *loader, Vae *self, const char *side, int64_t channels)
{
  static const char *const qkv[] = { "to_q", "to_k", "to_v", NULL };
  const int64_t rows[] = { channels, channels, channels };
  g_autofree char *prefix = g_strdup_printf ("%s.mid_block.attentions.0.", side);

  for (int i = 0; i < 2; i++)
    load_resnet (loader, &self->middle[i], channels, channels, "%s.mid_block.resnets.%d.", side, i);
  if (!self->config.mid_attention)
    return;
  load_norm (loader, &self->attention.norm, prefix, "group_norm", channels);
  self->attention.qkv = load_stacked (loader, prefix, qkv, "to_qkv", rows, channels, TRUE, FALSE);
  self->attention.out = load_linear (loader, prefix, "to_out.0", channels, channels, TRUE);
}

static Vae *
new_side (Loader *loader, const VaeConfig *config, gboolean decoder)
{
  Vae *self = g_new0 (Vae, 1);
  const char *side = decoder ? "decoder" : "encoder";
  g_autofree char *prefix = g_strconcat (side, ".", NULL);
  int n = config->n_blocks;
  int64_t widest = config->channels[n - 1], narrowest = config->channels[0];
  int64_t channels = decoder ? widest : narrowest;

  self->config = *config;
  self->decoder = decoder;
  self->conv_in = load_conv (loader, prefix, "conv_in", decoder ? config->latent_channels : 3,
                             channels, 3, 1, FALSE);
  for (int i = 0; i < n; i++)
    {
      Level *level = &self->levels[i];
      int64_t out = config->channels[decoder ? n - 1 - i : i];
      g_autofree char *sampler = g_strdup_printf (
          "%s_blocks.%d.%ssamplers.0.conv", decoder ? "up" : "down", i, decoder ? "up" : "down");

      level->n_resnets = config->layers_per_block + (decoder ? 1 : 0);
      for (int j = 0; j < level->n_resnets; j++, channels = out)
        load_resnet (loader, &level->resnets[j], channels, out, "%s.%s_blocks.%d.resnets.%d.", side,
                     decoder ? "up" : "down", i, j);
      if (i < n - 1)
        level->sampler = load_conv (loader, prefix, sampler, out, out, 3, decoder ? 1 : 2, decoder);
    }
  load_middle (loader, self, side, widest);
  load_norm (loader, &self->norm_out, prefix, "conv_norm_out", channels);
  self->conv_out = load_conv (loader, prefix, "conv_out", channels,
                              decoder ? 3 : 2 * config->latent_channels, 3, 1, FALSE);
  return self;
}

Vae *
vae_new_decoder (Loader *loader, const VaeConfig *config)
{
  return new_side (loader, config, TRUE);
}

Vae *
vae_new_encoder (Loader *loader, const VaeConfig *config)
{
  return new_side (loader, config, FALSE);
}

static void
free_norm (const Context *ctx, Norm *norm)
{
  loader_free_tensor (ctx, &norm->weight);
  loader_free_tensor (ctx, &norm->bias);
}

static void
free_resnet (const Context *ctx, Resnet *resnet)
{
  free_norm (ctx, &resnet->norm1);
  free_norm (ctx, &resnet->norm2);
  ctx->ops->conv_release (ctx->stream, resnet->conv1);
  ctx->ops->conv_release (ctx->stream, resnet->conv2);
  ctx->ops->conv_release (ctx->stream, resnet->shortcut);
}

void
vae_free (const Context *ctx, Vae *self)
{
  if (self == NULL)
    return;
  ctx->ops->conv_release (ctx->stream, self->conv_in);
  ctx->ops->conv_release (ctx->stream, self->conv_out);
  for (int i = 0; i < self->config.n_blocks; i++)
    {
      for (int j = 0; j < self->levels[i].n_resnets; j++)
        free_resnet (ctx, &self->levels[i].resnets[j]);
      ctx->ops->conv_release (ctx->stream, self->levels[i].sampler);
    }
  free_resnet (ctx, &self->middle[0]);
  free_resnet (ctx, &self->middle[1]);
  free_norm (ctx, &self->attention.norm);
  linear_free (ctx, self->attention.qkv);
  linear_free (ctx, self->attention.out);
  free_norm (ctx, &self->norm_out);
  g_free (self);
}

/* -- the network --------------------------------------------------------------------------------
 */

/* The feature map on its way: alone at its end of the arena, so that what follows is made at the
 * other end and the two change places. */
typedef struct
{
  Tensor x; /* [H, W, C] */
  ArenaEnd end;
} Map;

static ArenaEnd
other (ArenaEnd end)
{
  return end == ARENA_LOW ? ARENA_HIGH : ARENA_LOW;
}

static Status
new_map (const Context *ctx, ArenaEnd end, int64_t h, int64_t w, int64_t c, Tensor *out)
{
  return arena_tensor_at (ctx->arena, end, out, ctx->activation, h, w, c, 0);
}

static Status
group_norm (const Context *ctx, const Vae *self, const Norm *norm, gboolean silu, const Tensor *x,
            Tensor *out)
{
  return ctx->ops->group_norm (ctx->stream, x, &norm->weight, &norm->bias, self->config.groups,
                               NORM_EPS, silu, out);
}

/* map->x becomes `out`, made at the other end; everything at the old end is free again. */
static void
replace_map (const Context *ctx, Map *map, Tensor out)
{
  arena_release (ctx->arena, map->end, 0);
  map->x = out;
  map->end = other (map->end);
}

/* x = shortcut (x) + conv2 (norm (conv1 (norm (x)))) */
static Status
resnet_forward (const Context *ctx, const Vae *self, const Resnet *r, Map *map)
{
  const Ops *ops = ctx->ops;
  int64_t h = map->x.shape[0], w = map->x.shape[1];
  ArenaEnd spare = other (map->end);
  Tensor a, b, sum;

  /* What is queued cannot be taken back, so a cancellation would wait for all of it. */
  if (tensor_count (&map->x) >= WAIT_FROM)
    CHECK (ops->wait (ctx->stream));
  CHECK (context_check_cancelled (ctx));
  if (r->in == r->out)
    {
      CHECK (new_map (ctx, spare, h, w, r->in, &a));
      CHECK (new_map (ctx, spare, h, w, r->out, &b));
      CHECK (group_norm (ctx, self, &r->norm1, TRUE, &map->x, &a));
      CHECK (ops->conv2d (ctx->stream, r->conv1, &a, NULL, &b));
      CHECK (group_norm (ctx, self, &r->norm2, TRUE, &b, &b));
      CHECK (ops->conv2d (ctx->stream, r->conv2, &b, &map->x, &map->x));
      arena_release (ctx->arena, spare, 0);
      return STATUS_OK;
    }

  /* The shortcut first: then x itself can hold its norm, and one map less is alive. */
  CHECK (new_map (ctx, spare, h, w, r->out, &sum));
  CHECK (ops->conv2d (ctx->stream, r->shortcut, &map->x, NULL, &sum));
  CHECK (group_norm (ctx, self, &r->norm1, TRUE, &map->x, &map->x));
  CHECK (new_map (ctx, map->end, h, w, r->out, &b));
  CHECK (ops->conv2d (ctx->stream, r->conv1, &map->x, NULL, &b));
  CHECK (group_norm (ctx, self, &r->norm2, TRUE, &b, &b));
  CHECK (ops->conv2d (ctx->stream, r->conv2, &b, &sum, &sum));
  replace_map (ctx, map, sum);
  return STATUS_OK;
}

/* x += out (attention (norm (x))), one head over all pixels */
static Status
attention_forward (const Context *ctx, const Vae *self, Map *map)
{
  const Attention *at = &self->attention;
  int64_t c = map->x.shape[2], n = map->x.shape[0] * map->x.shape[1];
  ArenaEnd spare = other (map->end);
  Tensor normed, a, qkv, flat, x = tensor_2d (map->x.dtype, map->x.data, n, c);

  CHECK (new_map (ctx, spare, map->x.shape[0], map->x.shape[1], c, &normed));
  CHECK (arena_tensor_at (ctx->arena, spare, &qkv, ctx->activation, n, 3, c, 0));
  CHECK (group_norm (ctx, self, &at->norm, FALSE, &map->x, &normed));
  a = tensor_2d (normed.dtype, normed.data, n, c);
  flat = tensor_2d (qkv.dtype, qkv.data, n, 3 * c);
  CHECK (linear_apply (ctx, at->qkv, &a, &flat));
  CHECK (ctx->ops->attention (ctx->stream, &qkv, 1, 1, false, &a));
  flat = tensor_2d (qkv.dtype, qkv.data, n, c);
  CHECK (linear_apply (ctx, at->out, &a, &flat));
  CHECK (ctx->ops->residual_norm (ctx->stream, &x, &flat, NULL, NULL, NULL, NULL, NORM_EPS, NULL));
  arena_release (ctx->arena, spare, 0);
  return STATUS_OK;
}

static Status
middle_forward (const Context *ctx, const Vae *self, Map *map)
{
  CHECK (resnet_forward (ctx, self, &self->middle[0], map));
  if (self->config.mid_attention)
    CHECK (attention_forward (ctx, self, map));
  return resnet_forward (ctx, self, &self->middle[1], map);
}

static Status
level_forward (const Context *ctx, const Vae *self, int index, Map *map)
{
  const Level *level = &self->levels[index];
  int64_t h = map->x.shape[0], w = map->x.shape[1], c;
  Tensor out;

  for (int i = 0; i < level->n_resnets; i++)
    CHECK (resnet_forward (ctx, self, &level->resnets[i], map));
  if (index == self->config.n_blocks - 1)
    return STATUS_OK;
  c = map->x.shape[2];
  CHECK (new_map (ctx, other (map->end), self->decoder ? 2 * h : h / 2,
                  self->decoder ? 2 * w : w / 2, c, &out));
  CHECK (ctx->ops->conv2d (ctx->stream, level->sampler, &map->x, NULL, &out));
  replace_map (ctx, map, out);
  return STATUS_OK;
}

/* host_in [h, w, Cin] F32 -> host_out [h', w', Cout] F32 through the whole side. */
static Status
forward (const Context *ctx, const Vae *self, const float *host_in, int64_t h, int64_t w,
         float *host_out)
{
  const VaeConfig *c = &self->config;
  int64_t in = self->decoder ? c->latent_channels : 3;
  int64_t out = self->decoder ? 3 : 2 * c->latent_channels;
  Tensor host = tensor_3d (DTYPE_F32, (float *)host_in, h, w, in);
  Map map = { .end = ARENA_LOW };
  Tensor next;

  CHECK (new_map (ctx, map.end, h, w, in, &map.x));
  CHECK (ctx->ops->upload (ctx->stream, &host, &map.x));
  CHECK (new_map (ctx, other (map.end), h, w, c->channels[self->decoder ? c->n_blocks - 1 : 0],
                  &next));
  CHECK (ctx->ops->conv2d (ctx->stream, self->conv_in, &map.x, NULL, &next));
  replace_map (ctx, &map, next);

  if (self->decoder)
    CHECK (middle_forward (ctx, self, &map));
  for (int i = 0; i < c->n_blocks; i++)
    CHECK (level_forward (ctx, self, i, &map));
  if (!self->decoder)
    CHECK (middle_forward (ctx, self, &map));

  CHECK (group_norm (ctx, self, &self->norm_out, TRUE, &map.x, &map.x));
  CHECK (new_map (ctx, other (map.end), map.x.shape[0], map.x.shape[1], out, &next));
  CHECK (ctx->ops->conv2d (ctx->stream, self->conv_out, &map.x, NULL, &next));
  replace_map (ctx, &map, next);
  host = map.x;
  host.dtype = DTYPE_F32;
  host.data = host_out;
  CHECK (ctx->ops->download (ctx->stream, &map.x, &host));
  arena_release (ctx->arena, map.end, 0);
  return STATUS_OK;
}

/* -- decoding, whole or in tiles (6.4, 6.6) -----------------------------------------------------
 */

/* One axis cut into tiles of at most `tile` latents that overlap by a quarter or a little more. */
typedef struct
{
  int count, size, stride, length;
} Axis;

static Axis
cut_axis (int length, int tile)
{
  Axis axis = { 1, length, length, length };

  if (tile <= 0 || length <= tile)
    return axis;
  axis.size = tile;
  axis.stride = tile - tile / 4;
  axis.count = (length - tile + axis.stride - 1) / axis.stride + 1;
  return axis;
}

/* The last tile ends where the picture does, and overlaps its neighbour by more. */
static int
tile_start (const Axis *axis, int i)
{
  return MIN (i * axis->stride, axis->length - axis->size);
}

/* Weight of pixel p of tile i: rises from its start to where the previous tile ends. Later tiles
 * are laid over earlier ones, so this is all a cross-fade needs. */
static float
fade (const Axis *axis, int i, int p)
{
  int overlap;

  if (i == 0)
    return 1.0f;
  overlap = (tile_start (axis, i - 1) + axis->size - tile_start (axis, i)) * VAE_SCALE;
  return p >= overlap ? 1.0f : ((float)p + 0.5f) / (float)overlap;
}

/* Unscaled latents of a tile, channels last. */
static void
gather_tile (const VaeConfig *c, const float *latents, int height, int width, int top, int left,
             int h, int w, float *out)
{
  for (int y = 0; y < h; y++)
    for (int x = 0; x < w; x++)
      for (int ch = 0; ch < c->latent_channels; ch++)
        {
          float value = latents[(ch * height + top + y) * width + left + x];

          *out++ = value / (float)c->scaling_factor + (float)c->shift_factor;
        }
}

/* Lays a tile over the rows that are finished so far: `band` is what the tile's row of tiles has
 * put together, still apart from the picture above it. */
static void
lay_tile (const float *tile, int h, int w, const Axis *axis, int index, int left, int band_width,
          float *band)
{
  for (int y = 0; y < h; y++)
    for (int x = 0; x < w; x++)
      {
        float alpha = fade (axis, index, x);
        float *to = band + ((gsize)y * (gsize)band_width + (gsize)(left + x)) * 3;

        for (int ch = 0; ch < 3; ch++, tile++)
          to[ch] = alpha < 1.0f ? to[ch] + alpha * (*tile - to[ch]) : *tile;
      }
}

static void
lay_band (const float *band, int h, int w, const Axis *axis, int index, int top, float *pixels)
{
  for (int y = 0; y < h; y++)
    {
      float alpha = fade (axis, index, y);
      float *to = pixels + (gsize)(top + y) * (gsize)w * 3;

      for (gsize i = 0; i < (gsize)w * 3; i++, band++)
        to[i] = alpha < 1.0f ? to[i] + alpha * (*band - to[i]) : *band;
    }
}

Status
vae_decode (const Context *ctx, Vae *self, const float *latents, int height, int width, int tile,
            float *pixels)
{
  const VaeConfig *c = &self->config;
  Axis rows = cut_axis (height, tile), columns = cut_axis (width, tile);
  int h = rows.size * VAE_SCALE, w = columns.size * VAE_SCALE, full = width * VAE_SCALE;
  gboolean whole = rows.count * columns.count == 1;
  g_autofree float *in = NULL;
  g_autofree float *out = NULL;
  g_autofree float *band = NULL;

  if (context_is_dry (ctx))
    return forward (ctx, self, NULL, rows.size, columns.size, NULL);

  in = g_new (float, (gsize)rows.size *(gsize)columns.size *(gsize)c->latent_channels);
  if (!whole)
    {
      out = g_new (float, (gsize)h *(gsize)w * 3);
      band = g_new0 (float, (gsize)h *(gsize)full * 3);
    }
  for (int i = 0; i < rows.count; i++)
    {
      for (int j = 0; j < columns.count; j++)
        {
          int left = tile_start (&columns, j);

          gather_tile (c, latents, height, width, tile_start (&rows, i), left, rows.size,
                       columns.size, in);
          CHECK (forward (ctx, self, in, rows.size, columns.size, whole ? pixels : out));
          if (!whole)
            lay_tile (out, h, w, &columns, j, left * VAE_SCALE, full, band);
        }
      if (!whole)
        lay_band (band, h, full, &rows, i, tile_start (&rows, i) * VAE_SCALE, pixels);
    }
  return STATUS_OK;
}

Status
vae_encode (const Context *ctx, Vae *self, const float *pixels, int height, int width,
            float *latents)
{
  const VaeConfig *c = &self->config;
  gsize moments = 2 * (gsize)c->latent_channels, area = (gsize)height * (gsize)width;
  g_autofree float *out = NULL;

  if (!context_is_dry (ctx))
    out = g_new (float, area *moments);
  CHECK (forward (ctx, self, pixels, height * VAE_SCALE, width * VAE_SCALE, out));
  if (out == NULL)
    return STATUS_OK;
  for (gsize i = 0; i < area; i++)
    for (gsize ch = 0; ch < moments / 2; ch++)
      latents[ch * area + i]
          = (out[i * moments + ch] - (float)c->shift_factor) * (float)c->scaling_factor;
  return STATUS_OK;
}

/* GCC leaves loops like the next one scalar at -O2, and calls fminf, fmaxf and rintf one by one: a
 * tenfold difference over three million numbers. Clang needs no asking. */
#if defined(__GNUC__) && !defined(__clang__)
#define VECTORIZED __attribute__ ((optimize ("O3", "no-trapping-math")))
#else
#define VECTORIZED
#endif

VECTORIZED void
vae_round_pixels (const float *pixels, gsize n, guint8 *rgb)
{
  for (gsize i = 0; i < n; i++)
    {
      float y = pixels[i] * 0.5f + 0.5f;

      y = y > 0.0f ? y : 0.0f; /* NaN becomes 0 */
      y = y < 1.0f ? y : 1.0f;
      /* From 2^23 on a float has no fraction, so the sum rounds, halves to even. */
      rgb[i] = (guint8)(int)(y * 255.0f + 0x1p23f - 0x1p23f);
    }
}
