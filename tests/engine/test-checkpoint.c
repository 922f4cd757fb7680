/* SPDX-License-Identifier: Apache-2.0
 *
 * test-checkpoint.c - model folders, whole and damaged, in every naming
 */
#include "engine/checkpoint/checkpoint-private.h"
#include "engine/checkpoint/config.h"
#include "engine/checkpoint/naming.h"
#include "engine/engine.h"
#include "engine/weight-only/file.h"
#include "tests/engine/model-copy.h"

#include <glib/gstdio.h>
#include <string.h>

#define TRANSFORMER "transformer/diffusion_pytorch_model.safetensors"

static Checkpoint *
open_good (const char *dir, const char *transformer)
{
  g_autoptr (GError) error = NULL;
  Checkpoint *checkpoint = checkpoint_open (dir, transformer, NULL, &error);

  g_assert_no_error (error);
  return checkpoint;
}

static Weights *
get_part (Checkpoint *checkpoint, CheckpointPart part)
{
  Weights *weights = checkpoint_weights (checkpoint, part, FALSE, NULL);

  g_assert_nonnull (weights);
  return weights;
}

static void
test_configs (void)
{
  g_autofree char *dir = test_data_path ("tiny-zimage");
  g_autoptr (Checkpoint) checkpoint = open_good (dir, NULL);
  const TransformerConfig *transformer = checkpoint_transformer (checkpoint);
  const TextEncoderConfig *text = checkpoint_text_encoder (checkpoint);
  const VaeConfig *vae = checkpoint_vae (checkpoint);
  g_autoptr (GError) error = NULL;

  g_assert_cmpint (transformer->dim, ==, 192);
  g_assert_cmpint (transformer->n_layers, ==, 2);
  g_assert_cmpint (transformer->n_refiner_layers, ==, 1);
  g_assert_cmpint (transformer->head_dim, ==, 64);
  g_assert_cmpint (transformer->hidden, ==, 512);
  g_assert_cmpint (transformer->patch, ==, 2);
  g_assert_cmpint (transformer->axes_dims[2], ==, 24);
  g_assert_cmpint (transformer->axes_lens[0], ==, 1536);
  g_assert_cmpint (transformer->adaln_dim, ==, 192);
  g_assert_cmpint (transformer->t_hidden, ==, 1024);
  g_assert_cmpfloat (transformer->rope_theta, ==, 256.0);
  g_assert_cmpfloat (transformer->norm_eps, ==, 1e-5);
  g_assert_cmpint (text->n_kv_heads, ==, 2);
  g_assert_cmpint (text->vocab, ==, 704);
  g_assert_cmpfloat (text->rope_theta, ==, 1e6); /* under rope_parameters */
  g_assert_cmpint (vae->n_blocks, ==, 4);
  g_assert_cmpint (vae->channels[2], ==, 64);
  g_assert_cmpfloat (vae->shift_factor, ==, 0.1159);
  g_assert_true (vae->mid_attention);
  g_assert_cmpfloat (checkpoint_scheduler (checkpoint)->shift, ==, 3.0);
  g_assert_true (checkpoint_is_distilled (checkpoint));
  g_assert_true (checkpoint_has_dense (checkpoint));
  g_assert_false (checkpoint_has_svdquant (checkpoint));
  g_assert_null (checkpoint_weights (checkpoint, CHECKPOINT_TRANSFORMER, TRUE, &error));
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL);
}

/* Fine-tunes of the published model that transformers 5 saved run with frequencies in FP32. */
static void
test_rope_of_published_width (void)
{
  char *dir = model_copy_new ();
  TextEncoderConfig config;
  g_autoptr (GError) error = NULL;

  g_assert_true (config_read_text_encoder (dir, &config, &error));
  g_assert_true (config.rope_bf16);
  model_copy_edit (dir, "text_encoder/config.json", "\"hidden_size\": 128",
                   "\"hidden_size\": 2560");
  g_assert_true (config_read_text_encoder (dir, &config, &error));
  g_assert_cmpfloat (config.rope_theta, ==, 1e6);
  g_assert_false (config.rope_bf16);
  model_copy_free (dir);
}

