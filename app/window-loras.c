/* SPDX-License-Identifier: Apache-2.0
 *
 * LoRA files that come into the window, and go.
 */
#include "app/compat.h"
#include "app/lora/lora-folder.h"
#include "app/window-private.h"

#include <glib/gi18n.h>

static void
on_added (GObject *source, GAsyncResult *result, gpointer data)
{
  g_autoptr (TesseraWindow) self = data;
  g_autoptr (GError) error = NULL;
  g_autofree char *name = lora_folder_add_finish (result, &error);

  if (self->worker == NULL) /* closed meanwhile */
    return;
  if (name == NULL)
    {
      g_autofree char *text = g_strdup_printf (_ ("The file was not added: %s"), error->message);

      window_show_toast (self, text);
      return;
    }
  lora_list_use (controls_get_loras (self->controls), name);
}

void
window_add_lora (TesseraWindow *self, GFile *file)
{
  g_autofree char *folder = lora_folder_get ();

  lora_folder_add_async (folder, file, NULL, on_added, g_object_ref (self));
}

static void
on_chosen (GFile *file, gpointer data)
{
  g_autoptr (TesseraWindow) self = data;

  if (file != NULL && self->worker != NULL)
    window_add_lora (self, file);
}

void
window_choose_lora (TesseraWindow *self)
{
  compat_open_file (GTK_WINDOW (self), _ ("Add LoRA File"), _ ("LoRA files"), "safetensors",
                    on_chosen, g_object_ref (self));
}

static void
on_removed (TesseraWindow *self, const char *name)
{
  /* Translators: %s is the name of a file */
  g_autofree char *text = g_strdup_printf (_ ("%s removed"), name);

  window_forget_removed (self); /* the list has forgotten its own */
  window_offer_undo (self, text, "win.undo-remove-lora");
}

void
window_connect_loras (TesseraWindow *self)
{
  TesseraLoraList *loras = controls_get_loras (self->controls);

  lora_list_set_worker (loras, self->worker);
  g_signal_connect_object (loras, "removed", G_CALLBACK (on_removed), self, G_CONNECT_SWAPPED);
}
