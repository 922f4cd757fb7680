/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights in fewer bits than 16: those that a backend takes as they are, and what was expanded.
 */
#include "engine/checkpoint/checkpoint-private.h"

#include "engine/checkpoint/scaled.h"
#include "engine/engine.h"
#include "engine/weight-only/file.h"

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

gboolean
weights_demand_dense (Weights *self, GError **error)
{
  const char *format = scaled_format (self->file);

  if (format == NULL && self->code_bits == 0)
    return TRUE;
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
               "%s: these weights are quantised already (%s); they are needed in 16 bit or more",
               weights_path (self), format != NULL ? format : "in codes");
  return FALSE;
}

gboolean
weights_has_expanded (const Weights *self)
{
  return self->expanded->len > 0;
}

void
weights_forget_expanded (Weights *self)
{
  g_array_set_size (self->expanded, 0);
}

void
weights_keep_expanded (Weights *self)
{
  for (guint i = 0; i < self->expanded->len; i++)
    {
      ExpandedWeight *expanded = &g_array_index (self->expanded, ExpandedWeight, i);

      g_hash_table_insert (self->kept, g_steal_pointer (&expanded->stored),
                           g_steal_pointer (&expanded->data));
    }
  weights_forget_expanded (self);
}
