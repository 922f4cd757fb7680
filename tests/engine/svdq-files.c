/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/engine/svdq-files.h"

#include "engine/svdquant/layout.h"
#include "kernels/svdq-math.h"

#include <glib/gstdio.h>
#include <string.h>

char *
svdq_fixture (const char *precision)
{
  const char *root = g_getenv ("TESSERA_FIXTURES");
  g_autofree char *path = g_strdup_printf ("%s/svdq-zimage/svdq-%s_r32-svdq-zimage.safetensors",
                                           root != NULL ? root : ".", precision);

  if (g_file_test (path, G_FILE_TEST_EXISTS))
    return g_steal_pointer (&path);
  g_test_skip ("the shared fixtures are not there");
  return NULL;
}

/* -- numbers ---------------------------------------------------------------------------------- */

static uint16_t
random_bf16 (double low, double high)
{
  return bf16_from_float ((float)g_test_rand_double_range (low, high));
}

/* Columns of D [k, rank] made orthonormal by Gram and Schmidt. */
static void
orthonormalise (double *d, int64_t k, int rank)
{
  for (int r = 0; r < rank; r++)
    for (int q = 0; q <= r; q++)
      {
        double dot = 0.0;

        for (int64_t i = 0; i < k; i++)
          dot += d[i * rank + r] * d[i * rank + q];
        for (int64_t i = 0; i < k; i++)
          d[i * rank + r]
              = q < r ? d[i * rank + r] - dot * d[i * rank + q] : d[i * rank + r] / sqrt (dot);
      }
}

static void
fill_down (SvdqSample *self)
{
  int64_t count = self->k * self->rank;
  g_autofree double *d = g_new (double, (gsize)count);

  for (int64_t i = 0; i < count; i++)
    d[i] = g_test_rand_double_range (-1.0, 1.0);
  orthonormalise (d, self->k, self->rank);
  for (int64_t i = 0; i < count; i++)
    self->down[i] = bf16_from_float ((float)(d[i] / bf16_to_float (self->smooth[i / self->rank])));
}

SvdqSample *
svdq_sample_new (SvdqFormat format, int64_t n, int64_t k, int rank)
{
  SvdqSample *self = g_new0 (SvdqSample, 1);
  int64_t groups = k / (format == SVDQ_INT4 ? 64 : 16);

  *self = (SvdqSample){ .format = format,
                        .n = n,
                        .k = k,
                        .rank = rank,
                        .qweight = g_malloc ((gsize)(n * k / 2)),
                        .wscales = g_malloc ((gsize)(n * groups * 2)),
                        .smooth = g_new (uint16_t, (gsize)k),
                        .down = g_new (uint16_t, (gsize)(k * rank)),
                        .up = g_new (uint16_t, (gsize)(n * rank)),
                        .wcscales = g_new (uint16_t, (gsize)n),
                        .wtscale = 0.01226806640625f, /* the same in 16 bit */
                        .wtscale_type = DTYPE_BF16 };
  for (int64_t i = 0; i < n * k / 2; i++)
    self->qweight[i] = (uint8_t)g_test_rand_int ();
  for (int64_t i = 0; i < n * groups; i++)
    if (format == SVDQ_INT4)
      ((uint16_t *)self->wscales)[i] = random_bf16 (0.001, 0.1);
    else
      ((uint8_t *)self->wscales)[i] = (uint8_t)g_test_rand_int_range (1, 127);
  for (int64_t i = 0; i < k; i++)
    self->smooth[i] = random_bf16 (0.25, 4.0);
  for (int64_t i = 0; i < n * rank; i++)
    self->up[i] = random_bf16 (-0.5, 0.5);
  for (int64_t i = 0; i < n; i++)
    self->wcscales[i] = random_bf16 (0.5, 2.0);
  fill_down (self);
  return self;
}

void
svdq_sample_free (SvdqSample *self)
{
  if (self == NULL)
    return;
  g_free (self->qweight);
  g_free (self->wscales);
  g_free (self->smooth);
  g_free (self->down);
  g_free (self->up);
  g_free (self->wcscales);
  g_free (self);
}

/* -- files ------------------------------------------------------------------------------------ */

/* What is to be written, and the memory it needs until then. */
typedef struct
{
  const SvdqSample *sample;
  SvdqKind kind;
  SafetensorsWriter *writer;
  const char *stem;
  GPtrArray *memory;
} Output;

static gboolean
is_packed (const Output *o)
{
  return o->kind == SVDQ_NUNCHAKU || o->kind == SVDQ_LITE;
}

static void *
keep (Output *o, const void *data, gsize bytes)
{
  void *copy = g_memdup2 (data, bytes);

  g_ptr_array_add (o->memory, copy);
  return copy;
}

static void
add (Output *o, const char *suffix, DType dtype, int64_t a, int64_t b, const void *data)
{
  g_autofree char *name = g_strconcat (o->stem, ".", suffix, NULL);

  if (g_strcmp0 (suffix, o->sample->leave_out) != 0)
    safetensors_writer_add (o->writer, name, dtype, b > 0 ? 2 : 1, (int64_t[]){ a, b }, data);
}

/* The published order of rows is [w3; w1]. */
static void *
keep_rows (Output *o, const void *data, gsize bytes)
{
  void *copy = keep (o, data, bytes);

  if (o->kind == SVDQ_NUNCHAKU)
    layout_swap_halves (copy, o->sample->n, (int64_t)bytes / o->sample->n);
  return copy;
}

