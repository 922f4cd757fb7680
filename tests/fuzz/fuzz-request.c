/* SPDX-License-Identifier: Apache-2.0
 *
 * A request as JSON, as A1111's text and as ComfyUI's graph. What is accepted must be valid, and
 * must come back from its own JSON as it was.
 */
#include "engine/picture/request.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static void
check (EngineRequest *request)
{
  g_autofree char *json = engine_request_to_json (request);
  g_autofree char *text = engine_request_to_a1111 (request, "model");
  g_autoptr (GError) error = NULL;
  g_autoptr (EngineRequest) again = engine_request_from_json (json, strlen (json), &error);
  g_autofree char *json_again = NULL;

  g_assert_no_error (error);
  json_again = engine_request_to_json (again);
  g_assert_cmpstr (json_again, ==, json);
  g_assert_nonnull (text);
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  g_autoptr (EngineRequest) from_json = engine_request_from_json ((const char *)data, size, NULL);
  g_autofree char *ignored = NULL, *ignored_of_graph = NULL;
  g_autoptr (EngineRequest) from_a1111
      = engine_request_from_a1111 ((const char *)data, size, &ignored, NULL);
  g_autoptr (EngineRequest) from_comfyui
      = engine_request_from_comfyui ((const char *)data, size, &ignored_of_graph, NULL);

  if (from_json != NULL)
    check (from_json);
  if (from_a1111 != NULL)
    check (from_a1111);
  if (from_comfyui != NULL)
    check (from_comfyui);
  return 0;
}
