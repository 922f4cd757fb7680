/* SPDX-License-Identifier: Apache-2.0
 *
 * The runtime of the emulated card: one device, which is the processor; launches and memory. Queues
 * are in queues.cpp.
 */
#include "kernels/cuda/launch.cuh"
#include "tests/kernels/emulation/memory.h"
#include "tests/kernels/emulation/queues.h"

#include <map>
#include <stdio.h>
#include <stdlib.h>
#include <string>

namespace emulation
{
#define SHARED_WITHOUT_ASKING ((size_t)48 << 10)

static struct
{
  int sm = getenv ("EMULATED_SM") ? atoi (getenv ("EMULATED_SM")) : 80, multiprocessors = 4;
  bool once = getenv ("EMULATED_ONCE") != NULL;
  uint32_t launches = 0;
  cudaError_t last = cudaSuccess;
  std::map<const void *, size_t> shared; /* what kernels have asked for */
  std::map<const char *, size_t> pinned; /* memory of the host */
} device;

void
set_device (int sm, int multiprocessors)
{
  device.sm = sm;
  device.multiprocessors = multiprocessors;
}

bool
is_sm80 ()
{
  return device.sm >= 80;
}

void
set_once (bool once)
{
  device.once = once;
}

/* The programming guide's table of technical specifications: shared memory of a block, at most. */
static size_t
most_shared ()
{
  const size_t kib = device.sm >= 90 && device.sm < 120   ? 227
                     : device.sm == 80 || device.sm == 87 ? 163
                     : device.sm >= 80                    ? 99
                                                          : 64;
  return kib << 10;
}

cudaError_t
failed (cudaError_t error)
{
  return device.last = error;
}

/* -- launches -----------------------------------------------------------------------------------
 */

cudaError_t
set_attribute (const void *kernel, cudaFuncAttribute, int value)
{
  if (value < 0 || (size_t)value > most_shared ())
    return failed (cudaErrorInvalidValue);
  device.shared[kernel] = (size_t)value;
  return cudaSuccess;
}

static bool
fits (const void *kernel, const dim3 &grid, const dim3 &block, size_t shared)
{
  const auto asked = device.shared.find (kernel);
  const size_t most = asked == device.shared.end () || asked->second < SHARED_WITHOUT_ASKING
                          ? SHARED_WITHOUT_ASKING
                          : asked->second;
  return grid.x >= 1 && grid.x <= INT32_MAX && grid.y >= 1 && grid.y <= 65535 && grid.z >= 1
         && grid.z <= 65535 && block.x >= 1 && block.y >= 1 && block.z >= 1 && block.z <= 64
         && (size_t)block.x * block.y * block.z <= 1024 && shared <= most;
}

static void
run_in_all_orders (const Launch &launch)
{
  const uint32_t seed = ++device.launches;
  watch_begin ();
  run_grid (launch, FORWARD, seed);
  if (!device.once)
    {
      watch_again ();
      run_grid (launch, BACKWARD, seed);
      watch_again ();
      run_grid (launch, RANDOM, seed);
    }
  watch_end ();
}

void
queue_grid (const void *kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t queue,
            std::function<void ()> run, int cluster)
{
  if (!fits (kernel, grid, block, shared) || grid.x % cluster != 0 || cluster > MOST_CLUSTER)
    {
      (void)failed (shared > SHARED_WITHOUT_ASKING ? cudaErrorInvalidValue
                                                   : cudaErrorInvalidConfiguration);
      return;
    }
  queue_work (queue, [=] () mutable {
    const Launch launch = {
      { grid.x, grid.y, grid.z },
      { block.x, block.y, block.z },
      cluster,
      shared,
      [] (void *arguments) { (*static_cast<std::function<void ()> *> (arguments)) (); },
      &run,
    };
    run_in_all_orders (launch);
  });
}
}

using namespace emulation;

/* -- errors and the device ----------------------------------------------------------------------
 */

const char *
cudaGetErrorString (cudaError_t error)
{
  return error == cudaErrorInvalidValue           ? "invalid argument"
         : error == cudaErrorInvalidConfiguration ? "invalid configuration argument"
         : error == cudaErrorMemoryAllocation     ? "out of memory"
                                                  : "an error of the emulation";
}

