/* SPDX-License-Identifier: Apache-2.0
 *
 * stream.h - what the files of the CPU device share
 *
 * A Stream computes at once, on `threads` threads; nothing is queued. It owns the memory that is
 * handed out, one scratch block that grows to the largest need and stays, and a bounded cache of
 * oneDNN primitives. All memory is counted, scratch and oneDNN's working space too.
 */
#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/host-memory.h"

#include <dnnl.h>

/* Below this many elements a loop is not worth waking the other threads. */
#define PARALLEL_MIN 16384

/* Scratch and oneDNN's working space, seen over sizes up to 2048 x 2048: they grow with the widest
 * layer and the number of threads, not with the picture. */
#define CPU_WORKING_MEMORY ((uint64_t)32 << 20)

typedef struct PrimitiveCache PrimitiveCache;

struct Stream
{
  HostMemory memory;
  DeviceCaps caps;
  StreamOptions options;
  int threads;
  const Simd *simd;
  dnnl_engine_t engine;
  dnnl_stream_t queue;
  PrimitiveCache *primitives;
  void *scratch; /* see cpu_scratch */
  size_t scratch_bytes;
  void *workspace; /* oneDNN's, see cpu_workspace */
  size_t workspace_bytes;
  char detail[256]; /* text of the last failure */
};

/* Notes why a call failed, and returns `status`. */
Status cpu_fail (Stream *s, Status status, const char *format, ...)
    __attribute__ ((format (printf, 3, 4)));

/* Memory counted against the stream's budget, 256-byte aligned; free with host_free. */
Status cpu_alloc (Stream *s, size_t bytes, void **out);

/* At least `bytes` of scratch memory, valid until the next call; its content is arbitrary. Only one
 * user at a time: an operation asks once and divides what it got. */
Status cpu_scratch (Stream *s, size_t bytes, void **out);

/* The same for a oneDNN primitive's scratchpad. */
Status cpu_workspace (Stream *s, size_t bytes, void **out);

/* Runs oneDNN with the stream's number of threads: OpenMP keeps that number per calling thread, so
 * it is put back afterwards. Returns the value for cpu_threads_restore. */
int cpu_threads_enter (Stream *s);
void cpu_threads_restore (int previous);

/* The calling thread's number, 0 to threads - 1, within a parallel region. */
int cpu_thread (void);

/* The entries of ops_cpu that are not in ops.c; see kernels.h. */
Status cpu_attention (Stream *s, const Tensor *qkv, int n_q, int n_kv, bool causal, Tensor *out);
Status cpu_rms_norm (Stream *s, const Tensor *x, const Tensor *weight, const Tensor *scale,
                     float eps, Tensor *out);
Status cpu_residual_norm (Stream *s, Tensor *x, const Tensor *y, const Tensor *post,
                          const Tensor *gate, const Tensor *next, const Tensor *scale, float eps,
                          Tensor *out);
Status cpu_layer_norm (Stream *s, const Tensor *x, const Tensor *scale, float eps, Tensor *out);
Status cpu_qk_norm_rope (Stream *s, Tensor *qkv, int n_q, int n_kv, const Tensor *q_weight,
                         const Tensor *k_weight, float eps, const Tensor *table,
                         RopePairing pairing);
Status cpu_group_norm (Stream *s, const Tensor *x, const Tensor *weight, const Tensor *bias,
                       int groups, float eps, bool silu, Tensor *out);
Status cpu_group_moments (Stream *s, const Tensor *x, int groups, float eps, Tensor *moments);
Status cpu_group_norm_by (Stream *s, const Tensor *x, const Tensor *moments, const Tensor *weight,
                          const Tensor *bias, bool silu, Tensor *out);
Status cpu_conv_prepare (Stream *s, const ConvSource *source, Conv **out);
uint64_t cpu_conv_bytes (const ConvSource *source);
Status
cpu_conv2d (Stream *s, const Conv *conv, const Tensor *x, const Tensor *residual, Tensor *out);
void cpu_conv_release (Stream *s, Conv *conv);

/* The device half of ops_cpu, in stream.c. */
Status cpu_query (int index, DeviceCaps *caps);
Status cpu_open (int index, const StreamOptions *options, Stream **out);
void cpu_close (Stream *s);
void cpu_trim (Stream *s);
