/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of INT4 codes by 8-bit integer instructions, for cards whose tensor cores have no 4-bit
 * integers (sm_90 and up).
 *
 * A nibble becomes the upper half of a byte, 16 times its value, which costs a shift and a mask
 * for four of them and keeps the sign; a group's sum then is 256 p, where p is what it should be,
 * and at most 2^20. It starts from the bits of MAGIC = 1.5 2^23, so that the integer result read as
 * a float is MAGIC + 256 p. With sa and ws the scales (8 bits each), level L1 wants
 *   acc = fma (p, sa ws, acc).
 * Here t = fma (MAGIC + 256 p, sa / 256, -MAGIC sa / 256) = p sa, which is exact, and acc = fma (t,
 * ws, acc): the same number rounded once. (Scales beyond 2^111 would overflow on the way.)
 */
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/svdq_heads.cuh"

#define MAGIC      12582912.0f
#define MAGIC_BITS 0x4b400000

/* The nibbles of even k of a word, and of odd k, each 16 times its value. */
static __device__ __forceinline__ uint32_t
even (uint32_t word)
{
  return word << 4 & 0xf0f0f0f0u;
}

static __device__ __forceinline__ uint32_t
odd (uint32_t word)
{
  return word & 0xf0f0f0f0u;
}

struct Int4AsInt8
{
  static constexpr bool RUNS = true;
  static constexpr float UNIT = 1.0f;

  /* The scale of a row: what turns a result into p sa. */
  struct RowScale
  {
    float by, minus;

    __device__ __forceinline__
    RowScale (float scale)
        : by (scale * (1.0f / 256.0f)), minus (scale * (-MAGIC / 256.0f))
    {
    }
  };

  static __device__ __forceinline__ void
  fold (float &sum, int product, const RowScale &row, float column)
  {
    sum = fmaf (fmaf (__int_as_float (product), row.by, row.minus), column, sum);
  }

  /* A tile of rows as bytes: a[0] k below 32, a[1] the others. Which k is in which place does not
   * matter, so long as both operands agree. */
  static __device__ __forceinline__ void
  load_rows (uint32_t a[2][4], uint32_t x, int i)
  {
    uint32_t words[4];
    svdq_load_a (words, x, i);
#pragma unroll
    for (int half = 0; half < 2; half++)
      {
        a[half][0] = even (words[half * 2]), a[half][1] = even (words[half * 2 + 1]);
        a[half][2] = odd (words[half * 2]), a[half][3] = odd (words[half * 2 + 1]);
      }
  }

  /* FEW tiles of columns as bytes: b[column][2 half + odd]. */
  template <int FEW>
  static __device__ __forceinline__ void
  load_columns (uint32_t (&b)[FEW][4], uint32_t w, int first)
  {
#pragma unroll
    for (int j = 0; j < FEW; j += 2)
      {
        uint32_t words[4];
        svdq_load_b (words, w, (first + j) / 2);
#pragma unroll
        for (int i = 0; i < 4; i++)
          {
            b[j + i / 2][i % 2 * 2] = even (words[i]);
            b[j + i / 2][i % 2 * 2 + 1] = odd (words[i]);
          }
      }
  }

  /* Columns in two halves, which saves the registers of one. */
  template <typename T>
  static __device__ __forceinline__ void
  multiply (float (&d)[T::DOWN][T::ALONG][4], const SvdqShare &s)
  {
    constexpr int FEW = T::ALONG / 2;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int first = 0; first < T::ALONG; first += FEW)
      {
        uint32_t b[FEW][4], scale_b[FEW];
        load_columns (b, s.w, first);
#pragma unroll
        for (int j = 0; j < FEW; j++)
          scale_b[j] = shared_word (s.w_scales + ((first + j) * 8 + t * 2) * 2);
#pragma unroll
        for (int i = 0; i < T::DOWN; i++)
          {
            uint32_t a[2][4];
            load_rows (a, s.x, i);
            const RowScale upper = shared_bf16 (s.x_scales + (i * 16 + g) * 2);
            const RowScale lower = shared_bf16 (s.x_scales + (i * 16 + 8 + g) * 2);
#pragma unroll
            for (int j = 0; j < FEW; j++)
              {
                const float left = __uint_as_float (scale_b[j] << 16);
                const float right = __uint_as_float (scale_b[j] & 0xffff0000u);
                float *sums = d[i][first + j];
                int c[4] = { MAGIC_BITS, MAGIC_BITS, MAGIC_BITS, MAGIC_BITS };
                mma_s8 (c, a[0], b[j][0], b[j][1]);
                mma_s8 (c, a[1], b[j][2], b[j][3]);
                fold (sums[0], c[0], upper, left);
                fold (sums[1], c[1], upper, right);
                fold (sums[2], c[2], lower, left);
                fold (sums[3], c[3], lower, right);
              }
          }
      }
  }
};

typedef SvdqTile<128, 64, 2, 2, 5, 2, 2> LargeTile;
typedef SvdqTile<64, 64, 2, 2, 5, 4, 2> SmallTile;
/* The warps of LargeTile side by side. */
typedef SvdqTile<64, 128, 1, 4, 5, 2, 2> HeadsTile;

Status
svdq_gemm_int8 (Stream *s, const SvdqGemm *g)
{
  if (g->heads != NULL)
    return svdq_launch_heads<HeadsTile, HeadsTile, Int4AsInt8> (s, g, SVDQ_INT4);
  return svdq_launch<LargeTile, SmallTile, Int4AsInt8> (s, g, SVDQ_INT4);
}
