/* SPDX-License-Identifier: Apache-2.0 */
#include "app/application.h"

#include "app/compat.h"
#include "app/memory/idle-trim.h"
#include "app/models/models-window.h"
#include "app/models/models.h"
#include "app/models/speed-page.h"
#include "app/window.h"

#include <glib-unix.h>
#include <glib/gi18n.h>
#include <signal.h>
#include <unistd.h>

struct _TesseraApplication
{
  AdwApplication parent_instance;

  /* Owned References */
  TesseraWorker *worker;
  TesseraHistory *history;
  TesseraQueue *queue;
  TesseraIdleTrim *idle_trim;
  GSettings *settings;
  GCancellable *opening;
  char *opened; /* folder of the model that is open or being opened */
  char *models_dir;

  TesseraWindow *window; /* borrowed from GtkApplication */
  GtkWindow *models;     /* made when first asked for; hidden while closed */
  gboolean ending, restart;
};

G_DEFINE_FINAL_TYPE (TesseraApplication, application, ADW_TYPE_APPLICATION)

/* -- The model ----------------------------------------------------------------------------------
 */

static MessageState
state_for (const GError *error)
{
  if (g_error_matches (error, ENGINE_ERROR, ENGINE_ERROR_NO_DEVICE)
      || g_error_matches (error, ENGINE_ERROR, ENGINE_ERROR_UNSUPPORTED))
    return MESSAGE_NO_DEVICE;
  if (g_error_matches (error, ENGINE_ERROR, ENGINE_ERROR_DEVICE_LOST))
    return MESSAGE_LOST;
  return MESSAGE_INCOMPLETE;
}

/* Until a size has been chosen, the model's own is the best guess. */
static void
suggest_size (TesseraApplication *self, int size)
{
  g_autoptr (GVariant) chosen = g_settings_get_user_value (self->settings, "width");

  if (chosen == NULL)
    controls_set_size (window_get_controls (self->window), size, size);
}

static void
on_opened (GObject *source, GAsyncResult *result, gpointer data)
{
  g_autoptr (TesseraApplication) self = data;
  g_autoptr (GError) error = NULL;
  ModelInfo *model = worker_open_finish (TESSERA_WORKER (source), result, &error);

  /* Another folder has been chosen since. */
  if (self->window == NULL || g_task_get_cancellable (G_TASK (result)) != self->opening)
    {
      model_info_free (model);
      return;
    }
  queue_set_model (self->queue, model);
  if (model != NULL)
    {
      suggest_size (self, model->native_size);
      window_set_model (self->window, model);
    }
  else
    window_show_message (self->window, state_for (error), error->message);
  model_info_free (model);
}

static void
open_model (TesseraApplication *self)
{
  g_autofree char *device = g_settings_get_string (self->settings, "device");
  g_autofree char *dir = models_choose (self->settings);
  g_autofree char *calibration = engine_find_calibration_file ();
  const int bits = g_settings_get_enum (self->settings, "text-encoder");
  g_autofree char *encoder = dir != NULL && bits < 16 ? models_find_text_encoder (dir, bits) : NULL;
  EngineOptions options = {
    .device = device,
    .text_encoder_file = encoder,
    .memory_budget = (guint64)g_settings_get_uint (self->settings, "memory-limit") << 30,
    .offload = g_settings_get_enum (self->settings, "offload"),
    .exact = g_settings_get_enum (self->settings, "arithmetic") == ARITHMETIC_EXACT,
    .calibration_file = calibration,
  };

  if (self->window == NULL || self->ending)
    return;
  g_cancellable_cancel (self->opening);
  g_clear_object (&self->opening);
  queue_set_model (self->queue, NULL);
  if (dir == NULL)
    {
      window_show_message (self->window, MESSAGE_WELCOME, NULL);
      return;
    }
  if (g_strcmp0 (self->opened, dir) != 0)
    window_show_message (self->window, MESSAGE_OPENING, NULL);
  g_free (self->opened);
  self->opened = g_strdup (dir);
  self->opening = g_cancellable_new ();
  worker_open_async (self->worker, dir, &options, self->opening, on_opened, g_object_ref (self));
}

