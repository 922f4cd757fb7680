/* SPDX-License-Identifier: Apache-2.0
 *
 * The built-in model in 4 bit: both formats draw what BF16 draws from the same seed.
 */
#include "engine/engine.h"
#include "engine/metrics/metrics.h"

#define LEAST_PSNR 15.0 /* dB, of any picture */
#define MEAN_PSNR  22.0

static const char *const prompts[] = {
  "a red apple",
  "a cat above a blue chair",
  "three green stars on a yellow background",
  "a smiling sun on a blue background",
};

static Engine *
open_with (const char *file)
{
  g_autofree char *model = g_strdup (g_getenv ("TESSERA_SKETCH"));
  g_autofree char *transformer
      = file != NULL ? g_build_filename (model, "svdquant", file, NULL) : NULL;
  EngineOptions options = { .device = "cpu", .transformer_file = transformer };
  g_autoptr (GError) error = NULL;
  Engine *engine = engine_new (model, &options, &error);

  g_assert_no_error (error);
  return engine;
}

static Image *
draw (Engine *engine, const char *prompt, EnginePrecision precision)
{
  EngineRequest request = ENGINE_REQUEST_INIT;
  g_autoptr (GError) error = NULL;
  Image *image;

  request.prompt = prompt;
  request.precision = precision;
  request.width = request.height = engine_get_native_size (engine);
  request.seed = 3;
  image = engine_generate (engine, &request, NULL, NULL, NULL, &error);
  g_assert_no_error (error);
  return image;
}

static void
test_format (gconstpointer file)
{
  g_autofree char *any
      = g_build_filename (g_getenv ("TESSERA_SKETCH"), "svdquant", "sketch-int4.safetensors", NULL);
  g_autoptr (Engine) engine = NULL;
  double sum = 0.0;

  if (!g_file_test (any, G_FILE_TEST_EXISTS))
    {
      g_test_skip ("this build has no 4-bit files of the built-in model");
      return;
    }
  engine = open_with (file);
  g_assert_true (engine_supports (engine, ENGINE_PRECISION_BF16, NULL));
  for (guint i = 0; i < G_N_ELEMENTS (prompts); i++)
    {
      g_autoptr (Image) bf16 = draw (engine, prompts[i], ENGINE_PRECISION_BF16);
      g_autoptr (Image) svdquant = draw (engine, prompts[i], ENGINE_PRECISION_SVDQUANT);
      g_autoptr (GError) error = NULL;
      Metrics metrics;

      metrics_compare (bf16, svdquant, NULL, NULL, &metrics, &error);
      g_assert_no_error (error);
      g_test_message ("%s: PSNR %.1f dB, SSIM %.3f, FLIP %.3f", prompts[i], metrics.psnr,
                      metrics.ssim, metrics.flip);
      g_assert_cmpfloat (metrics.psnr, >=, LEAST_PSNR);
      g_assert_cmpfloat (metrics.psnr, <, 100.0); /* the same bytes would mean the same weights */
      sum += metrics.psnr;
    }
  g_assert_cmpfloat (sum / G_N_ELEMENTS (prompts), >=, MEAN_PSNR);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_data_func ("/sketch/own", NULL, test_format);
  g_test_add_data_func ("/sketch/int4", "sketch-int4.safetensors", test_format);
  g_test_add_data_func ("/sketch/nvfp4", "sketch-nvfp4.safetensors", test_format);
  return g_test_run ();
}
