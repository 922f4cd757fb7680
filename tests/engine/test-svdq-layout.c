/* SPDX-License-Identifier: Apache-2.0
 *
 * The published packing against golden hashes and against itself (spec svdquant 2.4.6, 8.1).
 */
#include "engine/svdquant/layout.h"

#include <glib.h>
#include <string.h>

enum
{
  GOLDEN_N = 256,
  GOLDEN_K = 384,
  GOLDEN_R = 48,
};

static void
assert_hash (const void *data, gsize bytes, const char *expected)
{
  g_autofree char *hash = g_compute_checksum_for_data (G_CHECKSUM_SHA256, data, bytes);

  hash[16] = '\0';
  g_assert_cmpstr (hash, ==, expected);
}

/* Row-major codes of the golden tensor. */
static uint8_t *
golden_codes (void)
{
  uint8_t *plain = g_malloc0 (GOLDEN_N * GOLDEN_K / 2);

  for (int n = 0; n < GOLDEN_N; n++)
    for (int k = 0; k < GOLDEN_K; k++)
      plain[(n * GOLDEN_K + k) / 2] |= ((7 * n + 13 * k + ((n * k) >> 5)) & 15) << (k & 1) * 4;
  return plain;
}

static void
test_golden_qweight (void)
{
  const gsize bytes = GOLDEN_N * GOLDEN_K / 2;
  g_autofree uint8_t *plain = golden_codes ();
  g_autofree uint8_t *packed = g_malloc (bytes);
  g_autofree uint8_t *back = g_malloc (bytes);

  assert_hash (plain, bytes, "6d327133f61ce57c");
  layout_pack_qweight (plain, packed, GOLDEN_N, GOLDEN_K);
  assert_hash (packed, bytes, "eabe30eedd4c4ad3");
  g_assert_cmphex (packed[0], ==, 0xd0);
  g_assert_cmphex (packed[3], ==, 0xbe);
  layout_unpack_qweight (packed, back, GOLDEN_N, GOLDEN_K);
  g_assert_cmpmem (back, bytes, plain, bytes);
}

static void
test_golden_scales (void)
{
  const int int4_count = GOLDEN_N * GOLDEN_K / 64, nvfp4_count = GOLDEN_N * GOLDEN_K / 16;
  g_autofree uint16_t *int4 = g_new (uint16_t, int4_count);
  g_autofree uint16_t *int4_packed = g_new (uint16_t, int4_count);
  g_autofree uint16_t *int4_back = g_new (uint16_t, int4_count);
  g_autofree uint8_t *nvfp4 = g_new (uint8_t, nvfp4_count);
  g_autofree uint8_t *nvfp4_packed = g_new (uint8_t, nvfp4_count);
  g_autofree uint8_t *nvfp4_back = g_new (uint8_t, nvfp4_count);

  for (int g = 0; g < GOLDEN_K / 64; g++)
    for (int n = 0; n < GOLDEN_N; n++)
      int4[g * GOLDEN_N + n] = (31 * n + 1009 * g) & 0xffff;
  for (int g = 0; g < GOLDEN_K / 16; g++)
    for (int n = 0; n < GOLDEN_N; n++)
      nvfp4[g * GOLDEN_N + n] = (5 * n + 3 * g) % 127;

  assert_hash (int4, int4_count * 2, "756b59b6c21885b5");
  layout_pack_int4_scales (int4, int4_packed, GOLDEN_N, GOLDEN_K);
  assert_hash (int4_packed, int4_count * 2, "af4e639e590de3f3");
  layout_unpack_int4_scales (int4_packed, int4_back, GOLDEN_N, GOLDEN_K);
  g_assert_cmpmem (int4_back, int4_count * 2, int4, int4_count * 2);

  assert_hash (nvfp4, nvfp4_count, "9b2a453267226983");
  layout_pack_nvfp4_scales (nvfp4, nvfp4_packed, GOLDEN_N, GOLDEN_K);
  assert_hash (nvfp4_packed, nvfp4_count, "d61287f44cf814cc");
  layout_unpack_nvfp4_scales (nvfp4_packed, nvfp4_back, GOLDEN_N, GOLDEN_K);
  g_assert_cmpmem (nvfp4_back, nvfp4_count, nvfp4, nvfp4_count);
}

