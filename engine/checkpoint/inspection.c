/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/checkpoint/inspection.h"

#include "engine/checkpoint/checkpoint-private.h"
#include "engine/checkpoint/config.h"
#include "engine/checkpoint/inventory.h"
#include "engine/checkpoint/scaled.h"
#include "engine/engine.h"
#include "engine/lora/lora-file.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/weight-only/file.h"

#include <string.h>

#define MAX_PROBLEMS_PER_PART 20

static void
type_clear (gpointer data)
{
  g_free (((InspectionType *)data)->dtype);
}

static void
part_free (gpointer data)
{
  InspectionPart *part = data;

  g_array_unref (part->types);
  g_free (part->name);
  g_free (part->path);
  g_free (part);
}

void
inspection_free (Inspection *self)
{
  if (self == NULL)
    return;
  g_ptr_array_unref (self->parts);
  g_ptr_array_unref (self->problems);
  g_free (self->path);
  g_free (self);
}

static InspectionPart *
add_part (Inspection *self, const char *name, const char *path, const char *kind)
{
  InspectionPart *part = g_new0 (InspectionPart, 1);

  part->name = g_strdup (name);
  part->path = g_strdup (path);
  part->kind = kind;
  part->types = g_array_new (FALSE, FALSE, sizeof (InspectionType));
  g_array_set_clear_func (part->types, type_clear);
  g_ptr_array_add (self->parts, part);
  return part;
}

/* Takes over `error` as a problem. */
static void
add_problem (Inspection *self, GError *error)
{
  g_ptr_array_add (self->problems, g_strdup (error->message));
  g_error_free (error);
}

static int
compare_types (gconstpointer a, gconstpointer b)
{
  const InspectionType *left = a, *right = b;

  return left->bytes < right->bytes ? 1 : left->bytes > right->bytes ? -1 : 0;
}

static InspectionType *
get_type (InspectionPart *part, const char *dtype)
{
  InspectionType fresh = { .dtype = NULL };

  for (guint i = 0; i < part->types->len; i++)
    if (g_str_equal (g_array_index (part->types, InspectionType, i).dtype, dtype))
      return &g_array_index (part->types, InspectionType, i);
  fresh.dtype = g_strdup (dtype);
  g_array_append_val (part->types, fresh);
  return &g_array_index (part->types, InspectionType, part->types->len - 1);
}

static void
count_tensors (InspectionPart *part, Safetensors *file)
{
  g_autoptr (GHashTable) shards = g_hash_table_new (g_str_hash, g_str_equal);

  for (guint i = 0; i < safetensors_count (file); i++)
    {
      SafetensorsInfo info = { 0 };
      InspectionType *type;
      guint64 elements = 1;

      safetensors_info (file, safetensors_name (file, i), &info);
      for (int axis = 0; axis < info.rank; axis++)
        elements *= (guint64)info.shape[axis]; /* read_entry has ruled overflow out */
      if (g_str_has_suffix (safetensors_name (file, i), ".qweight")
          || (g_str_has_suffix (safetensors_name (file, i), WEIGHT_ONLY_CODES)
              && g_str_equal (info.dtype, "U8")))
        elements *= 2;
      type = get_type (part, info.dtype);
      type->tensors++;
      type->elements += elements;
      type->bytes += info.bytes;
      part->elements += elements;
      g_hash_table_add (shards, (gpointer)info.file);
    }
  part->tensors = safetensors_count (file);
  part->bytes = safetensors_bytes (file);
  part->shards = g_hash_table_size (shards);
  g_array_sort (part->types, compare_types);
}

static gboolean
is_kitchen (Safetensors *file)
{
  g_autofree char *prefix = weights_find_prefix (file);
  SvdqKind kind;

  return svdq_detect (file, prefix, &kind, NULL) && kind == SVDQ_KITCHEN;
}

