/* SPDX-License-Identifier: Apache-2.0 */
#include "harness.h"

#include <adwaita.h>
#include <glib/gstdio.h>
#include <stdlib.h>

#define TIME_LIMIT (120 * G_TIME_SPAN_SECOND)

static gboolean
wake_up (gpointer data)
{
  return G_SOURCE_CONTINUE;
}

Patience
patience_begin (void)
{
  return (Patience){ g_timeout_add (10, wake_up, NULL), g_get_monotonic_time () + TIME_LIMIT };
}

gboolean
patience_turn (Patience *self)
{
  g_main_context_iteration (NULL, TRUE);
  return g_get_monotonic_time () < self->end;
}

void
patience_end (Patience *self)
{
  g_source_remove (self->source);
}

char *
tiny_model (void)
{
  return g_build_filename (g_getenv ("TESSERA_TEST_DATA"), "tiny-zimage", NULL);
}

char *
model_of_both (void)
{
  g_autofree char *dir = g_build_filename (g_getenv ("TESSERA_FIXTURES"), "svdq-zimage", NULL);

  return g_file_test (dir, G_FILE_TEST_IS_DIR) ? g_steal_pointer (&dir) : NULL;
}

EngineRequest
small_request (void)
{
  EngineRequest request = ENGINE_REQUEST_INIT;

  request.prompt = "a red circle";
  request.width = request.height = 64;
  request.steps = 2;
  request.seed = 7;
  return request;
}

char *
make_folder (void)
{
  g_autoptr (GError) error = NULL;
  char *folder = g_dir_make_tmp ("tessera-test-XXXXXX", &error);

  g_assert_no_error (error);
  return folder;
}

void
remove_folder (const char *folder)
{
  g_autoptr (GDir) dir = g_dir_open (folder, 0, NULL);
  const char *name;

  while (dir != NULL && (name = g_dir_read_name (dir)) != NULL)
    {
      g_autofree char *path = g_build_filename (folder, name, NULL);

      if (g_file_test (path, G_FILE_TEST_IS_DIR) && !g_file_test (path, G_FILE_TEST_IS_SYMLINK))
        remove_folder (path);
      else
        g_unlink (path);
    }
  g_rmdir (folder);
}

/* -- Pictures -----------------------------------------------------------------------------------
 */

/* Sky, sun, two ranges of hills and water, in whole numbers only. */
static void
paint (int x, int y, int width, int height, int rgb[3])
{
  const int u = 1000 * x / width, v = 1000 * y / height;
  const int sun = (u - 640) * (u - 640) + (v - 380) * (v - 380);
  const int far = 560 - ABS ((u * 3) % 700 - 350) / 4,
            near = 640 - ABS ((u * 2 + 300) % 900 - 450) / 3;

  rgb[0] = 60 + v * 180 / 700;
  rgb[1] = 70 + v * 80 / 700;
  rgb[2] = 140 - v * 60 / 1000;
  if (sun < 10000)
    rgb[0] = 255, rgb[1] = 226, rgb[2] = 170;
  if (v > far)
    rgb[0] = 70, rgb[1] = 92 + (v - far) / 8, rgb[2] = 110;
  if (v > near)
    rgb[0] = 38, rgb[1] = 62 + (v - near) / 8, rgb[2] = 72;
  if (v > 760)
    rgb[0] = 40 + (1000 - v) / 2, rgb[1] = 60 + (1000 - v) / 4, rgb[2] = 96 + (u % 40) / 4;
}

TesseraPicture *
landscape (int width, int height, EnginePrecision precision, int error)
{
  guint8 *pixels = g_malloc (3 * (gsize)width * height);
  g_autoptr (GBytes) bytes = NULL;
  g_autoptr (Image) image = NULL;
  EngineRequest request = ENGINE_REQUEST_INIT;
  PictureFacts facts = {
    .kernels = "made up",
    .seconds = precision == ENGINE_PRECISION_SVDQUANT ? 4.1 : 9.4,
    .device = "A graphics card",
    .model = "Z-Image-Turbo",
    .pair = "20260101-120000-000",
  };

  for (int y = 0; y < height; y++)
    for (int x = 0; x < width; x++)
      {
        int rgb[3];

        paint (x, y, width, height, rgb);
        for (int c = 0; c < 3; c++)
          {
            const int bump = error > 0 ? (x / 8 + y / 8 * 3 + c) % (2 * error + 1) - error : 0;

            pixels[3 * ((gsize)y * width + x) + c] = CLAMP (rgb[c] + bump, 0, 255);
          }
      }
  bytes = g_bytes_new_take (pixels, 3 * (gsize)width * height);
  image = image_new (width, height, bytes);
  request.prompt = "Hills above a lake at sunset";
  request.precision = precision;
  request.width = width;
  request.height = height;
  request.seed = 42;
  return picture_new (image, &request, &facts);
}

/* -- Golden shots -------------------------------------------------------------------------------
 */

void
settle (GtkWidget *widget)
{
  for (int i = 0; i < 3; i++)
    {
      gtk_widget_queue_draw (widget);
      gtk_test_widget_wait_for_draw (widget);
      while (g_main_context_iteration (NULL, FALSE))
        ;
    }
}

