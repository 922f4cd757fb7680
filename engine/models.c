/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/models.h"

#include "engine/checkpoint/synthetic.h"
#include "engine/lora/adapters.h"

#include <string.h>

/* The first compute capability with FP4 matrix products. */
#define FP4_SM 100

/* The share of all memory that a part's expanded copy may take; larger parts stay as mapped. */
#define RESIDENT_SHARE 8

/* The 4-bit transformer in `folder` whose name begins with `prefix` (transfer full), or NULL: one
 * named after the wanted format, else any; of several the first by name. */
static char *
find_quantised (const char *folder, const char *prefix, SvdqFormat wanted)
{
  g_autoptr (GDir) listing = g_dir_open (folder, 0, NULL);
  const char *format = wanted == SVDQ_NVFP4 ? "fp4" : "int4";
  g_autofree char *found = NULL;
  const char *name;

  while (listing != NULL && (name = g_dir_read_name (listing)) != NULL)
    {
      int suits = strstr (name, format) != NULL;
      int before = found != NULL && strstr (found, format) != NULL;

      if (!g_str_has_prefix (name, prefix) || !g_str_has_suffix (name, ".safetensors")
          || (found != NULL && (suits < before || (suits == before && strcmp (name, found) > 0))))
        continue;
      g_free (found);
      found = g_strdup (name);
    }
  return found != NULL ? g_build_filename (folder, found, NULL) : NULL;
}

/* What a model folder brings of its own: a published svdq-*.safetensors put into it, or anything in
 * its svdquant/. */
static char *
find_own_quantised (const char *dir, SvdqFormat wanted)
{
  g_autofree char *folder = g_build_filename (dir, "svdquant", NULL);
  char *published = find_quantised (dir, "svdq-", wanted);

  return published != NULL ? published : find_quantised (folder, "", wanted);
}

/* "int4", "nvfp4", or NULL for what suits the device. */
static gboolean
parse_format (const char *text, const Device *device, SvdqFormat *out, GError **error)
{
  if (text == NULL)
    *out = device->caps.sm >= FP4_SM ? SVDQ_NVFP4 : SVDQ_INT4;
  else if (g_str_equal (text, "int4"))
    *out = SVDQ_INT4;
  else if (g_str_equal (text, "nvfp4"))
    *out = SVDQ_NVFP4;
  else
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST,
                   "there is no type of SVDQuant \"%s\"; it can be int4 or nvfp4", text);
      return FALSE;
    }
  return TRUE;
}

/* FALSE with an error if there is a 4-bit transformer, but of another type. */
static gboolean
check_format (Checkpoint *checkpoint, SvdqFormat wanted, GError **error)
{
  Weights *weights = checkpoint_weights (checkpoint, CHECKPOINT_TRANSFORMER, TRUE, NULL);
  SvdqFormat found;

  if (weights == NULL || !weights_svdq_format (weights, &found) || found == wanted)
    return TRUE;
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL, "%s: is %s, and not %s as asked for",
               weights_path (weights), found == SVDQ_INT4 ? "INT4" : "NVFP4",
               wanted == SVDQ_INT4 ? "INT4" : "NVFP4");
  return FALSE;
}

static Checkpoint *
open_synthetic (const char *name, const char *transformer, SvdqFormat wanted,
                const char *text_encoder, GError **error)
{
  SyntheticSvdq svdq = { wanted, SYNTHETIC_RANK };
  int encoder_bits = 0;

  if ((transformer != NULL && !synthetic_parse_svdq (transformer, &svdq, error))
      || (text_encoder != NULL && !synthetic_parse_encoder (text_encoder, &encoder_bits, error)))
    return NULL;
  return synthetic_open (name, &svdq, encoder_bits, error);
}

gboolean
models_open (Models *self, const Device *device, const char *dir, const char *transformer_file,
             const char *svdquant, const char *text_encoder_file, GError **error)
{
  g_autofree char *tokenizer_dir = g_build_filename (dir, "tokenizer", NULL);
  gboolean synthetic = g_str_has_prefix (dir, SYNTHETIC_PREFIX);
  g_autofree char *quantised = NULL;
  SvdqFormat wanted;

  *self = (Models){ 0 };
  if (!parse_format (svdquant, device, &wanted, error))
    return FALSE;
  if (transformer_file == NULL && !synthetic)
    transformer_file = quantised = find_own_quantised (dir, wanted);
  self->checkpoint = synthetic
                         ? open_synthetic (dir, transformer_file, wanted, text_encoder_file, error)
                         : checkpoint_open (dir, transformer_file, text_encoder_file, error);
  if (self->checkpoint == NULL
      || (svdquant != NULL && !check_format (self->checkpoint, wanted, error)))
    return FALSE;
  if (synthetic)
    return TRUE;
  self->tokenizer = tokenizer_new (tokenizer_dir, error);
  return self->tokenizer != NULL;
}

GArray *
models_tokenize (const Models *self, const char *prompt)
{
  if (self->tokenizer == NULL)
    return synthetic_tokenize (self->checkpoint, prompt, TOKENIZER_MAX_PROMPT);
  return tokenizer_encode_prompt (self->tokenizer, prompt, TOKENIZER_MAX_PROMPT);
}

