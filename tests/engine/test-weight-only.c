/* SPDX-License-Identifier: Apache-2.0
 *
 * Text encoders in 8 and 4 bit: how much rounding changes, from a dense model to a file and back,
 * pictures drawn with it, what the plan says of it, and files that are not what they should be.
 */
#include "engine/checkpoint/checkpoint.h"
#include "engine/engine.h"
#include "engine/files/json.h"
#include "engine/metrics/metrics.h"
#include "engine/weight-only/file.h"
#include "engine/weight-only/quantize-encoder.h"
#include "kernels/reference/codes.h"
#include "kernels/weight-codes.h"

#include <glib/gstdio.h>
#include <math.h>
#include <string.h>

static const int all_bits[] = { 8, 4 };

/* -- rounding -------------------------------------------------------------------------------- */

#define K 4096

static float
normal (GRand *rand)
{
  double sum = 0.0;

  for (int i = 0; i < 12; i++)
    sum += g_rand_double (rand);
  return (float)(sum - 6.0);
}

/* The weights that codes of `row` mean. */
static void
round_trip (const float *row, const float *energy, int bits, float *out, RoundingError *sums)
{
  guint8 codes[K];
  guint16 scales[K / CODES_GROUP];
  Tensor c = bits == 8 ? tensor_2d (DTYPE_I8, codes, 1, K) : tensor_2d (DTYPE_U8, codes, 1, K / 2);
  Tensor s = tensor_2d (DTYPE_BF16, scales, 1, K / CODES_GROUP);

  rounding_choose_scales (row, energy, K, bits, scales, sums);
  rounding_choose_codes (row, scales, K, bits, codes);
  codes_reference (&c, &s, out);
}

/* What the header says of normal weights, and that the sums are those of the codes. */
static void
test_rounding (void)
{
  const double bounds[] = { 0.0062, 0.083 };
  g_autoptr (GRand) rand = g_rand_new_with_seed (1);
  float row[K], energy[K], out[K], weighted[K];

  for (int i = 0; i < K; i++)
    {
      row[i] = i / CODES_GROUP == 5 ? 0.0f : 0.03f * normal (rand);
      energy[i] = i % 16 == 0 ? 50.0f : 1.0f;
    }
  for (guint b = 0; b < G_N_ELEMENTS (all_bits); b++)
    {
      RoundingError plain = { 0 }, by_energy = { 0 };
      double error = 0.0, plainly = 0.0;

      round_trip (row, NULL, all_bits[b], out, &plain);
      round_trip (row, energy, all_bits[b], weighted, &by_energy);
      for (int i = 0; i < K; i++)
        {
          error += pow ((double)row[i] - out[i], 2.0);
          plainly += energy[i] * pow ((double)row[i] - out[i], 2.0);
          g_assert_true (row[i] != 0.0f || out[i] == 0.0f);
        }
      g_assert_cmpfloat_with_epsilon (error, plain.error, 1e-9 * plain.size);
      g_assert_cmpfloat (plain.error, ==, plain.weighted_error);
      g_assert_cmpfloat (sqrt (plain.error / plain.size), <, bounds[b]);
      g_assert_cmpfloat (by_energy.weighted_error, <, plainly);
      g_test_message ("%d bit: %.5f; weighted %.5f, plainly %.5f", all_bits[b],
                      sqrt (plain.error / plain.size),
                      sqrt (by_energy.weighted_error / by_energy.weighted_size),
                      sqrt (plainly / by_energy.weighted_size));
    }
}

/* -- a model ---------------------------------------------------------------------------------- */

static char *
tiny (void)
{
  return g_build_filename (g_getenv ("TESSERA_TEST_DATA"), "tiny-zimage", NULL);
}

/* A fresh folder's file of that name (transfer full). */
static char *
temporary (const char *name)
{
  g_autofree char *dir = g_dir_make_tmp ("weight-only-XXXXXX", NULL);

  return g_build_filename (dir, name, NULL);
}

static void
remove_all (const char *path)
{
  static const char *const endings[] = { "", ".txt", ".json" };
  g_autofree char *dir = g_path_get_dirname (path);

  for (guint i = 0; i < G_N_ELEMENTS (endings); i++)
    {
      g_autofree char *name = g_strconcat (path, endings[i], NULL);

      g_unlink (name);
    }
  g_assert_cmpint (g_rmdir (dir), ==, 0); /* nothing else was left there */
}

static void
quantize (const char *model, int bits, gboolean calibrated, const char *path)
{
  static const char *const prompts[] = { "a red circle", "two blue squares on grass", NULL };
  const QuantizeEncoderJob job = { model, path, bits, calibrated ? prompts : NULL };
  g_autoptr (GError) error = NULL;

  quantize_encoder (&job, NULL, NULL, NULL, &error);
  g_assert_no_error (error);
}

