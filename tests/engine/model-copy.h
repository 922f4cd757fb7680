/* SPDX-License-Identifier: Apache-2.0
 *
 * model-copy.h - a model folder that a test may damage
 *
 * A temporary folder of links to tests/data/tiny-zimage, in which files can be exchanged.
 */
#pragma once

#include <glib.h>

/* The folder's path (transfer full); model_copy_free removes it. */
char *model_copy_new (void);
void model_copy_free (char *dir);
/* `file` (such as "vae/config.json") becomes a link to `target`; NULL removes it. */
void model_copy_replace (const char *dir, const char *file, const char *target);
/* `file` becomes a file of this text. */
void model_copy_write (const char *dir, const char *file, const char *text);
/* `file` with the first `from` in its text replaced by `to`; `from` must be there. */
void model_copy_edit (const char *dir, const char *file, const char *from, const char *to);
/* Path of `name` below $TESSERA_TEST_DATA (transfer full). */
char *test_data_path (const char *name);
