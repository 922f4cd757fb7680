/* SPDX-License-Identifier: Apache-2.0
 *
 * One engine, many pictures: the same request gives the same bytes, whatever was drawn in between,
 * and what the engine holds does not grow. On the CPU, or on the device named first; exits with 77
 * when that is not there.
 */
#include "engine/engine.h"

#include <string.h>

#define TIMES_CPU 4
#define TIMES_GPU 50

static const char *device = "cpu";

static char *
find_model (void)
{
  static const char *const roots[] = { "TESSERA_TEST_DATA", "TESSERA_FIXTURES" };

  for (guint i = 0; i < G_N_ELEMENTS (roots); i++)
    {
      const char *root = g_getenv (roots[i]);
      g_autofree char *path = root != NULL ? g_build_filename (root, "tiny-zimage", NULL) : NULL;

      if (path != NULL && g_file_test (path, G_FILE_TEST_EXISTS))
        return g_steal_pointer (&path);
    }
  return NULL;
}

static Image *
draw (Engine *engine, const char *prompt, int width, int height)
{
  g_autoptr (GError) error = NULL;
  EngineRequest request = ENGINE_REQUEST_INIT;
  Image *image;

  request.prompt = prompt;
  request.width = width;
  request.height = height;
  request.steps = 2;
  image = engine_generate (engine, &request, NULL, NULL, NULL, &error);
  g_assert_no_error (error);
  return image;
}

static void
test_repeat (void)
{
  g_autofree char *model = find_model ();
  g_autoptr (GError) error = NULL;
  g_autoptr (Engine) engine = NULL;
  g_autoptr (Image) first = NULL;
  EngineOptions options = { .device = device };
  EngineMemory held = { 0 };
  int times = g_str_equal (device, "cpu") ? TIMES_CPU : TIMES_GPU;

  if (model == NULL)
    {
      g_test_skip ("the model is not there");
      return;
    }
  engine = engine_new (model, &options, &error);
  g_assert_no_error (error);
  first = draw (engine, "a red fox", 128, 96);
  for (int i = 0; i < times; i++)
    {
      g_autoptr (Image) other = draw (engine, "a blue house by the sea", 64, 64 + i % 3 * 16);
      g_autoptr (Image) again = draw (engine, "a red fox", 128, 96);
      EngineMemory now;

      g_assert_true (g_bytes_equal (image_get_bytes (first), image_get_bytes (again)));
      engine_get_memory (engine, &now);
      if (i > 0)
        {
          g_assert_cmpuint (now.weights, ==, held.weights);
          g_assert_cmpuint (now.activations, ==, held.activations);
          g_assert_cmpuint (now.reserved, ==, held.reserved);
        }
      held = now;
    }
}

static gboolean
device_is_there (void)
{
  g_autoptr (GArray) devices = engine_list_devices ();

  for (guint i = 0; i < devices->len; i++)
    {
      const EngineDevice *d = &g_array_index (devices, EngineDevice, i);

      if (d->usable && g_str_equal (device, d->gpu ? "cuda" : "cpu"))
        return TRUE;
    }
  g_print ("1..0 # SKIP there is no device %s\n", device);
  return FALSE;
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  if (argc > 1)
    device = argv[1];
  if (!device_is_there ())
    return 77;
  g_test_add_func ("/engine/repeat", test_repeat);
  return g_test_run ();
}
