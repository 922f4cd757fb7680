/* SPDX-License-Identifier: Apache-2.0
 *
 * inspection.h - what a file or a model folder is, and what it lacks
 *
 * Unlike checkpoint_open, which stops at the first fault, this goes on and collects them all.
 */
#pragma once

#include "engine/files/safetensors.h"

G_BEGIN_DECLS

/* Numbers of one kind in a component. */
typedef struct
{
  char *dtype; /* owned; as the file spells it */
  guint tensors;
  guint64 elements, bytes;
} InspectionType;

/* One part of a model, or the one file that was asked about. */
typedef struct
{
  char *name;            /* owned; "transformer", "tokenizer", ... */
  char *path;            /* owned; the file, or the part's folder if there is none */
  const char *kind;      /* static: "Z-Image transformer", ... */
  const char *precision; /* owned by the part: "BF16", "SVDQuant INT4", ...; NULL without tensors */
  const char *naming;    /* static: "reference", "ComfyUI", "BFL", "SVDQuant", ..., or NULL */
  guint shards;          /* files the tensors lie in; 0 without tensors */
  guint tensors;
  guint64 elements, bytes; /* of all tensors; a packed 4-bit pair is two elements */
  GArray *types;           /* InspectionType, most bytes first */
  const char *format;      /* static: of SVDQuant files, "Nunchaku", ...; NULL for others */
  int rank;                /* of their low-rank branch, or of a LoRA: the greatest */
  int code_bits;           /* of a text encoder in codes: 8 or 4; else 0 */
  const char *scaled; /* static: of weights that are expanded when loaded, "FP8", ...; or NULL */
  guint64 code_bytes, scale_bytes, low_rank_bytes; /* their parts; the rest is dense */
} InspectionPart;

typedef struct
{
  char *path;          /* owned */
  const char *kind;    /* static: what the whole is */
  double shift;        /* model folders: of the schedule; 0 if unknown */
  GPtrArray *parts;    /* InspectionPart */
  GPtrArray *problems; /* char *, each names file and cause */
} Inspection;

/* Looks at `path` (transfer full: inspection_free). NULL with an error only if it is nothing this
 * program knows, or cannot be read at all; what is wrong with a model folder are its problems. */
Inspection *inspection_new (const char *path, GError **error);
void inspection_free (Inspection *self); /* NULL is a no-op */

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Inspection, inspection_free)

G_END_DECLS
