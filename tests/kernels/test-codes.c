/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights kept as codes, on the CPU: each instruction set gives the bits of the plain formula, and
 * a layer of codes gives the bits of a layer of the weights that they mean.
 */
#include "kernels/cpu/simd.h"
#include "kernels/reference/codes.h"
#include "kernels/weight-codes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int n_tests, n_failed;

static void
ok (bool passed, const char *name, int bits)
{
  printf ("%sok %d - %s, %d bit\n", passed ? "" : "not ", ++n_tests, name, bits);
  n_failed += !passed;
}

/* A part of a layer, and the weights that it means. */
typedef struct
{
  uint8_t *memory;
  Tensor codes, scales, weights;
} Part;

static uint32_t
random_bits (void)
{
  static uint32_t state = 12345;

  state = state * 1664525u + 1013904223u;
  return state >> 8;
}

/* Codes of all values, and scales of either sign, one of them subnormal, at odd addresses. */
static Part
make_part (int bits, int64_t rows, int64_t k)
{
  size_t n_codes = (size_t)(rows * k * bits / 8), n_scales = (size_t)(rows * k / CODES_GROUP);
  Part p = { .memory = malloc (n_codes + n_scales * 2 + 2) };
  uint8_t *scales = p.memory + (n_codes + 1) / 2 * 2 + 1;

  for (size_t i = 0; i < n_codes; i++)
    p.memory[i] = (uint8_t)(i < 256 ? i : random_bits ());
  for (size_t i = 0; i < n_scales; i++)
    {
      uint16_t scale = (uint16_t)((random_bits () & 0x83ffu) | 0x3a00u);

      scale = i == 1 ? 0x8003 : scale;
      memcpy (scales + i * 2, &scale, 2);
    }
  p.codes = bits == 4 ? tensor_2d (DTYPE_U8, p.memory, rows, k / 2)
                      : tensor_2d (DTYPE_I8, p.memory, rows, k);
  p.scales = tensor_2d (DTYPE_BF16, scales, rows, k / CODES_GROUP);
  p.weights = tensor_2d (DTYPE_F32, malloc ((size_t)(rows * k) * sizeof (float)), rows, k);
  codes_reference (&p.codes, &p.scales, p.weights.data);
  return p;
}

static void
free_part (Part *p)
{
  free (p->memory);
  free (p->weights.data);
}

static void
test_table (const Simd *simd, int bits)
{
  Part p = make_part (bits, 5, 192);
  size_t bytes = tensor_bytes (&p.weights);
  float *out = malloc (bytes);

  (bits == 4 ? simd->expand_codes4 : simd->expand_codes8) (p.codes.data, p.scales.data, out,
                                                           tensor_count (&p.weights));
  ok (memcmp (out, p.weights.data, bytes) == 0, simd->name, bits);
  free (out);
  free_part (&p);
}

/* y [m, n] of a layer of q, k, v; false if it cannot be made. */
static bool
apply (Stream *s, const LinearSource *source, const Tensor *x, Tensor *out)
{
  Linear *linear;
  bool good;

  if (linear_cpu_dense.prepare_weights (s, source, &linear) != STATUS_OK)
    return false;
  good = linear_cpu_dense.apply (s, linear, x, out) == STATUS_OK;
  linear_cpu_dense.release (s, linear);
  return good;
}

static double
difference (const Tensor *a, const Tensor *b)
{
  double error = 0.0, size = 0.0;

  for (int64_t i = 0; i < tensor_count (a); i++)
    {
      double x = tensor_get (a, i), y = tensor_get (b, i);

      error += (x - y) * (x - y);
      size += y * y;
    }
  return error / size;
}

/* A layer of codes against one of the same weights in F32: widened once, bit for bit; widened on
 * each call, to the rounding of sums, which panels may cut in other places. */
static void
test_layer (Stream *s, int bits)
{
  const int64_t rows[LINEAR_MAX_PARTS] = { 96, 32, 32 }, k = 320, m = 9;
  LinearSource coded = { .k = k, .n_parts = 3, .code_bits = bits }, dense = coded;
  float x_values[9 * 320], outs[3][9 * 160];
  Tensor x = tensor_2d (DTYPE_F32, x_values, m, k), y[3];
  Part parts[LINEAR_MAX_PARTS];

  dense.code_bits = 0;
  for (int i = 0; i < coded.n_parts; i++)
    {
      parts[i] = make_part (bits, rows[i], k);
      coded.parts[i] = parts[i].codes;
      coded.scales[i] = parts[i].scales;
      dense.parts[i] = parts[i].weights;
      coded.n = dense.n += rows[i];
    }
  for (int i = 0; i < m * k; i++)
    x_values[i] = (float)random_bits () / (float)(1 << 23) - 1.0f;
  for (int i = 0; i < 3; i++)
    y[i] = tensor_2d (DTYPE_F32, outs[i], m, coded.n);

  ok (apply (s, &dense, &x, &y[0]) && apply (s, &coded, &x, &y[1])
          && difference (&y[1], &y[0]) < 1e-12,
      "a layer widened on each call", bits);
  coded.resident = true;
  ok (apply (s, &coded, &x, &y[2]) && memcmp (outs[2], outs[0], sizeof outs[0]) == 0,
      "a layer widened once is that of its weights", bits);
  for (int i = 0; i < coded.n_parts; i++)
    free_part (&parts[i]);
}

/* What does not fit is refused, and leaves nothing behind. */
static void
test_refused (Stream *s, int bits)
{
  Part p = make_part (bits, 8, 128);
  const LinearSource good = {
    .n = 8, .k = 128, .n_parts = 1, .parts = { p.codes }, .scales = { p.scales }, .code_bits = bits
  };
  LinearSource bad[6];
  uint64_t before = ops_cpu.allocated (s);
  bool refused = true;
  Linear *linear;

  for (int i = 0; i < 6; i++)
    bad[i] = good;
  bad[0].code_bits = 12 - bits;
  bad[1].scales[0].shape[1] = 1;
  bad[2].scales[0].shape[0] = 7;
  bad[3].scales[0].dtype = DTYPE_F32;
  bad[4].parts[0].shape[1] /= 2;
  bad[5].k = 96;
  for (int i = 0; i < 6; i++)
    refused = refused && linear_cpu_dense.prepare_weights (s, &bad[i], &linear) != STATUS_OK
              && linear == NULL;
  ok (refused && ops_cpu.allocated (s) == before, "codes that do not fit are refused", bits);
  refused
      = linear_cpu_dense.prepare_weights (s, &good, &linear) == STATUS_OK && linear->bytes < 1024;
  ok (refused, "codes are used as mapped", bits);
  linear_cpu_dense.release (s, linear);
  free_part (&p);
}

int
main (void)
{
  DeviceCaps caps;
  Stream *s;

  if (ops_cpu.query (0, &caps) != STATUS_OK || ops_cpu.open (0, NULL, &s) != STATUS_OK)
    {
      printf ("Bail out! the processor does not open\n");
      return 1;
    }
  for (int bits = 8; bits >= 4; bits -= 4)
    {
      test_table (&simd_sse2, bits);
      if (caps.avx2)
        test_table (&simd_avx2, bits);
      if (caps.avx512)
        test_table (&simd_avx512, bits);
      test_layer (s, bits);
      test_refused (s, bits);
    }
  ops_cpu.close (s);
  printf ("1..%d\n", n_tests);
  return n_failed > 0;
}
