/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/error.h"

G_DEFINE_QUARK (engine-error-quark, engine_error)

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
