/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/memory/shelf.h"

#define BULK_SLOT SHELF_SLOTS /* of the device's transfers: the one that is not a shelf's slot */
#define ALIGNMENT ((gsize)256)

typedef struct
{
  Linear *linears[SHELF_MAX_LINEARS]; /* borrowed */
  gsize offsets[SHELF_MAX_LINEARS];
  int n_linears;
  char *image; /* (owned) host memory; NULL: nothing here can be moved */
  gsize bytes;
  gboolean streamed;
  int slot;
} Bundle;

typedef struct
{
  char *memory;     /* (owned) device */
  int holds;        /* the bundle that is there, or on its way; -1: none */
  gboolean awaited; /* and has not been used since */
} Slot;

struct _Shelf
{
  Bundle *bundles;
  int n, loop;
  gsize largest;
  gboolean brought;
  char *places; /* (owned) device memory of all bundles that are not streamed; NULL while away */
  Slot slots[SHELF_SLOTS];
  int next; /* the streamed bundle to fetch next, or -1 */
};

Shelf *
shelf_new (int n_bundles, int loop)
{
  Shelf *self = g_new0 (Shelf, 1);

  self->bundles = g_new0 (Bundle, (gsize)MAX (n_bundles, 1));
  self->n = n_bundles;
  self->loop = loop;
  return self;
}

void
shelf_free (Shelf *self, const Context *ctx)
{
  if (self == NULL)
    return;
  if (!context_is_dry (ctx))
    {
      shelf_put_away (self, ctx);
      for (int i = 0; i < self->n; i++)
        if (self->bundles[i].image != NULL)
          ctx->ops->host_free (ctx->stream, self->bundles[i].image);
    }
  g_free (self->bundles);
  g_free (self);
}

/* -- images -------------------------------------------------------------------------------------
 */

