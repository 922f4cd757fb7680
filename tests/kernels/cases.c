/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/kernels/cases.h"
#include "tests/kernels/patience.h"

#include <stdlib.h>
#include <string.h>

typedef struct Case Case;

struct Case
{
  const char *name;
  bool (*run) (Harness *h, const Case *c);
  int64_t a, b, c, d, e; /* sizes; each function says which */
  int flags;
  double limit; /* for F32 activations; what one rounding to 16 bits adds is allowed for on top */
};

enum
{
  IN_PLACE = 1 << 0,
  WEIGHT = 1 << 1, /* the optional vectors are there */
  SCALE = 1 << 2,
  GATE = 1 << 3,
  NEXT = 1 << 4,
  SILU = 1 << 5,
  CAUSAL = 1 << 6,
  HALF = 1 << 7,
  RESIDUAL = 1 << 8,
  UPSAMPLE = 1 << 9,
  BIAS = 1 << 10,
  STRIDE_2 = 1 << 11,
  FAR = 1 << 12, /* numbers far from zero */
};

/* The case's limit, wider where results are stored with 8 bits. */
static double
limit_of (const Harness *h, const Case *c)
{
  return h->activation == DTYPE_F32 ? c->limit : c->limit + 0x1p-8;
}

static Tensor
vector (int64_t n)
{
  return tensor_1d (DTYPE_F32, NULL, n);
}

static Tensor
rows (int64_t m, int64_t d)
{
  return tensor_2d (DTYPE_F32, NULL, m, d);
}

static Tensor
picture (int64_t height, int64_t width, int64_t channels)
{
  return tensor_3d (DTYPE_F32, NULL, height, width, channels);
}

/* Parts of an optional pair. */
#define REFERENCE(pair) ((pair) != NULL ? &(pair)->reference : NULL)
#define DEVICE(pair)    ((pair) != NULL ? &(pair)->device : NULL)

static Pair *
optional_vector (Harness *h, const Case *c, int flag, int64_t d)
{
  return c->flags & flag ? harness_parameter (h, vector (d), 1.0f, 0.5f) : NULL;
}

static Pair *
output_or_same (Harness *h, const Case *c, Pair *x, Tensor like)
{
  return c->flags & IN_PLACE ? harness_in_place (h, x) : harness_output (h, like);
}

/* -- rows: a = M, b = D --------------------------------------------------------------------- */

static bool
run_rms_norm (Harness *h, const Case *c)
{
  Pair *x = harness_input (h, rows (c->a, c->b), 0.1f, 3.0f);
  Pair *weight = optional_vector (h, c, WEIGHT, c->b);
  Pair *scale = optional_vector (h, c, SCALE, c->b);
  Pair *out = output_or_same (h, c, x, rows (c->a, c->b));
  const Tensor *in = c->flags & IN_PLACE ? &out->device : &x->device;

  return harness_both_ok (
             h,
             ops_reference.rms_norm (h->reference, &x->reference, REFERENCE (weight),
                                     REFERENCE (scale), 1e-5f, &out->reference),
             h->ops->rms_norm (h->stream, in, DEVICE (weight), DEVICE (scale), 1e-5f, &out->device))
         && harness_check (h, out, limit_of (h, c));
}

static bool
run_layer_norm (Harness *h, const Case *c)
{
  Pair *x = harness_input (h, rows (c->a, c->b), 0.5f, 2.0f);
  Pair *scale = optional_vector (h, c, SCALE, c->b);
  Pair *out = output_or_same (h, c, x, rows (c->a, c->b));
  const Tensor *in = c->flags & IN_PLACE ? &out->device : &x->device;

  return harness_both_ok (h,
                          ops_reference.layer_norm (h->reference, &x->reference, REFERENCE (scale),
                                                    1e-6f, &out->reference),
                          h->ops->layer_norm (h->stream, in, DEVICE (scale), 1e-6f, &out->device))
         && harness_check (h, out, limit_of (h, c));
}

