/* SPDX-License-Identifier: Apache-2.0 */
#include "app/compare/compare-view.h"

#include "app/compare/difference.h"
#include "app/generation/job.h"

#include <glib/gi18n.h>
#include <string.h>

struct _TesseraCompareView
{
  GtkWidget parent_instance;

  /* Template Widgets */
  TesseraCanvas *canvas;
  GtkWidget *legend, *captions, *first_button, *second_button;
  GtkPicture *ramp;
  GtkLabel *first_caption, *first_details, *second_caption, *second_details, *figures;

  /* Owned References */
  TesseraPicture *first, *second;
  GtkWidget *menu; /* popover, or NULL */
  Difference *difference;
  GCancellable *measuring; /* NULL unless a pool thread is at it */

  ViewMode mode;
};

G_DEFINE_FINAL_TYPE (TesseraCompareView, compare_view, GTK_TYPE_WIDGET)

enum
{
  PROP_MODE = 1,
  PROP_COMPARING,
  N_PROPS
};

static GParamSpec *properties[N_PROPS];

/* The engine's name of a value of a request, for people. */
static const char *
name_of_value (const char *what)
{
  static const struct
  {
    const char *key, *name;
  } names[] = {
    { "prompt", N_ ("prompt") },     { "negative prompt", N_ ("negative prompt") },
    { "size", N_ ("size") },         { "steps", N_ ("number of steps") },
    { "seed", N_ ("seed") },         { "noise", N_ ("kind of noise") },
    { "guidance", N_ ("guidance") }, { "LoRA", N_ ("LoRA") },
  };

  for (gsize i = 0; what != NULL && i < G_N_ELEMENTS (names); i++)
    if (strcmp (what, names[i].key) == 0)
      return _ (names[i].name);
  return _ ("settings");
}

/* In short under the picture; all that is known at the press of the button. */
static void
show_caption (GtkWidget *button, GtkLabel *caption, GtkLabel *details, TesseraPicture *picture)
{
  g_autofree char *text = picture != NULL ? picture_caption (picture) : NULL;
  g_autofree char *more = picture != NULL ? picture_describe (picture) : NULL;

  gtk_widget_set_visible (button, picture != NULL);
  if (picture == NULL)
    return;
  gtk_label_set_label (caption, text);
  gtk_label_set_label (details, *more != '\0' ? more : _ ("Nothing is known of this image"));
  gtk_accessible_update_property (GTK_ACCESSIBLE (button), GTK_ACCESSIBLE_PROPERTY_LABEL, text,
                                  GTK_ACCESSIBLE_PROPERTY_DESCRIPTION, more, -1);
}

static const char *
short_label (TesseraPicture *picture)
{
  const EngineRequest *request = picture != NULL ? picture_get_request (picture) : NULL;

  return request != NULL ? precision_label (request->precision) : NULL;
}

static void
update_legend (TesseraCompareView *self)
{
  const gboolean show = self->mode == VIEW_DIFFERENCE && self->difference != NULL;

  if (show && gtk_picture_get_paintable (self->ramp) == NULL)
    {
      g_autoptr (GdkTexture) ramp = difference_ramp ();

      gtk_picture_set_paintable (self->ramp, GDK_PAINTABLE (ramp));
    }
  gtk_widget_set_visible (self->legend, show);
}

static void
show_textures (TesseraCompareView *self)
{
  canvas_set_textures (self->canvas, self->first ? picture_get_texture (self->first) : NULL,
                       self->second ? picture_get_texture (self->second) : NULL,
                       self->difference ? self->difference->map : NULL);
  update_legend (self);
}

/* -- Differences --------------------------------------------------------------------------------
 */

static void
stop_measuring (TesseraCompareView *self)
{
  g_cancellable_cancel (self->measuring);
  g_clear_object (&self->measuring);
  g_clear_pointer (&self->difference, difference_free);
}

