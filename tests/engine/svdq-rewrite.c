/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/engine/svdq-rewrite.h"

#include "engine/svdquant/convert.h"
#include "engine/svdquant/layout.h"

#include <string.h>

typedef struct
{
  const SvdqRewrite *what;
  SafetensorsWriter *writer;
  SvdqReader *reader;
  GPtrArray *memory; /* until the file is written */
} Rewriter;

static gboolean
is_separate (const SvdqRewrite *self)
{
  return self->separate || self->kind == SVDQ_LITE || self->kind == SVDQ_KITCHEN;
}

static void *
keep (Rewriter *self, gsize bytes)
{
  void *memory = g_malloc (bytes);

  g_ptr_array_add (self->memory, memory);
  return memory;
}

/* -- parts ------------------------------------------------------------------------------------ */

static gboolean
has_rows (SvdqPart part)
{
  return part != SVDQ_SMOOTH && part != SVDQ_PROJ_DOWN && part != SVDQ_WTSCALE;
}

/* Rows [first, first + count) of a part, copied; parts without rows as they are. */
static Tensor
slice (Rewriter *self, const Tensor *t, SvdqPart part, int64_t n, int64_t first, int64_t count)
{
  gsize size = dtype_size (t->dtype), row = tensor_bytes (t) / (gsize)n;
  char *to = keep (self, tensor_bytes (t));
  Tensor out = *t;

  out.data = to;
  if (!has_rows (part))
    memcpy (to, t->data, tensor_bytes (t));
  else if (part == SVDQ_WSCALES)
    for (int64_t g = 0; g < t->shape[0]; g++)
      memcpy (to + (gsize)(g * count) * size, (const char *)t->data + (gsize)(g * n + first) * size,
              (gsize)count * size);
  else
    memcpy (to, (const char *)t->data + (gsize)first * row, (gsize)count * row);
  if (part == SVDQ_WSCALES)
    out.shape[1] = count;
  else if (has_rows (part))
    out.shape[0] = count;
  return out;
}

/* The first columns of a factor. */
static void
drop_ranks (Tensor *t, int dropped)
{
  int64_t rank = t->shape[1] - dropped;
  uint16_t *values = t->data;

  for (int64_t row = 0; row < t->shape[0]; row++)
    memmove (values + row * rank, values + row * t->shape[1], (gsize)rank * sizeof *values);
  t->shape[1] = rank;
}

/* In the published packing, as Lite has it. */
static void
pack (Rewriter *self, Tensor *t, SvdqPart part, SvdqFormat format, int64_t n, int64_t k)
{
  const void *plain = t->data;
  void *packed = keep (self, tensor_bytes (t));

  if (part == SVDQ_QWEIGHT)
    layout_pack_qweight (plain, packed, n, k);
  else if (part == SVDQ_WSCALES && format == SVDQ_INT4)
    layout_pack_int4_scales (plain, packed, n, k);
  else if (part == SVDQ_WSCALES)
    layout_pack_nvfp4_scales (plain, packed, n, k);
  else if (part == SVDQ_PROJ_DOWN)
    layout_pack_down (plain, packed, k, (int)t->shape[1]);
  else if (part == SVDQ_PROJ_UP)
    layout_pack_up (plain, packed, n, (int)t->shape[1]);
  else if (part == SVDQ_WTSCALE)
    memcpy (packed, plain, tensor_bytes (t));
  else
    layout_pack_vector (plain, packed, tensor_count (t));
  t->data = packed;
}

static const char *
name_of (SvdqKind kind, SvdqPart part)
{
  if (kind == SVDQ_KITCHEN && part == SVDQ_QWEIGHT)
    return "weight";
  return kind == SVDQ_KITCHEN && part == SVDQ_WSCALES ? "weight_scale" : svdq_part_name (part);
}

