/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/kernels.h"

const char *
status_name (Status status)
{
  switch (status)
    {
    case STATUS_OK:
      return "ok";
    case STATUS_NO_MEMORY:
      return "out of memory";
    case STATUS_UNSUPPORTED:
      return "unsupported";
    case STATUS_NO_DEVICE:
      return "no such device";
    case STATUS_NO_DRIVER:
      return "no driver";
    case STATUS_DRIVER_TOO_OLD:
      return "driver too old";
    case STATUS_NOT_READY:
      return "driver not ready for computing";
    case STATUS_DEVICE_LOST:
      return "device lost";
    case STATUS_CANCELLED:
      return "cancelled";
    }
  return "unknown status";
}
