/* SPDX-License-Identifier: Apache-2.0
 *
 * Quantising for SVDQuant linears on sm_90 against a plain model: codes and scales are equal in
 * every bit, the low-rank product within its rounding, and a second run gives the same bytes.
 * `test-quantise-sm90 small`: what a sanitizer has the time for.
 */
#include "kernels/cuda/svdq_sm90.h"
#include "kernels/svdq-math.h"
#include "tests/kernels/sm90-test.cuh"

#include <cuda_fp16.h>

#ifdef EMULATED
#include "tests/kernels/emulation/emulation.h"
#endif

#include <algorithm>

#include <stdlib.h>

#define SMALL ((int64_t)1 << 25) /* products */

/* -- quantising ---------------------------------------------------------------------------------
 */

static int
exponent_of (float amax, float most)
{
  int e = -100;
  while (e < 100 && amax > ldexpf (most, e))
    e++;
  return e;
}

/* What codes stand for, and the scale of the row. */
typedef struct
{
  float *value, *scale;
} Wanted;

static void
quantise_e4m3 (const std::vector<float> &xh, int exponent, const Wanted &out)
{
  *out.scale = ldexpf (1.0f, exponent);
  for (size_t i = 0; i < xh.size (); i++)
    out.value[i] = e4m3_to_float (svdq_e4m3_from_float (xh[i] / *out.scale)) * *out.scale;
}

/* A row whose first scale, if E4M3, comes of so many warps' first strips. */
static void
quantise_row (const SvdqQuantise &q, const uint16_t *x, const uint16_t *smooth, int warps,
              const Wanted &out)
{
  std::vector<float> xh (q.k);
  for (int i = 0; i < q.k; i++)
    {
      const float v = bf16_to_float (x[i]), s = bf16_to_float (smooth[i]);
      xh[i] = q.kind == SVDQ_CODES_E4M3 ? svdq_round_bf16 (v * s) : svdq_smoothed (v, s);
    }
  const float amax = svdq_greatest (xh.data (), q.k);
  *out.scale = 1.0f;
  if (q.kind == SVDQ_CODES_E4M3)
    {
      const int exponent = exponent_of (amax, 448.0f), seen = std::min (q.k, 64 * warps);
      const int first
          = std::min (exponent_of (svdq_greatest (xh.data (), seen), 448.0f) + E4M3_HEADROOM, 100);
      quantise_e4m3 (xh, std::max (exponent, first), out);
      return;
    }
  const bool int4 = q.kind != SVDQ_CODES_NVFP4_F16;
  const int group = int4 ? SVDQ_INT4_GROUP : SVDQ_NVFP4_GROUP;
  std::vector<int8_t> codes (group);
  bool fits = true;
  for (int g = 0; g < q.k; g += group)
    {
      const float of_group = int4 ? svdq_quantise_int4 (&xh[g], codes.data ())
                                  : svdq_quantise_nvfp4 (&xh[g], codes.data ()) * 0.5f;
      const float moved = ldexpf (of_group, -INT4_EXPONENT);
      fits = fits && moved <= 0x1p13f && (moved >= 0x1p-17f || moved == 0.0f);
      for (int i = 0; i < group; i++)
        out.value[g + i] = codes[i] * of_group;
    }
  if (q.kind == SVDQ_CODES_INT4_F16)
    *out.scale = ldexpf (1.0f, fits ? INT4_EXPONENT : exponent_of (amax, 32768.0f));
}

/* What is asked, and what ought to come out. */
typedef struct
{
  SvdqQuantise q;
  std::vector<uint16_t> x, smooth, down;
  std::vector<float> reciprocal, value, scale;
  std::vector<double> low, low_terms; /* x proj_down, and the sums of its terms' magnitudes */
} Question;

/* What x and smooth are. */
typedef enum
{
  FILL_RANDOM,
  FILL_SCALES,    /* every scale, with every number that it can get and more than an eighth of it */
  FILL_QUOTIENTS, /* every significand of x divided by every one of smooth, alone in its group */
} Fill;

