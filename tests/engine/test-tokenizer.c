/* SPDX-License-Identifier: Apache-2.0
 *
 * test-tokenizer.c - ids as the reference makes them, and time that stays in bounds
 */
#include "engine/engine.h"
#include "engine/files/json.h"
#include "engine/files/safetensors.h"
#include "engine/tokenizer/pretokenize.h"
#include "engine/tokenizer/tokenizer.h"
#include "tests/engine/model-copy.h"

#include <glib/gstdio.h>
#include <string.h>

/* The published vocabulary (11 MB), or NULL with the test skipped. */
static Tokenizer *
open_qwen (void)
{
  g_autofree char *dir = g_build_filename (g_getenv ("TESSERA_FIXTURES"), "qwen3-tokenizer", NULL);
  g_autoptr (GError) error = NULL;
  Tokenizer *tokenizer;

  if (!g_file_test (dir, G_FILE_TEST_IS_DIR))
    {
      g_test_skip ("the Qwen3 vocabulary is not on this machine");
      return NULL;
    }
  tokenizer = tokenizer_new (dir, &error);
  g_assert_no_error (error);
  return tokenizer;
}

static Tokenizer *
open_tiny (void)
{
  g_autofree char *dir = test_data_path ("tiny-zimage/tokenizer");
  g_autoptr (GError) error = NULL;
  Tokenizer *tokenizer = tokenizer_new (dir, &error);

  g_assert_no_error (error);
  return tokenizer;
}

/* vocab.json and merges.txt instead of tokenizer.json give the same ids; the added tokens come from
 * either of two files. */
static void
test_parts (void)
{
  static const char text[]
      = "<|im_start|>user\nthe cat's 12  cafe\xcc\x81 \xe4\xb8\x80<|im_end|>\n";
  g_autofree char *source = test_data_path ("tiny-zimage/tokenizer/tokenizer.json");
  g_autoptr (cJSON) whole = json_load (source, 1 << 20, NULL);
  g_autoptr (Tokenizer) reference = open_tiny ();
  g_autoptr (GArray) expected = tokenizer_encode (reference, text, -1);
  g_autoptr (GString) added = g_string_new ("{");
  g_autoptr (GError) error = NULL;
  char *dir = model_copy_new ();
  g_autofree char *folder = g_build_filename (dir, "tokenizer", NULL);
  static const char *const names[]
      = { "tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/tokenizer_config.json" };
  const cJSON *token;

  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    {
      g_autofree char *name = g_build_filename ("tiny-zimage", names[i], NULL);
      g_autofree char *target = test_data_path (name);

      model_copy_replace (dir, names[i], target);
    }
  cJSON_ArrayForEach (token, cJSON_GetObjectItem (whole, "added_tokens"))
      g_string_append_printf (added, "%s\"%s\": %d", added->len > 1 ? ", " : "",
                              cJSON_GetObjectItem (token, "content")->valuestring,
                              cJSON_GetObjectItem (token, "id")->valueint);
  g_string_append_c (added, '}');
  model_copy_replace (dir, "tokenizer/tokenizer.json", NULL);
  for (int i = 0; i < 2; i++)
    {
      g_autoptr (Tokenizer) parts = tokenizer_new (folder, &error);
      g_autoptr (GArray) ids = NULL;

      g_assert_no_error (error);
      ids = tokenizer_encode (parts, text, -1);
      g_assert_cmpmem (ids->data, ids->len * sizeof (gint64), expected->data,
                       expected->len * sizeof (gint64));
      model_copy_write (dir, "tokenizer/tokenizer_config.json", "{}");
      model_copy_write (dir, "tokenizer/added_tokens.json", added->str);
    }
  model_copy_replace (dir, "tokenizer/added_tokens.json", NULL);
  g_assert_null (tokenizer_new (folder, &error));
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL);
  g_assert_nonnull (strstr (error->message, "added_tokens"));
  model_copy_free (dir);
}

