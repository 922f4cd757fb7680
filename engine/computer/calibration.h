/* SPDX-License-Identifier: Apache-2.0
 *
 * calibration.h - how long things took on this device, to say how long they will take
 *
 * For each kind of work there are a few points of (work, seconds), taken from real runs; between
 * two points time is linear in work, beyond them proportional to it. Kept in one JSON file, by
 * device. (any thread)
 */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct _Calibration Calibration;

/* `path` may be NULL: nothing is read or written. A file that is not there or is damaged is an
 * empty one. `device` names the device that computes. */
Calibration *calibration_new (const char *path, const char *device);
void calibration_free (Calibration *self); /* NULL is a no-op */

/* Notes that `work` (> 0, any unit) of a kind took `seconds`; replaces what was known of as much
 * work. Of too many points the nearest two become one. */
void calibration_add (Calibration *self, const char *kind, double work, double seconds);

/* The time that `work` will take, or 0 if nothing is known of its kind. */
double calibration_predict (Calibration *self, const char *kind, double work);

/* Writes what has been added since, if it changes a forecast by a twentieth or more. Other
 * devices' points stay. */
gboolean calibration_save (Calibration *self, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Calibration, calibration_free)

G_END_DECLS