static void
fill_random (Test *t, Question *a)
{
  const size_t k = a->q.k;
  for (size_t i = 0; i < a->x.size (); i++)
    {
      const size_t row = i / k, column = i % k;
      float v = normal (t) * (next (t) % 500 == 0 ? 30.0f : 1.0f);
      v *= row == 2 ? 0.0f : row % 3 == 1 ? 100.0f : 1.0f;
      if (row % 32 == 27)
        v *= column < 64 ? 1e-6f : 1.0f; /* a group too small for INT4's scale of all rows */
      else if (row % 37 == 5)
        v *= column < 1100 ? 1e-3f : 1.0f; /* more than E4M3's first scale leaves room for */
      else if (row % 16 == 9)
        v *= column % 64 / 8 == 3 ? 1e-36f : 1.0f; /* too small for products with the inverse */
      else if (row % 41 == 11 && a->q.kind == SVDQ_CODES_NVFP4_F16)
        v *= column < 128 ? 1e-36f : column < 192 ? 1e36f : 1.0f; /* so are whole groups */
      else if (row % 43 == 17 && a->q.kind == SVDQ_CODES_NVFP4_F16)
        v = column == 70 ? -INFINITY : column == 130 ? NAN : v;
      a->x[i] = bf16_from_float (v);
    }
  for (size_t i = 0; i < k; i++)
    a->smooth[i] = bf16_from_float (0.3f + (next (t) % 1000) * 0.003f);
}

/* The scale of a group, L1's, as bits. */
static uint32_t
scale_of (SvdqCodes kind, uint16_t amax)
{
  const float v = bf16_to_float (amax);
  return kind == SVDQ_CODES_NVFP4_F16 ? svdq_nvfp4_scale (v, false) : svdq_int4_scale (v);
}

/* The first and the last greatest number of each scale; of INT4's, those of two powers of two. */
static std::vector<uint16_t>
greatest_of_scales (SvdqCodes kind)
{
  std::vector<uint16_t> all;
  const uint32_t begin = bf16_from_float (kind == SVDQ_CODES_NVFP4_F16 ? 0x1p-9f : 1.0f);
  const uint32_t end = bf16_from_float (kind == SVDQ_CODES_NVFP4_F16 ? 4096.0f : 4.0f);
  for (uint32_t b = begin; b <= end; b++)
    if (scale_of (kind, (uint16_t)(b - 1)) != scale_of (kind, (uint16_t)b)
        || scale_of (kind, (uint16_t)(b + 1)) != scale_of (kind, (uint16_t)b) || b == end)
      all.push_back ((uint16_t)b);
  return all;
}

/* Adds rows until all is there. */
static void
fill_scales (Question *a)
{
  const size_t group = a->q.kind == SVDQ_CODES_NVFP4_F16 ? SVDQ_NVFP4_GROUP : SVDQ_INT4_GROUP;
  a->x.clear ();
  for (const uint16_t amax : greatest_of_scales (a->q.kind))
    for (uint16_t b = amax; bf16_to_float (b) * 64.0f >= bf16_to_float (amax); b--)
      for (int sign = 0; sign < 2; sign++)
        {
          if (a->x.size () % group == 0)
            a->x.push_back (amax);
          a->x.push_back ((uint16_t)(b | sign << 15));
          if (b - 1 < amax && bf16_to_float ((uint16_t)(b - 1)) * 64.0f < bf16_to_float (amax))
            while (a->x.size () % group != 0)
              a->x.push_back (0);
        }
  a->q.m = (int)((a->x.size () + a->q.k - 1) / a->q.k);
  a->x.resize ((size_t)a->q.m * a->q.k);
  for (auto &v : a->smooth)
    v = bf16_from_float (1.0f);
}

static void
fill_quotients (Question *a)
{
  a->q.m = 128;
  a->x.assign ((size_t)a->q.m * a->q.k, 0);
  for (size_t i = 0; i < a->x.size (); i += 64)
    a->x[i + i / 64 % 64] = bf16_from_float (ldexpf (128.0f + i / a->q.k, (int)(i / 64 % 9) - 7));
  for (size_t i = 0; i < (size_t)a->q.k; i++)
    a->smooth[i] = bf16_from_float (ldexpf (128.0f + i / 64 % 128, (int)(i / 64 % 7) - 10));
}

