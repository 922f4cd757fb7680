/* SPDX-License-Identifier: Apache-2.0
 *
 * SVDQuant linears on sm_90 as the engine meets them: from host weights to outputs.
 *
 * Exact: within one unit of BF16 of level L1 on 99.9 % of the outputs, where a low-rank number that
 * lies between two of BF16 may have become either. Fast: against a plain model
 * of its arithmetic, and no further from the ideal (level L0) than L1 is. Twenty runs, one result.
 */
#include "kernels/reference/svdq.h"
#include "kernels/svdq-math.h"
#include "tests/kernels/sm90-test.cuh"

#include <stdlib.h>

#define RUNS     20
#define MOST_OFF 1e-3 /* share of outputs more than one unit away */
#define FAST_LIMIT                                                                                 \
  4e-3                  /* relative error to the model of its arithmetic, roundings of y included  \
                         */
#define LARGE (1 << 24) /* products above which the ideal is not computed: it takes seconds */

typedef struct
{
  int m, n, k, rank;
  bool swiglu, bias;
} Size;

static const Size sizes[] = {
  { 1, 64, 64, 0, false, false },       { 63, 192, 64, 16, false, true },
  { 255, 320, 192, 32, true, false },   { 256, 64, 1344, 0, false, true },
  { 257, 384, 704, 128, true, true },   { 130, 256, 3840, 32, false, true },
  { 40, 128, 10240, 48, false, false },
};

/* A linear in host memory. */
typedef struct
{
  std::vector<uint8_t> qweight, e4m3;
  std::vector<uint16_t> bf16, smooth, down, up;
  std::vector<float> outer, bias;
  SvdqSource source;
} Weights;

/* One group of weights of row n: nearest codes under the greatest's scale. */
static void
make_group (Test *t, Weights *w, const Size *size, int n, int g)
{
  const bool int4 = w->source.format == SVDQ_INT4;
  const int group = int4 ? SVDQ_INT4_GROUP : SVDQ_NVFP4_GROUP;
  const size_t at = (size_t)g * size->n + n;
  float v[SVDQ_INT4_GROUP], amax = 0.0f;
  for (int i = 0; i < group; i++)
    {
      v[i] = normal (t) * 0.02f;
      amax = fmaxf (amax, fabsf (v[i]));
    }
  float scale;
  if (int4)
    scale = bf16_to_float (w->bf16[at] = bf16_from_float (amax / 7.0f));
  else
    scale = e4m3_to_float (w->e4m3[at] = svdq_e4m3_from_float (amax / 6.0f / w->outer[n]))
            * w->outer[n];
  for (int i = 0; i < group; i++)
    {
      const int code
          = int4 ? svdq_int4_from_float (v[i] / scale) & 15 : svdq_e2m1_from_float (v[i] / scale);
      w->qweight[((size_t)n * size->k + (size_t)g * group + i) / 2] |= code << (i & 1) * 4;
    }
}

static void
make_weights (Test *t, Weights *w, SvdqFormat format, const Size *size)
{
  const int n = size->n, k = size->k, rank = size->rank;
  const int groups = k / (format == SVDQ_INT4 ? SVDQ_INT4_GROUP : SVDQ_NVFP4_GROUP);
  w->qweight.assign ((size_t)n * k / 2, 0);
  (format == SVDQ_INT4 ? (void)w->bf16.resize ((size_t)groups * n)
                       : (void)w->e4m3.resize ((size_t)groups * n));
  w->smooth.resize (k), w->down.resize ((size_t)k * rank), w->up.resize ((size_t)n * rank);
  if (format == SVDQ_NVFP4)
    w->outer.resize (n);
  for (int i = 0; i < (int)w->outer.size (); i++)
    w->outer[i] = 1.3e-4f * (1 + i % 4);
  w->source.format = format;
  for (int i = 0; i < n; i++)
    for (int g = 0; g < groups; g++)
      make_group (t, w, size, i, g);
  for (auto &s : w->smooth)
    s = bf16_from_float (0.25f + (next (t) % 1000) * 0.003f);
  for (auto &v : w->down)
    v = bf16_from_float (normal (t) / sqrtf ((float)k));
  for (auto &v : w->up)
    v = bf16_from_float (normal (t) * 0.5f);
  if (size->bias)
    w->bias.resize (n);
  for (auto &v : w->bias)
    v = normal (t);
  const void *scales = format == SVDQ_INT4 ? (void *)w->bf16.data () : (void *)w->e4m3.data ();
  w->source = (SvdqSource){ format,
                            rank,
                            w->qweight.data (),
                            scales,
                            w->smooth.data (),
                            w->down.data (),
                            w->up.data (),
                            format == SVDQ_NVFP4 ? w->outer.data () : NULL };
}

