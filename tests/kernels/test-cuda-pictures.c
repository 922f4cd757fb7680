/* SPDX-License-Identifier: Apache-2.0
 *
 * ops_cuda's convolutions and group norms, at the sizes their kernels branch on, against plain sums
 * in double.
 */
#include "tests/kernels/device-pair.h"

#include <math.h>
#include <stdio.h>

static void
test_group_norm (Run *run, int64_t h, int64_t w, int64_t c, int groups, bool with_silu,
                 float center)
{
  Pair x = pair_random (run, run->activation, center, h, w, c), out = pair_output (run, h, w, c);
  Pair weight = pair_random (run, DTYPE_F32, 1.0f, 1, 1, c),
       bias = pair_random (run, DTYPE_F32, 0.0f, 1, 1, c);
  Tensor wt = vector_of (weight.device), bt = vector_of (bias.device);
  double *e = doubles (&x.host);
  const int64_t width = c / groups;
  char name[96];

  for (int64_t g = 0; g < groups; g++)
    {
      double mean = 0.0, variance = 0.0;
      const double count = (double)(h * w * width);
      for (int64_t p = 0; p < h * w; p++)
        for (int64_t i = g * width; i < (g + 1) * width; i++)
          mean += e[p * c + i] / count;
      for (int64_t p = 0; p < h * w; p++)
        for (int64_t i = g * width; i < (g + 1) * width; i++)
          variance += (e[p * c + i] - mean) * (e[p * c + i] - mean) / count;
      for (int64_t p = 0; p < h * w; p++)
        for (int64_t i = g * width; i < (g + 1) * width; i++)
          {
            double v = (e[p * c + i] - mean) / sqrt (variance + 1e-6);
            v = v * ((const float *)weight.host.data)[i] + ((const float *)bias.host.data)[i];
            e[p * c + i] = with_silu ? silu (v) : v;
          }
    }
  require (
      run,
      ops_cuda.group_norm (run->stream, &x.device, &wt, &bt, groups, 1e-6f, with_silu, &out.device),
      "group_norm");
  snprintf (name, sizeof name, "group_norm [%d, %d, %d] by %d around %g%s", (int)h, (int)w, (int)c,
            groups, (double)center, with_silu ? ", silu" : "");
  pair_compare (run, &out, e, ROUNDED, name);
  pair_drop (run, &x), pair_drop (run, &out), pair_drop (run, &weight), pair_drop (run, &bias);
}

typedef struct
{
  int h, w, c_in, c_out, size, stride;
  bool upsample, residual, bias;
} ConvCase;

static double
conv_at (const ConvCase *t, const float *x, const float *weight, int y, int column, int out)
{
  const int up = t->upsample ? 2 : 1, pad = t->size == 3 && t->stride == 1;
  double sum = 0.0;

  for (int ky = 0; ky < t->size; ky++)
    for (int kx = 0; kx < t->size; kx++)
      {
        const int sy = y * t->stride + ky - pad, sx = column * t->stride + kx - pad;
        const float *w = weight + (int64_t)out * t->c_in * t->size * t->size + ky * t->size + kx;
        const float *pixel;

        if (sy < 0 || sx < 0 || sy >= t->h * up || sx >= t->w * up)
          continue;
        pixel = x + ((int64_t)(sy / up) * t->w + sx / up) * t->c_in;
        for (int in = 0; in < t->c_in; in++)
          sum += (double)pixel[in] * (double)w[(int64_t)in * t->size * t->size];
      }
  return sum;
}

