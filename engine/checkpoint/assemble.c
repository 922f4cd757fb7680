/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/checkpoint/assemble.h"

#include "engine/checkpoint/checkpoint-private.h"
#include "engine/checkpoint/inspection.h"
#include "engine/error.h"
#include "engine/files/atomic-file.h"
#include "engine/tokenizer/tokenizer-parts.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#define MAX_DEPTH 4
#define MAX_FILES 5000

/* -- what is written ----------------------------------------------------------------------------
 */

static const struct
{
  const char *path, *text;
} configs[] = {
  { "transformer/config.json",
    "{\"_class_name\": \"ZImageTransformer2DModel\", \"all_patch_size\": [2], "
    "\"all_f_patch_size\": [1], \"in_channels\": 16, \"dim\": 3840, \"n_layers\": 30, "
    "\"n_refiner_layers\": 2, \"n_heads\": 30, \"n_kv_heads\": 30, \"norm_eps\": 1e-05, "
    "\"qk_norm\": true, \"cap_feat_dim\": 2560, \"rope_theta\": 256.0, \"t_scale\": 1000.0, "
    "\"axes_dims\": [32, 48, 48], \"axes_lens\": [1536, 512, 512]}\n" },
  { "text_encoder/config.json",
    "{\"model_type\": \"qwen3\", \"hidden_act\": \"silu\", \"attention_bias\": false, "
    "\"hidden_size\": 2560, \"intermediate_size\": 9728, \"num_hidden_layers\": 36, "
    "\"num_attention_heads\": 32, \"num_key_value_heads\": 8, \"head_dim\": 128, "
    "\"vocab_size\": 151936, \"rms_norm_eps\": 1e-06, \"rope_theta\": 1000000}\n" },
  { "vae/config.json",
    "{\"_class_name\": \"AutoencoderKL\", \"act_fn\": \"silu\", \"in_channels\": 3, "
    "\"out_channels\": 3, \"latent_channels\": 16, \"block_out_channels\": [128, 256, 512, 512], "
    "\"layers_per_block\": 2, \"norm_num_groups\": 32, \"sample_size\": 1024, "
    "\"scaling_factor\": 0.3611, \"shift_factor\": 0.1159, \"mid_block_add_attention\": true, "
    "\"use_quant_conv\": false, \"use_post_quant_conv\": false}\n" },
};

static const char index_text[]
    = "{\"_class_name\": \"ZImagePipeline\", "
      "\"scheduler\": [\"diffusers\", \"FlowMatchEulerDiscreteScheduler\"], "
      "\"text_encoder\": [\"transformers\", \"Qwen3Model\"], "
      "\"tokenizer\": [\"transformers\", \"Qwen2Tokenizer\"], "
      "\"transformer\": [\"diffusers\", \"ZImageTransformer2DModel\"], "
      "\"vae\": [\"diffusers\", \"AutoencoderKL\"]}\n";

/* Qwen3's, from id 151643 on (spec z-image 2.1); Qwen2.5's vocabulary is the same without four. */
#define FIRST_ADDED 151643
static const char *const added_tokens[] = { "<|endoftext|>",
                                            "<|im_start|>",
                                            "<|im_end|>",
                                            "<|object_ref_start|>",
                                            "<|object_ref_end|>",
                                            "<|box_start|>",
                                            "<|box_end|>",
                                            "<|quad_start|>",
                                            "<|quad_end|>",
                                            "<|vision_start|>",
                                            "<|vision_end|>",
                                            "<|vision_pad|>",
                                            "<|image_pad|>",
                                            "<|video_pad|>",
                                            "<tool_call>",
                                            "</tool_call>",
                                            "<|fim_prefix|>",
                                            "<|fim_middle|>",
                                            "<|fim_suffix|>",
                                            "<|fim_pad|>",
                                            "<|repo_name|>",
                                            "<|file_sep|>",
                                            "<tool_response>",
                                            "</tool_response>",
                                            "<think>",
                                            "</think>" };

/* -- finding ------------------------------------------------------------------------------------
 */

