/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/reference/reference.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* -- the device --------------------------------------------------------------------------- */

static Status
reference_query (int index, DeviceCaps *caps)
{
  long page = sysconf (_SC_PAGESIZE);

  memset (caps, 0, sizeof *caps);
  if (index != 0)
    return STATUS_NO_DEVICE;
  caps->kind = DEVICE_CPU;
  caps->multiprocessors = 1;
  caps->total_memory = (uint64_t)sysconf (_SC_PHYS_PAGES) * (uint64_t)page;
  caps->free_memory = (uint64_t)sysconf (_SC_AVPHYS_PAGES) * (uint64_t)page;
  snprintf (caps->name, sizeof caps->name, "reference");
  return STATUS_OK;
}

static Status
reference_open (int index, const StreamOptions *options, Stream **out)
{
  *out = NULL;
  if (index != 0)
    return STATUS_NO_DEVICE;
  if (options != NULL && options->bf16_math)
    return STATUS_UNSUPPORTED;
  *out = calloc (1, sizeof **out);
  if (*out == NULL)
    return STATUS_NO_MEMORY;
  (*out)->memory.budget = options != NULL ? options->memory_budget : 0;
  return STATUS_OK;
}

static void
reference_close (Stream *s)
{
  if (s == NULL)
    return;
  host_free_all (&s->memory);
  free (s);
}

static Status
reference_wait (Stream *s)
{
  return STATUS_OK;
}

static Status
reference_alloc (Stream *s, size_t bytes, void **out)
{
  Status status = host_alloc (&s->memory, bytes, out);

  return status == STATUS_OK ? status : reference_fail (s, status, "no %zu bytes left", bytes);
}

static void
reference_free (Stream *s, void *memory)
{
  host_free (&s->memory, memory);
}

static uint64_t
reference_allocated (Stream *s)
{
  return s->memory.bytes;
}

static Status
reference_transfer (Stream *s, const Tensor *from, Tensor *to)
{
  Status status = host_convert (from, to);

  return status == STATUS_OK ? status
                             : reference_fail (s, status, "cannot copy %s to %s",
                                               dtype_name (from->dtype), dtype_name (to->dtype));
}

static void
reference_set_budget (Stream *s, uint64_t bytes)
{
  s->memory.budget = bytes;
}

static uint64_t
reference_peak (Stream *s, bool restart)
{
  return host_peak (&s->memory, restart);
}

static void
reference_trim (Stream *s) /* keeps nothing between calls */
{
}

static const char *
reference_detail (Stream *s)
{
  return s != NULL ? s->detail : "";
}

Status
reference_fail (Stream *s, Status status, const char *format, ...)
{
  va_list args;

  va_start (args, format);
  vsnprintf (s->detail, sizeof s->detail, format, args);
  va_end (args);
  return status;
}

Status
reference_widen (Stream *s, const Tensor *tensor, float **out)
{
  Tensor wide = *tensor;
  void *memory;

  wide.dtype = DTYPE_F32;
  CHECK (reference_alloc (s, tensor_bytes (&wide), &memory));
  wide.data = memory;
  *out = memory;
  return reference_transfer (s, tensor, &wide);
}

/* -- maths -------------------------------------------------------------------------------- */

static double
inverse_rms (const float *x, int64_t n, float eps)
{
  double sum = 0.0;

  for (int64_t i = 0; i < n; i++)
    sum += (double)x[i] * x[i];
  return 1.0 / sqrt (sum / (double)n + eps);
}

static double
factor (const Tensor *vector, int64_t i)
{
  return vector != NULL ? ((const float *)vector->data)[i] : 1.0;
}

static double
silu (double x)
{
  return x / (1.0 + exp (-x));
}

static Status
reference_rms_norm (Stream *s, const Tensor *x, const Tensor *weight, const Tensor *scale,
                    float eps, Tensor *out)
{
  int64_t d = x->shape[1];

  for (int64_t row = 0; row < x->shape[0]; row++)
    {
      const float *in = (const float *)x->data + row * d;
      float *to = (float *)out->data + row * d;
      double inverse = inverse_rms (in, d, eps);

      for (int64_t i = 0; i < d; i++)
        to[i] = (float)(in[i] * inverse * factor (weight, i) * factor (scale, i));
    }
  return STATUS_OK;
}

