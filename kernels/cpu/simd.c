/* SPDX-License-Identifier: Apache-2.0
 *
 * Compiled once for each instruction set, with SIMD_TABLE the name of the table to define. The
 * loops are plain C, but for one, that the compiler turns into vectors; `omp simd` allows it to
 * reorder the sums that are marked, and nothing else.
 */
#include "kernels/cpu/simd.h"

#include "kernels/weight-codes.h"

#include <math.h>
#include <string.h>

#ifdef __AVX2__
#include <immintrin.h>
#endif

/* exp, good to 2 units in the last place; saturates beyond the range of normal numbers.
 * 2^(x log2 e) = 2^n 2^r with |r| <= 1/2, the second factor by its Taylor series around 0. */
static inline float
exp_fast (float x)
{
  const float round = 0x1.8p23f; /* adding it leaves the nearest integer in the low bits */
  float clamped = x < -87.0f ? -87.0f : x;
  float shifted, n, r, series, power;
  uint32_t bits;

  clamped = clamped > 88.0f ? 88.0f : clamped;
  shifted = clamped * 0x1.715476p0f + round;
  n = shifted - round;
  r = clamped - n * 0x1.62e4p-1f; /* ln 2 in two parts: the first has few enough bits to be exact */
  r = r - n * 0x1.7f7d1cp-20f;
  series = 1.0f / 720.0f;
  series = series * r + 1.0f / 120.0f;
  series = series * r + 1.0f / 24.0f;
  series = series * r + 1.0f / 6.0f;
  series = series * r + 0.5f;
  series = series * r + 1.0f;
  series = series * r + 1.0f;
  memcpy (&bits, &shifted, sizeof bits);
  bits = (bits << 23) + (127u << 23);
  memcpy (&power, &bits, sizeof power);
  return series * power;
}

static inline float
silu_fast (float x)
{
  return x / (1.0f + exp_fast (-x));
}

/* -- conversions -------------------------------------------------------------------------- */

static void
widen_bf16 (const uint16_t *x, float *out, int64_t n)
{
  for (int64_t i = 0; i < n; i++)
    {
      uint32_t bits = (uint32_t)x[i] << 16;

      memcpy (&out[i], &bits, sizeof bits);
    }
}

static void
widen_f16 (const uint16_t *x, float *out, int64_t n)
{
  for (int64_t i = 0; i < n; i++)
    {
      uint32_t magnitude = (uint32_t)(x[i] & 0x7fffu) << 13;
      uint32_t sign = (uint32_t)(x[i] & 0x8000u) << 16;
      uint32_t bits;
      float value;

      /* The product moves the exponent's bias from 15 to 127, of subnormals too; infinities and
       * NaNs then still miss 112 of it. */
      memcpy (&value, &magnitude, sizeof value);
      value *= 0x1p112f;
      memcpy (&bits, &value, sizeof bits);
      bits = magnitude >= 0x7c00u << 13 ? magnitude | 0x7f800000u : bits;
      bits |= sign;
      memcpy (&out[i], &bits, sizeof bits);
    }
}

static void
narrow_bf16 (const float *x, uint16_t *out, int64_t n)
{
  for (int64_t i = 0; i < n; i++)
    {
      uint32_t bits, rounded;

      memcpy (&bits, &x[i], sizeof bits);
      rounded = bits + 0x7fffu + (bits >> 16 & 1u);
      rounded = (bits & 0x7fffffffu) > 0x7f800000u ? bits | 0x400000u : rounded;
      out[i] = (uint16_t)(rounded >> 16);
    }
}

/* -- codes -------------------------------------------------------------------------------- */

static inline float
scale_of_group (const void *scales, int64_t group)
{
  uint16_t bits;
  float scale;

  memcpy (&bits, (const char *)scales + (size_t)group * sizeof bits, sizeof bits);
  widen_bf16 (&bits, &scale, 1);
  return scale;
}

static void
expand_codes8 (const void *codes, const void *scales, float *out, int64_t n)
{
  for (int64_t first = 0; first < n; first += CODES_GROUP)
    {
      const int8_t *group = (const int8_t *)codes + first;
      float scale = scale_of_group (scales, first / CODES_GROUP);

      for (int i = 0; i < CODES_GROUP; i++)
        out[first + i] = (float)group[i] * scale;
    }
}

