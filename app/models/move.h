/* SPDX-License-Identifier: Apache-2.0
 *
 * move.h - a model's folder goes to another disk, and is still found where it was
 *
 * MODELS_DIR/ID is a model's name for all the rest of the app. Moved, it is a link to FOLDER/ID.
 * What is copied is FOLDER/ID.moving until all of it is on that disk; one rename then makes the
 * copy the model, and only after that the first one is deleted. MODELS_DIR/ID.move says what is
 * under way, so whenever the program ends, move_recover brings it to one end or the other: never
 * is there less than one whole model, and never is there more in the end.
 */
#pragma once

#include "app/models/tree.h"

G_BEGIN_DECLS

/* Moves the model at `home` (MODELS_DIR/ID, a folder or a link to one) to FOLDER/ID; `folder` may
 * be MODELS_DIR, which moves it back. Blocking. On one disk it is a rename, else a copy whose
 * space is checked first. Errors: G_IO_ERROR_CANCELLED, _NO_SPACE, _EXISTS (FOLDER/ID),
 * _NOT_SUPPORTED (the model holds a link or a device), _INVALID_ARGUMENT (FOLDER is no place for
 * it), G_FILE_ERROR_*: then the model is where it was. */
gboolean move_model (const char *home, const char *folder, TreeProgress *progress,
                     GCancellable *cancellable, GError **error);

/* Ends what earlier runs of the program left unfinished in `models_dir`. Where a disk is not there
 * the model stays usable if it can, and the rest waits for the next time. */
void move_recover (const char *models_dir);

/* Makes an empty FOLDER/ID and the link to it, for a download. Errors as above. */
gboolean move_prepare (const char *home, const char *folder, GError **error);

/* Where the link at `home` leads (transfer full); NULL if it is none. */
char *move_target (const char *home);
/* Such as "/media/disk/z-image: is not there" for a link that leads nowhere (transfer full), or
 * NULL. */
char *move_describe_missing (const char *home);

G_END_DECLS