static void
test_conv (Run *run, const ConvCase *t)
{
  const int rows = t->upsample ? 2 * t->h : t->h / t->stride;
  const int columns = t->upsample ? 2 * t->w : t->w / t->stride, area = t->size * t->size;
  Pair x = pair_random (run, run->activation, 0.1f, t->h, t->w, t->c_in);
  Pair out = t->residual ? pair_random (run, run->activation, 0.0f, rows, columns, t->c_out)
                         : pair_output (run, rows, columns, t->c_out);
  Pair weight = pair_random (run, run->activation, 0.0f, t->c_out, t->c_in, area);
  Pair bias = pair_random (run, run->activation, 0.0f, 1, 1, t->c_out);
  ConvSource source = { .stride = t->stride, .upsample = t->upsample };
  double *e = doubles (&out.host);
  /* Of large pictures a part is enough, spread over all rows, columns and channels. */
  const int64_t n = tensor_count (&out.host), apart = n * t->c_in * area > 300000000 ? 97 : 1;
  Conv *conv = NULL;
  char name[128];

  source.weight = tensor_4d (DTYPE_F32, weight.host.data, t->c_out, t->c_in, t->size, t->size);
  if (t->bias)
    source.bias = vector_of (bias.host);
  for (int64_t i = 0; i < n; i++)
    {
      const int y = (int)(i / t->c_out / columns), column = (int)(i / t->c_out % columns);
      const int c = (int)(i % t->c_out);
      double sum
          = (t->residual ? e[i] : 0.0) + (t->bias ? ((const float *)bias.host.data)[c] : 0.0);

      e[i] = i % apart != 0 ? NAN : sum + conv_at (t, x.host.data, weight.host.data, y, column, c);
    }
  require (run, ops_cuda.conv_prepare (run->stream, &source, &conv), "conv_prepare");
  require (
      run,
      ops_cuda.conv2d (run->stream, conv, &x.device, t->residual ? &out.device : NULL, &out.device),
      "conv2d");
  snprintf (name, sizeof name, "conv2d %dx%d [%d, %d, %d] -> %d, stride %d%s%s%s", t->size, t->size,
            t->h, t->w, t->c_in, t->c_out, t->stride, t->upsample ? ", upsampled" : "",
            t->residual ? ", residual" : "", t->bias ? ", bias" : "");
  pair_compare (run, &out, e, t->upsample ? SUMMED : ROUNDED, name);
  ops_cuda.conv_release (run->stream, conv);
  pair_drop (run, &x), pair_drop (run, &out), pair_drop (run, &weight), pair_drop (run, &bias);
}

static void
test_pictures (Run *run)
{
  static const ConvCase cases[] = {
    /* h, w, c_in, c_out, size, stride, upsample, residual, bias */
    { 16, 16, 64, 128, 3, 1, false, false, true },   { 9, 13, 16, 512, 3, 1, false, false, true },
    { 5, 7, 8, 32, 3, 1, false, false, false },      { 17, 9, 32, 64, 3, 1, false, true, true },
    { 12, 21, 128, 128, 3, 1, false, true, true },   { 7, 11, 512, 512, 3, 1, false, false, true },
    { 20, 24, 128, 256, 3, 1, false, false, true },  { 33, 31, 128, 3, 3, 1, false, false, true },
    { 6, 5, 64, 33, 3, 1, false, true, true },       { 19, 23, 256, 128, 1, 1, false, true, true },
    { 3, 4, 24, 40, 1, 1, false, false, false },     { 24, 25, 3, 128, 3, 1, false, false, true },
    { 6, 7, 5, 3, 3, 1, false, true, true },         { 16, 18, 64, 64, 3, 2, false, false, true },
    { 15, 17, 32, 136, 3, 2, false, false, true },   { 9, 8, 3, 8, 3, 2, false, false, true },
    { 7, 9, 64, 64, 3, 1, true, false, true },       { 12, 10, 256, 256, 3, 1, true, false, true },
    { 1, 1, 32, 32, 3, 1, true, false, true },       { 5, 5, 3, 8, 3, 1, true, false, true },
    { 1, 1, 128, 128, 3, 1, false, false, true },    { 2, 150, 40, 64, 3, 1, false, false, true },
    { 33, 47, 64, 128, 3, 1, false, false, true },   { 40, 32, 128, 256, 3, 1, false, true, true },
    { 32, 35, 64, 128, 3, 1, true, false, true },    { 48, 33, 128, 200, 3, 1, false, true, true },
    { 32, 40, 192, 128, 1, 1, false, true, false },  { 200, 181, 64, 128, 3, 1, false, true, true },
    { 130, 133, 128, 256, 3, 1, true, false, true }, { 33, 32, 256, 72, 1, 1, false, false, true },
  };

  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    test_conv (run, &cases[i]);
  test_group_norm (run, 5, 7, 32, 32, true, 0.0f);
  test_group_norm (run, 9, 3, 64, 32, false, 0.5f);
  test_group_norm (run, 64, 65, 128, 32, true, 0.0f);
  test_group_norm (run, 33, 31, 256, 32, true, 30.0f);
  test_group_norm (run, 16, 17, 512, 32, false, 0.0f);
  test_group_norm (run, 4, 5, 24, 3, true, 0.0f);
  test_group_norm (run, 300, 301, 128, 32, true, 0.0f);
}

int
main (void)
{
  Run run;
  int skipped = run_begin (&run);

  if (skipped != 0)
    return skipped;
  test_pictures (&run);
  return run_end (&run);
}
