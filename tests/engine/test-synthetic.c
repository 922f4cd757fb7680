/* SPDX-License-Identifier: Apache-2.0
 *
 * test-synthetic.c - made-up models: the published sizes, and numbers of sensible magnitude
 */
#include "engine/checkpoint/synthetic.h"
#include "engine/engine.h"
#include "kernels/svdq-math.h"

#include <math.h>

/* The published sizes of 4-bit transformers, in bytes (spec svdquant 2.1); those files have a
 * vector more a layer, which nothing reads. */
static void
test_sizes (void)
{
  static const struct
  {
    const char *name;
    double bytes;
  } cases[] = { { "synthetic:int4", 3.610e9 },
                { "synthetic:int4:128", 4.011e9 },
                { "synthetic:int4:256", 4.546e9 },
                { "synthetic:nvfp4:32", 3.799e9 },
                { "synthetic:nvfp4:128", 4.200e9 } };

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (Checkpoint) checkpoint = NULL;
      SyntheticSvdq svdq;
      Weights *weights;

      g_assert_true (synthetic_parse_svdq (cases[i].name, &svdq, &error));
      checkpoint = synthetic_open ("synthetic:z-image-turbo", &svdq, 0, &error);
      g_assert_no_error (error);
      weights = checkpoint_weights (checkpoint, CHECKPOINT_TRANSFORMER, TRUE, &error);
      g_assert_nonnull (weights);
      g_assert_cmpfloat_with_epsilon ((double)weights_bytes (weights), cases[i].bytes, 2e6);
    }
}

/* The spread of a layer's residual weights, the first rows of it. */
static double
spread (const SvdqSource *s, int64_t n, int64_t k)
{
  int64_t group = s->format == SVDQ_INT4 ? SVDQ_INT4_GROUP : SVDQ_NVFP4_GROUP;
  double sum = 0.0;

  for (int64_t row = 0; row < 16; row++)
    for (int64_t i = 0; i < k; i++)
      {
        uint8_t code = s->qweight[(row * k + i) / 2] >> (i % 2 * 4) & 15;
        int64_t at = i / group * n + row;
        float value
            = s->format == SVDQ_INT4
                  ? (float)svdq_int4 (code) * bf16_to_float (((const uint16_t *)s->wscales)[at])
                  : (float)svdq_e2m1_doubled (code) * 0.5f * s->outer[row]
                        * e4m3_to_float (((const uint8_t *)s->wscales)[at]);

        g_assert_cmpuint (code, !=, 8);
        sum += (double)value * value;
      }
  return sqrt (sum / (double)(16 * k));
}

static void
test_magnitudes (void)
{
  static const struct
  {
    const char *base;
    int64_t n, k;
  } layers[] = { { "noise_refiner.1.attention.to_qkv", 11520, 3840 },
                 { "context_refiner.0.attention.to_out.0", 3840, 3840 },
                 { "layers.0.feed_forward.w13", 20480, 3840 },
                 { "layers.0.feed_forward.w2", 3840, 10240 } };

  for (int format = 0; format < 2; format++)
    {
      const SyntheticSvdq svdq = { (SvdqFormat)format, 48 };
      g_autoptr (GError) error = NULL;
      g_autoptr (Checkpoint) checkpoint
          = synthetic_open ("synthetic:z-image-turbo:1", &svdq, 0, &error);
      Weights *weights = checkpoint_weights (checkpoint, CHECKPOINT_TRANSFORMER, TRUE, &error);

      for (guint i = 0; i < G_N_ELEMENTS (layers); i++)
        {
          const SvdqSource *source;

          g_assert_true (weights_get_svdq (weights, layers[i].base, layers[i].n, layers[i].k,
                                           &source, &error));
          g_assert_cmpint (source->format, ==, format);
          g_assert_cmpint (source->rank, ==, 48);
          g_assert_cmpfloat_with_epsilon (spread (source, layers[i].n, layers[i].k), 0.02, 0.002);
        }
    }
}

static void
test_names (void)
{
  static const char *const wrong[]
      = { "synthetic:",       "synthetic:fp8",      "synthetic:int4:", "synthetic:int4:24",
          "synthetic:int4:0", "synthetic:int4:272", "int4:32",         "synthetic:int4:32:1" };
  SyntheticSvdq svdq;

  for (guint i = 0; i < G_N_ELEMENTS (wrong); i++)
    {
      g_autoptr (GError) error = NULL;

      g_assert_false (synthetic_parse_svdq (wrong[i], &svdq, &error));
      g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL);
    }
}

/* The type that is asked for is the one that is there, and a plan is had without loading. */
static void
test_engine (void)
{
  EngineOptions options = { .device = "cpu", .svdquant_type = "nvfp4" };
  EngineRequest request = ENGINE_REQUEST_INIT;
  g_autoptr (GError) error = NULL;
  g_autoptr (Engine) engine = engine_new ("synthetic:z-image-turbo", &options, &error);
  EnginePlan bf16, svdquant;

  g_assert_no_error (error);
  request.prompt = "a lighthouse";
  g_assert_true (engine_plan (engine, &request, &bf16, &error));
  request.precision = ENGINE_PRECISION_SVDQUANT;
  g_assert_true (engine_plan (engine, &request, &svdquant, &error));
  /* The processor has the mapped file, and 4-bit layers once more in its own order. */
  g_assert_cmpuint (bf16.parts[ENGINE_PART_TRANSFORMER].bytes, >, 12300000000);
  g_assert_cmpuint (svdquant.parts[ENGINE_PART_TRANSFORMER].bytes, >, 3790000000);
  g_assert_cmpuint (svdquant.parts[ENGINE_PART_TRANSFORMER].bytes, <, 8500000000);
  g_clear_pointer (&engine, engine_free);

  options.transformer_file = "synthetic:int4";
  engine = engine_new ("synthetic:z-image-turbo", &options, &error);
  g_assert_null (engine);
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL);
  g_clear_error (&error);
  options.svdquant_type = "fp8";
  engine = engine_new ("synthetic:z-image-turbo", &options, &error);
  g_assert_null (engine);
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/synthetic/sizes", test_sizes);
  g_test_add_func ("/synthetic/magnitudes", test_magnitudes);
  g_test_add_func ("/synthetic/names", test_names);
  g_test_add_func ("/synthetic/engine", test_engine);
  return g_test_run ();
}