/* Every linear of the file against the model's, and both against the report. */
static void
check_file (const char *model, const char *path, int bits)
{
  g_autofree char *json = g_strconcat (path, ".json", NULL);
  g_autoptr (GError) error = NULL;
  g_autoptr (cJSON) report = json_load (json, 1 << 20, &error);
  g_autoptr (Checkpoint) dense = checkpoint_open (model, NULL, NULL, &error);
  g_autoptr (Checkpoint) coded = checkpoint_open (model, NULL, path, &error);
  Weights *from, *to;
  const cJSON *line;

  g_assert_no_error (error);
  from = checkpoint_weights (dense, CHECKPOINT_TEXT_ENCODER, FALSE, &error);
  to = checkpoint_weights (coded, CHECKPOINT_TEXT_ENCODER, FALSE, &error);
  g_assert_cmpint (weights_code_bits (from), ==, 0);
  g_assert_cmpint (weights_code_bits (to), ==, bits);
  g_assert_cmpint (cJSON_GetArraySize (cJSON_GetObjectItem (report, "linears")), ==, 2 * 7);
  cJSON_ArrayForEach (line, cJSON_GetObjectItem (report, "linears"))
  {
    const char *base = cJSON_GetObjectItem (line, "linear")->valuestring;
    int64_t n = cJSON_GetObjectItem (line, "outputs")->valueint;
    LinearSource source = { .k = cJSON_GetObjectItem (line, "inputs")->valueint };
    g_autofree char *name = g_strconcat (base, ".weight", NULL);
    g_autofree float *out = g_new (float, (gsize)(n * source.k));
    double sum = 0.0, size = 0.0;
    Tensor weight;

    g_assert_true (weights_get (from, &weight, name, &error, 2, n, source.k));
    g_assert_true (weights_add_codes (to, base, n, &source, &error));
    g_assert_cmpint (source.code_bits, ==, bits);
    codes_reference (&source.parts[0], &source.scales[0], out);
    for (int64_t i = 0; i < n * source.k; i++)
      {
        sum += pow ((double)tensor_get (&weight, i) - out[i], 2.0);
        size += pow ((double)tensor_get (&weight, i), 2.0);
      }
    g_assert_cmpfloat_with_epsilon (sqrt (sum / size),
                                    cJSON_GetObjectItem (line, "error")->valuedouble, 1e-7);
  }
  cJSON_ArrayForEach (line, cJSON_GetObjectItem (report, "prompts")) g_assert_cmpfloat (
      cJSON_GetObjectItem (line, "error")->valuedouble, <, bits == 8 ? 0.02 : 0.2);
}

static Image *
draw (const char *model, const char *encoder, int bits)
{
  const EngineOptions options = { .device = "cpu", .text_encoder_file = encoder };
  g_autoptr (GError) error = NULL;
  g_autoptr (Engine) engine = engine_new (model, &options, &error);
  EngineRequest r = ENGINE_REQUEST_INIT;
  Image *image;

  g_assert_no_error (error);
  g_assert_cmpint (engine_get_text_encoder_bits (engine), ==, bits);
  r.prompt = "a red circle on grass";
  r.width = r.height = 128;
  r.steps = 4;
  r.seed = 3;
  image = engine_generate (engine, &r, NULL, NULL, NULL, &error);
  g_assert_no_error (error);
  return image;
}

static void
check_pictures (const char *model, const char *path, int bits, double least)
{
  g_autoptr (Image) dense = draw (model, NULL, 16);
  g_autoptr (Image) coded = draw (model, path, bits);
  g_autoptr (GError) error = NULL;
  Metrics metrics;

  metrics_compare (dense, coded, NULL, NULL, &metrics, &error);
  g_assert_no_error (error);
  g_test_message ("%d bit: PSNR %.1f dB", bits, metrics.psnr);
  g_assert_cmpfloat (metrics.psnr, >, least);
}

static void
check_model (const char *model)
{
  const double least[] = { 30.0, 15.0 };

  for (guint b = 0; b < G_N_ELEMENTS (all_bits); b++)
    {
      g_autofree char *path = temporary ("encoder.safetensors");

      quantize (model, all_bits[b], b == 1, path);
      g_assert_cmpint (engine_find_text_encoder_bits (path, NULL), ==, all_bits[b]);
      check_file (model, path, all_bits[b]);
      check_pictures (model, path, all_bits[b], least[b]);
      remove_all (path);
    }
}

