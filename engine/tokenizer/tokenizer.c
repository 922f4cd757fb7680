/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/tokenizer/tokenizer.h"

#include "engine/error.h"
#include "engine/files/json.h"
#include "engine/tokenizer/bpe.h"
#include "engine/tokenizer/pretokenize.h"
#include "engine/tokenizer/tokenizer-parts.h"

#include <string.h>

#define MAX_FILE_BYTES   (64 * 1024 * 1024)
#define MAX_ID           (1 << 24)
#define MAX_ADDED_TOKENS 10000

/* A token matched in the text as it stands, before anything else. */
typedef struct
{
  char *text; /* owned */
  gsize length;
  gint64 id;
} AddedToken;

struct _Tokenizer
{
  GArray *added[256]; /* AddedToken by first byte, longest first; NULL where there is none */
  gboolean nfc;
  Bpe *bpe;
};

static const cJSON *
get (const cJSON *object, const char *key)
{
  return cJSON_GetObjectItemCaseSensitive (object, key);
}

static gboolean
has_text (const cJSON *item, const char *text)
{
  return cJSON_IsString (item) && strcmp (item->valuestring, text) == 0;
}

/* TRUE unless `key` asks for something: absent, null, false, zero and "" do not. */
static gboolean
is_off (const cJSON *object, const char *key)
{
  const cJSON *item = get (object, key);

  return item == NULL || cJSON_IsNull (item) || cJSON_IsFalse (item) || has_text (item, "")
         || (cJSON_IsNumber (item) && item->valuedouble == 0);
}

/* The "type" of an object for messages. */
static const char *
type_of (const cJSON *item)
{
  const cJSON *type = get (item, "type");

  return cJSON_IsString (type) ? type->valuestring : "of no type";
}

static gboolean
check_pre_tokenizer (const char *path, const cJSON *root, GError **error)
{
  const cJSON *sequence = get (root, "pre_tokenizer");
  const cJSON *list = get (sequence, "pretokenizers");
  const cJSON *split = cJSON_GetArrayItem (list, 0);
  const cJSON *bytes = cJSON_GetArrayItem (list, 1);
  const cJSON *pattern = get (get (split, "pattern"), "Regex");

  if (!has_text (get (sequence, "type"), "Sequence") || cJSON_GetArraySize (list) != 2
      || !has_text (get (split, "type"), "Split") || !has_text (get (bytes, "type"), "ByteLevel"))
    return error_fail_model (error, path,
                             "pre_tokenizer is %s, expected Split and ByteLevel in a Sequence",
                             type_of (sequence));
  if (!has_text (pattern, PRETOKENIZE_PATTERN) || !has_text (get (split, "behavior"), "Isolated")
      || !is_off (split, "invert"))
    return error_fail_model (error, path, "pre_tokenizer splits by another pattern than Qwen's");
  if (!is_off (bytes, "add_prefix_space") || !is_off (bytes, "use_regex"))
    return error_fail_model (error, path,
                             "pre_tokenizer ByteLevel has settings that are not supported");
  return TRUE;
}

static gboolean
check_settings (const char *path, const cJSON *root, gboolean *nfc, GError **error)
{
  static const char *const switches[]
      = { "dropout",       "unk_token",    "continuing_subword_prefix", "end_of_word_suffix",
          "byte_fallback", "ignore_merges" };
  const cJSON *model = get (root, "model");
  const cJSON *normalizer = get (root, "normalizer");
  const cJSON *post = get (root, "post_processor");

  if (!has_text (get (model, "type"), "BPE"))
    return error_fail_model (error, path, "the tokenizer model is %.60s, only BPE is supported",
                             type_of (model));
  for (guint i = 0; i < G_N_ELEMENTS (switches); i++)
    if (!is_off (model, switches[i]))
      return error_fail_model (error, path, "model setting \"%s\" is not supported", switches[i]);
  *nfc = normalizer != NULL && !cJSON_IsNull (normalizer);
  if (*nfc && !has_text (get (normalizer, "type"), "NFC"))
    return error_fail_model (error, path, "the normalizer is %.60s, only NFC is supported",
                             type_of (normalizer));
  if (post != NULL && !cJSON_IsNull (post) && !has_text (get (post, "type"), "ByteLevel"))
    return error_fail_model (
        error, path, "the post_processor is %.60s, only ByteLevel is supported", type_of (post));
  return check_pre_tokenizer (path, root, error);
}

static gboolean
read_id (const cJSON *item, guint32 *out)
{
  guint64 id;

  if (!json_is_count (item, &id) || id >= MAX_ID)
    return FALSE;
  *out = (guint32)id;
  return TRUE;
}

static int
compare_added (gconstpointer a, gconstpointer b)
{
  const AddedToken *left = a, *right = b;

  return left->length < right->length ? 1 : left->length > right->length ? -1 : 0;
}

