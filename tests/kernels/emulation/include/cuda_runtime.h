/* SPDX-License-Identifier: Apache-2.0
 *
 * cuda_runtime.h - the part of CUDA that this project uses, for the processor
 *
 * The first that the compiler finds by this name in the tests of emulation/. The language's
 * keywords, built-in variables and functions of the device are here; the runtime is in runtime.cpp.
 * A kernel runs by launch_kernel alone.
 */
#pragma once

#include "tests/kernels/emulation/device.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* -- keywords --------------------------------------------------------------------------------- */

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__    __attribute__ ((noinline))
#define __shared__      thread_local /* memory.cpp */
#define __grid_constant__
/* No __maxnreg__: with more registers than __launch_bounds__ gives, a kernel compiles and does not
 * start. */
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__ ((aligned (bytes)))

/* -- vectors ---------------------------------------------------------------------------------- */

struct alignas (8) int2
{
  int x, y;
};
struct alignas (16) int4
{
  int x, y, z, w;
};
struct alignas (8) uint2
{
  unsigned x, y;
};
struct uint3
{
  unsigned x, y, z;
};
struct alignas (16) uint4
{
  unsigned x, y, z, w;
};
struct alignas (8) float2
{
  float x, y;
};
struct alignas (16) float4
{
  float x, y, z, w;
};

static inline uint2
make_uint2 (unsigned x, unsigned y)
{
  return { x, y };
}

static inline uint4
make_uint4 (unsigned x, unsigned y, unsigned z, unsigned w)
{
  return { x, y, z, w };
}

static inline float2
make_float2 (float x, float y)
{
  return { x, y };
}

static inline float4
make_float4 (float x, float y, float z, float w)
{
  return { x, y, z, w };
}

struct dim3
{
  unsigned x, y, z;

  constexpr
  dim3 (unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1)
      : x (x_), y (y_), z (z_)
  {
  }
};

extern dim3 gridDim, blockDim;
extern uint3 blockIdx, threadIdx;

/* -- numbers ---------------------------------------------------------------------------------- */

template <typename To, typename From>
static inline To
emulation_bits (From from)
{
  static_assert (sizeof (To) == sizeof (From), "the same bits");
  To to;
  memcpy (&to, &from, sizeof to);
  return to;
}

static inline float
__uint_as_float (unsigned v)
{
  return emulation_bits<float> (v);
}

static inline float
__int_as_float (int v)
{
  return emulation_bits<float> (v);
}

static inline unsigned
__float_as_uint (float v)
{
  return emulation_bits<unsigned> (v);
}

static inline int
__float_as_int (float v)
{
  return emulation_bits<int> (v);
}

/* Rounded once each; these files are compiled without contraction. */
static inline float
__fadd_rn (float a, float b)
{
  return a + b;
}

static inline float
__fsub_rn (float a, float b)
{
  return a - b;
}

static inline float
__fmul_rn (float a, float b)
{
  return a * b;
}

static inline float
__fdiv_rn (float a, float b)
{
  return a / b;
}

static inline float
__frcp_rn (float a)
{
  return 1.0f / a;
}

static inline float
__fmaf_rn (float a, float b, float c)
{
  return fmaf (a, b, c);
}

/* NaN becomes 0, what is too great the greatest. */
static inline int
__float2int_rn (float v)
{
  if (v != v)
    return 0;
  return v >= 0x1p31f ? INT32_MAX : v <= -0x1p31f ? INT32_MIN : (int)rintf (v);
}

static inline float
__fdividef (float a, float b)
{
  return a / b;
}

#define __expf(v) expf (v) /* the C library has a function of this name */

/* The C library's give NaN when one number is a signalling NaN; the card's give the other. */
static inline float
emulation_lesser (float a, float b)
{
  return b != b || a < b ? a : a != a ? b : a > b ? b : signbit (a) ? a : b;
}

static inline float
emulation_greater (float a, float b)
{
  return b != b || a > b ? a : a != a ? b : a < b ? b : signbit (a) ? b : a;
}
#define fminf(a, b) emulation_lesser (a, b)
#define fmaxf(a, b) emulation_greater (a, b)

