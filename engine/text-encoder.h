/* SPDX-License-Identifier: Apache-2.0
 *
 * text-encoder.h - ids to embeddings (Qwen3; spec z-image 3, transformers' modeling_qwen3.py)
 *
 * The pipeline takes the hidden state before the last layer: all layers but one run, and neither
 * the last layer nor the final norm is loaded. The embedding table stays in the mapped file; only
 * the prompt's rows are read.
 */
#pragma once

#include "engine/memory/shelf.h"

G_BEGIN_DECLS

typedef struct _TextEncoder TextEncoder;

/* Loads all but the last layer. Check loader_failed; the result is freed in any case. */
TextEncoder *text_encoder_new (Loader *loader, const TextEncoderConfig *config);
void text_encoder_free (const Context *ctx, TextEncoder *self); /* NULL is a no-op */

/* What takes the layers' weights off the device (borrowed), if it was loaded so; else NULL. They
 * must be there for a run. */
Shelf *text_encoder_shelf (TextEncoder *self);

/* embeds [n, hidden] F32 host memory = the state of each of the n ids. ids must be below the
 * vocabulary: STATUS_UNSUPPORTED otherwise. Takes and gives back arena memory. */
Status
text_encoder_run (const Context *ctx, TextEncoder *self, const gint64 *ids, int n, float *embeds);

G_END_DECLS
