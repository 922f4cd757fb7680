/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/checkpoint/checkpoint-private.h"

#include "engine/checkpoint/naming.h"
#include "engine/engine.h"
#include "engine/weight-only/file.h"

#include <stdlib.h>
#include <string.h>

/* Where a tensor is: its name in the file, and which of its rows. */
typedef struct
{
  GString *stored;
  NameSlice slice;
  gboolean renamed;
} Place;

static void
place_clear (Place *self)
{
  g_string_free (self->stored, TRUE);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Place, place_clear)

char *
weights_find_prefix (Safetensors *file)
{
  static const char *const prefixes[] = { "model.diffusion_model.", "diffusion_model." };

  for (guint i = 0; i < safetensors_count (file); i++)
    for (guint p = 0; p < G_N_ELEMENTS (prefixes); p++)
      if (g_str_has_prefix (safetensors_name (file, i), prefixes[p]))
        return g_strdup (prefixes[p]);
  return g_strdup ("");
}

/* The other parts of a file of everything: "text_encoders.qwen3_4b.transformer.model....",
 * "vae....". A name that only this part has ends in one of `marks`, and what comes before it is the
 * prefix. */
static char *
find_prefix_before (Safetensors *file, const char *const *marks)
{
  for (; *marks != NULL; marks++)
    for (guint i = 0; i < safetensors_count (file); i++)
      {
        const char *name = safetensors_name (file, i);
        gsize length = strlen (name), mark = strlen (*marks);

        if (g_str_has_suffix (name, *marks) && (length == mark || name[length - mark - 1] == '.'))
          return g_strndup (name, length - mark);
      }
  return g_strdup ("");
}

static char *
find_prefix (CheckpointPart part, Safetensors *file)
{
  static const char *const encoder[] = { "model.embed_tokens.weight", NULL };
  static const char *const vae[] = { "decoder.conv_in.weight", NULL };

  switch (part)
    {
    case CHECKPOINT_TRANSFORMER:
      return weights_find_prefix (file);
    case CHECKPOINT_TEXT_ENCODER:
      return find_prefix_before (file, encoder);
    case CHECKPOINT_VAE:
      return find_prefix_before (file, vae);
    }
  g_assert_not_reached ();
}

Weights *
weights_new (CheckpointPart part, Safetensors *file, int n, GError **error)
{
  g_autoptr (Weights) self = g_new0 (Weights, 1);

  self->part = part;
  self->file = file;
  self->prefix = find_prefix (part, file);
  self->n_blocks = part == CHECKPOINT_VAE ? n : 0;
  self->n_layers = part == CHECKPOINT_TEXT_ENCODER ? n : 0;
  self->used = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  if (part == CHECKPOINT_TRANSFORMER && !svdq_reader_open (file, self->prefix, &self->svdq, error))
    return NULL;
  if (part == CHECKPOINT_TEXT_ENCODER && !weight_only_read_bits (file, &self->code_bits, error))
    return NULL;
  return g_steal_pointer (&self);
}

void
weights_free (Weights *self)
{
  if (self == NULL)
    return;
  svdq_reader_free (self->svdq);
  safetensors_free (self->file);
  g_hash_table_unref (self->used);
  g_free (self->prefix);
  g_free (self);
}

const char *
weights_path (Weights *self)
{
  return safetensors_path (self->file);
}

guint64
weights_bytes (Weights *self)
{
  return safetensors_bytes (self->file);
}

guint64
weights_count (Weights *self)
{
  guint64 total = 0;

  for (guint i = 0; i < safetensors_count (self->file); i++)
    {
      guint64 count = 1;
      SafetensorsInfo info;

      safetensors_info (self->file, safetensors_name (self->file, i), &info);
      for (int axis = 0; axis < info.rank; axis++)
        count *= (guint64)info.shape[axis];
      if (self->code_bits == 4
          && g_str_has_suffix (safetensors_name (self->file, i), WEIGHT_ONLY_CODES))
        count *= 2;
      total += count;
    }
  return total;
}

/* The name that this part has in other programs' files. */
static gboolean
translate (Weights *self, const char *name, GString *out, NameSlice *slice)
{
  switch (self->part)
    {
    case CHECKPOINT_TRANSFORMER:
      if (self->svdq != NULL && naming_nunchaku (name, out, slice))
        return TRUE;
      return naming_comfy (name, out, slice);
    case CHECKPOINT_TEXT_ENCODER:
      return naming_bare_text_encoder (name, out);
    case CHECKPOINT_VAE:
      return naming_bfl_vae (name, self->n_blocks, out);
    }
  return FALSE;
}

