/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/checkpoint/checkpoint-private.h"

#include "engine/checkpoint/naming.h"
#include "engine/checkpoint/scaled.h"
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

static void
expanded_clear (gpointer data)
{
  ExpandedWeight *expanded = data;

  g_free (expanded->stored);
  g_free (expanded->data);
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
  self->kept = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, g_free);
  self->expanded = g_array_new (FALSE, FALSE, sizeof (ExpandedWeight));
  g_array_set_clear_func (self->expanded, expanded_clear);
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
  g_hash_table_unref (self->kept);
  g_array_unref (self->expanded);
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

/* The rows of a located tensor that its slice names. */
static Tensor
slice_of (const Place *place, const Tensor *whole)
{
  int64_t rows = whole->rank > 0 ? whole->shape[0] / place->slice.count : 0;

  return place->slice.count > 1 && whole->rank > 0 && whole->shape[0] % place->slice.count == 0
             ? tensor_rows (whole, place->slice.index * rows, rows)
             : *whole;
}

static void
mark_used (Weights *self, const Place *place)
{
  g_hash_table_add (self->used, g_strdup (place->stored->str));
}

/* What belongs to a scaled weight is used with it. */
static void
mark_companions (Weights *self, const Place *place)
{
  const char *name = place->stored->str;
  gsize length = strlen (name) - (g_str_has_suffix (name, ".weight") ? strlen (".weight") : 0);

  for (int i = 0; scaled_companions[i] != NULL; i++)
    g_hash_table_add (self->used,
                      g_strdup_printf ("%.*s%s", (int)length, name, scaled_companions[i]));
}

gboolean
weights_find (Weights *self, const char *name, Tensor *out)
{
  g_auto (Place) place = { 0 };
  SafetensorsInfo info;
  Tensor whole;

  if (!locate (self, name, &place, &info)
      || !safetensors_find (self->file, place.stored->str, &whole))
    return FALSE;
  *out = slice_of (&place, &whole);
  mark_used (self, &place);
  return TRUE;
}

/* What the header says of a tensor of an ordinary type, without data; FALSE for another type. A
 * view may cost a copy, where the file has numbers at odd addresses. */
static gboolean
describe (const SafetensorsInfo *info, Tensor *out)
{
  static const DType types[] = { DTYPE_F32, DTYPE_BF16, DTYPE_F16 };

  for (guint i = 0; i < G_N_ELEMENTS (types) && info->rank <= TENSOR_MAX_RANK; i++)
    if (g_str_equal (info->dtype, dtype_name (types[i])))
      {
        *out = (Tensor){ types[i], info->rank, { 1, 1, 1, 1 }, NULL };
        for (int axis = 0; axis < info->rank; axis++)
          out->shape[axis] = info->shape[axis];
        return TRUE;
      }
  return FALSE;
}

/* A tensor of the file, with its data if `with_data`; if *scaled, what it will be. */
static gboolean
find_stored (Weights *self, const Place *place, const SafetensorsInfo *info, gboolean with_data,
             ScaledWeight *weight, gboolean *scaled, Tensor *whole, GError **error)
{
  *scaled = scaled_find (self->file, place->stored->str, weight, error);
  if (*scaled)
    *whole = weight->shape;
  return *scaled
         || (describe (info, whole)
             && (!with_data || safetensors_find (self->file, place->stored->str, whole)));
}

/* Where a tensor is, what it is, and whether that is what was asked for. */
typedef struct
{
  Place place;
  gboolean scaled;
  ScaledWeight weight; /* if it is */
  Tensor view;         /* of the shape that was asked for; if scaled, without data */
} Lookup;

