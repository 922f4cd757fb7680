/* SPDX-License-Identifier: Apache-2.0
 *
 * SVDQuant where activations are FP16 (svdquant.md, sm_75), against level L1: codes, scales and the
 * sum of INT4 products in every bit, low-rank branch and NVFP4 within bounds.
 *
 * The products run on any card, as the instructions of sm_75 do; newer ones have no code for the
 * rest, which needs an sm_75 card or the emulated one.
 */
#include "kernels/cuda/svdq_sm75.cuh"
#include "tests/kernels/card-test.cuh"
#include "tests/kernels/patience.h"
#include "tests/kernels/svdq-half.h"

#include <stdio.h>
#include <string.h>

#define SPARE 8 /* numbers behind each row of y, which must stay as they are */

template <typename T>
static std::vector<T>
to_host (Stream *s, const void *device, size_t count)
{
  std::vector<T> host (count);
  download (s, device, host.data (), count * sizeof (T));
  return host;
}

/* -- on the card --------------------------------------------------------------------------------
 */

enum Kind
{
  HALF,
  SWIGLU,
  WIDE,
};

struct Case
{
  SvdqFormat format;
  int64_t m, n, k;
  int rank;
  Kind kind;
  bool biased, after_swiglu;
  bool lowered; /* by the card, whose sums may round to another number of FP16 */
};

static LinearSource
source_of (const SvdqLayer *layer, const Case &c)
{
  LinearSource source = {};
  source.n = layer->n;
  source.k = layer->k;
  source.bias = tensor_1d (DTYPE_F32, c.biased ? layer->bias : NULL, layer->n);
  source.svdq = &layer->source;
  source.swiglu = c.kind == SWIGLU;
  source.after_swiglu = c.after_swiglu;
  return source;
}

struct Device
{
  SvdqWeights w;
  SvdqActivations a;
  void *block;
};

static Device
device_new (Stream *s, const HalfHost &h, const Case &c)
{
  Device d = {};
  const LinearSource source = source_of (h.layer, c);
  require (s, svdq_weights_load (s, &source, &d.w), "weights");
  d.block = poisoned (s, svdq_activations_bytes (&d.w, h.m));
  d.a = svdq_activations_in (&d.w, h.m, d.block);
  return d;
}

static void
device_free (Stream *s, Device *d)
{
  svdq_weights_free (s, &d->w);
  ops->free (s, d->block);
}

/* Where the scale of a group lies, in scales. */
static int64_t
scale_at (const HalfHost &h, const Device &d, int64_t row, int64_t g)
{
  return h.int4 () ? g * d.a.pitch + row : (g / 4 * d.a.pitch + row) * 4 + g % 4;
}

static uint8_t
nibble (const HalfHost &h, int code)
{
  return h.int4 () ? code & 15 : svdq_e2m1_from_float (code * 0.5f);
}

/* What the host quantised. */
static void
fill (Stream *s, const HalfHost &h, Device *d)
{
  const int64_t k = h.layer->k, groups = k / h.group ();
  std::vector<uint8_t> codes (h.m * k / 2), e4m3 (d->a.pitch * groups);
  std::vector<uint16_t> bf16_scales (d->a.pitch * groups);
  for (int64_t i = 0; i < h.m * k; i++)
    codes[i / 2] |= nibble (h, h.codes[i]) << i % 2 * 4;
  for (int64_t row = 0; row < h.m; row++)
    for (int64_t g = 0; g < groups; g++)
      {
        const float scale = h.scales[row * groups + g];
        bf16_scales[scale_at (h, *d, row, g) % bf16_scales.size ()] = bf16_from_float (scale);
        e4m3[scale_at (h, *d, row, g) % e4m3.size ()] = svdq_e4m3_from_float (scale);
      }
  upload (s, d->a.codes, codes.data (), codes.size ());
  if (h.int4 ())
    upload (s, d->a.scales, bf16_scales.data (), bf16_scales.size () * 2);
  else
    upload (s, d->a.scales, e4m3.data (), e4m3.size ());
  upload (s, d->a.lora, h.lora.data (), h.lora.size () * 2);
}

/* -- judging outputs ----------------------------------------------------------------------------
 */

struct Verdict
{
  int64_t wrong, outside, count;
};

/* A linear output before rounding, and by how much it may be off. */
struct Value
{
  double value, bound;
};

