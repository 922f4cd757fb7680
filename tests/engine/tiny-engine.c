/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/engine/tiny-engine.h"

Engine *
tiny_engine_open (const char *device, const char *text_encoder)
{
  g_autofree char *dir = g_build_filename (g_getenv ("TESSERA_TEST_DATA"), "tiny-zimage", NULL);
  g_autoptr (GError) error = NULL;
  EngineOptions options = { .device = device, .text_encoder_file = text_encoder };
  Engine *engine = engine_new (dir, &options, &error);

  g_assert_no_error (error);
  return engine;
}

EngineRequest
tiny_request (int width, int height)
{
  EngineRequest r = ENGINE_REQUEST_INIT;

  r.prompt = "a red circle";
  r.width = width;
  r.height = height;
  r.steps = 2;
  r.seed = 7;
  return r;
}

Image *
tiny_draw (Engine *engine, const EngineRequest *request)
{
  g_autoptr (GError) error = NULL;
  Image *image = engine_generate (engine, request, NULL, NULL, NULL, &error);

  g_assert_no_error (error);
  return image;
}

gboolean
tiny_equal (Image *a, Image *b)
{
  return g_bytes_equal (image_get_bytes (a), image_get_bytes (b));
}
