/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/lora/lora-names.h"

#include "engine/checkpoint/inventory.h"

#include <string.h>

/* -- the model's layers -------------------------------------------------------------------------
 */

struct _LoraTargets
{
  GHashTable *by_name; /* flattened name (owned) -> LoraTarget (owned by `all`) */
  GPtrArray *all;
};

/* Dots become underscores: what is left is the same in all spellings. */
static char *
flatten (const char *name, gsize length)
{
  char *flat = g_strndup (name, length);

  for (char *c = flat; *c != '\0'; c++)
    if (*c == '.')
      *c = '_';
  return flat;
}

/* Layers that the engine runs as one with others; `times` and `index` in rows of this one. */
static const struct
{
  const char *suffix, *linear;
  int index, times;
} fused[] = {
  { ".attention.to_q", ".attention.to_qkv", 0, 3 },
  { ".attention.to_k", ".attention.to_qkv", 1, 3 },
  { ".attention.to_v", ".attention.to_qkv", 2, 3 },
  { ".feed_forward.w1", ".feed_forward.w13", 0, 2 },
  { ".feed_forward.w3", ".feed_forward.w13", 1, 2 },
};

/* Other names of the same; [q; k; v] in one is ComfyUI's. */
static const struct
{
  const char *suffix, *other;
  int times;
} aliases[] = {
  { ".attention.to_q", ".attention.qkv", 3 },
  { ".attention.to_q", ".attention.to_qkv", 3 },
  { ".attention.to_out.0", ".attention.to_out", 1 },
  { ".attention.to_out.0", ".attention.out", 1 },
};

/* ComfyUI's names of the layers before and after the blocks. */
static const struct
{
  const char *prefix, *other;
} heads[] = {
  { "all_x_embedder.", "x_embedder" },
  { "all_final_layer.", "final_layer" },
};

const char *
lora_name_with (const char *name, const char *suffix, const char *other)
{
  gsize stem = strlen (name) - strlen (suffix);
  g_autofree char *full = g_strdup_printf ("%.*s%s", (int)stem, name, other);

  return g_intern_string (full);
}

static void
add_target (LoraTargets *self, const char *spelling, const LoraTarget *target)
{
  LoraTarget *own = g_memdup2 (target, sizeof *target);

  g_ptr_array_add (self->all, own);
  g_hash_table_insert (self->by_name, flatten (spelling, strlen (spelling)), own);
}

static void
add_aliases (LoraTargets *self, const LoraTarget *target)
{
  for (guint i = 0; i < G_N_ELEMENTS (aliases); i++)
    if (g_str_has_suffix (target->name, aliases[i].suffix))
      {
        const char *spelling = lora_name_with (target->name, aliases[i].suffix, aliases[i].other);
        LoraTarget whole = *target;

        whole.rows *= aliases[i].times;
        if (aliases[i].times > 1)
          whole.name = whole.linear;
        add_target (self, spelling, &whole);
      }
}

/* "all_final_layer.2-1.linear" -> "final_layer.linear" */
static void
add_head (LoraTargets *self, const LoraTarget *target)
{
  for (guint i = 0; i < G_N_ELEMENTS (heads); i++)
    if (g_str_has_prefix (target->name, heads[i].prefix))
      {
        const char *rest = strchr (target->name + strlen (heads[i].prefix), '.');
        g_autofree char *spelling = g_strconcat (heads[i].other, rest, NULL);

        add_target (self, spelling, target);
      }
}

static void
on_tensor (const char *name, int rank, const int64_t *shape, gpointer user_data)
{
  g_autofree char *module = NULL;
  LoraTarget target;

  if (rank != 2 || !g_str_has_suffix (name, ".weight"))
    return;
  module = g_strndup (name, strlen (name) - strlen (".weight"));
  target = (LoraTarget){ .name = g_intern_string (module),
                         .linear = g_intern_string (module),
                         .rows = shape[0],
                         .in = shape[1],
                         .total = shape[0] };
  for (guint i = 0; i < G_N_ELEMENTS (fused); i++)
    if (g_str_has_suffix (module, fused[i].suffix))
      {
        target.linear = lora_name_with (module, fused[i].suffix, fused[i].linear);
        target.first = target.rows * fused[i].index;
        target.total = target.rows * fused[i].times;
      }
  add_target (user_data, module, &target);
  add_aliases (user_data, &target);
  add_head (user_data, &target);
}

