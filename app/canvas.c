/* SPDX-License-Identifier: Apache-2.0 */
#include "app/canvas.h"

#include <glib/gi18n.h>
#include <math.h>

#define GAP         12.0f /* between two pictures, and from them to the scale */
#define RADIUS      8.0f
#define MAX_ZOOM    16.0
#define GRIP        16.0f /* half the width in which the divider is caught */
#define HANDLE      13.0f /* radius of the disc on the divider */
#define LABEL_INSET 10.0f

struct _TesseraCanvas
{
  GtkWidget parent_instance;

  /* Owned References */
  GtkWidget *scale;
  GdkTexture *first, *second, *difference;
  char *first_label, *second_label;

  ViewMode mode;
  gboolean swapped;
  double split;
  double zoom;               /* picture pixels to device pixels; 0 = fit */
  double centre_x, centre_y; /* of what is seen, in shares of the picture */

  /* Of a drag: where it began, and the centre then */
  double drag_x, drag_y, drag_centre_x, drag_centre_y;
  gboolean drag_divider;
};

G_DEFINE_FINAL_TYPE (TesseraCanvas, canvas, GTK_TYPE_WIDGET)

enum
{
  PROP_SPLIT = 1,
  PROP_ZOOM,
  N_PROPS
};

static GParamSpec *properties[N_PROPS];

static gboolean
is_rtl (TesseraCanvas *self)
{
  return gtk_widget_get_direction (GTK_WIDGET (self)) == GTK_TEXT_DIR_RTL;
}

/* The mode that can be drawn with what there is. */
static ViewMode
effective_mode (TesseraCanvas *self)
{
  if (self->second == NULL || (self->mode == VIEW_DIFFERENCE && self->difference == NULL))
    return VIEW_IMAGE;
  return self->mode;
}

/* -- Where things are ---------------------------------------------------------------------------
 */

static float
scale_height (TesseraCanvas *self)
{
  int height;

  if (effective_mode (self) != VIEW_SLIDER)
    return 0;
  gtk_widget_measure (self->scale, GTK_ORIENTATION_VERTICAL, -1, &height, NULL, NULL, NULL);
  return height;
}

/* The space for picture `index` (0 or 1). */
static void
get_pane (TesseraCanvas *self, int index, graphene_rect_t *pane)
{
  const float width = gtk_widget_get_width (GTK_WIDGET (self));
  const float height = gtk_widget_get_height (GTK_WIDGET (self)) - scale_height (self);

  graphene_rect_init (pane, 0, 0, MAX (width, 1), MAX (height, 1));
  if (effective_mode (self) != VIEW_SIDE_BY_SIDE)
    return;
  pane->size.width = MAX ((width - GAP) / 2, 1);
  if ((index == 1) != is_rtl (self))
    pane->origin.x = pane->size.width + GAP;
}

static double
fit_zoom (TesseraCanvas *self, const graphene_rect_t *pane)
{
  return fmin (pane->size.width / gdk_texture_get_width (self->first),
               pane->size.height / gdk_texture_get_height (self->first));
}

/* The whole picture's rectangle in (and perhaps beyond) its pane. */
static void
place_picture (TesseraCanvas *self, const graphene_rect_t *pane, graphene_rect_t *rect)
{
  const double pixel = 1.0 / gtk_widget_get_scale_factor (GTK_WIDGET (self));
  const double zoom = self->zoom > 0 ? self->zoom * pixel : fit_zoom (self, pane);
  const float width = gdk_texture_get_width (self->first) * zoom;
  const float height = gdk_texture_get_height (self->first) * zoom;
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

  get_pane (self, 0, &pane);
  if (self->first == NULL)
    *rect = pane;
  else
    place_picture (self, &pane, rect);
}

/* The part of the picture that is seen. */
static void
get_visible_rect (TesseraCanvas *self, graphene_rect_t *visible)
{
  graphene_rect_t pane, rect;

  get_pane (self, 0, &pane);
  canvas_get_picture_rect (self, &rect);
  if (!graphene_rect_intersection (&pane, &rect, visible))
    *visible = pane;
}

static float
divider_x (TesseraCanvas *self)
{
  graphene_rect_t visible;

  get_visible_rect (self, &visible);
  return visible.origin.x + visible.size.width * (is_rtl (self) ? 1 - self->split : self->split);
}

