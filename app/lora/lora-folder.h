/* SPDX-License-Identifier: Apache-2.0
 *
 * lora-folder.h - where LoRA files are
 *
 * A request names them by their files' names alone, so that what a picture says can be found again
 * on another day. A file from elsewhere is copied here: what a sandbox is shown of the file system
 * is gone the next time.
 */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

/* The user's own, where the engine looks, too (transfer full); it need not be there. */
char *lora_folder_get (void);
/* The one that came with a model (transfer full); looked into first. */
char *lora_folder_of_model (const char *model_dir);

/* Names of the LoRA files in `folder`, in order (transfer full: g_strfreev). None if it is not
 * there. */
char **lora_folder_list (const char *folder);

/* Copies `file` into `folder` unless it is there already, under another name if its own is taken by
 * another file; the result is the name (transfer full). Errors: ENGINE_ERROR_MODEL if it is no LoRA
 * file, G_IO_ERROR_*, G_FILE_ERROR_*. */
void lora_folder_add_async (const char *folder, GFile *file, GCancellable *cancellable,
                            GAsyncReadyCallback callback, gpointer data);
char *lora_folder_add_finish (GAsyncResult *result, GError **error);

/* Puts a file into the wastebasket; deletes it where there is none. */
void lora_folder_remove (const char *folder, const char *name);

G_END_DECLS