Image *
render (GtkWidget *widget)
{
  g_autoptr (GdkPaintable) paintable = NULL;
  g_autoptr (GtkSnapshot) snapshot = gtk_snapshot_new ();
  g_autoptr (GskRenderNode) node = NULL;
  g_autoptr (GdkTexture) texture = NULL;
  g_autofree guint8 *bgra = NULL;
  g_autoptr (GBytes) bytes = NULL;
  guint8 *rgb;
  int width, height;

  settle (widget);
  paintable = gtk_widget_paintable_new (widget);
  width = gtk_widget_get_width (widget);
  height = gtk_widget_get_height (widget);
  gdk_paintable_snapshot (paintable, snapshot, width, height);
  node = gtk_snapshot_to_node (snapshot);
  g_assert_nonnull (node);
  texture = gsk_renderer_render_texture (gtk_native_get_renderer (gtk_widget_get_native (widget)),
                                         node, &GRAPHENE_RECT_INIT (0, 0, width, height));
  bgra = g_malloc (4 * (gsize)width * height);
  gdk_texture_download (texture, bgra, 4 * (gsize)width);
  rgb = g_malloc (3 * (gsize)width * height);
  for (gsize i = 0; i < (gsize)width * height; i++)
    for (int c = 0; c < 3; c++)
      rgb[3 * i + c] = bgra[4 * i + 2 - c];
  bytes = g_bytes_new_take (rgb, 3 * (gsize)width * height);
  return image_new (width, height, bytes);
}

/* The number of pixels that a person could tell apart. */
static gsize
count_different (Image *a, Image *b)
{
  const guint8 *p = g_bytes_get_data (image_get_bytes (a), NULL);
  const guint8 *q = g_bytes_get_data (image_get_bytes (b), NULL);
  const gsize n = (gsize)image_get_width (a) * image_get_height (a);
  gsize different = 0;

  for (gsize i = 0; i < n; i++)
    if (ABS (p[3 * i] - q[3 * i]) > 24 || ABS (p[3 * i + 1] - q[3 * i + 1]) > 24
        || ABS (p[3 * i + 2] - q[3 * i + 2]) > 24)
      different++;
  return different;
}

void
check_shot (GtkWidget *widget, const char *name)
{
  g_autofree char *file = g_strconcat (name, ".png", NULL);
  g_autofree char *actual_file = g_strconcat (name, "-actual.png", NULL);
  g_autofree char *path = g_build_filename (g_getenv ("TESSERA_SHOTS"), file, NULL);
  g_autoptr (Image) actual = render (widget);
  g_autoptr (Image) golden = NULL;
  g_autoptr (GError) error = NULL;
  gsize different, n;

  if (g_getenv ("TESSERA_UPDATE_SHOTS") != NULL)
    {
      image_save_png (actual, path, NULL, &error);
      g_assert_no_error (error);
      return;
    }
  golden = image_load_png (path, NULL, &error);
  g_assert_no_error (error);
  n = (gsize)image_get_width (actual) * image_get_height (actual);
  different = image_get_width (golden) == image_get_width (actual)
                      && image_get_height (golden) == image_get_height (actual)
                  ? count_different (actual, golden)
                  : n;
  g_test_message ("%s: %" G_GSIZE_FORMAT " of %" G_GSIZE_FORMAT " pixels differ", name, different,
                  n);
  if (different > n / 200)
    {
      image_save_png (actual, actual_file, NULL, NULL);
      g_test_message ("%s differs from %s", actual_file, path);
      g_test_fail ();
    }
}

GtkApplication *
test_application (void)
{
  static const char *const names[] = { "choose-model",     "show-models",  "show-doctor",
                                       "give-memory-back", "reopen-model", "use-processor",
                                       "restart",          "about",        "quit" };
  GtkApplication *app = g_object_new (ADW_TYPE_APPLICATION, "application-id", APP_ID ".Test",
                                      "flags", G_APPLICATION_NON_UNIQUE, "resource-base-path",
                                      "/io/github/tesseraimage/Tessera", NULL);
  g_autoptr (GError) error = NULL;

  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    {
      g_autoptr (GSimpleAction) action = g_simple_action_new (names[i], NULL);

      g_action_map_add_action (G_ACTION_MAP (app), G_ACTION (action));
    }
  g_application_register (G_APPLICATION (app), NULL, &error);
  g_assert_no_error (error);
  return app;
}

void
init_display (int *argc, char ***argv)
{
  GtkSettings *settings;

  g_test_init (argc, argv, NULL);
  if (g_getenv ("DISPLAY") == NULL || !gtk_init_check ())
    {
      g_print ("1..0 # SKIP there is no display\n");
      exit (77);
    }
  adw_init ();
  g_set_prgname ("tessera-test");
  gtk_window_set_default_icon_name (APP_ID);
  settings = gtk_settings_get_default ();
  g_object_set (settings, "gtk-enable-animations", FALSE, "gtk-font-name", "Cantarell 11",
                "gtk-cursor-blink", FALSE, "gtk-xft-dpi", 96 * 1024, NULL);
}
