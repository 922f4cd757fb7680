/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights of SVDQuant linears in the two forms that sm_90 multiplies: E4M3 rows, or 4-bit codes in
 * the order of wgmma's fragments.
 */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/svdq_sm90.h"

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#define THREADS      128
#define WORD_CODES   8
#define BLOCK_ROWS   64
#define BLOCK_K      64
#define CODES_BYTES  (BLOCK_ROWS * BLOCK_K / 2)
#define GROUPS_OF_64 4 /* NVFP4 */
#define DOWN_STEPS   4 /* of 16 k in a block's */
#define DOWN_RANKS   16

static __device__ __forceinline__ float
e4m3_value (uint8_t bits)
{
  const __half_raw raw = __nv_cvt_fp8_to_halfraw (bits, __NV_E4M3);
  return __half2float (__half (raw));
}

static __device__ __forceinline__ float
code_value (SvdqFormat format, unsigned nibble)
{
  if (format == SVDQ_INT4)
    return (float)((int)(nibble ^ 8) - 8);
  const float magnitude = nibble % 8 < 2 ? (nibble % 8) * 0.5f
                                         : ldexpf (1.0f + nibble % 2 * 0.5f, nibble % 8 / 2 - 1);
  return nibble & 8 ? -magnitude : magnitude;
}

/* The scale of the group of column k in row n. */
static __device__ __forceinline__ float
group_scale (const SvdqWeights &w, int64_t n, int64_t k)
{
  const int64_t at = k / BLOCK_K * w.n + n;
  if (w.format == SVDQ_INT4)
    return __bfloat162float (((const bf16 *)w.wscales)[at]);
  return e4m3_value (((const uint8_t *)w.wscales)[at * GROUPS_OF_64 + k % BLOCK_K / 16]);
}

/* The least e with amax <= 1.75 * 2^(e + 8); within what ordinary numbers have. */
static __device__ __forceinline__ int
exponent_e4m3 (float amax)
{
  const int e = (int)((__float_as_uint (amax) + 0x1fffffu) >> 23) - 127 - 8;
  return max (-100, min (e, 100));
}

static __device__ __forceinline__ float
power_of_two (int e)
{
  return __uint_as_float ((uint32_t)(e + 127) << 23);
}

/* Over the block, to every thread. */
static __device__ __forceinline__ float
block_max (float v)
{
  __shared__ float of_warps[THREADS / 32];
  v = warp_max (v);
  if (threadIdx.x % 32 == 0)
    of_warps[threadIdx.x / 32] = v;
  __syncthreads ();
  for (int i = 0; i < THREADS / 32; i++)
    v = fmaxf (v, of_warps[i]);
  return v;
}

/* -- E4M3 ---------------------------------------------------------------------------------------
 */

/* What the activations' BF16 inverse of `smooth` is short of, as a factor for the weights. */
static __device__ __forceinline__ float
correction (const SvdqWeights &w, int64_t k)
{
  const float s = __bfloat162float (((const bf16 *)w.smooth)[k]);
  const float inverse = __bfloat162float (__float2bfloat16_rn (__frcp_rn (s)));
  const float ratio = __fdiv_rn (1.0f, __fmul_rn (s, inverse));
  return ratio > 0.9f && ratio < 1.1f ? ratio : 1.0f;
}

/* The values of eight codes of row n from k on: code * scale * outer, corrected. */
static __device__ __forceinline__ void
values_of (const SvdqWeights &w, int64_t n, int64_t k, float (&v)[WORD_CODES])
{
  const uint32_t word = *reinterpret_cast<const uint32_t *> (w.qweight + (n * w.k + k) / 2);
  const float scale = group_scale (w, n, k), outer = w.outer != NULL ? w.outer[n] : 1.0f;
#pragma unroll
  for (int i = 0; i < WORD_CODES; i++)
    v[i] = code_value (w.format, word >> 4 * i & 15) * scale * outer * correction (w, k + i);
}

