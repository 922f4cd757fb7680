/* SPDX-License-Identifier: Apache-2.0
 *
 * mapped-file.h - a file of somebody else's, to be read in place
 */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* The whole of a regular file, read-only (transfer full: g_mapped_file_unref). A pipe, a device or
 * a folder is refused before it is opened, which could wait for ever. Errors: "PATH: what is
 * wrong", G_FILE_ERROR of the system, ENGINE_ERROR_MODEL for what is not a file. */
GMappedFile *mapped_file_open (const char *path, GError **error);

G_END_DECLS
