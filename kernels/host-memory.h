/* SPDX-License-Identifier: Apache-2.0
 *
 * host-memory.h - the memory of the two devices that compute on the processor
 *
 * Every block is counted against a budget and kept on a list, so that a device knows what it holds
 * and can give back what its user forgot. Not thread-safe.
 */
#pragma once

#include "kernels/kernels.h"

KERNELS_BEGIN_DECLS

#define HOST_ALIGNMENT 256

typedef struct HostBlock HostBlock;

typedef struct
{
  HostBlock *blocks;
  uint64_t bytes;  /* held now */
  uint64_t peak;   /* the most since host_peak last restarted */
  uint64_t budget; /* 0 = none */
} HostMemory;

/* `bytes` of memory aligned to HOST_ALIGNMENT, not cleared; 0 bytes give a block too.
 * STATUS_NO_MEMORY when the budget or the machine has no more. */
Status host_alloc (HostMemory *self, size_t bytes, void **out);

/* Gives a block back; NULL is a no-op. */
void host_free (HostMemory *self, void *memory);

/* The peak so far; `restart` begins a new one from what is held now. */
uint64_t host_peak (HostMemory *self, bool restart);

/* Bytes of main memory that a program can still have (MemAvailable of /proc/meminfo); 0 if that
 * cannot be read. */
uint64_t host_available (void);

/* Gives every block back. */
void host_free_all (HostMemory *self);

/* Copies `from` to `to`, host tensors of as many elements, converting between F32, BF16 and F16
 * (round to nearest, ties to even). STATUS_UNSUPPORTED for other pairs of different types. */
Status host_convert (const Tensor *from, Tensor *to);

KERNELS_END_DECLS
