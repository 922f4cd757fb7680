/* SPDX-License-Identifier: Apache-2.0 */
#include "app/window.h"

#include "app/models/models.h"
#include "app/window-private.h"

#include <glib/gi18n.h>

#define LONG_JOB 10 /* seconds: see window_set_long_job */

G_DEFINE_FINAL_TYPE (TesseraWindow, window, ADW_TYPE_APPLICATION_WINDOW)

/* Every key of the app. The help overlay must name each; a test compares them. */
static const WindowShortcut SHORTCUTS[] = {
  { "win.generate", { "<Control>Return", "<Control>KP_Enter" }, FALSE },
  { "win.cancel", { "Escape" }, FALSE },
  { "win.focus-prompt", { "<Control>l" }, FALSE },
  { "win.new-seed", { "<Control>r" }, FALSE },
  { "win.view::image", { "<Alt>1" }, FALSE },
  { "win.view::side-by-side", { "<Alt>2" }, FALSE },
  { "win.view::slider", { "<Alt>3" }, FALSE },
  { "win.view::difference", { "<Alt>4" }, FALSE },
  { "win.blink", { "<Control>b" }, FALSE },
  { "win.zoom-in", { "<Control>plus", "<Control>equal" }, FALSE },
  { "win.zoom-out", { "<Control>minus" }, FALSE },
  { "win.zoom-fit", { "<Control>0" }, FALSE },
  { "win.zoom-actual", { "<Control>1" }, FALSE },
  { "win.save", { "<Control>s" }, FALSE },
  { "win.save-pair", { "<Control><Shift>s" }, FALSE },
  { "win.copy", { "<Control><Shift>c" }, FALSE },
  { "win.previous", { "<Alt>Left" }, FALSE },
  { "win.next", { "<Alt>Right" }, FALSE },
  { "win.delete", { "Delete" }, TRUE },
  { "win.picture-menu", { "<Shift>F10", "Menu" }, TRUE },
  { "win.show-history", { "F9" }, FALSE },
  { "win.menu", { "F10" }, FALSE },
  { "win.fullscreen", { "F11" }, FALSE },
  { "win.show-help-overlay", { "<Control>question" }, FALSE },
  { "window.close", { "<Control>w" }, FALSE },
  { "app.choose-model", { "<Control>o" }, FALSE },
  { "app.quit", { "<Control>q" }, FALSE },
  { NULL, { NULL }, FALSE },
};

const WindowShortcut *
window_get_shortcuts (void)
{
  return SHORTCUTS;
}

/* -- What is shown ------------------------------------------------------------------------------
 */

const char *
window_get_shown (TesseraWindow *self)
{
  if (g_str_equal (gtk_stack_get_visible_child_name (self->pages), "message"))
    return "message";
  return gtk_stack_get_visible_child_name (self->content);
}

void
window_update_actions (TesseraWindow *self)
{
  TesseraPicture *shown = compare_view_get_shown (self->view);
  const gboolean main_page = !g_str_equal (window_get_shown (self), "message");
  const gboolean picture = shown != NULL && g_str_equal (window_get_shown (self), "picture");
  const gboolean pair = picture && compare_view_get_second (self->view) != NULL;
  const gboolean running = queue_get_running (self->queue) != NULL;

  window_set_enabled (self, "generate", main_page && self->has_model && self->fits);
  window_set_enabled (self, "try-example", main_page && self->has_model && self->fits);
  run_bar_set_reason (self->run_bar,
                      self->fits ? NULL : _ ("The image does not fit into the memory"));
  /* Escape also leaves the full screen. */
  window_set_enabled (self, "cancel", running || gtk_window_is_fullscreen (GTK_WINDOW (self)));
  window_set_enabled (self, "view", pair);
  gtk_widget_set_tooltip_text (
      self->view_switch,
      pair ? NULL : _ ("To compare, generate both precisions or select two images in the history"));
  window_set_enabled (self, "blink", pair);
  window_set_enabled (self, "save-pair", pair);
  window_set_enabled (self, "save", picture);
  window_set_enabled (self, "copy", picture);
  window_set_enabled (self, "picture-menu", picture);
  window_set_enabled (self, "zoom-in", picture);
  window_set_enabled (self, "zoom-out", picture);
  window_set_enabled (self, "zoom-fit", picture);
  window_set_enabled (self, "zoom-actual", picture);
  window_set_enabled (self, "reuse-settings", picture && picture_get_request (shown) != NULL);
  window_set_enabled (self, "delete", self->entry != NULL);
  window_set_enabled (self, "show-in-folder", self->entry != NULL);
}

