/* SPDX-License-Identifier: Apache-2.0
 *
 * patience.h - how large a case may be where the card is a program (emulation/)
 *
 * The tests of the card have sizes for a card. Its emulation runs their smaller half: whatever
 * takes more products than this is left out there, and on a card nothing is.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#ifdef EMULATED
#define IS_EMULATED   true
#define MOST_PRODUCTS ((int64_t)1 << 25)
#else
#define IS_EMULATED   false
#define MOST_PRODUCTS INT64_MAX
#endif
