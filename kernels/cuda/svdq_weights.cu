/* SPDX-License-Identifier: Apache-2.0
 *
 * SVDQuant weights on their way to the card: everything in one block of memory. Parts whose order
 * changes land in a block of their own first, which is given back at once.
 */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/svdq.h"

#define MAX_RANK        1024
#define INTERLEAVE_ROWS 8

/* -- orders -------------------------------------------------------------------------------------
 */

/* Where row n of [w1; w3] goes; f rows of each, 0 = rows stay. */
static __device__ __forceinline__ int64_t
interleaved (int64_t n, int64_t f)
{
  if (f == 0)
    return n;
  const int64_t r = n % f;
  return 2 * (r - r % INTERLEAVE_ROWS) + r % INTERLEAVE_ROWS + n / f * INTERLEAVE_ROWS;
}

/* from [groups, n] -> to [groups / TOGETHER, n, TOGETHER], columns interleaved. */
template <typename T, int TOGETHER>
static __global__ void
scales_kernel (const T *__restrict__ from, T *__restrict__ to, int64_t groups, int64_t n, int64_t f)
{
  const int64_t stride = (int64_t)gridDim.x * blockDim.x;
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < groups * n; i += stride)
    {
      const int64_t g = i / n, column = interleaved (i % n, f);
      to[(g / TOGETHER * n + column) * TOGETHER + g % TOGETHER] = from[i];
    }
}

/* from [rows, columns] -> to [columns, rows]. */
static __global__ void
transpose_kernel (const uint16_t *__restrict__ from, uint16_t *__restrict__ to, int64_t rows,
                  int64_t columns)
{
  const int64_t stride = (int64_t)gridDim.x * blockDim.x;
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < rows * columns; i += stride)
    to[i] = from[i % rows * columns + i / rows];
}

/* NaN for divisors whose reciprocal is not a normal number: svdq_quantise then divides. */
static __global__ void
invert_kernel (bf16 *__restrict__ smooth, float *__restrict__ inverse, int64_t k, float scale)
{
  const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
  if (i >= k)
    return;
  if (scale != 1.0f)
    smooth[i] = from_float<bf16> (__bfloat162float (smooth[i]) * scale);
  const float s = __bfloat162float (smooth[i]);
  inverse[i] = fabsf (s) < 0x1p-126f ? __int_as_float (0x7fc00000) : __frcp_rn (s);
}

static __global__ void
multiply_kernel (float *v, int64_t count, float by)
{
  const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
  if (i < count)
    v[i] *= by;
}

/* -- parts --------------------------------------------------------------------------------------
 */

typedef struct
{
  Stream *s;
  const LinearSource *source;
  SvdqWeights *w;
  void *landing; /* for parts whose order changes */
} Loading;

static int64_t
gated_rows (const SvdqWeights *w)
{
  return w->swiglu ? w->n / 2 : 0;
}

static unsigned
blocks_for (const Stream *s, int64_t count)
{
  const int64_t most = s->caps.multiprocessors * 8;
  return (unsigned)(CEIL_DIV (count, 256) < most ? CEIL_DIV (count, 256) : most);
}

static Status
upload (Stream *s, const void *host, size_t bytes, void *device)
{
  const Tensor t = tensor_1d (DTYPE_U8, const_cast<void *> (host), (int64_t)bytes);
  return stream_upload_weights (s, &t, DTYPE_U8, device);
}

/* BF16 numbers, as what activations are. */
static Status
upload_half (Stream *s, const uint16_t *host, int64_t count, void *device)
{
  const Tensor t = tensor_1d (DTYPE_BF16, const_cast<uint16_t *> (host), count);
  return stream_upload_weights (s, &t, device_activation (&s->caps), device);
}

/* Rows of `row_bytes` each, a multiple of 16: codes, or BF16 if `half`. */
static Status
load_rows (const Loading *l, const void *host, int64_t row_bytes, bool half, void *device)
{
  const int64_t bytes = l->w->n * row_bytes;
  void *to = l->w->swiglu ? l->landing : device;
  CHECK (half ? upload_half (l->s, (const uint16_t *)host, bytes / 2, to)
              : upload (l->s, host, (size_t)bytes, to));
  if (!l->w->swiglu)
    return STATUS_OK;
  CHECK (gemm_interleave (l->s, l->landing, device, l->w->n / 2, row_bytes / sizeof (bf16)));
  return cuda_wait (l->s); /* the landing is used again */
}

