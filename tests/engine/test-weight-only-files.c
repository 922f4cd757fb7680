/* SPDX-License-Identifier: Apache-2.0
 *
 * Text encoders in 8 and 4 bit that are not what they should be: each is refused with a message
 * that names the file and what is wrong with it.
 */
#include "engine/checkpoint/checkpoint.h"
#include "engine/engine.h"
#include "engine/weight-only/file.h"
#include "engine/weight-only/quantize-encoder.h"
#include "kernels/weight-codes.h"

#include <glib/gstdio.h>
#include <string.h>

#define LINEAR "model.layers.1.mlp.down_proj"

/* The folder of the test's files, and in it a good one. */
typedef struct
{
  char *model, *dir, *good, *bad; /* owned */
  Safetensors *file;              /* owned; the good one */
} Fixture;

static void
set_up (Fixture *f, gconstpointer data)
{
  QuantizeEncoderJob job = { .bits = GPOINTER_TO_INT (data) };
  g_autoptr (GError) error = NULL;

  f->model = g_build_filename (g_getenv ("TESSERA_TEST_DATA"), "tiny-zimage", NULL);
  f->dir = g_dir_make_tmp ("weight-only-XXXXXX", NULL);
  f->good = g_build_filename (f->dir, "good.safetensors", NULL);
  f->bad = g_build_filename (f->dir, "bad.safetensors", NULL);
  job.model = f->model;
  job.out = f->good;
  quantize_encoder (&job, NULL, NULL, NULL, &error);
  g_assert_no_error (error);
  f->file = safetensors_open (f->good, &error);
  g_assert_no_error (error);
}

static void
tear_down (Fixture *f, gconstpointer data)
{
  g_autoptr (GDir) dir = g_dir_open (f->dir, 0, NULL);
  const char *name;

  while ((name = g_dir_read_name (dir)) != NULL)
    {
      g_autofree char *path = g_build_filename (f->dir, name, NULL);

      g_unlink (path);
    }
  g_rmdir (f->dir);
  safetensors_free (f->file);
  g_free (f->model);
  g_free (f->dir);
  g_free (f->good);
  g_free (f->bad);
}

/* How a copy of the good file differs from it. */
typedef struct
{
  const char *metadata; /* NULL: none; "": as it was */
  const char *name;     /* the tensor that differs; NULL: none */
  gboolean leave_out;
  DType dtype; /* its new type, shape and values */
  int rank;
  int64_t shape[2];
  guint8 byte;
} Change;

static void
write_changed (Fixture *f, const Change *change)
{
  g_autoptr (SafetensorsWriter) writer = safetensors_writer_new ();
  g_autofree guint8 *memory = NULL;
  g_autoptr (GError) error = NULL;

  for (guint i = 0; i < safetensors_count (f->file); i++)
    {
      const char *name = safetensors_name (f->file, i);
      Tensor t;

      g_assert_true (safetensors_find (f->file, name, &t));
      if (g_strcmp0 (name, change->name) != 0)
        safetensors_writer_add (writer, name, t.dtype, t.rank, t.shape, t.data);
    }
  if (change->name != NULL && !change->leave_out)
    {
      gsize bytes = (gsize)(change->shape[0] * change->shape[1]) * dtype_size (change->dtype);

      memory = g_malloc (bytes + 1); /* of tensors without numbers, too */
      memset (memory, change->byte, bytes);
      safetensors_writer_add (writer, change->name, change->dtype, change->rank, change->shape,
                              memory);
    }
  if (change->metadata != NULL)
    safetensors_writer_metadata (writer, WEIGHT_ONLY_KEY,
                                 *change->metadata != '\0'
                                     ? change->metadata
                                     : safetensors_metadata (f->file, WEIGHT_ONLY_KEY));
  safetensors_writer_write (writer, f->bad, &error);
  g_assert_no_error (error);
}

/* The changed file is refused when it is opened, or when its weights are taken, with a message that
 * has `says` in it. */
