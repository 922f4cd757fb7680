/* SPDX-License-Identifier: Apache-2.0
 *
 * The runtime of the emulated card: one device, which is the processor, on which everything is done
 * at once; only what is captured into a graph waits until that is launched. So work on two queues
 * never overlaps, and an event that is missing between them is not noticed.
 */
#include "kernels/cuda/launch.cuh"
#include "tests/kernels/emulation/memory.h"

#include <map>
#include <stdio.h>
#include <stdlib.h>
#include <vector>

typedef std::vector<std::function<void ()> > Works;

struct CUstream_st
{
  Works *captured; /* NULL: not capturing */
};

struct CUevent_st
{
  bool recorded;
};

struct CUgraph_st
{
  Works works;
};

struct CUgraphExec_st
{
  Works works;
};

namespace emulation
{
#define SHARED_WITHOUT_ASKING ((size_t)48 << 10)

static struct
{
  int sm = getenv ("EMULATED_SM") ? atoi (getenv ("EMULATED_SM")) : 80, multiprocessors = 4;
  bool once = false;
  uint32_t launches = 0;
  cudaError_t last = cudaSuccess;
  std::map<const void *, size_t> shared; /* what kernels have asked for */
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

static cudaError_t
failed (cudaError_t error)
{
  return device.last = error;
}

static void
queue_work (cudaStream_t stream, std::function<void ()> work)
{
  if (stream != NULL && stream->captured != NULL)
    stream->captured->push_back (work);
  else
    work ();
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
            std::function<void ()> run)
{
  if (!fits (kernel, grid, block, shared))
    {
      (void)failed (shared > SHARED_WITHOUT_ASKING ? cudaErrorInvalidValue
                                                   : cudaErrorInvalidConfiguration);
      return;
    }
  queue_work (queue, [=] () mutable {
    const Launch launch = {
      { grid.x, grid.y, grid.z },
      { block.x, block.y, block.z },
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

cudaError_t
cudaDeviceSynchronize ()
{
  return cudaSuccess;
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

cudaError_t
cudaFree (void *memory)
{
  return memory == NULL || device_free (memory) ? cudaSuccess : failed (cudaErrorInvalidValue);
}

cudaError_t
cudaMallocHost (void **memory, size_t bytes)
{
  *memory = malloc (bytes);
  return *memory != NULL ? cudaSuccess : failed (cudaErrorMemoryAllocation);
}

cudaError_t
cudaFreeHost (void *memory)
{
  free (memory);
  return cudaSuccess;
}

cudaError_t
cudaMemcpyAsync (void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t stream)
{
  if (bytes > 0)
    queue_work (stream, [=] {
      device_touch (to, bytes);
      memmove (to, from, bytes);
    });
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

/* -- queues and events --------------------------------------------------------------------------
 */

cudaError_t
cudaStreamCreateWithFlags (cudaStream_t *stream, unsigned)
{
  *stream = new CUstream_st ();
  return cudaSuccess;
}

cudaError_t
cudaStreamDestroy (cudaStream_t stream)
{
  delete stream->captured;
  delete stream;
  return cudaSuccess;
}

cudaError_t
cudaStreamSynchronize (cudaStream_t stream)
{
  if (stream == NULL || stream->captured == NULL)
    return cudaSuccess;
  return failed (cudaErrorStreamCaptureUnsupported);
}

cudaError_t
cudaStreamWaitEvent (cudaStream_t, cudaEvent_t, unsigned)
{
  return cudaSuccess;
}

cudaError_t
cudaEventCreateWithFlags (cudaEvent_t *event, unsigned)
{
  *event = new CUevent_st ();
  return cudaSuccess;
}

cudaError_t
cudaEventDestroy (cudaEvent_t event)
{
  delete event;
  return cudaSuccess;
}

cudaError_t
cudaEventRecord (cudaEvent_t event, cudaStream_t)
{
  event->recorded = true;
  return cudaSuccess;
}

cudaError_t
cudaEventSynchronize (cudaEvent_t)
{
  return cudaSuccess;
}

/* -- graphs -------------------------------------------------------------------------------------
 */

cudaError_t
cudaStreamBeginCapture (cudaStream_t stream, cudaStreamCaptureMode)
{
  if (stream->captured != NULL)
    return failed (cudaErrorStreamCaptureUnsupported);
  stream->captured = new Works ();
  return cudaSuccess;
}

cudaError_t
cudaStreamEndCapture (cudaStream_t stream, cudaGraph_t *graph)
{
  if (stream->captured == NULL)
    return failed (cudaErrorStreamCaptureInvalidated);
  *graph = new CUgraph_st{ *stream->captured };
  delete stream->captured;
  stream->captured = NULL;
  return cudaSuccess;
}

cudaError_t
cudaGraphInstantiate (cudaGraphExec_t *exec, cudaGraph_t graph, unsigned)
{
  *exec = new CUgraphExec_st{ graph->works };
  return cudaSuccess;
}

cudaError_t
cudaGraphDestroy (cudaGraph_t graph)
{
  delete graph;
  return cudaSuccess;
}

cudaError_t
cudaGraphLaunch (cudaGraphExec_t exec, cudaStream_t stream)
{
  for (const std::function<void ()> &work : exec->works)
    queue_work (stream, work);
  return cudaSuccess;
}

cudaError_t
cudaGraphExecDestroy (cudaGraphExec_t exec)
{
  delete exec;
  return cudaSuccess;
}
