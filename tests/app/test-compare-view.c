/* SPDX-License-Identifier: Apache-2.0
 *
 * The view of one picture or two: what is drawn where, what is refused, what a screen reader finds.
 */
#include "app/compare/compare-view.h"
#include "engine/metrics/metrics.h"
#include "harness.h"

#include <string.h>

typedef struct
{
  GtkWidget *window;
  TesseraCompareView *view;
  TesseraCanvas *canvas;
  TesseraPicture *first, *second;
} Fixture;

/* A picture of one colour. */
static TesseraPicture *
plain (guint8 red, guint8 green, guint8 blue, EnginePrecision precision)
{
  guint8 *pixels = g_malloc (3 * 64 * 64);
  g_autoptr (GBytes) bytes = NULL;
  g_autoptr (Image) image = NULL;
  EngineRequest request = small_request ();

  for (int i = 0; i < 64 * 64; i++)
    memcpy (pixels + 3 * i, (guint8[]){ red, green, blue }, 3);
  bytes = g_bytes_new_take (pixels, 3 * 64 * 64);
  image = image_new (64, 64, bytes);
  request.precision = precision;
  return picture_new (image, &request, NULL);
}

static void
set_up (Fixture *f, gconstpointer data)
{
  f->window = gtk_window_new ();
  f->view = g_object_new (TESSERA_TYPE_COMPARE_VIEW, NULL);
  f->canvas = compare_view_get_canvas (f->view);
  f->first = plain (200, 0, 0, ENGINE_PRECISION_BF16);
  f->second = plain (0, 0, 180, ENGINE_PRECISION_SVDQUANT);
  gtk_window_set_default_size (GTK_WINDOW (f->window), 640, 480);
  gtk_window_set_child (GTK_WINDOW (f->window), GTK_WIDGET (f->view));
  gtk_window_present (GTK_WINDOW (f->window));
  settle (f->window);
}

static void
tear_down (Fixture *f, gconstpointer data)
{
  gtk_window_destroy (GTK_WINDOW (f->window));
  while (g_main_context_iteration (NULL, FALSE))
    ;
  g_object_unref (f->first);
  g_object_unref (f->second);
}

static void
show_pair (Fixture *f, ViewMode mode)
{
  g_assert_true (compare_view_set_pictures (f->view, f->first, f->second));
  compare_view_set_mode (f->view, mode);
  WAIT_FOR (compare_view_is_measured (f->view));
}

/* The colour at a share of the first picture's rectangle. */
static guint32
colour_at (Fixture *f, double x, double y)
{
  g_autoptr (Image) shot = render (GTK_WIDGET (f->canvas));
  const guint8 *pixels = g_bytes_get_data (image_get_bytes (shot), NULL);
  graphene_rect_t rect;
  const guint8 *p;

  canvas_get_picture_rect (f->canvas, &rect);
  p = pixels
      + 3
            * ((gsize)(rect.origin.y + y * rect.size.height) * image_get_width (shot)
               + (gsize)(rect.origin.x + x * rect.size.width));
  return (guint32)p[0] << 16 | (guint32)p[1] << 8 | p[2];
}

#define RED  0xc80000
#define BLUE 0x0000b4

static void
test_image (Fixture *f, gconstpointer data)
{
  show_pair (f, VIEW_IMAGE);
  g_assert_cmphex (colour_at (f, 0.25, 0.5), ==, RED);
  g_assert_cmphex (colour_at (f, 0.75, 0.5), ==, RED);
  g_assert_true (compare_view_get_shown (f->view) == f->first);
  compare_view_blink (f->view);
  g_assert_cmphex (colour_at (f, 0.25, 0.5), ==, BLUE);
  g_assert_true (compare_view_get_shown (f->view) == f->second);
  compare_view_blink (f->view);
  g_assert_cmphex (colour_at (f, 0.25, 0.5), ==, RED);
}

static void
test_side_by_side (Fixture *f, gconstpointer data)
{
  show_pair (f, VIEW_SIDE_BY_SIDE);
  g_assert_cmphex (colour_at (f, 0.5, 0.5), ==, RED);
  g_assert_cmphex (colour_at (f, 1.5, 0.5), ==, BLUE);
}

/* The first picture is at the start of reading; the divider follows the property. */
static void
test_slider (Fixture *f, gconstpointer data)
{
  show_pair (f, VIEW_SLIDER);
  g_object_set (f->canvas, "split", 0.7, NULL);
  g_assert_cmphex (colour_at (f, 0.6, 0.8), ==, RED);
  g_assert_cmphex (colour_at (f, 0.8, 0.8), ==, BLUE);
  gtk_widget_set_direction (GTK_WIDGET (f->canvas), GTK_TEXT_DIR_RTL);
  g_assert_cmphex (colour_at (f, 0.2, 0.8), ==, BLUE);
  g_assert_cmphex (colour_at (f, 0.4, 0.8), ==, RED);
}

