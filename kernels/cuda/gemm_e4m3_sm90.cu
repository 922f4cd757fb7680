/* SPDX-License-Identifier: Apache-2.0
 *
 * Matrix products of E4M3 with a low-rank branch on sm_90: the tile shapes there are.
 */
#include "kernels/cuda/gemm_sm90.cuh"

static const GemmVariant variants[] = {
  GEMM_BOTH ("64x64", 1, 64, true, 0.70),    GEMM_BOTH ("64x160", 1, 160, true, 0.70),
  GEMM_BOTH ("128x160", 2, 160, true, 0.70), GEMM_BOTH ("128x240", 2, 240, true, 0.74),
  GEMM_BOTH ("192x160", 3, 160, true, 0.82), GEMM_BOTH ("192x192", 3, 192, true, 0.80),
};
#define N_VARIANTS ((int)(sizeof variants / sizeof variants[0]))

const char *
gemm_e4m3_sm90_variant_name (int variant)
{
  return variant < N_VARIANTS ? variants[variant].name : NULL;
}

Status
gemm_e4m3_sm90 (Stream *s, const ScaledGemm *scaled, int variant)
{
  const Gemm *g = &scaled->product;
  CHECK (check_scaled (s, scaled));
  const GemmVariant *v
      = &variants[variant < 0 ? gemm_pick (s, g, g->k, variants, N_VARIANTS) : variant];
  return g->swiglu ? v->swiglu (s, scaled) : v->plain (s, scaled);
}
