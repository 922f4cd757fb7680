/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/kernels/device-pair.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

void
require (Run *run, Status status, const char *what)
{
  if (status == STATUS_OK)
    return;
  printf ("Bail out! %s: %s (%s)\n", what, status_name (status), ops_cuda.detail (run->stream));
  exit (1);
}

static float
uniform (Run *run)
{
  run->state = run->state * 6364136223846793005u + 1442695040888963407u;
  return (float)(run->state >> 40) / (float)(1 << 24) * 2.0f - 1.0f;
}

Pair
pair_random (Run *run, DType type, float center, int64_t a, int64_t b, int64_t c)
{
  Pair pair = { .host = tensor_3d (DTYPE_F32, NULL, a, b, c), .device = { 0 } };
  const int64_t n = tensor_count (&pair.host);
  float *values = malloc ((size_t)n * sizeof *values);

  for (int64_t i = 0; i < n; i++)
    {
      values[i] = center + uniform (run);
      if (type == DTYPE_BF16)
        values[i] = bf16_to_float (bf16_from_float (values[i]));
      else if (type == DTYPE_F16)
        values[i] = f16_to_float (f16_from_float (values[i]));
    }
  pair.host.data = values;
  pair.device = tensor_3d (type, NULL, a, b, c);
  require (run, ops_cuda.alloc (run->stream, tensor_bytes (&pair.device), &pair.device.data),
           "alloc");
  require (run, ops_cuda.upload (run->stream, &pair.host, &pair.device), "upload");
  return pair;
}

Pair
pair_output (Run *run, int64_t a, int64_t b, int64_t c)
{
  Pair pair = pair_random (run, run->activation, 0.0f, a, b, c);
  float *values = pair.host.data;

  for (int64_t i = 0; i < tensor_count (&pair.host); i++)
    values[i] = NAN;
  require (run, ops_cuda.upload (run->stream, &pair.host, &pair.device), "upload");
  return pair;
}

void
pair_drop (Run *run, Pair *pair)
{
  free (pair->host.data);
  ops_cuda.free (run->stream, pair->device.data);
}

Tensor
rows_of (Tensor t)
{
  return tensor_2d (t.dtype, t.data, t.shape[0] * t.shape[1], t.shape[2]);
}

Tensor
vector_of (Tensor t)
{
  return tensor_1d (t.dtype, t.data, tensor_count (&t));
}

void
pair_compare (Run *run, Pair *out, double *expected, double limit, const char *name)
{
  double error = 0.0, size = 0.0;
  const int64_t n = tensor_count (&out->host);
  const float *values = out->host.data;

  require (run, ops_cuda.download (run->stream, &out->device, &out->host), name);
  for (int64_t i = 0; i < n; i++)
    {
      if (isnan (expected[i]) && isfinite (values[i]))
        continue;
      error += (values[i] - expected[i]) * (values[i] - expected[i]);
      size += expected[i] * expected[i];
    }
  error = sqrt (error / size);
  /* Of a few numbers, all may round by the most that BF16 can. */
  if (n < 4096 && limit > 0.0)
    limit = fmax (limit, 0x1p-8);
  run->n_tests++;
  if (!(error <= limit))
    run->n_failed++;
  printf ("%s %d - %s: %.2e of at most %.1e\n", error <= limit ? "ok" : "not ok", run->n_tests,
          name, error, limit);
  free (expected);
}

double *
doubles (const Tensor *t)
{
  double *values = malloc ((size_t)tensor_count (t) * sizeof *values);

  for (int64_t i = 0; i < tensor_count (t); i++)
    values[i] = ((const float *)t->data)[i];
  return values;
}

double
silu (double x)
{
  return x / (1.0 + exp (-x));
}

void
check (Run *run, bool ok, const char *name)
{
  run->n_tests++;
  run->n_failed += !ok;
  printf ("%s %d - %s\n", ok ? "ok" : "not ok", run->n_tests, name);
}

int
run_begin (Run *run)
{
  DeviceCaps caps;
  const Status found = ops_cuda.query (0, &caps);

  if (found != STATUS_OK)
    {
      printf ("1..0 # SKIP no CUDA device: %s\n", status_name (found));
      return 77;
    }
  *run = (Run){ .activation = device_activation (&caps),
                .residual = device_residual (&caps),
                .state = (uint64_t)time (NULL) * 2654435761u + 1 };
  printf ("# %s, random numbers from %llu\n", caps.name, (unsigned long long)run->state);
  require (run, ops_cuda.open (0, NULL, &run->stream), "open");
  return 0;
}

int
run_end (Run *run)
{
  ops_cuda.trim (run->stream);
  check (run, ops_cuda.allocated (run->stream) == 0, "nothing is left allocated");
  ops_cuda.close (run->stream);
  printf ("1..%d\n", run->n_tests);
  return run->n_failed != 0;
}
