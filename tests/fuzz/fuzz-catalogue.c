/* SPDX-License-Identifier: Apache-2.0
 *
 * The catalogue of models, or (first byte '[') an index of shards with a blank before it. What is
 * accepted must stay below the model's folder and be fetched from addresses that are allowed.
 */
#include "engine/checkpoint/catalogue.h"
#include "tests/fuzz/fuzz.h"

static void
check_file (const CatalogueFile *file)
{
  g_assert_true (catalogue_is_path (file->path));
  g_assert_true (catalogue_is_path (file->source));
}

static void
check_shards (const char *text, size_t size)
{
  const CatalogueFile index = { .path = (char *)"transformer/f.safetensors.index.json",
                                .repository = (char *)"a/b",
                                .source = (char *)"transformer/f.safetensors.index.json",
                                .shards = TRUE };
  g_autoptr (GError) error = NULL;
  g_autoptr (GPtrArray) shards = catalogue_shards (&index, text, size, &error);

  g_assert_true ((shards == NULL) == (error != NULL));
  for (guint i = 0; shards != NULL && i < shards->len; i++)
    check_file (shards->pdata[i]);
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (Catalogue) catalogue = NULL;

  if (size > 0 && data[0] == '[')
    {
      check_shards ((const char *)data + 1, size - 1);
      return 0;
    }
  catalogue = catalogue_parse ((const char *)data, size, "the catalogue", &error);
  g_assert_true ((catalogue == NULL) == (error != NULL));
  for (guint m = 0; catalogue != NULL && m < catalogue->models->len; m++)
    {
      const CatalogueModel *model = catalogue->models->pdata[m];

      catalogue_model_bytes (model);
      for (guint f = 0; f < model->files->len; f++)
        {
          check_file (model->files->pdata[f]);
          for (guint i = 0; i < catalogue->mirrors->len; i++)
            {
              g_autofree char *url
                  = catalogue_url (catalogue->mirrors->pdata[i], model->files->pdata[f]);

              g_assert_true (catalogue_is_address (url));
            }
        }
    }
  if (catalogue != NULL)
    catalogue_recommend (catalogue, 89, G_GUINT64_CONSTANT (8) << 30);
  return 0;
}
