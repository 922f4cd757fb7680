/* SPDX-License-Identifier: Apache-2.0 */
#include "app/compare/canvas-private.h"

#include <glib/gi18n.h>
#include <math.h>

#define GAP      12.0f /* between two pictures, and from them to the scale */
#define MAX_ZOOM 16.0

G_DEFINE_FINAL_TYPE (TesseraCanvas, canvas, GTK_TYPE_WIDGET)

enum
{
  PROP_SPLIT = 1,
  PROP_ZOOM,
  N_PROPS
};

static GParamSpec *properties[N_PROPS];

gboolean
canvas_is_rtl (TesseraCanvas *self)
{
  return gtk_widget_get_direction (GTK_WIDGET (self)) == GTK_TEXT_DIR_RTL;
}

ViewMode
canvas_effective_mode (TesseraCanvas *self, GdkTexture *const *layers)
{
  if (layers[SECOND] == NULL || (self->mode == VIEW_DIFFERENCE && layers[DIFFERENCE] == NULL))
    return VIEW_IMAGE;
  return self->mode;
}

/* -- Where things are ---------------------------------------------------------------------------
 */

static float
scale_height (TesseraCanvas *self, GdkTexture *const *layers)
{
  int height;

  if (canvas_effective_mode (self, layers) != VIEW_SLIDER)
    return 0;
  gtk_widget_measure (self->scale, GTK_ORIENTATION_VERTICAL, -1, &height, NULL, NULL, NULL);
  return height;
}

void
canvas_get_pane (TesseraCanvas *self, GdkTexture *const *layers, int index, graphene_rect_t *pane)
{
  const float width = gtk_widget_get_width (GTK_WIDGET (self));
  const float height = gtk_widget_get_height (GTK_WIDGET (self)) - scale_height (self, layers);

  graphene_rect_init (pane, 0, 0, MAX (width, 1), MAX (height, 1));
  if (canvas_effective_mode (self, layers) != VIEW_SIDE_BY_SIDE)
    return;
  pane->size.width = MAX ((width - GAP) / 2, 1);
  if ((index == 1) != canvas_is_rtl (self))
    pane->origin.x = pane->size.width + GAP;
}

static double
fit_zoom (GdkTexture *texture, const graphene_rect_t *pane)
{
  return fmin (pane->size.width / gdk_texture_get_width (texture),
               pane->size.height / gdk_texture_get_height (texture));
}

void
canvas_place_picture (TesseraCanvas *self, GdkTexture *const *layers, const graphene_rect_t *pane,
                      graphene_rect_t *rect)
{
  const double pixel = 1.0 / gtk_widget_get_scale_factor (GTK_WIDGET (self));
  const double zoom = self->zoom > 0 ? self->zoom * pixel : fit_zoom (layers[FIRST], pane);
  const float width = gdk_texture_get_width (layers[FIRST]) * zoom;
  const float height = gdk_texture_get_height (layers[FIRST]) * zoom;
  /* What does not fill its pane is centred; what does is moved by the pan, never past an edge. */
  float x = (pane->size.width - width) / 2, y = (pane->size.height - height) / 2;

  if (width > pane->size.width)
    x = CLAMP (pane->size.width / 2 - self->centre_x * width, pane->size.width - width, 0);
  if (height > pane->size.height)
    y = CLAMP (pane->size.height / 2 - self->centre_y * height, pane->size.height - height, 0);
  graphene_rect_init (rect, roundf (pane->origin.x + x), roundf (pane->origin.y + y),
                      roundf (width), roundf (height));
}

void
canvas_get_picture_rect (TesseraCanvas *self, graphene_rect_t *rect)
{
  graphene_rect_t pane;

  canvas_get_pane (self, self->layers, 0, &pane);
  if (self->layers[FIRST] == NULL)
    *rect = pane;
  else
    canvas_place_picture (self, self->layers, &pane, rect);
}

void
canvas_get_visible_rect (TesseraCanvas *self, graphene_rect_t *visible)
{
  graphene_rect_t pane, rect;

  canvas_get_pane (self, self->layers, 0, &pane);
  canvas_get_picture_rect (self, &rect);
  if (!graphene_rect_intersection (&pane, &rect, visible))
    *visible = pane;
}

float
canvas_divider_x (TesseraCanvas *self)
{
  graphene_rect_t visible;

  canvas_get_visible_rect (self, &visible);
  return visible.origin.x
         + visible.size.width * (canvas_is_rtl (self) ? 1 - self->split : self->split);
}

/* -- Layout -------------------------------------------------------------------------------------
 */

static void
canvas_measure (GtkWidget *widget, GtkOrientation orientation, int for_size, int *minimum,
                int *natural, int *minimum_baseline, int *natural_baseline)
{
  *minimum = orientation == GTK_ORIENTATION_HORIZONTAL ? 240 : 200;
  *natural = orientation == GTK_ORIENTATION_HORIZONTAL ? 640 : 480;
  gtk_widget_measure (TESSERA_CANVAS (widget)->scale, orientation, -1, NULL, NULL, NULL, NULL);
}

