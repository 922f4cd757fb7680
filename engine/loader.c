/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/loader.h"

#include "engine/engine.h"

gboolean
loader_failed (const Loader *self)
{
  return self->error != NULL || self->status != STATUS_OK;
}

/* TRUE if there is something to load and nothing has failed yet. */
static gboolean
goes_on (Loader *self)
{
  if (context_is_dry (self->ctx) || loader_failed (self))
    return FALSE;
  self->status = context_check_cancelled (self->ctx);
  return self->status == STATUS_OK;
}

static void
count_bytes (Loader *self, guint64 bytes)
{
  self->memory.total += (bytes + 255) / 256 * 256; /* as devices give them out */
}

void
loader_count_bundle (Loader *self, guint64 bytes)
{
  self->memory.bundles += bytes;
  self->memory.largest_bundle = MAX (self->memory.largest_bundle, bytes);
  self->memory.n_bundles++;
}

static void
upload_new (Loader *self, const Tensor *host, DType dtype, Tensor *out)
{
  const Context *ctx = self->ctx;
  Tensor device = *host;

  device.dtype = dtype;
  self->status = ctx->ops->alloc (ctx->stream, tensor_bytes (&device), &device.data);
  if (self->status != STATUS_OK)
    return;
  *out = device;
  self->status = ctx->ops->upload (ctx->stream, host, out);
}

void
load_vector (Loader *self, Tensor *out, int64_t n, const char *format, ...)
{
  g_autofree char *name = NULL;
  va_list arguments;
  Tensor host;

  *out = tensor_1d (DTYPE_F32, NULL, n);
  if (context_is_dry (self->ctx))
    {
      count_bytes (self, tensor_bytes (out));
      return;
    }
  va_start (arguments, format);
  name = g_strdup_vprintf (format, arguments);
  va_end (arguments);
  if (goes_on (self) && weights_get (self->weights, &host, name, &self->error, 1, n))
    upload_new (self, &host, DTYPE_F32, out);
  weights_forget_expanded (self->weights);
}

void
load_row (Loader *self, Tensor *out, int64_t n, const char *name)
{
  Tensor host;

  *out = tensor_2d (self->ctx->residual, NULL, 1, n);
  if (context_is_dry (self->ctx))
    {
      count_bytes (self, tensor_bytes (out));
      return;
    }
  if (goes_on (self) && weights_get (self->weights, &host, name, &self->error, 2, (int64_t)1, n))
    upload_new (self, &host, self->ctx->residual, out);
  weights_forget_expanded (self->weights);
}

void
loader_free_tensor (const Context *ctx, Tensor *tensor)
{
  if (tensor->data != NULL)
    ctx->ops->free (ctx->stream, tensor->data);
  tensor->data = NULL;
}

/* What the layer would take, and a Linear of that size. */
static Linear *
count_linear (Loader *self, const LinearSource *source)
{
  LinearMemory memory = linear_measure (self->ctx, source);
  Linear *linear = NULL;

  count_bytes (self, memory.weights);
  self->memory.loading = MAX (self->memory.loading, memory.loading);
  self->memory.workspace = MAX (self->memory.workspace, memory.workspace);
  self->status = linear_new (self->ctx, source, &linear);
  return linear;
}

/* Layers that the file quantises each for itself, as load_quantised_parts makes them. */
static Linear *
count_quantised_parts (Loader *self, const char *prefix, const char *const *names,
                       const int64_t *rows, const LinearSource *whole)
{
  LinearSource source = *whole;
  Linear *linear = NULL;

  source.swiglu = FALSE; /* no part has both factors */
  for (int i = 0; names[i] != NULL; i++)
    {
      g_autofree char *name = g_strconcat (prefix, names[i], NULL);
      SvdqSource shape; /* of one that is missing nothing: the load will say so */

      weights_find_svdq (self->weights, name, &shape);
      source.n = rows[i];
      source.svdq = &shape;
      linear_free (self->ctx, linear);
      linear = count_linear (self, &source);
    }
  linear->n = whole->n;
  linear->memory_bytes = 0; /* such a layer cannot be moved */
  return linear;
}