static void
make_question (Test *t, Question *a, Fill fill)
{
  SvdqQuantise &q = a->q;
  const size_t k = q.k;
  a->x.resize (q.m * k), a->smooth.resize (k), a->reciprocal.resize (k);
  a->down.resize (k * q.rank);
  if (fill == FILL_RANDOM)
    fill_random (t, a);
  else if (fill == FILL_SCALES)
    fill_scales (a);
  else
    fill_quotients (a);
  a->value.resize (q.m * k), a->scale.resize (q.m);
  a->low.assign ((size_t)q.m * q.rank, 0.0), a->low_terms.assign ((size_t)q.m * q.rank, 0.0);
  for (size_t i = 0; i < k; i++)
    {
      a->reciprocal[i] = 1.0f / bf16_to_float (a->smooth[i]);
      if (q.kind == SVDQ_CODES_E4M3) /* takes the inverse in its place */
        a->smooth[i] = bf16_from_float (a->reciprocal[i]);
    }
  for (auto &v : a->down)
    v = bf16_from_float (normal (t) * 0.02f);
#pragma omp parallel for
  for (int row = 0; row < q.m; row++)
    {
      const int warps = q.rank <= 32 ? SVDQ_E4M3_WARPS : SVDQ_E4M3_FEW_WARPS;
      quantise_row (q, &a->x[row * k], a->smooth.data (), warps,
                    { &a->value[row * k], &a->scale[row] });
      for (int r = 0; r < q.rank; r++)
        for (size_t i = 0; i < k; i++)
          {
            const double p
                = (double)bf16_to_float (a->x[row * k + i]) * bf16_to_float (a->down[r * k + i]);
            a->low[(size_t)row * q.rank + r] += p;
            a->low_terms[(size_t)row * q.rank + r] += fabs (p);
          }
    }
}

typedef struct
{
  std::vector<uint8_t> codes;
  std::vector<float> scale;
  std::vector<uint16_t> low;
} Answer;

static size_t
code_bytes (SvdqCodes kind)
{
  return kind == SVDQ_CODES_E4M3 ? 1 : 2;
}

/* One run into poisoned memory. */
static Status
ask (Stream *s, const Question *a, Answer *out)
{
  const SvdqQuantise &q = a->q;
  out->codes.resize (a->x.size () * code_bytes (q.kind));
  out->scale.resize (q.m);
  out->low.resize ((size_t)q.m * LOW_RANK_PITCH (q.rank));
  CUDA_CHECK (s, cudaMemsetAsync (q.codes, POISON, out->codes.size (), s->compute));
  CUDA_CHECK (s, cudaMemsetAsync (q.scale, POISON, out->scale.size () * 4, s->compute));
  CUDA_CHECK (s, cudaMemsetAsync (q.low, POISON, out->low.size () * 2, s->compute));
  CHECK (svdq_quantise_sm90 (s, &q));
  CHECK (host_of (s, (uint8_t *)q.codes, out->codes));
  CHECK (host_of (s, q.scale, out->scale));
  return host_of (s, (uint16_t *)q.low, out->low);
}

typedef struct
{
  size_t codes, scales, low; /* wrong ones */
  double worst_low;
} Faults;

/* The number that code i is, without its scale. */
static float
code_value (SvdqCodes kind, const Answer *got, size_t i)
{
  if (kind == SVDQ_CODES_E4M3)
    return e4m3_to_float (got->codes[i]);
  return f16_to_float ((uint16_t)(got->codes[2 * i] | got->codes[2 * i + 1] << 8));
}

/* NaN is as good as another. */
static bool
same (float a, float b)
{
  return a == b || (a != a && b != b);
}

static void
judge_low (const Question *a, const Answer *got, int row, double power, Faults *f)
{
  const SvdqQuantise &q = a->q;
  const size_t pitch = LOW_RANK_PITCH (q.rank);
  for (size_t r = 0; r < pitch; r++)
    {
      const double v = bf16_to_float (got->low[row * pitch + r]) * power;
      const size_t at = (size_t)row * q.rank + r;
      if (r < (size_t)q.rank && !(a->low_terms[at] < 1e37))
        continue; /* NaN, or nobody knows when FP32 overflows */
      const double error
          = r >= (size_t)q.rank
                ? (v == 0.0 ? 0.0 : 2.0)
                : fabs (v - a->low[at])
                      / (fabs (a->low[at]) * 0x1p-8 + a->low_terms[at] * 0x1p-20 + 1e-30);
      f->worst_low = error > f->worst_low ? error : f->worst_low;
      f->low += !(error <= 1.0);
    }
}

static Faults
judge (const Question *a, const Answer *got)
{
  const SvdqQuantise &q = a->q;
  const std::vector<float> &scale = a->scale, &value = a->value;
  Faults f = {};
  for (size_t i = 0; i < value.size (); i++)
    {
      const float v = code_value (q.kind, got, i) * scale[i / q.k];
      if (!same (v, value[i]) && f.codes++ < 3)
        printf ("  row %zu k %zu: %g, not %g (x %g)\n", i / q.k, i % q.k, v, value[i],
                bf16_to_float (a->x[i]));
    }
  for (size_t i = 0; i < scale.size (); i++)
    if (!same (got->scale[i], scale[i]) && f.scales++ < 3)
      printf ("  scale %zu: %g, not %g\n", i, got->scale[i], scale[i]);
  for (int row = 0; row < q.m; row++)
    judge_low (a, got, row, q.kind == SVDQ_CODES_E4M3 ? scale[row] : 1.0, &f);
  return f;
}

