/* SPDX-License-Identifier: Apache-2.0
 *
 * SVDQuant linears on sm_90, fast and exact: what they keep, and the two steps of a product.
 */
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/low_rank.h"
#include "kernels/cuda/svdq_sm90.h"

#include <stdlib.h>

#define TURN_ROWS    128 /* of a tile of gemm_turns_sm90 */
#define TURN_COLUMNS 160

typedef struct
{
  Linear base;
  bool exact, joined;
  SvdqFormat format;
  int rank;
  bool has_bias;

  /* All in base.memory. */
  void *weights;    /* E4M3 [n, k], or svdq_codes_pack */
  float *w_scale;   /* [n] */
  void *up, *down;  /* the low-rank branch; NULL without */
  uint16_t *smooth; /* [k] BF16 */
  void *inverse;    /* svdq_split_inverse, 4 k bytes */
  float *bias;      /* [n] or NULL */
} HopperLinear;

/* -- memory -------------------------------------------------------------------------------------
 */

/* The low-rank branch: the layer's own, or of an adapted one both together, in the workspace. */
static void
place_factors (HopperLinear *l, void *memory, size_t *at)
{
  const size_t n = (size_t)l->base.n, k = (size_t)l->base.k, rank = (size_t)l->rank;
  l->up = device_place (memory, at, n * (l->exact ? rank : LOW_RANK_PITCH (rank)) * sizeof (bf16));
  l->down = device_place (memory, at, k * rank * sizeof (bf16));
}

static size_t
place_parts (HopperLinear *l, void *memory)
{
  const size_t n = (size_t)l->base.n, k = (size_t)l->base.k;
  size_t at = 0;
  l->weights = device_place (memory, &at, l->exact ? svdq_codes_bytes (l->format, n, k) : n * k);
  l->w_scale = (float *)device_place (memory, &at, n * sizeof (float));
  place_factors (l, memory, &at);
  l->smooth = (uint16_t *)device_place (memory, &at, k * sizeof (bf16));
  l->inverse = device_place (memory, &at, l->exact ? k * 4 : 0);
  l->bias = (float *)device_place (memory, &at, l->has_bias ? n * sizeof (float) : 0);
  return at;
}

/* Quantised rows, in the workspace. */
typedef struct
{
  void *codes, *low;
  float *scale;
} Rows;

static size_t
place_rows (const HopperLinear *l, int64_t m, void *memory, Rows *rows)
{
  const size_t numbers = (size_t)m * l->base.k;
  size_t at = 0;
  rows->codes = device_place (memory, &at, numbers * (l->exact ? 2 : 1));
  rows->low = device_place (memory, &at, (size_t)m * LOW_RANK_PITCH (l->rank) * sizeof (bf16));
  rows->scale = (float *)device_place (memory, &at, (size_t)m * sizeof (float));
  return at;
}

static HopperLinear
describe (const LinearSource *source, bool exact)
{
  HopperLinear l = {};
  linear_describe (&l.base, source,
                   exact ? &linear_cuda_svdq_sm90_exact : &linear_cuda_svdq_sm90_fast);
  l.exact = exact;
  l.format = source->svdq->format;
  l.rank = source->svdq->rank;
  l.has_bias = source->bias.data != NULL;
  return l;
}

static size_t
workspace_bytes (const HopperLinear *l)
{
  Rows rows;
  return place_rows (l, SVDQ_SLAB_ROWS, NULL, &rows);
}

static void
measure (const LinearSource *source, bool exact, LinearMemory *out)
{
  SvdqWeights w;
  HopperLinear l = describe (source, exact);
  svdq_weights_measure (source, &w, out);
  out->loading += out->weights;
  out->weights = place_parts (&l, NULL);
  out->workspace = workspace_bytes (&l);
}

static void
move (Linear *linear, void *memory)
{
  linear->memory = memory;
  place_parts ((HopperLinear *)linear, memory);
}

