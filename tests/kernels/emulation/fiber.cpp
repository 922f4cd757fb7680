/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/kernels/emulation/fiber.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#ifdef __SANITIZE_ADDRESS__
#include <pthread.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define STACK_BYTES ((size_t)256 << 10)
#define PAGE        ((size_t)4096)

namespace emulation
{
static char *
make_stack ()
{
  void *memory = mmap (NULL, STACK_BYTES + PAGE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect (memory, PAGE, PROT_NONE) != 0)
    {
      printf ("Bail out! no memory for a stack\n");
      exit (1);
    }
  return (char *)memory + PAGE;
}

/* -- switching ----------------------------------------------------------------------------------
 */

#ifdef __x86_64__

/* Keeps what a call must not change on the stack, and takes the other stack's. */
extern "C" void emulation_switch_stacks (void **from, void *to);
asm(".text\n"
    ".globl emulation_switch_stacks\n"
    ".type emulation_switch_stacks, @function\n"
    "emulation_switch_stacks:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n"
    ".size emulation_switch_stacks, . - emulation_switch_stacks\n");

static void
make_context (Fiber *fiber, void (*entry) (void))
{
  /* Six registers, the entry to return to, and a return address of nowhere above it. */
  uintptr_t *top = (uintptr_t *)(fiber->stack + fiber->bytes) - 1;
  top[0] = 0;
  top[-1] = (uintptr_t)entry;
  for (int i = 2; i < 8; i++)
    top[-i] = 0;
  fiber->context = top - 7;
}

static void
switch_context (Fiber *from, Fiber *to)
{
  emulation_switch_stacks (&from->context, to->context);
}

#else
}

#include <ucontext.h>

namespace emulation
{
static void
make_context (Fiber *fiber, void (*entry) (void))
{
  ucontext_t *context = (ucontext_t *)calloc (1, sizeof *context);
  getcontext (context);
  context->uc_stack.ss_sp = fiber->stack;
  context->uc_stack.ss_size = fiber->bytes;
  makecontext (context, entry, 0);
  fiber->context = context;
}

static void
switch_context (Fiber *from, Fiber *to)
{
  if (from->context == NULL)
    from->context = calloc (1, sizeof (ucontext_t));
  swapcontext ((ucontext_t *)from->context, (ucontext_t *)to->context);
}

#endif

/* -- fibers -------------------------------------------------------------------------------------
 */

void
fiber_make (Fiber *fiber, void (*entry) (void))
{
  fiber->stack = make_stack ();
  fiber->bytes = STACK_BYTES;
  fiber->fake = NULL;
  make_context (fiber, entry);
}

#ifdef __SANITIZE_ADDRESS__

static void
find_own_stack (Fiber *fiber)
{
  pthread_attr_t attributes;
  void *stack;
  pthread_getattr_np (pthread_self (), &attributes);
  pthread_attr_getstack (&attributes, &stack, &fiber->bytes);
  pthread_attr_destroy (&attributes);
  fiber->stack = (char *)stack;
}

void
fiber_switch (Fiber *from, Fiber *to)
{
  if (from->stack == NULL)
    find_own_stack (from);
  __sanitizer_start_switch_fiber (&from->fake, to->stack, to->bytes);
  switch_context (from, to);
  __sanitizer_finish_switch_fiber (from->fake, NULL, NULL);
}

void
fiber_begun ()
{
  __sanitizer_finish_switch_fiber (NULL, NULL, NULL);
}

#else

void
fiber_switch (Fiber *from, Fiber *to)
{
  switch_context (from, to);
}

void
fiber_begun ()
{
}

#endif
}