/* -- Drawing ------------------------------------------------------------------------------------
 */

static void
draw_texture (GtkSnapshot *snapshot, GdkTexture *texture, const graphene_rect_t *pane,
              const graphene_rect_t *rect)
{
  graphene_rect_t visible;
  GskRoundedRect clip;

  if (!graphene_rect_intersection (pane, rect, &visible))
    return;
  gsk_rounded_rect_init_from_rect (&clip, &visible, RADIUS);
  gtk_snapshot_push_rounded_clip (snapshot, &clip);
  gtk_snapshot_append_texture (snapshot, texture, rect);
  gtk_snapshot_pop (snapshot);
}

/* A label on a dark pill, readable on any picture. `at_end`: at the end of `visible`. */
static void
draw_label (TesseraCanvas *self, GtkSnapshot *snapshot, const char *text,
            const graphene_rect_t *visible, gboolean at_end)
{
  g_autoptr (PangoLayout) layout = gtk_widget_create_pango_layout (GTK_WIDGET (self), text);
  const GdkRGBA ground = { 0, 0, 0, 0.6f }, ink = { 1, 1, 1, 1 };
  graphene_rect_t pill;
  GskRoundedRect clip;
  int width, height;
  float x;

  if (text == NULL || text[0] == '\0')
    return;
  pango_layout_get_pixel_size (layout, &width, &height);
  if (width + 4 * LABEL_INSET > visible->size.width)
    return;
  x = visible->origin.x + LABEL_INSET;
  if (at_end != is_rtl (self))
    x = visible->origin.x + visible->size.width - width - 3 * LABEL_INSET;
  graphene_rect_init (&pill, x, visible->origin.y + LABEL_INSET, width + 2 * LABEL_INSET,
                      height + 6);
  gsk_rounded_rect_init_from_rect (&clip, &pill, (height + 6) / 2.0f);
  gtk_snapshot_push_rounded_clip (snapshot, &clip);
  gtk_snapshot_append_color (snapshot, &ground, &pill);
  gtk_snapshot_pop (snapshot);
  gtk_snapshot_save (snapshot);
  gtk_snapshot_translate (snapshot,
                          &GRAPHENE_POINT_INIT (pill.origin.x + LABEL_INSET, pill.origin.y + 3));
  gtk_snapshot_append_layout (snapshot, layout, &ink);
  gtk_snapshot_restore (snapshot);
}

static void
draw_divider (GtkSnapshot *snapshot, float x, const graphene_rect_t *visible)
{
  const GdkRGBA white = { 1, 1, 1, 1 }, shade = { 0, 0, 0, 0.35f }, ink = { 0, 0, 0, 0.7f };
  const float middle = visible->origin.y + visible->size.height / 2;
  graphene_rect_t line, disc;
  GskRoundedRect round;

  graphene_rect_init (&line, x - 2, visible->origin.y, 4, visible->size.height);
  gtk_snapshot_append_color (snapshot, &shade, &line);
  graphene_rect_init (&line, x - 1, visible->origin.y, 2, visible->size.height);
  gtk_snapshot_append_color (snapshot, &white, &line);

  graphene_rect_init (&disc, x - HANDLE, middle - HANDLE, 2 * HANDLE, 2 * HANDLE);
  gsk_rounded_rect_init_from_rect (&round, &disc, HANDLE);
  gtk_snapshot_append_outset_shadow (snapshot, &round, &shade, 0, 1, 1, 3);
  gtk_snapshot_push_rounded_clip (snapshot, &round);
  gtk_snapshot_append_color (snapshot, &white, &disc);
  gtk_snapshot_pop (snapshot);
  for (int side = -1; side <= 1; side += 2)
    {
      graphene_rect_init (&line, x + side * 3 - 1, middle - 5, 2, 10);
      gtk_snapshot_append_color (snapshot, &ink, &line);
    }
}

