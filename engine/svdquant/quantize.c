/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/svdquant/quantize.h"

#include "engine/checkpoint/checkpoint-private.h"
#include "engine/engine.h"
#include "engine/svdquant/convert.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define HELD_BACK 8 /* one row in so many is never learnt from */

/* One of a block's four, and the dense tensors it stacks by rows. */
typedef struct
{
  const char *name;
  const char *parts[3]; /* NULL after the last */
  gboolean feed_forward;
} Recipe;

static const Recipe recipes[] = {
  { "attention.to_qkv", { "attention.to_q", "attention.to_k", "attention.to_v" }, FALSE },
  { "attention.to_out.0", { "attention.to_out.0", NULL, NULL }, FALSE },
  { "feed_forward.w13", { "feed_forward.w1", "feed_forward.w3", NULL }, TRUE },
  { "feed_forward.w2", { "feed_forward.w2", NULL, NULL }, TRUE },
};

typedef struct
{
  char *base; /* owned */
  const Recipe *recipe;
  Tensor dense[3]; /* views of the model's file */
  int n_dense;
  int64_t n, k;
  int rank;
  char *path;        /* owned; where it lies when finished */
  Safetensors *done; /* owned; NULL until then */
} Target;

typedef struct
{
  const QuantizeJob *job;
  QuantizeProgress progress;
  gpointer user_data;
  GCancellable *cancellable;
  Checkpoint *checkpoint; /* owned */
  Weights *weights;
  char *dir;                    /* owned; OUT.parts */
  int lock;                     /* of that folder; -1 where there is none */
  char *source;                 /* owned; which weights these are */
  GPtrArray *targets;           /* Target, owned */
  gint64 begun;                 /* monotonic, when the first linear was */
  double work, worked, skipped; /* numbers of weights: all, finished, found finished */
} Quantizer;

static void
target_free (gpointer data)
{
  Target *self = data;

  safetensors_free (self->done);
  g_free (self->base);
  g_free (self->path);
  g_free (self);
}

static void
quantizer_clear (Quantizer *self)
{
  g_clear_pointer (&self->targets, g_ptr_array_unref);
  checkpoint_free (self->checkpoint);
  if (self->lock >= 0)
    close (self->lock);
  g_free (self->dir);
  g_free (self->source);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Quantizer, quantizer_clear)

const char *const *
quantize_default_prompts (void)
{
  static const char *const prompts[]
      = { "A fisherman mends a net on a wooden pier at dawn, soft fog over the harbour, photograph",
          "A red fox asleep in the snow, close-up, every hair sharp",
          "Street market in Tokyo at night, neon signs with Japanese writing, rain on the ground",
          "An old bookshop with a cat on the counter, watercolour",
          "Portrait of an elderly woman laughing, window light, 85 mm lens",
          "一位穿着汉服的年轻女子站在竹林中，晨光，写实摄影",
          "A poster that says \"OPEN TODAY\" in large blue letters on yellow paper",
          "A spiral galaxy seen from a rocky moon, two astronauts, wide angle",
          NULL };

  return prompts;
}

/* -- what is to be done ----------------------------------------------------------------------- */

/* A path alone does not say: a model may be downloaded again, or exchanged for a finer one. */
static char *
describe_source (Weights *weights)
{
  const char *path = weights_path (weights);
  GStatBuf state = { 0 };

  (void)g_stat (path, &state); /* it is open: whatever keeps it from being seen now is no matter */
  return g_strdup_printf ("%s of %" G_GUINT64_FORMAT " bytes, changed %" G_GINT64_FORMAT, path,
                          weights_bytes (weights), (gint64)state.st_mtim.tv_sec);
}

/* Everything that decides a linear's numbers, so that parts of another run are not taken. */
static char *
describe_settings (const Quantizer *self, const Target *target)
{
  const QuantizeSettings *s = &self->job->settings;
  GString *text = g_string_new (NULL);

  g_string_printf (text, "1 %s format %d rank %d level %d", self->source, (int)s->format,
                   target->rank, (int)s->level);
  if (s->level != QUANTIZE_DATA_FREE)
    {
      g_string_append_printf (text, " steps %d size %d rows %" G_GINT64_FORMAT,
                              self->job->plan.steps, self->job->plan.size, self->job->plan.rows);
      for (guint i = 0; self->job->plan.prompts[i] != NULL; i++)
        g_string_append_printf (text, " \"%s\"", self->job->plan.prompts[i]);
    }
  return g_string_free (text, FALSE);
}

