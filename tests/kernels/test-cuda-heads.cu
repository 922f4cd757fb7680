/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of 4-bit codes that end in the norm and rotation of q and k (LinearBackend.apply_heads):
 * every bit is that of the product and Ops.qk_norm_rope behind it, by every way that this card has
 * and by either tile. The two steps themselves are compared with the reference elsewhere.
 * Argument: how many of the cases to run (all), as a sanitizer takes its time.
 */
#include "kernels/cuda/common.cuh"
#include "tests/kernels/patience.h"
#include "tests/kernels/svdq-host.h"

#include <stdio.h>
#include <stdlib.h>

#define SKIPPED 77
#define POISON  0xff /* every byte of an output before a run: a NaN in BF16 and in FP16 */
#define GUARD   64   /* numbers behind an output, which must stay as they are */
#define EPS     1e-5f
#define RUNS    20

static const Ops *const ops = &ops_cuda;

struct Case
{
  int m, n_q, n_kv, d, k, rank;
  bool bias, outer;
  int added; /* ranks of an adapter */
  RopePairing pairing;
};

static const Case cases[] = {
  { 1, 1, 1, 128, 64, 0, false, false, 0, ROPE_INTERLEAVED },
  { 63, 1, 2, 128, 192, 16, true, false, 0, ROPE_INTERLEAVED },
  { 129, 3, 1, 128, 320, 0, true, true, 0, ROPE_INTERLEAVED },
  { 257, 2, 2, 128, 64, 48, false, true, 0, ROPE_INTERLEAVED },
  { 191, 4, 1, 128, 64, 32, true, true, 16, ROPE_INTERLEAVED },
  { 70, 1, 1, 128, 128, 0, false, false, 32, ROPE_INTERLEAVED },
  { 1061, 1, 1, 128, 64, 0, true, false, 0, ROPE_INTERLEAVED },   /* a last, lower group of tiles */
  { 4685, 1, 1, 128, 64, 16, false, false, 0, ROPE_INTERLEAVED }, /* two slabs of rows */
  { 255, 30, 30, 128, 384, 32, true, false, 0, ROPE_INTERLEAVED },
  /* In two steps after all: */
  { 65, 2, 1, 64, 128, 16, true, false, 0, ROPE_INTERLEAVED },
  { 65, 1, 1, 128, 128, 16, true, false, 0, ROPE_HALF },
};

#define N_CASES (int)(sizeof cases / sizeof *cases)

struct Test
{
  Stream *s;
  int tests, failures;
  int n_cases; /* to run */
};

/* -- what goes in -------------------------------------------------------------------------------
 */

/* A layer on the card, its input, and what its heads go through. */
struct Layer
{
  Linear *base, *adapted;
  Tensor x, q_weight, k_weight, table;
  const Linear *linear; /* what to apply: one of the first two */
  HeadNorm norm;
};

static Status
put (Stream *s, const std::vector<float> &values, DType type, int64_t rows, Tensor *out)
{
  const int64_t columns = (int64_t)values.size () / rows;
  const Tensor host = tensor_2d (DTYPE_F32, const_cast<float *> (values.data ()), rows, columns);
  *out = tensor_2d (type, NULL, rows, columns);
  CHECK (ops->alloc (s, tensor_bytes (out), &out->data));
  return ops->upload (s, &host, out);
}

static Status
put_norm (Stream *s, const Case &c, Layer *l)
{
  std::mt19937 random (c.m);
  std::normal_distribution<float> normal;
  std::vector<float> q, k, table;
  for (int i = 0; i < c.d; i++)
    {
      q.push_back (1.0f + 0.4f * normal (random));
      k.push_back (1.0f + 0.4f * normal (random));
    }
  for (int64_t i = 0; i < (int64_t)c.m * c.d / 2; i++)
    {
      const float angle = 3.0f * normal (random);
      table.push_back (cosf (angle));
      table.push_back (sinf (angle));
    }
  CHECK (put (s, q, DTYPE_F32, 1, &l->q_weight));
  CHECK (put (s, k, DTYPE_F32, 1, &l->k_weight));
  CHECK (put (s, table, DTYPE_F32, c.m, &l->table));
  l->norm = { c.n_q, c.n_kv, &l->q_weight, &l->k_weight, EPS, &l->table, c.pairing };
  return STATUS_OK;
}