static void
added_clear (gpointer data)
{
  g_free (((AddedToken *)data)->text);
}

static gboolean
read_added_tokens (Tokenizer *self, const char *path, const cJSON *root, GError **error)
{
  static const char *const switches[] = { "single_word", "lstrip", "rstrip", "normalized" };
  const cJSON *list = get (root, "added_tokens");
  const cJSON *item;

  if (!cJSON_IsArray (list) || cJSON_GetArraySize (list) > MAX_ADDED_TOKENS)
    return error_fail_model (error, path, "added_tokens is not an array of at most %d",
                             MAX_ADDED_TOKENS);
  cJSON_ArrayForEach (item, list)
  {
    const cJSON *content = get (item, "content");
    AddedToken token;
    guint32 id;
    GArray **bucket;

    if (!cJSON_IsString (content) || *content->valuestring == '\0'
        || !read_id (get (item, "id"), &id))
      return error_fail_model (error, path, "an added token lacks its content or id");
    for (guint i = 0; i < G_N_ELEMENTS (switches); i++)
      if (!is_off (item, switches[i]))
        return error_fail_model (error, path,
                                 "added token %.60s has \"%s\", which is not supported",
                                 content->valuestring, switches[i]);
    token = (AddedToken){ g_strdup (content->valuestring), strlen (content->valuestring), id };
    bucket = &self->added[(guchar)token.text[0]];
    if (*bucket == NULL)
      {
        *bucket = g_array_new (FALSE, FALSE, sizeof (AddedToken));
        g_array_set_clear_func (*bucket, added_clear);
      }
    g_array_append_val (*bucket, token);
  }
  for (guint i = 0; i < G_N_ELEMENTS (self->added); i++)
    if (self->added[i] != NULL)
      g_array_sort (self->added[i], compare_added);
  return TRUE;
}

/* The printable stand-in of a byte in the vocabulary (GPT-2's bytes_to_unicode; spec 2.2 step 4).
 */