static inline float
rsqrtf (float v)
{
  return 1.0f / sqrtf (v);
}

static inline unsigned
__byte_perm (unsigned low, unsigned high, unsigned selector)
{
  const uint64_t bytes = (uint64_t)high << 32 | low;
  unsigned out = 0;
  for (int i = 0; i < 4; i++)
    out |= (unsigned)(bytes >> (selector >> i * 4 & 7) * 8 & 0xff) << i * 8;
  return out;
}

/* Of two numbers of 16 bits a word, each by each. */
template <typename T>
static inline unsigned
emulation_each_16 (unsigned a, unsigned b, bool greater)
{
  unsigned out = 0;
  for (int i = 0; i < 32; i += 16)
    {
      const T u = (T)(a >> i), v = (T)(b >> i);
      out |= (unsigned)(uint16_t)((u > v) == greater ? u : v) << i;
    }
  return out;
}

static inline unsigned
__vmaxu2 (unsigned a, unsigned b)
{
  return emulation_each_16<uint16_t> (a, b, true);
}

static inline unsigned
__vminu2 (unsigned a, unsigned b)
{
  return emulation_each_16<uint16_t> (a, b, false);
}

static inline unsigned
__vmaxs2 (unsigned a, unsigned b)
{
  return emulation_each_16<int16_t> (a, b, true);
}

static inline unsigned
__vmins2 (unsigned a, unsigned b)
{
  return emulation_each_16<int16_t> (a, b, false);
}

#define EMULATION_MIN_MAX(type)                                                                    \
  static inline type min (type a, type b)                                                          \
  {                                                                                                \
    return a < b ? a : b;                                                                          \
  }                                                                                                \
  static inline type max (type a, type b)                                                          \
  {                                                                                                \
    return a > b ? a : b;                                                                          \
  }
EMULATION_MIN_MAX (int)
EMULATION_MIN_MAX (unsigned)
EMULATION_MIN_MAX (long)
EMULATION_MIN_MAX (unsigned long)
EMULATION_MIN_MAX (float)
EMULATION_MIN_MAX (double)
#undef EMULATION_MIN_MAX

template <typename T>
static inline T
__ldg (const T *p)
{
  return *p;
}

/* -- threads ---------------------------------------------------------------------------------- */

static inline void
__syncthreads ()
{
  emulation::sync_threads ();
}

static inline void
__threadfence_block ()
{
}

static inline void
__syncwarp (unsigned mask = emulation::ALL_LANES)
{
  emulation::meet ([] (void *const *, uint32_t) {}, NULL, mask, "__syncwarp");
}

namespace emulation
{
/* What a lane brings to a shuffle or a vote, and what it gets. */
struct Exchange
{
  uint64_t bits, result;
  int from; /* lane */
};

void shuffle (void *const operands[WARP], uint32_t mask);
void vote (void *const operands[WARP], uint32_t mask);

template <typename T>
static inline T
exchange (unsigned mask, T v, int from)
{
  static_assert (sizeof (T) <= 8, "up to 64 bits");
  Exchange e = { 0, 0, from };
  memcpy (&e.bits, &v, sizeof v);
  meet (shuffle, &e, mask, "a shuffle");
  memcpy (&v, &e.result, sizeof v);
  return v;
}

static inline unsigned
ballot (unsigned mask, bool v)
{
  Exchange e = { v, 0, 0 };
  meet (vote, &e, mask, "a vote");
  return (unsigned)e.result;
}
}

template <typename T>
static inline T
__shfl_sync (unsigned mask, T v, int from)
{
  return emulation::exchange (mask, v, from & 31);
}

template <typename T>
static inline T
__shfl_xor_sync (unsigned mask, T v, int lanes)
{
  return emulation::exchange (mask, v, (emulation::lane () ^ lanes) & 31);
}

static inline unsigned
__ballot_sync (unsigned mask, int v)
{
  return emulation::ballot (mask, v != 0);
}

static inline int
__any_sync (unsigned mask, int v)
{
  return emulation::ballot (mask, v != 0) != 0;
}

static inline int
__all_sync (unsigned mask, int v)
{
  return emulation::ballot (mask, v != 0) == mask;
}

