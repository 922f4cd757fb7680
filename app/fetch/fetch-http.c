/* SPDX-License-Identifier: Apache-2.0 */
#include "app/fetch/fetch-private.h"

#include "engine/checkpoint/catalogue.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#define MAX_REDIRECTS 8
#define BUFFER_BYTES  (64 << 10)
#define MAX_SIZE      (G_GUINT64_CONSTANT (1) << 44)

void
client_init (Client *self, Fetch *fetch, const char *url)
{
  *self = (Client){ .fetch = fetch, .url = g_strdup (url) };
  self->session = soup_session_new_with_options ("timeout", fetch_options (fetch)->stall_seconds,
                                                 "idle-timeout", 10u, "user-agent",
                                                 "Tessera/" APP_VERSION, NULL);
  /* Ranges count the bytes of the file, not those of its compressed form. */
  soup_session_remove_feature_by_type (self->session, SOUP_TYPE_CONTENT_DECODER);
}

void
client_clear (Client *self)
{
  g_clear_object (&self->session);
  g_clear_pointer (&self->url, g_free);
  g_clear_pointer (&self->proxy, g_free);
}

void
probe_clear (Probe *self)
{
  g_free (self->validator);
  g_free (self->sha256);
  g_free (self->url);
  *self = (Probe){ 0 };
}

/* -- one question -------------------------------------------------------------------------------
 */

static Answer
judge_error (GError *error)
{
  if (error->domain == G_TLS_ERROR)
    return ANSWER_REFUSED;
  if (g_error_matches (error, G_IO_ERROR, G_IO_ERROR_CANCELLED)
      || g_error_matches (error, G_IO_ERROR, G_IO_ERROR_NO_SPACE) || error->domain == G_FILE_ERROR)
    return ANSWER_FAILED;
  return ANSWER_AGAIN;
}

static Answer
judge_status (Client *self, SoupMessage *message, GError **error)
{
  const guint status = soup_message_get_status (message);
  const char *host = g_uri_get_host (soup_message_get_uri (message));
  const char *wait
      = soup_message_headers_get_one (soup_message_get_response_headers (message), "Retry-After");

  if (self->proxy != NULL) /* which of them it was is not told */
    g_set_error (error, G_IO_ERROR, G_IO_ERROR_FAILED, "%s through the proxy %s answered %u %s",
                 host, self->proxy, status, soup_status_get_phrase (status));
  else
    g_set_error (error, G_IO_ERROR, G_IO_ERROR_FAILED, "%s answered %u %s", host, status,
                 soup_status_get_phrase (status));
  if (status == 408 || status == 429 || status >= 500)
    {
      self->retry_after = wait != NULL ? (guint)MIN (g_ascii_strtoull (wait, NULL, 10), 60) : 0;
      return ANSWER_AGAIN;
    }
  return ANSWER_REFUSED;
}

/* The one that the session will use: both ask the same resolver. */
static void
note_contact (Client *self, const char *host, GCancellable *cancellable)
{
  g_auto (GStrv) proxies
      = g_proxy_resolver_lookup (g_proxy_resolver_get_default (), self->url, cancellable, NULL);
  g_autoptr (GUri) uri = NULL;

  g_clear_pointer (&self->proxy, g_free);
  if (proxies != NULL && proxies[0] != NULL && !g_str_has_prefix (proxies[0], "direct:"))
    uri = g_uri_parse (proxies[0], G_URI_FLAGS_NONE, NULL);
  if (uri != NULL)
    self->proxy = g_strdup (g_uri_get_host (uri));
  fetch_note_host (self->fetch, host, self->proxy);
}

/* Git LFS hosts name the file's SHA-256 and size in the answer that redirects to its store. */
static void
read_linked (Probe *probe, SoupMessageHeaders *headers)
{
  const char *etag = soup_message_headers_get_one (headers, "X-Linked-ETag");
  const char *size = soup_message_headers_get_one (headers, "X-Linked-Size");

  if (etag != NULL && etag[0] == '"' && strlen (etag) == 66 && etag[65] == '"'
      && strspn (etag + 1, "0123456789abcdef") == 64)
    {
      g_free (probe->sha256);
      probe->sha256 = g_strndup (etag + 1, 64);
    }
  if (size != NULL && probe->size == 0)
    probe->size = MIN (g_ascii_strtoull (size, NULL, 10), MAX_SIZE);
}

