/* SPDX-License-Identifier: Apache-2.0
 *
 * compat.h - what newer versions of GTK do in another way
 *
 * The only place that asks for GTK's version. All of it goes through the portal in a sandbox.
 */
#pragma once

#include <gtk/gtk.h>

G_BEGIN_DECLS

/* Called with the chosen file, or with NULL if none was. */
typedef void (*CompatFileChosen) (GFile *file, gpointer data);

void
compat_choose_folder (GtkWindow *parent, const char *title, CompatFileChosen chosen, gpointer data);
/* `filter`: what the files are called that end in `suffix`, such as "safetensors". */
void compat_open_file (GtkWindow *parent, const char *title, const char *filter, const char *suffix,
                       CompatFileChosen chosen, gpointer data);
void compat_save_file (GtkWindow *parent, const char *title, const char *name,
                       CompatFileChosen chosen, gpointer data);

/* Shows a file in its folder with the file manager. */
void compat_show_in_folder (GtkWindow *parent, GFile *file);

G_END_DECLS
