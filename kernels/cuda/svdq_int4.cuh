/* SPDX-License-Identifier: Apache-2.0
 *
 * svdq_int4.cuh - how a stage of INT4 codes is multiplied by 4-bit integer instructions
 *
 * The fold. A group's sum p is exact; the mma adds it to the bits of MAGIC = 1.5 2^23, so that its
 * result is the float MAGIC + p. With sa, ws the scales (8 bits each), level L1 wants
 *   acc = fma (p, sa ws, acc).
 * Here t = fma (MAGIC + p, sa, -MAGIC sa) = p sa, which is exact, and acc = fma (t, ws, acc): the
 * same number rounded once, by two instructions instead of three. (Scales beyond 2^103 would
 * overflow on the way.)
 */
#pragma once

#include "kernels/cuda/svdq.cuh"
#include "kernels/cuda/svdq_tile.cuh"

/* The instruction that multiplies: run (d, a, b0, b1, c) is d = a b + c on [16, 64] by [64, 8],
 * fragments as those of mma.m16n8k64. */
template <typename Instruction> struct Int4By
{
  static constexpr bool RUNS = Instruction::RUNS;
  static constexpr float UNIT = 1.0f;

  /* The rows' part of the fold: p sa of a result that has MAGIC in it. */
  struct RowScale
  {
    float by, minus;
  };

  template <typename T>
  static __device__ __forceinline__ void
  load_rows (uint32_t (&a)[T::DOWN][4], RowScale (&scales)[T::DOWN][2], const SvdqShare &s)
  {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < T::DOWN; i++)
      {
        svdq_load_a (a[i], s.x, i);
#pragma unroll
        for (int h = 0; h < 2; h++)
          {
            const float scale = shared_bf16 (s.x_scales + (i * 16 + h * 8 + lane / 4) * 2);
            scales[i][h] = { scale, __fmul_rn (scale, -SVDQ_MAGIC) };
          }
      }
  }

  template <typename T>
  static __device__ __forceinline__ void
  multiply (float (&d)[T::DOWN][T::ALONG][4], const SvdqShare &s)
  {
    uint32_t a[T::DOWN][4], b[4], magic[4];
    RowScale rows[T::DOWN][2];
    load_rows<T> (a, rows, s);
    /* Not known as constants, or they would be made anew for each mma. */
#pragma unroll
    for (int i = 0; i < 4; i++)
      magic[i] = opaque_word<SVDQ_MAGIC_BITS> ();
#pragma unroll
    for (int j = 0; j < T::ALONG; j++)
      {
        if (j % 2 == 0)
          svdq_load_b (b, s.w, j / 2);
        const uint32_t both = shared_word (s.w_scales + (j * 8 + threadIdx.x % 4 * 2) * 2);
        const float ws[2] = { __uint_as_float (both << 16), __uint_as_float (both & 0xffff0000u) };
#pragma unroll
        for (int i = 0; i < T::DOWN; i++)
          {
            uint32_t sum[4];
            Instruction::run (sum, a[i], b[j % 2 * 2], b[j % 2 * 2 + 1], magic);
#pragma unroll
            for (int c = 0; c < 4; c++)
              {
                const RowScale row = rows[i][c / 2];
                const float scaled = __fmaf_rn (__uint_as_float (sum[c]), row.by, row.minus);
                d[i][j][c] = __fmaf_rn (scaled, ws[c % 2], d[i][j][c]);
              }
          }
      }
  }
};