static const struct
{
  const char *what, *option, *usual; /* `usual`: the file's name where it is published */
  const char *mark;                  /* a tensor that this part has, with these first extents */
  int rank;
  int64_t extents[2];
} parts[] = {
  [CHECKPOINT_TRANSFORMER]
  = { "Z-Image transformer", "--transformer", NULL, "cap_embedder.1.weight", 2, { 3840, 0 } },
  [CHECKPOINT_TEXT_ENCODER] = { "Qwen3-4B text encoder",
                                "--text-encoder",
                                "qwen_3_4b.safetensors",
                                "model.embed_tokens.weight",
                                2,
                                { 151936, 2560 } },
  [CHECKPOINT_VAE] = { "VAE (FLUX's ae.safetensors)",
                       "--vae",
                       "ae.safetensors",
                       "decoder.conv_in.weight",
                       4,
                       { 512, 16 } },
};

typedef struct
{
  GPtrArray *found[G_N_ELEMENTS (parts)]; /* char * */
  guint files;
} Search;

static gboolean
has_part (Safetensors *file, CheckpointPart part)
{
  for (guint i = 0; i < safetensors_count (file); i++)
    {
      const char *name = safetensors_name (file, i);
      gsize length = strlen (name), mark = strlen (parts[part].mark);
      SafetensorsInfo info;

      if (g_str_has_suffix (name, parts[part].mark)
          && (length == mark || name[length - mark - 1] == '.')
          && safetensors_info (file, name, &info) && info.rank == parts[part].rank
          && info.shape[0] == parts[part].extents[0]
          && (parts[part].extents[1] == 0 || info.shape[1] == parts[part].extents[1]))
        return TRUE;
    }
  return FALSE;
}

static void
classify (Search *self, const char *path)
{
  g_autoptr (Safetensors) file = safetensors_open (path, NULL);

  for (guint part = 0; file != NULL && part < G_N_ELEMENTS (parts); part++)
    if (has_part (file, (CheckpointPart)part))
      g_ptr_array_add (self->found[part], g_strdup (path));
}

static void
search (Search *self, const char *folder, int depth)
{
  g_autoptr (GDir) listing = g_dir_open (folder, 0, NULL);
  const char *name;

  while (listing != NULL && self->files < MAX_FILES && (name = g_dir_read_name (listing)) != NULL)
    {
      g_autofree char *path = g_build_filename (folder, name, NULL);

      if (name[0] == '.')
        continue;
      if (g_str_has_suffix (name, ".safetensors"))
        {
          self->files++;
          classify (self, path);
        }
      else if (depth < MAX_DEPTH && g_file_test (path, G_FILE_TEST_IS_DIR))
        search (self, path, depth + 1);
    }
}

/* Of several the one of the usual name; else whoever asks has to choose. */
static char *
choose (const GPtrArray *found, CheckpointPart part, const char *from, GError **error)
{
  g_autoptr (GString) names = g_string_new (NULL);

  if (found->len == 1)
    return g_strdup (g_ptr_array_index (found, 0));
  for (guint i = 0; i < found->len; i++)
    {
      const char *path = g_ptr_array_index (found, i);
      g_autofree char *name = g_path_get_basename (path);

      if (g_strcmp0 (name, parts[part].usual) == 0)
        return g_strdup (path);
      if (i < 5)
        g_string_append_printf (names, "%s%s", i > 0 ? ", " : "", path);
    }
  if (found->len == 0)
    error_fail_model (error, from, "no %s among the .safetensors files here; name one with %s",
                      parts[part].what, parts[part].option);
  else
    error_fail_model (error, from, "more than one %s here (%s%s); name one with %s",
                      parts[part].what, names->str, found->len > 5 ? ", ..." : "",
                      parts[part].option);
  return NULL;
}

static gboolean
find_files (const AssembleJob *job, char *files[G_N_ELEMENTS (parts)], GError **error)
{
  Search all = { .files = 0 };
  gboolean good = TRUE;

  for (guint part = 0; part < G_N_ELEMENTS (parts); part++)
    all.found[part] = g_ptr_array_new_with_free_func (g_free);
  if (job->from != NULL)
    search (&all, job->from, 0);
  for (guint part = 0; good && part < G_N_ELEMENTS (parts); part++)
    {
      if (job->files[part] != NULL)
        files[part] = g_strdup (job->files[part]);
      else if (job->from != NULL)
        files[part] = choose (all.found[part], (CheckpointPart)part, job->from, error);
      else
        error_fail_model (error, parts[part].option, "needed, or --from with a folder to search");
      good = files[part] != NULL;
    }
  for (guint part = 0; part < G_N_ELEMENTS (parts); part++)
    g_ptr_array_unref (all.found[part]);
  return good;
}

