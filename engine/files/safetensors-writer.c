/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/files/atomic-file.h"
#include "engine/files/json.h"
#include "engine/files/safetensors.h"

#include <string.h>

#define MAX_RANK 8

typedef struct
{
  char *name; /* owned */
  DType dtype;
  int rank;
  int64_t shape[MAX_RANK];
  const void *data; /* borrowed; NULL when `produce` makes it */
  guint64 bytes;
  SafetensorsProduce produce;
  guint index;
  gpointer user_data;
} Item;

struct _SafetensorsWriter
{
  GArray *items;       /* Item */
  GPtrArray *metadata; /* keys and values alternate */
};

static void
item_clear (gpointer data)
{
  g_free (((Item *)data)->name);
}

SafetensorsWriter *
safetensors_writer_new (void)
{
  SafetensorsWriter *self = g_new0 (SafetensorsWriter, 1);

  self->items = g_array_new (FALSE, FALSE, sizeof (Item));
  g_array_set_clear_func (self->items, item_clear);
  self->metadata = g_ptr_array_new_with_free_func (g_free);
  return self;
}

void
safetensors_writer_free (SafetensorsWriter *self)
{
  if (self == NULL)
    return;
  g_array_unref (self->items);
  g_ptr_array_unref (self->metadata);
  g_free (self);
}

void
safetensors_writer_add (SafetensorsWriter *self, const char *name, DType dtype, int rank,
                        const int64_t *shape, const void *data)
{
  Item item = { .dtype = dtype, .rank = rank, .data = data, .bytes = dtype_size (dtype) };

  g_return_if_fail (rank >= 0 && rank <= MAX_RANK);
  for (int i = 0; i < rank; i++)
    {
      item.shape[i] = shape[i];
      item.bytes *= (guint64)shape[i];
    }
  item.name = g_strdup (name);
  g_array_append_val (self->items, item);
}

void
safetensors_writer_add_later (SafetensorsWriter *self, const char *name, DType dtype, int rank,
                              const int64_t *shape, SafetensorsProduce produce, guint index,
                              gpointer user_data)
{
  Item *item;

  safetensors_writer_add (self, name, dtype, rank, shape, NULL);
  item = &g_array_index (self->items, Item, self->items->len - 1);
  item->produce = produce;
  item->index = index;
  item->user_data = user_data;
}

void
safetensors_writer_metadata (SafetensorsWriter *self, const char *key, const char *value)
{
  g_ptr_array_add (self->metadata, g_strdup (key));
  g_ptr_array_add (self->metadata, g_strdup (value));
}

/* Wide types first, so that every tensor is aligned to its type without holes between them, which
 * the reference implementation of the format refuses. */
static int
compare_items (gconstpointer a, gconstpointer b)
{
  const Item *left = a, *right = b;
  int by_size = (int)dtype_size (right->dtype) - (int)dtype_size (left->dtype);

  return by_size != 0 ? by_size : strcmp (left->name, right->name);
}

static void
append_item (GString *header, const Item *item, guint64 begin)
{
  json_append_string (header, item->name);
  g_string_append_printf (header, ":{\"dtype\":\"%s\",\"shape\":[", dtype_name (item->dtype));
  for (int i = 0; i < item->rank; i++)
    g_string_append_printf (header, "%s%" G_GINT64_FORMAT, i > 0 ? "," : "",
                            (gint64)item->shape[i]);
  g_string_append_printf (header,
                          "],\"data_offsets\":[%" G_GUINT64_FORMAT ",%" G_GUINT64_FORMAT "]}",
                          begin, begin + item->bytes);
}

static GString *
build_header (SafetensorsWriter *self)
{
  GString *header = g_string_new ("{");
  guint64 offset = 0;

  if (self->metadata->len > 0)
    {
      g_string_append (header, "\"__metadata__\":{");
      for (guint i = 0; i < self->metadata->len; i += 2)
        {
          if (i > 0)
            g_string_append_c (header, ',');
          json_append_string (header, g_ptr_array_index (self->metadata, i));
          g_string_append_c (header, ':');
          json_append_string (header, g_ptr_array_index (self->metadata, i + 1));
        }
      g_string_append_c (header, '}');
    }
  for (guint i = 0; i < self->items->len; i++)
    {
      const Item *item = &g_array_index (self->items, Item, i);

      if (header->len > 1)
        g_string_append_c (header, ',');
      append_item (header, item, offset);
      offset += item->bytes;
    }
  g_string_append_c (header, '}');
  while (header->len % 8 != 0)
    g_string_append_c (header, ' ');
  return header;
}

gboolean
safetensors_writer_write (SafetensorsWriter *self, const char *path, GError **error)
{
  g_autoptr (GString) header = NULL;
  g_autoptr (AtomicFile) file = NULL;
  guint64 length;

  g_array_sort (self->items, compare_items);
  header = build_header (self);
  length = GUINT64_TO_LE ((guint64)header->len);
  file = atomic_file_new (path, error);
  if (file == NULL || !atomic_file_write (file, &length, sizeof length, error)
      || !atomic_file_write (file, header->str, header->len, error))
    return FALSE;
  for (guint i = 0; i < self->items->len; i++)
    {
      const Item *item = &g_array_index (self->items, Item, i);
      const void *data = item->data;

      if (item->produce != NULL)
        data = item->produce (item->index, item->user_data, error);
      if ((data == NULL && item->bytes > 0) || !atomic_file_write (file, data, item->bytes, error))
        return FALSE;
    }
  return atomic_file_commit (file, error);
}
