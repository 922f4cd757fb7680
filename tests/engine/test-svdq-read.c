/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading published SVDQuant files: single layers against golden values, every format as the same
 * numbers, look-alikes and damage refused by name.
 */
#include "engine/engine.h"
#include "engine/svdquant/layout.h"
#include "engine/svdquant/read.h"
#include "kernels/reference/svdq.h"
#include "tests/engine/svdq-files.h"

#include <math.h>
#include <string.h>

/* -- golden layers ---------------------------------------------------------------------------- */

static const char *const golden_linears[]
    = { "layers.0.attention.to_qkv", "layers.0.attention.to_out.0",
        "noise_refiner.0.feed_forward.w13", "context_refiner.0.feed_forward.w2" };

static double
row_error (const float *y, const float *expected, int64_t n)
{
  double difference = 0.0, norm = 0.0;

  for (int64_t i = 0; i < n; i++)
    {
      difference += ((double)y[i] - expected[i]) * ((double)y[i] - expected[i]);
      norm += (double)expected[i] * expected[i];
    }
  return norm > 0.0 ? sqrt (difference / norm) : sqrt (difference);
}

/* Rows of the golden file have the published order: w13 as [w3; w1]. */
static void
order_rows (const char *base, Tensor *y)
{
  if (g_str_has_suffix (base, ".w13"))
    for (int64_t i = 0; i < y->shape[0]; i++)
      layout_swap_halves ((float *)y->data + i * y->shape[1], y->shape[1], sizeof (float));
}

static void
check_golden_linear (SvdqReader *reader, Safetensors *golden, const char *base)
{
  g_autoptr (GString) stored = g_string_new (base);
  g_autofree char *x_name = NULL, *y_name = NULL;
  g_autofree float *x = NULL, *y = NULL, *expected = NULL;
  g_autoptr (GError) error = NULL;
  const SvdqSource *source;
  Tensor tx, ty;
  int64_t m, n, k;
  double all;

  g_string_replace (stored, ".w13", ".net.0.proj", 0);
  g_string_replace (stored, ".w2", ".net.2", 0);
  x_name = g_strconcat (stored->str, ".x", NULL);
  y_name = g_strconcat (stored->str, ".y", NULL);
  g_assert_true (safetensors_find (golden, x_name, &tx));
  g_assert_true (safetensors_find (golden, y_name, &ty));
  m = tx.shape[0], k = tx.shape[1], n = ty.shape[1];
  g_assert_true (svdq_reader_get (reader, base, n, k, &source, &error));
  g_assert_no_error (error);

  x = g_new (float, (gsize)(m * k));
  y = g_new (float, (gsize)(m * n));
  for (int64_t i = 0; i < m * k; i++)
    x[i] = tensor_get (&tx, i);
  expected = g_memdup2 (ty.data, tensor_bytes (&ty));
  ty.data = expected;
  order_rows (base, &ty);
  g_assert_cmpint (svdq_reference (SVDQ_LEVEL_CONTRACT, source, n, k, NULL, x, m, y), ==,
                   STATUS_OK);
  all = row_error (y, expected, m * n);
  g_test_message ("%s: relative RMS %.2e", base, all);
  g_assert_cmpfloat (all, <, 1e-5);
  for (int64_t i = 0; i < m; i++)
    g_assert_cmpfloat (row_error (y + i * n, expected + i * n, n), <, 1e-3);
}

static void
test_golden_linears (gconstpointer data)
{
  const char *precision = data;
  g_autofree char *model = svdq_fixture (precision);
  g_autofree char *golden_path = NULL;
  g_autoptr (Safetensors) file = NULL, golden = NULL;
  g_autoptr (SvdqReader) reader = NULL;
  g_autoptr (GError) error = NULL;

  if (model == NULL)
    return;
  golden_path = g_strdup_printf ("%s/svdq-zimage-golden/linear-%s.safetensors",
                                 g_getenv ("TESSERA_FIXTURES"), precision);
  golden = safetensors_open (golden_path, &error);
  g_assert_no_error (error);
  file = safetensors_open (model, &error);
  g_assert_no_error (error);
  g_assert_true (svdq_reader_open (file, "", &reader, &error));
  g_assert_no_error (error);
  g_assert_cmpint (svdq_reader_kind (reader), ==, SVDQ_NUNCHAKU);
  g_assert_cmpuint (svdq_reader_count (reader), ==, 12);
  for (guint i = 0; i < G_N_ELEMENTS (golden_linears); i++)
    check_golden_linear (reader, golden, golden_linears[i]);
}

