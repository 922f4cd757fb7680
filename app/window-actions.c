/* SPDX-License-Identifier: Apache-2.0
 *
 * What the window can be told to do: the group `win`.
 */
#include "app/compat.h"
#include "app/window-private.h"

#include <glib/gi18n.h>

/* -- Making pictures ----------------------------------------------------------------------------
 */

static void
add_job (TesseraWindow *self, const EngineRequest *settings, EnginePrecision precision,
         guint64 seed, const char *pair)
{
  EngineRequest request = *settings;
  g_autoptr (TesseraJob) job = NULL;

  request.precision = precision;
  request.seed = seed;
  job = job_new (&request, pair);
  queue_add (self->queue, job);
}

static void
generate (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  TesseraWindow *self = data;
  const RunPrecision run = controls_get_run (self->controls);
  const int batch = controls_get_batch (self->controls);
  EngineRequest request;

  if (controls_get_new_seed (self->controls))
    controls_draw_seed (self->controls);
  controls_get_request (self->controls, &request);
  if (g_str_equal (window_get_shown (self), "problem"))
    window_show_picture (self, compare_view_get_first (self->view),
                         compare_view_get_second (self->view));
  restore_report_hide (self->report);
  queue_set_paused (self->queue, FALSE);
  for (int i = 0; i < batch; i++)
    {
      const guint64 seed = request.seed + i; /* wraps at 2^64 as seeds do */

      if (run == RUN_BOTH)
        {
          g_autofree char *pair = history_new_stem (self->history);

          /* The fast one first: something to see sooner. */
          add_job (self, &request, ENGINE_PRECISION_SVDQUANT, seed, pair);
          add_job (self, &request, ENGINE_PRECISION_BF16, seed, pair);
        }
      else
        {
          add_job (self, &request, request.precision, seed, NULL);
        }
    }
}

/* In words that the built-in model knows, so not translated. */
static void
try_example (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  TesseraWindow *self = data;

  controls_set_prompt (self->controls, "a cat to the left of a house in a meadow");
  g_action_group_activate_action (G_ACTION_GROUP (self), "generate", NULL);
}

static void
cancel (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  TesseraJob *job = queue_get_running (TESSERA_WINDOW (data)->queue);

  if (job != NULL)
    job_cancel (job);
  else
    gtk_window_unfullscreen (data);
}

static void
new_seed (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  controls_draw_seed (TESSERA_WINDOW (data)->controls);
}

static void
focus_prompt (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  controls_focus_prompt (TESSERA_WINDOW (data)->controls);
}

static void
use_advice (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  TesseraWindow *self = data;

  window_use_advice (self, &self->next);
}

/* The setting that fits in place of the one that did not, and away with the page. */
static void
use_way_out (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  TesseraWindow *self = data;

  window_use_advice (self, &self->failed);
  g_action_group_activate_action (G_ACTION_GROUP (self), "dismiss", NULL);
}

static void
dismiss (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  TesseraWindow *self = data;

  window_show_picture (self, compare_view_get_first (self->view),
                       compare_view_get_second (self->view));
}

/* -- Looking at them ----------------------------------------------------------------------------
 */

static void
zoom_in (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  canvas_zoom (compare_view_get_canvas (TESSERA_WINDOW (data)->view), 1.25);
}

static void
zoom_out (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  canvas_zoom (compare_view_get_canvas (TESSERA_WINDOW (data)->view), 0.8);
}

static void
zoom_fit (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  canvas_set_zoom (compare_view_get_canvas (TESSERA_WINDOW (data)->view), 0);
}

static void
zoom_actual (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  canvas_set_zoom (compare_view_get_canvas (TESSERA_WINDOW (data)->view), 1);
}

static void
blink (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  compare_view_blink (TESSERA_WINDOW (data)->view);
}

static void
previous (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  history_strip_move (TESSERA_WINDOW (data)->strip, -1);
}

static void
next (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  history_strip_move (TESSERA_WINDOW (data)->strip, 1);
}

/* The desktop may have done it. */
void
window_fullscreen_changed (TesseraWindow *self)
{
  GAction *action = g_action_map_lookup_action (G_ACTION_MAP (self), "fullscreen");

  if (action == NULL)
    return;
  g_simple_action_set_state (G_SIMPLE_ACTION (action),
                             g_variant_new_boolean (gtk_window_is_fullscreen (GTK_WINDOW (self))));
  window_update_actions (self);
}

static void
change_fullscreen (GSimpleAction *action, GVariant *state, gpointer data)
{
  if (g_variant_get_boolean (state))
    gtk_window_fullscreen (data);
  else
    gtk_window_unfullscreen (data);
}