/* One block a row. */
static __global__ void
transcode_kernel (SvdqWeights w, uint8_t *out, float *scale, bf16 *up)
{
  const int64_t n = blockIdx.x;
  float v[WORD_CODES], most = 0.0f;
  for (int64_t k = threadIdx.x * WORD_CODES; k < w.k; k += THREADS * WORD_CODES)
    {
      values_of (w, n, k, v);
#pragma unroll
      for (int i = 0; i < WORD_CODES; i++)
        most = fmaxf (most, fabsf (v[i]));
    }
  const int e = exponent_e4m3 (block_max (most));
  const float inverse = power_of_two (-e);
  for (int64_t k = threadIdx.x * WORD_CODES; k < w.k; k += THREADS * WORD_CODES)
    {
      values_of (w, n, k, v);
      uint32_t pairs[WORD_CODES / 2];
#pragma unroll
      for (int i = 0; i < WORD_CODES / 2; i++)
        pairs[i] = __nv_cvt_float2_to_fp8x2 (
            make_float2 (v[2 * i] * inverse, v[2 * i + 1] * inverse), __NV_SATFINITE, __NV_E4M3);
      *reinterpret_cast<uint2 *> (out + n * w.k + k)
          = make_uint2 (pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16);
    }
  if (threadIdx.x == 0)
    scale[n] = power_of_two (e);
  const int pitch = LOW_RANK_PITCH (w.rank);
  for (int r = threadIdx.x; r < pitch; r += THREADS)
    {
      const float value
          = r < w.rank ? __bfloat162float (((const bf16 *)w.proj_up)[n * w.rank + r]) : 0.0f;
      up[n * pitch + r] = __float2bfloat16_rn (value * inverse);
    }
}

static __global__ void
inverse_kernel (const bf16 *smooth, bf16 *out, int64_t k)
{
  const int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x;
  if (i < k)
    out[i] = __float2bfloat16_rn (__frcp_rn (__bfloat162float (smooth[i])));
}

Status
svdq_transcode_e4m3 (Stream *s, const SvdqWeights *w, void *out, float *scale, void *up,
                     void *inverse)
{
  launch_kernel (inverse_kernel, (unsigned)CEIL_DIV (w->k, THREADS), THREADS, 0, s->compute,
                 (const bf16 *)w->smooth, (bf16 *)inverse, w->k);
  CHECK (LAUNCHED (s));
  launch_kernel (transcode_kernel, (unsigned)w->n, THREADS, 0, s->compute, *w, (uint8_t *)out,
                 scale, (bf16 *)up);
  return LAUNCHED (s);
}

/* -- codes in fragments -------------------------------------------------------------------------
 */

/* One block a row: the power of two that takes the row's scales to at most 2^12 in FP16, where code
 * times scale stays exact for scales down to 2^-17 of that. */
static __global__ void
row_scale_kernel (SvdqWeights w, float *scale, float *inverse)
{
  const int64_t n = blockIdx.x;
  const float outer = w.outer != NULL ? w.outer[n] : 1.0f;
  float most = 0.0f;
  if (w.format == SVDQ_INT4)
    for (int64_t k = threadIdx.x * BLOCK_K; k < w.k; k += THREADS * BLOCK_K)
      most = fmaxf (most, fabsf (group_scale (w, n, k)));
  most = block_max (most);
  if (threadIdx.x != 0)
    return;
  /* NVFP4: the kernel's numbers are 2^-14 of what they stand for. */
  int e = 14;
  if (w.format == SVDQ_INT4)
    e = max (-100, min ((int)(__float_as_uint (most) >> 23) - 127 - 11, 100));
  scale[n] = power_of_two (e) * outer;
  inverse[n] = power_of_two (-e);
}

/* Where gemm_codes_sm90.cu expects an E2M1 code of pair 0 to 3 in half a word: magnitude and sign.
 */
static __device__ __forceinline__ uint32_t
placed_e2m1 (uint32_t code, int pair)
{
  const int magnitude = pair == 0 ? 9 : pair == 1 ? 6 : pair == 2 ? 3 : 0;
  const int sign = pair == 0 ? 15 : pair == 1 ? 12 : pair == 2 ? 14 : 13;
  return (code & 7) << magnitude | (code >> 3) << sign;
}