static void
on_measured (GObject *source, GAsyncResult *result, gpointer data)
{
  g_autoptr (TesseraCompareView) self = data;
  g_autoptr (GError) error = NULL;
  g_autoptr (Difference) difference = difference_measure_finish (result, &error);

  /* A result for a pair that is gone must not land on the next one. */
  if (self->measuring == NULL || g_task_get_cancellable (G_TASK (result)) != self->measuring)
    return;
  g_clear_object (&self->measuring);
  if (difference == NULL)
    {
      gtk_label_set_label (self->figures, _ ("The differences could not be measured"));
      return;
    }
  self->difference = g_steal_pointer (&difference);
  gtk_label_set_label (self->figures, self->difference->text);
  gtk_widget_set_tooltip_text (
      GTK_WIDGET (self->figures),
      _ ("Difference: the mean over all pixels and colors.\nPSNR: higher is closer.\n"
         "SSIM: 1 for equal structures.\nFLIP: 0 for what eyes cannot tell apart."));
  show_textures (self);
}

static void
start_measuring (TesseraCompareView *self)
{
  self->measuring = g_cancellable_new ();
  gtk_label_set_label (self->figures, _ ("Measuring the differences"));
  difference_measure_async (self->first, self->second, self->measuring, on_measured,
                            g_object_ref (self));
}

gboolean
compare_view_is_measured (TesseraCompareView *self)
{
  return self->difference != NULL;
}

/* -- What is shown ------------------------------------------------------------------------------
 */

/* NULL if the two can be compared, else a sentence that says why not (transfer full). */
static char *
refuse (TesseraPicture *first, TesseraPicture *second)
{
  const EngineRequest *a = picture_get_request (first), *b = picture_get_request (second);
  const char *what = NULL;

  if (a == NULL || b == NULL)
    return g_strdup (_ ("A picture without its settings cannot be compared"));
  if (!engine_request_comparable (a, b, &what))
    /* Translators: %s is the name of a setting, like "seed" */
    return g_strdup_printf (_ ("These pictures cannot be compared: they differ in %s"),
                            name_of_value (what));
  if (image_get_width (picture_get_image (first)) != image_get_width (picture_get_image (second))
      || image_get_height (picture_get_image (first))
             != image_get_height (picture_get_image (second)))
    return g_strdup (_ ("These pictures cannot be compared: their sizes differ"));
  return NULL;
}

gboolean
compare_view_set_pictures (TesseraCompareView *self, TesseraPicture *first, TesseraPicture *second)
{
  const EngineRequest *request = first != NULL ? picture_get_request (first) : NULL;
  g_autofree char *why = NULL;

  g_return_val_if_fail (TESSERA_IS_COMPARE_VIEW (self), FALSE);
  g_return_val_if_fail (first != NULL || second == NULL, FALSE);

  if (second != NULL && (why = refuse (first, second)) != NULL)
    second = NULL;
  stop_measuring (self);
  g_set_object (&self->first, first);
  g_set_object (&self->second, second);
  canvas_set_swapped (self->canvas, FALSE);
  canvas_set_labels (self->canvas, short_label (first), short_label (second));
  show_caption (self->first_button, self->first_caption, self->first_details, first);
  show_caption (self->second_button, self->second_caption, self->second_details, second);
  gtk_label_set_label (self->figures, why != NULL ? why : "");
  gtk_widget_set_tooltip_text (GTK_WIDGET (self->figures), NULL);
  show_textures (self);
  gtk_accessible_update_property (
      GTK_ACCESSIBLE (self->canvas), GTK_ACCESSIBLE_PROPERTY_LABEL,
      request != NULL && request->prompt[0] != '\0' ? request->prompt : _ ("Picture"), -1);
  if (second != NULL)
    start_measuring (self);
  g_object_notify_by_pspec (G_OBJECT (self), properties[PROP_COMPARING]);
  return why == NULL;
}

void
compare_view_set_preview (TesseraCompareView *self, GdkTexture *preview)
{
  g_return_if_fail (TESSERA_IS_COMPARE_VIEW (self));

  if (self->first == NULL)
    canvas_set_textures (self->canvas, preview, NULL, NULL);
}