static Status
load_scales (const Loading *l)
{
  Stream *s = l->s;
  SvdqWeights *w = l->w;
  const bool int4 = w->format == SVDQ_INT4;
  const int64_t groups = w->k / (int4 ? 64 : 16), f = gated_rows (w);
  const size_t bytes = (size_t)groups * w->n * (int4 ? 2 : 1);
  if (int4 && !w->swiglu)
    return upload (s, l->source->svdq->wscales, bytes, w->wscales);
  CHECK (upload (s, l->source->svdq->wscales, bytes, l->landing));
  const unsigned blocks = blocks_for (s, groups * w->n);
  if (int4)
    launch_kernel (scales_kernel<uint16_t, 1>, blocks, 256, 0, s->compute,
                   (const uint16_t *)l->landing, (uint16_t *)w->wscales, groups, w->n, f);
  else
    launch_kernel (scales_kernel<uint8_t, 4>, blocks, 256, 0, s->compute,
                   (const uint8_t *)l->landing, (uint8_t *)w->wscales, groups, w->n, f);
  CHECK (LAUNCHED (s));
  return cuda_wait (s);
}

/* An [N] vector of any floating type, as F32. */
static Status
load_vector (const Loading *l, const Tensor *host, float *device)
{
  if (!l->w->swiglu)
    return stream_upload_weights (l->s, host, DTYPE_F32, device);
  CHECK (stream_upload_weights (l->s, host, DTYPE_F32, l->landing));
  launch_kernel (scales_kernel<float, 1>, blocks_for (l->s, l->w->n), 256, 0, l->s->compute,
                 (const float *)l->landing, device, 1, l->w->n, gated_rows (l->w));
  CHECK (LAUNCHED (l->s));
  return cuda_wait (l->s);
}

static Status
load_low_rank (const Loading *l)
{
  Stream *s = l->s;
  SvdqWeights *w = l->w;
  const SvdqSource *from = l->source->svdq;
  if (w->rank == 0)
    return STATUS_OK;
  CHECK (upload_half (s, from->proj_down, w->k * w->rank, l->landing));
  launch_kernel (transpose_kernel, blocks_for (s, w->k * w->rank), 256, 0, s->compute,
                 (const uint16_t *)l->landing, w->proj_down, w->k, w->rank);
  CHECK (LAUNCHED (s));
  CHECK (cuda_wait (s));
  return load_rows (l, from->proj_up, w->rank * (int64_t)sizeof (uint16_t), true, w->proj_up);
}

/* What smoothing factors and the outer scale are multiplied by. A scale of NVFP4 ends at 2^-9: of a
 * swiglu's product, stored divided by 128, quiet groups would be lost. So they are quantised as
 * what they were, and their sums become smaller instead. BF16 scales lose nothing. */
static float
quantised_scale (const SvdqWeights *w)
{
  return w->format == SVDQ_NVFP4 ? 1.0f / w->unit : 1.0f;
}

static Status
load_outer (const Loading *l, const float *host, float scale)
{
  SvdqWeights *w = l->w;
  if (host == NULL)
    return STATUS_OK;
  const Tensor outer = tensor_1d (DTYPE_F32, const_cast<float *> (host), w->n);
  CHECK (load_vector (l, &outer, w->outer));
  if (scale == 1.0f)
    return STATUS_OK;
  launch_kernel (multiply_kernel, (unsigned)CEIL_DIV (w->n, 256), 256, 0, l->s->compute, w->outer,
                 w->n, scale);
  return LAUNCHED (l->s);
}

static Status
load_parts (const Loading *l)
{
  SvdqWeights *w = l->w;
  const SvdqSource *from = l->source->svdq;
  const float scale = quantised_scale (w);
  REQUIRE (l->s, scale == 1.0f || w->outer != NULL);
  CHECK (load_rows (l, from->qweight, w->k / 2, false, w->qweight));
  CHECK (load_scales (l));
  CHECK (upload (l->s, from->smooth, (size_t)w->k * 2, w->smooth));
  launch_kernel (invert_kernel, (unsigned)CEIL_DIV (w->k, 256), 256, 0, l->s->compute,
                 (bf16 *)w->smooth, w->inverse, w->k, scale);
  CHECK (LAUNCHED (l->s));
  CHECK (load_low_rank (l));
  CHECK (load_outer (l, from->outer, scale));
  if (w->bias != NULL)
    CHECK (load_vector (l, &l->source->bias, w->bias));
  return cuda_wait (l->s);
}

/* -- the whole ----------------------------------------------------------------------------------
 */

static Status
check_source (Stream *s, const LinearSource *source)
{
  REQUIRE (s, source->svdq != NULL);
  const int64_t n = source->n, k = source->k, rank = source->svdq->rank;
  REQUIRE (s, k >= 64 && k % 64 == 0 && k <= INT32_MAX / 64);
  REQUIRE (s, n >= 64 && n % 64 == 0 && n <= INT32_MAX / 64);
  REQUIRE (s, rank >= 0 && rank % 16 == 0 && rank <= MAX_RANK);
  REQUIRE (s, source->bias.data == NULL || tensor_count (&source->bias) == n);
  return STATUS_OK;
}

