/* SPDX-License-Identifier: Apache-2.0 */
#include "app/models/models-window.h"

#include "app/models/doctor-page.h"
#include "app/models/models.h"
#ifdef HAVE_DOWNLOAD
#include "app/models/model-row.h"
#include "app/models/move.h"
#endif

#include "engine/checkpoint/catalogue.h"
#include "engine/engine.h"

#include <glib/gi18n.h>

struct _TesseraModelsWindow
{
  AdwPreferencesWindow parent_instance;

  GSettings *settings;
  char *models_dir;
  Catalogue *catalogue;
  AdwPreferencesGroup *models, *hosts;
  AdwPreferencesRow *no_host;
  GHashTable *seen;    /* hosts */
  GHashTable *running; /* downloads, when they were last heard of */
  GPtrArray *rows;     /* as the catalogue's models */
  gboolean recommended;
};

G_DEFINE_FINAL_TYPE (TesseraModelsWindow, models_window, ADW_TYPE_PREFERENCES_WINDOW)

/* -- the built-in model -------------------------------------------------------------------------
 */

static void
use_builtin (GtkButton *button, gpointer data)
{
  g_settings_reset (TESSERA_MODELS_WINDOW (data)->settings, "model");
}

/* No other has been chosen. */
static void
show_builtin_use (GSettings *settings, const char *key, gpointer data)
{
  g_autofree char *dir = g_settings_get_string (settings, "model");

  gtk_widget_set_sensitive (data, dir[0] != '\0');
  gtk_button_set_label (data, dir[0] != '\0' ? _ ("_Use") : _ ("In Use"));
}

static void
add_builtin (TesseraModelsWindow *self, AdwPreferencesGroup *group)
{
  g_autofree char *dir = models_find_builtin ();
  GtkWidget *row, *button;

  if (dir == NULL)
    return;
  row = adw_action_row_new ();
  button = gtk_button_new_with_mnemonic ("");
  adw_preferences_row_set_title (ADW_PREFERENCES_ROW (row), _ ("Sketch"));
  adw_action_row_set_subtitle (ADW_ACTION_ROW (row), _ ("Small, quick, and part of the app"));
  gtk_widget_set_valign (button, GTK_ALIGN_CENTER);
  g_signal_connect (button, "clicked", G_CALLBACK (use_builtin), self);
  g_signal_connect_object (self->settings, "changed::model", G_CALLBACK (show_builtin_use), button,
                           0);
  show_builtin_use (self->settings, NULL, button);
  adw_action_row_add_suffix (ADW_ACTION_ROW (row), button);
  adw_preferences_group_add (group, row);
}

/* -- the catalogue ------------------------------------------------------------------------------
 */

#ifdef HAVE_DOWNLOAD
/* Who fetches tens of gigabytes does something else meanwhile. */
static void
tell_end (TesseraModelsWindow *self, TesseraDownload *download)
{
  const DownloadState state = download_get_state (download);
  GApplication *app = g_application_get_default ();
  g_autoptr (GNotification) notification = NULL;

  if (state == DOWNLOAD_RUNNING)
    g_hash_table_add (self->running, download);
  else if (g_hash_table_remove (self->running, download) && app != NULL
           && !(gtk_widget_get_visible (GTK_WIDGET (self))
                && gtk_window_is_active (GTK_WINDOW (self))))
    {
      if (state == DOWNLOAD_DONE)
        notification = g_notification_new (_ ("Model Ready"));
      else if (state == DOWNLOAD_FAILED)
        notification = g_notification_new (_ ("The Download Stopped"));
    }
  if (notification == NULL)
    return;
  g_notification_set_body (notification, download_get_name (download));
  g_notification_set_default_action (notification, "app.show-models");
  g_application_send_notification (app, "download-ended", notification);
}

static void
on_download_changed (TesseraDownload *download, gpointer data)
{
  TesseraModelsWindow *self = data;
  g_auto (GStrv) hosts = download_get_hosts (download);

  tell_end (self, download);
  for (guint i = 0; hosts[i] != NULL; i++)
    {
      g_auto (GStrv) parts = g_strsplit (hosts[i], " via ", 2);
      g_autofree char *proxy = NULL;
      GtkWidget *row;

      if (g_hash_table_contains (self->seen, hosts[i]))
        continue;
      g_hash_table_add (self->seen, g_strdup (hosts[i]));
      row = adw_action_row_new ();
      adw_preferences_row_set_use_markup (ADW_PREFERENCES_ROW (row), FALSE);
      adw_preferences_row_set_title (ADW_PREFERENCES_ROW (row), parts[0]);
      if (parts[1] != NULL)
        proxy = g_strdup_printf (_ ("Through the proxy %s"), parts[1]);
      adw_action_row_set_subtitle (ADW_ACTION_ROW (row), proxy != NULL ? proxy : "");
      adw_preferences_group_add (self->hosts, row);
      gtk_widget_set_visible (GTK_WIDGET (self->no_host), FALSE);
    }
}

/* The best card's; without one nothing is recommended, and why is said. Asking the driver takes a
 * moment, which a window that nobody sees is not worth. */
static void
recommend (TesseraModelsWindow *self)
{
  g_autoptr (GArray) devices = engine_list_devices ();
  const CatalogueModel *best = NULL;
  gboolean any = FALSE;
  guint i;

  for (i = 0; i < devices->len && best == NULL; i++)
    {
      const EngineDevice *device = &g_array_index (devices, EngineDevice, i);

      if (!device->gpu || !device->usable)
        continue;
      any = TRUE;
      best = catalogue_recommend (self->catalogue, device->sm, device->total_memory);
    }
  if (!any)
    adw_preferences_group_set_description (
        self->models, _ ("No graphics card can be used: see Computer. With the larger models the "
                         "processor takes much longer."));
  if (best != NULL && g_ptr_array_find (self->catalogue->models, best, &i))
    model_row_recommend (g_ptr_array_index (self->rows, i));
}

