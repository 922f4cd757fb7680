/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/weight-only/quantize-encoder.h"

#include "engine/checkpoint/checkpoint-private.h"
#include "engine/checkpoint/inventory.h"
#include "engine/engine.h"
#include "engine/weight-only/encode.h"
#include "engine/weight-only/file.h"
#include "kernels/weight-codes.h"

#include <glib/gstdio.h>
#include <math.h>
#include <string.h>

/* What the result is judged by; none of them calibrates. */
static const char *const judges[] = {
  "A lighthouse on a cliff in a storm at night, oil painting",
  "Two children building a sandcastle on a wide beach, soft afternoon light, 50 mm photograph",
  "The words \"FRESH BREAD\" in white chalk on a blackboard in front of a small bakery",
  "一只橘猫坐在窗台上看雨，水彩画"
};

/* A tensor of the dense encoder. */
typedef struct
{
  char *name;  /* owned; the reference's */
  Tensor data; /* view of the model's file */
  /* Of a linear that becomes codes; scales NULL: it stays as it is. */
  char *base;       /* owned; `name` without .weight */
  uint16_t *scales; /* owned */
} Item;

typedef struct
{
  const QuantizeEncoderJob *job;
  QuantizeEncoderProgress progress;
  gpointer user_data;
  GCancellable *cancellable;
  Checkpoint *checkpoint; /* owned */
  Weights *weights;
  GPtrArray *items;      /* Item, owned */
  Encoder *encoder;      /* owned; the dense one */
  GPtrArray *embeddings; /* GArray, owned: the judges' by the dense one */
  GChecksum *checksum;   /* owned; of all tensors, in the order of the inventory */
  void *codes;           /* owned; of the linear that is written */
  EncoderReport report;
  double work, done; /* numbers of weights */
  gint64 begun;      /* monotonic, when the first linear was */
  GError *error;     /* owned; of a walk */
} Quantizer;

static void
item_free (gpointer data)
{
  Item *self = data;

  g_free (self->name);
  g_free (self->base);
  g_free (self->scales);
  g_free (self);
}

static void
line_clear (gpointer data)
{
  g_free (((EncoderLine *)data)->base);
}

static void
quantizer_clear (Quantizer *self)
{
  g_clear_pointer (&self->items, g_ptr_array_unref);
  g_clear_pointer (&self->embeddings, g_ptr_array_unref);
  g_clear_pointer (&self->checksum, g_checksum_free);
  g_clear_pointer (&self->report.lines, g_array_unref);
  g_clear_pointer (&self->report.prompts, g_array_unref);
  g_clear_error (&self->error);
  encoder_free (self->encoder);
  checkpoint_free (self->checkpoint);
  g_free (self->codes);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Quantizer, quantizer_clear)

/* Linears are gone through twice, for scales and for codes; the first time takes nearly all. */
static gboolean
report (Quantizer *self, const char *doing, GError **error)
{
  double fraction = self->work > 0 ? self->done / self->work : 0.0;
  double spent = (double)(g_get_monotonic_time () - self->begun) / G_USEC_PER_SEC;

  if (g_cancellable_set_error_if_cancelled (self->cancellable, error))
    return FALSE;
  if (self->progress != NULL)
    self->progress (fraction, fraction > 0.02 ? spent / fraction * (1.0 - fraction) : -1.0, doing,
                    self->user_data);
  return TRUE;
}

/* -- what is to be done ----------------------------------------------------------------------- */

static void
add_item (const char *name, int rank, const int64_t *shape, gpointer user_data)
{
  Quantizer *self = user_data;
  Item *item;

  if (self->error != NULL)
    return;
  item = g_new0 (Item, 1);
  item->name = g_strdup (name);
  g_ptr_array_add (self->items, item);
  if (!weights_get_shaped (self->weights, &item->data, name, &self->error, rank, shape) || rank != 2
      || !g_str_has_suffix (name, "_proj.weight") || shape[1] % CODES_GROUP != 0)
    return;
  item->base = g_strndup (name, strlen (name) - strlen (".weight"));
  item->scales = g_try_new (uint16_t, (gsize)(shape[0] * shape[1] / CODES_GROUP));
  self->work += (double)(shape[0] * shape[1]);
  if (item->scales == NULL)
    g_set_error (&self->error, ENGINE_ERROR, ENGINE_ERROR_MEMORY, "no memory for the scales of %s",
                 name);
}

