/* SPDX-License-Identifier: Apache-2.0
 *
 * LoRA files: against weights into which they were merged, on BF16 and on 4-bit layers, and what
 * happens to files that do not fit. On the CPU, or on the device named first ("cuda"); exits with
 * 77 when that is not there.
 */
#include "engine/engine.h"
#include "engine/linear.h"
#include "engine/lora/adapters.h"
#include "engine/models.h"
#include "tests/engine/lora-files.h"
#include "tests/engine/trace-compare.h"

#include <glib/gstdio.h>
#include <math.h>
#include <string.h>

static const char *const blocks[] = { "layers.0", "noise_refiner.0", "context_refiner.0", NULL };
static const char *const one_block[] = { "layers.0", NULL };

typedef struct
{
  const char *device;
  double limit;      /* of relative RMS error, pictures' latents */
  char *model;       /* the shared fixture */
  Safetensors *base; /* its transformer */
  char *trace;
} Fixture;

/* -- pictures -----------------------------------------------------------------------------------
 */

static EngineRequest
sample_request (const EngineLora *loras, guint n)
{
  EngineRequest r = ENGINE_REQUEST_INIT;

  r.prompt = "a lighthouse";
  r.width = 64;
  r.height = 96;
  r.steps = 2;
  r.loras = loras;
  r.n_loras = n;
  return r;
}

/* The trace of a picture. */
static Safetensors *
draw (const Fixture *f, Engine *engine, const EngineLora *loras, guint n)
{
  EngineRequest request = sample_request (loras, n);
  g_autoptr (GError) error = NULL;
  g_autoptr (Image) image = NULL;
  Safetensors *trace;

  engine_set_trace (engine, f->trace);
  image = engine_generate (engine, &request, NULL, NULL, NULL, &error);
  g_assert_no_error (error);
  trace = safetensors_open (f->trace, &error);
  g_assert_no_error (error);
  return trace;
}

static Engine *
open_engine (const Fixture *f, const char *transformer)
{
  EngineOptions options = { .device = f->device, .transformer_file = transformer };
  g_autoptr (GError) error = NULL;
  Engine *engine = engine_new (f->model, &options, &error);

  g_assert_no_error (error);
  return engine;
}

static double
difference (Safetensors *a, Safetensors *b)
{
  return trace_relative_rms (a, b, "latents.step02");
}

/* All spellings are one LoRA, and give what merged weights give. */
static void
test_styles (gconstpointer data)
{
  const Fixture *f = data;
  const LoraSample sample = { f->base, blocks, 5, 1 };
  const double strength = 0.8;
  g_autoptr (Engine) engine = open_engine (f, NULL);
  char *merged_file = lora_merge (f->base, &sample, &strength, 1);
  g_autoptr (Engine) merged_engine = open_engine (f, merged_file);
  g_autoptr (Safetensors) merged = draw (f, merged_engine, NULL, 0);
  g_autoptr (Safetensors) plain = draw (f, engine, NULL, 0);

  g_assert_cmpfloat (difference (plain, merged), >, 0.1);
  for (int style = 0; style < LORA_N_STYLES; style++)
    {
      char *file = lora_sample_write (&sample, (LoraStyle)style);
      g_autoptr (Safetensors) adapted = draw (f, engine, &(EngineLora){ file, strength }, 1);
      EngineLoraReport report;

      g_test_message ("style %d: %.2g", style, difference (adapted, merged));
      g_assert_cmpfloat (difference (adapted, merged), <, f->limit);
      g_assert_cmpuint (engine_get_loras (engine, &report, 1), ==, 1);
      g_assert_cmpuint (report.applied, ==, style == LORA_COMFY ? 17 : 23);
      g_assert_cmpuint (report.left_out, ==, style == LORA_DOTS ? 3 : 0);
      lora_remove (file);
    }
  lora_remove (merged_file);
}