TesseraPicture *
compare_view_get_first (TesseraCompareView *self)
{
  return self->first;
}

TesseraPicture *
compare_view_get_second (TesseraCompareView *self)
{
  return self->second;
}

TesseraPicture *
compare_view_get_shown (TesseraCompareView *self)
{
  return canvas_get_swapped (self->canvas) ? self->second : self->first;
}

TesseraCanvas *
compare_view_get_canvas (TesseraCompareView *self)
{
  return self->canvas;
}

ViewMode
compare_view_get_mode (TesseraCompareView *self)
{
  return self->mode;
}

void
compare_view_set_mode (TesseraCompareView *self, ViewMode mode)
{
  g_return_if_fail (TESSERA_IS_COMPARE_VIEW (self) && mode < N_VIEW_MODES);

  if (self->mode == mode)
    return;
  self->mode = mode;
  canvas_set_mode (self->canvas, mode);
  update_legend (self);
  g_object_notify_by_pspec (G_OBJECT (self), properties[PROP_MODE]);
}

void
compare_view_blink (TesseraCompareView *self)
{
  if (self->second == NULL)
    return;
  compare_view_set_mode (self, VIEW_IMAGE);
  canvas_set_swapped (self->canvas, !canvas_get_swapped (self->canvas));
}

Image *
compare_view_join (TesseraCompareView *self)
{
  Image *images[2];
  g_autoptr (GBytes) bytes = NULL;
  gsize row, height;
  guint8 *out;

  if (self->second == NULL)
    return NULL;
  images[0] = picture_get_image (self->first);
  images[1] = picture_get_image (self->second);
  row = 3 * (gsize)image_get_width (images[0]);
  height = image_get_height (images[0]);
  out = g_malloc (2 * row * height);
  for (gsize y = 0; y < height; y++)
    for (int i = 0; i < 2; i++)
      {
        const guint8 *pixels = g_bytes_get_data (image_get_bytes (images[i]), NULL);

        memcpy (out + (2 * y + i) * row, pixels + y * row, row);
      }
  bytes = g_bytes_new_take (out, 2 * row * height);
  return image_new (2 * (row / 3), height, bytes);
}

/* -- Menu ---------------------------------------------------------------------------------------
 */

static void
popup_at (TesseraCompareView *self, double x, double y)
{
  if (self->menu == NULL || self->first == NULL)
    return;
  gtk_widget_translate_coordinates (GTK_WIDGET (self->canvas), GTK_WIDGET (self), x, y, &x, &y);
  gtk_popover_set_pointing_to (GTK_POPOVER (self->menu), &(GdkRectangle){ x, y, 1, 1 });
  gtk_popover_popup (GTK_POPOVER (self->menu));
}

static void
on_canvas_pressed (TesseraCompareView *self, int n_press, double x, double y, GtkGesture *gesture)
{
  popup_at (self, x, y);
  gtk_gesture_set_state (gesture, GTK_EVENT_SEQUENCE_CLAIMED);
}

void
compare_view_popup_menu (TesseraCompareView *self)
{
  popup_at (self, gtk_widget_get_width (GTK_WIDGET (self->canvas)) / 2.0,
            gtk_widget_get_height (GTK_WIDGET (self->canvas)) / 2.0);
}

void
compare_view_set_menu (TesseraCompareView *self, GMenuModel *menu)
{
  GtkGesture *press = gtk_gesture_click_new ();

  g_return_if_fail (TESSERA_IS_COMPARE_VIEW (self) && self->menu == NULL);

  self->menu = gtk_popover_menu_new_from_model (menu);
  gtk_popover_set_has_arrow (GTK_POPOVER (self->menu), FALSE);
  gtk_widget_set_halign (self->menu, GTK_ALIGN_START);
  gtk_widget_set_parent (self->menu, GTK_WIDGET (self));
  gtk_gesture_single_set_button (GTK_GESTURE_SINGLE (press), GDK_BUTTON_SECONDARY);
  g_signal_connect_swapped (press, "pressed", G_CALLBACK (on_canvas_pressed), self);
  gtk_widget_add_controller (GTK_WIDGET (self->canvas), GTK_EVENT_CONTROLLER (press));
}

