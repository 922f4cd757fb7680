/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of 4-bit codes where activations are FP16: INT4 by the 4-bit instruction of sm_75, NVFP4
 * by FP16 products of codes times scales.
 */
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/svdq_sm75.cuh"

struct Int4Sm75 : Int4By<MmaS4By8>
{
};

struct Fp4Sm75 : Fp4Expanded
{
  static constexpr bool RUNS = Activation<f16>::RUNS_HERE;
};

Status
svdq_gemm_int4_sm75 (Stream *s, const SvdqGemm *g)
{
  if (g->heads != NULL)
    return sm75_launch_heads<Sm75LargeTile, Sm75SmallHeadsTile, Int4Sm75> (s, g, SVDQ_INT4);
  return sm75_launch<Sm75LargeTile, Sm75SmallTile, Int4Sm75> (s, g, SVDQ_INT4);
}

Status
svdq_gemm_fp4_sm75 (Stream *s, const SvdqGemm *g)
{
  if (g->heads != NULL)
    return sm75_launch_heads<Sm75Fp4LargeTile, Sm75Fp4SmallHeadsTile, Fp4Sm75> (s, g, SVDQ_NVFP4);
  return sm75_launch<Sm75Fp4LargeTile, Sm75Fp4SmallTile, Fp4Sm75> (s, g, SVDQ_NVFP4);
}
