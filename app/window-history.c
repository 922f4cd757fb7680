/* SPDX-License-Identifier: Apache-2.0
 *
 * How pictures come into the window from files: entries of the history, and files dropped on it.
 */
#include "app/window-private.h"

#include <glib/gi18n.h>

/* -- History ------------------------------------------------------------------------------------
 */

void
window_forget_removed (TesseraWindow *self)
{
  g_autoptr (GPtrArray) entries = g_steal_pointer (&self->removed);

  for (guint i = 0; entries != NULL && i < entries->len; i++)
    history_forget (self->history, entries->pdata[i]);
}

typedef struct /* one or two entries on their way to the view */
{
  TesseraWindow *window;
  TesseraEntry *entries[2];
  TesseraPicture *pictures[2];
  GCancellable *cancellable;
} Showing;

static void
showing_free (Showing *showing)
{
  for (int i = 0; i < 2; i++)
    {
      g_clear_object (&showing->entries[i]);
      g_clear_object (&showing->pictures[i]);
    }
  g_object_unref (showing->window);
  g_object_unref (showing->cancellable);
  g_free (showing);
}

static void
show_loaded (Showing *showing)
{
  TesseraWindow *self = showing->window;
  TesseraPicture *first = showing->pictures[0], *second = showing->pictures[1];
  const EngineRequest *request = second != NULL ? picture_get_request (second) : NULL;

  if (first == NULL
      || (request != NULL && request->precision == ENGINE_PRECISION_BF16
          && picture_get_request (first) != NULL
          && picture_get_request (first)->precision != request->precision))
    {
      first = showing->pictures[1];
      second = showing->pictures[0];
    }
  g_set_object (&self->entry, showing->entries[0]);
  window_show_picture (self, first, first != NULL ? second : NULL);
}

static void
on_entry_loaded (GObject *source, GAsyncResult *result, gpointer data)
{
  Showing *showing = data;
  const int index
      = showing->pictures[0] == NULL && G_OBJECT (showing->entries[0]) == source ? 0 : 1;
  g_autoptr (GError) error = NULL;

  showing->pictures[index] = entry_load_finish (TESSERA_ENTRY (source), result, &error);
  if (!g_cancellable_is_cancelled (showing->cancellable))
    {
      if (showing->pictures[index] == NULL)
        window_show_toast (showing->window, error->message);
      if (index == 0 && showing->entries[1] != NULL)
        {
          entry_load_async (showing->entries[1], NULL, on_entry_loaded, showing);
          return;
        }
      show_loaded (showing);
    }
  showing_free (showing);
}

void
window_show_chosen (TesseraWindow *self)
{
  TesseraEntry *first, *second;
  Showing *showing;

  g_cancellable_cancel (self->showing);
  g_clear_object (&self->showing);
  history_strip_get_chosen (self->strip, &first, &second);
  if (first == NULL)
    return;
  if (second == NULL)
    second = history_find_twin (self->history, first);
  self->showing = g_cancellable_new ();
  showing = g_new0 (Showing, 1);
  showing->window = g_object_ref (self);
  showing->cancellable = g_object_ref (self->showing);
  showing->entries[0] = g_object_ref (first);
  showing->entries[1] = second != NULL ? g_object_ref (second) : NULL;
  entry_load_async (first, NULL, on_entry_loaded, showing);
}

void
window_show_newest (TesseraWindow *self)
{
  if (!history_get_loading (self->history) && compare_view_get_first (self->view) == NULL
      && queue_get_running (self->queue) == NULL)
    history_strip_choose_at (self->strip, 0);
}

/* -- Dropped files ------------------------------------------------------------------------------
 */

static void
load_in_thread (GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
  GError *error = NULL;
  TesseraPicture *picture = picture_load (data, &error);

  if (picture != NULL)
    g_task_return_pointer (task, picture, g_object_unref);
  else
    g_task_return_error (task, error);
}

static void
on_restored (GObject *source, GAsyncResult *result, gpointer data)
{
  TesseraWindow *self = TESSERA_WINDOW (source);
  g_autofree char *name = data;
  g_autofree char *ignored = NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (TesseraPicture) picture = g_task_propagate_pointer (G_TASK (result), &error);
  const RunPrecision run = controls_get_run (self->controls);

  if (picture == NULL)
    {
      restore_report_show_failure (self->report, name, error->message);
      return;
    }
  g_cancellable_cancel (self->showing);
  g_clear_object (&self->entry);
  window_show_picture (self, picture, NULL);
  if (picture_get_request (picture) == NULL)
    {
      restore_report_show_failure (self->report, name, picture_get_report (picture));
      return;
    }
  controls_set_request (self->controls, picture_get_request (picture), &ignored);
  /* Other programs do not say which precision: the choice stays. */
  if (!picture_is_ours (picture))
    controls_set_run (self->controls, run);
  restore_report_show (self->report, name, picture, ignored);
}

void
window_restore_from (TesseraWindow *self, GFile *file)
{
  g_autoptr (GTask) task = g_task_new (self, NULL, on_restored, g_file_get_basename (file));

  g_task_set_task_data (task, g_file_get_path (file), g_free);
  g_task_run_in_thread (task, load_in_thread);
}
