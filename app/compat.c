/* SPDX-License-Identifier: Apache-2.0 */
#include "app/compat.h"

#include <glib/gi18n.h>

typedef enum
{
  ASK_FOLDER,
  ASK_OPEN,
  ASK_SAVE,
} AskKind;

typedef struct
{
  CompatFileChosen chosen;
  gpointer data;
  AskKind kind;
  const char *name;      /* for ASK_SAVE: suggested */
  GtkFileFilter *filter; /* for ASK_OPEN */
} Asked;

#if GTK_CHECK_VERSION(4, 10, 0) && GDK_VERSION_MAX_ALLOWED >= GDK_VERSION_4_10

static void
on_file (GObject *source, GAsyncResult *result, gpointer data)
{
  g_autofree Asked *asked = data;
  GtkFileDialog *dialog = GTK_FILE_DIALOG (source);
  g_autoptr (GFile) file = NULL;

  if (asked->kind == ASK_SAVE)
    file = gtk_file_dialog_save_finish (dialog, result, NULL);
  else if (asked->kind == ASK_OPEN)
    file = gtk_file_dialog_open_finish (dialog, result, NULL);
  else
    file = gtk_file_dialog_select_folder_finish (dialog, result, NULL);
  asked->chosen (file, asked->data);
}

static void
ask (GtkWindow *parent, const char *title, const Asked *question)
{
  g_autoptr (GtkFileDialog) dialog = gtk_file_dialog_new ();
  Asked *asked = g_memdup2 (question, sizeof *question);

  gtk_file_dialog_set_title (dialog, title);
  if (asked->kind == ASK_SAVE)
    {
      gtk_file_dialog_set_initial_name (dialog, asked->name);
      gtk_file_dialog_save (dialog, parent, NULL, on_file, asked);
    }
  else if (asked->kind == ASK_OPEN)
    {
      gtk_file_dialog_set_default_filter (dialog, asked->filter);
      gtk_file_dialog_open (dialog, parent, NULL, on_file, asked);
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
ask (GtkWindow *parent, const char *title, const Asked *question)
{
  static const GtkFileChooserAction actions[] = {
    [ASK_FOLDER] = GTK_FILE_CHOOSER_ACTION_SELECT_FOLDER,
    [ASK_OPEN] = GTK_FILE_CHOOSER_ACTION_OPEN,
    [ASK_SAVE] = GTK_FILE_CHOOSER_ACTION_SAVE,
  };
  GtkFileChooserNative *dialog
      = gtk_file_chooser_native_new (title, parent, actions[question->kind], NULL, NULL);

  if (question->name != NULL)
    gtk_file_chooser_set_current_name (GTK_FILE_CHOOSER (dialog), question->name);
  if (question->filter != NULL)
    gtk_file_chooser_add_filter (GTK_FILE_CHOOSER (dialog), question->filter);
  gtk_native_dialog_set_modal (GTK_NATIVE_DIALOG (dialog), TRUE);
  g_signal_connect (dialog, "response", G_CALLBACK (on_response),
                    g_memdup2 (question, sizeof *question));
  gtk_native_dialog_show (GTK_NATIVE_DIALOG (dialog));
}

#endif

void
compat_choose_folder (GtkWindow *parent, const char *title, CompatFileChosen chosen, gpointer data)
{
  const Asked question = { .chosen = chosen, .data = data, .kind = ASK_FOLDER };

  ask (parent, title, &question);
}

void
compat_open_file (GtkWindow *parent, const char *title, const char *filter, const char *suffix,
                  CompatFileChosen chosen, gpointer data)
{
  g_autoptr (GtkFileFilter) files = gtk_file_filter_new ();
  const Asked question = { .chosen = chosen, .data = data, .kind = ASK_OPEN, .filter = files };

  gtk_file_filter_set_name (files, filter);
  gtk_file_filter_add_suffix (files, suffix);
  ask (parent, title, &question);
}

void
compat_save_file (GtkWindow *parent, const char *title, const char *name, CompatFileChosen chosen,
                  gpointer data)
{
  const Asked question = { .chosen = chosen, .data = data, .kind = ASK_SAVE, .name = name };

  ask (parent, title, &question);
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
