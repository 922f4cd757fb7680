/* SPDX-License-Identifier: Apache-2.0 */
#include "app/compat.h"

#include <glib/gi18n.h>

typedef struct
{
  CompatFileChosen chosen;
  gpointer data;
  gboolean save;
} Asked;

#if GTK_CHECK_VERSION(4, 10, 0) && GDK_VERSION_MAX_ALLOWED >= GDK_VERSION_4_10

static void
on_file (GObject *source, GAsyncResult *result, gpointer data)
{
  g_autofree Asked *asked = data;
  GtkFileDialog *dialog = GTK_FILE_DIALOG (source);
  g_autoptr (GFile) file = asked->save
                               ? gtk_file_dialog_save_finish (dialog, result, NULL)
                               : gtk_file_dialog_select_folder_finish (dialog, result, NULL);

  asked->chosen (file, asked->data);
}

static void
ask (GtkWindow *parent, const char *title, const char *name, CompatFileChosen chosen, gpointer data)
{
  g_autoptr (GtkFileDialog) dialog = gtk_file_dialog_new ();
  Asked *asked = g_new (Asked, 1);

  *asked = (Asked){ chosen, data, name != NULL };
  gtk_file_dialog_set_title (dialog, title);
  if (name != NULL)
    {
      gtk_file_dialog_set_initial_name (dialog, name);
      gtk_file_dialog_save (dialog, parent, NULL, on_file, asked);
    }
  else
    {
      gtk_file_dialog_select_folder (dialog, parent, NULL, on_file, asked);
    }
}

#else

static void
on_response (GtkNativeDialog *dialog, int response, gpointer data)
{
  g_autofree Asked *asked = data;
  g_autoptr (GFile) file = NULL;

  if (response == GTK_RESPONSE_ACCEPT)
    file = gtk_file_chooser_get_file (GTK_FILE_CHOOSER (dialog));
  asked->chosen (file, asked->data);
  g_object_unref (dialog);
}

static void
ask (GtkWindow *parent, const char *title, const char *name, CompatFileChosen chosen, gpointer data)
{
  GtkFileChooserNative *dialog = gtk_file_chooser_native_new (
      title, parent, name ? GTK_FILE_CHOOSER_ACTION_SAVE : GTK_FILE_CHOOSER_ACTION_SELECT_FOLDER,
      NULL, NULL);
  Asked *asked = g_new (Asked, 1);

  *asked = (Asked){ chosen, data, name != NULL };
  if (name != NULL)
    gtk_file_chooser_set_current_name (GTK_FILE_CHOOSER (dialog), name);
  gtk_native_dialog_set_modal (GTK_NATIVE_DIALOG (dialog), TRUE);
  g_signal_connect (dialog, "response", G_CALLBACK (on_response), asked);
  gtk_native_dialog_show (GTK_NATIVE_DIALOG (dialog));
}

#endif

void
compat_choose_folder (GtkWindow *parent, const char *title, CompatFileChosen chosen, gpointer data)
{
  ask (parent, title, NULL, chosen, data);
}

void
compat_save_file (GtkWindow *parent, const char *title, const char *name, CompatFileChosen chosen,
                  gpointer data)
{
  ask (parent, title, name, chosen, data);
}

static void
on_shown (GObject *source, GAsyncResult *result, gpointer data)
{
  g_autoptr (GFile) file = data;
  g_autoptr (GVariant) reply
      = g_dbus_connection_call_finish (G_DBUS_CONNECTION (source), result, NULL);

  /* No file manager that can select a file: the folder itself. */
  if (reply == NULL)
    {
      g_autoptr (GFile) folder = g_file_get_parent (file);
      g_autofree char *uri = g_file_get_uri (folder);

      g_app_info_launch_default_for_uri_async (uri, NULL, NULL, NULL, NULL);
    }
}

void
compat_show_in_folder (GtkWindow *parent, GFile *file)
{
  GApplication *app = g_application_get_default ();
  GDBusConnection *bus = app != NULL ? g_application_get_dbus_connection (app) : NULL;
  g_autofree char *uri = g_file_get_uri (file);
  const char *uris[] = { uri, NULL };

  if (bus == NULL)
    return;
  g_dbus_connection_call (bus, "org.freedesktop.FileManager1", "/org/freedesktop/FileManager1",
                          "org.freedesktop.FileManager1", "ShowItems",
                          g_variant_new ("(^ass)", uris, ""), NULL, G_DBUS_CALL_FLAGS_NONE, -1,
                          NULL, on_shown, g_object_ref (file));
}
