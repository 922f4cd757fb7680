/* SPDX-License-Identifier: Apache-2.0
 *
 * A PNG file with text chunks: as it is, and once more with every chunk's checksum put right, since
 * hardly a mutant gets past a wrong one.
 */
#include "engine/picture/image.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static guint32
read_number (const uint8_t *at)
{
  return (guint32)at[0] << 24 | (guint32)at[1] << 16 | (guint32)at[2] << 8 | at[3];
}

/* CRC-32 as PNG has it (ISO 3309), bit by bit. */
static guint32
checksum (const uint8_t *data, size_t size)
{
  guint32 crc = G_MAXUINT32;

  for (size_t i = 0; i < size; i++)
    {
      crc ^= data[i];
      for (int bit = 0; bit < 8; bit++)
        crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
  return ~crc;
}

static void
put_checksums_right (uint8_t *data, size_t size)
{
  size_t at = 8; /* behind the signature */

  while (size > 12 && at <= size - 12 && read_number (data + at) <= size - 12 - at)
    {
      const size_t length = read_number (data + at);
      const guint32 sum = GUINT32_TO_BE (checksum (data + at + 4, length + 4));

      memcpy (data + at + 8 + length, &sum, sizeof sum);
      at += 12 + length;
    }
}

static void
load (const uint8_t *data, size_t size)
{
  g_auto (ImageInfo) info = { 0 };
  g_autoptr (Image) image = image_load_png (fuzz_file ("f.png", data, size), &info, NULL);

  if (image != NULL)
    g_assert_cmpuint (g_bytes_get_size (image_get_bytes (image)), ==,
                      3 * (gsize)image_get_width (image) * (gsize)image_get_height (image));
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  g_autofree uint8_t *copy = g_memdup2 (data, size);

  load (data, size);
  if (size > 0)
    put_checksums_right (copy, size);
  load (copy != NULL ? copy : data, size);
  return 0;
}