/* What a file is, by a name that only such a file has. */
static void
recognise (InspectionPart *part, Safetensors *file)
{
  static const struct
  {
    const char *ending, *kind, *naming;
  } marks[] = {
    { ".self_attn.q_proj.codes", "Qwen3 text encoder", "reference" },
    { ".qweight", "Z-Image transformer", "SVDQuant" },
    { "layers.0.attention.to_q.weight", "Z-Image transformer", "reference" },
    { "layers.0.attention.qkv.weight", "Z-Image transformer", "ComfyUI" },
    { "layers.0.self_attn.q_norm.weight", "Qwen3 text encoder", "reference" },
    { "decoder.up_blocks.0.resnets.0.conv1.weight", "VAE", "reference" },
    { "decoder.up.0.block.0.conv1.weight", "VAE", "BFL" },
    { "transformer.step01", "trace of a generation", NULL },
    { "latents.init", "latents", NULL },
  };

  if (is_kitchen (file))
    {
      part->kind = "Z-Image transformer";
      part->naming = "SVDQuant";
      return;
    }
  for (guint m = 0; m < G_N_ELEMENTS (marks); m++)
    for (guint i = 0; i < safetensors_count (file); i++)
      if (g_str_has_suffix (safetensors_name (file, i), marks[m].ending))
        {
          part->kind = marks[m].kind;
          part->naming = marks[m].naming;
          return;
        }
  if (lora_file_detect (file))
    {
      part->kind = "LoRA";
      part->rank = lora_file_rank (file);
    }
}

static void
name_precision (InspectionPart *part)
{
  gboolean fp4 = FALSE;

  for (guint i = 0; i < part->types->len; i++)
    fp4 = fp4 || g_str_equal (g_array_index (part->types, InspectionType, i).dtype, "F8_E4M3");
  if (g_strcmp0 (part->naming, "SVDQuant") == 0)
    part->precision = fp4 ? "SVDQuant NVFP4" : "SVDQuant INT4";
  else if (part->code_bits != 0)
    part->precision = part->code_bits == 8 ? "8 bit" : "4 bit";
  else if (part->scaled != NULL)
    part->precision = part->scaled;
  else if (part->types->len > 0)
    part->precision = g_array_index (part->types, InspectionType, 0).dtype;
}

static void
describe_tensors (Inspection *self, InspectionPart *part, Safetensors *file)
{
  GError *error = NULL;

  count_tensors (part, file);
  recognise (part, file);
  if (!weight_only_read_bits (file, &part->code_bits, &error))
    add_problem (self, error);
  part->scaled = scaled_format (file);
  name_precision (part);
}

/* What the 4-bit linears of a transformer take; what is wrong with them, or what only looks like
 * them, is a problem. */
static void
describe_four_bit (Inspection *self, InspectionPart *part, Safetensors *file)
{
  g_autofree char *prefix = weights_find_prefix (file);
  g_autoptr (SvdqReader) reader = NULL;
  GError *error = NULL;

  if (!svdq_reader_open (file, prefix, &reader, &error))
    add_problem (self, error);
  if (reader == NULL)
    return;
  part->format = svdq_kind_name (svdq_reader_kind (reader));
  for (guint i = 0; i < svdq_reader_count (reader); i++)
    {
      SvdqLinearInfo info = svdq_reader_info (reader, i);

      part->rank = MAX (part->rank, info.rank);
      part->code_bytes += info.code_bytes;
      part->scale_bytes += info.scale_bytes;
      part->low_rank_bytes += info.low_rank_bytes;
    }
}

/* -- model folders ------------------------------------------------------------------------------
 */

typedef struct
{
  Inspection *self;
  Weights *weights;
  guint problems;
} Check;

static void
check_tensor (const char *name, int rank, const int64_t *shape, gpointer user_data)
{
  Check *check = user_data;
  GError *error = NULL;

  if (weights_check_shaped (check->weights, name, &error, rank, shape))
    return;
  if (check->problems++ < MAX_PROBLEMS_PER_PART)
    add_problem (check->self, error);
  else
    g_error_free (error);
}

