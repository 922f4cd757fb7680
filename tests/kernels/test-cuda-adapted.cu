/* SPDX-License-Identifier: Apache-2.0
 *
 * 4-bit layers to which LoRA files add (LinearBackend.adapt), by every way that this card has.
 *
 * What is added is more of a layer's own low-rank branch: a layer of which half of that branch
 * comes as such an addition gives the bytes of the whole. The ways themselves are compared with the
 * reference elsewhere; dense layers are in test-cuda-heavy.
 */
#include "kernels/cuda/common.cuh"
#include "tests/kernels/patience.h"
#include "tests/kernels/svdq-host.h"

#include <stdio.h>

#define SKIPPED 77
#define POISON  0xff

static const LinearBackend *const backends[] = {
  &linear_cuda_svdq_int4,       &linear_cuda_svdq_int8,      &linear_cuda_svdq_nvfp4,
  &linear_cuda_svdq_nvfp4_fp16, &linear_cuda_svdq_sm90_fast, &linear_cuda_svdq_sm90_exact,
};

static const HostSize sizes[] = {
  /* m, n, k, rank, swiglu, bias, outer */
  { 1, 64, 64, 16, false, false, true },    { 63, 192, 64, 32, false, true, true },
  { 77, 128, 192, 48, true, false, true },  { 130, 256, 704, 144, true, true, true },
  { 257, 384, 1344, 32, true, true, true },
};

/* Columns first..first + count - 1 of rows of `pitch` numbers. */
static std::vector<uint16_t>
columns (const std::vector<uint16_t> &from, int pitch, int first, int count)
{
  std::vector<uint16_t> out;
  for (size_t row = 0; row < from.size (); row += pitch)
    out.insert (out.end (), from.begin () + row + first, from.begin () + row + first + count);
  return out;
}

/* `layer` adapted by the ranks of `host` behind the first `own`. */
static Status
adapt (Stream *s, const HostLinear &host, int own, const Linear *layer, Linear **out)
{
  const int n = host.size.n, k = host.size.k, rank = host.size.rank, rest = rank - own;
  const int turn = host.size.swiglu ? layer->turn : 0;
  std::vector<float> down ((size_t)rest * k), up ((size_t)n * rest);
  for (int r = 0; r < rest; r++)
    for (int i = 0; i < k; i++)
      down[(size_t)r * k + i] = bf16_to_float (host.down[(size_t)i * rank + own + r]);
  for (int row = 0; row < n; row++)
    {
      const int i = row % (n / 2), place = 2 * (i - i % 8) + i % 8 + row / (n / 2) * 8;
      for (int r = 0; r < rest; r++)
        up[(size_t)(turn > 0 ? place : row) * rest + r]
            = bf16_to_float (host.up[(size_t)row * rank + own + r]);
    }
  const LowRankPair pair = { tensor_2d (DTYPE_F32, down.data (), rest, k),
                             tensor_2d (DTYPE_F32, up.data (), n, rest) };
  return layer->backend->adapt (s, layer, &pair, out);
}

/* x through the layer, with all ranks its own, or `own` and the others added. */
static Status
run (Stream *s, const LinearBackend *backend, const HostLinear &host, int own, const Tensor *x,
     std::vector<uint16_t> *y)
{
  const HostSize &size = host.size;
  const std::vector<uint16_t> down = columns (host.down, size.rank, 0, own);
  const std::vector<uint16_t> up = columns (host.up, size.rank, 0, own);
  SvdqSource svdq = host.source ();
  svdq.rank = own, svdq.proj_down = down.data (), svdq.proj_up = up.data ();
  LinearSource source = {};
  source.n = size.n, source.k = size.k, source.swiglu = size.swiglu, source.svdq = &svdq;
  if (size.bias)
    source.bias = tensor_1d (DTYPE_F32, const_cast<float *> (host.bias.data ()), size.n);
  Linear *layer = NULL, *adapted = NULL;
  void *memory = NULL;
  y->resize ((size_t)size.m * size.n / (size.swiglu ? 2 : 1));
  CHECK (stream_alloc (s, y->size () * 2, &memory));
  CUDA_CHECK (s, cudaMemsetAsync (memory, POISON, y->size () * 2, s->compute));
  Tensor out = tensor_2d (x->dtype, memory, size.m, (int64_t)y->size () / size.m);
  CHECK (backend->prepare_weights (s, &source, &layer));
  if (own < size.rank)
    CHECK (adapt (s, host, own, layer, &adapted));
  CHECK (backend->apply (s, adapted != NULL ? adapted : layer, x, &out));
  CUDA_CHECK (
      s, cudaMemcpyAsync (y->data (), memory, y->size () * 2, cudaMemcpyDeviceToHost, s->compute));
  CHECK (cuda_wait (s));
  backend->release (s, adapted);
  backend->release (s, layer);
  stream_free (s, memory);
  return STATUS_OK;
}

static Status
test (Stream *s, const LinearBackend *backend, const HostLinear &host, int *count, int *failures)
{
  const HostSize &size = host.size;
  const int own = size.rank / 32 * 16;
  std::vector<uint16_t> whole, split;
  Tensor from = tensor_2d (DTYPE_F32, const_cast<float *> (host.x.data ()), size.m, size.k);
  Tensor x = from;
  x.dtype = device_activation (&s->caps);
  CHECK (stream_alloc (s, tensor_bytes (&x), &x.data));
  CHECK (stream_upload_weights (s, &from, x.dtype, x.data));
  CHECK (run (s, backend, host, size.rank, &x, &whole));
  CHECK (run (s, backend, host, own, &x, &split));
  stream_free (s, x.data);
  const bool ok = whole == split;
  *failures += !ok;
  printf ("%s %d %s %dx%dx%d, %d of %d ranks added%s%s\n", ok ? "ok" : "not ok", ++*count,
          backend->name, size.m, size.n, size.k, size.rank - own, size.rank,
          size.swiglu ? ", swiglu" : "", size.bias ? ", bias" : "");
  fflush (stdout);
  return STATUS_OK;
}

/* All sizes by one way, in the format that it takes. */
static Status
test_way (Stream *s, const LinearBackend *backend, SvdqFormat format, int *count, int *failures)
{
  for (const bool exact : { false, true })
    {
      StreamOptions options = {};
      options.exact = exact;
      if (!backend->supports (&s->caps, &options, &format))
        continue;
      for (const HostSize &size : sizes)
        CHECK (test (s, backend, HostLinear (format, size, 7), count, failures));
      break;
    }
  return STATUS_OK;
}

int
main (void)
{
  Stream *s = NULL;
  Status status = cuda_open (0, NULL, &s);
  int count = 0, failures = 0;
  if (status != STATUS_OK)
    {
      printf ("1..0 # SKIP no usable device: %s\n", status_name (status));
      return SKIPPED;
    }
  void *first = NULL; /* the stream's scratch comes with it */
  status = cuda_alloc (s, 256, &first);
  for (const LinearBackend *backend : backends)
    for (const SvdqFormat format : { SVDQ_INT4, SVDQ_NVFP4 })
      if (status == STATUS_OK)
        status = test_way (s, backend, format, &count, &failures);
  if (status != STATUS_OK)
    printf ("Bail out! %s %s\n", status_name (status), cuda_detail (s));
  printf ("1..%d\n", count);
  cuda_close (s);
  return failures > 0 || status != STATUS_OK;
}
