/* SPDX-License-Identifier: Apache-2.0
 *
 * The CUDA device through the table of cases that every device runs, attention included.
 */
#include "tests/kernels/cases.h"

#include <stdio.h>

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
  ops_cuda.trim (harness.stream);
  harness_report (&harness, ops_cuda.allocated (harness.stream) == 0, "all memory was given back");
  harness_close (&harness);
  return harness_finish (&harness);
}
