/* SPDX-License-Identifier: Apache-2.0
 *
 * adapters.h - LoRA files beside the transformer, without touching its weights
 *
 * All files' factors for a layer are concatenated into one pair with the strengths folded in, so
 * the cost does not depend on how many there are, and it makes no difference whether the layer is
 * BF16 or 4 bit (spec z-image 9, svdquant trap 22: they see the raw input). Where the layer's
 * backend can, the layer is run with the pair in the same sums (LinearBackend.adapt); elsewhere the
 * pair is two dense layers of the device's own backend, whose product is added to what the layer
 * gives. The transformer stays as it was loaded: other files or strengths mean other adapters,
 * nothing else, and without any its pictures have the same bytes as before.
 */
#pragma once

#include "engine/context.h"
#include "engine/engine.h"
#include "engine/transformer.h"

G_BEGIN_DECLS

/* Opens the files and checks what of them fits a transformer of these sizes; no device. A name
 * without '/' is looked for in `folders` (NULL-terminated). check: read all numbers, too, which is
 * needed before loading. Errors: ENGINE_ERROR_MODEL naming the
 * file and cause. */
Adapters *adapters_open (const EngineLora *loras, guint n_loras, const char *const *folders,
                         const TransformerConfig *config, gboolean check, GError **error);
/* `ctx` may be NULL if nothing was loaded; NULL is a no-op. */
void adapters_free (const Context *ctx, Adapters *self);

/* TRUE if these are the same files, unchanged since, with the same strengths. NULL has none. */
gboolean adapters_match (const Adapters *self, const EngineLora *loras, guint n_loras);

/* FALSE if they change nothing: there are none, or all strengths are 0. */
gboolean adapters_are_any (const Adapters *self);

/* What they take of the device: in all, besides while one is loaded, and the largest workspace.
 * `transformer` is that of the dry context. */
LinearMemory
adapters_measure (const Adapters *self, const Context *ctx, const Transformer *transformer);

/* Brings them to the device for `transformer`'s layers; what is there for them stays. They read
 * the weights of those layers: to be unloaded when the transformer goes. */
Status adapters_load (Adapters *self, const Context *ctx, const Transformer *transformer);
void adapters_unload (Adapters *self, const Context *ctx);

/* The layer to run in place of `linear`: itself with its adapter in the same sums, or `linear`. */
const Linear *adapters_of (const Context *ctx, const Linear *linear);
/* out [M, N] += the adapter of `linear` on x [M, K], if it has one that is not in the same sums. On
 * a dry context only takes memory from the arena. */
Status adapters_apply (const Context *ctx, const Linear *linear, const Tensor *x, Tensor *out);
/* TRUE if adapters_apply would do something. */
gboolean adapters_add (const Context *ctx, const Linear *linear);

/* What became of each file, in the order of the request; borrowed. */
guint adapters_count (const Adapters *self);
EngineLoraReport adapters_report (const Adapters *self, guint index);

G_END_DECLS