LoraTargets *
lora_targets_new (const TransformerConfig *config)
{
  LoraTargets *self = g_new0 (LoraTargets, 1);

  self->by_name = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  self->all = g_ptr_array_new_with_free_func (g_free);
  inventory_transformer (config, on_tensor, self);
  return self;
}

void
lora_targets_free (LoraTargets *self)
{
  if (self == NULL)
    return;
  g_hash_table_unref (self->by_name);
  g_ptr_array_unref (self->all);
  g_free (self);
}

/* What trainers put before a layer's name, flattened. */
static const char *const prefixes[] = { "base_model_model_", "model_diffusion_model_",
                                        "diffusion_model_",  "transformer_",
                                        "lora_transformer_", "lora_unet_",
                                        "lycoris_",          "unet_" };

const LoraTarget *
lora_targets_find (const LoraTargets *self, const char *module, gsize length)
{
  g_autofree char *flat = flatten (module, length);
  const char *rest = flat;
  gboolean stripped = TRUE;

  while (stripped)
    {
      const LoraTarget *found = g_hash_table_lookup (self->by_name, rest);

      if (found != NULL)
        return found;
      stripped = FALSE;
      for (guint i = 0; i < G_N_ELEMENTS (prefixes) && !stripped; i++)
        if (g_str_has_prefix (rest, prefixes[i]))
          {
            rest += strlen (prefixes[i]);
            stripped = TRUE;
          }
    }
  return NULL;
}

/* -- what a tensor's name says ------------------------------------------------------------------
 */

static const struct
{
  const char *ending;
  LoraRole role;
  const char *what; /* why it is left out */
} endings[] = {
  { ".lora_A.weight", LORA_ROLE_DOWN, NULL },
  { ".lora_B.weight", LORA_ROLE_UP, NULL },
  { ".lora_down.weight", LORA_ROLE_DOWN, NULL },
  { ".lora_up.weight", LORA_ROLE_UP, NULL },
  { ".lora.down.weight", LORA_ROLE_DOWN, NULL },
  { ".lora.up.weight", LORA_ROLE_UP, NULL },
  { ".alpha", LORA_ROLE_ALPHA, NULL },
  { ".dora_scale", LORA_ROLE_OTHER, "DoRA's magnitudes are not applied, only its LoRA is" },
  { ".lora_magnitude_vector", LORA_ROLE_OTHER,
    "DoRA's magnitudes are not applied, only its LoRA is" },
  { ".lora_magnitude_vector.weight", LORA_ROLE_OTHER,
    "DoRA's magnitudes are not applied, only its LoRA is" },
  { ".diff", LORA_ROLE_OTHER, "a whole difference of weights, not a LoRA" },
  { ".diff_b", LORA_ROLE_OTHER, "a difference of biases, not a LoRA" },
  { ".lora_mid.weight", LORA_ROLE_OTHER, "a LoCon with a middle factor, not a LoRA" },
};

static const struct
{
  const char *mark, *what;
} families[] = { { ".lokr_", "a LoKr (Kronecker product), not a LoRA" },
                 { ".hada_", "a LoHa (Hadamard product), not a LoRA" },
                 { ".oft_", "an OFT (rotation), not a LoRA" } };

LoraMeaning
lora_name_read (const char *name)
{
  gsize length = strlen (name);

  for (guint i = 0; i < G_N_ELEMENTS (endings); i++)
    if (g_str_has_suffix (name, endings[i].ending))
      return (LoraMeaning){ endings[i].role, length - strlen (endings[i].ending), endings[i].what };
  for (guint i = 0; i < G_N_ELEMENTS (families); i++)
    if (strstr (name, families[i].mark) != NULL)
      return (LoraMeaning){ LORA_ROLE_OTHER, (gsize)(strstr (name, families[i].mark) - name),
                            families[i].what };
  /* PEFT with an adapter of a name of its own: "....lora_A.default.weight". */
  for (int up = 0; up < 2; up++)
    {
      const char *mark = up ? ".lora_B." : ".lora_A.", *found = strstr (name, mark);
      const char *dot = found != NULL ? strchr (found + strlen (mark), '.') : NULL;

      if (dot != NULL && g_str_equal (dot, ".weight"))
        return (LoraMeaning){ up ? LORA_ROLE_UP : LORA_ROLE_DOWN, (gsize)(found - name), NULL };
    }
  return (LoraMeaning){ LORA_ROLE_NONE, length, NULL };
}
