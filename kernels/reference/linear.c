/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/reference/reference.h"

#include <math.h>

typedef struct
{
  Linear base;
  float *weight; /* [N, K] */
  float *bias;   /* [N] or NULL */
} ReferenceLinear;

static bool
reference_supports (const DeviceCaps *caps, const StreamOptions *options, const SvdqFormat *svdq)
{
  return caps->kind == DEVICE_CPU && svdq == NULL && !(options != NULL && options->bf16_math);
}

static void
reference_release (Stream *s, Linear *linear)
{
  ReferenceLinear *self = (ReferenceLinear *)linear;

  if (self == NULL)
    return;
  host_free (&s->memory, self->weight);
  host_free (&s->memory, self->bias);
  host_free (&s->memory, self);
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

      if (part->rank != 2 || part->shape[1] != source->k || row + part->shape[0] > source->n)
        return reference_fail (s, STATUS_UNSUPPORTED, "part %d has the wrong shape", i);
      CHECK (host_convert (part, &to));
      row += part->shape[0];
    }
  if (row != source->n)
    return reference_fail (s, STATUS_UNSUPPORTED, "the parts have %lld of %lld rows",
                           (long long)row, (long long)source->n);
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
  if (source->svdq != NULL)
    return reference_fail (s, STATUS_UNSUPPORTED, "no SVDQuant weights");
  CHECK (host_alloc (&s->memory, sizeof *self, &memory));
  self = memory;
  *self = (ReferenceLinear){
    .base
    = { .backend = &linear_reference, .n = source->n, .k = source->k, .swiglu = source->swiglu }
  };
  status = fill (s, source, self);
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

static Status
reference_apply (Stream *s, const Linear *linear, const Tensor *x, Tensor *out)
{
  const ReferenceLinear *self = (const ReferenceLinear *)linear;
  int64_t m = tensor_count (x) / linear->k;
  int64_t columns = linear->swiglu ? linear->n / 2 : linear->n;

  if (tensor_count (out) != m * columns)
    return reference_fail (s, STATUS_UNSUPPORTED, "output of the wrong size");
  for (int64_t row = 0; row < m; row++)
    for (int64_t i = 0; i < columns; i++)
      {
        const float *in = (const float *)x->data + row * linear->k;
        double value = output (self, in, i);

        if (linear->swiglu)
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
