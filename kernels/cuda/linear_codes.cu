/* SPDX-License-Identifier: Apache-2.0
 *
 * Linear layers whose weights stay on the card as codes of 8 or 4 bit (weight-codes.h). Before each
 * product they are expanded into the workspace, in 16 bits and in the order of rows that the
 * product wants, so that the products are those of 16-bit weights. An expansion reads 1 or 1/2 byte
 * a weight and writes 2, which the product reads again: up to four times a 16-bit layer's traffic,
 * for layers that run once a prompt.
 */
#include "kernels/cuda/linear.cuh"
#include "kernels/weight-codes.h"

#include <stdlib.h>

#define UNIT 16 /* weights that a thread expands: a quarter of a group */

typedef struct
{
  Linear base; /* base.memory: codes as the file has them, and behind them the scales */
  int bits;
  void *codes;  /* [n, k] I8 or [n, k / 2] U8, device */
  void *scales; /* BF16 [n, k / CODES_GROUP], device */
  bool joined;  /* counts as a user of the workspace */
} CodesLinear;

static size_t
code_bytes (int64_t n, int64_t k, int bits)
{
  return device_aligned ((size_t)n * k * bits / 8);
}

static size_t
expanded_bytes (int64_t n, int64_t k)
{
  return (size_t)n * k * sizeof (bf16);
}

static void
move (Linear *linear, void *memory)
{
  CodesLinear *l = (CodesLinear *)linear;
  linear->memory = memory;
  l->codes = memory;
  l->scales = memory != NULL ? (char *)memory + code_bytes (linear->n, linear->k, l->bits) : NULL;
}

static void
measure (const LinearSource *source, LinearMemory *out)
{
  const int64_t n = source->n, k = source->k;
  out->weights = code_bytes (n, k, source->code_bits)
                 + device_aligned ((size_t)n * (k / CODES_GROUP) * sizeof (bf16));
  out->loading = 0;
  out->workspace = device_aligned (expanded_bytes (n, k));
  out->swiglu = source->swiglu;
}

/* -- expanding ----------------------------------------------------------------------------------
 */

/* Four bytes, each 128 above its value, to floats: as the last byte of 2^23's mantissa a byte is
 * that number more. */
static __device__ __forceinline__ void
unbias4 (uint32_t bytes, float v[4])
{
#pragma unroll
  for (int i = 0; i < 4; i++)
    v[i] = __uint_as_float (__byte_perm (bytes, 0x4b000000u, 0x7650 | i)) - 8388736.0f;
}

/* Four table entries, each 128 above its value, packed as bytes. */
static constexpr __device__ uint32_t
table_word (int first)
{
  constexpr int table[16] = CODES_TABLE;
  return (uint32_t)(table[first] + 128) | (uint32_t)(table[first + 1] + 128) << 8
         | (uint32_t)(table[first + 2] + 128) << 16 | (uint32_t)(table[first + 3] + 128) << 24;
}

/* The entries that the low four nibbles of `codes` ask for: three bits choose in each half of the
 * table, the fourth between the halves. */
static __device__ __forceinline__ uint32_t
look_up4 (uint32_t codes)
{
  constexpr uint32_t t0 = table_word (0), t1 = table_word (4), t2 = table_word (8),
                     t3 = table_word (12);
  const uint32_t low = __byte_perm (t0, t1, codes & 0x7777),
                 high = __byte_perm (t2, t3, codes & 0x7777);
  const uint32_t upper = __byte_perm (0x0000ff00u, 0, codes >> 3 & 0x1111);
  return (low & ~upper) | (high & upper);
}

/* UNIT values from their codes. */
static __device__ __forceinline__ void
read_unit (const uint4 *codes, int64_t unit, float v[UNIT])
{
  const uint4 c = __ldg (codes + unit);
  unbias4 (c.x ^ 0x80808080u, v);
  unbias4 (c.y ^ 0x80808080u, v + 4);
  unbias4 (c.z ^ 0x80808080u, v + 8);
  unbias4 (c.w ^ 0x80808080u, v + 12);
}

static __device__ __forceinline__ void
read_unit (const uint2 *codes, int64_t unit, float v[UNIT])
{
  const uint2 c = __ldg (codes + unit);
  unbias4 (look_up4 (c.x), v);
  unbias4 (look_up4 (c.x >> 16), v + 4);
  unbias4 (look_up4 (c.y), v + 8);
  unbias4 (look_up4 (c.y >> 16), v + 12);
}

/* Codes: uint4 for UNIT codes of 8 bit, uint2 of 4. f: 0, or rows r of w1 and w3 [f, k] each go to
 * 16 (r / 8) + r % 8 and 8 below. */
template <typename T, typename Codes>
static __global__ void __launch_bounds__ (256)
    expand_kernel (const Codes *__restrict__ codes, const bf16 *__restrict__ scales,
                   uint4 *__restrict__ out, unsigned count, unsigned units, unsigned f)
{
  if (!Activation<T>::RUNS_HERE)
    return;
  const unsigned stride = gridDim.x * blockDim.x;
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride)
    {
      const float scale = __bfloat162float (scales[i / (CODES_GROUP / UNIT)]);
      unsigned target = i;
      if (f > 0)
        {
          const unsigned row = i / units, r = row < f ? row : row - f;
          const unsigned to = 2 * r - r % INTERLEAVE_ROWS + (row < f ? 0 : INTERLEAVE_ROWS);
          target = to * units + i % units;
        }
      float v[UNIT];
      read_unit (codes, i, v);
#pragma unroll
      for (int j = 0; j < UNIT; j++)
        v[j] *= scale;
      out[2 * (size_t)target] = pack8<T> (v);
      out[2 * (size_t)target + 1] = pack8<T> (v + 8);
    }
}

