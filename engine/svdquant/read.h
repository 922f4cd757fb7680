/* SPDX-License-Identifier: Apache-2.0
 *
 * read.h - SVDQuant linears of any published format, in logical order
 *
 * A SvdqReader looks at one file (or its shards) and hands out what it holds of each quantised
 * linear as the kernels take it: row-major, w13 as [w1; w3], vectors as they are numbered (spec
 * svdquant 3.6). What the file has in that form already is a view of it; the rest is put in order
 * in buffers that the next call takes over. Structure is checked at once, numbers when they are
 * read.
 */
#pragma once

#include "engine/svdquant/detect.h"
#include "kernels/kernels.h"

G_BEGIN_DECLS

typedef struct _SvdqReader SvdqReader;

typedef struct
{
  const char *base; /* engine's name: "layers.0.attention.to_qkv" */
  int64_t n, k;
  int rank;
  SvdqFormat format;
  guint64 code_bytes, scale_bytes, low_rank_bytes; /* scales: with vectors */
} SvdqLinearInfo;

/* One tensor of a linear, named as in 3.6. */
typedef enum
{
  SVDQ_QWEIGHT,
  SVDQ_WSCALES,
  SVDQ_SMOOTH,
  SVDQ_PROJ_DOWN,
  SVDQ_PROJ_UP,
  SVDQ_WTSCALE,
  SVDQ_WCSCALES,
} SvdqPart;

#define SVDQ_N_PARTS 7

/* `file` is borrowed; names of the transformer begin with `prefix`. TRUE with *out NULL for a dense
 * file. Errors: ENGINE_ERROR_MODEL naming file, tensor and cause. */
gboolean svdq_reader_open (Safetensors *file, const char *prefix, SvdqReader **out, GError **error);
void svdq_reader_free (SvdqReader *self); /* NULL is a no-op */

/* The file's format; its quantised linears, index < svdq_reader_count; `base` is borrowed. */
SvdqKind svdq_reader_kind (const SvdqReader *self);
guint svdq_reader_count (const SvdqReader *self);
SvdqLinearInfo svdq_reader_info (const SvdqReader *self, guint index);

/* The linear that `stored`, a name in the file, is a tensor of: its base, or NULL. */
const char *svdq_reader_base_of (const SvdqReader *self, const char *stored);

/* Type and shape of a part in logical order; no data. */
Tensor svdq_reader_shape (const SvdqReader *self, guint index, SvdqPart part);

/* A tensor of linear `index` in logical order, valid until the next call. Absent wtscale and
 * wcscales are ones. Errors as above: NaN, smoothing that is not positive, no memory. */
gboolean
svdq_reader_part (SvdqReader *self, guint index, SvdqPart part, Tensor *out, GError **error);

/* The linear `base`, expected to be [n, k]; *out is valid until the next call. FALSE without an
 * error if `base` is not quantised in this file. */
gboolean svdq_reader_get (SvdqReader *self, const char *base, int64_t n, int64_t k,
                          const SvdqSource **out, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (SvdqReader, svdq_reader_free)

G_END_DECLS
