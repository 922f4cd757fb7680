/* SPDX-License-Identifier: Apache-2.0
 *
 * tiny-engine.h - the small model of tests/data, something to ask of it, and its pictures
 */
#pragma once

#include "engine/engine.h"

G_BEGIN_DECLS

/* On `device`, such as "cpu" (transfer full). Fails the test if the engine cannot be made.
 * `text_encoder` may be NULL: the model's own. */
Engine *tiny_engine_open (const char *device, const char *text_encoder);

/* Two steps from seed 7. */
EngineRequest tiny_request (int width, int height);

/* Fails the test if there is none (transfer full). */
Image *tiny_draw (Engine *engine, const EngineRequest *request);

/* TRUE if they are the same to the byte. */
gboolean tiny_equal (Image *a, Image *b);

G_END_DECLS
