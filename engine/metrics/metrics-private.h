/* SPDX-License-Identifier: Apache-2.0
 *
 * metrics-private.h - the parts of metrics.c, one metric a file
 *
 * Work is done in bands of rows: a band's planes stay in the cache, bands run side by side on all
 * cores, and between two of them there is time to look at the cancellable. Each band leaves its own
 * sum, and the sums are added in order: the result does not depend on the number of cores.
 */
#pragma once

#include "engine/metrics/metrics.h"

G_BEGIN_DECLS

#define METRICS_BAND_ROWS 64

/* A convolution along one axis: `taps` of them, middle at taps / 2. */
typedef struct
{
  int taps;
  float *weights; /* (owned) */
} MetricsFilter;

/* out[x] = sum over t of weights[t] in[x + t], 0 <= x < n; `in` has n + taps - 1 values. */
void metrics_filter_row (const MetricsFilter *filter, const float *in, int n, float *out);
/* The same down the columns: out[x] = sum over t of weights[t] in[t * stride + x]. */
void metrics_filter_column (const MetricsFilter *filter, const float *in, gsize stride, int n,
                            float *out);

/* Both leave their results undefined when the cancellable fires; the caller looks. */
void metrics_ssim (Image *a, Image *b, GCancellable *cancellable, double *ssim, double *ms_ssim);
double metrics_flip (Image *a, Image *b, double pixels_per_degree, GCancellable *cancellable);
/* FALSE with G_IO_ERROR_CANCELLED or ENGINE_ERROR_MEMORY. */
gboolean metrics_lpips (MetricsLpips *self, Image *a, Image *b, GCancellable *cancellable,
                        double *out, GError **error);

G_END_DECLS
