/* SPDX-License-Identifier: Apache-2.0
 *
 * The CPU device: its maths against the reference with each instruction set and number of threads,
 * its memory, and its refusals.
 */
#include "kernels/cpu/stream.h"
#include "tests/kernels/cases.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void
test_maths (Harness *h)
{
  static const struct
  {
    const Simd *simd;
    int threads;
    bool wide_blocks; /* convolutions pack 16 channels, as with AVX-512, whatever runs them */
    const char *prefix, *label;
  } variants[] = {
    { &simd_sse2, 1, false, "", "SSE2, 1 thread" },
    { &simd_avx2, 2, false, "", "AVX2, 2 threads" },
    { &simd_avx512, 3, false, "", "AVX-512, 3 threads" },
    { NULL, 0, true, "conv", "16 channels" },
    { NULL, 0, false, "", "best, all threads" },
  };

  for (size_t i = 0; i < sizeof variants / sizeof *variants; i++)
    {
      StreamOptions options = { .threads = variants[i].threads };
      const DeviceCaps *caps;

      if (!harness_open (h, &ops_cpu, &options))
        exit (1);
      caps = &h->stream->caps;
      if ((variants[i].simd == &simd_avx2 && !caps->avx2)
          || (variants[i].simd == &simd_avx512 && !caps->avx512))
        harness_skip (h, variants[i].label);
      else
        {
          if (variants[i].simd != NULL)
            h->stream->simd = variants[i].simd;
          h->stream->caps.avx512 |= variants[i].wide_blocks;
          cases_run (h, variants[i].prefix, variants[i].label);
          harness_report (
              h, h->stream->memory.bytes == h->stream->scratch_bytes + h->stream->workspace_bytes,
              "all memory but the scratch was given back, %s", variants[i].label);
        }
      harness_close (h);
    }
}

/* -- memory -------------------------------------------------------------------------------- */

static bool
budget_is_kept (Stream *s, uint64_t budget)
{
  void *first, *second, *third;

  if (ops_cpu.alloc (s, (size_t)budget - 1000, &first) != STATUS_OK
      || ops_cpu.alloc (s, 1001, &second) != STATUS_NO_MEMORY || second != NULL
      || strlen (ops_cpu.detail (s)) == 0 || ops_cpu.alloc (s, 1000, &third) != STATUS_OK
      || ops_cpu.allocated (s) != budget)
    return false;
  ops_cpu.free (s, first);
  if (ops_cpu.allocated (s) != 1000)
    return false;
  ops_cpu.free (s, third);
  ops_cpu.free (s, NULL);
  return ops_cpu.allocated (s) == 0;
}

/* An operation whose scratch goes beyond the budget fails, and leaves the stream usable. */
static bool
scratch_is_refused (Stream *s, uint64_t budget)
{
  Tensor qkv = tensor_3d (DTYPE_F32, NULL, 8, 3, 16);
  Tensor out = tensor_2d (DTYPE_F32, NULL, 8, 16);
  void *ballast;
  bool passed;

  if (ops_cpu.alloc (s, tensor_bytes (&qkv), &qkv.data) != STATUS_OK
      || ops_cpu.alloc (s, tensor_bytes (&out), &out.data) != STATUS_OK
      || ops_cpu.alloc (s, (size_t)(budget - ops_cpu.allocated (s)), &ballast) != STATUS_OK)
    return false;
  memset (qkv.data, 0, tensor_bytes (&qkv));
  passed = ops_cpu.attention (s, &qkv, 1, 1, false, &out) == STATUS_NO_MEMORY;
  ops_cpu.free (s, ballast);
  passed = passed && ops_cpu.attention (s, &qkv, 1, 1, false, &out) == STATUS_OK;
  ops_cpu.free (s, qkv.data);
  ops_cpu.free (s, out.data);
  return passed;
}

static void
test_memory (Harness *h)
{
  StreamOptions options = { .memory_budget = (uint64_t)4 << 20, .threads = 1 };
  void *blocks[8];
  bool aligned = true;

  if (!harness_open (h, &ops_cpu, &options))
    exit (1);
  harness_report (h, budget_is_kept (h->stream, options.memory_budget), "the budget is kept");
  harness_report (h, scratch_is_refused (h->stream, options.memory_budget),
                  "scratch beyond the budget is refused");
  for (size_t i = 0; i < 8; i++)
    aligned = aligned && ops_cpu.alloc (h->stream, i * 37, &blocks[i]) == STATUS_OK
              && (uintptr_t)blocks[i] % 256 == 0;
  harness_report (h, aligned, "memory is aligned to 256 bytes");
  harness_close (h); /* with blocks still held: the sanitizer sees whether they are freed */

  if (!harness_open (h, &ops_cpu, NULL))
    exit (1);
  harness_report (h, ops_cpu.alloc (h->stream, SIZE_MAX - 100, &blocks[0]) == STATUS_NO_MEMORY,
                  "an absurd size is refused");
  harness_close (h);
}

/* -- conversions ---------------------------------------------------------------------------- */

