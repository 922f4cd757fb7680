/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/reference/svdq.h"
#include "kernels/svdq-math.h"

#include <stdlib.h>

/* 2304 (a group's greatest sum) 2^36 (scales) 2^15 (groups) < 2^63. */
#define MAX_K ((int64_t)SVDQ_NVFP4_GROUP << 15)

/* -- weights ---------------------------------------------------------------------------------- */

static int64_t
group_size (const SvdqSource *source)
{
  return source->format == SVDQ_INT4 ? SVDQ_INT4_GROUP : SVDQ_NVFP4_GROUP;
}

/* INT4: the value; NVFP4: twice the value. */
static int
weight_code (const SvdqSource *source, int64_t k, int64_t row, int64_t column)
{
  uint8_t byte = source->qweight[(row * k + column) / 2];
  uint8_t code = column & 1 ? byte >> 4 : byte & 15;

  return source->format == SVDQ_INT4 ? svdq_int4 (code) : svdq_e2m1_doubled (code);
}

static float
weight_scale (const SvdqSource *source, int64_t n, int64_t row, int64_t group)
{
  int64_t at = group * n + row;

  return source->format == SVDQ_INT4 ? bf16_to_float (((const uint16_t *)source->wscales)[at])
                                     : e4m3_to_float (((const uint8_t *)source->wscales)[at]);
}

static float
outer_scale (const SvdqSource *source, int64_t row)
{
  return source->outer != NULL ? source->outer[row] : 1.0f;
}

double
svdq_residual (const SvdqSource *source, int64_t n, int64_t k, int64_t row, int64_t column)
{
  double unit = source->format == SVDQ_INT4 ? 1.0 : 0.5;

  return unit * weight_code (source, k, row, column)
         * weight_scale (source, n, row, column / group_size (source)) * outer_scale (source, row);
}

double
svdq_weight (const SvdqSource *source, int64_t n, int64_t k, int64_t row, int64_t column)
{
  double low_rank = 0.0;

  for (int r = 0; r < source->rank; r++)
    low_rank += (double)bf16_to_float (source->proj_up[row * source->rank + r])
                * bf16_to_float (source->proj_down[column * source->rank + r]);
  return svdq_residual (source, n, k, row, column) / bf16_to_float (source->smooth[column])
         + low_rank;
}

/* -- one row of activations ------------------------------------------------------------------- */

typedef struct
{
  int8_t *codes;  /* [k] INT4 values, or doubled E2M1 values */
  float *scales;  /* [k / group] */
  float *smooth;  /* [k] x / s in BF16 */
  float *lowered; /* [rank] the low-rank product, in BF16 */
} Row;

/* Upstream multiplies by the reciprocal of the scale before it is rounded (1.2, 1.3). */
static float
quantise_upstream (SvdqFormat format, const float *xh, int8_t *codes)
{
  int64_t group = format == SVDQ_INT4 ? SVDQ_INT4_GROUP : SVDQ_NVFP4_GROUP;
  float amax = svdq_greatest (xh, (int)group);
  float scale
      = format == SVDQ_INT4 ? amax * (1.0f / 7.0f) : fminf (amax * (1.0f / 6.0f), SVDQ_E4M3_MAX);
  float reciprocal = 1.0f / scale; /* of zero: infinity, and the codes come from NaN */

  for (int64_t i = 0; i < group; i++)
    codes[i] = format == SVDQ_INT4
                   ? (int8_t)svdq_int4_from_float (xh[i] * reciprocal)
                   : (int8_t)svdq_e2m1_doubled (svdq_e2m1_from_float (xh[i] * reciprocal));
  return format == SVDQ_INT4 ? svdq_round_bf16 (scale)
                             : e4m3_to_float (svdq_e4m3_from_float (scale));
}

static void
quantise_row (SvdqLevel level, const SvdqSource *source, int64_t k, const float *x, Row *row)
{
  int64_t group = group_size (source);

  for (int64_t i = 0; i < k; i++)
    row->smooth[i] = svdq_smoothed (x[i], bf16_to_float (source->smooth[i]));
  for (int64_t g = 0; g < k / group; g++)
    {
      const float *xh = row->smooth + g * group;
      int8_t *codes = row->codes + g * group;

      if (level == SVDQ_LEVEL_UPSTREAM)
        row->scales[g] = quantise_upstream (source->format, xh, codes);
      else if (source->format == SVDQ_INT4)
        row->scales[g] = svdq_quantise_int4 (xh, codes);
      else
        row->scales[g] = svdq_quantise_nvfp4 (xh, codes);
    }
}

static void
lower_row (const SvdqSource *source, int64_t k, const float *x, Row *row)
{
  for (int r = 0; r < source->rank; r++)
    {
      double sum = 0.0;

      for (int64_t i = 0; i < k; i++)
        sum += (double)svdq_round_bf16 (x[i])
               * bf16_to_float (source->proj_down[i * source->rank + r]);
      row->lowered[r] = svdq_round_bf16 ((float)sum);
    }
}

/* -- one output ------------------------------------------------------------------------------- */

/* BF16 nearest to a double, without rounding twice on the way through float. */
static float
bf16_from_double (double value)
{
  float odd = (float)value;

  if (fabs ((double)odd) > fabs (value))
    odd = nextafterf (odd, 0.0f);
  return svdq_round_bf16 ((double)odd == value ? odd : svdq_float (svdq_bits (odd) | 1u));
}

