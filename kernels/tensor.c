/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/tensor.h"

#include <math.h>
#include <string.h>

size_t
dtype_size (DType dtype)
{
  switch (dtype)
    {
    case DTYPE_F32:
    case DTYPE_I32:
      return 4;
    case DTYPE_BF16:
    case DTYPE_F16:
      return 2;
    case DTYPE_F8_E4M3:
    case DTYPE_I8:
    case DTYPE_U8:
      return 1;
    case DTYPE_I64:
      return 8;
    }
  return 0;
}

const char *
dtype_name (DType dtype)
{
  switch (dtype)
    {
    case DTYPE_F32:
      return "F32";
    case DTYPE_BF16:
      return "BF16";
    case DTYPE_F16:
      return "F16";
    case DTYPE_F8_E4M3:
      return "F8_E4M3";
    case DTYPE_I8:
      return "I8";
    case DTYPE_U8:
      return "U8";
    case DTYPE_I32:
      return "I32";
    case DTYPE_I64:
      return "I64";
    }
  return "?";
}

Tensor
tensor_1d (DType dtype, void *data, int64_t a)
{
  return (Tensor){ dtype, 1, { a, 1, 1, 1 }, data };
}

Tensor
tensor_2d (DType dtype, void *data, int64_t a, int64_t b)
{
  return (Tensor){ dtype, 2, { a, b, 1, 1 }, data };
}

Tensor
tensor_3d (DType dtype, void *data, int64_t a, int64_t b, int64_t c)
{
  return (Tensor){ dtype, 3, { a, b, c, 1 }, data };
}

Tensor
tensor_4d (DType dtype, void *data, int64_t a, int64_t b, int64_t c, int64_t d)
{
  return (Tensor){ dtype, 4, { a, b, c, d }, data };
}

int64_t
tensor_count (const Tensor *t)
{
  int64_t count = 1;

  for (int i = 0; i < t->rank; i++)
    count *= t->shape[i];
  return count;
}

size_t
tensor_bytes (const Tensor *t)
{
  return (size_t)tensor_count (t) * dtype_size (t->dtype);
}

Tensor
tensor_rows (const Tensor *t, int64_t first, int64_t count)
{
  Tensor rows = *t;
  int64_t row = t->shape[0] > 0 ? tensor_count (t) / t->shape[0] : 0;

  rows.shape[0] = count;
  if (t->data != NULL)
    rows.data = (char *)t->data + (size_t)(first * row) * dtype_size (t->dtype);
  return rows;
}

bool
tensor_same_shape (const Tensor *a, const Tensor *b)
{
  if (a->rank != b->rank)
    return false;
  for (int i = 0; i < a->rank; i++)
    if (a->shape[i] != b->shape[i])
      return false;
  return true;
}

float
bf16_to_float (uint16_t bits)
{
  uint32_t wide = (uint32_t)bits << 16;
  float value;

  memcpy (&value, &wide, sizeof value);
  return value;
}

uint16_t
bf16_from_float (float value)
{
  uint32_t bits;

  memcpy (&bits, &value, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) /* rounding must not turn a NaN into an infinity */
    return (uint16_t)((bits >> 16) | 0x40u);
  bits += 0x7fffu + ((bits >> 16) & 1u);
  return (uint16_t)(bits >> 16);
}

float
f16_to_float (uint16_t bits)
{
  int exponent = (bits >> 10) & 31;
  int mantissa = bits & 1023;
  float magnitude;

  if (exponent == 31)
    magnitude = mantissa ? NAN : INFINITY;
  else if (exponent == 0)
    magnitude = ldexpf ((float)mantissa, -24);
  else
    magnitude = ldexpf ((float)(mantissa | 1024), exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

uint16_t
f16_from_float (float value)
{
  uint32_t bits;
  uint16_t sign;
  float magnitude = fabsf (value);

  memcpy (&bits, &value, sizeof bits);
  sign = (uint16_t)(bits >> 16 & 0x8000u);
  if (isnan (value))
    return sign | 0x7e00u;
  if (magnitude >= 65520.0f) /* halfway between the largest number and the next power of two */
    return sign | 0x7c00u;
  if (magnitude < 0x1p-14f) /* subnormal: multiples of 2^-24, and nearbyintf rounds ties to even */
    return sign | (uint16_t)nearbyintf (magnitude * 0x1p24f);
  bits &= 0x7fffffffu;
  bits += 0xfffu + (bits >> 13 & 1u);
  return sign | (uint16_t)((bits - (112u << 23)) >> 13);
}

float
e4m3_to_float (uint8_t bits)
{
  int exponent = (bits >> 3) & 15;
  int mantissa = bits & 7;
  float magnitude;

  if (exponent == 15 && mantissa == 7) /* the format has no infinities and one NaN */
    magnitude = NAN;
  else if (exponent == 0)
    magnitude = ldexpf ((float)mantissa, -9);
  else
    magnitude = ldexpf ((float)(mantissa | 8), exponent - 10);
  return bits & 0x80 ? -magnitude : magnitude;
}

float
tensor_get (const Tensor *t, int64_t i)
{
  switch (t->dtype)
    {
    case DTYPE_F32:
      return ((const float *)t->data)[i];
    case DTYPE_BF16:
      return bf16_to_float (((const uint16_t *)t->data)[i]);
    case DTYPE_F16:
      return f16_to_float (((const uint16_t *)t->data)[i]);
    case DTYPE_F8_E4M3:
      return e4m3_to_float (((const uint8_t *)t->data)[i]);
    case DTYPE_I8:
      return (float)((const int8_t *)t->data)[i];
    case DTYPE_U8:
      return (float)((const uint8_t *)t->data)[i];
    case DTYPE_I32:
      return (float)((const int32_t *)t->data)[i];
    case DTYPE_I64:
      return (float)((const int64_t *)t->data)[i];
    }
  return 0.0f;
}
