/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/checkpoint/checkpoint-private.h"

#include "engine/checkpoint/config.h"
#include "engine/checkpoint/inventory.h"
#include "engine/engine.h"
#include "engine/weight-only/file.h"

#include <string.h>

const char *
checkpoint_part_name (CheckpointPart part)
{
  static const char *const names[] = { "transformer", "text_encoder", "vae" };

  return names[part];
}

/* Under the names that diffusers and transformers give their files: those of a variant
 * ("model.fp16.safetensors", "model.safetensors.index.fp16.json") count where there are no others.
 */
static char *
find_standard_file (const char *folder, CheckpointPart part)
{
  const char *stem = part == CHECKPOINT_TEXT_ENCODER ? "model" : "diffusion_pytorch_model";
  static const char *const endings[] = {
    ".safetensors.index.json",      ".safetensors",
    ".safetensors.index.bf16.json", ".bf16.safetensors",
    ".safetensors.index.fp16.json", ".fp16.safetensors",
    ".safetensors.index.fp32.json", ".fp32.safetensors",
  };

  for (guint i = 0; i < G_N_ELEMENTS (endings); i++)
    {
      g_autofree char *name = g_strconcat (stem, endings[i], NULL);
      g_autofree char *path = g_build_filename (folder, name, NULL);

      if (g_file_test (path, G_FILE_TEST_EXISTS))
        return g_steal_pointer (&path);
    }
  return NULL;
}

char *
checkpoint_find_file (const char *dir, CheckpointPart part, GError **error)
{
  g_autofree char *folder = g_build_filename (dir, checkpoint_part_name (part), NULL);
  g_autofree char *found = find_standard_file (folder, part);
  g_autoptr (GDir) listing = NULL;
  const char *name;
  guint n = 0;

  if (found != NULL)
    return g_steal_pointer (&found);
  listing = g_dir_open (folder, 0, NULL);
  while (listing != NULL && (name = g_dir_read_name (listing)) != NULL)
    if (g_str_has_suffix (name, ".safetensors") && name[0] != '.' && n++ == 0)
      found = g_build_filename (folder, name, NULL);
  if (n == 1)
    return g_steal_pointer (&found);
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL, "%s: %s", folder,
               n == 0 ? "no weights here (a .safetensors file, or shards with their index)"
                      : "several .safetensors files, and none has the usual name");
  return NULL;
}

static gboolean
read_configs (Checkpoint *self, GError **error)
{
  if (!g_file_test (self->dir, G_FILE_TEST_IS_DIR))
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL, "%s: no such model folder", self->dir);
      return FALSE;
    }
  if (!config_is_model_folder (self->dir))
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                   "%s: not a model folder (no model_index.json or transformer/config.json)",
                   self->dir);
      return FALSE;
    }
  if (!config_check_pipeline (self->dir, error)
      || !config_read_transformer (self->dir, &self->transformer, error)
      || !config_read_text_encoder (self->dir, &self->text_encoder, error)
      || !config_read_vae (self->dir, &self->vae, error)
      || !config_read_scheduler (self->dir, &self->scheduler, error))
    return FALSE;
  if (self->transformer.cap_feat_dim != self->text_encoder.hidden)
    g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                 "%s: the transformer reads %d features (cap_feat_dim), the text encoder makes %d "
                 "(hidden_size)",
                 self->dir, self->transformer.cap_feat_dim, self->text_encoder.hidden);
  else if (self->transformer.in_channels != self->vae.latent_channels)
    g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                 "%s: the transformer has %d channels (in_channels), the VAE %d (latent_channels)",
                 self->dir, self->transformer.in_channels, self->vae.latent_channels);
  else
    return TRUE;
  return FALSE;
}

static gboolean
holds_svdquant (Safetensors *file)
{
  for (guint i = 0; i < safetensors_count (file); i++)
    if (g_str_has_suffix (safetensors_name (file, i), ".qweight"))
      return TRUE;
  return FALSE;
}

/* FALSE also for a file that cannot be opened: whoever opens it then says why. */
static gboolean
is_quantised (const char *path)
{
  g_autoptr (Safetensors) file = safetensors_open (path, NULL);

  return file != NULL && holds_svdquant (file);
}

static gboolean
open_part (Checkpoint *self, CheckpointPart part, const char *path, GError **error)
{
  g_autofree char *own = path == NULL ? checkpoint_find_file (self->dir, part, error) : NULL;
  g_autoptr (Safetensors) file = NULL;
  Weights *weights;
  int n = part == CHECKPOINT_VAE ? self->vae.n_blocks : self->text_encoder.n_layers;

  if (path == NULL && own == NULL)
    return FALSE;
  file = safetensors_open (path != NULL ? path : own, error);
  if (file == NULL)
    return FALSE;
  if (part != CHECKPOINT_TRANSFORMER && holds_svdquant (file))
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                   "%s: SVDQuant weights, where dense ones (F32, BF16 or F16) are needed",
                   safetensors_path (file));
      return FALSE;
    }
  weights = weights_new (part, g_steal_pointer (&file), n, error);
  if (weights == NULL)
    return FALSE;
  if (weights->svdq != NULL)
    self->svdquant = weights;
  else
    self->parts[part] = weights;
  return TRUE;
}

