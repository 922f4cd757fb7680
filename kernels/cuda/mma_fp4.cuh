/* SPDX-License-Identifier: Apache-2.0
 *
 * mma_fp4.cuh - the block-scaled matrix instruction of sm_120, and the same arithmetic in software
 *
 *   c [16, 8] += (a [16, 64] * scales of a) (b [64, 8] * scales of b)
 *
 * a and b hold E2M1 codes, 8 to a word: a[0] row g, k 8t..8t+7 (g = lane / 4, t = lane % 4); a[1]
 * row g + 8; a[2], a[3] the same rows from k 32 on; b[0], b[1] column g, k as a[0], a[2]. A word
 * of scales holds four E4M3, one for 16 k each, the first in the low byte. One register of scales
 * serves two tiles of a and four of b: lanes t = 2 TILE_A and 2 TILE_A + 1 of each four give rows
 * g and g + 8, lane t = TILE_B gives column g. (PTX manual, mma with block scaling; spec 5.2)
 */
#pragma once

#include <cuda_fp16.h>
#include <stdint.h>

/* Set while compiling for a card that has the instruction. */
#if defined(__CUDA_ARCH_FEAT_SM120_ALL) || defined(__CUDA_ARCH_FEAT_SM121_ALL)                     \
    || (defined(__CUDA_ARCH_FAMILY_SPECIFIC__) && __CUDA_ARCH_FAMILY_SPECIFIC__ == 1200)
#define BLOCK_SCALED_MMA 1
#else
#define BLOCK_SCALED_MMA 0
#endif

/* The instruction itself; does nothing where there is none. */
struct Fp4Instruction
{
  static constexpr bool RUNS = BLOCK_SCALED_MMA;

  template <int TILE_A, int TILE_B>
  static __device__ __forceinline__ void
  run (float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1, uint32_t scale_a,
       uint32_t scale_b)
  {
#if BLOCK_SCALED_MMA
    asm volatile("mma.sync.aligned.kind::mxf4nvf4.block_scale.scale_vec::4X.m16n8k64.row.col"
                 ".f32.e2m1.e2m1.f32.ue4m3 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3}, {%10}, {0, %12}, {%11}, {0, %13};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(scale_a),
                   "r"(scale_b), "n"(TILE_A), "n"(TILE_B));
#endif
  }
};

/* The same for any card, for tests: fragments and scales are fetched from the lanes that the
 * instruction takes them from. Sums of 16 products and their scaled values are exact, as they are
 * in the instruction; the four of them are added in FP32. */
struct Fp4Software
{
  static constexpr bool RUNS = true;

  static __device__ __forceinline__ int
  doubled (uint32_t code)
  {
    const int magnitude = (0xc8643210u >> (code & 7) * 4) & 15;
    return code & 8 ? -magnitude : magnitude;
  }

  /* E4M3 without sign, or NaN for 0x7f. */
  static __device__ __forceinline__ float
  scale (uint32_t word, int group)
  {
    const uint32_t byte = word >> group * 8 & 0x7f;
    if (byte == 0x7f)
      return __uint_as_float (0x7fffffffu);
    return __half2float (__ushort_as_half ((unsigned short)(byte << 7))) * 256.0f;
  }

  /* Eight products, in quarters. */
  static __device__ __forceinline__ int
  dot8 (uint32_t a, uint32_t b)
  {
    int sum = 0;
    for (int i = 0; i < 32; i += 4)
      sum += doubled (a >> i & 15) * doubled (b >> i & 15);
    return sum;
  }

  template <int TILE_A, int TILE_B>
  static __device__ __noinline__ void
  run (float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1, uint32_t scale_a,
       uint32_t scale_b)
  {
    const uint32_t all = 0xffffffffu;
    const int lane = threadIdx.x % 32, first = lane & ~3, t = lane % 4;
    for (int out = 0; out < 4; out++)
      {
        const int down = out / 2, column = 2 * t + out % 2;
        const uint32_t sa = __shfl_sync (all, scale_a, first + 2 * TILE_A + down);
        const uint32_t sb = __shfl_sync (all, scale_b, column * 4 + TILE_B);
        for (int half = 0; half < 2; half++)
          for (int pair = 0; pair < 2; pair++) /* 16 k: the words of two lanes */
            {
              const int group = half * 2 + pair;
              int sum = 0;
              for (int i = 2 * pair; i < 2 * pair + 2; i++)
                {
                  const uint32_t low = __shfl_sync (all, a[half * 2], first + i);
                  const uint32_t high = __shfl_sync (all, a[half * 2 + 1], first + i);
                  const uint32_t b = __shfl_sync (all, half ? b1 : b0, column * 4 + i);
                  sum += dot8 (down ? high : low, b);
                }
              c[out] += (float)sum * 0.25f * (scale (sa, group) * scale (sb, group));
            }
      }
  }
};
