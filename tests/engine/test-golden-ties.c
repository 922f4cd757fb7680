/* SPDX-License-Identifier: Apache-2.0
 *
 * The 4-bit forward against the golden traces where whole pictures cannot be held to them: each
 * step from the trace's own latents, and the first step with the reference's choice wherever a
 * number lies so near a tie that the last place decides its code (engine/svdquant/README.md).
 */
#include "tests/engine/cpu-model.h"

#include <math.h>
#include <string.h>

/* What makes nothing but smooth differences lies far nearer; a wrong term anywhere does not. */
#define STEP_LIMIT    5e-3
#define LATENTS_LIMIT 3e-2
/* Of a row's root mean square: the reach in which reference-ties.py looked. */
#define REACH 2e-3f

typedef struct
{
  const char *name, *file;
  gboolean decided; /* the reference's choices are known */
} Case;

#define INT4_FILE "svdq-int4_r32-svdq-zimage.safetensors"
#define FP4_FILE  "svdq-fp4_r32-svdq-zimage.safetensors"

static const Case cases[] = {
  { "int4-square", INT4_FILE, TRUE }, { "int4-tall", INT4_FILE, FALSE },
  { "int4-pads", INT4_FILE, TRUE },   { "fp4-square", FP4_FILE, FALSE },
  { "fp4-tall", FP4_FILE, TRUE },     { "fp4-pads", FP4_FILE, FALSE },
};

typedef struct
{
  CpuModel model;
  Transformer *transformer;
  TransformerRun *run;
  Safetensors *golden;
  int height, width, steps;
} Fixture;

static const float *
get (Safetensors *file, const char *name, Tensor *t)
{
  if (!safetensors_find (file, name, t))
    g_error ("%s has no %s", safetensors_path (file), name);
  return t->data;
}

static Safetensors *
open_file (char *path)
{
  g_autofree char *owned = path;
  g_autoptr (GError) error = NULL;
  Safetensors *file = safetensors_open (path, &error);

  g_assert_no_error (error);
  return file;
}

static void
fixture_open (Fixture *self, const Case *c, LinearObserver *observer)
{
  const char *root = g_getenv ("TESSERA_FIXTURES");
  g_autofree char *model = g_build_filename (root, "svdq-zimage", NULL);
  g_autofree char *file = g_build_filename (model, c->file, NULL);
  Loader loader;
  Tensor sigmas, embeds, latents;

  *self = (Fixture){ 0 };
  self->golden
      = open_file (g_strdup_printf ("%s/svdq-zimage-golden/%s.safetensors", root, c->name));
  get (self->golden, "latents.init", &latents);
  self->height = (int)latents.shape[2];
  self->width = (int)latents.shape[3];
  cpu_model_open (&self->model, model, file, 64 << 20);
  self->model.ctx.observer = observer;
  loader = cpu_model_loader (&self->model, CHECKPOINT_TRANSFORMER);
  self->transformer = transformer_new (&loader, checkpoint_transformer (self->model.checkpoint));
  cpu_model_assert_loaded (&loader);

  get (self->golden, "scheduler.sigmas", &sigmas);
  get (self->golden, "prompt.embeds", &embeds);
  self->steps = (int)sigmas.shape[0] - 1;
  g_assert_cmpint (transformer_begin (&self->model.ctx, self->transformer, embeds.data,
                                      (int)embeds.shape[0], self->height, self->width, sigmas.data,
                                      self->steps, &self->run),
                   ==, STATUS_OK);
}

static void
fixture_close (Fixture *self)
{
  transformer_end (&self->model.ctx, self->run);
  transformer_free (&self->model.ctx, self->transformer);
  cpu_model_close (&self->model);
  safetensors_free (self->golden);
}

/* The model's output (transfer full) for the trace's latents before step `step`. */
static float *
velocity_of (Fixture *f, int step, Tensor *latents)
{
  g_autofree char *name
      = step == 0 ? g_strdup ("latents.init") : g_strdup_printf ("latents.step%02d", step);
  float *velocity;

  get (f->golden, name, latents);
  velocity = g_new (float, (gsize)tensor_count (latents));
  g_assert_cmpint (
      transformer_step (&f->model.ctx, f->transformer, f->run, step, latents->data, velocity), ==,
      STATUS_OK);
  return velocity;
}

static double
relative_rms (const float *actual, const Tensor *expected)
{
  double difference = 0.0, size = 0.0;

  for (int64_t i = 0; i < tensor_count (expected); i++)
    {
      double e = tensor_get (expected, i);

      difference += (actual[i] - e) * (actual[i] - e);
      size += e * e;
    }
  return sqrt (difference / size);
}

