/* SPDX-License-Identifier: Apache-2.0
 *
 * test-catalogue.c - the catalogue that is shipped, and texts that must be refused
 */
#include "engine/checkpoint/catalogue.h"
#include "engine/engine.h"

#include <string.h>

static Catalogue *
load (void)
{
  g_autoptr (GError) error = NULL;
  Catalogue *catalogue = catalogue_load (g_getenv ("TESSERA_CATALOGUE"), &error);

  g_assert_no_error (error);
  return catalogue;
}

/* What the program is shipped with. Sizes: spec z-image 1.4, svdquant 2.1. */
static void
test_shipped (void)
{
  g_autoptr (Catalogue) catalogue = load ();
  const CatalogueModel *model = catalogue_find (catalogue, "z-image-turbo");
  const CatalogueFile *largest;
  g_autofree char *url = NULL;

  g_assert_cmpuint (catalogue->mirrors->len, ==, 2);
  g_assert_nonnull (model);
  g_assert_cmpuint (catalogue_model_bytes (model), ==, 24619634944 + 8044936192);
  g_assert_cmpuint (model->files->len, ==, 16);
  largest = g_ptr_array_index (model->files, model->files->len - 1);
  g_assert_cmpstr (largest->hash, ==, "fe81e804658d345323512c63224b0604");
  url = catalogue_url (g_ptr_array_index (catalogue->mirrors, 0), largest);
  g_assert_true (g_str_has_suffix (url, "/Tongyi-MAI/Z-Image-Turbo/resolve/main/transformer/"
                                        "diffusion_pytorch_model-00002-of-00003.safetensors"));
  for (guint i = 0; i < catalogue->models->len; i++)
    {
      model = g_ptr_array_index (catalogue->models, i);
      g_assert_cmpuint (catalogue_model_bytes (model), >, 10000000000);
    }
}

static void
test_recommend (void)
{
  static const struct
  {
    int sm;
    guint64 gigabytes;
    const char *id;
  } cards[] = {
    { 86, 8, "z-image-turbo-int4-r32" },
    { 89, 24, "z-image-turbo-int4-r32" },
    { 120, 16, "z-image-turbo-nvfp4-r32" },
    { 75, 11, "z-image-turbo-int4-r32" },
    { 61, 11, NULL },
    { 86, 6, NULL },
  };
  g_autoptr (Catalogue) catalogue = load ();

  for (guint i = 0; i < G_N_ELEMENTS (cards); i++)
    {
      const CatalogueModel *model
          = catalogue_recommend (catalogue, cards[i].sm, cards[i].gigabytes * 1000000000);

      g_assert_cmpstr (model != NULL ? model->id : NULL, ==, cards[i].id);
    }
}

static void
test_paths (void)
{
  static const char *const good[] = { "a", "transformer/config.json",
                                      "model-00001-of-00003.safetensors", "Tongyi-MAI/Z-Image" };
  static const char *const bad[]
      = { "",        "/etc/passwd", "../a", "a/../../b", "a//b", "a/",   ".hidden",
          "a/.part", "a b",         "a?b",  "a#b",       "a%2e", "a\\b", "a\nb" };
  static const char *const addresses[]
      = { "https://example.org/a", "http://127.0.0.1:8080/a", "http://localhost/a" };
  static const char *const others[] = { "http://example.org/a",
                                        "file:///etc/passwd",
                                        "ftp://example.org/",
                                        "",
                                        "https://user:secret@example.org/",
                                        "http://127.0.0.1.example.org/",
                                        "https:///a" };

  for (guint i = 0; i < G_N_ELEMENTS (good); i++)
    g_assert_true (catalogue_is_path (good[i]));
  for (guint i = 0; i < G_N_ELEMENTS (bad); i++)
    g_assert_false (catalogue_is_path (bad[i]));
  for (guint i = 0; i < G_N_ELEMENTS (addresses); i++)
    g_assert_true (catalogue_is_address (addresses[i]));
  for (guint i = 0; i < G_N_ELEMENTS (others); i++)
    g_assert_false (catalogue_is_address (others[i]));
}

#define FILE_A "{\"path\":\"a\",\"repository\":\"o/n\"}"
#define MODEL(files)                                                                               \
  "{\"id\":\"m\",\"name\":\"M\",\"precision\":\"bf16\",\"licence\":\"MIT\","                       \
  "\"page\":\"https://example.org/\",\"files\":[" files "]}"