static bool
run_residual_norm (Harness *h, const Case *c)
{
  Pair *start = harness_input (h, rows (c->a, c->b), 0.0f, 2.0f);
  Pair *x = harness_in_place (h, start);
  Pair *y = harness_input (h, rows (c->a, c->b), 0.0f, 5.0f);
  Pair *post = optional_vector (h, c, WEIGHT, c->b);
  Pair *gate = optional_vector (h, c, GATE, c->b);
  Pair *next = optional_vector (h, c, NEXT, c->b);
  Pair *scale = optional_vector (h, c, SCALE, c->b);
  Pair *out = c->flags & NEXT ? harness_output (h, rows (c->a, c->b)) : NULL;

  return harness_both_ok (
             h,
             ops_reference.residual_norm (h->reference, &x->reference, &y->reference,
                                          REFERENCE (post), REFERENCE (gate), REFERENCE (next),
                                          REFERENCE (scale), 1e-5f, REFERENCE (out)),
             h->ops->residual_norm (h->stream, &x->device, &y->device, DEVICE (post), DEVICE (gate),
                                    DEVICE (next), DEVICE (scale), 1e-5f, DEVICE (out)))
         && harness_check (h, x, limit_of (h, c))
         && (out == NULL || harness_check (h, out, limit_of (h, c)));
}

static bool
run_silu_mul (Harness *h, const Case *c)
{
  Pair *x = harness_input (h, rows (c->a, 2 * c->b), 0.0f, 8.0f);
  Pair *out = harness_swiglu_output (h, rows (c->a, c->b));

  int turn = (int)c->c;

  return harness_both_ok (
             h, ops_reference.silu_mul (h->reference, &x->reference, turn, &out->reference),
             h->ops->silu_mul (h->stream, &x->device, turn, &out->device))
         && harness_check (h, out, limit_of (h, c));
}

static bool
run_silu (Harness *h, const Case *c)
{
  Pair *x = harness_input (h, rows (c->a, c->b), 0.0f, 30.0f);
  Pair *out = output_or_same (h, c, x, rows (c->a, c->b));
  const Tensor *in = c->flags & IN_PLACE ? &out->device : &x->device;

  return harness_both_ok (h, ops_reference.silu (h->reference, &x->reference, &out->reference),
                          h->ops->silu (h->stream, in, &out->device))
         && harness_check (h, out, limit_of (h, c));
}

static bool
run_modulation (Harness *h, const Case *c)
{
  Pair *m = harness_input (h, rows (c->a, 4 * c->b), 0.0f, 2.0f);
  Pair *out = harness_f32_output (h, tensor_3d (DTYPE_F32, NULL, c->a, 4, c->b));

  return harness_both_ok (h,
                          ops_reference.modulation (h->reference, &m->reference, &out->reference),
                          h->ops->modulation (h->stream, &m->device, &out->device))
         && harness_check (h, out, c->limit);
}

static bool
run_one_plus (Harness *h, const Case *c)
{
  Pair *x = harness_input (h, rows (c->a, c->b), 0.0f, 2.0f);
  Pair *out = harness_f32_output (h, rows (c->a, c->b));

  return harness_both_ok (h, ops_reference.one_plus (h->reference, &x->reference, &out->reference),
                          h->ops->one_plus (h->stream, &x->device, &out->device))
         && harness_check (h, out, c->limit);
}

static bool
run_fill_rows (Harness *h, const Case *c)
{
  Pair *row = harness_input (h, vector (c->b), 0.0f, 2.0f);
  Pair *out = harness_output (h, rows (c->a, c->b));

  return harness_both_ok (h,
                          ops_reference.fill_rows (h->reference, &row->reference, &out->reference),
                          h->ops->fill_rows (h->stream, &row->device, &out->device))
         && harness_check (h, out, 0.0);
}

static bool
run_copy (Harness *h, const Case *c)
{
  Pair *x = harness_input (h, rows (c->a, c->b), 0.0f, 2.0f);
  Pair *out = harness_output (h, rows (c->a, c->b));

  return harness_both_ok (h, ops_reference.copy (h->reference, &x->reference, &out->reference),
                          h->ops->copy (h->stream, &x->device, &out->device))
         && harness_check (h, out, 0.0);
}