static CheckpointPart
checkpoint_part (ModelsPart part)
{
  switch (part)
    {
    case MODELS_TEXT_ENCODER:
      return CHECKPOINT_TEXT_ENCODER;
    case MODELS_DECODER:
      return CHECKPOINT_VAE;
    default:
      return CHECKPOINT_TRANSFORMER;
    }
}

static void
free_part (Models *self, const Context *ctx, ModelsPart part, EnginePrecision precision)
{
  if (part == MODELS_TEXT_ENCODER)
    {
      text_encoder_free (ctx, self->text_encoder);
      self->text_encoder = NULL;
    }
  else if (part == MODELS_TRANSFORMER)
    {
      transformer_free (ctx, self->transformer[precision]);
      self->transformer[precision] = NULL;
    }
  else
    {
      vae_free (ctx, self->decoder);
      self->decoder = NULL;
    }
}

gboolean
models_is_loaded (const Models *self, ModelsPart part, EnginePrecision precision)
{
  if (part == MODELS_TEXT_ENCODER)
    return self->text_encoder != NULL;
  if (part == MODELS_TRANSFORMER)
    return self->transformer[precision] != NULL;
  return self->decoder != NULL;
}

void
models_build (Models *self, Loader *loader, ModelsPart part, EnginePrecision precision)
{
  Checkpoint *c = self->checkpoint;

  if (part == MODELS_TEXT_ENCODER)
    self->text_encoder = text_encoder_new (loader, checkpoint_text_encoder (c));
  else if (part == MODELS_TRANSFORMER)
    self->transformer[precision] = transformer_new (loader, checkpoint_transformer (c));
  else
    self->decoder = vae_new_decoder (loader, checkpoint_vae (c));
}

Weights *
models_weights (const Models *self, ModelsPart part, EnginePrecision precision, GError **error)
{
  return checkpoint_weights (self->checkpoint, checkpoint_part (part),
                             precision == ENGINE_PRECISION_SVDQUANT, error);
}

gboolean
models_are_resident (Weights *weights, const Device *device)
{
  return weights_count (weights) * sizeof (float) <= device->caps.total_memory / RESIDENT_SHARE;
}

/* -- coming and going ---------------------------------------------------------------------------
 */

static Context
device_context (const Device *device, GCancellable *cancellable)
{
  return (Context){ .ops = device->ops,
                    .stream = device->stream,
                    .activation = device_activation (&device->caps),
                    .residual = device_residual (&device->caps),
                    .caps = &device->caps,
                    .options = &device->options,
                    .cancellable = cancellable };
}

static Shelf *
find_shelf (const Models *self, ModelsPart part, EnginePrecision precision)
{
  if (!models_is_loaded (self, part, precision))
    return NULL;
  if (part == MODELS_TEXT_ENCODER)
    return text_encoder_shelf (self->text_encoder);
  return part == MODELS_TRANSFORMER ? transformer_shelf (self->transformer[precision]) : NULL;
}

/* Encoder and decoder serve both precisions. */
static gboolean *
was_expanded (Models *self, ModelsPart part, EnginePrecision precision)
{
  return &self->expanded[part][part == MODELS_TRANSFORMER ? precision : 0];
}

/* -- adapters -----------------------------------------------------------------------------------
 */

static Adapters *
open_adapters (const Models *self, const EngineRequest *request, const char *folder, gboolean check,
               GError **error)
{
  g_autofree char *own = g_build_filename (checkpoint_dir (self->checkpoint), "loras", NULL);
  const char *const folders[] = { own, folder, NULL };

  return adapters_open (request->loras, request->n_loras, folders,
                        checkpoint_transformer (self->checkpoint), check, error);
}

gboolean
models_open_adapters (Models *self, const Device *device, const EngineRequest *request,
                      const char *folder, GError **error)
{
  Context ctx = device_context (device, NULL);

  if (adapters_match (self->adapters, request->loras, request->n_loras))
    return TRUE;
  adapters_free (&ctx, self->adapters);
  self->adapters = NULL;
  if (request->n_loras == 0)
    return TRUE;
  self->adapters = open_adapters (self, request, folder, TRUE, error);
  return self->adapters != NULL;
}

gboolean
models_look_at_adapters (const Models *self, const EngineRequest *request, const char *folder,
                         gboolean check, Adapters **out, GError **error)
{
  *out = request->n_loras > 0 ? open_adapters (self, request, folder, check, error) : NULL;
  return *out != NULL || request->n_loras == 0;
}

static Status
enter_adapters (Models *self, const Context *ctx, ModelsPart part, EnginePrecision precision)
{
  return part == MODELS_TRANSFORMER && self->adapters != NULL
             ? adapters_load (self->adapters, ctx, self->transformer[precision])
             : STATUS_OK;
}

/* -- loading ------------------------------------------------------------------------------------
 */