/* Several at once, negative strengths, changes between pictures; and back to the same bytes. */
static void
test_several (gconstpointer data)
{
  const Fixture *f = data;
  const LoraSample samples[] = { { f->base, blocks, 4, 2 }, { f->base, one_block, 19, 3 } };
  char *files[]
      = { lora_sample_write (&samples[0], LORA_PEFT), lora_sample_write (&samples[1], LORA_KOHYA) };
  static const double strengths[][2] = { { 1.0, 0.5 }, { -0.7, 0.0 }, { 0.3, -1.1 } };
  g_autoptr (Engine) engine = open_engine (f, NULL);
  g_autoptr (Safetensors) plain = draw (f, engine, NULL, 0);

  for (guint i = 0; i < G_N_ELEMENTS (strengths); i++)
    {
      const EngineLora loras[] = { { files[0], strengths[i][0] }, { files[1], strengths[i][1] } };
      char *merged_file = lora_merge (f->base, samples, strengths[i], 2);
      g_autoptr (Engine) merged_engine = open_engine (f, merged_file);
      g_autoptr (Safetensors) merged = draw (f, merged_engine, NULL, 0);
      g_autoptr (Safetensors) adapted = draw (f, engine, loras, 2);
      g_autoptr (Safetensors) none = NULL, zero = NULL;
      const EngineLora zeros[] = { { files[0], 0.0 }, { files[1], 0.0 } };

      g_assert_cmpfloat (difference (adapted, merged), <, f->limit);
      zero = draw (f, engine, zeros, 2);
      g_assert_cmpfloat (difference (zero, plain), ==, 0.0);
      none = draw (f, engine, NULL, 0);
      g_assert_cmpfloat (difference (none, plain), ==, 0.0);
      lora_remove (merged_file);
    }
  for (guint i = 0; i < 2; i++)
    lora_remove (files[i]);
}

/* The plan knows of adapters, and holds. */
static void
test_plan (gconstpointer data)
{
  const Fixture *f = data;
  const LoraSample sample = { f->base, blocks, 64, 4 };
  char *file = lora_sample_write (&sample, LORA_PEFT);
  const EngineLora lora = { file, 1.0 };
  g_autoptr (Engine) engine = open_engine (f, NULL);
  EngineRequest with = sample_request (&lora, 1), without = sample_request (NULL, 0);
  g_autoptr (GError) error = NULL;
  EnginePlan a, b, loaded;
  EngineMemory before, after;

  g_assert_true (engine_plan (engine, &without, &a, &error));
  g_assert_true (engine_plan (engine, &with, &b, &error));
  g_assert_cmpuint (b.weights, >, a.weights);
  g_assert_cmpuint (b.activations, >=, a.activations);
  safetensors_free (draw (f, engine, NULL, 0));
  engine_get_memory (engine, &before);
  safetensors_free (draw (f, engine, &lora, 1));
  engine_get_memory (engine, &after);
  g_assert_cmpuint (after.weights - before.weights, <=,
                    b.weights + b.working - a.weights - a.working + 65536);
  g_assert_true (engine_plan (engine, &with, &loaded, &error));
  g_assert_cmpuint (loaded.activations, <=, b.activations);
  safetensors_free (draw (f, engine, NULL, 0));
  engine_get_memory (engine, &after);
  g_assert_cmpuint (after.weights, ==, before.weights);
  lora_remove (file);
}

/* -- single layers ------------------------------------------------------------------------------
 */

/* A run of one layer on random rows, outside the pipeline. */
typedef struct
{
  Context ctx;
  Arena arena;
  Tensor x, out;      /* on the device */
  float *in, *result; /* on the host */
  int64_t m, n, k;
} Probe;

static void
probe_init (Probe *self, const Device *device, int64_t m, int64_t n, int64_t k)
{
  g_autoptr (GRand) rand = g_rand_new_with_seed (7);

  *self = (Probe){ .m = m, .n = n, .k = k };
  self->ctx = (Context){ .ops = device->ops,
                         .stream = device->stream,
                         .activation = device_activation (&device->caps),
                         .residual = device_residual (&device->caps),
                         .arena = &self->arena,
                         .caps = &device->caps,
                         .options = &device->options };
  g_assert_cmpint (arena_init (&self->arena, device->ops, device->stream, 64 << 20), ==, STATUS_OK);
  self->in = g_new (float, (gsize)(m * k));
  self->result = g_new (float, (gsize)(m * n));
  for (int64_t i = 0; i < m * k; i++) /* exact in BF16 */
    self->in[i] = (float)g_rand_int_range (rand, -127, 128) / 64.0f;
  arena_tensor (&self->arena, &self->x, self->ctx.activation, m, k, 0, 0);
  arena_tensor (&self->arena, &self->out, self->ctx.activation, m, n, 0, 0);
}

static void
probe_clear (Probe *self)
{
  arena_clear (&self->arena);
  g_free (self->in);
  g_free (self->result);
}

/* `in` as the layer finds it. */
static void
probe_write (Probe *self, const Linear *linear)
{
  g_autofree float *values = g_new (float, (gsize)(self->m * self->k));
  gboolean divided = linear->after_swiglu && self->ctx.activation == DTYPE_F16;
  Tensor host = tensor_2d (DTYPE_F32, values, self->m, self->k);

  for (int64_t i = 0; i < self->m * self->k; i++)
    values[i] = self->in[i] * (divided ? SWIGLU_F16_SCALE : 1.0f);
  g_assert_cmpint (self->ctx.ops->upload (self->ctx.stream, &host, &self->x), ==, STATUS_OK);
}