static Value
linear_output (const HalfHost &h, const Case &c, const std::vector<float> &sums, int64_t row,
               int64_t n)
{
  const float sum = sums[row * c.n + n], bias = c.biased ? h.layer->bias[n] : 0.0f;
  const float unit = c.after_swiglu ? 1.0f / SWIGLU_F16_SCALE : 1.0f;
  if (c.rank == 0 && h.int4 ())
    return { fmaf (sum, unit, bias), 0.0 };
  double low_terms;
  const double low = h.raised (row, n, &low_terms);
  const double terms = (h.int4 () ? fabs (sum) : h.terms (row, n)) + low_terms;
  const double bound = (terms * unit + fabs (bias)) * 0x1p-20;
  return { (sum + low) * unit + bias, bound + (c.lowered ? low_terms * unit * 0x1p-10 : 0.0) };
}

static Value
output (const HalfHost &h, const Case &c, const std::vector<float> &sums, int64_t row,
        int64_t column)
{
  const Value gate = linear_output (h, c, sums, row, column);
  if (c.kind != SWIGLU)
    return gate;
  const Value up = linear_output (h, c, sums, row, c.n / 2 + column);
  const double silu = gate.value / (1.0 + exp (-gate.value)), value = silu * up.value;
  const double bound
      = 1.1 * gate.bound * fabs (up.value) + up.bound * fabs (silu) + fabs (value) * 0x1p-18;
  return { value * SWIGLU_F16_SCALE, bound * SWIGLU_F16_SCALE };
}

static float
as_stored (const Case &c, double v)
{
  return c.kind == WIDE ? (float)v : f16_to_float (f16_from_float (clamped (v)));
}

/* y [m, columns + SPARE] as it came back. */
static Verdict
judge (const HalfHost &h, const Case &c, const std::vector<uint8_t> &bytes)
{
  const int64_t columns = c.kind == SWIGLU ? c.n / 2 : c.n, stride = columns + SPARE;
  const size_t item = c.kind == WIDE ? 4 : 2;
  const std::vector<float> sums = h.sums ();
  Verdict v = { 0, 0, h.m * columns };
  for (int64_t row = 0; row < h.m; row++)
    for (int64_t i = 0; i < stride; i++)
      {
        const uint8_t *at = &bytes[(row * stride + i) * item];
        if (i >= columns)
          {
            v.outside += at[0] != 0xff || at[1] != 0xff;
            continue;
          }
        uint32_t bits = 0;
        memcpy (&bits, at, item);
        const float found = item == 4 ? svdq_float (bits) : f16_to_float ((uint16_t)bits);
        const Value e = output (h, c, sums, row, i);
        v.wrong += !(found >= as_stored (c, e.value - e.bound)
                     && found <= as_stored (c, e.value + e.bound));
      }
  return v;
}

/* -- products -----------------------------------------------------------------------------------
 */

/* With code for every card. */
struct MmaAnywhere : MmaS4By8
{
  static constexpr bool RUNS = true;
};

struct Int4Anywhere : Int4By<MmaAnywhere>
{
};

static Status
product (Stream *s, const SvdqGemm *g)
{
  if (g->w->format == SVDQ_INT4)
    return sm75_launch<Sm75LargeTile, Sm75SmallTile, Int4Anywhere> (s, g, SVDQ_INT4);
  return sm75_launch<Sm75Fp4LargeTile, Sm75Fp4SmallTile, Fp4Expanded> (s, g, SVDQ_NVFP4);
}

static void
report (const Case &c, const Verdict &v, const char *what)
{
  static const char *const kinds[] = { "FP16", "swiglu", "F32" };
  char text[200];
  snprintf (text, sizeof text,
            "%s %s %lld x %lld x %lld, rank %d, %s%s%s: %lld of %lld wrong, %lld outside", what,
            c.format == SVDQ_INT4 ? "INT4" : "NVFP4", (long long)c.m, (long long)c.n,
            (long long)c.k, c.rank, kinds[c.kind], c.biased ? ", bias" : "",
            c.after_swiglu ? ", after swiglu" : "", (long long)v.wrong, (long long)v.count,
            (long long)v.outside);
  ok (v.wrong == 0 && v.outside == 0, text);
}

static void
run_product (Stream *s, const HalfHost &h, const Case &c, const char *what)
{
  const int64_t stride = (c.kind == SWIGLU ? c.n / 2 : c.n) + SPARE;
  const size_t bytes = (size_t)(c.m * stride) * (c.kind == WIDE ? 4 : 2);
  const int multiprocessors = s->caps.multiprocessors;
  Device d = device_new (s, h, c);
  fill (s, h, &d);
  for (int large = 0; large < 2; large++)
    {
      void *y = poisoned (s, bytes);
      const SvdqGemm g = { &d.w, &d.a, y, stride, c.kind == WIDE, NULL };
      s->caps.multiprocessors = large ? 1 : INT32_MAX;
      require (s, product (s, &g), "product");
      char text[64];
      snprintf (text, sizeof text, "%s, %s tiles:", what, large ? "large" : "small");
      report (c, judge (h, c, to_host<uint8_t> (s, y, bytes)), text);
      ops->free (s, y);
    }
  s->caps.multiprocessors = multiprocessors;
  device_free (s, &d);
}

