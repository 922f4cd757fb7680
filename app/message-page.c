/* SPDX-License-Identifier: Apache-2.0 */
#include "app/message-page.h"

#include <adwaita.h>
#include <glib/gi18n.h>

struct _TesseraMessagePage
{
  GtkWidget parent_instance;

  /* Template Widgets */
  AdwStatusPage *page;
  GtkButton *action, *other, *third;
  GtkWidget *details;
  GtkLabel *text;

  MessageState state;
};

G_DEFINE_FINAL_TYPE (TesseraMessagePage, message_page, GTK_TYPE_WIDGET)

typedef struct
{
  const char *icon, *title, *description;
  const char *label, *name;             /* of the first button; NULL = none */
  const char *other_label, *other_name; /* of the second */
  const char *third_label, *third_name;
} Page;

static const Page PAGES[] = {
  [MESSAGE_WELCOME] = {
    "io.github.tesseraimage.Tessera",
    N_ ("Welcome to Tessera"),
    N_ ("Tessera needs the folder of a Z-Image-Turbo model, about 33 GB as it is published. "
        "Nothing leaves this computer."),
    N_ ("_Models…"), "app.show-models",
    N_ ("_Open Model Folder…"), "app.choose-model",
  },
  [MESSAGE_OPENING] = {
    "io.github.tesseraimage.Tessera", N_ ("Opening the Model"), "", NULL, NULL, NULL, NULL,
  },
  [MESSAGE_INCOMPLETE] = {
    "dialog-warning-symbolic",
    N_ ("The Model Is Incomplete"),
    N_ ("A file of the model is missing or damaged. The details name it."),
    N_ ("_Open Another Folder…"), "app.choose-model",
    N_ ("_Try Again"), "app.reopen-model",
    N_ ("_Models…"), "app.show-models",
  },
  [MESSAGE_NO_DEVICE] = {
    "video-display-symbolic",
    N_ ("No Compatible Graphics Card"),
    N_ ("Computing on a graphics card needs an NVIDIA card with compute capability 7.5 or newer "
        "and its driver. The processor can do the same, more slowly."),
    N_ ("Use the _Processor"), "app.use-processor",
    N_ ("_What Is Missing…"), "app.show-doctor",
    N_ ("_Try Again"), "app.reopen-model",
  },
  [MESSAGE_LOST] = {
    "dialog-error-symbolic",
    N_ ("The Graphics Card Stopped"),
    N_ ("The graphics driver reported a fault that only a new start clears. "
        "All finished images are safe in the history."),
    N_ ("_Restart Tessera"), "app.restart", NULL, NULL,
  },
  [MESSAGE_EMPTY] = {
    "io.github.tesseraimage.Tessera-symbolic",
    N_ ("No Images Yet"),
    N_ ("Describe an image, then choose Generate"),
    NULL, NULL, NULL, NULL,
  },
  [MESSAGE_EMPTY_SMALL] = {
    "io.github.tesseraimage.Tessera-symbolic",
    N_ ("No Images Yet"),
    N_ ("Describe an image, then choose Generate. The built-in model draws a few hundred simple "
        "things by their English names; larger ones draw better."),
    NULL, NULL,
    N_ ("Try an E_xample"), "win.try-example",
    N_ ("_Models…"), "app.show-models",
  },
  [MESSAGE_MAKING] = {
    "io.github.tesseraimage.Tessera-symbolic",
    N_ ("The First Image Is Being Made"),
    N_ ("It shows itself here after the first step"),
    NULL, NULL, NULL, NULL,
  },
  [MESSAGE_MEMORY] = {
    "dialog-warning-symbolic",
    N_ ("Not Enough Memory"),
    N_ ("The image did not fit into the memory of the device. Closing other programs that use it "
        "may help."),
    N_ ("_Back"), "win.dismiss", NULL, NULL,
  },
  [MESSAGE_FAILED] = {
    "dialog-error-symbolic",
    N_ ("The Image Could Not Be Made"),
    N_ ("The details say what happened. The settings are unchanged."),
    N_ ("_Back"), "win.dismiss", NULL, NULL,
  },
};

static void
show_button (GtkButton *button, const char *label, const char *action)
{
  gtk_widget_set_visible (GTK_WIDGET (button), label != NULL);
  gtk_actionable_set_action_name (GTK_ACTIONABLE (button), action);
  if (label != NULL)
    gtk_button_set_label (button, _ (label));
}

void
message_page_show (TesseraMessagePage *self, MessageState state, const char *details)
{
  const Page *page;

  g_return_if_fail (TESSERA_IS_MESSAGE_PAGE (self) && state < G_N_ELEMENTS (PAGES));

  page = &PAGES[state];
  self->state = state;
  adw_status_page_set_icon_name (self->page, page->icon);
  adw_status_page_set_title (self->page, _ (page->title));
  adw_status_page_set_description (self->page, page->description[0] ? _ (page->description) : "");
  show_button (self->action, page->label, page->name);
  show_button (self->other, page->other_label, page->other_name);
  show_button (self->third, page->third_label, page->third_name);
  gtk_label_set_label (self->text, details ? details : "");
  gtk_widget_set_visible (self->details, details != NULL);
}

void
message_page_set_description (TesseraMessagePage *self, const char *text)
{
  g_return_if_fail (TESSERA_IS_MESSAGE_PAGE (self));

  adw_status_page_set_description (self->page, text);
}

void
message_page_offer (TesseraMessagePage *self, const char *label, const char *action)
{
  const Page *page = &PAGES[self->state];

  g_return_if_fail (TESSERA_IS_MESSAGE_PAGE (self));

  gtk_widget_set_visible (GTK_WIDGET (self->action), TRUE);
  gtk_actionable_set_action_name (GTK_ACTIONABLE (self->action), action);
  gtk_button_set_label (self->action, label);
  show_button (self->other, page->label, page->name);
  show_button (self->third, page->other_label, page->other_name);
}

MessageState
message_page_get_state (TesseraMessagePage *self)
{
  return self->state;
}

static void
message_page_dispose (GObject *object)
{
  gtk_widget_dispose_template (GTK_WIDGET (object), TESSERA_TYPE_MESSAGE_PAGE);
  G_OBJECT_CLASS (message_page_parent_class)->dispose (object);
}

static void
message_page_class_init (TesseraMessagePageClass *klass)
{
  GtkWidgetClass *widget_class = GTK_WIDGET_CLASS (klass);

  G_OBJECT_CLASS (klass)->dispose = message_page_dispose;
  gtk_widget_class_set_template_from_resource (widget_class,
                                               "/io/github/tesseraimage/Tessera/message-page.ui");
  gtk_widget_class_bind_template_child (widget_class, TesseraMessagePage, page);
  gtk_widget_class_bind_template_child (widget_class, TesseraMessagePage, action);
  gtk_widget_class_bind_template_child (widget_class, TesseraMessagePage, other);
  gtk_widget_class_bind_template_child (widget_class, TesseraMessagePage, third);
  gtk_widget_class_bind_template_child (widget_class, TesseraMessagePage, details);
  gtk_widget_class_bind_template_child (widget_class, TesseraMessagePage, text);
}

static void
message_page_init (TesseraMessagePage *self)
{
  gtk_widget_init_template (GTK_WIDGET (self));
  message_page_show (self, MESSAGE_WELCOME, NULL);
}