/* -- which half is the gate ----------------------------------------------------------------------
 */

#define GATE_K 128

/* Rows of w1 sum to `gate` on inputs of 7, rows of w3 to `value`, by codes of 1 or -1. */
static void
fill_gate (SvdqSample *sample, float gate, float value)
{
  const float units = 7.0f * GATE_K; /* all inputs have code 7 and scale 1 */

  memset (sample->up, 0, (gsize)(sample->n * sample->rank) * sizeof *sample->up);
  for (int64_t i = 0; i < GATE_K; i++)
    sample->smooth[i] = bf16_from_float (1.0f);
  for (int64_t row = 0; row < sample->n; row++)
    {
      float sum = row < sample->n / 2 ? gate : value;

      memset (sample->qweight + row * GATE_K / 2, sum < 0 ? 0xff : 0x11, GATE_K / 2);
      for (int64_t g = 0; g < GATE_K / 64; g++)
        ((uint16_t *)sample->wscales)[g * sample->n + row] = bf16_from_float (fabsf (sum) / units);
    }
}

/* silu (w1 u) * (w3 u), and not the other way round, in files that have them in either order (spec
 * svdquant 8.4): with -100 and 3 nothing is left, with 3 and -100 the product is -285.8. */
static void
test_gate_order (gconstpointer data)
{
  SvdqKind kind = (SvdqKind)GPOINTER_TO_INT (data);
  static const float factors[][3] = { { -100.0f, 3.0f, 0.0f }, { 3.0f, -100.0f, -285.8f } };
  Stream *stream = NULL;
  float x[GATE_K], y[128];

  for (int i = 0; i < GATE_K; i++)
    x[i] = 7.0f;
  g_assert_cmpint (ops_cpu.open (0, NULL, &stream), ==, STATUS_OK);
  for (guint i = 0; i < G_N_ELEMENTS (factors); i++)
    {
      g_autoptr (SvdqSample) sample = svdq_sample_new (SVDQ_INT4, 256, GATE_K, 16);
      g_autofree char *path = NULL;
      g_autoptr (Safetensors) file = NULL;
      g_autoptr (SvdqReader) reader = NULL;
      g_autoptr (GError) error = NULL;
      Tensor in = tensor_2d (DTYPE_F32, x, 1, GATE_K), out = tensor_2d (DTYPE_F32, y, 1, 128);
      LinearSource source = { .n = 256, .k = GATE_K, .swiglu = true };
      Linear *linear = NULL;

      fill_gate (sample, factors[i][0], factors[i][1]);
      path = svdq_sample_write (sample, kind, NULL);
      file = safetensors_open (path, &error);
      g_assert_no_error (error);
      g_assert_true (svdq_reader_open (file, "", &reader, &error));
      g_assert_true (
          svdq_reader_get (reader, svdq_sample_base (kind), 256, GATE_K, &source.svdq, &error));
      g_assert_cmpint (linear_cpu_svdq.prepare_weights (stream, &source, &linear), ==, STATUS_OK);
      g_assert_cmpint (linear_cpu_svdq.apply (stream, linear, &in, &out), ==, STATUS_OK);
      for (int column = 0; column < 128; column++)
        g_assert_cmpfloat_with_epsilon (y[column], factors[i][2], 2.0);
      linear_cpu_svdq.release (stream, linear);
      svdq_sample_remove (path);
    }
  ops_cpu.close (stream);
}

/* -- one layer in every format ---------------------------------------------------------------- */

typedef struct
{
  SvdqKind written, read;
  SvdqFormat format;
} Variant;

