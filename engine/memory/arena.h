/* SPDX-License-Identifier: Apache-2.0
 *
 * arena.h - memory of activations
 *
 * One block on the device, sized by a dry run of the very code that will use it. Tensors are taken
 * from either end and given back to a mark; there is no per-tensor free. Two ends let a chain of
 * layers hand its result from one to the other while temporaries come and go in between.
 */
#pragma once

#include "kernels/kernels.h"

#include <glib.h>

G_BEGIN_DECLS

typedef enum
{
  ARENA_LOW,
  ARENA_HIGH,
} ArenaEnd;

typedef struct
{
  const Ops *ops;
  Stream *stream;
  char *base;     /* NULL while counting */
  size_t size;    /* bytes of the block; huge while counting */
  size_t used[2]; /* bytes in use at each end */
  size_t peak;    /* most bytes ever in use since init */
} Arena;

/* An arena that only counts: its tensors have data NULL. */
void arena_init_counting (Arena *self);
/* Takes `size` bytes from the device. */
Status arena_init (Arena *self, const Ops *ops, Stream *stream, size_t size);
void arena_clear (Arena *self); /* gives the block back; an all-zero Arena is a no-op */

/* A tensor of 1 to 4 extents (the first 0 ends the list), 256-byte aligned. STATUS_NO_MEMORY when
 * the block is full, which the dry run rules out. */
Status
arena_tensor (Arena *self, Tensor *out, DType dtype, int64_t a, int64_t b, int64_t c, int64_t d);
Status arena_tensor_at (Arena *self, ArenaEnd end, Tensor *out, DType dtype, int64_t a, int64_t b,
                        int64_t c, int64_t d);

/* An arena of what is free in this one, which must not be used until it is given back. */
void arena_take_rest (const Arena *self, Arena *rest);
void arena_give_rest (Arena *self, const Arena *rest);

/* Bytes in use at an end; everything taken there since the mark is free again after a release. */
size_t arena_mark (const Arena *self, ArenaEnd end);
void arena_release (Arena *self, ArenaEnd end, size_t mark);

G_END_DECLS