static gboolean
fixtures_are_there (void)
{
  const char *root = g_getenv ("TESSERA_FIXTURES");
  g_autofree char *golden
      = g_build_filename (root != NULL ? root : ".", "svdq-zimage-golden", NULL);

  if (g_file_test (golden, G_FILE_TEST_IS_DIR))
    return TRUE;
  g_test_skip ("the shared fixtures are not there");
  return FALSE;
}

/* -- step by step ------------------------------------------------------------------------------
 */

static void
test_steps (gconstpointer data)
{
  Fixture f;
  Tensor sigmas;
  const float *sigma;

  if (!fixtures_are_there ())
    return;
  fixture_open (&f, data, NULL);
  sigma = get (f.golden, "scheduler.sigmas", &sigmas);
  for (int step = 0; step < f.steps; step++)
    {
      g_autofree char *name = g_strdup_printf ("latents.step%02d", step + 1);
      g_autofree float *next = NULL;
      Tensor before, after;

      next = velocity_of (&f, step, &before);
      get (f.golden, name, &after);
      for (int64_t i = 0; i < tensor_count (&after); i++)
        next[i] = tensor_get (&before, i) - (sigma[step + 1] - sigma[step]) * next[i];
      g_test_message ("%s: %.2e", name, relative_rms (next, &after));
      g_assert_cmpfloat (relative_rms (next, &after), <=, LATENTS_LIMIT);
    }
  fixture_close (&f);
}

/* -- the first step, decided alike --------------------------------------------------------------
 */

typedef struct
{
  Safetensors *ties;
  guint linears, numbers, far; /* seen; decided; of them, farther off than the reach */
} Decisions;

/* What goes into a linear, with the reference's numbers at the ties. */
static void
decide (gpointer user_data, const Linear *linear, const Tensor *x)
{
  Decisions *self = user_data;
  g_autofree char *index_name = g_strconcat (linear->name, ".index", NULL);
  g_autofree char *x_name = g_strconcat (linear->name, ".x", NULL);
  g_autofree char *rows_name = g_strconcat (linear->name, ".rows", NULL);
  int64_t m = x->shape[0], k = x->shape[1];
  float *values = x->data;
  Tensor index, numbers, rows;

  if (!safetensors_find (self->ties, index_name, &index))
    return; /* a dense one */
  get (self->ties, x_name, &numbers);
  get (self->ties, rows_name, &rows);
  g_assert_cmpint (*(const int32_t *)rows.data, ==, m);
  self->linears++;
  for (int64_t i = 0; i < tensor_count (&index); i++)
    {
      int64_t at = ((const int32_t *)index.data)[i];
      const float *row = values + at / k * k;
      float number = tensor_get (&numbers, i), squares = 0.0f;

      for (int64_t j = 0; j < k; j++)
        squares += row[j] * row[j];
      self->far += fabsf (values[at] - number) > REACH * sqrtf (squares / (float)k);
      self->numbers++;
      values[at] = number;
    }
}

static void
test_decided (gconstpointer data)
{
  const Case *c = data;
  Decisions decisions = { 0 };
  LinearObserver observer = { .before = decide, .user_data = &decisions };
  g_autofree float *velocity = NULL;
  Tensor latents, expected;
  Fixture f;
  double error;

  if (!fixtures_are_there ())
    return;
  decisions.ties = open_file (
      g_strdup_printf ("%s/svdq-ties/%s.safetensors", g_getenv ("TESSERA_TEST_DATA"), c->name));
  fixture_open (&f, c, &observer);
  velocity = velocity_of (&f, 0, &latents);
  get (f.golden, "transformer.step01", &expected);
  error = relative_rms (velocity, &expected);
  g_test_message ("%s: %.2e, %u numbers decided, %u of them far off", c->name, error,
                  decisions.numbers, decisions.far);
  g_assert_cmpuint (decisions.linears, ==, 12);
  g_assert_cmpuint (decisions.far, <=, decisions.numbers / 100);
  g_assert_cmpfloat (error, <=, STEP_LIMIT);
  safetensors_free (decisions.ties);
  fixture_close (&f);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *steps = g_strconcat ("/golden-ties/steps/", cases[i].name, NULL);
      g_autofree char *decided = g_strconcat ("/golden-ties/decided/", cases[i].name, NULL);

      g_test_add_data_func (steps, &cases[i], test_steps);
      if (cases[i].decided)
        g_test_add_data_func (decided, &cases[i], test_decided);
    }
  return g_test_run ();
}