void
window_show_picture (TesseraWindow *self, TesseraPicture *first, TesseraPicture *second)
{
  if (first != compare_view_get_first (self->view)
      || second != compare_view_get_second (self->view))
    compare_view_set_pictures (self->view, first, second);
  if (first == NULL)
    g_clear_object (&self->entry);
  gtk_stack_set_visible_child_name (self->content, first != NULL ? "picture" : "empty");
  window_update_actions (self);
}

void
window_show_message (TesseraWindow *self, MessageState state, const char *details)
{
  g_return_if_fail (TESSERA_IS_WINDOW (self));

  self->has_model = FALSE;
  message_page_show (self->message, state, details);
  gtk_stack_set_visible_child_name (self->pages, "message");
  window_update_actions (self);
}

/* What toasts say is read as markup, and names of files are none. */
static AdwToast *
make_toast (const char *text)
{
  g_autofree char *markup = g_markup_escape_text (text, -1);

  return adw_toast_new (markup);
}

void
window_show_toast (TesseraWindow *self, const char *text)
{
  AdwToast *toast = make_toast (text);

  adw_toast_set_timeout (toast, 3);
  adw_toast_overlay_add_toast (self->toasts, toast);
}

static void
on_undo_dismissed (TesseraWindow *self, AdwToast *toast)
{
  if (toast != self->undo)
    return;
  self->undo = NULL;
  window_forget_removed (self);
  lora_list_forget_removed (controls_get_loras (self->controls));
}

void
window_offer_undo (TesseraWindow *self, const char *text, const char *action)
{
  AdwToast *before = g_steal_pointer (&self->undo);

  if (before != NULL)
    adw_toast_dismiss (before);
  self->undo = make_toast (text);
  adw_toast_set_button_label (self->undo, _ ("_Undo"));
  adw_toast_set_action_name (self->undo, action);
  g_signal_connect_object (self->undo, "dismissed", G_CALLBACK (on_undo_dismissed), self,
                           G_CONNECT_SWAPPED);
  adw_toast_overlay_add_toast (self->toasts, self->undo);
}

/* What the picture side says while it has none. */
static void
show_empty (TesseraWindow *self)
{
  MessageState state = self->has_better ? MESSAGE_EMPTY_SMALL : MESSAGE_EMPTY;

  if (self->job != NULL)
    state = MESSAGE_MAKING;
  if (message_page_get_state (self->empty) != state)
    message_page_show (self->empty, state, NULL);
}

void
window_set_model (TesseraWindow *self, const ModelInfo *model)
{
  gboolean opened;

  g_return_if_fail (TESSERA_IS_WINDOW (self));

  opened = !self->has_model;
  self->has_model = TRUE;
  self->fits = TRUE;
  self->has_better = models_has_better (model->path);
  show_empty (self);
  controls_set_model (self->controls, model);
  gtk_stack_set_visible_child_name (self->pages, "main");
  if (opened) /* who begins to type means the prompt */
    controls_focus_prompt (self->controls);
  window_update_memory (self);
  window_update_actions (self);
  window_plan (self);
}

/* -- The running job ----------------------------------------------------------------------------
 */

static void
on_preview (TesseraWindow *self)
{
  if (compare_view_get_first (self->view) != NULL)
    return;
  compare_view_set_preview (self->view, job_get_preview (self->job));
  gtk_stack_set_visible_child_name (self->content, "picture");
}

/* The computer must not fall asleep over a picture. */
static void
set_inhibited (TesseraWindow *self, gboolean inhibit)
{
  GtkApplication *app = gtk_window_get_application (GTK_WINDOW (self));

  if (app == NULL || inhibit == (self->inhibited != 0))
    return;
  if (inhibit)
    {
      self->inhibited = gtk_application_inhibit (
          app, GTK_WINDOW (self), GTK_APPLICATION_INHIBIT_SUSPEND | GTK_APPLICATION_INHIBIT_LOGOUT,
          _ ("An image is being made"));
      return;
    }
  gtk_application_uninhibit (app, self->inhibited);
  self->inhibited = 0;
}

