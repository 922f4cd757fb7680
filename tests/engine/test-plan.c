/* SPDX-License-Identifier: Apache-2.0
 *
 * What is planned is what is taken, for every kind of transformer file: weights to the last
 * rounding, and pictures within the plan, with and without a LoRA.
 */
#include "engine/models.h"

#include "engine/engine.h"
#include "tests/engine/lora-files.h"
#include "tests/engine/svdq-files.h"
#include "tests/engine/svdq-rewrite.h"

#include <string.h>

/* -- files ------------------------------------------------------------------------------------ */

typedef struct
{
  const char *name;
  const char *fixture;   /* precision of the published file; NULL: the model's own weights */
  gboolean as_published; /* or rewritten */
  SvdqRewrite rewrite;
} Kind;

static const Kind kinds[] = {
  { "dense", NULL, FALSE, { 0 } },
  { "nunchaku-int4", "int4", TRUE, { 0 } },
  { "nunchaku-fp4", "fp4", TRUE, { 0 } },
  { "canonical-int4", "int4", FALSE, { .kind = SVDQ_CANONICAL } },
  { "canonical-fp4", "fp4", FALSE, { .kind = SVDQ_CANONICAL } },
  { "vllm-fp4", "fp4", FALSE, { .kind = SVDQ_VLLM } },
  { "lite-int4", "int4", FALSE, { .kind = SVDQ_LITE } },
  { "lite-fp4", "fp4", FALSE, { .kind = SVDQ_LITE } },
  { "kitchen", "int4", FALSE, { .kind = SVDQ_KITCHEN } },
  { "separate-int4", "int4", FALSE, { .kind = SVDQ_CANONICAL, .separate = TRUE } },
  { "separate-fp4", "fp4", FALSE, { .kind = SVDQ_CANONICAL, .separate = TRUE } },
  { "two-ranks", "int4", FALSE, { .kind = SVDQ_CANONICAL, .separate = TRUE, .dropped = 16 } },
  { "dense-refiners", "int4", FALSE, { .kind = SVDQ_CANONICAL, .dense_prefix = "noise_refiner." } },
  { "dense-layers", "fp4", FALSE, { .kind = SVDQ_LITE, .dense_prefix = "layers." } },
};

typedef struct
{
  char *model, *file; /* file NULL: dense */
  gboolean written;
} Files;

static gboolean
files_init (Files *self, const Kind *kind)
{
  g_autofree char *published = svdq_fixture (kind->fixture != NULL ? kind->fixture : "int4");
  g_autofree char *dense_path = NULL;
  g_autoptr (Safetensors) dense = NULL;
  g_autoptr (GError) error = NULL;
  SvdqRewrite rewrite = kind->rewrite;

  *self = (Files){ 0 };
  if (published == NULL)
    return FALSE;
  self->model = g_path_get_dirname (published);
  if (kind->fixture == NULL)
    return TRUE;
  if (kind->as_published)
    {
      self->file = g_steal_pointer (&published);
      return TRUE;
    }
  dense_path
      = g_build_filename (self->model, "transformer", "diffusion_pytorch_model.safetensors", NULL);
  dense = safetensors_open (dense_path, &error);
  g_assert_no_error (error);
  rewrite.in = published;
  rewrite.dense = dense;
  self->file = svdq_sample_path ();
  self->written = TRUE;
  svdq_rewrite (&rewrite, self->file);
  return TRUE;
}

static void
files_clear (Files *self)
{
  if (self->written)
    svdq_sample_remove (self->file);
  g_free (self->model);
  g_free (self->file);
}

/* -- weights ---------------------------------------------------------------------------------- */

/* Bytes that a transformer takes, as counted on the dry context or as the device gives them. */
static guint64
load (const Device *device, Checkpoint *checkpoint, gboolean quantised, gboolean resident,
      gboolean dry)
{
  Context ctx = { .ops = dry ? &ops_dry : device->ops,
                  .stream = device->stream,
                  .activation = device_activation (&device->caps),
                  .residual = device_residual (&device->caps),
                  .caps = &device->caps,
                  .options = &device->options };
  Loader loader = { .ctx = &ctx, .resident = resident, .target = device->ops };
  guint64 before = device->ops->allocated (device->stream), bytes;
  Transformer *transformer;

  if (dry)
    g_assert_cmpint (ops_dry.open (0, NULL, &ctx.stream), ==, STATUS_OK);
  loader.weights
      = checkpoint_weights (checkpoint, CHECKPOINT_TRANSFORMER, quantised, &loader.error);
  g_assert_no_error (loader.error);
  transformer = transformer_new (&loader, checkpoint_transformer (checkpoint));
  g_assert_no_error (loader.error);
  g_assert_cmpint (loader.status, ==, STATUS_OK);
  g_assert_true (dry || weights_check_all_used (loader.weights, NULL));
  bytes = dry ? loader.memory.total : device->ops->allocated (device->stream) - before;
  transformer_free (&ctx, transformer);
  if (dry)
    ops_dry.close (ctx.stream);
  g_assert_cmpuint (device->ops->allocated (device->stream), ==, before);
  return bytes;
}