static Status
load (Models *self, const Context *ctx, const Device *device, ModelsPart part,
      EnginePrecision precision, const PartPlacement *placement, GError **error)
{
  Loader loader = { .ctx = ctx, .shelved = placement->image };

  loader.weights = models_weights (self, part, precision, error);
  if (loader.weights == NULL)
    return STATUS_UNSUPPORTED;
  loader.resident = !placement->unexpanded && models_are_resident (loader.weights, device);

  models_build (self, &loader, part, precision);
  *was_expanded (self, part, precision) = loader.resident;
  if (!loader_failed (&loader) && part != MODELS_DECODER)
    weights_check_all_used (loader.weights, &loader.error);
  if (!loader_failed (&loader) && part == MODELS_DECODER)
    loader.status = preview_fit (
        ctx, self->decoder, checkpoint_vae (self->checkpoint)->latent_channels, &self->preview);
  if (!loader_failed (&loader))
    return STATUS_OK;

  free_part (self, ctx, part, precision);
  if (loader.error == NULL)
    return loader.status;
  g_propagate_error (error, loader.error);
  return STATUS_UNSUPPORTED;
}

/* TRUE if the part is loaded as `placement` wants it, but for how much of it streams. */
static gboolean
is_as_placed (const Models *self, const Device *device, ModelsPart part, EnginePrecision precision,
              const PartPlacement *placement)
{
  gboolean resident = !placement->unexpanded
                      && models_are_resident (models_weights (self, part, precision, NULL), device);

  return (find_shelf (self, part, precision) != NULL) == placement->image
         && (device->caps.kind != DEVICE_CPU
             || *was_expanded ((Models *)self, part, precision) == resident);
}

void
models_release_misplaced (Models *self, const Device *device, ModelsPart part,
                          EnginePrecision precision, const PartPlacement *placement)
{
  if (models_is_loaded (self, part, precision)
      && !is_as_placed (self, device, part, precision, placement))
    models_release_part (self, device, part, precision);
}

Status
models_load (Models *self, const Device *device, ModelsPart part, EnginePrecision precision,
             const PartPlacement *placement, GCancellable *cancellable, GError **error)
{
  Context ctx = device_context (device, cancellable);

  models_release_misplaced (self, device, part, precision, placement);
  if (models_is_loaded (self, part, precision))
    return STATUS_OK;
  return load (self, &ctx, device, part, precision, placement, error);
}

Status
models_enter (Models *self, const Device *device, ModelsPart part, EnginePrecision precision,
              const PartPlacement *placement, GCancellable *cancellable, GError **error)
{
  Context ctx = device_context (device, cancellable);
  Shelf *shelf;

  CHECK (models_load (self, device, part, precision, placement, cancellable, error));
  shelf = find_shelf (self, part, precision);
  CHECK (enter_adapters (self, &ctx, part, precision));
  if (shelf == NULL)
    return STATUS_OK;
  if (!shelf_is_brought (shelf))
    shelf_set_streamed (shelf, placement->streamed);
  return shelf_bring (shelf, &ctx);
}

void
models_leave (Models *self, const Device *device, ModelsPart part, EnginePrecision precision,
              const PartPlacement *placement)
{
  Context ctx = device_context (device, NULL);
  Shelf *shelf = find_shelf (self, part, precision);

  if (shelf != NULL)
    shelf_put_away (shelf, &ctx);
  else if (placement->leaves)
    models_release_part (self, device, part, precision);
}

guint64
models_image_bytes (const Models *self)
{
  guint64 sum = 0;

  for (int part = 0; part < MODELS_DECODER; part++)
    for (int precision = 0; precision < (part == MODELS_TRANSFORMER ? 2 : 1); precision++)
      {
        Shelf *shelf = find_shelf (self, (ModelsPart)part, (EnginePrecision)precision);

        sum += shelf != NULL ? shelf_image_bytes (shelf) : 0;
      }
  return sum;
}

void
models_release_part (Models *self, const Device *device, ModelsPart part, EnginePrecision precision)
{
  Context ctx = device_context (device, NULL);

  if (part == MODELS_TRANSFORMER && self->adapters != NULL)
    adapters_unload (self->adapters, &ctx);
  free_part (self, &ctx, part, precision);
}

void
models_free_parts (Models *self, const Context *ctx)
{
  if (self->adapters != NULL)
    adapters_unload (self->adapters, ctx);
  free_part (self, ctx, MODELS_TEXT_ENCODER, 0);
  free_part (self, ctx, MODELS_TRANSFORMER, ENGINE_PRECISION_BF16);
  free_part (self, ctx, MODELS_TRANSFORMER, ENGINE_PRECISION_SVDQUANT);
  free_part (self, ctx, MODELS_DECODER, 0);
  self->preview.channels = 0;
}

void
models_release (Models *self, const Device *device)
{
  Context ctx = device_context (device, NULL);

  models_free_parts (self, &ctx);
}

void
models_close (Models *self, const Device *device)
{
  if (device->ops != NULL)
    models_release (self, device);
  adapters_free (NULL, self->adapters);
  self->adapters = NULL;
  g_clear_pointer (&self->tokenizer, tokenizer_free);
  g_clear_pointer (&self->checkpoint, checkpoint_free);
}
