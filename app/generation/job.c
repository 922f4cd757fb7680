/* SPDX-License-Identifier: Apache-2.0 */
#include "app/generation/job.h"

#include "app/history/picture.h"

#include <glib/gi18n.h>

typedef struct /* what the engine's thread last said */
{
  EnginePhase phase;
  guint step, n_steps;
  gint64 started[ENGINE_N_PHASES]; /* monotonic, of each phase; 0 = not begun */
  gint64 updated;
} Progress;

struct _TesseraJob
{
  GObject parent_instance;

  /* Owned, set once */
  EngineRequest *request;
  char *pair;
  GCancellable *cancellable;

  /* Main thread */
  JobState state;
  double fraction;
  char *text;
  GdkTexture *preview;
  GError *error;
  JobTimings expected, timings;
  gint64 begun, ended;

  /* Guarded by lock */
  GMutex lock;
  gboolean update_pending;
  Progress progress;
  Image *new_preview;
};

G_DEFINE_FINAL_TYPE (TesseraJob, job, G_TYPE_OBJECT)

enum
{
  PROP_STATE = 1,
  PROP_FRACTION,
  PROP_TEXT,
  PROP_PREVIEW,
  N_PROPS
};

static GParamSpec *properties[N_PROPS];

/* Shares of the bar while nothing has been measured: few steps of a distilled model. */
static const JobTimings USUAL = { { 0.15, 0.05, 0.65, 0.15 } };

const char *
precision_label (EnginePrecision precision)
{
  return precision == ENGINE_PRECISION_SVDQUANT ? "SVDQuant" : "BF16";
}

/* The whole job's share that is done, and the seconds left (negative if they are not known). */
static double
compose (TesseraJob *self, const Progress *p, double *seconds_left)
{
  const gboolean known = self->expected.seconds[ENGINE_PHASE_DENOISE] > 0;
  const double *share = known ? self->expected.seconds : USUAL.seconds;
  double total = 0, done = 0, part = p->n_steps ? (double)p->step / p->n_steps : 0;

  for (int i = 0; i < ENGINE_N_PHASES; i++)
    total += share[i];
  for (guint i = 0; i < p->phase; i++)
    done += share[i];
  done += share[p->phase] * MIN (part, 1.0);

  *seconds_left = known ? total - done : -1;
  if (p->phase == ENGINE_PHASE_DENOISE && p->step > 0 && p->n_steps > 0)
    {
      /* Steps are all alike, so this run's own are the better measure. */
      double elapsed = (p->updated - p->started[p->phase]) / 1e6;
      double decode = known ? share[ENGINE_PHASE_DECODE] : elapsed / p->n_steps;
      *seconds_left = elapsed / p->step * (p->n_steps - p->step) + decode;
    }
  return total > 0 ? CLAMP (done / total, 0, 1) : 0;
}

static char *
describe_progress (const Progress *p, double seconds_left)
{
  g_autofree char *what = NULL;

  switch (p->phase)
    {
    case ENGINE_PHASE_LOAD:
      return g_strdup (_ ("Loading the model"));
    case ENGINE_PHASE_ENCODE:
      return g_strdup (_ ("Reading the prompt"));
    case ENGINE_PHASE_DECODE:
      return g_strdup (_ ("Developing the image"));
    case ENGINE_PHASE_DENOISE:
    default:
      break;
    }
  if (seconds_left < 0)
    return g_strdup_printf (_ ("Step %u of %u"), p->step, p->n_steps);
  if (seconds_left < 90)
    return g_strdup_printf (_ ("Step %u of %u, about %.0f s left"), p->step, p->n_steps,
                            MAX (seconds_left, 1));
  return g_strdup_printf (_ ("Step %u of %u, about %.0f min left"), p->step, p->n_steps,
                          seconds_left / 60);
}

static void
set_text (TesseraJob *self, char *text) /* (transfer full) */
{
  g_free (self->text);
  self->text = text;
  g_object_notify_by_pspec (G_OBJECT (self), properties[PROP_TEXT]);
}