/* Follows redirects itself: each host is noted, and none may leave HTTPS. */
static Answer
ask (Client *self, const char *range, const char *validator, Probe *probe, SoupMessage **message,
     GInputStream **stream, GCancellable *cancellable, GError **error)
{
  for (int i = 0; i < MAX_REDIRECTS; i++)
    {
      g_autoptr (SoupMessage) question = soup_message_new (SOUP_METHOD_GET, self->url);
      g_autoptr (GInputStream) answer = NULL;
      g_autoptr (GUri) next = NULL;
      g_autoptr (GError) problem = NULL;
      SoupMessageHeaders *headers;
      const char *location;

      if (question == NULL || !catalogue_is_address (self->url))
        {
          g_set_error (error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT, "%s is no HTTPS address",
                       self->url);
          return ANSWER_REFUSED;
        }
      headers = soup_message_get_request_headers (question);
      soup_message_headers_replace (headers, "Accept-Encoding", "identity");
      if (range != NULL)
        soup_message_headers_replace (headers, "Range", range);
      if (range != NULL && validator != NULL)
        soup_message_headers_replace (headers, "If-Range", validator);
      soup_message_add_flags (question, SOUP_MESSAGE_NO_REDIRECT);
      note_contact (self, g_uri_get_host (soup_message_get_uri (question)), cancellable);
      answer = soup_session_send (self->session, question, cancellable, &problem);
      if (answer == NULL)
        {
          Answer judged = judge_error (problem);

          g_set_error (error, problem->domain, problem->code, "%s: %s",
                       g_uri_get_host (soup_message_get_uri (question)), problem->message);
          return judged;
        }
      headers = soup_message_get_response_headers (question);
      if (probe != NULL)
        read_linked (probe, headers);
      location = soup_message_headers_get_one (headers, "Location");
      if (!SOUP_STATUS_IS_REDIRECTION (soup_message_get_status (question)) || location == NULL)
        {
          *message = g_steal_pointer (&question);
          *stream = g_steal_pointer (&answer);
          return ANSWER_OK;
        }
      next = g_uri_parse_relative (soup_message_get_uri (question), location, SOUP_HTTP_URI_FLAGS,
                                   NULL);
      g_free (self->url);
      self->url = next != NULL ? g_uri_to_string (next) : g_strdup (location);
    }
  g_set_error (error, G_IO_ERROR, G_IO_ERROR_TOO_MANY_LINKS, "%s: redirected too often", self->url);
  return ANSWER_REFUSED;
}

/* -- what there is ------------------------------------------------------------------------------
 */

static void
read_validator (Probe *probe, SoupMessageHeaders *headers)
{
  const char *etag = soup_message_headers_get_one (headers, "ETag");
  const char *date = soup_message_headers_get_one (headers, "Last-Modified");

  if (etag != NULL && etag[0] == '"' && strlen (etag) < 256) /* a weak one is no promise */
    probe->validator = g_strdup (etag);
  else if (date != NULL && strlen (date) < 256)
    probe->validator = g_strdup (date);
}

Answer
client_probe (Client *self, Probe *probe, GCancellable *cancellable, GError **error)
{
  g_autoptr (SoupMessage) message = NULL;
  g_autoptr (GInputStream) stream = NULL;
  SoupMessageHeaders *headers;
  goffset start, end, total = -1;
  Answer answer = ask (self, "bytes=0-0", NULL, probe, &message, &stream, cancellable, error);

  if (answer != ANSWER_OK)
    return answer;
  headers = soup_message_get_response_headers (message);
  switch (soup_message_get_status (message))
    {
    case SOUP_STATUS_PARTIAL_CONTENT:
      if (soup_message_headers_get_content_range (headers, &start, &end, &total) && total > 0)
        {
          probe->ranges = TRUE;
          probe->size = (guint64)total;
        }
      break;
    case SOUP_STATUS_OK:
      if (soup_message_headers_get_encoding (headers) == SOUP_ENCODING_CONTENT_LENGTH)
        {
          probe->size = (guint64)soup_message_headers_get_content_length (headers);
          probe->empty = probe->size == 0;
        }
      break;
    case SOUP_STATUS_REQUESTED_RANGE_NOT_SATISFIABLE: /* so an empty file has no first byte */
      probe->empty = TRUE;
      break;
    default:
      return judge_status (self, message, error);
    }
  read_validator (probe, headers);
  probe->url = g_strdup (self->url);
  return ANSWER_OK;
}

/* -- bytes --------------------------------------------------------------------------------------
 */

static Answer
changed (Client *self, GError **error)
{
  g_autoptr (GUri) uri = g_uri_parse (self->url, SOUP_HTTP_URI_FLAGS, NULL);

  g_set_error (error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "%s: the file changed meanwhile",
               uri != NULL ? g_uri_get_host (uri) : self->url);
  return ANSWER_CHANGED;
}

/* Is this the range that was asked for, of the file that was begun? */
static Answer
judge_range (Client *self, SoupMessage *message, const Probe *probe, guint64 first, GError **error)
{
  SoupMessageHeaders *headers = soup_message_get_response_headers (message);
  const guint status = soup_message_get_status (message);
  const char *etag = soup_message_headers_get_one (headers, "ETag");
  goffset start = -1, end, total = -1;

  if (status == SOUP_STATUS_OK || status == SOUP_STATUS_PRECONDITION_FAILED
      || status == SOUP_STATUS_REQUESTED_RANGE_NOT_SATISFIABLE)
    return changed (self, error);
  if (status != SOUP_STATUS_PARTIAL_CONTENT)
    return judge_status (self, message, error);
  if (!soup_message_headers_get_content_range (headers, &start, &end, &total)
      || (guint64)start != first)
    {
      g_set_error (error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                   "%s sent another range than was asked for",
                   g_uri_get_host (soup_message_get_uri (message)));
      return ANSWER_AGAIN;
    }
  if ((total >= 0 && (guint64)total != probe->size)
      || (etag != NULL && probe->validator != NULL && probe->validator[0] == '"'
          && !g_str_equal (etag, probe->validator)))
    return changed (self, error);
  return ANSWER_OK;
}

