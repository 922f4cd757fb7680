/* SPDX-License-Identifier: Apache-2.0
 *
 * SVDQuant linears: what every path has in common. A path brings its product.
 */
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/low_rank.h"
#include "kernels/cuda/ops.cuh"
#include "kernels/cuda/svdq.h"

#include <stdlib.h>

typedef struct
{
  Linear base;
  SvdqWeights weights;
  SvdqProduct product;
  bool joined; /* counts as a user of the workspace */
} SvdqLinear;

void
svdq_linear_release (Stream *s, Linear *linear)
{
  if (linear == NULL)
    return;
  if (linear->of != NULL)
    return low_rank_release (s, linear);
  SvdqLinear *l = (SvdqLinear *)linear;
  svdq_weights_free (s, &l->weights);
  if (l->joined)
    stream_workspace_leave (s);
  free (l);
}

void
svdq_linear_move (Linear *linear, void *memory)
{
  linear->memory = memory;
  svdq_weights_move (&((SvdqLinear *)linear)->weights, memory);
}

void
svdq_linear_measure (const LinearSource *source, LinearMemory *out)
{
  SvdqWeights w;
  svdq_weights_measure (source, &w, out);
  out->workspace = svdq_activations_bytes (&w, SVDQ_SLAB_ROWS);
}

Status
svdq_linear_prepare (Stream *s, const LinearSource *source, const LinearBackend *backend,
                     SvdqProduct product, Linear **out)
{
  *out = NULL;
  SvdqLinear *l = (SvdqLinear *)calloc (1, sizeof *l);
  if (l == NULL)
    return STATUS_NO_MEMORY;
  linear_describe (&l->base, source, backend);
  l->product = product;
  Status status = svdq_weights_load (s, source, &l->weights);
  l->base.memory = l->weights.memory;
  l->base.bytes = l->base.memory_bytes = l->weights.bytes;
  if (status == STATUS_OK)
    status = stream_workspace_join (s, svdq_activations_bytes (&l->weights, SVDQ_SLAB_ROWS));
  l->joined = status == STATUS_OK;
  if (status == STATUS_OK)
    *out = &l->base;
  else
    svdq_linear_release (s, &l->base);
  return status;
}

/* -- adapted layers -----------------------------------------------------------------------------
 */

static size_t
adapted_workspace (SvdqWeights w, int64_t rank)
{
  w.rank += (int)rank;
  return low_rank_bytes (w.n, w.k, w.rank) + svdq_activations_bytes (&w, SVDQ_SLAB_ROWS);
}

void
svdq_linear_measure_adapted (const LinearSource *source, int64_t rank, LinearMemory *out)
{
  SvdqWeights w;
  svdq_weights_measure (source, &w, out);
  out->weights = low_rank_bytes (source->n, source->k, rank);
  out->loading = 0;
  out->workspace = adapted_workspace (w, rank);
}

Status
svdq_linear_adapt (Stream *s, const Linear *base, const LowRankPair *pair, Linear **out)
{
  const size_t workspace
      = adapted_workspace (((const SvdqLinear *)base)->weights, pair->down.shape[0]);
  return low_rank_adapt (s, base, pair, workspace, out);
}

/* -- running ------------------------------------------------------------------------------------
 */

/* Slabs of one height, so that none is left with few rows. */
static int64_t
slab_rows (int64_t m)
{
  const int64_t even = CEIL_DIV (m, CEIL_DIV (m, SVDQ_SLAB_ROWS));
  return CEIL_DIV (even, SVDQ_PITCH) * SVDQ_PITCH;
}

/* The weights as products take them: of an adapted layer those of `of`, with both pairs of factors
 * laid together at the begin of the workspace. Gives the bytes there. */
static Status
resolve (Stream *s, const Linear *linear, SvdqWeights *out, size_t *used)
{
  const SvdqWeights *w = &((const SvdqLinear *)(linear->of != NULL ? linear->of : linear))->weights;
  const LowRank added = low_rank_of (linear);
  const size_t own_bytes = (size_t)w->rank * 2, bytes = (size_t)added.rank * 2; /* of an n, a k */
  *out = *w;
  *used = 0;
  if (added.rank == 0)
    return STATUS_OK;
  const LowRank both = low_rank_at (s->workspace, w->k, w->rank + added.rank);
  *used = low_rank_bytes (w->n, w->k, both.rank);
  out->rank = (int)both.rank;
  out->proj_down = (uint16_t *)both.down;
  out->proj_up = (uint16_t *)both.up;
  CHECK (low_rank_join (s, w->proj_down, own_bytes * w->k, added.down, bytes * w->k, 1, both.down));
  return low_rank_join (s, w->proj_up, own_bytes, added.up, bytes, w->n, both.up);
}

