/* SPDX-License-Identifier: Apache-2.0
 *
 * primitives.h - oneDNN's primitives, made once for each shape
 *
 * To make a primitive takes longer than to run a small one, so a Stream keeps the latest ones.
 * Their working space is the Stream's (cpu_workspace), so that it is counted.
 */
#pragma once

#include "kernels/cpu/stream.h"

#define PRIMITIVE_KEY_WORDS 14

/* What a primitive was made for; compared as bytes, so unused words must be 0. */
typedef struct
{
  int64_t words[PRIMITIVE_KEY_WORDS];
} PrimitiveKey;

typedef struct Primitive Primitive;

PrimitiveCache *primitive_cache_new (void); /* NULL: out of memory */
void primitive_cache_free (PrimitiveCache *self);

/* The primitive kept under `key`, or NULL; valid until the next primitive_add. */
Primitive *primitive_find (Stream *s, const PrimitiveKey *key);

/* Makes the primitive of a oneDNN operation descriptor (dnnl_matmul_desc_t,
 * dnnl_convolution_desc_t) and keeps it under `key`, in the place of the one unused for longest.
 * accumulate: it adds to what its output holds. STATUS_UNSUPPORTED when oneDNN has no such kernel
 * for this processor. */
Status primitive_add (Stream *s, const PrimitiveKey *key, const void *descriptor, bool accumulate,
                      Primitive **out);

/* The layout that the primitive wants for an argument (DNNL_ARG_SRC, ...). */
const dnnl_memory_desc_t *primitive_layout (const Primitive *self, int arg);

/* Runs on the four arrays; bias may be NULL if the primitive has none. */
Status primitive_run (Stream *s, Primitive *self, const void *x, const void *weight,
                      const float *bias, void *out);

/* oneDNN's status as ours; `what` names the work in the stream's detail. */
Status primitive_status (Stream *s, dnnl_status_t status, const char *what);

/* out[M, N] = x[M, K] W^T + bias, out's rows `out_stride` floats apart. */
typedef struct
{
  int64_t m, n, k;
  int64_t out_stride;
  bool bf16; /* x and W are BF16; out and bias F32 in any case */
} Product;

/* x [m, k], weight [n, k], dense; bias [n] or NULL. */
Status cpu_product (Stream *s, const Product *product, const void *x, const void *weight,
                    const float *bias, float *out);