static void
test_golden_factors (void)
{
  const gsize down_bytes = GOLDEN_K * GOLDEN_R * 2, up_bytes = GOLDEN_N * GOLDEN_R * 2;
  g_autofree uint16_t *down = g_malloc (down_bytes);
  g_autofree uint16_t *down_packed = g_malloc (down_bytes);
  g_autofree uint16_t *down_back = g_malloc (down_bytes);
  g_autofree uint16_t *up = g_malloc (up_bytes);
  g_autofree uint16_t *up_packed = g_malloc (up_bytes);
  g_autofree uint16_t *up_back = g_malloc (up_bytes);

  for (int k = 0; k < GOLDEN_K; k++)
    for (int r = 0; r < GOLDEN_R; r++)
      down[k * GOLDEN_R + r] = (r * GOLDEN_K + k) & 0xffff;
  for (int n = 0; n < GOLDEN_N; n++)
    for (int r = 0; r < GOLDEN_R; r++)
      up[n * GOLDEN_R + r] = (n * GOLDEN_R + r) & 0xffff;

  layout_pack_down (down, down_packed, GOLDEN_K, GOLDEN_R);
  assert_hash (down_packed, down_bytes, "8ebed22288b330bd");
  layout_unpack_down (down_packed, down_back, GOLDEN_K, GOLDEN_R);
  g_assert_cmpmem (down_back, down_bytes, down, down_bytes);

  layout_pack_up (up, up_packed, GOLDEN_N, GOLDEN_R);
  assert_hash (up_packed, up_bytes, "60651286de58ddce");
  layout_unpack_up (up_packed, up_back, GOLDEN_N, GOLDEN_R);
  g_assert_cmpmem (up_back, up_bytes, up, up_bytes);
}

static void
test_golden_vector (void)
{
  static const uint16_t first[] = { 0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15 };
  uint16_t plain[GOLDEN_N], packed[GOLDEN_N], back[GOLDEN_N];

  for (int n = 0; n < GOLDEN_N; n++)
    plain[n] = (uint16_t)n;
  layout_pack_vector (plain, packed, GOLDEN_N);
  assert_hash (packed, sizeof packed, "7a39f73e03ff5069");
  g_assert_cmpmem (packed, sizeof first, first, sizeof first);
  layout_unpack_vector (packed, back, GOLDEN_N);
  g_assert_cmpmem (back, sizeof back, plain, sizeof plain);
}

static void
test_spot_values (void)
{
  static const struct
  {
    int64_t n, k, byte;
    int nibble;
  } codes[] = { { 0, 0, 0, 0 },
                { 0, 1, 0, 1 },
                { 0, 8, 16, 0 },
                { 0, 32, 4, 0 },
                { 8, 0, 8, 0 },
                { 1, 0, 64, 0 },
                { 16, 0, 512, 0 },
                { 127, 63, 4095, 1 },
                { 128, 64, 249856, 0 },
                { 1234, 567, 2247335, 1 },
                { 11519, 3839, 22118399, 1 } };
  static const struct
  {
    int64_t n, g, byte;
  } scales[] = { { 0, 1, 1 },   { 8, 0, 16 },         { 32, 0, 4 },           { 1, 0, 64 },
                 { 0, 4, 512 }, { 1234, 35, 280747 }, { 11519, 239, 2764799 } };

  for (guint i = 0; i < G_N_ELEMENTS (codes); i++)
    {
      LayoutNibble at = layout_qweight_position (codes[i].n, codes[i].k, 3840);

      g_assert_cmpint (at.byte, ==, codes[i].byte);
      g_assert_cmpint (at.nibble, ==, codes[i].nibble);
    }
  for (guint i = 0; i < G_N_ELEMENTS (scales); i++)
    g_assert_cmpint (layout_nvfp4_scale_position (scales[i].n, scales[i].g, 3840), ==,
                     scales[i].byte);
}

