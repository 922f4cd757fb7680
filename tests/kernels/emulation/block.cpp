/* SPDX-License-Identifier: Apache-2.0
 *
 * The threads of a block, who goes next, and where they wait for one another.
 */
#include "tests/kernels/emulation/device.h"
#include "tests/kernels/emulation/fiber.h"
#include "tests/kernels/emulation/memory.h"

#include <cuda_runtime.h>

#include <random>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

#define MOST_THREADS (1024 * emulation::MOST_CLUSTER)
#define WARPS        (MOST_THREADS / emulation::WARP)
#define NAMED        16 /* barriers of a block; __syncthreads of a cluster's follow them */
#define BARRIERS     (NAMED + emulation::MOST_CLUSTER)
#define RESHUFFLE    64 /* choices between one random ranking and the next */

/* What kernels see. */
dim3 gridDim, blockDim;
uint3 blockIdx, threadIdx;

namespace emulation
{
namespace
{
struct Copy
{
  uint32_t shared;
  const void *from;
  int size, bytes;
  int group;
};

struct Thread
{
  Fiber fiber;
  uint3 index, block;
  int number; /* in the cluster; without one, in the block */

  Meeting *meeting; /* where it waits for other lanes; NULL: it does not */
  uint32_t mask;
  void *operands;
  const char *waits; /* what for, in words */