static Status
adapt (Stream *s, const Case &c, int n, Layer *l)
{
  std::mt19937 random (c.k);
  std::normal_distribution<float> normal;
  std::vector<float> down ((size_t)c.added * c.k), up ((size_t)n * c.added);
  for (float &value : down)
    value = normal (random) / sqrtf ((float)c.k);
  for (float &value : up)
    value = normal (random);
  const LowRankPair pair = { tensor_2d (DTYPE_F32, down.data (), c.added, c.k),
                             tensor_2d (DTYPE_F32, up.data (), n, c.added) };
  return l->base->backend->adapt (s, l->base, &pair, &l->adapted);
}

static Status
layer_new (Stream *s, const LinearBackend *backend, SvdqFormat format, const Case &c, Layer *l)
{
  const int n = (c.n_q + 2 * c.n_kv) * c.d;
  const HostLinear host (format, { c.m, n, c.k, c.rank, false, c.bias, c.outer }, 7);
  const SvdqSource svdq = host.source ();
  LinearSource source = {};
  source.n = n, source.k = c.k, source.svdq = &svdq;
  if (c.bias)
    source.bias = tensor_1d (DTYPE_F32, const_cast<float *> (host.bias.data ()), n);
  CHECK (put (s, host.x, device_activation (&s->caps), c.m, &l->x));
  CHECK (put_norm (s, c, l));
  CHECK (backend->prepare_weights (s, &source, &l->base));
  if (c.added > 0)
    CHECK (adapt (s, c, n, l));
  l->linear = c.added > 0 ? l->adapted : l->base;
  return STATUS_OK;
}

static void
layer_free (Stream *s, Layer *l)
{
  if (l->base != NULL)
    {
      l->base->backend->release (s, l->adapted);
      l->base->backend->release (s, l->base);
    }
  for (const Tensor *t : { &l->x, &l->q_weight, &l->k_weight, &l->table })
    ops->free (s, t->data);
}

/* -- running ------------------------------------------------------------------------------------
 */

/* qkv [m, heads, d] in one pass or in two steps, and GUARD numbers behind it. */
static Status
run (Stream *s, const Layer &l, const Case &c, bool one_pass, std::vector<uint16_t> *out)
{
  const LinearBackend *backend = l.linear->backend;
  const HeadNorm &norm = l.norm;
  void *memory = NULL;
  out->resize ((size_t)c.m * l.linear->n + GUARD);
  CHECK (ops->alloc (s, out->size () * 2, &memory));
  CUDA_CHECK (s, cudaMemsetAsync (memory, POISON, out->size () * 2, s->compute));
  Tensor qkv = tensor_3d (l.x.dtype, memory, c.m, c.n_q + 2 * c.n_kv, c.d);
  if (one_pass)
    CHECK (backend->apply_heads (s, l.linear, &l.x, &norm, &qkv));
  else
    {
      CHECK (backend->apply (s, l.linear, &l.x, &qkv));
      CHECK (ops->qk_norm_rope (s, &qkv, norm.n_q, norm.n_kv, norm.q_weight, norm.k_weight,
                                norm.eps, norm.table, norm.pairing));
    }
  CUDA_CHECK (s, cudaMemcpyAsync (out->data (), memory, out->size () * 2, cudaMemcpyDeviceToHost,
                                  s->compute));
  CHECK (ops->wait (s));
  ops->free (s, memory);
  return STATUS_OK;
}

/* Where two outputs differ, by what is there. */
struct Differences
{
  int64_t q, k, v, behind;
};

static Differences
compare (const Case &c, const std::vector<uint16_t> &a, const std::vector<uint16_t> &b)
{
  const int heads = c.n_q + 2 * c.n_kv;
  const int64_t count = (int64_t)c.m * heads * c.d;
  Differences found = {};
  for (int64_t i = 0; i < (int64_t)a.size (); i++)
    {
      const int64_t head = i / c.d % heads;
      int64_t *what = i >= count              ? &found.behind
                      : head < c.n_q          ? &found.q
                      : head < c.n_q + c.n_kv ? &found.k
                                              : &found.v;
      *what += a[i] != b[i];
    }
  return found;
}

