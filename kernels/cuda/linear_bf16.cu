/* SPDX-License-Identifier: Apache-2.0
 *
 * Linear layers in BF16, on sm_75 in FP16: weights row by row as the file has them, but of the
 * activations' type whatever the file's, and with swiglu the rows of w1 and w3 interleaved by
 * eight.
 */
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/low_rank.h"

#include <stdlib.h>

#define WEIGHT_BYTES 2 /* of a number, BF16 or FP16 */

typedef struct
{
  Linear base;  /* base.memory: the weight, and behind it the bias */
  bool biased;  /* there is one */
  void *weight; /* [n, k], of the activations' type; device */
  float *bias;  /* F32 [n], device; NULL = none */
} DenseLinear;

static size_t
weight_bytes (int64_t n, int64_t k)
{
  return device_aligned ((size_t)n * k * WEIGHT_BYTES);
}

static void
move (Linear *linear, void *memory)
{
  DenseLinear *l = (DenseLinear *)linear;
  linear->memory = memory;
  l->weight = memory;
  l->bias = memory != NULL && l->biased
                ? (float *)((char *)memory + weight_bytes (linear->n, linear->k))
                : NULL;
}

/* With swiglu the rows pass through memory of their own while they are interleaved. */
static void
measure (const LinearSource *source, LinearMemory *out)
{
  const size_t weight = weight_bytes (source->n, source->k);
  out->weights
      = weight + (source->bias.data != NULL ? device_aligned (source->n * sizeof (float)) : 0);
  out->loading = source->swiglu ? weight : 0;
  out->workspace = 0;
  out->swiglu = source->swiglu;
}

/* -- the order of rows for swiglu ----------------------------------------------------------------
 */

/* T is a row's unit: 16 bytes of weights, or one number of a bias. Row r of w1 goes to
 * 16 (r / 8) + r % 8, of w3 to 8 below. */
template <typename T>
static __global__ void
interleave_kernel (const T *__restrict__ from, T *__restrict__ to, int64_t f, int64_t units)
{
  const int64_t count = 2 * f * units, stride = (int64_t)gridDim.x * blockDim.x;
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < count; i += stride)
    {
      const int64_t row = i / units, up = row / f, r = row % f;
      const int64_t target
          = 2 * (r - r % INTERLEAVE_ROWS) + r % INTERLEAVE_ROWS + up * INTERLEAVE_ROWS;
      to[target * units + i % units] = from[i];
    }
}

static unsigned
blocks_for (const Stream *s, int64_t count)
{
  const int64_t most = s->caps.multiprocessors * 8;
  return (unsigned)(CEIL_DIV (count, 256) < most ? CEIL_DIV (count, 256) : most);
}

Status
gemm_interleave (Stream *s, const void *from, void *to, int64_t f, int64_t k)
{
  REQUIRE (s, f >= 8 && f % INTERLEAVE_ROWS == 0 && k >= 8 && k % 8 == 0);
  launch_kernel (interleave_kernel<uint4>, blocks_for (s, f * k / 4), 256, 0, s->compute,
                 (const uint4 *)from, (uint4 *)to, f, k / 8);
  return LAUNCHED (s);
}

static Status
interleave_bias (Stream *s, const float *from, float *to, int64_t f)
{
  launch_kernel (interleave_kernel<float>, blocks_for (s, 2 * f), 256, 0, s->compute, from, to, f,
                 1);
  return LAUNCHED (s);
}

/* -- loading ------------------------------------------------------------------------------------
 */

static void
release (Stream *s, Linear *linear)
{
  if (linear == NULL)
    return;
  if (linear->of != NULL)
    return low_rank_release (s, linear);
  stream_free (s, linear->memory);
  free (linear);
}

