/* SPDX-License-Identifier: Apache-2.0
 *
 * svdq-files.h - small SVDQuant files of every format, for tests
 */
#pragma once

#include "engine/svdquant/read.h"

G_BEGIN_DECLS

/* Path of the shared fixture with precision "int4" or "fp4", (transfer full); NULL, and the test
 * skipped, where it is absent. */
char *svdq_fixture (const char *precision);

/* A linear of random numbers in logical order; its low-rank factor has orthonormal columns once
 * multiplied by the smoothing factors, as published files have. */
typedef struct
{
  SvdqFormat format;
  int64_t n, k;
  int rank;
  uint8_t *qweight;
  void *wscales;
  uint16_t *smooth, *down, *up, *wcscales;
  float wtscale;
  DType wtscale_type;            /* as which it is written: BF16, F16 or F32 */
  const char *leave_out, *extra; /* suffix of a tensor to drop or to add */
} SvdqSample;

typedef void (*SvdqDamage) (SvdqSample *sample);

SvdqSample *svdq_sample_new (SvdqFormat format, int64_t n, int64_t k, int rank);
void svdq_sample_free (SvdqSample *self);

/* Writes the sample, after `damage` if given, as a file of `kind`; returns its path. The linear is
 * svdq_sample_base: the fused one of the feed-forward where there is one. */
char *svdq_sample_write (SvdqSample *self, SvdqKind kind, SvdqDamage damage);
const char *svdq_sample_base (SvdqKind kind);

/* A new temporary name, and its end. */
char *svdq_sample_path (void);
void svdq_sample_remove (const char *path);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (SvdqSample, svdq_sample_free)

G_END_DECLS
