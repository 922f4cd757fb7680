/* SPDX-License-Identifier: Apache-2.0
 *
 * fetch-private.h - what fetch.c and fetch-http.c share
 *
 * fetch-http.c asks servers and judges their answers; fetch.c decides what to ask next.
 */
#pragma once

#include "app/fetch/fetch-part.h"
#include "app/fetch/fetch.h"

#include <libsoup/soup.h>

G_BEGIN_DECLS

typedef enum
{
  ANSWER_OK,
  ANSWER_AGAIN,   /* busy, broken off, unreachable: worth another try */
  ANSWER_CHANGED, /* not the file that was begun */
  ANSWER_REFUSED, /* this mirror will not give it: 404, a foreign protocol */
  ANSWER_FAILED,  /* this machine's own fault, or cancelled: no mirror helps */
} Answer;

/* A thread's own session, and what a server says of the file. */
typedef struct
{
  Fetch *fetch;
  SoupSession *session;
  char *url;         /* where the redirects ended */
  char *proxy;       /* host on the way to it, or NULL */
  guint retry_after; /* seconds that the server asked for, or 0 */
} Client;

typedef struct
{
  guint64 size; /* 0: not known */
  gboolean ranges, empty;
  char *validator; /* strong ETag or date, or NULL */
  char *sha256;    /* of the file, where the host publishes it, or NULL */
  char *url;
} Probe;

/* All answers but ANSWER_OK set `error`. `original` is where redirects begin. */
void client_init (Client *self, Fetch *fetch, const char *url);
void client_clear (Client *self);
Answer client_probe (Client *self, Probe *probe, GCancellable *cancellable, GError **error);
void probe_clear (Probe *self);
/* The rest of chunk `i`. */
Answer client_get_chunk (Client *self, const Probe *probe, FetchPart *part, guint i,
                         GCancellable *cancellable, GError **error);
/* All of it, from a server that knows no ranges, into PATH.part; *size is how much that was. */
Answer client_get_whole (Client *self, const char *path, guint64 *size, GCancellable *cancellable,
                         GError **error);

/* fetch.c */
void fetch_note_host (Fetch *self, const char *host, const char *proxy); /* NULL: none */
const FetchOptions *fetch_options (Fetch *self);
void fetch_set_done (Fetch *self, guint64 done, guint64 total);

G_END_DECLS
