/* SPDX-License-Identifier: Apache-2.0
 *
 * difference.h - how two pictures differ, measured on a pool thread
 */
#pragma once

#include "app/history/picture.h"

G_BEGIN_DECLS

typedef struct
{
  GdkTexture *map; /* (owned) coloured on a fixed scale */
  char *text;      /* (owned) the figures, for people */
} Difference;

void difference_free (Difference *self); /* NULL is a no-op */

/* Both pictures must have one size. */
void difference_measure_async (TesseraPicture *first, TesseraPicture *second,
                               GCancellable *cancellable, GAsyncReadyCallback callback,
                               gpointer data);
Difference *difference_measure_finish (GAsyncResult *result, GError **error);

/* The colours from no difference to the largest that the scale tells apart (transfer full). */
GdkTexture *difference_ramp (void);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Difference, difference_free)

G_END_DECLS