static void
assert_ids (GArray *ids, const cJSON *expected, const char *text)
{
  const cJSON *item;
  guint n = 0;

  cJSON_ArrayForEach (item, expected)
  {
    if (n >= ids->len || g_array_index (ids, gint64, n) != (gint64)item->valuedouble)
      g_error ("\"%s\": id %u differs", text, n);
    n++;
  }
  g_assert_cmpuint (ids->len, ==, n);
}

/* One row holds U+0000, which a C string cannot: it is read by way of U+E000, used nowhere else. */
static cJSON *
load_golden (void)
{
  g_autofree char *path = test_data_path ("qwen3-tokenizer-golden.json");
  g_autofree char *text = NULL;
  g_autoptr (GString) edited = NULL;

  g_assert_true (g_file_get_contents (path, &text, NULL, NULL));
  g_assert_null (strstr (text, "\356\200\200"));
  edited = g_string_new (text);
  g_assert_cmpuint (g_string_replace (edited, "\\u0000", "\356\200\200", 0), ==, 2);
  return json_parse (edited->str, edited->len, path, NULL);
}

static GArray *
encode_with_nul (Tokenizer *tokenizer, const char *text)
{
  g_autoptr (GString) edited = g_string_new (text);
  char *at = strstr (edited->str, "\356\200\200");

  if (at != NULL)
    {
      *at = '\0';
      g_string_erase (edited, at + 1 - edited->str, 2);
    }
  return tokenizer_encode (tokenizer, edited->str, (gssize)edited->len);
}

static void
test_golden (void)
{
  g_autoptr (Tokenizer) tokenizer = open_qwen ();
  g_autoptr (cJSON) rows = load_golden ();
  const cJSON *row;

  if (tokenizer == NULL)
    return;
  g_assert_cmpint (cJSON_GetArraySize (rows), ==, 120);
  cJSON_ArrayForEach (row, rows)
  {
    const char *text = cJSON_GetObjectItem (row, "text")->valuestring;
    const char *chat = cJSON_GetObjectItem (row, "chat")->valuestring;
    const cJSON *chat_ids = cJSON_GetObjectItem (row, "chat_ids");
    g_autoptr (GArray) ids = encode_with_nul (tokenizer, text);
    g_autoptr (GArray) whole = encode_with_nul (tokenizer, chat);
    g_autoptr (GArray) prompt = NULL;

    assert_ids (ids, cJSON_GetObjectItem (row, "ids"), text);
    g_array_set_size (whole, MIN (whole->len, TOKENIZER_MAX_PROMPT));
    assert_ids (whole, chat_ids, chat);
    if (strstr (text, "\356\200\200") != NULL)
      continue; /* a prompt is a C string */
    prompt = tokenizer_encode_prompt (tokenizer, text, TOKENIZER_MAX_PROMPT);
    assert_ids (prompt, chat_ids, text);
  }
}

/* Rare things, by the reference library's own answers. */
static void
test_rare (void)
{
  static const struct
  {
    const char *text;
    int n;
    gint64 ids[5];
  } rows[] = {
    { "'\305\277x", 3, { 6, 144815, 87 } },              /* U+017F folds to s */
    { "a'\305\277b", 4, { 64, 6, 144815, 65 } },         /* so it is a contraction */
    { "\315\205\314\201a", 4, { 53839, 137, 227, 64 } }, /* marks change places in NFC */
    { "\357\273\277a", 2, { 3225, 64 } },                /* U+FEFF is no white space */
    { "<think>hi</think>", 3, { 151667, 6023, 151668 } },
    { "  leading", 2, { 220, 6388 } },
  };
  g_autoptr (Tokenizer) tokenizer = open_qwen ();

  for (guint i = 0; tokenizer != NULL && i < G_N_ELEMENTS (rows); i++)
    {
      g_autoptr (GArray) ids = tokenizer_encode (tokenizer, rows[i].text, -1);

      g_assert_cmpint ((int)ids->len, ==, rows[i].n);
      for (int j = 0; j < rows[i].n; j++)
        g_assert_cmpint (g_array_index (ids, gint64, j), ==, rows[i].ids[j]);
    }
}

