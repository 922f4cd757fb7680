/* SPDX-License-Identifier: Apache-2.0
 *
 * compare-view.h - one picture, or two of the same request in different precisions
 *
 * Shows them as an image, side by side, under a slider, or as a map of their differences on a
 * fixed scale, with figures below. Pairs that differ in more than precision are refused.
 */
#pragma once

#include "app/compare/canvas.h"
#include "app/history/picture.h"

G_BEGIN_DECLS

#define TESSERA_TYPE_COMPARE_VIEW (compare_view_get_type ())
G_DECLARE_FINAL_TYPE (TesseraCompareView, compare_view, TESSERA, COMPARE_VIEW, GtkWidget)

/* Properties: mode (int, a ViewMode), comparing (boolean: there are two pictures). */

/* Either may be NULL. FALSE when the pair cannot be compared: then `first` is shown alone, and a
 * line says which value differs. */
gboolean
compare_view_set_pictures (TesseraCompareView *self, TesseraPicture *first, TesseraPicture *second);
/* A picture in the making, while there is no other to show. */
void compare_view_set_preview (TesseraCompareView *self, GdkTexture *preview);

TesseraPicture *compare_view_get_first (TesseraCompareView *self);  /* borrowed, may be NULL */
TesseraPicture *compare_view_get_second (TesseraCompareView *self); /* borrowed, may be NULL */
/* The one that is seen when only one is: first, or second while swapped. */
TesseraPicture *compare_view_get_shown (TesseraCompareView *self);

ViewMode compare_view_get_mode (TesseraCompareView *self);
void compare_view_set_mode (TesseraCompareView *self, ViewMode mode);
void compare_view_blink (TesseraCompareView *self); /* the other picture in the same place */
TesseraCanvas *compare_view_get_canvas (TesseraCompareView *self);
/* TRUE once the differences of the pair are known and shown. */
gboolean compare_view_is_measured (TesseraCompareView *self);

/* What opens over the pictures at the secondary button, and by compare_view_popup_menu. */
void compare_view_set_menu (TesseraCompareView *self, GMenuModel *menu);
void compare_view_popup_menu (TesseraCompareView *self);

/* Both pictures in one, the first at the left (transfer full); NULL unless there are two. */
Image *compare_view_join (TesseraCompareView *self);

G_END_DECLS