/* -- the model of the fast path -----------------------------------------------------------------
 */

static float
inverse (const Weights *w, int k)
{
  return svdq_round_bf16 (1.0f / bf16_to_float (w->smooth[k]));
}

/* What the rounding of the inverse takes from the activations, for the weights. */
static float
correction (const Weights *w, int k)
{
  return 1.0f / (bf16_to_float (w->smooth[k]) * inverse (w, k));
}

static float
power_for (float amax)
{
  int e = -100;
  while (e < 100 && amax > ldexpf (SVDQ_E4M3_MAX, e))
    e++;
  return ldexpf (1.0f, e);
}

/* E4M3 of values under one power of two; returns the power. */
static float
row_to_e4m3 (const float *v, float *out, int count)
{
  const float scale = power_for (svdq_greatest (v, count));
  for (int i = 0; i < count; i++)
    out[i] = e4m3_to_float (svdq_e4m3_from_float (v[i] / scale));
  return scale;
}

static void
fast_model (const Weights *w, const Size *size, const float *x, float *y)
{
  const int m = size->m, n = size->n, k = size->k, rank = size->rank;
  std::vector<float> rows ((size_t)n * k), row_scale (n), v (k), q (k), low (rank);
  for (int i = 0; i < n; i++)
    {
      for (int j = 0; j < k; j++)
        v[j] = (float)svdq_residual (&w->source, n, k, i, j) * correction (w, j);
      row_scale[i] = row_to_e4m3 (v.data (), &rows[(size_t)i * k], k);
    }
  for (int row = 0; row < m; row++)
    {
      for (int j = 0; j < k; j++)
        v[j] = svdq_round_bf16 (x[(size_t)row * k + j] * inverse (w, j));
      const float scale = row_to_e4m3 (v.data (), q.data (), k);
      for (int r = 0; r < rank; r++)
        {
          double sum = 0.0;
          for (int j = 0; j < k; j++)
            sum += (double)x[(size_t)row * k + j] * bf16_to_float (w->down[(size_t)j * rank + r]);
          low[r] = svdq_round_bf16 ((float)sum);
        }
      for (int i = 0; i < n; i++)
        {
          double sum = 0.0, raised = w->bias.empty () ? 0.0 : w->bias[i];
          for (int j = 0; j < k; j++)
            sum += q[j] * rows[(size_t)i * k + j];
          for (int r = 0; r < rank; r++)
            raised += (double)low[r] * bf16_to_float (w->up[(size_t)i * rank + r]);
          y[(size_t)row * n + i] = (float)(sum * scale * row_scale[i] + raised);
        }
    }
}

/* -- comparing ----------------------------------------------------------------------------------
 */

/* [m, n] -> what the layer is asked for. */
static std::vector<float>
finish (const std::vector<float> &y, const Size *size)
{
  if (!size->swiglu)
    return y;
  const int f = size->n / 2;
  std::vector<float> out ((size_t)size->m * f);
  for (int i = 0; i < size->m; i++)
    for (int j = 0; j < f; j++)
      {
        const double gate = y[(size_t)i * size->n + j], up = y[(size_t)i * size->n + f + j];
        out[(size_t)i * f + j] = (float)(gate / (1.0 + exp (-gate)) * up);
      }
  return out;
}

static double
relative (const std::vector<float> &got, const std::vector<float> &want)
{
  double error = 0.0, size = 0.0;
  for (size_t i = 0; i < want.size (); i++)
    {
      error += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
      size += (double)want[i] * want[i];
    }
  return sqrt (error / size);
}

/* Units of BF16 between two numbers, as distances of their ordered bits. */
static int
units (uint16_t a, uint16_t b)
{
  const int x = a & 0x8000 ? -(a & 0x7fff) : a, y = b & 0x8000 ? -(b & 0x7fff) : b;
  return abs (x - y);
}

/* How far [m, n] may be off because x proj_down, a sum of FP32 in any order, lies so near to where
 * rounding to BF16 turns that it may become either number, with which a row moves. */