static void
on_running_changed (TesseraWindow *self)
{
  TesseraJob *job = queue_get_running (self->queue);

  if (self->job != NULL)
    g_signal_handlers_disconnect_by_func (self->job, on_preview, self);
  g_set_object (&self->job, job);
  if (job != NULL)
    g_signal_connect_object (job, "notify::preview", G_CALLBACK (on_preview), self,
                             G_CONNECT_SWAPPED);
  show_empty (self);
  set_inhibited (self, job != NULL);
  window_update_memory (self);
  window_plan (self); /* what is held has changed, and how long things take is known better */
  window_update_actions (self);
}

static void
show_failure (TesseraWindow *self, TesseraJob *job)
{
  const GError *error = job_get_error (job);

  if (g_error_matches (error, ENGINE_ERROR, ENGINE_ERROR_DEVICE_LOST))
    {
      window_show_message (self, MESSAGE_LOST, error->message);
      return;
    }
  if (g_error_matches (error, ENGINE_ERROR, ENGINE_ERROR_CHANGED))
    {
      window_show_message (self, MESSAGE_INCOMPLETE, error->message); /* which opens it again */
      return;
    }
  if (g_error_matches (error, ENGINE_ERROR, ENGINE_ERROR_MEMORY))
    {
      message_page_show (self->problem, MESSAGE_MEMORY, error->message);
      window_plan_way_out (self, job_get_request (job));
    }
  else
    message_page_show (self->problem, MESSAGE_FAILED, error->message);
  gtk_stack_set_visible_child_name (self->content, "problem");
  window_update_actions (self);
}

static void
notify_when_away (TesseraWindow *self, TesseraJob *job)
{
  GApplication *app = G_APPLICATION (gtk_window_get_application (GTK_WINDOW (self)));
  g_autoptr (GNotification) notification = NULL;

  if (app == NULL || gtk_window_is_active (GTK_WINDOW (self))
      || job_get_seconds (job) <= self->long_job)
    return;
  notification = g_notification_new (_ ("Image Ready"));
  g_notification_set_body (notification, job_get_request (job)->prompt);
  g_notification_set_default_action (notification, "app.activate");
  g_application_send_notification (app, "image-ready", notification);
}

void
window_set_long_job (TesseraWindow *self, double seconds)
{
  self->long_job = seconds;
}

static void
on_active_changed (TesseraWindow *self)
{
  GApplication *app = G_APPLICATION (gtk_window_get_application (GTK_WINDOW (self)));

  if (app != NULL && gtk_window_is_active (GTK_WINDOW (self)))
    g_application_withdraw_notification (app, "image-ready");
}

/* The half of a pair that was made before `picture`, or NULL. */
static TesseraPicture *
other_half (TesseraWindow *self, TesseraPicture *picture)
{
  const char *pair = picture_get_facts (picture)->pair;

  if (self->latest == NULL || pair == NULL
      || g_strcmp0 (pair, picture_get_facts (self->latest)->pair) != 0)
    return NULL;
  return self->latest;
}

static void
on_finished (TesseraWindow *self, TesseraJob *job, TesseraPicture *picture)
{
  TesseraPicture *other;

  window_update_memory (self);
  if (job_get_state (job) == JOB_FAILED)
    show_failure (self, job);
  else if (picture == NULL && compare_view_get_first (self->view) == NULL)
    window_show_picture (self, NULL, NULL);
  if (picture == NULL)
    return;
  other = other_half (self, picture);
  g_cancellable_cancel (self->showing);
  if (other != NULL && compare_view_get_mode (self->view) == VIEW_IMAGE)
    g_action_group_change_action_state (G_ACTION_GROUP (self), "view",
                                        g_variant_new_string ("slider"));
  g_clear_object (&self->entry); /* it has none until it is a file */
  /* BF16 is the measure, so it comes first; of a pair it is made last. */
  window_show_picture (self, picture, other);
  g_set_object (&self->latest, picture);
  notify_when_away (self, job);
}

static void
on_not_saved (TesseraWindow *self, TesseraPicture *picture, const GError *error)
{
  g_autofree char *text = g_strdup_printf (_ ("The image could not be kept: %s"), error->message);
  AdwToast *toast = make_toast (text);

  adw_toast_set_timeout (toast, 0);
  adw_toast_set_button_label (toast, _ ("_Save Image…"));
  adw_toast_set_action_name (toast, "win.save");
  adw_toast_overlay_add_toast (self->toasts, toast);
}

