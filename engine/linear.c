/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/linear.h"

#include "engine/lora/adapters.h"

/* A backend, and whether its products are of the file's own numbers in hardware. */
typedef struct
{
  const LinearBackend *backend;
  const char *path;
} Way;

/* Best first; the CPU last. */
static const Way ways[] = {
#ifdef HAVE_CUDA
  { &linear_cuda_bf16_sm90, "native" },
  { &linear_cuda_bf16, "native" },
  { &linear_cuda_f16, "native" },
  { &linear_cuda_svdq_sm90_fast, "fall-back" },
  { &linear_cuda_svdq_sm90_exact, "fall-back" },
  { &linear_cuda_svdq_int4, "native" },
  { &linear_cuda_svdq_int8, "fall-back" },
  { &linear_cuda_svdq_nvfp4, "native" },
  { &linear_cuda_svdq_nvfp4_fp16, "fall-back" },
#endif
  { &linear_cpu_svdq, "native" },
  { &linear_cpu_dense, "native" },
};

/* The same for weights in codes of 8 or 4 bit. */
static const LinearBackend *const coded_ways[] = {
#ifdef HAVE_CUDA
  &linear_cuda_codes,
#endif
  &linear_cpu_dense,
};

static const Way *
choose (const DeviceCaps *caps, const StreamOptions *options, const SvdqFormat *svdq)
{
  for (guint i = 0; i < G_N_ELEMENTS (ways); i++)
    if (ways[i].backend->supports (caps, options, svdq))
      return &ways[i];
  return NULL;
}

const LinearBackend *
linear_choose (const DeviceCaps *caps, const StreamOptions *options, const SvdqFormat *svdq)
{
  const Way *way = choose (caps, options, svdq);

  return way != NULL ? way->backend : NULL;
}

const LinearBackend *
linear_choose_coded (const DeviceCaps *caps, const StreamOptions *options)
{
  for (guint i = 0; i < G_N_ELEMENTS (coded_ways); i++)
    if (coded_ways[i]->supports (caps, options, NULL))
      return coded_ways[i];
  return NULL;
}

/* What runs this layer in this context; NULL if nothing does. */
static const LinearBackend *
choose_for (const Context *ctx, const LinearSource *source)
{
  if (source->code_bits != 0)
    return linear_choose_coded (ctx->caps, ctx->options);
  return linear_choose (ctx->caps, ctx->options,
                        source->svdq != NULL ? &source->svdq->format : NULL);
}

#ifdef HAVE_CUDA
/* Bytes run four times as fast as 16 bit on the Blackwell of the desktop, and expanding codes costs
 * little beside 16-bit products there and on Turing, Ampere and Ada. On data-centre cards 16-bit
 * products are too fast for either (measured on sm_90). */
static const char *
fall_back_speed (const LinearBackend *backend, int sm)
{
  gboolean desktop = sm != 80 && sm / 10 != 9 && sm / 10 != 10;

  if (!desktop)
    return "slower";
  return backend == &linear_cuda_svdq_int8 ? "faster" : "similar";
}
#endif

/* A processor has byte products for either format, which NVFP4's small groups use up. */
static const char *
speed_of (const Way *way, const DeviceCaps *caps, const SvdqFormat *svdq)
{
  if (svdq == NULL)
    return "similar";
  if (caps->kind == DEVICE_CPU)
    return *svdq == SVDQ_NVFP4 ? "similar" : "faster";
#ifdef HAVE_CUDA
  if (way->backend == &linear_cuda_svdq_sm90_exact)
    return "similar";
  if (way->backend == &linear_cuda_svdq_int8 || way->backend == &linear_cuda_svdq_nvfp4_fp16)
    return fall_back_speed (way->backend, caps->sm);
#endif
  return "faster";
}

LinearSupport
linear_support (const DeviceCaps *caps, const StreamOptions *options, const SvdqFormat *svdq)
{
  const Way *way = choose (caps, options, svdq);

  if (way == NULL)
    return (LinearSupport){ "", "none", "" };
  return (LinearSupport){ way->backend->name, way->path, speed_of (way, caps, svdq) };
}

const char *
linear_arithmetic (const char *backend)
{
  if (strstr (backend, "svdq") == NULL)
    return "";
  return g_str_equal (backend, "cuda-svdq-fp8-wgmma") ? "fast" : "exact";
}

/* As a file holds it, for a backend that does not say: weights as the device computes, or codes,
 * scales and low-rank factors. */
static uint64_t
stored_bytes (const Context *ctx, const LinearSource *source)
{
  uint64_t n = (uint64_t)source->n, k = (uint64_t)source->k;
  const SvdqSource *svdq = source->svdq;

  if (svdq == NULL)
    return n * k * dtype_size (ctx->activation);
  return n * k / 2 + (svdq->format == SVDQ_INT4 ? n * k / 32 : n * k / 16)
         + 2 * (n + k) * (uint64_t)svdq->rank + 2 * k;
}

