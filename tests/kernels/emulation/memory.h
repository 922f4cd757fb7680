/* SPDX-License-Identifier: Apache-2.0
 *
 * memory.h - the emulated card's memory: what lies outside of it cannot be touched unseen
 */
#pragma once

#include <stddef.h>

namespace emulation
{
/* What no launch gets more of: bytes of a block, and blocks of a cluster. */
const size_t MOST_SHARED = 227 << 10;
const int MOST_CLUSTER = 4;

/* A block begins with `bytes` of dynamic shared memory, and ends; writes behind it are a fault. */
void shared_begin (size_t bytes);
void shared_end (size_t bytes);

/* Device memory aligned to 256 bytes, every byte 0xff, between pages that cannot be touched. Ends
 * where the page does, but for the alignment; what is written into that gap is a fault when it is
 * freed. NULL: no memory. */
void *device_alloc (size_t bytes);
bool device_free (void *memory); /* false: there is no such memory */
bool device_has (const void *p);

/* Between begin and end, which pages kernels write is noted: `again` makes all memory what it was
 * at `begin`, and from the second time on, like `end`, wants that it was first left the same.
 * Touching what is no device memory is a fault. */
void watch_begin ();
void watch_again ();
void watch_end ();

/* The host is about to write there, if it is device memory. */
void device_touch (void *memory, size_t bytes);

/* The total, and what is left of it. */
size_t device_total ();
size_t device_left ();
}
