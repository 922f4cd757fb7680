/* SPDX-License-Identifier: Apache-2.0
 *
 * The INT4 product of sm_80, sm_86 and sm_89: warp-level mma of 4-bit integers, each group of 64 k
 * folded into FP32. Newer cards have no such instruction and emulate it, exactly but slowly.
 */
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/svdq_heads.cuh"
#include "kernels/cuda/svdq_int4.cuh"

struct MmaS4
{
  static constexpr bool RUNS = true;

  static __device__ __forceinline__ void
  run (uint32_t d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, const uint32_t c[4])
  {
    mma_s4 (d, a, b0, b1, c);
  }
};

struct Int4 : Int4By<MmaS4>
{
};

/* Four warps of 64 x 64: with shares of 32 x 64 schedulers would have a fifth more to do, which
 * have about as much to do as the tensor cores. */
typedef SvdqTile<128, 128, 2, 2, 5, 2, 2> LargeTile;
typedef SvdqTile<64, 64, 2, 2, 5, 4, 2> SmallTile;
typedef SvdqTile<64, 128, 2, 2, 4, 3, 2> SmallHeadsTile;

Status
svdq_gemm_int4 (Stream *s, const SvdqGemm *g)
{
  if (device_activation (&s->caps) == DTYPE_F16)
    return svdq_gemm_int4_sm75 (s, g);
  if (g->heads != NULL)
    return svdq_launch_heads<LargeTile, SmallHeadsTile, Int4> (s, g, SVDQ_INT4);
  return svdq_launch<LargeTile, SmallTile, Int4> (s, g, SVDQ_INT4);
}