typedef struct
{
  TransformerConfig transformer;
  TextEncoderConfig text_encoder;
  VaeConfig vae;
  gboolean good[CHECKPOINT_N_PARTS]; /* by CheckpointPart */
} Configs;

static void
check_weights (Inspection *self, Weights *weights, CheckpointPart which, Configs *configs)
{
  Check check = { self, weights, 0 };
  GError *error = NULL;

  switch (which)
    {
    case CHECKPOINT_TRANSFORMER:
      configs->transformer.t_hidden
          = weights_read_t_hidden (weights, configs->transformer.t_hidden);
      inventory_transformer (&configs->transformer, check_tensor, &check);
      break;
    case CHECKPOINT_TEXT_ENCODER:
      inventory_text_encoder (&configs->text_encoder, check_tensor, &check);
      break;
    case CHECKPOINT_VAE:
      inventory_vae_decoder (&configs->vae, check_tensor, &check);
      inventory_vae_encoder (&configs->vae, check_tensor, &check);
      break;
    }
  if (check.problems > MAX_PROBLEMS_PER_PART)
    g_ptr_array_add (self->problems,
                     g_strdup_printf ("%s: and %u more tensors", weights_path (weights),
                                      check.problems - MAX_PROBLEMS_PER_PART));
  if (!weights_check_all_used (weights, &error))
    add_problem (self, error);
}

static void
inspect_part (Inspection *self, CheckpointPart which, Configs *configs)
{
  static const char *const kinds[] = { "Z-Image transformer", "Qwen3 text encoder", "VAE" };
  const char *name = checkpoint_part_name (which);
  g_autofree char *folder = g_build_filename (self->path, name, NULL);
  g_autofree char *path = NULL;
  InspectionPart *part = add_part (self, name, folder, kinds[which]);
  Safetensors *file;
  Weights *weights;
  GError *error = NULL;

  path = checkpoint_find_file (self->path, which, &error);
  file = path != NULL ? safetensors_open (path, &error) : NULL;
  if (file == NULL)
    {
      add_problem (self, error);
      return;
    }
  g_free (part->path);
  part->path = g_steal_pointer (&path);
  describe_tensors (self, part, file);
  weights = weights_new (
      which, file, which == CHECKPOINT_VAE ? configs->vae.n_blocks : configs->text_encoder.n_layers,
      &error);
  if (weights != NULL && weights->svdq != NULL)
    describe_four_bit (self, part, weights->file);
  if (weights == NULL)
    add_problem (self, error);
  else if (configs->good[which])
    check_weights (self, weights, which, configs);
  weights_free (weights);
}

static void
inspect_tokenizer (Inspection *self)
{
  g_autofree char *folder = g_build_filename (self->path, "tokenizer", NULL);
  GError *error = NULL;
  Tokenizer *tokenizer = tokenizer_new (folder, &error);

  add_part (self, "tokenizer", folder, "tokenizer");
  if (tokenizer == NULL)
    add_problem (self, error);
  tokenizer_free (tokenizer);
}

static void
inspect_scheduler (Inspection *self)
{
  g_autofree char *folder = g_build_filename (self->path, "scheduler", NULL);
  SchedulerConfig config;
  GError *error = NULL;

  add_part (self, "scheduler", folder, "flow-matching schedule");
  if (config_read_scheduler (self->path, &config, &error))
    self->shift = config.shift;
  else
    add_problem (self, error);
}

