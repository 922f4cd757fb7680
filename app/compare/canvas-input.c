/* SPDX-License-Identifier: Apache-2.0
 *
 * What the pointer, fingers and keys do to the canvas: they move the divider, zoom and pan.
 */
#include "app/compare/canvas-private.h"

#include <math.h>

#define GRIP  16.0f /* half the width in which the divider is caught */
#define NOTCH 1.25  /* a step of the wheel zooms so much */
#define PAN   48.0  /* and pans so far, as an arrow key does */

/* -- The divider, and panning by a drag ---------------------------------------------------------
 */

static void
set_split_at (TesseraCanvas *self, double x)
{
  graphene_rect_t visible;
  double share;

  canvas_get_visible_rect (self, &visible);
  share = CLAMP ((x - visible.origin.x) / visible.size.width, 0, 1);
  g_object_set (self, "split", canvas_is_rtl (self) ? 1 - share : share, NULL);
}

/* So that what is seen moves that far. */
static void
pan_from (TesseraCanvas *self, double centre_x, double centre_y, double dx, double dy)
{
  graphene_rect_t rect;

  canvas_get_picture_rect (self, &rect);
  canvas_set_centre (self, centre_x - dx / rect.size.width, centre_y - dy / rect.size.height);
}

static void
on_drag_begin (TesseraCanvas *self, double x, double y)
{
  self->drag_x = x;
  self->drag_y = y;
  self->drag_centre_x = self->centre_x;
  self->drag_centre_y = self->centre_y;
  /* Without a zoom there is nothing to pan, so the whole picture moves the divider. */
  self->drag_divider = canvas_effective_mode (self, self->layers) == VIEW_SLIDER
                       && (self->zoom <= 0 || fabs (x - canvas_divider_x (self)) < GRIP);
  if (self->drag_divider)
    set_split_at (self, x);
}

static void
on_drag_update (TesseraCanvas *self, double dx, double dy)
{
  if (self->layers[FIRST] == NULL)
    return;
  if (self->drag_divider)
    set_split_at (self, self->drag_x + dx);
  else
    pan_from (self, self->drag_centre_x, self->drag_centre_y, dx, dy);
}

/* -- Zooming ------------------------------------------------------------------------------------
 */

static void
on_motion (TesseraCanvas *self, double x, double y)
{
  self->pointer_x = x;
  self->pointer_y = y;
}

/* With Control the wheel zooms where the pointer is; without, it moves what does not fit. */
static gboolean
on_scroll (TesseraCanvas *self, double dx, double dy, GtkEventController *controller)
{
  if ((gtk_event_controller_get_current_event_state (controller) & GDK_CONTROL_MASK) != 0)
    canvas_zoom_at (self, pow (NOTCH, -dy), self->pointer_x, self->pointer_y);
  else if (self->zoom > 0 && self->layers[FIRST] != NULL)
    pan_from (self, self->centre_x, self->centre_y, -PAN * dx, -PAN * dy);
  else
    return GDK_EVENT_PROPAGATE;
  return GDK_EVENT_STOP;
}

/* Twice at one place: its pixels as they are, and back. */
static void
on_pressed (TesseraCanvas *self, int n_press, double x, double y)
{
  if (n_press != 2)
    return;
  if (self->zoom > 0)
    canvas_set_zoom (self, 0);
  else
    canvas_zoom_to (self, 1, x, y);
}

static void
on_pinch_begin (TesseraCanvas *self)
{
  self->pinch = 1;
}

static void
on_pinch (TesseraCanvas *self, double scale, GtkGesture *gesture)
{
  double x, y;

  if (scale <= 0 || !gtk_gesture_get_bounding_box_center (gesture, &x, &y))
    return;
  canvas_zoom_at (self, scale / self->pinch, x, y);
  self->pinch = scale;
}

/* -- Keys ---------------------------------------------------------------------------------------
 */

static gboolean
on_key (TesseraCanvas *self, guint key, guint code, GdkModifierType state)
{
  static const struct
  {
    guint key;
    int dx, dy;
  } arrows[] = {
    { GDK_KEY_Left, 1, 0 },
    { GDK_KEY_Right, -1, 0 },
    { GDK_KEY_Up, 0, 1 },
    { GDK_KEY_Down, 0, -1 },
  };

  if (self->zoom <= 0 || self->layers[FIRST] == NULL
      || (state & gtk_accelerator_get_default_mod_mask ()) != 0)
    return GDK_EVENT_PROPAGATE;
  for (guint i = 0; i < G_N_ELEMENTS (arrows); i++)
    if (arrows[i].key == key)
      {
        pan_from (self, self->centre_x, self->centre_y, PAN * arrows[i].dx, PAN * arrows[i].dy);
        return GDK_EVENT_STOP;
      }
  return GDK_EVENT_PROPAGATE;
}

static void
add (TesseraCanvas *self, gpointer controller)
{
  gtk_widget_add_controller (GTK_WIDGET (self), controller);
}

void
canvas_add_controllers (TesseraCanvas *self)
{
  GtkGesture *drag = gtk_gesture_drag_new ();
  GtkGesture *click = gtk_gesture_click_new ();
  GtkGesture *pinch = gtk_gesture_zoom_new ();
  GtkEventController *motion = gtk_event_controller_motion_new ();
  GtkEventController *keys = gtk_event_controller_key_new ();
  GtkEventController *scroll
      = gtk_event_controller_scroll_new (GTK_EVENT_CONTROLLER_SCROLL_BOTH_AXES);

  g_signal_connect_swapped (drag, "drag-begin", G_CALLBACK (on_drag_begin), self);
  g_signal_connect_swapped (drag, "drag-update", G_CALLBACK (on_drag_update), self);
  g_signal_connect_swapped (click, "pressed", G_CALLBACK (on_pressed), self);
  g_signal_connect_swapped (pinch, "begin", G_CALLBACK (on_pinch_begin), self);
  g_signal_connect_swapped (pinch, "scale-changed", G_CALLBACK (on_pinch), self);
  g_signal_connect_swapped (motion, "motion", G_CALLBACK (on_motion), self);
  g_signal_connect_swapped (keys, "key-pressed", G_CALLBACK (on_key), self);
  g_signal_connect_swapped (scroll, "scroll", G_CALLBACK (on_scroll), self);
  add (self, drag);
  add (self, click);
  add (self, pinch);
  add (self, motion);
  add (self, keys);
  add (self, scroll);
}