static void
draw_slider (TesseraCanvas *self, GtkSnapshot *snapshot, const graphene_rect_t *pane,
             const graphene_rect_t *rect)
{
  const float x = divider_x (self);
  GdkTexture *left = is_rtl (self) ? self->second : self->first;
  GdkTexture *right = is_rtl (self) ? self->first : self->second;
  graphene_rect_t visible, part;

  get_visible_rect (self, &visible);
  graphene_rect_init (&part, visible.origin.x, visible.origin.y, x - visible.origin.x,
                      visible.size.height);
  gtk_snapshot_push_clip (snapshot, &part);
  draw_texture (snapshot, left, pane, rect);
  gtk_snapshot_pop (snapshot);
  graphene_rect_init (&part, x, visible.origin.y, visible.origin.x + visible.size.width - x,
                      visible.size.height);
  gtk_snapshot_push_clip (snapshot, &part);
  draw_texture (snapshot, right, pane, rect);
  gtk_snapshot_pop (snapshot);
  draw_label (self, snapshot, self->first_label, &visible, FALSE);
  draw_label (self, snapshot, self->second_label, &visible, TRUE);
  draw_divider (snapshot, x, &visible);
}

static void
canvas_snapshot (GtkWidget *widget, GtkSnapshot *snapshot)
{
  TesseraCanvas *self = TESSERA_CANVAS (widget);
  const ViewMode mode = effective_mode (self);
  graphene_rect_t pane, rect, visible;

  if (self->first == NULL)
    return;
  get_pane (self, 0, &pane);
  place_picture (self, &pane, &rect);
  switch (mode)
    {
    case VIEW_SIDE_BY_SIDE:
      for (int i = 0; i < 2; i++)
        {
          get_pane (self, i, &pane);
          place_picture (self, &pane, &rect);
          draw_texture (snapshot, i == 0 ? self->first : self->second, &pane, &rect);
          if (graphene_rect_intersection (&pane, &rect, &visible))
            draw_label (self, snapshot, i == 0 ? self->first_label : self->second_label, &visible,
                        FALSE);
        }
      break;
    case VIEW_SLIDER:
      draw_slider (self, snapshot, &pane, &rect);
      break;
    case VIEW_DIFFERENCE:
      draw_texture (snapshot, self->difference, &pane, &rect);
      break;
    case VIEW_IMAGE:
    default:
      draw_texture (snapshot, self->swapped && self->second ? self->second : self->first, &pane,
                    &rect);
      get_visible_rect (self, &visible);
      if (self->second != NULL)
        draw_label (self, snapshot, self->swapped ? self->second_label : self->first_label,
                    &visible, FALSE);
    }
  if (mode == VIEW_SLIDER)
    gtk_widget_snapshot_child (widget, self->scale, snapshot);
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

  if (!gtk_widget_should_layout (self->scale))
    return;
  gtk_widget_measure (self->scale, GTK_ORIENTATION_HORIZONTAL, -1, &minimum, NULL, NULL, NULL);
  get_visible_rect (self, &visible);
  scale.width = MAX (minimum, (int)visible.size.width);
  scale.height = scale_height (self);
  scale.x = visible.origin.x + (visible.size.width - scale.width) / 2;
  scale.y = MIN (height - scale.height, (int)(visible.origin.y + visible.size.height + 2));
  gtk_widget_size_allocate (self->scale, &scale, -1);
}

static void
update (TesseraCanvas *self)
{
  gtk_widget_set_visible (self->scale, effective_mode (self) == VIEW_SLIDER);
  gtk_widget_queue_allocate (GTK_WIDGET (self));
  gtk_widget_queue_draw (GTK_WIDGET (self));
}

/* -- Pointer ------------------------------------------------------------------------------------
 */

static void
set_split_at (TesseraCanvas *self, double x)
{
  graphene_rect_t visible;
  double share;

  get_visible_rect (self, &visible);
  share = CLAMP ((x - visible.origin.x) / visible.size.width, 0, 1);
  g_object_set (self, "split", is_rtl (self) ? 1 - share : share, NULL);
}

static void
on_drag_begin (TesseraCanvas *self, double x, double y)
{
  self->drag_x = x;
  self->drag_y = y;
  self->drag_centre_x = self->centre_x;
  self->drag_centre_y = self->centre_y;
  /* Without a zoom there is nothing to pan, so the whole picture moves the divider. */
  self->drag_divider = effective_mode (self) == VIEW_SLIDER
                       && (self->zoom <= 0 || fabs (x - divider_x (self)) < GRIP);
  if (self->drag_divider)
    set_split_at (self, x);
}

