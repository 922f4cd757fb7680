/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/vae-private.h"

#include <math.h>
#include <string.h>

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
level_resnets (const Context *ctx, const Vae *self, int index, Map *map)
{
  const Level *level = &self->levels[index];

  for (int i = 0; i < level->n_resnets; i++)
    CHECK (resnet_forward (ctx, self, &level->resnets[i], map));
  return STATUS_OK;
}

/* To the next level's size; nothing behind the last. */
static Status
level_sampler (const Context *ctx, const Vae *self, int index, Map *map)
{
  int64_t h = map->x.shape[0], w = map->x.shape[1], c = map->x.shape[2];
  Tensor out;

  if (index == self->config.n_blocks - 1)
    return STATUS_OK;
  CHECK (new_map (ctx, other (map->end), self->decoder ? 2 * h : h / 2,
                  self->decoder ? 2 * w : w / 2, c, &out));
  CHECK (ctx->ops->conv2d (ctx->stream, self->levels[index].sampler, &map->x, NULL, &out));
  replace_map (ctx, map, out);
  return STATUS_OK;
}

/* host_in [h, w, Cin] F32 -> the map behind the first convolution and, decoding, the middle. */
static Status
enter (const Context *ctx, const Vae *self, const float *host_in, int64_t h, int64_t w, Map *map)
{
  const VaeConfig *c = &self->config;
  int64_t in = self->decoder ? c->latent_channels : 3;
  Tensor host = tensor_3d (DTYPE_F32, (float *)host_in, h, w, in);
  Tensor next;

  map->end = ARENA_LOW;
  CHECK (new_map (ctx, map->end, h, w, in, &map->x));
  CHECK (ctx->ops->upload (ctx->stream, &host, &map->x));
  CHECK (new_map (ctx, other (map->end), h, w, c->channels[self->decoder ? c->n_blocks - 1 : 0],
                  &next));
  CHECK (ctx->ops->conv2d (ctx->stream, self->conv_in, &map->x, NULL, &next));
  replace_map (ctx, map, next);
  return self->decoder ? middle_forward (ctx, self, map) : STATUS_OK;
}

/* host_in [h, w, Cin] F32 -> host_out [h', w', Cout] F32 through the whole side. */
static Status
forward (const Context *ctx, const Vae *self, const float *host_in, int64_t h, int64_t w,
         float *host_out)
{
  const VaeConfig *c = &self->config;
  int64_t out = self->decoder ? 3 : 2 * c->latent_channels;
  Tensor host, next;
  Map map;

  CHECK (enter (ctx, self, host_in, h, w, &map));
  for (int i = 0; i < c->n_blocks; i++)
    {
      CHECK (level_resnets (ctx, self, i, &map));
      CHECK (level_sampler (ctx, self, i, &map));
    }
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

/* -- decoding (6.4), whole or in bands ----------------------------------------------------------
 */

/* Unscaled latents, channels last. A row of one plane after the other: planes lie a power of two
 * apart, and would evict each other from the cache if they were read in turn. */
static void
gather_latents (const VaeConfig *c, const float *latents, int height, int width, float *out)
{
  for (int y = 0; y < height; y++, out += width * c->latent_channels)
    for (int ch = 0; ch < c->latent_channels; ch++)
      for (int x = 0; x < width; x++)
        {
          float value = latents[(ch * height + y) * width + x];

          out[x * c->latent_channels + ch]
              = value / (float)c->scaling_factor + (float)c->shift_factor;
        }
}

Status
vae_decode (const Context *ctx, Vae *self, const float *latents, int height, int width, int band,
            float *pixels)
{
  const VaeConfig *c = &self->config;
  g_autofree float *in = NULL;
  Map map;

  if (!context_is_dry (ctx))
    {
      in = g_new (float, (gsize)height *(gsize)width *(gsize)c->latent_channels);
      gather_latents (c, latents, height, width, in);
    }
  if (band <= 0 || band >= height)
    return forward (ctx, self, in, height, width, pixels);

  CHECK (enter (ctx, self, in, height, width, &map));
  for (int i = 0; i < c->n_blocks; i++)
    {
      if (i == c->n_blocks - 1)
        break;
      CHECK (level_resnets (ctx, self, i, &map));
      if (i < c->n_blocks - 2)
        CHECK (level_sampler (ctx, self, i, &map));
    }
  return vae_decode_bands (ctx, self, &map, height, band, pixels);
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
