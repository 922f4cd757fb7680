/* SPDX-License-Identifier: Apache-2.0
 *
 * PNG files: ours, with the request inside, those of other programs in every kind there is, and
 * damaged ones.
 */
#include "engine/engine.h"

#include <glib/gstdio.h>
#include <png.h>
#include <string.h>

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

/* The types of the chunks of a file, one behind another (transfer full). */
static char *
list_chunks (const char *path)
{
  g_autoptr (GString) types = g_string_new (NULL);
  g_autofree char *contents = NULL;
  gsize length, at = 8;

  g_assert_true (g_file_get_contents (path, &contents, &length, NULL));
  while (at < length)
    {
      const guint8 *size = (const guint8 *)contents + at;

      g_string_append_printf (types, "%.4s ", contents + at + 4);
      at += 12u + ((gsize)size[0] << 24 | (gsize)size[1] << 16 | (gsize)size[2] << 8 | size[3]);
    }
  return g_strdup (types->str);
}

/* Text beyond ASCII goes into iTXt, which is UTF-8 to every reader. */
static void
test_round_trip (void)
{
  static const struct
  {
    const char *prompt, *chunk;
  } cases[] = { { "a red fox", "tEXt tEXt tEXt IDAT" }, { "雪, \"fox\"", "iTXt iTXt tEXt IDAT" } };
  g_autofree char *dir = g_dir_make_tmp ("tessera-png-XXXXXX", NULL);
  g_autofree char *path = g_build_filename (dir, "picture.png", NULL);
  g_autoptr (Image) image = test_image (67, 41);
  g_autoptr (GDir) listing = NULL;

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      EngineRequest r = ENGINE_REQUEST_INIT;
      g_autoptr (GError) error = NULL;
      g_autoptr (Image) back = NULL;
      g_autofree char *details = NULL, *chunks = NULL;
      g_auto (ImageInfo) info = { 0 };
      ImageInfo written = { .request = &r };

      r.prompt = cases[i].prompt;
      r.seed = G_MAXUINT64 - 1;
      written.details = details = engine_request_to_json (&r);
      g_assert_true (image_save_png (image, path, &written, &error));
      g_assert_no_error (error);
      back = image_load_png (path, &info, &error);
      g_assert_no_error (error);
      g_assert_true (g_bytes_equal (image_get_bytes (image), image_get_bytes (back)));
      g_assert_cmpint (image_get_width (back), ==, 67);
      g_assert_cmpint (image_get_height (back), ==, 41);
      g_assert_true (engine_request_comparable (&r, info.request, NULL));
      g_assert_cmpstr (info.details, ==, details);
      chunks = list_chunks (path);
      g_assert_nonnull (strstr (chunks, cases[i].chunk));
    }
  listing = g_dir_open (dir, 0, NULL);
  g_assert_cmpstr (g_dir_read_name (listing), ==, "picture.png");
  g_assert_null (g_dir_read_name (listing)); /* no temporary file is left */
  g_unlink (path);
  g_rmdir (dir);
}

/* -- of other programs --------------------------------------------------------------------------
 */

typedef struct
{
  const char *name;
  int type, depth, interlace, channels;
} Kind;

static const Kind kinds[] = {
  { "gray-1", PNG_COLOR_TYPE_GRAY, 1, PNG_INTERLACE_NONE, 1 },
  { "gray-8", PNG_COLOR_TYPE_GRAY, 8, PNG_INTERLACE_NONE, 1 },
  { "gray-16", PNG_COLOR_TYPE_GRAY, 16, PNG_INTERLACE_NONE, 1 },
  { "gray-alpha", PNG_COLOR_TYPE_GRAY_ALPHA, 8, PNG_INTERLACE_NONE, 2 },
  { "palette", PNG_COLOR_TYPE_PALETTE, 8, PNG_INTERLACE_NONE, 1 },
  { "rgb", PNG_COLOR_TYPE_RGB, 8, PNG_INTERLACE_NONE, 3 },
  { "rgb-interlaced", PNG_COLOR_TYPE_RGB, 8, PNG_INTERLACE_ADAM7, 3 },
  { "rgb-16", PNG_COLOR_TYPE_RGB, 16, PNG_INTERLACE_NONE, 3 },
  { "rgba-interlaced-16", PNG_COLOR_TYPE_RGB_ALPHA, 16, PNG_INTERLACE_ADAM7, 4 },
};