#ifdef __AVX2__
/* out = 8 of the signed bytes in `values`, from its lowest on, times scale. */
static inline void
store8 (__m128i values, __m256 scale, float *out)
{
  _mm256_storeu_ps (out, _mm256_mul_ps (_mm256_cvtepi32_ps (_mm256_cvtepi8_epi32 (values)), scale));
}

/* The table is one register, and a shuffle looks up sixteen codes in it; compilers make one look-up
 * a code of the loop below, which takes three times as long. */
static void
expand_codes4 (const void *codes, const void *scales, float *out, int64_t n)
{
  static const int8_t values[16] = CODES_TABLE;
  const __m128i table = _mm_loadu_si128 ((const __m128i *)(const void *)values);
  const __m128i low = _mm_set1_epi8 (15);

  for (int64_t at = 0; at < n; at += 32)
    {
      __m256 scale = _mm256_set1_ps (scale_of_group (scales, at / CODES_GROUP));
      __m128i pairs
          = _mm_loadu_si128 ((const __m128i *)(const void *)((const char *)codes + at / 2));
      __m128i even = _mm_shuffle_epi8 (table, _mm_and_si128 (pairs, low));
      __m128i odd = _mm_shuffle_epi8 (table, _mm_and_si128 (_mm_srli_epi16 (pairs, 4), low));
      __m128i first = _mm_unpacklo_epi8 (even, odd), second = _mm_unpackhi_epi8 (even, odd);

      store8 (first, scale, out + at);
      store8 (_mm_srli_si128 (first, 8), scale, out + at + 8);
      store8 (second, scale, out + at + 16);
      store8 (_mm_srli_si128 (second, 8), scale, out + at + 24);
    }
}
#else
static void
expand_codes4 (const void *codes, const void *scales, float *out, int64_t n)
{
  static const float table[16] = CODES_TABLE;

  for (int64_t first = 0; first < n; first += CODES_GROUP)
    {
      const uint8_t *group = (const uint8_t *)codes + first / 2;
      float scale = scale_of_group (scales, first / CODES_GROUP);
      float values[CODES_GROUP];

      for (int i = 0; i < CODES_GROUP / 2; i++)
        {
          values[2 * i] = table[group[i] & 15];
          values[2 * i + 1] = table[group[i] >> 4];
        }
      for (int i = 0; i < CODES_GROUP; i++)
        out[first + i] = values[i] * scale;
    }
}
#endif

/* -- norms -------------------------------------------------------------------------------- */

static inline float
inverse_rms (const float *x, float eps, int64_t n)
{
  float sum = 0.0f;

#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++)
    sum += x[i] * x[i];
  return 1.0f / sqrtf (sum / (float)n + eps);
}

static void
rms_norm (const float *x, const float *weight, const float *scale, float eps, float *out, int64_t n)
{
  float inverse = inverse_rms (x, eps, n);

  if (weight != NULL && scale != NULL)
    for (int64_t i = 0; i < n; i++)
      out[i] = x[i] * inverse * weight[i] * scale[i];
  else if (weight != NULL || scale != NULL)
    {
      const float *vector = weight != NULL ? weight : scale;

      for (int64_t i = 0; i < n; i++)
        out[i] = x[i] * inverse * vector[i];
    }
  else
    for (int64_t i = 0; i < n; i++)
      out[i] = x[i] * inverse;
}

static void
add_branch (float *x, const float *y, const float *post, const float *gate, float eps, int64_t n)
{
  float inverse = post != NULL ? inverse_rms (y, eps, n) : 1.0f;

  if (post != NULL && gate != NULL)
    for (int64_t i = 0; i < n; i++)
      x[i] += gate[i] * (y[i] * inverse * post[i]);
  else if (post != NULL || gate != NULL)
    {
      const float *vector = post != NULL ? post : gate;

      for (int64_t i = 0; i < n; i++)
        x[i] += y[i] * inverse * vector[i];
    }
  else
    for (int64_t i = 0; i < n; i++)
      x[i] += y[i];
}

static void
layer_norm (const float *x, const float *scale, float eps, float *out, int64_t n)
{
  float sum = 0.0f;
  float squares = 0.0f;
  float mean, inverse;

#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++)
    sum += x[i];
  mean = sum / (float)n;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < n; i++)
    squares += (x[i] - mean) * (x[i] - mean);
  inverse = 1.0f / sqrtf (squares / (float)n + eps);
  if (scale != NULL)
    for (int64_t i = 0; i < n; i++)
      out[i] = (x[i] - mean) * inverse * scale[i];
  else
    for (int64_t i = 0; i < n; i++)
      out[i] = (x[i] - mean) * inverse;
}