/* Rows of x from `row` on; times `factors`, unless NULL. */
static Status
quantise (Stream *s, const SvdqWeights *w, const Tensor *x, const float *factors, int64_t row,
          const SvdqActivations *a)
{
  const char *rows = (const char *)x->data + row * w->k * dtype_size (x->dtype);
  return factors != NULL ? svdq_quantise_normed (s, w, rows, factors + w->k + row, factors, a)
                         : svdq_quantise (s, w, rows, a);
}

/* `heads`: of the first row; NULL: none. */
static Status
run (Stream *s, const Linear *linear, bool swiglu, const Tensor *x, const float *factors,
     int64_t first, const SvdqHeads *heads, Tensor *out)
{
  const int64_t m = tensor_count (x) / linear->k, stride = tensor_count (out) / m;
  const size_t item = dtype_size (out->dtype);
  const bool wide = out->dtype != x->dtype;
  const int64_t most = slab_rows (m);
  const SvdqLinear *l = (const SvdqLinear *)(linear->of != NULL ? linear->of : linear);
  SvdqWeights w;
  size_t used;
  CHECK (resolve (s, linear, &w, &used));
  w.swiglu = swiglu;
  for (int64_t row = 0; row < m; row += most)
    {
      const int64_t rows = m - row < most ? m - row : most;
      const SvdqActivations a = svdq_activations_in (&w, rows, (char *)s->workspace + used);
      char *y = (char *)out->data + (row * stride + first) * item;
      SvdqHeads slab = heads != NULL ? *heads : SvdqHeads{};
      if (heads != NULL)
        slab.table += row * SVDQ_HEAD;
      const SvdqGemm g = { &w, &a, y, stride, wide, heads != NULL ? &slab : NULL };
      CHECK (quantise (s, &w, x, factors, row, &a));
      CHECK (l->product (s, &g));
    }
  return STATUS_OK;
}

static Status
apply (Stream *s, const Linear *linear, const Tensor *x, const float *factors, int64_t first,
       Tensor *out)
{
  const int64_t m = tensor_count (x) / linear->k;
  const bool swiglu = linear->swiglu && tensor_count (out) == m * linear->n / 2;
  const int64_t columns = swiglu ? linear->n / 2 : linear->n;
  REQUIRE (s, x->dtype == device_activation (&s->caps));
  REQUIRE (s, out->dtype == x->dtype || (out->dtype == device_residual (&s->caps) && !swiglu));
  REQUIRE (s, m >= 1 && m * linear->k == tensor_count (x));
  REQUIRE (s, tensor_count (out) % m == 0 && first >= 0 && first % 8 == 0);
  const int64_t stride = tensor_count (out) / m;
  REQUIRE (s, stride % 8 == 0 && first + columns <= stride);
  return run (s, linear, swiglu, x, factors, first, NULL, out);
}

Status
svdq_linear_apply_columns (Stream *s, const Linear *linear, const Tensor *x, int64_t first,
                           Tensor *out)
{
  return apply (s, linear, x, NULL, first, out);
}

Status
svdq_linear_apply (Stream *s, const Linear *linear, const Tensor *x, Tensor *out)
{
  REQUIRE (s, linear_fits (linear, tensor_count (x) / linear->k, out));
  return linear->backend->apply_columns (s, linear, x, 0, out);
}

static bool
is_vector (const Tensor *t, int64_t count)
{
  return t->dtype == DTYPE_F32 && tensor_count (t) == count;
}

static Status
apply_heads (Stream *s, const Linear *linear, const Tensor *x, const float *factors,
             const HeadNorm *norm, Tensor *qkv)
{
  const int64_t m = tensor_count (x) / linear->k;
  const int64_t columns = ((int64_t)norm->n_q + 2 * (int64_t)norm->n_kv) * SVDQ_HEAD;
  if (norm->pairing != ROPE_INTERLEAVED || linear->n != columns)
    {
      CHECK (apply (s, linear, x, factors, 0, qkv));
      return cuda_qk_norm_rope (s, qkv, norm->n_q, norm->n_kv, norm->q_weight, norm->k_weight,
                                norm->eps, norm->table, norm->pairing);
    }
  REQUIRE (s, x->dtype == device_activation (&s->caps) && qkv->dtype == x->dtype);
  REQUIRE (s, m >= 1 && m * linear->k == tensor_count (x) && m * columns == tensor_count (qkv));
  REQUIRE (s, is_vector (norm->q_weight, SVDQ_HEAD) && is_vector (norm->k_weight, SVDQ_HEAD));
  REQUIRE (s, is_vector (norm->table, m * SVDQ_HEAD));
  const SvdqHeads heads = { (const float *)norm->q_weight->data,
                            (const float *)norm->k_weight->data,
                            (const float *)norm->table->data,
                            norm->eps,
                            norm->n_q,
                            norm->n_kv };
  return run (s, linear, false, x, factors, 0, &heads, qkv);
}

