/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests: what is refused, and that they survive JSON, A1111 text and PNG files.
 */
#include "engine/engine.h"

#include <glib/gstdio.h>
#include <math.h>
#include <string.h>

static EngineRequest
sample (void)
{
  EngineRequest r = ENGINE_REQUEST_INIT;

  r.prompt = "a \"red\" fox, Steps: 3\nin the snow, 雪";
  r.negative = "blurry";
  r.precision = ENGINE_PRECISION_SVDQUANT;
  r.width = 640;
  r.height = 1024;
  r.steps = 20;
  r.seed = G_MAXUINT64 - 1;
  r.noise = ENGINE_NOISE_TORCH_CUDA;
  r.guidance = 3.5;
  r.cfg_normalization = 1.0;
  r.cfg_truncation = 0.75;
  return r;
}

static void
assert_refused (EngineRequest r, const char *word)
{
  g_autoptr (GError) error = NULL;

  g_assert_false (engine_request_validate (&r, &error));
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST);
  g_assert_nonnull (strstr (error->message, word));
}

#define REFUSE(member, value, word)                                                                \
  G_STMT_START                                                                                     \
  {                                                                                                \
    EngineRequest request = sample ();                                                             \
    request.member = value;                                                                        \
    assert_refused (request, word);                                                                \
  }                                                                                                \
  G_STMT_END

static void
test_validate (void)
{
  EngineRequest r = sample ();
  g_autofree char *long_text = g_strnfill ((1 << 20) + 1, 'x');

  g_assert_true (engine_request_validate (&r, NULL));
  REFUSE (prompt, NULL, "prompt");
  REFUSE (prompt, long_text, "1 MiB");
  REFUSE (prompt, "\xff\xfe", "UTF-8");
  REFUSE (width, 48, "width");
  REFUSE (width, 1000, "multiple of 16");
  REFUSE (height, 4096, "height");
  REFUSE (height, -64, "height");
  REFUSE (steps, 0, "steps");
  REFUSE (steps, 101, "steps");
  REFUSE (guidance, NAN, "guidance");
  REFUSE (guidance, -1, "guidance");
  REFUSE (cfg_truncation, 1.5, "truncation");
}

static void
assert_same (const EngineRequest *a, const EngineRequest *b)
{
  const char *what = NULL;

  if (!engine_request_comparable (a, b, &what))
    g_error ("the requests differ in %s", what);
}

static void
test_json (void)
{
  EngineRequest r = sample ();
  g_autofree char *json = engine_request_to_json (&r);
  g_autoptr (GError) error = NULL;
  g_autoptr (EngineRequest) back = engine_request_from_json (json, strlen (json), &error);

  g_assert_no_error (error);
  assert_same (&r, back);
  g_assert_cmpint (back->precision, ==, r.precision);
  g_assert_cmpuint (back->seed, ==, r.seed);
  g_assert_cmpstr (back->negative, ==, r.negative);
}

static void
test_json_hostile (void)
{
  static const char *const texts[] = { "",
                                       "[]",
                                       "null",
                                       "{",
                                       "{\"width\": \"640\"}",
                                       "{\"width\": 1e300}",
                                       "{\"steps\": 2.5}",
                                       "{\"seed\": -1}",
                                       "{\"seed\": \"18446744073709551616\"}",
                                       "{\"prompt\": 7}",
                                       "{\"noise\": \"white\"}",
                                       "{\"precision\": 4}",
                                       "{\"height\": 65}" };
  g_autofree char *deep = g_strnfill (100000, '[');

  for (guint i = 0; i < G_N_ELEMENTS (texts); i++)
    {
      g_autoptr (GError) error = NULL;

      g_assert_null (engine_request_from_json (texts[i], strlen (texts[i]), &error));
      g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST);
    }
  g_assert_null (engine_request_from_json (deep, strlen (deep), NULL));
}

static void
test_a1111 (void)
{
  EngineRequest r = sample ();
  g_autofree char *text = engine_request_to_a1111 (&r, "z_image_turbo");
  g_autofree char *ignored = NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (EngineRequest) back = NULL;

  r.cfg_normalization = 0.0; /* the format has no word for these */
  r.cfg_truncation = 1.0;
  back = engine_request_from_a1111 (text, strlen (text), &ignored, &error);
  g_assert_no_error (error);
  assert_same (&r, back);
  g_assert_cmpstr (ignored, ==, "Model: z_image_turbo\n");
}