static void
on_saved (TesseraWindow *self, TesseraEntry *entry)
{
  history_strip_choose (self->strip, entry);
}

static gboolean
on_drop (GtkDropTarget *target, const GValue *value, double x, double y, gpointer data)
{
  GSList *files = g_value_get_boxed (value);

  g_autofree char *name = files != NULL ? g_file_get_basename (files->data) : NULL;

  if (files == NULL)
    return FALSE;
  if (g_str_has_suffix (name, ".safetensors"))
    window_add_lora (data, files->data);
  else
    window_restore_from (data, files->data);
  return TRUE;
}

/* -- Type ---------------------------------------------------------------------------------------
 */

TesseraControls *
window_get_controls (TesseraWindow *self)
{
  return self->controls;
}

TesseraCompareView *
window_get_view (TesseraWindow *self)
{
  return self->view;
}

void
window_save_state (TesseraWindow *self)
{
  int width, height;

  gtk_window_get_default_size (GTK_WINDOW (self), &width, &height);
  g_settings_set_int (self->settings, "window-width", width);
  g_settings_set_int (self->settings, "window-height", height);
  g_settings_set_boolean (self->settings, "window-maximized",
                          gtk_window_is_maximized (GTK_WINDOW (self)));
}

static void
connect_queue (TesseraWindow *self)
{
  run_bar_set_queue (self->run_bar, self->queue);
  g_signal_connect_object (self->queue, "notify::running", G_CALLBACK (on_running_changed), self,
                           G_CONNECT_SWAPPED);
  g_signal_connect_object (self->queue, "finished", G_CALLBACK (on_finished), self,
                           G_CONNECT_SWAPPED);
  g_signal_connect_object (self->queue, "saved", G_CALLBACK (on_saved), self, G_CONNECT_SWAPPED);
  g_signal_connect_object (self->queue, "not-saved", G_CALLBACK (on_not_saved), self,
                           G_CONNECT_SWAPPED);
}

static void
restore_settings (TesseraWindow *self)
{
  static const char *const views[N_VIEW_MODES]
      = { "image", "side-by-side", "slider", "difference" };
  const int view = g_settings_get_enum (self->settings, "view");

  gtk_window_set_default_size (GTK_WINDOW (self),
                               g_settings_get_int (self->settings, "window-width"),
                               g_settings_get_int (self->settings, "window-height"));
  if (g_settings_get_boolean (self->settings, "window-maximized"))
    gtk_window_maximize (GTK_WINDOW (self));
  g_settings_bind (self->settings, "show-history", self->history_revealer, "reveal-child",
                   G_SETTINGS_BIND_DEFAULT);
  g_action_group_change_action_state (G_ACTION_GROUP (self), "view",
                                      g_variant_new_string (views[view]));
  controls_bind_settings (self->controls, self->settings);
}

TesseraWindow *
window_new (GtkApplication *application, TesseraWorker *worker, TesseraHistory *history,
            TesseraQueue *queue, GSettings *settings)
{
  TesseraWindow *self = g_object_new (TESSERA_TYPE_WINDOW, "application", application, NULL);
  g_autoptr (GArray) devices = engine_list_devices ();

  self->worker = g_object_ref (worker);
  self->history = g_object_ref (history);
  self->queue = g_object_ref (queue);
  self->settings = g_object_ref (settings);
  window_add_actions (self);
  restore_settings (self);
  controls_set_devices (self->controls, devices);
  history_strip_set_history (self->strip, history, self->entry_menu);
  compare_view_set_menu (self->view, self->entry_menu);
  g_signal_connect_object (history, "notify::loading", G_CALLBACK (window_show_newest), self,
                           G_CONNECT_SWAPPED);
  connect_queue (self);
  window_connect_loras (self);
  window_update_actions (self);
  window_show_newest (self);
  return self;
}