static void
rotate_pairs (float *x, const float *table, int64_t d)
{
  for (int64_t i = 0; i < d; i += 2)
    {
      float a = x[i];
      float b = x[i + 1];

      x[i] = a * table[i] - b * table[i + 1];
      x[i + 1] = a * table[i + 1] + b * table[i];
    }
}

static void
rotate_halves (float *x, const float *table, int64_t d)
{
  float *second = x + d / 2;

#pragma omp simd
  for (int64_t i = 0; i < d / 2; i++)
    {
      float a = x[i];
      float b = second[i];

      x[i] = a * table[2 * i] - b * table[2 * i + 1];
      second[i] = a * table[2 * i + 1] + b * table[2 * i];
    }
}

/* -- activations -------------------------------------------------------------------------- */

static void
silu (const float *x, float *out, int64_t n)
{
#pragma omp simd
  for (int64_t i = 0; i < n; i++)
    out[i] = silu_fast (x[i]);
}

static void
silu_mul (const float *x, const float *y, float *out, int64_t n)
{
#pragma omp simd
  for (int64_t i = 0; i < n; i++)
    out[i] = silu_fast (x[i]) * y[i];
}

static float
softmax_step (float *x, int64_t n, float *largest, float *sum)
{
  float top = *largest;
  float total = 0.0f;
  float shrink;

#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < n; i++)
    top = x[i] > top ? x[i] : top;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < n; i++)
    {
      x[i] = exp_fast (x[i] - top);
      total += x[i];
    }
  shrink = *sum > 0.0f ? expf (*largest - top) : 0.0f;
  *sum = *sum * shrink + total;
  *largest = top;
  return shrink;
}

static void
scale (float *x, float factor, int64_t n)
{
  for (int64_t i = 0; i < n; i++)
    x[i] *= factor;
}

/* -- pictures ----------------------------------------------------------------------------- */

static void
channel_sums (const float *x, const float *pivot, int64_t pixels, int64_t channels, float *sum,
              float *squares)
{
  for (int64_t p = 0; p < pixels; p++)
    {
      const float *pixel = x + p * channels;

#pragma omp simd
      for (int64_t c = 0; c < channels; c++)
        {
          float value = pixel[c] - pivot[c];

          sum[c] += value;
          squares[c] += value * value;
        }
    }
}

static void
channel_affine (const float *x, const float *centre, const float *factor, const float *offset,
                bool with_silu, int64_t pixels, int64_t channels, float *out)
{
  for (int64_t p = 0; p < pixels; p++)
    {
      const float *pixel = x + p * channels;
      float *to = out + p * channels;

      if (with_silu)
#pragma omp simd
        for (int64_t c = 0; c < channels; c++)
          to[c] = silu_fast ((pixel[c] - centre[c]) * factor[c] + offset[c]);
      else
#pragma omp simd
        for (int64_t c = 0; c < channels; c++)
          to[c] = (pixel[c] - centre[c]) * factor[c] + offset[c];
    }
}

/* Pixels moved together: enough to fill whole cache lines in the packed array, few enough to stay
 * in the first-level cache whatever the strides. */
#define PIXELS 8

/* `n` channels of the pixels [start, end); those up to `block` become zeros. */
static inline __attribute__ ((always_inline)) void
pack_block (const float *x, int64_t channels, int64_t start, int64_t end, int block, int n,
            float *to)
{
  for (int64_t p = start; p < end; p++)
    {
#pragma omp simd
      for (int i = 0; i < n; i++)
        to[p * block + i] = x[p * channels + i];
      for (int i = n; i < block; i++)
        to[p * block + i] = 0.0f;
    }
}

static void
pack (const float *x, int64_t channels, int64_t width, int block, int64_t plane, float *out)
{
  for (int64_t start = 0; start < width; start += PIXELS)
    {
      int64_t end = width - start < PIXELS ? width : start + PIXELS;

      for (int64_t c = 0; c < channels; c += block)
        {
          float *to = out + c / block * plane;

          /* Constants let the compiler make whole vectors of the inner loop. */
          if (block == 8 && channels - c >= 8)
            pack_block (x + c, channels, start, end, 8, 8, to);
          else if (block == 16 && channels - c >= 16)
            pack_block (x + c, channels, start, end, 16, 16, to);
          else
            pack_block (x + c, channels, start, end, block,
                        channels - c < block ? (int)(channels - c) : block, to);
        }
    }
}

