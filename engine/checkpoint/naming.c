/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/checkpoint/naming.h"

#include <string.h>

typedef struct
{
  const char *from, *to;
} Rename;

/* Replaces the first match of `table` in `text`; TRUE if there was one. */
static gboolean
rename_part (GString *text, const Rename *table, guint n)
{
  for (guint i = 0; i < n; i++)
    {
      char *at = strstr (text->str, table[i].from);

      if (at != NULL)
        {
          gssize place = at - text->str;

          g_string_erase (text, place, (gssize)strlen (table[i].from));
          g_string_insert (text, place, table[i].to);
          return TRUE;
        }
    }
  return FALSE;
}

gboolean
naming_comfy (const char *name, GString *out, NameSlice *slice)
{
  static const char *const fused[] = { ".attention.to_q.", ".attention.to_k.", ".attention.to_v." };
  static const char *const heads[] = { "all_x_embedder.", "all_final_layer." };
  static const Rename table[] = {
    { ".attention.to_out.0.", ".attention.out." },
    { ".attention.norm_q.", ".attention.q_norm." },
    { ".attention.norm_k.", ".attention.k_norm." },
  };

  *slice = (NameSlice){ 0, 1 };
  for (guint i = 0; i < G_N_ELEMENTS (heads); i++)
    if (g_str_has_prefix (name, heads[i]))
      {
        /* "all_x_embedder.2-1.weight": the patch size goes, and so does "all_". */
        const char *rest = strchr (name + strlen (heads[i]), '.');

        if (rest == NULL)
          return FALSE;
        g_string_append_len (out, heads[i] + 4, (gssize)strlen (heads[i]) - 5);
        g_string_append (out, rest);
        return TRUE;
      }
  g_string_append (out, name);
  for (int i = 0; i < 3; i++)
    {
      Rename one = { fused[i], ".attention.qkv." };

      if (rename_part (out, &one, 1))
        {
          *slice = (NameSlice){ i, 3 };
          return TRUE;
        }
    }
  return rename_part (out, table, G_N_ELEMENTS (table));
}

gboolean
naming_nunchaku (const char *name, GString *out, NameSlice *slice)
{
  static const struct
  {
    const char *ending, *stored;
    NameSlice slice;
  } renames[] = {
    { "feed_forward.w1.weight", "feed_forward.net.0.proj.weight", { 1, 2 } },
    { "feed_forward.w3.weight", "feed_forward.net.0.proj.weight", { 0, 2 } },
    { "feed_forward.w2.weight", "feed_forward.net.2.weight", { 0, 1 } },
  };

  for (guint i = 0; i < G_N_ELEMENTS (renames); i++)
    if (g_str_has_suffix (name, renames[i].ending))
      {
        g_string_append_len (out, name, (gssize)(strlen (name) - strlen (renames[i].ending)));
        g_string_append (out, renames[i].stored);
        *slice = renames[i].slice;
        return TRUE;
      }
  return FALSE;
}

gboolean
naming_bare_text_encoder (const char *name, GString *out)
{
  if (!g_str_has_prefix (name, "model."))
    return FALSE;
  g_string_append (out, name + strlen ("model."));
  return TRUE;
}

/* "decoder.up_blocks.0.resnets.1.conv1.weight" -> "decoder.up.3.block.1.conv1.weight": BFL counts
 * the decoder's blocks from the picture's side. */
static gboolean
rename_block (GString *out, const char *part, const char *blocks, const char *sampler, int n_blocks,
              gboolean reverse)
{
  static const Rename shortcut[] = { { ".conv_shortcut.", ".nin_shortcut." } };
  g_autofree char *name = g_strdup (out->str);
  const char *number = name + strlen (part) + strlen (blocks);
  char *rest;
  guint64 block = g_ascii_strtoull (number, &rest, 10);

  if (rest == number || block >= (guint64)n_blocks)
    return FALSE;
  if (reverse)
    block = (guint64)n_blocks - 1 - block;
  g_string_printf (out, "%s%s%" G_GUINT64_FORMAT, part, reverse ? "up." : "down.", block);
  if (g_str_has_prefix (rest, ".resnets."))
    g_string_append_printf (out, ".block.%s", rest + strlen (".resnets."));
  else
    g_string_append_printf (out, ".%s.%s", sampler, strrchr (rest, '.') + 1);
  rename_part (out, shortcut, 1);
  return TRUE;
}

gboolean
naming_bfl_vae (const char *name, int n_blocks, GString *out)
{
  static const Rename middle[] = {
    { "mid_block.resnets.0.", "mid.block_1." },
    { "mid_block.resnets.1.", "mid.block_2." },
    { "mid_block.attentions.0.group_norm.", "mid.attn_1.norm." },
    { "mid_block.attentions.0.to_q.", "mid.attn_1.q." },
    { "mid_block.attentions.0.to_k.", "mid.attn_1.k." },
    { "mid_block.attentions.0.to_v.", "mid.attn_1.v." },
    { "mid_block.attentions.0.to_out.0.", "mid.attn_1.proj_out." },
    { "conv_norm_out.", "norm_out." },
  };

  g_string_append (out, name);
  if (g_str_has_prefix (name, "decoder.up_blocks."))
    return rename_block (out, "decoder.", "up_blocks.", "upsample.conv", n_blocks, TRUE);
  if (g_str_has_prefix (name, "encoder.down_blocks."))
    return rename_block (out, "encoder.", "down_blocks.", "downsample.conv", n_blocks, FALSE);
  return rename_part (out, middle, G_N_ELEMENTS (middle));
}
