/* SPDX-License-Identifier: Apache-2.0
 *
 * The quantiser on the fixture's transformer: each level is better than the one before on inputs
 * that none of them has seen, and no worse than the published way of doing it.
 */
#include "engine/checkpoint/checkpoint.h"
#include "engine/engine.h"
#include "engine/observe.h"
#include "engine/svdquant/judge.h"
#include "engine/svdquant/matrix.h"
#include "engine/svdquant/quantize.h"
#include "kernels/reference/svdq.h"
#include "tests/engine/svdq-files.h"

#include <glib/gstdio.h>
#include <math.h>
#include <string.h>
#include <sys/resource.h>

#define BLOCK "layers.0."

/* -- matrices --------------------------------------------------------------------------------- */

static float *
random_matrix (int64_t rows, int64_t columns)
{
  float *out = g_new (float, (gsize)(rows * columns));

  for (int64_t i = 0; i < rows * columns; i++)
    out[i] = (float)g_test_rand_double_range (-1.0, 1.0);
  return out;
}

static void
test_orthonormalise (void)
{
  const int64_t n = 300, l = 40;
  g_autofree float *y = random_matrix (n, l), *work = g_new (float, n *l);
  g_autofree float *gram = g_new (float, l *l);

  for (int64_t i = 0; i < n; i++) /* nearly dependent columns */
    y[i * l + 1] = y[i * l] + 1e-4f * y[i * l + 1];
  matrix_orthonormalise (y, n, l, work);
  matrix_multiply ('T', 'N', l, l, n, 1.0f, y, l, y, l, 0.0f, gram, l);
  for (int64_t i = 0; i < l * l; i++)
    g_assert_cmpfloat_with_epsilon (gram[i], i % (l + 1) == 0 ? 1.0f : 0.0f, 1e-5f);
}

static void
test_inverse (void)
{
  const int64_t n = 300; /* no multiple of the block */
  g_autofree float *x = random_matrix (2 * n, n), *h = g_new (float, n *n);
  g_autofree float *a = g_new (float, n *n), *work = g_new (float, MATRIX_BLOCK *n);
  g_autofree float *inverse = g_new (float, n *n), *product = g_new (float, n *n);

  matrix_multiply ('T', 'N', n, n, 2 * n, 1.0f, x, n, x, n, 0.0f, h, n);
  memcpy (a, h, n * n * sizeof *a);
  g_assert_true (matrix_cholesky (a, n));
  matrix_invert_lower (a, n, work);
  matrix_multiply ('T', 'N', n, n, n, 1.0f, a, n, a, n, 0.0f, inverse, n);
  matrix_multiply ('N', 'N', n, n, n, 1.0f, inverse, n, h, n, 0.0f, product, n);
  for (int64_t i = 0; i < n * n; i++)
    g_assert_cmpfloat_with_epsilon (product[i], i % (n + 1) == 0 ? 1.0f : 0.0f, 1e-2f);
  memset (h, 0, n * n * sizeof *h);
  g_assert_false (matrix_cholesky (h, n));
}

static void
test_factors (void)
{
  const int64_t n = 256, k = 192;
  g_autofree float *left = random_matrix (n, 12), *right = random_matrix (12, k);
  g_autofree float *w = g_new (float, n *k), *smooth = g_new (float, k);
  g_autofree float *residual = g_new (float, n *k);
  Factors *factors = factors_new (n, k, 16);

  matrix_multiply ('N', 'N', n, k, 12, 1.0f, left, 12, right, k, 0.0f, w, k);
  for (int64_t i = 0; i < k; i++)
    smooth[i] = ldexpf (1.0f, (int)(i % 5) - 2);
  factors_fit (factors, w, smooth, 2);
  factors_subtract (factors, w, smooth, residual);
  /* A matrix of rank 12 is all in 16 ranks, but for their rounding to BF16. */
  g_assert_cmpfloat (
      sqrt (matrix_squares (residual, NULL, n * k) / matrix_squares (w, NULL, n * k)), <, 6e-3);
  factors_free (factors);
}

/* -- real inputs ------------------------------------------------------------------------------ */

typedef struct
{
  const char *base;
  GArray *rows; /* float */
  gint64 k;
} Listener;

static void
listen (const char *base, const float *x, gint64 rows, gint64 k, gpointer user_data)
{
  Listener *self = user_data;

  if (!g_str_equal (base, self->base))
    return;
  self->k = k;
  g_array_append_vals (self->rows, x, (guint)(rows * k));
}

