/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/svdquant/read.h"

#include "engine/engine.h"
#include "engine/svdquant/layout.h"
#include "engine/svdquant/linear-entry.h"

#include <math.h>
#include <string.h>

struct _SvdqReader
{
  Safetensors *file; /* borrowed */
  SvdqKind kind;
  char *prefix;                 /* owned */
  GPtrArray *entries;           /* SvdqEntry, owned */
  GHashTable *by_base;          /* base -> SvdqEntry, borrowed */
  GHashTable *stems;            /* set of the entries' stems, borrowed */
  void *buffers[SVDQ_N_PARTS];  /* owned */
  gsize capacity[SVDQ_N_PARTS]; /* bytes */
  uint16_t *aligned;            /* owned; a tensor that lies on an odd address */
  float *outer;                 /* owned */
  SvdqSource source;
};

/* -- opening ---------------------------------------------------------------------------------- */

static void
add_entry (SvdqReader *self, SvdqEntry *entry)
{
  g_ptr_array_add (self->entries, entry);
  g_hash_table_insert (self->by_base, entry->base, entry);
  g_hash_table_add (self->stems, entry->stem);
}

/* The length of a name without what marks a quantised linear, or 0. */
static gsize
stem_length (SvdqKind kind, const char *name)
{
  const char *mark = kind == SVDQ_KITCHEN ? ".comfy_quant" : ".qweight";

  return g_str_has_suffix (name, mark) ? strlen (name) - strlen (mark) : 0;
}

static gboolean
read_entries (SvdqReader *self, GError **error)
{
  for (guint i = 0; i < safetensors_count (self->file); i++)
    {
      const char *name = safetensors_name (self->file, i);
      gsize length = stem_length (self->kind, name);
      SvdqEntry *entry;

      if (length == 0 || !g_str_has_prefix (name, self->prefix))
        continue;
      entry = svdq_entry_new (self->file, self->kind, name, length, strlen (self->prefix), error);
      if (entry == NULL)
        return FALSE;
      if (g_hash_table_contains (self->by_base, entry->base))
        {
          g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                       "%s: linear %s is there twice, under two names",
                       safetensors_path (self->file), entry->base);
          svdq_entry_free (entry);
          return FALSE;
        }
      add_entry (self, entry);
    }
  return TRUE;
}

/* The longest leading part of a name that is an entry's stem, or NULL. */
static const char *
owner (const SvdqReader *self, const char *stored)
{
  g_autofree char *stem = g_strdup (stored);
  char *dot;

  while ((dot = strrchr (stem, '.')) != NULL)
    {
      gpointer found;

      *dot = '\0';
      if (g_hash_table_lookup_extended (self->stems, stem, &found, NULL))
        return found;
    }
  return NULL;
}

/* Unknown tensors under a quantised linear would be left out of its product. */
static gboolean
check_strays (SvdqReader *self, GError **error)
{
  for (guint i = 0; i < safetensors_count (self->file); i++)
    {
      const char *name = safetensors_name (self->file, i);
      const char *stem = owner (self, name);

      if (stem != NULL && !svdq_entry_knows (self->kind, name + strlen (stem) + 1))
        {
          g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                       "%s: tensor %s belongs to a quantised linear, but no format that this "
                       "program reads has it",
                       safetensors_path (self->file), name);
          return FALSE;
        }
    }
  return TRUE;
}

gboolean
svdq_reader_open (Safetensors *file, const char *prefix, SvdqReader **out, GError **error)
{
  g_autoptr (SvdqReader) self = NULL;
  SvdqKind kind;

  *out = NULL;
  if (!svdq_detect (file, prefix, &kind, error))
    return FALSE;
  if (kind == SVDQ_DENSE)
    return TRUE;
  self = g_new0 (SvdqReader, 1);
  self->file = file;
  self->kind = kind;
  self->prefix = g_strdup (prefix);
  self->entries = g_ptr_array_new_with_free_func ((GDestroyNotify)svdq_entry_free);
  self->by_base = g_hash_table_new (g_str_hash, g_str_equal);
  self->stems = g_hash_table_new (g_str_hash, g_str_equal);
  if (!read_entries (self, error) || !check_strays (self, error))
    return FALSE;
  if (kind == SVDQ_VLLM && svdq_vectors_are_packed (file, self->entries))
    self->kind = SVDQ_VLLM_PACKED;
  *out = g_steal_pointer (&self);
  return TRUE;
}

void
svdq_reader_free (SvdqReader *self)
{
  if (self == NULL)
    return;
  g_hash_table_unref (self->by_base);
  g_hash_table_unref (self->stems);
  g_ptr_array_unref (self->entries);
  for (int i = 0; i < SVDQ_N_PARTS; i++)
    g_free (self->buffers[i]);
  g_free (self->aligned);
  g_free (self->outer);
  g_free (self->prefix);
  g_free (self);
}

SvdqKind
svdq_reader_kind (const SvdqReader *self)
{
  return self->kind;
}

guint
svdq_reader_count (const SvdqReader *self)
{
  return self->entries->len;
}

