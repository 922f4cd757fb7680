/* SPDX-License-Identifier: Apache-2.0
 *
 * LPIPS v0.1 with AlexNet.
 *
 * R. Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", 2018.
 * Both pictures pass the five convolutions of AlexNet. At each of the five, the features of every
 * place are brought to length 1, their squared differences weighted by the linear layer and
 * averaged over the places; the five averages are added up.
 *
 * A convolution is a linear layer over patches, so the CPU's linear back end runs it: patches of a
 * few rows at a time, in the order rows, columns, channels, with weights reordered to fit.
 */
#include "engine/metrics/metrics-private.h"

#include "engine/computer/device.h"
#include "engine/files/safetensors.h"

#include <math.h>
#include <string.h>

#define LAYERS      5
#define PATCHES     1024 /* rows of one product */
#define POOL        3    /* side of the maximum's window; its stride is 2 */
#define POOL_STRIDE 2

/* SHA-256 of the published linear layers, v0.1, as little-endian F32 one after the other. */
#define PUBLISHED_V01 "718a8b40b0d22f96192d34ab93c0db5c7943558ff6c2407f44812dce2f29b5f4"

static const struct
{
  int index; /* of the layer in AlexNet's `features` */
  int c_in, c_out, size, stride, pad;
  gboolean pool; /* the maximum of 3 x 3 comes first */
} layers[LAYERS] = {
  { 0, 3, 64, 11, 4, 2, FALSE },   { 3, 64, 192, 5, 1, 2, TRUE },    { 6, 192, 384, 3, 1, 1, TRUE },
  { 8, 384, 256, 3, 1, 1, FALSE }, { 10, 256, 256, 3, 1, 1, FALSE },
};

struct _MetricsLpips
{
  GMutex lock; /* a Stream is for one thread at a time */
  Device device;
  float *weights[LAYERS]; /* (owned) [c_out, size, size, c_in] */
  float *biases[LAYERS];  /* (owned) [c_out] */
  float *linear[LAYERS];  /* (owned) [c_out] */
  Linear *convs[LAYERS];  /* (owned) */
  gboolean published;
};

/* Features of a picture, [height, width, channels]. */
typedef struct
{
  int height, width, channels;
  float *values; /* (owned) */
} Features;

/* -- weights -------------------------------------------------------------------------------------
 */

/* Copies tensor `name`, of `count` numbers, as floats (transfer full). */
static float *
read_floats (Safetensors *file, const char *name, gsize count, GError **error)
{
  g_autofree float *values = g_new (float, count);
  Tensor tensor;

  if (!safetensors_find (file, name, &tensor) || (gsize)tensor_count (&tensor) != count
      || (tensor.dtype != DTYPE_F32 && tensor.dtype != DTYPE_F16 && tensor.dtype != DTYPE_BF16))
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                   "%s: %s is missing or not %" G_GSIZE_FORMAT
                   " numbers; LPIPS needs the weights of AlexNet and the five linear layers",
                   safetensors_path (file), name, count);
      return NULL;
    }
  for (gsize i = 0; i < count; i++)
    {
      values[i] = tensor_get (&tensor, (int64_t)i);
      if (!isfinite (values[i]))
        {
          g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                       "%s: %s holds a value that is not finite; the file is damaged",
                       safetensors_path (file), name);
          return NULL;
        }
    }
  return g_steal_pointer (&values);
}

/* [c_out, c_in, taps] to [c_out, taps, c_in]. */
static float *
channels_last (const float *in, gsize c_out, gsize c_in, gsize taps)
{
  float *out = g_new (float, c_out *c_in *taps);

  for (gsize n = 0; n < c_out; n++)
    for (gsize c = 0; c < c_in; c++)
      for (gsize t = 0; t < taps; t++)
        out[(n * taps + t) * c_in + c] = in[(n * c_in + c) * taps + t];
  return out;
}

static gboolean
read_layer (MetricsLpips *self, Safetensors *file, int i, GError **error)
{
  const gsize c_in = (gsize)layers[i].c_in, c_out = (gsize)layers[i].c_out;
  const gsize taps = (gsize)(layers[i].size * layers[i].size);
  const int index = layers[i].index;
  g_autofree char *theirs = g_strdup_printf ("net.slice%d.%d", i + 1, index);
  g_autofree char *torchvision = g_strdup_printf ("features.%d", index);
  g_autofree char *first = g_strdup_printf ("%s.weight", torchvision);
  g_autofree char *linear = g_strdup_printf ("lin%d.model.1.weight", i);
  g_autofree char *linear_alias = g_strdup_printf ("lins.%d.model.1.weight", i);
  g_autofree char *weight = NULL, *bias = NULL;
  g_autofree float *values = NULL;
  SafetensorsInfo info;
  const char *stem = safetensors_info (file, first, &info) ? torchvision : theirs;

  weight = g_strdup_printf ("%s.weight", stem);
  bias = g_strdup_printf ("%s.bias", stem);
  values = read_floats (file, weight, c_out * c_in * taps, error);
  if (values == NULL)
    return FALSE;
  self->weights[i] = channels_last (values, c_out, c_in, taps);
  self->biases[i] = read_floats (file, bias, c_out, error);
  if (self->biases[i] == NULL)
    return FALSE;
  self->linear[i] = read_floats (
      file, safetensors_info (file, linear_alias, &info) ? linear_alias : linear, c_out, error);
  return self->linear[i] != NULL;
}