/* The sample of a channel, so that no two neighbours are equal. */
static guint8
sample_of (const Kind *kind, int x, int y, int channel)
{
  guint8 value = (guint8)(37 * x + 91 * y + 53 * channel + 11);

  return kind->depth == 1 ? value & 1 : value;
}

/* In the picture's own colours: what its sample of 8 bits is in RGB. */
static guint8
color_of (const Kind *kind, int x, int y, int channel)
{
  guint8 first = sample_of (kind, x, y, 0);

  if (kind->type == PNG_COLOR_TYPE_PALETTE)
    return (guint8)(first ^ (channel == 1 ? 0xff : channel == 2 ? 0x0f : 0));
  if (kind->depth == 1)
    return first * 255;
  return kind->channels < 3 ? first : sample_of (kind, x, y, channel);
}

static void
fill_row (const Kind *kind, int width, int y, guint8 *row)
{
  for (int x = 0; x < width; x++)
    for (int c = 0; c < kind->channels; c++)
      {
        guint8 value = sample_of (kind, x, y, c);

        if (kind->depth == 1)
          row[x / 8] = (guint8)((x % 8 == 0 ? 0 : row[x / 8]) | value << (7 - x % 8));
        else if (kind->depth == 8)
          row[x * kind->channels + c] = value;
        else
          row[2 * (x * kind->channels + c)] = row[2 * (x * kind->channels + c) + 1] = value;
      }
}

