/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/linear.h"

/* Best first; the CPU last. */
static const LinearBackend *const backends[] = {
#ifdef HAVE_CUDA
  &linear_cuda_bf16_sm90,
  &linear_cuda_bf16,
#endif
  &linear_cpu_svdq,
  &linear_cpu_dense,
};

const LinearBackend *
linear_choose (const DeviceCaps *caps, const StreamOptions *options, const SvdqFormat *svdq)
{
  for (guint i = 0; i < G_N_ELEMENTS (backends); i++)
    if (backends[i]->supports (caps, options, svdq))
      return backends[i];
  return NULL;
}

/* 4-bit integers in tensor cores: Turing to Ada. 4-bit floats: Blackwell of the desktop. A
 * processor has byte products for either, which NVFP4's small groups use up. */
static gboolean
is_native (const DeviceCaps *caps, SvdqFormat format)
{
  if (caps->kind == DEVICE_CPU)
    return TRUE;
  return format == SVDQ_INT4 ? caps->sm >= 75 && caps->sm < 90 : caps->sm / 10 == 12;
}

LinearSupport
linear_support (const DeviceCaps *caps, const StreamOptions *options, const SvdqFormat *svdq)
{
  const LinearBackend *backend = linear_choose (caps, options, svdq);
  LinearSupport out = { "", "none", "" };

  if (backend == NULL)
    return out;
  out.backend = backend->name;
  out.path = svdq == NULL || is_native (caps, *svdq) ? "native" : "fall-back";
  if (svdq == NULL || !is_native (caps, *svdq))
    out.speed = "similar";
  else
    out.speed = caps->kind == DEVICE_CPU && *svdq == SVDQ_NVFP4 ? "similar" : "faster";
  return out;
}

Status
linear_new (const Context *ctx, const LinearSource *source, Linear **out)
{
  const SvdqFormat *svdq = source->svdq != NULL ? &source->svdq->format : NULL;
  const LinearBackend *backend = linear_choose (ctx->caps, ctx->options, svdq);

  *out = NULL;
  if (backend == NULL)
    return STATUS_UNSUPPORTED;
  return backend->prepare_weights (ctx->stream, source, out);
}

void
linear_free (const Context *ctx, Linear *linear)
{
  if (linear != NULL)
    linear->backend->release (ctx->stream, linear);
}

Status
linear_apply (const Context *ctx, const Linear *linear, const Tensor *x, Tensor *out)
{
  const LinearObserver *observer = ctx->observer;

  if (context_is_dry (ctx))
    return STATUS_OK;
  if (observer != NULL && observer->before != NULL)
    observer->before (observer->user_data, linear, x);
  CHECK (linear->backend->apply (ctx->stream, linear, x, out));
  if (observer != NULL && observer->after != NULL)
    observer->after (observer->user_data, linear, out);
  return STATUS_OK;
}

Status
linear_apply_swiglu (const Context *ctx, const Linear *linear, const Tensor *x, Tensor *out)
{
  size_t mark = arena_mark (ctx->arena, ARENA_LOW);
  Tensor both;

  if (linear != NULL && linear->swiglu)
    return linear_apply (ctx, linear, x, out);

  /* On a dry context the layer is not known yet: the plan allows for the unfused way. */
  CHECK (arena_tensor (ctx->arena, &both, out->dtype, out->shape[0], 2 * out->shape[1], 0, 0));
  CHECK (linear_apply (ctx, linear, x, &both));
  CHECK (ctx->ops->silu_mul (ctx->stream, &both, out));
  arena_release (ctx->arena, ARENA_LOW, mark);
  return STATUS_OK;
}