static void
on_drag_update (TesseraCanvas *self, double dx, double dy)
{
  graphene_rect_t rect;

  if (self->first == NULL)
    return;
  if (self->drag_divider)
    {
      set_split_at (self, self->drag_x + dx);
      return;
    }
  canvas_get_picture_rect (self, &rect);
  self->centre_x = CLAMP (self->drag_centre_x - dx / rect.size.width, 0, 1);
  self->centre_y = CLAMP (self->drag_centre_y - dy / rect.size.height, 0, 1);
  gtk_widget_queue_draw (GTK_WIDGET (self));
}

static gboolean
on_scroll (TesseraCanvas *self, double dx, double dy, GtkEventController *controller)
{
  if ((gtk_event_controller_get_current_event_state (controller) & GDK_CONTROL_MASK) == 0)
    return GDK_EVENT_PROPAGATE;
  canvas_zoom (self, pow (1.25, -dy));
  return GDK_EVENT_STOP;
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
  update (self);
  g_object_notify_by_pspec (G_OBJECT (self), properties[PROP_ZOOM]);
}

void
canvas_zoom (TesseraCanvas *self, double factor)
{
  graphene_rect_t pane;
  double from = self->zoom, fit;

  if (self->first == NULL)
    return;
  get_pane (self, 0, &pane);
  fit = fit_zoom (self, &pane) * gtk_widget_get_scale_factor (GTK_WIDGET (self));
  if (from <= 0)
    from = fit;
  /* Smaller than the window is no use: then it fits. */
  canvas_set_zoom (self, from * factor <= fit ? 0 : from * factor);
}

void
canvas_set_textures (TesseraCanvas *self, GdkTexture *first, GdkTexture *second,
                     GdkTexture *difference)
{
  g_return_if_fail (TESSERA_IS_CANVAS (self));

  g_set_object (&self->first, first);
  g_set_object (&self->second, second);
  g_set_object (&self->difference, difference);
  if (second == NULL)
    self->swapped = FALSE;
  update (self);
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
  update (self);
}

void
canvas_set_swapped (TesseraCanvas *self, gboolean swapped)
{
  self->swapped = swapped && self->second != NULL;
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
  g_clear_object (&self->first);
  g_clear_object (&self->second);
  g_clear_object (&self->difference);
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
  GtkGesture *drag = gtk_gesture_drag_new ();
  GtkEventController *scroll
      = gtk_event_controller_scroll_new (GTK_EVENT_CONTROLLER_SCROLL_VERTICAL);
  GtkAdjustment *adjustment;

  self->split = 0.5;
  self->centre_x = self->centre_y = 0.5;
  gtk_widget_set_overflow (GTK_WIDGET (self), GTK_OVERFLOW_HIDDEN);

  self->scale = gtk_scale_new_with_range (GTK_ORIENTATION_HORIZONTAL, 0, 1, 0.01);
  gtk_scale_set_draw_value (GTK_SCALE (self->scale), FALSE);
  gtk_accessible_update_property (GTK_ACCESSIBLE (self->scale), GTK_ACCESSIBLE_PROPERTY_LABEL,
                                  _ ("Divider"), -1);
  gtk_widget_set_parent (self->scale, GTK_WIDGET (self));
  gtk_widget_set_visible (self->scale, FALSE);
  adjustment = gtk_range_get_adjustment (GTK_RANGE (self->scale));
  g_object_bind_property (self, "split", adjustment, "value",
                          G_BINDING_BIDIRECTIONAL | G_BINDING_SYNC_CREATE);

  g_signal_connect_swapped (drag, "drag-begin", G_CALLBACK (on_drag_begin), self);
  g_signal_connect_swapped (drag, "drag-update", G_CALLBACK (on_drag_update), self);
  gtk_widget_add_controller (GTK_WIDGET (self), GTK_EVENT_CONTROLLER (drag));
  g_signal_connect_swapped (scroll, "scroll", G_CALLBACK (on_scroll), self);
  gtk_widget_add_controller (GTK_WIDGET (self), scroll);
}
