/* SPDX-License-Identifier: Apache-2.0
 *
 * svdq_fp4.cuh - the two ways to multiply a stage of NVFP4 codes (svdq_tile.cuh)
 */
#pragma once

#include "kernels/cuda/mma_fp4.cuh"
#include "kernels/cuda/svdq_tile.cuh"

/* By the block-scaled instruction: all of an NVFP4 product happens inside it. A lane loads one
 * word of scales for two tiles of rows and one for four tiles of columns. */
template <typename Instruction> struct Fp4BlockScaled
{
  static constexpr bool RUNS = Instruction::RUNS;
  static constexpr float UNIT = 1.0f;

  template <typename T>
  static __device__ __forceinline__ void
  multiply (float (&d)[T::DOWN][T::ALONG][4], const SvdqShare &s)
  {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint32_t a[T::DOWN][4], scale_a[T::DOWN / 2];
#pragma unroll
    for (int i = 0; i < T::DOWN; i++)
      svdq_load_a (a[i], s.x, i);
#pragma unroll
    for (int i = 0; i < T::DOWN / 2; i++)
      scale_a[i] = shared_word (s.x_scales + (i * 32 + t * 8 + g) * 4);
#pragma unroll
    for (int j = 0; j < T::ALONG; j += 4)
      {
        const uint32_t scale_b = shared_word (s.w_scales + (j * 8 + t * 8 + g) * 4);
        uint32_t b[2][4];
        svdq_load_b (b[0], s.w, j / 2);
        svdq_load_b (b[1], s.w, j / 2 + 1);
#pragma unroll
        for (int i = 0; i < T::DOWN; i += 2)
          {
            four<T, 0> (d[i], j, a[i], b, scale_a[i / 2], scale_b);
            four<T, 1> (d[i + 1], j, a[i + 1], b, scale_a[i / 2], scale_b);
          }
      }
  }

  /* One tile of rows and four of columns. */
  template <typename T, int TILE_A>
  static __device__ __forceinline__ void
  four (float (&d)[T::ALONG][4], int j, const uint32_t a[4], const uint32_t b[2][4],
        uint32_t scale_a, uint32_t scale_b)
  {
    Instruction::template run<TILE_A, 0> (d[j], a, b[0][0], b[0][1], scale_a, scale_b);
    Instruction::template run<TILE_A, 1> (d[j + 1], a, b[0][2], b[0][3], scale_a, scale_b);
    Instruction::template run<TILE_A, 2> (d[j + 2], a, b[1][0], b[1][1], scale_a, scale_b);
    Instruction::template run<TILE_A, 3> (d[j + 3], a, b[1][2], b[1][3], scale_a, scale_b);
  }
};

/* By products in FP16, for cards without that instruction. A code times its scale has 6
 * significant bits at most and is a multiple of 2^-10 below 2700, so operands and products are
 * exact: the arithmetic is that of the instruction but for the order of sums. (BF16 would do as
 * well; as bits, E2M1 and E4M3 are FP16 and FP16 with a smaller exponent, and one multiplication
 * puts both right.) Codes are expanded in registers: the four numbers of a lane's word that one mma
 * takes are k = j, j + 4, j + 1, j + 5 of the word's eight, for either operand alike, as a sum may
 * take its terms in any order. */
struct Fp4Expanded
{
  static constexpr bool RUNS = true;
  static constexpr float UNIT = 16384.0f; /* operands are 2^7 too small */

  /* Scale `group` of a word, twice, 2^7 times its value. As bits it is 2^8 too small. */
  static __device__ __forceinline__ uint32_t
  scale (uint32_t word, int group)
  {
    const uint32_t byte = word >> group * 8 & 0x7f;
    const uint32_t bits = byte == 0x7f ? 0x7fff : byte << 7;
    return multiply_f16x2 (bits | bits << 16, 0x78007800u);
  }

  /* Numbers j and j + 4 of a word. As bits they are 2^14 too small. */
  static __device__ __forceinline__ uint32_t
  pair (uint32_t word, int j, uint32_t scale)
  {
    const uint32_t signs = word << (12 - 4 * j) & 0x80008000u;
    const uint32_t low = j == 3 ? word >> 3 : word << (9 - 4 * j);
    return multiply_f16x2 (signs | (low & 0x0e000e00u), scale);
  }

  /* 32 of the 64 k at a time, in two mma of 16. */
  template <typename T>
  static __device__ __forceinline__ void
  multiply (float (&d)[T::DOWN][T::ALONG][4], const SvdqShare &s)
  {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int half = 0; half < 2; half++)
      {
        const int group = half * 2 + t / 2;
        uint32_t words[T::ALONG / 2][4], scale_b[T::ALONG];
#pragma unroll
        for (int j = 0; j < T::ALONG; j++)
          scale_b[j] = scale (shared_word (s.w_scales + (j * 8 + g) * 4), group);
#pragma unroll
        for (int j = 0; j < T::ALONG / 2; j++)
          svdq_load_b (words[j], s.w, j);
#pragma unroll
        for (int quarter = 0; quarter < 4; quarter += 2)
          {
            uint32_t b[T::ALONG][2];
#pragma unroll
            for (int j = 0; j < T::ALONG; j++)
              {
                const uint32_t word = words[j / 2][j % 2 * 2 + half];
                b[j][0] = pair (word, quarter, scale_b[j]);
                b[j][1] = pair (word, quarter + 1, scale_b[j]);
              }
#pragma unroll
            for (int i = 0; i < T::DOWN; i++)
              {
                uint32_t rows[4], a[4];
                svdq_load_a (rows, s.x, i);
#pragma unroll
                for (int down = 0; down < 2; down++)
                  {
                    const uint32_t at = s.x_scales + (i * 16 + down * 8 + g) * 4;
                    const uint32_t by = scale (shared_word (at), group);
                    a[down] = pair (rows[half * 2 + down], quarter, by);
                    a[down + 2] = pair (rows[half * 2 + down], quarter + 1, by);
                  }
#pragma unroll
                for (int j = 0; j < T::ALONG; j++)
                  mma_f16 (d[i][j], a, b[j][0], b[j][1]);
              }
          }
      }
  }
};

/* Two blocks of four warps on a multiprocessor, each warp 64 x 64 outputs: a fragment is used four
 * or eight times, and one block multiplies while the other begins or ends its tile. */
typedef SvdqTile<128, 128, 2, 2, 5, 2, 4> Fp4LargeTile;
typedef SvdqTile<64, 64, 2, 2, 5, 4, 4> Fp4SmallTile;
typedef SvdqTile<64, 128, 2, 2, 4, 3, 4> Fp4SmallHeadsTile;
