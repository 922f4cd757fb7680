/* SPDX-License-Identifier: Apache-2.0
 *
 * patience.h - how large a case may be where the card is a program (emulation/)
 *
 * The tests of the card have sizes for a card. Its emulation runs their smaller half: whatever
 * takes more products than this is left out there, and on a card nothing is. LAUNCH_ONCE is for the
 * tests' own kernels: they need not run in every order, and not all leave the same bytes.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#ifdef EMULATED
#define IS_EMULATED   true
#define MOST_PRODUCTS ((int64_t)1 << 25)
#ifdef __cplusplus
#include "tests/kernels/emulation/emulation.h"
#define LAUNCH_ONCE(launch) (emulation::set_once (true), launch, emulation::set_once (false))
#endif
#else
#define IS_EMULATED   false
#define MOST_PRODUCTS INT64_MAX
#define LAUNCH_ONCE(launch) launch
#endif
