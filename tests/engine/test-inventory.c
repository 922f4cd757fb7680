/* SPDX-License-Identifier: Apache-2.0
 *
 * test-inventory.c - the list of needed tensors, against the published model's own numbers
 */
#include "engine/checkpoint/inventory.h"

typedef struct
{
  guint tensors;
  guint64 parameters;
} Sum;

static void
add (const char *name, int rank, const int64_t *shape, gpointer user_data)
{
  Sum *sum = user_data;
  guint64 n = 1;

  for (int i = 0; i < rank; i++)
    n *= (guint64)shape[i];
  sum->tensors++;
  sum->parameters += n;
}

/* Z-Image-Turbo's sizes (spec z-image 1.2), its tensors and parameters (1.4, 1.5). */
static void
test_published_sizes (void)
{
  const TransformerConfig transformer = { .dim = 3840,
                                          .n_layers = 30,
                                          .n_refiner_layers = 2,
                                          .n_heads = 30,
                                          .head_dim = 128,
                                          .hidden = 10240,
                                          .in_channels = 16,
                                          .cap_feat_dim = 2560,
                                          .patch = 2,
                                          .adaln_dim = 256,
                                          .t_hidden = 1024 };
  const TextEncoderConfig text = { .hidden = 2560,
                                   .intermediate = 9728,
                                   .n_layers = 36,
                                   .n_heads = 32,
                                   .n_kv_heads = 8,
                                   .head_dim = 128,
                                   .vocab = 151936 };
  const VaeConfig vae = { .n_blocks = 4,
                          .channels = { 128, 256, 512, 512 },
                          .layers_per_block = 2,
                          .latent_channels = 16,
                          .groups = 32,
                          .mid_attention = TRUE };
  Sum sum = { 0 }, decoder = { 0 }, encoder = { 0 };

  inventory_transformer (&transformer, add, &sum);
  g_assert_cmpuint (sum.tensors, ==, 521);
  g_assert_cmpuint (sum.parameters, ==, 6154908736);
  sum = (Sum){ 0 };
  inventory_text_encoder (&text, add, &sum);
  g_assert_cmpuint (sum.tensors, ==, 398 - 11 - 1); /* all but the last layer and norm */
  g_assert_cmpuint (sum.parameters, ==, 3921534720);
  inventory_vae_decoder (&vae, add, &decoder);
  g_assert_cmpuint (decoder.tensors, ==, 138);
  g_assert_cmpuint (decoder.parameters, ==, 49545475);
  inventory_vae_encoder (&vae, add, &encoder);
  g_assert_cmpuint (encoder.tensors + decoder.tensors, ==, 244);
  g_assert_cmpuint (encoder.parameters, ==, 34274208);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/inventory/published-sizes", test_published_sizes);
  return g_test_run ();
}
