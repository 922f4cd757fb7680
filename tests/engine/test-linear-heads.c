/* SPDX-License-Identifier: Apache-2.0
 *
 * A linear for q, k and v with the norm behind it: in one pass where its backend has one and nobody
 * looks on, else in two steps. By a backend and a device that only note what is asked of them.
 */
#include "engine/linear.h"

#define ROWS  3
#define HEADS 4 /* 2 of q, 1 each of k and v */
#define DIM   8

/* What was called, in order. */
static GString *calls;
static const HeadNorm *asked; /* of the norm */
static const Tensor *written;

static Status
note_apply (Stream *s, const Linear *linear, const Tensor *x, Tensor *out)
{
  g_assert_cmpint (out->shape[0], ==, ROWS);
  g_assert_cmpint (out->shape[1], ==, HEADS * DIM);
  g_assert_true (out->data == written->data);
  g_string_append (calls, "apply ");
  return STATUS_OK;
}

static Status
note_apply_heads (Stream *s, const Linear *linear, const Tensor *x, const HeadNorm *norm,
                  Tensor *qkv)
{
  g_assert_true (norm == asked && qkv == written);
  g_string_append (calls, "heads ");
  return STATUS_OK;
}

static Status
note_norm (Stream *s, Tensor *qkv, int n_q, int n_kv, const Tensor *q_weight,
           const Tensor *k_weight, float eps, const Tensor *table, RopePairing pairing)
{
  g_assert_true (qkv == written && table == asked->table);
  g_assert_cmpint (n_q, ==, asked->n_q);
  g_assert_cmpint (n_kv, ==, asked->n_kv);
  g_assert_true (q_weight == asked->q_weight && k_weight == asked->k_weight);
  g_assert_true (eps == asked->eps && pairing == asked->pairing);
  g_string_append (calls, "norm ");
  return STATUS_OK;
}

static void
note_seen (gpointer user_data, const Linear *linear, const Tensor *x)
{
  g_string_append (calls, "seen ");
}

/* What linear_apply_heads calls. */
static char *
called (const LinearBackend *backend, const LinearObserver *observer, gboolean dry)
{
  Ops ops = { .qk_norm_rope = note_norm };
  Linear linear = { .backend = backend, .n = HEADS * DIM, .k = DIM };
  Arena arena = { 0 };
  Context ctx = { .ops = dry ? &ops_dry : &ops, .arena = &arena, .observer = observer };
  float numbers[ROWS * HEADS * DIM];
  Tensor x = tensor_2d (DTYPE_F32, numbers, ROWS, DIM);
  Tensor qkv = tensor_3d (DTYPE_F32, numbers, ROWS, HEADS, DIM);
  Tensor q = tensor_1d (DTYPE_F32, numbers, DIM), k = q;
  Tensor table = tensor_2d (DTYPE_F32, numbers, ROWS, DIM);
  HeadNorm norm = { 2, 1, &q, &k, 1e-5f, &table, ROPE_INTERLEAVED };

  asked = &norm;
  written = &qkv;
  calls = g_string_new (NULL);
  arena_init_counting (&arena);
  g_assert_cmpint (linear_apply_heads (&ctx, &linear, &x, &norm, &qkv), ==, STATUS_OK);
  return g_string_free (calls, FALSE);
}

static const LinearBackend in_one = { .apply = note_apply, .apply_heads = note_apply_heads };
static const LinearBackend in_two = { .apply = note_apply };

static void
test_one_pass (void)
{
  g_autofree char *done = called (&in_one, NULL, FALSE);

  g_assert_cmpstr (done, ==, "heads ");
}

static void
test_two_steps (void)
{
  g_autofree char *done = called (&in_two, NULL, FALSE);

  g_assert_cmpstr (done, ==, "apply norm ");
}

static void
test_observed (void)
{
  LinearObserver observer = { .before = note_seen };
  g_autofree char *done = called (&in_one, &observer, FALSE);

  g_assert_cmpstr (done, ==, "seen apply norm ");
}

/* Layers of a dry context have no backend. */
static void
test_dry (void)
{
  g_autofree char *done = called (NULL, NULL, TRUE);

  g_assert_cmpstr (done, ==, "");
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/linear/heads/one-pass", test_one_pass);
  g_test_add_func ("/linear/heads/two-steps", test_two_steps);
  g_test_add_func ("/linear/heads/observed", test_observed);
  g_test_add_func ("/linear/heads/dry", test_dry);
  return g_test_run ();
}
