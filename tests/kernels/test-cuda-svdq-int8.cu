/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of INT4 codes by 8-bit integer instructions on the card against the reference: equal in
 * every bit, but for the low-rank branch, whose sums the card takes in its own order (spec svdquant
 * 8.3, 8.4).
 */
#include "kernels/cuda/launchers.h"
#include "tests/kernels/svdq-device.cuh"

#include <string.h>

/* Of the sum of the terms' magnitudes, before rounding. */
#define SHARE 0x1p-20

/* The last is large enough for large tiles on any card. */
static const HostSize sizes[] = {
  { 1, 64, 64, 0, false, false, false },      { 1, 192, 320, 32, false, true, false },
  { 255, 64, 128, 0, false, true, false },    { 256, 192, 192, 16, false, true, false },
  { 257, 128, 448, 128, true, true, false },  { 66, 256, 256, 0, true, false, false },
  { 130, 320, 1088, 48, false, true, false }, { 33, 64, 3840, 0, false, false, true },
  { 2049, 1536, 64, 0, true, true, false },   { 2049, 1600, 128, 16, false, true, false },
};

static Status
test_size (DeviceTest *t, const HostSize &size, uint32_t seed)
{
  const HostLinear host (SVDQ_INT4, size, seed);
  const SvdqSource source = host.source ();
  std::vector<float> want ((size_t)size.m * size.n);
  std::vector<uint16_t> y;
  DeviceLinear d;
  char what[64], text[96];
  CHECK (svdq_reference (SVDQ_LEVEL_CONTRACT, &source, size.n, size.k,
                         size.bias ? host.bias.data () : NULL, host.x.data (), size.m,
                         want.data ()));
  CHECK (put_on_device (t->s, host, &d));
  CHECK (run_product (t->s, svdq_gemm_int8, &d, &y));
  take_off_device (t->s, &d);
  const Verdict v = judge (host, y, want.data (), size.rank > 0 ? SHARE : 0.0);
  const bool exact = size.rank > 0 || v.different == 0;
  snprintf (what, sizeof what, "%dx%dx%d rank %d%s%s%s", size.m, size.n, size.k, size.rank,
            size.swiglu ? " swiglu" : "", size.bias ? " bias" : "", size.outer ? " outer" : "");
  snprintf (text, sizeof text, "%zu outside, %zu beyond, %zu of %zu rounded otherwise", v.outside,
            v.beyond, v.different, want.size ());
  report (t, exact && v.different * 1000 <= want.size () && v.outside == 0 && v.beyond == 0, "INT8",
          what, text);
  return STATUS_OK;
}

/* -- any codes and scales ------------------------------------------------------------------------
 */

/* A sum as the contract has it: exact integers, groups in ascending order. */
static float
folded (const HostLinear &host, int row, int n)
{
  float sum = 0.0f;
  for (int g = 0; g < host.size.k / 64; g++)
    {
      double product = 0.0;
      for (int i = g * 64; i < (g + 1) * 64; i++)
        product += host.code (row, i) * host.weight (n, i);
      sum = fmaf ((float)product, (float)host.scale (row, g) * (float)host.weight_scale (n, g),
                  sum);
    }
  return sum;
}

static Status
test_equal (DeviceTest *t, const HostLinear &host, const char *what)
{
  DeviceLinear d;
  std::vector<uint16_t> y, again;
  size_t wrong = 0;
  char text[64];
  bool repeats = true;
  CHECK (put_on_device (t->s, host, &d));
  CHECK (run_product (t->s, svdq_gemm_int8, &d, &y));
  for (int i = 0; i < (IS_EMULATED ? 0 : 20); i++)
    {
      CHECK (run_product (t->s, svdq_gemm_int8, &d, &again));
      repeats = repeats && again == y;
    }
  for (int row = 0; row < host.size.m; row++)
    for (int n = 0; n < host.size.n; n++)
      wrong += y[row * d.stride + n] != bf16_from_float (folded (host, row, n));
  take_off_device (t->s, &d);
  snprintf (text, sizeof text, "%zu wrong, 20 runs %s", wrong, repeats ? "equal" : "differ");
  report (t, wrong == 0 && repeats, "INT8", what, text);
  return STATUS_OK;
}

static void
fill_scales (std::vector<uint8_t> *bytes, std::mt19937 *random, uint16_t first, uint16_t last)
{
  uint16_t *scales = (uint16_t *)bytes->data ();
  for (size_t i = 0; i < bytes->size () / 2; i++)
    scales[i] = (uint16_t)(first + (*random) () % (last - first + 1));
}

static Status
test_codes (DeviceTest *t, uint32_t seed)
{
  HostLinear host (SVDQ_INT4, { 200, 192, 256, 0, false, false, false }, seed);
  std::mt19937 random (seed);
  memset (host.codes.data (), 0, host.codes.size ());
  for (int row = 0; row < 200; row++)
    host.codes[(row * 256 + row) / 2] = row & 1 ? 0x10 : 0x01;
  CHECK (test_equal (t, host, "one-hot rows"));
  for (uint8_t &byte : host.codes)
    byte = (uint8_t)random ();
  CHECK (test_equal (t, host, "codes -8..7"));
  memset (host.codes.data (), 0x88, host.codes.size ());
  memset (host.qweight.data (), 0x88, host.qweight.size ());
  CHECK (test_equal (t, host, "all -8"));
  memset (host.qweight.data (), 0x77, host.qweight.size ());
  CHECK (test_equal (t, host, "-8 by 7"));
  for (uint8_t &byte : host.codes)
    byte = (uint8_t)random ();
  fill_scales (&host.scales, &random, 0x0000, 0x00ff); /* denormal, and the least normal */
  fill_scales (&host.wscales, &random, 0x3e00, 0x4000);
  CHECK (test_equal (t, host, "denormal scales"));
  fill_scales (&host.scales, &random, 0x7680, 0x7700); /* up to 2^111 */
  fill_scales (&host.wscales, &random, 0x3580, 0x3600);
  return test_equal (t, host, "great scales");
}

static Status
test_all (DeviceTest *t, uint32_t seed)
{
  CHECK (test_codes (t, seed));
  for (const HostSize &size : sizes)
    if (!too_large (size))
      CHECK (test_size (t, size, seed++));
  return STATUS_OK;
}

int
main (void)
{
  return run_device_test (test_all);
}
