/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory of the device, and the ways into it and out of it.
 *
 * Transfers go through a ring of pinned buffers: the host fills one while the card's copy engine
 * empties the others. Types change on the card, so a file of F32 weights costs the host one pass.
 */
#include "kernels/cuda/common.cuh"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -- kernels ------------------------------------------------------------------------------------
 */

/* FP16 clamps; NaN stays what it is, since nothing good comes of a file that has one. */
template <typename From, typename To>
static __global__ void
convert_kernel (const From *__restrict__ from, To *__restrict__ to, size_t n)
{
  const size_t stride = (size_t)gridDim.x * blockDim.x;
  for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride)
    {
      const float v = to_float (from[i]);
      to[i] = v == v ? from_float<To> (v) : (To)v;
    }
}

/* -- launchers ----------------------------------------------------------------------------------
 */

template <typename From>
static Status
convert_from (Stream *s, cudaStream_t queue, const void *from, DType to_type, void *to, size_t n)
{
  const unsigned blocks = (unsigned)(n < 256 * 4096 ? CEIL_DIV (n, 256) : 4096);
  switch (to_type)
    {
    case DTYPE_F32:
      launch_kernel (convert_kernel<From, float>, blocks, 256, 0, queue, (const From *)from,
                     (float *)to, n);
      break;
    case DTYPE_BF16:
      launch_kernel (convert_kernel<From, bf16>, blocks, 256, 0, queue, (const From *)from,
                     (bf16 *)to, n);
      break;
    case DTYPE_F16:
      launch_kernel (convert_kernel<From, f16>, blocks, 256, 0, queue, (const From *)from,
                     (f16 *)to, n);
      break;
    default:
      return stream_refuse (s, "conversion", "a floating-point type");
    }
  return LAUNCHED (s);
}

static Status
convert (Stream *s, cudaStream_t queue, DType from_type, const void *from, DType to_type, void *to,
         size_t n)
{
  switch (from_type)
    {
    case DTYPE_F32:
      return convert_from<float> (s, queue, from, to_type, to, n);
    case DTYPE_BF16:
      return convert_from<bf16> (s, queue, from, to_type, to, n);
    case DTYPE_F16:
      return convert_from<f16> (s, queue, from, to_type, to, n);
    default:
      return stream_refuse (s, "conversion", "a floating-point type");
    }
}

/* -- memory -------------------------------------------------------------------------------------
 */

static size_t
rounded (size_t bytes)
{
  return bytes == 0 ? DEVICE_ALIGNMENT : device_aligned (bytes);
}

static Status
remember (Stream *s, void *memory, size_t bytes)
{
  if (s->n_allocations == s->max_allocations)
    {
      const size_t max = s->max_allocations ? 2 * s->max_allocations : 256;
      Allocation *grown = (Allocation *)realloc (s->allocations, max * sizeof *grown);
      if (grown == NULL)
        return STATUS_NO_MEMORY;
      s->allocations = grown;
      s->max_allocations = max;
    }
  s->allocations[s->n_allocations++] = (Allocation){ memory, bytes };
  s->allocated += bytes;
  if (s->allocated > s->peak)
    s->peak = s->allocated;
  return STATUS_OK;
}

Status
stream_alloc (Stream *s, size_t bytes, void **out)
{
  *out = NULL;
  if (s->lost)
    return STATUS_DEVICE_LOST;
  REQUIRE (s, !s->recording);
  if (bytes > SIZE_MAX / 2)
    return STATUS_NO_MEMORY;
  bytes = rounded (bytes);
  if (s->budget != 0 && (s->allocated > s->budget || bytes > s->budget - s->allocated))
    {
      snprintf (s->detail, sizeof s->detail,
                "%llu bytes wanted, %llu of a budget of %llu bytes are taken",
                (unsigned long long)bytes, (unsigned long long)s->allocated,
                (unsigned long long)s->budget);
      return STATUS_NO_MEMORY;
    }
  CUDA_CHECK (s, cudaSetDevice (s->device));
  void *memory = NULL;
  CUDA_CHECK (s, cudaMalloc (&memory, bytes));
  const Status status = remember (s, memory, bytes);
  if (status != STATUS_OK)
    (void)cudaFree (memory);
  else
    *out = memory;
  return status;
}

