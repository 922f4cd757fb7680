/* SPDX-License-Identifier: Apache-2.0
 *
 * fiber.h - stacks to switch between: what a thread of the card is on the processor
 *
 * Some ten nanoseconds a switch on x86-64, by a few instructions of our own; other processors take
 * the C library's contexts. AddressSanitizer is told of every switch.
 */
#pragma once

#include <stddef.h>

namespace emulation
{
struct Fiber
{
  void *context; /* where it stands: a stack pointer, or a ucontext_t */
  char *stack;   /* lowest byte; NULL for the program's own stack */
  size_t bytes;
  void *fake; /* AddressSanitizer's, while it is not running */
};

/* Readies `fiber` to begin with entry (), which must not return. Its stack ends in a page that
 * cannot be touched, and is never given back: there are as many as the largest block has threads.
 */
void fiber_make (Fiber *fiber, void (*entry) (void));

/* Leaves `from`, which is running, for `to`; returns when something switches back. */
void fiber_switch (Fiber *from, Fiber *to);

/* The first thing that an entry does. */
void fiber_begun ();
}