/* Finds `name` under the reference's name or the other one; always sets place->stored. */
static gboolean
locate (Weights *self, const char *name, Place *place, SafetensorsInfo *info)
{
  place->slice = (NameSlice){ 0, 1 };
  place->renamed = FALSE;
  place->stored = g_string_new (self->prefix);
  g_string_append (place->stored, name);
  if (safetensors_info (self->file, place->stored->str, info))
    return TRUE;
  g_string_truncate (place->stored, 0);
  place->renamed = TRUE;
  if (!translate (self, name, place->stored, &place->slice))
    return FALSE;
  g_string_prepend (place->stored, self->prefix);
  return safetensors_info (self->file, place->stored->str, info);
}

static char *
print_shape (int rank, const int64_t *shape)
{
  GString *text = g_string_new ("[");

  for (int i = 0; i < rank; i++)
    g_string_append_printf (text, "%s%" G_GINT64_FORMAT, i > 0 ? ", " : "", (gint64)shape[i]);
  g_string_append_c (text, ']');
  return g_string_free (text, FALSE);
}

/* The view of a located tensor; FALSE if its type or number of axes has none. */
static gboolean
view (Weights *self, const Place *place, Tensor *out)
{
  Tensor whole;

  if (!safetensors_find (self->file, place->stored->str, &whole))
    return FALSE;
  *out = whole;
  if (place->slice.count > 1 && whole.rank > 0 && whole.shape[0] % place->slice.count == 0)
    {
      int64_t rows = whole.shape[0] / place->slice.count;

      *out = tensor_rows (&whole, place->slice.index * rows, rows);
    }
  return TRUE;
}

static void
mark_used (Weights *self, const Place *place)
{
  g_hash_table_add (self->used, g_strdup (place->stored->str));
}

gboolean
weights_find (Weights *self, const char *name, Tensor *out)
{
  g_auto (Place) place = { 0 };
  SafetensorsInfo info;

  if (!locate (self, name, &place, &info) || !view (self, &place, out))
    return FALSE;
  mark_used (self, &place);
  return TRUE;
}

gboolean
weights_get_shaped (Weights *self, Tensor *out, const char *name, GError **error, int rank,
                    const int64_t *shape)
{
  g_autofree char *expected = print_shape (rank, shape);
  g_autofree char *found = NULL;
  g_auto (Place) place = { 0 };
  SafetensorsInfo info;

  if (!locate (self, name, &place, &info))
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                   "%s: tensor %s is missing, expected with shape %s", weights_path (self), name,
                   expected);
      return FALSE;
    }
  if (!view (self, &place, out)
      || (out->dtype != DTYPE_F32 && out->dtype != DTYPE_BF16 && out->dtype != DTYPE_F16))
    {
      found = print_shape (info.rank, info.shape);
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                   "%s: tensor %s has type %s and shape %s, expected F32, BF16 or F16 and %s",
                   info.file, place.stored->str, info.dtype, found, expected);
      return FALSE;
    }
  /* BFL writes linear layers as 1x1 convolutions. */
  while (place.renamed && out->rank > rank && out->shape[out->rank - 1] == 1)
    out->rank--;
  /* A row may be written as a vector: the pad tokens in files that were GGUF before. */
  if (rank == 2 && shape[0] == 1 && out->rank == 1)
    *out = tensor_2d (out->dtype, out->data, 1, out->shape[0]);
  if (out->rank != rank || memcmp (out->shape, shape, (gsize)rank * sizeof *shape) != 0)
    {
      found = print_shape (info.rank, info.shape);
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                   "%s: tensor %s has shape %s, expected %s%s", info.file, place.stored->str, found,
                   expected, place.slice.count > 1 ? " for each of q, k and v" : "");
      return FALSE;
    }
  mark_used (self, &place);
  return TRUE;
}

int
weights_read_t_hidden (Weights *self, int fallback)
{
  g_auto (Place) place = { 0 };
  SafetensorsInfo info;

  if (locate (self, "t_embedder.mlp.0.weight", &place, &info) && info.rank == 2 && info.shape[0] > 0
      && info.shape[0] <= 65536)
    return (int)info.shape[0];
  return fallback;
}

static gboolean
is_unused_in_text_encoder (Weights *self, const char *name)
{
  g_autofree char *last = g_strdup_printf ("layers.%d.", self->n_layers - 1);

  if (g_str_has_prefix (name, "model."))
    name += strlen ("model.");
  return g_str_has_prefix (name, last) || g_str_equal (name, "norm.weight")
         || g_str_equal (name, "lm_head.weight") || g_str_has_suffix (name, "rotary_emb.inv_freq");
}

