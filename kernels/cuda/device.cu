/* SPDX-License-Identifier: Apache-2.0
 *
 * The device itself: what it is, opening and closing it, waiting, recordings, and what a CUDA
 * error means to the user.
 */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/launchers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -- errors -------------------------------------------------------------------------------------
 */

static Status
driver_status (void)
{
  int version = 0;
  /* Works without a driver, and then says 0. */
  return cudaDriverGetVersion (&version) == cudaSuccess && version > 0 ? STATUS_DRIVER_TOO_OLD
                                                                       : STATUS_NO_DRIVER;
}

/* `opened`: the device has worked before, so an unknown error is a fault of the device. */
static Status
status_of (cudaError_t error, bool opened)
{
  switch (error)
    {
    case cudaSuccess:
      return STATUS_OK;
    case cudaErrorMemoryAllocation:
      return STATUS_NO_MEMORY;
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
    case cudaErrorDevicesUnavailable:
      return STATUS_NO_DEVICE;
    case cudaErrorInsufficientDriver:
      return driver_status ();
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
    case cudaErrorUnsupportedPtxVersion:
      return STATUS_DRIVER_TOO_OLD;
    case cudaErrorUnknown: /* 999: the kernel module nvidia_uvm is missing */
    case cudaErrorSystemNotReady:
    case cudaErrorInitializationError:
      return opened ? STATUS_DEVICE_LOST : STATUS_NOT_READY;
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorLaunchOutOfResources:
    case cudaErrorNotSupported:
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureInvalidated:
      return STATUS_UNSUPPORTED;
    default: /* illegal address, launch failure, ECC, ...: they stay until the process ends */
      return STATUS_DEVICE_LOST;
    }
}

Status
stream_fail (Stream *s, cudaError_t error, const char *what)
{
  const Status status = status_of (error, s != NULL);
  (void)cudaGetLastError ();
  if (s == NULL || s->lost)
    return s ? STATUS_DEVICE_LOST : status;
  s->lost = status == STATUS_DEVICE_LOST;
  snprintf (s->detail, sizeof s->detail, "%s (CUDA error %d) in %s", cudaGetErrorString (error),
            (int)error, what);
  return status;
}

Status
stream_launched (Stream *s, const char *what)
{
  const cudaError_t error = cudaGetLastError ();
  return error == cudaSuccess ? STATUS_OK : stream_fail (s, error, what);
}

Status
stream_refuse (Stream *s, const char *what, const char *condition)
{
  snprintf (s->detail, sizeof s->detail, "%s needs %s", what, condition);
  return STATUS_UNSUPPORTED;
}

const char *
cuda_detail (Stream *s)
{
  return s ? s->detail : "";
}

/* -- what there is ------------------------------------------------------------------------------
 */

Status
cuda_query (int index, DeviceCaps *caps)
{
  memset (caps, 0, sizeof *caps);
  caps->kind = DEVICE_CUDA;
  caps->index = index;

  /* Without a driver the count is left alone or -1: only success makes it mean something. */
  int count = 0;
  CUDA_CHECK (NULL, cudaGetDeviceCount (&count));
  if (index < 0 || index >= count)
    return STATUS_NO_DEVICE;

  cudaDeviceProp prop;
  CUDA_CHECK (NULL, cudaGetDeviceProperties (&prop, index));
  snprintf (caps->name, sizeof caps->name, "%.*s", (int)sizeof caps->name - 1, prop.name);
  caps->sm = prop.major * 10 + prop.minor;
  caps->multiprocessors = prop.multiProcessorCount;
  caps->threads_per_sm = prop.maxThreadsPerMultiProcessor;
  /* A build for sm_75 alone runs on newer cards too, as what it is built for. */
  if (caps->sm >= FIRST_F16_SM && caps->sm < FIRST_BF16_SM)
    caps->sm = FIRST_F16_SM;
  caps->bf16 = caps->sm >= 80;
  CUDA_CHECK (NULL, cudaDriverGetVersion (&caps->driver_version));
  CUDA_CHECK (NULL, cudaRuntimeGetVersion (&caps->runtime_version));

  size_t free_bytes = 0, total_bytes = 0;
  CUDA_CHECK (NULL, cudaSetDevice (index));
  CUDA_CHECK (NULL, cudaMemGetInfo (&free_bytes, &total_bytes));
  caps->free_memory = free_bytes;
  caps->total_memory = total_bytes;
  return STATUS_OK;
}

/* -- open, close, wait --------------------------------------------------------------------------
 */

static Status
open_queues (Stream *s)
{
  CUDA_CHECK (s, cudaSetDevice (s->device));
  CUDA_CHECK (s, cudaStreamCreateWithFlags (&s->compute, cudaStreamNonBlocking));
  CUDA_CHECK (s, cudaStreamCreateWithFlags (&s->upload, cudaStreamNonBlocking));
  CUDA_CHECK (s, cudaEventCreateWithFlags (&s->uploaded, cudaEventDisableTiming));
  for (int i = 0; i < 2; i++)
    CUDA_CHECK (s, cudaEventCreateWithFlags (&s->replayed[i], cudaEventDisableTiming));
  return STATUS_OK;
}

