/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/svdquant/layout.h"

#include <string.h>

/* -- closed forms (spec svdquant 2.4) --------------------------------------------------------- */

LayoutNibble
layout_qweight_position (int64_t n, int64_t k, int64_t K)
{
  int64_t byte = ((n >> 7) * (K >> 6) + (k >> 6)) * 4096 /* tile of 128 rows, 64 columns */
                 + ((n >> 4) & 7) * 512                  /* 16 rows of it */
                 + (n & 7) * 64 + ((k >> 3) & 3) * 16    /* 16 bytes of one lane */
                 + ((n >> 3) & 1) * 8 + ((k >> 5) & 1) * 4 + ((k >> 1) & 3);

  return (LayoutNibble){ byte, (int)(k & 1) };
}

int64_t
layout_vector_position (int64_t i)
{
  int64_t x = i & 127;

  return (i & ~INT64_C (127))
         + ((x & 0x70) | (((x >> 1) & 3) << 2) | (((x >> 3) & 1) << 1) | (x & 1));
}

int64_t
layout_int4_scale_position (int64_t n, int64_t group, int64_t K)
{
  return ((n >> 7) * (K >> 6) + group) * 128 + layout_vector_position (n & 127);
}

int64_t
layout_nvfp4_scale_position (int64_t n, int64_t group, int64_t K)
{
  return ((n >> 7) * (K >> 6) + (group >> 2)) * 512 + (n & 7) * 64 + ((n >> 3) & 3) * 16
         + ((n >> 5) & 3) * 4 + (group & 3);
}

/* Inside a 16 x 16 tile of a factor. */
static int64_t
factor_position (int64_t a, int64_t b)
{
  return (a & 7) * 32 + ((b >> 1) & 3) * 8 + ((a >> 3) & 1) * 4 + ((b >> 3) & 1) * 2 + (b & 1);
}

int64_t
layout_down_position (int64_t r, int64_t k, int64_t R)
{
  return ((k >> 4) * (R >> 4) + (r >> 4)) * 256 + factor_position (r & 15, k & 15);
}

int64_t
layout_up_position (int64_t n, int64_t r, int64_t R)
{
  return ((n >> 4) * (R >> 4) + (r >> 4)) * 256 + factor_position (n & 15, r & 15);
}

/* -- whole tensors ---------------------------------------------------------------------------- */

/* Eight codes of consecutive k are four bytes in either order, so they move as one; where in a
 * row's share of a tile the eight such words are. */
#define WORD_BYTES 4
#define TILE_K     64
static const int tile_words[] = { 0, 16, 32, 48, 4, 20, 36, 52 };

void
layout_unpack_qweight (const uint8_t *packed, uint8_t *plain, int64_t N, int64_t K)
{
  for (int64_t n = 0; n < N; n++)
    for (int64_t k = 0; k < K; k += TILE_K)
      {
        const uint8_t *tile = packed + layout_qweight_position (n, k, K).byte;

        for (int i = 0; i < 8; i++, plain += WORD_BYTES)
          memcpy (plain, tile + tile_words[i], WORD_BYTES);
      }
}

void
layout_pack_qweight (const uint8_t *plain, uint8_t *packed, int64_t N, int64_t K)
{
  for (int64_t n = 0; n < N; n++)
    for (int64_t k = 0; k < K; k += TILE_K)
      {
        uint8_t *tile = packed + layout_qweight_position (n, k, K).byte;

        for (int i = 0; i < 8; i++, plain += WORD_BYTES)
          memcpy (tile + tile_words[i], plain, WORD_BYTES);
      }
}

void
layout_unpack_vector (const uint16_t *packed, uint16_t *plain, int64_t count)
{
  for (int64_t i = 0; i < count; i++)
    plain[i] = packed[layout_vector_position (i)];
}

void
layout_pack_vector (const uint16_t *plain, uint16_t *packed, int64_t count)
{
  for (int64_t i = 0; i < count; i++)
    packed[layout_vector_position (i)] = plain[i];
}

void
layout_unpack_int4_scales (const uint16_t *packed, uint16_t *plain, int64_t N, int64_t K)
{
  for (int64_t g = 0; g < K / 64; g++)
    for (int64_t n = 0; n < N; n++)
      plain[g * N + n] = packed[layout_int4_scale_position (n, g, K)];
}

void
layout_pack_int4_scales (const uint16_t *plain, uint16_t *packed, int64_t N, int64_t K)
{
  for (int64_t g = 0; g < K / 64; g++)
    for (int64_t n = 0; n < N; n++)
      packed[layout_int4_scale_position (n, g, K)] = plain[g * N + n];
}

void
layout_unpack_nvfp4_scales (const uint8_t *packed, uint8_t *plain, int64_t N, int64_t K)
{
  for (int64_t g = 0; g < K / 16; g++)
    for (int64_t n = 0; n < N; n++)
      plain[g * N + n] = packed[layout_nvfp4_scale_position (n, g, K)];
}

void
layout_pack_nvfp4_scales (const uint8_t *plain, uint8_t *packed, int64_t N, int64_t K)
{
  for (int64_t g = 0; g < K / 16; g++)
    for (int64_t n = 0; n < N; n++)
      packed[layout_nvfp4_scale_position (n, g, K)] = plain[g * N + n];
}

void
layout_unpack_down (const uint16_t *packed, uint16_t *plain, int64_t K, int64_t R)
{
  for (int64_t k = 0; k < K; k++)
    for (int64_t r = 0; r < R; r++)
      plain[k * R + r] = packed[layout_down_position (r, k, R)];
}

void
layout_pack_down (const uint16_t *plain, uint16_t *packed, int64_t K, int64_t R)
{
  for (int64_t k = 0; k < K; k++)
    for (int64_t r = 0; r < R; r++)
      packed[layout_down_position (r, k, R)] = plain[k * R + r];
}

void
layout_unpack_up (const uint16_t *packed, uint16_t *plain, int64_t N, int64_t R)
{
  for (int64_t n = 0; n < N; n++)
    for (int64_t r = 0; r < R; r++)
      plain[n * R + r] = packed[layout_up_position (n, r, R)];
}

void
layout_pack_up (const uint16_t *plain, uint16_t *packed, int64_t N, int64_t R)
{
  for (int64_t n = 0; n < N; n++)
    for (int64_t r = 0; r < R; r++)
      packed[layout_up_position (n, r, R)] = plain[n * R + r];
}

void
layout_swap_halves (void *rows, int64_t count, int64_t row_bytes)
{
  uint8_t *first = rows;
  uint8_t *second = first + count / 2 * row_bytes;
  int64_t left = count / 2 * row_bytes;
  uint8_t piece[4096];

  while (left > 0)
    {
      size_t bytes = (size_t)(left < (int64_t)sizeof piece ? left : (int64_t)sizeof piece);

      memcpy (piece, first, bytes);
      memcpy (first, second, bytes);
      memcpy (second, piece, bytes);
      first += bytes;
      second += bytes;
      left -= (int64_t)bytes;
    }
}
