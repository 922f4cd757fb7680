/* SPDX-License-Identifier: Apache-2.0 */
#include "app/run-bar.h"

#include <adwaita.h>
#include <glib/gi18n.h>

struct _TesseraRunBar
{
  GtkWidget parent_instance;

  /* Template Widgets */
  GtkWidget *paused, *progress, *buttons;
  GtkLabel *paused_text, *text;
  GtkButton *discard, *resume, *main, *add, *clear;
  GtkPicture *preview;
  GtkProgressBar *bar;
  GtkMenuButton *waiting;
  GtkListBox *list;

  /* Owned References */
  TesseraQueue *queue;
  TesseraJob *job; /* whose progress is shown */
  char *reason;
};

G_DEFINE_FINAL_TYPE (TesseraRunBar, run_bar, GTK_TYPE_WIDGET)

/* -- The running job ----------------------------------------------------------------------------
 */

static void
show_progress (TesseraRunBar *self)
{
  GdkTexture *preview = job_get_preview (self->job);

  gtk_label_set_label (self->text, job_get_text (self->job));
  gtk_progress_bar_set_fraction (self->bar, job_get_fraction (self->job));
  gtk_picture_set_paintable (self->preview, preview ? GDK_PAINTABLE (preview) : NULL);
  gtk_widget_set_visible (GTK_WIDGET (self->preview), preview != NULL);
}

static void
show_reason (TesseraRunBar *self)
{
  const gboolean running = self->job != NULL;

  gtk_widget_set_tooltip_text (GTK_WIDGET (self->main), running ? NULL : self->reason);
  gtk_widget_set_tooltip_text (GTK_WIDGET (self->add), self->reason);
}

static void
on_running_changed (TesseraRunBar *self)
{
  TesseraJob *job = self->queue ? queue_get_running (self->queue) : NULL;
  GtkWidget *button = GTK_WIDGET (self->main);

  if (self->job != NULL)
    g_signal_handlers_disconnect_by_data (self->job, self);
  g_set_object (&self->job, job);
  gtk_widget_set_visible (self->progress, job != NULL);
  gtk_widget_set_visible (GTK_WIDGET (self->add), job != NULL);
  if (job != NULL)
    {
      g_signal_connect_swapped (job, "notify", G_CALLBACK (show_progress), self);
      show_progress (self);
      gtk_button_set_label (self->main, _ ("_Cancel"));
      gtk_actionable_set_action_name (GTK_ACTIONABLE (button), "win.cancel");
      gtk_widget_remove_css_class (button, "suggested-action");
    }
  else
    {
      gtk_button_set_label (self->main, _ ("Ge_nerate"));
      gtk_actionable_set_action_name (GTK_ACTIONABLE (button), "win.generate");
      gtk_widget_add_css_class (button, "suggested-action");
    }
  show_reason (self);
}

void
run_bar_set_reason (TesseraRunBar *self, const char *reason)
{
  g_return_if_fail (TESSERA_IS_RUN_BAR (self));

  g_free (self->reason);
  self->reason = g_strdup (reason);
  show_reason (self);
}

/* -- What waits ---------------------------------------------------------------------------------
 */

static void
on_waiting_changed (TesseraRunBar *self)
{
  const guint n = g_list_model_get_n_items (G_LIST_MODEL (self->queue));
  const gboolean paused = queue_get_paused (self->queue) && n > 0;
  g_autofree char *number = g_strdup_printf ("%u", n);
  g_autofree char *count = g_strdup_printf (ngettext ("%u waiting", "%u waiting", n), n);
  g_autofree char *text
      = queue_has_trouble (self->queue)
            ? g_strdup_printf (
                ngettext ("%u image waits, since something went wrong with the last one",
                          "%u images wait, since something went wrong with the last one", n),
                n)
            : g_strdup_printf (ngettext ("%u image was left waiting when the app ended",
                                         "%u images were left waiting when the app ended", n),
                               n);

  gtk_menu_button_set_label (self->waiting, number);
  gtk_widget_set_tooltip_text (GTK_WIDGET (self->waiting), count);
  gtk_accessible_update_property (GTK_ACCESSIBLE (self->waiting), GTK_ACCESSIBLE_PROPERTY_LABEL,
                                  count, -1);
  gtk_widget_set_visible (GTK_WIDGET (self->waiting), n > 0);
  gtk_label_set_label (self->paused_text, text);
  gtk_widget_set_visible (self->paused, paused);
}

static guint
row_position (GtkWidget *button)
{
  return gtk_list_box_row_get_index (
      GTK_LIST_BOX_ROW (gtk_widget_get_ancestor (button, GTK_TYPE_LIST_BOX_ROW)));
}

static void
on_sooner_clicked (TesseraRunBar *self, GtkWidget *button)
{
  const guint position = row_position (button);

  if (position > 0)
    queue_move (self->queue, position, position - 1);
}

static void
on_later_clicked (TesseraRunBar *self, GtkWidget *button)
{
  const guint position = row_position (button);

  if (position + 1 < g_list_model_get_n_items (G_LIST_MODEL (self->queue)))
    queue_move (self->queue, position, position + 1);
}

static void
on_remove_clicked (TesseraRunBar *self, GtkWidget *button)
{
  queue_remove (self->queue, row_position (button));
}

