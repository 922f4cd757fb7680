/* SPDX-License-Identifier: Apache-2.0
 *
 * synthetic.h - models of real sizes with random weights
 *
 * To measure speed and memory at full size without a download. The pictures mean nothing. All
 * tensors are windows into one small random block that is mapped again and again, so 20 GB of
 * weights take 64 MiB of memory, and loading them takes the same way as loading a real file.
 */
#pragma once

#include "engine/checkpoint.h"

G_BEGIN_DECLS

#define SYNTHETIC_PREFIX "synthetic:"

/* `name`: "synthetic:z-image-turbo", or with a number of layers, "synthetic:z-image-turbo:2", a
 * slice of the model for slow devices. ENGINE_ERROR_MODEL for any other name. */
Checkpoint *synthetic_open (const char *name, GError **error);

/* Ids for a prompt, since there is no vocabulary: one a word, and the template's eight. element
 * gint64 (transfer full). */
GArray *synthetic_tokenize (const Checkpoint *checkpoint, const char *prompt, guint max_ids);

G_END_DECLS
