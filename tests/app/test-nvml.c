/* SPDX-License-Identifier: Apache-2.0
 *
 * Whose a card's memory is, by a management library that says what the test tells it to; its path
 * is the argument.
 */
#include "app/memory/nvml.h"

#include <unistd.h>

#define MEGABYTE ((guint64)1 << 20)

static gboolean
read_with (const char *library, const char *answers, guint64 total, NvmlMemory *out)
{
  g_autoptr (Nvml) nvml = NULL;

  g_setenv ("FAKE_NVML", answers, TRUE);
  nvml = nvml_open (library);
  g_assert_nonnull (nvml);
  return nvml_read (nvml, "A graphics card", total, out);
}

static void
test_shares (gconstpointer library)
{
  g_autofree char *answers = g_strdup_printf ("1 24000 9000 %d=1500 %d=6000 4294967295=700",
                                              (int)getppid (), (int)getpid ());
  NvmlMemory memory;

  g_assert_true (read_with (library, answers, 24000 * MEGABYTE, &memory));
  g_assert_cmpuint (memory.used, ==, 9000 * MEGABYTE);
  g_assert_cmpuint (memory.ours, ==, 6000 * MEGABYTE);
  g_assert_cmpuint (memory.others, ==, 3000 * MEGABYTE);
  /* Our parent has a name; the last has ended. */
  g_assert_cmpint (memory.n_named, ==, 1);
  g_assert_cmpuint (memory.named[0].bytes, ==, 1500 * MEGABYTE);
  g_assert_cmpstr (memory.named[0].name, !=, "");
}

/* More processes than are named: the largest come first. */
static void
test_largest (gconstpointer library)
{
  const int p = getppid ();
  g_autofree char *answers
      = g_strdup_printf ("1 24000 9000 %d=10 %d=40 %d=20 %d=50 %d=30", p, p, p, p, p);
  NvmlMemory memory;

  g_assert_true (read_with (library, answers, 24000 * MEGABYTE, &memory));
  g_assert_cmpint (memory.n_named, ==, NVML_MAX_NAMED);
  for (int i = 0; i < NVML_MAX_NAMED; i++)
    g_assert_cmpuint (memory.named[i].bytes, ==, (50 - 10 * i) * MEGABYTE);
}

/* Where it is not certain which card is meant, nothing is said. */
static void
test_unsure (gconstpointer library)
{
  NvmlMemory memory;

  g_assert_false (read_with (library, "2 24000 9000", 24000 * MEGABYTE, &memory));
  g_assert_false (read_with (library, "1 24000 9000", 16000 * MEGABYTE, &memory));
  g_assert_false (read_with (library, "0 0 0", 24000 * MEGABYTE, &memory));
}

static void
test_absent (gconstpointer library)
{
  g_assert_null (nvml_open ("/nowhere/libnvidia-ml.so.1"));
  g_unsetenv ("FAKE_NVML");
  g_assert_null (nvml_open (library)); /* the driver is not loaded */
}

int
main (int argc, char *argv[])
{
  g_test_init (&argc, &argv, NULL);
  g_assert_cmpint (argc, ==, 2);
  g_test_add_data_func ("/nvml/shares", argv[1], test_shares);
  g_test_add_data_func ("/nvml/largest", argv[1], test_largest);
  g_test_add_data_func ("/nvml/unsure", argv[1], test_unsure);
  g_test_add_data_func ("/nvml/absent", argv[1], test_absent);
  return g_test_run ();
}
