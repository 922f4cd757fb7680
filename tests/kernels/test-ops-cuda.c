/* SPDX-License-Identifier: Apache-2.0
 *
 * The CUDA device through the table of cases that every device runs, attention included.
 */
#include "tests/kernels/cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LONG_COUNT (((int64_t)100 << 20) / 4 + 3)

/* Longer than all pinned buffers together (kernels/cuda/stream.cuh), which are used again on the
 * way.
 */
static void
check_long_transfer (Harness *harness)
{
  const size_t bytes = (size_t)LONG_COUNT * sizeof (int32_t);
  int32_t *there = malloc (bytes), *back = malloc (bytes);
  Tensor from = tensor_1d (DTYPE_F32, there, LONG_COUNT), to = from, device = from;
  bool same = false;

  for (int64_t i = 0; there != NULL && i < LONG_COUNT; i++)
    there[i] = (int32_t)(i * 2654435761u);
  to.data = back;
  if (there != NULL && back != NULL
      && ops_cuda.alloc (harness->stream, bytes, &device.data) == STATUS_OK)
    {
      same = ops_cuda.upload (harness->stream, &from, &device) == STATUS_OK
             && ops_cuda.download (harness->stream, &device, &to) == STATUS_OK
             && memcmp (there, back, bytes) == 0;
      ops_cuda.free (harness->stream, device.data);
    }
  harness_report (harness, same, "100 MiB to the device and back");
  free (there);
  free (back);
}

int
main (void)
{
  Harness harness = { .seed = 20260117 };
  DeviceCaps caps;
  const Status found = ops_cuda.query (0, &caps);

  if (found != STATUS_OK)
    {
      printf ("1..0 # SKIP no CUDA device: %s\n", status_name (found));
      return 77;
    }
  if (!harness_open (&harness, &ops_cuda, NULL))
    return 1;
  cases_run (&harness, "", caps.name);
  check_long_transfer (&harness);
  ops_cuda.trim (harness.stream);
  harness_report (&harness, ops_cuda.allocated (harness.stream) == 0, "all memory was given back");
  harness_close (&harness);
  return harness_finish (&harness);
}
