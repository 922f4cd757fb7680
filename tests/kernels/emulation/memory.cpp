/* SPDX-License-Identifier: Apache-2.0
 *
 * Shared memory is thread-local storage of the program, where both kinds of it end up: C++ gives
 * `thread_local` in a function the meaning that CUDA gives __shared__, and all threads of a block
 * run on one thread of the processor. Nothing else in these programs is thread-local.
 */
#include "tests/kernels/emulation/memory.h"
#include "tests/kernels/emulation/device.h"

#include <algorithm>
#include <link.h>
#include <map>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes)   ((void)(address), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#endif

#define POISON    0xff
#define FENCE     1024       /* bytes behind dynamic shared memory that are looked at */
#define ORIGIN    (64 << 10) /* address of dynamic shared memory; static may lie on either side */
#define PAGE      ((size_t)4096)
#define ALIGNMENT ((size_t)256)
#define TOTAL     ((size_t)4 << 30)

/* What `extern __shared__ char shared[]` in a kernel means. */
alignas (1024) thread_local char shared[emulation::MOST_SHARED * emulation::MOST_CLUSTER + FENCE];

namespace emulation
{
/* -- shared memory ------------------------------------------------------------------------------
 */

static struct
{
  char *first;
  size_t bytes;   /* static and dynamic */
  size_t dynamic; /* of the block that runs */
} region;

/* The program's own block of thread-local storage. */
static int
find_region (struct dl_phdr_info *info, size_t, void *)
{
  for (int i = 0; i < info->dlpi_phnum; i++)
    if (info->dlpi_phdr[i].p_type == PT_TLS)
      {
        region.first = (char *)info->dlpi_tls_data;
        region.bytes = info->dlpi_phdr[i].p_memsz;
      }
  return 1; /* the first is the program */
}

static bool
in_static (const char *p, size_t bytes)
{
  return p >= region.first && p + bytes <= region.first + region.bytes
         && (p + bytes <= shared || p >= shared + sizeof shared);
}

void
shared_begin (size_t bytes)
{
  if (region.first == NULL)
    dl_iterate_phdr (find_region, NULL);
  ASAN_UNPOISON_MEMORY_REGION (shared, sizeof shared);
  memset (region.first, POISON, shared - region.first);
  memset (shared, POISON, bytes + FENCE);
  char *behind = shared + sizeof shared;
  memset (behind, POISON, region.first + region.bytes - behind);
  ASAN_POISON_MEMORY_REGION (shared + bytes, sizeof shared - bytes);
  region.dynamic = bytes;
}

void
shared_end (size_t bytes)
{
  ASAN_UNPOISON_MEMORY_REGION (shared, sizeof shared);
  for (size_t i = bytes; i < bytes + FENCE; i++)
    if ((unsigned char)shared[i] != POISON)
      fault ("the block wrote to byte %zu of %zu of dynamic shared memory", i, bytes);
}

uint32_t
shared_offset (const void *p)
{
  const char *at = (const char *)p;
  if (!in_static (at, 0) && (at < shared || at > shared + region.dynamic))
    fault ("%p is no address in shared memory", p);
  return (uint32_t)(at - shared + ORIGIN);
}

char *
shared_at (uint32_t address, size_t bytes)
{
  char *p = shared + ((ptrdiff_t)address - ORIGIN);
  const bool dynamic = p >= shared && p + bytes <= shared + region.dynamic;
  if (!dynamic && !in_static (p, bytes))
    fault ("%zu bytes at %td of %zu bytes of dynamic shared memory", bytes, p - shared,
           region.dynamic);
  if ((bytes & (bytes - 1)) == 0 && bytes <= 16 && address % bytes != 0)
    fault ("%zu bytes at %td of shared memory: not aligned", bytes, p - shared);
  return p;
}

/* -- device memory ------------------------------------------------------------------------------
 */

struct Allocation
{
  char *pages; /* the first page that cannot be touched */
  size_t mapped, bytes;
};

/* Pages that may be written to without being noted. All others of device memory cannot be written,
 * which stays so from one grid to the next: there are many pages, of which few change. */
struct Range
{
  char *first;
  size_t bytes;
};

static std::vector<Range> writable;
static std::map<void *, Allocation> allocations;
static size_t taken, others;
static int asked, failing; /* allocations */

static size_t
rounded (size_t bytes, size_t to)
{
  return (bytes + to - 1) / to * to;
}

void *
device_alloc (size_t bytes)
{
  const size_t inner = rounded (bytes > 0 ? bytes : 1, ALIGNMENT), mapped = rounded (inner, PAGE);
  if (++asked == failing || bytes > device_left ())
    return NULL;
  char *pages = (char *)mmap (NULL, mapped + 2 * PAGE, PROT_NONE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED)
    return NULL;
  if (mprotect (pages + PAGE, mapped, PROT_READ | PROT_WRITE) != 0)
    {
      munmap (pages, mapped + 2 * PAGE);
      return NULL;
    }
  char *memory = pages + PAGE + mapped - inner;
  memset (memory, POISON, inner);
  ASAN_POISON_MEMORY_REGION (pages + PAGE, mapped - inner);
  ASAN_POISON_MEMORY_REGION (memory + bytes, inner - bytes);
  allocations[memory] = { pages, mapped, bytes };
  writable.push_back ({ pages + PAGE, mapped });
  taken += bytes;
  return memory;
}

bool
device_free (void *memory)
{
  const auto found = allocations.find (memory);
  if (found == allocations.end ())
    return false;
  const Allocation a = found->second;
  allocations.erase (found);
  taken -= a.bytes;
  ASAN_UNPOISON_MEMORY_REGION (a.pages + PAGE, a.mapped);
  for (const char *p = (char *)memory + a.bytes; p < a.pages + PAGE + a.mapped; p++)
    if ((unsigned char)*p != POISON)
      fault ("a kernel wrote behind %zu bytes of device memory", a.bytes);
  munmap (a.pages, a.mapped + 2 * PAGE);
  const auto inside = [&] (const Range &r) {
    return r.first >= a.pages && r.first < a.pages + a.mapped + 2 * PAGE;
  };
  writable.erase (std::remove_if (writable.begin (), writable.end (), inside), writable.end ());
  return true;
}

/* -- watching -----------------------------------------------------------------------------------
 */

/* A page that was written to, as it was before, and as the first run left it. */
struct Page
{
  uint64_t before[PAGE / 8], after[PAGE / 8];
};

static struct
{
  std::map<char *, Page> pages;
  int runs; /* that have ended */
  bool installed;
} watch;

/* The gap behind an allocation is poisoned, and part of a page: word by word, unseen by ASan. */
__attribute__ ((no_sanitize ("address"))) static void
copy_page (void *to, const void *from)
{
  volatile uint64_t *target = (volatile uint64_t *)to;
  const volatile uint64_t *source = (const volatile uint64_t *)from;
  for (size_t i = 0; i < PAGE / 8; i++)
    target[i] = source[i];
}

__attribute__ ((no_sanitize ("address"))) static bool
same_page (const void *a, const void *b)
{
  const volatile uint64_t *u = (const volatile uint64_t *)a, *v = (const volatile uint64_t *)b;
  for (size_t i = 0; i < PAGE / 8; i++)
    if (u[i] != v[i])
      return false;
  return true;
}

/* The first write to a page of device memory, or anything else that is not allowed. */
static void
on_fault (int, siginfo_t *info, void *)
{
  char *page = (char *)((uintptr_t)info->si_addr / PAGE * PAGE);
  const auto next = allocations.upper_bound (page + PAGE - 1);
  bool known = false;
  if (next != allocations.begin ())
    {
      const Allocation &a = std::prev (next)->second;
      known = page > a.pages && page <= a.pages + a.mapped;
    }
  if (!known || watch.pages.count (page) != 0)
    fault ("touches %p, which is no device memory", info->si_addr);
  Page *noted = &watch.pages[page];
  copy_page (noted->before, page);
  copy_page (noted->after, page); /* what an earlier run left, if there was one */
  mprotect (page, PAGE, PROT_READ | PROT_WRITE);
  writable.push_back ({ page, PAGE });
}

void
watch_begin ()
{
  if (!watch.installed)
    {
      struct sigaction action = {};
      action.sa_sigaction = on_fault;
      action.sa_flags = SA_SIGINFO | SA_NODEFER;
      sigaction (SIGSEGV, &action, NULL);
      watch.installed = true;
    }
  watch.pages.clear ();
  watch.runs = 0;
  for (const Range &range : writable)
    mprotect (range.first, range.bytes, PROT_READ);
  writable.clear ();
}

/* The run that has ended, beside the first. */
static void
compare_run ()
{
  for (auto &entry : watch.pages)
    {
      Page *page = &entry.second;
      if (watch.runs == 0)
        copy_page (page->after, entry.first);
      else if (!same_page (page->after, entry.first))
        fault ("the grid leaves other bytes at %p in another order of its threads", entry.first);
    }
  watch.runs++;
}

void
watch_again ()
{
  compare_run ();
  for (auto &entry : watch.pages)
    copy_page (entry.first, entry.second.before);
}

void
watch_end ()
{
  compare_run ();
}

void
device_touch (void *memory, size_t bytes)
{
  char *first = (char *)((uintptr_t)memory / PAGE * PAGE);
  const auto next = allocations.upper_bound (memory);
  if (bytes == 0 || next == allocations.begin ())
    return;
  const Allocation &a = std::prev (next)->second;
  if (first > a.pages + a.mapped)
    return;
  const size_t whole = rounded ((char *)memory + bytes - first, PAGE);
  mprotect (first, whole, PROT_READ | PROT_WRITE);
  writable.push_back ({ first, whole });
}

bool
device_has (const void *p)
{
  const auto next = allocations.upper_bound ((void *)p);
  return next != allocations.begin ()
         && (const char *)p
                < (const char *)std::prev (next)->first + std::prev (next)->second.bytes;
}

/* -- how much -----------------------------------------------------------------------------------
 */

void
set_others (uint64_t bytes)
{
  others = bytes;
}

int
fail_allocation (int n)
{
  const int before = asked;
  asked = 0;
  failing = n;
  return before;
}

size_t
device_total ()
{
  return TOTAL;
}

size_t
device_left ()
{
  return taken + others < TOTAL ? TOTAL - taken - others : 0;
}
}
