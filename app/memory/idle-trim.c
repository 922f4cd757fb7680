/* SPDX-License-Identifier: Apache-2.0 */
#include "app/memory/idle-trim.h"

struct _TesseraIdleTrim
{
  GObject parent_instance;

  /* Owned References */
  TesseraQueue *queue;
  TesseraWorker *worker;
  GSettings *settings;

  guint minute;
  guint source; /* 0 while something runs, or nothing is to be given back */
};

G_DEFINE_FINAL_TYPE (TesseraIdleTrim, idle_trim, G_TYPE_OBJECT)

static gboolean
on_idle (gpointer data)
{
  TesseraIdleTrim *self = data;

  self->source = 0;
  worker_trim (self->worker);
  return G_SOURCE_REMOVE;
}

static void
start_again (TesseraIdleTrim *self)
{
  const guint minutes = g_settings_get_uint (self->settings, "idle-minutes");

  g_clear_handle_id (&self->source, g_source_remove);
  if (minutes > 0 && queue_get_running (self->queue) == NULL)
    self->source = g_timeout_add (minutes * self->minute, on_idle, self);
}

TesseraIdleTrim *
idle_trim_new (TesseraQueue *queue, TesseraWorker *worker, GSettings *settings, guint minute)
{
  TesseraIdleTrim *self = g_object_new (TESSERA_TYPE_IDLE_TRIM, NULL);

  self->queue = g_object_ref (queue);
  self->worker = g_object_ref (worker);
  self->settings = g_object_ref (settings);
  self->minute = minute;
  g_signal_connect_object (queue, "notify::running", G_CALLBACK (start_again), self,
                           G_CONNECT_SWAPPED);
  g_signal_connect_object (settings, "changed::idle-minutes", G_CALLBACK (start_again), self,
                           G_CONNECT_SWAPPED);
  return self;
}

static void
idle_trim_dispose (GObject *object)
{
  TesseraIdleTrim *self = TESSERA_IDLE_TRIM (object);

  g_clear_handle_id (&self->source, g_source_remove);
  g_clear_object (&self->queue);
  g_clear_object (&self->worker);
  g_clear_object (&self->settings);
  G_OBJECT_CLASS (idle_trim_parent_class)->dispose (object);
}

static void
idle_trim_class_init (TesseraIdleTrimClass *klass)
{
  G_OBJECT_CLASS (klass)->dispose = idle_trim_dispose;
}

static void
idle_trim_init (TesseraIdleTrim *self)
{
}
