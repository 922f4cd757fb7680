/* SPDX-License-Identifier: Apache-2.0
 *
 * metrics.h - how much two pictures differ
 *
 * Five numbers and a map, all symmetric in their two pictures, each as a public program has it:
 *   PSNR     scikit-image peak_signal_noise_ratio, over all channels
 *   SSIM     Wang et al. 2004, Gaussian window of 11 and 1.5, mean of R, G and B; scikit-image
 *            structural_similarity with gaussian_weights and without use_sample_covariance
 *   MS-SSIM  Wang et al. 2003, five scales; pytorch-msssim (which pads odd sides with zeros)
 *   FLIP     LDR, Andersson et al. 2020 as in its reference code 1.7 (separated filters)
 *   LPIPS    AlexNet, v0.1, Zhang et al. 2018, from weights the user has
 * All functions: any thread.
 */
#pragma once

#include "engine/picture/image.h"

#include <gio/gio.h>

G_BEGIN_DECLS

/* Sides below which a metric has no meaning and is NAN. */
#define METRICS_SSIM_MIN_SIDE    11
#define METRICS_MS_SSIM_MIN_SIDE 161
#define METRICS_LPIPS_MIN_SIDE   31

/* Pixels per degree of FLIP's standard: 0.7 m before a 0.7 m wide screen of 3840 pixels. */
#define METRICS_FLIP_PIXELS_PER_DEGREE 67.0206433

typedef struct
{
  double psnr;            /* dB; INFINITY when equal */
  double ssim;            /* 1 when equal, down to -1; NAN for small pictures */
  double ms_ssim;         /* 1 when equal, down to 0; NAN for small pictures */
  double flip;            /* mean error, 0 when equal, up to 1 */
  double lpips;           /* 0 when equal; NAN when not asked for, or for small pictures */
  double mean_difference; /* of the channels' values, 0 to 255 */
  int max_difference;     /* of any channel, 0 to 255 */
  guint64 pixels_changed;
} Metrics;

/* LPIPS' network, AlexNet, and its five linear layers. */
typedef struct _MetricsLpips MetricsLpips;

/* Opens weights in safetensors: the network as `net.slice1.0.weight` ... or `features.0.weight`
 * ..., the linear layers as `lin0.model.1.weight` ... . The program brings none; the authors'
 * Python package makes the file:
 *   import lpips, safetensors.torch as s
 *   s.save_model (lpips.LPIPS (net="alex"), "lpips-alex.safetensors")
 * Errors: as safetensors_open, and ENGINE_ERROR_MODEL naming the tensor that is missing, of another
 * shape or not finite. */
MetricsLpips *metrics_lpips_open (const char *path, GError **error);
void metrics_lpips_free (MetricsLpips *self); /* NULL is a no-op */
/* TRUE if the linear layers are the published ones, v0.1: only then is the number LPIPS. */
gboolean metrics_lpips_is_published (MetricsLpips *self);

/* NULL where it is taken means all zero. */
typedef struct
{
  double pixels_per_degree; /* for FLIP; 0 = the standard */
  MetricsLpips *lpips;      /* borrowed; NULL = LPIPS is not computed. It takes seconds. */
} MetricsOptions;

/* Compares two pictures of one size. 1024x1024 takes a few tenths of a second on two cores,
 * without LPIPS. Errors:
 * ENGINE_ERROR_REQUEST for pictures of different sizes, G_IO_ERROR_CANCELLED. */
gboolean metrics_compare (Image *a, Image *b, const MetricsOptions *options,
                          GCancellable *cancellable, Metrics *out, GError **error);

/* -- where they differ ---------------------------------------------------------------------------
 */

/* The map's scale is fixed, so that two maps can be compared: this difference and more is its
 * brightest colour. */
#define METRICS_DIFFERENCE_FULL 64

/* A picture of the largest channel difference of each pixel, in the colours below (transfer full).
 * NULL if the sizes differ. */
Image *metrics_difference (Image *a, Image *b);
/* The same as plain numbers, one byte a pixel, rows without padding (transfer full). */
GBytes *metrics_difference_raw (Image *a, Image *b);
/* The map's colour for a difference of 0 to 255: dark violet to pale yellow, in steps that look
 * equal (straight lines in OKLab, Ottosson 2020). For legends. */
void metrics_difference_colour (int difference, guint8 rgb[3]);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (MetricsLpips, metrics_lpips_free)

G_END_DECLS
