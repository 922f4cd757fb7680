/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/text-encoder.h"

#include <math.h>
#include <string.h>

typedef struct
{
  Linear *qkv, *o, *gate_up, *down;
  Tensor input_norm, post_norm, q_norm, k_norm;
} Layer;

struct _TextEncoder
{
  TextEncoderConfig config;
  int n_layers; /* that run: one less than the model has */
  Layer *layers;
  Tensor embedding; /* [vocab, hidden], a view of the mapped file, or kept by Weights */
  Shelf *shelf;     /* (owned) of the layers; NULL: they stay */
};

static void
load_layer (Loader *loader, const TextEncoderConfig *c, Layer *layer, int index)
{
  static const char *const qkv[]
      = { "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", NULL };
  static const char *const gate_up[] = { "mlp.gate_proj", "mlp.up_proj", NULL };
  g_autofree char *prefix = g_strdup_printf ("model.layers.%d.", index);
  int64_t rows[]
      = { c->n_heads * c->head_dim, c->n_kv_heads * c->head_dim, c->n_kv_heads * c->head_dim };

  load_vector (loader, &layer->input_norm, c->hidden, "%sinput_layernorm.weight", prefix);
  layer->qkv
      = load_stacked (loader, prefix, qkv, "self_attn.qkv_proj", rows, c->hidden, FALSE, FALSE);
  load_vector (loader, &layer->q_norm, c->head_dim, "%sself_attn.q_norm.weight", prefix);
  load_vector (loader, &layer->k_norm, c->head_dim, "%sself_attn.k_norm.weight", prefix);
  layer->o = load_linear (loader, prefix, "self_attn.o_proj", c->hidden, rows[0], FALSE);
  load_vector (loader, &layer->post_norm, c->hidden, "%spost_attention_layernorm.weight", prefix);
  rows[0] = rows[1] = c->intermediate;
  layer->gate_up
      = load_stacked (loader, prefix, gate_up, "mlp.gate_up_proj", rows, c->hidden, FALSE, TRUE);
  layer->down = load_after_swiglu (loader, prefix, "mlp.down_proj", c->hidden, c->intermediate);
}

TextEncoder *
text_encoder_new (Loader *loader, const TextEncoderConfig *config)
{
  TextEncoder *self = g_new0 (TextEncoder, 1);

  self->config = *config;
  self->n_layers = config->n_layers - 1;
  self->layers = g_new0 (Layer, MAX (self->n_layers, 1));
  if (loader->shelved)
    self->shelf = shelf_new (self->n_layers, -1);
  if (!context_is_dry (loader->ctx) && !loader_failed (loader))
    {
      weights_get (loader->weights, &self->embedding, "model.embed_tokens.weight", &loader->error,
                   2, (int64_t)config->vocab, (int64_t)config->hidden);
      weights_keep_expanded (loader->weights);
    }
  for (int i = 0; i < self->n_layers; i++)
    {
      Layer *layer = &self->layers[i];

      load_layer (loader, config, layer, i);
      if (self->shelf != NULL)
        shelf_store (self->shelf, loader, i,
                     (Linear *[]){ layer->qkv, layer->o, layer->gate_up, layer->down }, 4);
    }
  return self;
}

Shelf *
text_encoder_shelf (TextEncoder *self)
{
  return self->shelf;
}

void
text_encoder_free (const Context *ctx, TextEncoder *self)
{
  if (self == NULL)
    return;
  shelf_free (self->shelf, ctx);
  for (int i = 0; i < self->n_layers; i++)
    {
      Layer *layer = &self->layers[i];
      Tensor *vectors[] = { &layer->input_norm, &layer->post_norm, &layer->q_norm, &layer->k_norm };
      Linear *linears[] = { layer->qkv, layer->o, layer->gate_up, layer->down };

      for (guint j = 0; j < G_N_ELEMENTS (vectors); j++)
        loader_free_tensor (ctx, vectors[j]);
      for (guint j = 0; j < G_N_ELEMENTS (linears); j++)
        linear_free (ctx, linears[j]);
    }
  g_free (self->layers);
  g_free (self);
}

/* The rows of the embedding table that the prompt uses, on the device. */
static Status
embed (const Context *ctx, TextEncoder *self, const gint64 *ids, int n, Tensor *h)
{
  int64_t width = self->config.hidden;
  gsize row = (gsize)width * dtype_size (self->embedding.dtype);
  g_autofree char *rows = NULL;
  Tensor host;

  if (context_is_dry (ctx))
    return STATUS_OK;
  rows = g_malloc (row * (gsize)n);
  for (int i = 0; i < n; i++)
    {
      if (ids[i] < 0 || ids[i] >= self->config.vocab)
        return STATUS_UNSUPPORTED;
      memcpy (rows + row * (gsize)i, (char *)self->embedding.data + row * (gsize)ids[i], row);
    }
  host = tensor_2d (self->embedding.dtype, rows, n, width);
  return ctx->ops->upload (ctx->stream, &host, h);
}

