/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/svdquant/calibrate.h"

#include "engine/files/atomic-file.h"
#include "engine/observe.h"
#include "kernels/tensor.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <string.h>

typedef struct
{
  const CalibratePlan *plan;
  const char *dir;
  GHashTable *files; /* base -> FILE, owned */
  guint calls;
  int n_prompts, prompt; /* the one that is being drawn */
  CalibrateProgress progress;
  gpointer user_data;
  GError *error;     /* (owned) a file that could not be written */
  GCancellable *end; /* (owned) of drawing: asked for from outside, or because of `error` */
} Calibration;

static void
set_file_error (GError **error, const char *path)
{
  int code = errno;

  g_set_error (error, G_FILE_ERROR, (gint)g_file_error_from_errno (code),
               "%s: cannot be written: %s", path, g_strerror (code));
}

static char *
rows_path (const char *dir, const char *base)
{
  g_autofree char *name = g_strconcat (base, ".rows", NULL);

  return g_build_filename (dir, name, NULL);
}

/* Of `base`'s rows; pictures drawn from here on would be in vain. */
static void
fail_rows (Calibration *self, const char *base)
{
  int code = errno;
  g_autofree char *path = rows_path (self->dir, base);

  if (self->error != NULL)
    return;
  errno = code;
  set_file_error (&self->error, path);
  g_cancellable_cancel (self->end);
}

static FILE *
open_rows (Calibration *self, const char *base)
{
  FILE *file = g_hash_table_lookup (self->files, base);
  g_autofree char *path = NULL;

  if (file != NULL)
    return file;
  path = rows_path (self->dir, base);
  file = fopen (path, "wb");
  if (file == NULL)
    fail_rows (self, base);
  else
    g_hash_table_insert (self->files, g_strdup (base), file);
  return file;
}

/* A step's share of the rows; the context refiner runs once a picture and not once a step. */
static gint64
rows_of_call (const Calibration *self, const char *base)
{
  gint64 calls = (gint64)self->n_prompts * self->plan->steps;

  if (g_str_has_prefix (base, "context_refiner."))
    calls = self->n_prompts;
  return MAX (1, (self->plan->rows + calls - 1) / calls);
}

/* Keeps rows that are evenly spread, beginning somewhere else on each call. */
static void
keep_rows (const char *base, const float *x, gint64 rows, gint64 k, gpointer user_data)
{
  Calibration *self = user_data;
  gint64 wanted = MIN (rows_of_call (self, base), rows);
  gint64 offset = (gint64)(self->calls++ * 7919u) % MAX (rows / wanted, 1);
  g_autofree uint16_t *row = g_new (uint16_t, (gsize)k);
  FILE *file = self->error == NULL ? open_rows (self, base) : NULL;

  for (gint64 i = 0; i < wanted && file != NULL; i++)
    {
      const float *from = x + (i * rows / wanted + offset) % rows * k;

      for (gint64 j = 0; j < k; j++)
        row[j] = bf16_from_float (from[j]);
      if (fwrite (row, sizeof *row, (size_t)k, file) != (size_t)k)
        fail_rows (self, base);
    }
}

static void
report_step (EnginePhase phase, guint step, guint n_steps, Image *preview, gpointer user_data)
{
  Calibration *self = user_data;

  if (phase == ENGINE_PHASE_DENOISE && self->progress != NULL)
    self->progress ((self->prompt + (double)step / n_steps) / self->n_prompts, self->user_data);
}

static gboolean
draw_all (Calibration *self, Engine *engine, GError **error)
{
  for (int i = 0; i < self->n_prompts; i++)
    {
      EngineRequest request = ENGINE_REQUEST_INIT;
      g_autoptr (Image) image = NULL;

      self->prompt = i;
      request.prompt = (char *)self->plan->prompts[i];
      request.width = request.height = self->plan->size;
      request.steps = self->plan->steps;
      request.seed = (guint64)i + 1;
      request.guidance = 0;
      request.precision = ENGINE_PRECISION_BF16;
      image = engine_generate (engine, &request, report_step, self, self->end, error);
      if (image == NULL)
        return FALSE;
    }
  return TRUE;
}

