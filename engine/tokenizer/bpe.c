/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/tokenizer/bpe.h"

#include <string.h>

#define NO_RANK G_MAXUINT32
#define NOBODY  G_MAXUINT32

typedef struct
{
  guint64 pair; /* left id << 32 | right id */
  guint32 rank; /* NO_RANK: this slot is free */
} Slot;

/* A symbol of the piece, in a list by position. */
typedef struct
{
  guint32 id;
  guint32 previous, next; /* positions, or NOBODY */
  guint32 rank;           /* of the merge with the next symbol, or NO_RANK */
} Symbol;

struct _Bpe
{
  guint32 bytes[256];
  Slot *slots; /* hash table, open addressing, at most half full */
  guint64 mask;
  GArray *merged; /* guint32: id that the merge of this rank makes */
  Symbol *symbols;
  gsize n_symbols_allocated;
  GArray *heap; /* guint64: rank << 32 | position, least first; stale entries are skipped */
};

Bpe *
bpe_new (const guint32 bytes[256], guint n_merges)
{
  Bpe *self = g_new0 (Bpe, 1);
  guint64 n_slots = 16;

  while (n_slots < 2 * (guint64)n_merges)
    n_slots *= 2;
  memcpy (self->bytes, bytes, sizeof self->bytes);
  self->slots = g_new (Slot, n_slots);
  for (guint64 i = 0; i < n_slots; i++)
    self->slots[i] = (Slot){ 0, NO_RANK };
  self->mask = n_slots - 1;
  self->merged = g_array_new (FALSE, FALSE, sizeof (guint32));
  self->heap = g_array_new (FALSE, FALSE, sizeof (guint64));
  return self;
}

void
bpe_free (Bpe *self)
{
  if (self == NULL)
    return;
  g_free (self->slots);
  g_free (self->symbols);
  g_array_unref (self->merged);
  g_array_unref (self->heap);
  g_free (self);
}

static Slot *
find_slot (const Bpe *self, guint32 left, guint32 right)
{
  guint64 pair = (guint64)left << 32 | right;
  guint64 hash
      = pair * 0x9e3779b97f4a7c15u; /* Fibonacci hashing: the high bits are the mixed ones */
  guint64 at = (hash ^ hash >> 32) & self->mask;

  while (self->slots[at].rank != NO_RANK && self->slots[at].pair != pair)
    at = (at + 1) & self->mask;
  return &self->slots[at];
}

void
bpe_add_merge (Bpe *self, guint32 left, guint32 right, guint32 merged)
{
  Slot *slot = find_slot (self, left, right);

  g_return_if_fail (2 * (guint64)self->merged->len <= self->mask);
  slot->pair = (guint64)left << 32 | right;
  slot->rank = self->merged->len; /* of a pair listed twice the reference keeps the later rank */
  g_array_append_val (self->merged, merged);
}

static guint64
heap_get (const Bpe *self, guint i)
{
  return g_array_index (self->heap, guint64, i);
}

static void
heap_set (Bpe *self, guint i, guint64 value)
{
  g_array_index (self->heap, guint64, i) = value;
}

static void
heap_sink (Bpe *self, guint i)
{
  guint64 value = heap_get (self, i);

  for (;;)
    {
      guint child = 2 * i + 1;

      if (child >= self->heap->len)
        break;
      if (child + 1 < self->heap->len && heap_get (self, child + 1) < heap_get (self, child))
        child++;
      if (heap_get (self, child) >= value)
        break;
      heap_set (self, i, heap_get (self, child));
      i = child;
    }
  heap_set (self, i, value);
}

static void
heap_push (Bpe *self, guint64 value)
{
  guint i = self->heap->len;

  g_array_append_val (self->heap, value);
  for (; i > 0 && heap_get (self, (i - 1) / 2) > value; i = (i - 1) / 2)
    heap_set (self, i, heap_get (self, (i - 1) / 2));
  heap_set (self, i, value);
}

static guint64
heap_pop (Bpe *self)
{
  guint64 least = heap_get (self, 0);

  heap_set (self, 0, heap_get (self, self->heap->len - 1));
  g_array_set_size (self->heap, self->heap->len - 1);
  if (self->heap->len > 0)
    heap_sink (self, 0);
  return least;
}

/* Looks up the merge of the symbol at `at` with its right neighbour; TRUE if there is one. */
static gboolean
rank_symbol (Bpe *self, guint32 at)
{
  Symbol *symbol = &self->symbols[at];

  symbol->rank = symbol->next == NOBODY
                     ? NO_RANK
                     : find_slot (self, symbol->id, self->symbols[symbol->next].id)->rank;
  return symbol->rank != NO_RANK;
}

static void
start (Bpe *self, const guchar *piece, guint32 length)
{
  if (self->n_symbols_allocated < length)
    {
      self->symbols = g_renew (Symbol, self->symbols, length);
      self->n_symbols_allocated = length;
    }
  for (guint32 i = 0; i < length; i++)
    self->symbols[i] = (Symbol){ self->bytes[piece[i]], i == 0 ? NOBODY : i - 1,
                                 i + 1 == length ? NOBODY : i + 1, NO_RANK };
  g_array_set_size (self->heap, 0);
  for (guint32 i = 0; i < length; i++)
    if (rank_symbol (self, i))
      {
        guint64 value = (guint64)self->symbols[i].rank << 32 | i;
        g_array_append_val (self->heap, value);
      }
  for (guint i = self->heap->len / 2; i-- > 0;)
    heap_sink (self, i);
}

void
bpe_encode (Bpe *self, const char *piece, gsize length, GArray *out)
{
  g_return_if_fail (length < NOBODY);
  if (length == 0)
    return;
  start (self, (const guchar *)piece, (guint32)length);
  while (self->heap->len > 0)
    {
      guint64 least = heap_pop (self);
      guint32 at = (guint32)least;
      Symbol *symbol = &self->symbols[at];
      Symbol *gone;

      if (symbol->rank != least >> 32)
        continue; /* merged away or changed since this entry was made */
      gone = &self->symbols[symbol->next];
      symbol->id = g_array_index (self->merged, guint32, symbol->rank);
      symbol->next = gone->next;
      gone->rank = NO_RANK;
      if (symbol->next != NOBODY)
        self->symbols[symbol->next].previous = at;
      if (rank_symbol (self, at))
        heap_push (self, (guint64)symbol->rank << 32 | at);
      if (symbol->previous != NOBODY && rank_symbol (self, symbol->previous))
        heap_push (self, (guint64)self->symbols[symbol->previous].rank << 32 | symbol->previous);
    }
  for (guint32 i = 0; i != NOBODY; i = self->symbols[i].next)
    {
      gint64 id = self->symbols[i].id;
      g_array_append_val (out, id);
    }
}