static void
on_folder_chosen (GFile *file, gpointer data)
{
  g_autoptr (TesseraApplication) self = data;
  g_autofree char *path = file != NULL ? g_file_get_path (file) : NULL;

  if (path != NULL && !g_settings_set_string (self->settings, "model", path))
    g_warning ("The model folder cannot be remembered");
}

/* -- Actions ------------------------------------------------------------------------------------
 */

static void
choose_model (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  TesseraApplication *self = data;

  compat_choose_folder (GTK_WINDOW (self->window), _ ("Open Model Folder"), on_folder_chosen,
                        g_object_ref (self));
}

static void
make_models_window (TesseraApplication *self)
{
  if (self->models != NULL)
    return;
  self->models = g_object_ref_sink (
      GTK_WINDOW (models_window_new (GTK_WINDOW (self->window), self->settings, self->models_dir)));
  adw_preferences_window_add (ADW_PREFERENCES_WINDOW (self->models),
                              ADW_PREFERENCES_PAGE (speed_page_new (self->worker, self->settings)));
}

static void
show_models (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  TesseraApplication *self = data;

  if (self->window == NULL) /* a notification that outlived the program */
    g_application_activate (G_APPLICATION (self));
  if (self->window == NULL)
    return;
  make_models_window (self);
  gtk_window_present (self->models);
}

static void
show_doctor (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  TesseraApplication *self = data;

  show_models (action, NULL, data);
  if (self->models != NULL)
    adw_preferences_window_set_visible_page_name (ADW_PREFERENCES_WINDOW (self->models),
                                                  "computer");
}

static void
set_model (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  g_settings_set_string (TESSERA_APPLICATION (data)->settings, "model",
                         g_variant_get_string (parameter, NULL));
}

static void
reopen_model (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  open_model (data);
}

static void
give_memory_back (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  TesseraApplication *self = data;

  if (self->window == NULL)
    return;
  worker_trim (self->worker);
  window_show_toast (self->window,
                     _ ("Memory is given back; the next image loads the model again"));
}

static void
use_processor (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  g_settings_set_string (TESSERA_APPLICATION (data)->settings, "device", "cpu");
}

static void
show_about (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  gtk_show_about_dialog (
      gtk_application_get_active_window (data), "program-name", "Tessera", "logo-icon-name", APP_ID,
      "version", APP_VERSION, "comments", _ ("Make pictures from text, on this computer"),
      "website", "https://github.com/tesseraimage/tessera", "license-type", GTK_LICENSE_APACHE_2_0,
      "copyright", "© The Tessera Project", "translator-credits", _ ("translator-credits"), NULL);
}

static void
quit (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  TesseraApplication *self = data;

  if (self->window != NULL)
    gtk_window_close (GTK_WINDOW (self->window));
}

/* Logging out, or Ctrl+C in a terminal: the same as closing the window. The second time, at once.
 */
static gboolean
on_terminate (gpointer data)
{
  TesseraApplication *self = data;

  if (self->window != NULL)
    gtk_window_close (GTK_WINDOW (self->window));
  else if (!self->ending)
    g_application_quit (data);
  return G_SOURCE_REMOVE;
}

static void
restart (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  TESSERA_APPLICATION (data)->restart = TRUE;
  quit (action, parameter, data);
}

static void
activate_action (GSimpleAction *action, GVariant *parameter, gpointer data)
{
  g_application_activate (data);
}

