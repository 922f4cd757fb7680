/* SPDX-License-Identifier: Apache-2.0 */
#include "app/history/restore-report.h"

#include <glib/gi18n.h>
#include <string.h>

struct _TesseraRestoreReport
{
  GtkWidget parent_instance;

  /* Template Widgets */
  GtkRevealer *revealer;
  GtkLabel *title, *text;
  GtkButton *close;
};

G_DEFINE_FINAL_TYPE (TesseraRestoreReport, restore_report, GTK_TYPE_WIDGET)

static const char *
describe_taken (TesseraPicture *picture)
{
  const EngineRequest *request = picture_get_request (picture);
  const gboolean loras = request != NULL && request->n_loras > 0;

  if (!picture_is_ours (picture))
    return loras ? _ ("Taken over from another program's picture: prompt, size, steps, seed, LoRA")
                 : _ ("Taken over from another program's picture: prompt, size, steps, seed");
  return loras ? _ ("Taken over: prompt, size, steps, seed, kind of noise, precision, LoRA")
               : _ ("Taken over: prompt, size, steps, seed, kind of noise, precision");
}

static void
reveal (TesseraRestoreReport *self, const char *title, const char *text)
{
  gtk_label_set_label (self->title, title);
  gtk_label_set_label (self->text, text);
  gtk_widget_set_visible (GTK_WIDGET (self), TRUE);
  gtk_revealer_set_reveal_child (self->revealer, TRUE);
}

/* What the reader of the file could not use: the lines of its report after "Not taken over:". */
static const char *
ignored_by_reader (TesseraPicture *picture)
{
  const char *report = picture_get_report (picture);
  const char *mark = report != NULL ? strstr (report, "Not taken over:\n") : NULL;

  return mark != NULL ? mark + strlen ("Not taken over:\n") : "";
}

void
restore_report_show (TesseraRestoreReport *self, const char *name, TesseraPicture *picture,
                     const char *ignored)
{
  /* Translators: %s is the name of a file */
  g_autofree char *title = g_strdup_printf (_ ("Settings Taken Over from %s"), name);
  const char *foreign = ignored_by_reader (picture);
  g_autoptr (GString) text = NULL;

  g_return_if_fail (TESSERA_IS_RESTORE_REPORT (self));

  text = g_string_new (describe_taken (picture));
  if (foreign[0] != '\0' || ignored[0] != '\0')
    g_string_append_printf (text, "\n%s\n%s%s", _ ("Not taken over:"), ignored, foreign);
  else if (picture_is_ours (picture))
    g_string_append_printf (text, "\n%s",
                            _ ("With the same model this gives the same image again."));
  while (text->len > 0 && text->str[text->len - 1] == '\n')
    g_string_truncate (text, text->len - 1);
  reveal (self, title, text->str);
}

void
restore_report_show_failure (TesseraRestoreReport *self, const char *name, const char *details)
{
  g_autofree char *title = g_strdup_printf (_ ("No Settings in %s"), name);

  g_return_if_fail (TESSERA_IS_RESTORE_REPORT (self));

  reveal (self, title, details != NULL ? details : _ ("The file does not say how it was made."));
}

void
restore_report_hide (TesseraRestoreReport *self)
{
  gtk_revealer_set_reveal_child (self->revealer, FALSE);
}

gboolean
restore_report_is_shown (TesseraRestoreReport *self)
{
  return gtk_revealer_get_reveal_child (self->revealer);
}

const char *
restore_report_get_text (TesseraRestoreReport *self)
{
  return gtk_label_get_label (self->text);
}

static void
restore_report_dispose (GObject *object)
{
  gtk_widget_dispose_template (GTK_WIDGET (object), TESSERA_TYPE_RESTORE_REPORT);
  G_OBJECT_CLASS (restore_report_parent_class)->dispose (object);
}

static void
restore_report_class_init (TesseraRestoreReportClass *klass)
{
  GtkWidgetClass *widget_class = GTK_WIDGET_CLASS (klass);

  G_OBJECT_CLASS (klass)->dispose = restore_report_dispose;
  gtk_widget_class_set_template_from_resource (widget_class,
                                               "/io/github/tesseraimage/Tessera/restore-report.ui");
  gtk_widget_class_bind_template_child (widget_class, TesseraRestoreReport, revealer);
  gtk_widget_class_bind_template_child (widget_class, TesseraRestoreReport, title);
  gtk_widget_class_bind_template_child (widget_class, TesseraRestoreReport, text);
  gtk_widget_class_bind_template_child (widget_class, TesseraRestoreReport, close);
}

static void
restore_report_init (TesseraRestoreReport *self)
{
  gtk_widget_init_template (GTK_WIDGET (self));
  g_signal_connect_object (self->close, "clicked", G_CALLBACK (restore_report_hide), self,
                           G_CONNECT_SWAPPED);
}
