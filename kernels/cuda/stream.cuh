/* SPDX-License-Identifier: Apache-2.0
 *
 * stream.cuh - an open device: its queue of work, what it holds, and what went wrong last
 *
 * Everything of a device lives in its Stream: nothing here is global. Kernels run on `compute`.
 * Weights travel on `upload`, through a ring of pinned buffers, while the host reads on; `compute`
 * is made to wait for them. Weights that come and go travel on `transfers`. All device memory is
 * counted, working memory too, and refused above the budget.
 */
#pragma once

#include "kernels/kernels.h"

#include <cuda_runtime.h>

#define STAGING_SLOTS    4
#define STAGING_BYTES    ((size_t)16 << 20)
#define SCRATCH_BYTES    ((size_t)16 << 20)
#define DEVICE_ALIGNMENT ((size_t)256)

/* Up to where the next part of a block of device memory may begin. */
static inline size_t
device_aligned (size_t bytes)
{
  return (bytes + DEVICE_ALIGNMENT - 1) / DEVICE_ALIGNMENT * DEVICE_ALIGNMENT;
}

/* Takes `bytes` of a block at *at; a NULL block only counts. */
static inline void *
device_place (void *block, size_t *at, size_t bytes)
{
  void *found = block != NULL && bytes > 0 ? (char *)block + *at : NULL;
  *at += device_aligned (bytes);
  return found;
}

/* A pinned buffer, its twin on the card if there was a conversion, and when both are free again. */
typedef struct
{
  void *host;
  void *device;
  cudaEvent_t done; /* recorded behind the last use */
} StagingSlot;

typedef struct
{
  void *memory;
  size_t bytes;
} Allocation;

struct Stream
{
  int device; /* CUDA ordinal */
  DeviceCaps caps;
  cudaStream_t compute; /* all maths, in order */
  cudaStream_t upload;  /* weights on their way in */

  StagingSlot staging[STAGING_SLOTS]; /* made by the first transfer */
  int next_slot;
  cudaEvent_t uploaded; /* what `compute` waits for after weights */

  cudaStream_t transfers; /* weights that come and go; the rest as in transfer.cu */
  cudaEvent_t arrived[TRANSFER_SLOTS], used[TRANSFER_SLOTS];

  /* SCRATCH_BYTES on the card for the partial results of one operation. Work on `compute` runs in
   * order, so every launcher may use all of it, and nothing in it outlives the launcher's work.
   * Taken by cuda_alloc, before there is anything to compute on; given back by cuda_trim. */
  void *scratch;

  /* What a linear's steps hand each other, apart from scratch, which any of them may use. Made
   * while weights are loaded, so that recordings need not allocate. */
  void *workspace;
  size_t workspace_bytes;
  int workspace_users;

  Allocation *allocations; /* unordered; for sizes at free */
  size_t n_allocations, max_allocations;
  uint64_t allocated, peak; /* bytes */
  uint64_t budget;          /* bytes; 0 = none */

  bool lost;               /* a sticky fault was seen: only close is allowed */
  bool recording;          /* between record and record_end */
  cudaEvent_t replayed[2]; /* behind the last two recordings, in turn */
  int n_replays;           /* modulo 2 */
  char detail[256];
};

struct Recording
{
  cudaGraphExec_t exec;
};

/* Turns a CUDA error into a Status, keeps its text in `s` (may be NULL) and clears the runtime's
 * flag. Sticky faults give STATUS_DEVICE_LOST, now and from every later call. */
Status stream_fail (Stream *s, cudaError_t error, const char *what);
/* The Status of the launch just made by the function named `what`. */
Status stream_launched (Stream *s, const char *what);
/* STATUS_UNSUPPORTED, saying which `condition` function `what` needs. */
Status stream_refuse (Stream *s, const char *what, const char *condition);

/* Device memory under the budget; freed with stream_free, or by close. STATUS_NO_MEMORY. */
Status stream_alloc (Stream *s, size_t bytes, void **out);
void stream_free (Stream *s, void *memory); /* NULL is a no-op; waits for the device */

/* The workspace has at least `bytes` from now on, counted in the budget, until as many users have
 * left as have joined. Growing moves it: recordings made before must not run again. */
Status stream_workspace_join (Stream *s, size_t bytes);
void stream_workspace_leave (Stream *s);

/* Queues the transfer of a host tensor into device memory of type `to`, same element order; the
 * conversion between F32, BF16 and F16 runs on the card. `compute` waits for it, the host does
 * not: `host` may be forgotten on return, and `device` must not be in use by queued work.
 * This is how a backend brings its weights in. */
Status stream_upload_weights (Stream *s, const Tensor *host, DType to, void *device);

void stream_close_transfers (Stream *s); /* part of close */

/* The CUDA half of Ops (kernels.h). */
Status cuda_query (int index, DeviceCaps *caps);
Status cuda_open (int index, const StreamOptions *options, Stream **out);
void cuda_close (Stream *s);
Status cuda_wait (Stream *s);
Status cuda_alloc (Stream *s, size_t bytes, void **out);
void cuda_trim (Stream *s);
Status cuda_host_alloc (Stream *s, size_t bytes, void **out);
void cuda_host_free (Stream *s, void *memory);
Status cuda_transfer (Stream *s, int slot, void *to, const void *from, size_t bytes);
Status cuda_transfer_wait (Stream *s, int slot);
Status cuda_transfer_used (Stream *s, int slot);
uint64_t cuda_allocated (Stream *s);
uint64_t cuda_peak (Stream *s, bool restart);
void cuda_set_budget (Stream *s, uint64_t bytes);
Status cuda_upload (Stream *s, const Tensor *host, Tensor *device);
Status cuda_download (Stream *s, const Tensor *device, Tensor *host);
Status cuda_copy (Stream *s, const Tensor *from, Tensor *to);
const char *cuda_detail (Stream *s);
Status cuda_record (Stream *s);
Status cuda_record_end (Stream *s, Recording **out);
Status cuda_replay (Stream *s, Recording *recording);
void cuda_recording_free (Recording *recording);