static void
probe_read (Probe *self)
{
  Tensor host = tensor_2d (DTYPE_F32, self->result, self->m, self->n);

  g_assert_cmpint (self->ctx.ops->download (self->ctx.stream, &self->out, &host), ==, STATUS_OK);
}

/* ||with - without - expected|| / ||expected||, where a LoRA of `name` of `rows` rows adds to the
 * outputs from `first` on. */
static double
adapter_error (Probe *self, const Linear *linear, const Adapters *adapters,
               const LoraSample *sample, const char *name, int64_t first, int64_t rows)
{
  g_autofree float *without = NULL;
  g_autofree double *expected = g_new (double, (gsize)rows);
  double error = 0.0, norm = 0.0;

  probe_write (self, linear);
  self->ctx.adapters = NULL;
  g_assert_cmpint (linear_apply (&self->ctx, linear, &self->x, &self->out), ==, STATUS_OK);
  probe_read (self);
  without = g_memdup2 (self->result, (gsize)(self->m * self->n) * sizeof (float));
  self->ctx.adapters = adapters;
  g_assert_cmpint (linear_apply (&self->ctx, linear, &self->x, &self->out), ==, STATUS_OK);
  probe_read (self);
  for (int64_t row = 0; row < self->m; row++)
    {
      g_assert_true (lora_sample_apply (sample, name, self->in + row * self->k, expected));
      for (int64_t i = 0; i < rows; i++)
        {
          int64_t at = row * self->n + first + i;
          double d = (double)self->result[at] - without[at] - expected[i];

          error += d * d;
          norm += expected[i] * expected[i];
        }
    }
  return sqrt (error / norm);
}

/* On 4-bit layers an adapter adds exactly what it says, to the raw input. */
static void
test_quantised (gconstpointer data, const char *file, gboolean exact)
{
  const Fixture *f = data;
  const LoraSample sample = { f->base, one_block, 3, 5 };
  char *lora_path = lora_sample_write (&sample, LORA_PEFT);
  const EngineLora lora = { lora_path, 1.0 };
  EngineRequest request = sample_request (&lora, 1);
  EngineOptions options = { .device = f->device, .exact = exact };
  g_autofree char *path = g_build_filename (f->model, file, NULL);
  g_autoptr (GError) error = NULL;
  const PartPlacement stays = { 0 };
  const int64_t d = 384;
  Models models;
  Device device;
  Probe probe;

  g_assert_true (device_open (&device, &options, &error));
  g_assert_true (models_open (&models, &device, f->model, path, NULL, NULL, &error));
  g_assert_true (models_open_adapters (&models, &device, &request, "/nowhere", &error));
  if (models_enter (&models, &device, MODELS_TRANSFORMER, ENGINE_PRECISION_SVDQUANT, &stays, NULL,
                    &error)
      != STATUS_OK)
    g_test_skip ("this device cannot run this precision");
  else
    {
      const Transformer *t = models.transformer[ENGINE_PRECISION_SVDQUANT];
      /* On a BF16 device three roundings of the sum are all that is between the two. */
      double limit = f->limit > 1e-3 ? 2e-2 : 2e-6;

      probe_init (&probe, &device, 1500, 3 * d, d);
      g_assert_cmpfloat (adapter_error (&probe,
                                        transformer_find_linear (t, "layers.0.attention.to_qkv"),
                                        models.adapters, &sample, "layers.0.attention.to_k", d, d),
                         <, limit);
      probe_clear (&probe);
      probe_init (&probe, &device, 40, d, 1024);
      g_assert_cmpfloat (adapter_error (&probe,
                                        transformer_find_linear (t, "layers.0.feed_forward.w2"),
                                        models.adapters, &sample, "layers.0.feed_forward.w2", 0, d),
                         <, limit);
      probe_clear (&probe);
    }
  models_close (&models, &device);
  device_close (&device);
  lora_remove (lora_path);
}

static void
test_int4 (gconstpointer data)
{
  test_quantised (data, "svdq-int4_r32-svdq-zimage.safetensors", FALSE);
}

/* By the file's own arithmetic, where the device has a faster one. */
static void
test_int4_exact (gconstpointer data)
{
  test_quantised (data, "svdq-int4_r32-svdq-zimage.safetensors", TRUE);
}

static void
test_nvfp4 (gconstpointer data)
{
  test_quantised (data, "svdq-fp4_r32-svdq-zimage.safetensors", FALSE);
}

