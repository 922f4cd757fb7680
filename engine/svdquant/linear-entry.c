/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/svdquant/linear-entry.h"

#include "engine/engine.h"
#include "engine/svdquant/layout.h"

#include <string.h>

#define MAX_EXTENT (1 << 19) /* of K, so that the products of a row stay exact; and of N */
#define MAX_RANK   4096

/* Names of the parts; the second is Comfy kitchen's, or an older export's. */
static const char *const suffixes[SVDQ_N_PARTS][2] = {
  { "qweight", "weight" },      { "wscales", "weight_scale" }, { "smooth_factor", "smooth" },
  { "proj_down", "lora_down" }, { "proj_up", "lora_up" },      { "wtscale", NULL },
  { "wcscales", NULL },
};

/* What is in files, but not used when a picture is made. */
static const char *const unused[] = { "smooth_factor_orig", "smooth_orig", "comfy_quant" };

static const struct
{
  SvdqKind kind;
  const char *stored, *base;
} renames[] = {
  { SVDQ_NUNCHAKU, "feed_forward.net.0.proj", "feed_forward.w13" },
  { SVDQ_NUNCHAKU, "feed_forward.net.2", "feed_forward.w2" },
  { SVDQ_KITCHEN, "attention.out", "attention.to_out.0" },
};

void
svdq_entry_free (SvdqEntry *self)
{
  if (self == NULL)
    return;
  g_free (self->stem);
  g_free (self->base);
  g_free (self);
}

gboolean
svdq_entry_knows (SvdqKind kind, const char *suffix)
{
  for (int part = 0; part < SVDQ_N_PARTS; part++)
    for (int i = 0; i < 2; i++)
      if (suffixes[part][i] != NULL && g_str_equal (suffix, suffixes[part][i])
          && (part > SVDQ_WSCALES || i == (kind == SVDQ_KITCHEN)))
        return TRUE;
  for (guint i = 0; i < G_N_ELEMENTS (unused); i++)
    if (g_str_equal (suffix, unused[i]))
      return TRUE;
  return FALSE;
}

static char *
base_of (SvdqKind kind, const char *stored)
{
  for (guint i = 0; i < G_N_ELEMENTS (renames); i++)
    if (renames[i].kind == kind && g_str_has_suffix (stored, renames[i].stored))
      return g_strdup_printf ("%.*s%s", (int)(strlen (stored) - strlen (renames[i].stored)), stored,
                              renames[i].base);
  return g_strdup (stored);
}

static gboolean
fail (Safetensors *file, const SvdqEntry *self, const char *suffix, const char *what,
      GError **error)
{
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL, "%s: tensor %s.%s %s",
               safetensors_path (file), self->stem, suffix, what);
  return FALSE;
}

static void
find_parts (SvdqEntry *self, Safetensors *file)
{
  for (int part = 0; part < SVDQ_N_PARTS; part++)
    for (int i = 0; i < 2 && self->parts[part].data == NULL; i++)
      if (suffixes[part][i] != NULL)
        {
          g_autofree char *name = g_strconcat (self->stem, ".", suffixes[part][i], NULL);

          if (!safetensors_find (file, name, &self->parts[part]))
            self->parts[part].data = NULL;
        }
}

/* N, K, rank and format, from the shapes and types that decide them. */
static gboolean
read_sizes (SvdqEntry *self, Safetensors *file, SvdqKind kind, GError **error)
{
  const Tensor *codes = &self->parts[SVDQ_QWEIGHT], *down = &self->parts[SVDQ_PROJ_DOWN];
  gboolean packed = kind == SVDQ_NUNCHAKU || kind == SVDQ_LITE;
  int64_t multiple = packed || kind == SVDQ_VLLM ? 128 : 64;

  for (int part = 0; part <= SVDQ_PROJ_UP; part++)
    if (self->parts[part].data == NULL)
      return fail (file, self, suffixes[part][0], "is missing", error);
  if ((codes->dtype != DTYPE_I8 && codes->dtype != DTYPE_U8) || codes->rank != 2)
    return fail (file, self, "qweight", "is not a matrix of bytes", error);
  if (codes->shape[0] < 1 || codes->shape[0] > MAX_EXTENT || codes->shape[1] < 1
      || codes->shape[1] > MAX_EXTENT / 2)
    return fail (file, self, "qweight", "has an impossible size", error);
  self->n = codes->shape[0];
  self->k = codes->shape[1] * 2;
  if (self->n % multiple != 0 || self->k % multiple != 0)
    return fail (file, self, "qweight",
                 multiple == 128 ? "has extents that are no multiples of 128"
                                 : "has extents that are no multiples of 64",
                 error);
  self->format = self->parts[SVDQ_WSCALES].dtype == DTYPE_F8_E4M3 ? SVDQ_NVFP4 : SVDQ_INT4;
  if (down->rank != 2 || down->shape[1] < 16 || down->shape[1] > MAX_RANK
      || down->shape[1] % 16 != 0)
    return fail (file, self, "proj_down", "has a rank that is no multiple of 16", error);
  self->rank = (int)down->shape[1];
  return TRUE;
}

