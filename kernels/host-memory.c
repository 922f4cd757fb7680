/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/host-memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE ((size_t)2 << 20)

/* Lies in front of the memory it describes and takes HOST_ALIGNMENT bytes there. */
struct HostBlock
{
  HostBlock *previous, *next;
  size_t bytes;
};

Status
host_alloc (HostMemory *self, size_t bytes, void **out)
{
  HostBlock *block;
  size_t whole;

  *out = NULL;
  if (self->budget != 0 && (self->bytes > self->budget || bytes > self->budget - self->bytes))
    return STATUS_NO_MEMORY;
  if (bytes > PTRDIFF_MAX - 2 * HOST_ALIGNMENT)
    return STATUS_NO_MEMORY;

  whole = (bytes + 2 * HOST_ALIGNMENT - 1) / HOST_ALIGNMENT * HOST_ALIGNMENT;
  block = aligned_alloc (HOST_ALIGNMENT, whole);
  if (block == NULL)
    return STATUS_NO_MEMORY;
  if (whole >= 4 * HUGE_PAGE)
    {
      uintptr_t first = ((uintptr_t)block + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
      uintptr_t last = ((uintptr_t)block + whole) / HUGE_PAGE * HUGE_PAGE;

      /* Only advice: matrices read with a large stride miss the TLB on every row otherwise. */
      (void)madvise ((void *)first, last - first, MADV_HUGEPAGE);
    }

  block->previous = NULL;
  block->next = self->blocks;
  block->bytes = bytes;
  if (self->blocks != NULL)
    self->blocks->previous = block;
  self->blocks = block;
  self->bytes += bytes;
  if (self->bytes > self->peak)
    self->peak = self->bytes;
  *out = (char *)block + HOST_ALIGNMENT;
  return STATUS_OK;
}

void
host_free (HostMemory *self, void *memory)
{
  HostBlock *block;

  if (memory == NULL)
    return;
  block = (HostBlock *)(void *)((char *)memory - HOST_ALIGNMENT);
  if (block->previous != NULL)
    block->previous->next = block->next;
  else
    self->blocks = block->next;
  if (block->next != NULL)
    block->next->previous = block->previous;
  self->bytes -= block->bytes;
  free (block);
}

uint64_t
host_peak (HostMemory *self, bool restart)
{
  uint64_t peak = self->peak;

  if (restart)
    self->peak = self->bytes;
  return peak;
}

uint64_t
host_available (void)
{
  FILE *file = fopen ("/proc/meminfo", "re");
  unsigned long long kib = 0;
  char line[128];

  while (file != NULL && fgets (line, sizeof line, file) != NULL)
    if (strncmp (line, "MemAvailable:", 13) == 0)
      {
        kib = strtoull (line + 13, NULL, 10);
        break;
      }
  if (file != NULL)
    fclose (file);
  return (uint64_t)kib * 1024;
}

void
host_free_all (HostMemory *self)
{
  while (self->blocks != NULL)
    host_free (self, (char *)self->blocks + HOST_ALIGNMENT);
}

static bool
is_float (DType dtype)
{
  return dtype == DTYPE_F32 || dtype == DTYPE_BF16 || dtype == DTYPE_F16;
}

Status
host_convert (const Tensor *from, Tensor *to)
{
  int64_t count = tensor_count (from);

  if (tensor_count (to) != count)
    return STATUS_UNSUPPORTED;
  if (count == 0)
    return STATUS_OK;
  if (from->dtype == to->dtype)
    {
      memmove (to->data, from->data, tensor_bytes (from));
      return STATUS_OK;
    }
  if (!is_float (from->dtype) || !is_float (to->dtype))
    return STATUS_UNSUPPORTED;

  for (int64_t i = 0; i < count; i++)
    {
      float value = tensor_get (from, i);

      if (to->dtype == DTYPE_F32)
        ((float *)to->data)[i] = value;
      else if (to->dtype == DTYPE_BF16)
        ((uint16_t *)to->data)[i] = bf16_from_float (value);
      else
        ((uint16_t *)to->data)[i] = f16_from_float (value);
    }
  return STATUS_OK;
}
