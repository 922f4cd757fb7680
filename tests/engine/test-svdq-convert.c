/* SPDX-License-Identifier: Apache-2.0
 *
 * Conversion to the canonical format: a pure permutation, back to the same bytes, and the same
 * pictures.
 */
#include "engine/engine.h"
#include "engine/svdquant/convert.h"
#include "engine/svdquant/layout.h"
#include "tests/engine/svdq-files.h"
#include "tests/engine/svdq-rewrite.h"

#include <glib/gstdio.h>
#include <string.h>

/* -- back to the published packing ------------------------------------------------------------ */

static void
swap_to_published (Tensor *t, SvdqPart part, int64_t n)
{
  int64_t size = (int64_t)dtype_size (t->dtype);

  if (part == SVDQ_WSCALES)
    for (int64_t g = 0; g < t->shape[0]; g++)
      layout_swap_halves ((char *)t->data + g * n * size, n, size);
  else if (part != SVDQ_SMOOTH && part != SVDQ_PROJ_DOWN && part != SVDQ_WTSCALE)
    layout_swap_halves (t->data, n, (int64_t)tensor_bytes (t) / n);
}

static void
pack (const Tensor *t, SvdqPart part, SvdqLinearInfo info, void *out)
{
  if (part == SVDQ_QWEIGHT)
    layout_pack_qweight (t->data, out, info.n, info.k);
  else if (part == SVDQ_WSCALES && info.format == SVDQ_INT4)
    layout_pack_int4_scales (t->data, out, info.n, info.k);
  else if (part == SVDQ_WSCALES)
    layout_pack_nvfp4_scales (t->data, out, info.n, info.k);
  else if (part == SVDQ_PROJ_DOWN)
    layout_pack_down (t->data, out, info.k, info.rank);
  else if (part == SVDQ_PROJ_UP)
    layout_pack_up (t->data, out, info.n, info.rank);
  else if (part == SVDQ_WTSCALE)
    memcpy (out, t->data, 2);
  else
    layout_pack_vector (t->data, out, tensor_count (t));
}

/* Packs the canonical part as it was published and compares it with the original's bytes. */
static void
check_part (Safetensors *original, SvdqReader *reader, guint index, SvdqPart part)
{
  SvdqLinearInfo info = svdq_reader_info (reader, index);
  g_autoptr (GString) name = g_string_new (info.base);
  g_autofree void *plain = NULL, *packed = NULL;
  g_autoptr (GError) error = NULL;
  Tensor t, expected;

  g_string_replace (name, "feed_forward.w13", "feed_forward.net.0.proj", 1);
  g_string_replace (name, "feed_forward.w2", "feed_forward.net.2", 1);
  g_string_append_printf (name, ".%s", svdq_part_name (part));
  g_assert_true (svdq_reader_part (reader, index, part, &t, &error));
  g_assert_no_error (error);
  if (!safetensors_find (original, name->str, &expected))
    {
      /* The converter filled it in. */
      g_assert_cmpint (part, >=, SVDQ_WTSCALE);
      for (int64_t i = 0; i < tensor_count (&t); i++)
        g_assert_cmphex (((const uint16_t *)t.data)[i], ==, 0x3f80);
      return;
    }
  plain = g_memdup2 (t.data, tensor_bytes (&t));
  packed = g_malloc (tensor_bytes (&t));
  t.data = plain;
  if (g_str_has_suffix (info.base, ".w13"))
    swap_to_published (&t, part, info.n);
  pack (&t, part, info, packed);
  g_assert_cmpmem (packed, tensor_bytes (&t), expected.data, tensor_bytes (&expected));
}

static void
check_dense (Safetensors *original, Safetensors *converted, SvdqReader *original_reader)
{
  for (guint i = 0; i < safetensors_count (original); i++)
    {
      const char *name = safetensors_name (original, i);
      Tensor a, b;

      if (svdq_reader_base_of (original_reader, name) != NULL)
        continue;
      g_assert_true (safetensors_find (original, name, &a));
      g_assert_true (safetensors_find (converted, name, &b));
      g_assert_true (tensor_same_shape (&a, &b));
      g_assert_cmpmem (a.data, tensor_bytes (&a), b.data, tensor_bytes (&b));
    }
}

static char *
file_hash (const char *path)
{
  g_autofree char *data = NULL;
  gsize length;

  g_assert_true (g_file_get_contents (path, &data, &length, NULL));
  return g_compute_checksum_for_data (G_CHECKSUM_SHA256, (const guchar *)data, length);
}

static void
count_progress (double fraction, gpointer user_data)
{
  double *last = user_data;

  g_assert_cmpfloat (fraction, >=, *last);
  g_assert_cmpfloat (fraction, <=, 1.0);
  *last = fraction;
}