static void
add_codes (Output *o)
{
  const SvdqSample *s = o->sample;
  gsize bytes = (gsize)(s->n * s->k / 2);
  uint8_t *plain = keep_rows (o, s->qweight, bytes), *data = keep (o, plain, bytes);

  if (is_packed (o))
    layout_pack_qweight (plain, data, s->n, s->k);
  add (o, o->kind == SVDQ_KITCHEN ? "weight" : "qweight", is_packed (o) ? DTYPE_I8 : DTYPE_U8, s->n,
       s->k / 2, data);
}

static void
add_scales (Output *o)
{
  const SvdqSample *s = o->sample;
  gboolean int4 = s->format == SVDQ_INT4;
  int64_t groups = s->k / (int4 ? 64 : 16), size = int4 ? 2 : 1;
  gsize bytes = (gsize)(s->n * groups * size);
  char *plain = keep (o, s->wscales, bytes);
  void *data = keep (o, plain, bytes);

  for (int64_t g = 0; g < groups && o->kind == SVDQ_NUNCHAKU; g++)
    layout_swap_halves (plain + g * s->n * size, s->n, size);
  if (!is_packed (o))
    memcpy (data, plain, bytes);
  else if (int4)
    layout_pack_int4_scales ((uint16_t *)(void *)plain, data, s->n, s->k);
  else
    layout_pack_nvfp4_scales ((uint8_t *)plain, data, s->n, s->k);
  add (o, o->kind == SVDQ_KITCHEN ? "weight_scale" : "wscales", int4 ? DTYPE_BF16 : DTYPE_F8_E4M3,
       groups, s->n, data);
}

static void
add_vector (Output *o, const char *suffix, const uint16_t *plain, int64_t count)
{
  uint16_t *data = keep (o, plain, (gsize)count * 2);

  if (is_packed (o) || o->kind == SVDQ_VLLM_PACKED)
    layout_pack_vector (plain, data, count);
  add (o, suffix, DTYPE_BF16, count, 0, data);
}

static void
add_factors (Output *o)
{
  const SvdqSample *s = o->sample;
  uint16_t *down = keep (o, s->down, (gsize)(s->k * s->rank) * 2);
  uint16_t *plain = keep_rows (o, s->up, (gsize)(s->n * s->rank) * 2);
  uint16_t *up = keep (o, plain, (gsize)(s->n * s->rank) * 2);

  if (is_packed (o))
    {
      layout_pack_down (s->down, down, s->k, s->rank);
      layout_pack_up (plain, up, s->n, s->rank);
    }
  add (o, "proj_down", DTYPE_BF16, s->k, s->rank, down);
  add (o, "proj_up", DTYPE_BF16, s->n, s->rank, up);
}

static void
add_outer (Output *o)
{
  const SvdqSample *s = o->sample;
  uint16_t half;

  if (s->format == SVDQ_INT4)
    return;
  add_vector (o, "wcscales", keep_rows (o, s->wcscales, (gsize)s->n * 2), s->n);
  half = s->wtscale_type == DTYPE_BF16 ? bf16_from_float (s->wtscale) : f16_from_float (s->wtscale);
  add (o, "wtscale", s->wtscale_type, 1, 0,
       s->wtscale_type == DTYPE_F32 ? keep (o, &s->wtscale, 4) : keep (o, &half, 2));
}

static const char *
stem_of (SvdqKind kind)
{
  if (kind == SVDQ_NUNCHAKU)
    return "layers.0.feed_forward.net.0.proj";
  return svdq_sample_base (kind);
}

const char *
svdq_sample_base (SvdqKind kind)
{
  return kind == SVDQ_LITE || kind == SVDQ_KITCHEN ? "layers.0.attention.to_q"
                                                   : "layers.0.feed_forward.w13";
}

char *
svdq_sample_path (void)
{
  char *path = g_build_filename (g_get_tmp_dir (), "tessera-svdq-XXXXXX", NULL);

  g_close (g_mkstemp (path), NULL);
  return path;
}

void
svdq_sample_remove (const char *path)
{
  g_unlink (path);
}

char *
svdq_sample_write (SvdqSample *self, SvdqKind kind, SvdqDamage damage)
{
  static const char note[] = "{\"format\": \"svdquant_w4a4\"}";
  g_autoptr (SafetensorsWriter) writer = safetensors_writer_new ();
  g_autoptr (GPtrArray) memory = g_ptr_array_new_with_free_func (g_free);
  g_autoptr (GError) error = NULL;
  Output o = { self, kind, writer, stem_of (kind), memory };
  char *path = svdq_sample_path ();

  if (damage != NULL)
    damage (self);
  add_codes (&o);
  add_scales (&o);
  add_vector (&o, "smooth_factor", self->smooth, self->k);
  add_factors (&o);
  add_outer (&o);
  if (kind == SVDQ_KITCHEN)
    add (&o, "comfy_quant", DTYPE_U8, sizeof note - 1, 0, note);
  if (self->extra != NULL)
    add (&o, self->extra, DTYPE_BF16, self->k, 0, self->smooth);
  if (kind == SVDQ_CANONICAL)
    safetensors_writer_metadata (writer, "svdq_canonical", "{\"version\":1}");
  g_assert_true (safetensors_writer_write (writer, path, &error));
  g_assert_no_error (error);
  return path;
}