static void
test_rope_theta_at_top_level (void)
{
  char *dir = model_copy_new ();
  Checkpoint *checkpoint;

  model_copy_edit (dir, "text_encoder/config.json", "\"rope_parameters\"",
                   "\"rope_theta\": 5e5, \"unread\"");
  model_copy_edit (dir, "scheduler/scheduler_config.json", "\"shift\": 3.0", "\"shift\": 6.0");
  checkpoint = open_good (dir, NULL);
  g_assert_cmpfloat (checkpoint_text_encoder (checkpoint)->rope_theta, ==, 5e5);
  g_assert_false (checkpoint_is_distilled (checkpoint));
  checkpoint_free (checkpoint);
  model_copy_free (dir);
}

typedef struct
{
  const char *file;     /* replaced in the model folder */
  const char *by;       /* this file of tests/data/damaged; NULL: removed */
  const char *cause[2]; /* what the message must say */
} Damage;

static const Damage damages[] = {
  { "transformer/config.json", "config-wrong-type.json", { "\"dim\" is \"192\"", "config.json" } },
  { "transformer/config.json", "config-absurd.json", { "\"n_layers\"", "1 to 1000" } },
  { "transformer/config.json", "config-missing-key.json", { "\"n_heads\" is missing", "" } },
  { "transformer/config.json", "config-axes.json", { "\"axes_dims\" must be even", "" } },
  { "transformer/config.json", "config-omni.json", { "\"siglip_feat_dim\" is set", "" } },
  { "transformer/config.json", "config-not-json.json", { "not valid JSON", "config.json" } },
  { "transformer/config.json", NULL, { "transformer/config.json", "" } },
  { "model_index.json", "config-axes.json", { "ZImageTransformer2DModel", "" } },
  { TRANSFORMER, "truncated.safetensors", { "tensor b lies at bytes", TRANSFORMER } },
  { TRANSFORMER, "header-100mb.safetensors", { "claims 100000000 bytes", TRANSFORMER } },
  { TRANSFORMER, "lfs-pointer.safetensors", { "git lfs pull", TRANSFORMER } },
  { TRANSFORMER, "web-page.safetensors", { "a web page", TRANSFORMER } },
  { "model_index.json", "lfs-pointer.safetensors", { "git lfs pull", "model_index.json" } },
  { TRANSFORMER, NULL, { "no weights here", "transformer" } },
  { "vae/diffusion_pytorch_model.safetensors", NULL, { "no weights here", "vae" } },
};

static void
test_damaged (gconstpointer data)
{
  const Damage *damage = data;
  char *dir = model_copy_new ();
  g_autofree char *name = g_strconcat ("damaged/", damage->by, NULL);
  g_autofree char *target = damage->by != NULL ? test_data_path (name) : NULL;
  g_autoptr (GError) error = NULL;

  model_copy_replace (dir, damage->file, target);
  g_assert_null (checkpoint_open (dir, NULL, NULL, &error));
  g_assert_nonnull (error);
  g_assert_nonnull (strstr (error->message, damage->cause[0]));
  g_assert_nonnull (strstr (error->message, damage->cause[1]));
  model_copy_free (dir);
}

/* One key of a config changed to what this program cannot compute: refused by the key's name. */
static void
test_refused_settings (void)
{
  static const struct
  {
    const char *file, *from, *to, *cause;
  } edits[] = {
    { "text_encoder/config.json", "\"silu\"", "\"gelu\"", "\"hidden_act\"" },
    { "text_encoder/config.json", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3",
      "\"num_key_value_heads\"" },
    { "text_encoder/config.json", "\"default\"", "\"yarn\"", "\"rope_type\"" },
    { "text_encoder/config.json", "\"hidden_size\": 128", "\"hidden_size\": 256", "cap_feat_dim" },
    { "vae/config.json", "\"use_post_quant_conv\": false", "\"use_post_quant_conv\": true",
      "\"use_post_quant_conv\"" },
    { "vae/config.json", "\"norm_num_groups\": 32", "\"norm_num_groups\": 33",
      "\"block_out_channels\"" },
    { "vae/config.json", "\"latent_channels\": 16", "\"latent_channels\": 4", "latent_channels" },
    { "vae/config.json", "0.3611", "0", "\"scaling_factor\"" },
    { "scheduler/scheduler_config.json", "\"use_dynamic_shifting\": false",
      "\"use_dynamic_shifting\": true", "\"use_dynamic_shifting\"" },
    { "scheduler/scheduler_config.json", "\"shift\": 3.0", "\"shift\": null", "\"shift\"" },
    { "transformer/config.json", "\"n_kv_heads\": 3", "\"n_kv_heads\": 1", "\"n_kv_heads\"" },
    { "transformer/config.json", "\"qk_norm\": true", "\"qk_norm\": 1", "\"qk_norm\"" },
  };

  for (guint i = 0; i < G_N_ELEMENTS (edits); i++)
    {
      char *dir = model_copy_new ();
      g_autoptr (GError) error = NULL;

      model_copy_edit (dir, edits[i].file, edits[i].from, edits[i].to);
      g_assert_null (checkpoint_open (dir, NULL, NULL, &error));
      g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL);
      g_test_message ("%s", error->message);
      g_assert_nonnull (strstr (error->message, edits[i].cause));
      model_copy_free (dir);
    }
}