static void
set_fraction (TesseraJob *self, double fraction)
{
  /* A bar that runs backwards is a lie about one of the two moments. */
  if (fraction <= self->fraction)
    return;
  self->fraction = fraction;
  g_object_notify_by_pspec (G_OBJECT (self), properties[PROP_FRACTION]);
}

static gboolean
update_on_main_thread (gpointer data)
{
  TesseraJob *self = data;
  g_autoptr (Image) preview = NULL;
  Progress progress;
  double left;

  g_mutex_lock (&self->lock);
  self->update_pending = FALSE;
  progress = self->progress;
  preview = g_steal_pointer (&self->new_preview);
  g_mutex_unlock (&self->lock);

  if (self->state != JOB_RUNNING)
    return G_SOURCE_REMOVE;
  set_fraction (self, compose (self, &progress, &left));
  if (!g_cancellable_is_cancelled (self->cancellable))
    set_text (self, describe_progress (&progress, left));
  if (preview != NULL)
    {
      g_clear_object (&self->preview);
      self->preview = texture_from_image (preview);
      g_object_notify_by_pspec (G_OBJECT (self), properties[PROP_PREVIEW]);
    }
  return G_SOURCE_REMOVE;
}

void
job_set_progress (TesseraJob *self, EnginePhase phase, guint step, guint n_steps, Image *preview)
{
  const gint64 now = g_get_monotonic_time ();

  g_return_if_fail (TESSERA_IS_JOB (self) && (guint)phase < ENGINE_N_PHASES);

  g_mutex_lock (&self->lock);
  self->progress.phase = phase;
  self->progress.step = step;
  self->progress.n_steps = n_steps;
  self->progress.updated = now;
  if (self->progress.started[phase] == 0)
    self->progress.started[phase] = now;
  if (preview != NULL)
    {
      g_clear_pointer (&self->new_preview, image_unref);
      self->new_preview = image_ref (preview);
    }
  if (!self->update_pending)
    {
      self->update_pending = TRUE;
      g_idle_add_full (G_PRIORITY_DEFAULT, update_on_main_thread, g_object_ref (self),
                       g_object_unref);
    }
  g_mutex_unlock (&self->lock);
}

static void
set_state (TesseraJob *self, JobState state)
{
  self->state = state;
  g_object_notify_by_pspec (G_OBJECT (self), properties[PROP_STATE]);
}

void
job_begin (TesseraJob *self, const JobTimings *expected)
{
  g_return_if_fail (TESSERA_IS_JOB (self) && self->state == JOB_WAITING);

  if (expected != NULL)
    self->expected = *expected;
  self->begun = g_get_monotonic_time ();
  set_text (self, g_strdup (_ ("Starting")));
  set_state (self, JOB_RUNNING);
}

/* Seconds of each phase, from the moments at which they began. */
static void
measure (TesseraJob *self)
{
  gint64 end = self->ended;

  g_mutex_lock (&self->lock);
  for (int i = ENGINE_N_PHASES - 1; i >= 0; i--)
    if (self->progress.started[i] != 0)
      {
        self->timings.seconds[i] = (end - self->progress.started[i]) / 1e6;
        end = self->progress.started[i];
      }
  g_mutex_unlock (&self->lock);
}

void
job_finish (TesseraJob *self, const GError *error)
{
  g_return_if_fail (TESSERA_IS_JOB (self) && self->state <= JOB_RUNNING);

  self->ended = g_get_monotonic_time ();
  if (error == NULL)
    {
      measure (self);
      set_fraction (self, 1.0);
      set_text (self, g_strdup (_ ("Done")));
      set_state (self, JOB_DONE);
    }
  else if (g_error_matches (error, G_IO_ERROR, G_IO_ERROR_CANCELLED))
    {
      set_state (self, JOB_CANCELLED);
    }
  else
    {
      self->error = g_error_copy (error);
      set_state (self, JOB_FAILED);
    }
}

