/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of NVFP4 codes on the card against the reference (spec svdquant 8.3, 8.4).
 *
 * The whole kernel runs with each kind of multiplication: the block-scaled instruction where the
 * card has it, the same arithmetic in software, which fetches fragments and scales from the lanes
 * that the instruction takes them from, and FP16. Each with both tiles, whatever the size.
 */
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/svdq_fp4.cuh"
#include "tests/kernels/svdq-device.cuh"

#include <string.h>

/* Of the sum of the terms' magnitudes, before rounding. */
#define SHARE 0x1p-20

template <typename Tile, typename Math>
static Status
always (Stream *s, const SvdqGemm *g)
{
  return svdq_launch<Tile, Tile, Math> (s, g, SVDQ_NVFP4);
}

typedef Fp4BlockScaled<Fp4Software> Software;
typedef Fp4BlockScaled<Fp4Instruction> Instruction;

static const struct
{
  const char *name;
  SvdqProduct product;
  bool instruction, in_software;
} paths[] = {
  { "software, large", always<Fp4LargeTile, Software>, false, true },
  { "software, small", always<Fp4SmallTile, Software>, false, true },
  { "FP16, large", always<Fp4LargeTile, Fp4Expanded>, false, false },
  { "FP16, small", always<Fp4SmallTile, Fp4Expanded>, false, false },
  { "FP16, chosen", svdq_gemm_fp4_expanded, false, false },
  { "instruction, large", always<Fp4LargeTile, Instruction>, true, false },
  { "instruction, small", always<Fp4SmallTile, Instruction>, true, false },
  { "instruction, chosen", svdq_gemm_fp4, true, false },
};
#define N_PATHS (sizeof paths / sizeof paths[0])

static const HostSize sizes[] = {
  { 1, 64, 64, 0, false, false, false },     { 1, 192, 320, 32, false, true, true },
  { 255, 64, 128, 16, false, false, true },  { 256, 192, 192, 32, false, true, false },
  { 257, 128, 448, 128, true, true, true },  { 66, 256, 256, 32, true, false, true },
  { 130, 320, 1088, 48, false, true, true }, { 33, 64, 3840, 32, false, false, true },
};

/* Runs on the paths that the card can take; `check` says whether y is right. */
template <typename Check>
static Status
on_all_paths (DeviceTest *t, const HostLinear &host, const char *what, Check check)
{
  DeviceLinear d;
  std::vector<uint16_t> y;
  char text[96];
  CHECK (put_on_device (t->s, host, &d));
  for (size_t i = 0; i < N_PATHS; i++)
    {
      if (paths[i].instruction && !(t->s->caps.sm >= FP4_FIRST_SM && t->s->caps.sm <= FP4_LAST_SM))
        continue;
      /* In software, lanes fetch what they need by a hundred shuffles an mma. */
      if (IS_EMULATED && paths[i].in_software && (int64_t)d.activations.m * d.weights.n > 20000)
        continue;
      text[0] = '\0';
      CHECK (run_product (t->s, paths[i].product, &d, &y));
      report (t, check (y, paths[i].product, &d, text), paths[i].name, what, text);
    }
  take_off_device (t->s, &d);
  return STATUS_OK;
}

/* -- random numbers -----------------------------------------------------------------------------
 */

static Status
test_size (DeviceTest *t, const HostSize &size, uint32_t seed)
{
  const HostLinear host (SVDQ_NVFP4, size, seed);
  const SvdqSource source = host.source ();
  std::vector<float> want ((size_t)size.m * size.n);
  char what[64];
  CHECK (svdq_reference (SVDQ_LEVEL_CONTRACT, &source, size.n, size.k,
                         size.bias ? host.bias.data () : NULL, host.x.data (), size.m,
                         want.data ()));
  snprintf (what, sizeof what, "%dx%dx%d rank %d%s%s%s", size.m, size.n, size.k, size.rank,
            size.swiglu ? " swiglu" : "", size.bias ? " bias" : "", size.outer ? " outer" : "");
  return on_all_paths (
      t, host, what,
      [&] (const std::vector<uint16_t> &y, SvdqProduct, const DeviceLinear *, char *text) {
        const Verdict v = judge (host, y, want.data (), SHARE);
        sprintf (text, "%zu outside, %zu beyond, %.3f %% rounded otherwise", v.outside, v.beyond,
                 100.0 * v.different / want.size ());
        return v.outside == 0 && v.beyond == 0;
      });
}