static std::vector<float>
low_rank_doubt (const Weights *w, const Size *size, const std::vector<float> &x)
{
  const int m = size->m, n = size->n, k = size->k, rank = size->rank;
  std::vector<float> doubt ((size_t)m * n);
  for (int row = 0; row < m; row++)
    for (int r = 0; r < rank; r++)
      {
        double sum = 0.0, terms = 0.0;
        for (int j = 0; j < k; j++)
          {
            const double term
                = (double)x[(size_t)row * k + j] * bf16_to_float (w->down[(size_t)j * rank + r]);
            sum += term, terms += fabs (term);
          }
        const double bound = terms * 0x1p-20;
        const float apart
            = svdq_round_bf16 ((float)(sum + bound)) - svdq_round_bf16 ((float)(sum - bound));
        for (int i = 0; i < n && apart != 0.0f; i++)
          doubt[(size_t)row * n + i] += apart * fabsf (bf16_to_float (w->up[(size_t)i * rank + r]));
      }
  return doubt;
}

/* The same of what the layer is asked for; y [m, n] is what it makes before swiglu. */
static std::vector<float>
finish_doubt (const std::vector<float> &doubt, const std::vector<float> &y, const Size *size)
{
  if (!size->swiglu)
    return doubt;
  const int f = size->n / 2;
  std::vector<float> out ((size_t)size->m * f);
  for (int i = 0; i < size->m; i++)
    for (int j = 0; j < f; j++)
      {
        const size_t gate = (size_t)i * size->n + j, up = gate + f;
        const float silu = y[gate] / (1.0f + expf (-y[gate]));
        out[(size_t)i * f + j]
            = 1.1f * doubt[gate] * (fabsf (y[up]) + doubt[up]) + doubt[up] * fabsf (silu);
      }
  return out;
}

typedef struct
{
  size_t unequal, far, bad;
} Distance;

static Distance
distance (const std::vector<uint16_t> &got, const std::vector<float> &want,
          const std::vector<float> &doubt, float rms)
{
  Distance d = {};
  for (size_t i = 0; i < want.size (); i++)
    {
      const uint16_t w = bf16_from_float (want[i]);
      d.bad += !isfinite (bf16_to_float (got[i]));
      d.unequal += got[i] != w;
      /* Sums near zero keep the error of their terms. */
      const float most = doubt[i] + 0x1p-8f * fabsf (want[i]) * (doubt[i] > 0) + 1e-5f * rms;
      d.far += units (got[i], w) > 1 && fabsf (bf16_to_float (got[i]) - want[i]) > most;
    }
  return d;
}

/* -- running ------------------------------------------------------------------------------------
 */

static uint64_t
hash (const std::vector<uint16_t> &v)
{
  uint64_t h = 1469598103934665603ull;
  for (uint16_t bits : v)
    h = (h ^ bits) * 1099511628211ull;
  return h;
}

/* The layer on the card, RUNS times into poisoned memory; *same: whether all agreed. */
static Status
run (Stream *s, const LinearBackend *backend, const Weights *w, const Size *size,
     const std::vector<uint16_t> &x, std::vector<uint16_t> &y, bool *same)
{
  LinearSource source = {};
  source.n = size->n, source.k = size->k, source.svdq = &w->source, source.swiglu = size->swiglu;
  if (size->bias)
    source.bias = tensor_1d (DTYPE_F32, const_cast<float *> (w->bias.data ()), size->n);
  const int64_t columns = size->swiglu ? size->n / 2 : size->n;
  Linear *linear = NULL;
  void *memory[2] = {};
  uint64_t first = 0;
  CHECK (backend->prepare_weights (s, &source, &linear));
  CHECK (stream_alloc (s, x.size () * 2, &memory[0]));
  CHECK (stream_alloc (s, y.size () * 2, &memory[1]));
  CUDA_CHECK (s, cudaMemcpy (memory[0], x.data (), x.size () * 2, cudaMemcpyHostToDevice));
  CUDA_CHECK (s,
              cudaDeviceSynchronize ()); /* the copy may still run, and `compute` does not wait */
  const Tensor in = tensor_2d (DTYPE_BF16, memory[0], size->m, size->k);
  Tensor out = tensor_2d (DTYPE_BF16, memory[1], size->m, columns);
  *same = true;
  for (int i = 0; i < RUNS; i++)
    {
      CUDA_CHECK (s, cudaMemsetAsync (memory[1], POISON, y.size () * 2, s->compute));
      CHECK (backend->apply (s, linear, &in, &out));
      CHECK (cuda_wait (s));
      CUDA_CHECK (s, cudaMemcpy (y.data (), memory[1], y.size () * 2, cudaMemcpyDeviceToHost));
      first = i == 0 ? hash (y) : first;
      if (hash (y) != first)
        printf ("run %d differs from run 0\n", i);
      *same = *same && hash (y) == first;
    }
  backend->release (s, linear);
  stream_free (s, memory[0]);
  stream_free (s, memory[1]);
  return STATUS_OK;
}