static void
test_get (void)
{
  g_autofree char *dir = test_data_path ("tiny-zimage");
  g_autoptr (Checkpoint) checkpoint = open_good (dir, NULL);
  Weights *weights = get_part (checkpoint, CHECKPOINT_TRANSFORMER);
  g_autoptr (GError) missing = NULL;
  g_autoptr (GError) shape = NULL;
  Tensor tensor;

  g_assert_true (weights_get (weights, &tensor, "layers.0.feed_forward.w1.weight", NULL, 2, 512,
                              (int64_t)192));
  g_assert_cmpint (tensor.shape[0], ==, 512);
  g_assert_false (weights_get (weights, &tensor, "layers.7.ffn_norm1.weight", &missing, 1, 192));
  g_assert_nonnull (strstr (missing->message, "layers.7.ffn_norm1.weight is missing"));
  g_assert_nonnull (strstr (missing->message, weights_path (weights)));
  g_assert_false (weights_get (weights, &tensor, "cap_pad_token", &shape, 1, 192));
  g_assert_error (shape, ENGINE_ERROR, ENGINE_ERROR_MODEL);
  g_assert_nonnull (strstr (shape->message, "cap_pad_token has shape [1, 192], expected [192]"));
  g_assert_false (weights_find (weights, "layers.7.ffn_norm1.weight", &tensor));
  g_assert_true (weights_find (weights, "x_pad_token", &tensor));
}

/* Asking for every tensor but one must name that one; known-unused ones need no asking. */
static void
test_all_used (void)
{
  g_autofree char *dir = test_data_path ("tiny-zimage");
  g_autofree char *path = g_build_filename (dir, "text_encoder/model.safetensors", NULL);
  g_autoptr (Checkpoint) checkpoint = open_good (dir, NULL);
  g_autoptr (Safetensors) file = safetensors_open (path, NULL);
  Weights *weights = get_part (checkpoint, CHECKPOINT_TEXT_ENCODER);
  g_autoptr (GError) error = NULL;
  Tensor tensor;

  for (guint i = 0; i < safetensors_count (file); i++)
    {
      const char *name = safetensors_name (file, i);

      if (!g_str_equal (name, "model.embed_tokens.weight")
          && !g_str_has_prefix (name, "model.layers.2.")
          && !g_str_equal (name, "model.norm.weight"))
        g_assert_true (weights_find (weights, name, &tensor));
    }
  g_assert_false (weights_check_all_used (weights, &error));
  g_assert_nonnull (strstr (error->message, "no use for: model.embed_tokens.weight"));
  g_assert_null (strstr (error->message, "layers.2"));
  g_assert_true (weights_find (weights, "model.embed_tokens.weight", &tensor));
  g_assert_true (weights_check_all_used (weights, NULL));
}

/* Decoder alone or encoder alone may be used; a part of either must not be forgotten. */
static void
test_vae_halves (void)
{
  g_autofree char *dir = test_data_path ("tiny-zimage");
  g_autoptr (Checkpoint) checkpoint = open_good (dir, NULL);
  Weights *weights = get_part (checkpoint, CHECKPOINT_VAE);
  g_autoptr (GError) error = NULL;
  Tensor tensor;

  g_assert_true (weights_check_all_used (weights, NULL));
  g_assert_true (weights_get (weights, &tensor, "decoder.conv_in.weight", NULL, 4, 64, 16, 3, 3));
  g_assert_false (weights_check_all_used (weights, &error));
  g_assert_nonnull (strstr (error->message, "decoder."));
  g_assert_null (strstr (error->message, "encoder."));
}