/* The layer as it is stored: quantised as one, each of its parts for itself, or dense. */
static Linear *
count_stacked (Loader *self, const char *prefix, const char *const *names, const char *fused,
               const int64_t *rows, LinearSource *source, gboolean bias)
{
  g_autofree char *whole = g_strconcat (prefix, fused, NULL);
  g_autofree char *first = g_strconcat (prefix, names[0], NULL);
  g_autofree char *weight = g_strconcat (first, ".weight", NULL);
  static const char value; /* stands for a bias that is there */
  SvdqSource shape = { 0 };

  source->n_parts = (int)g_strv_length ((char **)names);
  source->bias.data = bias ? (void *)&value : NULL;
  source->code_bits = weights_find_code_bits (self->weights, first);
  source->fleeting = weights_is_scaled (self->weights, weight);
  if (weights_find_svdq (self->weights, whole, &shape))
    source->svdq = &shape;
  else if (weights_find_svdq (self->weights, first, &shape))
    return count_quantised_parts (self, prefix, names, rows, source);
  return count_linear (self, source);
}

/* Fills source->svdq if the file holds `name` quantised; FALSE if it does not. */
static gboolean
find_quantised (Loader *self, LinearSource *source, const char *prefix, const char *name)
{
  g_autofree char *base = g_strconcat (prefix, name, NULL);

  return weights_get_svdq (self->weights, base, source->n, source->k, &source->svdq, &self->error);
}

/* The linear, if there is one, with its name. */
static Linear *
named (Linear *linear, const char *prefix, const char *name)
{
  g_autofree char *full = g_strconcat (prefix, name, NULL);

  if (linear != NULL)
    linear->name = g_intern_string (full);
  return linear;
}

static Linear *
finish_linear (Loader *self, LinearSource *source, const char *prefix, const char *name)
{
  Linear *linear = NULL;

  source->fleeting = weights_has_expanded (self->weights);
  if (self->error == NULL)
    self->status = linear_new (self->ctx, source, &linear);
  weights_forget_expanded (self->weights);
  return named (linear, prefix, name);
}

/* Layers that the file quantises each for itself; NULL, and no error, if the first is dense. */
static Linear *
load_quantised_parts (Loader *self, const char *prefix, const char *const *names, const char *fused,
                      const int64_t *rows, int64_t k)
{
  Linear *parts[LINEAR_MAX_PARTS] = { NULL }, *stacked = NULL;
  int n = 0;

  for (; names[n] != NULL && !loader_failed (self); n++)
    {
      LinearSource source = { .n = rows[n], .k = k };

      if (!find_quantised (self, &source, prefix, names[n]))
        {
          if (n > 0 && self->error == NULL)
            g_set_error (&self->error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                         "%s: %s%s is quantised, but %s is not", weights_path (self->weights),
                         prefix, names[0], names[n]);
          break;
        }
      parts[n] = finish_linear (self, &source, prefix, names[n]);
    }
  if (n > 0 && !loader_failed (self))
    {
      self->status = linear_stack (self->ctx, parts, n, &stacked);
      if (stacked != NULL)
        named (stacked, prefix, fused);
    }
  else
    for (int i = 0; i < n; i++)
      linear_free (self->ctx, parts[i]);
  return stacked;
}

/* The next part of the layer, dense or in codes; all parts are the one or the other. */
static gboolean
get_part (Loader *self, const char *prefix, const char *name, int64_t rows, LinearSource *source)
{
  g_autofree char *base = g_strconcat (prefix, name, NULL);
  g_autofree char *weight = g_strconcat (base, ".weight", NULL);
  int bits = weights_find_code_bits (self->weights, base);

  if (source->n_parts > 0 && bits != source->code_bits)
    {
      g_set_error (
          &self->error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
          "%s: of the parts of one layer only some are quantised, and %s is one where they "
          "differ",
          weights_path (self->weights), base);
      return FALSE;
    }
  if (bits > 0)
    return weights_add_codes (self->weights, base, rows, source, &self->error);
  return weights_get (self->weights, &source->parts[source->n_parts++], weight, &self->error, 2,
                      rows, source->k);
}