static std::vector<float>
floats_of (const std::vector<uint16_t> &bits)
{
  std::vector<float> out (bits.size ());
  for (size_t i = 0; i < bits.size (); i++)
    out[i] = bf16_to_float (bits[i]);
  return out;
}

static Status
test_size (Test *t, SvdqFormat format, const Size *size)
{
  const size_t numbers = (size_t)size->m * size->n;
  const size_t outputs = size->swiglu ? numbers / 2 : numbers;
  Weights w = {};
  make_weights (t, &w, format, size);
  std::vector<uint16_t> x ((size_t)size->m * size->k), y (outputs);
  for (size_t i = 0; i < x.size (); i++)
    x[i] = bf16_from_float (normal (t) * bf16_to_float (w.smooth[i % size->k]));
  const std::vector<float> xf = floats_of (x);
  std::vector<float> contract (numbers), model (numbers), ideal (numbers);
  const float *bias = size->bias ? w.bias.data () : NULL;
  CHECK (svdq_reference (SVDQ_LEVEL_CONTRACT, &w.source, size->n, size->k, bias, xf.data (),
                         size->m, contract.data ()));
  fast_model (&w, size, xf.data (), model.data ());
  const bool small = (int64_t)size->n * size->k < LARGE;
  if (small)
    CHECK (svdq_reference (SVDQ_LEVEL_IDEAL, &w.source, size->n, size->k, bias, xf.data (), size->m,
                           ideal.data ()));

  const char *name = format == SVDQ_INT4 ? "int4" : "nvfp4";
  char text[80];
  snprintf (text, sizeof text, "%dx%dx%d rank %d%s%s", size->m, size->n, size->k, size->rank,
            size->swiglu ? " swiglu" : "", size->bias ? " bias" : "");
  const std::vector<float> want = finish (contract, size);
  float rms = 0.0f;
  for (float v : want)
    rms += v * v / want.size ();
  rms = sqrtf (rms);

  bool same = false;
  CHECK (run (t->s, &linear_cuda_svdq_sm90_exact, &w, size, x, y, &same));
  const std::vector<float> doubt = finish_doubt (low_rank_doubt (&w, size, xf), contract, size);
  const Distance d = distance (y, want, doubt, rms);
  bool ok = same && d.bad == 0 && d.far <= outputs * MOST_OFF;
  t->failures += !ok;
  printf ("%-6s exact %-5s %-32s unequal %zu, far %zu, bad %zu of %zu, error %.2e, %s\n",
          ok ? "ok" : "FAILED", name, text, d.unequal, d.far, d.bad, outputs,
          relative (floats_of (y), want), same ? "one hash" : "HASHES DIFFER");

  CHECK (run (t->s, &linear_cuda_svdq_sm90_fast, &w, size, x, y, &same));
  const std::vector<float> got = floats_of (y), expected = finish (model, size);
  const double error = relative (got, expected);
  const std::vector<float> best = finish (ideal, size);
  const double ours = small ? relative (got, best) : 0.0;
  const double contracts = small ? relative (want, best) : 1.0;
  ok = same && error < FAST_LIMIT && ours <= contracts;
  t->failures += !ok;
  printf ("%-6s fast  %-5s %-32s error to model %.2e, to ideal %.4f (L1 %.4f), %s\n",
          ok ? "ok" : "FAILED", name, text, error, ours, contracts,
          same ? "one hash" : "HASHES DIFFER");
  fflush (stdout);
  return STATUS_OK;
}

static Status
test_sizes (Test *t, bool small)
{
  void *first = NULL; /* the stream's scratch comes with it */
  (void)small;
  CHECK (cuda_alloc (t->s, 256, &first));
  for (int format = 0; format < 2; format++)
    for (const Size &size : sizes)
      CHECK (test_size (t, format ? SVDQ_NVFP4 : SVDQ_INT4, &size));
  return STATUS_OK;
}

int
main (int argc, char **argv)
{
  return run_on_sm90 (test_sizes, argc, argv);
}
