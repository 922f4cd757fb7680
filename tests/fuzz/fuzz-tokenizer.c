/* SPDX-License-Identifier: Apache-2.0
 *
 * A tokenizer.json (first byte '{'), or a text for the tiny model's tokenizer.
 */
#include "engine/tokenizer/tokenizer.h"
#include "tests/fuzz/fuzz.h"

static void
encode (Tokenizer *tokenizer, const void *text, gsize size)
{
  g_autoptr (GArray) ids = tokenizer_encode (tokenizer, text, (gssize)size);

  g_assert_cmpuint (ids->len, <=, 3 * size); /* a byte that is not UTF-8 becomes three */
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  static const char sample[] = "<|im_start|>user\n a h\303\251lice's 42 <|im_end|>";
  g_autoptr (Tokenizer) tokenizer = NULL;
  g_autofree char *dir = fuzz_test_data ("tiny-zimage/tokenizer");

  if (size > 0 && data[0] == '{')
    {
      fuzz_file ("tokenizer.json", data, size);
      tokenizer = tokenizer_new (fuzz_folder (), NULL);
      if (tokenizer != NULL)
        encode (tokenizer, sample, sizeof sample - 1);
      return 0;
    }
  tokenizer = tokenizer_new (dir, NULL);
  g_assert_nonnull (tokenizer);
  encode (tokenizer, data, size);
  return 0;
}
