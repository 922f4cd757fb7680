/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/checkpoint/inventory.h"

typedef struct
{
  InventoryFunc func;
  gpointer user_data;
} Walk;

/* One tensor, `prefix` + `name`; extents end at the first 0. */
static void
visit (const Walk *walk, const char *prefix, const char *name, int64_t a, int64_t b, int64_t c,
       int64_t d)
{
  g_autofree char *full = g_strconcat (prefix, name, NULL);
  const int64_t shape[] = { a, b, c, d };
  int rank = 0;

  while (rank < 4 && shape[rank] > 0)
    rank++;
  walk->func (full, rank, shape, walk->user_data);
}

static void
visit_linear (const Walk *walk, const char *prefix, const char *name, int64_t n, int64_t k)
{
  g_autofree char *full = g_strconcat (prefix, name, NULL);

  visit (walk, full, ".weight", n, k, 0, 0);
  visit (walk, full, ".bias", n, 0, 0, 0);
}

static void
visit_conv (const Walk *walk, const char *prefix, const char *name, int64_t out, int64_t in,
            int64_t side)
{
  g_autofree char *full = g_strconcat (prefix, name, NULL);

  visit (walk, full, ".weight", out, in, side, side);
  visit (walk, full, ".bias", out, 0, 0, 0);
}

static void
visit_norm (const Walk *walk, const char *prefix, const char *name, int64_t n)
{
  visit_linear (walk, prefix, name, n, 0);
}

/* -- transformer, spec 5.1 ----------------------------------------------------------------------
 */

static void
visit_block (const Walk *walk, const TransformerConfig *c, const char *prefix, gboolean modulated)
{
  static const char *const square[] = { "attention.to_q.weight", "attention.to_k.weight",
                                        "attention.to_v.weight", "attention.to_out.0.weight" };
  static const char *const norms[] = { "attention_norm1.weight", "attention_norm2.weight",
                                       "ffn_norm1.weight", "ffn_norm2.weight" };

  for (guint i = 0; i < G_N_ELEMENTS (square); i++)
    visit (walk, prefix, square[i], c->dim, c->dim, 0, 0);
  visit (walk, prefix, "attention.norm_q.weight", c->head_dim, 0, 0, 0);
  visit (walk, prefix, "attention.norm_k.weight", c->head_dim, 0, 0, 0);
  visit (walk, prefix, "feed_forward.w1.weight", c->hidden, c->dim, 0, 0);
  visit (walk, prefix, "feed_forward.w2.weight", c->dim, c->hidden, 0, 0);
  visit (walk, prefix, "feed_forward.w3.weight", c->hidden, c->dim, 0, 0);
  for (guint i = 0; i < G_N_ELEMENTS (norms); i++)
    visit (walk, prefix, norms[i], c->dim, 0, 0, 0);
  if (modulated)
    visit_linear (walk, prefix, "adaLN_modulation.0", 4 * (int64_t)c->dim, c->adaln_dim);
}

void
inventory_transformer (const TransformerConfig *config, InventoryFunc func, gpointer user_data)
{
  const TransformerConfig *c = config;
  const Walk walk = { func, user_data };
  const struct
  {
    const char *name;
    int n;
    gboolean modulated;
  } stacks[] = { { "noise_refiner", c->n_refiner_layers, TRUE },
                 { "context_refiner", c->n_refiner_layers, FALSE },
                 { "layers", c->n_layers, TRUE } };
  g_autofree char *embedder = g_strdup_printf ("all_x_embedder.%d-1", c->patch);
  g_autofree char *final = g_strdup_printf ("all_final_layer.%d-1.", c->patch);
  int64_t patch = (int64_t)c->in_channels * c->patch * c->patch;

  visit (&walk, "", "x_pad_token", 1, c->dim, 0, 0);
  visit (&walk, "", "cap_pad_token", 1, c->dim, 0, 0);
  visit_linear (&walk, "", embedder, c->dim, patch);
  visit (&walk, "", "cap_embedder.0.weight", c->cap_feat_dim, 0, 0, 0);
  visit_linear (&walk, "", "cap_embedder.1", c->dim, c->cap_feat_dim);
  visit_linear (&walk, "", "t_embedder.mlp.0", c->t_hidden, 256);
  visit_linear (&walk, "", "t_embedder.mlp.2", c->adaln_dim, c->t_hidden);
  for (guint s = 0; s < G_N_ELEMENTS (stacks); s++)
    for (int i = 0; i < stacks[s].n; i++)
      {
        g_autofree char *prefix = g_strdup_printf ("%s.%d.", stacks[s].name, i);
        visit_block (&walk, c, prefix, stacks[s].modulated);
      }
  visit_linear (&walk, final, "linear", patch, c->dim);
  visit_linear (&walk, final, "adaLN_modulation.1", c->dim, c->adaln_dim);
}

/* -- text encoder, spec 3 -----------------------------------------------------------------------
 */

