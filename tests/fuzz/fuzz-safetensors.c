/* SPDX-License-Identifier: Apache-2.0
 *
 * A weight file, or (first byte '{') an index of shards.
 */
#include "engine/files/safetensors.h"
#include "tests/fuzz/fuzz.h"

static void
read_all (Safetensors *file)
{
  for (guint i = 0; i < safetensors_count (file); i++)
    {
      const char *name = safetensors_name (file, i);
      SafetensorsInfo info;
      Tensor tensor;

      g_assert_true (safetensors_info (file, name, &info));
      if (safetensors_find (file, name, &tensor) && tensor_count (&tensor) > 0)
        tensor_get (&tensor, tensor_count (&tensor) - 1);
    }
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  static const char header[] = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}";
  const guint64 length = GUINT64_TO_LE (sizeof header - 1);
  gboolean index = size > 0 && data[0] == '{';
  g_autoptr (Safetensors) file = NULL;

  if (index)
    {
      g_autoptr (GByteArray) shard = g_byte_array_new ();

      g_byte_array_append (shard, (const guint8 *)&length, sizeof length);
      g_byte_array_append (shard, (const guint8 *)header, sizeof header); /* NUL is the payload */
      fuzz_file ("a.safetensors", shard->data, shard->len);
    }
  file = safetensors_open (
      fuzz_file (index ? "f.safetensors.index.json" : "f.safetensors", data, size), NULL);
  if (file != NULL)
    read_all (file);
  return 0;
}
