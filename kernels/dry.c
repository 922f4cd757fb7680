/* SPDX-License-Identifier: Apache-2.0
 *
 * Ops that do nothing. The engine's arena counts while its code runs on this table, so a request's
 * memory is known before anything is loaded. A Stream of it, where there is one, adds up the work.
 */
#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>

struct Stream
{
  DryWork work;
};

DryWork *
dry_work (Stream *s)
{
  return &s->work;
}

static Status
dry_query (int index, DeviceCaps *caps)
{
  memset (caps, 0, sizeof *caps);
  return STATUS_OK;
}

static Status
dry_open (int index, const StreamOptions *options, Stream **out)
{
  *out = calloc (1, sizeof **out);
  return *out != NULL ? STATUS_OK : STATUS_NO_MEMORY;
}

static void
dry_close (Stream *s)
{
  free (s);
}

static void
dry_trim (Stream *s)
{
}

static Status
dry_wait (Stream *s)
{
  return STATUS_OK;
}

static Status
dry_alloc (Stream *s, size_t bytes, void **out)
{
  *out = NULL;
  return STATUS_OK;
}

static void
dry_free (Stream *s, void *memory)
{
}

static uint64_t
dry_allocated (Stream *s)
{
  return 0;
}

static void
dry_set_budget (Stream *s, uint64_t bytes)
{
}

static uint64_t
dry_peak (Stream *s, bool restart)
{
  return 0;
}

static Status
dry_upload (Stream *s, const Tensor *host, Tensor *device)
{
  return STATUS_OK;
}

static Status
dry_download (Stream *s, const Tensor *device, Tensor *host)
{
  return STATUS_OK;
}

static const char *
dry_detail (Stream *s)
{
  return "";
}

static Status
dry_rms_norm (Stream *s, const Tensor *x, const Tensor *weight, const Tensor *scale, float eps,
              Tensor *out)
{
  return STATUS_OK;
}

static Status
dry_residual_norm (Stream *s, Tensor *x, const Tensor *y, const Tensor *post, const Tensor *gate,
                   const Tensor *next, const Tensor *scale, float eps, Tensor *out)
{
  return STATUS_OK;
}

static Status
dry_layer_norm (Stream *s, const Tensor *x, const Tensor *scale, float eps, Tensor *out)
{
  return STATUS_OK;
}

static Status
dry_qk_norm_rope (Stream *s, Tensor *qkv, int n_q, int n_kv, const Tensor *q_weight,
                  const Tensor *k_weight, float eps, const Tensor *table, RopePairing pairing)
{
  return STATUS_OK;
}

static Status
dry_attention (Stream *s, const Tensor *qkv, int n_q, int n_kv, bool causal, Tensor *out)
{
  double m = (double)qkv->shape[0], d = (double)qkv->shape[2];

  if (s != NULL)
    s->work.attention += (causal ? 2.0 : 4.0) * m * m * d * n_q;
  return STATUS_OK;
}

static Status
dry_map (Stream *s, const Tensor *x, Tensor *out)
{
  return STATUS_OK;
}

static Status
dry_silu_mul (Stream *s, const Tensor *x, int turn, Tensor *out)
{
  return STATUS_OK;
}

static Status
dry_group_norm (Stream *s, const Tensor *x, const Tensor *weight, const Tensor *bias, int groups,
                float eps, bool silu, Tensor *out)
{
  return STATUS_OK;
}

static Status
dry_group_moments (Stream *s, const Tensor *x, int groups, float eps, Tensor *moments)
{
  return STATUS_OK;
}

static Status
dry_group_norm_by (Stream *s, const Tensor *x, const Tensor *moments, const Tensor *weight,
                   const Tensor *bias, bool silu, Tensor *out)
{
  return STATUS_OK;
}

static Status
dry_conv_prepare (Stream *s, const ConvSource *source, Conv **out)
{
  *out = NULL;
  return STATUS_OK;
}

static uint64_t
dry_conv_bytes (const ConvSource *source)
{
  return 0;
}

static Status
dry_conv2d (Stream *s, const Conv *conv, const Tensor *x, const Tensor *residual, Tensor *out)
{
  /* Of a layer that is not there the size is not known: 3x3, as all but a few small ones are. */
  if (s != NULL)
    s->work.conv += 18.0 * (double)tensor_count (out) * (double)x->shape[2];
  return STATUS_OK;
}

static void
dry_conv_release (Stream *s, Conv *conv)
{
}

const Ops ops_dry = {
  .name = "dry",
  .query = dry_query,
  .open = dry_open,
  .close = dry_close,
  .wait = dry_wait,
  .alloc = dry_alloc,
  .free = dry_free,
  .allocated = dry_allocated,
  .peak = dry_peak,
  .set_budget = dry_set_budget,
  .upload = dry_upload,
  .download = dry_download,
  .copy = dry_map,
  .detail = dry_detail,
  .trim = dry_trim,
  .rms_norm = dry_rms_norm,
  .residual_norm = dry_residual_norm,
  .layer_norm = dry_layer_norm,
  .qk_norm_rope = dry_qk_norm_rope,
  .attention = dry_attention,
  .silu_mul = dry_silu_mul,
  .silu = dry_map,
  .modulation = dry_map,
  .one_plus = dry_map,
  .fill_rows = dry_map,
  .group_norm = dry_group_norm,
  .group_moments = dry_group_moments,
  .group_norm_by = dry_group_norm_by,
  .conv_prepare = dry_conv_prepare,
  .conv_bytes = dry_conv_bytes,
  .conv2d = dry_conv2d,
  .conv_release = dry_conv_release,
};