/* What `base` is fed while a small picture is drawn from `prompt`. */
static GArray *
record_inputs (const char *model, const char *prompt, guint64 seed, const char *base)
{
  EngineOptions options = { .device = "cpu" };
  EngineRequest request = ENGINE_REQUEST_INIT;
  Listener listener = { base, g_array_new (FALSE, FALSE, sizeof (float)), 0 };
  g_autoptr (GError) error = NULL;
  g_autoptr (Engine) engine = engine_new (model, &options, &error);
  g_autoptr (Image) image = NULL;

  g_assert_no_error (error);
  g_assert_true (engine_observe (engine, listen, &listener, &error));
  request.prompt = (char *)prompt;
  request.width = request.height = 96;
  request.steps = 4;
  request.seed = seed;
  request.guidance = 0;
  image = engine_generate (engine, &request, NULL, NULL, NULL, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (listener.rows->len, >, 0);
  return listener.rows;
}

static float *
read_weight (const char *model, const char *const *parts, int64_t n, int64_t k)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (Checkpoint) checkpoint = checkpoint_open (model, NULL, NULL, &error);
  Weights *weights = checkpoint_weights (checkpoint, CHECKPOINT_TRANSFORMER, FALSE, &error);
  float *out = g_new (float, (gsize)(n * k));
  int64_t at = 0;

  for (int i = 0; parts[i] != NULL; i++)
    {
      g_autofree char *name = g_strdup_printf (BLOCK "%s.weight", parts[i]);
      Tensor t;

      g_assert_true (weights_find (weights, name, &t));
      for (int64_t j = 0; j < tensor_count (&t); j++)
        out[at++] = tensor_get (&t, j);
    }
  g_assert_cmpint (at, ==, n * k);
  return out;
}

/* Relative errors of a quantised layer: of its weight, and at level L1 of its outputs. */
static QuantizeError
measure (const SvdqSource *source, const float *outer, const float *weight, int64_t n, int64_t k,
         const GArray *inputs)
{
  const int64_t rows = 40, all = inputs->len / k;
  g_autofree float *x = g_new (float, (gsize)(rows * k)), *y = g_new (float, (gsize)(rows * n));
  g_autofree float *expected = g_new (float, (gsize)(rows * n));
  SvdqSource scaled = *source;
  double difference = 0.0, norm = 0.0;
  QuantizeError error;

  scaled.outer = outer;
  for (int64_t row = 0; row < n; row++)
    for (int64_t i = 0; i < k; i += 7) /* a sample: the reference is slow */
      {
        double d = svdq_weight (&scaled, n, k, row, i) - weight[row * k + i];

        difference += d * d;
        norm += (double)weight[row * k + i] * weight[row * k + i];
      }
  error.weight = sqrt (difference / norm);
  for (int64_t i = 0; i < rows; i++)
    memcpy (x + i * k, &g_array_index (inputs, float, i *all / rows * k), (gsize)k * sizeof *x);
  matrix_multiply ('N', 'T', rows, n, k, 1.0f, x, k, weight, k, 0.0f, expected, n);
  g_assert_cmpint (svdq_reference (SVDQ_LEVEL_CONTRACT, &scaled, n, k, NULL, x, rows, y), ==,
                   STATUS_OK);
  error.output
      = sqrt (matrix_squares (y, expected, rows * n) / matrix_squares (expected, NULL, rows * n));
  return error;
}

/* -- the levels ------------------------------------------------------------------------------- */

typedef struct
{
  const char *name, *parts[4];
  int64_t n, k;
} Layer;

static const Layer layers[] = {
  { "attention.to_qkv", { "attention.to_q", "attention.to_k", "attention.to_v" }, 1152, 384 },
  { "attention.to_out.0", { "attention.to_out.0" }, 384, 384 },
  { "feed_forward.w13", { "feed_forward.w1", "feed_forward.w3" }, 2048, 384 },
  { "feed_forward.w2", { "feed_forward.w2" }, 384, 1024 },
};

