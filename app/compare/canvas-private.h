/* SPDX-License-Identifier: Apache-2.0
 *
 * canvas-private.h - what the canvas's files share
 *
 * What is shown are up to three layers. A large one is not drawn itself but as a copy of the size
 * at which it is seen, made on a pool thread; until the copies of new pictures are there, the old
 * ones stay.
 */
#pragma once

#include "app/compare/canvas.h"

G_BEGIN_DECLS

enum
{
  FIRST,
  SECOND,
  DIFFERENCE,
  N_LAYERS
};

struct _TesseraCanvas
{
  GtkWidget parent_instance;

  /* Owned References */
  GtkWidget *scale;
  GdkTexture *layers[N_LAYERS]; /* what is shown */
  GdkTexture *copies[N_LAYERS]; /* of them, to be drawn in their place; or NULL */
  GdkTexture *wanted[N_LAYERS]; /* what will be shown */
  char *first_label, *second_label;

  ViewMode mode;
  gboolean swapped;
  double split;
  double zoom;               /* picture pixels to device pixels; 0 = fit */
  double centre_x, centre_y; /* of what is seen, in shares of the picture */
  gboolean copying;          /* a pool thread is at it */

  /* Of a drag: where it began, and the centre then */
  double drag_x, drag_y, drag_centre_x, drag_centre_y;
  gboolean drag_divider;
  double pointer_x, pointer_y; /* where it was last */
  double pinch;                /* how far the fingers had spread then */
};

/* canvas.c: where things are. `layers` are the shown or the wanted ones; the first is not NULL. */
gboolean canvas_is_rtl (TesseraCanvas *self);
/* The mode that can be drawn with what there is. */
ViewMode canvas_effective_mode (TesseraCanvas *self, GdkTexture *const *layers);
/* The space for picture `index` (0 or 1). */
void
canvas_get_pane (TesseraCanvas *self, GdkTexture *const *layers, int index, graphene_rect_t *pane);
/* The whole picture's rectangle in (and perhaps beyond) its pane. */
void canvas_place_picture (TesseraCanvas *self, GdkTexture *const *layers,
                           const graphene_rect_t *pane, graphene_rect_t *rect);
/* The part of the picture that is seen. */
void canvas_get_visible_rect (TesseraCanvas *self, graphene_rect_t *visible);
float canvas_divider_x (TesseraCanvas *self);
/* Something is shown anew. */
void canvas_update (TesseraCanvas *self);
/* What is at that point of the widget stays there. */
void canvas_zoom_to (TesseraCanvas *self, double zoom, double x, double y);
void canvas_set_centre (TesseraCanvas *self, double x, double y);

/* canvas-input.c */
void canvas_add_controllers (TesseraCanvas *self);

/* canvas-copies.c: makes what is wanted and the size at which it is seen come true. */
void canvas_update_copies (TesseraCanvas *self);
/* What is to be drawn for a layer; NULL: nothing yet. */
GdkTexture *canvas_get_drawn (TesseraCanvas *self, int layer);

/* canvas-draw.c */
void canvas_snapshot (GtkWidget *widget, GtkSnapshot *snapshot);

G_END_DECLS