static gboolean
check_published (MetricsLpips *self)
{
  g_autoptr (GChecksum) checksum = g_checksum_new (G_CHECKSUM_SHA256);

  for (int i = 0; i < LAYERS; i++)
    g_checksum_update (checksum, (const guchar *)self->linear[i],
                       (gssize)sizeof (float) * layers[i].c_out);
  return g_str_equal (g_checksum_get_string (checksum), PUBLISHED_V01);
}

static gboolean
prepare (MetricsLpips *self, GError **error)
{
  const EngineOptions options = { .device = "cpu" };

  if (!device_open (&self->device, &options, error))
    return FALSE;
  for (int i = 0; i < LAYERS; i++)
    {
      const int64_t n = layers[i].c_out, k = layers[i].c_in * layers[i].size * layers[i].size;
      LinearSource source = { .n = n, .k = k, .n_parts = 1 };
      Status status;

      source.parts[0] = tensor_2d (DTYPE_F32, self->weights[i], n, k);
      source.bias = tensor_1d (DTYPE_F32, self->biases[i], n);
      status = linear_cpu_dense.prepare_weights (self->device.stream, &source, &self->convs[i]);
      if (status != STATUS_OK)
        {
          device_set_error (&self->device, status, "preparing LPIPS", error);
          return FALSE;
        }
    }
  return TRUE;
}

MetricsLpips *
metrics_lpips_open (const char *path, GError **error)
{
  g_autoptr (Safetensors) file = safetensors_open (path, error);
  g_autoptr (MetricsLpips) self = NULL;

  if (file == NULL)
    return NULL;
  self = g_new0 (MetricsLpips, 1);
  g_mutex_init (&self->lock);
  for (int i = 0; i < LAYERS; i++)
    if (!read_layer (self, file, i, error))
      return NULL;
  if (!prepare (self, error))
    return NULL;
  self->published = check_published (self);
  return g_steal_pointer (&self);
}

void
metrics_lpips_free (MetricsLpips *self)
{
  if (self == NULL)
    return;
  for (int i = 0; i < LAYERS; i++)
    {
      linear_cpu_dense.release (self->device.stream, self->convs[i]);
      g_free (self->weights[i]);
      g_free (self->biases[i]);
      g_free (self->linear[i]);
    }
  device_close (&self->device);
  g_mutex_clear (&self->lock);
  g_free (self);
}

gboolean
metrics_lpips_is_published (MetricsLpips *self)
{
  return self->published;
}

/* -- layers --------------------------------------------------------------------------------------
 */

static Features
features_new (int height, int width, int channels)
{
  return (Features){ height, width, channels,
                     g_new (float, (gsize)height *(gsize)width *(gsize)channels) };
}

static void
features_replace (Features *self, Features with)
{
  g_free (self->values);
  *self = with;
}

/* Bytes to what the network was trained on: -1 to 1, then each channel's own shift and scale. */
static Features
load_picture (Image *image)
{
  static const float shift[3] = { -0.030f, -0.088f, -0.188f };
  static const float scale[3] = { 0.458f, 0.448f, 0.450f };
  Features out = features_new (image_get_height (image), image_get_width (image), 3);
  gsize count;
  const guint8 *bytes = g_bytes_get_data (image_get_bytes (image), &count);

  for (gsize i = 0; i < count; i++)
    out.values[i] = ((float)bytes[i] / 127.5f - 1.0f - shift[i % 3]) / scale[i % 3];
  return out;
}

static Features
pool (const Features *in)
{
  Features out = features_new ((in->height - POOL) / POOL_STRIDE + 1,
                               (in->width - POOL) / POOL_STRIDE + 1, in->channels);

#pragma omp parallel for
  for (int y = 0; y < out.height; y++)
    for (int x = 0; x < out.width; x++)
      {
        float *to = out.values + ((gsize)y * (gsize)out.width + (gsize)x) * (gsize)out.channels;

        for (int c = 0; c < out.channels; c++)
          to[c] = -INFINITY;
        for (int i = 0; i < POOL * POOL; i++)
          {
            const gsize row = (gsize)(POOL_STRIDE * y + i / POOL);
            const gsize column = (gsize)(POOL_STRIDE * x + i % POOL);
            const float *from
                = in->values + (row * (gsize)in->width + column) * (gsize)in->channels;

            for (int c = 0; c < out.channels; c++)
              to[c] = MAX (to[c], from[c]);
          }
      }
  return out;
}

