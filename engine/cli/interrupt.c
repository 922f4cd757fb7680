/* SPDX-License-Identifier: Apache-2.0
 *
 * Ctrl+C asks the engine to stop. The engine runs on the main thread, so the signal is watched from
 * another one. A second one ends the program at once: the engine may be waiting for a disk.
 */
#include "engine/cli/cli.h"

#include <glib-unix.h>
#include <signal.h>

struct _CliInterrupt
{
  GMainContext *context;
  GMainLoop *loop;
  GCancellable *cancellable;
  GThread *thread;
};

static gboolean
on_signal (gpointer user_data)
{
  g_cancellable_cancel (user_data);
  return G_SOURCE_REMOVE; /* which gives the signal its usual meaning back */
}

static gpointer
watch (gpointer user_data)
{
  CliInterrupt *self = user_data;

  g_main_context_push_thread_default (self->context);
  g_main_loop_run (self->loop);
  g_main_context_pop_thread_default (self->context);
  return NULL;
}

CliInterrupt *
cli_interrupt_new (void)
{
  static const int signals[] = { SIGINT, SIGTERM };
  CliInterrupt *self = g_new0 (CliInterrupt, 1);

  self->context = g_main_context_new ();
  self->loop = g_main_loop_new (self->context, FALSE);
  self->cancellable = g_cancellable_new ();
  for (guint i = 0; i < G_N_ELEMENTS (signals); i++)
    {
      g_autoptr (GSource) source = g_unix_signal_source_new (signals[i]);

      g_source_set_callback (source, on_signal, self->cancellable, NULL);
      g_source_attach (source, self->context);
    }
  self->thread = g_thread_new ("signals", watch, self);
  return self;
}

GCancellable *
cli_interrupt_cancellable (CliInterrupt *self)
{
  return self->cancellable;
}

void
cli_interrupt_free (CliInterrupt *self)
{
  /* The loop may not have begun to run yet: quit from within it. */
  g_main_context_invoke (self->context, (GSourceFunc)(void (*) (void))g_main_loop_quit, self->loop);
  g_thread_join (self->thread);
  g_main_loop_unref (self->loop);
  g_main_context_unref (self->context);
  g_object_unref (self->cancellable);
  g_free (self);
}
