/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/error.h"

#include <string.h>

G_DEFINE_QUARK (engine - error - quark, engine_error)

gboolean
error_fail_model (GError **error, const char *path, const char *format, ...)
{
  g_autofree char *text = NULL;
  va_list arguments;

  va_start (arguments, format);
  text = g_strdup_vprintf (format, arguments);
  va_end (arguments);
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL, "%s: %s", path, text);
  return FALSE;
}

gboolean
error_check_stand_in (GError **error, const char *path, const char *contents, gsize length)
{
  static const struct
  {
    const char *start, *what;
  } others[] = {
    { "version https://git-lfs.github.com/",
      "only Git LFS's pointer to the file; fetch the file itself, with git lfs pull" },
    { "<!DOCTYPE html", "a web page, not the file; download it again" },
    { "<!doctype html", "a web page, not the file; download it again" },
    { "<html", "a web page, not the file; download it again" },
  };

  for (guint i = 0; i < G_N_ELEMENTS (others); i++)
    if (length >= strlen (others[i].start)
        && memcmp (contents, others[i].start, strlen (others[i].start)) == 0)
      return error_fail_model (error, path, "%s", others[i].what);
  return TRUE;
}