  std::vector<Copy> copies; /* not landed yet */
  int group;                /* that copies go into now */
};

struct Barrier
{
  int threads;             /* that it waits for; 0: nobody has come */
  int count;               /* that have come */
  uint32_t come[WARPS];    /* which */
  uint32_t waiting[WARPS]; /* of these, who waits */
};

struct Block
{
  Thread threads[MOST_THREADS];
  int n_threads, made, live;
  uint3 first; /* blockIdx, of the cluster's first block */
  uint32_t ready[WARPS], meeting[WARPS], ended[WARPS], asleep[WARPS];
  Barrier barriers[BARRIERS];
  Thread *current; /* NULL: the program itself */
  Fiber program;
  const Launch *launch;
};

struct Chooser
{
  Order order;
  std::minstd_rand random;
  uint8_t warps[WARPS]; /* in order of rank */
  int turn;             /* of the lanes */
  int choices;
  Counts counts;
};

Block block;
Chooser chooser;

/* -- who goes next ------------------------------------------------------------------------------
 */

void
reshuffle ()
{
  const int warps = (block.n_threads + WARP - 1) / WARP;
  for (int i = 0; i < warps; i++)
    chooser.warps[i] = (uint8_t)i;
  for (int i = warps - 1; i > 0; i--)
    std::swap (chooser.warps[i], chooser.warps[chooser.random () % (i + 1)]);
  chooser.turn = chooser.random () % WARP;
  chooser.choices = 0;
}

Thread *
choose_at_random ()
{
  const int warps = (block.n_threads + WARP - 1) / WARP;
  if (++chooser.choices >= RESHUFFLE)
    reshuffle ();
  for (int i = 0; i < warps; i++)
    {
      const int warp = chooser.warps[i], turn = chooser.turn;
      const uint32_t ready = block.ready[warp];
      if (ready == 0)
        continue;
      const uint32_t turned = turn == 0 ? ready : ready >> turn | ready << (WARP - turn);
      return &block.threads[warp * WARP + (__builtin_ctz (turned) + turn) % WARP];
    }
  return NULL;
}

Thread *
choose ()
{
  const int warps = (block.n_threads + WARP - 1) / WARP;
  if (chooser.order == RANDOM)
    return choose_at_random ();
  for (int i = 0; i < warps; i++)
    {
      const int warp = chooser.order == FORWARD ? i : warps - 1 - i;
      const uint32_t ready = block.ready[warp];
      if (ready != 0)
        return &block.threads[warp * WARP
                              + (chooser.order == FORWARD ? __builtin_ctz (ready)
                                                          : 31 - __builtin_clz (ready))];
    }
  return NULL;
}

bool
eager ()
{
  return chooser.order == BACKWARD || (chooser.order == RANDOM && chooser.random () % 2 == 0);
}

[[noreturn]] void
deadlock ()
{
  for (int i = 0; i < block.n_threads; i++)
    if (!(block.ended[i / WARP] >> i % WARP & 1) && (i % WARP == 0 || i == block.n_threads - 1))
      printf ("# thread %d waits at %s\n", i, block.threads[i].waits);
  fault ("nobody can go on");
}

void
go_to (Thread *next)
{
  Thread *self = block.current;
  block.current = next;
  chooser.counts.switches++;
  fiber_switch (self ? &self->fiber : &block.program, next ? &next->fiber : &block.program);
  if (self != NULL)
    threadIdx = self->index, blockIdx = self->block;
}

/* Lets others run; returns when this thread is ready and chosen. */
void
give_way ()
{
  Thread *next = choose ();
  if (next == NULL)
    deadlock ();
  if (next != block.current)
    go_to (next);
}

/* -- the life of a thread -----------------------------------------------------------------------
 */

void complete_barrier (int id);

void
land (const Copy &copy)
{
  char *to = shared_at (copy.shared, copy.size);
  if (copy.bytes > 0)
    memcpy (to, copy.from, copy.bytes);
  memset (to + copy.bytes, 0, copy.size - copy.bytes);
}

void
end_thread ()
{
  Thread *self = block.current;
  if (!self->copies.empty ())
    fault ("a thread ends with asynchronous copies that it has not waited for");
  const uint32_t bit = 1u << self->number % WARP;
  block.ready[self->number / WARP] &= ~bit;
  block.ended[self->number / WARP] |= bit;
  block.live--;
  Barrier *all = &block.barriers[0];
  if (all->threads != 0 && all->count == block.live)
    complete_barrier (0);
  Thread *next = choose ();
  if (next == NULL && block.live > 0)
    deadlock ();
  go_to (next);
}

/* A fiber serves a thread of one block after another. */
void
serve ()
{
  fiber_begun ();
  for (;;)
    {
      threadIdx = block.current->index, blockIdx = block.current->block;
      block.launch->kernel (block.launch->arguments);
      end_thread ();
    }
}

void
begin_thread (int number)
{
  Thread *t = &block.threads[number];
  const Extent &of = block.launch->block;
  t->number = number;
  const unsigned threads = of.x * of.y * of.z, in_block = (unsigned)number % threads;
  t->index = { in_block % of.x, in_block / of.x % of.y, in_block / (of.x * of.y) };
  t->block = { block.first.x + (unsigned)number / threads, block.first.y, block.first.z };
  t->meeting = NULL;
  t->waits = "its beginning";
  t->group = 0;
  block.ready[number / WARP] |= 1u << number % WARP;
  for (; block.made <= number; block.made++)
    fiber_make (&block.threads[block.made].fiber, serve);
}

int
threads_of (const Launch &launch)
{
  return (int)(launch.block.x * launch.block.y * launch.block.z);
}

void
run_block (const Launch &launch)
{
  memset (block.ready, 0, sizeof block.ready);
  memset (block.meeting, 0, sizeof block.meeting);
  memset (block.ended, 0, sizeof block.ended);
  memset (block.asleep, 0, sizeof block.asleep);
  memset (block.barriers, 0, sizeof block.barriers);
  block.launch = &launch;
  block.n_threads = block.live = threads_of (launch) * launch.cluster;
  block.first = blockIdx;
  for (int i = 0; i < block.n_threads; i++)
    begin_thread (i);
  reshuffle ();
  shared_begin (launch.shared * launch.cluster);
  go_to (choose ());
  shared_end (launch.shared * launch.cluster);
  for (int id = 0; id < BARRIERS; id++)
    if (block.barriers[id].threads != 0)
      fault ("the block has ended, and %d threads have come to barrier %d of %d",
             block.barriers[id].count, id, block.barriers[id].threads);
  chooser.counts.blocks++;
}

/* -- barriers -----------------------------------------------------------------------------------
 */

/* All lanes of a warp that have not ended come to a barrier, or none. */
void
complete_barrier (int id)
{
  Barrier *b = &block.barriers[id];
  const int warps = (block.n_threads + WARP - 1) / WARP;
  for (int i = 0; i < warps; i++)
    {
      const int lanes = block.n_threads - i * WARP;
      const uint32_t all = lanes >= WARP ? ALL_LANES : (1u << lanes) - 1;
      const uint32_t live = all & ~block.ended[i];
      if (b->come[i] != 0 && (b->come[i] & live) != live)
        fault ("of warp %d, lanes %08x have come to barrier %d, and %08x have not", i, b->come[i],
               id, live & ~b->come[i]);
      block.ready[i] |= b->waiting[i];
    }
  memset (b, 0, sizeof *b);
}

void
come_to_barrier (int id, int threads, bool wait)
{
  Thread *self = block.current;
  Barrier *b = &block.barriers[id];
  const int warp = self->number / WARP;
  const uint32_t bit = 1u << self->number % WARP;
  if (b->threads != 0 && b->threads != threads)
    fault ("barrier %d of %d threads, and others wait there for %d", id, threads, b->threads);
  if (b->come[warp] & bit)
    fault ("comes to barrier %d again before it is complete", id);
  b->threads = threads;
  b->count++;
  b->come[warp] |= bit;
  if (wait)
    {
      b->waiting[warp] |= bit;
      block.ready[warp] &= ~bit;
      self->waits = id == 0 ? "__syncthreads" : "a named barrier";
    }
  if (b->count == (id == 0 ? block.live : threads))
    complete_barrier (id);
  if (wait)
    give_way ();
}
}

void
sync_threads ()
{
  if (block.launch->cluster == 1)
    come_to_barrier (0, block.n_threads, true);
  else
    come_to_barrier (NAMED + cluster_rank (), threads_of (*block.launch), true);
}

/* -- clusters -----------------------------------------------------------------------------------
 */

int
cluster_rank ()
{
  return block.current->number / threads_of (*block.launch);
}

void
sync_cluster ()
{
  come_to_barrier (0, block.n_threads, true);
}

size_t
cluster_pitch ()
{
  return block.launch->shared;
}

/* -- sleeping -----------------------------------------------------------------------------------
 */

void
sleep_for (const char *what)
{
  Thread *self = block.current;
  const uint32_t bit = 1u << self->number % WARP;
  self->waits = what;
  block.ready[self->number / WARP] &= ~bit;
  block.asleep[self->number / WARP] |= bit;
  give_way ();
}

void
wake_all ()
{
  for (int i = 0; i * WARP < block.n_threads; i++)
    {
      block.ready[i] |= block.asleep[i];
      block.asleep[i] = 0;
    }
}

static void
check_barrier (int id, int threads)
{
  if (id < 1 || id >= NAMED || block.launch->cluster != 1 || threads < WARP || threads % WARP != 0
      || threads > block.n_threads)
    fault ("barrier %d of %d threads", id, threads);
}

void
barrier_sync (int id, int threads)
{
  check_barrier (id, threads);
  come_to_barrier (id, threads, true);
}

void
barrier_arrive (int id, int threads)
{
  check_barrier (id, threads);
  come_to_barrier (id, threads, false);
}

/* -- lanes of a warp ----------------------------------------------------------------------------
 */

int
lane ()
{
  return block.current->number % WARP;
}

/* Whether all lanes in `mask` wait for the same; it is a fault if they wait for something else. */
static bool
all_have_come (const Thread *self, const Thread *first)
{
  for (uint32_t left = self->mask; left != 0; left &= left - 1)
    {
      const Thread *t = first + __builtin_ctz (left);
      if (t->meeting == NULL)
        return false;
      if (t->meeting != self->meeting || t->mask != self->mask)
        fault ("%s with lanes %08x, but lane %d waits at %s with %08x", self->waits, self->mask,
               __builtin_ctz (left), t->waits, t->mask);
    }
  return true;
}

void
meet (Meeting *meeting, void *operands, uint32_t mask, const char *name)
{
  Thread *self = block.current;
  const int warp = self->number / WARP;
  const uint32_t bit = 1u << self->number % WARP;
  Thread *first = self - self->number % WARP;
  if (!(mask & bit))
    fault ("%s by a lane that is not in its mask %08x", name, mask);
  if (mask & block.ended[warp])
    fault ("%s with lanes %08x, which have ended", name, mask & block.ended[warp]);
  self->meeting = meeting;
  self->mask = mask;
  self->operands = operands;
  self->waits = name;
  block.ready[warp] &= ~bit;
  block.meeting[warp] |= bit;
  if ((block.meeting[warp] & mask) == mask && all_have_come (self, first))
    {
      void *all[WARP] = {};
      for (uint32_t left = mask; left != 0; left &= left - 1)
        {
          Thread *t = first + __builtin_ctz (left);
          all[__builtin_ctz (left)] = t->operands;
          t->meeting = NULL;
        }
      meeting (all, mask);
      block.meeting[warp] &= ~mask;
      block.ready[warp] |= mask;
    }
  give_way ();
}

/* -- asynchronous copies ------------------------------------------------------------------------
 */

void
copy_later (uint32_t shared, const void *from, int size, int bytes)
{
  Thread *self = block.current;
  const Copy copy = { shared, from, size, bytes, self->group };
  (void)shared_at (shared, size);
  if ((uintptr_t)from % size != 0)
    fault ("an asynchronous copy of %d bytes from %p", size, from);
  if (eager ())
    land (copy);
  else
    self->copies.push_back (copy);
}

void
copy_commit ()
{
  block.current->group++;
}

void
copy_wait (int pending)
{
  Thread *self = block.current;
  std::vector<Copy> &copies = self->copies;
  size_t done = 0;
  while (done < copies.size () && copies[done].group < self->group - pending)
    land (copies[done++]);
  copies.erase (copies.begin (), copies.begin () + done);
}

/* -- grids --------------------------------------------------------------------------------------
 */

void
fault (const char *format, ...)
{
  va_list arguments;
  char text[256];
  va_start (arguments, format);
  vsnprintf (text, sizeof text, format, arguments);
  va_end (arguments);
  printf ("Bail out! emulation: block (%u, %u, %u), thread (%u, %u, %u): %s\n", blockIdx.x,
          blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z, text);
  fflush (stdout);
  abort ();
}

void
run_grid (const Launch &launch, Order order, uint32_t seed)
{
  const Extent &of = launch.grid;
  chooser.order = order;
  chooser.random.seed (seed);
  const unsigned columns = of.x / launch.cluster; /* of clusters */
  const size_t blocks = (size_t)columns * of.y * of.z;
  const size_t first = chooser.order == RANDOM ? chooser.random () % blocks : 0;
  gridDim = dim3 (of.x, of.y, of.z);
  blockDim = dim3 (launch.block.x, launch.block.y, launch.block.z);
  for (size_t i = 0; i < blocks; i++)
    {
      size_t at = (i + first) % blocks;
      if (chooser.order == BACKWARD)
        at = blocks - 1 - at;
      blockIdx = { (unsigned)(at % columns) * launch.cluster, (unsigned)(at / columns % of.y),
                   (unsigned)(at / ((size_t)columns * of.y)) };
      run_block (launch);
    }
}

Counts
counts (void)
{
  return chooser.counts;
}
}