static gboolean
look_up (Weights *self, const char *name, gboolean with_data, Lookup *out, GError **error, int rank,
         const int64_t *shape)
{
  g_autofree char *expected = print_shape (rank, shape);
  g_autofree char *found = NULL;
  Place *place = &out->place;
  GError *reason = NULL;
  SafetensorsInfo info;
  Tensor whole = { 0 }, *view = &out->view;

  if (!locate (self, name, place, &info))
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                   "%s: tensor %s is missing, expected with shape %s", weights_path (self), name,
                   expected);
      return FALSE;
    }
  found = print_shape (info.rank, info.shape);
  if (!find_stored (self, place, &info, with_data, &out->weight, &out->scaled, &whole, &reason))
    {
      if (reason != NULL)
        g_propagate_error (error, reason);
      else
        g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                     "%s: tensor %s has type %s and shape %s, expected F32, BF16 or F16 and %s",
                     info.file, place->stored->str, info.dtype, found, expected);
      return FALSE;
    }
  *view = slice_of (place, &whole);
  /* BFL writes linear layers as 1x1 convolutions. */
  while (place->renamed && view->rank > rank && view->shape[view->rank - 1] == 1)
    view->rank--;
  /* A row may be written as a vector: the pad tokens in files that were GGUF before. */
  if (rank == 2 && shape[0] == 1 && view->rank == 1)
    *view = tensor_2d (view->dtype, view->data, 1, view->shape[0]);
  if (view->rank != rank || memcmp (view->shape, shape, (gsize)rank * sizeof *shape) != 0)
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                   "%s: tensor %s has shape %s, expected %s%s", info.file, place->stored->str,
                   found, expected, place->slice.count > 1 ? " for each of q, k and v" : "");
      return FALSE;
    }
  mark_used (self, place);
  if (out->scaled)
    mark_companions (self, place);
  return TRUE;
}

gboolean
weights_check_shaped (Weights *self, const char *name, GError **error, int rank,
                      const int64_t *shape)
{
  Lookup found = { 0 };
  gboolean good = look_up (self, name, FALSE, &found, error, rank, shape);

  place_clear (&found.place);
  return good;
}

/* The numbers of a scaled weight, in memory that weights_forget_expanded gives back. */
static gboolean
expand (Weights *self, Lookup *found, GError **error)
{
  const ScaledWeight *weight = &found->weight;
  const Place *place = &found->place;
  g_autofree char *key = g_strdup_printf ("%s %d", place->stored->str, place->slice.index);
  int64_t rows = weight->shape.shape[0] / place->slice.count;
  ExpandedWeight expanded = { 0 };

  found->view.data = g_hash_table_lookup (self->kept, key);
  if (found->view.data != NULL)
    return TRUE;
  if (!scaled_check (weight, self->file, place->stored->str, error))
    return FALSE;
  expanded.data = g_try_malloc (tensor_bytes (&found->view));
  if (expanded.data == NULL)
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MEMORY,
                   "%s: no memory for tensor %s in 16 bit", weights_path (self),
                   place->stored->str);
      return FALSE;
    }
  scaled_expand (weight, place->slice.index * rows, rows, expanded.data);
  expanded.stored = g_steal_pointer (&key);
  g_array_append_val (self->expanded, expanded);
  found->view.data = expanded.data;
  return TRUE;
}

gboolean
weights_get_shaped (Weights *self, Tensor *out, const char *name, GError **error, int rank,
                    const int64_t *shape)
{
  Lookup found = { 0 };
  gboolean good = look_up (self, name, TRUE, &found, error, rank, shape)
                  && (!found.scaled || expand (self, &found, error));

  *out = found.view;
  place_clear (&found.place);
  return good;
}

gboolean
weights_is_scaled (Weights *self, const char *name)
{
  g_auto (Place) place = { 0 };
  SafetensorsInfo info;

  return locate (self, name, &place, &info) && scaled_is_type (info.dtype);
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
  gsize prefix = strlen (self->prefix);
  guint n = 0;

  for (guint i = 0; i < safetensors_count (self->file); i++)
    {
      const char *stored = safetensors_name (self->file, i);
      const char *base = self->svdq != NULL ? svdq_reader_base_of (self->svdq, stored) : NULL;

      if (g_hash_table_contains (self->used, base != NULL ? base : stored)
          || weights_is_known_unused (self, stored) || scaled_is_note (stored + prefix))
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