static QuantizeError
run_level (QuantizeProblem problem, SvdqFormat format, QuantizeLevel level, const GArray *unseen,
           QuantizeResult **out)
{
  QuantizeSettings settings = { format, 32, level };
  g_autoptr (GError) error = NULL;
  g_autofree float *outer = g_new (float, (gsize)problem.n);

  if (level == QUANTIZE_DATA_FREE)
    problem.inputs = NULL;
  *out = quantize_linear (&problem, &settings, NULL, &error);
  g_assert_no_error (error);
  for (int64_t i = 0; i < problem.n; i++)
    outer[i] = bf16_to_float ((*out)->rounded->wtscale);
  return measure (&(*out)->source, format == SVDQ_INT4 ? NULL : outer, problem.weight, problem.n,
                  problem.k, unseen);
}

/* The fixture's own file, made in the published way at the same rank. */
static QuantizeError
measure_published (SvdqFormat format, const Layer *layer, const float *weight, const GArray *unseen)
{
  g_autofree char *path = svdq_fixture (format == SVDQ_INT4 ? "int4" : "fp4");
  g_autofree char *base = g_strconcat (BLOCK, layer->name, NULL);
  g_autoptr (GError) error = NULL;
  g_autoptr (Safetensors) file = safetensors_open (path, &error);
  g_autoptr (SvdqReader) reader = NULL;
  const SvdqSource *source;

  g_assert_true (svdq_reader_open (file, "", &reader, &error));
  g_assert_true (svdq_reader_get (reader, base, layer->n, layer->k, &source, &error));
  g_assert_no_error (error);
  return measure (source, source->outer, weight, layer->n, layer->k, unseen);
}

/* A few dozen rows of another picture tell two layers apart only so far: sums in the order of
 * another processor's vectors alone move a layer's error by 0.6 % (w2 at level 0, AVX2, AVX-512 and
 * SSE 4.1), and where two levels are that close either may come out ahead. The sums over all layers
 * below tell them apart everywhere. */
#define CHANCE 1.02

/* Adds the levels' relative output errors to `sums`. */
static void
check_layer (const char *model, SvdqFormat format, const Layer *layer, double *sums)
{
  g_autofree char *base = g_strconcat (BLOCK, layer->name, NULL);
  g_autofree float *weight = read_weight (model, layer->parts, layer->n, layer->k);
  g_autoptr (GArray) seen = record_inputs (model, "a harbour at dawn", 1, base);
  g_autoptr (GArray) unseen = record_inputs (model, "two cats on a sofa", 99, base);
  int64_t rows = seen->len / layer->k, held = rows / 8;
  QuantizeProblem problem = { .n = layer->n,
                              .k = layer->k,
                              .weight = weight,
                              .inputs = (const float *)seen->data,
                              .held = (const float *)seen->data + (rows - held) * layer->k,
                              .n_inputs = rows - held,
                              .n_held = held };
  QuantizeError levels[3], published = measure_published (format, layer, weight, unseen);
  QuantizeResult *results[3];

  for (int level = 0; level < 3; level++)
    levels[level] = run_level (problem, format, (QuantizeLevel)level, unseen, &results[level]);
  g_test_message ("%s %s weight/output: published %.4f %.4f, level 0 %.4f %.4f, level 1 %.4f %.4f, "
                  "level 2 %.4f %.4f",
                  format == SVDQ_INT4 ? "INT4" : "NVFP4", layer->name, published.weight,
                  published.output, levels[0].weight, levels[0].output, levels[1].weight,
                  levels[1].output, levels[2].weight, levels[2].output);
  g_assert_cmpfloat (levels[2].output, <=, levels[1].output * CHANCE);
  g_assert_cmpfloat (levels[1].output, <=, levels[0].output * CHANCE);
  g_assert_cmpfloat (levels[0].weight, <=, 1.02 * published.weight);
  g_assert_cmpfloat (levels[0].output, <=, 1.02 * published.output);
  /* Plain rounding at the same rank, as the layer's own report has it. */
  g_assert_cmpfloat (results[0]->final.weight, <=, results[0]->plain.weight);
  for (int level = 0; level < 3; level++)
    {
      sums[level] += levels[level].output;
      g_assert_cmpfloat (results[level]->final.output, <=, results[level]->plain.output);
      quantize_result_free (results[level]);
    }
}

static void
test_levels (gconstpointer data)
{
  SvdqFormat format = (SvdqFormat)GPOINTER_TO_INT (data);
  g_autofree char *path = svdq_fixture ("int4");
  g_autofree char *model = NULL;
  double sums[3] = { 0.0, 0.0, 0.0 };

  if (path == NULL)
    return;
  model = g_path_get_dirname (path);
  for (guint i = 0; i < G_N_ELEMENTS (layers); i++)
    check_layer (model, format, &layers[i], sums);
  g_assert_cmpfloat (sums[2], <, sums[1]);
  g_assert_cmpfloat (sums[1], <, sums[0]);
}

