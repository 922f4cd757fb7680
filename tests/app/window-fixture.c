/* SPDX-License-Identifier: Apache-2.0 */
#include "window-fixture.h"

static void
count_finished (Fixture *f)
{
  f->finished++;
}

void
fixture_set_up (Fixture *f, gconstpointer data)
{
  g_autofree char *history = NULL;

  f->folder = make_folder ();
  history = g_build_filename (f->folder, "history", NULL);
  f->app = (GtkApplication *)data;
  f->settings = g_settings_new (APP_ID);
  f->worker = worker_new ();
  f->history = history_new (history);
  f->queue = queue_new (f->worker, f->history, NULL);
  f->window = window_new (f->app, f->worker, f->history, f->queue, f->settings);
  g_signal_connect_swapped (f->queue, "finished", G_CALLBACK (count_finished), f);
  gtk_window_present (GTK_WINDOW (f->window));
  WAIT_FOR (!history_get_loading (f->history));
  controls_set_seed (window_get_controls (f->window), 42);
}

static void
on_stopped (GObject *source, GAsyncResult *result, gpointer data)
{
  ((Fixture *)data)->stopped = TRUE;
}

void
fixture_reset_settings (GSettings *settings)
{
  g_autoptr (GSettingsSchema) schema = NULL;
  g_auto (GStrv) keys = NULL;

  g_object_get (settings, "settings-schema", &schema, NULL);
  keys = g_settings_schema_list_keys (schema);
  for (int i = 0; keys[i] != NULL; i++)
    g_settings_reset (settings, keys[i]);
}

void
fixture_tear_down (Fixture *f, gconstpointer data)
{
  gpointer window = f->window;

  queue_stop (f->queue);
  g_object_add_weak_pointer (G_OBJECT (f->window), &window);
  gtk_window_destroy (GTK_WINDOW (f->window));
  WAIT_FOR (window == NULL);
  worker_stop_async (f->worker, on_stopped, f);
  WAIT_FOR (f->stopped && queue_get_running (f->queue) == NULL && !queue_is_saving (f->queue));
  g_signal_handlers_disconnect_by_data (f->queue, f);
  WAIT_FOR_END_OF (f->queue);
  WAIT_FOR_END_OF (f->history);
  WAIT_FOR_END_OF (f->worker);
  fixture_reset_settings (f->settings);
  g_object_unref (f->settings);
  remove_folder (f->folder);
  g_free (f->folder);
}

gboolean
fixture_enabled (Fixture *f, const char *action)
{
  return g_action_group_get_action_enabled (G_ACTION_GROUP (f->window), action);
}

void
fixture_activate (Fixture *f, const char *action)
{
  g_assert_true (fixture_enabled (f, action));
  g_action_group_activate_action (G_ACTION_GROUP (f->window), action, NULL);
}

static void
on_opened (GObject *source, GAsyncResult *result, gpointer data)
{
  Fixture *f = data;
  g_autoptr (GError) error = NULL;
  ModelInfo *model = worker_open_finish (TESSERA_WORKER (source), result, &error);

  g_assert_no_error (error);
  window_set_model (f->window, model);
  queue_set_model (f->queue, model);
  model_info_free (model);
}

void
fixture_open_tiny (Fixture *f)
{
  g_autofree char *dir = tiny_model ();
  EngineOptions options = { .device = "cpu" };

  controls_set_size (window_get_controls (f->window), 64, 64);
  g_settings_set_int (f->settings, "steps", 2);
  worker_open_async (f->worker, dir, &options, NULL, on_opened, f);
  WAIT_FOR (fixture_enabled (f, "generate"));
}

const char *
fixture_shown (Fixture *f)
{
  return window_get_shown (f->window);
}

static GtkWidget *
child_of (gpointer widget, GType type, const char *name)
{
  return GTK_WIDGET (gtk_widget_get_template_child (GTK_WIDGET (widget), type, name));
}

void
fixture_check_controls (Fixture *f, const char *name)
{
  GtkWidget *scroller
      = child_of (window_get_controls (f->window), TESSERA_TYPE_CONTROLS, "scroller");
  GtkAdjustment *adjustment = gtk_scrolled_window_get_vadjustment (GTK_SCROLLED_WINDOW (scroller));

  gtk_widget_set_visible (child_of (f->window, TESSERA_TYPE_WINDOW, "gauge"), FALSE);
  settle (GTK_WIDGET (f->window));
  gtk_adjustment_set_value (adjustment, gtk_adjustment_get_upper (adjustment));
  check_shot (GTK_WIDGET (f->window), name);
}
