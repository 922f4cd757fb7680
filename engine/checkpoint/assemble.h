/* SPDX-License-Identifier: Apache-2.0
 *
 * assemble.h - a model folder of files that another program keeps
 *
 * ComfyUI and its like have Z-Image as loose files: a transformer, Qwen3-4B, FLUX's VAE, and a
 * vocabulary among the program's own files. What such files leave out, sizes and settings, is what
 * Tongyi-MAI published (spec z-image 1.2). The folder holds links: nothing large is copied.
 */
#pragma once

#include "engine/checkpoint/checkpoint.h"

G_BEGIN_DECLS

typedef struct
{
  const char *from;      /* a folder that is searched for what is not named; NULL: none */
  const char *files[3];  /* by CheckpointPart: a .safetensors file or an index of shards, or NULL */
  const char *tokenizer; /* a folder with tokenizer.json, or vocab.json and merges.txt; or NULL */
  double shift;          /* of the schedule: 3 for Turbo, 6 for Z-Image */
} AssembleJob;

/* Makes the folder `out`, which must not be there yet: whole, and one that loads, or not at all.
 * ENGINE_ERROR_MODEL if something is not found, not unique or not Z-Image's, naming what to do;
 * G_FILE_ERROR_*. */
gboolean assemble_model (const AssembleJob *job, const char *out, GError **error);

G_END_DECLS