/* -- vectors that find wrong lanes and bytes ----------------------------------------------------
 */

/* Each output is one product, so exact in any order: equal to the exact value in BF16. */
static Status
test_single_products (DeviceTest *t, const HostLinear &host, const char *what)
{
  std::vector<uint16_t> want;
  double terms;
  for (int row = 0; row < host.size.m; row++)
    for (int n = 0; n < host.size.n; n++)
      want.push_back (bf16_from_float ((float)host.evaluate (row, n, &terms)));
  return on_all_paths (
      t, host, what,
      [&] (const std::vector<uint16_t> &y, SvdqProduct, const DeviceLinear *d, char *text) {
        size_t wrong = 0;
        for (int row = 0; row < host.size.m; row++)
          for (int n = 0; n < host.size.n; n++)
            wrong += y[row * d->stride + n] != want[row * host.size.n + n];
        sprintf (text, "%zu wrong", wrong);
        return wrong == 0;
      });
}

/* Row m has a 1 at k = m; weights' codes tell k and n. */
static HostLinear
one_hot ()
{
  HostLinear host (SVDQ_NVFP4, { 256, 256, 256, 0, false, false, false }, 1);
  for (size_t i = 0; i < host.qweight.size (); i++)
    {
      const int n = (int)(i / 128), k = (int)(i % 128) * 2;
      host.qweight[i] = (uint8_t)((1 + (n + k) % 7) | (1 + (n + k + 1) % 7) << 4);
    }
  memset (host.wscales.data (), 0x38, host.wscales.size ()); /* 1.0 */
  memset (host.scales.data (), 0x38, host.scales.size ());
  memset (host.codes.data (), 0, host.codes.size ());
  for (int row = 0; row < 256; row++)
    host.codes[(row * 256 + row) / 2] = row & 1 ? 0x20 : 0x02;
  return host;
}

/* A power of two in E4M3. */
static uint8_t
power (int exponent)
{
  return (uint8_t)((exponent + 7) << 3);
}

/* A wrong lane or byte of scales shows as a wrong power of two. */
static Status
test_scale_selectors (DeviceTest *t, uint32_t seed)
{
  HostLinear host = one_hot ();
  std::mt19937 random (seed);
  CHECK (test_single_products (t, host, "one-hot rows, scales 1"));
  for (int row = 0; row < 256; row++)
    for (int g = 0; g < 16; g++)
      {
        host.scales[host.scale_at (row, g)] = power (g % 4 + 1);
        host.wscales[g * 256 + row] = power (-(g % 4) - 1);
      }
  CHECK (test_single_products (t, host, "scales 2^g and 2^-g"));
  for (int row = 0; row < 256; row++)
    for (int g = 0; g < 16; g++)
      {
        host.scales[host.scale_at (row, g)] = power (row % 15 - 6);
        host.wscales[g * 256 + row] = power (row * 7 % 15 - 6);
      }
  CHECK (test_single_products (t, host, "scales by row and column"));
  for (int i = 0; i < 3; i++)
    {
      for (uint8_t &scale : host.scales)
        scale = power ((int)(random () % 15) - 6);
      for (uint8_t &scale : host.wscales)
        scale = power ((int)(random () % 15) - 6);
      CHECK (test_single_products (t, host, "scales random powers of two"));
    }
  for (uint8_t &scale : host.scales)
    scale = (uint8_t)(random () % 0x7f);
  for (uint8_t &scale : host.wscales)
    scale = (uint8_t)(random () % 0x7f);
  return test_single_products (t, host, "scales any of E4M3");
}

/* All pairs of codes: row m holds code m % 16 at one k, column n code n % 16 everywhere. */
static Status
test_codes (DeviceTest *t)
{
  HostLinear host = one_hot ();
  for (size_t i = 0; i < host.qweight.size (); i++)
    host.qweight[i] = (uint8_t)(i / 128 % 16 * 0x11);
  for (int row = 0; row < 256; row++)
    host.codes[(row * 256 + row) / 2] = (uint8_t)((row & 1) ? (row / 16 << 4) : row / 16);
  CHECK (on_all_paths (
      t, host, "all pairs of codes",
      [&] (const std::vector<uint16_t> &y, SvdqProduct, const DeviceLinear *d, char *text) {
        size_t wrong = 0;
        double terms;
        for (int row = 0; row < 256; row++)
          for (int n = 0; n < 256; n++) /* -0 in sums of zeros is as good as 0 */
            wrong += bf16_to_float (y[row * d->stride + n]) != host.evaluate (row, n, &terms);
        sprintf (text, "%zu wrong", wrong);
        return wrong == 0;
      }));
  return STATUS_OK;
}