/* -- loading ------------------------------------------------------------------------------------
 */

static Status
copy_part (Stream *s, void *to, const void *from, size_t bytes)
{
  if (bytes > 0)
    CUDA_CHECK (s, cudaMemcpyAsync (to, from, bytes, cudaMemcpyDeviceToDevice, s->compute));
  return STATUS_OK;
}

/* From the canonical weights to this layer's own. */
static Status
convert (Stream *s, const SvdqWeights *w, const HopperLinear *l)
{
  CHECK (l->exact ? svdq_codes_pack (s, w, l->weights, l->w_scale, l->up)
                  : svdq_transcode_e4m3 (s, w, l->weights, l->w_scale, l->up, l->smooth));
  CHECK (svdq_low_rank_fragments (s, w->proj_down, w->k, w->rank, l->down));
  if (l->exact)
    {
      CHECK (copy_part (s, l->smooth, w->smooth, (size_t)w->k * sizeof (bf16)));
      CHECK (svdq_split_inverse (s, w->inverse, w->k, l->inverse));
    }
  if (l->has_bias)
    CHECK (copy_part (s, l->bias, w->bias, (size_t)w->n * sizeof (float)));
  return cuda_wait (s);
}

static void
release (Stream *s, Linear *linear)
{
  if (linear == NULL)
    return;
  if (linear->of != NULL)
    return low_rank_release (s, linear);
  HopperLinear *l = (HopperLinear *)linear;
  stream_free (s, linear->memory);
  if (l->joined)
    stream_workspace_leave (s);
  free (l);
}

static Status
prepare (Stream *s, const LinearSource *source, bool exact, Linear **out)
{
  *out = NULL;
  REQUIRE (s, source->svdq != NULL && source->k <= SVDQ_SM90_MOST_K);
  HopperLinear *l = (HopperLinear *)malloc (sizeof *l);
  if (l == NULL)
    return STATUS_NO_MEMORY;
  *l = describe (source, exact);
  l->base.bytes = l->base.memory_bytes = place_parts (l, NULL);

  SvdqWeights w = {};
  Status status = svdq_weights_load (s, source, &w);
  if (status == STATUS_OK)
    status = stream_alloc (s, l->base.memory_bytes, &l->base.memory);
  if (status == STATUS_OK)
    {
      place_parts (l, l->base.memory);
      status = convert (s, &w, l);
    }
  svdq_weights_free (s, &w);
  if (status == STATUS_OK)
    status = stream_workspace_join (s, workspace_bytes (l));
  l->joined = status == STATUS_OK;
  if (status == STATUS_OK)
    *out = &l->base;
  else
    release (s, &l->base);
  return status;
}

/* -- adapted layers -----------------------------------------------------------------------------
 */

/* Ranks that are added: what quantising takes, with the layer's own. */
#define MOST_ADDED 256

static size_t
adapted_workspace (const HopperLinear *of, int64_t rank)
{
  HopperLinear l = *of;
  size_t at = 0;
  l.rank += (int)rank;
  place_factors (&l, NULL, &at);
  return at + workspace_bytes (&l);
}

static void
measure_adapted (const LinearSource *source, bool exact, int64_t rank, LinearMemory *out)
{
  const HopperLinear of = describe (source, exact);
  out->weights = rank <= MOST_ADDED ? low_rank_bytes (source->n, source->k, rank) : 0;
  out->loading = out->weights;
  out->workspace = adapted_workspace (&of, rank);
  out->swiglu = source->swiglu;
}

/* The factors of an adapted layer, as they came, into the order of the own ones; but up of a fast
 * layer stays. `copy`: room for both. */