/* -- files that do not fit ----------------------------------------------------------------------
 */

typedef struct
{
  const char *name;
  int64_t a, b;
  float value;
} Piece;

#define Q "layers.0.attention.to_q"

static const struct
{
  const char *error;   /* in its message; NULL: the file is taken */
  const char *reasons; /* in the report's */
  Piece pieces[6];
} misfits[] = {
  { "holds no LoRA", NULL, { { Q ".weight", 384, 384, 1.0f } } },
  { "this model has no such layer",
    NULL,
    { { "layers.7.attention.to_q.lora_A.weight", 4, 384, 1.0f },
      { "layers.7.attention.to_q.lora_B.weight", 384, 4, 1.0f } } },
  { "do not fit a layer of 384 x 384",
    NULL,
    { { Q ".lora_A.weight", 4, 383, 1.0f }, { Q ".lora_B.weight", 384, 4, 1.0f } } },
  { "do not fit",
    NULL,
    { { Q ".lora_A.weight", 4, 384, 1.0f }, { Q ".lora_B.weight", 384, 5, 1.0f } } },
  { "has no up (B) factor", NULL, { { Q ".lora_A.weight", 4, 384, 1.0f } } },
  { "infinite numbers or NaN",
    NULL,
    { { Q ".lora_A.weight", 4, 384, 1.0f }, { Q ".lora_B.weight", 384, 4, NAN } } },
  { "infinite numbers or NaN",
    NULL,
    { { Q ".lora_A.weight", 4, 384, -INFINITY }, { Q ".lora_B.weight", 384, 4, 1.0f } } },
  { "alpha is no finite number",
    NULL,
    { { Q ".lora_A.weight", 4, 384, 1.0f },
      { Q ".lora_B.weight", 384, 4, 1.0f },
      { Q ".alpha", 1, 1, NAN } } },
  { "LoKr", NULL, { { "lycoris_layers_0_attention_to_q.lokr_w1", 4, 4, 1.0f } } },
  { NULL,
    "to_k: a LoHa",
    { { Q ".lora_A.weight", 4, 384, 0.1f },
      { Q ".lora_B.weight", 384, 4, 0.1f },
      { "layers.0.attention.to_k.hada_w1_a", 384, 4, 1.0f },
      { "layers.0.attention.to_k.hada_w1_b", 4, 384, 1.0f },
      { "text_encoder.layers.0.q_proj.lora_A.weight", 4, 384, 1.0f },
      { Q ".dora_scale", 384, 1, 1.0f } } },
};

static char *
write_pieces (const Piece *pieces, guint n)
{
  g_autoptr (SafetensorsWriter) writer = safetensors_writer_new ();
  g_autoptr (GPtrArray) held = g_ptr_array_new_with_free_func (g_free);
  g_autoptr (GError) error = NULL;
  char *path = g_build_filename (g_get_tmp_dir (), "tessera-lora-XXXXXX", NULL);

  g_close (g_mkstemp (path), NULL);
  for (guint i = 0; i < n && pieces[i].name != NULL; i++)
    {
      int64_t count = pieces[i].a * pieces[i].b;
      float *values = g_new (float, (gsize)count);

      g_ptr_array_add (held, values);
      for (int64_t j = 0; j < count; j++)
        values[j] = pieces[i].value;
      safetensors_writer_add (writer, pieces[i].name, DTYPE_F32, 2,
                              (int64_t[]){ pieces[i].a, pieces[i].b }, values);
    }
  g_assert_true (safetensors_writer_write (writer, path, &error));
  return path;
}

static void
test_misfits (gconstpointer data)
{
  const Fixture *f = data;
  g_autoptr (Engine) engine = open_engine (f, NULL);

  for (guint i = 0; i < G_N_ELEMENTS (misfits); i++)
    {
      char *path = write_pieces (misfits[i].pieces, G_N_ELEMENTS (misfits[i].pieces));
      const EngineLora lora = { path, 1.0 };
      EngineRequest request = sample_request (&lora, 1);
      g_autoptr (GError) error = NULL;
      EngineLoraReport report;
      g_autoptr (Image) image = engine_generate (engine, &request, NULL, NULL, NULL, &error);

      if (misfits[i].error != NULL)
        {
          g_assert_null (image);
          g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL);
          g_assert_nonnull (strstr (error->message, misfits[i].error));
          g_assert_nonnull (strstr (error->message, path));
        }
      else
        {
          g_assert_no_error (error);
          g_assert_cmpuint (engine_get_loras (engine, &report, 1), ==, 1);
          g_assert_cmpuint (report.applied, ==, 1);
          g_assert_cmpuint (report.left_out, ==, 3);
          g_assert_nonnull (strstr (report.reasons, misfits[i].reasons));
        }
      lora_remove (path);
    }
}

