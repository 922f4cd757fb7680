/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/reference/codes.h"

#include "kernels/weight-codes.h"

void
codes_reference (const Tensor *codes, const Tensor *scales, float *out)
{
  static const int8_t table[16] = CODES_TABLE;
  int64_t count = tensor_count (scales) * CODES_GROUP;

  for (int64_t i = 0; i < count; i++)
    {
      const uint8_t *bytes = codes->data;
      int value = (int8_t)bytes[i];

      if (codes->dtype == DTYPE_U8)
        value = table[i % 2 == 0 ? bytes[i / 2] & 15 : bytes[i / 2] >> 4];
      out[i] = (float)value * tensor_get (scales, i / CODES_GROUP);
    }
}
