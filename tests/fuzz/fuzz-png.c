/* SPDX-License-Identifier: Apache-2.0
 *
 * A PNG file with text chunks.
 */
#include "engine/picture/image.h"
#include "tests/fuzz/fuzz.h"

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  g_auto (ImageInfo) info = { 0 };
  g_autoptr (Image) image = image_load_png (fuzz_file ("f.png", data, size), &info, NULL);

  if (image != NULL)
    g_assert_cmpuint (g_bytes_get_size (image_get_bytes (image)), ==,
                      3 * (gsize)image_get_width (image) * (gsize)image_get_height (image));
  return 0;
}
