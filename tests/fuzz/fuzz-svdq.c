/* SPDX-License-Identifier: Apache-2.0
 *
 * A transformer file of any 4-bit format: which one it is, and every quantised linear in it.
 */
#include "engine/svdquant/read.h"
#include "tests/fuzz/fuzz.h"

static void
read_linear (SvdqReader *reader, guint index)
{
  SvdqLinearInfo info = svdq_reader_info (reader, index);
  const SvdqSource *source;
  Tensor t;

  for (int part = 0; part < SVDQ_N_PARTS; part++)
    if (part < SVDQ_WTSCALE || info.format == SVDQ_NVFP4)
      svdq_reader_part (reader, index, (SvdqPart)part, &t, NULL);
  if (svdq_reader_get (reader, info.base, info.n, info.k, &source, NULL))
    g_assert_cmpint (source->rank, ==, info.rank);
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  g_autoptr (Safetensors) file = safetensors_open (fuzz_file ("f.safetensors", data, size), NULL);
  g_autoptr (SvdqReader) reader = NULL;

  if (file == NULL || !svdq_reader_open (file, "", &reader, NULL) || reader == NULL)
    return 0;
  for (guint i = 0; i < svdq_reader_count (reader); i++)
    read_linear (reader, i);
  for (guint i = 0; i < safetensors_count (file); i++)
    svdq_reader_base_of (reader, safetensors_name (file, i));
  return 0;
}
