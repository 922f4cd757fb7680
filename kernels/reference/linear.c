/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/reference/codes.h"
#include "kernels/reference/reference.h"
#include "kernels/reference/svdq.h"
#include "kernels/svdq-math.h"
#include "kernels/weight-codes.h"

#include <math.h>
#include <string.h>

typedef struct
{
  Linear base;
  float *weight;     /* [N, K]; NULL when quantised */
  float *bias;       /* [N] or NULL */
  SvdqSource svdq;   /* into svdq_memory */
  void *svdq_memory; /* NULL when dense */
} ReferenceLinear;

static bool
reference_supports (const DeviceCaps *caps, const StreamOptions *options, const SvdqFormat *svdq)
{
  return caps->kind == DEVICE_CPU && !(options != NULL && options->bf16_math);
}

static void
reference_release (Stream *s, Linear *linear)
{
  ReferenceLinear *self = (ReferenceLinear *)linear;

  if (self == NULL)
    return;
  host_free (&s->memory, self->weight);
  host_free (&s->memory, self->svdq_memory);
  host_free (&s->memory, self->bias);
  host_free (&s->memory, self);
}

/* One part's weights as F32. */
static Status
fill_part (const LinearSource *source, int part, Tensor *to)
{
  const Tensor *from = &source->parts[part], *scales = &source->scales[part];
  int64_t width = source->code_bits == 4 ? source->k / 2 : source->k;

  if (from->rank != 2 || from->shape[1] != width)
    return STATUS_UNSUPPORTED;
  if (source->code_bits == 0)
    return host_convert (from, to);
  if (scales->dtype != DTYPE_BF16 || tensor_count (scales) * CODES_GROUP != tensor_count (to)
      || from->dtype != (source->code_bits == 4 ? DTYPE_U8 : DTYPE_I8))
    return STATUS_UNSUPPORTED;
  codes_reference (from, scales, to->data);
  return STATUS_OK;
}

static Status
fill (Stream *s, const LinearSource *source, ReferenceLinear *self)
{
  int64_t row = 0;
  void *memory;

  CHECK (host_alloc (&s->memory, (size_t)(source->n * source->k) * sizeof (float), &memory));
  self->weight = memory;
  for (int i = 0; i < source->n_parts; i++)
    {
      const Tensor *part = &source->parts[i];
      Tensor to = tensor_2d (DTYPE_F32, self->weight + row * source->k, part->shape[0], source->k);

      if (row + part->shape[0] > source->n || fill_part (source, i, &to) != STATUS_OK)
        return reference_fail (s, STATUS_UNSUPPORTED, "part %d has the wrong shape or type", i);
      row += part->shape[0];
    }
  if (row != source->n)
    return reference_fail (s, STATUS_UNSUPPORTED, "the parts have %lld of %lld rows",
                           (long long)row, (long long)source->n);
  return source->bias.data != NULL ? reference_widen (s, &source->bias, &self->bias) : STATUS_OK;
}

/* A copy of the quantised weights, all in one block. */
static Status
copy_svdq (Stream *s, const LinearSource *source, ReferenceLinear *self)
{
  const SvdqSource *from = source->svdq;
  bool int4 = from->format == SVDQ_INT4;
  size_t n = (size_t)source->n, k = (size_t)source->k, rank = (size_t)from->rank;
  size_t scales = n * k / (int4 ? SVDQ_INT4_GROUP : SVDQ_NVFP4_GROUP) * (int4 ? 2 : 1);
  size_t sizes[]
      = { from->outer != NULL ? n * 4 : 0, n * k / 2, scales, k * 2, k * rank * 2, n * rank * 2 };
  const void *parts[]
      = { from->outer, from->qweight, from->wscales, from->smooth, from->proj_down, from->proj_up };
  size_t total = 0;
  char *at;

  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
    total += (sizes[i] + 3) & ~(size_t)3;
  CHECK (host_alloc (&s->memory, total, &self->svdq_memory));
  at = self->svdq_memory;
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
    {
      if (sizes[i] > 0)
        memcpy (at, parts[i], sizes[i]);
      parts[i] = sizes[i] > 0 ? at : NULL;
      at += (sizes[i] + 3) & ~(size_t)3;
    }
  self->svdq = (SvdqSource){ from->format, from->rank, parts[1], parts[2],
                             parts[3],     parts[4],   parts[5], parts[0] };
  return source->bias.data != NULL ? reference_widen (s, &source->bias, &self->bias) : STATUS_OK;
}