LinearMemory
linear_measure (const Context *ctx, const LinearSource *source)
{
  const LinearBackend *backend = choose_for (ctx, source);
  LinearMemory out = { .swiglu = source->swiglu };

  if (backend != NULL && backend->measure != NULL)
    backend->measure (source, &out);
  else if (backend != NULL)
    out.weights = stored_bytes (ctx, source);
  return out;
}

/* A layer of a dry context: only what planning asks of it. base.backend is NULL. */
typedef struct
{
  Linear base;
  const LinearBackend *backend; /* NULL: nothing runs it */
  LinearSource source;          /* its shape */
  SvdqSource svdq;
} DryLinear;

static Linear *
new_dry (const Context *ctx, const LinearSource *source)
{
  LinearMemory memory = linear_measure (ctx, source);
  DryLinear *self = g_new0 (DryLinear, 1);

  self->base.n = source->n;
  self->base.k = source->k;
  self->base.bytes = self->base.memory_bytes = memory.weights;
  self->base.swiglu = source->swiglu && memory.swiglu;
  self->backend = choose_for (ctx, source);
  self->source = *source;
  if (source->svdq != NULL)
    {
      self->svdq = *source->svdq;
      self->source.svdq = &self->svdq;
    }
  return &self->base;
}

Status
linear_new (const Context *ctx, const LinearSource *source, Linear **out)
{
  const LinearBackend *backend = choose_for (ctx, source);

  *out = NULL;
  if (context_is_dry (ctx))
    {
      *out = new_dry (ctx, source);
      return STATUS_OK;
    }
  if (backend == NULL)
    return STATUS_UNSUPPORTED;
  CHECK (backend->prepare_weights (ctx->stream, source, out));
  (*out)->after_swiglu = source->after_swiglu;
  return STATUS_OK;
}

void
linear_free (const Context *ctx, Linear *linear)
{
  if (linear == NULL)
    return;
  if (linear->backend != NULL)
    linear->backend->release (ctx->stream, linear);
  else
    g_free (linear); /* of a dry context */
}

/* -- adapted layers -----------------------------------------------------------------------------
 */

static const LinearBackend *
backend_of (const Linear *linear)
{
  /* A dry layer without memory of its own is several that lie side by side. */
  if (linear->backend == NULL && linear->memory_bytes > 0)
    return ((const DryLinear *)linear)->backend;
  return linear->backend;
}

int64_t
linear_adapted_rank (const Linear *linear, int64_t ranks)
{
  const LinearBackend *backend = backend_of (linear);

  if (backend == NULL || backend->adapt == NULL)
    return 0;
  return (ranks + backend->adapt_unit - 1) / backend->adapt_unit * backend->adapt_unit;
}

LinearMemory
linear_measure_adapted (const Linear *linear, int64_t ranks)
{
  const DryLinear *dry = (const DryLinear *)linear;
  int64_t rank = linear_adapted_rank (linear, ranks);
  LinearMemory out = { 0 };

  if (rank > 0)
    dry->backend->measure_adapted (&dry->source, rank, &out);
  return out;
}

Status
linear_adapt (const Context *ctx, const Linear *base, const LowRankPair *pair, Linear **out)
{
  return base->backend->adapt (ctx->stream, base, pair, out);
}

/* -- layers side by side ------------------------------------------------------------------------
 */

typedef struct
{
  Linear base;
  int n_parts;
  Linear *parts[LINEAR_MAX_PARTS]; /* owned */
} StackedLinear;

static bool
stacked_supports (const DeviceCaps *caps, const StreamOptions *options, const SvdqFormat *svdq)
{
  return false; /* never chosen: only linear_stack makes one */
}

static Status
stacked_apply (Stream *s, const Linear *linear, const Tensor *x, Tensor *out)
{
  const StackedLinear *self = (const StackedLinear *)linear;
  int64_t first = 0;

  for (int i = 0; i < self->n_parts; i++)
    {
      const Linear *part = self->parts[i];

      CHECK (part->backend->apply_columns (s, part, x, first, out));
      first += part->n;
    }
  return STATUS_OK;
}

static void
stacked_release (Stream *s, Linear *linear)
{
  StackedLinear *self = (StackedLinear *)linear;

  if (self == NULL)
    return;
  for (int i = 0; i < self->n_parts; i++)
    self->parts[i]->backend->release (s, self->parts[i]);
  g_free (self);
}

static const LinearBackend linear_stacked = {
  .name = "stacked",
  .supports = stacked_supports,
  .apply = stacked_apply,
  .release = stacked_release,
};