static void
canvas_size_allocate (GtkWidget *widget, int width, int height, int baseline)
{
  TesseraCanvas *self = TESSERA_CANVAS (widget);
  graphene_rect_t visible;
  GtkAllocation scale;
  int minimum;

  canvas_update_copies (self);
  if (!gtk_widget_should_layout (self->scale))
    return;
  gtk_widget_measure (self->scale, GTK_ORIENTATION_HORIZONTAL, -1, &minimum, NULL, NULL, NULL);
  canvas_get_visible_rect (self, &visible);
  scale.width = MAX (minimum, (int)visible.size.width);
  scale.height = scale_height (self, self->layers);
  scale.x = visible.origin.x + (visible.size.width - scale.width) / 2;
  scale.y = MIN (height - scale.height, (int)(visible.origin.y + visible.size.height + 2));
  gtk_widget_size_allocate (self->scale, &scale, -1);
}

void
canvas_update (TesseraCanvas *self)
{
  canvas_update_copies (self);
  gtk_widget_set_visible (self->scale, canvas_effective_mode (self, self->layers) == VIEW_SLIDER);
  gtk_widget_queue_allocate (GTK_WIDGET (self));
  gtk_widget_queue_draw (GTK_WIDGET (self));
}

/* -- Properties ---------------------------------------------------------------------------------
 */

void
canvas_set_zoom (TesseraCanvas *self, double zoom)
{
  g_return_if_fail (TESSERA_IS_CANVAS (self));

  zoom = CLAMP (zoom, 0, MAX_ZOOM);
  if (zoom == 0)
    self->centre_x = self->centre_y = 0.5;
  if (self->zoom == zoom)
    return;
  self->zoom = zoom;
  canvas_update (self);
  g_object_notify_by_pspec (G_OBJECT (self), properties[PROP_ZOOM]);
}

/* The pane in which a point is, and where the picture is there. */
static void
get_rects_at (TesseraCanvas *self, double x, double y, graphene_rect_t *pane, graphene_rect_t *rect)
{
  canvas_get_pane (self, self->layers, 1, pane);
  if (!graphene_rect_contains_point (pane, &GRAPHENE_POINT_INIT (x, y)))
    canvas_get_pane (self, self->layers, 0, pane);
  canvas_place_picture (self, self->layers, pane, rect);
}

static double
fit_zoom_of (TesseraCanvas *self)
{
  graphene_rect_t pane;

  canvas_get_pane (self, self->layers, 0, &pane);
  return fit_zoom (self->layers[FIRST], &pane) * gtk_widget_get_scale_factor (GTK_WIDGET (self));
}

void
canvas_zoom_to (TesseraCanvas *self, double zoom, double x, double y)
{
  graphene_rect_t pane, rect;
  double share_x, share_y;

  if (self->layers[FIRST] == NULL)
    return;
  get_rects_at (self, x, y, &pane, &rect);
  share_x = (x - rect.origin.x) / rect.size.width;
  share_y = (y - rect.origin.y) / rect.size.height;
  canvas_set_zoom (self, zoom);
  if (self->zoom <= 0)
    return;
  canvas_place_picture (self, self->layers, &pane, &rect);
  canvas_set_centre (self, share_x + (pane.origin.x + pane.size.width / 2 - x) / rect.size.width,
                     share_y + (pane.origin.y + pane.size.height / 2 - y) / rect.size.height);
}

void
canvas_zoom_at (TesseraCanvas *self, double factor, double x, double y)
{
  double fit, zoom;

  if (self->layers[FIRST] == NULL)
    return;
  fit = fit_zoom_of (self);
  zoom = factor * (self->zoom > 0 ? self->zoom : fit);
  /* Smaller than the window is no use: then it fits. */
  canvas_zoom_to (self, zoom <= fit ? 0 : zoom, x, y);
}

void
canvas_zoom (TesseraCanvas *self, double factor)
{
  graphene_rect_t pane;

  if (self->layers[FIRST] == NULL)
    return;
  canvas_get_pane (self, self->layers, 0, &pane);
  canvas_zoom_at (self, factor, pane.origin.x + pane.size.width / 2, pane.size.height / 2);
}

void
canvas_set_centre (TesseraCanvas *self, double x, double y)
{
  self->centre_x = CLAMP (x, 0, 1);
  self->centre_y = CLAMP (y, 0, 1);
  gtk_widget_queue_draw (GTK_WIDGET (self));
}

void
canvas_set_textures (TesseraCanvas *self, GdkTexture *first, GdkTexture *second,
                     GdkTexture *difference)
{
  g_return_if_fail (TESSERA_IS_CANVAS (self));

  g_set_object (&self->wanted[FIRST], first);
  g_set_object (&self->wanted[SECOND], second);
  g_set_object (&self->wanted[DIFFERENCE], difference);
  canvas_update (self);
}

void
canvas_set_labels (TesseraCanvas *self, const char *first, const char *second)
{
  g_free (self->first_label);
  g_free (self->second_label);
  self->first_label = g_strdup (first);
  self->second_label = g_strdup (second);
  gtk_widget_queue_draw (GTK_WIDGET (self));
}

