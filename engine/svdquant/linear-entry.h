/* SPDX-License-Identifier: Apache-2.0
 *
 * linear-entry.h - one quantised linear in a file: its names, sizes and where its tensors are
 */
#pragma once

#include "engine/svdquant/read.h"

G_BEGIN_DECLS

typedef struct
{
  char *stem; /* owned; what its tensors' names begin with, prefix included */
  char *base; /* owned; the engine's name */
  SvdqFormat format;
  int64_t n, k;
  int rank;
  gboolean gated;             /* feed_forward.w13 */
  Tensor parts[SVDQ_N_PARTS]; /* as they lie in the file; data NULL = absent */
} SvdqEntry;

/* Finds and checks the tensors of the linear whose stem is the first `length` bytes of `name`, of
 * which `prefix` belong to the file's prefix. Errors: ENGINE_ERROR_MODEL. */
SvdqEntry *svdq_entry_new (Safetensors *file, SvdqKind kind, const char *name, gsize length,
                           gsize prefix, GError **error);
void svdq_entry_free (SvdqEntry *self);

/* TRUE for the name of a tensor, after the stem, that a quantised linear may have. */
gboolean svdq_entry_knows (SvdqKind kind, const char *suffix);

/* Type and shape of a part in logical order (spec svdquant 3.6), without data. */
Tensor svdq_entry_logical (const SvdqEntry *self, SvdqPart part);

/* For row-major files: whether the vectors are still packed. Decided by which order of the
 * smoothing factors makes the rows of P_down^T s orthonormal, as the tool that made them left them
 * (spec svdquant 8.2); by the file's metadata only where smoothing is constant. */
gboolean svdq_vectors_are_packed (Safetensors *file, const GPtrArray *entries);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (SvdqEntry, svdq_entry_free)

G_END_DECLS