static void
change_view (GSimpleAction *action, GVariant *state, gpointer data)
{
  static const char *const names[N_VIEW_MODES]
      = { "image", "side-by-side", "slider", "difference" };

  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    if (g_str_equal (names[i], g_variant_get_string (state, NULL)))
      {
        g_simple_action_set_state (action, state);
        g_settings_set_enum (TESSERA_WINDOW (data)->settings, "view", i);
        compare_view_set_mode (TESSERA_WINDOW (data)->view, i);
      }
}

/* At the entry of the history with the focus, else over the picture. */
static void
open_picture_menu (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  TesseraWindow *self = data;

  if (!history_strip_popup_menu (self->strip))
    compare_view_popup_menu (self->view);
}

static void
open_menu (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  gtk_menu_button_popup (TESSERA_WINDOW (data)->menu_button);
}

/* -- Files --------------------------------------------------------------------------------------
 */

typedef struct
{
  TesseraWindow *window;
  TesseraPicture *picture;
} Saving;

static void
saving_free (Saving *saving)
{
  g_object_unref (saving->window);
  g_object_unref (saving->picture);
  g_free (saving);
}

static void
save_in_thread (GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
  GError *error = NULL;
  TesseraPicture *picture = g_object_get_data (G_OBJECT (task), "picture");

  if (picture_save (picture, data, &error))
    g_task_return_boolean (task, TRUE);
  else
    g_task_return_error (task, error);
}

static void
on_file_saved (GObject *source, GAsyncResult *result, gpointer data)
{
  TesseraWindow *self = TESSERA_WINDOW (source);
  g_autoptr (GError) error = NULL;
  g_autofree char *text = NULL;

  if (g_task_propagate_boolean (G_TASK (result), &error))
    text = g_strdup (_ ("Image saved"));
  else
    text = g_strdup_printf (_ ("The image was not saved: %s"), error->message);
  window_show_toast (self, text);
}

static void
on_save_chosen (GFile *file, gpointer data)
{
  Saving *saving = data;
  char *path = file != NULL ? g_file_get_path (file) : NULL;

  if (path != NULL)
    {
      g_autoptr (GTask) task = g_task_new (saving->window, NULL, on_file_saved, NULL);

      g_object_set_data_full (G_OBJECT (task), "picture", g_object_ref (saving->picture),
                              g_object_unref);
      g_task_set_task_data (task, path, g_free);
      g_task_run_in_thread (task, save_in_thread);
    }
  saving_free (saving);
}

/* "seed-42-bf16.png" (transfer full). */
static char *
suggest_name (TesseraPicture *picture, const char *suffix)
{
  const EngineRequest *request = picture_get_request (picture);

  if (request == NULL)
    return g_strdup ("image.png");
  return g_strdup_printf ("seed-%" G_GUINT64_FORMAT "-%s.png", request->seed,
                          suffix ? suffix : engine_precision_name (request->precision));
}

static void
ask_where (TesseraWindow *self, TesseraPicture *picture, const char *suffix)
{
  g_autofree char *name = suggest_name (picture, suffix);
  Saving *saving = g_new (Saving, 1);

  saving->window = g_object_ref (self);
  saving->picture = g_object_ref (picture);
  compat_save_file (GTK_WINDOW (self), _ ("Save Image"), name, on_save_chosen, saving);
}

static void
save (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  TesseraWindow *self = data;

  ask_where (self, compare_view_get_shown (self->view), NULL);
}

static void
save_pair (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  TesseraWindow *self = data;
  g_autoptr (Image) joined = compare_view_join (self->view);
  g_autoptr (TesseraPicture) picture = NULL;

  if (joined == NULL)
    return;
  picture = picture_new (joined, picture_get_request (compare_view_get_first (self->view)),
                         picture_get_facts (compare_view_get_first (self->view)));
  ask_where (self, picture, "pair");
}

static void
copy (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  TesseraWindow *self = data;

  gdk_clipboard_set_texture (gtk_widget_get_clipboard (GTK_WIDGET (self)),
                             picture_get_texture (compare_view_get_shown (self->view)));
  window_show_toast (self, _ ("Image copied"));
}

static void
reuse_settings (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  TesseraWindow *self = data;
  TesseraPicture *picture = compare_view_get_shown (self->view);
  const EngineRequest *request = picture != NULL ? picture_get_request (picture) : NULL;
  g_autofree char *ignored = NULL;

  if (request == NULL)
    return;
  controls_set_request (self->controls, request, &ignored);
  if (ignored[0] != '\0')
    restore_report_show (self->report, entry_get_name (self->entry), picture, ignored);
}

static void
show_in_folder (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  TesseraWindow *self = data;
  g_autoptr (GFile) file = NULL;

  if (self->entry == NULL)
    return;
  file = g_file_new_for_path (entry_get_path (self->entry));
  compat_show_in_folder (GTK_WINDOW (self), file);
}

