/* SPDX-License-Identifier: Apache-2.0 */
#include "app/models/model-row.h"

#include "app/compat.h"
#include "app/models/adopt.h"
#include "app/models/move.h"
#include "app/models/tree.h"

#include <glib/gi18n.h>
#include <glib/gstdio.h>

struct _TesseraModelRow
{
  AdwActionRow parent_instance;

  GtkButton *main_button, *verify, *move, *discard;
  GtkProgressBar *bar;

  TesseraDownload *download;
  GSettings *settings;
  const CatalogueModel *model;
  char *models_dir;
  gboolean recommended, removing;
  char *verdict; /* why what was asked for was not done, or NULL */
};

G_DEFINE_FINAL_TYPE (TesseraModelRow, model_row, ADW_TYPE_ACTION_ROW)

/* -- what is seen -------------------------------------------------------------------------------
 */

static char *
describe_progress (TesseraModelRow *self)
{
  guint64 done, total;
  double rate;
  int left;
  g_autofree char *done_text = NULL, *total_text = NULL, *rate_text = NULL;

  download_get_progress (self->download, &done, &total, &rate, &left);
  done_text = g_format_size (done);
  total_text = g_format_size (total);
  rate_text = g_format_size ((guint64)rate);
  if (download_get_state (self->download) == DOWNLOAD_CHECKING)
    return g_strdup_printf (_ ("%s of %s checked"), done_text, total_text);
  if (download_get_check (self->download) == CHECK_MENDS)
    return g_strdup_printf (_ ("A file was damaged and is fetched again; %s of %s are here"),
                            done_text, total_text);
  if (download_get_state (self->download) == DOWNLOAD_MOVING)
    return g_strdup_printf (_ ("%s of %s moved"), done_text, total_text);
  if (download_is_looking (self->download))
    return g_strdup_printf (_ ("Looking for files that are here; %s of %s so far"), done_text,
                            total_text);
  if (left < 0)
    return g_strdup_printf (_ ("%s of %s downloaded"), done_text, total_text);
  if (left < 90)
    return g_strdup_printf (ngettext ("%s of %s downloaded, %s a second, about %d second left",
                                      "%s of %s downloaded, %s a second, about %d seconds left",
                                      (gulong)left),
                            done_text, total_text, rate_text, left);
  return g_strdup_printf (ngettext ("%s of %s downloaded, %s a second, about %d minute left",
                                    "%s of %s downloaded, %s a second, about %d minutes left",
                                    (gulong)(left + 30) / 60),
                          done_text, total_text, rate_text, (left + 30) / 60);
}

/* Of a model that is whole, or would be if its disk were there. */
static char *
describe_place (TesseraModelRow *self)
{
  const char *dir = download_get_dir (self->download);
  const char *error = download_get_error (self->download);
  g_autofree char *target = move_target (dir);

  if (target != NULL && !g_file_test (dir, G_FILE_TEST_IS_DIR))
    return g_strdup_printf (_ ("It is in %s, which is not there: attach that disk"), target);
  if (download_get_check (self->download) == CHECK_GOOD)
    return g_strdup (_ ("Every file is as it was published"));
  if (download_get_check (self->download) == CHECK_FAILED)
    return g_strdup_printf (_ ("Not every file could be read: %s"), error);
  if (error != NULL)
    return g_strdup_printf (_ ("It was not moved: %s"), error);
  if (target != NULL)
    return g_strdup_printf (_ ("On this computer, in %s"), target);
  return g_strdup (_ ("On this computer"));
}

static gboolean
is_away (TesseraModelRow *self)
{
  const char *dir = download_get_dir (self->download);

  return g_file_test (dir, G_FILE_TEST_IS_SYMLINK) && !g_file_test (dir, G_FILE_TEST_IS_DIR);
}

static gboolean
is_in_use (TesseraModelRow *self)
{
  g_autofree char *dir = g_settings_get_string (self->settings, "model");

  return g_str_equal (dir, download_get_dir (self->download));
}

/* Of cards that people have at home; others are known by their memory alone. */
static char *
describe_cards (const CatalogueModel *model)
{
  g_autofree char *memory = g_format_size (model->min_memory);

  if (model->min_memory == 0)
    return NULL;
  if (model->min_sm >= 120)
    return g_strdup_printf (_ ("for GeForce RTX 50 with %s or more"), memory);
  if (model->max_sm < 120)
    return g_strdup_printf (_ ("for GeForce RTX 20 to 40 with %s or more"), memory);
  return g_strdup_printf (_ ("for graphics cards with %s or more"), memory);
}

