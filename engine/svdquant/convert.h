/* SPDX-License-Identifier: Apache-2.0
 *
 * convert.h - any readable SVDQuant file as our canonical one
 *
 * Only permutes: codes, scales and factors keep their bits (spec svdquant 3.6). Memory is that of
 * the largest tensor; the new file appears whole or not at all.
 */
#pragma once

#include "engine/svdquant/read.h"

G_BEGIN_DECLS

/* `fraction` 0 to 1, at most a few times a tensor. */
typedef void (*SvdqProgress) (double fraction, gpointer user_data);

/* `in`: a safetensors file, an index of shards, or a model folder, whose transformer is meant.
 * Errors: ENGINE_ERROR_MODEL (also for a dense file), G_FILE_ERROR_*, G_IO_ERROR_CANCELLED. */
gboolean svdq_convert (const char *in, const char *out, SvdqProgress progress, gpointer user_data,
                       GCancellable *cancellable, GError **error);

/* Name of a part as canonical files have it: "qweight", ... */
const char *svdq_part_name (SvdqPart part);

/* The canonical format's description of itself, for the metadata (transfer full). `source` and
 * `sha256` may be NULL. */
char *svdq_describe_canonical (SvdqFormat format, int rank, const char *source, const char *sha256);

G_END_DECLS