/* The ids that the reference pipeline gave its text encoder for the tiny model's requests. */
static void
test_traces (void)
{
  static const char *const names[]
      = { "square", "wide", "chinese", "guided", "guided-norm-trunc", "long" };
  g_autoptr (Tokenizer) tokenizer = open_tiny ();

  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    {
      g_autofree char *request_name = g_strconcat ("tiny-zimage-golden/", names[i], ".json", NULL);
      g_autofree char *trace_name
          = g_strconcat ("tiny-zimage-golden/", names[i], ".safetensors", NULL);
      g_autofree char *request_path = test_data_path (request_name);
      g_autofree char *trace_path = test_data_path (trace_name);
      g_autoptr (cJSON) request = json_load (request_path, 1 << 20, NULL);
      g_autoptr (Safetensors) trace = safetensors_open (trace_path, NULL);
      const char *prompt = cJSON_GetObjectItem (request, "prompt")->valuestring;
      g_autoptr (GArray) ids = tokenizer_encode_prompt (tokenizer, prompt, TOKENIZER_MAX_PROMPT);
      Tensor expected;

      g_assert_true (safetensors_find (trace, "prompt.token_ids", &expected));
      g_assert_cmpint (expected.dtype, ==, DTYPE_I64);
      g_assert_cmpmem (ids->data, ids->len * sizeof (gint64), expected.data,
                       tensor_bytes (&expected));
    }
}

/* The tiny tokenizer's file as JSON, to be changed (transfer full). */
static cJSON *
load_tiny (void)
{
  g_autofree char *path = test_data_path ("tiny-zimage/tokenizer/tokenizer.json");
  cJSON *root = json_load (path, 1 << 20, NULL);

  g_assert_nonnull (root);
  return root;
}

static Tokenizer *
open_changed (const cJSON *root, GError **error)
{
  g_autofree char *text = json_print (root, FALSE);
  char *dir = model_copy_new ();
  g_autofree char *folder = g_build_filename (dir, "tokenizer", NULL);
  Tokenizer *tokenizer;

  model_copy_write (dir, "tokenizer/tokenizer.json", text);
  tokenizer = tokenizer_new (folder, error);
  model_copy_free (dir);
  return tokenizer;
}

static cJSON *
merges_of (cJSON *root)
{
  return cJSON_GetObjectItem (cJSON_GetObjectItem (root, "model"), "merges");
}

static gint64
id_of (cJSON *root, const char *symbol)
{
  cJSON *vocab = cJSON_GetObjectItem (cJSON_GetObjectItem (root, "model"), "vocab");

  return (gint64)cJSON_GetNumberValue (cJSON_GetObjectItemCaseSensitive (vocab, symbol));
}

/* The published small tokenizer with its merges as strings, the older form. */
static void
test_merges_as_strings (void)
{
  g_autoptr (cJSON) root = load_tiny ();
  cJSON *strings = cJSON_CreateArray ();
  g_autoptr (Tokenizer) arrays = open_tiny ();
  g_autoptr (Tokenizer) tokenizer = NULL;
  g_autoptr (GArray) expected = tokenizer_encode (arrays, "the lighthouse at dusk", -1);
  g_autoptr (GArray) ids = NULL;
  const cJSON *item;

  cJSON_ArrayForEach (item, merges_of (root))
  {
    g_autofree char *pair
        = g_strconcat (item->child->valuestring, " ", item->child->next->valuestring, NULL);
    cJSON_AddItemToArray (strings, cJSON_CreateString (pair));
  }
  cJSON_ReplaceItemInObject (cJSON_GetObjectItem (root, "model"), "merges", strings);
  tokenizer = open_changed (root, NULL);
  g_assert_nonnull (tokenizer);
  ids = tokenizer_encode (tokenizer, "the lighthouse at dusk", -1);
  g_assert_cmpmem (ids->data, ids->len * 8, expected->data, expected->len * 8);
}