/* An earlier run's part, if it was made with the same settings. */
static void
find_done (Quantizer *self, Target *target)
{
  g_autofree char *settings = describe_settings (self, target);
  g_autoptr (Safetensors) file = NULL;

  if (!g_file_test (target->path, G_FILE_TEST_EXISTS))
    return;
  file = safetensors_open (target->path, NULL);
  if (file != NULL && g_strcmp0 (safetensors_metadata (file, "settings"), settings) == 0)
    target->done = g_steal_pointer (&file);
}

static gboolean
add_target (Quantizer *self, const char *stack, int index, const Recipe *recipe, GError **error)
{
  const TransformerConfig *c = checkpoint_transformer (self->checkpoint);
  Target *target = g_new0 (Target, 1);
  g_autofree char *name = NULL;

  g_ptr_array_add (self->targets, target);
  target->base = g_strdup_printf ("%s.%d.%s", stack, index, recipe->name);
  target->recipe = recipe;
  target->rank = recipe->feed_forward && self->job->feed_forward_rank > 0
                     ? self->job->feed_forward_rank
                     : self->job->settings.rank;
  target->k = g_str_equal (recipe->name, "feed_forward.w2") ? c->hidden : c->dim;
  for (int i = 0; i < 3 && recipe->parts[i] != NULL; i++)
    {
      g_autofree char *dense = g_strdup_printf ("%s.%d.%s.weight", stack, index, recipe->parts[i]);
      int64_t rows = g_str_equal (recipe->name, "feed_forward.w13") ? c->hidden : c->dim;

      if (!weights_get (self->weights, &target->dense[i], dense, error, 2, rows, target->k))
        return FALSE;
      target->n += rows;
      target->n_dense++;
    }
  if (target->n % 64 != 0 || target->k % 64 != 0 || target->rank >= MIN (target->n, target->k))
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                   "%s: linear %s is %" G_GINT64_FORMAT " x %" G_GINT64_FORMAT
                   "; SVDQuant needs multiples of 64 that are larger than the rank",
                   weights_path (self->weights), target->base, (gint64)target->n,
                   (gint64)target->k);
      return FALSE;
    }
  name = g_strconcat (target->base, ".safetensors", NULL);
  target->path = g_build_filename (self->dir, name, NULL);
  find_done (self, target);
  self->work += (double)(target->n * target->k);
  return TRUE;
}

/* The rule: four linears of every block; all else stays as it is. */
static gboolean
add_targets (Quantizer *self, GError **error)
{
  const TransformerConfig *c = checkpoint_transformer (self->checkpoint);
  const struct
  {
    const char *name;
    int count;
  } stacks[] = { { "noise_refiner", c->n_refiner_layers },
                 { "context_refiner", c->n_refiner_layers },
                 { "layers", c->n_layers } };

  for (guint s = 0; s < G_N_ELEMENTS (stacks); s++)
    for (int i = 0; i < stacks[s].count; i++)
      for (guint r = 0; r < G_N_ELEMENTS (recipes); r++)
        if (!add_target (self, stacks[s].name, i, &recipes[r], error))
          return FALSE;
  return TRUE;
}

/* -- one linear ------------------------------------------------------------------------------- */

/* The stacked weight [N, K] as F32; NULL without memory. */
static float *
stack_weight (const Target *target)
{
  float *weight = g_try_new (float, (gsize)(target->n * target->k));
  int64_t at = 0;

  for (int part = 0; weight != NULL && part < target->n_dense; part++)
    for (int64_t i = 0; i < tensor_count (&target->dense[part]); i++)
      weight[at++] = tensor_get (&target->dense[part], i);
  return weight;
}

