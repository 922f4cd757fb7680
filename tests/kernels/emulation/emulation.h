/* SPDX-License-Identifier: Apache-2.0
 *
 * emulation.h - what a test asks of the emulated card
 *
 * There is one, device 0 of the emulated runtime (runtime.cpp), and it is the process's: settings
 * here hold for all that follows. Whatever a kernel does wrong that can be seen ends the program,
 * with the block, the thread and what it was about.
 */
#pragma once

#include <stdint.h>

namespace emulation
{
/* Who goes first where the card may do as it likes: blocks of a grid, warps of a block, lanes of a
 * warp, between one barrier and the next; and whether asynchronous copies land at once or when they
 * are waited for. A kernel without races gives the same bytes in any order. */
enum Order
{
  FORWARD,  /* lowest first, copies land as late as may be */
  BACKWARD, /* highest first, copies land at once */
  RANDOM,   /* both by chance, by the number of the launch */
};

/* Every grid is run in every order, each time on the memory that it found, and must leave the same
 * bytes: that is so from the beginning, unless EMULATED_ONCE is in the environment. `once`: only
 * forward, for what adds in any order, and for what would take too long. */
void set_once (bool once);

/* When the card does what has been put into its queues. Work that is tied by the events and waits
 * that it needs leaves the same bytes in any of these. */
enum Serving
{
  AT_ONCE,      /* as soon as may be */
  LATE,         /* only what the host waits for, and what that waits for */
  OTHERS_FIRST, /* the queue that was made first late, the others at once */
  BY_CHANCE,    /* a little now and then */
};

/* At first what EMULATED_QUEUES in the environment says: "late", "others-first" or "by-chance". */
void set_serving (Serving serving);

/* What the device says that it is: compute capability times ten, and multiprocessors, of which
 * launchers make choices. At first what EMULATED_SM in the environment says, or else 80, and 4. */
void set_device (int sm, int multiprocessors);

/* Bytes of its memory, of 4 GiB, that other programs hold. */
void set_others (uint64_t bytes);

/* The n-th allocation from now on fails, once; 0: none. Returns how many were asked for since this
 * was last called. */
int fail_allocation (int n);

/* Since the program began: switches from one thread to another, and blocks. */
struct Counts
{
  uint64_t switches, blocks;
};

Counts counts (void);
}