static void
assert_refused (Fixture *f, const Change *change, const char *says)
{
  const EngineOptions options = { .device = "cpu", .text_encoder_file = f->bad };
  EngineRequest r = ENGINE_REQUEST_INIT;
  g_autoptr (GError) error = NULL;
  g_autoptr (Engine) engine = NULL;
  g_autoptr (Image) image = NULL;

  write_changed (f, change);
  engine = engine_new (f->model, &options, &error);
  r.prompt = "a red circle";
  r.width = r.height = 64;
  r.steps = 1;
  if (engine != NULL)
    image = engine_generate (engine, &r, NULL, NULL, NULL, &error);
  g_assert_null (image);
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL);
  g_test_message ("%s", error->message);
  g_assert_nonnull (strstr (error->message, "bad.safetensors"));
  g_assert_nonnull (strstr (error->message, says));
}

static void
test_description (Fixture *f, gconstpointer data)
{
  static const struct
  {
    const char *text, *says;
  } cases[] = {
    { NULL, "nothing says" },
    { "{", "JSON" },
    { "[]", "version" },
    { "{\"version\":2,\"bits\":8,\"group\":64}", "version 2" },
    { "{\"version\":1,\"bits\":5,\"group\":64}", "5 bit" },
    { "{\"version\":1,\"bits\":8,\"group\":32}", "groups of 32" },
    { "{\"version\":1,\"bits\":8.5,\"group\":64}", "bits" },
    { "{\"version\":1,\"bits\":-8,\"group\":64}", "bits" },
    { "{\"version\":1,\"bits\":8,\"group\":99999999999}", "group" },
    { "{\"version\":1,\"group\":64}", "bits" },
  };
  g_autofree char *other
      = g_strdup_printf ("{\"version\":1,\"bits\":%d,\"group\":64}", 12 - GPOINTER_TO_INT (data));
  g_autofree char *long_text = g_strnfill (100000, ' ');

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    assert_refused (f, &(Change){ .metadata = cases[i].text }, cases[i].says);
  assert_refused (f, &(Change){ .metadata = other }, "_proj.codes");
  assert_refused (f, &(Change){ .metadata = long_text }, "too long");
}

static void
test_tensors (Fixture *f, gconstpointer data)
{
  const int bits = GPOINTER_TO_INT (data);
  const DType codes = bits == 8 ? DTYPE_I8 : DTYPE_U8;
  const int64_t n = 128, k = 320, width = k * bits / 8, groups = k / CODES_GROUP;
  const char *c = LINEAR ".codes", *s = LINEAR ".scales";
  const struct
  {
    Change change;
    const char *says;
  } cases[] = {
    { { "", c, .leave_out = TRUE }, LINEAR },
    { { "", s, .leave_out = TRUE }, LINEAR ".scales is missing" },
    { { "", c, FALSE, codes, 2, { n, width / 2 }, 1 }, LINEAR ".codes is not" },
    { { "", c, FALSE, codes, 2, { n - 1, width }, 1 }, LINEAR ".codes is not" },
    { { "", c, FALSE, codes, 2, { n, 0 }, 1 }, LINEAR ".codes is not" },
    { { "", c, FALSE, codes, 1, { n * width, 1 }, 1 }, LINEAR ".codes is not" },
    { { "", c, FALSE, DTYPE_F16, 2, { n, width }, 1 }, LINEAR ".codes is not" },
    { { "", s, FALSE, DTYPE_BF16, 2, { groups, n }, 1 }, LINEAR ".scales is not" },
    { { "", s, FALSE, DTYPE_F16, 2, { n, groups }, 1 }, LINEAR ".scales is not" },
    { { "", s, FALSE, DTYPE_BF16, 2, { n, groups }, 0xff }, "not finite" },
    { { "", "model.layers.0.input_layernorm.weight", .leave_out = TRUE }, "input_layernorm" },
    { { "", "model.layers.9.mlp.up_proj.codes", FALSE, codes, 2, { 2, 64 }, 1 }, "no use for" },
    { { "", "model.layers.0.input_layernorm.codes", FALSE, codes, 2, { 2, 64 }, 1 },
      "not a linear" },
    { { "", LINEAR ".weight", FALSE, DTYPE_BF16, 2, { n, k }, 1 }, "no use for" },
  };

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    assert_refused (f, &cases[i].change, cases[i].says);
}