/* One thread runs at a time. */
template <typename T, typename U>
static inline T
atomicAdd (T *p, U v)
{
  const T old = *p;
  *p = (T)(old + v);
  return old;
}

template <typename T, typename U>
static inline T
atomicMax (T *p, U v)
{
  const T old = *p;
  *p = (T)v > old ? (T)v : old;
  return old;
}

static inline uint32_t
atomicOr (uint32_t *p, uint32_t v)
{
  const uint32_t old = *p;
  *p = old | v;
  return old;
}

static inline int
__ffs (int v)
{
  return __builtin_ffs (v);
}

/* -- the runtime ------------------------------------------------------------------------------ */

enum cudaError_t
{
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInitializationError = 3,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorDevicesUnavailable = 46,
  cudaErrorInvalidDeviceFunction = 98,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorUnsupportedPtxVersion = 222,
  cudaErrorLaunchOutOfResources = 701,
  cudaErrorNotSupported = 801,
  cudaErrorSystemNotReady = 802,
  cudaErrorSystemDriverMismatch = 803,
  cudaErrorCompatNotSupportedOnDevice = 804,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorUnknown = 999,
};

typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;
typedef struct CUgraph_st *cudaGraph_t;
typedef struct CUgraphExec_st *cudaGraphExec_t;

struct cudaDeviceProp
{
  char name[256];
  int major, minor, multiProcessorCount, maxThreadsPerMultiProcessor;
};

enum cudaMemcpyKind
{
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault,
};

enum
{
  cudaStreamNonBlocking = 1,
  cudaEventDisableTiming = 2,
};

enum cudaStreamCaptureMode
{
  cudaStreamCaptureModeThreadLocal = 1,
};

enum cudaFuncAttribute
{
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
};

enum cudaDeviceAttr
{
  cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};

const char *cudaGetErrorString (cudaError_t error);
cudaError_t cudaGetLastError ();
cudaError_t cudaDriverGetVersion (int *version);
cudaError_t cudaRuntimeGetVersion (int *version);
cudaError_t cudaGetDeviceCount (int *count);
cudaError_t cudaGetDeviceProperties (cudaDeviceProp *properties, int device);
cudaError_t cudaDeviceGetAttribute (int *value, cudaDeviceAttr attribute, int device);
cudaError_t cudaSetDevice (int device);
cudaError_t cudaDeviceSynchronize ();

cudaError_t cudaMemGetInfo (size_t *left, size_t *total);
cudaError_t cudaMalloc (void **memory, size_t bytes);
cudaError_t cudaFree (void *memory);
cudaError_t cudaMallocHost (void **memory, size_t bytes);
cudaError_t cudaFreeHost (void *memory);
cudaError_t cudaMemcpy (void *to, const void *from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemset (void *to, int byte, size_t bytes);
cudaError_t cudaMemcpyAsync (void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                             cudaStream_t stream = NULL);
cudaError_t cudaMemsetAsync (void *to, int byte, size_t bytes, cudaStream_t stream = NULL);

cudaError_t cudaStreamCreateWithFlags (cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy (cudaStream_t stream);
cudaError_t cudaStreamSynchronize (cudaStream_t stream);
cudaError_t cudaStreamWaitEvent (cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreateWithFlags (cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventDestroy (cudaEvent_t event);
cudaError_t cudaEventRecord (cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize (cudaEvent_t event);

cudaError_t cudaStreamBeginCapture (cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture (cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiate (cudaGraphExec_t *exec, cudaGraph_t graph, unsigned flags);
cudaError_t cudaGraphDestroy (cudaGraph_t graph);
cudaError_t cudaGraphLaunch (cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphExecDestroy (cudaGraphExec_t exec);

namespace emulation
{
cudaError_t set_attribute (const void *kernel, cudaFuncAttribute attribute, int value);
}

template <typename Kernel>
static inline cudaError_t
cudaFuncSetAttribute (Kernel *kernel, cudaFuncAttribute attribute, int value)
{
  return emulation::set_attribute (reinterpret_cast<const void *> (kernel), attribute, value);
}