void
canvas_set_mode (TesseraCanvas *self, ViewMode mode)
{
  g_return_if_fail (TESSERA_IS_CANVAS (self));

  self->mode = mode;
  canvas_update (self);
}

void
canvas_set_swapped (TesseraCanvas *self, gboolean swapped)
{
  self->swapped = swapped && self->layers[SECOND] != NULL;
  gtk_widget_queue_draw (GTK_WIDGET (self));
}

gboolean
canvas_get_swapped (TesseraCanvas *self)
{
  return self->swapped;
}

static void
canvas_set_property (GObject *object, guint id, const GValue *value, GParamSpec *pspec)
{
  TesseraCanvas *self = TESSERA_CANVAS (object);

  switch (id)
    {
    case PROP_SPLIT:
      if (self->split == g_value_get_double (value))
        break;
      self->split = g_value_get_double (value);
      gtk_widget_queue_draw (GTK_WIDGET (self));
      g_object_notify_by_pspec (object, pspec);
      break;
    case PROP_ZOOM:
      canvas_set_zoom (self, g_value_get_double (value));
      break;
    default:
      G_OBJECT_WARN_INVALID_PROPERTY_ID (object, id, pspec);
    }
}

static void
canvas_get_property (GObject *object, guint id, GValue *value, GParamSpec *pspec)
{
  TesseraCanvas *self = TESSERA_CANVAS (object);

  switch (id)
    {
    case PROP_SPLIT:
      g_value_set_double (value, self->split);
      break;
    case PROP_ZOOM:
      g_value_set_double (value, self->zoom);
      break;
    default:
      G_OBJECT_WARN_INVALID_PROPERTY_ID (object, id, pspec);
    }
}

static void
canvas_dispose (GObject *object)
{
  TesseraCanvas *self = TESSERA_CANVAS (object);

  g_clear_pointer (&self->scale, gtk_widget_unparent);
  for (int i = 0; i < N_LAYERS; i++)
    {
      g_clear_object (&self->layers[i]);
      g_clear_object (&self->copies[i]);
      g_clear_object (&self->wanted[i]);
    }
  G_OBJECT_CLASS (canvas_parent_class)->dispose (object);
}

static void
canvas_finalize (GObject *object)
{
  TesseraCanvas *self = TESSERA_CANVAS (object);

  g_free (self->first_label);
  g_free (self->second_label);
  G_OBJECT_CLASS (canvas_parent_class)->finalize (object);
}

static void
canvas_class_init (TesseraCanvasClass *klass)
{
  GObjectClass *object_class = G_OBJECT_CLASS (klass);
  GtkWidgetClass *widget_class = GTK_WIDGET_CLASS (klass);
  const GParamFlags flags = G_PARAM_READWRITE | G_PARAM_STATIC_STRINGS | G_PARAM_EXPLICIT_NOTIFY;

  object_class->set_property = canvas_set_property;
  object_class->get_property = canvas_get_property;
  object_class->dispose = canvas_dispose;
  object_class->finalize = canvas_finalize;
  widget_class->measure = canvas_measure;
  widget_class->size_allocate = canvas_size_allocate;
  widget_class->snapshot = canvas_snapshot;

  properties[PROP_SPLIT] = g_param_spec_double ("split", NULL, NULL, 0, 1, 0.5, flags);
  properties[PROP_ZOOM] = g_param_spec_double ("zoom", NULL, NULL, 0, MAX_ZOOM, 0, flags);
  g_object_class_install_properties (object_class, N_PROPS, properties);

  gtk_widget_class_set_css_name (widget_class, "canvas");
  gtk_widget_class_set_accessible_role (widget_class, GTK_ACCESSIBLE_ROLE_IMG);
}

static void
canvas_init (TesseraCanvas *self)
{
  GtkAdjustment *adjustment;

  self->split = 0.5;
  self->centre_x = self->centre_y = 0.5;
  gtk_widget_set_overflow (GTK_WIDGET (self), GTK_OVERFLOW_HIDDEN);
  gtk_widget_set_focusable (GTK_WIDGET (self), TRUE);

  self->scale = gtk_scale_new_with_range (GTK_ORIENTATION_HORIZONTAL, 0, 1, 0.01);
  gtk_scale_set_draw_value (GTK_SCALE (self->scale), FALSE);
  gtk_accessible_update_property (GTK_ACCESSIBLE (self->scale), GTK_ACCESSIBLE_PROPERTY_LABEL,
                                  _ ("Divider"), -1);
  gtk_widget_set_parent (self->scale, GTK_WIDGET (self));
  gtk_widget_set_visible (self->scale, FALSE);
  adjustment = gtk_range_get_adjustment (GTK_RANGE (self->scale));
  g_object_bind_property (self, "split", adjustment, "value",
                          G_BINDING_BIDIRECTIONAL | G_BINDING_SYNC_CREATE);
  canvas_add_controllers (self);
}
