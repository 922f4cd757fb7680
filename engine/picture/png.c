/* SPDX-License-Identifier: Apache-2.0
 *
 * PNG in and out. libpng reports errors by longjmp; it stays in the two functions that call
 * setjmp, whose locals live in a struct so that nothing is clobbered.
 */
#include "engine/engine.h"
#include "engine/files/atomic-file.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <png.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEY_A1111    "parameters"
#define KEY_OURS     "tessera"
#define MAX_SIDE     16384
#define MAX_TEXT     (4 << 20) /* of one text chunk */
#define MAX_CHUNKS   256
#define MAX_TEXT_SUM (16u << 20)

typedef struct
{
  png_structp png;
  png_infop info;
  char *message;      /* (owned) what libpng said */
  FILE *input;        /* reading */
  AtomicFile *output; /* writing; borrowed, as `error` is */
  GError **error;
} Codec;

static void
on_error (png_structp png, png_const_charp message)
{
  Codec *codec = png_get_error_ptr (png);

  g_free (codec->message);
  codec->message = g_strdup (message);
  longjmp (png_jmpbuf (png), 1);
}

static void
on_warning (png_structp png, png_const_charp message)
{
}

/* -- writing ------------------------------------------------------------------------------------
 */

static void
add_text (Codec *codec, const char *key, char *value)
{
  gboolean latin = g_str_is_ascii (value);
  png_text text = {
    .compression = latin ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE,
    .key = (char *)key,
    .text = value,
    .text_length = latin ? strlen (value) : 0,
    .itxt_length = latin ? 0 : strlen (value),
  };

  png_set_text (codec->png, codec->info, &text, 1);
}

static void
on_write (png_structp png, png_bytep data, png_size_t length)
{
  Codec *codec = png_get_io_ptr (png);

  if (!atomic_file_write (codec->output, data, length, codec->error))
    longjmp (png_jmpbuf (png), 1);
}

static void
on_flush (png_structp png)
{
}