static gboolean
is_same_file (const char *a, const char *b)
{
  GStatBuf left, right;

  return g_stat (a, &left) == 0 && g_stat (b, &right) == 0 && left.st_dev == right.st_dev
         && left.st_ino == right.st_ino;
}

static gboolean
open_model (Quantizer *self, GError **error)
{
  self->checkpoint = checkpoint_open (self->job->model, NULL, NULL, error);
  if (self->checkpoint == NULL)
    return FALSE;
  self->weights = checkpoint_weights (self->checkpoint, CHECKPOINT_TEXT_ENCODER, FALSE, error);
  if (self->weights == NULL || !weights_demand_dense (self->weights, error))
    return FALSE;
  if (is_same_file (weights_path (self->weights), self->job->out))
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST,
                   "%s: this is the dense text encoder itself; name another file to write",
                   self->job->out);
      return FALSE;
    }
  inventory_text_encoder (checkpoint_text_encoder (self->checkpoint), add_item, self);
  if (self->error == NULL && self->work > 0)
    return TRUE;
  if (self->error == NULL)
    g_set_error (&self->error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                 "%s: no linear has a number of inputs that is a multiple of %d",
                 weights_path (self->weights), CODES_GROUP);
  g_propagate_error (error, g_steal_pointer (&self->error));
  return FALSE;
}

/* -- the encoder as it is --------------------------------------------------------------------- */

static gboolean
run_dense (Quantizer *self, GError **error)
{
  const char *const *prompts = self->job->prompts;
  int features;

  self->encoder = encoder_new (self->job->model, NULL, self->cancellable, error);
  if (self->encoder == NULL)
    return FALSE;
  for (guint i = 0; prompts != NULL && prompts[i] != NULL; i++)
    {
      g_autoptr (GArray) embeds = NULL;

      if (!report (self, "reading prompts to learn from", error))
        return FALSE;
      embeds = encoder_run (self->encoder, prompts[i], TRUE, &features, error);
      if (embeds == NULL)
        return FALSE;
    }
  for (guint i = 0; i < G_N_ELEMENTS (judges); i++)
    {
      GArray *embeds;

      if (!report (self, "reading prompts to compare with", error))
        return FALSE;
      embeds = encoder_run (self->encoder, judges[i], FALSE, &features, error);
      if (embeds == NULL)
        return FALSE;
      g_ptr_array_add (self->embeddings, embeds);
    }
  return TRUE;
}

/* The engine runs q, k and v as one linear, and gate and up. */
static float *
weigh_inputs (Quantizer *self, const Item *item)
{
  static const struct
  {
    const char *part, *whole;
  } fused[] = { { "q_proj", "qkv_proj" },
                { "k_proj", "qkv_proj" },
                { "v_proj", "qkv_proj" },
                { "gate_proj", "gate_up_proj" },
                { "up_proj", "gate_up_proj" } };
  const char *dot = strrchr (item->base, '.');
  gsize before = (gsize)(dot - item->base) + 1;

  for (guint i = 0; i < G_N_ELEMENTS (fused); i++)
    if (g_str_equal (dot + 1, fused[i].part))
      {
        g_autofree char *name = g_strdup_printf ("%.*s%s", (int)before, item->base, fused[i].whole);

        return encoder_weigh_inputs (self->encoder, name, item->data.shape[1]);
      }
  return encoder_weigh_inputs (self->encoder, item->base, item->data.shape[1]);
}

/* -- one linear ------------------------------------------------------------------------------- */

/* As F32; a file's tensors may lie at any address. */
static void
read_row (const Tensor *t, gint64 row, float *out)
{
  gsize item = dtype_size (t->dtype);
  gint64 k = t->shape[1];
  const char *from = (const char *)t->data + (gsize)(row * k) * item;

  for (gint64 i = 0; i < k; i++)
    {
      guint32 number = 0;
      const Tensor one = tensor_1d (t->dtype, &number, 1);

      memcpy (&number, from + (gsize)i * item, item);
      out[i] = t->dtype == DTYPE_BF16 ? bf16_to_float ((uint16_t)number) : tensor_get (&one, 0);
    }
}

