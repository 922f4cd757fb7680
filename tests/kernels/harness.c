/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/kernels/harness.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define GUARD 64 /* elements behind a tensor on the device */

bool
harness_open (Harness *self, const Ops *ops, const StreamOptions *options)
{
  DeviceCaps caps;

  self->ops = ops;
  self->stream = self->reference = NULL;
  if (ops->query (0, &caps) == STATUS_OK && ops->open (0, options, &self->stream) == STATUS_OK
      && ops_reference.open (0, NULL, &self->reference) == STATUS_OK)
    {
      self->activation = device_activation (&caps);
      return true;
    }
  harness_close (self);
  printf ("Bail out! cannot open %s and the reference\n", ops->name);
  return false;
}

void
harness_close (Harness *self)
{
  if (self->stream != NULL)
    self->ops->close (self->stream);
  ops_reference.close (self->reference);
  self->stream = self->reference = NULL;
}

float
harness_random (Harness *self)
{
  /* Steele, Lea and Flood's SplitMix64 (OOPSLA 2014). */
  uint64_t z = self->seed += 0x9e3779b97f4a7c15u;

  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return (float)(int32_t)(z >> 32) * 0x1p-31f;
}

static void
store (Tensor *t, int64_t i, float value)
{
  if (t->dtype == DTYPE_F32)
    ((float *)t->data)[i] = value;
  else
    ((uint16_t *)t->data)[i]
        = t->dtype == DTYPE_BF16 ? bf16_from_float (value) : f16_from_float (value);
}

void *
harness_random_array (Harness *self, DType dtype, int64_t count, float size)
{
  Tensor t = tensor_1d (dtype, malloc ((size_t)count * dtype_size (dtype) + 1), count);

  for (int64_t i = 0; i < count; i++)
    store (&t, i, size * harness_random (self));
  return t.data;
}

/* -- pairs -------------------------------------------------------------------------------- */

static Pair *
add_pair (Harness *self, Tensor shape, DType dtype)
{
  Pair *pair = &self->pairs[self->n_pairs];
  size_t bytes;

  if (self->n_pairs == HARNESS_MAX_PAIRS)
    abort ();
  self->n_pairs++;
  *pair = (Pair){ shape, shape, 1.0f, false };
  pair->reference.dtype = DTYPE_F32;
  pair->device.dtype = dtype;
  pair->reference.data = malloc (tensor_bytes (&pair->reference) + 1);
  bytes = tensor_bytes (&pair->device) + GUARD * dtype_size (dtype);
  if (pair->reference.data == NULL
      || self->ops->alloc (self->stream, bytes, &pair->device.data) != STATUS_OK)
    abort ();
  return pair;
}

static void
upload (Harness *self, Pair *pair)
{
  if (self->ops->upload (self->stream, &pair->reference, &pair->device) != STATUS_OK)
    abort ();
}

static Pair *
input (Harness *self, Tensor shape, DType dtype, float offset, float size)
{
  Pair *pair = add_pair (self, shape, dtype);
  float *values = pair->reference.data;

  for (int64_t i = 0; i < tensor_count (&shape); i++)
    {
      float value = offset + size * harness_random (self);

      if (dtype == DTYPE_BF16)
        value = bf16_to_float (bf16_from_float (value));
      else if (dtype == DTYPE_F16)
        value = f16_to_float (f16_from_float (value));
      values[i] = value;
    }
  upload (self, pair);
  return pair;
}

Pair *
harness_input (Harness *self, Tensor like, float offset, float size)
{
  return input (self, like, self->activation, offset, size);
}

Pair *
harness_parameter (Harness *self, Tensor like, float offset, float size)
{
  return input (self, like, DTYPE_F32, offset, size);
}

/* The GUARD elements behind a pair's tensor, on the device. */
static Tensor
guard_of (const Pair *pair)
{
  return tensor_1d (pair->device.dtype, (char *)pair->device.data + tensor_bytes (&pair->device),
                    GUARD);
}

static void
poison (Harness *self, Pair *pair, bool whole)
{
  float nans[GUARD];
  Tensor from = tensor_1d (DTYPE_F32, nans, GUARD);
  Tensor to = guard_of (pair);

  for (int i = 0; i < GUARD; i++)
    nans[i] = NAN;
  pair->output = true;
  if (self->ops->upload (self->stream, &from, &to) != STATUS_OK)
    abort ();
  if (!whole)
    return;
  for (int64_t i = 0; i < tensor_count (&pair->reference); i++)
    ((float *)pair->reference.data)[i] = NAN;
  upload (self, pair);
}

