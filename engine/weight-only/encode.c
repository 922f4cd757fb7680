/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/weight-only/encode.h"

#include "engine/memory/plan.h"

#include <math.h>

/* What one linear was fed. */
typedef struct
{
  gint64 k;
  float *energy; /* owned, [k] */
} Seen;

struct _Encoder
{
  Device device;
  Models models;
  GHashTable *seen; /* name -> Seen, owned */
  GCancellable *cancellable;
};

static void
seen_free (gpointer data)
{
  g_free (((Seen *)data)->energy);
  g_free (data);
}

void
encoder_free (Encoder *self)
{
  if (self == NULL)
    return;
  models_close (&self->models, &self->device);
  device_close (&self->device);
  g_hash_table_unref (self->seen);
  g_free (self);
}

/* Sets the error of a failed call unless it is set. */
static void
fail (Encoder *self, Status status, const char *doing, GError **error)
{
  if (error != NULL && *error == NULL)
    device_set_error (&self->device, status, doing, error);
}

Encoder *
encoder_new (const char *model, const char *file, GCancellable *cancellable, GError **error)
{
  const EngineOptions options = { .device = "cpu" };
  const PartPlacement mapped = { .unexpanded = TRUE };
  g_autoptr (Encoder) self = g_new0 (Encoder, 1);
  Status status;

  self->seen = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, seen_free);
  self->cancellable = cancellable;
  if (!device_open (&self->device, &options, error)
      || !models_open (&self->models, &self->device, model, NULL, NULL, file, error))
    return NULL;
  status = models_load (&self->models, &self->device, MODELS_TEXT_ENCODER, ENGINE_PRECISION_BF16,
                        &mapped, cancellable, error);
  if (status == STATUS_OK)
    return g_steal_pointer (&self);
  fail (self, status, "loading the text encoder", error);
  return NULL;
}

static void
add_energy (Seen *seen, const float *x, gint64 rows)
{
  for (gint64 row = 0; row < rows; row++)
    {
      const float *in = x + row * seen->k;
      double sum = 0.0;
      float share;

      for (gint64 i = 0; i < seen->k; i++)
        sum += (double)in[i] * in[i];
      share = sum > 0.0 ? (float)((double)seen->k / sum) : 0.0f;
      for (gint64 i = 0; i < seen->k; i++)
        seen->energy[i] += in[i] * in[i] * share;
    }
}

static void
look_on (gpointer user_data, const Linear *linear, const Tensor *x)
{
  Encoder *self = user_data;
  Seen *seen = linear->name != NULL ? g_hash_table_lookup (self->seen, linear->name) : NULL;

  if (linear->name == NULL || x->dtype != DTYPE_F32)
    return;
  if (seen == NULL)
    {
      seen = g_new (Seen, 1);
      *seen = (Seen){ linear->k, g_new0 (float, (gsize)linear->k) };
      g_hash_table_insert (self->seen, g_strdup (linear->name), seen);
    }
  add_energy (seen, x->data, tensor_count (x) / linear->k);
}

static Status
encode (Encoder *self, gboolean watch, PipelineRun *run)
{
  LinearObserver observer = { .before = look_on, .user_data = self };
  Arena arena = { 0 };
  Context ctx = { .ops = self->device.ops,
                  .stream = self->device.stream,
                  .activation = device_activation (&self->device.caps),
                  .residual = device_residual (&self->device.caps),
                  .arena = &arena,
                  .caps = &self->device.caps,
                  .options = &self->device.options,
                  .cancellable = self->cancellable,
                  .observer = watch ? &observer : NULL };
  PlanFacts facts;
  Status status;

  CHECK (plan_count (&self->models, &self->device, run, &facts));
  CHECK (arena_init (&arena, ctx.ops, ctx.stream, facts.encode));
  status = pipeline_encode (&ctx, &self->models, run);
  arena_clear (&arena);
  return status;
}

GArray *
encoder_run (Encoder *self, const char *prompt, gboolean watch, int *features, GError **error)
{
  EngineRequest request = ENGINE_REQUEST_INIT;
  PipelineRun run = { .request = &request };
  GArray *embeds = NULL;
  Status status;

  request.prompt = prompt;
  *features = checkpoint_text_encoder (self->models.checkpoint)->hidden;
  if (!pipeline_tokenize (&self->models, &run, error))
    {
      pipeline_run_clear (&run);
      return NULL;
    }
  status = encode (self, watch, &run);
  if (status == STATUS_OK)
    {
      embeds = g_array_new (FALSE, FALSE, sizeof (float));
      g_array_append_vals (embeds, run.embeds[0], run.ids[0]->len * (guint)*features);
    }
  else
    fail (self, status, "reading a prompt", error);
  pipeline_run_clear (&run);
  return embeds;
}

float *
encoder_weigh_inputs (Encoder *self, const char *name, gint64 k)
{
  const Seen *seen = g_hash_table_lookup (self->seen, name);
  float *out;

  if (seen == NULL || seen->k != k)
    return NULL;
  out = g_new (float, (gsize)k);
  for (gint64 i = 0; i < k; i++)
    out[i] = sqrtf (seen->energy[i]);
  return out;
}