static HalfHost
host_new (const Case &c)
{
  SvdqLayer *layer = svdq_layer_new (c.format, c.n, c.k, c.rank,
                                     (uint64_t)(c.m * 31 + c.n * 7 + c.k * 3 + c.rank));
  return HalfHost (layer, c.m, c.after_swiglu ? 0.02f : 2.0f, c.after_swiglu);
}

static void
test_product (Stream *s, const Case &c)
{
  if (c.m * c.n * (c.k + c.rank) > MOST_PRODUCTS / 4)
    return;
  const HalfHost h = host_new (c);
  run_product (s, h, c, "product");
  svdq_layer_free (h.layer);
}

/* Which code of which row meets which: a one in a place of its own in each row; and -8 by -8, which
 * no file has and the instruction does. */
static void
test_codes (Stream *s)
{
  const Case c = { SVDQ_INT4, 200, 192, 256, 0, WIDE, false, false, false };
  HalfHost h = host_new (c);
  for (int pass = 0; pass < 2; pass++)
    {
      Device d = device_new (s, h, c);
      std::fill (h.codes.begin (), h.codes.end (), pass ? -8 : 0);
      for (int64_t row = 0; row < c.m && pass == 0; row++)
        h.codes[row * c.k + row] = row & 1 ? 1 : -1;
      fill (s, h, &d);
      const size_t bytes = (size_t)(c.m * c.n) * 4;
      void *y = poisoned (s, bytes);
      const SvdqGemm g = { &d.w, &d.a, y, c.n, true, NULL };
      require (s, product (s, &g), "product");
      const std::vector<float> found = to_host<float> (s, y, c.m * c.n);
      int64_t wrong = 0;
      for (int64_t row = 0; row < c.m; row++)
        for (int64_t n = 0; n < c.n; n++)
          {
            float sum = 0.0f;
            for (int64_t at = 0; at < c.k; at += 64)
              {
                int p = 0;
                for (int64_t i = at; i < at + 64; i++)
                  p += h.codes[row * c.k + i]
                       * svdq_int4 ((uint8_t)(h.layer->qweight[(n * c.k + i) / 2] >> i % 2 * 4));
                const float ws
                    = bf16_to_float (((const uint16_t *)h.layer->wscales)[at / 64 * c.n + n]);
                sum = fmaf ((float)p, h.scales[(row * c.k + at) / 64] * ws, sum);
              }
            wrong += found[row * c.n + n] != sum;
          }
      char text[80];
      snprintf (text, sizeof text, "%s: %lld wrong", pass ? "all -8" : "one-hot rows",
                (long long)wrong);
      ok (wrong == 0, text);
      ops->free (s, y);
      device_free (s, &d);
    }
  svdq_layer_free (h.layer);
}

/* -- quantising ---------------------------------------------------------------------------------
 */

/* Codes and scales in every bit; NaN of a scale is any NaN. */
static int64_t
wrong_groups (Stream *s, const HalfHost &h, const Device &d)
{
  const int64_t k = h.layer->k, groups = k / h.group ();
  const auto codes = to_host<uint8_t> (s, d.a.codes, h.m * k / 2);
  const auto scales = to_host<uint8_t> (s, d.a.scales, d.a.pitch * groups * (h.int4 () ? 2 : 1));
  int64_t wrong = 0;
  for (int64_t row = 0; row < h.m; row++)
    for (int64_t g = 0; g < groups; g++)
      {
        const int64_t at = scale_at (h, d, row, g);
        const float expected = h.scales[row * groups + g];
        const float found = h.int4 () ? bf16_to_float (((const uint16_t *)scales.data ())[at])
                                      : e4m3_to_float (scales[at]);
        bool same = found == expected || (found != found && expected != expected);
        for (int64_t i = row * k + g * h.group (); i < row * k + (g + 1) * h.group (); i++)
          {
            const int code = codes[i / 2] >> i % 2 * 4 & 15;
            const int value = h.int4 () ? svdq_int4 (code) : svdq_e2m1_doubled (code);
            same = same && value == h.codes[i];
          }
        wrong += !same;
      }
  return wrong;
}

