/* SPDX-License-Identifier: Apache-2.0
 *
 * How long a picture goes on after it was cancelled, in each phase, at the sizes named.
 *
 *   bench-cancel MODEL DEVICE SIDE...
 *
 * Each shot starts a picture, waits a random part of the phase's own length, cancels from another
 * thread, and takes the time until the engine returns. Milliseconds of every shot as JSON. Loading,
 * which is the same for every size, is cancelled at the first one only.
 */
#include "engine/engine.h"

#include <stdlib.h>

#define SHOTS 10 /* a phase */

/* One cancellation: `thread` waits for the phase, then `delay`, then cancels. */
typedef struct
{
  GMutex mutex;
  GCond cond;
  EnginePhase phase;
  gint64 delay; /* microseconds */
  gboolean begun, over;
  gint64 cancelled; /* when; 0 if the picture was done first */
  GCancellable *cancellable;
  gint64 starts[ENGINE_N_PHASES + 1]; /* of each phase, and the end of the last */
} Shot;

static void
on_progress (EnginePhase phase, guint step, guint n_steps, Image *preview, gpointer user_data)
{
  Shot *shot = user_data;

  g_mutex_lock (&shot->mutex);
  if (shot->starts[phase] == 0)
    shot->starts[phase] = g_get_monotonic_time ();
  if (phase == shot->phase)
    {
      shot->begun = TRUE;
      g_cond_signal (&shot->cond);
    }
  g_mutex_unlock (&shot->mutex);
}

static gpointer
cancel_later (gpointer user_data)
{
  Shot *shot = user_data;
  gint64 until;

  g_mutex_lock (&shot->mutex);
  while (!shot->begun && !shot->over)
    g_cond_wait (&shot->cond, &shot->mutex);
  until = shot->starts[shot->phase] + shot->delay;
  while (!shot->over && g_cond_wait_until (&shot->cond, &shot->mutex, until))
    ;
  if (!shot->over)
    {
      shot->cancelled = g_get_monotonic_time ();
      g_cancellable_cancel (shot->cancellable);
    }
  g_mutex_unlock (&shot->mutex);
  return NULL;
}

/* Milliseconds from the cancellation to the return; negative if the picture was done before. */
static double
shoot (Engine *engine, const EngineRequest *request, Shot *shot)
{
  g_autoptr (GCancellable) cancellable = g_cancellable_new ();
  g_autoptr (GError) error = NULL;
  g_autoptr (Image) image = NULL;
  GThread *thread;
  gint64 end;

  shot->cancellable = cancellable;
  thread = g_thread_new ("cancel", cancel_later, shot);
  image = engine_generate (engine, request, on_progress, shot, cancellable, &error);
  end = g_get_monotonic_time ();
  g_mutex_lock (&shot->mutex);
  shot->over = TRUE;
  shot->starts[ENGINE_N_PHASES] = end;
  g_cond_signal (&shot->cond);
  g_mutex_unlock (&shot->mutex);
  g_thread_join (thread);
  if (image == NULL && !g_error_matches (error, G_IO_ERROR, G_IO_ERROR_CANCELLED))
    {
      g_printerr ("%s\n", error->message);
      exit (1);
    }
  return image == NULL ? (double)(end - shot->cancelled) / 1e3 : -1.0;
}

/* A shot that nobody fires: how long the phases are. */
static void
measure_phases (Engine *engine, const EngineRequest *request, gint64 *lengths)
{
  Shot whole = { .phase = ENGINE_PHASE_LOAD, .delay = G_MAXINT32 * (gint64)1000 };

  engine_trim (engine);
  shoot (engine, request, &whole);
  for (int i = 0; i < ENGINE_N_PHASES; i++)
    lengths[i] = whole.starts[i + 1] - whole.starts[i];
}

static void
shoot_phase (Engine *engine, const EngineRequest *request, EnginePhase phase, gint64 length,
             GRand *random)
{
  static const char *const names[] = { "load", "encode", "denoise", "decode" };
  double worst = 0.0;

  g_print ("\n  \"%s\": {\"length_ms\": %.1f, \"ms\": [", names[phase], (double)length / 1e3);
  for (int i = 0; i < SHOTS; i++)
    {
      Shot shot = { .phase = phase };
      double ms;

      shot.delay = (gint64)((i + g_rand_double (random)) / SHOTS * (double)length);
      if (phase == ENGINE_PHASE_LOAD)
        engine_trim (engine);
      ms = shoot (engine, request, &shot);
      if (ms < 0.0)
        continue;
      g_print ("%s%.1f", worst > 0.0 ? ", " : "", ms);
      worst = MAX (worst, ms);
    }
  g_print ("], \"worst_ms\": %.1f}%s", worst, phase < ENGINE_PHASE_DECODE ? "," : "");
}

int
main (int argc, char **argv)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (Engine) engine = NULL;
  g_autoptr (GRand) random = g_rand_new_with_seed (20260101);
  EngineOptions options = { .device = argc > 2 ? argv[2] : NULL };

  engine_init_process (argv);
  if (argc < 4)
    {
      g_printerr ("usage: bench-cancel MODEL DEVICE SIDE...\n");
      return 2;
    }
  engine = engine_new (argv[1], &options, &error);
  if (engine == NULL)
    {
      g_printerr ("%s\n", error->message);
      return 1;
    }
  g_print ("{");
  for (int i = 3; i < argc; i++)
    {
      EngineRequest request = ENGINE_REQUEST_INIT;
      gint64 lengths[ENGINE_N_PHASES];

      request.prompt = "a lighthouse at dusk, its lamp just lit, over a calm sea";
      request.width = request.height = atoi (argv[i]);
      request.steps = 1;
      measure_phases (engine, &request, lengths);
      g_print ("%s\"%s\": {", i > 3 ? ",\n " : "", argv[i]);
      for (int phase = i == 3 ? ENGINE_PHASE_LOAD : ENGINE_PHASE_ENCODE; phase < ENGINE_N_PHASES;
           phase++)
        shoot_phase (engine, &request, (EnginePhase)phase, lengths[phase], random);
      g_print ("}");
    }
  g_print ("}\n");
  return 0;
}
