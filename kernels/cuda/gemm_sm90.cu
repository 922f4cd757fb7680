/* SPDX-License-Identifier: Apache-2.0
 *
 * Matrix products of BF16 on sm_90: the tile shapes there are, and which one a product takes.
 */
#include "kernels/cuda/gemm_sm90.cuh"

static const GemmVariant variants[] = {
  GEMM_PLAIN ("64x32", 1, 32, false, 0.80),   GEMM_BOTH ("64x64", 1, 64, false, 0.80),
  GEMM_BOTH ("64x96", 1, 96, false, 0.80),    GEMM_BOTH ("64x160", 1, 160, false, 0.80),
  GEMM_BOTH ("64x192", 1, 192, false, 0.80),  GEMM_BOTH ("128x80", 2, 80, false, 0.80),
  GEMM_BOTH ("128x96", 2, 96, false, 0.80),   GEMM_BOTH ("128x128", 2, 128, false, 0.80),
  GEMM_BOTH ("128x160", 2, 160, false, 0.80), GEMM_BOTH ("128x192", 2, 192, false, 0.79),
  GEMM_BOTH ("128x224", 2, 224, false, 0.80), GEMM_BOTH ("128x240", 2, 240, false, 0.81),
  GEMM_BOTH ("128x256", 2, 256, false, 0.80), GEMM_BOTH ("192x160", 3, 160, false, 0.81),
  GEMM_BOTH ("192x192", 3, 192, false, 0.82), GEMM_PLAIN ("192x216", 3, 216, false, 0.80),
};
#define N_VARIANTS ((int)(sizeof variants / sizeof variants[0]))

const char *
gemm_sm90_variant_name (int variant)
{
  return variant < N_VARIANTS ? variants[variant].name : NULL;
}

bool
gemm_sm90_variant_has_swiglu (int variant)
{
  return variants[variant].swiglu != NULL;
}

Status
gemm_sm90 (Stream *s, const Gemm *g, int variant)
{
  REQUIRE (s, s->caps.sm == WGMMA_SM);
  REQUIRE (s, g->m >= 1 && g->m <= INT32_MAX && g->n <= INT32_MAX && g->k <= INT32_MAX);
  REQUIRE (s, g->n >= 8 && g->k >= 8 && g->n % (g->swiglu ? 16 : 8) == 0 && g->k % 8 == 0);
  REQUIRE (s, g->rank >= 0 && g->rank <= INT32_MAX / 2 && g->rank % 64 == 0);
  const GemmVariant *v
      = &variants[variant < 0 ? gemm_pick (s, g, g->k * 2, variants, N_VARIANTS) : variant];
  REQUIRE (s, !g->swiglu || v->swiglu != NULL);
  ScaledGemm plain = {};
  plain.product = *g;
  plain.low_x = g->low;
  plain.low_w = g->up;
  plain.rank = (int)g->rank;
  return g->swiglu ? v->swiglu (s, &plain) : v->plain (s, &plain);
}
