/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/engine/emulated/card.h"

#include "tests/kernels/emulation/emulation.h"
#include "tests/kernels/emulation/memory.h"

void
card_serve (CardServing serving)
{
  emulation::set_serving ((emulation::Serving)serving);
}

void
card_set_others (uint64_t bytes)
{
  emulation::set_others (bytes);
}

uint64_t
card_get_free (void)
{
  return emulation::device_left ();
}

int
card_fail_allocation (int n)
{
  return emulation::fail_allocation (n);
}