static GtkWidget *
find_scale (GtkWidget *widget)
{
  GtkWidget *found = GTK_IS_SCALE (widget) ? widget : NULL;

  for (GtkWidget *child = gtk_widget_get_first_child (widget); child != NULL && found == NULL;
       child = gtk_widget_get_next_sibling (child))
    found = find_scale (child);
  return found;
}

/* A real scale, as wide as the picture, bound both ways, only where it means something. */
static void
test_scale (Fixture *f, gconstpointer data)
{
  GtkWidget *scale = find_scale (GTK_WIDGET (f->canvas));
  graphene_rect_t rect;
  double split;

  g_assert_nonnull (scale);
  show_pair (f, VIEW_IMAGE);
  settle (f->window);
  g_assert_false (gtk_widget_get_mapped (scale));
  compare_view_set_mode (f->view, VIEW_SLIDER);
  settle (f->window);
  g_assert_true (gtk_widget_get_mapped (scale));
  canvas_get_picture_rect (f->canvas, &rect);
  g_assert_cmpfloat_with_epsilon (gtk_widget_get_allocated_width (scale), rect.size.width, 1);
  gtk_range_set_value (GTK_RANGE (scale), 0.25);
  g_object_get (f->canvas, "split", &split, NULL);
  g_assert_cmpfloat_with_epsilon (split, 0.25, 1e-9);
  g_object_set (f->canvas, "split", 0.9, NULL);
  g_assert_cmpfloat_with_epsilon (gtk_range_get_value (GTK_RANGE (scale)), 0.9, 1e-9);
}

/* 200 of red against none is beyond the scale, so the map has its last colour. */
static void
test_difference (Fixture *f, gconstpointer data)
{
  guint8 last[3];

  metrics_difference_colour (METRICS_DIFFERENCE_FULL, last);
  show_pair (f, VIEW_DIFFERENCE);
  g_assert_cmphex (colour_at (f, 0.5, 0.5), ==, last[0] << 16 | last[1] << 8 | last[2]);
}

/* Zoom and pan are one for both sides, and never show what is beyond an edge. */
static void
test_zoom (Fixture *f, gconstpointer data)
{
  graphene_rect_t rect;

  show_pair (f, VIEW_SIDE_BY_SIDE);
  canvas_set_zoom (f->canvas, 16);
  settle (f->window);
  canvas_get_picture_rect (f->canvas, &rect);
  g_assert_cmpfloat (rect.size.width, ==, 1024);
  g_assert_cmpfloat (rect.origin.x, <=, 0);
  g_assert_cmphex (colour_at (f, 0.5, 0.5), ==, RED);
  canvas_zoom (f->canvas, 1e-3);
  canvas_get_picture_rect (f->canvas, &rect);
  g_assert_cmpfloat (rect.origin.x, >=, 0);
}

/* Where in the picture, from 0 to 1, that place across the widget is. */
static double
share_at (Fixture *f, double x)
{
  graphene_rect_t rect;

  canvas_get_picture_rect (f->canvas, &rect);
  return (x - rect.origin.x) / rect.size.width;
}

/* What the pointer is on stays under it, in the second pane too. */
static void
test_zoom_at (Fixture *f, gconstpointer data)
{
  const double width = gtk_widget_get_width (GTK_WIDGET (f->canvas));
  const double height = gtk_widget_get_height (GTK_WIDGET (f->canvas));
  double before;

  compare_view_set_pictures (f->view, f->first, NULL);
  settle (f->window);
  before = share_at (f, 0.4 * width);
  canvas_zoom_at (f->canvas, 4, 0.4 * width, 0.5 * height);
  canvas_zoom_at (f->canvas, 1.5, 0.4 * width, 0.5 * height);
  g_assert_cmpfloat_with_epsilon (share_at (f, 0.4 * width), before, 0.01);
  canvas_set_zoom (f->canvas, 0);

  show_pair (f, VIEW_SIDE_BY_SIDE);
  before = share_at (f, 0.2 * width);
  canvas_zoom_at (f->canvas, 4, 0.2 * width + (width + 12) / 2, 0.5 * height);
  g_assert_cmpfloat_with_epsilon (share_at (f, 0.2 * width), before, 0.01);
  canvas_zoom_at (f->canvas, 1e-3, 0, 0);
  g_assert_cmpfloat (share_at (f, 0), <=, 0);
}

static void
test_refused (Fixture *f, gconstpointer data)
{
  EngineRequest request = small_request ();
  g_autoptr (TesseraPicture) other = NULL;
  gboolean comparing;

  request.seed++;
  other = picture_new (picture_get_image (f->second), &request, NULL);
  g_assert_false (compare_view_set_pictures (f->view, f->first, other));
  g_object_get (f->view, "comparing", &comparing, NULL);
  g_assert_false (comparing);
  g_assert_null (compare_view_get_second (f->view));
  g_assert_null (compare_view_join (f->view));
}

