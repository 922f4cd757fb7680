/* SPDX-License-Identifier: Apache-2.0
 *
 * Who makes the norm in front of a linear layer: the layer, where its backend can and nothing wants
 * to see the normed rows, else whoever norms. By layers that only say what they were asked for.
 */
#include "engine/linear.h"

#define M 32
#define K 64
#define N 128

typedef struct
{
  Linear base;
  const Tensor *x; /* as it came */
  Tensor factors;  /* data NULL: x is rows */
  int64_t columns;
} Layer;

static Status
apply (Stream *s, const Linear *linear, const Tensor *x, Tensor *out)
{
  Layer *self = (Layer *)linear;

  self->x = x;
  self->factors = (Tensor){ 0 };
  self->columns = out->shape[1];
  return STATUS_OK;
}

static Status
apply_normed (Stream *s, const Linear *linear, const Tensor *x, const Tensor *factors,
              const HeadNorm *heads, Tensor *out)
{
  Layer *self = (Layer *)linear;

  self->x = x;
  self->factors = *factors;
  self->columns = out->shape[1];
  return STATUS_OK;
}

static const LinearBackend of_rows = { .name = "rows", .apply = apply };
static const LinearBackend of_norms
    = { .name = "norms", .apply = apply, .apply_normed = apply_normed };

typedef struct
{
  Context ctx;
  Arena arena;
  guint16 memory[4][M * N];
  Tensor x, a, out, half;
} Fixture;

static void
fixture_init (Fixture *self)
{
  arena_init_counting (&self->arena);
  self->ctx = (Context){
    .ops = &ops_cpu, .activation = DTYPE_BF16, .residual = DTYPE_BF16, .arena = &self->arena
  };
  self->x = tensor_2d (DTYPE_BF16, self->memory[0], M, K);
  self->a = tensor_2d (DTYPE_BF16, self->memory[1], M, K);
  self->out = tensor_2d (DTYPE_BF16, self->memory[2], M, N);
  self->half = tensor_2d (DTYPE_BF16, self->memory[3], M, N / 2);
}

static Layer
layer_of (const LinearBackend *backend)
{
  return (Layer){ .base = { .backend = backend, .n = N, .k = K, .swiglu = true } };
}

/* Both outputs of a layer, and that it read `a` as rows. */
static void
assert_rows (Fixture *f, const LinearBackend *backend)
{
  Layer layer = layer_of (backend);
  Tensor normed = linear_normed (&f->ctx, &layer.base, &f->a);
  Tensor *outs[] = { &f->out, &f->half };

  g_assert_true (normed.data == f->a.data && normed.dtype == f->a.dtype);
  g_assert_true (tensor_same_shape (&normed, &f->a));
  for (guint i = 0; i < G_N_ELEMENTS (outs); i++)
    {
      g_assert_cmpint (linear_apply_normed (&f->ctx, &layer.base, &f->x, &f->a, NULL, outs[i]), ==,
                       STATUS_OK);
      g_assert_true (layer.x == &f->a && layer.factors.data == NULL);
      g_assert_cmpint (layer.columns, ==, outs[i]->shape[1]);
    }
}

static void
test_layer_norms (void)
{
  Fixture f;
  Layer layer = layer_of (&of_norms);
  Tensor *outs[] = { &f.out, &f.half };
  Tensor normed;

  fixture_init (&f);
  normed = linear_normed (&f.ctx, &layer.base, &f.a);
  g_assert_true (normed.data == f.a.data && normed.dtype == DTYPE_F32);
  g_assert_cmpint (tensor_count (&normed), ==, K + M);
  for (guint i = 0; i < G_N_ELEMENTS (outs); i++)
    {
      g_assert_cmpint (linear_apply_normed (&f.ctx, &layer.base, &f.x, &f.a, NULL, outs[i]), ==,
                       STATUS_OK);
      g_assert_true (layer.x == &f.x && layer.factors.data == f.a.data);
      g_assert_true (tensor_same_shape (&layer.factors, &normed));
      g_assert_cmpint (layer.columns, ==, outs[i]->shape[1]);
    }
}

static void
test_rows (void)
{
  static const LinearObserver observer = { 0 };
  Fixture f;

  fixture_init (&f);
  assert_rows (&f, &of_rows);

  f.ctx.observer = &observer;
  assert_rows (&f, &of_norms);

  fixture_init (&f);
  f.ctx.residual = DTYPE_F32;
  assert_rows (&f, &of_norms);

  /* Two rows of BF16 are less than their factors. */
  fixture_init (&f);
  f.x.shape[0] = f.a.shape[0] = f.out.shape[0] = f.half.shape[0] = 2;
  assert_rows (&f, &of_norms);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/linear/normed/by-layer", test_layer_norms);
  g_test_add_func ("/linear/normed/rows", test_rows);
  return g_test_run ();
}