static void
report (Test *t, bool ok, const char *name, const Case &c, const char *text)
{
  t->failures += !ok;
  printf ("%s %d - %s: %d rows, %d + 2 x %d heads of %d, k %d, rank %d + %d%s%s%s: %s\n",
          ok ? "ok" : "not ok", ++t->tests, name, c.m, c.n_q, c.n_kv, c.d, c.k, c.rank, c.added,
          c.bias ? ", bias" : "", c.outer ? ", outer" : "",
          c.pairing == ROPE_HALF ? ", halves" : "", text);
  fflush (stdout);
}

static Status
test_case (Test *t, const LinearBackend *backend, const Case &c, const Layer &l)
{
  const int multiprocessors = t->s->caps.multiprocessors;
  std::vector<uint16_t> two, one;
  CHECK (run (t->s, l, c, false, &two));
  for (const bool large : { true, false })
    {
      t->s->caps.multiprocessors = large ? 1 : 1 << 20;
      const Status status = run (t->s, l, c, true, &one);
      t->s->caps.multiprocessors = multiprocessors;
      CHECK (status);
      const Differences d = compare (c, one, two);
      char text[160];
      snprintf (text, sizeof text,
                "%s tiles, numbers that differ: %lld of q, %lld of k, %lld of v, %lld behind",
                large ? "large" : "small", (long long)d.q, (long long)d.k, (long long)d.v,
                (long long)d.behind);
      report (t, d.q + d.k + d.v + d.behind == 0, backend->name, c, text);
    }
  return STATUS_OK;
}

static Status
test_repeats (Test *t, const LinearBackend *backend, const Case &c, const Layer &l)
{
  std::vector<uint16_t> first, again;
  int differ = 0;
  CHECK (run (t->s, l, c, true, &first));
  for (int i = 1; i < RUNS; i++)
    {
      CHECK (run (t->s, l, c, true, &again));
      differ += again != first;
    }
  char text[80];
  snprintf (text, sizeof text, "%d of %d further runs differ", differ, RUNS - 1);
  report (t, differ == 0, backend->name, c, text);
  return STATUS_OK;
}

static Status
test_way (Test *t, const LinearBackend *backend, SvdqFormat format)
{
  for (int i = 0; i < t->n_cases; i++)
    {
      const Case &c = cases[i];
      /* Slabs of rows are nowhere else, and few products each. */
      const bool slabs = c.m > 4608;
      if (!slabs && (int64_t)c.m * (c.n_q + 2 * c.n_kv) * c.d * (c.k + c.rank) > MOST_PRODUCTS)
        continue;
      Layer l = {};
      Status status = layer_new (t->s, backend, format, c, &l);
      if (status == STATUS_OK)
        status = test_case (t, backend, c, l);
      if (status == STATUS_OK && !IS_EMULATED) /* there each launch is repeated, in other orders */
        status = test_repeats (t, backend, c, l);
      layer_free (t->s, &l);
      CHECK (status);
    }
  return STATUS_OK;
}

/* -- which ways there are -----------------------------------------------------------------------
 */

struct Way
{
  const LinearBackend *backend;
  SvdqFormat format;
};

static const Way ways[] = {
  { &linear_cuda_svdq_int4, SVDQ_INT4 },
  { &linear_cuda_svdq_int8, SVDQ_INT4 },
  { &linear_cuda_svdq_nvfp4, SVDQ_NVFP4 },
  { &linear_cuda_svdq_nvfp4_fp16, SVDQ_NVFP4 },
};

int
main (int argc, char **argv)
{
  Test t = {};
  t.n_cases = argc > 1 && atoi (argv[1]) < N_CASES ? atoi (argv[1]) : N_CASES;
  Status status = ops->open (0, NULL, &t.s);
  if (status != STATUS_OK)
    {
      printf ("1..0 # SKIP no usable device: %s\n", status_name (status));
      return SKIPPED;
    }
  for (const Way &way : ways)
    {
      const StreamOptions options = {};
      /* Above sm_89, 4-bit integers are emulated and not chosen, but run. */
      const bool runs = way.backend->supports (&t.s->caps, &options, &way.format)
                        || way.backend == &linear_cuda_svdq_int4;
      if (status == STATUS_OK && runs)
        status = test_way (&t, way.backend, way.format);
    }
  if (status != STATUS_OK)
    printf ("Bail out! %s %s\n", status_name (status), ops->detail (t.s));
  printf ("1..%d\n", t.tests);
  ops->close (t.s);
  return t.failures > 0 || status != STATUS_OK;
}