/* Counts one visit; every place must get exactly one. */
static void
visit (guint8 *seen, int64_t at, int64_t count)
{
  g_assert_cmpint (at, >=, 0);
  g_assert_cmpint (at, <, count);
  g_assert_cmpint (seen[at], ==, 0);
  seen[at] = 1;
}

static void
check_bijections (int64_t N, int64_t K, int64_t R)
{
  g_autofree guint8 *codes = g_malloc0 (N * K);
  g_autofree guint8 *int4 = g_malloc0 (N * K / 64);
  g_autofree guint8 *nvfp4 = g_malloc0 (N * K / 16);
  g_autofree guint8 *down = g_malloc0 (K * R);
  g_autofree guint8 *up = g_malloc0 (N * R);
  g_autofree guint8 *vector = g_malloc0 (N);

  for (int64_t n = 0; n < N; n++)
    {
      visit (vector, layout_vector_position (n), N);
      for (int64_t k = 0; k < K; k++)
        {
          LayoutNibble at = layout_qweight_position (n, k, K);

          visit (codes, at.byte * 2 + at.nibble, N * K);
        }
      for (int64_t g = 0; g < K / 64; g++)
        visit (int4, layout_int4_scale_position (n, g, K), N * K / 64);
      for (int64_t g = 0; g < K / 16; g++)
        visit (nvfp4, layout_nvfp4_scale_position (n, g, K), N * K / 16);
      for (int64_t r = 0; r < R; r++)
        visit (up, layout_up_position (n, r, R), N * R);
    }
  for (int64_t k = 0; k < K; k++)
    for (int64_t r = 0; r < R; r++)
      visit (down, layout_down_position (r, k, R), K * R);
}

static void
check_round_trip (int64_t N, int64_t K)
{
  gsize bytes = N * K / 2;
  g_autofree uint8_t *packed = g_malloc (bytes);
  g_autofree uint8_t *plain = g_malloc (bytes);
  g_autofree uint8_t *again = g_malloc (bytes);

  for (gsize i = 0; i < bytes; i++)
    packed[i] = (uint8_t)g_test_rand_int ();
  layout_unpack_qweight (packed, plain, N, K);
  layout_pack_qweight (plain, again, N, K);
  g_assert_cmpmem (again, bytes, packed, bytes);

  memcpy (again, plain, bytes);
  layout_swap_halves (again, N, K / 2);
  g_assert_cmpmem (again, bytes / 2, plain + bytes / 2, bytes / 2);
  layout_swap_halves (again, N, K / 2);
  g_assert_cmpmem (again, bytes, plain, bytes);
}

static void
test_random_sizes (void)
{
  for (int i = 0; i < 12; i++)
    {
      int64_t N = 128 * g_test_rand_int_range (1, 6);
      int64_t K = 128 * g_test_rand_int_range (1, 6);

      check_bijections (N, K, 16 * g_test_rand_int_range (1, 9));
      check_round_trip (N, K);
    }
}

int
main (int argc, char *argv[])
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/svdq-layout/golden/qweight", test_golden_qweight);
  g_test_add_func ("/svdq-layout/golden/scales", test_golden_scales);
  g_test_add_func ("/svdq-layout/golden/factors", test_golden_factors);
  g_test_add_func ("/svdq-layout/golden/vector", test_golden_vector);
  g_test_add_func ("/svdq-layout/spot-values", test_spot_values);
  g_test_add_func ("/svdq-layout/random-sizes", test_random_sizes);
  return g_test_run ();
}
