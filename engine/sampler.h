/* SPDX-License-Identifier: Apache-2.0
 *
 * sampler.h - the schedule and the Euler steps (spec z-image 4.4, 4.5, 1.6)
 *
 * Flow matching: sigma falls from 1 (noise) to 0 (picture); x_sigma = sigma noise + (1 - sigma) x0.
 * All of it is FP32 on the host, whatever the device computes in.
 */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* sigmas[steps + 1], the last one 0; u = linspace (1, 1/steps, steps) shifted by
 * shift u / (1 + (shift - 1) u). Bit-equal to diffusers' FlowMatchEulerDiscreteScheduler. */
void sampler_sigmas (int steps, double shift, float *sigmas);

/* x[n] += (to - from) * (-v): one Euler step; `v` as the transformer gives it, about x0 - noise. */
void sampler_step (float *x, const float *v, gsize n, float from, float to);

/* v[n] = positive + guidance (positive - negative), its norm kept below normalization * |positive|
 * when normalization > 0. `v` may be `positive`. (pipeline_z_image.py) */
void sampler_guide (float *v, const float *positive, const float *negative, gsize n,
                    double guidance, double normalization);

G_END_DECLS