Status
linear_stack (const Context *ctx, Linear *const *parts, int n_parts, Linear **out)
{
  StackedLinear *self = g_new0 (StackedLinear, 1);
  gboolean beside = TRUE;

  *out = NULL;
  self->base.backend = &linear_stacked;
  self->base.k = parts[0]->k;
  self->n_parts = n_parts;
  for (int i = 0; i < n_parts; i++)
    {
      self->parts[i] = parts[i];
      beside = beside && parts[i]->backend->apply_columns != NULL;
      self->base.n += parts[i]->n;
      self->base.bytes += parts[i]->bytes;
    }
  if (!beside)
    {
      stacked_release (ctx->stream, &self->base);
      return STATUS_UNSUPPORTED;
    }
  *out = &self->base;
  return STATUS_OK;
}

/* -- applying -----------------------------------------------------------------------------------
 */

Status
linear_apply (const Context *ctx, const Linear *linear, const Tensor *x, Tensor *out)
{
  const LinearObserver *observer = ctx->observer;
  const Linear *adapted = adapters_of (ctx, linear);

  if (context_is_dry (ctx))
    {
      if (ctx->stream != NULL)
        dry_work (ctx->stream)->linear
            += 2.0 * (double)x->shape[0] * (double)linear->n * (double)linear->k;
      return adapters_apply (ctx, linear, x, out);
    }
  if (observer != NULL && observer->before != NULL)
    observer->before (observer->user_data, linear, x);
  CHECK (adapted->backend->apply (ctx->stream, adapted, x, out));
  if (adapted == linear)
    CHECK (adapters_apply (ctx, linear, x, out));
  if (observer != NULL && observer->after != NULL)
    observer->after (observer->user_data, linear, out);
  return STATUS_OK;
}

/* Of an F32 stream beside F16 activations, reading would cost what is spared in writing. */
Tensor
linear_normed (const Context *ctx, const Linear *linear, const Tensor *a)
{
  Tensor factors = tensor_1d (DTYPE_F32, a->data, a->shape[1] + a->shape[0]);

  if (context_is_dry (ctx) || ctx->observer != NULL || ctx->residual != ctx->activation
      || adapters_add (ctx, linear) || adapters_of (ctx, linear)->backend->apply_normed == NULL
      || tensor_bytes (&factors) > tensor_bytes (a))
    return *a;
  return factors;
}

Status
linear_apply_normed (const Context *ctx, const Linear *linear, const Tensor *x, const Tensor *a,
                     const HeadNorm *heads, Tensor *out)
{
  const Linear *adapted = adapters_of (ctx, linear);
  Tensor normed = linear_normed (ctx, linear, a);

  if (normed.rank != a->rank)
    return adapted->backend->apply_normed (ctx->stream, adapted, x, &normed, heads, out);
  if (heads != NULL)
    return linear_apply_heads (ctx, linear, a, heads, out);
  if (tensor_count (out) < x->shape[0] * linear->n)
    return linear_apply_swiglu (ctx, linear, a, out);
  return linear_apply (ctx, linear, a, out);
}

Status
linear_apply_heads (const Context *ctx, const Linear *linear, const Tensor *x, const HeadNorm *norm,
                    Tensor *qkv)
{
  const Linear *adapted = adapters_of (ctx, linear);
  Tensor flat = tensor_2d (qkv->dtype, qkv->data, qkv->shape[0], linear->n);

  /* What the linear itself gives is nowhere then. */
  if (!context_is_dry (ctx) && adapted->backend->apply_heads != NULL && ctx->observer == NULL
      && !adapters_add (ctx, linear))
    return adapted->backend->apply_heads (ctx->stream, adapted, x, norm, qkv);

  CHECK (linear_apply (ctx, linear, x, &flat));
  return ctx->ops->qk_norm_rope (ctx->stream, qkv, norm->n_q, norm->n_kv, norm->q_weight,
                                 norm->k_weight, norm->eps, norm->table, norm->pairing);
}

Status
linear_apply_swiglu (const Context *ctx, const Linear *linear, const Tensor *x, Tensor *out)
{
  size_t mark = arena_mark (ctx->arena, ARENA_LOW);
  Tensor both;

  if (linear->swiglu && !adapters_add (ctx, linear))
    return linear_apply (ctx, linear, x, out);

  CHECK (arena_tensor (ctx->arena, &both, out->dtype, out->shape[0], 2 * out->shape[1], 0, 0));
  CHECK (linear_apply (ctx, linear, x, &both));
  CHECK (ctx->ops->silu_mul (ctx->stream, &both, linear->swiglu ? linear->turn : 0, out));
  arena_release (ctx->arena, ARENA_LOW, mark);
  return STATUS_OK;
}