/* Moves every HELD_BACKth row to the end; returns how many rows come before. */
static gint64
hold_back (float *x, gint64 rows, gint64 k)
{
  gint64 held = rows / HELD_BACK, learnt = 0;
  g_autofree float *kept = g_new (float, (gsize)((held + 1) * k));
  gint64 n_kept = 0;

  for (gint64 i = 0; i < rows; i++)
    if (i % HELD_BACK == HELD_BACK - 1)
      memcpy (kept + n_kept++ * k, x + i * k, (gsize)k * sizeof (float));
    else
      memmove (x + learnt++ * k, x + i * k, (gsize)k * sizeof (float));
  memcpy (x + learnt * k, kept, (gsize)(n_kept * k) * sizeof (float));
  return learnt;
}

static gboolean
write_target (const Quantizer *self, Target *target, const QuantizeResult *r, double seconds,
              GError **error)
{
  g_autoptr (SafetensorsWriter) writer = safetensors_writer_new ();
  g_autofree char *settings = describe_settings (self, target);
  g_autofree char *report = NULL;
  gboolean int4 = r->rounded->format == SVDQ_INT4;
  int64_t n = target->n, k = target->k, rank = target->rank;
  QuantizeLine line = { target->base, n,       k,        target->rank, r->refinements, r->alpha,
                        r->beta,      seconds, r->plain, r->smoothed,  r->refined,     r->final };

  safetensors_writer_add (writer, "qweight", DTYPE_U8, 2, (int64_t[]){ n, k / 2 },
                          r->rounded->qweight);
  safetensors_writer_add (writer, "wscales", int4 ? DTYPE_BF16 : DTYPE_F8_E4M3, 2,
                          (int64_t[]){ k / (int4 ? 64 : 16), n }, r->rounded->wscales);
  safetensors_writer_add (writer, "smooth_factor", DTYPE_BF16, 1, &k, r->smooth);
  safetensors_writer_add (writer, "proj_down", DTYPE_BF16, 2, (int64_t[]){ k, rank },
                          r->factors->down);
  safetensors_writer_add (writer, "proj_up", DTYPE_BF16, 2, (int64_t[]){ n, rank }, r->factors->up);
  if (!int4)
    safetensors_writer_add (writer, "wtscale", DTYPE_BF16, 1, (int64_t[]){ 1 },
                            &r->rounded->wtscale);
  report = quantize_line_to_json (&line);
  safetensors_writer_metadata (writer, "settings", settings);
  safetensors_writer_metadata (writer, "report", report);
  if (!safetensors_writer_write (writer, target->path, error))
    return FALSE;
  target->done = safetensors_open (target->path, error);
  return target->done != NULL;
}

static gboolean
quantize_target (Quantizer *self, Target *target, GError **error)
{
  QuantizeSettings settings = self->job->settings;
  QuantizeProblem problem = { .n = target->n, .k = target->k };
  g_autofree float *weight = stack_weight (target);
  g_autofree float *inputs = NULL;
  g_autoptr (QuantizeResult) result = NULL;
  gint64 begun = g_get_monotonic_time (), rows;

  if (weight == NULL)
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MEMORY, "no memory for linear %s",
                   target->base);
      return FALSE;
    }
  problem.weight = weight;
  settings.rank = target->rank;
  if (settings.level != QUANTIZE_DATA_FREE)
    {
      inputs = calibrate_read (self->dir, target->base, target->k, &rows, error);
      if (inputs == NULL)
        return FALSE;
      problem.inputs = inputs;
      problem.n_inputs = hold_back (inputs, rows, target->k);
      problem.held = inputs + problem.n_inputs * target->k;
      problem.n_held = rows - problem.n_inputs;
    }
  result = quantize_linear (&problem, &settings, self->cancellable, error);
  if (result == NULL)
    {
      g_prefix_error (error, "%s: linear %s: ", weights_path (self->weights), target->base);
      return FALSE;
    }
  return write_target (self, target, result,
                       (double)(g_get_monotonic_time () - begun) / G_USEC_PER_SEC, error);
}

static void
report (Quantizer *self, const char *doing)
{
  double done = self->worked + self->skipped;
  double spent = (double)(g_get_monotonic_time () - self->begun) / G_USEC_PER_SEC;
  double left = self->worked > 0 ? spent * (self->work - done) / self->worked : -1.0;

  if (self->progress != NULL)
    self->progress (done / self->work, left, doing, self->user_data);
}