/* Decoder and encoder are two models in one file: unused as a whole is fine, in part it is not. */
static gboolean
is_unused_half (Weights *self, const char *name, const char *half)
{
  gsize prefix = strlen (self->prefix);
  GHashTableIter iter;
  gpointer used;

  if (!g_str_has_prefix (name, half))
    return FALSE;
  g_hash_table_iter_init (&iter, self->used);
  while (g_hash_table_iter_next (&iter, &used, NULL))
    if (g_str_has_prefix ((const char *)used + prefix, half))
      return FALSE;
  return TRUE;
}

gboolean
weights_is_known_unused (Weights *self, const char *stored)
{
  const char *name = stored + strlen (self->prefix);

  /* Beside the prefix a file of everything has the other parts, in other namings. */
  if (!g_str_has_prefix (stored, self->prefix))
    return TRUE;
  switch (self->part)
    {
    case CHECKPOINT_TRANSFORMER:
      return g_str_equal (name, "norm_final.weight");
    case CHECKPOINT_TEXT_ENCODER:
      return is_unused_in_text_encoder (self, name);
    case CHECKPOINT_VAE:
      return g_str_has_prefix (name, "quant_conv.") || g_str_has_prefix (name, "post_quant_conv.")
             || is_unused_half (self, name, "encoder.") || is_unused_half (self, name, "decoder.");
    }
  return FALSE;
}

gboolean
weights_check_all_used (Weights *self, GError **error)
{
  g_autoptr (GString) names = g_string_new (NULL);
  guint n = 0;

  for (guint i = 0; i < safetensors_count (self->file); i++)
    {
      const char *stored = safetensors_name (self->file, i);
      const char *base = self->svdq != NULL ? svdq_reader_base_of (self->svdq, stored) : NULL;

      if (g_hash_table_contains (self->used, base != NULL ? base : stored)
          || weights_is_known_unused (self, stored))
        continue;
      if (n++ < 3)
        g_string_append_printf (names, "%s%s", n > 1 ? ", " : "", stored);
    }
  if (n == 0)
    return TRUE;
  if (n > 3)
    g_string_append_printf (names, " and %u more", n - 3);
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
               "%s: holds tensors that this model has no use for: %s", weights_path (self),
               names->str);
  return FALSE;
}

gboolean
weights_get_svdq (Weights *self, const char *base, int64_t n, int64_t k, const SvdqSource **out,
                  GError **error)
{
  *out = NULL;
  if (self->svdq == NULL || !svdq_reader_get (self->svdq, base, n, k, out, error))
    return FALSE;
  g_hash_table_add (self->used, g_strdup (base));
  return TRUE;
}

gboolean
weights_find_svdq (const Weights *self, const char *base, SvdqSource *out)
{
  guint n = self != NULL && self->svdq != NULL ? svdq_reader_count (self->svdq) : 0;

  *out = (SvdqSource){ 0 };
  for (guint i = 0; i < n; i++)
    {
      SvdqLinearInfo info = svdq_reader_info (self->svdq, i);

      if (!g_str_equal (info.base, base))
        continue;
      out->format = info.format;
      out->rank = info.rank;
      return TRUE;
    }
  return FALSE;
}

gboolean
weights_add_codes (Weights *self, const char *base, int64_t n, LinearSource *source, GError **error)
{
  int i = source->n_parts;

  if (weights_find_code_bits (self, base) == 0
      || !weight_only_find (self->file, base, self->code_bits, n, source->k, &source->parts[i],
                            &source->scales[i], error)
      || !weight_only_check_scales (self->file, base, &source->scales[i], error))
    return FALSE;
  source->code_bits = self->code_bits;
  source->n_parts++;
  g_hash_table_add (self->used, g_strconcat (base, WEIGHT_ONLY_CODES, NULL));
  g_hash_table_add (self->used, g_strconcat (base, WEIGHT_ONLY_SCALES, NULL));
  return TRUE;
}

int
weights_find_code_bits (const Weights *self, const char *base)
{
  return weights_code_bits (self) != 0 && weight_only_has (self->file, base) ? self->code_bits : 0;
}

int
weights_code_bits (const Weights *self)
{
  return self != NULL ? self->code_bits : 0;
}

gboolean
weights_svdq_format (const Weights *self, SvdqFormat *format)
{
  if (self->svdq == NULL || svdq_reader_count (self->svdq) == 0)
    return FALSE;
  *format = svdq_reader_info (self->svdq, 0).format;
  return TRUE;
}
