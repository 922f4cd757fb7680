/* SPDX-License-Identifier: Apache-2.0
 *
 * trace.h - what a run computed, as a safetensors file, for tests and bug reports
 *
 * Tensors have the names and shapes of the reference's golden traces. A NULL Trace records nothing,
 * so the pipeline need not ask.
 */
#pragma once

#include "engine/files/safetensors.h"

G_BEGIN_DECLS

typedef struct _Trace Trace;

Trace *trace_new (void);
void trace_free (Trace *self); /* NULL is a no-op */

/* Copies a dense tensor of `rank` extents. */
void trace_add (Trace *self, const char *name, DType dtype, int rank, const int64_t *shape,
                gconstpointer data);
/* As a safetensors file that appears whole or not at all. */
gboolean trace_write (Trace *self, const char *path, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Trace, trace_free)

G_END_DECLS