static char *
describe (TesseraModelRow *self)
{
  g_autofree char *cards = describe_cards (self->model);
  g_autofree char *here = NULL;
  g_autofree char *size = g_format_size (catalogue_model_bytes (self->model));
  const char *error = download_get_error (self->download);

  if (self->verdict != NULL)
    return g_strdup (self->verdict);
  switch (download_get_state (self->download))
    {
    case DOWNLOAD_RUNNING:
    case DOWNLOAD_MOVING:
    case DOWNLOAD_CHECKING:
      return describe_progress (self);
    case DOWNLOAD_FAILED:
      if (is_away (self))
        return describe_place (self);
      return g_strdup_printf (_ ("The download stopped: %s"), error);
    case DOWNLOAD_PAUSED:
      here = g_format_size (download_get_bytes_here (self->download));
      return g_strdup_printf (_ ("Paused; %s of about %s are here"), here, size);
    case DOWNLOAD_DONE:
      return describe_place (self);
    case DOWNLOAD_IDLE:
      break;
    }
  if (self->recommended)
    return g_strdup_printf (_ ("About %s, suits this computer"), size);
  if (cards != NULL)
    return g_strdup_printf (_ ("About %s, %s"), size, cards);
  return g_strdup_printf (_ ("About %s"), size);
}

static void
update (TesseraModelRow *self)
{
  static const char *const labels[] = {
    [DOWNLOAD_IDLE] = N_ ("_Download…"),  [DOWNLOAD_RUNNING] = N_ ("_Pause"),
    [DOWNLOAD_PAUSED] = N_ ("_Continue"), [DOWNLOAD_FAILED] = N_ ("_Try Again"),
    [DOWNLOAD_DONE] = N_ ("_Use"),        [DOWNLOAD_MOVING] = N_ ("_Cancel"),
    [DOWNLOAD_CHECKING] = N_ ("_Cancel"),
  };
  const DownloadState state = download_get_state (self->download);
  const gboolean busy
      = state == DOWNLOAD_RUNNING || state == DOWNLOAD_MOVING || state == DOWNLOAD_CHECKING;
  const gboolean in_use = state == DOWNLOAD_DONE && is_in_use (self);
  g_autofree char *text = describe (self);
  guint64 done, total;
  double rate;
  int left;

  download_get_progress (self->download, &done, &total, &rate, &left);
  adw_action_row_set_subtitle (ADW_ACTION_ROW (self), text);
  gtk_button_set_label (self->main_button, in_use ? _ ("In Use") : _ (labels[state]));
  gtk_widget_set_sensitive (GTK_WIDGET (self->main_button), !in_use && !self->removing);
  if (self->recommended && state == DOWNLOAD_IDLE)
    gtk_widget_add_css_class (GTK_WIDGET (self->main_button), "suggested-action");
  else
    gtk_widget_remove_css_class (GTK_WIDGET (self->main_button), "suggested-action");
  gtk_widget_set_visible (GTK_WIDGET (self->bar), busy);
  gtk_widget_set_visible (GTK_WIDGET (self->verify), state == DOWNLOAD_DONE);
  gtk_widget_set_visible (GTK_WIDGET (self->move), state == DOWNLOAD_DONE);
  gtk_widget_set_visible (GTK_WIDGET (self->discard), state != DOWNLOAD_IDLE && !busy);
  gtk_widget_set_sensitive (GTK_WIDGET (self->verify), !self->removing);
  gtk_widget_set_sensitive (GTK_WIDGET (self->move), !self->removing);
  gtk_widget_set_sensitive (GTK_WIDGET (self->discard), !self->removing);
  gtk_progress_bar_set_fraction (self->bar, total > 0 ? (double)done / (double)total : 0);
}

/* -- what can be done ---------------------------------------------------------------------------
 */

/* `more`: another folder in which files of it may be, or NULL. */
static void
start (TesseraModelRow *self, const char *more)
{
  g_auto (GStrv) folders = adopt_list_folders (self->models_dir, more);

  g_clear_pointer (&self->verdict, g_free);
  download_start (self->download, (const char *const *)folders);
}

/* -- folders ------------------------------------------------------------------------------------
 */

