/* SPDX-License-Identifier: Apache-2.0
 *
 * tiny-engine.h - the small model of tests/data on the CPU, and something to ask of it
 */
#pragma once

#include "engine/engine.h"

G_BEGIN_DECLS

/* Fails the test if the engine cannot be made. `text_encoder` may be NULL: the model's own. */
Engine *tiny_engine_open (const char *text_encoder);

/* Two steps from seed 7. */
EngineRequest tiny_request (int width, int height);

G_END_DECLS