/* -- heads: a = M, b = q heads, c = kv heads, d = head dimension ----------------------------- */

static bool
run_rope (Harness *h, const Case *c)
{
  Tensor shape = tensor_3d (DTYPE_F32, NULL, c->a, c->b + 2 * c->c, c->d);
  Pair *start = harness_input (h, shape, 0.0f, 3.0f);
  Pair *qkv = harness_in_place (h, start);
  Pair *q = harness_parameter (h, vector (c->d), 1.0f, 0.5f);
  Pair *k = harness_parameter (h, vector (c->d), 1.0f, 0.5f);
  Pair *table = harness_parameter (h, tensor_3d (DTYPE_F32, NULL, c->a, c->d / 2, 2), 0.0f, 1.0f);
  RopePairing pairing = c->flags & HALF ? ROPE_HALF : ROPE_INTERLEAVED;

  return harness_both_ok (h,
                          ops_reference.qk_norm_rope (h->reference, &qkv->reference, (int)c->b,
                                                      (int)c->c, &q->reference, &k->reference,
                                                      1e-6f, &table->reference, pairing),
                          h->ops->qk_norm_rope (h->stream, &qkv->device, (int)c->b, (int)c->c,
                                                &q->device, &k->device, 1e-6f, &table->device,
                                                pairing))
         && harness_check (h, qkv, limit_of (h, c));
}

/* e = how large the numbers are: 1 gives nearly equal weights, 8 picks single keys. */
static bool
run_attention (Harness *h, const Case *c)
{
  Tensor shape = tensor_3d (DTYPE_F32, NULL, c->a, c->b + 2 * c->c, c->d);
  Pair *qkv = harness_input (h, shape, 0.0f, (float)c->e);
  Pair *out = harness_output (h, rows (c->a, c->b * c->d));
  bool causal = c->flags & CAUSAL;

  return harness_both_ok (h,
                          ops_reference.attention (h->reference, &qkv->reference, (int)c->b,
                                                   (int)c->c, causal, &out->reference),
                          h->ops->attention (h->stream, &qkv->device, (int)c->b, (int)c->c, causal,
                                             &out->device))
         && harness_check (h, out, limit_of (h, c));
}

/* -- pictures: a = height, b = width --------------------------------------------------------- */

/* c = channels, d = groups */
static bool
run_group_norm (Harness *h, const Case *c)
{
  Tensor shape = picture (c->a, c->b, c->c);
  Pair *x = harness_input (h, shape, c->flags & FAR ? 100.0f : 0.3f, 2.0f);
  Pair *weight = harness_parameter (h, vector (c->c), 1.0f, 0.5f);
  Pair *bias = harness_parameter (h, vector (c->c), 0.0f, 0.5f);
  Pair *out = output_or_same (h, c, x, shape);
  const Tensor *in = c->flags & IN_PLACE ? &out->device : &x->device;
  bool silu = c->flags & SILU;

  return harness_both_ok (h,
                          ops_reference.group_norm (h->reference, &x->reference, &weight->reference,
                                                    &bias->reference, (int)c->d, 1e-6f, silu,
                                                    &out->reference),
                          h->ops->group_norm (h->stream, in, &weight->device, &bias->device,
                                              (int)c->d, 1e-6f, silu, &out->device))
         && harness_check (h, out, limit_of (h, c));
}

/* Moments first, then the norm by them, against the norm in one. */
static bool
run_group_norm_by (Harness *h, const Case *c)
{
  Tensor shape = picture (c->a, c->b, c->c);
  Pair *x = harness_input (h, shape, c->flags & FAR ? 100.0f : 0.3f, 2.0f);
  Pair *weight = harness_parameter (h, vector (c->c), 1.0f, 0.5f);
  Pair *bias = harness_parameter (h, vector (c->c), 0.0f, 0.5f);
  Pair *moments = harness_f32_output (h, tensor_2d (DTYPE_F32, NULL, c->d, 2));
  Pair *out = output_or_same (h, c, x, shape);
  const Tensor *in = c->flags & IN_PLACE ? &out->device : &x->device;
  bool silu = c->flags & SILU;
  int groups = (int)c->d;

  return harness_both_ok (h,
                          ops_reference.group_norm (h->reference, &x->reference, &weight->reference,
                                                    &bias->reference, groups, 1e-6f, silu,
                                                    &out->reference),
                          h->ops->group_moments (h->stream, in, groups, 1e-6f, &moments->device))
         && harness_both_ok (h,
                             ops_reference.group_moments (h->reference, &x->reference, groups,
                                                          1e-6f, &moments->reference),
                             h->ops->group_norm_by (h->stream, in, &moments->device,
                                                    &weight->device, &bias->device, silu,
                                                    &out->device))
         && harness_check (h, moments, 1e-4) && harness_check (h, out, limit_of (h, c));
}