static void
assert_encodes (Tokenizer *tokenizer, const char *text, const gint64 *expected, guint n)
{
  g_autoptr (GArray) ids = tokenizer_encode (tokenizer, text, -1);

  g_assert_cmpmem (ids->data, ids->len * sizeof *expected, expected, n * sizeof *expected);
}

/* Of a merge that is listed twice the later rank counts, as in the reference. */
static void
test_merge_twice (void)
{
  g_autoptr (cJSON) root = load_tiny ();
  g_autoptr (Tokenizer) once = open_tiny (), twice = NULL;
  const gint64 first[] = { id_of (root, "he"), id_of (root, "r") };
  const gint64 later[] = { id_of (root, "h"), id_of (root, "er") };

  assert_encodes (once, "her", first, 2);
  cJSON_AddItemToArray (merges_of (root), cJSON_Parse ("[\"h\", \"e\"]"));
  twice = open_changed (root, NULL);
  g_assert_nonnull (twice);
  assert_encodes (twice, "her", later, 2);
}

/* Of the added tokens that a text begins with, the longest is meant. */
static void
test_longest_added (void)
{
  g_autoptr (cJSON) root = load_tiny ();
  cJSON *added = cJSON_GetObjectItem (root, "added_tokens");
  g_autoptr (Tokenizer) tokenizer = NULL;
  const gint64 longer[] = { 700 }, shorter[] = { 616, id_of (root, "u") };

  cJSON_AddItemToArray (added, cJSON_Parse ("{\"id\": 700, \"content\": \"<|im_start|>user\"}"));
  tokenizer = open_changed (root, NULL);
  g_assert_nonnull (tokenizer);
  assert_encodes (tokenizer, "<|im_start|>user", longer, 1);
  assert_encodes (tokenizer, "<|im_start|>u", shorter, 2);
}

/* An id is an index into the embeddings. */
static void
test_large_ids (void)
{
  static const struct
  {
    const char *id;
    gboolean good;
  } cases[] = { { "16777215", TRUE }, { "16777216", FALSE }, { "-1", FALSE }, { "1.5", FALSE } };

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (cJSON) root = load_tiny ();
      g_autofree char *token
          = g_strdup_printf ("{\"id\": %s, \"content\": \"<|large|>\"}", cases[i].id);
      g_autoptr (GError) error = NULL;
      g_autoptr (Tokenizer) tokenizer = NULL;

      cJSON_AddItemToArray (cJSON_GetObjectItem (root, "added_tokens"), cJSON_Parse (token));
      tokenizer = open_changed (root, &error);
      g_assert_true ((tokenizer != NULL) == cases[i].good);
      g_assert_true (cases[i].good || strstr (error->message, "lacks its content or id") != NULL);
    }
}

/* A prompt is cut to what the model takes, and not before. */
static void
test_limit (void)
{
  g_autoptr (Tokenizer) tokenizer = open_tiny ();
  g_autoptr (GArray) whole = tokenizer_encode_prompt (tokenizer, "a cat", 512);

  for (guint limit = 0; limit <= whole->len + 1; limit++)
    {
      g_autoptr (GArray) ids = tokenizer_encode_prompt (tokenizer, "a cat", limit);

      g_assert_cmpuint (ids->len, ==, MIN (limit, whole->len));
      g_assert_cmpmem (ids->data, ids->len * 8, whole->data, ids->len * 8);
    }
}

typedef struct
{
  const char *file;
  const char *cause;
} Damage;

