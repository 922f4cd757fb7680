/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of NVFP4 codes: by the block-scaled instruction of sm_120, and in FP16 anywhere else.
 */
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/svdq_fp4.cuh"
#include "kernels/cuda/svdq_heads.cuh"

Status
svdq_gemm_fp4 (Stream *s, const SvdqGemm *g)
{
  typedef Fp4BlockScaled<Fp4Instruction> Math;
  if (g->heads != NULL)
    return svdq_launch_heads<Fp4LargeTile, Fp4SmallHeadsTile, Math> (s, g, SVDQ_NVFP4);
  return svdq_launch<Fp4LargeTile, Fp4SmallTile, Math> (s, g, SVDQ_NVFP4);
}

Status
svdq_gemm_fp4_expanded (Stream *s, const SvdqGemm *g)
{
  if (device_activation (&s->caps) == DTYPE_F16)
    return svdq_gemm_fp4_sm75 (s, g);
  if (g->heads != NULL)
    return svdq_launch_heads<Fp4LargeTile, Fp4SmallHeadsTile, Fp4Expanded> (s, g, SVDQ_NVFP4);
  return svdq_launch<Fp4LargeTile, Fp4SmallTile, Fp4Expanded> (s, g, SVDQ_NVFP4);
}
