/* SPDX-License-Identifier: Apache-2.0
 *
 * json.h - reading JSON that came from somewhere else, and printing our own
 *
 * cJSON does the parsing; here are the limits it lacks (bytes, depth, number of values) and typed
 * access whose errors name the file and the key.
 */
#pragma once

#include <cjson/cJSON.h>
#include <gio/gio.h>

G_BEGIN_DECLS

#define JSON_MAX_DEPTH  32
#define JSON_MAX_VALUES (4 * 1000 * 1000) /* a cJSON node is 64 bytes and more */

/* Parses `length` bytes (transfer full: cJSON_Delete). `path` is for messages only. Errors:
 * ENGINE_ERROR_MODEL for text that is not UTF-8 JSON or goes beyond the limits. */
cJSON *json_parse (const char *text, gsize length, const char *path, GError **error);

/* Reads a regular file of at most `max_bytes` and parses it (transfer full: cJSON_Delete). */
cJSON *json_load (const char *path, gsize max_bytes, GError **error);

/* Sets *out from member `key` of `object`. A missing or null member leaves `fallback` where one is
 * given by the _or form; otherwise it is ENGINE_ERROR_MODEL, as is a wrong type or a value outside
 * [low, high]. `path` is for messages. */
gboolean json_get_int (const cJSON *object, const char *key, int low, int high, const char *path,
                       int *out, GError **error);
gboolean json_get_int_or (const cJSON *object, const char *key, int low, int high, int fallback,
                          const char *path, int *out, GError **error);
gboolean json_get_double (const cJSON *object, const char *key, double low, double high,
                          const char *path, double *out, GError **error);
gboolean json_get_bool_or (const cJSON *object, const char *key, gboolean fallback,
                           const char *path, gboolean *out, GError **error);
/* A string, borrowed from `object`; NULL for a missing or null member. */
gboolean json_get_string_or (const cJSON *object, const char *key, const char *fallback,
                             const char *path, const char **out, GError **error);
/* An array of min_count to max_count integers in [low, high]; their number goes to *count. */
gboolean json_get_ints (const cJSON *object, const char *key, int low, int high, int min_count,
                        int max_count, const char *path, int *out, int *count, GError **error);

/* TRUE if `item` is a whole number from 0 to 2^53, exactly. */
gboolean json_is_count (const cJSON *item, guint64 *out);

/* The text of `json`: one line without its end, or as the `indented` lines of a file, each with
 * its end (transfer full). */
char *json_print (const cJSON *json, gboolean indented);

/* Appends `text` (UTF-8) as a JSON string, quotes included. */
void json_append_string (GString *out, const char *text);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (cJSON, cJSON_Delete)

G_END_DECLS