/* Each block is counted in units of 256 bytes, of which it fills the last only in part. */
#define BLOCKS 200

static void
test_weights (gconstpointer data)
{
  const Kind *kind = data;
  g_autoptr (GError) error = NULL;
  Checkpoint *checkpoint;
  Device device;
  Files files;

  if (!files_init (&files, kind))
    return;
  device_open (&device, &(EngineOptions){ .device = "cpu" }, &error);
  g_assert_no_error (error);
  checkpoint = checkpoint_open (files.model, files.file, NULL, &error);
  g_assert_no_error (error);
  for (int resident = 0; resident < 2; resident++)
    {
      guint64 planned = load (&device, checkpoint, files.file != NULL, resident, TRUE);
      guint64 taken = load (&device, checkpoint, files.file != NULL, resident, FALSE);

      g_test_message ("%s%s: planned %" G_GUINT64_FORMAT ", taken %" G_GUINT64_FORMAT, kind->name,
                      resident ? ", expanded" : "", planned, taken);
      g_assert_cmpuint (taken, <=, planned);
      g_assert_cmpuint (planned - taken, <=, 256 * BLOCKS);
    }
  checkpoint_free (checkpoint);
  device_close (&device);
  files_clear (&files);
}

/* -- pictures --------------------------------------------------------------------------------- */

/* The plan counts the mapped files, too; the device does not. */
static guint64
mapped_bytes (const Files *files, gboolean quantised)
{
  g_autoptr (GError) error = NULL;
  Checkpoint *checkpoint = checkpoint_open (files->model, files->file, NULL, &error);
  guint64 bytes = 0;

  for (int part = 0; part <= CHECKPOINT_VAE; part++)
    bytes
        += weights_bytes (checkpoint_weights (checkpoint, (CheckpointPart)part, quantised, &error));
  g_assert_no_error (error);
  checkpoint_free (checkpoint);
  return bytes;
}

static void
draw (Engine *engine, const Files *files, const EngineLora *lora)
{
  EngineRequest request = ENGINE_REQUEST_INIT;
  g_autoptr (GError) error = NULL;
  g_autoptr (Image) image = NULL;
  EngineMemory memory;
  EnginePlan plan;
  guint64 mapped = mapped_bytes (files, files->file != NULL);

  request.prompt = "a lighthouse in fog";
  request.width = 96;
  request.height = 64;
  request.steps = 1;
  request.seed = 5;
  request.guidance = 0;
  request.precision = files->file != NULL ? ENGINE_PRECISION_SVDQUANT : ENGINE_PRECISION_BF16;
  request.loras = lora;
  request.n_loras = lora != NULL ? 1 : 0;
  g_assert_true (engine_plan (engine, &request, &plan, &error));
  image = engine_generate (engine, &request, NULL, NULL, NULL, &error);
  g_assert_no_error (error);
  engine_get_memory (engine, &memory);
  g_test_message ("peak planned %" G_GUINT64_FORMAT " (and files of %" G_GUINT64_FORMAT
                  "), held %" G_GUINT64_FORMAT,
                  plan.peak - mapped, mapped, memory.peak);
  g_assert_cmpuint (memory.peak, <=, plan.peak - mapped);
}

static void
test_pictures (gconstpointer data)
{
  static const char *const blocks[] = { "layers.0", "noise_refiner.0", "context_refiner.0", NULL };
  g_autoptr (Safetensors) base = NULL;
  g_autoptr (Engine) engine = NULL;
  g_autoptr (GError) error = NULL;
  g_autofree char *base_path = NULL;
  EngineOptions options = { .device = "cpu" };
  LoraSample sample = { .blocks = blocks, .rank = 24, .seed = 4 };
  EngineLora lora = { .strength = 1.0 };
  Files files;

  if (!files_init (&files, data))
    return;
  base_path
      = g_build_filename (files.model, "transformer", "diffusion_pytorch_model.safetensors", NULL);
  sample.base = base = safetensors_open (base_path, &error);
  g_assert_no_error (error);
  lora.file = lora_sample_write (&sample, LORA_PEFT);
  options.transformer_file = files.file;
  engine = engine_new (files.model, &options, &error);
  g_assert_no_error (error);
  draw (engine, &files, NULL);
  draw (engine, &files, &lora);
  lora_remove ((char *)lora.file);
  files_clear (&files);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  for (guint i = 0; i < G_N_ELEMENTS (kinds); i++)
    {
      g_autofree char *weights = g_strconcat ("/plan/weights/", kinds[i].name, NULL);
      g_autofree char *pictures = g_strconcat ("/plan/pictures/", kinds[i].name, NULL);

      g_test_add_data_func (weights, &kinds[i], test_weights);
      g_test_add_data_func (pictures, &kinds[i], test_pictures);
    }
  return g_test_run ();
}
