/* SPDX-License-Identifier: Apache-2.0
 *
 * test-lora-scale.c - how much each layer of a LoRA counts, by what trainers write
 */
#include "engine/checkpoint/checkpoint.h"
#include "engine/lora/lora-file.h"
#include "tests/engine/model-copy.h"

#include <glib/gstdio.h>
#include <math.h>
#include <string.h>

#define Q    "layers.0.attention.to_q"
#define W1   "layers.1.feed_forward.w1"
#define RANK 4

typedef struct
{
  const char *name, *module, *suffixes[2]; /* of the factors, down first */
  DType alpha;                             /* with `value`: a tensor, where that is not 0 */
  double value;
  const char *metadata, *beside; /* PEFT's configuration, in the header or in a file; or NULL */
  double scale;
} Case;

#define PEFT                                                                                       \
  {                                                                                                \
    ".lora_A.weight", ".lora_B.weight"                                                             \
  }
#define DOWN_UP                                                                                    \
  {                                                                                                \
    ".lora_down.weight", ".lora_up.weight"                                                         \
  }
#define UNWRITTEN DTYPE_F32, 0.0

static const Case cases[] = {
  { "nothing-said", Q, PEFT, UNWRITTEN, NULL, NULL, 1.0 },
  { "alpha", "lora_unet_layers_0_attention_to_q", DOWN_UP, DTYPE_F32, 2.0, NULL, NULL, 0.5 },
  { "alpha-whole", "lora_unet_layers_0_attention_to_q", DOWN_UP, DTYPE_I64, 8.0, NULL, NULL, 2.0 },
  { "alpha-before-header", "transformer." Q, PEFT, DTYPE_F32, 2.0,
    "{\"transformer.lora_alpha\": 16}", NULL, 0.5 },
  { "header", "transformer." Q, PEFT, UNWRITTEN, "{\"transformer.lora_alpha\": 16}", NULL, 4.0 },
  { "header-rslora", "transformer." Q, PEFT, UNWRITTEN,
    "{\"transformer.lora_alpha\": 16, \"transformer.use_rslora\": true}", NULL, 8.0 },
  { "header-pattern", "transformer." W1, PEFT, UNWRITTEN,
    "{\"transformer.lora_alpha\": 16, \"transformer.alpha_pattern\": {\"" Q "\": 1, \"" W1
    "\": 6}}",
    NULL, 1.5 },
  { "header-pattern-end", "transformer." W1, PEFT, UNWRITTEN,
    "{\"transformer.alpha_pattern\": {\"w1\": 6, \"1\": 7}}", NULL, 1.5 },
  { "header-pattern-other", "transformer." W1, PEFT, UNWRITTEN,
    "{\"transformer.lora_alpha\": 16, \"transformer.alpha_pattern\": {\"forward.w1\": 6}}", NULL,
    4.0 },
  { "header-nonsense", "transformer." Q, PEFT, UNWRITTEN, "lora_alpha: 16", NULL, 1.0 },
  { "beside", "base_model.model." Q, PEFT, UNWRITTEN, NULL, "{\"lora_alpha\": 2, \"r\": 4}", 0.5 },
  { "beside-rslora", "base_model.model." Q, PEFT, UNWRITTEN, NULL,
    "{\"lora_alpha\": 2, \"use_rslora\": true, \"alpha_pattern\": {}}", 1.0 },
  { "beside-broken", "base_model.model." Q, PEFT, UNWRITTEN, NULL, "{\"lora_alpha\": ", NAN },
  { "comfy-head", "diffusion_model.final_layer.linear", DOWN_UP, DTYPE_BF16, 4.0, NULL, NULL, 1.0 },
  { "comfy-embedder", "diffusion_model.x_embedder", DOWN_UP, DTYPE_F16, 4.0, NULL, NULL, 1.0 },
};

static void
add (SafetensorsWriter *writer, const char *module, const char *suffix, DType dtype, int rank,
     const int64_t *shape, const void *data)
{
  g_autofree char *name = g_strconcat (module, suffix, NULL);

  safetensors_writer_add (writer, name, dtype, rank, shape, data);
}

static void
write_lora (const Case *c, const LoraTarget *target, const char *path)
{
  g_autoptr (SafetensorsWriter) writer = safetensors_writer_new ();
  g_autofree float *ones = g_new0 (float, (gsize)(RANK * MAX (target->rows, target->in)));
  gint64 whole = (gint64)c->value;
  float wide = (float)c->value;
  uint16_t half = c->alpha == DTYPE_BF16 ? bf16_from_float (wide) : f16_from_float (wide);
  const void *alpha = c->alpha == DTYPE_I64   ? (const void *)&whole
                      : c->alpha == DTYPE_F32 ? (const void *)&wide
                                              : &half;

  add (writer, c->module, c->suffixes[0], DTYPE_F32, 2, (int64_t[]){ RANK, target->in }, ones);
  add (writer, c->module, c->suffixes[1], DTYPE_F32, 2, (int64_t[]){ target->rows, RANK }, ones);
  if (c->value != 0.0)
    add (writer, c->module, ".alpha", c->alpha, 0, NULL, alpha);
  if (c->metadata != NULL)
    safetensors_writer_metadata (writer, "lora_adapter_metadata", c->metadata);
  g_assert_true (safetensors_writer_write (writer, path, NULL));
}

static void
test_case (gconstpointer data)
{
  const Case *c = data;
  g_autofree char *model = test_data_path ("tiny-zimage");
  g_autoptr (Checkpoint) checkpoint = checkpoint_open (model, NULL, NULL, NULL);
  g_autoptr (LoraTargets) targets = lora_targets_new (checkpoint_transformer (checkpoint));
  const LoraTarget *target = lora_targets_find (targets, c->module, strlen (c->module));
  g_autofree char *dir = g_dir_make_tmp ("lora-XXXXXX", NULL);
  g_autofree char *path = g_build_filename (
      dir, c->beside != NULL ? "adapter_model.safetensors" : "it.safetensors", NULL);
  g_autofree char *config = g_build_filename (dir, "adapter_config.json", NULL);
  g_autoptr (LoraFile) lora = NULL;
  g_autoptr (GError) error = NULL;

  g_assert_nonnull (target);
  write_lora (c, target, path);
  g_assert_true (g_file_set_contents (
      config, c->beside != NULL ? c->beside : "{\"lora_alpha\": 99}", -1, NULL));
  lora = lora_file_open (path, targets, TRUE, &error);
  if (isnan (c->scale))
    {
      g_assert_null (lora);
      g_assert_nonnull (strstr (error->message, "adapter_config.json"));
    }
  else
    {
      g_assert_no_error (error);
      g_assert_cmpuint (lora->pairs->len, ==, 1);
      g_assert_cmpfloat (g_array_index (lora->pairs, LoraPair, 0).scale, ==, c->scale);
      g_assert_cmpuint (lora->left_out->len, ==, 0);
    }
  g_clear_pointer (&lora, lora_file_free);
  g_unlink (path);
  g_unlink (config);
  g_assert_cmpint (g_rmdir (dir), ==, 0);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *name = g_strconcat ("/lora-scale/", cases[i].name, NULL);

      g_test_add_data_func (name, &cases[i], test_case);
    }
  return g_test_run ();
}
