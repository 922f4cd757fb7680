/* SPDX-License-Identifier: Apache-2.0
 *
 * error.h - how the readers of model files say what is wrong
 */
#pragma once

#include "engine/engine.h"

G_BEGIN_DECLS

/* ENGINE_ERROR_MODEL "PATH: what is wrong"; returns FALSE, so that a check is one line. */
gboolean error_fail_model (GError **error, const char *path, const char *format, ...)
    G_GNUC_PRINTF (3, 4);
/* FALSE with an error if these `length` bytes stand in for a file that was not fetched: Git LFS's
 * pointer, or a web site's page. */
gboolean
error_check_stand_in (GError **error, const char *path, const char *contents, gsize length);

G_END_DECLS