static gboolean
is_finite (const float *row, gint64 k)
{
  float sum = 0.0f;

  for (gint64 i = 0; i < k; i++)
    sum += row[i] * 0.0f; /* NaN of any number that is not finite */
  return sum == 0.0f;
}

/* Row by row, by all threads; the sums are of whole rows in their order, whoever did which. */
static gboolean
choose_scales (const Quantizer *self, const Item *item, const float *importance,
               RoundingError *sums)
{
  gint64 n = item->data.shape[0], k = item->data.shape[1];
  g_autofree RoundingError *rows = g_new0 (RoundingError, (gsize)n);
  gboolean finite = TRUE;

#pragma omp parallel
  {
    float *row = g_new (float, (gsize)k);

#pragma omp for schedule(dynamic, 16) reduction(& : finite)
    for (gint64 i = 0; i < n; i++)
      {
        read_row (&item->data, i, row);
        finite &= is_finite (row, k);
        rounding_choose_scales (row, importance, k, self->job->bits,
                                item->scales + i * (k / CODES_GROUP), &rows[i]);
      }
    g_free (row);
  }
  for (gint64 i = 0; i < n; i++)
    {
      sums->error += rows[i].error;
      sums->size += rows[i].size;
      sums->weighted_error += rows[i].weighted_error;
      sums->weighted_size += rows[i].weighted_size;
    }
  return finite;
}

static double
ratio (double error, double size)
{
  return size > 0.0 ? sqrt (error / size) : 0.0;
}

static gboolean
quantize_item (Quantizer *self, Item *item, GError **error)
{
  gint64 n = item->data.shape[0], k = item->data.shape[1];
  g_autofree float *importance = weigh_inputs (self, item);
  RoundingError sums = { 0 };
  EncoderLine line;

  if (!report (self, item->base, error))
    return FALSE;
  if (!choose_scales (self, item, importance, &sums))
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                   "%s: tensor %s has numbers that are not finite", weights_path (self->weights),
                   item->name);
      return FALSE;
    }
  line = (EncoderLine){ g_strdup (item->base), n, k, ratio (sums.error, sums.size),
                        ratio (sums.weighted_error, sums.weighted_size) };
  g_array_append_val (self->report.lines, line);
  self->report.whole.error += sums.error;
  self->report.whole.size += sums.size;
  self->report.dense_bytes += tensor_bytes (&item->data);
  self->report.bytes += (guint64)(n * k * self->job->bits / 8 + n * k / CODES_GROUP * 2);
  self->done += (double)(n * k);
  return TRUE;
}

/* A checksum takes lengths below 2 GiB. */
static void
add_to_checksum (GChecksum *checksum, const Tensor *t)
{
  const guchar *bytes = t->data;
  gsize left = tensor_bytes (t);

  for (gsize piece; left > 0; left -= piece, bytes += piece)
    {
      piece = MIN (left, (gsize)1 << 30);
      g_checksum_update (checksum, bytes, (gssize)piece);
    }
}

static gboolean
quantize_all (Quantizer *self, GError **error)
{
  self->begun = g_get_monotonic_time ();
  for (guint i = 0; i < self->items->len; i++)
    {
      Item *item = g_ptr_array_index (self->items, i);

      add_to_checksum (self->checksum, &item->data);
      if (item->scales != NULL && !quantize_item (self, item, error))
        return FALSE;
    }
  return TRUE;
}

/* -- the result ------------------------------------------------------------------------------- */

/* The codes of item `index`, in memory that serves all. */
static const void *
produce_codes (guint index, gpointer user_data, GError **error)
{
  Quantizer *self = user_data;
  const Item *item = g_ptr_array_index (self->items, index);
  gint64 n = item->data.shape[0], k = item->data.shape[1];
  gsize width = (gsize)(k * self->job->bits / 8);

  g_free (self->codes);
  self->codes = g_try_malloc ((gsize)n * width);
  if (self->codes == NULL)
    g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MEMORY, "no memory for the codes of %s",
                 item->base);
  if (self->codes == NULL || !report (self, "writing", error))
    return NULL;