/* A quantised file replaces nothing: the folder's dense weights, if any, serve the other
 * precision. */
static gboolean
open_transformer (Checkpoint *self, const char *path, GError **error)
{
  g_autofree char *own = NULL;

  if (!open_part (self, CHECKPOINT_TRANSFORMER, path, error))
    return FALSE;
  if (path == NULL || self->svdquant == NULL)
    return TRUE;
  own = checkpoint_find_file (self->dir, CHECKPOINT_TRANSFORMER, NULL);
  return own == NULL || is_quantised (own) || open_part (self, CHECKPOINT_TRANSFORMER, own, error);
}

typedef struct
{
  Weights *weights;
  GError *error; /* (owned) the first tensor that does not fit */
} Fit;

static void
check_tensor (const char *name, int rank, const int64_t *shape, gpointer user_data)
{
  Fit *fit = user_data;
  g_autofree char *base = g_strdup (name);
  Tensor tensor, scales;

  if (fit->error != NULL)
    return;
  if (g_str_has_suffix (base, ".weight"))
    base[strlen (base) - strlen (".weight")] = '\0';
  if (weights_find_code_bits (fit->weights, base) == 0)
    weights_check_shaped (fit->weights, name, &fit->error, rank, shape);
  else if (rank == 2)
    weight_only_find (fit->weights->file, base, fit->weights->code_bits, shape[0], shape[1],
                      &tensor, &scales, &fit->error);
  else
    g_set_error (&fit->error, ENGINE_ERROR, ENGINE_ERROR_MODEL, "%s: %s is not a linear layer's",
                 weights_path (fit->weights), name);
}

/* A text encoder from elsewhere may be another model's: better said now than when it is loaded. */
static gboolean
open_text_encoder (Checkpoint *self, const char *path, GError **error)
{
  Fit fit = { 0 };

  if (!open_part (self, CHECKPOINT_TEXT_ENCODER, path, error))
    return FALSE;
  if (path == NULL)
    return TRUE;
  fit.weights = self->parts[CHECKPOINT_TEXT_ENCODER];
  inventory_text_encoder (&self->text_encoder, check_tensor, &fit);
  if (fit.error == NULL)
    return TRUE;
  g_propagate_prefixed_error (error, fit.error, "this is not a text encoder of %s: ", self->dir);
  return FALSE;
}

Checkpoint *
checkpoint_open (const char *dir, const char *transformer_file, const char *text_encoder_file,
                 GError **error)
{
  g_autoptr (Checkpoint) self = g_new0 (Checkpoint, 1);
  Weights *transformer;

  self->dir = g_strdup (dir);
  if (!read_configs (self, error) || !open_transformer (self, transformer_file, error)
      || !open_text_encoder (self, text_encoder_file, error)
      || !open_part (self, CHECKPOINT_VAE, NULL, error))
    return NULL;
  transformer = self->svdquant != NULL ? self->svdquant : self->parts[CHECKPOINT_TRANSFORMER];
  self->transformer.t_hidden = weights_read_t_hidden (transformer, self->transformer.t_hidden);
  return g_steal_pointer (&self);
}

void
checkpoint_free (Checkpoint *self)
{
  if (self == NULL)
    return;
  for (int i = 0; i < CHECKPOINT_N_PARTS; i++)
    weights_free (self->parts[i]);
  weights_free (self->svdquant);
  synthetic_memory_free (self->synthetic);
  g_free (self->dir);
  g_free (self);
}

gboolean
checkpoint_check_unchanged (Checkpoint *self, GError **error)
{
  for (int i = 0; i < CHECKPOINT_N_PARTS; i++)
    if (self->parts[i] != NULL && !safetensors_check_unchanged (self->parts[i]->file, error))
      return FALSE;
  return self->svdquant == NULL || safetensors_check_unchanged (self->svdquant->file, error);
}

const char *
checkpoint_dir (const Checkpoint *self)
{
  return self->dir;
}

const TransformerConfig *
checkpoint_transformer (const Checkpoint *self)
{
  return &self->transformer;
}

const TextEncoderConfig *
checkpoint_text_encoder (const Checkpoint *self)
{
  return &self->text_encoder;
}

const VaeConfig *
checkpoint_vae (const Checkpoint *self)
{
  return &self->vae;
}

const SchedulerConfig *
checkpoint_scheduler (const Checkpoint *self)
{
  return &self->scheduler;
}

gboolean
checkpoint_is_distilled (const Checkpoint *self)
{
  return self->scheduler.shift == 3.0;
}

gboolean
checkpoint_has_dense (const Checkpoint *self)
{
  return self->parts[CHECKPOINT_TRANSFORMER] != NULL;
}

gboolean
checkpoint_has_svdquant (const Checkpoint *self)
{
  return self->svdquant != NULL;
}

Weights *
checkpoint_weights (Checkpoint *self, CheckpointPart part, gboolean svdquant, GError **error)
{
  gboolean quantised = svdquant && part == CHECKPOINT_TRANSFORMER;
  Weights *weights = quantised ? self->svdquant : self->parts[part];

  if (weights == NULL)
    g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL, "%s: this model folder has no %s %s",
                 self->dir, quantised ? "SVDQuant" : "dense", checkpoint_part_name (part));
  return weights;
}