static gboolean
is_tokenizer (const char *dir)
{
  g_autofree char *whole = g_build_filename (dir, "tokenizer.json", NULL);

  return g_file_test (whole, G_FILE_TEST_EXISTS) || tokenizer_parts_are_there (dir);
}

/* ComfyUI has it among its own files, beside its models. */
static char *
find_tokenizer (const AssembleJob *job, GError **error)
{
  static const char *const places[] = { "tokenizer", "comfy/text_encoders/qwen25_tokenizer",
                                        "../comfy/text_encoders/qwen25_tokenizer" };

  if (job->tokenizer != NULL && is_tokenizer (job->tokenizer))
    return g_strdup (job->tokenizer);
  for (guint i = 0; job->tokenizer == NULL && job->from != NULL && i < G_N_ELEMENTS (places); i++)
    {
      g_autofree char *dir = g_build_filename (job->from, places[i], NULL);

      if (is_tokenizer (dir))
        return g_steal_pointer (&dir);
    }
  error_fail_model (error, job->tokenizer != NULL ? job->tokenizer : "--tokenizer",
                    "no tokenizer.json, nor vocab.json and merges.txt; name a folder that has "
                    "them, such as comfy/text_encoders/qwen25_tokenizer of ComfyUI or that of any "
                    "Qwen3 model");
  return NULL;
}

/* -- making -------------------------------------------------------------------------------------
 */

static gboolean
put_text (const char *dir, const char *name, const char *text, GError **error)
{
  g_autofree char *path = g_build_filename (dir, name, NULL);

  return atomic_file_put_text (path, text, error);
}

static gboolean
put_link (const char *dir, const char *folder, const char *target, GError **error)
{
  g_autofree char *name = g_path_get_basename (target);
  g_autofree char *path = g_build_filename (dir, folder, name, NULL);
  g_autofree char *whole = g_canonicalize_filename (target, NULL);

  if (symlink (whole, path) == 0)
    return TRUE;
  g_set_error (error, G_FILE_ERROR, g_file_error_from_errno (errno),
               "%s: cannot make this link: %s", path, g_strerror (errno));
  return FALSE;
}

/* An index names its shards, which lie beside it. */
static gboolean
put_weights (const char *dir, CheckpointPart part, const char *file, GError **error)
{
  const char *folder = checkpoint_part_name (part);
  g_autoptr (Safetensors) opened = safetensors_open (file, error);
  g_autoptr (GHashTable) shards = g_hash_table_new (g_str_hash, g_str_equal);

  if (opened == NULL)
    return FALSE;
  for (guint i = 0; i < safetensors_count (opened); i++)
    {
      SafetensorsInfo info;

      safetensors_info (opened, safetensors_name (opened, i), &info);
      if (g_hash_table_add (shards, (gpointer)info.file)
          && !put_link (dir, folder, info.file, error))
        return FALSE;
    }
  return !g_str_has_suffix (file, ".json") || put_link (dir, folder, file, error);
}

static gboolean
put_tokenizer (const char *dir, const char *from, GError **error)
{
  g_autofree char *whole = g_build_filename (from, "tokenizer.json", NULL);
  g_autofree char *vocab = g_build_filename (from, "vocab.json", NULL);
  g_autofree char *merges = g_build_filename (from, "merges.txt", NULL);
  g_autoptr (GString) added = g_string_new ("{");

  if (g_file_test (whole, G_FILE_TEST_EXISTS))
    return put_link (dir, "tokenizer", whole, error);
  for (guint i = 0; i < G_N_ELEMENTS (added_tokens); i++)
    g_string_append_printf (added, "%s\"%s\": %u", i > 0 ? ", " : "", added_tokens[i],
                            FIRST_ADDED + i);
  g_string_append (added, "}\n");
  return put_link (dir, "tokenizer", vocab, error) && put_link (dir, "tokenizer", merges, error)
         && put_text (dir, "tokenizer/added_tokens.json", added->str, error)
         && put_text (dir, "tokenizer/tokenizer_config.json",
                      "{\"tokenizer_class\": \"Qwen2Tokenizer\"}\n", error);
}

