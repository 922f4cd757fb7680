/* SPDX-License-Identifier: Apache-2.0
 *
 * arena.h - memory of activations
 *
 * One block on the device, sized by a dry run of the very code that will use it; offsets grow,
 * and are taken back to a mark. There is no per-tensor free.
 */
#pragma once

#include "kernels/kernels.h"

#include <glib.h>

G_BEGIN_DECLS

typedef struct
{
  const Ops *ops;
  Stream *stream;
  char *base;    /* NULL while counting */
  size_t size;   /* bytes of the block; G_MAXSIZE while counting */
  size_t offset; /* bytes in use */
  size_t peak;   /* most bytes ever in use since arena_init */
} Arena;

/* An arena that only counts: its tensors have data NULL. */
void arena_init_counting (Arena *self);
/* Takes `size` bytes from the device. */
Status arena_init (Arena *self, const Ops *ops, Stream *stream, size_t size);
void arena_clear (Arena *self); /* gives the block back; an all-zero Arena is a no-op */

/* A tensor of 1 to 4 extents (0 ends the list early), 256-byte aligned. STATUS_NO_MEMORY when
 * the block is full, which the dry run rules out. */
Status
arena_tensor (Arena *self, Tensor *out, DType dtype, int64_t a, int64_t b, int64_t c, int64_t d);

size_t arena_mark (const Arena *self);
void arena_release (Arena *self, size_t mark); /* everything since the mark is free again */

G_END_DECLS