#define CATALOGUE(mirror, models)                                                                  \
  "{\"version\":1,\"mirrors\":[{\"name\":\"x\",\"url\":\"" mirror "\"}],\"models\":[" models "]}"
#define MIRROR "https://example.org/{path}"

static void
test_refused (void)
{
  static const struct
  {
    const char *text, *complaint;
  } cases[] = {
    { "", "" },
    { "[]", "version" },
    { "{\"version\":2}", "version" },
    { "{\"version\":1}", "0 mirrors" },
    { CATALOGUE ("http://example.org/{path}", MODEL (FILE_A)), "no HTTPS address" },
    { CATALOGUE ("https://example.org/", MODEL (FILE_A)), "no {path}" },
    { CATALOGUE (MIRROR, ""), "no models" },
    { CATALOGUE (MIRROR, MODEL ("")), "no files" },
    { CATALOGUE (MIRROR, MODEL (FILE_A) "," MODEL (FILE_A)), "twice" },
    { CATALOGUE (MIRROR, MODEL (FILE_A "," FILE_A)), "twice" },
    { CATALOGUE (MIRROR, MODEL ("{\"path\":\"../a\",\"repository\":\"o/n\"}")), "no path" },
    { CATALOGUE (MIRROR, MODEL ("{\"path\":\"a\",\"source\":\"/a\",\"repository\":\"o/n\"}")),
      "no path" },
    { CATALOGUE (MIRROR, MODEL ("{\"path\":\"a\",\"repository\":\"o/n\",\"size\":-1}")),
      "no number of bytes" },
    { CATALOGUE (MIRROR, MODEL ("{\"path\":\"a\",\"repository\":\"o/n\",\"size\":1e30}")),
      "no number of bytes" },
    { CATALOGUE (MIRROR, MODEL ("{\"path\":\"a\",\"repository\":\"o/n\",\"md5\":\"xyz\"}")),
      "no such hash" },
    { CATALOGUE (MIRROR, MODEL ("7")), "" },
    { CATALOGUE (MIRROR, "7"), "" },
  };

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GError) error = NULL;

      g_assert_null (catalogue_parse (cases[i].text, strlen (cases[i].text), "test.json", &error));
      g_assert_nonnull (error);
      if (strstr (error->message, cases[i].complaint) == NULL)
        g_error ("\"%s\" is not in \"%s\"", cases[i].complaint, error->message);
    }
}

static void
test_shards (void)
{
  const CatalogueFile index = { .path = (char *)"t/x.index.json",
                                .source = (char *)"deep/x.index.json",
                                .repository = (char *)"o/n",
                                .shards = TRUE };
  const char *text = "{\"weight_map\":{\"a\":\"x-1.bin\",\"b\":\"x-2.bin\",\"c\":\"x-1.bin\"}}";
  const char *bad[] = { "{}", "{\"weight_map\":{\"a\":\"../x\"}}", "{\"weight_map\":{\"a\":7}}",
                        "{\"weight_map\":{\"a\":\"b/c\"}}" };
  g_autoptr (GError) error = NULL;
  g_autoptr (GPtrArray) files = catalogue_shards (&index, text, strlen (text), &error);
  const CatalogueFile *file;

  g_assert_no_error (error);
  g_assert_cmpuint (files->len, ==, 2);
  file = g_ptr_array_index (files, 1);
  g_assert_cmpstr (file->path, ==, "t/x-2.bin");
  g_assert_cmpstr (file->source, ==, "deep/x-2.bin");
  g_assert_false (file->shards);
  for (guint i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autoptr (GError) complaint = NULL;

      g_assert_null (catalogue_shards (&index, bad[i], strlen (bad[i]), &complaint));
      g_assert_error (complaint, ENGINE_ERROR, ENGINE_ERROR_MODEL);
    }
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/catalogue/shipped", test_shipped);
  g_test_add_func ("/catalogue/recommend", test_recommend);
  g_test_add_func ("/catalogue/paths", test_paths);
  g_test_add_func ("/catalogue/refused", test_refused);
  g_test_add_func ("/catalogue/shards", test_shards);
  return g_test_run ();
}