/* One of q, k and v in 16 bit: they are one layer. */
static void
test_mixed (Fixture *f, gconstpointer data)
{
  g_autoptr (SafetensorsWriter) writer = safetensors_writer_new ();
  const EngineOptions options = { .device = "cpu", .text_encoder_file = f->bad };
  const int64_t shape[] = { 64, 128 };
  static guint16 zeros[64 * 128];
  g_autoptr (GError) error = NULL;
  g_autoptr (Engine) engine = NULL;
  EngineRequest r = ENGINE_REQUEST_INIT;

  for (guint i = 0; i < safetensors_count (f->file); i++)
    {
      const char *name = safetensors_name (f->file, i);
      Tensor t;

      g_assert_true (safetensors_find (f->file, name, &t));
      if (!g_str_has_prefix (name, "model.layers.0.self_attn.k_proj."))
        safetensors_writer_add (writer, name, t.dtype, t.rank, t.shape, t.data);
    }
  safetensors_writer_add (writer, "model.layers.0.self_attn.k_proj.weight", DTYPE_BF16, 2, shape,
                          zeros);
  safetensors_writer_metadata (writer, WEIGHT_ONLY_KEY,
                               safetensors_metadata (f->file, WEIGHT_ONLY_KEY));
  g_assert_true (safetensors_writer_write (writer, f->bad, &error));
  engine = engine_new (f->model, &options, &error);
  g_assert_no_error (error);
  r.prompt = "x";
  r.width = r.height = 64;
  r.steps = 1;
  g_assert_null (engine_generate (engine, &r, NULL, NULL, NULL, &error));
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL);
  g_assert_nonnull (strstr (error->message, "k_proj"));
}

/* Files that are something else. */
static void
test_other (Fixture *f, gconstpointer data)
{
  static const char *const others[]
      = { "transformer/diffusion_pytorch_model.safetensors",
          "vae/diffusion_pytorch_model.safetensors", "text_encoder/config.json", "nothing.here" };
  g_autofree char *dense = g_build_filename (f->model, "text_encoder", "model.safetensors", NULL);
  EngineOptions options = { .device = "cpu", .text_encoder_file = dense };
  g_autoptr (GError) error = NULL;
  g_autoptr (Engine) engine = engine_new (f->model, &options, &error);

  g_assert_no_error (error);
  g_assert_cmpint (engine_get_text_encoder_bits (engine), ==, 16);
  g_assert_cmpint (engine_find_text_encoder_bits (dense, &error), ==, 16);
  for (guint i = 0; i < G_N_ELEMENTS (others); i++)
    {
      g_autofree char *path = g_build_filename (f->model, others[i], NULL);

      options.text_encoder_file = path;
      g_assert_null (engine_new (f->model, &options, NULL));
      g_assert_cmpint (engine_find_text_encoder_bits (path, &error), ==, 0);
      g_assert_nonnull (error);
      g_clear_error (&error);
    }
}

int
main (int argc, char **argv)
{
  static const struct
  {
    const char *name;
    void (*run) (Fixture *f, gconstpointer data);
  } tests[] = { { "description", test_description },
                { "tensors", test_tensors },
                { "mixed", test_mixed },
                { "other", test_other } };

  g_test_init (&argc, &argv, NULL);
  for (guint i = 0; i < G_N_ELEMENTS (tests); i++)
    for (int bits = 8; bits >= 4; bits -= 4)
      {
        g_autofree char *path = g_strdup_printf ("/weight-only-files/%s/%d", tests[i].name, bits);

        g_test_add (path, Fixture, GINT_TO_POINTER (bits), set_up, tests[i].run, tear_down);
      }
  return g_test_run ();
}