void
stream_free (Stream *s, void *memory)
{
  if (memory == NULL)
    return;
  for (size_t i = s->n_allocations; i-- > 0;) /* the last one in is mostly the first one out */
    if (s->allocations[i].memory == memory)
      {
        s->allocated -= s->allocations[i].bytes;
        s->allocations[i] = s->allocations[--s->n_allocations];
        const cudaError_t error = cudaFree (memory);
        if (error != cudaSuccess)
          (void)stream_fail (s, error, "cudaFree");
        return;
      }
}

Status
stream_workspace_join (Stream *s, size_t bytes)
{
  if (bytes > s->workspace_bytes)
    {
      void *grown = NULL;
      CHECK (stream_alloc (s, bytes, &grown));
      stream_free (s, s->workspace);
      s->workspace = grown;
      s->workspace_bytes = bytes;
    }
  s->workspace_users++;
  return STATUS_OK;
}

void
stream_workspace_leave (Stream *s)
{
  if (--s->workspace_users > 0)
    return;
  stream_free (s, s->workspace);
  s->workspace = NULL;
  s->workspace_bytes = 0;
}

Status
cuda_alloc (Stream *s, size_t bytes, void **out)
{
  *out = NULL;
  if (s->scratch == NULL)
    CHECK (stream_alloc (s, SCRATCH_BYTES, &s->scratch));
  return stream_alloc (s, bytes, out);
}

void
cuda_trim (Stream *s)
{
  stream_free (s, s->scratch);
  s->scratch = NULL;
  for (int i = 0; i < STAGING_SLOTS; i++)
    {
      StagingSlot *slot = &s->staging[i];
      stream_free (s, slot->device);
      slot->device = NULL;
      cuda_host_free (s, slot->host);
      slot->host = NULL;
    }
}

/* -- transfers ----------------------------------------------------------------------------------
 */

/* Slots are made by the first transfer: a device that is only looked at pins no memory. Their twins
 * by the first that converts. */
static Status
make_slots (Stream *s)
{
  if (s->lost)
    return STATUS_DEVICE_LOST;
  REQUIRE (s, !s->recording);
  CUDA_CHECK (s, cudaSetDevice (s->device));
  for (int i = 0; i < STAGING_SLOTS; i++)
    {
      StagingSlot *slot = &s->staging[i];
      if (slot->host == NULL)
        CUDA_CHECK (s, cudaMallocHost (&slot->host, STAGING_BYTES));
      if (slot->done == NULL)
        CUDA_CHECK (s, cudaEventCreateWithFlags (&slot->done, cudaEventDisableTiming));
    }
  return STATUS_OK;
}

/* The next slot, once the card has finished with it. */
static Status
take_slot (Stream *s, bool converts, StagingSlot **out)
{
  StagingSlot *slot = &s->staging[s->next_slot];
  s->next_slot = (s->next_slot + 1) % STAGING_SLOTS;
  CUDA_CHECK (s, cudaEventSynchronize (slot->done));
  if (converts && slot->device == NULL)
    CHECK (stream_alloc (s, STAGING_BYTES, &slot->device));
  *out = slot;
  return STATUS_OK;
}

/* One core copies slower than the bus takes; page faults of a mapped file cost more still. */
static void
copy_by_many (void *to, const void *from, size_t bytes)
{
  const size_t piece = (size_t)1 << 20;
  const int pieces = (int)CEIL_DIV (bytes, piece);
  const int threads = omp_get_max_threads () < 8 ? omp_get_max_threads () : 8;
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (pieces > 1)
  for (int i = 0; i < pieces; i++)
    {
      const size_t start = i * piece, rest = bytes - start;
      memcpy ((char *)to + start, (const char *)from + start, rest < piece ? rest : piece);
    }
}