/* Transformers beside the folder's own, as the quantised ones are published. */
static void
inspect_loose_files (Inspection *self)
{
  g_autoptr (GDir) listing = g_dir_open (self->path, 0, NULL);
  const char *name;

  while (listing != NULL && (name = g_dir_read_name (listing)) != NULL)
    {
      g_autofree char *path = g_build_filename (self->path, name, NULL);
      Safetensors *file;
      InspectionPart *part;
      GError *error = NULL;

      if (name[0] == '.' || !g_str_has_suffix (name, ".safetensors"))
        continue;
      file = safetensors_open (path, &error);
      part = add_part (self, name, path, "safetensors");
      if (file == NULL)
        {
          add_problem (self, error);
          continue;
        }
      describe_tensors (self, part, file);
      describe_four_bit (self, part, file);
      safetensors_free (file);
    }
}

static void
inspect_folder (Inspection *self)
{
  Configs configs = { .good = { FALSE } };
  gboolean *good = configs.good;
  GError *error = NULL;

  self->kind = "Z-Image model folder";
  if (!config_check_pipeline (self->path, &error))
    add_problem (self, g_steal_pointer (&error));
  good[CHECKPOINT_TRANSFORMER] = config_read_transformer (self->path, &configs.transformer, &error);
  if (!good[CHECKPOINT_TRANSFORMER])
    add_problem (self, g_steal_pointer (&error));
  good[CHECKPOINT_TEXT_ENCODER]
      = config_read_text_encoder (self->path, &configs.text_encoder, &error);
  if (!good[CHECKPOINT_TEXT_ENCODER])
    add_problem (self, g_steal_pointer (&error));
  good[CHECKPOINT_VAE] = config_read_vae (self->path, &configs.vae, &error);
  if (!good[CHECKPOINT_VAE])
    add_problem (self, g_steal_pointer (&error));
  for (int i = 0; i < CHECKPOINT_N_PARTS; i++)
    inspect_part (self, (CheckpointPart)i, &configs);
  inspect_tokenizer (self);
  inspect_scheduler (self);
  inspect_loose_files (self);
}

/* -- anything -----------------------------------------------------------------------------------
 */

static gboolean
inspect_file (Inspection *self, GError **error)
{
  Safetensors *file = safetensors_open (self->path, error);
  g_autofree char *name = g_path_get_basename (self->path);
  InspectionPart *part;

  if (file == NULL)
    return FALSE;
  part = add_part (self, name, self->path, "safetensors");
  describe_tensors (self, part, file);
  describe_four_bit (self, part, file);
  self->kind = part->kind;
  safetensors_free (file);
  return TRUE;
}

/* By its name: weights that can be read, or that are refused as what they are when opened. */
static gboolean
is_weight_file (const char *path)
{
  static const char *const endings[]
      = { ".safetensors", ".safetensors.index.json", ".gguf", ".ckpt", ".pt", ".pth", ".bin" };

  for (guint i = 0; i < G_N_ELEMENTS (endings); i++)
    if (g_str_has_suffix (path, endings[i]))
      return TRUE;
  return FALSE;
}

static gboolean
inspect_anything (Inspection *self, GError **error)
{
  if (!g_file_test (self->path, G_FILE_TEST_EXISTS))
    g_set_error (error, G_FILE_ERROR, G_FILE_ERROR_NOENT, "%s: no such file or folder", self->path);
  else if (!g_file_test (self->path, G_FILE_TEST_IS_DIR))
    {
      if (is_weight_file (self->path))
        return inspect_file (self, error);
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                   "%s: neither a .safetensors file, nor an index of shards, nor a model folder",
                   self->path);
    }
  else if (config_is_model_folder (self->path))
    {
      inspect_folder (self);
      return TRUE;
    }
  else
    g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                 "%s: not a model folder (no model_index.json or transformer/config.json)",
                 self->path);
  return FALSE;
}

Inspection *
inspection_new (const char *path, GError **error)
{
  g_autoptr (Inspection) self = g_new0 (Inspection, 1);

  self->path = g_strdup (path);
  self->parts = g_ptr_array_new_with_free_func (part_free);
  self->problems = g_ptr_array_new_with_free_func (g_free);
  return inspect_anything (self, error) ? g_steal_pointer (&self) : NULL;
}
