/* SPDX-License-Identifier: Apache-2.0
 *
 * advice.h - what to do about a picture that does not fit
 */
#pragma once

#include "engine/engine.h"

G_BEGIN_DECLS

/* The fastest setting that fits: of the largest size of the request's shape for which there is one,
 * the precision with the shorter forecast (SVDQuant where nothing was measured yet). `failed`: the
 * request was tried and did not fit after all, so it must take clearly less than that one by the
 * plan. Only precision and size of *out differ from the request's; its strings are borrowed from
 * it. FALSE: nothing fits. (any thread) */
gboolean
advice_find (Engine *engine, const EngineRequest *request, gboolean failed, EngineRequest *out);

G_END_DECLS
