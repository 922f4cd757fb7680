/* SPDX-License-Identifier: Apache-2.0
 *
 * context.h - what every stage of the pipeline is handed: where to compute, where to put it
 */
#pragma once

#include "engine/memory/arena.h"

#include <gio/gio.h>

G_BEGIN_DECLS

/* Sees what passes through the linear layers: calibration, and where the time goes. */
typedef struct
{
  void (*before) (gpointer user_data, const Linear *linear, const Tensor *x);  /* may be NULL */
  void (*after) (gpointer user_data, const Linear *linear, const Tensor *out); /* may be NULL */
  gpointer user_data;
} LinearObserver;

typedef struct _Adapters Adapters; /* see adapters.h */

typedef struct
{
  const Ops *ops;         /* &ops_dry while planning */
  Stream *stream;         /* NULL while planning */
  DType activation;       /* what the device stores activations in, also while planning */
  DType residual;         /* and the residual stream, with what is added to it */
  Arena *arena;           /* activations of the phase that runs */
  const DeviceCaps *caps; /* of the device, also while planning */
  const StreamOptions *options;
  GCancellable *cancellable;      /* may be NULL; asked between blocks */
  const LinearObserver *observer; /* NULL: nobody watches */
  const Adapters *adapters;       /* added to what linear layers give; NULL: none */
} Context;

/* TRUE while memory is only being counted: tensors have no data, weights are not there. */
static inline gboolean
context_is_dry (const Context *ctx)
{
  return ctx->ops == &ops_dry;
}

/* STATUS_CANCELLED if the user has asked to stop. */
static inline Status
context_check_cancelled (const Context *ctx)
{
  return g_cancellable_is_cancelled (ctx->cancellable) ? STATUS_CANCELLED : STATUS_OK;
}

G_END_DECLS