static void
on_download_folder (GFile *file, gpointer data)
{
  g_autoptr (TesseraModelRow) self = data;
  g_autofree char *path = file != NULL ? g_file_get_path (file) : NULL;
  g_autoptr (GError) error = NULL;

  if (path == NULL || download_get_state (self->download) != DOWNLOAD_IDLE)
    return;
  if (download_set_folder (self->download, path, &error))
    {
      start (self, NULL);
      return;
    }
  g_free (self->verdict);
  self->verdict = g_strdup (error->message);
  update (self);
}

static void
on_folder_with_files (GFile *file, gpointer data)
{
  g_autoptr (TesseraModelRow) self = data;
  g_autofree char *path = file != NULL ? g_file_get_path (file) : NULL;

  if (path != NULL && download_get_state (self->download) == DOWNLOAD_IDLE)
    start (self, path);
}

static void
on_new_folder (GFile *file, gpointer data)
{
  g_autoptr (TesseraModelRow) self = data;
  g_autofree char *path = file != NULL ? g_file_get_path (file) : NULL;

  if (path == NULL)
    return;
  g_clear_pointer (&self->verdict, g_free);
  download_move (self->download, path);
}

static void
choose_folder (TesseraModelRow *self, const char *title, CompatFileChosen chosen)
{
  GtkRoot *root = gtk_widget_get_root (GTK_WIDGET (self));

  compat_choose_folder (GTK_WINDOW (root), title, chosen, g_object_ref (self));
}

static void
on_move (GtkButton *button, gpointer data)
{
  choose_folder (data, _ ("Move the Model To"), on_new_folder);
}

/* -- the licence --------------------------------------------------------------------------------
 */

static void
on_answer (AdwMessageDialog *dialog, const char *response, gpointer data)
{
  if (g_str_equal (response, "download"))
    start (data, NULL);
  else if (g_str_equal (response, "folder"))
    choose_folder (data, _ ("Download the Model To"), on_download_folder);
  else if (g_str_equal (response, "files"))
    choose_folder (data, _ ("Use Files From"), on_folder_with_files);
}

/* It is shown before anything is fetched. */
static void
ask (TesseraModelRow *self)
{
  g_autofree char *size = g_format_size (catalogue_model_bytes (self->model));
  GtkWidget *dialog
      = adw_message_dialog_new (GTK_WINDOW (gtk_widget_get_root (GTK_WIDGET (self))), NULL, NULL);

  adw_message_dialog_format_heading (ADW_MESSAGE_DIALOG (dialog), _ ("Download %s?"),
                                     self->model->name);
  adw_message_dialog_format_body (
      ADW_MESSAGE_DIALOG (dialog),
      _ ("About %s, under the licence %s. The download can be paused. Files that another program "
         "has fetched are used if their folder is chosen."),
      size, self->model->licence);
  adw_message_dialog_set_extra_child (
      ADW_MESSAGE_DIALOG (dialog),
      gtk_link_button_new_with_label (self->model->page, _ ("Licence and Description")));
  adw_message_dialog_add_responses (ADW_MESSAGE_DIALOG (dialog), "cancel", _ ("_Cancel"), "files",
                                    _ ("Use _Files From…"), "folder", _ ("Download _To…"),
                                    "download", _ ("_Download"), NULL);
  adw_message_dialog_set_response_appearance (ADW_MESSAGE_DIALOG (dialog), "download",
                                              ADW_RESPONSE_SUGGESTED);
  adw_message_dialog_set_default_response (ADW_MESSAGE_DIALOG (dialog), "download");
  adw_message_dialog_set_close_response (ADW_MESSAGE_DIALOG (dialog), "cancel");
  g_signal_connect_object (dialog, "response", G_CALLBACK (on_answer), self, 0);
  gtk_window_present (GTK_WINDOW (dialog));
}

static void
on_main_button (GtkButton *button, gpointer data)
{
  TesseraModelRow *self = data;

  switch (download_get_state (self->download))
    {
    case DOWNLOAD_IDLE:
      ask (self);
      break;
    case DOWNLOAD_RUNNING:
    case DOWNLOAD_MOVING:
    case DOWNLOAD_CHECKING:
      download_pause (self->download);
      break;
    case DOWNLOAD_PAUSED:
    case DOWNLOAD_FAILED:
      start (self, NULL);
      break;
    case DOWNLOAD_DONE:
      if (!g_settings_set_string (self->settings, "model", download_get_dir (self->download)))
        g_warning ("The model folder cannot be remembered");
      break;
    }
}

