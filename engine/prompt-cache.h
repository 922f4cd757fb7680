/* SPDX-License-Identifier: Apache-2.0
 *
 * prompt-cache.h - embeddings of the last prompts, so that a repeated one does not bring the text
 * encoder back to the device
 */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

typedef struct _PromptCache PromptCache;

PromptCache *prompt_cache_new (void);
void prompt_cache_free (PromptCache *self); /* NULL is a no-op */

/* embeds [n, features] of ids (gint64); copied. The oldest of many goes. */
void prompt_cache_add (PromptCache *self, const GArray *ids, const float *embeds, gsize features);

/* (transfer full: g_free), or NULL. */
float *prompt_cache_find (PromptCache *self, const GArray *ids, gsize features);

G_END_DECLS