/* -- the rest of the contract --------------------------------------------------------------------
 */

/* The outer scale multiplies the 4-bit sum alone. */
static Status
test_outer_scale (DeviceTest *t)
{
  HostLinear host = one_hot ();
  host.size.rank = 16;
  host.size.outer = true;
  host.allocate_activations ();
  memset (host.scales.data (), 0x38, host.scales.size ());
  for (int row = 0; row < 256; row++)
    host.codes[(row * 256 + row) / 2] = row & 1 ? 0x20 : 0x02;
  host.down.assign (256 * 16, 0);
  host.up.assign (256 * 16, bf16_from_float (1.0f));
  for (int row = 0; row < 256; row++)
    host.lora[row * 16 + row % 16] = bf16_from_float ((float)(1 << row % 5));
  for (int n = 0; n < 256; n++)
    host.outer[n] = 0.5f * (1 << n % 4);
  return test_single_products (t, host, "outer scale 0.5 * 2^(n % 4), low rank");
}

/* A group whose scale is 0 or NaN: codes do not matter, and only that row is lost. */
static Status
test_special_scales (DeviceTest *t)
{
  HostLinear host = one_hot ();
  memset (host.codes.data (), 0x77, host.codes.size () / 2); /* 128 rows of +6 */
  memset (host.scales.data (), 0, host.scales.size ());
  host.scales[host.scale_at (5, 3)] = 0x7f;
  return on_all_paths (
      t, host, "scale 0, and one NaN",
      [&] (const std::vector<uint16_t> &y, SvdqProduct, const DeviceLinear *d, char *text) {
        size_t wrong = 0;
        for (int row = 0; row < 256; row++)
          for (int n = 0; n < 256; n++)
            {
              const float value = bf16_to_float (y[row * d->stride + n]);
              wrong += row == 5 ? !isnan (value) : value != 0.0f;
            }
        sprintf (text, "%zu wrong", wrong);
        return wrong == 0;
      });
}

static Status
test_repeats (DeviceTest *t, uint32_t seed)
{
  const HostLinear host (SVDQ_NVFP4, { 300, 256, 512, 32, false, true, true }, seed);
  return on_all_paths (
      t, host, "20 runs",
      [&] (const std::vector<uint16_t> &y, SvdqProduct product, const DeviceLinear *d, char *) {
        std::vector<uint16_t> again;
        for (int i = 0; i < 20; i++)
          if (run_product (t->s, product, d, &again) != STATUS_OK || again != y)
            return false;
        return true;
      });
}

/* Two items of 33 rows: each alone gives the bits of both together. */
static Status
test_padding (DeviceTest *t, uint32_t seed)
{
  const HostSize both = { 66, 128, 256, 16, false, true, true };
  HostLinear host (SVDQ_NVFP4, both, seed), half (SVDQ_NVFP4, both, seed);
  half.size.m = 33;
  half.x.erase (half.x.begin (), half.x.begin () + 33 * 256);
  half.quantise ();
  DeviceLinear d;
  CHECK (put_on_device (t->s, half, &d));
  const Status status = on_all_paths (
      t, host, "two items of 33 rows",
      [&] (const std::vector<uint16_t> &y, SvdqProduct product, const DeviceLinear *, char *) {
        std::vector<uint16_t> alone;
        return run_product (t->s, product, &d, &alone) == STATUS_OK
               && std::equal (alone.begin (), alone.end (), y.begin () + 33 * d.stride);
      });
  take_off_device (t->s, &d);
  return status;
}

static Status
test_all (DeviceTest *t, uint32_t seed)
{
  CHECK (test_scale_selectors (t, seed));
  CHECK (test_codes (t));
  CHECK (test_outer_scale (t));
  CHECK (test_special_scales (t));
  for (const HostSize &size : sizes)
    if (!too_large (size))
      CHECK (test_size (t, size, seed++));
  CHECK (test_padding (t, seed));
  return IS_EMULATED ? STATUS_OK : test_repeats (t, seed); /* there each launch is repeated */
}

int
main (void)
{
  return run_device_test (test_all);
}
