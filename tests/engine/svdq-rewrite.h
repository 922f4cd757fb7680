/* SPDX-License-Identifier: Apache-2.0
 *
 * svdq-rewrite.h - a quantised transformer as other programs would have written it, for tests
 */
#pragma once

#include "engine/svdquant/read.h"

G_BEGIN_DECLS

typedef struct
{
  const char *in;           /* a quantised transformer of any kind */
  SvdqKind kind;            /* Lite and kitchen have separate linears, the latter INT4 only */
  gboolean separate;        /* canonical: q, k, v and w1, w3 each for itself */
  int dropped;              /* so many ranks of every second part are left out */
  const char *dense_prefix; /* linears of these names are taken from `dense`; or NULL */
  Safetensors *dense;       /* the model's own transformer, in the reference's names */
} SvdqRewrite;

/* Writes it to `out`. With separate linears the parts have the factors of the whole, so that they
 * make the same numbers. */
void svdq_rewrite (const SvdqRewrite *self, const char *out);

G_END_DECLS
