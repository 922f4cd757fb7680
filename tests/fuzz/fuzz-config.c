/* SPDX-License-Identifier: Apache-2.0
 *
 * A config of a model folder; the first byte chooses which. A folder that opens must hold values
 * that sizes can be computed from.
 */
#include "engine/checkpoint/config.h"
#include "engine/checkpoint/inventory.h"
#include "tests/fuzz/fuzz.h"

#include <glib/gstdio.h>

static void
check_shape (const char *name, int rank, const int64_t *shape, gpointer user_data)
{
  for (int i = 0; i < rank; i++)
    g_assert_cmpint (shape[i], >, 0);
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  static const char *const files[]
      = { "transformer/config.json", "text_encoder/config.json", "vae/config.json",
          "scheduler/scheduler_config.json", "model_index.json" };
  const char *dir = fuzz_folder ();
  guint which = size > 0 ? data[0] % G_N_ELEMENTS (files) : 0;
  g_autofree char *path = g_build_filename (dir, files[which], NULL);
  g_autofree char *folder = g_path_get_dirname (path);
  TransformerConfig transformer;
  TextEncoderConfig text_encoder;
  VaeConfig vae;
  SchedulerConfig scheduler;

  g_mkdir_with_parents (folder, 0700);
  fuzz_file (files[which], data + (size > 0), size - (size > 0));
  if (which == 0 && config_read_transformer (dir, &transformer, NULL))
    inventory_transformer (&transformer, check_shape, NULL);
  else if (which == 1 && config_read_text_encoder (dir, &text_encoder, NULL))
    inventory_text_encoder (&text_encoder, check_shape, NULL);
  else if (which == 2 && config_read_vae (dir, &vae, NULL))
    {
      inventory_vae_decoder (&vae, check_shape, NULL);
      inventory_vae_encoder (&vae, check_shape, NULL);
    }
  else if (which == 3 && config_read_scheduler (dir, &scheduler, NULL))
    g_assert_cmpfloat (scheduler.shift, >, 0);
  else if (which == 4)
    config_check_pipeline (dir, NULL);
  return 0;
}