static void
add_actions (TesseraApplication *self)
{
  static const GActionEntry entries[] = {
    { "activate", activate_action, NULL, NULL, NULL, { 0 } },
    { "choose-model", choose_model, NULL, NULL, NULL, { 0 } },
    { "show-models", show_models, NULL, NULL, NULL, { 0 } },
    { "show-doctor", show_doctor, NULL, NULL, NULL, { 0 } },
    { "set-model", set_model, "s", NULL, NULL, { 0 } },
    { "reopen-model", reopen_model, NULL, NULL, NULL, { 0 } },
    { "give-memory-back", give_memory_back, NULL, NULL, NULL, { 0 } },
    { "use-processor", use_processor, NULL, NULL, NULL, { 0 } },
    { "about", show_about, NULL, NULL, NULL, { 0 } },
    { "quit", quit, NULL, NULL, NULL, { 0 } },
    { "restart", restart, NULL, NULL, NULL, { 0 } },
  };

  g_action_map_add_action_entries (G_ACTION_MAP (self), entries, G_N_ELEMENTS (entries), self);
  for (const WindowShortcut *s = window_get_shortcuts (); s->action != NULL; s++)
    if (!s->on_pictures)
      gtk_application_set_accels_for_action (GTK_APPLICATION (self), s->action,
                                             (const char *const *)s->accels);
}

/* -- The end ------------------------------------------------------------------------------------
 */

static gboolean
release_when_saved (gpointer data)
{
  TesseraApplication *self = data;

  if (queue_is_saving (self->queue))
    return G_SOURCE_CONTINUE;
  g_application_release (G_APPLICATION (self));
  return G_SOURCE_REMOVE;
}

static void
on_worker_stopped (GObject *source, GAsyncResult *result, gpointer data)
{
  worker_stop_finish (TESSERA_WORKER (source), result, NULL);
  /* The last picture may still be on its way to the disk. */
  g_timeout_add (20, release_when_saved, data);
}

/* Hides at once; the program lives on until the engine has let go of its memory. */
static gboolean
on_close_request (GtkWindow *window, gpointer data)
{
  TesseraApplication *self = data;

  if (self->ending)
    return GDK_EVENT_PROPAGATE;
  self->ending = TRUE;
  window_save_state (self->window);
  g_application_hold (G_APPLICATION (self));
  gtk_widget_set_visible (GTK_WIDGET (window), FALSE);
  g_cancellable_cancel (self->opening);
  queue_stop (self->queue);
  g_clear_object (&self->idle_trim);
  worker_stop_async (self->worker, on_worker_stopped, self);
  if (self->models != NULL)
    gtk_window_destroy (self->models); /* interrupts what is being downloaded */
  g_clear_object (&self->models);
  self->window = NULL;
  return GDK_EVENT_PROPAGATE;
}

/* -- GApplication -------------------------------------------------------------------------------
 */

static void
application_startup (GApplication *application)
{
  TesseraApplication *self = TESSERA_APPLICATION (application);
  g_autofree char *folder = g_build_filename (g_get_user_data_dir (), "tessera", "history", NULL);
  g_autofree char *journal
      = g_build_filename (g_get_user_data_dir (), "tessera", "queue.json", NULL);

  G_APPLICATION_CLASS (application_parent_class)->startup (application);
  gtk_window_set_default_icon_name (APP_ID);
  self->models_dir = g_build_filename (g_get_user_data_dir (), "tessera", "models", NULL);
  self->settings = g_settings_new (APP_ID);
  self->worker = worker_new ();
  self->history = history_new (folder);
  self->queue = queue_new (self->worker, self->history, journal);
  add_actions (self);
  g_unix_signal_add (SIGTERM, on_terminate, self);
  g_unix_signal_add (SIGINT, on_terminate, self);
  g_signal_connect_object (self->settings, "changed::model", G_CALLBACK (open_model), self,
                           G_CONNECT_SWAPPED);
  g_signal_connect_object (self->settings, "changed::device", G_CALLBACK (open_model), self,
                           G_CONNECT_SWAPPED);
  self->idle_trim = idle_trim_new (self->queue, self->worker, self->settings, 60 * 1000);
  g_signal_connect_object (self->settings, "changed::offload", G_CALLBACK (open_model), self,
                           G_CONNECT_SWAPPED);
  g_signal_connect_object (self->settings, "changed::text-encoder", G_CALLBACK (open_model), self,
                           G_CONNECT_SWAPPED);
  g_signal_connect_object (self->settings, "changed::arithmetic", G_CALLBACK (open_model), self,
                           G_CONNECT_SWAPPED);
  g_signal_connect_object (self->settings, "changed::memory-limit", G_CALLBACK (open_model), self,
                           G_CONNECT_SWAPPED);
}

