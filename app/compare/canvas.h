/* SPDX-License-Identifier: Apache-2.0
 *
 * canvas.h - draws one or two pictures
 *
 * Zoom and pan are shared by both. Under the picture sits a real GtkScale, as wide as the picture,
 * that moves the divider of the slider: in GTK 4.8 only that has a value that a screen reader can
 * see and set.
 */
#pragma once

#include <gtk/gtk.h>

G_BEGIN_DECLS

typedef enum
{
  VIEW_IMAGE,
  VIEW_SIDE_BY_SIDE,
  VIEW_SLIDER,
  VIEW_DIFFERENCE,
} ViewMode;

#define N_VIEW_MODES 4

#define TESSERA_TYPE_CANVAS (canvas_get_type ())
G_DECLARE_FINAL_TYPE (TesseraCanvas, canvas, TESSERA, CANVAS, GtkWidget)

/* Properties: split (double, 0 to 1, share of the first picture), zoom (double; 0 fits). */

/* Any of them may be NULL. `first` is drawn at the start (left in left-to-right), and alone. */
void canvas_set_textures (TesseraCanvas *self, GdkTexture *first, GdkTexture *second,
                          GdkTexture *difference);
/* What is written on the pictures when both are seen. */
void canvas_set_labels (TesseraCanvas *self, const char *first, const char *second);
void canvas_set_mode (TesseraCanvas *self, ViewMode mode);
/* VIEW_IMAGE only: the second picture in the first one's place. */
void canvas_set_swapped (TesseraCanvas *self, gboolean swapped);
gboolean canvas_get_swapped (TesseraCanvas *self);

/* Multiplies the zoom, keeping the middle where it is; 0 fits. */
void canvas_zoom (TesseraCanvas *self, double factor);
/* The same around a point of the widget, where it leaves what is there. */
void canvas_zoom_at (TesseraCanvas *self, double factor, double x, double y);
void canvas_set_zoom (TesseraCanvas *self, double zoom);

/* Where the first picture is drawn, in the widget's coordinates. */
void canvas_get_picture_rect (TesseraCanvas *self, graphene_rect_t *rect);

G_END_DECLS