static gboolean
quantize_all (Quantizer *self, GError **error)
{
  self->begun = g_get_monotonic_time ();
  for (guint i = 0; i < self->targets->len; i++)
    {
      Target *target = g_ptr_array_index (self->targets, i);
      double size = (double)(target->n * target->k);

      report (self, target->base);
      if (target->done != NULL)
        self->skipped += size;
      else if (!quantize_target (self, target, error))
        return FALSE;
      else
        self->worked += size;
    }
  return TRUE;
}

/* -- the result ------------------------------------------------------------------------------- */

static const void *
produce_part (guint index, gpointer user_data, GError **error)
{
  Quantizer *self = user_data;
  const Target *target = g_ptr_array_index (self->targets, index / SVDQ_N_PARTS);
  Tensor t;

  if (safetensors_find (target->done, svdq_part_name ((SvdqPart)(index % SVDQ_N_PARTS)), &t))
    return t.data;
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL, "%s: %s is missing", target->path,
               svdq_part_name ((SvdqPart)(index % SVDQ_N_PARTS)));
  return NULL;
}

static void
add_parts (Quantizer *self, SafetensorsWriter *writer, guint index, uint16_t **ones)
{
  const Target *target = g_ptr_array_index (self->targets, index);

  for (int part = 0; part < SVDQ_N_PARTS; part++)
    {
      const char *suffix = svdq_part_name ((SvdqPart)part);
      g_autofree char *name = g_strconcat (target->base, ".", suffix, NULL);
      Tensor t;

      if (safetensors_find (target->done, suffix, &t))
        safetensors_writer_add_later (writer, name, t.dtype, t.rank, t.shape, produce_part,
                                      index * SVDQ_N_PARTS + (guint)part, self);
      else if (part == SVDQ_WCSCALES && self->job->settings.format == SVDQ_NVFP4)
        safetensors_writer_add (writer, name, DTYPE_BF16, 1, &target->n, *ones);
    }
}

/* What no linear was made of is copied. */
static gboolean
add_dense (Quantizer *self, SafetensorsWriter *writer, GError **error)
{
  Safetensors *file = self->weights->file;

  for (guint i = 0; i < safetensors_count (file); i++)
    {
      const char *stored = safetensors_name (file, i);
      Tensor t;

      if (g_hash_table_contains (self->weights->used, stored)
          || !g_str_has_prefix (stored, self->weights->prefix))
        continue;
      if (!safetensors_find (file, stored, &t))
        {
          g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                       "%s: tensor %s has a type or a shape that cannot be copied",
                       safetensors_path (file), stored);
          return FALSE;
        }
      safetensors_writer_add (writer, stored + strlen (self->weights->prefix), t.dtype, t.rank,
                              t.shape, t.data);
    }
  return TRUE;
}

static gboolean
write_model (Quantizer *self, GError **error)
{
  g_autoptr (SafetensorsWriter) writer = safetensors_writer_new ();
  g_autofree char *source = g_path_get_basename (weights_path (self->weights));
  g_autofree char *canonical = NULL, *config_path = NULL, *config = NULL;
  g_autofree uint16_t *ones = NULL;
  int64_t most = 0;

  for (guint i = 0; i < self->targets->len; i++)
    most = MAX (most, ((Target *)g_ptr_array_index (self->targets, i))->n);
  ones = g_new (uint16_t, (gsize)most);
  for (int64_t i = 0; i < most; i++)
    ones[i] = 0x3f80;
  for (guint i = 0; i < self->targets->len; i++)
    add_parts (self, writer, i, &ones);
  if (!add_dense (self, writer, error))
    return FALSE;
  canonical = svdq_describe_canonical (self->job->settings.format, self->job->settings.rank, source,
                                       NULL);
  safetensors_writer_metadata (writer, "svdq_canonical", canonical);
  config_path = g_build_filename (self->job->model, "transformer", "config.json", NULL);
  if (g_file_get_contents (config_path, &config, NULL, NULL))
    safetensors_writer_metadata (writer, "config", config);
  return safetensors_writer_write (writer, self->job->out, error);
}