static void
test_a1111_foreign (void)
{
  static const char text[] = "masterpiece\nSteps: the first line\nNegative prompt: bad\n"
                             "Steps: 28, Sampler: DPM++ 2M, CFG scale: 7, Seed: 99, Size: 512x768, "
                             "Lora hashes: \"a: 1, b: 2\", RNG: CPU, Clip skip: 2";
  g_autofree char *ignored = NULL;
  g_autoptr (EngineRequest) r = engine_request_from_a1111 (text, strlen (text), &ignored, NULL);

  g_assert_nonnull (r);
  g_assert_cmpstr (r->prompt, ==, "masterpiece\nSteps: the first line");
  g_assert_cmpstr (r->negative, ==, "bad");
  g_assert_cmpint (r->steps, ==, 28);
  g_assert_cmpfloat (r->guidance, ==, 6.0);
  g_assert_cmpuint (r->seed, ==, 99);
  g_assert_cmpint (r->width, ==, 512);
  g_assert_cmpint (r->height, ==, 768);
  g_assert_cmpint (r->noise, ==, ENGINE_NOISE_TORCH_CPU);
  g_assert_cmpstr (ignored, ==, "Sampler: DPM++ 2M\nLora hashes: a: 1, b: 2\nClip skip: 2\n");
  g_assert_null (engine_request_from_a1111 ("no settings", 11, NULL, NULL));
}

/* -- PNG ----------------------------------------------------------------------------------------
 */

static Image *
test_image (int width, int height)
{
  gsize n = 3 * (gsize)width * (gsize)height;
  guint8 *pixels = g_new (guint8, n);
  g_autoptr (GBytes) bytes = g_bytes_new_take (pixels, n);

  for (gsize i = 0; i < n; i++)
    pixels[i] = (guint8)(i * i * 31 + i * 7);
  return image_new (width, height, bytes);
}

static void
test_png (void)
{
  g_autofree char *dir = g_dir_make_tmp ("tessera-png-XXXXXX", NULL);
  g_autofree char *path = g_build_filename (dir, "picture.png", NULL);
  g_autoptr (Image) image = test_image (67, 41);
  g_autoptr (Image) back = NULL;
  g_autoptr (GError) error = NULL;
  g_auto (ImageInfo) info = { 0 };
  EngineRequest r = sample ();
  g_autofree char *details = engine_request_to_json (&r);
  ImageInfo written = { .request = &r, .details = details };
  g_autoptr (GDir) listing = NULL;

  g_assert_true (image_save_png (image, path, &written, &error));
  g_assert_no_error (error);
  back = image_load_png (path, &info, &error);
  g_assert_no_error (error);
  g_assert_true (g_bytes_equal (image_get_bytes (image), image_get_bytes (back)));
  g_assert_cmpint (image_get_width (back), ==, 67);
  assert_same (&r, info.request);
  g_assert_cmpstr (info.details, ==, details);

  listing = g_dir_open (dir, 0, NULL);
  g_assert_cmpstr (g_dir_read_name (listing), ==, "picture.png");
  g_assert_null (g_dir_read_name (listing)); /* no temporary file is left */
  g_unlink (path);
  g_rmdir (dir);
}

static void
test_png_errors (void)
{
  g_autoptr (Image) image = test_image (16, 16);
  g_autoptr (GError) error = NULL;
  g_autofree char *dir = g_dir_make_tmp ("tessera-png-XXXXXX", NULL);
  g_autofree char *path = g_build_filename (dir, "damaged.png", NULL);
  g_autofree char *contents = NULL;
  gsize length;

  g_assert_false (image_save_png (image, "/nowhere/at/all.png", NULL, &error));
  g_assert_nonnull (strstr (error->message, "/nowhere/at/all.png"));
  g_clear_error (&error);
  g_assert_null (image_load_png ("/nowhere.png", NULL, &error));
  g_clear_error (&error);

  /* Cut anywhere, or with any byte of the header wrong, it is an error or a picture, no crash. */
  g_assert_true (image_save_png (image, path, NULL, NULL));
  g_assert_true (g_file_get_contents (path, &contents, &length, NULL));
  for (gsize cut = 0; cut < length; cut += 13)
    {
      g_assert_true (g_file_set_contents (path, contents, (gssize)cut, NULL));
      g_assert_null (image_load_png (path, NULL, &error));
      g_assert_nonnull (strstr (error->message, path));
      g_clear_error (&error);
    }
  for (gsize i = 0; i < 60; i++)
    {
      g_autoptr (Image) survivor = NULL;

      contents[i] ^= 0x55;
      g_assert_true (g_file_set_contents (path, contents, (gssize)length, NULL));
      survivor = image_load_png (path, NULL, NULL);
      contents[i] ^= 0x55;
    }
  g_unlink (path);
  g_rmdir (dir);
}

static void
test_comparable (void)
{
  EngineRequest a = sample (), b = sample ();
  const char *what = NULL;

  b.precision = ENGINE_PRECISION_BF16;
  g_assert_true (engine_request_comparable (&a, &b, &what));
  b.seed = 1;
  g_assert_false (engine_request_comparable (&a, &b, &what));
  g_assert_cmpstr (what, ==, "seed");
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/request/validate", test_validate);
  g_test_add_func ("/request/json", test_json);
  g_test_add_func ("/request/json-hostile", test_json_hostile);
  g_test_add_func ("/request/a1111", test_a1111);
  g_test_add_func ("/request/a1111-foreign", test_a1111_foreign);
  g_test_add_func ("/request/comparable", test_comparable);
  g_test_add_func ("/png/round-trip", test_png);
  g_test_add_func ("/png/errors", test_png_errors);
  return g_test_run ();
}