/* -- Type ---------------------------------------------------------------------------------------
 */

static void
compare_view_get_property (GObject *object, guint id, GValue *value, GParamSpec *pspec)
{
  TesseraCompareView *self = TESSERA_COMPARE_VIEW (object);

  switch (id)
    {
    case PROP_MODE:
      g_value_set_int (value, self->mode);
      break;
    case PROP_COMPARING:
      g_value_set_boolean (value, self->second != NULL);
      break;
    default:
      G_OBJECT_WARN_INVALID_PROPERTY_ID (object, id, pspec);
    }
}

static void
compare_view_set_property (GObject *object, guint id, const GValue *value, GParamSpec *pspec)
{
  if (id == PROP_MODE)
    compare_view_set_mode (TESSERA_COMPARE_VIEW (object), g_value_get_int (value));
  else
    G_OBJECT_WARN_INVALID_PROPERTY_ID (object, id, pspec);
}

static void
compare_view_dispose (GObject *object)
{
  TesseraCompareView *self = TESSERA_COMPARE_VIEW (object);

  stop_measuring (self);
  g_clear_pointer (&self->menu, gtk_widget_unparent);
  g_clear_object (&self->first);
  g_clear_object (&self->second);
  gtk_widget_dispose_template (GTK_WIDGET (self), TESSERA_TYPE_COMPARE_VIEW);
  G_OBJECT_CLASS (compare_view_parent_class)->dispose (object);
}

static void
compare_view_class_init (TesseraCompareViewClass *klass)
{
  GObjectClass *object_class = G_OBJECT_CLASS (klass);
  GtkWidgetClass *widget_class = GTK_WIDGET_CLASS (klass);
  const GParamFlags flags = G_PARAM_STATIC_STRINGS | G_PARAM_EXPLICIT_NOTIFY;

  object_class->get_property = compare_view_get_property;
  object_class->set_property = compare_view_set_property;
  object_class->dispose = compare_view_dispose;

  properties[PROP_MODE] = g_param_spec_int ("mode", NULL, NULL, VIEW_IMAGE, VIEW_DIFFERENCE,
                                            VIEW_IMAGE, flags | G_PARAM_READWRITE);
  properties[PROP_COMPARING]
      = g_param_spec_boolean ("comparing", NULL, NULL, FALSE, flags | G_PARAM_READABLE);
  g_object_class_install_properties (object_class, N_PROPS, properties);

  g_type_ensure (TESSERA_TYPE_CANVAS);
  gtk_widget_class_set_template_from_resource (widget_class,
                                               "/io/github/tesseraimage/Tessera/compare-view.ui");
  gtk_widget_class_bind_template_child (widget_class, TesseraCompareView, canvas);
  gtk_widget_class_bind_template_child (widget_class, TesseraCompareView, legend);
  gtk_widget_class_bind_template_child (widget_class, TesseraCompareView, captions);
  gtk_widget_class_bind_template_child (widget_class, TesseraCompareView, ramp);
  gtk_widget_class_bind_template_child (widget_class, TesseraCompareView, first_caption);
  gtk_widget_class_bind_template_child (widget_class, TesseraCompareView, first_button);
  gtk_widget_class_bind_template_child (widget_class, TesseraCompareView, first_details);
  gtk_widget_class_bind_template_child (widget_class, TesseraCompareView, second_caption);
  gtk_widget_class_bind_template_child (widget_class, TesseraCompareView, second_button);
  gtk_widget_class_bind_template_child (widget_class, TesseraCompareView, second_details);
  gtk_widget_class_bind_template_child (widget_class, TesseraCompareView, figures);
}

static void
compare_view_init (TesseraCompareView *self)
{
  gtk_widget_init_template (GTK_WIDGET (self));
}