/* The patch that output place (y, x) of layer i sees: [size, size, c_in], zeros outside. */
static void
copy_patch (const Features *in, int i, int y, int x, float *patch)
{
  const int size = layers[i].size;
  const gsize channels = (gsize)in->channels;

  for (int ky = 0; ky < size; ky++)
    for (int kx = 0; kx < size; kx++, patch += channels)
      {
        const int row = y * layers[i].stride - layers[i].pad + ky;
        const int column = x * layers[i].stride - layers[i].pad + kx;

        if (row < 0 || row >= in->height || column < 0 || column >= in->width)
          memset (patch, 0, channels * sizeof *patch);
        else
          memcpy (patch, in->values + ((gsize)row * (gsize)in->width + (gsize)column) * channels,
                  channels * sizeof *patch);
      }
}

/* Layer i and its ReLU. */
static gboolean
convolve (MetricsLpips *self, int i, const Features *in, GCancellable *cancellable, Features *out,
          GError **error)
{
  const int size = layers[i].size, stride = layers[i].stride, pad = layers[i].pad;
  const int64_t k = self->convs[i]->k;
  g_autofree float *patches = g_new (float, PATCHES *(gsize)k);
  int places;

  *out = features_new ((in->height + 2 * pad - size) / stride + 1,
                       (in->width + 2 * pad - size) / stride + 1, layers[i].c_out);
  places = out->height * out->width;
  for (int first = 0; first < places; first += PATCHES)
    {
      const int rows = MIN (PATCHES, places - first);
      float *values = out->values + (gsize)first * (gsize)out->channels;
      Tensor x = tensor_2d (DTYPE_F32, patches, rows, k);
      Tensor y = tensor_2d (DTYPE_F32, values, rows, out->channels);
      Status status;

      if (g_cancellable_set_error_if_cancelled (cancellable, error))
        return FALSE;
#pragma omp parallel for
      for (int row = 0; row < rows; row++)
        copy_patch (in, i, (first + row) / out->width, (first + row) % out->width,
                    patches + (gsize)row * (gsize)k);
      status = linear_cpu_dense.apply (self->device.stream, self->convs[i], &x, &y);
      if (status == STATUS_OK)
        status = self->device.ops->wait (self->device.stream);
      if (status != STATUS_OK)
        {
          device_set_error (&self->device, status, "computing LPIPS", error);
          return FALSE;
        }
      for (gsize v = 0; v < (gsize)rows * (gsize)out->channels; v++)
        values[v] = MAX (values[v], 0.0f);
    }
  return TRUE;
}

/* 1 / length of a place's features. */
static double
inverse_length (const float *features, int channels)
{
  double sum = 0;

  for (int c = 0; c < channels; c++)
    sum += (double)features[c] * features[c];
  return 1 / (sqrt (sum) + 1e-10);
}

/* The mean over all places of the weighted squared difference. */
static double
distance (const Features *a, const Features *b, const float *weights)
{
  const gsize places = (gsize)a->height * (gsize)a->width;
  double sum = 0;

  for (gsize i = 0; i < places; i++)
    {
      const float *fa = a->values + i * (gsize)a->channels;
      const float *fb = b->values + i * (gsize)b->channels;
      const double scale_a = inverse_length (fa, a->channels);
      const double scale_b = inverse_length (fb, b->channels);

      for (int c = 0; c < a->channels; c++)
        {
          const double difference = fa[c] * scale_a - fb[c] * scale_b;

          sum += weights[c] * difference * difference;
        }
    }
  return sum / (double)places;
}

/* Takes the features of one picture from layer i - 1 to layer i. */
static gboolean
advance (MetricsLpips *self, int i, Features *features, GCancellable *cancellable, GError **error)
{
  Features next = { 0 };
  gboolean ok;

  if (layers[i].pool)
    features_replace (features, pool (features));
  ok = convolve (self, i, features, cancellable, &next, error);
  features_replace (features, next);
  return ok;
}

gboolean
metrics_lpips (MetricsLpips *self, Image *a, Image *b, GCancellable *cancellable, double *out,
               GError **error)
{
  Features fa, fb;
  double sum = 0;
  gboolean ok = TRUE;

  if (MIN (image_get_width (a), image_get_height (a)) < METRICS_LPIPS_MIN_SIDE)
    return TRUE; /* the last pooling would have nothing to look at */
  fa = load_picture (a);
  fb = load_picture (b);
  g_mutex_lock (&self->lock);
  for (int i = 0; ok && i < LAYERS; i++)
    {
      ok = advance (self, i, &fa, cancellable, error) && advance (self, i, &fb, cancellable, error);
      if (ok)
        sum += distance (&fa, &fb, self->linear[i]);
    }
  g_mutex_unlock (&self->lock);
  g_free (fa.values);
  g_free (fb.values);
  if (ok)
    *out = sum;
  return ok;
}