static void
delete_entry (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  TesseraWindow *self = data;
  g_autoptr (GPtrArray) entries = NULL;
  g_autofree char *text = NULL;
  guint position;

  if (self->entry == NULL)
    return;
  entries = history_strip_get_selected (self->strip, &position);
  if (entries->len == 0)
    g_ptr_array_add (entries, g_object_ref (self->entry));
  window_forget_removed (self);
  lora_list_forget_removed (controls_get_loras (self->controls));
  text = g_strdup_printf (ngettext ("Image deleted", "%u images deleted", entries->len),
                          entries->len);
  window_offer_undo (self, text, "win.undo-delete");
  for (guint i = 0; i < entries->len; i++)
    history_remove (self->history, entries->pdata[i]);
  self->removed = g_steal_pointer (&entries);
  g_clear_object (&self->entry);
  window_update_actions (self);
  if (g_list_model_get_n_items (G_LIST_MODEL (self->history)) == 0)
    window_show_picture (self, NULL, NULL);
  else
    history_strip_choose_at (self->strip, position); /* what was next to it */
}

static void
undo_delete (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  TesseraWindow *self = data;
  g_autoptr (GPtrArray) entries = g_steal_pointer (&self->removed);

  if (entries == NULL)
    return;
  for (guint i = 0; i < entries->len; i++)
    history_bring_back (self->history, entries->pdata[i]);
  history_strip_choose (self->strip, entries->pdata[0]);
}

static void
add_lora (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  window_choose_lora (data);
}

static void
undo_remove_lora (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  lora_list_bring_back (controls_get_loras (TESSERA_WINDOW (data)->controls));
}

/* -- The group ----------------------------------------------------------------------------------
 */

void
window_set_enabled (TesseraWindow *self, const char *action, gboolean enabled)
{
  GAction *found = g_action_map_lookup_action (G_ACTION_MAP (self), action);

  g_simple_action_set_enabled (G_SIMPLE_ACTION (found), enabled);
}

void
window_add_actions (TesseraWindow *self)
{
  static const GActionEntry entries[] = {
    { "generate", generate, NULL, NULL, NULL, { 0 } },
    { "try-example", try_example, NULL, NULL, NULL, { 0 } },
    { "cancel", cancel, NULL, NULL, NULL, { 0 } },
    { "new-seed", new_seed, NULL, NULL, NULL, { 0 } },
    { "focus-prompt", focus_prompt, NULL, NULL, NULL, { 0 } },
    { "use-advice", use_advice, NULL, NULL, NULL, { 0 } },
    { "use-way-out", use_way_out, NULL, NULL, NULL, { 0 } },
    { "dismiss", dismiss, NULL, NULL, NULL, { 0 } },
    { "view", NULL, "s", "'image'", change_view, { 0 } },
    { "zoom-in", zoom_in, NULL, NULL, NULL, { 0 } },
    { "zoom-out", zoom_out, NULL, NULL, NULL, { 0 } },
    { "zoom-fit", zoom_fit, NULL, NULL, NULL, { 0 } },
    { "zoom-actual", zoom_actual, NULL, NULL, NULL, { 0 } },
    { "blink", blink, NULL, NULL, NULL, { 0 } },
    { "previous", previous, NULL, NULL, NULL, { 0 } },
    { "next", next, NULL, NULL, NULL, { 0 } },
    { "fullscreen", NULL, NULL, "false", change_fullscreen, { 0 } },
    { "menu", open_menu, NULL, NULL, NULL, { 0 } },
    { "picture-menu", open_picture_menu, NULL, NULL, NULL, { 0 } },
    { "save", save, NULL, NULL, NULL, { 0 } },
    { "save-pair", save_pair, NULL, NULL, NULL, { 0 } },
    { "copy", copy, NULL, NULL, NULL, { 0 } },
    { "reuse-settings", reuse_settings, NULL, NULL, NULL, { 0 } },
    { "show-in-folder", show_in_folder, NULL, NULL, NULL, { 0 } },
    { "delete", delete_entry, NULL, NULL, NULL, { 0 } },
    { "undo-delete", undo_delete, NULL, NULL, NULL, { 0 } },
    { "add-lora", add_lora, NULL, NULL, NULL, { 0 } },
    { "undo-remove-lora", undo_remove_lora, NULL, NULL, NULL, { 0 } },
  };
  g_autoptr (GAction) history = g_settings_create_action (self->settings, "show-history");

  g_action_map_add_action_entries (G_ACTION_MAP (self), entries, G_N_ELEMENTS (entries), self);
  g_action_map_add_action (G_ACTION_MAP (self), history);
}
