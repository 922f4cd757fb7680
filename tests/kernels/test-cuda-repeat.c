/* SPDX-License-Identifier: Apache-2.0
 *
 * The same input gives the same bytes, at the sizes of a picture of 2048 x 2048: what races shows
 * where there is much to do. Prints TAP.
 */
#include "kernels/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define M     16512 /* tokens: 16384 of the picture, 128 of the caption */
#define D     3840
#define HEADS 30
#define F     10240
#define RUNS  40 /* a race may be rare */

typedef struct
{
  Stream *stream;
  uint64_t state;
  int n, failed;
} Run;

static const Ops *const ops = &ops_cuda;

static void
require (Run *run, Status status, const char *what)
{
  if (status == STATUS_OK)
    return;
  printf ("Bail out! %s: %s: %s\n", what, status_name (status), ops->detail (run->stream));
  exit (1);
}

static float
next_random (Run *run)
{
  run->state = run->state * 6364136223846793005u + 1442695040888963407u;
  return (float)(run->state >> 40) / (float)(1 << 24) - 0.5f;
}

/* A tensor on the card, of random numbers up to `size`. */
static Tensor
make (Run *run, DType dtype, int64_t a, int64_t b, float size)
{
  Tensor host = tensor_2d (DTYPE_F32, NULL, a, b), device = tensor_2d (dtype, NULL, a, b);
  float *values = malloc (tensor_bytes (&host));

  for (int64_t i = 0; i < a * b; i++)
    values[i] = size * next_random (run);
  host.data = values;
  require (run, ops->alloc (run->stream, tensor_bytes (&device), &device.data), "alloc");
  require (run, ops->upload (run->stream, &host, &device), "upload");
  free (values);
  return device;
}

static uint64_t
digest (Run *run, const Tensor *device)
{
  Tensor host = *device;
  uint64_t sum = 14695981039346656037u;

  host.data = malloc (tensor_bytes (&host));
  require (run, ops->wait (run->stream), "wait");
  require (run, ops->download (run->stream, device, &host), "download");
  for (size_t i = 0; i + 8 <= tensor_bytes (&host); i += 8)
    {
      uint64_t word;

      memcpy (&word, (const char *)host.data + i, 8);
      sum = (sum ^ word) * 1099511628211u;
    }
  free (host.data);
  return sum;
}

static void
report (Run *run, int differ, const char *name)
{
  run->n++;
  run->failed += differ > 0;
  printf ("%s %d - %s: %d of %d runs differ\n", differ == 0 ? "ok" : "not ok", run->n, name, differ,
          RUNS - 1);
  fflush (stdout);
}

static void
test_linear (Run *run, const char *name, int64_t n, int64_t k, bool swiglu)
{
  DeviceCaps caps;
  Tensor x = make (run, DTYPE_BF16, M, k, 2.0f),
         out = make (run, DTYPE_BF16, M, n / (swiglu ? 2 : 1), 1);
  LinearSource source = { .n = n, .k = k, .n_parts = 1, .swiglu = swiglu };
  float *values = malloc ((size_t)(n * k) * sizeof (float));
  const LinearBackend *backend = &linear_cuda_bf16_sm90;
  uint64_t first = 0;
  Linear *linear;
  int differ = 0;

  ops->query (0, &caps);
  if (!backend->supports (&caps, NULL, NULL))
    backend = &linear_cuda_bf16;
  for (int64_t i = 0; i < n * k; i++)
    values[i] = 0.04f * next_random (run);
  source.parts[0] = tensor_2d (DTYPE_F32, values, n, k);
  require (run, backend->prepare_weights (run->stream, &source, &linear), "prepare");
  for (int i = 0; i < RUNS; i++)
    {
      uint64_t now;

      require (run, backend->apply (run->stream, linear, &x, &out), name);
      now = digest (run, &out);
      first = i == 0 ? now : first;
      differ += now != first;
    }
  report (run, differ, name);
  backend->release (run->stream, linear);
  free (values);
  ops->free (run->stream, x.data);
  ops->free (run->stream, out.data);
}