/* The parts' places in `memory`; returns their bytes. */
static size_t
place_parts (SvdqWeights *w, void *memory)
{
  const size_t n = (size_t)w->n, k = (size_t)w->k, rank = (size_t)w->rank;
  size_t at = 0;
  w->qweight = (uint8_t *)device_place (memory, &at, n * k / 2);
  w->wscales = device_place (memory, &at, w->format == SVDQ_INT4 ? n * k / 32 : n * k / 16);
  w->smooth = (uint16_t *)device_place (memory, &at, k * 2);
  w->inverse = (float *)device_place (memory, &at, k * 4);
  w->proj_down = (uint16_t *)device_place (memory, &at, k * rank * 2);
  w->proj_up = (uint16_t *)device_place (memory, &at, n * rank * 2);
  w->outer = (float *)device_place (memory, &at, w->has_outer ? n * 4 : 0);
  w->bias = (float *)device_place (memory, &at, w->has_bias ? n * 4 : 0);
  return at;
}

/* The most that a part whose order changes takes. */
static size_t
landing_bytes (const SvdqWeights *w)
{
  const size_t codes = w->swiglu ? (size_t)w->n * w->k / 2 : 0;
  const size_t scales = (size_t)w->n * w->k / (w->format == SVDQ_INT4 ? 32 : 16);
  const size_t rank = (size_t)w->rank * 2 * (w->n > w->k ? w->n : w->k);
  const size_t most = codes > scales ? codes : scales;
  return most > rank ? most : rank;
}

/* NVFP4 files always have an outer scale; of an INT4 one nothing but its data says so. */
static SvdqWeights
describe (const LinearSource *source)
{
  SvdqWeights w = {};
  w.format = source->svdq->format;
  w.n = source->n;
  w.k = source->k;
  w.rank = source->svdq->rank;
  w.swiglu = source->swiglu;
  w.has_outer = source->svdq->outer != NULL;
  w.has_bias = source->bias.data != NULL;
  w.unit = 1.0f;
  w.bytes = place_parts (&w, NULL);
  return w;
}

void
svdq_weights_move (SvdqWeights *w, void *memory)
{
  w->memory = memory;
  place_parts (w, memory);
}

void
svdq_weights_measure (const LinearSource *source, SvdqWeights *w, LinearMemory *out)
{
  *w = describe (source);
  w->has_outer = w->format == SVDQ_NVFP4;
  w->bytes = place_parts (w, NULL);
  out->weights = w->bytes;
  out->loading = landing_bytes (w);
  out->workspace = 0;
  out->swiglu = w->swiglu;
}

Status
svdq_weights_load (Stream *s, const LinearSource *source, SvdqWeights *out)
{
  *out = SvdqWeights{};
  CHECK (check_source (s, source));
  SvdqWeights w = describe (source);
  if (source->after_swiglu && device_activation (&s->caps) == DTYPE_F16)
    w.unit = 1.0f / SWIGLU_F16_SCALE;

  Loading loading = { s, source, &w, NULL };
  CHECK (stream_alloc (s, w.bytes, &w.memory));
  place_parts (&w, w.memory);
  Status status = stream_alloc (s, landing_bytes (&w), &loading.landing);
  if (status == STATUS_OK)
    status = load_parts (&loading);
  stream_free (s, loading.landing);
  if (status == STATUS_OK)
    *out = w;
  else
    stream_free (s, w.memory);
  return status;
}

void
svdq_weights_free (Stream *s, SvdqWeights *w)
{
  stream_free (s, w->memory);
  *w = SvdqWeights{};
}

/* -- activations --------------------------------------------------------------------------------
 */

static size_t
place_activations (const SvdqWeights *w, SvdqActivations *a, void *memory)
{
  const size_t m = (size_t)a->m, pitch = (size_t)a->pitch, k = (size_t)w->k;
  size_t at = 0;
  a->codes = (uint8_t *)device_place (memory, &at, m * k / 2);
  a->scales = device_place (memory, &at, pitch * (k / 64) * (w->format == SVDQ_INT4 ? 2 : 4));
  a->lora = (uint16_t *)device_place (memory, &at, m * w->rank * 2);
  return at;
}

SvdqActivations
svdq_activations_in (const SvdqWeights *w, int64_t m, void *memory)
{
  SvdqActivations a = { m, CEIL_DIV (m, SVDQ_PITCH) * SVDQ_PITCH, NULL, NULL, NULL };
  place_activations (w, &a, memory);
  return a;
}

size_t
svdq_activations_bytes (const SvdqWeights *w, int64_t m)
{
  SvdqActivations a = { m, CEIL_DIV (m, SVDQ_PITCH) * SVDQ_PITCH, NULL, NULL, NULL };
  return place_activations (w, &a, NULL);
}
