/* SPDX-License-Identifier: Apache-2.0
 *
 * Compiled once for each instruction set, with SVDQ_TABLE the name of the table to define.
 */
#include "kernels/cpu/svdq-tile.h"
#include "kernels/svdq-math.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif
#define VECTORS (SVDQ_BLOCK / LANES)

typedef float Floats __attribute__ ((vector_size (4 * LANES)));
typedef int32_t Ints __attribute__ ((vector_size (4 * LANES)));
typedef uint32_t Words __attribute__ ((vector_size (4 * LANES)));
typedef uint16_t Halves __attribute__ ((vector_size (2 * LANES)));

static inline Floats
load_bf16 (const uint16_t *from)
{
  Halves halves;

  memcpy (&halves, from, sizeof halves);
  return (Floats)(__builtin_convertvector(halves, Words) << 16);
}

static inline Floats
load_floats (const float *from)
{
  Floats floats;

  memcpy (&floats, from, sizeof floats);
  return floats;
}

/* a b + c with one rounding, on every instruction set. */
static inline Floats
fused (Floats a, Floats b, Floats c)
{
#if defined(__AVX512F__)
  return (Floats)_mm512_fmadd_ps ((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (Floats)_mm256_fmadd_ps ((__m256)a, (__m256)b, (__m256)c);
#else
  for (int i = 0; i < LANES; i++)
    c[i] = fmaf (a[i], b[i], c[i]);
  return c;
#endif
}

/* a b + c for the low-rank branch, whose rounding nobody promises: fused where that is fast. */
static inline Floats
multiply_add (float a, Floats b, Floats c)
{
#ifdef __AVX2__
  return fused ((Floats){ 0 } + a, b, c);
#else
  return a * b + c;
#endif
}

/* -- integer products of one group ------------------------------------------------------------ */

/* Doubled E2M1 values plus SVDQ_NVFP4_OFFSET, by code. */
#define NVFP4_BIASED 12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0

/* Four consecutive activation codes, to be broadcast. */
static inline int32_t
quad (const int8_t *codes)
{
  int32_t word;

  memcpy (&word, codes, sizeof word);
  return word;
}

#if defined(__AVX512F__)

static inline __m512i
biased (SvdqFormat format, __m512i nibbles)
{
  const __m512i table = _mm512_broadcast_i32x4 (_mm_setr_epi8 (NVFP4_BIASED));

  nibbles = _mm512_and_si512 (nibbles, _mm512_set1_epi8 (15));
  return format == SVDQ_INT4 ? nibbles : _mm512_shuffle_epi8 (table, nibbles);
}

/* sums [rows]: the group's products, unsigned weights times signed activations. */
static inline __attribute__ ((always_inline)) void
group_products (SvdqFormat format, int group, const uint8_t *codes, const int8_t *x, int64_t k,
                int rows, Ints (*sums)[VECTORS])
{
  __m512i sum[SVDQ_TILE_ROWS];

  for (int row = 0; row < rows; row++)
    sum[row] = _mm512_setzero_si512 ();
  for (int i = 0; i < group; i += 8)
    {
      __m512i packed = _mm512_loadu_si512 (codes + i * (SVDQ_BLOCK / 2));
      __m512i low = biased (format, packed);
      __m512i high = biased (format, _mm512_srli_epi16 (packed, 4));

      for (int row = 0; row < rows; row++)
        {
          const int8_t *at = x + row * k + i;

          sum[row] = _mm512_dpbusd_epi32 (sum[row], low, _mm512_set1_epi32 (quad (at)));
          sum[row] = _mm512_dpbusd_epi32 (sum[row], high, _mm512_set1_epi32 (quad (at + 4)));
        }
    }
  for (int row = 0; row < rows; row++)
    sums[row][0] = (Ints)sum[row];
}

#elif defined(__AVX2__)

static inline __m256i
biased (SvdqFormat format, __m256i nibbles)
{
  const __m256i table = _mm256_broadcastsi128_si256 (_mm_setr_epi8 (NVFP4_BIASED));

  nibbles = _mm256_and_si256 (nibbles, _mm256_set1_epi8 (15));
  return format == SVDQ_INT4 ? nibbles : _mm256_shuffle_epi8 (table, nibbles);
}

/* Sums stay in 16 bit over the group: a pair of products is at most 2 15 7 = 210 (INT4) or
 * 2 24 12 = 576 (NVFP4), and a group has 16 or 4 of them in a lane: no saturation. */
static inline __attribute__ ((always_inline)) void
group_products (SvdqFormat format, int group, const uint8_t *codes, const int8_t *x, int64_t k,
                int rows, Ints (*sums)[VECTORS])
{
  __m256i sum[SVDQ_TILE_ROWS][VECTORS];

  for (int row = 0; row < rows; row++)
    for (int v = 0; v < VECTORS; v++)
      sum[row][v] = _mm256_setzero_si256 ();
  for (int i = 0; i < group; i += 8)
    for (int half = 0; half < 2; half++)
      {
        __m256i weights[VECTORS];

        for (int v = 0; v < VECTORS; v++)
          {
            __m256i packed = _mm256_loadu_si256 (
                (const __m256i *)(const void *)(codes + i * (SVDQ_BLOCK / 2) + v * 32));

            weights[v] = biased (format, half ? _mm256_srli_epi16 (packed, 4) : packed);
          }
        for (int row = 0; row < rows; row++)
          {
            __m256i four = _mm256_set1_epi32 (quad (x + row * k + i + 4 * half));

            for (int v = 0; v < VECTORS; v++)
              sum[row][v] = _mm256_add_epi16 (sum[row][v], _mm256_maddubs_epi16 (weights[v], four));
          }
      }
  for (int row = 0; row < rows; row++)
    for (int v = 0; v < VECTORS; v++)
      sums[row][v] = (Ints)_mm256_madd_epi16 (sum[row][v], _mm256_set1_epi16 (1));
}

#else

static inline __attribute__ ((always_inline)) void
group_products (SvdqFormat format, int group, const uint8_t *codes, const int8_t *x, int64_t k,
                int rows, Ints (*sums)[VECTORS])
{
  static const uint8_t table[16] = { NVFP4_BIASED };

  for (int row = 0; row < rows; row++)
    for (int n = 0; n < SVDQ_BLOCK; n++)
      {
        int sum = 0;

        for (int i = 0; i < group; i++)
          {
            uint8_t byte = codes[(i / 8 * SVDQ_BLOCK + n) * 4 + i % 4];
            uint8_t code = i & 4 ? byte >> 4 : byte & 15;

            sum += (format == SVDQ_INT4 ? code : table[code]) * x[row * k + i];
          }
        sums[row][n / LANES][n % LANES] = sum;
      }
}

#endif

/* -- tiles ------------------------------------------------------------------------------------ */

static inline __attribute__ ((always_inline)) void
four_bit (SvdqFormat format, const SvdqBlock *block, const SvdqRows *x, int rows,
          Floats (*out)[VECTORS])
{
  const int group = format == SVDQ_INT4 ? SVDQ_INT4_GROUP : SVDQ_NVFP4_GROUP;
  int64_t groups = block->k / group;
  Ints products[SVDQ_TILE_ROWS][VECTORS];

  for (int row = 0; row < rows; row++)
    for (int v = 0; v < VECTORS; v++)
      out[row][v] = (Floats){ 0 };
  for (int64_t g = 0; g < groups; g++)
    {
      group_products (format, group, block->codes + g * group * (SVDQ_BLOCK / 2),
                      x->codes + g * group, block->k, rows, products);
      for (int row = 0; row < rows; row++)
        for (int v = 0; v < VECTORS; v++)
          {
            Ints exact = products[row][v] - x->sums[row * groups + g];
            Floats scale = x->scales[row * groups + g]
                           * load_bf16 (block->scales + g * SVDQ_BLOCK + v * LANES);

            out[row][v] = fused (__builtin_convertvector(exact, Floats), scale, out[row][v]);
          }
    }
}

static inline __attribute__ ((always_inline)) void
raise_rank (const SvdqBlock *block, const SvdqRows *x, int rows, Floats (*sums)[VECTORS])
{
  for (int row = 0; row < rows; row++)
    for (int v = 0; v < VECTORS; v++)
      sums[row][v] = (Floats){ 0 };
  for (int r = 0; r < block->rank; r++)
    for (int v = 0; v < VECTORS; v++)
      {
        Floats up = load_bf16 (block->up + r * SVDQ_BLOCK + v * LANES);

        for (int row = 0; row < rows; row++)
          sums[row][v] = multiply_add (x->lowered[row * block->rank + r], up, sums[row][v]);
      }
}

static inline __attribute__ ((always_inline)) void
tile_rows (SvdqFormat format, const SvdqBlock *block, const SvdqRows *x, int rows, float *out)
{
  Floats sums[SVDQ_TILE_ROWS][VECTORS], raised[SVDQ_TILE_ROWS][VECTORS];

  four_bit (format, block, x, rows, sums);
  raise_rank (block, x, rows, raised);
  for (int row = 0; row < rows; row++)
    for (int v = 0; v < VECTORS; v++)
      {
        Floats y = sums[row][v] * load_floats (block->outer + v * LANES);

        y += raised[row][v];
        if (block->bias != NULL)
          y += load_floats (block->bias + v * LANES);
        memcpy (out + row * SVDQ_BLOCK + v * LANES, &y, sizeof y);
      }
}

/* A copy of the loops for each number of rows, so that sums live in registers. */
static inline __attribute__ ((always_inline)) void
tile_format (SvdqFormat format, const SvdqBlock *block, const SvdqRows *x, int rows, float *out)
{
  switch (rows)
    {
    case 1:
      tile_rows (format, block, x, 1, out);
      break;
    case 2:
      tile_rows (format, block, x, 2, out);
      break;
    case 3:
      tile_rows (format, block, x, 3, out);
      break;
    default:
      tile_rows (format, block, x, SVDQ_TILE_ROWS, out);
      break;
    }
}

static void
tile (const SvdqBlock *block, const SvdqRows *x, int rows, float *out)
{
  if (block->format == SVDQ_INT4)
    tile_format (SVDQ_INT4, block, x, rows, out);
  else
    tile_format (SVDQ_NVFP4, block, x, rows, out);
}

/* -- activations ------------------------------------------------------------------------------ */

static void
quantise (SvdqFormat format, const float *x, const float *smooth, int64_t k, int8_t *codes,
          float *scales, int32_t *sums)
{
  const int group = format == SVDQ_INT4 ? SVDQ_INT4_GROUP : SVDQ_NVFP4_GROUP;
  float xh[SVDQ_INT4_GROUP];

  for (int64_t g = 0; g < k / group; g++, x += group, smooth += group, codes += group)
    {
      int32_t sum = 0;

      for (int i = 0; i < group; i++)
        xh[i] = svdq_smoothed (x[i], smooth[i]);
      scales[g]
          = format == SVDQ_INT4 ? svdq_quantise_int4 (xh, codes) : svdq_quantise_nvfp4 (xh, codes);
      for (int i = 0; i < group; i++)
        sum += codes[i];
      sums[g] = sum * (format == SVDQ_INT4 ? SVDQ_INT4_OFFSET : SVDQ_NVFP4_OFFSET);
    }
}

#define LOWER_CHUNK 64 /* divides every K */

static inline __attribute__ ((always_inline)) void
lower_rows (const float *x, int rows, int64_t k, const uint16_t *down, int rank, float *lowered)
{
  Floats sums[SVDQ_TILE_ROWS][VECTORS];
  float rounded[SVDQ_TILE_ROWS][LOWER_CHUNK];

  for (int row = 0; row < rows; row++)
    for (int v = 0; v < VECTORS; v++)
      sums[row][v] = (Floats){ 0 };
  for (int64_t start = 0; start < k; start += LOWER_CHUNK)
    {
      for (int row = 0; row < rows; row++)
        for (int i = 0; i < LOWER_CHUNK; i++)
          rounded[row][i] = svdq_round_bf16 (x[row * k + start + i]);
      for (int i = 0; i < LOWER_CHUNK; i++)
        for (int v = 0; v < VECTORS; v++)
          {
            Floats column = load_bf16 (down + (start + i) * SVDQ_BLOCK + v * LANES);

            for (int row = 0; row < rows; row++)
              sums[row][v] = multiply_add (rounded[row][i], column, sums[row][v]);
          }
    }
  for (int row = 0; row < rows; row++)
    for (int v = 0; v < VECTORS; v++)
      for (int i = 0; i < LANES; i++)
        lowered[row * rank + v * LANES + i] = svdq_round_bf16 (sums[row][v][i]);
}

static void
lower (const float *x, int rows, int64_t k, const uint16_t *down, int rank, float *lowered)
{
  for (int first = 0; first < rank; first += SVDQ_BLOCK)
    for (int row = 0; row < rows; row += SVDQ_TILE_ROWS)
      {
        const float *in = x + row * k;
        float *out = lowered + row * rank + first;

        if (rows - row >= SVDQ_TILE_ROWS)
          lower_rows (in, SVDQ_TILE_ROWS, k, down + first * k, rank, out);
        else
          for (int left = 0; left < rows - row; left++)
            lower_rows (in + left * k, 1, k, down + first * k, rank, out + left * rank);
      }
}

const SvdqTiles SVDQ_TABLE = { SVDQ_NAME, quantise, lower, tile };