static Status
order_added (Stream *s, const Linear *adapted, char *copy)
{
  const LowRank added = low_rank_of (adapted);
  const int rank = (int)added.rank;
  const ptrdiff_t to_up = (char *)added.up - (char *)added.down;
  CHECK (copy_part (s, copy, added.down, adapted->bytes));
  CHECK (svdq_low_rank_fragments (s, copy, adapted->k, rank, added.down));
  if (((const HopperLinear *)adapted->of)->exact)
    CHECK (svdq_up_fragments (s, copy + to_up, adapted->n, rank, added.up));
  return cuda_wait (s);
}

static Status
adapt (Stream *s, const Linear *base, const LowRankPair *pair, Linear **out)
{
  const HopperLinear *of = (const HopperLinear *)base;
  const int64_t rank = pair->down.shape[0];
  void *copy = NULL;
  *out = NULL;
  REQUIRE (s, rank <= MOST_ADDED);
  CHECK (low_rank_adapt (s, base, pair, adapted_workspace (of, rank), out));
  Status status = stream_alloc (s, (*out)->bytes, &copy);
  if (status == STATUS_OK)
    status = order_added (s, *out, (char *)copy);
  stream_free (s, copy);
  if (status != STATUS_OK)
    {
      low_rank_release (s, *out);
      *out = NULL;
    }
  return status;
}

/* -- running ------------------------------------------------------------------------------------
 */

/* The layer as products take it: of an adapted one the weights of `of`, with both pairs of factors
 * laid together at the begin of the workspace. Gives the bytes there. */
static Status
resolve (Stream *s, const Linear *linear, HopperLinear *out, size_t *used)
{
  const HopperLinear *l = (const HopperLinear *)(linear->of != NULL ? linear->of : linear);
  const LowRank added = low_rank_of (linear);
  const int rank = (int)added.rank;
  const int64_t n = linear->n, k = linear->k;
  *out = *l;
  *used = 0;
  if (rank == 0)
    return STATUS_OK;
  out->rank += rank;
  place_factors (out, s->workspace, used);
  CHECK (low_rank_join (s, l->down, SVDQ_FRAGMENT_BYTES (l->rank), added.down,
                        SVDQ_FRAGMENT_BYTES (rank), k / 64, out->down));
  return l->exact ? low_rank_join (s, l->up, SVDQ_FRAGMENT_BYTES (l->rank), added.up,
                                   SVDQ_FRAGMENT_BYTES (rank), n / 64, out->up)
                  : svdq_join_scaled (s, l->up, l->rank, added.up, rank, l->w_scale, n, out->up);
}

static Status
multiply (Stream *s, const HopperLinear *l, const Rows *rows, int64_t m, bf16 *y, int64_t stride,
          bool swiglu)
{
  const Linear *base = &l->base;
  if (l->exact)
    {
      const CodesGemm g
          = { l->format,  rows->codes, l->weights, l->format == SVDQ_INT4 ? rows->scale : NULL,
              l->w_scale, rows->low,   l->up,      l->bias,
              y,          stride,      m,          base->n,
              base->k,    l->rank,     swiglu };
      return gemm_codes_sm90 (s, &g, -1);
    }
  const ScaledGemm g = { { rows->codes, l->weights, l->bias, y, m, base->n, base->k, swiglu, false,
                           false, NULL, NULL, 0 },
                         rows->scale,
                         l->w_scale,
                         rows->low,
                         l->up,
                         l->rank,
                         stride };
  /* Warpgroups in turn need a tile each, on every multiprocessor. */
  const int64_t tiles = CEIL_DIV (m, TURN_ROWS) * CEIL_DIV (base->n, TURN_COLUMNS);
  return tiles >= 2 * s->caps.multiprocessors ? gemm_turns_sm90 (s, &g, -1)
                                              : gemm_e4m3_sm90 (s, &g, -1);
}

static SvdqCodes
codes_of (const HopperLinear *l)
{
  if (!l->exact)
    return SVDQ_CODES_E4M3;
  return l->format == SVDQ_INT4 ? SVDQ_CODES_INT4_F16 : SVDQ_CODES_NVFP4_F16;
}

