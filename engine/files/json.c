/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/files/json.h"

#include "engine/error.h"
#include "engine/files/mapped-file.h"

#include <math.h>
#include <string.h>

/* cJSON recurses per level and allocates per value: both are counted before it sees the text. */
static const char *
find_excess (const char *text, gsize length)
{
  gsize depth = 0, values = 1;
  gboolean in_string = FALSE;

  for (gsize i = 0; i < length; i++)
    {
      char c = text[i];

      if (in_string)
        {
          if (c == '\\')
            i++;
          else if (c == '"')
            in_string = FALSE;
          continue;
        }
      if (c == '"')
        in_string = TRUE;
      else if (c == '{' || c == '[')
        {
          values++;
          if (++depth > JSON_MAX_DEPTH)
            return "is nested too deeply";
        }
      else if ((c == '}' || c == ']') && depth > 0)
        depth--;
      else if (c == ',')
        values++;
      if (values > JSON_MAX_VALUES)
        return "holds too many values";
    }
  return NULL;
}

cJSON *
json_parse (const char *text, gsize length, const char *path, GError **error)
{
  const char *end = NULL;
  const char *excess = find_excess (text, length);
  g_autoptr (cJSON) root = NULL;

  if (excess != NULL)
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL, "%s: the JSON %s", path, excess);
      return NULL;
    }
  if (!g_utf8_validate_len (text, length, NULL))
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL, "%s: the JSON is not valid UTF-8",
                   path);
      return NULL;
    }
  root = cJSON_ParseWithLengthOpts (text, length, &end, FALSE);
  if (root != NULL)
    while (end < text + length && strchr (" \t\r\n", *end) != NULL)
      end++;
  if (root == NULL || end != text + length)
    {
      gsize at = end != NULL ? (gsize)(end - text) : 0;

      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                   "%s: not valid JSON (at byte %" G_GSIZE_FORMAT ")", path, at);
      return NULL;
    }
  return g_steal_pointer (&root);
}

cJSON *
json_load (const char *path, gsize max_bytes, GError **error)
{
  g_autoptr (GMappedFile) file = mapped_file_open (path, error);
  gsize length;

  if (file == NULL)
    return NULL;
  length = g_mapped_file_get_length (file);
  if (length == 0 || length > max_bytes)
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                   "%s: %" G_GSIZE_FORMAT " bytes, expected 1 to %" G_GSIZE_FORMAT, path, length,
                   max_bytes);
      return NULL;
    }
  if (!error_check_stand_in (error, path, g_mapped_file_get_contents (file), length))
    return NULL;
  return json_parse (g_mapped_file_get_contents (file), length, path, error);
}

static const cJSON *
get_member (const cJSON *object, const char *key)
{
  const cJSON *item = cJSON_GetObjectItemCaseSensitive (object, key);

  return item == NULL || cJSON_IsNull (item) ? NULL : item;
}

static gboolean
fail (const char *path, const char *key, const cJSON *item, const char *expected, GError **error)
{
  g_autofree char *found = item != NULL ? cJSON_PrintUnformatted (item) : NULL;

  if (found == NULL)
    g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL, "%s: \"%s\" is missing, expected %s",
                 path, key, expected);
  else
    g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL, "%s: \"%s\" is %.60s, expected %s", path,
                 key, found, expected);
  return FALSE;
}

static gboolean
is_int_within (const cJSON *item, int low, int high)
{
  return cJSON_IsNumber (item) && item->valuedouble >= low && item->valuedouble <= high
         && floor (item->valuedouble) == item->valuedouble;
}

gboolean
json_get_int (const cJSON *object, const char *key, int low, int high, const char *path, int *out,
              GError **error)
{
  const cJSON *item = get_member (object, key);

  if (!is_int_within (item, low, high))
    {
      g_autofree char *expected = g_strdup_printf ("a whole number from %d to %d", low, high);
      return fail (path, key, item, expected, error);
    }
  *out = (int)item->valuedouble;
  return TRUE;
}

gboolean
json_get_int_or (const cJSON *object, const char *key, int low, int high, int fallback,
                 const char *path, int *out, GError **error)
{
  *out = fallback;
  return get_member (object, key) == NULL
         || json_get_int (object, key, low, high, path, out, error);
}

gboolean
json_get_double (const cJSON *object, const char *key, double low, double high, const char *path,
                 double *out, GError **error)
{
  const cJSON *item = get_member (object, key);

  if (!cJSON_IsNumber (item) || !(item->valuedouble >= low && item->valuedouble <= high))
    {
      g_autofree char *expected = g_strdup_printf ("a number from %g to %g", low, high);
      return fail (path, key, item, expected, error);
    }
  *out = item->valuedouble;
  return TRUE;
}

gboolean
json_get_bool_or (const cJSON *object, const char *key, gboolean fallback, const char *path,
                  gboolean *out, GError **error)
{
  const cJSON *item = get_member (object, key);

  if (item != NULL && !cJSON_IsBool (item))
    return fail (path, key, item, "true or false", error);
  *out = item != NULL ? cJSON_IsTrue (item) : fallback;
  return TRUE;
}

gboolean
json_get_string_or (const cJSON *object, const char *key, const char *fallback, const char *path,
                    const char **out, GError **error)
{
  const cJSON *item = get_member (object, key);

  if (item != NULL && !cJSON_IsString (item))
    return fail (path, key, item, "a string", error);
  *out = item != NULL ? item->valuestring : fallback;
  return TRUE;
}

gboolean
json_get_ints (const cJSON *object, const char *key, int low, int high, int min_count,
               int max_count, const char *path, int *out, int *count, GError **error)
{
  const cJSON *array = get_member (object, key);
  const cJSON *item;
  int n = 0;
  gboolean good = cJSON_IsArray (array);

  if (good)
    cJSON_ArrayForEach (item, array)
    {
      good = n < max_count && is_int_within (item, low, high);
      if (!good)
        break;
      out[n++] = (int)item->valuedouble;
    }
  if (!good || n < min_count)
    {
      g_autofree char *expected = g_strdup_printf ("%d to %d whole numbers from %d to %d",
                                                   min_count, max_count, low, high);
      return fail (path, key, array, expected, error);
    }
  if (count != NULL)
    *count = n;
  return TRUE;
}

gboolean
json_is_count (const cJSON *item, guint64 *out)
{
  if (!cJSON_IsNumber (item) || !(item->valuedouble >= 0 && item->valuedouble <= 9007199254740992.0)
      || floor (item->valuedouble) != item->valuedouble)
    return FALSE;
  *out = (guint64)item->valuedouble;
  return TRUE;
}

char *
json_print (const cJSON *json, gboolean indented)
{
  char *printed = indented ? cJSON_Print (json) : cJSON_PrintUnformatted (json);
  char *text = g_strconcat (printed, indented ? "\n" : NULL, NULL);

  cJSON_free (printed);
  return text;
}

void
json_append_string (GString *out, const char *text)
{
  g_string_append_c (out, '"');
  for (const char *p = text; *p != '\0'; p++)
    {
      if (*p == '"' || *p == '\\')
        g_string_append_c (out, '\\');
      if ((guchar)*p < 0x20)
        g_string_append_printf (out, "\\u%04x", (guint)(guchar)*p);
      else
        g_string_append_c (out, *p);
    }
  g_string_append_c (out, '"');
}