/* Closing writes what is left, so it can fail. */
static void
close_all (Calibration *self)
{
  GHashTableIter iter;
  gpointer base, file;

  g_hash_table_iter_init (&iter, self->files);
  while (g_hash_table_iter_next (&iter, &base, &file))
    if (fclose (file) != 0)
      fail_rows (self, base);
  g_hash_table_remove_all (self->files);
}

static char *
describe (const char *model, const CalibratePlan *plan)
{
  GString *text = g_string_new (NULL);

  g_string_printf (text, "model %s\nweights %s\nsteps %d\nsize %d\nrows %" G_GINT64_FORMAT "\n",
                   model, plan->weights, plan->steps, plan->size, plan->rows);
  for (guint i = 0; plan->prompts[i] != NULL; i++)
    g_string_append_printf (text, "prompt %s\n", plan->prompts[i]);
  return g_string_free (text, FALSE);
}

static gboolean
is_done (const char *path, const char *description)
{
  g_autofree char *found = NULL;

  return g_file_get_contents (path, &found, NULL, NULL) && g_str_equal (found, description);
}

static void
pass_on (GCancellable *cancellable, gpointer end)
{
  g_cancellable_cancel (end);
}

gboolean
calibrate (const char *model, const CalibratePlan *plan, const char *dir,
           CalibrateProgress progress, gpointer user_data, GCancellable *cancellable,
           GError **error)
{
  EngineOptions options = { .device = "cpu" };
  Calibration self = { .plan = plan, .dir = dir, .progress = progress, .user_data = user_data };
  g_autofree char *description = describe (model, plan);
  g_autofree char *mark = g_build_filename (dir, "calibration.txt", NULL);
  g_autoptr (Engine) engine = NULL;
  g_autoptr (GError) drawing = NULL;
  gulong watch = 0;
  gboolean good;

  if (is_done (mark, description))
    return TRUE;
  g_unlink (mark);
  engine = engine_new (model, &options, error);
  if (engine == NULL || !engine_observe (engine, keep_rows, &self, error))
    return FALSE;
  self.files = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  self.n_prompts = (int)g_strv_length ((char **)plan->prompts);
  self.end = g_cancellable_new ();
  if (cancellable != NULL)
    watch = g_cancellable_connect (cancellable, G_CALLBACK (pass_on), self.end, NULL);
  good = draw_all (&self, engine, &drawing);
  g_cancellable_disconnect (cancellable, watch);
  close_all (&self);
  g_hash_table_unref (self.files);
  g_object_unref (self.end);
  if (self.error != NULL || !good)
    {
      g_propagate_error (error, self.error != NULL ? self.error : g_steal_pointer (&drawing));
      return FALSE;
    }
  return g_file_set_contents (mark, description, -1, error);
}

float *
calibrate_read (const char *dir, const char *base, gint64 k, gint64 *rows, GError **error)
{
  g_autofree char *path = rows_path (dir, base);
  g_autofree char *bytes = NULL;
  gsize length;
  float *out;

  if (!g_file_get_contents (path, &bytes, &length, error))
    return NULL;
  *rows = (gint64)(length / sizeof (uint16_t)) / k;
  if (*rows < 2 || length != (gsize)(*rows * k) * sizeof (uint16_t))
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                   "%s: not a whole number of rows; remove its folder to calibrate again", path);
      return NULL;
    }
  out = g_new (float, (gsize)(*rows * k));
  for (gint64 i = 0; i < *rows * k; i++)
    {
      uint16_t bits;

      memcpy (&bits, bytes + i * 2, sizeof bits);
      out[i] = bf16_to_float (bits);
    }
  return out;
}