/* The transformer of tiny-zimage under ComfyUI's names: qkv fused, a prefix, an unused norm. */
static void
write_comfy (const char *from, const char *to)
{
  g_autoptr (Safetensors) file = safetensors_open (from, NULL);
  g_autoptr (SafetensorsWriter) writer = safetensors_writer_new ();
  g_autoptr (GPtrArray) buffers = g_ptr_array_new_with_free_func (g_free);
  g_autoptr (GError) error = NULL;

  for (guint i = 0; i < safetensors_count (file); i++)
    {
      const char *name = safetensors_name (file, i);
      g_autoptr (GString) stored = g_string_new ("model.diffusion_model.");
      NameSlice slice;
      Tensor tensor;

      g_assert_true (safetensors_find (file, name, &tensor));
      if (!naming_comfy (name, stored, &slice))
        g_assert_true (g_str_has_suffix (stored->str, name));
      if (slice.count == 3)
        {
          static guint8 *fused; /* of the three calls that q, k and v make, which come sorted */
          gsize bytes = tensor_bytes (&tensor);
          int row = strstr (name, "to_k") != NULL ? 1 : strstr (name, "to_v") != NULL ? 2 : 0;
          int64_t shape[2] = { tensor.shape[0] * 3, tensor.shape[1] };

          if (row == 1)
            {
              fused = g_malloc (3 * bytes);
              g_ptr_array_add (buffers, fused);
              safetensors_writer_add (writer, stored->str, tensor.dtype, 2, shape, fused);
            }
          memcpy (fused + (gsize)row * bytes, tensor.data, bytes);
          continue;
        }
      safetensors_writer_add (writer, stored->str, tensor.dtype, tensor.rank, tensor.shape,
                              tensor.data);
    }
  safetensors_writer_add (writer, "model.diffusion_model.norm_final.weight", DTYPE_F32, 1,
                          (int64_t[]){ 1 }, &(float){ 1 });
  safetensors_writer_add (writer, "vae.decoder.conv_in.bias", DTYPE_F32, 1, (int64_t[]){ 1 },
                          &(float){ 1 });
  safetensors_writer_write (writer, to, &error);
  g_assert_no_error (error);
}

static void
test_comfy (void)
{
  g_autofree char *dir = test_data_path ("tiny-zimage");
  g_autofree char *from = g_build_filename (dir, TRANSFORMER, NULL);
  g_autofree char *folder = g_dir_make_tmp ("comfy-XXXXXX", NULL);
  g_autofree char *path = g_build_filename (folder, "comfy.safetensors", NULL);
  g_autoptr (Safetensors) file = safetensors_open (from, NULL);
  Checkpoint *checkpoint;
  Weights *weights;
  g_autoptr (GError) error = NULL;
  Tensor expected, found;

  write_comfy (from, path);
  checkpoint = open_good (dir, path);
  weights = get_part (checkpoint, CHECKPOINT_TRANSFORMER);
  g_assert_false (weights_find (weights, "layers.0.attention.to_x.weight", &found));
  for (guint i = 0; i < safetensors_count (file); i++)
    {
      const char *name = safetensors_name (file, i);

      g_assert_true (safetensors_find (file, name, &expected));
      weights_get_shaped (weights, &found, name, &error, expected.rank, expected.shape);
      g_assert_no_error (error);
      g_assert_cmpmem (found.data, tensor_bytes (&found), expected.data, tensor_bytes (&expected));
    }
  weights_check_all_used (weights, &error);
  g_assert_no_error (error);
  g_assert_cmpstr (weights_path (weights), ==, path);
  checkpoint_free (checkpoint);
  g_unlink (path);
  g_rmdir (folder);
}