static Status
reference_residual_norm (Stream *s, Tensor *x, const Tensor *y, const Tensor *post,
                         const Tensor *gate, const Tensor *next, const Tensor *scale, float eps,
                         Tensor *out)
{
  int64_t d = x->shape[1];

  for (int64_t row = 0; row < x->shape[0]; row++)
    {
      float *to = (float *)x->data + row * d;
      const float *branch = (const float *)y->data + row * d;
      double inverse = post != NULL ? inverse_rms (branch, d, eps) : 1.0;

      for (int64_t i = 0; i < d; i++)
        to[i] = (float)(to[i] + branch[i] * inverse * factor (post, i) * factor (gate, i));
    }
  return out != NULL ? reference_rms_norm (s, x, next, scale, eps, out) : STATUS_OK;
}

static Status
reference_layer_norm (Stream *s, const Tensor *x, const Tensor *scale, float eps, Tensor *out)
{
  int64_t d = x->shape[1];

  for (int64_t row = 0; row < x->shape[0]; row++)
    {
      const float *in = (const float *)x->data + row * d;
      float *to = (float *)out->data + row * d;
      double mean = 0.0;
      double variance = 0.0;

      for (int64_t i = 0; i < d; i++)
        mean += in[i] / (double)d;
      for (int64_t i = 0; i < d; i++)
        variance += (in[i] - mean) * (in[i] - mean) / (double)d;
      for (int64_t i = 0; i < d; i++)
        to[i] = (float)((in[i] - mean) / sqrt (variance + eps) * factor (scale, i));
    }
  return STATUS_OK;
}

static Status
reference_silu_mul (Stream *s, const Tensor *x, int turn, Tensor *out)
{
  int64_t f = x->shape[1] / 2, half = turn > 0 ? turn : f;

  for (int64_t row = 0; row < x->shape[0]; row++)
    for (int64_t i = 0; i < f; i++)
      {
        const float *in = (const float *)x->data + row * 2 * f + i / half * 2 * half + i % half;

        ((float *)out->data)[row * f + i] = (float)(silu (in[0]) * in[half]);
      }
  return STATUS_OK;
}

static Status
reference_silu (Stream *s, const Tensor *x, Tensor *out)
{
  for (int64_t i = 0; i < tensor_count (x); i++)
    ((float *)out->data)[i] = (float)silu (((const float *)x->data)[i]);
  return STATUS_OK;
}

static Status
reference_modulation (Stream *s, const Tensor *m, Tensor *out)
{
  int64_t d = m->shape[1] / 4;

  for (int64_t i = 0; i < tensor_count (m); i++)
    {
      double value = ((const float *)m->data)[i];
      bool gate = i / d % 2 == 1;

      ((float *)out->data)[i] = (float)(gate ? tanh (value) : 1.0 + value);
    }
  return STATUS_OK;
}

static Status
reference_one_plus (Stream *s, const Tensor *x, Tensor *out)
{
  for (int64_t i = 0; i < tensor_count (x); i++)
    ((float *)out->data)[i] = 1.0f + ((const float *)x->data)[i];
  return STATUS_OK;
}

static Status
reference_fill_rows (Stream *s, const Tensor *row, Tensor *out)
{
  for (int64_t i = 0; i < out->shape[0]; i++)
    {
      Tensor to = tensor_rows (out, i, 1);

      memcpy (to.data, row->data, tensor_bytes (row));
    }
  return STATUS_OK;
}

const Ops ops_reference = {
  .name = "reference",
  .query = reference_query,
  .open = reference_open,
  .close = reference_close,
  .wait = reference_wait,
  .alloc = reference_alloc,
  .free = reference_free,
  .allocated = reference_allocated,
  .peak = reference_peak,
  .set_budget = reference_set_budget,
  .upload = reference_transfer,
  .download = reference_transfer,
  .copy = reference_transfer,
  .detail = reference_detail,
  .trim = reference_trim,
  .rms_norm = reference_rms_norm,
  .residual_norm = reference_residual_norm,
  .layer_norm = reference_layer_norm,
  .qk_norm_rope = reference_qk_norm_rope,
  .attention = reference_attention,
  .silu_mul = reference_silu_mul,
  .silu = reference_silu,
  .modulation = reference_modulation,
  .one_plus = reference_one_plus,
  .fill_rows = reference_fill_rows,
  .group_norm = reference_group_norm,
  .group_moments = reference_group_moments,
  .group_norm_by = reference_group_norm_by,
  .conv_prepare = reference_conv_prepare,
  .conv_bytes = reference_conv_bytes,
  .conv2d = reference_conv2d,
  .conv_release = reference_conv_release,
};