Answer
client_get_chunk (Client *self, const Probe *probe, FetchPart *part, guint i,
                  GCancellable *cancellable, GError **error)
{
  g_autoptr (SoupMessage) message = NULL;
  g_autoptr (GInputStream) stream = NULL;
  g_autofree guint8 *buffer = g_malloc (BUFFER_BYTES);
  g_autofree char *range = NULL;
  g_autoptr (GError) problem = NULL;
  guint64 start;
  gsize length, done;
  Answer answer;

  fetch_part_get_chunk (part, i, &start, &length, &done);
  range = g_strdup_printf ("bytes=%" G_GUINT64_FORMAT "-%" G_GUINT64_FORMAT, start + done,
                           start + length - 1);
  answer = ask (self, range, probe->validator, NULL, &message, &stream, cancellable, error);
  if (answer == ANSWER_OK)
    answer = judge_range (self, message, probe, start + done, error);
  while (answer == ANSWER_OK && done < length)
    {
      gssize got = g_input_stream_read (stream, buffer, MIN (BUFFER_BYTES, length - done),
                                        cancellable, &problem);

      if (got < 0)
        answer = judge_error (problem);
      else if (got == 0)
        {
          g_set_error (&problem, G_IO_ERROR, G_IO_ERROR_PARTIAL_INPUT, "%s: the answer broke off",
                       g_uri_get_host (soup_message_get_uri (message)));
          answer = ANSWER_AGAIN;
        }
      else if (!fetch_part_append (part, i, buffer, (gsize)got, &problem))
        answer = ANSWER_FAILED;
      else
        done += (gsize)got;
    }
  if (problem != NULL)
    g_propagate_error (error, g_steal_pointer (&problem));
  return answer;
}

static Answer
copy_stream (Client *self, GInputStream *stream, int fd, const char *path, guint64 *size,
             GCancellable *cancellable, GError **error)
{
  g_autofree guint8 *buffer = g_malloc (BUFFER_BYTES);
  GError *problem = NULL;
  gssize got;

  while ((got = g_input_stream_read (stream, buffer, BUFFER_BYTES, cancellable, &problem)) > 0)
    {
      guint64 at = *size;

      if (*size > MAX_SIZE - BUFFER_BYTES || pwrite (fd, buffer, (gsize)got, (off_t)at) != got)
        {
          g_set_error (error, G_IO_ERROR, errno == ENOSPC ? G_IO_ERROR_NO_SPACE : G_IO_ERROR_FAILED,
                       "%s: cannot be written: %s", path, g_strerror (errno));
          return ANSWER_FAILED;
        }
      *size += (guint64)got;
      fetch_set_done (self->fetch, *size, 0);
    }
  if (got == 0)
    return ANSWER_OK;
  g_propagate_error (error, problem);
  return judge_error (problem);
}

Answer
client_get_whole (Client *self, const char *path, guint64 *size, GCancellable *cancellable,
                  GError **error)
{
  g_autoptr (SoupMessage) message = NULL;
  g_autoptr (GInputStream) stream = NULL;
  g_autofree char *part = g_strconcat (path, ".part", NULL);
  SoupMessageHeaders *headers;
  Answer answer = ask (self, NULL, NULL, NULL, &message, &stream, cancellable, error);
  int fd;

  *size = 0;
  if (answer != ANSWER_OK)
    return answer;
  if (soup_message_get_status (message) != SOUP_STATUS_OK)
    return judge_status (self, message, error);
  fd = g_open (part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (fd < 0)
    {
      g_set_error (error, G_FILE_ERROR, (gint)g_file_error_from_errno (errno),
                   "%s: cannot be written: %s", part, g_strerror (errno));
      return ANSWER_FAILED;
    }
  answer = copy_stream (self, stream, fd, part, size, cancellable, error);
  close (fd);
  headers = soup_message_get_response_headers (message);
  if (answer == ANSWER_OK
      && soup_message_headers_get_encoding (headers) == SOUP_ENCODING_CONTENT_LENGTH
      && *size != (guint64)soup_message_headers_get_content_length (headers))
    {
      g_set_error (error, G_IO_ERROR, G_IO_ERROR_PARTIAL_INPUT, "%s: the answer broke off",
                   g_uri_get_host (soup_message_get_uri (message)));
      return ANSWER_AGAIN;
    }
  return answer;
}