static void
test_tiny (void)
{
  g_autofree char *model = tiny ();

  check_model (model);
}

static void
test_fixture (void)
{
  const char *fixtures = g_getenv ("TESSERA_FIXTURES");
  g_autofree char *model = g_build_filename (fixtures != NULL ? fixtures : "", "svdq-zimage", NULL);

  if (fixtures == NULL || !g_file_test (model, G_FILE_TEST_IS_DIR))
    g_test_skip ("no shared fixtures here");
  else
    check_model (model);
}

/* The same weights give the same bytes, and what cannot be asked for is refused. */
static void
test_job (void)
{
  g_autofree char *model = tiny ();
  g_autofree char *first = temporary ("encoder.safetensors");
  g_autofree char *second = temporary ("encoder.safetensors");
  g_autofree char *a = NULL, *b = NULL;
  g_autofree char *own = g_build_filename (model, "text_encoder", "model.safetensors", NULL);
  QuantizeEncoderJob job = { model, first, 5, NULL };
  g_autoptr (GCancellable) cancelled = g_cancellable_new ();
  g_autoptr (GError) error = NULL;
  gsize a_size, b_size;

  g_assert_false (quantize_encoder (&job, NULL, NULL, NULL, &error));
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST);
  g_clear_error (&error);
  job.bits = 4;
  job.out = own;
  g_assert_false (quantize_encoder (&job, NULL, NULL, NULL, &error));
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST);
  g_clear_error (&error);
  job.out = first;
  g_cancellable_cancel (cancelled);
  g_assert_false (quantize_encoder (&job, NULL, NULL, cancelled, &error));
  g_assert_error (error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
  g_assert_false (g_file_test (first, G_FILE_TEST_EXISTS));

  quantize (model, 4, FALSE, first);
  quantize (model, 4, FALSE, second);
  g_assert_true (g_file_get_contents (first, &a, &a_size, NULL));
  g_assert_true (g_file_get_contents (second, &b, &b_size, NULL));
  g_assert_cmpmem (a, a_size, b, b_size);
  remove_all (first);
  remove_all (second);
}

/* -- the plan --------------------------------------------------------------------------------- */

#ifdef HAVE_CUDA
static EnginePlan
plan_card (const char *encoder, guint64 budget)
{
  const EngineOptions options
      = { .text_encoder_file = encoder, .planned_sm = 89, .memory_budget = budget };
  g_autoptr (GError) error = NULL;
  g_autoptr (Engine) engine = engine_new ("synthetic:z-image-turbo", &options, &error);
  EngineRequest r = ENGINE_REQUEST_INIT;
  EnginePlan plan;

  g_assert_no_error (error);
  r.prompt = "a lighthouse";
  g_assert_true (engine_plan (engine, &r, &plan, &error));
  return plan;
}
#endif

/* What the published sizes take of a card: codes, scales, and norms in F32; and the workspace, the
 * largest linear in BF16. The loads of a card are held against the same sizes by test-cuda-codes.
 */
static void
test_plan (void)
{
#ifdef HAVE_CUDA
  const guint64 budget = (guint64)48 << 30, layers = 35;
  const guint64 weights
      = (4096 + 2 * 1024) * 2560 + 2560 * 4096 + 2 * 9728 * 2560 + (guint64)2560 * 9728;
  const guint64 norms = (2 * 2560 + 2 * 128) * 4;
  EnginePlan dense = plan_card (NULL, budget);

  g_assert_cmpuint (dense.parts[ENGINE_PART_TEXT_ENCODER].bytes, ==,
                    layers * (2 * weights + norms));
  for (guint b = 0; b < G_N_ELEMENTS (all_bits); b++)
    {
      EnginePlan plan = plan_card (all_bits[b] == 8 ? "synthetic:8" : "synthetic:4", budget);

      g_assert_cmpuint (plan.parts[ENGINE_PART_TEXT_ENCODER].bytes, ==,
                        layers * (weights * (guint)all_bits[b] / 8 + weights / 32 + norms));
      g_assert_cmpuint (plan.working - dense.working, ==, 2 * 9728 * 2560 * 2);
      g_assert_cmpint (plan.parts[ENGINE_PART_TEXT_ENCODER].blocks, ==, (int)layers);
    }
#else
  g_test_skip ("a build without CUDA plans for no card");
#endif
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/weight-only/rounding", test_rounding);
  g_test_add_func ("/weight-only/tiny", test_tiny);
  g_test_add_func ("/weight-only/fixture", test_fixture);
  g_test_add_func ("/weight-only/job", test_job);
  g_test_add_func ("/weight-only/plan", test_plan);
  return g_test_run ();
}