static void
test_bfl_names (void)
{
  static const char *const pairs[][2] = {
    { "decoder.up_blocks.0.resnets.1.conv1.weight", "decoder.up.3.block.1.conv1.weight" },
    { "decoder.up_blocks.2.resnets.0.conv_shortcut.bias",
      "decoder.up.1.block.0.nin_shortcut.bias" },
    { "decoder.up_blocks.1.upsamplers.0.conv.weight", "decoder.up.2.upsample.conv.weight" },
    { "encoder.down_blocks.1.resnets.0.norm2.bias", "encoder.down.1.block.0.norm2.bias" },
    { "encoder.down_blocks.0.downsamplers.0.conv.bias", "encoder.down.0.downsample.conv.bias" },
    { "decoder.mid_block.attentions.0.to_out.0.weight", "decoder.mid.attn_1.proj_out.weight" },
    { "encoder.mid_block.resnets.1.conv2.weight", "encoder.mid.block_2.conv2.weight" },
    { "decoder.conv_norm_out.weight", "decoder.norm_out.weight" },
    { "decoder.up_blocks.4.resnets.0.conv1.weight", NULL },
    { "decoder.conv_in.weight", NULL },
  };

  for (guint i = 0; i < G_N_ELEMENTS (pairs); i++)
    {
      g_autoptr (GString) out = g_string_new (NULL);
      gboolean found = naming_bfl_vae (pairs[i][0], 4, out);

      g_assert_cmpint (found, ==, pairs[i][1] != NULL);
      if (found)
        g_assert_cmpstr (out->str, ==, pairs[i][1]);
    }
}

/* Shards with an index take the place of the single file. */
static void
test_shards (void)
{
  static const char *const index
      = "{\"weight_map\":{\"a\":\"good.safetensors\",\"b\":\"good.safetensors\"}}";
  char *dir = model_copy_new ();
  g_autofree char *good = test_data_path ("damaged/good.safetensors");
  Checkpoint *checkpoint;
  Tensor tensor;

  model_copy_replace (dir, "vae/good.safetensors", good);
  model_copy_write (dir, "vae/diffusion_pytorch_model.safetensors.index.json", index);
  checkpoint = open_good (dir, NULL);
  g_assert_true (weights_get (get_part (checkpoint, CHECKPOINT_VAE), &tensor, "b", NULL, 2, 2, 2));
  checkpoint_free (checkpoint);
  model_copy_free (dir);
}

/* A folder without the usual names has one file of weights, or it is not said which one counts.
 * Hidden files are downloads under way. */
static void
test_other_names (void)
{
  char *dir = model_copy_new ();
  g_autofree char *vae = test_data_path ("tiny-zimage/vae/diffusion_pytorch_model.safetensors");
  g_autofree char *other = g_build_filename (dir, "vae", "other.safetensors", NULL);
  g_autofree char *found = NULL;
  g_autoptr (GError) none = NULL, several = NULL;

  model_copy_replace (dir, "vae/diffusion_pytorch_model.safetensors", NULL);
  model_copy_write (dir, "vae/.part.safetensors", "");
  g_assert_null (checkpoint_find_file (dir, CHECKPOINT_VAE, &none));
  g_assert_nonnull (strstr (none->message, "vae: no weights here"));
  model_copy_replace (dir, "vae/other.safetensors", vae);
  found = checkpoint_find_file (dir, CHECKPOINT_VAE, NULL);
  g_assert_cmpstr (found, ==, other);
  model_copy_replace (dir, "vae/third.safetensors", vae);
  g_assert_null (checkpoint_find_file (dir, CHECKPOINT_VAE, &several));
  g_assert_nonnull (strstr (several->message, "several .safetensors files"));
  model_copy_free (dir);
}

/* A file of the given tensors, each of zeros. */
static void
write_zeros (const char *path, const char *const *names, int n)
{
  static const guint8 zeros[4];
  g_autoptr (SafetensorsWriter) writer = safetensors_writer_new ();

  for (int i = 0; i < n; i++)
    safetensors_writer_add (writer, names[i], DTYPE_U8, 2, (int64_t[]){ 2, 2 }, zeros);
  g_assert_true (safetensors_writer_write (writer, path, NULL));
}

static void
test_quantised_elsewhere (void)
{
  static const char *const names[] = { "model.layers.0.mlp.up_proj.qweight" };
  char *dir = model_copy_new ();
  g_autofree char *path = g_build_filename (dir, "four-bit.safetensors", NULL);
  g_autoptr (GError) encoder = NULL, vae = NULL;

  write_zeros (path, names, G_N_ELEMENTS (names));
  g_assert_null (checkpoint_open (dir, NULL, path, &encoder));
  g_assert_nonnull (strstr (encoder->message, "SVDQuant weights, where dense ones"));
  model_copy_replace (dir, "vae/diffusion_pytorch_model.safetensors", path);
  g_assert_null (checkpoint_open (dir, NULL, NULL, &vae));
  g_assert_nonnull (strstr (vae->message, "SVDQuant weights, where dense ones"));
  g_unlink (path);
  model_copy_free (dir);
}