static Status
check_source (Stream *s, const LinearSource *source)
{
  REQUIRE (s, source->svdq == NULL);
  REQUIRE (s, source->k >= 8 && source->k % 8 == 0 && source->k <= INT32_MAX / 2);
  REQUIRE (s, source->n >= 8 && source->n % 8 == 0 && source->n <= INT32_MAX / 2);
  REQUIRE (s, !source->swiglu || source->n % (2 * INTERLEAVE_ROWS) == 0);
  REQUIRE (s, source->n_parts >= 1 && source->n_parts <= LINEAR_MAX_PARTS);
  int64_t rows = 0;
  for (int i = 0; i < source->n_parts; i++)
    {
      REQUIRE (s, source->parts[i].rank == 2 && source->parts[i].shape[1] == source->k);
      rows += source->parts[i].shape[0];
    }
  REQUIRE (s, rows == source->n);
  REQUIRE (s, source->bias.data == NULL || tensor_count (&source->bias) == source->n);
  return STATUS_OK;
}

/* The parts, one below the other, to `device` [n, k]. */
static Status
upload_parts (Stream *s, const LinearSource *source, void *device)
{
  const DType type = device_activation (&s->caps);
  size_t offset = 0;
  for (int i = 0; i < source->n_parts; i++)
    {
      CHECK (stream_upload_weights (s, &source->parts[i], type, (char *)device + offset));
      offset += (size_t)tensor_count (&source->parts[i]) * WEIGHT_BYTES;
    }
  return STATUS_OK;
}

/* Both kinds of rows pass through memory of their own, given back at once. */
static Status
upload_interleaved (Stream *s, const LinearSource *source, DenseLinear *l)
{
  const int64_t f = source->n / 2;
  void *rows = NULL;
  CHECK (stream_alloc (s, (size_t)source->n * source->k * WEIGHT_BYTES, &rows));
  Status status = upload_parts (s, source, rows);
  if (status == STATUS_OK)
    status = gemm_interleave (s, rows, l->weight, f, source->k);
  if (status == STATUS_OK && l->bias != NULL)
    status = cuda_wait (s); /* the same memory, again */
  if (status == STATUS_OK && l->bias != NULL)
    status = stream_upload_weights (s, &source->bias, DTYPE_F32, rows);
  if (status == STATUS_OK && l->bias != NULL)
    status = interleave_bias (s, (const float *)rows, l->bias, f);
  if (status == STATUS_OK)
    status = cuda_wait (s);
  stream_free (s, rows);
  return status;
}

static Status
fill (Stream *s, const LinearSource *source, DenseLinear *l)
{
  LinearMemory size;
  measure (source, &size);
  void *memory = NULL;
  CHECK (stream_alloc (s, size.weights, &memory));
  l->base.bytes = l->base.memory_bytes = size.weights;
  l->biased = source->bias.data != NULL;
  move (&l->base, memory);
  if (source->swiglu)
    return upload_interleaved (s, source, l);
  CHECK (upload_parts (s, source, l->weight));
  if (l->bias != NULL)
    CHECK (stream_upload_weights (s, &source->bias, DTYPE_F32, l->bias));
  return STATUS_OK;
}

static Status
prepare (Stream *s, const LinearSource *source, const LinearBackend *backend, Linear **out)
{
  *out = NULL;
  CHECK (check_source (s, source));
  DenseLinear *l = (DenseLinear *)calloc (1, sizeof *l);
  if (l == NULL)
    return STATUS_NO_MEMORY;
  linear_describe (&l->base, source, backend);
  const Status status = fill (s, source, l);
  if (status != STATUS_OK)
    release (s, &l->base);
  else
    *out = &l->base;
  return status;
}

/* -- adapted layers -----------------------------------------------------------------------------
 */

static void
measure_adapted (const LinearSource *source, int64_t rank, LinearMemory *out)
{
  out->weights = low_rank_bytes (source->n, source->k, rank);
  out->loading = 0;
  out->workspace = low_rank_input_bytes (LOW_RANK_ROWS, rank);
  out->swiglu = source->swiglu;
}

