/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/files/mapped-file.h"

#include "engine/error.h"

#include <errno.h>
#include <glib/gstdio.h>

GMappedFile *
mapped_file_open (const char *path, GError **error)
{
  g_autoptr (GError) local = NULL;
  GMappedFile *map = NULL;
  GStatBuf info;

  /* GLib's own messages name the function that failed, and not what a person would ask. */
  if (g_stat (path, &info) != 0)
    g_set_error (error, G_FILE_ERROR, (int)g_file_error_from_errno (errno), "%s: %s", path,
                 errno == ENOENT ? "no such file" : g_strerror (errno));
  else if (!S_ISREG (info.st_mode))
    error_fail_model (error, path, "not a regular file");
  else if ((map = g_mapped_file_new (path, FALSE, &local)) == NULL)
    g_set_error (error, local->domain, local->code, "%s: %s", path,
                 g_error_matches (local, G_FILE_ERROR, G_FILE_ERROR_ACCES)
                     ? "no permission to read it"
                     : local->message);
  return map;
}
