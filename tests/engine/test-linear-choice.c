/* SPDX-License-Identifier: Apache-2.0
 *
 * Which card runs which type of file by which backend: the whole table of spec svdquant 5.8, with
 * what the user is told of it. Needs no card.
 */
#include "engine/linear.h"

/* What a build without code for a card's own instructions falls back to differs. */
#ifdef HAVE_SM90A
#define HOPPER_BF16 "cuda-bf16-wgmma"
#else
#define HOPPER_BF16 "cuda-bf16-mma"
#endif
#define INT8 "cuda-svdq-int4-by-int8"
#define FP16 "cuda-svdq-nvfp4-by-fp16"

typedef struct
{
  int sm;
  LinearSupport bf16, int4, nvfp4;
} Row;

#define BF16_MMA                                                                                   \
  {                                                                                                \
    "cuda-bf16-mma", "native", "similar"                                                           \
  }
#define INT4_MMA                                                                                   \
  {                                                                                                \
    "cuda-svdq-int4", "native", "faster"                                                           \
  }
#define NONE                                                                                       \
  {                                                                                                \
    "", "none", ""                                                                                 \
  }

static const Row rows[] = {
#ifdef HAVE_CUDA
  { 70, NONE, NONE, NONE },
  { 75, NONE, NONE, NONE },
  { 80, BF16_MMA, INT4_MMA, { FP16, "fall-back", "slower" } },
  { 86, BF16_MMA, INT4_MMA, { FP16, "fall-back", "similar" } },
  { 87, BF16_MMA, INT4_MMA, { FP16, "fall-back", "similar" } },
  { 89, BF16_MMA, INT4_MMA, { FP16, "fall-back", "similar" } },
  { 90,
    { HOPPER_BF16, "native", "similar" },
    { INT8, "fall-back", "slower" },
    { FP16, "fall-back", "slower" } },
  { 100, BF16_MMA, { INT8, "fall-back", "slower" }, { FP16, "fall-back", "slower" } },
  { 103, BF16_MMA, { INT8, "fall-back", "slower" }, { FP16, "fall-back", "slower" } },
  { 120,
    BF16_MMA,
    { INT8, "fall-back", "faster" },
#if defined(HAVE_SM120A) || defined(HAVE_SM120F)
    { "cuda-svdq-nvfp4", "native", "faster" } },
#else
    { FP16, "fall-back", "similar" } },
#endif
  { 121,
    BF16_MMA,
    { INT8, "fall-back", "faster" },
#if defined(HAVE_SM120F)
    { "cuda-svdq-nvfp4", "native", "faster" } },
#else
    { FP16, "fall-back", "similar" } },
#endif
#endif
  { 0,
    { "cpu", "native", "similar" },
    { "cpu-svdq", "native", "faster" },
    { "cpu-svdq", "native", "similar" } },
};

static void
check (const DeviceCaps *caps, const SvdqFormat *format, const LinearSupport *expected)
{
  const StreamOptions options = { 0 };
  LinearSupport got = linear_support (caps, &options, format);
  const LinearBackend *backend = linear_choose (caps, &options, format);

  g_assert_cmpstr (got.backend, ==, expected->backend);
  g_assert_cmpstr (got.path, ==, expected->path);
  g_assert_cmpstr (got.speed, ==, expected->speed);
  if (*expected->backend == '\0')
    g_assert_null (backend);
  else
    g_assert_cmpstr (backend->name, ==, expected->backend);
}

static void
test_row (gconstpointer data)
{
  const Row *row = data;
  const DeviceCaps caps = { .kind = row->sm > 0 ? DEVICE_CUDA : DEVICE_CPU, .sm = row->sm };
  const SvdqFormat int4 = SVDQ_INT4, nvfp4 = SVDQ_NVFP4;

  check (&caps, NULL, &row->bf16);
  check (&caps, &int4, &row->int4);
  check (&caps, &nvfp4, &row->nvfp4);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      g_autofree char *path = g_strdup_printf ("/linear/choice/sm-%d", rows[i].sm);

      g_test_add_data_func (path, &rows[i], test_row);
    }
  return g_test_run ();
}
