/* SPDX-License-Identifier: Apache-2.0
 *
 * card.h - what a test in C asks of the emulated card (tests/kernels/emulation/emulation.h)
 */
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C"
{
#endif

  /* When the card does what it has been given: see `Serving`. */
  typedef enum
  {
    CARD_AT_ONCE,
    CARD_LATE,
    CARD_OTHERS_FIRST,
    CARD_BY_CHANCE,
  } CardServing;

  void card_serve (CardServing serving);

  /* Bytes of its memory that other programs hold from now on; bytes that are free. */
  void card_set_others (uint64_t bytes);
  uint64_t card_get_free (void);

  /* The n-th allocation from now on fails, once; 0: none does. Returns how many there have been
   * since this was last called. */
  int card_fail_allocation (int n);

#ifdef __cplusplus
}
#endif
