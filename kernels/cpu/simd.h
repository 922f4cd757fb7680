/* SPDX-License-Identifier: Apache-2.0
 *
 * simd.h - the inner loops, once for each instruction set
 *
 * simd.c is compiled three times, for SSE2, for AVX2 and for AVX-512, and each time defines one
 * table of the functions below. A Stream picks the best table that the processor can run, so that
 * one program serves every x86-64. The functions work on one row and know no threads.
 * n, f, d: numbers of floats. Arrays may overlap only where they are the same.
 */
#pragma once

#include "kernels/kernels.h"

typedef struct
{
  const char *name;

  /* BF16 and F16 to F32 and back; narrowing rounds to nearest, ties to even. */
  void (*widen_bf16) (const uint16_t *x, float *out, int64_t n);
  void (*widen_f16) (const uint16_t *x, float *out, int64_t n);
  void (*narrow_bf16) (const float *x, uint16_t *out, int64_t n);

  /* n weights from codes of 8 bit or pairs of 4 bit, and scales (BF16, at any address); n is a
   * multiple of CODES_GROUP. (weight-codes.h) */
  void (*expand_codes8) (const void *codes, const void *scales, float *out, int64_t n);
  void (*expand_codes4) (const void *codes, const void *scales, float *out, int64_t n);

  /* out = RMS(x) * weight * scale; weight or scale may be NULL; x and out may be the same. */
  void (*rms_norm) (const float *x, const float *weight, const float *scale, float eps, float *out,
                    int64_t n);
  /* x += gate * RMS(y) * post; gate may be NULL; post NULL: y as it is. */
  void (*add_branch) (float *x, const float *y, const float *post, const float *gate, float eps,
                      int64_t n);
  /* out = LayerNorm(x) * scale; x and out may be the same. */
  void (*layer_norm) (const float *x, const float *scale, float eps, float *out, int64_t n);
  /* Rotates one head of d floats in place by `table` [d/2, 2] = (cos, sin). */
  void (*rotate_pairs) (float *x, const float *table, int64_t d);
  void (*rotate_halves) (float *x, const float *table, int64_t d);

  /* out = silu(x), and out = silu(x) * y; out may be x. */
  void (*silu) (const float *x, float *out, int64_t n);
  void (*silu_mul) (const float *x, const float *y, float *out, int64_t n);

  /* One row of online softmax: raises *largest to the maximum of it and x, turns x into
   * exp (x - *largest) and adds that to *sum, which is first multiplied by the return value: the
   * factor by which earlier results shrink, exp (old maximum - new maximum). */
  float (*softmax_step) (float *x, int64_t n, float *largest, float *sum);
  /* x *= factor */
  void (*scale) (float *x, float factor, int64_t n);

  /* Sums over `pixels` rows of [.., channels]: sum += x - pivot, squares += (x - pivot)^2. */
  void (*channel_sums) (const float *x, const float *pivot, int64_t pixels, int64_t channels,
                        float *sum, float *squares);
  /* out = (x - centre) * factor + offset, by channel, then SiLU if asked; x and out may be the
   * same. */
  void (*channel_affine) (const float *x, const float *centre, const float *factor,
                          const float *offset, bool silu, int64_t pixels, int64_t channels,
                          float *out);

  /* One row of `width` pixels into packed channels (conv.h) and back. plane: floats from one block
   * of channels to the next; step: floats from one unpacked pixel to the next. `residual` is added,
   * lies as out does and may be out; NULL: none. */
  void (*pack) (const float *x, int64_t channels, int64_t width, int block, int64_t plane,
                float *out);
  void (*unpack) (const float *packed, int64_t channels, int64_t width, int block, int64_t plane,
                  int64_t step, const float *residual, float *out);

  /* One row of a 3x3 convolution to 3 channels: rows [3] of [width, channels], NULL above and below
   * the picture; weight [3, 3, 3 channels] (out; row; column and channel in); out [width, 3]. */
  void (*conv_to_rgb) (const float *const *rows, int64_t width, int64_t channels,
                       const float *weight, const float *bias, float *out);
} Simd;

extern const Simd simd_sse2;
extern const Simd simd_avx2;
extern const Simd simd_avx512;
