/* SPDX-License-Identifier: Apache-2.0
 *
 * models.h - the parts of a model that are on the device
 *
 * Owns what was loaded from a checkpoint. A part is loaded when a request first needs it, in the
 * way that its PartPlacement says, and stays until it is released or loaded in another way.
 */
#pragma once

#include "engine/checkpoint/checkpoint.h"
#include "engine/computer/device.h"
#include "engine/preview.h"
#include "engine/text-encoder.h"
#include "engine/tokenizer/tokenizer.h"
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
  PreviewMap preview;      /* fitted when the decoder is loaded */
  gboolean expanded[3][2]; /* part, precision: loaded with `resident` (loader.h) */
  Adapters *adapters;      /* (owned) of the request at hand; NULL if it has no LoRA */
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
 * where the device has it, else INT4. ENGINE_ERROR_MODEL if what is found is of another type.
 * text_encoder_file: instead of the folder's own, or NULL. */
gboolean models_open (Models *self, const Device *device, const char *dir,
                      const char *transformer_file, const char *svdquant,
                      const char *text_encoder_file, GError **error);

/* Ids of a prompt in its template, at most TOKENIZER_MAX_PROMPT (transfer full). */
GArray *models_tokenize (const Models *self, const char *prompt);

/* The weights of a part (borrowed), or NULL with an error. */
Weights *
models_weights (const Models *self, ModelsPart part, EnginePrecision precision, GError **error);

/* TRUE if the CPU should expand 16-bit weights into memory once: they are small beside it. */
gboolean models_are_resident (Weights *weights, const Device *device);

/* What becomes of a part's weights. */
typedef struct
{
  gboolean leaves;     /* the device when its phase is over; else it stays */
  gboolean image;      /* leaves, and its blocks wait in host memory; else it is loaded again */
  int streamed;        /* with an image: how many bundles only pass through (shelf.h) */
  gboolean unexpanded; /* CPU: weights are used as they are mapped */
} PartPlacement;

/* Makes a part with `loader`, which says afterwards how it went. */
void models_build (Models *self, Loader *loader, ModelsPart part, EnginePrecision precision);

gboolean models_is_loaded (const Models *self, ModelsPart part, EnginePrecision precision);

/* Gives a part's memory back if it is loaded in another way than `placement`'s. */
void models_release_misplaced (Models *self, const Device *device, ModelsPart part,
                               EnginePrecision precision, const PartPlacement *placement);
/* Loads a part, unless it is there in the way of `placement`. STATUS_OK; a Status that says what is
 * wrong with the device (STATUS_NO_MEMORY: something smaller may work); or STATUS_UNSUPPORTED with
 * `error` set: ENGINE_ERROR_MODEL names the tensor. After a failure the part is not loaded. */
Status models_load (Models *self, const Device *device, ModelsPart part, EnginePrecision precision,
                    const PartPlacement *placement, GCancellable *cancellable, GError **error);
/* Makes a part ready for its phase: loads it, brings its blocks from their images, and loads the
 * transformer's adapters. */
Status models_enter (Models *self, const Device *device, ModelsPart part, EnginePrecision precision,
                     const PartPlacement *placement, GCancellable *cancellable, GError **error);
/* Its phase is over. */
void models_leave (Models *self, const Device *device, ModelsPart part, EnginePrecision precision,
                   const PartPlacement *placement);

/* Opens the request's LoRA files unless they are open already; what others held goes. Names are
 * looked for in the model's "loras" and in `folder`. Errors: ENGINE_ERROR_MODEL. */
gboolean models_open_adapters (Models *self, const Device *device, const EngineRequest *request,
                               const char *folder, GError **error);
/* The same, only to see what they would take: *out (transfer full) is NULL without LoRAs. `check`:
 * read their numbers, too. (any thread) */
gboolean models_look_at_adapters (const Models *self, const EngineRequest *request,
                                  const char *folder, gboolean check, Adapters **out,
                                  GError **error);

/* Host memory in images, bytes. */
guint64 models_image_bytes (const Models *self);

/* Gives a part's memory back, or that of all parts; the folder stays open. */
void models_release_part (Models *self, const Device *device, ModelsPart part,
                          EnginePrecision precision);
void models_release (Models *self, const Device *device);
void models_free_parts (Models *self, const Context *ctx);
void models_close (Models *self, const Device *device);

G_END_DECLS