static Status
reference_prepare (Stream *s, const LinearSource *source, Linear **out)
{
  uint64_t before = s->memory.bytes;
  ReferenceLinear *self;
  Status status;
  void *memory;

  *out = NULL;
  CHECK (host_alloc (&s->memory, sizeof *self, &memory));
  self = memory;
  *self = (ReferenceLinear){
    .base
    = { .backend = &linear_reference, .n = source->n, .k = source->k, .swiglu = source->swiglu }
  };
  status = source->svdq != NULL ? copy_svdq (s, source, self) : fill (s, source, self);
  if (status != STATUS_OK)
    {
      reference_release (s, &self->base);
      return status;
    }
  self->base.bytes = s->memory.bytes - before;
  *out = &self->base;
  return STATUS_OK;
}

static double
output (const ReferenceLinear *self, const float *x, int64_t row)
{
  const float *weight = self->weight + row * self->base.k;
  double sum = self->bias != NULL ? self->bias[row] : 0.0;

  for (int64_t i = 0; i < self->base.k; i++)
    sum += (double)x[i] * weight[i];
  return sum;
}

/* Level L1, row by row; with swiglu through a block of its own. */
static Status
apply_svdq (Stream *s, const ReferenceLinear *self, bool swiglu, const float *x, int64_t m,
            float *out)
{
  int64_t n = self->base.n;
  void *memory;
  float *pair;

  if (!swiglu)
    return svdq_reference (SVDQ_LEVEL_CONTRACT, &self->svdq, n, self->base.k, self->bias, x, m,
                           out);
  CHECK (host_alloc (&s->memory, (size_t)n * sizeof (float), &memory));
  pair = memory;
  for (int64_t row = 0; row < m; row++)
    {
      Status status = svdq_reference (SVDQ_LEVEL_CONTRACT, &self->svdq, n, self->base.k, self->bias,
                                      x + row * self->base.k, 1, pair);

      if (status != STATUS_OK)
        {
          host_free (&s->memory, memory);
          return status;
        }
      for (int64_t i = 0; i < n / 2; i++)
        out[row * n / 2 + i] = (float)(pair[i] / (1.0 + exp (-(double)pair[i])) * pair[n / 2 + i]);
    }
  host_free (&s->memory, memory);
  return STATUS_OK;
}

static Status
reference_apply (Stream *s, const Linear *linear, const Tensor *x, Tensor *out)
{
  const ReferenceLinear *self = (const ReferenceLinear *)linear;
  int64_t m = tensor_count (x) / linear->k;
  bool swiglu = linear->swiglu && tensor_count (out) == m * linear->n / 2;
  int64_t columns = swiglu ? linear->n / 2 : linear->n;

  if (tensor_count (out) != m * columns)
    return reference_fail (s, STATUS_UNSUPPORTED, "output of the wrong size");
  if (self->svdq_memory != NULL)
    return apply_svdq (s, self, swiglu, x->data, m, out->data);
  for (int64_t row = 0; row < m; row++)
    for (int64_t i = 0; i < columns; i++)
      {
        const float *in = (const float *)x->data + row * linear->k;
        double value = output (self, in, i);

        if (swiglu)
          value = value / (1.0 + exp (-value)) * output (self, in, columns + i);
        ((float *)out->data)[row * columns + i] = (float)value;
      }
  return STATUS_OK;
}

const LinearBackend linear_reference = {
  .name = "reference",
  .keeps_source = false,
  .supports = reference_supports,
  .prepare_weights = reference_prepare,
  .apply = reference_apply,
  .release = reference_release,
};