static const char *
text_of (Fixture *f, const char *child)
{
  return gtk_label_get_label (GTK_LABEL (
      gtk_widget_get_template_child (GTK_WIDGET (f->view), TESSERA_TYPE_COMPARE_VIEW, child)));
}

/* Which arithmetic made a picture stands below it, and how it was made is behind a button. */
static void
test_details (Fixture *f, gconstpointer data)
{
  EngineRequest request = small_request ();
  PictureFacts facts = { .seconds = 4.1, .kernels = "cuda-svdq-fp8-wgmma", .model = "A model" };
  g_autoptr (TesseraPicture) fast = NULL, exact = NULL, unknown = NULL;

  request.precision = ENGINE_PRECISION_SVDQUANT;
  fast = picture_new (picture_get_image (f->first), &request, &facts);
  facts.kernels = "cuda-svdq-fp16-wgmma";
  exact = picture_new (picture_get_image (f->first), &request, &facts);
  unknown = picture_new (picture_get_image (f->first), NULL, NULL);
  compare_view_set_pictures (f->view, fast, NULL);
  g_assert_cmpstr (text_of (f, "first_caption"), ==, "SVDQuant (fast), 4.1 s");
  g_assert_nonnull (strstr (text_of (f, "first_details"), "Arithmetic: fast"));
  g_assert_nonnull (strstr (text_of (f, "first_details"), "cuda-svdq-fp8-wgmma"));
  g_assert_nonnull (strstr (text_of (f, "first_details"), "A model"));
  compare_view_set_pictures (f->view, exact, NULL);
  g_assert_cmpstr (text_of (f, "first_caption"), ==, "SVDQuant, 4.1 s");
  g_assert_nonnull (strstr (text_of (f, "first_details"), "Arithmetic: exact"));
  compare_view_set_pictures (f->view, unknown, NULL);
  g_assert_cmpstr (text_of (f, "first_caption"), ==, "Unknown settings");
}

static void
test_join (Fixture *f, gconstpointer data)
{
  g_autoptr (Image) joined = NULL;
  const guint8 *pixels;

  show_pair (f, VIEW_IMAGE);
  joined = compare_view_join (f->view);
  pixels = g_bytes_get_data (image_get_bytes (joined), NULL);
  g_assert_cmpint (image_get_width (joined), ==, 128);
  g_assert_cmpint (image_get_height (joined), ==, 64);
  g_assert_cmpuint (pixels[3 * (5 * 128 + 63)], ==, 200);
  g_assert_cmpuint (pixels[3 * (5 * 128 + 64) + 2], ==, 180);
}

static void
test_accessible (Fixture *f, gconstpointer data)
{
  show_pair (f, VIEW_IMAGE);
  gtk_test_accessible_assert_role (GTK_ACCESSIBLE (f->canvas), GTK_ACCESSIBLE_ROLE_IMG);
  gtk_test_accessible_assert_property (GTK_ACCESSIBLE (f->canvas), GTK_ACCESSIBLE_PROPERTY_LABEL,
                                       "a red circle");
}

/* One golden shot a mode, of a picture in which something can be seen. */
static void
test_shots (Fixture *f, gconstpointer data)
{
  static const char *const names[N_VIEW_MODES]
      = { "view-image", "view-side-by-side", "view-slider", "view-difference" };
  g_autoptr (TesseraPicture) first = landscape (320, 240, ENGINE_PRECISION_BF16, 0);
  g_autoptr (TesseraPicture) second = landscape (320, 240, ENGINE_PRECISION_SVDQUANT, 30);
  GtkMenuButton *button;

  g_assert_true (compare_view_set_pictures (f->view, first, second));
  WAIT_FOR (compare_view_is_measured (f->view));
  for (int mode = 0; mode < N_VIEW_MODES; mode++)
    {
      compare_view_set_mode (f->view, mode);
      check_shot (f->window, names[mode]);
    }
  button = GTK_MENU_BUTTON (gtk_widget_get_template_child (
      GTK_WIDGET (f->view), TESSERA_TYPE_COMPARE_VIEW, "second_button"));
  gtk_menu_button_popup (button);
  check_shot (GTK_WIDGET (gtk_menu_button_get_popover (button)), "view-details");
  gtk_menu_button_popdown (button);
}

int
main (int argc, char *argv[])
{
  init_display (&argc, &argv);
#define ADD(name, function)                                                                        \
  g_test_add ("/compare-view/" name, Fixture, NULL, set_up, function, tear_down)
  ADD ("image", test_image);
  ADD ("side-by-side", test_side_by_side);
  ADD ("slider", test_slider);
  ADD ("scale", test_scale);
  ADD ("difference", test_difference);
  ADD ("zoom", test_zoom);
  ADD ("zoom-at", test_zoom_at);
  ADD ("refused", test_refused);
  ADD ("details", test_details);
  ADD ("join", test_join);
  ADD ("accessible", test_accessible);
  ADD ("shots", test_shots);
#undef ADD
  return g_test_run ();
}
