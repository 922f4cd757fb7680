/* SPDX-License-Identifier: Apache-2.0
 *
 * mma.cuh - the instructions of sm_80 and up that C++ has no word for, one thin function each
 *
 * Fragments are as in the PTX manual, "Matrix Fragments for mma.m16n8k16" and so on. Addresses into
 * shared memory are 32 bits, from shared_address (). The tests have the same functions in software
 * (tests/kernels/emulation): a kernel that keeps to them also runs without a card.
 */
#pragma once

#include <stdint.h>

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

/* 16 bytes from global to shared memory, past L1; zeros when not `valid` (nothing is read). */
static __device__ __forceinline__ void
cp_async_16 (uint32_t shared, const void *global, bool valid)
{
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),
               "r"(bytes)
               : "memory");
}

static __device__ __forceinline__ void
cp_async_commit ()
{
  asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most PENDING of this thread's groups are on their way. */
template <int PENDING>
static __device__ __forceinline__ void
cp_async_wait ()
{
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
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
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* The same for FP16 operands. */
static __device__ __forceinline__ void
mma_f16 (float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* c [16, 8] += a [16, 32] b [32, 8]: bytes with sign, 32-bit sums. */
static __device__ __forceinline__ void
mma_s8 (int c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* d = a b + c, a [16, 64], b [64, 8] 4-bit integers. */
static __device__ __forceinline__ void
mma_s4 (uint32_t d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, const uint32_t c[4])
{
  asm volatile("mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(c[0]), "r"(c[1]),
                 "r"(c[2]), "r"(c[3]));
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

/* A constant that the compiler does not know as one. */
template <uint32_t BITS>
static __device__ __forceinline__ uint32_t
opaque_word ()
{
  uint32_t word;
  asm volatile("mov.b32 %0, %1;" : "=r"(word) : "n"(BITS));
  return word;
}
