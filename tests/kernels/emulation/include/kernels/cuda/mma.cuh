/* SPDX-License-Identifier: Apache-2.0
 *
 * mma.cuh - the functions of kernels/cuda/mma.cuh on the processor
 */
#pragma once

#include "kernels/cuda/activation.cuh"

#include <cuda_runtime.h>

/* Which way copies go is asked of the device as they run: see AsyncCopy. */
#define HAS_ASYNC_COPY 0

static inline uint32_t
shared_address (const void *p)
{
  return emulation::shared_offset (p);
}

static inline uint32_t
shared_word (uint32_t address)
{
  return *reinterpret_cast<const uint32_t *> (emulation::shared_at (address, 4));
}

static inline float
shared_bf16 (uint32_t address)
{
  const uint32_t bits = *reinterpret_cast<const uint16_t *> (emulation::shared_at (address, 2));
  return __uint_as_float (bits << 16);
}

/* -- asynchronous copies ---------------------------------------------------------------------- */

static inline uint4
load_global_16 (const void *global, bool valid)
{
  return valid ? *reinterpret_cast<const uint4 *> (global) : make_uint4 (0, 0, 0, 0);
}

static inline void
store_shared_16 (uint32_t shared, uint4 v)
{
  *reinterpret_cast<uint4 *> (emulation::shared_at (shared, 16)) = v;
}

static inline void
cp_async_16 (uint32_t shared, const void *global, bool valid)
{
  if (emulation::is_sm80 ())
    emulation::copy_later (shared, global, 16, valid ? 16 : 0);
  else
    store_shared_16 (shared, load_global_16 (global, valid));
}

template <int N> struct AsyncCopy
{
  uint4 held[N];

  void
  start (int i, uint32_t shared, const void *global, bool valid)
  {
    if (emulation::is_sm80 ())
      cp_async_16 (shared, global, valid);
    else
      held[i] = load_global_16 (global, valid);
  }

  void
  finish (int i, uint32_t shared)
  {
    if (!emulation::is_sm80 ())
      store_shared_16 (shared, held[i]);
  }
};

static inline void
cp_async_commit ()
{
  emulation::copy_commit ();
}

template <int PENDING>
static inline void
cp_async_wait ()
{
  emulation::copy_wait (PENDING);
}

/* -- matrices (instructions.cpp) ----------------------------------------------------------------
 */

namespace emulation
{
struct LoadOperands
{
  uint32_t *r;
  uint32_t address;
};

void load_matrices (void *const operands[WARP], uint32_t mask);
void load_matrices_across (void *const operands[WARP], uint32_t mask);

/* d = a b + c, for the sums' 32 bits. */
struct MmaOperands
{
  void *d;
  const uint32_t *a;
  uint32_t b[2];
  const void *c;
};

void multiply_bf16 (void *const operands[WARP], uint32_t mask);
void multiply_f16 (void *const operands[WARP], uint32_t mask);
void multiply_s8 (void *const operands[WARP], uint32_t mask);
void multiply_s4 (void *const operands[WARP], uint32_t mask);
void multiply_s4_small (void *const operands[WARP], uint32_t mask);
}

static inline void
ldmatrix_x4 (uint32_t r[4], uint32_t shared)
{
  emulation::LoadOperands o = { r, shared };
  emulation::meet (emulation::load_matrices, &o, emulation::ALL_LANES, "ldmatrix");
}

static inline void
ldmatrix_x4_trans (uint32_t r[4], uint32_t shared)
{
  emulation::LoadOperands o = { r, shared };
  emulation::meet (emulation::load_matrices_across, &o, emulation::ALL_LANES, "ldmatrix.trans");
}

static inline void
mma_bf16 (float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
  emulation::MmaOperands o = { c, a, { b0, b1 }, c };
  emulation::meet (emulation::multiply_bf16, &o, emulation::ALL_LANES, "mma of BF16");
}

static inline void
mma_f16_half (float c[4], uint32_t a0, uint32_t a1, uint32_t b)
{
  const uint32_t a[4] = { a0, a1, 0, 0 };
  emulation::MmaOperands o = { c, a, { b, 0 }, c };
  emulation::meet (emulation::multiply_f16, &o, emulation::ALL_LANES, "mma of FP16, k 8");
}

static inline void
mma_f16 (float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
  if (!emulation::is_sm80 ())
    {
      mma_f16_half (c, a[0], a[1], b0);
      mma_f16_half (c, a[2], a[3], b1);
      return;
    }
  emulation::MmaOperands o = { c, a, { b0, b1 }, c };
  emulation::meet (emulation::multiply_f16, &o, emulation::ALL_LANES, "mma of FP16");
}

template <typename T>
static inline void
mma (float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
  if constexpr (Activation<T>::DTYPE == DTYPE_F16)
    mma_f16 (c, a, b0, b1);
  else
    mma_bf16 (c, a, b0, b1);
}

static inline void
mma_s8 (int c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
  emulation::MmaOperands o = { c, a, { b0, b1 }, c };
  emulation::meet (emulation::multiply_s8, &o, emulation::ALL_LANES, "mma of bytes");
}

static inline void
mma_s4 (uint32_t d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, const uint32_t c[4])
{
  emulation::MmaOperands o = { d, a, { b0, b1 }, c };
  emulation::meet (emulation::multiply_s4, &o, emulation::ALL_LANES, "mma of nibbles");
}

static inline void
mma_s4_8x8x32 (uint32_t c[2], uint32_t a, uint32_t b)
{
  emulation::MmaOperands o = { c, &a, { b, 0 }, c };
  emulation::meet (emulation::multiply_s4_small, &o, emulation::ALL_LANES, "small mma of nibbles");
}

static inline void
prefetch_line (const void *)
{
}

/* -- barriers --------------------------------------------------------------------------------- */

static inline void
named_barrier (int id, int threads)
{
  emulation::barrier_sync (id, threads);
}

static inline void
named_barrier_arrive (int id, int threads)
{
  emulation::barrier_arrive (id, threads);
}

/* -- arithmetic ------------------------------------------------------------------------------- */

uint32_t multiply_f16x2 (uint32_t a, uint32_t b);

/* Up to an ulp off, upwards or downwards by the last bit of v: what relies on more shows. */
static inline float
reciprocal_estimate (float v)
{
  const float magnitude = fabsf (v) < 0x1p-126f ? 0.0f : v, r = 1.0f / magnitude;
  if (!isfinite (r) || r == 0.0f)
    return r;
  return fabsf (r) < 0x1p-126f
             ? copysignf (0.0f, r)
             : __uint_as_float (__float_as_uint (r) + (__float_as_uint (v) >> 16 & 1 ? 1 : -1));
}

static inline float
exp2_fast (float x)
{
  const float y = exp2f (x);
  return y < 0x1p-126f ? 0.0f : y;
}

template <uint32_t BITS>
static inline uint32_t
opaque_word ()
{
  return BITS;
}
