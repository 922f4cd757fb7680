/* SPDX-License-Identifier: Apache-2.0
 *
 * checkpoint-private.h - what checkpoint.c, weights.c and the SVDQuant reader share
 */
#pragma once

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/synthetic-memory.h"
#include "engine/svdquant/read.h"

G_BEGIN_DECLS

/* A weight that the file has in fewer bits. */
typedef struct
{
  char *stored; /* owned; its name in the file, and which of its parts */
  void *data;   /* owned; BF16 */
} ExpandedWeight;

struct _Weights
{
  CheckpointPart part;
  Safetensors *file; /* owned */
  SvdqReader *svdq;  /* owned; NULL when all is dense */
  int code_bits;     /* text encoder: 8 or 4 if linears are codes, else 0 */
  char *prefix;      /* owned; what every name of this part begins with in the file, or "" */
  int n_blocks;      /* VAE: BFL's naming counts the decoder's blocks backwards */
  int n_layers;      /* text encoder: the last one is never used */
  GHashTable *used;  /* set of names as the file spells them, owned */
  GArray *expanded;  /* ExpandedWeight, owned; those that may be forgotten */
  GHashTable *kept;  /* ExpandedWeight.stored -> .data, owned; those that may not */
};

struct _Checkpoint
{
  char *dir;
  TransformerConfig transformer;
  TextEncoderConfig text_encoder;
  VaeConfig vae;
  SchedulerConfig scheduler;
  Weights *parts[3]; /* by CheckpointPart; the transformer's is dense, NULL if there is none */
  Weights *svdquant; /* a second set for the transformer, or NULL */
  SyntheticMemory *synthetic; /* what a made-up model's tensors are views of, or NULL */
};

#define CHECKPOINT_N_PARTS 3

/* "transformer", "text_encoder", "vae": the part's folder. */
const char *checkpoint_part_name (CheckpointPart part);

/* The file that holds a part's weights: the index of shards, the single file, or the only
 * safetensors file of the part's folder (transfer full). NULL with ENGINE_ERROR_MODEL if there is
 * none. */
char *checkpoint_find_file (const char *dir, CheckpointPart part, GError **error);

/* What the names of a transformer begin with in this file, "" for most (transfer full). */
char *weights_find_prefix (Safetensors *file);

/* Takes over `file`, also on failure. `n` is the number of blocks (VAE) or layers (text encoder).
 */
Weights *weights_new (CheckpointPart part, Safetensors *file, int n, GError **error);
void weights_free (Weights *self); /* NULL is a no-op */

/* The width of the timestep MLP; `fallback` if the file does not say. */
int weights_read_t_hidden (Weights *self, int fallback);

/* TRUE for a stored name that a model may leave unused. */
gboolean weights_is_known_unused (Weights *self, const char *stored);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Weights, weights_free)

G_END_DECLS