static void
write_foreign (const char *path, const Kind *kind, int width, int height, const char *key,
               const char *text)
{
  png_structp png = png_create_write_struct (PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
  png_infop info = png_create_info_struct (png);
  g_autofree guint8 *row = g_malloc0 ((gsize)width * 8);
  png_text chunk = { .compression = PNG_TEXT_COMPRESSION_NONE,
                     .key = (char *)key,
                     .text = (char *)text,
                     .text_length = text != NULL ? strlen (text) : 0 };
  png_color palette[256];
  FILE *file = g_fopen (path, "wb");

  g_assert_nonnull (file);
  if (setjmp (png_jmpbuf (png)))
    g_error ("%s cannot be written", path);
  png_init_io (png, file);
  png_set_IHDR (png, info, (guint)width, (guint)height, kind->depth, kind->type, kind->interlace,
                PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  for (int i = 0; i < 256; i++)
    palette[i] = (png_color){ (guint8)i, (guint8)(i ^ 0xff), (guint8)(i ^ 0x0f) };
  if (kind->type == PNG_COLOR_TYPE_PALETTE)
    png_set_PLTE (png, info, palette, 256);
  if (text != NULL)
    png_set_text (png, info, &chunk, 1);
  png_write_info (png, info);
  for (int pass = png_set_interlace_handling (png); pass > 0; pass--)
    for (int y = 0; y < height; y++)
      {
        fill_row (kind, width, y, row);
        png_write_row (png, row);
      }
  png_write_end (png, info);
  png_destroy_write_struct (&png, &info);
  fclose (file);
}

static char *
temporary_path (void)
{
  char *path = g_build_filename (g_get_tmp_dir (), "tessera-png-XXXXXX", NULL);

  g_close (g_mkstemp (path), NULL);
  return path;
}

/* Whatever it is, it becomes RGB of 8 bits; transparency is left out. */
static void
test_kind (gconstpointer data)
{
  const Kind *kind = data;
  const int width = 13, height = 11;
  g_autofree char *path = temporary_path ();
  g_autoptr (GError) error = NULL;
  g_autoptr (Image) image = NULL;
  const guint8 *pixels;

  write_foreign (path, kind, width, height, NULL, NULL);
  image = image_load_png (path, NULL, &error);
  g_assert_no_error (error);
  g_assert_cmpint (image_get_width (image), ==, width);
  g_assert_cmpint (image_get_height (image), ==, height);
  pixels = g_bytes_get_data (image_get_bytes (image), NULL);
  for (int y = 0; y < height; y++)
    for (int x = 0; x < width; x++)
      for (int c = 0; c < 3; c++, pixels++)
        g_assert_cmpint (*pixels, ==, color_of (kind, x, y, c));
  g_unlink (path);
}

/* tEXt is Latin-1 by the standard, and UTF-8 by many programs. */
static void
test_text (void)
{
  static const struct
  {
    const char *text, *prompt;
  } cases[] = { { "caf\xe9\nSteps: 8", "café" },
                { "caf\xc3\xa9\nSteps: 8", "café" },
                { "cafe\nSteps: 8", "cafe" } };
  g_autofree char *path = temporary_path ();

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_auto (ImageInfo) info = { 0 };
      g_autoptr (Image) image = NULL;

      write_foreign (path, &kinds[5], 4, 4, "parameters", cases[i].text);
      image = image_load_png (path, &info, NULL);
      g_assert_nonnull (image);
      g_assert_nonnull (info.request);
      g_assert_cmpstr (info.request->prompt, ==, cases[i].prompt);
      g_assert_nonnull (strstr (info.report, "Read from the \"parameters\" text."));
    }
  g_unlink (path);
}

/* What cannot be read is said, and what can be is read in its place. */
static void
test_unreadable (void)
{
  static const struct
  {
    const char *key, *text, *says;
  } cases[] = {
    { "parameters", "no settings", "The \"parameters\" text could not be read: " },
    { "prompt", "{}", "The ComfyUI graph could not be read: " },
    { "tessera", "{\"width\": 7}", "Tessera's own record is damaged: " },
  };
  g_autofree char *path = temporary_path ();

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_auto (ImageInfo) info = { 0 };
      g_autoptr (Image) image = NULL;

      write_foreign (path, &kinds[5], 4, 4, cases[i].key, cases[i].text);
      image = image_load_png (path, &info, NULL);
      g_assert_nonnull (image);
      g_assert_null (info.request);
      g_assert_true (g_str_has_prefix (info.report, cases[i].says));
    }
  g_unlink (path);
}

/* A picture wider than any use is not given memory. */
static void
test_large (void)
{
  const Kind *gray = &kinds[0];
  g_autofree char *path = temporary_path ();
  g_autoptr (Image) widest = NULL;
  g_autoptr (GError) error = NULL;

  write_foreign (path, gray, 16384, 1, NULL, NULL);
  widest = image_load_png (path, NULL, NULL);
  g_assert_nonnull (widest);
  write_foreign (path, gray, 16385, 1, NULL, NULL);
  g_assert_null (image_load_png (path, NULL, &error));
  g_assert_error (error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA);
  g_unlink (path);
}

/* -- damaged ones -------------------------------------------------------------------------------
 */

static void
test_errors (void)
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

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/png/round-trip", test_round_trip);
  for (guint i = 0; i < G_N_ELEMENTS (kinds); i++)
    {
      g_autofree char *name = g_strconcat ("/png/kinds/", kinds[i].name, NULL);

      g_test_add_data_func (name, &kinds[i], test_kind);
    }
  g_test_add_func ("/png/text", test_text);
  g_test_add_func ("/png/unreadable", test_unreadable);
  g_test_add_func ("/png/large", test_large);
  g_test_add_func ("/png/errors", test_errors);
  return g_test_run ();
}