static void
application_activate (GApplication *application)
{
  TesseraApplication *self = TESSERA_APPLICATION (application);

  if (self->ending)
    return;
  if (self->window == NULL)
    {
      self->window = window_new (GTK_APPLICATION (self), self->worker, self->history, self->queue,
                                 self->settings);
      g_signal_connect (self->window, "close-request", G_CALLBACK (on_close_request), self);
      if (models_window_is_due (self->models_dir))
        make_models_window (self);
      open_model (self);
    }
  gtk_window_present (GTK_WINDOW (self->window));
}

static void
application_open (GApplication *application, GFile **files, int n_files, const char *hint)
{
  TesseraApplication *self = TESSERA_APPLICATION (application);

  application_activate (application);
  if (n_files > 0 && self->window != NULL)
    window_restore_from (self->window, files[0]);
}

/* What need not, or must not, reach the instance that is running. */
static int
application_handle_local_options (GApplication *application, GVariantDict *options)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *model = NULL, *path = NULL;

  if (g_variant_dict_contains (options, "version"))
    {
      g_print ("Tessera %s\n", APP_VERSION);
      return 0;
    }
  if (!g_variant_dict_lookup (options, "model", "^ay", &model))
    return -1;
  if (!g_application_register (application, NULL, &error))
    {
      g_printerr ("tessera: %s\n", error->message);
      return 1;
    }
  path = g_canonicalize_filename (model, NULL);
  g_action_group_activate_action (G_ACTION_GROUP (application), "set-model",
                                  g_variant_new_string (path));
  return -1;
}

static void
application_shutdown (GApplication *application)
{
  TesseraApplication *self = TESSERA_APPLICATION (application);

  g_clear_object (&self->idle_trim);
  g_clear_object (&self->queue);
  g_clear_object (&self->history);
  g_clear_object (&self->worker);
  g_clear_object (&self->opening);
  g_clear_object (&self->settings);
  G_APPLICATION_CLASS (application_parent_class)->shutdown (application);
  if (self->restart)
    execl ("/proc/self/exe", "tessera", NULL);
}

TesseraApplication *
application_new (void)
{
  return g_object_new (TESSERA_TYPE_APPLICATION, "application-id", APP_ID, "flags",
                       G_APPLICATION_HANDLES_OPEN, "resource-base-path",
                       "/io/github/tesseraimage/Tessera", NULL);
}

static void
application_finalize (GObject *object)
{
  g_free (TESSERA_APPLICATION (object)->opened);
  g_free (TESSERA_APPLICATION (object)->models_dir);
  G_OBJECT_CLASS (application_parent_class)->finalize (object);
}

static void
application_class_init (TesseraApplicationClass *klass)
{
  GApplicationClass *application_class = G_APPLICATION_CLASS (klass);

  G_OBJECT_CLASS (klass)->finalize = application_finalize;
  application_class->startup = application_startup;
  application_class->activate = application_activate;
  application_class->open = application_open;
  application_class->shutdown = application_shutdown;
  application_class->handle_local_options = application_handle_local_options;
}

static void
application_init (TesseraApplication *self)
{
  static const GOptionEntry options[] = {
    { "model", 'm', 0, G_OPTION_ARG_FILENAME, NULL, N_ ("Use the model in DIR from now on"),
      N_ ("DIR") },
    { "version", 'v', 0, G_OPTION_ARG_NONE, NULL, N_ ("Show the version"), NULL },
    { NULL, 0, 0, 0, NULL, NULL, NULL },
  };

  g_application_add_main_option_entries (G_APPLICATION (self), options);
}