static int
group_product (const SvdqSource *source, int64_t k, const Row *row, int64_t n, int64_t g)
{
  int64_t group = group_size (source);
  int sum = 0;

  for (int64_t i = g * group; i < (g + 1) * group; i++)
    sum += row->codes[i] * weight_code (source, k, n, i);
  return sum;
}

/* INT4: each group's exact integer enters FP32 by one FMA; groups ascend. Upstream keeps product,
 * scale and sum in BF16. */
static float
sum_int4 (SvdqLevel level, const SvdqSource *source, int64_t n, int64_t k, const Row *row,
          int64_t out)
{
  float sum = 0.0f;

  for (int64_t g = 0; g < k / SVDQ_INT4_GROUP; g++)
    {
      float product = (float)group_product (source, k, row, out, g);
      float scale = row->scales[g] * weight_scale (source, n, out, g);

      if (level == SVDQ_LEVEL_UPSTREAM)
        sum = bf16_from_double ((double)svdq_round_bf16 (product) * svdq_round_bf16 (scale) + sum);
      else
        sum = fmaf (product, scale, sum);
    }
  return sum;
}

/* NVFP4: the sum of all products, exactly. Codes are halves and scales multiples of 2^-9, so
 * everything is an integer of 2^-20, and MAX_K of them stay within 64 bits. */
static float
sum_nvfp4 (const SvdqSource *source, int64_t n, int64_t k, const Row *row, int64_t out)
{
  int64_t sum = 0;

  for (int64_t g = 0; g < k / SVDQ_NVFP4_GROUP; g++)
    if (isnan (row->scales[g])) /* of activations: there was a NaN */
      return NAN;
  for (int64_t g = 0; g < k / SVDQ_NVFP4_GROUP; g++)
    sum += (int64_t)group_product (source, k, row, out, g) * (int64_t)(row->scales[g] * 0x1p9f)
           * (int64_t)(weight_scale (source, n, out, g) * 0x1p9f);
  return (float)sum * 0x1p-20f;
}

static float
output (SvdqLevel level, const SvdqSource *source, int64_t n, int64_t k, const float *bias,
        const Row *row, int64_t out)
{
  bool upstream = level == SVDQ_LEVEL_UPSTREAM;
  float sum = source->format == SVDQ_INT4 ? sum_int4 (level, source, n, k, row, out)
                                          : sum_nvfp4 (source, n, k, row, out);
  double raised = 0.0;

  for (int r = 0; r < source->rank; r++)
    raised += (double)row->lowered[r] * bf16_to_float (source->proj_up[out * source->rank + r]);

  sum *= outer_scale (source, out);
  if (upstream)
    {
      sum = svdq_round_bf16 (svdq_round_bf16 (sum) + (bias != NULL ? bias[out] : 0.0f));
      return svdq_round_bf16 (sum + (float)raised);
    }
  sum += (float)raised;
  return bias != NULL ? sum + bias[out] : sum;
}

static Status
ideal (const SvdqSource *source, int64_t n, int64_t k, const float *bias, const float *x, int64_t m,
       float *y)
{
  double *weight = malloc ((size_t)k * sizeof (double));

  if (weight == NULL)
    return STATUS_NO_MEMORY;
  for (int64_t out = 0; out < n; out++)
    {
      for (int64_t j = 0; j < k; j++)
        weight[j] = svdq_weight (source, n, k, out, j);
      for (int64_t i = 0; i < m; i++)
        {
          double sum = bias != NULL ? bias[out] : 0.0;

          for (int64_t j = 0; j < k; j++)
            sum += x[i * k + j] * weight[j];
          y[i * n + out] = (float)sum;
        }
    }
  free (weight);
  return STATUS_OK;
}

static Status
row_alloc (Row *row, const SvdqSource *source, int64_t k)
{
  row->codes = malloc ((size_t)k);
  row->scales = malloc ((size_t)(k / group_size (source)) * sizeof (float));
  row->smooth = malloc ((size_t)k * sizeof (float));
  row->lowered = malloc ((size_t)(source->rank + 1) * sizeof (float));
  return row->codes && row->scales && row->smooth && row->lowered ? STATUS_OK : STATUS_NO_MEMORY;
}

static void
row_free (Row *row)
{
  free (row->codes);
  free (row->scales);
  free (row->smooth);
  free (row->lowered);
}

Status
svdq_reference (SvdqLevel level, const SvdqSource *source, int64_t n, int64_t k, const float *bias,
                const float *x, int64_t m, float *y)
{
  Row row = { 0 };
  Status status;

  if (k <= 0 || k % SVDQ_INT4_GROUP != 0 || k > MAX_K)
    return STATUS_UNSUPPORTED;
  if (level == SVDQ_LEVEL_IDEAL)
    return ideal (source, n, k, bias, x, m, y);
  status = row_alloc (&row, source, k);
  for (int64_t i = 0; i < m && status == STATUS_OK; i++)
    {
      quantise_row (level, source, k, x + i * k, &row);
      lower_row (source, k, x + i * k, &row);
      for (int64_t out = 0; out < n; out++)
        y[i * n + out] = output (level, source, n, k, bias, &row, out);
    }
  row_free (&row);
  return status;
}