static Status
test_answers (Test *t, const Question *a)
{
  Answer first, again;
  CHECK (ask (t->s, a, &first));
  CHECK (ask (t->s, a, &again));
  const bool repeats
      = first.codes == again.codes && first.low == again.low
        && memcmp (first.scale.data (), again.scale.data (), first.scale.size () * 4) == 0;
  const Faults f = judge (a, &first);
  char text[160];
  snprintf (text, sizeof text,
            "kind %d m %d k %d rank %d: wrong codes %zu scales %zu low %zu (worst %.2f), %s",
            a->q.kind, a->q.m, a->q.k, a->q.rank, f.codes, f.scales, f.low, f.worst_low,
            repeats ? "repeats" : "DIFFERS");
  report (t, f.codes + f.scales + f.low == 0 && repeats, "quantise", text);
  return STATUS_OK;
}

static Status
test_question (Test *t, SvdqCodes kind, int m, int k, int rank, Fill fill)
{
  Stream *s = t->s;
  Question a = {};
  a.q.kind = kind, a.q.m = m, a.q.k = k, a.q.rank = rank;
  make_question (t, &a, fill);
  uint16_t *x, *smooth, *down, *fragments;
  float *inverse;
  void *split;
  CHECK (card (s, a.x, &x));
  CHECK (card (s, a.smooth, &smooth));
  CHECK (card (s, a.down, &down));
  CHECK (card (s, a.down, &fragments));
  CHECK (card (s, a.reciprocal, &inverse));
  CHECK (stream_alloc (s, k * 4, &split));
  CHECK (stream_alloc (s, a.x.size () * 2, &a.q.codes));
  CHECK (stream_alloc (s, a.q.m * sizeof (float), (void **)&a.q.scale));
  CHECK (stream_alloc (s, (size_t)a.q.m * LOW_RANK_PITCH (rank) * 2 + 16, &a.q.low));
  CHECK (svdq_low_rank_fragments (s, down, k, rank, fragments));
  CHECK (svdq_split_inverse (s, inverse, k, split));
  a.q.x = x, a.q.smooth = smooth, a.q.proj_down = fragments, a.q.inverse = split;
  CHECK (test_answers (t, &a));
  void *all[] = { x, smooth, down, fragments, inverse, split, a.q.codes, a.q.scale, a.q.low };
  for (void *memory : all)
    stream_free (s, memory);
  return STATUS_OK;
}

static Status
test_quantise (Test *t, bool small)
{
  const int64_t most = small ? SMALL : MOST_PRODUCTS;
  static const struct
  {
    int m, k, rank;
  } sizes[] = { { 1, 64, 0 },       { 25, 64, 16 },     { 63, 192, 32 },   { 33, 1344, 48 },
                { 130, 3840, 32 },  { 100, 3840, 128 }, { 40, 10240, 32 }, { 4224, 3840, 32 },
                { 700, 10240, 16 }, { 257, 2560, 0 },   { 31, 4800, 32 },  { 33, 5760, 16 },
                { 95, 10240, 128 }, { 70, 640, 64 },    { 1, 64, 80 },     { 63, 1920, 160 },
                { 40, 704, 384 },   { 65, 1344, 112 },  { 66, 640, 272 } };
  for (int kind = 0; kind <= SVDQ_CODES_NVFP4_F16; kind++)
    for (auto &size : sizes)
      if ((int64_t)size.m * size.k * (size.rank + 32) <= most)
        CHECK (test_question (t, (SvdqCodes)kind, size.m, size.k, size.rank, FILL_RANDOM));
  for (int kind = SVDQ_CODES_INT4_F16; kind <= SVDQ_CODES_NVFP4_F16; kind++)
    {
      CHECK (test_question (t, (SvdqCodes)kind, 1, 3840, 0, FILL_SCALES));
      CHECK (test_question (t, (SvdqCodes)kind, 1, 8192, 0, FILL_QUOTIENTS));
    }
  return STATUS_OK;
}

int
main (int argc, char **argv)
{
#ifdef EMULATED
  emulation::set_device (90, 4);
#endif
  return run_on_sm90 (test_quantise, argc, argv);
}
