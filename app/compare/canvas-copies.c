/* SPDX-License-Identifier: Apache-2.0
 *
 * Copies of large pictures at the size at which they are seen.
 */
#include "app/compare/canvas-private.h"
#include "app/compare/shrink.h"

#include <math.h>

/* A picture of fewer pixels is shrunk at once: nobody notices, and nothing has to wait. */
#define SMALL (1 << 19)

typedef struct /* on its way to the pool and back */
{
  GdkTexture *sources[N_LAYERS];
  GdkTexture *copies[N_LAYERS]; /* NULL: the source itself is drawn */
  int width, height;
} Order;

static void
order_free (Order *order)
{
  for (int i = 0; i < N_LAYERS; i++)
    {
      g_clear_object (&order->sources[i]);
      g_clear_object (&order->copies[i]);
    }
  g_free (order);
}

static gboolean
is_large (GdkTexture *texture)
{
  return (gint64)gdk_texture_get_width (texture) * gdk_texture_get_height (texture) > SMALL;
}

static gboolean
has_size (GdkTexture *texture, int width, int height)
{
  return texture != NULL && gdk_texture_get_width (texture) == width
         && gdk_texture_get_height (texture) == height;
}

/* TRUE if layer `i` of the order must be made smaller, and is not yet. */
static gboolean
is_due (const Order *order, int i)
{
  return order->sources[i] != NULL && order->copies[i] == NULL && order->width > 0
         && order->width < gdk_texture_get_width (order->sources[i])
         && order->height < gdk_texture_get_height (order->sources[i]);
}

static void
carry_out (Order *order)
{
  for (int i = 0; i < N_LAYERS; i++)
    if (is_due (order, i))
      order->copies[i] = texture_shrink (order->sources[i], order->width, order->height);
}

static void
shrink_in_thread (GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
  carry_out (data);
  g_task_return_boolean (task, TRUE);
}

/* The device's pixels that a whole picture of the wanted ones takes; 0: it is not seen yet. */
static void
get_wanted_size (TesseraCanvas *self, int *width, int *height)
{
  const int scale = gtk_widget_get_scale_factor (GTK_WIDGET (self));
  graphene_rect_t pane, rect;

  *width = *height = 0;
  if (self->wanted[FIRST] == NULL || gtk_widget_get_width (GTK_WIDGET (self)) <= 0)
    return;
  canvas_get_pane (self, self->wanted, 0, &pane);
  canvas_place_picture (self, self->wanted, &pane, &rect);
  *width = MAX (1, lroundf (rect.size.width * scale));
  *height = MAX (1, lroundf (rect.size.height * scale));
}

/* What has to be made, with what is there already. */
static Order *
compose (TesseraCanvas *self)
{
  Order *order = g_new0 (Order, 1);

  get_wanted_size (self, &order->width, &order->height);
  for (int i = 0; i < N_LAYERS; i++)
    {
      g_set_object (&order->sources[i], self->wanted[i]);
      if (self->wanted[i] == self->layers[i]
          && has_size (self->copies[i], order->width, order->height))
        g_set_object (&order->copies[i], self->copies[i]);
    }
  return order;
}

static void
adopt (TesseraCanvas *self, Order *order)
{
  for (int i = 0; i < N_LAYERS; i++)
    {
      g_set_object (&self->layers[i], order->sources[i]);
      g_set_object (&self->copies[i], order->copies[i]);
    }
  if (self->layers[SECOND] == NULL)
    self->swapped = FALSE;
}

static void
on_shrunk (GObject *source, GAsyncResult *result, gpointer data)
{
  TesseraCanvas *self = TESSERA_CANVAS (source);
  Order *order = g_task_get_task_data (G_TASK (result));
  gboolean current = TRUE;

  self->copying = FALSE;
  if (self->scale == NULL) /* disposed of */
    return;
  for (int i = 0; i < N_LAYERS; i++)
    current = current && order->sources[i] == self->wanted[i];
  if (current)
    adopt (self, order);
  canvas_update (self);
}

void
canvas_update_copies (TesseraCanvas *self)
{
  gboolean large = FALSE;
  Order *order;

  if (self->copying)
    return; /* looks again when it is done */
  order = compose (self);
  for (int i = 0; i < N_LAYERS; i++)
    large = large || (is_due (order, i) && is_large (order->sources[i]));
  if (large)
    {
      g_autoptr (GTask) task = g_task_new (self, NULL, on_shrunk, NULL);

      self->copying = TRUE;
      g_task_set_task_data (task, order, (GDestroyNotify)order_free);
      g_task_run_in_thread (task, shrink_in_thread);
      return;
    }
  carry_out (order);
  adopt (self, order);
  order_free (order);
}

GdkTexture *
canvas_get_drawn (TesseraCanvas *self, int layer)
{
  GdkTexture *texture = self->layers[layer];
  graphene_rect_t pane, rect;
  float width;

  if (texture == NULL)
    return NULL;
  canvas_get_pane (self, self->layers, 0, &pane);
  canvas_place_picture (self, self->layers, &pane, &rect);
  width = rect.size.width * gtk_widget_get_scale_factor (GTK_WIDGET (self));
  if (width >= gdk_texture_get_width (texture))
    return texture;
  /* A copy of another size will do until the right one is there. */
  if (self->copies[layer] != NULL)
    return self->copies[layer];
  return is_large (texture) ? NULL : texture;
}