void
job_cancel (TesseraJob *self)
{
  g_return_if_fail (TESSERA_IS_JOB (self));

  g_cancellable_cancel (self->cancellable);
  if (self->state == JOB_RUNNING)
    set_text (self, g_strdup (_ ("Stopping")));
}

char *
job_describe (TesseraJob *self)
{
  g_autofree char *seed = g_strdup_printf ("%" G_GUINT64_FORMAT, self->request->seed);

  /* Translators: precision, width, height, seed of a picture to be made */
  return g_strdup_printf (_ ("%s, %d × %d, seed %s"), precision_label (self->request->precision),
                          self->request->width, self->request->height, seed);
}

const EngineRequest *
job_get_request (TesseraJob *self)
{
  return self->request;
}

const char *
job_get_pair (TesseraJob *self)
{
  return self->pair;
}

GCancellable *
job_get_cancellable (TesseraJob *self)
{
  return self->cancellable;
}

JobState
job_get_state (TesseraJob *self)
{
  return self->state;
}

double
job_get_fraction (TesseraJob *self)
{
  return self->fraction;
}

const char *
job_get_text (TesseraJob *self)
{
  return self->text;
}

GdkTexture *
job_get_preview (TesseraJob *self)
{
  return self->preview;
}

const GError *
job_get_error (TesseraJob *self)
{
  return self->error;
}

const JobTimings *
job_get_timings (TesseraJob *self)
{
  return &self->timings;
}

double
job_get_seconds (TesseraJob *self)
{
  return (self->ended - self->begun) / 1e6;
}

TesseraJob *
job_new (const EngineRequest *request, const char *pair)
{
  TesseraJob *self = g_object_new (TESSERA_TYPE_JOB, NULL);

  self->request = engine_request_copy (request);
  self->pair = g_strdup (pair);
  return self;
}

static void
job_get_property (GObject *object, guint id, GValue *value, GParamSpec *pspec)
{
  TesseraJob *self = TESSERA_JOB (object);

  switch (id)
    {
    case PROP_STATE:
      g_value_set_uint (value, self->state);
      break;
    case PROP_FRACTION:
      g_value_set_double (value, self->fraction);
      break;
    case PROP_TEXT:
      g_value_set_string (value, self->text);
      break;
    case PROP_PREVIEW:
      g_value_set_object (value, self->preview);
      break;
    default:
      G_OBJECT_WARN_INVALID_PROPERTY_ID (object, id, pspec);
    }
}

static void
job_finalize (GObject *object)
{
  TesseraJob *self = TESSERA_JOB (object);

  engine_request_free (self->request);
  g_free (self->pair);
  g_clear_object (&self->cancellable);
  g_free (self->text);
  g_clear_object (&self->preview);
  g_clear_error (&self->error);
  g_clear_pointer (&self->new_preview, image_unref);
  g_mutex_clear (&self->lock);
  G_OBJECT_CLASS (job_parent_class)->finalize (object);
}

static void
job_class_init (TesseraJobClass *klass)
{
  GObjectClass *object_class = G_OBJECT_CLASS (klass);
  const GParamFlags flags = G_PARAM_READABLE | G_PARAM_STATIC_STRINGS;

  object_class->get_property = job_get_property;
  object_class->finalize = job_finalize;

  properties[PROP_STATE]
      = g_param_spec_uint ("state", NULL, NULL, JOB_WAITING, JOB_FAILED, JOB_WAITING, flags);
  properties[PROP_FRACTION] = g_param_spec_double ("fraction", NULL, NULL, 0, 1, 0, flags);
  properties[PROP_TEXT] = g_param_spec_string ("text", NULL, NULL, "", flags);
  properties[PROP_PREVIEW] = g_param_spec_object ("preview", NULL, NULL, GDK_TYPE_TEXTURE, flags);
  g_object_class_install_properties (object_class, N_PROPS, properties);
}

static void
job_init (TesseraJob *self)
{
  g_mutex_init (&self->lock);
  self->cancellable = g_cancellable_new ();
  self->text = g_strdup (_ ("Waiting"));
}