/* Reads a bias of n values as F32. */
static gboolean
get_bias (Loader *self, const char *prefix, const char *name, int64_t n, float *out)
{
  g_autofree char *full = g_strconcat (prefix, name, ".bias", NULL);
  Tensor part;

  if (!weights_get (self->weights, &part, full, &self->error, 1, n))
    return FALSE;
  for (int64_t i = 0; i < n; i++)
    out[i] = tensor_get (&part, i);
  return TRUE;
}

/* `like` says what kind of layer it is. */
static Linear *
load (Loader *self, const char *prefix, const char *const *names, const char *fused,
      const int64_t *rows, int64_t k, gboolean bias, LinearSource like)
{
  LinearSource source = like;
  g_autofree float *stacked = NULL;
  int64_t first = 0;

  source.k = k;
  source.resident = self->resident;
  for (int i = 0; names[i] != NULL; i++)
    source.n += rows[i];
  if (context_is_dry (self->ctx))
    return named (count_stacked (self, prefix, names, fused, rows, &source, bias), prefix, fused);
  if (!goes_on (self))
    return NULL;
  if (find_quantised (self, &source, prefix, fused) || self->error != NULL)
    return finish_linear (self, &source, prefix, fused);
  if (names[1] != NULL)
    {
      Linear *linear = load_quantised_parts (self, prefix, names, fused, rows, k);

      if (linear != NULL || loader_failed (self))
        return linear;
    }

  stacked = g_new (float, (gsize)source.n);
  for (int i = 0; names[i] != NULL; i++)
    {
      if (!get_part (self, prefix, names[i], rows[i], &source)
          || (bias && !get_bias (self, prefix, names[i], rows[i], stacked + first)))
        return NULL;
      first += rows[i];
    }
  if (bias)
    source.bias = tensor_1d (DTYPE_F32, stacked, source.n);
  return finish_linear (self, &source, prefix, fused);
}

Linear *
load_linear (Loader *self, const char *prefix, const char *name, int64_t n, int64_t k,
             gboolean bias)
{
  const char *const names[] = { name, NULL };

  return load (self, prefix, names, name, &n, k, bias, (LinearSource){ 0 });
}

Linear *
load_after_swiglu (Loader *self, const char *prefix, const char *name, int64_t n, int64_t k)
{
  const char *const names[] = { name, NULL };

  return load (self, prefix, names, name, &n, k, FALSE, (LinearSource){ .after_swiglu = TRUE });
}

Linear *
load_stacked (Loader *self, const char *prefix, const char *const *names, const char *fused,
              const int64_t *rows, int64_t k, gboolean bias, gboolean swiglu)
{
  return load (self, prefix, names, fused, rows, k, bias, (LinearSource){ .swiglu = swiglu });
}

Conv *
load_conv (Loader *self, const char *prefix, const char *name, int64_t in, int64_t out, int size,
           int stride, gboolean upsample)
{
  g_autofree char *weight = g_strconcat (prefix, name, ".weight", NULL);
  g_autofree char *bias = g_strconcat (prefix, name, ".bias", NULL);
  ConvSource source = { .stride = stride, .upsample = upsample };
  Conv *conv = NULL;

  if (context_is_dry (self->ctx))
    {
      source.weight.rank = 4;
      source.weight.shape[0] = out;
      source.weight.shape[1] = in;
      source.weight.shape[2] = source.weight.shape[3] = size;
      count_bytes (self, self->target != NULL ? self->target->conv_bytes (&source) : 0);
      return NULL;
    }
  if (!goes_on (self))
    return NULL;
  if (weights_get (self->weights, &source.weight, weight, &self->error, 4, out, in, (int64_t)size,
                   (int64_t)size)
      && weights_get (self->weights, &source.bias, bias, &self->error, 1, out))
    self->status = self->ctx->ops->conv_prepare (self->ctx->stream, &source, &conv);
  weights_forget_expanded (self->weights);
  return conv;
}
