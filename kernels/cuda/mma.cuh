/* SPDX-License-Identifier: Apache-2.0
 *
 * mma.cuh - the instructions that C++ has no word for, one thin function each
 *
 * Fragments are as in the PTX manual, "Matrix Fragments for mma.m16n8k16" and so on. Addresses into
 * shared memory are 32 bits, from shared_address (). The tests have the same functions in software
 * (tests/kernels/emulation): a kernel that keeps to them also runs without a card.
 * sm_75 has ldmatrix and half of the matrix instruction, for FP16 alone, and no copies that travel
 * by themselves: there a thread holds what it copies in registers while it multiplies (AsyncCopy),
 * and waiting for a group means nothing.
 */
#pragma once

#include "kernels/cuda/activation.cuh"

#if defined __CUDA_ARCH__ && __CUDA_ARCH__ < 800
#define HAS_ASYNC_COPY 0
#else
#define HAS_ASYNC_COPY 1
#endif

static __device__ __forceinline__ uint32_t
shared_address (const void *p)
{
  return static_cast<uint32_t> (__cvta_generic_to_shared (p));
}

/* Numbers in shared memory; a BF16 one comes as a float. */
static __device__ __forceinline__ uint32_t
shared_word (uint32_t address)
{
  uint32_t word;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(address) : "memory");
  return word;
}

static __device__ __forceinline__ float
shared_bf16 (uint32_t address)
{
  uint16_t bits;
  asm volatile("ld.shared.b16 %0, [%1];" : "=h"(bits) : "r"(address) : "memory");
  return __uint_as_float ((uint32_t)bits << 16);
}

static __device__ __forceinline__ uint4
load_global_16 (const void *global, bool valid)
{
  return valid ? *reinterpret_cast<const uint4 *> (global) : make_uint4 (0, 0, 0, 0);
}

static __device__ __forceinline__ void
store_shared_16 (uint32_t shared, uint4 v)
{
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(v.x), "r"(v.y),
               "r"(v.z), "r"(v.w)
               : "memory");
}

/* 16 bytes from global to shared memory, past L1; zeros when not `valid` (nothing is read). */
static __device__ __forceinline__ void
cp_async_16 (uint32_t shared, const void *global, bool valid)
{
#if HAS_ASYNC_COPY
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),
               "r"(bytes)
               : "memory");
#else
  store_shared_16 (shared, load_global_16 (global, valid));
#endif
}

/* N such copies of a thread. Where they cannot travel by themselves, `start` reads into registers
 * and `finish` writes: between the two lies the work that hides the reading. */
template <int N> struct AsyncCopy
{
#if HAS_ASYNC_COPY
  __device__ __forceinline__ void
  start (int, uint32_t shared, const void *global, bool valid)
  {
    cp_async_16 (shared, global, valid);
  }

  __device__ __forceinline__ void
  finish (int, uint32_t)
  {
  }
#else
  uint4 held[N];

  __device__ __forceinline__ void
  start (int i, uint32_t, const void *global, bool valid)
  {
    held[i] = load_global_16 (global, valid);
  }

  __device__ __forceinline__ void
  finish (int i, uint32_t shared)
  {
    store_shared_16 (shared, held[i]);
  }
#endif
};

static __device__ __forceinline__ void
cp_async_commit ()
{
#if HAS_ASYNC_COPY
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Waits until at most PENDING of this thread's groups are on their way. */
template <int PENDING>
static __device__ __forceinline__ void
cp_async_wait ()
{
#if HAS_ASYNC_COPY
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

/* Four 8x8 matrices of 16-bit numbers; thread t gives the address of row t % 8 of matrix t / 8. */
static __device__ __forceinline__ void
ldmatrix_x4 (uint32_t r[4], uint32_t shared)
{
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared)
               : "memory");
}

static __device__ __forceinline__ void
ldmatrix_x4_trans (uint32_t r[4], uint32_t shared)
{
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared)
               : "memory");
}

