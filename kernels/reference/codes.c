/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/reference/codes.h"

#include "kernels/weight-codes.h"

#include <string.h>

/* They may lie at any address. */
static float
scale_of (const Tensor *scales, int64_t group)
{
  uint16_t bits;

  memcpy (&bits, (const char *)scales->data + group * 2, sizeof bits);
  return bf16_to_float (bits);
}

void
codes_reference (const Tensor *codes, const Tensor *scales, float *out)
{
  static const int8_t table[16] = CODES_TABLE;
  const uint8_t *bytes = codes->data;
  int64_t count = tensor_count (scales) * CODES_GROUP;

  for (int64_t i = 0; i < count; i++)
    {
      int value;

      if (codes->dtype == DTYPE_U8)
        value = table[i % 2 == 0 ? bytes[i / 2] & 15 : bytes[i / 2] >> 4];
      else
        value = (int8_t)bytes[i];
      out[i] = (float)value * scale_of (scales, i / CODES_GROUP);
    }
}