static bool
convolve (Harness *h, const Case *c, const ConvSource *source)
{
  int64_t zoom = c->flags & UPSAMPLE ? 2 : 1;
  Pair *x = harness_input (h, picture (c->a, c->b, c->c), 0.0f, 1.0f);
  Tensor shape = picture (c->a * zoom / source->stride, c->b * zoom / source->stride, c->d);
  Pair *residual = c->flags & RESIDUAL ? harness_input (h, shape, 0.0f, 1.0f) : NULL;
  Pair *out = c->flags & IN_PLACE ? harness_in_place (h, residual) : harness_output (h, shape);
  const Tensor *added = c->flags & IN_PLACE ? &out->device : DEVICE (residual);
  Conv *expected = NULL;
  Conv *conv = NULL;
  bool passed
      = harness_both_ok (h, ops_reference.conv_prepare (h->reference, source, &expected),
                         h->ops->conv_prepare (h->stream, source, &conv))
        && harness_both_ok (h,
                            ops_reference.conv2d (h->reference, expected, &x->reference,
                                                  REFERENCE (residual), &out->reference),
                            h->ops->conv2d (h->stream, conv, &x->device, added, &out->device))
        && harness_check (h, out, limit_of (h, c));

  ops_reference.conv_release (h->reference, expected);
  h->ops->conv_release (h->stream, conv);
  return passed;
}

/* c = channels in, d = channels out, e = kernel size; weights are BF16, as in published files. */
static bool
run_conv (Harness *h, const Case *c)
{
  void *weight = harness_random_array (h, DTYPE_BF16, c->d * c->c * c->e * c->e, 0.2f);
  void *bias = c->flags & BIAS ? harness_random_array (h, DTYPE_F32, c->d, 0.5f) : NULL;
  ConvSource source = { .weight = tensor_4d (DTYPE_BF16, weight, c->d, c->c, c->e, c->e),
                        .bias = tensor_1d (DTYPE_F32, bias, c->d),
                        .stride = c->flags & STRIDE_2 ? 2 : 1,
                        .upsample = c->flags & UPSAMPLE };
  bool passed = convolve (h, c, &source);

  free (weight);
  free (bias);
  return passed;
}

/* -- the table ------------------------------------------------------------------------------ */

#define NORM_LIMIT    1e-6
#define PRODUCT_LIMIT 2e-6 /* sums of up to 4608 products in FP32 */