#pragma omp parallel
  {
    float *row = g_new (float, (gsize)k);

#pragma omp for
    for (gint64 i = 0; i < n; i++)
      {
        read_row (&item->data, i, row);
        rounding_choose_codes (row, item->scales + i * (k / CODES_GROUP), k, self->job->bits,
                               (char *)self->codes + (gsize)i * width);
      }
    g_free (row);
  }
  return self->codes;
}

static gboolean
write_file (Quantizer *self, GError **error)
{
  g_autoptr (SafetensorsWriter) writer = safetensors_writer_new ();
  g_autofree char *source = g_path_get_basename (weights_path (self->weights));
  g_autofree char *text = NULL;

  for (guint i = 0; i < self->items->len; i++)
    {
      const Item *item = g_ptr_array_index (self->items, i);
      const Tensor *t = &item->data;
      g_autofree char *codes = g_strconcat (item->base, WEIGHT_ONLY_CODES, NULL);
      g_autofree char *scales = g_strconcat (item->base, WEIGHT_ONLY_SCALES, NULL);

      if (item->scales == NULL)
        {
          safetensors_writer_add (writer, item->name, t->dtype, t->rank, t->shape, t->data);
          continue;
        }
      safetensors_writer_add_later (writer, codes, self->job->bits == 4 ? DTYPE_U8 : DTYPE_I8, 2,
                                    (int64_t[]){ t->shape[0], t->shape[1] * self->job->bits / 8 },
                                    produce_codes, i, self);
      safetensors_writer_add (writer, scales, DTYPE_BF16, 2,
                              (int64_t[]){ t->shape[0], t->shape[1] / CODES_GROUP }, item->scales);
    }
  text = weight_only_describe (self->job->bits, source, g_checksum_get_string (self->checksum));
  safetensors_writer_metadata (writer, WEIGHT_ONLY_KEY, text);
  return safetensors_writer_write (writer, self->job->out, error);
}

static gboolean
judge (Quantizer *self, GError **error)
{
  g_autoptr (Encoder) encoder = NULL;
  int features;

  g_clear_pointer (&self->encoder, encoder_free);
  encoder = encoder_new (self->job->model, self->job->out, self->cancellable, error);
  for (guint i = 0; encoder != NULL && i < G_N_ELEMENTS (judges); i++)
    {
      g_autoptr (GArray) embeds = NULL;
      EncoderPrompt line;

      if (!report (self, "comparing", error))
        return FALSE;
      embeds = encoder_run (encoder, judges[i], FALSE, &features, error);
      if (embeds == NULL)
        return FALSE;
      line = encoder_compare (judges[i], g_ptr_array_index (self->embeddings, i), embeds, features);
      g_array_append_val (self->report.prompts, line);
    }
  return encoder != NULL;
}

gboolean
quantize_encoder (const QuantizeEncoderJob *job, QuantizeEncoderProgress progress,
                  gpointer user_data, GCancellable *cancellable, GError **error)
{
  g_auto (Quantizer) self
      = { .job = job, .progress = progress, .user_data = user_data, .cancellable = cancellable };
  gint64 begun = g_get_monotonic_time ();

  if (job->bits != 8 && job->bits != 4)
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST, "%d bit: it must be 8 or 4",
                   job->bits);
      return FALSE;
    }
  self.begun = begun;
  self.items = g_ptr_array_new_with_free_func (item_free);
  self.embeddings = g_ptr_array_new_with_free_func ((GDestroyNotify)g_array_unref);
  self.checksum = g_checksum_new (G_CHECKSUM_SHA256);
  self.report.job = job;
  self.report.lines = g_array_new (FALSE, FALSE, sizeof (EncoderLine));
  g_array_set_clear_func (self.report.lines, line_clear);
  self.report.prompts = g_array_new (FALSE, FALSE, sizeof (EncoderPrompt));
  if (!open_model (&self, error) || !run_dense (&self, error) || !quantize_all (&self, error)
      || !write_file (&self, error) || !judge (&self, error))
    return FALSE;
  self.report.seconds = (double)(g_get_monotonic_time () - begun) / G_USEC_PER_SEC;
  return encoder_write_report (&self.report, error);
}