/* One thread a word of a block: 16 words of eight codes and their scales for each row. */
static __global__ void
pack_kernel (SvdqWeights w, uint8_t *out, const float *inverse)
{
  const int scale_bytes = BLOCK_ROWS * (w.format == SVDQ_INT4 ? 2 : 4);
  const int64_t per_row = w.k / BLOCK_K, block = blockIdx.x;
  const int64_t first_n = block / per_row * BLOCK_ROWS, first_k = block % per_row * BLOCK_K;
  uint8_t *target = out + block * (CODES_BYTES + scale_bytes);
  for (int i = threadIdx.x; i < CODES_BYTES / 4; i += THREADS)
    {
      const int step = i % 4, lane = i / 4 % 32, warp = i / 128;
      uint32_t word = 0;
      for (int pair = 0; pair < 4; pair++)
        {
          const int64_t n = first_n + warp * 16 + lane / 4 + pair % 2 * 8;
          const int64_t k = first_k + step * 16 + lane % 4 * 2 + pair / 2 * 8;
          const uint32_t codes = w.qweight[(n * w.k + k) / 2];
          if (w.format == SVDQ_INT4) /* moved up by 8, in the nibbles `pair` of both halves */
            word |= ((codes & 15) ^ 8) << 4 * pair | ((codes >> 4) ^ 8) << (4 * pair + 16);
          else
            word |= placed_e2m1 (codes & 15, pair) | placed_e2m1 (codes >> 4, pair) << 16;
        }
      reinterpret_cast<uint32_t *> (target)[i] = word;
    }
  for (int i = threadIdx.x; i < BLOCK_ROWS; i += THREADS)
    {
      /* Rows 8 apart are neighbours. */
      const int64_t n = first_n + i / 16 * 16 + i / 2 % 8 + i % 2 * 8;
      if (w.format == SVDQ_INT4)
        reinterpret_cast<__half *> (target + CODES_BYTES)[i]
            = __float2half_rn (group_scale (w, n, first_k) * inverse[n]);
      else
        for (int step = 0; step < GROUPS_OF_64; step++)
          target[CODES_BYTES + i / 2 * 8 + step * 2 + i % 2]
              = ((const uint8_t *)w.wscales)[(first_k / BLOCK_K * w.n + n) * GROUPS_OF_64 + step];
    }
}

/* proj_up [n, rank] as first operand of m16n8k16: blocks of 64 rows and 16 ranks. */
static __global__ void
up_kernel (const bf16 *from, uint32_t *to, int64_t words, int rank)
{
  for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < words;
       i += (int64_t)gridDim.x * THREADS)
    {
      const int word = i % 4, lane = i / 4 % 32, warp = i / 128 % 4;
      const int64_t step = i / 512 % (rank / 16), block = i / 512 / (rank / 16);
      const int64_t n = block * BLOCK_ROWS + warp * 16 + lane / 4 + word % 2 * 8;
      const int64_t r = step * 16 + lane % 4 * 2 + word / 2 * 8;
      to[i] = *reinterpret_cast<const uint32_t *> (from + n * rank + r);
    }
}

Status
svdq_up_fragments (Stream *s, const void *proj_up, int64_t n, int rank, void *fragments)
{
  REQUIRE (s, n % BLOCK_ROWS == 0 && rank % 16 == 0);
  launch_kernel (up_kernel, s->caps.multiprocessors * 8, THREADS, 0, s->compute,
                 (const bf16 *)proj_up, (uint32_t *)fragments, n * rank / 2, rank);
  return LAUNCHED (s);
}

size_t
svdq_codes_bytes (SvdqFormat format, int64_t n, int64_t k)
{
  const size_t blocks = (size_t)(n / BLOCK_ROWS) * (k / BLOCK_K);
  return blocks * (CODES_BYTES + BLOCK_ROWS * (format == SVDQ_INT4 ? 2 : 4));
}

Status
svdq_codes_pack (Stream *s, const SvdqWeights *w, void *codes, float *scale, void *up)
{
  REQUIRE (s, w->n % BLOCK_ROWS == 0 && w->k % BLOCK_K == 0);
  REQUIRE (s, (size_t)w->n * sizeof (float) <= SCRATCH_BYTES);
  float *inverse = (float *)s->scratch;
  const int64_t blocks = w->n / BLOCK_ROWS * (w->k / BLOCK_K);
  launch_kernel (row_scale_kernel, (unsigned)w->n, THREADS, 0, s->compute, *w, scale, inverse);
  CHECK (LAUNCHED (s));
  launch_kernel (pack_kernel, (unsigned)blocks, THREADS, 0, s->compute, *w, (uint8_t *)codes,
                 inverse);
  CHECK (LAUNCHED (s));
  return w->rank > 0 ? svdq_up_fragments (s, w->proj_up, w->n, w->rank, up) : STATUS_OK;
}

/* -- factors of two pairs -----------------------------------------------------------------------
 */

#define JOINERS 256 /* threads, each of 8 ranks of a row */

