/* SPDX-License-Identifier: Apache-2.0
 *
 * svdq-device.cuh - runs a product of 4-bit codes on what svdq-host.h made up, and judges it
 */
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/svdq.h"
#include "tests/kernels/patience.h"
#include "tests/kernels/svdq-host.h"

#include <stdio.h>
#include <time.h>

#define SKIPPED 77
#define POISON  0xff /* every byte of an output before a run: a NaN in BF16 */
#define SPARE   8    /* numbers behind each row of y, which must stay as they are */

/* Beyond what is run here (patience.h). */
static inline bool
too_large (const HostSize &size)
{
  return (int64_t)size.m * size.n * (size.k + size.rank) > MOST_PRODUCTS;
}

struct DeviceTest
{
  Stream *s;
  int tests, failures;
};

static inline void
report (DeviceTest *t, bool ok, const char *name, const char *what, const char *text)
{
  t->failures += !ok;
  printf ("%sok %d - %s, %s: %s\n", ok ? "" : "not ", ++t->tests, name, what, text);
  fflush (stdout);
}

static inline Status
to_device (Stream *s, void *device, const void *host, size_t bytes)
{
  if (bytes > 0)
    CUDA_CHECK (s, cudaMemcpyAsync (device, host, bytes, cudaMemcpyHostToDevice, s->compute));
  return STATUS_OK;
}

static inline LinearSource
linear_source (const HostLinear &host, const SvdqSource *svdq)
{
  LinearSource source = {};
  source.n = host.size.n;
  source.k = host.size.k;
  source.swiglu = host.size.swiglu;
  source.svdq = svdq;
  if (host.size.bias)
    source.bias = tensor_1d (DTYPE_F32, const_cast<float *> (host.bias.data ()), host.size.n);
  return source;
}

/* A linear on the card, with the room for its input and output. */
struct DeviceLinear
{
  SvdqWeights weights;
  SvdqActivations activations;
  void *memory;
  bf16 *y;
  int64_t stride;
  size_t y_bytes;
};

static inline Status
put_on_device (Stream *s, const HostLinear &host, DeviceLinear *d)
{
  *d = {};
  const SvdqSource svdq = host.source ();
  const LinearSource source = linear_source (host, &svdq);
  CHECK (svdq_weights_load (s, &source, &d->weights));
  CHECK (stream_alloc (s, svdq_activations_bytes (&d->weights, host.size.m), &d->memory));
  d->activations = svdq_activations_in (&d->weights, host.size.m, d->memory);
  CHECK (to_device (s, d->activations.codes, host.codes.data (), host.codes.size ()));
  CHECK (to_device (s, d->activations.scales, host.scales.data (), host.scales.size ()));
  CHECK (to_device (s, d->activations.lora, host.lora.data (), host.lora.size () * 2));
  d->stride = (host.size.swiglu ? host.size.n / 2 : host.size.n) + SPARE;
  d->y_bytes = (size_t)host.size.m * d->stride * sizeof (bf16);
  CHECK (stream_alloc (s, d->y_bytes, (void **)&d->y));
  return cuda_wait (s);
}

static inline void
take_off_device (Stream *s, DeviceLinear *d)
{
  svdq_weights_free (s, &d->weights);
  stream_free (s, d->memory);
  stream_free (s, d->y);
}

/* y [m, stride] in BF16 bits. */
static inline Status
run_product (Stream *s, SvdqProduct product, const DeviceLinear *d, std::vector<uint16_t> *y)
{
  const SvdqGemm g = { &d->weights, &d->activations, d->y, d->stride, false, NULL };
  y->resize (d->y_bytes / sizeof (bf16));
  CUDA_CHECK (s, cudaMemsetAsync (d->y, POISON, d->y_bytes, s->compute));
  CHECK (product (s, &g));
  CUDA_CHECK (s,
              cudaMemcpyAsync (y->data (), d->y, d->y_bytes, cudaMemcpyDeviceToHost, s->compute));
  return cuda_wait (s);
}

/* What an output may be. */
struct Limits
{
  float low, high; /* both as BF16 */
};

static inline Limits
limits_around (double value, double bound)
{
  return { svdq_round_bf16 ((float)(value - bound)), svdq_round_bf16 ((float)(value + bound)) };
}

/* Output `column` of a row, where linear outputs are `y` and may be off by `share` of their terms.
 * With swiglu the two factors' bounds carry over, and the exponential of the card is not exact. */
static inline Limits
expected (const HostLinear &host, const float *y, int row, int column, double share)
{
  double terms, up_terms;
  if (!host.size.swiglu)
    {
      host.evaluate (row, column, &terms);
      return limits_around (y[(size_t)row * host.size.n + column], terms * share);
    }
  const int f = host.size.n / 2;
  const double gate = y[(size_t)row * host.size.n + column];
  const double up = y[(size_t)row * host.size.n + f + column];
  host.evaluate (row, column, &terms);
  host.evaluate (row, f + column, &up_terms);
  const double silu = gate / (1.0 + exp (-gate)), value = silu * up;
  const double bound = (1.1 * terms * fabs (up) + up_terms * fabs (silu)) * share;
  return limits_around (value, bound + fabs (value) * 0x1p-18);
}

struct Verdict
{
  size_t outside, beyond; /* outputs out of bounds; spare numbers written to */
  size_t different;       /* from the rounded reference */
};

/* y [m, stride] of the card against linear outputs `want` [m, n] in F32. */
static inline Verdict
judge (const HostLinear &host, const std::vector<uint16_t> &y, const float *want, double share)
{
  const int columns = host.size.swiglu ? host.size.n / 2 : host.size.n, stride = columns + SPARE;
  Verdict v = {};
  for (int row = 0; row < host.size.m; row++)
    {
      const uint16_t *got = &y[(size_t)row * stride];
      for (int i = 0; i < columns; i++)
        {
          const Limits limits = expected (host, want, row, i, share);
          const float value = bf16_to_float (got[i]);
          v.outside += !(value >= limits.low && value <= limits.high);
          if (!host.size.swiglu)
            v.different += got[i] != bf16_from_float (want[(size_t)row * host.size.n + i]);
        }
      for (int i = columns; i < stride; i++)
        v.beyond += got[i] != 0xffff;
    }
  return v;
}

/* The whole of a program: `test_all` on the first card, with a fresh seed. Its exit status. */
static inline int
run_device_test (Status (*test_all) (DeviceTest *t, uint32_t seed))
{
  DeviceTest t = {};
  Status status = cuda_open (0, NULL, &t.s);
  if (status != STATUS_OK)
    {
      printf ("1..0 # SKIP no usable device: %s\n", status_name (status));
      return SKIPPED;
    }
  const uint32_t seed = IS_EMULATED ? 1 : (uint32_t)time (NULL);
  printf ("# seed %u\n", seed);
  status = test_all (&t, seed);
  if (status != STATUS_OK)
    printf ("Bail out! %s %s\n", status_name (status), cuda_detail (t.s));
  printf ("1..%d\n", t.tests);
  cuda_close (t.s);
  return t.failures || status ? 1 : 0;
}