static gboolean
write_report (Quantizer *self, GError **error)
{
  g_autoptr (GArray) lines = g_array_new (FALSE, TRUE, sizeof (QuantizeLine));

  g_array_set_clear_func (lines, (GDestroyNotify)quantize_line_clear);
  for (guint i = 0; i < self->targets->len; i++)
    {
      const Target *target = g_ptr_array_index (self->targets, i);
      const char *text = safetensors_metadata (target->done, "report");
      QuantizeLine line;

      if (text == NULL || !quantize_line_from_json (text, &line, error))
        return FALSE;
      g_array_append_val (lines, line);
    }
  return quantize_write_report (self->job, lines, error);
}

/* Only what this program put there: a file of somebody else keeps the folder. */
static void
remove_parts (Quantizer *self)
{
  g_autofree char *mark = g_build_filename (self->dir, "calibration.txt", NULL);

  for (guint i = 0; i < self->targets->len; i++)
    {
      Target *target = g_ptr_array_index (self->targets, i);
      g_autofree char *rows = g_strdup_printf ("%s/%s.rows", self->dir, target->base);

      g_unlink (target->path);
      g_unlink (rows);
    }
  g_unlink (mark);
  g_rmdir (self->dir);
}

/* The folder of what is finished, for this program alone: two that write the same rows would learn
 * from a mixture. A file system without locks gives none. */
static gboolean
open_parts (Quantizer *self, GError **error)
{
  self->dir = g_strconcat (self->job->out, ".parts", NULL);
  if (g_mkdir_with_parents (self->dir, 0755) == 0)
    self->lock = g_open (self->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  if (self->lock < 0)
    g_set_error (error, G_FILE_ERROR, (gint)g_file_error_from_errno (errno),
                 "%s: cannot be made or opened: %s", self->dir, g_strerror (errno));
  else if (flock (self->lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
    g_set_error (error, G_FILE_ERROR, G_FILE_ERROR_AGAIN,
                 "%s: another program is making this file; let it, or write elsewhere",
                 self->job->out);
  else
    return TRUE;
  return FALSE;
}

static void
report_calibration (double fraction, gpointer user_data)
{
  Quantizer *self = user_data;
  g_autofree char *doing
      = g_strdup_printf ("drawing pictures to learn from, %d %%", (int)(fraction * 100));

  if (self->progress != NULL)
    self->progress (0.0, -1.0, doing, self->user_data);
}

gboolean
quantize_model (const QuantizeJob *job, QuantizeProgress progress, gpointer user_data,
                GCancellable *cancellable, GError **error)
{
  g_auto (Quantizer) self = {
    .job = job, .progress = progress, .user_data = user_data, .cancellable = cancellable, .lock = -1
  };
  int ranks[] = { job->settings.rank, job->feed_forward_rank };
  CalibratePlan plan = job->plan;

  for (guint i = 0; i < G_N_ELEMENTS (ranks); i++)
    if (ranks[i] < (i == 0 ? 16 : 0) || ranks[i] > 1024 || ranks[i] % 16 != 0)
      {
        g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST,
                     "rank %d: it must be a multiple of 16, from 16 to 1024", ranks[i]);
        return FALSE;
      }
  self.checkpoint = checkpoint_open (job->model, NULL, NULL, error);
  if (self.checkpoint == NULL)
    return FALSE;
  self.weights = checkpoint_weights (self.checkpoint, CHECKPOINT_TRANSFORMER, FALSE, error);
  if (self.weights == NULL || !weights_demand_dense (self.weights, error))
    return FALSE;
  plan.weights = self.source = describe_source (self.weights);
  if (!open_parts (&self, error))
    return FALSE;
  self.targets = g_ptr_array_new_with_free_func (target_free);
  if (!add_targets (&self, error)
      || (job->settings.level != QUANTIZE_DATA_FREE
          && !calibrate (job->model, &plan, self.dir, report_calibration, &self, cancellable,
                         error))
      || !quantize_all (&self, error) || !write_model (&self, error)
      || !write_report (&self, error))
    return FALSE;
  remove_parts (&self);
  return TRUE;
}
