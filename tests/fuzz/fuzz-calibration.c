/* SPDX-License-Identifier: Apache-2.0
 *
 * The file of how long things took. Whatever is in it, a forecast is a number that one can wait
 * for, new points are taken, and what is written can be read. (What is no news is not written.)
 */
#include "engine/computer/calibration.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>

static void
check_forecasts (Calibration *calibration)
{
  for (double work = 1e-3; work < 1e12; work *= 1e3)
    {
      const double seconds = calibration_predict (calibration, "kind", work);

      g_assert_true (isfinite (seconds) && seconds >= 0);
    }
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  const char *path = fuzz_file ("calibration.json", data, size);
  g_autoptr (Calibration) calibration = calibration_new (path, "device"), again = NULL;

  check_forecasts (calibration);
  for (int i = 0; i < 20; i++)
    {
      calibration_add (calibration, "kind", 1.5 * i + 1, i + 1);
      g_assert_cmpfloat (calibration_predict (calibration, "kind", 1.5 * i + 1), >, 0);
    }
  check_forecasts (calibration);
  g_assert_true (calibration_save (calibration, NULL));
  again = calibration_new (path, "device");
  check_forecasts (again);
  g_assert_cmpfloat (calibration_predict (again, "kind", 29.5), >, 0);
  return 0;
}
