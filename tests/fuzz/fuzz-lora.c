/* SPDX-License-Identifier: Apache-2.0
 *
 * A LoRA file, for a transformer so small that its factors fit into a corpus.
 */
#include "engine/lora/lora-file.h"
#include "tests/fuzz/fuzz.h"

static void
read_pair (const LoraPair *pair)
{
  g_assert_cmpint (pair->down.shape[1], ==, pair->target->in);
  g_assert_cmpint (pair->up.shape[0], ==, pair->target->rows);
  g_assert_cmpint (pair->up.shape[1], ==, pair->down.shape[0]);
  tensor_get (&pair->down, tensor_count (&pair->down) - 1);
  tensor_get (&pair->up, tensor_count (&pair->up) - 1);
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  static const TransformerConfig config = { .dim = 4,
                                            .n_layers = 1,
                                            .n_refiner_layers = 1,
                                            .n_heads = 1,
                                            .head_dim = 4,
                                            .hidden = 6,
                                            .in_channels = 1,
                                            .cap_feat_dim = 2,
                                            .patch = 2,
                                            .adaln_dim = 2,
                                            .t_hidden = 2 };
  g_autoptr (LoraTargets) targets = lora_targets_new (&config);
  const char *path = fuzz_file ("f.safetensors", data, size);

  for (int check = 0; check < 2; check++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (LoraFile) file = lora_file_open (path, targets, check, &error);

      g_assert_true ((file == NULL) == (error != NULL));
      if (file == NULL)
        continue;
      g_assert_cmpuint (file->pairs->len, >, 0);
      g_assert_true (lora_file_detect (file->file));
      for (guint i = 0; i < file->pairs->len; i++)
        read_pair (&g_array_index (file->pairs, LoraPair, i));
    }
  return 0;
}