Pair *
harness_output (Harness *self, Tensor like)
{
  Pair *pair = add_pair (self, like, self->activation);

  poison (self, pair, true);
  return pair;
}

Pair *
harness_swiglu_output (Harness *self, Tensor like)
{
  Pair *pair = harness_output (self, like);

  if (self->activation == DTYPE_F16)
    pair->scale = SWIGLU_F16_SCALE;
  return pair;
}

Pair *
harness_f32_output (Harness *self, Tensor like)
{
  Pair *pair = add_pair (self, like, DTYPE_F32);

  poison (self, pair, true);
  return pair;
}

Pair *
harness_in_place (Harness *self, const Pair *pair)
{
  Pair *copy = add_pair (self, pair->reference, pair->device.dtype);

  for (int64_t i = 0; i < tensor_count (&pair->reference); i++)
    ((float *)copy->reference.data)[i] = ((const float *)pair->reference.data)[i];
  upload (self, copy);
  poison (self, copy, false);
  return copy;
}

/* -- verdicts ----------------------------------------------------------------------------- */

static bool
guard_is_whole (Harness *self, const Pair *pair)
{
  float values[GUARD];
  Tensor from = guard_of (pair);
  Tensor to = tensor_1d (DTYPE_F32, values, GUARD);

  if (self->ops->download (self->stream, &from, &to) != STATUS_OK)
    return false;
  for (int i = 0; i < GUARD; i++)
    if (!isnan (values[i]))
      return false;
  return true;
}

bool
harness_check (Harness *self, const Pair *output, double limit)
{
  int64_t count = tensor_count (&output->reference);
  const float *expected = output->reference.data;
  float *got = malloc ((size_t)count * sizeof *got + 1);
  Tensor to = output->reference;
  double error = 0.0, norm = 0.0, largest = 0.0, rms;
  bool passed = false;

  to.data = got;
  if (self->ops->wait (self->stream) != STATUS_OK
      || self->ops->download (self->stream, &output->device, &to) != STATUS_OK)
    snprintf (self->reason, sizeof self->reason, "download failed");
  else if (!guard_is_whole (self, output))
    snprintf (self->reason, sizeof self->reason, "wrote behind its output");
  else
    {
      for (int64_t i = 0; i < count; i++)
        {
          double difference = fabs ((double)got[i] / output->scale - expected[i]);

          error += difference * difference;
          norm += (double)expected[i] * expected[i];
          largest = difference > largest ? difference : largest;
        }
      rms = sqrt (norm / (double)count);
      error = norm > 0.0 ? sqrt (error / norm) : sqrt (error);
      /* A NaN makes `error` one, and every comparison with it false. */
      passed = error <= limit && largest <= 30.0 * limit * (rms > 0.0 ? rms : 1.0);
      if (!passed)
        snprintf (self->reason, sizeof self->reason,
                  "relative RMS error %.3g (limit %.3g), largest %.3g of RMS %.3g", error, limit,
                  largest, rms);
    }
  free (got);
  return passed;
}

bool
harness_both_ok (Harness *self, Status reference, Status device)
{
  if (reference == STATUS_OK && device == STATUS_OK)
    return true;
  snprintf (self->reason, sizeof self->reason, "reference: %s, %s: %s (%s)",
            status_name (reference), self->ops->name, status_name (device),
            self->ops->detail (self->stream));
  return false;
}

void
harness_report (Harness *self, bool passed, const char *format, ...)
{
  char name[256];
  va_list args;

  va_start (args, format);
  vsnprintf (name, sizeof name, format, args);
  va_end (args);
  self->n_tests++;
  self->n_failed += !passed;
  printf ("%sok %d - %s%s%s\n", passed ? "" : "not ", self->n_tests, name, passed ? "" : ": ",
          passed ? "" : self->reason);
  fflush (stdout);
  self->reason[0] = '\0';
  for (int i = 0; i < self->n_pairs; i++)
    {
      free (self->pairs[i].reference.data);
      self->ops->free (self->stream, self->pairs[i].device.data);
    }
  self->n_pairs = 0;
}

void
harness_skip (Harness *self, const char *reason)
{
  printf ("ok %d # SKIP %s\n", ++self->n_tests, reason);
}

int
harness_finish (const Harness *self)
{
  printf ("1..%d\n", self->n_tests);
  return self->n_failed > 0;
}