SvdqLinearInfo
svdq_reader_info (const SvdqReader *self, guint index)
{
  const SvdqEntry *e = g_ptr_array_index (self->entries, index);
  guint64 n = (guint64)e->n, k = (guint64)e->k, rank = (guint64)e->rank;
  gboolean int4 = e->format == SVDQ_INT4;

  return (SvdqLinearInfo){ .base = e->base,
                           .n = e->n,
                           .k = e->k,
                           .rank = e->rank,
                           .format = e->format,
                           .code_bytes = n * k / 2,
                           .scale_bytes = (int4 ? n * k / 32 : n * k / 16 + 2 * n + 2) + 2 * k,
                           .low_rank_bytes = 2 * rank * (n + k) };
}

const char *
svdq_reader_base_of (const SvdqReader *self, const char *stored)
{
  const char *stem = owner (self, stored);

  for (guint i = 0; stem != NULL && i < self->entries->len; i++)
    {
      const SvdqEntry *entry = g_ptr_array_index (self->entries, i);

      if (entry->stem == stem)
        return entry->base;
    }
  return NULL;
}

/* -- one tensor ------------------------------------------------------------------------------- */

static gboolean
fail (const SvdqReader *self, const SvdqEntry *entry, SvdqPart part, const char *what,
      GError **error)
{
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL, "%s: linear %s: %s",
               safetensors_path (self->file), entry->stem, what);
  return FALSE;
}

static void *
buffer_for (SvdqReader *self, SvdqPart part, gsize bytes, GError **error)
{
  if (self->capacity[part] < bytes)
    {
      g_free (self->buffers[part]);
      self->capacity[part] = 0;
      self->buffers[part] = g_try_malloc (bytes);
      if (self->buffers[part] == NULL)
        {
          g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MEMORY,
                       "%s: no memory to put %" G_GSIZE_FORMAT " bytes of weights in order",
                       safetensors_path (self->file), bytes);
          return NULL;
        }
      self->capacity[part] = bytes;
    }
  return self->buffers[part];
}

/* 16-bit data may lie on an odd address of a file: a header may have any length. */
static const uint16_t *
words (SvdqReader *self, const Tensor *t)
{
  if (((uintptr_t)t->data & 1) == 0)
    return t->data;
  g_free (self->aligned);
  self->aligned = g_memdup2 (t->data, tensor_bytes (t));
  return self->aligned;
}

static void
unpack (SvdqReader *self, const SvdqEntry *entry, SvdqPart part, const Tensor *from, void *to)
{
  gboolean packed = self->kind == SVDQ_NUNCHAKU || self->kind == SVDQ_LITE;
  gboolean packed_vectors = packed || self->kind == SVDQ_VLLM_PACKED;

  if (packed && part == SVDQ_QWEIGHT)
    layout_unpack_qweight (from->data, to, entry->n, entry->k);
  else if (packed && part == SVDQ_WSCALES && entry->format == SVDQ_INT4)
    layout_unpack_int4_scales (words (self, from), to, entry->n, entry->k);
  else if (packed && part == SVDQ_WSCALES)
    layout_unpack_nvfp4_scales (from->data, to, entry->n, entry->k);
  else if (packed && part == SVDQ_PROJ_DOWN)
    layout_unpack_down (words (self, from), to, entry->k, entry->rank);
  else if (packed && part == SVDQ_PROJ_UP)
    layout_unpack_up (words (self, from), to, entry->n, entry->rank);
  else if (packed_vectors && (part == SVDQ_SMOOTH || part == SVDQ_WCSCALES))
    layout_unpack_vector (words (self, from), to, tensor_count (from));
  else
    memcpy (to, from->data, tensor_bytes (from));
}

/* Published w13 are [w3; w1]. */
static void
swap_halves (const SvdqEntry *entry, SvdqPart part, const Tensor *t)
{
  int64_t size = (int64_t)dtype_size (t->dtype);

  if (part == SVDQ_QWEIGHT || part == SVDQ_PROJ_UP || part == SVDQ_WCSCALES)
    layout_swap_halves (t->data, entry->n, (int64_t)tensor_bytes (t) / entry->n);
  else if (part == SVDQ_WSCALES)
    for (int64_t g = 0; g < t->shape[0]; g++)
      layout_swap_halves ((char *)t->data + g * entry->n * size, entry->n, size);
}

static gboolean
check_floats (const Tensor *t, gboolean positive)
{
  const uint16_t *values = t->data;
  int64_t count = tensor_count (t);
  gboolean good = TRUE;

  for (int64_t i = 0; i < count; i++)
    good &= (values[i] & 0x7f80) != 0x7f80 && (!positive || (values[i] > 0 && values[i] < 0x8000));
  return good;
}

