/* SPDX-License-Identifier: Apache-2.0
 *
 * shrink.h - a texture at a smaller size
 *
 * Every pixel of the source counts (a triangle filter as wide as the step between two pixels), so
 * that fine lines do not break up. GTK's renderers take four neighbours at most, and cairo's needs
 * up to a second for a large picture, on the main thread, at each drawing.
 */
#pragma once

#include <gdk/gdk.h>

G_BEGIN_DECLS

/* A copy of width x height pixels, neither above the source's (transfer full). (any thread) */
GdkTexture *texture_shrink (GdkTexture *texture, int width, int height);

/* The same, its longest side at most `size`; the texture itself if it is no longer. (any thread) */
GdkTexture *texture_shrink_to_fit (GdkTexture *texture, int size);

G_END_DECLS
