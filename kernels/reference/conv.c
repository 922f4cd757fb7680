/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/reference/reference.h"

#include <math.h>

struct Conv
{
  int64_t c_out, c_in, size; /* size: 1 or 3 */
  int stride;
  bool upsample;
  float *weight; /* [Cout, Cin, size, size] */
  float *bias;   /* [Cout] or NULL */
};

Status
reference_group_norm (Stream *s, const Tensor *x, const Tensor *weight, const Tensor *bias,
                      int groups, float eps, bool silu, Tensor *out)
{
  int64_t pixels = x->shape[0] * x->shape[1];
  int64_t channels = x->shape[2];
  int64_t per_group = channels / groups;
  const float *in = x->data;

  for (int64_t first = 0; first < channels; first += per_group)
    {
      double count = (double)(pixels * per_group);
      double mean = 0.0;
      double variance = 0.0;

      for (int64_t p = 0; p < pixels; p++)
        for (int64_t c = first; c < first + per_group; c++)
          mean += in[p * channels + c] / count;
      for (int64_t p = 0; p < pixels; p++)
        for (int64_t c = first; c < first + per_group; c++)
          variance += (in[p * channels + c] - mean) * (in[p * channels + c] - mean) / count;
      for (int64_t p = 0; p < pixels; p++)
        for (int64_t c = first; c < first + per_group; c++)
          {
            double value = (in[p * channels + c] - mean) / sqrt (variance + eps);

            value = value * ((const float *)weight->data)[c] + ((const float *)bias->data)[c];
            ((float *)out->data)[p * channels + c]
                = (float)(silu ? value / (1.0 + exp (-value)) : value);
          }
    }
  return STATUS_OK;
}

Status
reference_group_moments (Stream *s, const Tensor *x, int groups, float eps, Tensor *moments)
{
  int64_t pixels = x->shape[0] * x->shape[1], channels = x->shape[2];
  int64_t per_group = channels / groups;
  const float *in = x->data;

  for (int64_t g = 0; g < groups; g++)
    {
      double count = (double)(pixels * per_group), mean = 0.0, variance = 0.0;

      for (int64_t p = 0; p < pixels; p++)
        for (int64_t c = g * per_group; c < (g + 1) * per_group; c++)
          mean += in[p * channels + c] / count;
      for (int64_t p = 0; p < pixels; p++)
        for (int64_t c = g * per_group; c < (g + 1) * per_group; c++)
          variance += (in[p * channels + c] - mean) * (in[p * channels + c] - mean) / count;
      ((float *)moments->data)[2 * g] = (float)mean;
      ((float *)moments->data)[2 * g + 1] = (float)(1.0 / sqrt (variance + eps));
    }
  return STATUS_OK;
}

Status
reference_group_norm_by (Stream *s, const Tensor *x, const Tensor *moments, const Tensor *weight,
                         const Tensor *bias, bool silu, Tensor *out)
{
  int64_t pixels = x->shape[0] * x->shape[1], channels = x->shape[2];
  int64_t per_group = channels / moments->shape[0];
  const float *in = x->data, *by = moments->data;

  for (int64_t i = 0; i < pixels * channels; i++)
    {
      int64_t c = i % channels, g = c / per_group;
      double value = ((double)in[i] - by[2 * g]) * by[2 * g + 1] * ((const float *)weight->data)[c]
                     + ((const float *)bias->data)[c];

      ((float *)out->data)[i] = (float)(silu ? value / (1.0 + exp (-value)) : value);
    }
  return STATUS_OK;
}

Status
reference_conv_prepare (Stream *s, const ConvSource *source, Conv **out)
{
  const Tensor *weight = &source->weight;
  Status status = STATUS_OK;
  void *memory;
  Conv *conv;

  *out = NULL;
  if (weight->rank != 4 || weight->shape[2] != weight->shape[3]
      || (weight->shape[2] != 1 && weight->shape[2] != 3))
    return reference_fail (s, STATUS_UNSUPPORTED, "only 1x1 and 3x3 convolutions are known");
  CHECK (host_alloc (&s->memory, sizeof *conv, &memory));
  conv = memory;
  *conv = (Conv){ .c_out = weight->shape[0],
                  .c_in = weight->shape[1],
                  .size = weight->shape[2],
                  .stride = source->stride,
                  .upsample = source->upsample };
  status = reference_widen (s, weight, &conv->weight);
  if (status == STATUS_OK && source->bias.data != NULL)
    status = reference_widen (s, &source->bias, &conv->bias);
  if (status != STATUS_OK)
    {
      reference_conv_release (s, conv);
      return status;
    }
  *out = conv;
  return STATUS_OK;
}

uint64_t
reference_conv_bytes (const ConvSource *source)
{
  return sizeof (Conv) + (uint64_t)tensor_count (&source->weight) * sizeof (float)
         + (uint64_t)source->weight.shape[0] * sizeof (float);
}

void
reference_conv_release (Stream *s, Conv *conv)
{
  if (conv == NULL)
    return;
  host_free (&s->memory, conv->weight);
  host_free (&s->memory, conv->bias);
  host_free (&s->memory, conv);
}

/* One output value. Taps outside the (enlarged) picture are zeros. */
static double
conv_at (const Conv *conv, const Tensor *x, int64_t row, int64_t column, int64_t c_out)
{
  int64_t pad = conv->size == 3 && conv->stride == 1 ? 1 : 0;
  int64_t zoom = conv->upsample ? 2 : 1;
  double sum = conv->bias != NULL ? conv->bias[c_out] : 0.0;

  for (int64_t ky = 0; ky < conv->size; ky++)
    for (int64_t kx = 0; kx < conv->size; kx++)
      {
        int64_t y = row * conv->stride + ky - pad;
        int64_t at = column * conv->stride + kx - pad;
        const float *pixel;

        if (y < 0 || y >= x->shape[0] * zoom || at < 0 || at >= x->shape[1] * zoom)
          continue;
        pixel = (const float *)x->data + (y / zoom * x->shape[1] + at / zoom) * conv->c_in;
        for (int64_t c = 0; c < conv->c_in; c++)
          sum += (double)pixel[c]
                 * conv->weight[((c_out * conv->c_in + c) * conv->size + ky) * conv->size + kx];
      }
  return sum;
}

Status
reference_conv2d (Stream *s, const Conv *conv, const Tensor *x, const Tensor *residual, Tensor *out)
{
  float *to = out->data;
  int64_t at = 0;

  for (int64_t row = 0; row < out->shape[0]; row++)
    for (int64_t column = 0; column < out->shape[1]; column++)
      for (int64_t c = 0; c < conv->c_out; c++, at++)
        {
          double value = conv_at (conv, x, row, column, c);

          to[at] = (float)(residual != NULL ? value + ((const float *)residual->data)[at] : value);
        }
  return STATUS_OK;
}