Status
cuda_open (int index, const StreamOptions *options, Stream **out)
{
  *out = NULL;
  DeviceCaps caps;
  CHECK (cuda_query (index, &caps));
  if (caps.sm < (caps.bf16 ? FIRST_BF16_SM : FIRST_F16_SM))
    return STATUS_UNSUPPORTED;

  Stream *s = (Stream *)calloc (1, sizeof *s);
  if (s == NULL)
    return STATUS_NO_MEMORY;
  s->device = index;
  s->caps = caps;
  s->budget = options ? options->memory_budget : 0;
  const Status status = open_queues (s);
  if (status != STATUS_OK)
    {
      cuda_close (s);
      return status;
    }
  *out = s;
  return STATUS_OK;
}

/* Runs after any failure too, so errors are of no interest here. */
void
cuda_close (Stream *s)
{
  if (s == NULL)
    return;
  (void)cudaSetDevice (s->device);
  if (s->compute)
    (void)cudaStreamSynchronize (s->compute);
  if (s->upload)
    (void)cudaStreamSynchronize (s->upload);
  stream_close_transfers (s);
  for (size_t i = 0; i < s->n_allocations; i++)
    (void)cudaFree (s->allocations[i].memory);
  free (s->allocations);
  for (int i = 0; i < STAGING_SLOTS; i++)
    {
      (void)cudaFreeHost (s->staging[i].host);
      if (s->staging[i].done)
        (void)cudaEventDestroy (s->staging[i].done);
    }
  if (s->uploaded)
    (void)cudaEventDestroy (s->uploaded);
  for (int i = 0; i < 2; i++)
    if (s->replayed[i])
      (void)cudaEventDestroy (s->replayed[i]);
  if (s->upload)
    (void)cudaStreamDestroy (s->upload);
  if (s->compute)
    (void)cudaStreamDestroy (s->compute);
  (void)cudaGetLastError ();
  free (s);
}

Status
cuda_wait (Stream *s)
{
  if (s->lost)
    return STATUS_DEVICE_LOST;
  CUDA_CHECK (s, cudaSetDevice (s->device));
  CUDA_CHECK (s, cudaStreamSynchronize (s->upload));
  CUDA_CHECK (s, cudaStreamSynchronize (s->compute));
  return STATUS_OK;
}

uint64_t
cuda_allocated (Stream *s)
{
  return s->allocated;
}

uint64_t
cuda_peak (Stream *s, bool restart)
{
  const uint64_t peak = s->peak;
  if (restart)
    s->peak = s->allocated;
  return peak;
}

void
cuda_set_budget (Stream *s, uint64_t bytes)
{
  s->budget = bytes;
}

/* -- recordings ---------------------------------------------------------------------------------
 */

Status
cuda_record (Stream *s)
{
  if (s->lost)
    return STATUS_DEVICE_LOST;
  REQUIRE (s, !s->recording);
  CUDA_CHECK (s, cudaSetDevice (s->device));
  CUDA_CHECK (s, cudaStreamBeginCapture (s->compute, cudaStreamCaptureModeThreadLocal));
  s->recording = true;
  return STATUS_OK;
}

Status
cuda_record_end (Stream *s, Recording **out)
{
  *out = NULL;
  REQUIRE (s, s->recording);
  s->recording = false;
  cudaGraph_t graph = NULL;
  CUDA_CHECK (s, cudaStreamEndCapture (s->compute, &graph));

  Recording *recording = (Recording *)calloc (1, sizeof *recording);
  const cudaError_t error
      = recording ? cudaGraphInstantiate (&recording->exec, graph, 0) : cudaErrorMemoryAllocation;
  (void)cudaGraphDestroy (graph);
  if (error != cudaSuccess)
    {
      free (recording);
      return stream_fail (s, error, "cudaGraphInstantiate");
    }
  *out = recording;
  return STATUS_OK;
}

Status
cuda_replay (Stream *s, Recording *recording)
{
  if (s->lost)
    return STATUS_DEVICE_LOST;
  CUDA_CHECK (s, cudaSetDevice (s->device));
  CUDA_CHECK (s, cudaGraphLaunch (recording->exec, s->compute));
  CUDA_CHECK (s, cudaEventRecord (s->replayed[s->n_replays], s->compute));
  s->n_replays ^= 1;
  CUDA_CHECK (s, cudaEventSynchronize (s->replayed[s->n_replays]));
  return STATUS_OK;
}

void
cuda_recording_free (Recording *recording)
{
  if (recording == NULL)
    return;
  (void)cudaGraphExecDestroy (recording->exec);
  (void)cudaGetLastError ();
  free (recording);
}