static const Variant variants[] = {
  { SVDQ_NUNCHAKU, SVDQ_NUNCHAKU, SVDQ_INT4 },   { SVDQ_NUNCHAKU, SVDQ_NUNCHAKU, SVDQ_NVFP4 },
  { SVDQ_CANONICAL, SVDQ_CANONICAL, SVDQ_INT4 }, { SVDQ_CANONICAL, SVDQ_CANONICAL, SVDQ_NVFP4 },
  { SVDQ_VLLM, SVDQ_VLLM, SVDQ_NVFP4 },          { SVDQ_VLLM_PACKED, SVDQ_VLLM_PACKED, SVDQ_NVFP4 },
  { SVDQ_LITE, SVDQ_LITE, SVDQ_NVFP4 },          { SVDQ_LITE, SVDQ_LITE, SVDQ_INT4 },
  { SVDQ_KITCHEN, SVDQ_KITCHEN, SVDQ_INT4 },
};

static void
assert_same (const void *a, const void *b, gsize bytes)
{
  g_assert_cmpmem (a, bytes, b, bytes);
}

static void
test_variant (gconstpointer data)
{
  const Variant *v = data;
  g_autoptr (SvdqSample) sample = svdq_sample_new (v->format, 256, 128, 32);
  g_autofree char *path = svdq_sample_write (sample, v->written, NULL);
  g_autoptr (Safetensors) file = NULL;
  g_autoptr (SvdqReader) reader = NULL;
  g_autoptr (GError) error = NULL;
  const SvdqSource *s;
  gsize n = 256, k = 128, groups = k / (v->format == SVDQ_INT4 ? 64 : 16);

  file = safetensors_open (path, &error);
  g_assert_no_error (error);
  g_assert_true (svdq_reader_open (file, "", &reader, &error));
  g_assert_no_error (error);
  g_assert_cmpint (svdq_reader_kind (reader), ==, v->read);
  g_assert_true (svdq_reader_get (reader, svdq_sample_base (v->written), 256, 128, &s, &error));
  g_assert_no_error (error);
  g_assert_cmpint (s->format, ==, v->format);
  g_assert_cmpint (s->rank, ==, 32);
  assert_same (s->qweight, sample->qweight, n * k / 2);
  assert_same (s->wscales, sample->wscales, n * groups * (v->format == SVDQ_INT4 ? 2 : 1));
  assert_same (s->smooth, sample->smooth, k * 2);
  assert_same (s->proj_down, sample->down, k * 32 * 2);
  assert_same (s->proj_up, sample->up, n * 32 * 2);
  if (v->format == SVDQ_NVFP4)
    for (gsize i = 0; i < n; i++)
      g_assert_cmpfloat (s->outer[i], ==, sample->wtscale * bf16_to_float (sample->wcscales[i]));
  else
    g_assert_null (s->outer);
  g_assert_false (svdq_reader_get (reader, "layers.9.attention.to_qkv", 256, 128, &s, &error));
  g_assert_no_error (error);
  g_assert_false (svdq_reader_get (reader, svdq_sample_base (v->written), 512, 128, &s, &error));
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL);
  svdq_sample_remove (path);
}

/* Nunchaku's own loader takes a wtscale of each of these types (src/Linear.cpp). */
static void
test_outer_types (void)
{
  static const DType types[] = { DTYPE_BF16, DTYPE_F16, DTYPE_F32 };

  for (guint i = 0; i < G_N_ELEMENTS (types); i++)
    {
      g_autoptr (SvdqSample) sample = svdq_sample_new (SVDQ_NVFP4, 256, 128, 32);
      g_autofree char *path = NULL;
      g_autoptr (Safetensors) file = NULL;
      g_autoptr (SvdqReader) reader = NULL;
      const SvdqSource *s;

      sample->wtscale = types[i] == DTYPE_F32 ? 0.0123f : sample->wtscale;
      sample->wtscale_type = types[i];
      path = svdq_sample_write (sample, SVDQ_NUNCHAKU, NULL);
      file = safetensors_open (path, NULL);
      g_assert_true (svdq_reader_open (file, "", &reader, NULL));
      g_assert_true (
          svdq_reader_get (reader, svdq_sample_base (SVDQ_NUNCHAKU), 256, 128, &s, NULL));
      for (gsize n = 0; n < 256; n++)
        g_assert_cmpfloat (s->outer[n], ==, sample->wtscale * bf16_to_float (sample->wcscales[n]));
      svdq_sample_remove (path);
    }
}

