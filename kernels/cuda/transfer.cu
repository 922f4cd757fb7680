/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights that come and go: pinned host memory, and copies on a queue of their own. Two events a
 * slot tie that queue to the maths; the host waits for neither.
 */
#include "kernels/cuda/common.cuh"

/* Pinned memory is no device memory: it does not count against the budget. */
Status
cuda_host_alloc (Stream *s, size_t bytes, void **out)
{
  *out = NULL;
  if (s->lost)
    return STATUS_DEVICE_LOST;
  REQUIRE (s, !s->recording);
  CUDA_CHECK (s, cudaSetDevice (s->device));
  CUDA_CHECK (s, cudaMallocHost (out, bytes > 0 ? bytes : 1));
  return STATUS_OK;
}

void
cuda_host_free (Stream *s, void *memory)
{
  if (memory == NULL)
    return;
  const cudaError_t error = cudaFreeHost (memory);
  if (error != cudaSuccess)
    (void)stream_fail (s, error, "cudaFreeHost");
}

/* Queue and events are made by the first transfer: most runs have none. */
static Status
open_slot (Stream *s, int slot)
{
  if (s->lost)
    return STATUS_DEVICE_LOST;
  REQUIRE (s, slot >= 0 && slot < TRANSFER_SLOTS);
  CUDA_CHECK (s, cudaSetDevice (s->device));
  if (s->transfers == NULL)
    CUDA_CHECK (s, cudaStreamCreateWithFlags (&s->transfers, cudaStreamNonBlocking));
  if (s->arrived[slot] == NULL)
    CUDA_CHECK (s, cudaEventCreateWithFlags (&s->arrived[slot], cudaEventDisableTiming));
  if (s->used[slot] == NULL)
    CUDA_CHECK (s, cudaEventCreateWithFlags (&s->used[slot], cudaEventDisableTiming));
  return STATUS_OK;
}

/* An event that was never recorded holds nobody up. */
Status
cuda_transfer (Stream *s, int slot, void *to, const void *from, size_t bytes)
{
  CHECK (open_slot (s, slot));
  REQUIRE (s, !s->recording);
  CUDA_CHECK (s, cudaStreamWaitEvent (s->transfers, s->used[slot], 0));
  CUDA_CHECK (s, cudaMemcpyAsync (to, from, bytes, cudaMemcpyDefault, s->transfers));
  CUDA_CHECK (s, cudaEventRecord (s->arrived[slot], s->transfers));
  return STATUS_OK;
}

Status
cuda_transfer_wait (Stream *s, int slot)
{
  CHECK (open_slot (s, slot));
  REQUIRE (s, !s->recording);
  CUDA_CHECK (s, cudaStreamWaitEvent (s->compute, s->arrived[slot], 0));
  return STATUS_OK;
}

Status
cuda_transfer_used (Stream *s, int slot)
{
  CHECK (open_slot (s, slot));
  REQUIRE (s, !s->recording);
  CUDA_CHECK (s, cudaEventRecord (s->used[slot], s->compute));
  return STATUS_OK;
}

void
stream_close_transfers (Stream *s)
{
  if (s->transfers)
    (void)cudaStreamSynchronize (s->transfers);
  for (int i = 0; i < TRANSFER_SLOTS; i++)
    {
      if (s->arrived[i])
        (void)cudaEventDestroy (s->arrived[i]);
      if (s->used[i])
        (void)cudaEventDestroy (s->used[i]);
    }
  if (s->transfers)
    (void)cudaStreamDestroy (s->transfers);
}
