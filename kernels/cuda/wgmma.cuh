/* SPDX-License-Identifier: Apache-2.0
 *
 * wgmma.cuh - the warpgroup matrix instructions of sm_90a, one function each
 *
 * A warpgroup is four warps that start at a multiple of four. Its wgmma multiplies a [64, 16] by
 * b [16, N]; both come from shared memory in the 128-byte swizzled layout that the bulk tensor
 * copy writes (tma.cuh), or a from registers. Sums stay in registers: thread t of the warpgroup
 * holds, for i in 0..N/8, d[4 i + 0, 1] = row 16 (t / 32) + t % 32 / 4, columns 8 i + 2 (t % 4)
 * + 0, 1 and d[4 i + 2, 3] = the same columns 8 rows below. (PTX manual, "Asynchronous warpgroup
 * level matrix instructions".)
 */
#pragma once

#include <stdint.h>

/* What every thread does between writing operands or sums in registers and the first wgmma. */
static __device__ __forceinline__ void
wgmma_fence ()
{
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void
wgmma_commit ()
{
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Waits until at most PENDING committed groups are running. */
template <int PENDING>
static __device__ __forceinline__ void
wgmma_wait ()
{
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

/* Tells the compiler that `d` may change here: it must not move reads of sums above a wait. */
template <int COUNT>
static __device__ __forceinline__ void
wgmma_touch (float (&d)[COUNT])
{
#pragma unroll
  for (int i = 0; i < COUNT; i++)
    asm volatile("" : "+f"(d[i])::"memory");
}

/* The swizzled layout: rows of 128 bytes, 64 BF16; it repeats every eight rows, an atom, to which
 * buffers are aligned. */
#define SWIZZLE_ROW_BYTES  128
#define SWIZZLE_ATOM_BYTES 1024
#define SWIZZLE_COLUMNS    64

/* Descriptor of a K-major operand, rows of 64 k. Add 2 for each step of 16 k inside the row. */
static __device__ __forceinline__ uint64_t
wgmma_k_major (uint32_t shared)
{
  const uint64_t swizzle_128 = 1, atom = SWIZZLE_ATOM_BYTES >> 4;
  return (swizzle_128 << 62) | (atom << 32) | ((uint64_t)1 << 16) | ((shared & 0x3ffff) >> 4);
}

/* Descriptor of b stored [k, N] with rows of 64 n; `panel_bytes` lie between one 64 columns and
 * the next. Add 128 for each step of 16 k. */
static __device__ __forceinline__ uint64_t
wgmma_mn_major (uint32_t shared, uint32_t panel_bytes)
{
  const uint64_t swizzle_128 = 1, atom = SWIZZLE_ATOM_BYTES >> 4;
  return (swizzle_128 << 62) | (atom << 32) | ((uint64_t)(panel_bytes >> 4) << 16)
         | ((shared & 0x3ffff) >> 4);
}

/* The instruction takes its N / 2 sums as a list; these spell the lists. */
#define WGMMA_TEXT_16    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define WGMMA_SUMS_16(d) WGMMA_SUM4 (d, 0), WGMMA_SUM4 (d, 4), WGMMA_SUM4 (d, 8), WGMMA_SUM4 (d, 12)
#define WGMMA_TEXT_32                                                                              \
  WGMMA_TEXT_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define WGMMA_SUMS_32(d)                                                                           \
  WGMMA_SUMS_16 (d), WGMMA_SUM4 (d, 16), WGMMA_SUM4 (d, 20), WGMMA_SUM4 (d, 24), WGMMA_SUM4 (d, 28)
#define WGMMA_TEXT_40     WGMMA_TEXT_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define WGMMA_SUMS_40(d)  WGMMA_SUMS_32 (d), WGMMA_SUM4 (d, 32), WGMMA_SUM4 (d, 36)
#define WGMMA_TEXT_48     WGMMA_TEXT_40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define WGMMA_SUMS_48(d)  WGMMA_SUMS_40 (d), WGMMA_SUM4 (d, 40), WGMMA_SUM4 (d, 44)
#define WGMMA_TEXT_52     WGMMA_TEXT_48 ", %48, %49, %50, %51"
#define WGMMA_SUMS_52(d)  WGMMA_SUMS_48 (d), WGMMA_SUM4 (d, 48)
#define WGMMA_TEXT_56     WGMMA_TEXT_48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define WGMMA_SUMS_56(d)  WGMMA_SUMS_48 (d), WGMMA_SUM4 (d, 48), WGMMA_SUM4 (d, 52)
#define WGMMA_TEXT_64     WGMMA_TEXT_56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA_SUMS_64(d)  WGMMA_SUMS_56 (d), WGMMA_SUM4 (d, 56), WGMMA_SUM4 (d, 60)
#define WGMMA_TEXT_72     WGMMA_TEXT_64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define WGMMA_SUMS_72(d)  WGMMA_SUMS_64 (d), WGMMA_SUM4 (d, 64), WGMMA_SUM4 (d, 68)
#define WGMMA_TEXT_80     WGMMA_TEXT_72 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define WGMMA_SUMS_80(d)  WGMMA_SUMS_72 (d), WGMMA_SUM4 (d, 72), WGMMA_SUM4 (d, 76)
#define WGMMA_TEXT_88     WGMMA_TEXT_80 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define WGMMA_SUMS_88(d)  WGMMA_SUMS_80 (d), WGMMA_SUM4 (d, 80), WGMMA_SUM4 (d, 84)
#define WGMMA_TEXT_96     WGMMA_TEXT_88 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define WGMMA_SUMS_96(d)  WGMMA_SUMS_88 (d), WGMMA_SUM4 (d, 88), WGMMA_SUM4 (d, 92)
#define WGMMA_TEXT_104    WGMMA_TEXT_96 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define WGMMA_SUMS_104(d) WGMMA_SUMS_96 (d), WGMMA_SUM4 (d, 96), WGMMA_SUM4 (d, 100)
#define WGMMA_TEXT_108    WGMMA_TEXT_104 ", %104, %105, %106, %107"
#define WGMMA_SUMS_108(d) WGMMA_SUMS_104 (d), WGMMA_SUM4 (d, 104)
#define WGMMA_TEXT_112    WGMMA_TEXT_108 ", %108, %109, %110, %111"
#define WGMMA_SUMS_112(d) WGMMA_SUMS_108 (d), WGMMA_SUM4 (d, 108)
#define WGMMA_TEXT_120    WGMMA_TEXT_112 ", %112, %113, %114, %115, %116, %117, %118, %119"
#define WGMMA_SUMS_120(d) WGMMA_SUMS_112 (d), WGMMA_SUM4 (d, 112), WGMMA_SUM4 (d, 116)
#define WGMMA_TEXT_128    WGMMA_TEXT_120 ", %120, %121, %122, %123, %124, %125, %126, %127"
#define WGMMA_SUMS_128(d) WGMMA_SUMS_120 (d), WGMMA_SUM4 (d, 120), WGMMA_SUM4 (d, 124)
#define WGMMA_SUM4(d, i)  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])

/* d = a b (+ d if `add`), both operands from shared memory, both K-major. */
template <int N>
static __device__ void wgmma_ss (float (&d)[N / 2], uint64_t a, uint64_t b, int add);
/* The same for E4M3: rows of 128 k, 32 k an instruction, again 2 further in the descriptors. */
template <int N>
static __device__ void wgmma_ss_e4m3 (float (&d)[N / 2], uint64_t a, uint64_t b, int add);
/* d += a b, a from registers (as mma.m16n8k16 for each warp's 16 rows), b from memory [k, N]. */
template <int N> static __device__ void wgmma_rs (float (&d)[N / 2], const uint32_t *a, uint64_t b);
/* d = a b (+ d if `add`), a from registers, b K-major; BF16 and FP16. */
template <int N>
static __device__ void wgmma_rs_k_major (float (&d)[N / 2], const uint32_t *a, uint64_t b, int add);
template <int N>
static __device__ void wgmma_rs_f16 (float (&d)[N / 2], const uint32_t *a, uint64_t b, int add);

/* A, B, P: the numbers of the operands behind the N / 2 sums. */
#define WGMMA_SS_OF(NAME, TYPES, ENDING, N, SUMS, A, B, P)                                         \
  template <>                                                                                      \
  __device__ __forceinline__ void NAME<N> (float (&d)[SUMS], uint64_t a, uint64_t b, int add)      \
  {                                                                                                \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %" #P ", 0;"                                       \
                 "wgmma.mma_async.sync.aligned.m64n" #N TYPES " {" WGMMA_TEXT_##SUMS               \
                 "}, %" #A ", %" #B ", p, 1, 1" ENDING ";}"                                        \
                 : WGMMA_SUMS_##SUMS (d)                                                           \
                 : "l"(a), "l"(b), "r"(add));                                                      \
  }
#define WGMMA_SS(N, SUMS, A, B, P)                                                                 \
  WGMMA_SS_OF (wgmma_ss, "k16.f32.bf16.bf16", ", 0, 0", N, SUMS, A, B, P)                          \
  WGMMA_SS_OF (wgmma_ss_e4m3, "k32.f32.e4m3.e4m3", "", N, SUMS, A, B, P)

#define WGMMA_RS(N, SUMS, A0, A1, A2, A3, B)                                                       \
  template <>                                                                                      \
  __device__ __forceinline__ void wgmma_rs<N> (float (&d)[SUMS], const uint32_t *a, uint64_t b)    \
  {                                                                                                \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" WGMMA_TEXT_##SUMS    \
                 "}, {%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B ", 1, 1, 1, 1;"               \
                 : WGMMA_SUMS_##SUMS (d)                                                           \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                            \
  }

#define WGMMA_RS_OF(NAME, TYPE, N, SUMS, A0, A1, A2, A3, B, P)                                     \
  template <>                                                                                      \
  __device__ __forceinline__ void NAME<N> (float (&d)[SUMS], const uint32_t *a, uint64_t b,        \
                                           int add)                                                \
  {                                                                                                \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %" #P ", 0;"                                       \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE                   \
                 " {" WGMMA_TEXT_##SUMS "}, {%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B        \
                                        ", p, 1, 1, 0;}"                                           \
                 : WGMMA_SUMS_##SUMS (d)                                                           \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));                  \
  }
#define WGMMA_RS_K_MAJOR(N, SUMS, A0, A1, A2, A3, B, P)                                            \
  WGMMA_RS_OF (wgmma_rs_k_major, "bf16", N, SUMS, A0, A1, A2, A3, B, P)                            \
  WGMMA_RS_OF (wgmma_rs_f16, "f16", N, SUMS, A0, A1, A2, A3, B, P)

WGMMA_SS (32, 16, 16, 17, 18)
WGMMA_SS (64, 32, 32, 33, 34)
WGMMA_SS (80, 40, 40, 41, 42)
WGMMA_SS (96, 48, 48, 49, 50)
WGMMA_SS (104, 52, 52, 53, 54)
WGMMA_SS (112, 56, 56, 57, 58)
WGMMA_SS (128, 64, 64, 65, 66)
WGMMA_SS (144, 72, 72, 73, 74)
WGMMA_SS (160, 80, 80, 81, 82)
WGMMA_SS (176, 88, 88, 89, 90)
WGMMA_SS (192, 96, 96, 97, 98)
WGMMA_SS (208, 104, 104, 105, 106)
WGMMA_SS (216, 108, 108, 109, 110)
WGMMA_SS (224, 112, 112, 113, 114)
WGMMA_SS (240, 120, 120, 121, 122)
WGMMA_SS (256, 128, 128, 129, 130)
WGMMA_RS (64, 32, 32, 33, 34, 35, 36)
WGMMA_RS (128, 64, 64, 65, 66, 67, 68)
WGMMA_RS_K_MAJOR (64, 32, 32, 33, 34, 35, 36, 37)
WGMMA_RS_K_MAJOR (128, 64, 64, 65, 66, 67, 68, 69)
WGMMA_RS_K_MAJOR (192, 96, 96, 97, 98, 99, 100, 101)
WGMMA_RS_K_MAJOR (256, 128, 128, 129, 130, 131, 132, 133)

#undef WGMMA_SS
#undef WGMMA_SS_OF
#undef WGMMA_RS
#undef WGMMA_RS_K_MAJOR
#undef WGMMA_RS_OF