/* -- damage and look-alikes ------------------------------------------------------------------- */

typedef struct
{
  const char *name, *message; /* the message has this in it */
  SvdqKind kind;
  SvdqFormat format;
  SvdqDamage damage;
} Damaged;

static void
nan_scale (SvdqSample *s)
{
  ((uint8_t *)s->wscales)[77] = 0xff;
}

static void
nan_scale_int4 (SvdqSample *s)
{
  ((uint16_t *)s->wscales)[77] = 0x7fc0;
}

static void
zero_smooth (SvdqSample *s)
{
  s->smooth[5] = 0;
}

static void
negative_smooth (SvdqSample *s)
{
  s->smooth[127] = 0xbf80;
}

static void
infinite_factor (SvdqSample *s)
{
  s->up[3] = 0x7f80;
}

static void
nan_outer (SvdqSample *s)
{
  s->wcscales[8] = 0xffc1;
}

static void
rank_24 (SvdqSample *s)
{
  s->rank = 24;
}

static void
no_scales (SvdqSample *s)
{
  s->leave_out = "wscales";
}

static void
stray_tensor (SvdqSample *s)
{
  s->extra = "bias";
}

static void
short_factor (SvdqSample *s)
{
  s->leave_out = "proj_up";
  s->extra = "lora_up"; /* its older name; as long as smooth_factor */
}

static void
outer_of_int4 (SvdqSample *s)
{
  s->extra = "wcscales";
}

static void
odd_rows (SvdqSample *s)
{
  s->n = 160;
}

static const Damaged damaged[] = {
  { "nan-scale", "NaN", SVDQ_NUNCHAKU, SVDQ_NVFP4, nan_scale },
  { "nan-scale-int4", "NaN", SVDQ_CANONICAL, SVDQ_INT4, nan_scale_int4 },
  { "zero-smooth", "not a positive number", SVDQ_NUNCHAKU, SVDQ_INT4, zero_smooth },
  { "negative-smooth", "not a positive number", SVDQ_CANONICAL, SVDQ_NVFP4, negative_smooth },
  { "infinite-factor", "low-rank", SVDQ_LITE, SVDQ_NVFP4, infinite_factor },
  { "nan-outer", "infinite or NaN", SVDQ_NUNCHAKU, SVDQ_NVFP4, nan_outer },
  { "rank-24", "multiple of 16", SVDQ_CANONICAL, SVDQ_INT4, rank_24 },
  { "no-scales", "is missing", SVDQ_NUNCHAKU, SVDQ_INT4, no_scales },
  { "stray", "belongs to a quantised linear", SVDQ_CANONICAL, SVDQ_INT4, stray_tensor },
  { "short-factor", "wrong type or shape", SVDQ_CANONICAL, SVDQ_INT4, short_factor },
  { "outer-of-int4", "INT4 has none of", SVDQ_CANONICAL, SVDQ_INT4, outer_of_int4 },
  { "odd-rows", "multiples of 64", SVDQ_CANONICAL, SVDQ_INT4, odd_rows },
};

static void
test_damaged (gconstpointer data)
{
  const Damaged *d = data;
  g_autoptr (SvdqSample) sample = svdq_sample_new (d->format, 256, 128, 32);
  g_autofree char *path = svdq_sample_write (sample, d->kind, d->damage);
  g_autoptr (Safetensors) file = NULL;
  g_autoptr (SvdqReader) reader = NULL;
  g_autoptr (GError) error = NULL;
  const SvdqSource *s;

  file = safetensors_open (path, &error);
  g_assert_no_error (error);
  if (svdq_reader_open (file, "", &reader, &error))
    g_assert_false (svdq_reader_get (reader, svdq_sample_base (d->kind), 256, 128, &s, &error));
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL);
  g_test_message ("%s", error->message);
  g_assert_nonnull (strstr (error->message, d->message));
  g_assert_nonnull (strstr (error->message, path));
  svdq_sample_remove (path);
}