cudaError_t
cudaGetLastError ()
{
  const cudaError_t last = device.last;
  device.last = cudaSuccess;
  return last;
}

cudaError_t
cudaDriverGetVersion (int *version)
{
  *version = 13000;
  return cudaSuccess;
}

cudaError_t
cudaRuntimeGetVersion (int *version)
{
  *version = 13000;
  return cudaSuccess;
}

cudaError_t
cudaGetDeviceCount (int *count)
{
  *count = 1;
  return cudaSuccess;
}

cudaError_t
cudaGetDeviceProperties (cudaDeviceProp *properties, int number)
{
  if (number != 0)
    return failed (cudaErrorInvalidDevice);
  *properties = {};
  snprintf (properties->name, sizeof properties->name, "emulated sm_%d", device.sm);
  properties->major = device.sm / 10;
  properties->minor = device.sm % 10;
  properties->multiProcessorCount = device.multiprocessors;
  properties->maxThreadsPerMultiProcessor = device.sm == 75 ? 1024 : 2048;
  return cudaSuccess;
}

cudaError_t
cudaDeviceGetAttribute (int *value, cudaDeviceAttr attribute, int)
{
  /* A multiprocessor keeps one KiB of each block's for itself. */
  const int kib = attribute == cudaDevAttrMaxSharedMemoryPerMultiprocessor ? 1 << 10 : 0;
  *value = (int)most_shared () + kib;
  return cudaSuccess;
}

cudaError_t
cudaSetDevice (int number)
{
  return number == 0 ? cudaSuccess : failed (cudaErrorInvalidDevice);
}

/* -- memory -------------------------------------------------------------------------------------
 */

cudaError_t
cudaMemGetInfo (size_t *left, size_t *total)
{
  *left = device_left ();
  *total = device_total ();
  return cudaSuccess;
}

cudaError_t
cudaMalloc (void **memory, size_t bytes)
{
  *memory = device_alloc (bytes);
  return *memory != NULL ? cudaSuccess : failed (cudaErrorMemoryAllocation);
}

/* Waits for the whole device, as the runtime does. */
cudaError_t
cudaFree (void *memory)
{
  if (memory == NULL)
    return cudaSuccess;
  finish_all_queues ();
  return device_free (memory) ? cudaSuccess : failed (cudaErrorInvalidValue);
}

cudaError_t
cudaMallocHost (void **memory, size_t bytes)
{
  *memory = malloc (bytes);
  if (*memory == NULL)
    return failed (cudaErrorMemoryAllocation);
  device.pinned[(const char *)*memory] = bytes;
  return cudaSuccess;
}

/* Waits for nothing: the manual does not promise it. */
cudaError_t
cudaFreeHost (void *memory)
{
  device.pinned.erase ((const char *)memory);
  free (memory);
  return cudaSuccess;
}

/* Memory of the host that is not pinned: the runtime reads it before it returns, and has written it
 * when it does. */
static bool
is_pageable (const void *p)
{
  const auto next = device.pinned.upper_bound ((const char *)p);
  return !device_has (p)
         && (next == device.pinned.begin ()
             || (const char *)p >= std::prev (next)->first + std::prev (next)->second);
}

static void
copy (void *to, const void *from, size_t bytes)
{
  device_touch (to, bytes);
  memmove (to, from, bytes);
}

cudaError_t
cudaMemcpyAsync (void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t stream)
{
  if (bytes == 0)
    return cudaSuccess;
  if (is_pageable (from))
    {
      const std::string read ((const char *)from, bytes);
      queue_work (stream, [=] { copy (to, read.data (), bytes); });
    }
  else
    queue_work (stream, [=] { copy (to, from, bytes); });
  if (is_pageable (to))
    finish_queue (stream);
  return cudaSuccess;
}

cudaError_t
cudaMemsetAsync (void *to, int byte, size_t bytes, cudaStream_t stream)
{
  if (bytes > 0)
    queue_work (stream, [=] {
      device_touch (to, bytes);
      memset (to, byte, bytes);
    });
  return cudaSuccess;
}

cudaError_t
cudaMemcpy (void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
  return cudaMemcpyAsync (to, from, bytes, kind, NULL);
}

cudaError_t
cudaMemset (void *to, int byte, size_t bytes)
{
  return cudaMemsetAsync (to, byte, bytes, NULL);
}
