/* SPDX-License-Identifier: Apache-2.0
 *
 * What the lanes of a warp do together, by the tables of fragments in the PTX manual ("Warp-level
 * matrix instructions"). With g = lane / 4 and t = lane % 4:
 *
 *   m16n8k16 (16-bit numbers), m16n8k32 (bytes), m16n8k64 (nibbles): a row of an operand is four
 *   times two words, and word t of the first four and of the second are what a lane holds of it.
 *     a[0], a[2]: words t and 4 + t of row g; a[1], a[3]: of row g + 8
 *     b[0], b[1]: words t and 4 + t of column g
 *     c[0], c[1]: row g, columns 2t and 2t + 1; c[2], c[3]: row g + 8
 *   m16n8k64 of E2M1: the same words. Four scales of 16 k are a word; the word of row g is that of
 *   lane 4g + 2 TILE_A, of row g + 8 that of the next, of column g that of lane 4g + TILE_B.
 *   m8n8k32 (nibbles) is the first of its quarters.
 */
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/mma_fp4.cuh"

#include <cuda_fp16.h>

#define ROWS    16
#define COLUMNS 8
#define WORDS   8 /* of a row of a, or a column of b */

namespace emulation
{
void
shuffle (void *const operands[WARP], uint32_t mask)
{
  for (int i = 0; i < WARP; i++)
    {
      Exchange *e = (Exchange *)operands[i];
      if (e == NULL)
        continue;
      if (!(mask >> e->from & 1))
        fault ("lane %d takes from lane %d, which is not there", i, e->from);
      e->result = ((const Exchange *)operands[e->from])->bits;
    }
}

void
vote (void *const operands[WARP], uint32_t)
{
  uint64_t votes = 0;
  for (int i = 0; i < WARP; i++)
    votes |= operands[i] ? ((const Exchange *)operands[i])->bits << i : 0;
  for (int i = 0; i < WARP; i++)
    if (operands[i] != NULL)
      ((Exchange *)operands[i])->result = votes;
}

/* -- ldmatrix -----------------------------------------------------------------------------------
 */

/* Lane 8 m + r says where row r of matrix m is: eight numbers of 16 bits. */
static void
read_matrices (void *const operands[WARP], uint16_t numbers[4][8][8])
{
  for (int i = 0; i < WARP; i++)
    memcpy (numbers[i / 8][i % 8], shared_at (((const LoadOperands *)operands[i])->address, 16),
            16);
}

void
load_matrices (void *const operands[WARP], uint32_t)
{
  uint16_t numbers[4][8][8];
  read_matrices (operands, numbers);
  for (int i = 0; i < WARP; i++)
    for (int m = 0; m < 4; m++)
      {
        const uint16_t *pair = &numbers[m][i / 4][i % 4 * 2];
        ((LoadOperands *)operands[i])->r[m] = (uint32_t)pair[0] | (uint32_t)pair[1] << 16;
      }
}

void
load_matrices_across (void *const operands[WARP], uint32_t)
{
  uint16_t numbers[4][8][8];
  read_matrices (operands, numbers);
  for (int i = 0; i < WARP; i++)
    for (int m = 0; m < 4; m++)
      ((LoadOperands *)operands[i])->r[m] = (uint32_t)numbers[m][i % 4 * 2][i / 4]
                                            | (uint32_t)numbers[m][i % 4 * 2 + 1][i / 4] << 16;
}

/* -- mma ----------------------------------------------------------------------------------------
 */

struct Words
{
  uint32_t a[ROWS][WORDS], b[COLUMNS][WORDS];
};

template <typename Operands = MmaOperands>
static void
gather (void *const operands[WARP], Words *w)
{
  for (int i = 0; i < WARP; i++)
    {
      const Operands *o = (const Operands *)operands[i];
      const int g = i / 4, t = i % 4;
      w->a[g][t] = o->a[0];
      w->a[g + 8][t] = o->a[1];
      w->a[g][4 + t] = o->a[2];
      w->a[g + 8][4 + t] = o->a[3];
      w->b[g][t] = o->b[0];
      w->b[g][4 + t] = o->b[1];
    }
}

/* Sums are made of all rows and columns at once: d may be where c is. */
template <typename T>
static void
scatter (void *const operands[WARP], const T sums[ROWS][COLUMNS])
{
  for (int i = 0; i < WARP; i++)
    {
      const MmaOperands *o = (const MmaOperands *)operands[i];
      for (int j = 0; j < 4; j++)
        ((T *)o->d)[j] = sums[i / 4 + j / 2 * 8][i % 4 * 2 + j % 2];
    }
}

template <typename T>
static T
summand (void *const operands[WARP], int row, int column)
{
  const MmaOperands *o = (const MmaOperands *)operands[row % 8 * 4 + column / 2];
  return ((const T *)o->c)[row / 8 * 2 + column % 2];
}

/* Products of 16-bit numbers are exact; their sum here is rounded once, on the card with fewer
 * guard bits in an order of its own. */
template <float NUMBER (uint32_t word, int half)>
static void
multiply_floats (void *const operands[WARP])
{
  Words w;
  double a[ROWS][2 * WORDS], b[2 * WORDS][COLUMNS];
  float sums[ROWS][COLUMNS];
  gather (operands, &w);
  for (int k = 0; k < 2 * WORDS; k++)
    {
      for (int row = 0; row < ROWS; row++)
        a[row][k] = NUMBER (w.a[row][k / 2], k % 2);
      for (int column = 0; column < COLUMNS; column++)
        b[k][column] = NUMBER (w.b[column][k / 2], k % 2);
    }
  for (int row = 0; row < ROWS; row++)
    {
      double sum[COLUMNS];
      for (int column = 0; column < COLUMNS; column++)
        sum[column] = summand<float> (operands, row, column);
      for (int k = 0; k < 2 * WORDS; k++)
        for (int column = 0; column < COLUMNS; column++)
          sum[column] += a[row][k] * b[k][column];
      for (int column = 0; column < COLUMNS; column++)
        sums[row][column] = (float)sum[column];
    }
  scatter (operands, sums);
}

static float
bf16_of (uint32_t word, int half)
{
  return __uint_as_float (half ? word & 0xffff0000u : word << 16);
}

static float
f16_of (uint32_t word, int half)
{
  return __half2float (__ushort_as_half ((uint16_t)(word >> half * 16)));
}

void
multiply_bf16 (void *const operands[WARP], uint32_t)
{
  multiply_floats<bf16_of> (operands);
}

void
multiply_f16 (void *const operands[WARP], uint32_t)
{
  multiply_floats<f16_of> (operands);
}

/* Integers of BITS with sign, the first in the low bits of a word. */
template <int BITS>
static void
multiply_integers (void *const operands[WARP])
{
  const int count = 32 / BITS * WORDS;
  Words w;
  int16_t a[ROWS][count], b[COLUMNS][count];
  uint32_t sums[ROWS][COLUMNS];
  const auto number = [] (uint32_t word, int i) {
    return (int16_t)((int32_t)(word << (32 - BITS - i * BITS)) >> (32 - BITS));
  };
  gather (operands, &w);
  for (int k = 0; k < count; k++)
    {
      const int word = k / (32 / BITS), i = k % (32 / BITS);
      for (int row = 0; row < ROWS; row++)
        a[row][k] = number (w.a[row][word], i);
      for (int column = 0; column < COLUMNS; column++)
        b[column][k] = number (w.b[column][word], i);
    }
  for (int row = 0; row < ROWS; row++)
    for (int column = 0; column < COLUMNS; column++)
      {
        int sum = 0;
        for (int k = 0; k < count; k++)
          sum += a[row][k] * b[column][k];
        sums[row][column] = summand<uint32_t> (operands, row, column) + (uint32_t)sum;
      }
  scatter (operands, sums);
}

/* Eight products in quarters. */
static int
dot_e2m1 (uint32_t a, uint32_t b)
{
  static const int doubled[16] = { 0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12 };
  int sum = 0;
  for (int i = 0; i < 32; i += 4)
    sum += doubled[a >> i & 15] * doubled[b >> i & 15];
  return sum;
}

/* Without sign; 0x7f is NaN. */
static double
e4m3_of (uint32_t word, int i)
{
  const uint32_t byte = word >> i * 8 & 0x7f;
  return byte == 0x7f ? NAN : emulation_f16_value ((uint16_t)(byte << 7)) * 256.0f;
}

void
multiply_fp4 (void *const operands[WARP], uint32_t)
{
  const auto of = [&] (int lane) { return (const Fp4Operands *)operands[lane]; };
  float sums[ROWS][COLUMNS];
  Words w;
  gather<Fp4Operands> (operands, &w);
  for (int row = 0; row < ROWS; row++)
    for (int column = 0; column < COLUMNS; column++)
      {
        const uint32_t a = of (row % 8 * 4 + 2 * of (0)->tile_a + row / 8)->scale_a;
        const uint32_t b = of (column * 4 + of (0)->tile_b)->scale_b;
        double sum = of (row % 8 * 4 + column / 2)->c[row / 8 * 2 + column % 2];
        for (int i = 0; i < 4; i++)
          {
            const int products = dot_e2m1 (w.a[row][2 * i], w.b[column][2 * i])
                                 + dot_e2m1 (w.a[row][2 * i + 1], w.b[column][2 * i + 1]);
            sum += products * 0.25 * (e4m3_of (a, i) * e4m3_of (b, i));
          }
        sums[row][column] = (float)sum;
      }
  for (int i = 0; i < WARP; i++)
    for (int j = 0; j < 4; j++)
      of (i)->c[j] = sums[i / 4 + j / 2 * 8][i % 4 * 2 + j % 2];
}

void
multiply_s8 (void *const operands[WARP], uint32_t)
{
  multiply_integers<8> (operands);
}

void
multiply_s4 (void *const operands[WARP], uint32_t)
{
  multiply_integers<4> (operands);
}

/* m8n8k32: word t of row g, of column g; columns 2t and 2t + 1 of row g. */
void
multiply_s4_small (void *const operands[WARP], uint32_t)
{
  const auto nibble = [] (uint32_t word, int i) { return (int32_t)(word << (28 - i * 4)) >> 28; };
  uint32_t sums[COLUMNS][COLUMNS];
  for (int row = 0; row < COLUMNS; row++)
    for (int column = 0; column < COLUMNS; column++)
      {
        const MmaOperands *c = (const MmaOperands *)operands[row * 4 + column / 2];
        int sum = 0;
        for (int t = 0; t < 4; t++)
          for (int i = 0; i < 8; i++)
            sum += nibble (((const MmaOperands *)operands[row * 4 + t])->a[0], i)
                   * nibble (((const MmaOperands *)operands[column * 4 + t])->b[0], i);
        sums[row][column] = ((const uint32_t *)c->c)[column % 2] + (uint32_t)sum;
      }
  for (int i = 0; i < WARP; i++)
    for (int j = 0; j < 2; j++)
      ((uint32_t *)((const MmaOperands *)operands[i])->d)[j] = sums[i / 4][i % 4 * 2 + j];
}
}

uint32_t
multiply_f16x2 (uint32_t a, uint32_t b)
{
  uint32_t out = 0;
  for (int half = 0; half < 2; half++)
    {
      const float product = emulation::f16_of (a, half) * emulation::f16_of (b, half);
      out |= (uint32_t)__half_as_ushort (__float2half_rn (product)) << half * 16;
    }
  return out;
}
