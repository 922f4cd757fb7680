/* SPDX-License-Identifier: Apache-2.0
 *
 * Which card runs which type of file by which backend: the whole table of spec svdquant 5.8, with
 * what the user is told of it. Needs no card.
 */
#include "engine/linear.h"

/* What a build without code for a card's own instructions falls back to differs. */
#define HOPPER_BF16 "cuda-bf16-wgmma"
#define INT8        "cuda-svdq-int4-by-int8"
#define FP16        "cuda-svdq-nvfp4-by-fp16"

typedef struct
{
  int sm;
  gboolean exact; /* asked for the file's own arithmetic */
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
  { 70, FALSE, NONE, NONE, NONE },
#ifdef HAVE_SM75
  { 75,
    FALSE,
    { "cuda-fp16-mma", "native", "similar" },
    INT4_MMA,
    { FP16, "fall-back", "similar" } },
#else
  { 75, FALSE, NONE, NONE, NONE },
#endif
#ifdef HAVE_SM80
  { 80, FALSE, BF16_MMA, INT4_MMA, { FP16, "fall-back", "slower" } },
  { 86, FALSE, BF16_MMA, INT4_MMA, { FP16, "fall-back", "similar" } },
  { 87, FALSE, BF16_MMA, INT4_MMA, { FP16, "fall-back", "similar" } },
  { 89, FALSE, BF16_MMA, INT4_MMA, { FP16, "fall-back", "similar" } },
#ifdef HAVE_SM90A
  { 90,
    FALSE,
    { HOPPER_BF16, "native", "similar" },
    { "cuda-svdq-fp8-wgmma", "fall-back", "faster" },
    { "cuda-svdq-fp8-wgmma", "fall-back", "faster" } },
  { 90,
    TRUE,
    { HOPPER_BF16, "native", "similar" },
    { "cuda-svdq-fp16-wgmma", "fall-back", "similar" },
    { "cuda-svdq-fp16-wgmma", "fall-back", "similar" } },
#else
  { 90, FALSE, BF16_MMA, { INT8, "fall-back", "slower" }, { FP16, "fall-back", "slower" } },
  { 90, TRUE, BF16_MMA, { INT8, "fall-back", "slower" }, { FP16, "fall-back", "slower" } },
#endif
  { 100, FALSE, BF16_MMA, { INT8, "fall-back", "slower" }, { FP16, "fall-back", "slower" } },
  { 103, FALSE, BF16_MMA, { INT8, "fall-back", "slower" }, { FP16, "fall-back", "slower" } },
  { 120,
    FALSE,
    BF16_MMA,
    { INT8, "fall-back", "faster" },
#if defined(HAVE_SM120A) || defined(HAVE_SM120F)
    { "cuda-svdq-nvfp4", "native", "faster" } },
#else
    { FP16, "fall-back", "similar" } },
#endif
  { 121,
    FALSE,
    BF16_MMA,
    { INT8, "fall-back", "faster" },
#if defined(HAVE_SM120F)
    { "cuda-svdq-nvfp4", "native", "faster" } },
#else
    { FP16, "fall-back", "similar" } },
#endif
#else
  { 80, FALSE, NONE, NONE, NONE },
  { 90, FALSE, NONE, NONE, NONE },
#endif
#endif
  { 0,
    FALSE,
    { "cpu", "native", "similar" },
    { "cpu-svdq", "native", "faster" },
    { "cpu-svdq", "native", "similar" } },
};

static void
check (const Row *row, const SvdqFormat *format, const LinearSupport *expected)
{
  const DeviceCaps device
      = { .kind = row->sm > 0 ? DEVICE_CUDA : DEVICE_CPU, .sm = row->sm, .bf16 = row->sm >= 80 };
  const DeviceCaps *caps = &device;
  const StreamOptions options = { .exact = row->exact };
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

/* What the user is told of kernels by their name agrees with who asked for what. */
static void
test_arithmetic (void)
{
  const SvdqFormat int4 = SVDQ_INT4;

  g_assert_cmpstr (linear_arithmetic ("cuda-svdq-fp8-wgmma"), ==, "fast");
  g_assert_cmpstr (linear_arithmetic ("cuda-svdq-fp16-wgmma"), ==, "exact");
  g_assert_cmpstr (linear_arithmetic ("cuda-bf16-wgmma"), ==, "");
  g_assert_cmpstr (linear_arithmetic ("made up"), ==, "");
  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      const DeviceCaps caps
          = { .kind = rows[i].sm > 0 ? DEVICE_CUDA : DEVICE_CPU, .sm = rows[i].sm };
      const StreamOptions options = { .exact = TRUE };
      const LinearBackend *backend = linear_choose (&caps, &options, &int4);

      if (backend != NULL)
        g_assert_cmpstr (linear_arithmetic (backend->name), ==, "exact");
    }
}

static void
test_row (gconstpointer data)
{
  const Row *row = data;
  const SvdqFormat int4 = SVDQ_INT4, nvfp4 = SVDQ_NVFP4;

  check (row, NULL, &row->bf16);
  check (row, &int4, &row->int4);
  check (row, &nvfp4, &row->nvfp4);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  for (guint i = 0; i < G_N_ELEMENTS (rows); i++)
    {
      g_autofree char *path
          = g_strdup_printf ("/linear/choice/sm-%d%s", rows[i].sm, rows[i].exact ? "-exact" : "");

      g_test_add_data_func (path, &rows[i], test_row);
    }
  g_test_add_func ("/linear/choice/arithmetic", test_arithmetic);
  return g_test_run ();
}
