/* SPDX-License-Identifier: Apache-2.0
 *
 * metrics-pictures.h - the pictures and weights that tests/data/metrics/expected.json speaks of
 *
 * Integer formulas, the same as in tests/data/metrics/make-expected.py.
 */
#pragma once

#include "engine/picture/image.h"

/* Picture `scene` (transfer full); see scene() there for the names. */
Image *metrics_picture (const char *scene, int width, int height);
/* The other picture of a pair (transfer full): a change of `a`, or a scene. */
Image *metrics_picture_change (const char *change, Image *a);
/* Sum of all values, to see that both sides speak of the same picture. */
guint64 metrics_picture_sum (Image *image);

/* Writes made-up weights for LPIPS to `path`, in the names of LPIPS' own package, or of
 * torchvision with `torchvision`; layer `without` (-1 = none) lacks its bias. */
void metrics_write_weights (const char *path, gboolean torchvision, int without);
