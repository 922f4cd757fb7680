/* SPDX-License-Identifier: Apache-2.0
 *
 * device.h - the execution model, as the headers in include/ use it
 *
 * Blocks, or clusters of them, run one after another. The threads of one are fibers, which run
 * until they have to wait: at a barrier of the block, or where lanes of a warp meet, until all have
 * come. Nothing else switches, so between two such places a thread is alone; what depends on
 * others' progress there comes out differently in another order (emulation.h).
 */
#pragma once

#include "tests/kernels/emulation/emulation.h"

#include <stddef.h>
#include <stdint.h>

namespace emulation
{
const int WARP = 32;
const uint32_t ALL_LANES = 0xffffffffu;

/* Says what is wrong, in which thread of which block, and ends the program. */
[[noreturn]] void fault (const char *format, ...) __attribute__ ((format (printf, 1, 2)));

/* -- barriers --------------------------------------------------------------------------------- */

/* All threads of the block that have not ended. */
void sync_threads ();

/* `threads` threads at barrier 1 to 15: to wait there, or only to be counted. All lanes of a warp
 * come, or none. */
void barrier_sync (int id, int threads);
void barrier_arrive (int id, int threads);

/* What waits for more than a barrier counts: a thread looks, sleeps, and looks again when any other
 * has woken all who sleep. */
void sleep_for (const char *what);
void wake_all ();

/* -- clusters --------------------------------------------------------------------------------- */

/* This block's number in its cluster; all threads of the cluster that have not ended. */
int cluster_rank ();
void sync_cluster ();

/* The distance from a block's dynamic shared memory to that of the cluster's next. */
size_t cluster_pitch ();

/* -- lanes of a warp -------------------------------------------------------------------------- */

/* What lanes do together: operands[lane] of those in `mask` is what each came with. */
typedef void Meeting (void *const operands[WARP], uint32_t mask);

/* Waits until the lanes in `mask` have come with the same `meeting`, of which the last runs it. */
void meet (Meeting *meeting, void *operands, uint32_t mask, const char *name);

int lane ();

/* -- shared memory ---------------------------------------------------------------------------- */

/* A block's shared memory begins with NaN of any width in every byte. An address in it is a
 * distance from somewhere, as on the card; `bytes` from there on, aligned to as many if those are a
 * power of two up to 16, lie in shared memory, or it is a fault. */
uint32_t shared_offset (const void *p);
char *shared_at (uint32_t address, size_t bytes);

/* Whether the device is sm_80 or newer, and has what came with it. */
bool is_sm80 ();

/* cp.async: `bytes` from `from` to shared memory, zeros behind them up to `size`. */
void copy_later (uint32_t shared, const void *from, int size, int bytes);
void copy_commit ();
void copy_wait (int pending);

/* -- kernels ---------------------------------------------------------------------------------- */

struct Extent
{
  unsigned x, y, z;
};

/* Runs kernel (arguments) in every thread of a grid. */
struct Launch
{
  Extent grid, block;
  int cluster;   /* blocks, neighbours of x, that run at once */
  size_t shared; /* bytes of dynamic shared memory of each */
  void (*kernel) (void *arguments);
  void *arguments;
};

/* Once; `seed` is for RANDOM. */
void run_grid (const Launch &launch, Order order, uint32_t seed);
}