/* Every number of a 16-bit type goes up as tensor_get reads it, and comes down as itself. */
static bool
round_trip (Stream *s, DType dtype)
{
  uint16_t *codes = malloc (65536 * sizeof *codes);
  uint16_t *back = malloc (65536 * sizeof *back);
  Tensor host = tensor_1d (dtype, codes, 65536);
  Tensor returned = tensor_1d (dtype, back, 65536);
  Tensor wide = tensor_1d (DTYPE_F32, NULL, 65536);
  bool passed = true;

  for (uint32_t i = 0; i < 65536; i++)
    codes[i] = (uint16_t)i;
  if (ops_cpu.alloc (s, tensor_bytes (&wide), &wide.data) != STATUS_OK
      || ops_cpu.upload (s, &host, &wide) != STATUS_OK
      || ops_cpu.download (s, &wide, &returned) != STATUS_OK)
    passed = false;
  for (int64_t i = 0; i < 65536 && passed; i++)
    {
      float expected = tensor_get (&host, i);
      float got = ((const float *)wide.data)[i];

      passed = isnan (expected)
                   ? isnan (got) && isnan (tensor_get (&returned, i))
                   : got == expected && signbit (got) == signbit (expected) && back[i] == codes[i];
    }
  ops_cpu.free (s, wide.data);
  free (codes);
  free (back);
  return passed;
}

/* The tables' conversions against the ones for single numbers. */
static bool
simd_conversions (const Simd *simd)
{
  static uint16_t codes[65536], narrowed[65536];
  static float wide[65536];
  bool passed = true;

  for (uint32_t i = 0; i < 65536; i++)
    codes[i] = (uint16_t)i;
  simd->widen_f16 (codes, wide, 65536);
  for (uint32_t i = 0; i < 65536; i++)
    passed &= isnan (f16_to_float (codes[i]))
                  ? isnan (wide[i])
                  : memcmp (&wide[i], &(float){ f16_to_float (codes[i]) }, sizeof (float)) == 0;
  for (uint32_t i = 0; i < 65536; i++)
    {
      uint32_t bits = i << 16 | (i * 40503u & 0xffffu); /* every upper half, some lower half */

      memcpy (&wide[i], &bits, sizeof bits);
    }
  simd->narrow_bf16 (wide, narrowed, 65536);
  for (uint32_t i = 0; i < 65536; i++)
    passed &= isnan (wide[i]) ? isnan (bf16_to_float (narrowed[i]))
                              : narrowed[i] == bf16_from_float (wide[i]);
  simd->widen_bf16 (codes, wide, 65536);
  for (uint32_t i = 0; i < 65536; i++)
    passed &= memcmp (&wide[i], &(uint32_t){ i << 16 }, sizeof (float)) == 0;
  return passed;
}

static void
test_conversions (Harness *h)
{
  if (!harness_open (h, &ops_cpu, NULL))
    exit (1);
  harness_report (h, round_trip (h->stream, DTYPE_BF16), "every BF16 number goes up and down");
  harness_report (h, round_trip (h->stream, DTYPE_F16), "every F16 number goes up and down");
  harness_report (h, simd_conversions (&simd_sse2), "conversions with SSE2");
  if (h->stream->caps.avx2)
    harness_report (h, simd_conversions (&simd_avx2), "conversions with AVX2");
  if (h->stream->caps.avx512)
    harness_report (h, simd_conversions (&simd_avx512), "conversions with AVX-512");
  harness_close (h);
}

/* -- refusals ------------------------------------------------------------------------------- */

static void
test_refusals (Harness *h)
{
  float numbers[64 * 64] = { 0 };
  Tensor x = tensor_2d (DTYPE_F32, numbers, 4, 16);
  Tensor shorter = tensor_2d (DTYPE_F32, numbers, 4, 15);
  Tensor qkv = tensor_3d (DTYPE_F32, numbers, 2, 3, 24);
  Tensor picture = tensor_3d (DTYPE_F32, numbers, 4, 4, 16);
  ConvSource five = { .weight = tensor_4d (DTYPE_F32, numbers, 1, 1, 5, 5), .stride = 1 };
  StreamOptions bf16 = { .bf16_math = true };
  DeviceCaps caps;
  Stream *s;
  Conv *conv;

  harness_report (h, ops_cpu.query (1, &caps) == STATUS_NO_DEVICE, "there is no second CPU");
  harness_report (h,
                  ops_cpu.query (0, &caps) == STATUS_OK && caps.multiprocessors > 0
                      && caps.name[0] != '\0' && caps.total_memory >= caps.free_memory
                      && caps.free_memory > 0,
                  "the CPU says what it is");
  harness_report (h, ops_cpu.open (0, &bf16, &s) == (caps.bf16 ? STATUS_OK : STATUS_UNSUPPORTED),
                  "BF16 products open only where the processor has them");
  ops_cpu.close (s);
  ops_cpu.close (NULL);

  if (!harness_open (h, &ops_cpu, NULL))
    exit (1);
  s = h->stream;
  harness_report (h,
                  ops_cpu.rms_norm (s, &x, &shorter, NULL, 1e-5f, &x) == STATUS_UNSUPPORTED
                      && strlen (ops_cpu.detail (s)) > 0,
                  "a norm of mismatched sizes is refused, and says so");
  harness_report (h, ops_cpu.attention (s, &qkv, 1, 1, false, &x) == STATUS_UNSUPPORTED,
                  "a head dimension of 24 is refused");
  harness_report (h, ops_cpu.conv_prepare (s, &five, &conv) == STATUS_UNSUPPORTED && conv == NULL,
                  "a 5x5 convolution is refused");
  harness_report (
      h, ops_cpu.group_norm (s, &picture, &x, &x, 3, 1e-6f, false, &picture) == STATUS_UNSUPPORTED,
      "groups that do not divide the channels are refused");
  ops_cpu.conv_release (s, NULL);
  linear_cpu_dense.release (s, NULL);
  harness_close (h);
}

int
main (void)
{
  Harness harness = { .seed = 20250923 };

  test_maths (&harness);
  test_memory (&harness);
  test_conversions (&harness);
  test_refusals (&harness);
  return harness_finish (&harness);
}