static void
on_verify (GtkButton *button, gpointer data)
{
  TesseraModelRow *self = data;
  g_auto (GStrv) folders = adopt_list_folders (self->models_dir, NULL);

  g_clear_pointer (&self->verdict, g_free);
  download_check (self->download, (const char *const *)folders);
}

static void
make_download (TesseraModelRow *self, Catalogue *catalogue)
{
  self->download = download_new (catalogue, self->model, self->models_dir, NULL);
  g_signal_connect_object (self->download, "changed", G_CALLBACK (update), self, G_CONNECT_SWAPPED);
}

/* -- removing -----------------------------------------------------------------------------------
 */

/* The files are gone. */
static void
forget (TesseraModelRow *self)
{
  const char *dir = download_get_dir (self->download);

  if (g_file_test (dir, G_FILE_TEST_IS_SYMLINK))
    g_unlink (dir);
  download_forget (self->download);
  if (is_in_use (self))
    g_settings_reset (self->settings, "model"); /* the built-in one is always there */
}

static char *
where_files_are (TesseraModelRow *self)
{
  char *target = move_target (download_get_dir (self->download));

  return target != NULL ? target : g_strdup (download_get_dir (self->download));
}

static void
delete_thread (GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
  tree_remove_known (data, data, FALSE);
  g_task_return_boolean (task, !g_file_test (data, G_FILE_TEST_EXISTS));
}

static void
on_deleted (GObject *source, GAsyncResult *result, gpointer data)
{
  TesseraModelRow *self = TESSERA_MODEL_ROW (source);

  self->removing = FALSE;
  if (g_task_propagate_boolean (G_TASK (result), NULL))
    forget (self);
  else
    self->verdict = g_strdup_printf (_ ("Not all of %s can be deleted"),
                                     (char *)g_task_get_task_data (G_TASK (result)));
  update (self);
}

static void
on_delete_answer (AdwMessageDialog *dialog, const char *response, gpointer data)
{
  TesseraModelRow *self = data;
  g_autoptr (GTask) task = NULL;

  if (!g_str_equal (response, "delete"))
    return;
  self->removing = TRUE;
  update (self);
  task = g_task_new (self, NULL, on_deleted, NULL);
  g_task_set_task_data (task, where_files_are (self), g_free);
  g_task_run_in_thread (task, delete_thread);
}

/* Not every disk has a wastebasket. */
static void
offer_to_delete (TesseraModelRow *self, const char *reason)
{
  g_autofree char *size = g_format_size (download_get_bytes_here (self->download));
  GtkWidget *dialog
      = adw_message_dialog_new (GTK_WINDOW (gtk_widget_get_root (GTK_WIDGET (self))), NULL, NULL);

  adw_message_dialog_format_heading (ADW_MESSAGE_DIALOG (dialog), _ ("Delete %s?"),
                                     self->model->name);
  adw_message_dialog_format_body (ADW_MESSAGE_DIALOG (dialog),
                                  _ ("It cannot go to the wastebasket: %s. Deleting gives %s back "
                                     "and cannot be undone."),
                                  reason, size);
  adw_message_dialog_add_responses (ADW_MESSAGE_DIALOG (dialog), "cancel", _ ("_Cancel"), "delete",
                                    _ ("_Delete"), NULL);
  adw_message_dialog_set_response_appearance (ADW_MESSAGE_DIALOG (dialog), "delete",
                                              ADW_RESPONSE_DESTRUCTIVE);
  adw_message_dialog_set_default_response (ADW_MESSAGE_DIALOG (dialog), "cancel");
  adw_message_dialog_set_close_response (ADW_MESSAGE_DIALOG (dialog), "cancel");
  g_signal_connect_object (dialog, "response", G_CALLBACK (on_delete_answer), self, 0);
  gtk_window_present (GTK_WINDOW (dialog));
}

/* To the wastebasket: tens of gigabytes are quickly deleted and slowly fetched. */
static void
on_discard (GtkButton *button, gpointer data)
{
  TesseraModelRow *self = data;
  g_autofree char *path = where_files_are (self);
  g_autoptr (GFile) folder = g_file_new_for_path (path);
  g_autoptr (GError) error = NULL;

  g_clear_pointer (&self->verdict, g_free);
  if (is_away (self) || g_file_trash (folder, NULL, &error))
    forget (self);
  else
    offer_to_delete (self, error->message);
  update (self);
}

/* -- life ---------------------------------------------------------------------------------------
 */