static inline __attribute__ ((always_inline)) void
unpack_block (const float *from, int64_t step, int64_t start, int64_t end, int block, int n,
              const float *residual, float *out)
{
  for (int64_t p = start; p < end; p++)
    if (residual != NULL)
#pragma omp simd
      for (int i = 0; i < n; i++)
        out[p * step + i] = from[p * block + i] + residual[p * step + i];
    else
#pragma omp simd
      for (int i = 0; i < n; i++)
        out[p * step + i] = from[p * block + i];
}

static void
unpack (const float *packed, int64_t channels, int64_t width, int block, int64_t plane,
        int64_t step, const float *residual, float *out)
{
  for (int64_t start = 0; start < width; start += PIXELS)
    {
      int64_t end = width - start < PIXELS ? width : start + PIXELS;

      for (int64_t c = 0; c < channels; c += block)
        {
          const float *from = packed + c / block * plane;
          const float *added = residual != NULL ? residual + c : NULL;

          if (block == 8 && channels - c >= 8)
            unpack_block (from, step, start, end, 8, 8, added, out + c);
          else if (block == 16 && channels - c >= 16)
            unpack_block (from, step, start, end, 16, 16, added, out + c);
          else
            unpack_block (from, step, start, end, block,
                          channels - c < block ? (int)(channels - c) : block, added, out + c);
        }
    }
}

/* What `n` taps of one row add to the 3 values of each of two pixels, which begin at x and at y;
 * the weights of the 3 values are `step` apart. */
static inline __attribute__ ((always_inline)) void
add_taps (const float *x, const float *y, const float *weight, int64_t n, int64_t step, float *sums)
{
  float x0 = 0.0f, x1 = 0.0f, x2 = 0.0f, y0 = 0.0f, y1 = 0.0f, y2 = 0.0f;

#pragma omp simd reduction(+ : x0, x1, x2, y0, y1, y2)
  for (int64_t i = 0; i < n; i++)
    {
      float w0 = weight[i];
      float w1 = weight[step + i];
      float w2 = weight[2 * step + i];

      x0 += x[i] * w0;
      x1 += x[i] * w1;
      x2 += x[i] * w2;
      y0 += y[i] * w0;
      y1 += y[i] * w1;
      y2 += y[i] * w2;
    }
  sums[0] += x0;
  sums[1] += x1;
  sums[2] += x2;
  sums[3] += y0;
  sums[4] += y1;
  sums[5] += y2;
}

static void
conv_to_rgb (const float *const *rows, int64_t width, int64_t channels, const float *weight,
             const float *bias, float *out)
{
  int64_t row_taps = 3 * channels;

  for (int64_t x = 0; x < width;)
    {
      bool pair = x > 0 && x + 2 < width; /* both pixels have both neighbours */
      int64_t before = x > 0 ? channels : 0;
      int64_t after = x + 1 < width ? channels : 0;
      float sums[6] = { 0 };

      for (int ky = 0; ky < 3; ky++)
        if (rows[ky] != NULL)
          {
            const float *first = rows[ky] + x * channels - before;

            add_taps (first, pair ? first + channels : first,
                      weight + ky * row_taps + channels - before, before + channels + after,
                      3 * row_taps, sums);
          }
      for (int i = 0; i < (pair ? 6 : 3); i++)
        out[x * 3 + i] = sums[i] + (bias != NULL ? bias[i % 3] : 0.0f);
      x += pair ? 2 : 1;
    }
}

const Simd SIMD_TABLE = {
  .name = SIMD_NAME,
  .widen_bf16 = widen_bf16,
  .widen_f16 = widen_f16,
  .narrow_bf16 = narrow_bf16,
  .expand_codes8 = expand_codes8,
  .expand_codes4 = expand_codes4,
  .rms_norm = rms_norm,
  .add_branch = add_branch,
  .layer_norm = layer_norm,
  .rotate_pairs = rotate_pairs,
  .rotate_halves = rotate_halves,
  .silu = silu,
  .silu_mul = silu_mul,
  .softmax_step = softmax_step,
  .scale = scale,
  .channel_sums = channel_sums,
  .channel_affine = channel_affine,
  .pack = pack,
  .unpack = unpack,
  .conv_to_rgb = conv_to_rgb,
};