static const Damage damages[] = {
  { "tokenizer-unknown-model.json", "the tokenizer model is WordPiece" },
  { "tokenizer-normalizer.json", "the normalizer is Lowercase" },
  { "tokenizer-pattern.json", "another pattern" },
  { "tokenizer-post-processor.json", "the post_processor is TemplateProcessing" },
  { "tokenizer-missing-bytes.json", "no symbol for byte" },
  { "tokenizer-bad-id.json", "the id of symbol h" },
  { "tokenizer-lstrip.json", "\"lstrip\"" },
  { "deep-json.safetensors", "tokenizer.json" },
  { "empty.safetensors", "0 bytes" },
};

static void
test_damaged (gconstpointer data)
{
  const Damage *damage = data;
  g_autofree char *name = g_strconcat ("damaged/", damage->file, NULL);
  g_autofree char *target = test_data_path (name);
  char *dir = model_copy_new ();
  g_autofree char *folder = g_build_filename (dir, "tokenizer", NULL);
  g_autoptr (GError) error = NULL;

  model_copy_replace (dir, "tokenizer/tokenizer.json", target);
  g_assert_null (tokenizer_new (folder, &error));
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL);
  g_assert_nonnull (strstr (error->message, damage->cause));
  g_assert_nonnull (strstr (error->message, "tokenizer.json"));
  model_copy_free (dir);
}

/* A merge of symbols that do not exist, and one that is no pair. */
static void
test_damaged_merges (void)
{
  static const char *const edits[][2] = { { "[\"nowhere\", \"to\"]", "not in the vocabulary" },
                                          { "[\"h\"]", "not a pair" },
                                          { "7", "not a pair" } };

  for (guint i = 0; i < G_N_ELEMENTS (edits); i++)
    {
      g_autoptr (cJSON) root = load_tiny ();
      g_autoptr (GError) error = NULL;

      cJSON_AddItemToArray (merges_of (root), cJSON_Parse (edits[i][0]));
      g_assert_null (open_changed (root, &error));
      g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL);
      g_assert_nonnull (strstr (error->message, edits[i][1]));
    }
}

/* A character of one of the kinds that the pattern and the normalisation tell apart. */
static gunichar
random_character (GRand *rand)
{
  static const gunichar special[]
      = { ' ',    ' ',    '\n',  '\r',   '\t',   '\'',   's',   'L',    'l',    '<',    '|',
          0x85,   0xa0,   0x17f, 0x200b, 0x2028, 0x3000, 0x301, 0x316,  0x345,  0xac00, 0x1100,
          0x1161, 0x11a8, 0x9c7, 0x9be,  0xbd,   0x2167, 0x967, 0x4e00, 0xfeff, 0x1f431 };
  gunichar c;

  switch (g_rand_int_range (rand, 0, 4))
    {
    case 0:
      return (gunichar)g_rand_int_range (rand, 'a', 'z' + 1);
    case 1:
      c = (gunichar)g_rand_int_range (rand, 1, 0x11fff);
      return g_unichar_validate (c) ? c : 0xfffd;
    default:
      return special[g_rand_int_range (rand, 0, G_N_ELEMENTS (special))];
    }
}

/* Pieces cover the text, ids are of the vocabulary, and nothing hangs. */
static void
test_random (void)
{
  g_autoptr (Tokenizer) tokenizer = open_tiny ();
  g_autoptr (GRand) rand = g_rand_new_with_seed (3033);

  for (int round = 0; round < 10000; round++)
    {
      g_autoptr (GString) text = g_string_new (NULL);
      g_autoptr (GArray) ids = NULL;
      int n = g_rand_int_range (rand, 0, 60);

      while (n-- > 0)
        if (g_rand_int_range (rand, 0, 50) == 0)
          g_string_append_c (text, (char)g_rand_int_range (rand, 0, 256)); /* and invalid UTF-8 */
        else if (g_rand_int_range (rand, 0, 50) == 0)
          g_string_append (text, "<|im_end|>");
        else
          g_string_append_unichar (text, random_character (rand));
      ids = tokenizer_encode (tokenizer, text->str, (gssize)text->len);
      for (guint i = 0; i < ids->len; i++)
        g_assert_cmpint (g_array_index (ids, gint64, i), <, 704);
    }
}

