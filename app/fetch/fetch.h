/* SPDX-License-Identifier: Apache-2.0
 *
 * fetch.h - one file over HTTPS: in parallel ranges, resumed, verified
 *
 * Blocking, for a thread of its own; it starts more threads for ranges and has joined them when it
 * returns. The file gets its name only once it is whole and its hash is right; without a hash, once
 * its length is what the server said throughout and its ETag never changed. What was loaded stays
 * beside it (fetch-part.h) until then, also when the call is cancelled: that is what pausing is.
 * A proxy is used where the desktop's settings or the environment (https_proxy) ask for one.
 */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct _Fetch Fetch;

typedef struct
{
  guint connections;   /* ranges at a time */
  gsize chunk;         /* bytes of a range */
  guint stall_seconds; /* a connection that is silent for so long is given up */
  guint patience; /* failures in a row, without a byte in between, until a mirror is given up */
  guint wait_ms;  /* before the second try; doubled each time, at most a minute */
} FetchOptions;

#define FETCH_OPTIONS_INIT                                                                         \
  {                                                                                                \
    4, 16 << 20, 30, 8, 1000                                                                       \
  }

/* `urls`: the same file at several places, tried in order. `hash`: lower case hex, or NULL; `size`:
 * 0 if not known. Everything is copied; options may be NULL. */
Fetch *fetch_new (const char *const *urls, const char *path, GChecksumType hash_type,
                  const char *hash, guint64 size, const FetchOptions *options);
void fetch_free (Fetch *self); /* NULL is a no-op */

/* Does it. Errors: G_IO_ERROR_CANCELLED, _NO_SPACE, _INVALID_DATA (a wrong hash or size, a file
 * that keeps changing), _HOST_UNREACHABLE and others of G_IO_ERROR: the last mirror's;
 * G_FILE_ERROR_*. Messages name the host or the file. */
gboolean fetch_run (Fetch *self, GCancellable *cancellable, GError **error);

/* Asks the first mirror that answers what the file is: its length (0: not known) and, where the
 * host publishes it, its SHA-256 (transfer full, or NULL). FALSE if none says anything. */
gboolean fetch_look (Fetch *self, guint64 *size, char **sha256, GCancellable *cancellable);

/* Bytes there and in all, 0 if not known yet. (any thread) */
void fetch_get_progress (Fetch *self, guint64 *done, guint64 *total);
/* Hosts that were contacted, each once, "HOST via PROXY" through one (transfer full: g_strfreev).
 * (any thread) */
char **fetch_get_hosts (Fetch *self);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Fetch, fetch_free)

G_END_DECLS