Tensor
svdq_entry_logical (const SvdqEntry *self, SvdqPart part)
{
  switch (part)
    {
    case SVDQ_QWEIGHT:
      return tensor_2d (DTYPE_U8, NULL, self->n, self->k / 2);
    case SVDQ_WSCALES:
      return self->format == SVDQ_INT4 ? tensor_2d (DTYPE_BF16, NULL, self->k / 64, self->n)
                                       : tensor_2d (DTYPE_F8_E4M3, NULL, self->k / 16, self->n);
    case SVDQ_SMOOTH:
      return tensor_1d (DTYPE_BF16, NULL, self->k);
    case SVDQ_PROJ_DOWN:
      return tensor_2d (DTYPE_BF16, NULL, self->k, self->rank);
    case SVDQ_PROJ_UP:
      return tensor_2d (DTYPE_BF16, NULL, self->n, self->rank);
    case SVDQ_WTSCALE: /* of the type that it has: Nunchaku itself takes three */
      return tensor_1d (self->parts[part].data != NULL ? self->parts[part].dtype : DTYPE_BF16, NULL,
                        1);
    case SVDQ_WCSCALES:
      return tensor_1d (DTYPE_BF16, NULL, self->n);
    }
  g_assert_not_reached ();
}

static gboolean
is_outer_scale (const Tensor *t)
{
  return tensor_count (t) == 1
         && (t->dtype == DTYPE_BF16 || t->dtype == DTYPE_F16 || t->dtype == DTYPE_F32);
}

static gboolean
check_shapes (const SvdqEntry *self, Safetensors *file, GError **error)
{
  for (int part = SVDQ_WSCALES; part < SVDQ_N_PARTS; part++)
    {
      const Tensor *found = &self->parts[part];
      Tensor expected = svdq_entry_logical (self, (SvdqPart)part);
      g_autofree char *what = NULL;

      if (found->data == NULL)
        continue;
      if (part >= SVDQ_WTSCALE && self->format == SVDQ_INT4)
        return fail (file, self, suffixes[part][0], "is an outer scale, which INT4 has none of",
                     error);
      if (part == SVDQ_WTSCALE
              ? is_outer_scale (found)
              : found->dtype == expected.dtype && tensor_same_shape (found, &expected))
        continue;
      what = g_strdup_printf (
          "has the wrong type or shape: expected %s [%" G_GINT64_FORMAT ", %" G_GINT64_FORMAT
          "], found %s [%" G_GINT64_FORMAT ", %" G_GINT64_FORMAT "]",
          dtype_name (expected.dtype), (gint64)expected.shape[0], (gint64)expected.shape[1],
          dtype_name (found->dtype), (gint64)found->shape[0], (gint64)found->shape[1]);
      return fail (file, self, suffixes[part][0], what, error);
    }
  return TRUE;
}

SvdqEntry *
svdq_entry_new (Safetensors *file, SvdqKind kind, const char *name, gsize length, gsize prefix,
                GError **error)
{
  g_autoptr (SvdqEntry) self = g_new0 (SvdqEntry, 1);

  self->stem = g_strndup (name, length);
  self->base = base_of (kind, self->stem + MIN (prefix, length));
  self->gated = g_str_has_suffix (self->base, "feed_forward.w13");
  find_parts (self, file);
  if (!read_sizes (self, file, kind, error) || !check_shapes (self, file, error))
    return NULL;
  if (self->gated && self->n % 2 != 0)
    {
      fail (file, self, "qweight", "has an odd number of rows", error);
      return NULL;
    }
  return g_steal_pointer (&self);
}

/* -- packed or logical vectors ---------------------------------------------------------------- */

#define TESTED_LINEARS 8
#define TESTED_RANK    16 /* rows of the factor are enough to tell */

/* Number i of a BF16 tensor that may lie on an odd address. */
static float
number_at (const Tensor *t, int64_t i)
{
  uint16_t bits;

  memcpy (&bits, (const char *)t->data + i * 2, sizeof bits);
  return bf16_to_float (bits);
}

/* How far from diagonal G = D^T D is, D = P_down s: the sum of squares off the diagonal over the
 * sum on it. */
static double
off_diagonal (const SvdqEntry *entry, const float *smooth)
{
  const Tensor *down = &entry->parts[SVDQ_PROJ_DOWN];
  double on = 0.0, off = 0.0;

  for (int a = 0; a < TESTED_RANK; a++)
    for (int b = 0; b <= a; b++)
      {
        double sum = 0.0;

        for (int64_t k = 0; k < entry->k; k++)
          sum += (double)number_at (down, k * entry->rank + a)
                 * number_at (down, k * entry->rank + b) * smooth[k] * smooth[k];
        *(a == b ? &on : &off) += sum * sum;
      }
  return on > 0.0 ? off / on : 0.0;
}

/* -1: logical, 1: packed, 0: this linear cannot tell. */
static int
vote (const SvdqEntry *entry)
{
  const Tensor *stored = &entry->parts[SVDQ_SMOOTH];
  g_autofree float *logical = g_new (float, (gsize)entry->k);
  g_autofree float *unpacked = g_new (float, (gsize)entry->k);
  double as_logical, as_packed;

  for (int64_t k = 0; k < entry->k; k++)
    {
      logical[k] = number_at (stored, k);
      unpacked[k] = number_at (stored, layout_vector_position (k));
    }
  as_logical = off_diagonal (entry, logical);
  as_packed = off_diagonal (entry, unpacked);
  if (as_logical == as_packed) /* constant smoothing, or NaN, which is found later */
    return 0;
  return as_packed < as_logical ? 1 : -1;
}

gboolean
svdq_vectors_are_packed (Safetensors *file, const GPtrArray *entries)
{
  int votes = 0;

  for (guint i = 0; i < MIN (entries->len, TESTED_LINEARS); i++)
    votes += vote (g_ptr_array_index (entries, i));
  return votes != 0 ? votes > 0 : safetensors_metadata (file, "conversion") != NULL;
}
