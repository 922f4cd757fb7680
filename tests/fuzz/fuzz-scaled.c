/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights in 8 or 4 bit with scales: what each tensor of a file is, and all of its numbers.
 */
#include "engine/checkpoint/scaled.h"
#include "tests/fuzz/fuzz.h"

#define MAX_COUNT (1 << 20) /* numbers that are computed: a small file can hold no more */

static void
read_weight (Safetensors *file, const char *name)
{
  g_autoptr (GError) error = NULL;
  g_autofree uint16_t *out = NULL;
  ScaledWeight weight;

  if (!scaled_find (file, name, &weight, &error) || !scaled_check (&weight, file, name, &error))
    return;
  g_assert_no_error (error);
  g_assert_cmpint (tensor_count (&weight.shape), <=, MAX_COUNT);
  out = g_new (uint16_t, (gsize)tensor_count (&weight.shape));
  for (int64_t row = 0; row < weight.shape.shape[0]; row += 3)
    scaled_expand (&weight, row, MIN (3, weight.shape.shape[0] - row), out);
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  g_autoptr (Safetensors) file = safetensors_open (fuzz_file ("f.safetensors", data, size), NULL);

  if (file == NULL || size > MAX_COUNT / 2)
    return 0;
  scaled_format (file);
  for (guint i = 0; i < safetensors_count (file); i++)
    {
      scaled_is_note (safetensors_name (file, i));
      read_weight (file, safetensors_name (file, i));
    }
  return 0;
}