static gsize
aligned (gsize bytes)
{
  return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void
describe (Bundle *b, Linear *const *linears, int n)
{
  g_assert (n <= SHELF_MAX_LINEARS);
  for (int i = 0; i < n; i++)
    if (linears[i] != NULL && linears[i]->memory_bytes > 0)
      {
        b->linears[b->n_linears] = linears[i];
        b->offsets[b->n_linears++] = b->bytes;
        b->bytes += aligned (linears[i]->memory_bytes);
      }
}

static void
move_linears (Bundle *b, char *base)
{
  for (int i = 0; i < b->n_linears; i++)
    b->linears[i]->backend->move (b->linears[i], base != NULL ? base + b->offsets[i] : NULL);
}

static Status
make_image (const Context *ctx, Bundle *b)
{
  const Ops *ops = ctx->ops;
  void *image;

  CHECK (ops->host_alloc (ctx->stream, b->bytes, &image));
  b->image = image;
  CHECK (ops->transfer_used (ctx->stream, BULK_SLOT));
  for (int i = 0; i < b->n_linears; i++)
    CHECK (ops->transfer (ctx->stream, BULK_SLOT, b->image + b->offsets[i], b->linears[i]->memory,
                          b->linears[i]->memory_bytes));
  CHECK (ops->transfer_wait (ctx->stream, BULK_SLOT));
  CHECK (ops->wait (ctx->stream));
  for (int i = 0; i < b->n_linears; i++)
    ops->free (ctx->stream, b->linears[i]->memory);
  move_linears (b, NULL);
  return STATUS_OK;
}

void
shelf_store (Shelf *self, Loader *loader, int index, Linear *const *linears, int n)
{
  Bundle *b = &self->bundles[index];

  if (loader_failed (loader))
    return;
  describe (b, linears, n);
  self->largest = MAX (self->largest, b->bytes);
  loader_count_bundle (loader, b->bytes);
  if (!context_is_dry (loader->ctx) && b->bytes > 0)
    loader->status = make_image (loader->ctx, b);
}

guint64
shelf_image_bytes (const Shelf *self)
{
  guint64 sum = 0;

  for (int i = 0; i < self->n; i++)
    sum += self->bundles[i].image != NULL ? self->bundles[i].bytes : 0;
  return sum;
}

/* -- which bundles stream -----------------------------------------------------------------------
 */

/* TRUE if `index` is one of n_streamed spread over n. */
static gboolean
is_chosen (int index, int n, int n_streamed)
{
  return (index + 1) * n_streamed / n != index * n_streamed / n;
}

void
shelf_set_streamed (Shelf *self, int n_streamed)
{
  int count = 0;

  g_assert (!self->brought);
  for (int i = 0; i < self->n; i++)
    {
      Bundle *b = &self->bundles[i];

      b->streamed = is_chosen (i, self->n, n_streamed);
      b->slot = b->streamed ? count++ % SHELF_SLOTS : -1;
    }
}

gboolean
shelf_is_streamed (const Shelf *self, int index)
{
  return self != NULL && self->bundles[index].streamed;
}

guint64
shelf_device_bytes (guint64 bytes, guint64 largest, int n, int n_streamed)
{
  guint64 all = n_streamed > 0 ? (guint64)MIN (n_streamed, SHELF_SLOTS) * largest : 0;

  return n > 0 ? all + bytes / (guint64)n * (guint64)(n - n_streamed) : bytes;
}

/* The next streamed bundle from `index` on, over the end into the loop; -1: none. */
static int
find_streamed (const Shelf *self, int index)
{
  for (int i = index; i < self->n; i++)
    if (self->bundles[i].streamed && self->bundles[i].image != NULL)
      return i;
  for (int i = self->loop; i >= 0 && i < index && i < self->n; i++)
    if (self->bundles[i].streamed && self->bundles[i].image != NULL)
      return i;
  return -1;
}

/* -- to the device and back ---------------------------------------------------------------------
 */

static Status
fetch (Shelf *self, const Context *ctx, int index)
{
  const Bundle *b = &self->bundles[index];
  Slot *slot = &self->slots[b->slot];

  slot->awaited = TRUE;
  self->next = find_streamed (self, index + 1);
  if (slot->holds == index)
    return STATUS_OK;
  slot->holds = index;
  return ctx->ops->transfer (ctx->stream, b->slot, slot->memory, b->image, b->bytes);
}

/* Fills the slots that nobody waits for. */
static Status
prefetch (Shelf *self, const Context *ctx)
{
  for (int i = 0; i < SHELF_SLOTS && self->next >= 0; i++)
    {
      if (self->slots[self->bundles[self->next].slot].awaited)
        break;
      CHECK (fetch (self, ctx, self->next));
    }
  return STATUS_OK;
}

static Status
take_slots (Shelf *self, const Context *ctx)
{
  int n_streamed = 0;

  for (int i = 0; i < self->n; i++)
    n_streamed += self->bundles[i].streamed;
  for (int i = 0; i < SHELF_SLOTS; i++)
    {
      void *memory = NULL;

      self->slots[i] = (Slot){ .holds = -1 };
      if (i < n_streamed && self->largest > 0)
        CHECK (ctx->ops->alloc (ctx->stream, self->largest, &memory));
      self->slots[i].memory = memory;
    }
  return STATUS_OK;
}

/* One block for all: a device takes milliseconds to give a hundred of them back. */
static Status
take_places (Shelf *self, const Context *ctx)
{
  gsize bytes = 0;
  void *memory = NULL;

  for (int i = 0; i < self->n; i++)
    if (self->bundles[i].image != NULL && !self->bundles[i].streamed)
      bytes += self->bundles[i].bytes;
  if (bytes > 0)
    CHECK (ctx->ops->alloc (ctx->stream, bytes, &memory));
  self->places = memory;
  return STATUS_OK;
}

static Status
bring (Shelf *self, const Context *ctx)
{
  char *place;

  CHECK (take_slots (self, ctx));
  CHECK (take_places (self, ctx));
  place = self->places;
  for (int i = 0; i < self->n; i++)
    {
      Bundle *b = &self->bundles[i];

      if (b->image == NULL)
        continue;
      if (b->streamed)
        {
          move_linears (b, self->slots[b->slot].memory);
          continue;
        }
      CHECK (context_check_cancelled (ctx));
      move_linears (b, place);
      CHECK (ctx->ops->transfer (ctx->stream, BULK_SLOT, place, b->image, b->bytes));
      place += b->bytes;
    }
  CHECK (ctx->ops->transfer_wait (ctx->stream, BULK_SLOT));
  self->next = self->largest > 0 ? find_streamed (self, 0) : -1;
  return prefetch (self, ctx);
}

gboolean
shelf_is_brought (const Shelf *self)
{
  return self->brought;
}

Status
shelf_bring (Shelf *self, const Context *ctx)
{
  Status status;

  if (self->brought || context_is_dry (ctx))
    return STATUS_OK;
  self->brought = TRUE;
  status = bring (self, ctx);
  if (status != STATUS_OK)
    shelf_put_away (self, ctx);
  return status;
}

/* Copies under way must not write into memory that is given back. */
static void
settle (Shelf *self, const Context *ctx)
{
  for (int slot = 0; slot <= BULK_SLOT; slot++)
    (void)ctx->ops->transfer_wait (ctx->stream, slot);
  (void)ctx->ops->wait (ctx->stream);
}

void
shelf_put_away (Shelf *self, const Context *ctx)
{
  if (!self->brought)
    return;
  settle (self, ctx);
  for (int i = 0; i < self->n; i++)
    if (self->bundles[i].image != NULL)
      move_linears (&self->bundles[i], NULL);
  if (self->places != NULL)
    ctx->ops->free (ctx->stream, self->places);
  self->places = NULL;
  for (int i = 0; i < SHELF_SLOTS; i++)
    {
      if (self->slots[i].memory != NULL)
        ctx->ops->free (ctx->stream, self->slots[i].memory);
      self->slots[i] = (Slot){ .holds = -1 };
    }
  self->brought = FALSE;
}

Status
shelf_acquire (Shelf *self, const Context *ctx, int index)
{
  const Bundle *b = self != NULL ? &self->bundles[index] : NULL;

  if (b == NULL || !b->streamed || b->image == NULL || context_is_dry (ctx))
    return STATUS_OK;
  if (self->slots[b->slot].holds != index)
    CHECK (fetch (self, ctx, index));
  return ctx->ops->transfer_wait (ctx->stream, b->slot);
}

Status
shelf_release (Shelf *self, const Context *ctx, int index)
{
  const Bundle *b = self != NULL ? &self->bundles[index] : NULL;

  if (b == NULL || !b->streamed || b->image == NULL || context_is_dry (ctx))
    return STATUS_OK;
  CHECK (ctx->ops->transfer_used (ctx->stream, b->slot));
  self->slots[b->slot].awaited = FALSE;
  return prefetch (self, ctx);
}
