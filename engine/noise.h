/* SPDX-License-Identifier: Apache-2.0
 *
 * noise.h - seeded noise, the same on every device
 *
 * The two generators people's seeds come from, computed on the host, so that a seed means the same
 * picture whatever the card (spec z-image 4.2, 4.3; PyTorch ATen: DistributionTemplates.h of cpu
 * and cuda, avx_mathfun.h; cuRAND: curand_normal.h).
 */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* Threads of torch's CUDA generator on an H100 or H200 (132 SMs x 2048). Up to 1024x1024 a picture
 * needs fewer normals than that, and then every larger card gives the same ones. */
#define NOISE_CUDA_THREADS 270336

/* out[n] = torch.randn (n, generator = torch.Generator ("cpu").manual_seed (seed)), F32. Within
 * 1e-6 of torch on x86 with AVX2; the high 32 bits of the seed are ignored, as torch does. */
void noise_torch_cpu (guint64 seed, float *out, gsize n);

/* out[n] = the same with torch.Generator ("cuda") on a card of `threads` resident threads
 * (multiprocessors x threads per multiprocessor). Within 1e-5: the card uses fast sine. */
void noise_torch_cuda (guint64 seed, guint threads, float *out, gsize n);

G_END_DECLS