static size_t
chunk_elements (DType a, DType b)
{
  const size_t larger = dtype_size (a) > dtype_size (b) ? dtype_size (a) : dtype_size (b);
  return STAGING_BYTES / larger;
}

/* Host to device on `queue`; returns once the host tensor has been read. */
static Status
transfer_in (Stream *s, cudaStream_t queue, const Tensor *host, DType to, void *device)
{
  CHECK (make_slots (s));
  const size_t n = (size_t)tensor_count (host), chunk = chunk_elements (host->dtype, to);
  const size_t from_size = dtype_size (host->dtype), to_size = dtype_size (to);
  for (size_t first = 0; first < n; first += chunk)
    {
      const size_t count = n - first < chunk ? n - first : chunk;
      char *target = (char *)device + first * to_size;
      StagingSlot *slot = NULL;
      CHECK (take_slot (s, host->dtype != to, &slot));
      copy_by_many (slot->host, (const char *)host->data + first * from_size, count * from_size);
      void *landing = host->dtype == to ? target : slot->device;
      CUDA_CHECK (s, cudaMemcpyAsync (landing, slot->host, count * from_size,
                                      cudaMemcpyHostToDevice, queue));
      if (landing != target)
        CHECK (convert (s, queue, host->dtype, landing, to, target, count));
      CUDA_CHECK (s, cudaEventRecord (slot->done, queue));
    }
  return STATUS_OK;
}

Status
stream_upload_weights (Stream *s, const Tensor *host, DType to, void *device)
{
  CHECK (transfer_in (s, s->upload, host, to, device));
  CUDA_CHECK (s, cudaEventRecord (s->uploaded, s->upload));
  CUDA_CHECK (s, cudaStreamWaitEvent (s->compute, s->uploaded, 0));
  return STATUS_OK;
}

/* In order with the maths: the memory may be in use by what is queued. */
Status
cuda_upload (Stream *s, const Tensor *host, Tensor *device)
{
  REQUIRE (s, tensor_count (host) == tensor_count (device));
  CHECK (transfer_in (s, s->compute, host, device->dtype, device->data));
  return cuda_wait (s);
}

Status
cuda_download (Stream *s, const Tensor *device, Tensor *host)
{
  REQUIRE (s, tensor_count (host) == tensor_count (device));
  CHECK (make_slots (s));
  const DType from = device->dtype, to = host->dtype;
  const size_t n = (size_t)tensor_count (host), chunk = chunk_elements (from, to);
  for (size_t first = 0; first < n; first += chunk)
    {
      const size_t count = n - first < chunk ? n - first : chunk;
      const char *source = (const char *)device->data + first * dtype_size (from);
      const size_t bytes = count * dtype_size (to);
      StagingSlot *slot = NULL;
      CHECK (take_slot (s, from != to, &slot));
      if (from != to)
        {
          CHECK (convert (s, s->compute, from, source, to, slot->device, count));
          source = (const char *)slot->device;
        }
      CUDA_CHECK (s,
                  cudaMemcpyAsync (slot->host, source, bytes, cudaMemcpyDeviceToHost, s->compute));
      CUDA_CHECK (s, cudaStreamSynchronize (s->compute));
      copy_by_many ((char *)host->data + first * dtype_size (to), slot->host, bytes);
    }
  return STATUS_OK;
}

Status
cuda_copy (Stream *s, const Tensor *from, Tensor *to)
{
  REQUIRE (s, from->dtype == to->dtype && tensor_count (from) == tensor_count (to));
  CUDA_CHECK (s, cudaMemcpyAsync (to->data, from->data, tensor_bytes (from),
                                  cudaMemcpyDeviceToDevice, s->compute));
  return STATUS_OK;
}
