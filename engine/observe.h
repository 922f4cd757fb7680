/* SPDX-License-Identifier: Apache-2.0
 *
 * observe.h - what the transformer's linears are fed while pictures are made
 *
 * For calibration. Only an engine on the CPU can be observed: elsewhere launches are recorded once
 * and replayed without the engine looking on.
 */
#pragma once

#include "engine/engine.h"

G_BEGIN_DECLS

/* x [rows, k] goes into the linear `base` ("layers.0.attention.to_qkv"), one of the four of a block
 * that can be quantised. Borrowed for the call, on the engine's thread. */
typedef void (*EngineLinearSeen) (const char *base, const float *x, gint64 rows, gint64 k,
                                  gpointer user_data);

/* NULL ends it. FALSE with ENGINE_ERROR_UNSUPPORTED unless the engine computes on the CPU. */
gboolean engine_observe (Engine *self, EngineLinearSeen seen, gpointer user_data, GError **error);

G_END_DECLS