static gboolean
put_configs (const char *dir, double shift, GError **error)
{
  char number[G_ASCII_DTOSTR_BUF_SIZE];
  g_autofree char *schedule = g_strdup_printf (
      "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"num_train_timesteps\": 1000, "
      "\"use_dynamic_shifting\": false, \"shift\": %s}\n",
      g_ascii_formatd (number, sizeof number, "%g", shift));

  for (guint i = 0; i < G_N_ELEMENTS (configs); i++)
    if (!put_text (dir, configs[i].path, configs[i].text, error))
      return FALSE;
  return put_text (dir, "scheduler/scheduler_config.json", schedule, error)
         && put_text (dir, "model_index.json", index_text, error);
}

/* Says the first thing that is wrong with the folder, by the files' own names. */
static gboolean
check (const char *dir, GError **error)
{
  g_autoptr (Inspection) inspection = inspection_new (dir, error);

  if (inspection == NULL)
    return FALSE;
  if (inspection->problems->len == 0)
    return TRUE;
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
               "these files are no whole Z-Image model: %s",
               (char *)g_ptr_array_index (inspection->problems, 0));
  return FALSE;
}

static const char *const folders[]
    = { "transformer", "text_encoder", "vae", "tokenizer", "scheduler" };

static gboolean
fill (const AssembleJob *job, char *const *files, const char *tokenizer, const char *dir,
      GError **error)
{
  for (guint i = 0; i < G_N_ELEMENTS (folders); i++)
    {
      g_autofree char *path = g_build_filename (dir, folders[i], NULL);

      if (g_mkdir (path, 0755) != 0)
        {
          g_set_error (error, G_FILE_ERROR, g_file_error_from_errno (errno), "%s: %s", path,
                       g_strerror (errno));
          return FALSE;
        }
    }
  for (guint part = 0; part < G_N_ELEMENTS (parts); part++)
    if (!put_weights (dir, (CheckpointPart)part, files[part], error))
      return FALSE;
  return put_tokenizer (dir, tokenizer, error) && put_configs (dir, job->shift, error)
         && check (dir, error);
}

/* Links and small files, in one level of folders. */
static void
remove_contents (const char *dir)
{
  g_autoptr (GDir) listing = g_dir_open (dir, 0, NULL);
  const char *name;

  while (listing != NULL && (name = g_dir_read_name (listing)) != NULL)
    {
      g_autofree char *path = g_build_filename (dir, name, NULL);

      g_unlink (path);
    }
}

static void
remove_all (const char *dir)
{
  for (guint i = 0; i < G_N_ELEMENTS (folders); i++)
    {
      g_autofree char *path = g_build_filename (dir, folders[i], NULL);

      remove_contents (path);
      g_rmdir (path);
    }
  remove_contents (dir);
  g_rmdir (dir);
}

static gboolean
make (const AssembleJob *job, char *const *files, const char *tokenizer, const char *out,
      GError **error)
{
  g_autofree char *dir = g_strconcat (out, ".XXXXXX", NULL);
  gboolean made = g_mkdtemp_full (dir, 0755) != NULL;
  gboolean good = made && fill (job, files, tokenizer, dir, error);

  /* rename would replace an empty folder, which nobody asked for. */
  if (good && g_file_test (out, G_FILE_TEST_EXISTS))
    {
      g_set_error (error, G_FILE_ERROR, G_FILE_ERROR_EXIST, "%s: is there already", out);
      good = FALSE;
    }
  else if (!made || (good && g_rename (dir, out) != 0))
    {
      g_set_error (error, G_FILE_ERROR, g_file_error_from_errno (errno),
                   "%s: cannot make this folder: %s", out, g_strerror (errno));
      good = FALSE;
    }
  if (made && !good)
    remove_all (dir);
  return good;
}

gboolean
assemble_model (const AssembleJob *job, const char *out, GError **error)
{
  char *files[G_N_ELEMENTS (parts)] = { NULL };
  g_autofree char *tokenizer = NULL;
  gboolean good = FALSE;

  if (job->from != NULL && !g_file_test (job->from, G_FILE_TEST_IS_DIR))
    return error_fail_model (error, job->from, "no such folder");
  if (g_file_test (out, G_FILE_TEST_EXISTS))
    {
      g_set_error (error, G_FILE_ERROR, G_FILE_ERROR_EXIST, "%s: is there already", out);
      return FALSE;
    }
  if (find_files (job, files, error) && (tokenizer = find_tokenizer (job, error)) != NULL)
    good = make (job, files, tokenizer, out, error);
  for (guint part = 0; part < G_N_ELEMENTS (parts); part++)
    g_free (files[part]);
  return good;
}
