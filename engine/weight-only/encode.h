/* SPDX-License-Identifier: Apache-2.0
 *
 * encode.h - a model's text encoder by itself, on the processor
 *
 * What a quantiser wants to know of it: what its linears are fed, and what it makes of prompts. The
 * weights are used as they are mapped, so that the memory it takes is that of the file's pages.
 */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct _Encoder Encoder;

/* `file`: instead of the folder's own text encoder, or NULL. Errors: as engine_new. */
Encoder *
encoder_new (const char *model, const char *file, GCancellable *cancellable, GError **error);
void encoder_free (Encoder *self); /* NULL is a no-op */

/* Embeddings of a prompt, [tokens, features] (transfer full), or NULL with an error; element
 * float. Sets *features. watch: its linears' inputs count for encoder_weigh_inputs. */
GArray *
encoder_run (Encoder *self, const char *prompt, gboolean watch, int *features, GError **error);

/* How much an error of each k of the linear `name` ("model.layers.0.self_attn.qkv_proj") matters,
 * [k] (transfer full: g_free): the square root of its inputs' energy in all runs that were watched;
 * NULL if it was not seen. The root, because a few prompts are not all prompts (README.md has
 * figures). Each token counts the same: the first one of a prompt, whose numbers are a thousand
 * times the others' in some layers, would have all weights rounded for itself alone. */
float *encoder_weigh_inputs (Encoder *self, const char *name, gint64 k);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Encoder, encoder_free)

G_END_DECLS