/* A name is looked for in the folders that are known, and nowhere else. */
static void
test_names (gconstpointer data)
{
  const Fixture *f = data;
  g_autofree char *folder = g_dir_make_tmp ("tessera-loras-XXXXXX", NULL);
  g_autofree char *inside = g_build_filename (folder, "style.safetensors", NULL);
  const LoraSample sample = { f->base, one_block, 2, 6 }, other = { f->base, one_block, 2, 7 };
  g_autofree char *file = lora_sample_write (&sample, LORA_BARE);
  g_autofree char *newer = lora_sample_write (&other, LORA_BARE);
  EngineOptions options = { .device = f->device, .lora_folder = folder };
  g_autoptr (GError) error = NULL;
  g_autoptr (Engine) engine = engine_new (f->model, &options, &error);
  EngineLora lora = { "style.safetensors", 1.0 };
  EngineRequest request = sample_request (&lora, 1);
  g_autoptr (Image) image = NULL, again = NULL;
  EngineLoraReport report;
  EnginePlan plan;
  guint applied, left_out;
  g_autofree char *reasons = NULL;

  g_assert_cmpint (g_rename (file, inside), ==, 0);
  g_assert_true (engine_plan (engine, &request, &plan, &error));
  image = engine_generate (engine, &request, NULL, NULL, NULL, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (engine_get_loras (engine, &report, 1), ==, 1);
  g_assert_cmpstr (report.file, ==, inside);
  reasons = engine_check_lora (engine, lora.file, &applied, &left_out, &error);
  g_assert_no_error (error);
  g_assert_cmpstr (reasons, ==, report.reasons);
  g_assert_cmpuint (applied, ==, report.applied);
  g_assert_cmpuint (left_out, ==, report.left_out);
  g_assert_cmpint (g_rename (newer, inside), ==, 0); /* under the same name: it is read again */
  again = engine_generate (engine, &request, NULL, NULL, NULL, &error);
  g_assert_no_error (error);
  g_assert_false (g_bytes_equal (image_get_bytes (image), image_get_bytes (again)));
  g_unlink (inside);
  g_assert_null (engine_check_lora (engine, lora.file, &applied, &left_out, &error));
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL);
  g_clear_error (&error);
  lora.file = "other.safetensors";
  g_assert_false (engine_plan (engine, &request, &plan, &error));
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL);
  g_assert_nonnull (strstr (error->message, folder));
  g_rmdir (folder);
}

/* -- all ----------------------------------------------------------------------------------------
 */

static gboolean
device_is_there (const char *device)
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
  static const struct
  {
    const char *name;
    GTestDataFunc func;
  } tests[] = { { "styles", test_styles },
                { "several", test_several },
                { "plan", test_plan },
                { "int4", test_int4 },
                { "int4-exact", test_int4_exact },
                { "nvfp4", test_nvfp4 },
                { "misfits", test_misfits },
                { "names", test_names } };
  const char *fixtures = g_getenv ("TESSERA_FIXTURES");
  Fixture f = { .device = "cpu", .limit = 1e-5 };
  g_autofree char *base = NULL;
  int result;

  g_test_init (&argc, &argv, NULL);
  if (argc > 1)
    f.device = argv[1];
  if (!device_is_there (f.device))
    return 77;
  if (!g_str_equal (f.device, "cpu"))
    f.limit = 3e-2;
  f.model = fixtures != NULL ? g_build_filename (fixtures, "svdq-zimage", NULL) : g_strdup ("");
  base = g_build_filename (f.model, "transformer", "diffusion_pytorch_model.safetensors", NULL);
  f.base = safetensors_open (base, NULL);
  if (f.base == NULL)
    {
      g_print ("1..0 # SKIP the shared fixtures are not there\n");
      g_free (f.model);
      return g_str_equal (f.device, "cpu") ? 0 : 77; /* TAP says it by the line above */
    }
  f.trace = g_build_filename (g_get_tmp_dir (), "tessera-trace-XXXXXX", NULL);
  g_close (g_mkstemp (f.trace), NULL);
  for (guint i = 0; i < G_N_ELEMENTS (tests); i++)
    {
      g_autofree char *path = g_strdup_printf ("/lora/%s/%s", f.device, tests[i].name);

      g_test_add_data_func (path, &f, tests[i].func);
    }
  result = g_test_run ();
  safetensors_free (f.base);
  lora_remove (f.trace);
  g_free (f.model);
  return result;
}