static void
add_catalogue (TesseraModelsWindow *self, AdwPreferencesGroup *group)
{
  g_autofree char *path = models_find_catalogue ();
  g_autoptr (GError) error = NULL;

  self->catalogue = path != NULL ? catalogue_load (path, &error) : NULL;
  if (error != NULL)
    g_warning ("%s", error->message);
  if (self->catalogue == NULL)
    return;
  for (guint i = 0; i < self->catalogue->models->len; i++)
    {
      const CatalogueModel *model = g_ptr_array_index (self->catalogue->models, i);
      TesseraModelRow *row
          = model_row_new (self->catalogue, model, self->models_dir, self->settings);

      g_ptr_array_add (self->rows, row);
      adw_preferences_group_add (group, GTK_WIDGET (row));
      g_signal_connect_object (model_row_get_download (row), "changed",
                               G_CALLBACK (on_download_changed), self, 0);
    }
}

static void
add_network_page (TesseraModelsWindow *self)
{
  GtkWidget *page = adw_preferences_page_new ();

  self->hosts = ADW_PREFERENCES_GROUP (adw_preferences_group_new ());
  self->no_host = ADW_PREFERENCES_ROW (adw_action_row_new ());
  adw_preferences_page_set_title (ADW_PREFERENCES_PAGE (page), _ ("Network"));
  adw_preferences_page_set_icon_name (ADW_PREFERENCES_PAGE (page), "network-workgroup-symbolic");
  adw_preferences_group_set_title (self->hosts, _ ("Hosts Contacted"));
  adw_preferences_group_set_description (
      self->hosts, _ ("The network is used for downloads that were asked for and nothing else. "
                      "Prompts and images stay on this computer."));
  adw_preferences_row_set_title (self->no_host, _ ("None since the app was started"));
  adw_preferences_group_add (self->hosts, GTK_WIDGET (self->no_host));
  adw_preferences_page_add (ADW_PREFERENCES_PAGE (page), self->hosts);
  adw_preferences_window_add (ADW_PREFERENCES_WINDOW (self), ADW_PREFERENCES_PAGE (page));
}
#endif

static void
add_models_page (TesseraModelsWindow *self)
{
  GtkWidget *page = adw_preferences_page_new ();
  AdwPreferencesGroup *group = ADW_PREFERENCES_GROUP (adw_preferences_group_new ());

  self->models = group;
  adw_preferences_page_set_title (ADW_PREFERENCES_PAGE (page), _ ("Models"));
  adw_preferences_page_set_icon_name (ADW_PREFERENCES_PAGE (page), "folder-download-symbolic");
  adw_preferences_page_add (ADW_PREFERENCES_PAGE (page), group);
  add_builtin (self, group);
#ifdef HAVE_DOWNLOAD
  add_catalogue (self, group);
#endif
  adw_preferences_window_add (ADW_PREFERENCES_WINDOW (self), ADW_PREFERENCES_PAGE (page));
}

/* -- life ---------------------------------------------------------------------------------------
 */

TesseraModelsWindow *
models_window_new (GtkWindow *parent, GSettings *settings, const char *models_dir)
{
  TesseraModelsWindow *self
      = g_object_new (TESSERA_TYPE_MODELS_WINDOW, "transient-for", parent, "title", _ ("Models"),
                      "hide-on-close", TRUE, "search-enabled", FALSE, NULL);

  self->settings = g_object_ref (settings);
  self->models_dir = g_strdup (models_dir);
  add_models_page (self);
  adw_preferences_window_add (ADW_PREFERENCES_WINDOW (self),
                              ADW_PREFERENCES_PAGE (doctor_page_new ()));
#ifdef HAVE_DOWNLOAD
  add_network_page (self);
#endif
  return self;
}

gboolean
models_window_is_due (const char *models_dir)
{
#ifdef HAVE_DOWNLOAD
  move_recover (models_dir);
  return download_any_interrupted (models_dir);
#else
  return FALSE;
#endif
}

static void
models_window_map (GtkWidget *widget)
{
  TesseraModelsWindow *self = TESSERA_MODELS_WINDOW (widget);

  GTK_WIDGET_CLASS (models_window_parent_class)->map (widget);
  if (g_application_get_default () != NULL)
    g_application_withdraw_notification (g_application_get_default (), "download-ended");
#ifdef HAVE_DOWNLOAD
  if (self->catalogue != NULL && !self->recommended)
    recommend (self);
#endif
  self->recommended = TRUE;
}

static void
models_window_finalize (GObject *object)
{
  TesseraModelsWindow *self = TESSERA_MODELS_WINDOW (object);

  g_object_unref (self->settings);
  g_hash_table_unref (self->seen);
  g_hash_table_unref (self->running);
  g_ptr_array_unref (self->rows);
  g_free (self->models_dir);
  catalogue_unref (self->catalogue);
  G_OBJECT_CLASS (models_window_parent_class)->finalize (object);
}

static void
models_window_class_init (TesseraModelsWindowClass *klass)
{
  G_OBJECT_CLASS (klass)->finalize = models_window_finalize;
  GTK_WIDGET_CLASS (klass)->map = models_window_map;
}

static void
models_window_init (TesseraModelsWindow *self)
{
  self->seen = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  self->running = g_hash_table_new (NULL, NULL);
  self->rows = g_ptr_array_new ();
}