typedef struct
{
  const char *name, *tensor, *message;
  DType dtype;
  const char *text; /* content of the tensor, or NULL for zeros */
} LookAlike;

static const LookAlike look_alikes[] = {
  { "modelopt", "layers.0.attention.to_q.svdquant_lora_a", "ModelOpt", DTYPE_BF16, NULL },
  { "nvfp4", "layers.0.attention.to_q.weight_scale_2", "NVFP4 weights without", DTYPE_F32, NULL },
  { "convrot", "layers.0.convrot.to_q.weight", "convrot", DTYPE_I8, NULL },
  { "awq", "layers.0.adaLN_modulation.0.qweight", "AWQ", DTYPE_I32, NULL },
  { "kitchen-other", "layers.0.attention.to_q.comfy_quant", "\"svdquant_w3a3\"", DTYPE_U8,
    "{\"format\":\"svdquant_w3a3\"}" },
  { "kitchen-tiles", "layers.0.attention.to_q.comfy_quant", "tile-packed", DTYPE_U8,
    "{\"format\":\"svdquant_w4a4\",\"layout\":\"kitchen_tile_packed_w4a4\"}" },
  { "kitchen-unreadable", "layers.0.attention.to_q.comfy_quant", "JSON", DTYPE_U8, "{\"format\"" },
};

static void
test_look_alike (gconstpointer data)
{
  const LookAlike *l = data;
  g_autoptr (SafetensorsWriter) writer = safetensors_writer_new ();
  g_autofree char *path = svdq_sample_path ();
  g_autoptr (Safetensors) file = NULL;
  g_autoptr (SvdqReader) reader = NULL;
  g_autoptr (GError) error = NULL;
  guint8 zeros[256] = { 0 };
  int64_t count = l->text != NULL ? (int64_t)strlen (l->text) : 8;

  safetensors_writer_add (writer, l->tensor, l->dtype, 1, &count,
                          l->text != NULL ? (const void *)l->text : zeros);
  g_assert_true (safetensors_writer_write (writer, path, &error));
  file = safetensors_open (path, &error);
  g_assert_no_error (error);
  g_assert_false (svdq_reader_open (file, "", &reader, &error));
  g_assert_null (reader);
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL);
  g_assert_nonnull (strstr (error->message, l->message));
  svdq_sample_remove (path);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_data_func ("/svdq-read/golden/int4", "int4", test_golden_linears);
  g_test_add_data_func ("/svdq-read/golden/fp4", "fp4", test_golden_linears);
  g_test_add_data_func ("/svdq-read/gate/nunchaku", GINT_TO_POINTER (SVDQ_NUNCHAKU),
                        test_gate_order);
  g_test_add_data_func ("/svdq-read/gate/canonical", GINT_TO_POINTER (SVDQ_CANONICAL),
                        test_gate_order);
  for (guint i = 0; i < G_N_ELEMENTS (variants); i++)
    {
      g_autofree char *path
          = g_strdup_printf ("/svdq-read/variant/%s/%s", svdq_kind_name (variants[i].written),
                             variants[i].format == SVDQ_INT4 ? "int4" : "nvfp4");

      g_test_add_data_func (path, &variants[i], test_variant);
    }
  g_test_add_func ("/svdq-read/outer-types", test_outer_types);
  for (guint i = 0; i < G_N_ELEMENTS (damaged); i++)
    {
      g_autofree char *path = g_strconcat ("/svdq-read/damaged/", damaged[i].name, NULL);

      g_test_add_data_func (path, &damaged[i], test_damaged);
    }
  for (guint i = 0; i < G_N_ELEMENTS (look_alikes); i++)
    {
      g_autofree char *path = g_strconcat ("/svdq-read/look-alike/", look_alikes[i].name, NULL);

      g_test_add_data_func (path, &look_alikes[i], test_look_alike);
    }
  return g_test_run ();
}
