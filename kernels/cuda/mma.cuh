/* SPDX-License-Identifier: Apache-2.0
 *
 * mma.cuh - the warp-level matrix instructions of sm_80 and up, one thin function each
 *
 * Fragments are as in the PTX manual, "Matrix Fragments for mma.m16n8k16". Addresses into shared
 * memory are 32 bits, from shared_address ().
 */
#pragma once

#include <stdint.h>

static __device__ __forceinline__ uint32_t
shared_address (const void *p)
{
  return static_cast<uint32_t> (__cvta_generic_to_shared (p));
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