static int64_t
wrong_lowered (Stream *s, const HalfHost &h, const Device &d)
{
  const int rank = h.layer->source.rank;
  const auto found = to_host<uint16_t> (s, d.a.lora, h.m * rank);
  int64_t wrong = 0;
  for (int64_t row = 0; row < h.m; row++)
    for (int r = 0; r < rank; r++)
      {
        double terms;
        const double sum = h.lowered (row, r, &terms), bound = terms * 0x1p-18;
        const float value = f16_to_float (found[row * rank + r]);
        wrong += !(value >= f16_to_float (f16_from_float (clamped (sum - bound)))
                   && value <= f16_to_float (f16_from_float (clamped (sum + bound))));
      }
  return wrong;
}

static void
run_quantise (Stream *s, const HalfHost &h, const char *what)
{
  const Case c
      = { h.layer->source.format, h.m,  h.layer->n, h.layer->k, h.layer->source.rank, HALF, false,
          h.times != 1.0f,        false };
  Device d = device_new (s, h, c);
  void *x = to_device (s, h.x.data (), h.x.size () * 2);
  require (s, svdq_quantise (s, &d.w, x, &d.a), "svdq_quantise");
  const int64_t wrong = wrong_groups (s, h, d), low = c.rank > 0 ? wrong_lowered (s, h, d) : 0;
  char text[160];
  snprintf (text, sizeof text, "%s %s: %lld x %lld, rank %d: %lld groups, %lld low-rank wrong",
            what, h.int4 () ? "INT4" : "NVFP4", (long long)h.m, (long long)c.k, c.rank,
            (long long)wrong, (long long)low);
  ok (wrong == 0 && low == 0, text);
  ops->free (s, x);
  device_free (s, &d);
}

static void
test_quantise (Stream *s, SvdqFormat format, int64_t m, int64_t k, int rank)
{
  SvdqLayer *layer = svdq_layer_new (format, 64, k, rank, (uint64_t)(m + k * 3 + rank));
  run_quantise (s, HalfHost (layer, m, 2.0f), "quantised");
  run_quantise (s, HalfHost (layer, m, 0.02f, true), "quantised after swiglu");
  svdq_layer_free (layer);
}

/* The product with a rounded reciprocal in place of the quotient, for all numbers of 11 bits by all
 * of 8 (svdq_codes.cuh). */
static void
test_quotients (void)
{
  int64_t wrong = 0, ties = 0;
  for (int x = 1024; x < 2048; x++)
    for (int by = 128; by < 256; by++)
      {
        const volatile float inverse = 1.0f / (float)by, product = (float)x * inverse;
        const volatile float quotient = (float)x / (float)by;
        ties += (svdq_bits (quotient) & 0xffff) == 0x8000;
        wrong += svdq_round_bf16 (product) != svdq_round_bf16 (quotient);
      }
  ok (wrong == 0 && ties > 0, "products with reciprocals round as quotients do");
}

/* Quotients that lie where rounding to BF16 turns. Then any bits, NaN too. */
static void
test_quantise_hard (Stream *s, SvdqFormat format)
{
  SvdqLayer *layer = svdq_layer_new (format, 64, 512, 0, 77);
  HalfHost h (layer, 160, 2.0f);
  for (int64_t i = 0; i < 512; i++)
    layer->smooth[i] = bf16_from_float (ldexpf ((float)(2 * (i % 4) + 1), (int)(i % 5) - 3));
  for (int64_t i = 0; i < h.m * 512; i++)
    {
      const float by = bf16_to_float (layer->smooth[i % 512]);
      const float half_way = (float)(2 * (svdq_layer_random (layer) % 128) + 257);
      h.x[i] = f16_from_float (by * half_way / 256.0f * (svdq_layer_random (layer) % 2 ? 1 : -1));
    }
  h.quantise ();
  run_quantise (s, h, "ties");
  for (int64_t i = 0; i < h.m * 512; i++)
    {
      const uint32_t bits = svdq_layer_random (layer) >> 16, row = (uint32_t)(i / 512);
      h.x[i] = (uint16_t)bits;
      if (row % 4 == 1) /* of one size */
        h.x[i] = (uint16_t)((bits & 0x83ff) | (row / 4 % 31) << 10);
      if (row % 4 == 2) /* the least there are */
        h.x[i] = (uint16_t)(bits & (0x8003 | row));
    }
  h.quantise ();
  run_quantise (s, h, "any bits");
  for (int64_t i = 0; i < 512; i++) /* divisors at the ends of the range */
    if (i % 128 >= 64 && i % 7 == 0)
      layer->smooth[i] = (uint16_t)(1 + svdq_layer_random (layer) % 0x7f00);
  h.quantise ();
  run_quantise (s, h, "any bits and divisors");
  svdq_layer_free (layer);
}