/* Fused rows that are no three layers' are not cut into three, and codes are no numbers. */
static void
test_views (void)
{
  static const guint16 numbers[7 * 2];
  Safetensors *file = safetensors_new_borrowed ("made up");
  Tensor fused = { DTYPE_BF16, 2, { 6, 2, 1, 1 }, (void *)numbers };
  Tensor uneven = { DTYPE_BF16, 2, { 7, 2, 1, 1 }, (void *)numbers };
  Tensor codes = { DTYPE_U8, 2, { 2, 2, 1, 1 }, (void *)numbers };
  g_autoptr (Weights) weights = NULL;
  g_autoptr (GError) shape = NULL, type = NULL;
  Tensor t;

  safetensors_add_borrowed (file, "layers.0.attention.qkv.weight", &fused);
  safetensors_add_borrowed (file, "layers.1.attention.qkv.weight", &uneven);
  safetensors_add_borrowed (file, "layers.0.feed_forward.w1.weight", &codes);
  weights = weights_new (CHECKPOINT_TRANSFORMER, file, 0, NULL);
  g_assert_nonnull (weights);
  g_assert_true (weights_get (weights, &t, "layers.0.attention.to_k.weight", NULL, 2, 2, 2));
  g_assert_true (t.data == numbers + 4);
  g_assert_false (weights_get (weights, &t, "layers.1.attention.to_k.weight", &shape, 2, 2, 2));
  g_assert_nonnull (
      strstr (shape->message, "shape [7, 2], expected [2, 2] for each of q, k and v"));
  g_assert_false (weights_get (weights, &t, "layers.0.feed_forward.w1.weight", &type, 2, 2, 2));
  g_assert_nonnull (strstr (type->message, "has type U8"));
}

/* Two codes of 4 bit are a byte, and two numbers. */
static void
test_count (void)
{
  static const guint16 numbers[64];
  Safetensors *file = safetensors_new_borrowed ("made up");
  Tensor codes = { DTYPE_U8, 2, { 2, 32, 1, 1 }, (void *)numbers };
  Tensor scales = { DTYPE_F16, 2, { 2, 1, 1, 1 }, (void *)numbers };
  Tensor norm = { DTYPE_BF16, 1, { 5, 1, 1, 1 }, (void *)numbers };
  g_autoptr (Weights) weights = NULL;
  g_autoptr (GError) error = NULL;

  safetensors_set_borrowed_metadata (file, WEIGHT_ONLY_KEY,
                                     "{\"version\":1,\"bits\":4,\"group\":64}");
  safetensors_add_borrowed (file, "model.layers.0.mlp.up_proj" WEIGHT_ONLY_CODES, &codes);
  safetensors_add_borrowed (file, "model.layers.0.mlp.up_proj" WEIGHT_ONLY_SCALES, &scales);
  safetensors_add_borrowed (file, "model.layers.0.input_layernorm.weight", &norm);
  weights = weights_new (CHECKPOINT_TEXT_ENCODER, file, 2, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (weights_count (weights), ==, 2 * 64 + 2 + 5);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/checkpoint/configs", test_configs);
  g_test_add_func ("/checkpoint/rope-theta", test_rope_theta_at_top_level);
  g_test_add_func ("/checkpoint/rope-of-published-width", test_rope_of_published_width);
  for (guint i = 0; i < G_N_ELEMENTS (damages); i++)
    {
      g_autofree char *name = g_strdup_printf ("/checkpoint/damaged/%u-%s", i,
                                               damages[i].by != NULL ? damages[i].by : "absent");
      g_test_add_data_func (name, &damages[i], test_damaged);
    }
  g_test_add_func ("/checkpoint/refused-settings", test_refused_settings);
  g_test_add_func ("/checkpoint/get", test_get);
  g_test_add_func ("/checkpoint/all-used", test_all_used);
  g_test_add_func ("/checkpoint/vae-halves", test_vae_halves);
  g_test_add_func ("/checkpoint/comfy", test_comfy);
  g_test_add_func ("/checkpoint/bfl-names", test_bfl_names);
  g_test_add_func ("/checkpoint/shards", test_shards);
  g_test_add_func ("/checkpoint/other-names", test_other_names);
  g_test_add_func ("/checkpoint/quantised-elsewhere", test_quantised_elsewhere);
  g_test_add_func ("/checkpoint/views", test_views);
  g_test_add_func ("/checkpoint/count", test_count);
  return g_test_run ();
}