/* Of many buttons with one label each says which model it is about. */
static void
name_buttons (TesseraModelRow *self)
{
  GtkButton *buttons[] = { self->main_button, self->verify, self->move, self->discard };

  for (guint i = 0; i < G_N_ELEMENTS (buttons); i++)
    gtk_accessible_update_property (GTK_ACCESSIBLE (buttons[i]),
                                    GTK_ACCESSIBLE_PROPERTY_DESCRIPTION, self->model->name, -1);
}

TesseraModelRow *
model_row_new (Catalogue *catalogue, const CatalogueModel *model, const char *models_dir,
               GSettings *settings)
{
  TesseraModelRow *self = g_object_new (TESSERA_TYPE_MODEL_ROW, NULL);

  self->model = model;
  self->models_dir = g_strdup (models_dir);
  self->settings = g_object_ref (settings);
  adw_preferences_row_set_use_markup (ADW_PREFERENCES_ROW (self), FALSE);
  adw_preferences_row_set_title (ADW_PREFERENCES_ROW (self), model->name);
  name_buttons (self);
  make_download (self, catalogue);
  g_signal_connect_object (settings, "changed::model", G_CALLBACK (update), self,
                           G_CONNECT_SWAPPED);
  if (download_was_interrupted (self->download))
    start (self, NULL);
  update (self);
  return self;
}

void
model_row_recommend (TesseraModelRow *self)
{
  g_return_if_fail (TESSERA_IS_MODEL_ROW (self));

  self->recommended = TRUE;
  update (self);
}

TesseraDownload *
model_row_get_download (TesseraModelRow *self)
{
  return self->download;
}

static void
model_row_dispose (GObject *object)
{
  TesseraModelRow *self = TESSERA_MODEL_ROW (object);

  if (self->download != NULL)
    download_interrupt (self->download);
  g_clear_object (&self->download);
  g_clear_object (&self->settings);
  G_OBJECT_CLASS (model_row_parent_class)->dispose (object);
}

static void
model_row_finalize (GObject *object)
{
  TesseraModelRow *self = TESSERA_MODEL_ROW (object);

  g_free (self->models_dir);
  g_free (self->verdict);
  G_OBJECT_CLASS (model_row_parent_class)->finalize (object);
}

static void
model_row_class_init (TesseraModelRowClass *klass)
{
  G_OBJECT_CLASS (klass)->dispose = model_row_dispose;
  G_OBJECT_CLASS (klass)->finalize = model_row_finalize;
}

static GtkButton *
add_button (TesseraModelRow *self, GtkWidget *button, GCallback callback)
{
  gtk_widget_set_valign (button, GTK_ALIGN_CENTER);
  g_signal_connect (button, "clicked", callback, self);
  adw_action_row_add_suffix (ADW_ACTION_ROW (self), button);
  return GTK_BUTTON (button);
}

static GtkButton *
add_icon_button (TesseraModelRow *self, const char *icon, const char *name, GCallback callback)
{
  GtkWidget *button = gtk_button_new_from_icon_name (icon);

  gtk_widget_set_tooltip_text (button, name);
  gtk_accessible_update_property (GTK_ACCESSIBLE (button), GTK_ACCESSIBLE_PROPERTY_LABEL, name, -1);
  gtk_widget_add_css_class (button, "flat");
  return add_button (self, button, callback);
}

static void
model_row_init (TesseraModelRow *self)
{
  self->bar = GTK_PROGRESS_BAR (gtk_progress_bar_new ());
  gtk_widget_set_valign (GTK_WIDGET (self->bar), GTK_ALIGN_CENTER);
  gtk_widget_set_size_request (GTK_WIDGET (self->bar), 120, -1);
  gtk_accessible_update_property (GTK_ACCESSIBLE (self->bar), GTK_ACCESSIBLE_PROPERTY_LABEL,
                                  _ ("Progress"), -1);
  adw_action_row_add_suffix (ADW_ACTION_ROW (self), GTK_WIDGET (self->bar));
  self->verify
      = add_icon_button (self, "security-high-symbolic", _ ("Check Files"), G_CALLBACK (on_verify));
  self->move = add_icon_button (self, "folder-symbolic", _ ("Move to Another Folder…"),
                                G_CALLBACK (on_move));
  self->discard = add_icon_button (self, "user-trash-symbolic", _ ("Move to the Wastebasket"),
                                   G_CALLBACK (on_discard));
  self->main_button
      = add_button (self, gtk_button_new_with_mnemonic (""), G_CALLBACK (on_main_button));
}