static void
add_button (TesseraRunBar *self, AdwActionRow *row, const char *icon, const char *tip,
            GCallback callback)
{
  GtkWidget *button = gtk_button_new_from_icon_name (icon);

  gtk_widget_set_valign (button, GTK_ALIGN_CENTER);
  gtk_widget_add_css_class (button, "flat");
  gtk_widget_set_tooltip_text (button, tip);
  gtk_accessible_update_property (GTK_ACCESSIBLE (button), GTK_ACCESSIBLE_PROPERTY_LABEL, tip, -1);
  g_signal_connect_object (button, "clicked", callback, self, G_CONNECT_SWAPPED);
  adw_action_row_add_suffix (row, button);
}

static GtkWidget *
create_row (gpointer item, gpointer data)
{
  TesseraRunBar *self = data;
  AdwActionRow *row = ADW_ACTION_ROW (adw_action_row_new ());
  g_autofree char *settings = job_describe (item);
  const char *prompt = job_get_request (item)->prompt;

  adw_preferences_row_set_use_markup (ADW_PREFERENCES_ROW (row), FALSE);
  adw_preferences_row_set_title (ADW_PREFERENCES_ROW (row), prompt[0] ? prompt : _ ("No prompt"));
  adw_action_row_set_subtitle (row, settings);
  adw_action_row_set_title_lines (row, 1);
  adw_action_row_set_subtitle_lines (row, 1);
  add_button (self, row, "go-up-symbolic", _ ("Sooner"), G_CALLBACK (on_sooner_clicked));
  add_button (self, row, "go-down-symbolic", _ ("Later"), G_CALLBACK (on_later_clicked));
  add_button (self, row, "list-remove-symbolic", _ ("Remove"), G_CALLBACK (on_remove_clicked));
  return GTK_WIDGET (row);
}

static void
on_resume_clicked (TesseraRunBar *self)
{
  queue_set_paused (self->queue, FALSE);
}

static void
on_clear_clicked (TesseraRunBar *self)
{
  queue_clear (self->queue);
  queue_set_paused (self->queue, FALSE);
}

void
run_bar_set_queue (TesseraRunBar *self, TesseraQueue *queue)
{
  g_return_if_fail (TESSERA_IS_RUN_BAR (self) && self->queue == NULL);

  self->queue = g_object_ref (queue);
  gtk_list_box_bind_model (self->list, G_LIST_MODEL (queue), create_row, self, NULL);
  g_signal_connect_object (queue, "notify::running", G_CALLBACK (on_running_changed), self,
                           G_CONNECT_SWAPPED);
  g_signal_connect_object (queue, "notify::paused", G_CALLBACK (on_waiting_changed), self,
                           G_CONNECT_SWAPPED);
  g_signal_connect_object (queue, "items-changed", G_CALLBACK (on_waiting_changed), self,
                           G_CONNECT_SWAPPED);
  on_running_changed (self);
  on_waiting_changed (self);
}

static void
run_bar_dispose (GObject *object)
{
  TesseraRunBar *self = TESSERA_RUN_BAR (object);

  if (self->job != NULL)
    g_signal_handlers_disconnect_by_data (self->job, self);
  g_clear_object (&self->job);
  if (self->list != NULL)
    gtk_list_box_bind_model (self->list, NULL, NULL, NULL, NULL);
  g_clear_object (&self->queue);
  g_clear_pointer (&self->reason, g_free);
  gtk_widget_dispose_template (GTK_WIDGET (self), TESSERA_TYPE_RUN_BAR);
  G_OBJECT_CLASS (run_bar_parent_class)->dispose (object);
}

static void
run_bar_class_init (TesseraRunBarClass *klass)
{
  GtkWidgetClass *widget_class = GTK_WIDGET_CLASS (klass);

  G_OBJECT_CLASS (klass)->dispose = run_bar_dispose;
  gtk_widget_class_set_template_from_resource (widget_class,
                                               "/io/github/tesseraimage/Tessera/run-bar.ui");
  gtk_widget_class_bind_template_child (widget_class, TesseraRunBar, paused);
  gtk_widget_class_bind_template_child (widget_class, TesseraRunBar, progress);
  gtk_widget_class_bind_template_child (widget_class, TesseraRunBar, buttons);
  gtk_widget_class_bind_template_child (widget_class, TesseraRunBar, paused_text);
  gtk_widget_class_bind_template_child (widget_class, TesseraRunBar, text);
  gtk_widget_class_bind_template_child (widget_class, TesseraRunBar, discard);
  gtk_widget_class_bind_template_child (widget_class, TesseraRunBar, resume);
  gtk_widget_class_bind_template_child (widget_class, TesseraRunBar, main);
  gtk_widget_class_bind_template_child (widget_class, TesseraRunBar, add);
  gtk_widget_class_bind_template_child (widget_class, TesseraRunBar, clear);
  gtk_widget_class_bind_template_child (widget_class, TesseraRunBar, preview);
  gtk_widget_class_bind_template_child (widget_class, TesseraRunBar, bar);
  gtk_widget_class_bind_template_child (widget_class, TesseraRunBar, waiting);
  gtk_widget_class_bind_template_child (widget_class, TesseraRunBar, list);
}

static void
run_bar_init (TesseraRunBar *self)
{
  gtk_widget_init_template (GTK_WIDGET (self));
  g_signal_connect_object (self->resume, "clicked", G_CALLBACK (on_resume_clicked), self,
                           G_CONNECT_SWAPPED);
  g_signal_connect_object (self->discard, "clicked", G_CALLBACK (on_clear_clicked), self,
                           G_CONNECT_SWAPPED);
  g_signal_connect_object (self->clear, "clicked", G_CALLBACK (on_clear_clicked), self,
                           G_CONNECT_SWAPPED);
}
