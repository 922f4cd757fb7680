/* SPDX-License-Identifier: Apache-2.0
 *
 * A tokenizer of several files: vocab.json, merges.txt and tokenizer_config.json, with a NUL
 * between them.
 */
#include "engine/tokenizer/tokenizer.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  static const char *const names[] = { "vocab.json", "merges.txt", "tokenizer_config.json" };
  static const char sample[] = "<|im_start|>user\n a h\303\251lice's 42 <|im_end|>";
  g_autoptr (Tokenizer) tokenizer = NULL;
  g_autoptr (GError) error = NULL;

  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    {
      const uint8_t *end = size > 0 ? memchr (data, 0, size) : NULL;
      const size_t length = end != NULL ? (size_t)(end - data) : size;

      fuzz_file (names[i], data, length);
      data += length + (end != NULL);
      size -= length + (end != NULL);
    }
  tokenizer = tokenizer_new (fuzz_folder (), &error);
  g_assert_true ((tokenizer == NULL) == (error != NULL));
  if (tokenizer != NULL)
    {
      g_autoptr (GArray) ids = tokenizer_encode (tokenizer, sample, sizeof sample - 1);

      g_assert_cmpuint (ids->len, <=, 3 * sizeof sample);
    }
  return 0;
}