/* -- a whole model ---------------------------------------------------------------------------- */

typedef struct
{
  GCancellable *cancellable;
  guint calls, stop_at;
  const QuantizeJob *job; /* that is under way */
} Watch;

static void
watch (double fraction, double left, const char *doing, gpointer user_data)
{
  Watch *self = user_data;
  g_autoptr (GError) error = NULL;

  /* A second program keeps away from the first one's parts. */
  g_assert_false (quantize_model (self->job, NULL, NULL, NULL, &error));
  g_assert_error (error, G_FILE_ERROR, G_FILE_ERROR_AGAIN);
  g_assert_cmpfloat (fraction, >=, 0.0);
  g_assert_cmpfloat (fraction, <=, 1.0);
  if (++self->calls == self->stop_at)
    g_cancellable_cancel (self->cancellable);
}

static guint
count_files (const char *dir)
{
  g_autoptr (GDir) listing = g_dir_open (dir, 0, NULL);
  guint count = 0;

  while (listing != NULL && g_dir_read_name (listing) != NULL)
    count++;
  return count;
}

/* Interrupted, gone on with, and drawn with. */
static void
test_whole_model (void)
{
  g_autofree char *fixture = svdq_fixture ("int4");
  g_autofree char *out = NULL, *parts = NULL, *model = NULL, *text_path = NULL, *json_path = NULL;
  g_autofree char *text = NULL;
  g_autoptr (GCancellable) cancellable = g_cancellable_new ();
  g_autoptr (GError) error = NULL;
  g_autoptr (Engine) engine = NULL;
  g_autoptr (Image) image = NULL;
  EngineRequest request = ENGINE_REQUEST_INIT;
  QuantizeJob job = { .settings = { SVDQ_NVFP4, 32, QUANTIZE_DATA_FREE }, .feed_forward_rank = 16 };
  Watch first = { cancellable, 0, 6, &job };

  if (fixture == NULL)
    return;
  job.model = model = g_path_get_dirname (fixture);
  job.out = out = svdq_sample_path ();
  parts = g_strconcat (out, ".parts", NULL);
  g_assert_false (quantize_model (&job, watch, &first, cancellable, &error));
  g_assert_error (error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
  g_clear_error (&error);
  g_assert_cmpuint (count_files (parts), >=, 4);

  g_assert_true (quantize_model (&job, NULL, NULL, NULL, &error));
  g_assert_no_error (error);
  g_assert_false (g_file_test (parts, G_FILE_TEST_EXISTS));
  text_path = g_strconcat (out, ".txt", NULL);
  json_path = g_strconcat (out, ".json", NULL);
  g_assert_true (g_file_get_contents (text_path, &text, NULL, &error));
  g_assert_nonnull (strstr (text, "context_refiner.0.feed_forward.w2"));

  engine = engine_new (model, &(EngineOptions){ .device = "cpu", .transformer_file = out }, &error);
  g_assert_no_error (error);
  request.prompt = "a lighthouse";
  request.width = request.height = 64;
  request.steps = 1;
  request.guidance = 0;
  request.precision = ENGINE_PRECISION_SVDQUANT;
  image = engine_generate (engine, &request, NULL, NULL, NULL, &error);
  g_assert_no_error (error);
  g_unlink (out);
  g_unlink (text_path);
  g_unlink (json_path);
}

/* Until the first linear is begun: what is drawn to learn from is there then. */
static void
watch_linears (double fraction, double left, const char *doing, gpointer user_data)
{
  if (!g_str_has_prefix (doing, "drawing"))
    watch (fraction, left, doing, user_data);
}

static void
assert_fails (const QuantizeJob *job, QuantizeProgress progress, Watch *watch, const char *says)
{
  g_autoptr (GError) error = NULL;

  g_cancellable_reset (watch->cancellable);
  g_assert_false (quantize_model (job, progress, watch, watch->cancellable, &error));
  g_test_message ("%s", error->message);
  g_assert_nonnull (strstr (error->message, says));
  g_assert_false (g_file_test (job->out, G_FILE_TEST_EXISTS));
}

static void
truncate_rows (const char *parts, const char *base)
{
  g_autofree char *path = g_strdup_printf ("%s/%s.rows", parts, base);
  g_autofree char *contents = NULL;
  gsize length;

  g_assert_true (g_file_get_contents (path, &contents, &length, NULL));
  g_assert_cmpuint (length, >, 0);
  g_assert_true (g_file_set_contents (path, contents, (gssize)length - 1, NULL));
}

/* Learning from pictures: interrupted while they are drawn, a disk that is full, rows that were
 * damaged; and in the end a result like any other. */
static void
test_calibrated (void)
{
  static const char *const prompts[] = { "a red circle", "two cats", NULL };
  g_autofree char *model = g_build_filename (g_getenv ("TESSERA_TEST_DATA"), "tiny-zimage", NULL);
  g_autofree char *out = svdq_sample_path (), *parts = g_strconcat (out, ".parts", NULL);
  g_autofree char *json_path = g_strconcat (out, ".json", NULL), *json = NULL;
  g_autofree char *text_path = g_strconcat (out, ".txt", NULL);
  g_autofree char *mark = g_build_filename (parts, "calibration.txt", NULL);
  g_autoptr (GCancellable) cancellable = g_cancellable_new ();
  g_autoptr (GError) error = NULL;
  QuantizeJob job = { .model = model,
                      .out = out,
                      .settings = { SVDQ_INT4, 16, QUANTIZE_CALIBRATED },
                      .plan = { prompts, 1, 64, 32 } };
  struct rlimit saved, small;

  g_unlink (out); /* only its name is wanted */
  assert_fails (&job, watch, &(Watch){ cancellable, 0, 1, &job }, "cancelled");
  g_assert_false (g_file_test (mark, G_FILE_TEST_EXISTS));

  g_assert_cmpint (getrlimit (RLIMIT_FSIZE, &saved), ==, 0);
  small = (struct rlimit){ .rlim_cur = 4096, .rlim_max = saved.rlim_max };
  signal (SIGXFSZ, SIG_IGN);
  g_assert_cmpint (setrlimit (RLIMIT_FSIZE, &small), ==, 0);
  assert_fails (&job, NULL, &(Watch){ cancellable, 0, 0, &job }, ".rows: cannot be written");
  g_assert_cmpint (setrlimit (RLIMIT_FSIZE, &saved), ==, 0);
  g_assert_false (g_file_test (mark, G_FILE_TEST_EXISTS));

  assert_fails (&job, watch_linears, &(Watch){ cancellable, 0, 1, &job }, "cancelled");
  g_assert_true (g_file_test (mark, G_FILE_TEST_EXISTS));
  truncate_rows (parts, "noise_refiner.0.attention.to_qkv");
  assert_fails (&job, NULL, &(Watch){ cancellable, 0, 0, &job }, "to_qkv.rows: not a whole number");
  g_unlink (mark);

  g_assert_true (quantize_model (&job, NULL, NULL, NULL, &error));
  g_assert_no_error (error);
  g_assert_false (g_file_test (parts, G_FILE_TEST_EXISTS));
  g_assert_true (g_file_get_contents (json_path, &json, NULL, NULL));
  g_assert_nonnull (strstr (json, "\"output\":")); /* measured on rows that were held back */
  g_unlink (out);
  g_unlink (json_path);
  g_unlink (text_path);
}

static void
test_refusals (void)
{
  QuantizeJob job = { .model = "/no/such/model",
                      .out = "/no/such/folder/out.safetensors",
                      .settings = { SVDQ_INT4, 24, QUANTIZE_DATA_FREE } };
  g_autoptr (GError) error = NULL;

  g_assert_false (quantize_model (&job, NULL, NULL, NULL, &error));
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST);
  g_clear_error (&error);
  job.settings.rank = 32;
  g_assert_false (quantize_model (&job, NULL, NULL, NULL, &error));
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/svdq-quantize/orthonormalise", test_orthonormalise);
  g_test_add_func ("/svdq-quantize/inverse", test_inverse);
  g_test_add_func ("/svdq-quantize/factors", test_factors);
  g_test_add_data_func ("/svdq-quantize/levels/int4", GINT_TO_POINTER (SVDQ_INT4), test_levels);
  g_test_add_data_func ("/svdq-quantize/levels/nvfp4", GINT_TO_POINTER (SVDQ_NVFP4), test_levels);
  g_test_add_func ("/svdq-quantize/whole-model", test_whole_model);
  g_test_add_func ("/svdq-quantize/calibrated", test_calibrated);
  g_test_add_func ("/svdq-quantize/refusals", test_refusals);
  return g_test_run ();
}
