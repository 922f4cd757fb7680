/* SPDX-License-Identifier: Apache-2.0
 *
 * A text encoder's file, dense or in codes, for a model of one small layer: what it is, whether it
 * fits, and every linear in it.
 */
#include "engine/checkpoint/checkpoint-private.h"
#include "engine/checkpoint/inventory.h"
#include "engine/engine.h"
#include "engine/weight-only/file.h"
#include "kernels/reference/codes.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static void
read_tensor (const char *name, int rank, const int64_t *shape, gpointer user_data)
{
  Weights *weights = user_data;
  g_autofree char *base = g_strdup (name);
  Tensor tensor;

  weights_get_shaped (weights, &tensor, name, NULL, rank, shape);
  if (rank != 2 || !g_str_has_suffix (name, ".weight"))
    return;
  base[strlen (base) - strlen (".weight")] = '\0';
  if (weights_find_code_bits (weights, base) != 0)
    {
      LinearSource source = { .k = shape[1] };

      if (weights_add_codes (weights, base, shape[0], &source, NULL))
        {
          g_autofree float *out = g_new (float, (gsize)(shape[0] * shape[1]));

          codes_reference (&source.parts[0], &source.scales[0], out);
        }
    }
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  const TextEncoderConfig config = { .hidden = 64,
                                     .intermediate = 64,
                                     .n_layers = 2,
                                     .n_heads = 1,
                                     .n_kv_heads = 1,
                                     .head_dim = 64,
                                     .vocab = 2 };
  const char *path = fuzz_file ("f.safetensors", data, size);
  g_autoptr (Safetensors) file = safetensors_open (path, NULL);
  g_autoptr (Weights) weights = NULL;

  engine_find_text_encoder_bits (path, NULL);
  if (file == NULL)
    return 0;
  weights = weights_new (CHECKPOINT_TEXT_ENCODER, g_steal_pointer (&file), config.n_layers, NULL);
  if (weights == NULL)
    return 0;
  weights_count (weights);
  inventory_text_encoder (&config, read_tensor, weights);
  weights_check_all_used (weights, NULL);
  return 0;
}
