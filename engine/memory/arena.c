/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/memory/arena.h"

#define ALIGNMENT ((size_t)256)

void
arena_init_counting (Arena *self)
{
  *self = (Arena){ .size = G_MAXSIZE / ALIGNMENT * ALIGNMENT };
}

Status
arena_init (Arena *self, const Ops *ops, Stream *stream, size_t size)
{
  void *block = NULL;

  size = MAX (1, (size + ALIGNMENT - 1) / ALIGNMENT) * ALIGNMENT;
  *self = (Arena){ .ops = ops, .stream = stream };
  CHECK (ops->alloc (stream, size, &block));
  self->base = block;
  self->size = size;
  return STATUS_OK;
}

void
arena_clear (Arena *self)
{
  if (self->base != NULL)
    self->ops->free (self->stream, self->base);
  *self = (Arena){ 0 };
}

Status
arena_tensor (Arena *self, Tensor *out, DType dtype, int64_t a, int64_t b, int64_t c, int64_t d)
{
  return arena_tensor_at (self, ARENA_LOW, out, dtype, a, b, c, d);
}

Status
arena_tensor_at (Arena *self, ArenaEnd end, Tensor *out, DType dtype, int64_t a, int64_t b,
                 int64_t c, int64_t d)
{
  int64_t shape[TENSOR_MAX_RANK] = { a, b, c, d };
  size_t bytes;

  *out = (Tensor){ .dtype = dtype, .shape = { 1, 1, 1, 1 } };
  while (out->rank < TENSOR_MAX_RANK && shape[out->rank] > 0)
    {
      out->shape[out->rank] = shape[out->rank];
      out->rank++;
    }

  bytes = (tensor_bytes (out) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  if (bytes > self->size - self->used[ARENA_LOW] - self->used[ARENA_HIGH])
    return STATUS_NO_MEMORY;
  self->used[end] += bytes;
  self->peak = MAX (self->peak, self->used[ARENA_LOW] + self->used[ARENA_HIGH]);
  if (self->base != NULL)
    out->data = end == ARENA_LOW ? self->base + self->used[end] - bytes
                                 : self->base + self->size - self->used[end];
  return STATUS_OK;
}

void
arena_take_rest (const Arena *self, Arena *rest)
{
  *rest = (Arena){ .base = self->base != NULL ? self->base + self->used[ARENA_LOW] : NULL,
                   .size = self->size - self->used[ARENA_LOW] - self->used[ARENA_HIGH] };
}

void
arena_give_rest (Arena *self, const Arena *rest)
{
  self->peak = MAX (self->peak, self->used[ARENA_LOW] + self->used[ARENA_HIGH] + rest->peak);
}

size_t
arena_mark (const Arena *self, ArenaEnd end)
{
  return self->used[end];
}

void
arena_release (Arena *self, ArenaEnd end, size_t mark)
{
  g_assert (mark <= self->used[end]);
  self->used[end] = mark;
}
