/* SPDX-License-Identifier: Apache-2.0
 *
 * mma_fp4.cuh - kernels/cuda/mma_fp4.cuh with an instruction that works on the processor
 */
#pragma once

#include <cuda_runtime.h>

#define Fp4Instruction Fp4InstructionOfCards
#include_next "kernels/cuda/mma_fp4.cuh"
#undef Fp4Instruction

namespace emulation
{
struct Fp4Operands
{
  float *c;
  const uint32_t *a;
  uint32_t b[2];
  uint32_t scale_a, scale_b;
  int tile_a, tile_b;
};

void multiply_fp4 (void *const operands[WARP], uint32_t mask);
}

struct Fp4Instruction
{
  static constexpr bool RUNS = true;

  template <int TILE_A, int TILE_B>
  static void
  run (float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1, uint32_t scale_a,
       uint32_t scale_b)
  {
    emulation::Fp4Operands o = { c, a, { b0, b1 }, scale_a, scale_b, TILE_A, TILE_B };
    emulation::meet (emulation::multiply_fp4, &o, emulation::ALL_LANES, "mma of E2M1");
  }
};