/* Chunked normalisation equals GLib's own where that one is quick. */
static void
test_nfc (void)
{
  g_autoptr (GRand) rand = g_rand_new_with_seed (5);

  for (int round = 0; round < 500; round++)
    {
      g_autoptr (GString) text = g_string_new (NULL);
      g_autofree char *expected = NULL;
      g_autoptr (GString) found = NULL;
      int n = g_rand_int_range (rand, 0, 600);

      while (n-- > 0)
        g_string_append_unichar (text, random_character (rand));
      for (int mark = round % 80; mark-- > 0;)
        g_string_append_unichar (text, mark % 3 == 0 ? 0x301 : mark % 3 == 1 ? 0x316 : 0x345);
      expected = g_utf8_normalize (text->str, (gssize)text->len, G_NORMALIZE_NFC);
      found = pretokenize_nfc (text->str, text->len);
      g_assert_cmpstr (found->str, ==, expected);
    }
}

/* A million bytes of each kind that tempts to quadratic time. The limit of the test runner is the
 * judge: quadratic code needs hours for these. */
static void
test_long (void)
{
  static const char *const patterns[] = {
    "a",                                    /* one piece, merges everywhere */
    "lighthouse",                           /* one piece */
    "a lighthouse at ",                     /* many pieces */
    " ",                                    /* one run of white space */
    "\n \n  ",                              /* newlines in it */
    "<|im_start|",                          /* nearly an added token, always */
    "\315\205\314\226\314\201",             /* marks to sort */
    "e\314\201",                            /* a composition at every letter */
    "\341\204\200\341\205\241\341\206\250", /* Hangul by its letters */
    "\340\247\207\340\246\276",             /* Bengali vowels in two halves */
    "\377",                                 /* not UTF-8 */
  };
  g_autoptr (Tokenizer) tokenizer = open_tiny ();

  for (guint i = 0; i < G_N_ELEMENTS (patterns); i++)
    {
      g_autoptr (GString) text = g_string_sized_new (1 << 20);
      g_autoptr (GArray) ids = NULL;

      while (text->len < 1000000)
        g_string_append (text, patterns[i]);
      ids = tokenizer_encode_prompt (tokenizer, text->str, TOKENIZER_MAX_PROMPT);
      g_assert_cmpuint (ids->len, ==, TOKENIZER_MAX_PROMPT);
    }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/tokenizer/golden", test_golden);
  g_test_add_func ("/tokenizer/rare", test_rare);
  g_test_add_func ("/tokenizer/traces", test_traces);
  g_test_add_func ("/tokenizer/merges-as-strings", test_merges_as_strings);
  g_test_add_func ("/tokenizer/parts", test_parts);
  g_test_add_func ("/tokenizer/merge-twice", test_merge_twice);
  g_test_add_func ("/tokenizer/longest-added", test_longest_added);
  g_test_add_func ("/tokenizer/large-ids", test_large_ids);
  g_test_add_func ("/tokenizer/limit", test_limit);
  for (guint i = 0; i < G_N_ELEMENTS (damages); i++)
    {
      g_autofree char *name = g_strconcat ("/tokenizer/damaged/", damages[i].file, NULL);
      g_test_add_data_func (name, &damages[i], test_damaged);
    }
  g_test_add_func ("/tokenizer/damaged-merges", test_damaged_merges);
  g_test_add_func ("/tokenizer/random", test_random);
  g_test_add_func ("/tokenizer/nfc", test_nfc);
  g_test_add_func ("/tokenizer/long", test_long);
  return g_test_run ();
}