/* Part i of n_parts of the rows of linear `index`, under the name `base`. */
static void
write_share (Rewriter *self, guint index, const char *base, int i, int n_parts)
{
  static const char note[] = "{\"format\": \"svdquant_w4a4\"}";
  SvdqLinearInfo info = svdq_reader_info (self->reader, index);
  SvdqKind kind = self->what->kind;
  int64_t count = info.n / n_parts;

  for (int part = 0; part < (info.format == SVDQ_INT4 ? SVDQ_WTSCALE : SVDQ_N_PARTS); part++)
    {
      g_autofree char *name = g_strconcat (base, ".", name_of (kind, (SvdqPart)part), NULL);
      Tensor whole, t;

      g_assert_true (svdq_reader_part (self->reader, index, (SvdqPart)part, &whole, NULL));
      t = slice (self, &whole, (SvdqPart)part, info.n, i * count, count);
      if (i % 2 == 1 && (part == SVDQ_PROJ_DOWN || part == SVDQ_PROJ_UP))
        drop_ranks (&t, self->what->dropped);
      if (kind == SVDQ_LITE)
        pack (self, &t, (SvdqPart)part, info.format, count, info.k);
      safetensors_writer_add (self->writer, name, t.dtype, t.rank, t.shape, t.data);
    }
  if (kind == SVDQ_KITCHEN)
    {
      g_autofree char *name = g_strconcat (base, ".comfy_quant", NULL);

      safetensors_writer_add (self->writer, name, DTYPE_U8, 1, (int64_t[]){ sizeof note - 1 },
                              note);
    }
}

/* -- linears ---------------------------------------------------------------------------------- */

/* Names of what is stacked in the linear `base`, or of itself, in the model's own file. */
static guint
names_of (const char *base, char *names[3])
{
  static const char *const qkv[] = { "to_q", "to_k", "to_v" }, *const w13[] = { "w1", "w3" };
  gboolean is_qkv = g_str_has_suffix (base, ".to_qkv");
  const char *const *last = is_qkv ? qkv : w13;
  guint n = is_qkv ? 3 : g_str_has_suffix (base, ".w13") ? 2 : 1;

  for (guint i = 0; i < n; i++)
    names[i] = n == 1
                   ? g_strdup (base)
                   : g_strdup_printf ("%.*s.%s", (int)(strrchr (base, '.') - base), base, last[i]);
  return n;
}

static void
write_dense (Rewriter *self, const char *name)
{
  g_autofree char *weight = g_strconcat (name, ".weight", NULL);
  Tensor t;

  g_assert_true (safetensors_find (self->what->dense, weight, &t));
  safetensors_writer_add (self->writer, weight, t.dtype, t.rank, t.shape, t.data);
}

static void
write_linear (Rewriter *self, guint index)
{
  const char *base = svdq_reader_info (self->reader, index).base;
  const char *dense = self->what->dense_prefix;
  char *names[3];
  guint n = names_of (base, names);

  for (guint i = 0; i < n; i++)
    {
      if (dense != NULL && g_str_has_prefix (base, dense))
        write_dense (self, names[i]);
      else if (is_separate (self->what))
        write_share (self, index, names[i], (int)i, (int)n);
      else if (i == 0)
        write_share (self, index, base, 0, 1);
      g_free (names[i]);
    }
}

void
svdq_rewrite (const SvdqRewrite *self, const char *out)
{
  g_autoptr (SafetensorsWriter) writer = safetensors_writer_new ();
  g_autoptr (GPtrArray) memory = g_ptr_array_new_with_free_func (g_free);
  g_autoptr (GError) error = NULL;
  g_autoptr (Safetensors) file = safetensors_open (self->in, &error);
  g_autoptr (SvdqReader) reader = NULL;
  Rewriter rewriter = { self, writer, NULL, memory };

  g_assert_true (svdq_reader_open (file, "", &reader, &error));
  rewriter.reader = reader;
  for (guint i = 0; i < svdq_reader_count (reader); i++)
    write_linear (&rewriter, i);
  for (guint i = 0; i < safetensors_count (file); i++)
    {
      const char *name = safetensors_name (file, i);
      Tensor t;

      if (svdq_reader_base_of (reader, name) == NULL && safetensors_find (file, name, &t))
        safetensors_writer_add (writer, name, t.dtype, t.rank, t.shape, t.data);
    }
  if (self->kind == SVDQ_CANONICAL)
    safetensors_writer_metadata (writer, "svdq_canonical", "{\"version\":1}");
  g_assert_true (safetensors_writer_write (writer, out, &error));
  g_assert_no_error (error);
}