static void
window_dispose (GObject *object)
{
  TesseraWindow *self = TESSERA_WINDOW (object);

  g_clear_handle_id (&self->plan_source, g_source_remove);
  g_clear_handle_id (&self->memory_source, g_source_remove);
  g_cancellable_cancel (self->planning);
  g_cancellable_cancel (self->showing);
  self->undo = NULL; /* nothing is undone any more */
  if (self->history != NULL)
    window_forget_removed (self);
  g_clear_object (&self->planning);
  g_clear_object (&self->showing);
  g_clear_object (&self->job);
  g_clear_object (&self->latest);
  g_clear_object (&self->entry);
  gtk_widget_dispose_template (GTK_WIDGET (self), TESSERA_TYPE_WINDOW);
  g_clear_object (&self->worker);
  g_clear_object (&self->history);
  g_clear_object (&self->queue);
  g_clear_object (&self->settings);
  G_OBJECT_CLASS (window_parent_class)->dispose (object);
}

static void
window_finalize (GObject *object)
{
  nvml_free (TESSERA_WINDOW (object)->nvml);
  G_OBJECT_CLASS (window_parent_class)->finalize (object);
}

static void
window_class_init (TesseraWindowClass *klass)
{
  GtkWidgetClass *widget_class = GTK_WIDGET_CLASS (klass);
  static const struct
  {
    const char *name;
    gssize offset;
  } children[] = {
#define CHILD(name) { #name, G_STRUCT_OFFSET (TesseraWindow, name) }
    CHILD (right),       CHILD (toasts),     CHILD (pages),
    CHILD (content),     CHILD (message),    CHILD (empty),
    CHILD (problem),     CHILD (controls),   CHILD (view),
    CHILD (gauge),       CHILD (advice),     CHILD (run_bar),
    CHILD (report),      CHILD (strip),      CHILD (history_revealer),
    CHILD (menu_button), CHILD (entry_menu), CHILD (view_switch),
#undef CHILD
  };

  G_OBJECT_CLASS (klass)->dispose = window_dispose;
  G_OBJECT_CLASS (klass)->finalize = window_finalize;

  g_type_ensure (TESSERA_TYPE_COMPARE_VIEW);
  g_type_ensure (TESSERA_TYPE_CONTROLS);
  g_type_ensure (TESSERA_TYPE_HISTORY_STRIP);
  g_type_ensure (TESSERA_TYPE_MEMORY_GAUGE);
  g_type_ensure (TESSERA_TYPE_MESSAGE_PAGE);
  g_type_ensure (TESSERA_TYPE_RESTORE_REPORT);
  g_type_ensure (TESSERA_TYPE_RUN_BAR);
  gtk_widget_class_set_template_from_resource (widget_class,
                                               "/io/github/tesseraimage/Tessera/window.ui");
  for (gsize i = 0; i < G_N_ELEMENTS (children); i++)
    gtk_widget_class_bind_template_child_full (widget_class, children[i].name, FALSE,
                                               children[i].offset);
}

static void
window_init (TesseraWindow *self)
{
  GtkEventController *keys = gtk_shortcut_controller_new ();
  GtkDropTarget *drop = gtk_drop_target_new (GDK_TYPE_FILE_LIST, GDK_ACTION_COPY);

  gtk_widget_init_template (GTK_WIDGET (self));
  self->fits = TRUE;
  self->long_job = LONG_JOB;
  message_page_show (self->empty, MESSAGE_EMPTY, NULL);
  message_page_show (self->message, MESSAGE_OPENING, NULL);
  for (const WindowShortcut *s = SHORTCUTS; s->action != NULL; s++)
    for (int i = 0; s->on_pictures && s->accels[i] != NULL; i++)
      gtk_shortcut_controller_add_shortcut (
          GTK_SHORTCUT_CONTROLLER (keys),
          gtk_shortcut_new (gtk_shortcut_trigger_parse_string (s->accels[i]),
                            gtk_named_action_new (s->action)));
  gtk_widget_add_controller (self->right, keys);
  g_signal_connect (drop, "drop", G_CALLBACK (on_drop), self);
  gtk_widget_add_controller (GTK_WIDGET (self), GTK_EVENT_CONTROLLER (drop));
  g_signal_connect_swapped (self->controls, "changed", G_CALLBACK (window_plan), self);
  g_signal_connect_swapped (self->strip, "chosen", G_CALLBACK (window_show_chosen), self);
  g_signal_connect (self, "notify::is-active", G_CALLBACK (on_active_changed), NULL);
  g_signal_connect (self, "notify::fullscreened", G_CALLBACK (window_fullscreen_changed), NULL);
  window_watch_memory (self);
}
