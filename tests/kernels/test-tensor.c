/* SPDX-License-Identifier: Apache-2.0
 *
 * Views and number formats, against definitions spelt out here.
 */
#include "kernels/kernels.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static int n_tests, n_failed;

static void
ok (bool passed, const char *name)
{
  n_failed += !passed;
  printf ("%sok %d - %s\n", passed ? "" : "not ", ++n_tests, name);
}

static void
test_views (void)
{
  uint16_t data[24];
  Tensor t = tensor_3d (DTYPE_BF16, data, 4, 3, 2);
  Tensor rows = tensor_rows (&t, 1, 2);
  Tensor scalar = { DTYPE_F32, 0, { 1, 1, 1, 1 }, NULL };
  Tensor nothing = tensor_rows (&(Tensor){ DTYPE_F32, 2, { 4, 3, 1, 1 }, NULL }, 2, 1);

  ok (tensor_count (&t) == 24 && tensor_bytes (&t) == 48, "count and bytes");
  ok (tensor_count (&scalar) == 1 && tensor_bytes (&scalar) == 4, "a scalar has one element");
  ok (rows.data == data + 6 && tensor_count (&rows) == 12 && rows.rank == 3, "rows are a view");
  ok (nothing.data == NULL && tensor_count (&nothing) == 3, "rows of no data have no data");
  ok (tensor_same_shape (&t, &t) && !tensor_same_shape (&t, &rows), "same shape");
  t.rank = 2;
  rows = tensor_3d (DTYPE_BF16, data, 4, 3, 1);
  ok (!tensor_same_shape (&t, &rows), "another rank is another shape");
}

static void
test_types (void)
{
  static const DType types[] = { DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_F8_E4M3,
                                 DTYPE_I8,  DTYPE_U8,   DTYPE_I32, DTYPE_I64 };
  static const size_t sizes[] = { 4, 2, 2, 1, 1, 1, 4, 8 };
  static const char *names[] = { "F32", "BF16", "F16", "F8_E4M3", "I8", "U8", "I32", "I64" };
  bool passed = true;

  for (size_t i = 0; i < sizeof types / sizeof *types; i++)
    passed &= dtype_size (types[i]) == sizes[i] && strcmp (dtype_name (types[i]), names[i]) == 0;
  ok (passed, "sizes and names of types");
}

/* The value of a small float by its definition. */
static double
decode (uint32_t bits, int exponent_bits, int mantissa_bits, int bias)
{
  uint32_t exponent = bits >> mantissa_bits & ((1u << exponent_bits) - 1);
  double mantissa = bits & ((1u << mantissa_bits) - 1);
  double one = 1u << mantissa_bits;
  double magnitude = exponent == 0 ? ldexp (mantissa / one, 1 - bias)
                                   : ldexp (1.0 + mantissa / one, (int)exponent - bias);

  return bits >> (exponent_bits + mantissa_bits) & 1 ? -magnitude : magnitude;
}

static void
test_decoding (void)
{
  bool bf16 = true, f16 = true, e4m3 = true;

  for (uint32_t bits = 0; bits < 65536; bits++)
    {
      if ((bits & 0x7f80) != 0x7f80)
        bf16 &= bf16_to_float ((uint16_t)bits) == decode (bits, 8, 7, 127);
      if ((bits & 0x7c00) != 0x7c00)
        f16 &= f16_to_float ((uint16_t)bits) == decode (bits, 5, 10, 15);
    }
  for (uint32_t bits = 0; bits < 256; bits++)
    e4m3 &= (bits & 0x7f) == 0x7f ? isnan (e4m3_to_float ((uint8_t)bits))
                                  : e4m3_to_float ((uint8_t)bits) == decode (bits, 4, 3, 7);
  ok (bf16, "every finite BF16 number");
  ok (f16, "every finite F16 number");
  ok (e4m3, "every E4M3 number");
  ok (isinf (f16_to_float (0x7c00)) && f16_to_float (0xfc00) < 0 && isnan (f16_to_float (0x7e01)),
      "F16 infinities and NaN");
}

/* Rounding is to the nearest number, and of two to the one whose last bit is 0: tried between each
 * pair of positive neighbours at the middle and a little to either side of it. */
static bool
rounds_to_even (float (*decode_bits) (uint16_t), uint16_t (*encode) (float), uint32_t largest)
{
  for (uint32_t bits = 0; bits < largest; bits++)
    {
      float low = decode_bits ((uint16_t)bits);
      float high = decode_bits ((uint16_t)(bits + 1));
      float middle = (float)(((double)low + high) / 2);
      uint32_t even = bits + (bits & 1);

      if (middle > low && middle < high
          && (encode (middle) != even || encode (nextafterf (middle, low)) != bits
              || encode (nextafterf (middle, high)) != bits + 1))
        return false;
      if (encode (low) != bits || encode (-low) != (bits | 0x8000))
        return false;
    }
  return true;
}

static void
test_encoding (void)
{
  ok (rounds_to_even (bf16_to_float, bf16_from_float, 0x7f7f), "BF16 rounds to nearest even");
  ok (rounds_to_even (f16_to_float, f16_from_float, 0x7bff), "F16 rounds to nearest even");
  ok (isnan (bf16_to_float (bf16_from_float (NAN))) && isnan (f16_to_float (f16_from_float (NAN))),
      "NaN stays NaN");
  ok (bf16_from_float (INFINITY) == 0x7f80 && f16_from_float (-INFINITY) == 0xfc00
          && f16_from_float (65519.9f) == 0x7bff && f16_from_float (65520.0f) == 0x7c00,
      "infinities, and what rounds to one");
}

static void
test_element (void)
{
  uint16_t halves[] = { 0x3c00, 0xc000 };
  int8_t bytes[] = { -3, 7 };
  int64_t longs[] = { -5, 1 << 20 };
  Tensor f16 = tensor_1d (DTYPE_F16, halves, 2);
  Tensor i8 = tensor_1d (DTYPE_I8, bytes, 2);
  Tensor i64 = tensor_1d (DTYPE_I64, longs, 2);

  ok (tensor_get (&f16, 0) == 1.0f && tensor_get (&f16, 1) == -2.0f && tensor_get (&i8, 0) == -3.0f
          && tensor_get (&i64, 1) == 1048576.0f,
      "elements of several types");
}

int
main (void)
{
  test_views ();
  test_types ();
  test_decoding ();
  test_encoding ();
  test_element ();
  printf ("1..%d\n", n_tests);
  return n_failed > 0;
}