/* All weights, to the workspace. */
template <typename T>
static Status
expand (Stream *s, const CodesLinear *l)
{
  const int64_t units = l->base.k / UNIT, count = l->base.n * units;
  const unsigned f = l->base.swiglu ? (unsigned)(l->base.n / 2) : 0;
  const int64_t most = s->caps.multiprocessors * 16, blocks = CEIL_DIV (count, 256);
  const unsigned grid = (unsigned)(blocks < most ? blocks : most);
  const bf16 *scales = (const bf16 *)l->scales;
  uint4 *out = (uint4 *)s->workspace;
  if (l->bits == 8)
    launch_kernel (expand_kernel<T, uint4>, grid, 256, 0, s->compute, (const uint4 *)l->codes,
                   scales, out, (unsigned)count, (unsigned)units, f);
  else
    launch_kernel (expand_kernel<T, uint2>, grid, 256, 0, s->compute, (const uint2 *)l->codes,
                   scales, out, (unsigned)count, (unsigned)units, f);
  return LAUNCHED (s);
}

/* -- loading ------------------------------------------------------------------------------------
 */

static void
release (Stream *s, Linear *linear)
{
  if (linear == NULL)
    return;
  stream_free (s, linear->memory);
  if (((CodesLinear *)linear)->joined)
    stream_workspace_leave (s);
  free (linear);
}

static Status
check_source (Stream *s, const LinearSource *source)
{
  const int bits = source->code_bits;
  REQUIRE (s, bits == 8 || bits == 4);
  REQUIRE (s, source->svdq == NULL && source->bias.data == NULL);
  REQUIRE (s, source->k >= CODES_GROUP && source->k % CODES_GROUP == 0);
  REQUIRE (s, source->n >= 8 && source->n % (source->swiglu ? 2 * INTERLEAVE_ROWS : 8) == 0);
  REQUIRE (s, source->n <= INT32_MAX && source->k <= INT32_MAX);
  REQUIRE (s, source->n * (source->k / UNIT) <= INT32_MAX);
  REQUIRE (s, source->n_parts >= 1 && source->n_parts <= LINEAR_MAX_PARTS);
  int64_t rows = 0;
  for (int i = 0; i < source->n_parts; i++)
    {
      const Tensor *part = &source->parts[i], *scales = &source->scales[i];
      REQUIRE (s, part->dtype == (bits == 8 ? DTYPE_I8 : DTYPE_U8) && part->rank == 2);
      REQUIRE (s, part->shape[1] == source->k * bits / 8);
      REQUIRE (s, scales->dtype == DTYPE_BF16 && scales->rank == 2);
      REQUIRE (s, scales->shape[0] == part->shape[0]);
      REQUIRE (s, scales->shape[1] == source->k / CODES_GROUP);
      rows += part->shape[0];
    }
  REQUIRE (s, rows == source->n);
  return STATUS_OK;
}

static Status
fill (Stream *s, const LinearSource *source, CodesLinear *l)
{
  LinearMemory size;
  measure (source, &size);
  void *memory = NULL;
  CHECK (stream_alloc (s, size.weights, &memory));
  l->base.bytes = l->base.memory_bytes = size.weights;
  move (&l->base, memory);
  CHECK (stream_workspace_join (s, size.workspace));
  l->joined = true;
  char *codes = (char *)l->codes, *scales = (char *)l->scales;
  for (int i = 0; i < source->n_parts; i++)
    {
      const Tensor *part = &source->parts[i];
      CHECK (stream_upload_weights (s, part, part->dtype, codes));
      CHECK (stream_upload_weights (s, &source->scales[i], DTYPE_BF16, scales));
      codes += tensor_bytes (part);
      scales += tensor_bytes (&source->scales[i]);
    }
  return STATUS_OK;
}

static Status
prepare (Stream *s, const LinearSource *source, Linear **out)
{
  *out = NULL;
  CHECK (check_source (s, source));
  CodesLinear *l = (CodesLinear *)calloc (1, sizeof *l);
  if (l == NULL)
    return STATUS_NO_MEMORY;
  linear_describe (&l->base, source, &linear_cuda_codes);
  l->bits = source->code_bits;
  const Status status = fill (s, source, l);
  if (status != STATUS_OK)
    release (s, &l->base);
  else
    *out = &l->base;
  return status;
}

/* -- running ------------------------------------------------------------------------------------
 */

static Status
apply (Stream *s, const Linear *linear, const Tensor *x, Tensor *out)
{
  const CodesLinear *l = (const CodesLinear *)linear;
  Gemm g;
  CHECK (linear_as_gemm (s, linear, x, out, s->workspace, NULL, &g));
  CHECK (x->dtype == DTYPE_F16 ? expand<f16> (s, l) : expand<bf16> (s, l));
  return gemm (s, &g);
}

static bool
supports (const DeviceCaps *caps, const StreamOptions *, const SvdqFormat *svdq)
{
  return caps->kind == DEVICE_CUDA && svdq == NULL
         && caps->sm >= (caps->bf16 ? FIRST_BF16_SM : FIRST_F16_SM);
}

const LinearBackend linear_cuda_codes = {
  "cuda-codes", false,   supports, prepare, apply, release, NULL,
  move,         measure, NULL,     0,       NULL,  NULL,    NULL,
};