static void
test_round_trip (gconstpointer data)
{
  g_autofree char *in = svdq_fixture (data);
  g_autofree char *out = NULL, *hash = NULL;
  g_autoptr (Safetensors) original = NULL, converted = NULL;
  g_autoptr (SvdqReader) reader = NULL, original_reader = NULL;
  g_autoptr (GError) error = NULL;
  const char *description;
  double last = 0.0;

  if (in == NULL)
    return;
  out = svdq_sample_path ();
  g_assert_true (svdq_convert (in, out, count_progress, &last, NULL, &error));
  g_assert_no_error (error);
  g_assert_cmpfloat (last, >, 0.9);

  original = safetensors_open (in, &error);
  converted = safetensors_open (out, &error);
  g_assert_no_error (error);
  g_assert_true (svdq_reader_open (original, "", &original_reader, &error));
  g_assert_true (svdq_reader_open (converted, "", &reader, &error));
  g_assert_no_error (error);
  g_assert_cmpint (svdq_reader_kind (reader), ==, SVDQ_CANONICAL);
  g_assert_cmpuint (svdq_reader_count (reader), ==, 12);
  for (guint i = 0; i < svdq_reader_count (reader); i++)
    for (int part = 0;
         part < (svdq_reader_info (reader, i).format == SVDQ_INT4 ? SVDQ_WTSCALE : SVDQ_N_PARTS);
         part++)
      check_part (original, reader, i, (SvdqPart)part);
  check_dense (original, converted, original_reader);

  hash = file_hash (in);
  description = safetensors_metadata (converted, "svdq_canonical");
  g_assert_nonnull (strstr (description, hash));
  g_assert_nonnull (strstr (description, "\"gate_up\":\"w1,w3\""));
  g_assert_cmpstr (safetensors_metadata (converted, "config"), ==,
                   safetensors_metadata (original, "config"));
  svdq_sample_remove (out);
}

/* -- the same pictures ------------------------------------------------------------------------ */

static GBytes *
paint (const char *model, const char *file)
{
  EngineOptions options = { .device = "cpu", .transformer_file = file };
  EngineRequest request = ENGINE_REQUEST_INIT;
  g_autoptr (GError) error = NULL;
  g_autoptr (Engine) engine = engine_new (model, &options, &error);
  g_autoptr (Image) image = NULL;

  g_assert_no_error (error);
  request.prompt = "a lighthouse in fog";
  request.width = request.height = 64;
  request.steps = 2;
  request.seed = 5;
  request.guidance = 0;
  request.precision = ENGINE_PRECISION_SVDQUANT;
  image = engine_generate (engine, &request, NULL, NULL, NULL, &error);
  g_assert_no_error (error);
  return g_bytes_ref (image_get_bytes (image));
}

static void
test_same_picture (gconstpointer data)
{
  g_autofree char *in = svdq_fixture (data);
  g_autofree char *model = NULL, *out = NULL;
  g_autoptr (GBytes) before = NULL, after = NULL;
  g_autoptr (GError) error = NULL;

  if (in == NULL)
    return;
  model = g_path_get_dirname (in);
  out = svdq_sample_path ();
  g_assert_true (svdq_convert (in, out, NULL, NULL, NULL, &error));
  before = paint (model, in);
  after = paint (model, out);
  g_assert_true (g_bytes_equal (before, after));
  svdq_sample_remove (out);
}

/* -- separate linears ------------------------------------------------------------------------- */

/* With the factors of the whole, the parts make the same numbers. */
static void
test_separate_linears (gconstpointer data)
{
  g_autofree char *in = svdq_fixture (data);
  g_autofree char *model = NULL, *out = NULL;
  g_autoptr (GBytes) before = NULL, after = NULL;

  if (in == NULL)
    return;
  model = g_path_get_dirname (in);
  out = svdq_sample_path ();
  svdq_rewrite (&(SvdqRewrite){ .in = in, .kind = SVDQ_CANONICAL, .separate = TRUE }, out);
  before = paint (model, in);
  after = paint (model, out);
  g_assert_true (g_bytes_equal (before, after));
  svdq_sample_remove (out);
}

/* -- failures --------------------------------------------------------------------------------- */

static void
test_failures (void)
{
  g_autoptr (SvdqSample) sample = svdq_sample_new (SVDQ_INT4, 128, 128, 16);
  g_autofree char *in = NULL, *out = svdq_sample_path ();
  g_autoptr (GCancellable) cancelled = g_cancellable_new ();
  g_autoptr (GError) error = NULL;

  g_assert_false (svdq_convert ("/no/such/file.safetensors", out, NULL, NULL, NULL, &error));
  g_assert_nonnull (strstr (error->message, "/no/such/file.safetensors"));
  g_clear_error (&error);

  sample->smooth[3] = 0;
  in = svdq_sample_write (sample, SVDQ_NUNCHAKU, NULL);
  g_assert_true (g_file_set_contents (out, "before", -1, NULL));
  g_assert_false (svdq_convert (in, out, NULL, NULL, NULL, &error));
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL);
  g_clear_error (&error);
  g_cancellable_cancel (cancelled);
  g_assert_false (svdq_convert (in, out, NULL, NULL, cancelled, &error));
  g_assert_error (error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
  {
    g_autofree char *left = NULL;

    g_assert_true (g_file_get_contents (out, &left, NULL, NULL));
    g_assert_cmpstr (left, ==, "before");
  }
  svdq_sample_remove (in);
  svdq_sample_remove (out);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_data_func ("/svdq-convert/round-trip/int4", "int4", test_round_trip);
  g_test_add_data_func ("/svdq-convert/round-trip/fp4", "fp4", test_round_trip);
  g_test_add_data_func ("/svdq-convert/same-picture/int4", "int4", test_same_picture);
  g_test_add_data_func ("/svdq-convert/same-picture/fp4", "fp4", test_same_picture);
  g_test_add_data_func ("/svdq-convert/separate-linears/int4", "int4", test_separate_linears);
  g_test_add_data_func ("/svdq-convert/separate-linears/fp4", "fp4", test_separate_linears);
  g_test_add_func ("/svdq-convert/failures", test_failures);
  return g_test_run ();
}