Status
svdq_linear_apply_heads (Stream *s, const Linear *linear, const Tensor *x, const HeadNorm *norm,
                         Tensor *qkv)
{
  return apply_heads (s, linear, x, NULL, norm, qkv);
}

Status
svdq_linear_apply_normed (Stream *s, const Linear *linear, const Tensor *x, const Tensor *factors,
                          const HeadNorm *heads, Tensor *out)
{
  const int64_t m = tensor_count (x) / linear->k;
  const float *by = (const float *)factors->data;
  REQUIRE (s, linear_fits (linear, m, out));
  REQUIRE (s, factors->dtype == DTYPE_F32 && tensor_count (factors) == linear->k + m);
  return heads != NULL ? apply_heads (s, linear, x, by, heads, out)
                       : apply (s, linear, x, by, 0, out);
}

/* -- paths --------------------------------------------------------------------------------------
 */

/* Of these capabilities, activations of that type, and code for it in this build. */
static bool
is_cuda (const DeviceCaps *caps, DType activation, int first_sm, int last_sm)
{
  return caps->kind == DEVICE_CUDA && caps->sm >= first_sm && caps->sm <= last_sm
         && device_activation (caps) == activation
         && caps->sm >= (activation == DTYPE_F16 ? FIRST_F16_SM : FIRST_BF16_SM);
}

static bool
is_format (const SvdqFormat *svdq, SvdqFormat format)
{
  return svdq != NULL && *svdq == format;
}

static bool
supports_int4 (const DeviceCaps *caps, const StreamOptions *, const SvdqFormat *svdq)
{
  return is_format (svdq, SVDQ_INT4)
         && (is_cuda (caps, DTYPE_BF16, 80, 89) || is_cuda (caps, DTYPE_F16, 75, INT32_MAX));
}

static bool
supports_int8 (const DeviceCaps *caps, const StreamOptions *, const SvdqFormat *svdq)
{
  return is_format (svdq, SVDQ_INT4) && is_cuda (caps, DTYPE_BF16, 80, INT32_MAX);
}

static bool
supports_nvfp4 (const DeviceCaps *caps, const StreamOptions *, const SvdqFormat *svdq)
{
  return is_format (svdq, SVDQ_NVFP4) && is_cuda (caps, DTYPE_BF16, FP4_FIRST_SM, FP4_LAST_SM);
}

static bool
supports_nvfp4_fp16 (const DeviceCaps *caps, const StreamOptions *, const SvdqFormat *svdq)
{
  return is_format (svdq, SVDQ_NVFP4)
         && (is_cuda (caps, DTYPE_BF16, 80, INT32_MAX) || is_cuda (caps, DTYPE_F16, 75, INT32_MAX));
}

static Status
prepare_int4 (Stream *s, const LinearSource *source, Linear **out)
{
  return svdq_linear_prepare (s, source, &linear_cuda_svdq_int4, svdq_gemm_int4, out);
}

static Status
prepare_int8 (Stream *s, const LinearSource *source, Linear **out)
{
  return svdq_linear_prepare (s, source, &linear_cuda_svdq_int8, svdq_gemm_int8, out);
}

static Status
prepare_nvfp4 (Stream *s, const LinearSource *source, Linear **out)
{
  return svdq_linear_prepare (s, source, &linear_cuda_svdq_nvfp4, svdq_gemm_fp4, out);
}

static Status
prepare_nvfp4_fp16 (Stream *s, const LinearSource *source, Linear **out)
{
  return svdq_linear_prepare (s, source, &linear_cuda_svdq_nvfp4_fp16, svdq_gemm_fp4_expanded, out);
}

#define SVDQ_BACKEND(name, which)                                                                  \
  {                                                                                                \
    name, false, supports_##which, prepare_##which, svdq_linear_apply, svdq_linear_release,        \
        svdq_linear_apply_columns, svdq_linear_move, svdq_linear_measure, svdq_linear_adapt, 16,   \
        svdq_linear_measure_adapted, svdq_linear_apply_heads, svdq_linear_apply_normed,            \
  }

const LinearBackend linear_cuda_svdq_int4 = SVDQ_BACKEND ("cuda-svdq-int4", int4);
const LinearBackend linear_cuda_svdq_int8 = SVDQ_BACKEND ("cuda-svdq-int4-by-int8", int8);
const LinearBackend linear_cuda_svdq_nvfp4 = SVDQ_BACKEND ("cuda-svdq-nvfp4", nvfp4);
const LinearBackend linear_cuda_svdq_nvfp4_fp16
    = SVDQ_BACKEND ("cuda-svdq-nvfp4-by-fp16", nvfp4_fp16);
