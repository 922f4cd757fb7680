/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/tokenizer/tokenizer-parts.h"

#include "engine/error.h"
#include "engine/files/mapped-file.h"
#include "engine/tokenizer/pretokenize.h"

#include <string.h>

gboolean
tokenizer_parts_are_there (const char *dir)
{
  g_autofree char *vocab = g_build_filename (dir, "vocab.json", NULL);
  g_autofree char *merges = g_build_filename (dir, "merges.txt", NULL);

  return g_file_test (vocab, G_FILE_TEST_EXISTS) && g_file_test (merges, G_FILE_TEST_EXISTS);
}

static char *
load_text (const char *path, gsize max_bytes, GError **error)
{
  g_autoptr (GMappedFile) file = mapped_file_open (path, error);
  gsize length = file != NULL ? g_mapped_file_get_length (file) : 0;

  if (file == NULL)
    return NULL;
  if (length > max_bytes || length == 0
      || !g_utf8_validate_len (g_mapped_file_get_contents (file), length, NULL))
    {
      error_fail_model (error, path, "empty, larger than %" G_GSIZE_FORMAT " bytes, or not UTF-8",
                        max_bytes);
      return NULL;
    }
  return g_strndup (g_mapped_file_get_contents (file), length);
}

/* A pair a line; a first line may tell the version. A symbol may begin with '#', too. */
static gboolean
add_merges (cJSON *model, const char *dir, gsize max_bytes, GError **error)
{
  g_autofree char *path = g_build_filename (dir, "merges.txt", NULL);
  g_autofree char *text = load_text (path, max_bytes, error);
  cJSON *merges = cJSON_AddArrayToObject (model, "merges");
  char *line = text, *end;
  guint n = 0;

  if (text == NULL)
    return FALSE;
  for (; line != NULL; line = end != NULL ? end + 1 : NULL)
    {
      if ((end = strchr (line, '\n')) != NULL)
        *end = '\0';
      g_strchomp (line);
      if (*line == '\0' || (line == text && g_str_has_prefix (line, "#version:")))
        continue;
      if (++n > JSON_MAX_VALUES)
        return error_fail_model (error, path, "more than %d merges", JSON_MAX_VALUES);
      cJSON_AddItemToArray (merges, cJSON_CreateString (line));
    }
  return TRUE;
}

static void
add_token (cJSON *list, const char *content, double id)
{
  cJSON *token = cJSON_CreateObject ();

  cJSON_AddStringToObject (token, "content", content);
  cJSON_AddNumberToObject (token, "id", id);
  cJSON_AddItemToArray (list, token);
}

/* {"151643": {"content": "<|endoftext|>", "lstrip": false, ...}, ...}: the switches stay, so that
 * they are checked like those of a tokenizer.json. */
static gboolean
add_decoder (cJSON *list, const char *path, const cJSON *decoder, GError **error)
{
  const cJSON *item;

  cJSON_ArrayForEach (item, decoder)
  {
    cJSON *token = cJSON_Duplicate (item, TRUE);
    guint64 id;

    if (!g_ascii_string_to_unsigned (item->string, 10, 0, G_MAXUINT32, &id, NULL))
      {
        cJSON_Delete (token);
        return error_fail_model (error, path, "\"%.60s\" is no id of an added token", item->string);
      }
    cJSON_DeleteItemFromObjectCaseSensitive (token, "id");
    cJSON_AddNumberToObject (token, "id", (double)id);
    cJSON_AddItemToArray (list, token);
  }
  return TRUE;
}

static gboolean
add_added_tokens (cJSON *root, const char *dir, gsize max_bytes, GError **error)
{
  g_autofree char *config = g_build_filename (dir, "tokenizer_config.json", NULL);
  g_autofree char *plain = g_build_filename (dir, "added_tokens.json", NULL);
  g_autoptr (cJSON) object = json_load (config, max_bytes, error);
  const cJSON *decoder = cJSON_GetObjectItemCaseSensitive (object, "added_tokens_decoder");
  cJSON *list = cJSON_AddArrayToObject (root, "added_tokens");
  const cJSON *item;

  if (object == NULL)
    return FALSE;
  if (cJSON_IsObject (decoder))
    return add_decoder (list, config, decoder, error);
  if (!g_file_test (plain, G_FILE_TEST_EXISTS))
    return error_fail_model (error, config,
                             "no \"added_tokens_decoder\", and no added_tokens.json beside it");
  cJSON_Delete (g_steal_pointer (&object));
  object = json_load (plain, max_bytes, error);
  cJSON_ArrayForEach (item, object) add_token (list, item->string, item->valuedouble);
  return object != NULL;
}

/* What transformers' Qwen2Tokenizer does without a file that says so. */
static void
add_settings (cJSON *root)
{
  cJSON *normalizer = cJSON_AddObjectToObject (root, "normalizer");
  cJSON *sequence = cJSON_AddObjectToObject (root, "pre_tokenizer");
  cJSON *list, *split, *bytes;

  cJSON_AddStringToObject (normalizer, "type", "NFC");
  cJSON_AddStringToObject (sequence, "type", "Sequence");
  list = cJSON_AddArrayToObject (sequence, "pretokenizers");
  split = cJSON_CreateObject ();
  cJSON_AddStringToObject (split, "type", "Split");
  cJSON_AddStringToObject (cJSON_AddObjectToObject (split, "pattern"), "Regex",
                           PRETOKENIZE_PATTERN);
  cJSON_AddStringToObject (split, "behavior", "Isolated");
  cJSON_AddItemToArray (list, split);
  bytes = cJSON_CreateObject ();
  cJSON_AddStringToObject (bytes, "type", "ByteLevel");
  cJSON_AddItemToArray (list, bytes);
}

cJSON *
tokenizer_parts_load (const char *dir, gsize max_bytes, GError **error)
{
  g_autofree char *path = g_build_filename (dir, "vocab.json", NULL);
  cJSON *vocab = json_load (path, max_bytes, error);
  g_autoptr (cJSON) root = cJSON_CreateObject ();
  cJSON *model = cJSON_AddObjectToObject (root, "model");

  if (vocab == NULL)
    return NULL;
  cJSON_AddStringToObject (model, "type", "BPE");
  cJSON_AddItemToObject (model, "vocab", vocab);
  add_settings (root);
  return add_merges (model, dir, max_bytes, error) && add_added_tokens (root, dir, max_bytes, error)
             ? g_steal_pointer (&root)
             : NULL;
}