static gboolean
check_numbers (const SvdqReader *self, const SvdqEntry *entry, SvdqPart part, const Tensor *t,
               GError **error)
{
  const uint8_t *bytes = t->data;
  int64_t count = tensor_count (t);
  gboolean good = TRUE;

  if (part == SVDQ_QWEIGHT)
    return TRUE;
  if (t->dtype == DTYPE_F8_E4M3)
    {
      for (int64_t i = 0; i < count; i++)
        good &= (bytes[i] & 0x7f) != 0x7f;
      return good || fail (self, entry, part, "a scale in wscales is NaN", error);
    }
  if (part == SVDQ_WTSCALE)
    return isfinite (tensor_get (t, 0))
           || fail (self, entry, part, "a scale is infinite or NaN", error);
  if (part == SVDQ_SMOOTH)
    return check_floats (t, TRUE)
           || fail (self, entry, part,
                    "a smoothing factor is not a positive number (activations are divided by it)",
                    error);
  return check_floats (t, FALSE)
         || fail (self, entry, part,
                  part == SVDQ_PROJ_DOWN || part == SVDQ_PROJ_UP
                      ? "a number of the low-rank branch is infinite or NaN"
                      : "a scale is infinite or NaN",
                  error);
}

/* What an absent outer scale stands for. */
static gboolean
read_ones (SvdqReader *self, SvdqPart part, Tensor *out, GError **error)
{
  int64_t count = tensor_count (out);
  uint16_t *ones = buffer_for (self, part, (gsize)count * sizeof *ones, error);

  if (ones == NULL)
    return FALSE;
  for (int64_t i = 0; i < count; i++)
    ones[i] = 0x3f80;
  out->data = ones;
  return TRUE;
}

static gboolean
read_part (SvdqReader *self, const SvdqEntry *entry, SvdqPart part, Tensor *out, GError **error)
{
  const Tensor *from = &entry->parts[part];
  gboolean vector = part == SVDQ_SMOOTH || part == SVDQ_WCSCALES;
  gboolean plain = self->kind == SVDQ_CANONICAL || self->kind == SVDQ_VLLM
                   || self->kind == SVDQ_KITCHEN || (self->kind == SVDQ_VLLM_PACKED && !vector);

  *out = svdq_entry_logical (entry, part);
  if (from->data == NULL)
    return read_ones (self, part, out, error);
  if (plain && (uintptr_t)from->data % dtype_size (out->dtype) == 0)
    {
      out->data = from->data;
      return check_numbers (self, entry, part, out, error);
    }
  out->data = buffer_for (self, part, tensor_bytes (out), error);
  if (out->data == NULL)
    return FALSE;
  unpack (self, entry, part, from, out->data);
  if (self->kind == SVDQ_NUNCHAKU && entry->gated)
    swap_halves (entry, part, out);
  return check_numbers (self, entry, part, out, error);
}

Tensor
svdq_reader_shape (const SvdqReader *self, guint index, SvdqPart part)
{
  return svdq_entry_logical (g_ptr_array_index (self->entries, index), part);
}

gboolean
svdq_reader_part (SvdqReader *self, guint index, SvdqPart part, Tensor *out, GError **error)
{
  return read_part (self, g_ptr_array_index (self->entries, index), part, out, error);
}

/* -- a whole linear --------------------------------------------------------------------------- */

static gboolean
read_outer (SvdqReader *self, const SvdqEntry *entry, GError **error)
{
  Tensor whole, rows;

  if (entry->format == SVDQ_INT4)
    return TRUE;
  if (!read_part (self, entry, SVDQ_WTSCALE, &whole, error)
      || !read_part (self, entry, SVDQ_WCSCALES, &rows, error))
    return FALSE;
  self->outer = g_renew (float, self->outer, (gsize)entry->n);
  for (int64_t i = 0; i < entry->n; i++)
    self->outer[i] = tensor_get (&whole, 0) * tensor_get (&rows, i);
  return TRUE;
}

gboolean
svdq_reader_get (SvdqReader *self, const char *base, int64_t n, int64_t k, const SvdqSource **out,
                 GError **error)
{
  const SvdqEntry *entry = g_hash_table_lookup (self->by_base, base);
  Tensor parts[SVDQ_WTSCALE];

  *out = NULL;
  if (entry == NULL)
    return FALSE;
  if (entry->n != n || entry->k != k)
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                   "%s: linear %s is %" G_GINT64_FORMAT " x %" G_GINT64_FORMAT
                   ", the model needs %" G_GINT64_FORMAT " x %" G_GINT64_FORMAT,
                   safetensors_path (self->file), entry->stem, (gint64)entry->n, (gint64)entry->k,
                   (gint64)n, (gint64)k);
      return FALSE;
    }
  for (int part = 0; part < SVDQ_WTSCALE; part++)
    if (!read_part (self, entry, (SvdqPart)part, &parts[part], error))
      return FALSE;
  if (!read_outer (self, entry, error))
    return FALSE;
  self->source = (SvdqSource){ .format = entry->format,
                               .rank = entry->rank,
                               .qweight = parts[SVDQ_QWEIGHT].data,
                               .wscales = parts[SVDQ_WSCALES].data,
                               .smooth = parts[SVDQ_SMOOTH].data,
                               .proj_down = parts[SVDQ_PROJ_DOWN].data,
                               .proj_up = parts[SVDQ_PROJ_UP].data,
                               .outer = entry->format == SVDQ_INT4 ? NULL : self->outer };
  *out = &self->source;
  return TRUE;
}
