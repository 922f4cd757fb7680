/* SPDX-License-Identifier: Apache-2.0
 *
 * What a step could take at best: its operations, and the rate of a bare product.
 */
#include "engine/computer/benchmark.h"

#include "engine/linear.h"
#include "engine/models.h"

#define PATIENCE              (300 * 1000) /* us for which products are repeated */
#define ROUND_UP(n, multiple) (((n) + (multiple)-1) / (multiple) * (multiple))

/* Multiplications and additions of `n_layers` blocks on `tokens`: products with the weights, and
 * attention's two products (spec z-image 5.6, 5.7). */
static double
operations_of_blocks (const TransformerConfig *c, int n_layers, double tokens)
{
  const double inner = (double)c->n_heads * c->head_dim;
  const double weights = 4 * c->dim * inner + 3.0 * c->dim * c->hidden;

  return n_layers * (2 * tokens * weights + 4 * tokens * tokens * inner);
}

/* Of one step. What is computed once per prompt does not count, and embeddings are too little to.
 * Pictures and captions are filled up to whole groups of tokens (spec z-image 5.4). */
static double
operations_of_step (const Models *models, const EngineRequest *request)
{
  const TransformerConfig *c = checkpoint_transformer (models->checkpoint);
  g_autoptr (GArray) ids = models_tokenize (models, request->prompt);
  const int side = 8 * c->patch;
  const double picture = ROUND_UP ((request->width / side) * (request->height / side), 32);
  const double caption = ROUND_UP ((int)ids->len, 32);

  return operations_of_blocks (c, c->n_refiner_layers, picture)
         + operations_of_blocks (c, c->n_layers, picture + caption);
}

/* The best time of a product of M x K by K x N, in seconds; the layer and its input are there. */
static Status
time_products (const Context *ctx, const Linear *linear, const Tensor *x, Tensor *out, double *best)
{
  const gint64 begun = g_get_monotonic_time ();
  const int repeats = ctx->caps->kind == DEVICE_CPU ? 1 : 8;

  *best = G_MAXDOUBLE;
  for (int i = 0; i < 3 || g_get_monotonic_time () - begun < PATIENCE; i++)
    {
      const gint64 from = g_get_monotonic_time ();

      for (int j = 0; j < repeats; j++)
        CHECK (linear_apply (ctx, linear, x, out));
      CHECK (ctx->ops->wait (ctx->stream));
      *best = MIN (*best, (double)MAX (g_get_monotonic_time () - from, 1) / 1e6 / repeats);
    }
  return STATUS_OK;
}

/* Small numbers of both signs: what is multiplied may decide how fast a card runs. */
static void
fill (guint16 *values, gsize n)
{
  guint32 state = 1;

  for (gsize i = 0; i < n; i++)
    {
      state = state * 1664525u + 1013904223u;
      values[i] = bf16_from_float (((float)(state >> 8) / (1 << 24) - 0.5f) * 0.25f);
    }
}

static Status
measure (const Context *ctx, gint64 m, gint64 n, double *rate)
{
  g_autofree guint16 *values = g_new (guint16, n * MAX (m, n));
  LinearSource source = { .n = n, .k = n, .n_parts = 1, .resident = true };
  Tensor host = tensor_2d (DTYPE_BF16, values, m, n), x, out;
  Linear *linear = NULL;
  double best = 0;
  Status status;

  fill (values, (gsize)n * (gsize)MAX (m, n));
  source.parts[0] = tensor_2d (DTYPE_BF16, values, n, n);
  CHECK (arena_tensor (ctx->arena, &x, ctx->activation, m, n, 0, 0));
  CHECK (arena_tensor (ctx->arena, &out, ctx->activation, m, n, 0, 0));
  CHECK (ctx->ops->upload (ctx->stream, &host, &x));
  CHECK (linear_new (ctx, &source, &linear));
  status = time_products (ctx, linear, &x, &out, &best);
  linear_free (ctx, linear);
  if (status == STATUS_OK)
    *rate = 2.0 * (double)m * (double)n * (double)n / best;
  return status;
}

/* 0 if it cannot be done: the benchmark's own figures do not need it. */
static double
measure_rate (const Device *device)
{
  const gboolean gpu = device->caps.kind == DEVICE_CUDA;
  const gint64 m = gpu ? 4096 : 512, n = gpu ? 8192 : 1024;
  Arena arena = { 0 };
  Context ctx = { .ops = device->ops,
                  .stream = device->stream,
                  .activation = device_activation (&device->caps),
                  .residual = device_residual (&device->caps),
                  .arena = &arena,
                  .caps = &device->caps,
                  .options = &device->options };
  const gsize bytes = 2 * ((gsize)(m * n) * dtype_size (ctx.activation) + 256);
  double rate = 0;

  if (arena_init (&arena, device->ops, device->stream, bytes) == STATUS_OK
      && measure (&ctx, m, n, &rate) != STATUS_OK)
    rate = 0;
  arena_clear (&arena);
  return rate;
}

gboolean
benchmark_measure_rate (const EngineOptions *options, double *rate, GError **error)
{
  Device device = { 0 };

  if (!device_open (&device, options, error))
    return FALSE;
  *rate = measure_rate (&device);
  device_close (&device);
  return TRUE;
}

gboolean
benchmark_count_operations (const char *model, const EngineOptions *options,
                            const EngineRequest *request, double *operations, GError **error)
{
  const char *file = options != NULL ? options->transformer_file : NULL;
  const char *type = options != NULL ? options->svdquant_type : NULL;
  const char *encoder = options != NULL ? options->text_encoder_file : NULL;
  Device device = { 0 };
  Models models = { 0 };
  gboolean ok = device_open (&device, options, error)
                && models_open (&models, &device, model, file, type, encoder, error);

  if (ok)
    *operations = operations_of_step (&models, request);
  models_close (&models, &device);
  device_close (&device);
  return ok;
}
