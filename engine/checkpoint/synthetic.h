/* SPDX-License-Identifier: Apache-2.0
 *
 * synthetic.h - models of real sizes with random weights
 *
 * To measure speed and memory at full size without a download. The pictures mean nothing. All
 * tensors are windows into small random blocks that are mapped again and again, so 20 GB of
 * weights take 64 MiB of memory, and loading them takes the same way as loading a real file.
 * Beside the BF16 transformer there is one in 4 bit, of the same sizes and magnitudes; it is drawn
 * for itself and does not approximate the other.
 */
#pragma once

#include "engine/checkpoint/checkpoint.h"

G_BEGIN_DECLS

#define SYNTHETIC_PREFIX "synthetic:"
#define SYNTHETIC_RANK   32 /* of the 4-bit transformer, unless another is asked for */

typedef struct
{
  SvdqFormat format;
  int rank; /* of all quantised layers, a multiple of 16 */
} SyntheticSvdq;

/* "synthetic:int4", "synthetic:nvfp4:128": format and rank (SYNTHETIC_RANK if not said) of a
 * transformer. ENGINE_ERROR_MODEL for any other name. */
gboolean synthetic_parse_svdq (const char *name, SyntheticSvdq *out, GError **error);

/* "synthetic:8", "synthetic:4": bits of a text encoder's weights. ENGINE_ERROR_MODEL for any other
 * name. */
gboolean synthetic_parse_encoder (const char *name, int *bits, GError **error);

/* `name`: "synthetic:z-image-turbo", or with a number of layers, "synthetic:z-image-turbo:2", a
 * slice of the model for slow devices. `svdq`: what its 4-bit transformer is like;
 * encoder_bits: 8 or 4 for a text encoder in codes, 0 for a dense one. ENGINE_ERROR_MODEL for any
 * other name. */
Checkpoint *
synthetic_open (const char *name, const SyntheticSvdq *svdq, int encoder_bits, GError **error);

/* Ids for a prompt, since there is no vocabulary: one a word, and the template's eight. element
 * gint64 (transfer full). */
GArray *synthetic_tokenize (const Checkpoint *checkpoint, const char *prompt, guint max_ids);

G_END_DECLS
