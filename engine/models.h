/* SPDX-License-Identifier: Apache-2.0
 *
 * models.h - the parts of a model that are on the device
 *
 * Owns what was loaded from a checkpoint. A part is loaded when a request first needs it and stays
 * until models_release.
 */
#pragma once

#include "engine/checkpoint.h"
#include "engine/device.h"
#include "engine/preview.h"
#include "engine/text-encoder.h"
#include "engine/tokenizer.h"
#include "engine/transformer.h"
#include "engine/vae.h"

G_BEGIN_DECLS

typedef struct
{
  Checkpoint *checkpoint;      /* (owned) */
  Tokenizer *tokenizer;        /* (owned) NULL for a made-up model, which has no vocabulary */
  TextEncoder *text_encoder;   /* (owned) the rest: NULL until loaded */
  Transformer *transformer[2]; /* by EnginePrecision */
  Vae *decoder;
  PreviewMap preview; /* fitted when the decoder is loaded */
} Models;

typedef enum
{
  MODELS_TEXT_ENCODER,
  MODELS_TRANSFORMER,
  MODELS_DECODER,
  MODELS_N_PARTS,
} ModelsPart;

/* Opens the folder: configs, headers, tokenizer. `dir` may also be a synthetic model's name.
 * Without a transformer_file, a 4-bit transformer is looked for in the folder: svdq-*.safetensors,
 * or any file in its svdquant/; of type `svdquant` ("int4" or "nvfp4"), or if that is NULL, NVFP4
 * where the device has it, else INT4. ENGINE_ERROR_MODEL if what is found is of another type. */
gboolean models_open (Models *self, const Device *device, const char *dir,
                      const char *transformer_file, const char *svdquant, GError **error);

/* Ids of a prompt in its template, at most TOKENIZER_MAX_PROMPT (transfer full). */
GArray *models_tokenize (const Models *self, const char *prompt);

/* The weights of a part (borrowed), or NULL with an error. */
Weights *
models_weights (const Models *self, ModelsPart part, EnginePrecision precision, GError **error);

/* TRUE if the CPU should expand 16-bit weights into memory once: they are small beside it. */
gboolean models_are_resident (Weights *weights, const Device *device);

/* Brings a part to the device unless it is there. Errors: ENGINE_ERROR_MODEL names the tensor;
 * the device's own; G_IO_ERROR_CANCELLED. After an error the part is not loaded. */
gboolean models_load (Models *self, const Device *device, ModelsPart part,
                      EnginePrecision precision, GCancellable *cancellable, GError **error);

/* Gives all device memory back; the folder stays open. */
void models_release (Models *self, const Device *device);
void models_close (Models *self, const Device *device);

G_END_DECLS
