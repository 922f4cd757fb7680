/* SPDX-License-Identifier: Apache-2.0
 *
 * loader.h - brings a part's weights to the device
 *
 * The calls do nothing once one has failed, so a model's constructor reads as a list of what it
 * is made of; whoever made the Loader asks it in the end. On a dry context nothing is loaded:
 * tensors stay empty, linears have only a size, and what they would take is counted, from headers.
 */
#pragma once

#include "engine/checkpoint/checkpoint.h"
#include "engine/linear.h"

G_BEGIN_DECLS

/* What a part's weights take of the device, in bytes. */
typedef struct
{
  guint64 total;
  guint64 bundles, largest_bundle; /* of it, what a Shelf can take off the device */
  int n_bundles;
  guint64 loading;   /* besides, while the layer that needs most is loaded */
  guint64 workspace; /* working memory that its layers share */
} PartMemory;

typedef struct
{
  const Context *ctx;
  Weights *weights;  /* borrowed */
  gboolean resident; /* CPU: expand 16-bit weights into memory */
  gboolean shelved;  /* blocks go to a Shelf when they are loaded */
  const Ops *target; /* dry context: the device that is planned for */
  PartMemory memory; /* dry context: what has been counted */
  GError *error;     /* (owned) a missing or misshapen tensor */
  Status status;     /* what the device said */
} Loader;

/* TRUE once a call has failed, or the user has cancelled. */
gboolean loader_failed (const Loader *self);

/* A block's large linears, `bytes` in all, are one bundle. */
void loader_count_bundle (Loader *self, guint64 bytes);

/* A vector of n parameters as F32 on the device; the name is printf-style. */
void load_vector (Loader *self, Tensor *out, int64_t n, const char *format, ...)
    G_GNUC_PRINTF (4, 5);
/* A [1, n] row of the residual stream (pad tokens). */
void load_row (Loader *self, Tensor *out, int64_t n, const char *name);
void loader_free_tensor (const Context *ctx, Tensor *tensor); /* of the two above; may be empty */

/* The linear `prefix``name`.weight [n, k], with .bias [n] when `bias`; quantised when the weights
 * say so. NULL on failure. */
Linear *load_linear (Loader *self, const char *prefix, const char *name, int64_t n, int64_t k,
                     gboolean bias);
/* The same for one that reads a swiglu's product, without a bias. */
Linear *
load_after_swiglu (Loader *self, const char *prefix, const char *name, int64_t n, int64_t k);

/* Several linears stacked by rows into one: `names` ends with NULL, the i-th has rows[i] rows.
 * `fused` is the name of the quantised whole; swiglu: the rows are [w1; w3]. */
Linear *load_stacked (Loader *self, const char *prefix, const char *const *names, const char *fused,
                      const int64_t *rows, int64_t k, gboolean bias, gboolean swiglu);

/* The convolution `prefix``name` with weight [out, in, size, size] and bias [out]. */
Conv *load_conv (Loader *self, const char *prefix, const char *name, int64_t in, int64_t out,
                 int size, int stride, gboolean upsample);

G_END_DECLS