/* (cos, sin) of position x inverse frequency, [n, d/2, 2]. */
static Status
rope_table (const Context *ctx, const TextEncoderConfig *c, int n, Tensor *table)
{
  int half = c->head_dim / 2;
  g_autofree float *values = g_new (float, (gsize)n *(gsize)half * 2);
  Tensor host;

  CHECK (arena_tensor (ctx->arena, table, DTYPE_F32, n, half, 2, 0));
  for (int k = 0; k < half; k++)
    {
      float frequency = (float)(1.0 / pow (c->rope_theta, 2.0 * k / c->head_dim));

      if (c->rope_bf16)
        frequency = bf16_to_float (bf16_from_float (frequency));
      for (int i = 0; i < n; i++)
        {
          values[(i * half + k) * 2] = cosf ((float)i * frequency);
          values[(i * half + k) * 2 + 1] = sinf ((float)i * frequency);
        }
    }
  host = *table;
  host.data = values;
  return ctx->ops->upload (ctx->stream, &host, table);
}

/* One layer. `a` comes in as the normed input, and leaves as the next layer's (`next` its norm). */
static Status
layer_forward (const Context *ctx, const TextEncoderConfig *c, const Layer *layer, Tensor *h,
               Tensor *a, const Tensor *table, const Tensor *next)
{
  const Ops *ops = ctx->ops;
  size_t mark = arena_mark (ctx->arena, ARENA_LOW);
  int64_t n = h->shape[0];
  int heads = c->n_heads + 2 * c->n_kv_heads;
  float eps = (float)c->rms_eps;
  HeadNorm norm
      = { c->n_heads, c->n_kv_heads, &layer->q_norm, &layer->k_norm, eps, table, ROPE_HALF };
  Tensor qkv, o, y, m;

  CHECK (arena_tensor (ctx->arena, &qkv, ctx->activation, n, heads, c->head_dim, 0));
  CHECK (arena_tensor (ctx->arena, &o, ctx->activation, n, c->n_heads * c->head_dim, 0, 0));
  CHECK (arena_tensor (ctx->arena, &y, ctx->residual, n, c->hidden, 0, 0));
  CHECK (arena_tensor (ctx->arena, &m, ctx->activation, n, c->intermediate, 0, 0));

  CHECK (linear_apply_heads (ctx, layer->qkv, a, &norm, &qkv));
  CHECK (ops->attention (ctx->stream, &qkv, c->n_heads, c->n_kv_heads, true, &o));
  CHECK (linear_apply (ctx, layer->o, &o, &y));
  CHECK (ops->residual_norm (ctx->stream, h, &y, NULL, NULL, &layer->post_norm, NULL, eps, a));
  CHECK (linear_apply_swiglu (ctx, layer->gate_up, a, &m));
  CHECK (linear_apply (ctx, layer->down, &m, &y));
  CHECK (ops->residual_norm (ctx->stream, h, &y, NULL, NULL, next, NULL, eps,
                             next != NULL ? a : NULL));
  arena_release (ctx->arena, ARENA_LOW, mark);
  return STATUS_OK;
}

Status
text_encoder_run (const Context *ctx, TextEncoder *self, const gint64 *ids, int n, float *embeds)
{
  const TextEncoderConfig *c = &self->config;
  size_t mark = arena_mark (ctx->arena, ARENA_LOW);
  Tensor h, a, table, host;

  CHECK (arena_tensor (ctx->arena, &h, ctx->residual, n, c->hidden, 0, 0));
  CHECK (arena_tensor (ctx->arena, &a, ctx->activation, n, c->hidden, 0, 0));
  CHECK (embed (ctx, self, ids, n, &h));
  CHECK (rope_table (ctx, c, n, &table));

  if (self->n_layers > 0)
    CHECK (ctx->ops->rms_norm (ctx->stream, &h, &self->layers[0].input_norm, NULL,
                               (float)c->rms_eps, &a));
  for (int i = 0; i < self->n_layers; i++)
    {
      const Tensor *next = i + 1 < self->n_layers ? &self->layers[i + 1].input_norm : NULL;

      CHECK (context_check_cancelled (ctx));
      CHECK (shelf_acquire (self->shelf, ctx, i));
      CHECK (layer_forward (ctx, c, &self->layers[i], &h, &a, &table, next));
      CHECK (shelf_release (self->shelf, ctx, i));
    }

  host = tensor_2d (DTYPE_F32, embeds, n, c->hidden);
  CHECK (ctx->ops->download (ctx->stream, &h, &host));
  arena_release (ctx->arena, ARENA_LOW, mark);
  return STATUS_OK;
}
