/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/prompt-cache.h"

#include <string.h>

#define MAX_PROMPTS 16 /* of at most 5 MB each */

typedef struct
{
  gsize n_ids;
  gint64 *ids;
  float *embeds;
} Entry;

struct _PromptCache
{
  GQueue entries; /* of Entry, the latest first */
};

static void
entry_free (gpointer data)
{
  Entry *entry = data;

  g_free (entry->ids);
  g_free (entry->embeds);
  g_free (entry);
}

PromptCache *
prompt_cache_new (void)
{
  PromptCache *self = g_new0 (PromptCache, 1);

  g_queue_init (&self->entries);
  return self;
}

void
prompt_cache_free (PromptCache *self)
{
  if (self == NULL)
    return;
  g_queue_clear_full (&self->entries, entry_free);
  g_free (self);
}

static GList *
find_link (PromptCache *self, const GArray *ids)
{
  for (GList *link = self->entries.head; link != NULL; link = link->next)
    {
      const Entry *entry = link->data;

      if (entry->n_ids == ids->len
          && memcmp (entry->ids, ids->data, ids->len * sizeof (gint64)) == 0)
        return link;
    }
  return NULL;
}

void
prompt_cache_add (PromptCache *self, const GArray *ids, const float *embeds, gsize features)
{
  Entry *entry;

  if (find_link (self, ids) != NULL)
    return;
  entry = g_new0 (Entry, 1);
  entry->n_ids = ids->len;
  entry->ids = g_memdup2 (ids->data, ids->len * sizeof (gint64));
  entry->embeds = g_memdup2 (embeds, ids->len * features * sizeof (float));
  g_queue_push_head (&self->entries, entry);
  if (g_queue_get_length (&self->entries) > MAX_PROMPTS)
    entry_free (g_queue_pop_tail (&self->entries));
}

float *
prompt_cache_find (PromptCache *self, const GArray *ids, gsize features)
{
  GList *link = find_link (self, ids);
  Entry *entry;

  if (link == NULL)
    return NULL;
  entry = link->data;
  g_queue_unlink (&self->entries, link);
  g_queue_push_head_link (&self->entries, link);
  return g_memdup2 (entry->embeds, entry->n_ids * features * sizeof (float));
}