void
inventory_text_encoder (const TextEncoderConfig *config, InventoryFunc func, gpointer user_data)
{
  const TextEncoderConfig *c = config;
  const Walk walk = { func, user_data };
  int64_t q = (int64_t)c->n_heads * c->head_dim, kv = (int64_t)c->n_kv_heads * c->head_dim;

  visit (&walk, "", "model.embed_tokens.weight", c->vocab, c->hidden, 0, 0);
  for (int i = 0; i < c->n_layers - 1; i++)
    {
      g_autofree char *layer = g_strdup_printf ("model.layers.%d.", i);

      visit (&walk, layer, "input_layernorm.weight", c->hidden, 0, 0, 0);
      visit (&walk, layer, "self_attn.q_proj.weight", q, c->hidden, 0, 0);
      visit (&walk, layer, "self_attn.k_proj.weight", kv, c->hidden, 0, 0);
      visit (&walk, layer, "self_attn.v_proj.weight", kv, c->hidden, 0, 0);
      visit (&walk, layer, "self_attn.o_proj.weight", c->hidden, q, 0, 0);
      visit (&walk, layer, "self_attn.q_norm.weight", c->head_dim, 0, 0, 0);
      visit (&walk, layer, "self_attn.k_norm.weight", c->head_dim, 0, 0, 0);
      visit (&walk, layer, "post_attention_layernorm.weight", c->hidden, 0, 0, 0);
      visit (&walk, layer, "mlp.gate_proj.weight", c->intermediate, c->hidden, 0, 0);
      visit (&walk, layer, "mlp.up_proj.weight", c->intermediate, c->hidden, 0, 0);
      visit (&walk, layer, "mlp.down_proj.weight", c->hidden, c->intermediate, 0, 0);
    }
}

/* -- VAE, spec 6.1 to 6.3 -----------------------------------------------------------------------
 */

static void
visit_resnet (const Walk *walk, const char *prefix, int index, int64_t in, int64_t out)
{
  g_autofree char *resnet = g_strdup_printf ("%sresnets.%d.", prefix, index);

  visit_norm (walk, resnet, "norm1", in);
  visit_conv (walk, resnet, "conv1", out, in, 3);
  visit_norm (walk, resnet, "norm2", out);
  visit_conv (walk, resnet, "conv2", out, out, 3);
  if (in != out)
    visit_conv (walk, resnet, "conv_shortcut", out, in, 1);
}

static void
visit_middle (const Walk *walk, const char *prefix, int64_t n, gboolean attention)
{
  static const char *const linears[] = { "to_q", "to_k", "to_v", "to_out.0" };
  g_autofree char *middle = g_strconcat (prefix, "mid_block.", NULL);
  g_autofree char *attn = g_strconcat (middle, "attentions.0.", NULL);

  visit_resnet (walk, middle, 0, n, n);
  visit_resnet (walk, middle, 1, n, n);
  if (!attention)
    return;
  visit_norm (walk, attn, "group_norm", n);
  for (guint i = 0; i < G_N_ELEMENTS (linears); i++)
    visit_linear (walk, attn, linears[i], n, n);
}

void
inventory_vae_decoder (const VaeConfig *config, InventoryFunc func, gpointer user_data)
{
  const VaeConfig *c = config;
  const Walk walk = { func, user_data };
  int64_t in = c->channels[c->n_blocks - 1];

  visit_conv (&walk, "decoder.", "conv_in", in, c->latent_channels, 3);
  visit_middle (&walk, "decoder.", in, c->mid_attention);
  for (int b = 0; b < c->n_blocks; b++)
    {
      g_autofree char *block = g_strdup_printf ("decoder.up_blocks.%d.", b);
      int64_t out = c->channels[c->n_blocks - 1 - b];

      for (int r = 0; r <= c->layers_per_block; r++)
        visit_resnet (&walk, block, r, r == 0 ? in : out, out);
      if (b < c->n_blocks - 1)
        visit_conv (&walk, block, "upsamplers.0.conv", out, out, 3);
      in = out;
    }
  visit_norm (&walk, "decoder.", "conv_norm_out", in);
  visit_conv (&walk, "decoder.", "conv_out", 3, in, 3);
}

void
inventory_vae_encoder (const VaeConfig *config, InventoryFunc func, gpointer user_data)
{
  const VaeConfig *c = config;
  const Walk walk = { func, user_data };
  int64_t in = c->channels[0];

  visit_conv (&walk, "encoder.", "conv_in", in, 3, 3);
  for (int b = 0; b < c->n_blocks; b++)
    {
      g_autofree char *block = g_strdup_printf ("encoder.down_blocks.%d.", b);
      int64_t out = c->channels[b];

      for (int r = 0; r < c->layers_per_block; r++)
        visit_resnet (&walk, block, r, r == 0 ? in : out, out);
      if (b < c->n_blocks - 1)
        visit_conv (&walk, block, "downsamplers.0.conv", out, out, 3);
      in = out;
    }
  visit_middle (&walk, "encoder.", in, c->mid_attention);
  visit_norm (&walk, "encoder.", "conv_norm_out", in);
  visit_conv (&walk, "encoder.", "conv_out", 2 * (int64_t)c->latent_channels, in, 3);
}
