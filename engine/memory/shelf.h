/* SPDX-License-Identifier: Apache-2.0
 *
 * shelf.h - a part's block weights while they are off the device, and on their way to it
 *
 * A Shelf keeps an image of each bundle (the large linears of one block, as the device has them) in
 * host memory. For its phase the part is brought to the device: resident bundles have a place of
 * their own there, streamed ones share SHELF_SLOTS places, where each is copied before its turn
 * while those before it compute. What else a part has - norms, embedders - stays on the device.
 */
#pragma once

#include "engine/loader.h"

G_BEGIN_DECLS

#define SHELF_SLOTS       2
#define SHELF_MAX_LINEARS 4

typedef struct _Shelf Shelf;

/* The bundles are used in order; behind the last one comes `loop`, or nothing (-1). */
Shelf *shelf_new (int n_bundles, int loop);
/* The linears must be freed afterwards; they own nothing by then. NULL is a no-op. */
void shelf_free (Shelf *self, const Context *ctx);

/* Moves the weights of a bundle just loaded into an image; the linears stay the caller's. Linears
 * that cannot be moved stay as they are. On a dry context only counts. Failures go to `loader`. */
void shelf_store (Shelf *self, Loader *loader, int index, Linear *const *linears, int n);

/* How many bundles are streamed from the next shelf_bring on, spread evenly. */
void shelf_set_streamed (Shelf *self, int n_streamed);
/* TRUE for a bundle that is streamed: its work must be recorded apart. FALSE without a shelf. */
gboolean shelf_is_streamed (const Shelf *self, int index);

gboolean shelf_is_brought (const Shelf *self);
/* Takes device memory and begins to copy; a no-op when it is there. On failure all is given back.
 */
Status shelf_bring (Shelf *self, const Context *ctx);
/* Gives the device memory back, once the device has finished. */
void shelf_put_away (Shelf *self, const Context *ctx);

/* Around the work of each bundle; work queued in between finds the bundle's weights. Any order is
 * right, the expected one is fast. No-ops for resident bundles, and without a shelf (NULL). */
Status shelf_acquire (Shelf *self, const Context *ctx, int index);
Status shelf_release (Shelf *self, const Context *ctx, int index);

guint64 shelf_image_bytes (const Shelf *self); /* host memory held */

/* Device memory of bundles of `bytes` in all, the largest `largest`, when n_streamed of n are. */
guint64 shelf_device_bytes (guint64 bytes, guint64 largest, int n, int n_streamed);

G_END_DECLS