static gunichar
byte_symbol (guint byte)
{
  guint n = 0;

  for (guint i = 0; i <= byte; i++)
    {
      gboolean printable = (i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174;

      if (i == byte && printable)
        return byte;
      n += !printable;
    }
  return 0x100 + n - 1;
}

static gboolean
read_bytes (GHashTable *vocab, const char *path, guint32 bytes[256], GError **error)
{
  for (guint i = 0; i < 256; i++)
    {
      char symbol[7] = { 0 };
      gpointer id;

      g_unichar_to_utf8 (byte_symbol (i), symbol);
      if (!g_hash_table_lookup_extended (vocab, symbol, NULL, &id))
        return error_fail_model (error, path, "the vocabulary has no symbol for byte %u", i);
      bytes[i] = GPOINTER_TO_UINT (id);
    }
  return TRUE;
}

/* "a b" or ["a", "b"]: both are written by versions of the same library. */
static gboolean
split_merge (const cJSON *item, GString *left, GString *right)
{
  const char *space;

  if (cJSON_IsArray (item) && cJSON_GetArraySize (item) == 2 && cJSON_IsString (item->child)
      && cJSON_IsString (item->child->next))
    {
      g_string_assign (left, item->child->valuestring);
      g_string_assign (right, item->child->next->valuestring);
      return TRUE;
    }
  if (!cJSON_IsString (item) || (space = strchr (item->valuestring, ' ')) == NULL)
    return FALSE;
  g_string_truncate (left, 0);
  g_string_append_len (left, item->valuestring, space - item->valuestring);
  g_string_assign (right, space + 1);
  return TRUE;
}

static gboolean
read_merges (Tokenizer *self, GHashTable *vocab, const char *path, const cJSON *list,
             GError **error)
{
  g_autoptr (GString) left = g_string_new (NULL);
  g_autoptr (GString) right = g_string_new (NULL);
  const cJSON *item;
  guint n = 0;

  cJSON_ArrayForEach (item, list)
  {
    gpointer a, b, merged;

    if (!split_merge (item, left, right))
      return error_fail_model (error, path, "merge %u is not a pair of symbols", n);
    if (!g_hash_table_lookup_extended (vocab, left->str, NULL, &a)
        || !g_hash_table_lookup_extended (vocab, right->str, NULL, &b)
        || !g_hash_table_lookup_extended (vocab, g_string_append (left, right->str)->str, NULL,
                                          &merged))
      return error_fail_model (error, path,
                               "merge %u makes or needs a symbol that is not in the vocabulary", n);
    bpe_add_merge (self->bpe, GPOINTER_TO_UINT (a), GPOINTER_TO_UINT (b),
                   GPOINTER_TO_UINT (merged));
    n++;
  }
  return TRUE;
}

static gboolean
read_model (Tokenizer *self, const char *path, const cJSON *model, GError **error)
{
  g_autoptr (GHashTable) vocab = g_hash_table_new (g_str_hash, g_str_equal);
  const cJSON *symbols = get (model, "vocab");
  const cJSON *merges = get (model, "merges");
  const cJSON *item;
  guint32 bytes[256], id;

  if (!cJSON_IsObject (symbols) || !cJSON_IsArray (merges))
    return error_fail_model (error, path, "the model lacks its vocab or merges");
  cJSON_ArrayForEach (item, symbols)
  {
    if (!read_id (item, &id))
      return error_fail_model (error, path, "the id of symbol %.60s is not a whole number below %d",
                               item->string, MAX_ID);
    g_hash_table_insert (vocab, item->string, GUINT_TO_POINTER (id));
  }
  if (!read_bytes (vocab, path, bytes, error))
    return FALSE;
  self->bpe = bpe_new (bytes, (guint)cJSON_GetArraySize (merges));
  return read_merges (self, vocab, path, merges, error);
}

/* The longest added token that starts exactly at `at`, or NULL. */
static const AddedToken *
match_added (const Tokenizer *self, const char *at, const char *end)
{
  const GArray *bucket = self->added[(guchar)*at];

  for (guint i = 0; bucket != NULL && i < bucket->len; i++)
    {
      const AddedToken *token = &g_array_index (bucket, AddedToken, i);

      if ((gsize)(end - at) >= token->length && memcmp (at, token->text, token->length) == 0)
        return token;
    }
  return NULL;
}

static gboolean
check_template_tokens (const Tokenizer *self, const char *path, GError **error)
{
  static const char *const needed[] = { "<|im_start|>", "<|im_end|>" };

  for (guint i = 0; i < G_N_ELEMENTS (needed); i++)
    {
      const char *end = needed[i] + strlen (needed[i]);
      const AddedToken *token = match_added (self, needed[i], end);

      if (token == NULL || token->length != strlen (needed[i]))
        return error_fail_model (error, path, "no added token %s, which the chat template needs",
                                 needed[i]);
    }
  return TRUE;
}

Tokenizer *
tokenizer_new (const char *dir, GError **error)
{
  g_autofree char *path = g_build_filename (dir, "tokenizer.json", NULL);
  g_autoptr (Tokenizer) self = NULL;
  g_autoptr (cJSON) root = NULL;

  if (!g_file_test (path, G_FILE_TEST_EXISTS) && tokenizer_parts_are_there (dir))
    root = tokenizer_parts_load (dir, MAX_FILE_BYTES, error);
  else
    root = json_load (path, MAX_FILE_BYTES, error);
  if (root == NULL)
    return NULL;
  self = g_new0 (Tokenizer, 1);
  if (!check_settings (path, root, &self->nfc, error)
      || !read_added_tokens (self, path, root, error)
      || !read_model (self, path, get (root, "model"), error)
      || !check_template_tokens (self, path, error))
    return NULL;
  return g_steal_pointer (&self);
}

void
tokenizer_free (Tokenizer *self)
{
  if (self == NULL)
    return;
  for (guint i = 0; i < G_N_ELEMENTS (self->added); i++)
    g_clear_pointer (&self->added[i], g_array_unref);
  bpe_free (self->bpe);
  g_free (self);
}

/* Text between added tokens. */
static void
encode_segment (Tokenizer *self, const char *text, gsize length, GArray *out)
{
  g_autoptr (GString) normal = self->nfc ? pretokenize_nfc (text, length) : NULL;
  const char *at = normal != NULL ? normal->str : text;
  gsize left = normal != NULL ? normal->len : length;

  while (left > 0)
    {
      gsize piece = pretokenize_next (at, left);

      bpe_encode (self->bpe, at, piece, out);
      at += piece;
      left -= piece;
    }
}

GArray *
tokenizer_encode (Tokenizer *self, const char *text, gssize length)
{
  g_autoptr (GString) valid
      = pretokenize_make_valid (text, length < 0 ? strlen (text) : (gsize)length);
  const char *end = valid->str + valid->len;
  const char *segment = valid->str;
  GArray *ids = g_array_new (FALSE, FALSE, sizeof (gint64));

  for (const char *at = segment; at < end;)
    {
      const AddedToken *token = match_added (self, at, end);

      if (token == NULL)
        {
          at++;
          continue;
        }
      encode_segment (self, segment, (gsize)(at - segment), ids);
      g_array_append_val (ids, token->id);
      at += token->length;
      segment = at;
    }
  encode_segment (self, segment, (gsize)(end - segment), ids);
  return ids;
}

GArray *
tokenizer_encode_prompt (Tokenizer *self, const char *prompt, guint max_ids)
{
  g_autofree char *text
      = g_strconcat ("<|im_start|>user\n", prompt, "<|im_end|>\n<|im_start|>assistant\n", NULL);
  GArray *ids = tokenizer_encode (self, text, -1);

  if (ids->len > max_ids)
    g_array_set_size (ids, max_ids);
  return ids;
}