static __global__ void
join_scaled_kernel (const uint4 *own, int own_rank, const uint4 *added, int added_rank,
                    const float *scale, uint4 *out, int64_t n)
{
  const int own_pitch = LOW_RANK_PITCH (own_rank) / 8;
  const int pitch = LOW_RANK_PITCH (own_rank + added_rank) / 8;
  const int own_units = own_rank / 8, added_units = added_rank / 8;
  for (int64_t i = blockIdx.x * (int64_t)JOINERS + threadIdx.x; i < n * pitch;
       i += (int64_t)gridDim.x * JOINERS)
    {
      const int64_t row = i / pitch;
      const int at = (int)(i % pitch);
      uint4 v = make_uint4 (0, 0, 0, 0);
      if (at < own_units)
        v = own[row * own_pitch + at];
      else if (at < own_units + added_units)
        {
          /* Of a power of two. */
          const __nv_bfloat162 inverse = __float2bfloat162_rn (1.0f / scale[row]);
          v = added[row * added_units + at - own_units];
          __nv_bfloat162 *pairs = reinterpret_cast<__nv_bfloat162 *> (&v);
          for (int j = 0; j < 4; j++)
            pairs[j] = __hmul2 (pairs[j], inverse);
        }
      out[i] = v;
    }
}

Status
svdq_join_scaled (Stream *s, const void *own, int own_rank, const void *added, int added_rank,
                  const float *scale, int64_t n, void *out)
{
  const int64_t blocks = CEIL_DIV (n * LOW_RANK_PITCH (own_rank + added_rank) / 8, JOINERS);
  const int64_t most = s->caps.multiprocessors * 8;
  launch_kernel (join_scaled_kernel, (unsigned)(blocks < most ? blocks : most), JOINERS, 0,
                 s->compute, (const uint4 *)own, own_rank, (const uint4 *)added, added_rank, scale,
                 (uint4 *)out, n);
  return LAUNCHED (s);
}

/* -- smoothing ----------------------------------------------------------------------------------
 */

static __global__ void
split_kernel (const float2 *inverse, uint2 *out, int64_t pairs)
{
  const int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x;
  if (i >= pairs)
    return;
  const float v[2] = { inverse[i].x, inverse[i].y };
  float head[2], rest[2];
  for (int h = 0; h < 2; h++)
    {
      const bool ordinary = v[h] >= 0x1p-100f && v[h] <= 0x1p100f;
      head[h]
          = ordinary ? __bfloat162float (__float2bfloat16_rn (v[h])) : __int_as_float (0x7fc00000);
      rest[h] = v[h] - head[h];
    }
  out[i] = make_uint2 (pack2 (head[0], head[1]), pack2 (rest[0], rest[1]));
}

Status
svdq_split_inverse (Stream *s, const float *inverse, int64_t k, void *out)
{
  REQUIRE (s, k % 2 == 0);
  launch_kernel (split_kernel, (unsigned)CEIL_DIV (k / 2, THREADS), THREADS, 0, s->compute,
                 (const float2 *)inverse, (uint2 *)out, k / 2);
  return LAUNCHED (s);
}

/* -- proj_down in fragments ---------------------------------------------------------------------
 */

/* One thread a word: two k of one rank. from [rank, k]; 16 neighbours of k are the k of a lane's
 * four instructions. */
static __global__ void
fragments_kernel (const bf16 *from, uint32_t *to, int64_t k, int rank)
{
  const int64_t words = k * rank / 2, stride = (int64_t)gridDim.x * blockDim.x;
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < words; i += stride)
    {
      const int word = i % 4, lane = i / 4 % 32, k_step = i / 128 % DOWN_STEPS;
      const int64_t step = i / 512 % (rank / DOWN_RANKS), strip = i / 512 / (rank / DOWN_RANKS);
      const int64_t first = strip * BLOCK_K + lane % 4 * 16 + k_step * 4 + word / 2 * 2;
      const int64_t row = step * DOWN_RANKS + lane / 4 + word % 2 * 8;
      to[i] = *reinterpret_cast<const uint32_t *> (from + row * k + first);
    }
}

Status
svdq_low_rank_fragments (Stream *s, const void *proj_down, int64_t k, int rank, void *fragments)
{
  REQUIRE (s, k % BLOCK_K == 0 && rank % DOWN_RANKS == 0);
  if (rank == 0)
    return STATUS_OK;
  launch_kernel (fragments_kernel, s->caps.multiprocessors * 4, 256, 0, s->compute,
                 (const bf16 *)proj_down, (uint32_t *)fragments, k, rank);
  return LAUNCHED (s);
}
