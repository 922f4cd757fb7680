/* SPDX-License-Identifier: Apache-2.0
 *
 * The file of how long things took. Whatever is in it, a forecast is a number that one can wait
 * for, new points are taken, and what is written can be read.
 */
#include "engine/computer/calibration.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  const char *path = fuzz_file ("calibration.json", data, size);
  g_autoptr (Calibration) calibration = calibration_new (path, "device"), again = NULL;
  double before, after;

  for (double work = 1e-3; work < 1e12; work *= 1e3)
    {
      before = calibration_predict (calibration, "kind", work);
      g_assert_true (isfinite (before) && before >= 0);
    }
  for (int i = 0; i < 20; i++)
    calibration_add (calibration, "kind", 1.5 * i + 1, i + 1);
  g_assert_true (calibration_save (calibration, NULL));
  before = calibration_predict (calibration, "kind", 29.5);
  again = calibration_new (path, "device");
  after = calibration_predict (again, "kind", 29.5);
  g_assert_cmpfloat_with_epsilon (before, after, 1e-6 * before);
  return 0;
}