static Status
apply_columns (Stream *s, const Linear *linear, const Tensor *x, int64_t first, Tensor *out)
{
  const int64_t m = tensor_count (x) / linear->k;
  REQUIRE (s, x->dtype == DTYPE_BF16 && out->dtype == DTYPE_BF16);
  REQUIRE (s, m >= 1 && m * linear->k == tensor_count (x) && tensor_count (out) % m == 0);
  const int64_t stride = tensor_count (out) / m;
  const bool swiglu = linear->swiglu && stride == linear->n / 2;
  REQUIRE (s, first >= 0 && first % 8 == 0 && stride % 8 == 0);
  REQUIRE (s, first + (swiglu ? linear->n / 2 : linear->n) <= stride);

  HopperLinear resolved, *l = &resolved;
  size_t used;
  CHECK (resolve (s, linear, l, &used));
  char *memory = (char *)s->workspace + used;
  const int64_t slabs = CEIL_DIV (m, SVDQ_SLAB_ROWS), most = CEIL_DIV (m, slabs);
  for (int64_t row = 0; row < m; row += most)
    {
      const int64_t count = m - row < most ? m - row : most;
      Rows rows;
      place_rows (l, count, memory, &rows);
      const SvdqQuantise q = { codes_of (l),
                               (int)count,
                               (int)linear->k,
                               l->rank,
                               (const bf16 *)x->data + row * linear->k,
                               l->inverse,
                               l->smooth,
                               l->down,
                               rows.codes,
                               rows.scale,
                               rows.low };
      CHECK (svdq_quantise_sm90 (s, &q));
      CHECK (
          multiply (s, l, &rows, count, (bf16 *)out->data + row * stride + first, stride, swiglu));
    }
  return STATUS_OK;
}

/* -- the two backends ---------------------------------------------------------------------------
 */

static bool
supports (const DeviceCaps *caps, const StreamOptions *options, const SvdqFormat *svdq, bool exact)
{
  return caps->kind == DEVICE_CUDA && caps->sm == WGMMA_SM && svdq != NULL
         && (options != NULL && options->exact) == exact;
}

static bool
supports_fast (const DeviceCaps *caps, const StreamOptions *options, const SvdqFormat *svdq)
{
  return supports (caps, options, svdq, false);
}

static bool
supports_exact (const DeviceCaps *caps, const StreamOptions *options, const SvdqFormat *svdq)
{
  return supports (caps, options, svdq, true);
}

static Status
prepare_fast (Stream *s, const LinearSource *source, Linear **out)
{
  return prepare (s, source, false, out);
}

static Status
prepare_exact (Stream *s, const LinearSource *source, Linear **out)
{
  return prepare (s, source, true, out);
}

static void
measure_fast (const LinearSource *source, LinearMemory *out)
{
  measure (source, false, out);
}

static void
measure_exact (const LinearSource *source, LinearMemory *out)
{
  measure (source, true, out);
}

static void
measure_adapted_fast (const LinearSource *source, int64_t rank, LinearMemory *out)
{
  measure_adapted (source, false, rank, out);
}

static void
measure_adapted_exact (const LinearSource *source, int64_t rank, LinearMemory *out)
{
  measure_adapted (source, true, rank, out);
}

const LinearBackend linear_cuda_svdq_sm90_fast = {
  "cuda-svdq-fp8-wgmma",
  false,
  supports_fast,
  prepare_fast,
  svdq_linear_apply,
  release,
  apply_columns,
  move,
  measure_fast,
  adapt,
  16,
  measure_adapted_fast,
  NULL,
  NULL,
};

const LinearBackend linear_cuda_svdq_sm90_exact = {
  "cuda-svdq-fp16-wgmma",
  false,
  supports_exact,
  prepare_exact,
  svdq_linear_apply,
  release,
  apply_columns,
  move,
  measure_exact,
  adapt,
  16,
  measure_adapted_exact,
  NULL,
  NULL,
};