static Status
adapt (Stream *s, const Linear *base, const LowRankPair *pair, Linear **out)
{
  const size_t workspace = low_rank_input_bytes (LOW_RANK_ROWS, pair->down.shape[0]);
  return low_rank_adapt (s, base, pair, workspace, out);
}

/* -- running ------------------------------------------------------------------------------------
 */

/* On sm_90 even one row is as fast through wgmma: x takes no more than its rows. */
Status
gemm (Stream *s, const Gemm *g)
{
  if (s->caps.sm == WGMMA_SM)
    return gemm_sm90 (s, g, -1);
  if (g->m <= GEMM_FEW_ROWS && g->rank == 0)
    return gemm_few_rows (s, g);
  return s->caps.bf16 ? gemm_sm80 (s, g) : gemm_sm75 (s, g);
}

static Status
gemm_of_sm80 (Stream *s, const Gemm *g)
{
  return g->m <= GEMM_FEW_ROWS && g->rank == 0 ? gemm_few_rows (s, g) : gemm_sm80 (s, g);
}

static Status
apply_by (Stream *s, const Linear *linear, const Tensor *x, Tensor *out, GemmProduct product)
{
  const DenseLinear *l = (const DenseLinear *)(linear->of != NULL ? linear->of : linear);
  Gemm g;
  CHECK (linear_as_gemm (s, linear, x, out, l->weight, l->bias, &g));
  return linear->of != NULL ? low_rank_gemm (s, linear, &g, product) : product (s, &g);
}

static Status
apply_best (Stream *s, const Linear *linear, const Tensor *x, Tensor *out)
{
  return apply_by (s, linear, x, out, gemm);
}

static Status
apply_sm80 (Stream *s, const Linear *linear, const Tensor *x, Tensor *out)
{
  return apply_by (s, linear, x, out, gemm_of_sm80);
}

static bool
supports_sm90 (const DeviceCaps *caps, const StreamOptions *, const SvdqFormat *svdq)
{
  return caps->kind == DEVICE_CUDA && caps->sm == WGMMA_SM && svdq == NULL;
}

static bool
supports_sm80 (const DeviceCaps *caps, const StreamOptions *, const SvdqFormat *svdq)
{
  return caps->kind == DEVICE_CUDA && caps->sm >= FIRST_BF16_SM && svdq == NULL;
}

static bool
supports_sm75 (const DeviceCaps *caps, const StreamOptions *, const SvdqFormat *svdq)
{
  return caps->kind == DEVICE_CUDA && caps->sm >= FIRST_F16_SM && !caps->bf16 && svdq == NULL;
}

static Status
prepare_sm90 (Stream *s, const LinearSource *source, Linear **out)
{
  return prepare (s, source, &linear_cuda_bf16_sm90, out);
}

static Status
prepare_sm80 (Stream *s, const LinearSource *source, Linear **out)
{
  return prepare (s, source, &linear_cuda_bf16, out);
}

static Status
prepare_sm75 (Stream *s, const LinearSource *source, Linear **out)
{
  return prepare (s, source, &linear_cuda_f16, out);
}

const LinearBackend linear_cuda_bf16_sm90 = {
  "cuda-bf16-wgmma",
  false,
  supports_sm90,
  prepare_sm90,
  apply_best,
  release,
  NULL,
  move,
  measure,
  adapt,
  64,
  measure_adapted,
  NULL,
  NULL,
};

const LinearBackend linear_cuda_bf16 = {
  "cuda-bf16-mma", false, supports_sm80,   prepare_sm80, apply_sm80, release, NULL, move, measure,
  adapt,           16,    measure_adapted, NULL,         NULL,
};

const LinearBackend linear_cuda_f16 = {
  "cuda-fp16-mma", false, supports_sm75,   prepare_sm75, apply_best, release, NULL, move, measure,
  adapt,           16,    measure_adapted, NULL,         NULL,
};
