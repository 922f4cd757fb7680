/* SPDX-License-Identifier: Apache-2.0
 *
 * What the canvas draws, in each of its modes.
 */
#include "app/compare/canvas-private.h"

#define RADIUS      8.0f
#define HANDLE      13.0f /* radius of the disc on the divider */
#define LABEL_INSET 10.0f

static void
draw_texture (GtkSnapshot *snapshot, GdkTexture *texture, const graphene_rect_t *pane,
              const graphene_rect_t *rect)
{
  graphene_rect_t visible;
  GskRoundedRect clip;

  if (texture == NULL || !graphene_rect_intersection (pane, rect, &visible))
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
  if (at_end != canvas_is_rtl (self))
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
  const float x = canvas_divider_x (self);
  GdkTexture *left = canvas_get_drawn (self, canvas_is_rtl (self) ? SECOND : FIRST);
  GdkTexture *right = canvas_get_drawn (self, canvas_is_rtl (self) ? FIRST : SECOND);
  graphene_rect_t visible, part;

  canvas_get_visible_rect (self, &visible);
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

void
canvas_snapshot (GtkWidget *widget, GtkSnapshot *snapshot)
{
  TesseraCanvas *self = TESSERA_CANVAS (widget);
  const ViewMode mode = canvas_effective_mode (self, self->layers);
  graphene_rect_t pane, rect, visible;

  if (self->layers[FIRST] == NULL)
    return;
  canvas_get_pane (self, self->layers, 0, &pane);
  canvas_place_picture (self, self->layers, &pane, &rect);
  switch (mode)
    {
    case VIEW_SIDE_BY_SIDE:
      for (int i = 0; i < 2; i++)
        {
          canvas_get_pane (self, self->layers, i, &pane);
          canvas_place_picture (self, self->layers, &pane, &rect);
          draw_texture (snapshot, canvas_get_drawn (self, i == 0 ? FIRST : SECOND), &pane, &rect);
          if (graphene_rect_intersection (&pane, &rect, &visible))
            draw_label (self, snapshot, i == 0 ? self->first_label : self->second_label, &visible,
                        FALSE);
        }
      break;
    case VIEW_SLIDER:
      draw_slider (self, snapshot, &pane, &rect);
      break;
    case VIEW_DIFFERENCE:
      draw_texture (snapshot, canvas_get_drawn (self, DIFFERENCE), &pane, &rect);
      break;
    case VIEW_IMAGE:
    default:
      draw_texture (snapshot, canvas_get_drawn (self, self->swapped ? SECOND : FIRST), &pane,
                    &rect);
      canvas_get_visible_rect (self, &visible);
      if (self->layers[SECOND] != NULL)
        draw_label (self, snapshot, self->swapped ? self->second_label : self->first_label,
                    &visible, FALSE);
    }
  if (mode == VIEW_SLIDER)
    gtk_widget_snapshot_child (widget, self->scale, snapshot);
}
