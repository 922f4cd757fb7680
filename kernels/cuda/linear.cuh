/* SPDX-License-Identifier: Apache-2.0
 *
 * linear.cuh - what the linear layers of this folder share
 */
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/launchers.h"

/* What any backend's layer says of itself, from its source; but for its memory. */
static inline void
linear_describe (Linear *linear, const LinearSource *source, const LinearBackend *backend)
{
  linear->backend = backend;
  linear->n = source->n;
  linear->k = source->k;
  linear->swiglu = source->swiglu;
  linear->turn = source->swiglu ? INTERLEAVE_ROWS : 0;
  linear->after_swiglu = source->after_swiglu;
}

/* Whether out [m, n], or half as wide with swiglu, is what LinearBackend.apply writes. */
static inline bool
linear_fits (const Linear *linear, int64_t m, const Tensor *out)
{
  const int64_t numbers = tensor_count (out);
  return numbers == m * linear->n || (linear->swiglu && numbers == m * linear->n / 2);
}

/* x through `linear`, whose weights [n, k] lie at w and its bias (or NULL) at `bias`, as a product.
 * STATUS_UNSUPPORTED for types and sizes that do not fit. */
static inline Status
linear_as_gemm (Stream *s, const Linear *linear, const Tensor *x, const Tensor *out, const void *w,
                const float *bias, Gemm *g)
{
  const int64_t m = tensor_count (x) / linear->k;
  REQUIRE (s, x->dtype == device_activation (&s->caps));
  REQUIRE (s, out->dtype == x->dtype || out->dtype == device_residual (&s->caps));
  REQUIRE (s, m >= 1 && m * linear->k == tensor_count (x));
  REQUIRE (s, linear_fits (linear, m, out));
  const Gemm product = { x->data,
                         w,
                         bias,
                         out->data,
                         m,
                         linear->n,
                         linear->k,
                         tensor_count (out) != m * linear->n,
                         out->dtype != x->dtype,
                         x->dtype == DTYPE_F16 && linear->after_swiglu,
                         NULL,
                         NULL,
                         0 };
  *g = product;
  return STATUS_OK;
}
