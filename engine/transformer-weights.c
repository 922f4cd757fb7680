/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transformer-private.h"

static void
load_block (Loader *loader, const TransformerConfig *c, Block *block, gboolean modulated,
            const char *stack, int index)
{
  static const char *const qkv[] = { "attention.to_q", "attention.to_k", "attention.to_v", NULL };
  static const char *const w13[] = { "feed_forward.w1", "feed_forward.w3", NULL };
  const int64_t qkv_rows[] = { c->dim, c->dim, c->dim };
  const int64_t w13_rows[] = { c->hidden, c->hidden };
  g_autofree char *prefix = g_strdup_printf ("%s.%d.", stack, index);

  block->qkv
      = load_stacked (loader, prefix, qkv, "attention.to_qkv", qkv_rows, c->dim, FALSE, FALSE);
  block->out = load_linear (loader, prefix, "attention.to_out.0", c->dim, c->dim, FALSE);
  block->w13
      = load_stacked (loader, prefix, w13, "feed_forward.w13", w13_rows, c->dim, FALSE, TRUE);
  block->w2 = load_after_swiglu (loader, prefix, "feed_forward.w2", c->dim, c->hidden);
  load_vector (loader, &block->norm_q, c->head_dim, "%sattention.norm_q.weight", prefix);
  load_vector (loader, &block->norm_k, c->head_dim, "%sattention.norm_k.weight", prefix);
  load_vector (loader, &block->attention_norm1, c->dim, "%sattention_norm1.weight", prefix);
  load_vector (loader, &block->attention_norm2, c->dim, "%sattention_norm2.weight", prefix);
  load_vector (loader, &block->ffn_norm1, c->dim, "%sffn_norm1.weight", prefix);
  load_vector (loader, &block->ffn_norm2, c->dim, "%sffn_norm2.weight", prefix);
  if (modulated)
    block->modulation
        = load_linear (loader, prefix, "adaLN_modulation.0", 4 * c->dim, c->adaln_dim, TRUE);
}

/* A bundle of what is large; the modulation's layer runs for all blocks at once. */
static void
store_block (Loader *loader, Transformer *self, int bundle, const Block *block)
{
  if (self->shelf != NULL)
    shelf_store (self->shelf, loader, bundle,
                 (Linear *[]){ block->qkv, block->out, block->w13, block->w2 }, 4);
}

static void
free_block (const Context *ctx, Block *block)
{
  Linear *linears[] = { block->qkv, block->out, block->w13, block->w2, block->modulation };
  Tensor *vectors[] = { &block->attention_norm1, &block->attention_norm2, &block->ffn_norm1,
                        &block->ffn_norm2,       &block->norm_q,          &block->norm_k };

  for (guint i = 0; i < G_N_ELEMENTS (linears); i++)
    linear_free (ctx, linears[i]);
  for (guint i = 0; i < G_N_ELEMENTS (vectors); i++)
    loader_free_tensor (ctx, vectors[i]);
}

Transformer *
transformer_new (Loader *loader, const TransformerConfig *config)
{
  const TransformerConfig *c = config;
  Transformer *self = g_new0 (Transformer, 1);
  int patch = c->patch * c->patch * c->in_channels;

  self->config = *config;
  self->blocks = g_new0 (Block, (gsize)transformer_n_modulated (c));
  self->context_refiner = g_new0 (Block, (gsize)MAX (c->n_refiner_layers, 1));
  if (loader->shelved)
    self->shelf
        = shelf_new (c->n_refiner_layers + transformer_n_modulated (c), c->n_refiner_layers);

  self->x_embedder = load_linear (loader, "all_x_embedder.2-1", "", c->dim, patch, TRUE);
  load_vector (loader, &self->cap_norm, c->cap_feat_dim, "cap_embedder.0.weight");
  self->cap_embedder = load_linear (loader, "cap_embedder.1", "", c->dim, c->cap_feat_dim, TRUE);
  self->time_in = load_linear (loader, "t_embedder.mlp.0", "", c->t_hidden, TIME_FREQUENCIES, TRUE);
  self->time_out = load_linear (loader, "t_embedder.mlp.2", "", c->adaln_dim, c->t_hidden, TRUE);
  load_row (loader, &self->x_pad, c->dim, "x_pad_token");
  load_row (loader, &self->cap_pad, c->dim, "cap_pad_token");
  self->final_modulation = load_linear (loader, "all_final_layer.2-1.adaLN_modulation.1", "",
                                        c->dim, c->adaln_dim, TRUE);
  self->final_linear = load_linear (loader, "all_final_layer.2-1.linear", "", patch, c->dim, TRUE);

  for (int i = 0; i < c->n_refiner_layers; i++)
    {
      load_block (loader, c, &self->blocks[i], TRUE, "noise_refiner", i);
      store_block (loader, self, c->n_refiner_layers + i, &self->blocks[i]);
      load_block (loader, c, &self->context_refiner[i], FALSE, "context_refiner", i);
      store_block (loader, self, i, &self->context_refiner[i]);
    }
  for (int i = 0; i < c->n_layers; i++)
    {
      Block *block = &self->blocks[c->n_refiner_layers + i];

      load_block (loader, c, block, TRUE, "layers", i);
      store_block (loader, self, 2 * c->n_refiner_layers + i, block);
    }
  return self;
}

Shelf *
transformer_shelf (Transformer *self)
{
  return self->shelf;
}

void
transformer_free (const Context *ctx, Transformer *self)
{
  if (self == NULL)
    return;
  shelf_free (self->shelf, ctx);
  for (int i = 0; i < transformer_n_modulated (&self->config); i++)
    free_block (ctx, &self->blocks[i]);
  for (int i = 0; i < self->config.n_refiner_layers; i++)
    free_block (ctx, &self->context_refiner[i]);
  linear_free (ctx, self->x_embedder);
  linear_free (ctx, self->cap_embedder);
  linear_free (ctx, self->time_in);
  linear_free (ctx, self->time_out);
  linear_free (ctx, self->final_modulation);
  linear_free (ctx, self->final_linear);
  loader_free_tensor (ctx, &self->cap_norm);
  loader_free_tensor (ctx, &self->x_pad);
  loader_free_tensor (ctx, &self->cap_pad);
  g_free (self->blocks);
  g_free (self->context_refiner);
  g_free (self);
}

static const Linear *
find_among (Linear *const *linears, guint n, const char *name)
{
  for (guint i = 0; i < n; i++)
    if (linears[i] != NULL && g_strcmp0 (linears[i]->name, name) == 0)
      return linears[i];
  return NULL;
}

static const Linear *
find_in_block (const Block *block, const char *name)
{
  Linear *linears[] = { block->qkv, block->out, block->w13, block->w2, block->modulation };

  return find_among (linears, G_N_ELEMENTS (linears), name);
}

const Linear *
transformer_find_linear (const Transformer *self, const char *name)
{
  Linear *others[] = { self->x_embedder, self->cap_embedder,     self->time_in,
                       self->time_out,   self->final_modulation, self->final_linear };
  const Linear *found = find_among (others, G_N_ELEMENTS (others), name);

  for (int i = 0; i < transformer_n_modulated (&self->config) && found == NULL; i++)
    found = find_in_block (&self->blocks[i], name);
  for (int i = 0; i < self->config.n_refiner_layers && found == NULL; i++)
    found = find_in_block (&self->context_refiner[i], name);
  return found;
}
