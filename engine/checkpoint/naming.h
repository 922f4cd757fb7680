/* SPDX-License-Identifier: Apache-2.0
 *
 * naming.h - other names for the same tensors
 *
 * The engine asks by the reference's names; files may carry others (spec z-image 1.7, 6.3).
 */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* A third of a tensor that stacks q, k and v by rows, or all of it. */
typedef struct
{
  int index; /* which of `count` equal row blocks */
  int count; /* 1: the whole tensor */
} NameSlice;

/* Each appends the other name to `out` and returns TRUE, or returns FALSE when there is none. */
gboolean naming_comfy (const char *name, GString *out, NameSlice *slice);
/* Dense blocks of a Nunchaku file: net.0.proj stacks [w3; w1] (spec svdquant 2.2). */
gboolean naming_nunchaku (const char *name, GString *out, NameSlice *slice);
gboolean naming_bare_text_encoder (const char *name, GString *out);
gboolean naming_bfl_vae (const char *name, int n_blocks, GString *out);

G_END_DECLS