/* -- the whole linear ---------------------------------------------------------------------------
 */

/* By way of the engine's interface, into the columns from 16 on of something wider. */
static void
test_backend (Stream *s, const LinearBackend *backend, const Case &c)
{
  HalfHost h = host_new (c);
  const LinearSource source = source_of (h.layer, c);
  const int64_t columns = c.kind == SWIGLU ? c.n / 2 : c.n, stride = 16 + columns + SPARE;
  const size_t item = c.kind == WIDE ? 4 : 2;
  const SvdqFormat format = c.format;
  const StreamOptions options = {};
  Linear *linear = NULL;
  ok (backend->supports (&s->caps, &options, &format), "the backend is for this card");
  require (s, backend->prepare_weights (s, &source, &linear), "prepare_weights");
  void *x = to_device (s, h.x.data (), h.x.size () * 2);
  void *y = poisoned (s, (size_t)(c.m * stride) * item);
  const Tensor in = tensor_2d (DTYPE_F16, x, c.m, c.k);
  Tensor out = tensor_2d (c.kind == WIDE ? DTYPE_F32 : DTYPE_F16, y, c.m, stride);
  require (s, backend->apply_columns (s, linear, &in, 16, &out), "apply_columns");
  const auto all = to_host<uint8_t> (s, y, (size_t)(c.m * stride) * item);
  std::vector<uint8_t> bytes;
  for (int64_t row = 0; row < c.m; row++)
    bytes.insert (bytes.end (), all.begin () + (row * stride + 16) * item,
                  all.begin () + (row + 1) * stride * item);
  report (c, judge (h, c, bytes), backend->name);
  backend->release (s, linear);
  ops->free (s, x);
  ops->free (s, y);
  svdq_layer_free (h.layer);
}

static void
test_whole (Stream *s)
{
  for (int format = 0; format < 2; format++)
    {
      const SvdqFormat f = format ? SVDQ_NVFP4 : SVDQ_INT4;
      const LinearBackend *backend = format ? &linear_cuda_svdq_nvfp4_fp16 : &linear_cuda_svdq_int4;
      for (int rank = 0; rank <= 96; rank += rank < 32 ? 32 : 64)
        test_quantise (s, f, 65, 448, rank);
      test_quantise (s, f, 1, 64, 16);
      test_quantise_hard (s, f);
      test_backend (s, backend, { f, 70, 192, 256, 0, HALF, true, false, true });
      test_backend (s, backend, { f, 33, 128, 320, 32, WIDE, false, true, true });
    }
}

static const Case cases[] = {
  { SVDQ_INT4, 1, 64, 64, 0, HALF, false, false, false },
  { SVDQ_INT4, 131, 192, 320, 0, WIDE, true, false, false },
  { SVDQ_INT4, 130, 320, 448, 0, HALF, true, false, false },
  { SVDQ_INT4, 40, 128, 192, 0, WIDE, true, true, false },
  { SVDQ_INT4, 65, 256, 256, 48, HALF, true, false, false },
  { SVDQ_INT4, 150, 192, 128, 128, WIDE, true, true, false },
  { SVDQ_INT4, 130, 256, 192, 32, SWIGLU, true, false, false },
  { SVDQ_INT4, 33, 64, 3840, 0, WIDE, false, false, false },
  { SVDQ_INT4, 2049, 1600, 128, 16, HALF, true, false, false },
  { SVDQ_NVFP4, 1, 64, 64, 0, HALF, false, false, false },
  { SVDQ_NVFP4, 131, 192, 320, 32, WIDE, true, true, false },
  { SVDQ_NVFP4, 130, 256, 192, 16, SWIGLU, false, false, false },
  { SVDQ_NVFP4, 70, 320, 448, 48, HALF, true, true, false },
  { SVDQ_NVFP4, 2049, 1600, 128, 16, HALF, true, false, false },
};

int
main (void)
{
  Stream *s = open_device ();
  const bool native = IS_EMULATED || s->caps.sm == 75;
  s->caps.sm = 75; /* on a newer card too: weights as FP16 */
  s->caps.bf16 = false;
  for (const Case &c : cases)
    test_product (s, c);
  test_codes (s);
  test_quotients ();
  if (native)
    test_whole (s);
  ops->close (s);
  printf ("1..%d\n", n_tests);
  return n_failed > 0;
}
