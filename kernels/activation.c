/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/kernels.h"

DType
device_activation (const DeviceCaps *caps)
{
  if (caps->kind == DEVICE_CPU)
    return DTYPE_F32;
  return caps->bf16 ? DTYPE_BF16 : DTYPE_F16;
}

DType
device_residual (const DeviceCaps *caps)
{
  const DType activation = device_activation (caps);

  return activation == DTYPE_F16 ? DTYPE_F32 : activation;
}