/* The image's rows and texts into codec->output. */
static gboolean
encode (Codec *codec, Image *image, char *a1111, char *ours)
{
  const guint8 *pixels = g_bytes_get_data (image_get_bytes (image), NULL);
  guint width = (guint)image_get_width (image), height = (guint)image_get_height (image);

  codec->png = png_create_write_struct (PNG_LIBPNG_VER_STRING, codec, on_error, on_warning);
  codec->info = codec->png ? png_create_info_struct (codec->png) : NULL;
  if (codec->info == NULL)
    return FALSE;
  if (setjmp (png_jmpbuf (codec->png)))
    return FALSE;

  png_set_write_fn (codec->png, codec, on_write, on_flush);
  png_set_compression_level (codec->png, 6);
  png_set_IHDR (codec->png, codec->info, width, height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_set_sRGB (codec->png, codec->info, PNG_sRGB_INTENT_PERCEPTUAL);
  if (a1111 != NULL)
    add_text (codec, KEY_A1111, a1111);
  if (ours != NULL)
    add_text (codec, KEY_OURS, ours);
  add_text (codec, "Software", (char *)"Tessera " TESSERA_VERSION);
  png_write_info (codec->png, codec->info);
  for (guint y = 0; y < height; y++)
    png_write_row (codec->png, pixels + (gsize)y * width * 3);
  png_write_end (codec->png, codec->info);
  return TRUE;
}

gboolean
image_save_png (Image *self, const char *path, const ImageInfo *info, GError **error)
{
  g_autoptr (GError) failure = NULL;
  g_autoptr (AtomicFile) output = atomic_file_new (path, error);
  g_autofree char *a1111 = NULL;
  Codec codec = { .output = output, .error = &failure };
  gboolean ok;

  if (output == NULL)
    return FALSE;
  if (info != NULL && info->request != NULL)
    a1111 = engine_request_to_a1111 (info->request, NULL);
  ok = encode (&codec, self, a1111, info != NULL ? info->details : NULL);
  png_destroy_write_struct (&codec.png, &codec.info);
  if (!ok && failure == NULL)
    g_set_error (&failure, G_FILE_ERROR, G_FILE_ERROR_FAILED, "cannot write %s: %s", path,
                 codec.message != NULL ? codec.message : "libpng has no memory");
  g_free (codec.message);
  if (failure != NULL)
    {
      g_propagate_error (error, g_steal_pointer (&failure));
      return FALSE;
    }
  return atomic_file_commit (output, error);
}

/* -- reading ------------------------------------------------------------------------------------
 */

typedef struct
{
  Codec codec;
  guint8 *pixels; /* (owned) */
  guint width, height;
  int passes; /* more than one for an interlaced file */
} Decoder;

/* Whatever the file holds becomes RGB8; returns how often the rows must be read. */
static int
set_transforms (png_structp png, png_infop info)
{
  int passes;

  png_set_expand (png);
  png_set_scale_16 (png);
  png_set_strip_alpha (png);
  png_set_gray_to_rgb (png);
  passes = png_set_interlace_handling (png);
  png_read_update_info (png, info);
  return passes;
}

/* FALSE if a chunk claims more bytes than the file has left: libpng takes memory for the claim
 * before it reads, and its own limit only warns. Leaves the file at its start. */
static gboolean
check_chunks (FILE *file)
{
  guint8 header[8]; /* length and type of a chunk; at first, the signature */
  gint64 length, at = sizeof header;

  if (fseek (file, 0, SEEK_END) != 0 || (length = ftell (file)) < 0)
    return FALSE;
  while (at + (gint64)sizeof header <= length)
    {
      if (fseek (file, (long)at, SEEK_SET) != 0
          || fread (header, 1, sizeof header, file) != sizeof header)
        return FALSE;
      at += 12 + ((gint64)header[0] << 24 | header[1] << 16 | header[2] << 8 | header[3]);
      if (at > length)
        return FALSE;
      if (memcmp (header + 4, "IEND", 4) == 0)
        break;
    }
  rewind (file);
  return TRUE;
}

static gboolean
decode (Decoder *self)
{
  Codec *codec = &self->codec;

  if (!check_chunks (codec->input))
    {
      codec->message = g_strdup ("it is truncated or damaged");
      return FALSE;
    }
  codec->png = png_create_read_struct (PNG_LIBPNG_VER_STRING, codec, on_error, on_warning);
  codec->info = codec->png ? png_create_info_struct (codec->png) : NULL;
  if (codec->info == NULL)
    return FALSE;
  if (setjmp (png_jmpbuf (codec->png)))
    return FALSE;

  png_set_user_limits (codec->png, MAX_SIDE, MAX_SIDE);
  png_set_chunk_cache_max (codec->png, MAX_CHUNKS);
  png_set_chunk_malloc_max (codec->png, MAX_TEXT);
  png_init_io (codec->png, codec->input);
  png_read_info (codec->png, codec->info);
  self->width = png_get_image_width (codec->png, codec->info);
  self->height = png_get_image_height (codec->png, codec->info);
  self->passes = set_transforms (codec->png, codec->info);
  if (png_get_rowbytes (codec->png, codec->info) != 3 * (gsize)self->width)
    png_error (codec->png, "unexpected row size");
  self->pixels = g_try_malloc0 (3 * (gsize)self->width * (gsize)self->height);
  if (self->pixels == NULL)
    png_error (codec->png, "not enough memory for the picture");
  for (int pass = 0; pass < self->passes; pass++)
    for (guint y = 0; y < self->height; y++)
      png_read_row (codec->png, self->pixels + 3 * (gsize)y * self->width, NULL);
  png_read_end (codec->png, codec->info);
  return TRUE;
}

/* The text of a chunk as UTF-8 (transfer full), or NULL: tEXt is Latin-1 by the standard, but
 * many programs write UTF-8 into it. */
static char *
find_text (const Decoder *self, const char *key)
{
  png_textp texts = NULL;
  int n = 0;
  gsize sum = 0;

  png_get_text (self->codec.png, self->codec.info, &texts, &n);
  for (int i = 0; i < n; i++)
    {
      gsize length = MAX (texts[i].text_length, texts[i].itxt_length);

      sum += length;
      if (sum > MAX_TEXT_SUM || texts[i].text == NULL)
        return NULL;
      if (g_strcmp0 (texts[i].key, key) != 0)
        continue;
      if (g_utf8_validate_len (texts[i].text, length, NULL))
        return g_strndup (texts[i].text, length);
      return g_convert (texts[i].text, (gssize)length, "UTF-8", "ISO-8859-1", NULL, NULL, NULL);
    }
  return NULL;
}

/* Whose chunks are read, the most telling first. */
static const struct
{
  const char *key, *name;
  EngineRequest *(*read) (const char *text, gsize length, char **ignored, GError **error);
} FOREIGN[] = {
  { KEY_A1111, "\"parameters\" text", engine_request_from_a1111 },
  { "prompt", "ComfyUI graph", engine_request_from_comfyui },
  { "workflow", "ComfyUI workflow", engine_request_from_comfyui },
};

/* Tries one foreign chunk, with a line or more in `report`; FALSE if there is none. */
static gboolean
read_foreign (const Decoder *self, guint which, ImageInfo *info, GString *report)
{
  g_autofree char *text = find_text (self, FOREIGN[which].key);
  g_autofree char *ignored = NULL;
  g_autoptr (GError) error = NULL;

  if (text == NULL)
    return FALSE;
  info->request = FOREIGN[which].read (text, strlen (text), &ignored, &error);
  if (info->request == NULL)
    g_string_append_printf (report, "The %s could not be read: %s\n", FOREIGN[which].name,
                            error->message);
  else
    g_string_append_printf (report, "Read from the %s.\n%s%s", FOREIGN[which].name,
                            *ignored ? "Not taken over:\n" : "", ignored);
  return TRUE;
}

static void
read_info (const Decoder *self, ImageInfo *info)
{
  g_autoptr (GString) report = g_string_new (NULL);
  g_autoptr (GError) error = NULL;

  info->details = find_text (self, KEY_OURS);
  if (info->details != NULL)
    {
      info->request = engine_request_from_json (info->details, strlen (info->details), &error);
      if (info->request != NULL)
        g_string_append (report, "Read from Tessera's own record.\n");
      else
        g_string_append_printf (report, "Tessera's own record is damaged: %s\n", error->message);
    }
  for (guint i = 0; i < G_N_ELEMENTS (FOREIGN) && info->request == NULL; i++)
    read_foreign (self, i, info, report);
  if (report->len > 0)
    info->report = g_strdup (report->str);
}

/* NULL with an error. A pipe is refused, not waited for. */
static FILE *
open_picture (const char *path, GError **error)
{
  int fd = g_open (path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0), code = errno;
  struct stat status;
  FILE *file;

  if (fd >= 0 && fstat (fd, &status) == 0 && S_ISREG (status.st_mode)
      && (file = fdopen (fd, "rb")) != NULL)
    return file;
  if (fd < 0)
    g_set_error (error, G_FILE_ERROR, (gint)g_file_error_from_errno (code), "cannot open %s: %s",
                 path, g_strerror (code));
  else
    {
      g_set_error (error, G_FILE_ERROR, G_FILE_ERROR_INVAL, "cannot open %s: not a regular file",
                   path);
      close (fd);
    }
  return NULL;
}

Image *
image_load_png (const char *path, ImageInfo *info, GError **error)
{
  Decoder decoder = { 0 };
  Image *image = NULL;

  if (info != NULL)
    *info = (ImageInfo){ 0 };
  decoder.codec.input = open_picture (path, error);
  if (decoder.codec.input == NULL)
    return NULL;
  if (decode (&decoder))
    {
      g_autoptr (GBytes) bytes = NULL;

      if (info != NULL)
        read_info (&decoder, info);
      bytes = g_bytes_new_take (g_steal_pointer (&decoder.pixels),
                                3 * (gsize)decoder.width * (gsize)decoder.height);
      image = image_new ((int)decoder.width, (int)decoder.height, bytes);
    }
  else
    g_set_error (error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "%s is not a readable PNG file: %s",
                 path, decoder.codec.message != NULL ? decoder.codec.message : "out of memory");
  png_destroy_read_struct (&decoder.codec.png, &decoder.codec.info, NULL);
  fclose (decoder.codec.input);
  g_free (decoder.codec.message);
  g_free (decoder.pixels);
  return image;
}