static const Case cases[] = {
  { "rms_norm", run_rms_norm, 1, 1, .flags = WEIGHT, .limit = NORM_LIMIT },
  { "rms_norm", run_rms_norm, 5, 16, .flags = 0, .limit = NORM_LIMIT },
  { "rms_norm", run_rms_norm, 3, 37, .flags = WEIGHT, .limit = NORM_LIMIT },
  { "rms_norm", run_rms_norm, 64, 3840, .flags = WEIGHT | SCALE, .limit = NORM_LIMIT },
  { "rms_norm", run_rms_norm, 65, 384, .flags = SCALE, .limit = NORM_LIMIT },
  { "rms_norm", run_rms_norm, 33, 384, .flags = WEIGHT | SCALE | IN_PLACE, .limit = NORM_LIMIT },
  { "layer_norm", run_layer_norm, 1, 16, .flags = 0, .limit = NORM_LIMIT },
  { "layer_norm", run_layer_norm, 7, 100, .flags = SCALE, .limit = NORM_LIMIT },
  { "layer_norm", run_layer_norm, 80, 3840, .flags = SCALE | IN_PLACE, .limit = NORM_LIMIT },
  { "residual_norm", run_residual_norm, 1, 16, .flags = 0, .limit = NORM_LIMIT },
  { "residual_norm", run_residual_norm, 6, 50, .flags = GATE, .limit = NORM_LIMIT },
  { "residual_norm", run_residual_norm, 6, 50, .flags = WEIGHT, .limit = NORM_LIMIT },
  { "residual_norm", run_residual_norm, 9, 384, .flags = NEXT, .limit = NORM_LIMIT },
  { "residual_norm", run_residual_norm, 61, 384, .flags = WEIGHT | GATE | NEXT | SCALE,
    .limit = NORM_LIMIT },
  { "residual_norm", run_residual_norm, 5, 3840, .flags = WEIGHT | NEXT, .limit = NORM_LIMIT },
  { "silu_mul", run_silu_mul, 1, 16, .limit = NORM_LIMIT },
  { "silu_mul", run_silu_mul, 7, 100, .limit = NORM_LIMIT },
  { "silu_mul", run_silu_mul, 40, 1024, .limit = NORM_LIMIT },
  { "silu_mul in turn", run_silu_mul, 1, 8, 8, .limit = NORM_LIMIT },
  { "silu_mul in turn", run_silu_mul, 33, 1000, 8, .limit = NORM_LIMIT },
  { "silu", run_silu, 1, 3, .limit = NORM_LIMIT },
  { "silu", run_silu, 77, 513, .flags = IN_PLACE, .limit = NORM_LIMIT },
  { "modulation", run_modulation, 1, 16, .limit = NORM_LIMIT },
  { "modulation", run_modulation, 8, 384, .limit = NORM_LIMIT },
  { "one_plus", run_one_plus, 8, 100, .limit = NORM_LIMIT },
  { "fill_rows", run_fill_rows, 1, 16, .limit = 0.0 },
  { "fill_rows", run_fill_rows, 31, 384, .limit = 0.0 },
  { "copy", run_copy, 13, 208, .limit = 0.0 },

  { "rope pairs", run_rope, 1, 1, 1, 16, .flags = 0, .limit = NORM_LIMIT },
  { "rope pairs", run_rope, 37, 3, 3, 128, .flags = 0, .limit = NORM_LIMIT },
  { "rope halves", run_rope, 20, 8, 2, 32, .flags = HALF, .limit = NORM_LIMIT },
  { "rope halves", run_rope, 33, 4, 2, 128, .flags = HALF, .limit = NORM_LIMIT },

  { "attention", run_attention, 1, 1, 1, 16, 1, 0, PRODUCT_LIMIT },
  { "attention", run_attention, 2, 1, 1, 64, 1, CAUSAL, PRODUCT_LIMIT },
  { "attention", run_attention, 31, 3, 3, 64, 2, 0, PRODUCT_LIMIT },
  { "attention", run_attention, 129, 4, 2, 32, 2, CAUSAL, PRODUCT_LIMIT },
  { "attention", run_attention, 257, 2, 1, 128, 1, 0, PRODUCT_LIMIT },
  { "attention", run_attention, 513, 2, 2, 48, 4, CAUSAL, PRODUCT_LIMIT },
  { "attention", run_attention, 700, 1, 1, 16, 8, 0, PRODUCT_LIMIT },
  { "attention", run_attention, 320, 6, 2, 128, 8, CAUSAL, PRODUCT_LIMIT },
  { "attention", run_attention, 300, 1, 1, 512, 1, 0, PRODUCT_LIMIT },

  { "group_norm", run_group_norm, 1, 1, 32, 32, .flags = 0, .limit = NORM_LIMIT },
  { "group_norm", run_group_norm, 5, 7, 32, 8, .flags = SILU, .limit = NORM_LIMIT },
  { "group_norm", run_group_norm, 64, 48, 64, 32, .flags = SILU, .limit = NORM_LIMIT },
  { "group_norm", run_group_norm, 33, 65, 128, 32, .flags = IN_PLACE, .limit = NORM_LIMIT },
  /* 8 bits are too few for a mean of 100 and a spread of 2, but both sides see the same. */
  { "group_norm", run_group_norm, 40, 40, 64, 32, .flags = FAR, .limit = 1e-5 },
  { "group_norm_by", run_group_norm_by, 5, 7, 32, 8, .flags = SILU, .limit = NORM_LIMIT },
  { "group_norm_by", run_group_norm_by, 33, 65, 128, 32, .flags = IN_PLACE, .limit = NORM_LIMIT },
  { "group_norm_by", run_group_norm_by, 40, 40, 64, 32, .flags = FAR, .limit = 2e-5 },

  { "conv", run_conv, 1, 1, 16, 16, 3, BIAS, PRODUCT_LIMIT },
  { "conv", run_conv, 16, 24, 16, 512, 3, BIAS, PRODUCT_LIMIT },
  { "conv", run_conv, 17, 13, 64, 32, 3, 0, PRODUCT_LIMIT },
  { "conv", run_conv, 9, 11, 33, 31, 3, BIAS | RESIDUAL, PRODUCT_LIMIT },
  { "conv", run_conv, 13, 130, 64, 64, 3, BIAS | RESIDUAL | IN_PLACE, PRODUCT_LIMIT },
  { "conv to 3 channels", run_conv, 19, 22, 128, 3, 3, BIAS, PRODUCT_LIMIT },
  { "conv to 3 channels", run_conv, 5, 3, 32, 3, 3, BIAS | RESIDUAL, PRODUCT_LIMIT },
  { "conv of 3 channels", run_conv, 19, 22, 3, 32, 3, BIAS, PRODUCT_LIMIT },
  { "conv of 3 channels", run_conv, 7, 8, 3, 16, 3, BIAS | RESIDUAL, PRODUCT_LIMIT },
  { "conv 1x1", run_conv, 12, 7, 64, 32, 1, BIAS, PRODUCT_LIMIT },
  { "conv 1x1", run_conv, 5, 9, 32, 48, 1, RESIDUAL, PRODUCT_LIMIT },
  { "conv 1x1", run_conv, 5, 9, 32, 48, 1, RESIDUAL | IN_PLACE, PRODUCT_LIMIT },
  { "conv stride 2", run_conv, 16, 24, 32, 32, 3, BIAS | STRIDE_2, PRODUCT_LIMIT },
  { "conv stride 2", run_conv, 15, 9, 16, 24, 3, STRIDE_2, PRODUCT_LIMIT },
  { "conv stride 2", run_conv, 17, 22, 40, 24, 3, BIAS | STRIDE_2, PRODUCT_LIMIT },
  { "conv upsample", run_conv, 1, 1, 16, 16, 3, BIAS | UPSAMPLE, PRODUCT_LIMIT },
  { "conv upsample", run_conv, 9, 14, 32, 64, 3, BIAS | UPSAMPLE, PRODUCT_LIMIT },
  { "conv upsample", run_conv, 8, 5, 24, 9, 3, UPSAMPLE | RESIDUAL, PRODUCT_LIMIT },
  /* Rows long enough to be cut into bands. */
  { "conv in bands", run_conv, 13, 4096, 33, 1, 3, BIAS | RESIDUAL, PRODUCT_LIMIT },
  { "conv upsample in bands", run_conv, 12, 4096, 33, 1, 3, BIAS | UPSAMPLE, PRODUCT_LIMIT },
};

void
cases_run (Harness *harness, const char *prefix, const char *label)
{
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    {
      const Case *c = &cases[i];
      bool passed;

      if (strncmp (c->name, prefix, strlen (prefix)) != 0)
        continue;
      if (IS_EMULATED && c->b >= 4096) /* rows that long are there for the CPU's bands */
        continue;
      passed = c->run (harness, c);

      harness_report (harness, passed, "%s %lldx%lldx%lldx%lldx%lld flags %x, %s", c->name,
                      (long long)c->a, (long long)c->b, (long long)c->c, (long long)c->d,
                      (long long)c->e, (unsigned)c->flags, label);
    }
}