/* c [16, 8] += a [16, 16] b [16, 8]: BF16 operands, FP32 sums. */
static __device__ __forceinline__ void
mma_bf16 (float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
#if defined __CUDA_ARCH__ && __CUDA_ARCH__ < 800
  __trap (); /* kernels that need it have returned: Activation::RUNS_HERE */
#else
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

/* c [16, 8] += a [16, 8] b [8, 8]: FP16 operands, FP32 sums. */
static __device__ __forceinline__ void
mma_f16_half (float c[4], uint32_t a0, uint32_t a1, uint32_t b)
{
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
               "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a0), "r"(a1), "r"(b));
}

/* As mma_bf16 for FP16 operands; their fragments are those of two halves of k, word by word. */
static __device__ __forceinline__ void
mma_f16 (float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
#if defined __CUDA_ARCH__ && __CUDA_ARCH__ < 800
  mma_f16_half (c, a[0], a[1], b0);
  mma_f16_half (c, a[2], a[3], b1);
#else
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

/* The one for the activations' type. */
template <typename T>
static __device__ __forceinline__ void
mma (float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
  if constexpr (Activation<T>::DTYPE == DTYPE_F16)
    mma_f16 (c, a, b0, b1);
  else
    mma_bf16 (c, a, b0, b1);
}

/* c [16, 8] += a [16, 32] b [32, 8]: bytes with sign, 32-bit sums. */
static __device__ __forceinline__ void
mma_s8 (int c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
#if defined __CUDA_ARCH__ && __CUDA_ARCH__ < 800
  __trap ();
#else
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

/* d = a b + c, a [16, 64], b [64, 8] 4-bit integers. */
static __device__ __forceinline__ void
mma_s4 (uint32_t d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, const uint32_t c[4])
{
#if defined __CUDA_ARCH__ && __CUDA_ARCH__ < 800
  __trap ();
#else
  asm volatile("mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(c[0]), "r"(c[1]),
                 "r"(c[2]), "r"(c[3]));
#endif
}

/* c [8, 8] += a [8, 32] b [32, 8], 4-bit integers; sm_75 up. Fragments of four of them are one of
 * mma_s4's, word by word ("Matrix Fragments for mma.m8n8k32"). */
static __device__ __forceinline__ void
mma_s4_8x8x32 (uint32_t c[2], uint32_t a, uint32_t b)
{
  asm volatile("mma.sync.aligned.m8n8k32.row.col.s32.s4.s4.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
               : "+r"(c[0]), "+r"(c[1])
               : "r"(a), "r"(b));
}

/* Asks for the line at p into L1. */
static __device__ __forceinline__ void
prefetch_line (const void *p)
{
  asm volatile("prefetch.global.L1 [%0];" ::"l"(p));
}

/* A barrier of `threads` threads of the block, one of the hardware's sixteen (0 is
 * __syncthreads). */
static __device__ __forceinline__ void
named_barrier (int id, int threads)
{
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

static __device__ __forceinline__ void
named_barrier_arrive (int id, int threads)
{
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* Two FP16 products, each rounded to nearest. */
static __device__ __forceinline__ uint32_t
multiply_f16x2 (uint32_t a, uint32_t b)
{
  uint32_t out;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
  return out;
}

/* 1 / v within an ulp; numbers below the normal ones count as zero. */
static __device__ __forceinline__ float
reciprocal_estimate (float v)
{
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
  return r;
}

/* 2^x as the hardware has it; exp2f spends three instructions more on denormal results. */
static __device__ __forceinline__ float
exp2_fast (float x)
{
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/* A constant that the compiler does not know as one. */
template <uint32_t BITS>
static __device__ __forceinline__ uint32_t
opaque_word ()
{
  uint32_t word;
  asm volatile("mov.b32 %0, %1;" : "=r"(word) : "n"(BITS));
  return word;
}