static void
test_attention (Run *run, int64_t m)
{
  Tensor flat = make (run, DTYPE_BF16, m, 3 * D, 2.0f), out = make (run, DTYPE_BF16, m, D, 1.0f);
  Tensor qkv = tensor_3d (DTYPE_BF16, flat.data, m, 3 * HEADS, D / HEADS);
  uint64_t first = 0;
  int differ = 0;
  char name[64];

  for (int i = 0; i < RUNS; i++)
    {
      uint64_t now;

      require (run, ops->attention (run->stream, &qkv, HEADS, HEADS, false, &out), "attention");
      now = digest (run, &out);
      first = i == 0 ? now : first;
      differ += now != first;
    }
  snprintf (name, sizeof name, "attention of %lld tokens", (long long)m);
  report (run, differ, name);
  ops->free (run->stream, flat.data);
  ops->free (run->stream, out.data);
}

/* Rows, in place where the model has them so: each run begins with a copy of the same input. */
static void
test_rows (Run *run)
{
  Tensor from = make (run, DTYPE_BF16, M, 3 * D, 2.0f), to = make (run, DTYPE_BF16, M, 3 * D, 1.0f);
  Tensor table = make (run, DTYPE_F32, M, D / HEADS, 1.0f);
  Tensor weight = make (run, DTYPE_F32, 1, D, 1.0f);
  Tensor q = tensor_1d (DTYPE_F32, weight.data, D / HEADS),
         v = tensor_1d (DTYPE_F32, weight.data, D);
  Tensor qkv = tensor_3d (DTYPE_BF16, to.data, M, 3 * HEADS, D / HEADS);
  Tensor x = tensor_2d (DTYPE_BF16, to.data, M, D), y = tensor_2d (DTYPE_BF16, from.data, M, D);
  Tensor out = make (run, DTYPE_BF16, M, D, 1.0f);
  uint64_t first[2] = { 0 };
  int differ[2] = { 0 };

  table = tensor_3d (DTYPE_F32, table.data, M, D / HEADS / 2, 2);
  for (int i = 0; i < RUNS; i++)
    for (int op = 0; op < 2; op++)
      {
        uint64_t now;

        require (run, ops->copy (run->stream, &from, &to), "copy");
        if (op == 0)
          require (run,
                   ops->qk_norm_rope (run->stream, &qkv, HEADS, HEADS, &q, &q, 1e-5f, &table,
                                      ROPE_INTERLEAVED),
                   "qk_norm_rope");
        else
          require (run, ops->residual_norm (run->stream, &x, &y, &v, &v, &v, &v, 1e-5f, &out),
                   "residual_norm");
        now = op == 0 ? digest (run, &to) : digest (run, &out) ^ digest (run, &x);
        first[op] = i == 0 ? now : first[op];
        differ[op] += now != first[op];
      }
  report (run, differ[0], "qk_norm_rope");
  report (run, differ[1], "residual_norm");
  ops->free (run->stream, from.data);
  ops->free (run->stream, to.data);
  ops->free (run->stream, table.data);
  ops->free (run->stream, weight.data);
  ops->free (run->stream, out.data);
}

int
main (void)
{
  Run run = { .state = 20260117 };
  DeviceCaps caps;
  Status found = ops_cuda.query (0, &caps);

  if (found != STATUS_OK || !caps.bf16)
    {
      printf ("1..0 # SKIP no CUDA device for BF16: %s\n", status_name (found));
      return 77;
    }
  require (&run, ops->open (0, NULL, &run.stream), "open");
  test_rows (&run);
  test_attention (&run, 4224);
  test_attention (&run, M);
  test_linear (&run, "to_qkv", 3 * D, D, false);
  test_linear (&run, "to_out", D, D, false);
  test_linear (&run, "w13", 2 * F, D, true);
  test_linear (&run, "w2", D, F, false);
  ops->close (run.stream);
  printf ("1..%d\n", run.n);
  return run.failed != 0;
}
