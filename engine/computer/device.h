/* SPDX-License-Identifier: Apache-2.0
 *
 * device.h - which devices there are, and which one an engine uses
 */
#pragma once

#include "engine/context.h"
#include "engine/engine.h"

G_BEGIN_DECLS

typedef struct
{
  const Ops *ops;
  DeviceCaps caps;
  StreamOptions options;
  Stream *stream; /* (owned); NULL: a device that is only planned for */
} Device;

/* Opens what options->device asks for: "auto" takes the first usable GPU, else the CPU. Errors:
 * ENGINE_ERROR_NO_DEVICE, _UNSUPPORTED, with the reason. */
gboolean device_open (Device *self, const EngineOptions *options, GError **error);
void device_close (Device *self); /* an all-zero Device is a no-op */

/* The device as the user sees it. */
void device_describe (const Device *self, EngineDevice *out);

/* Sets `error` to what `status` means to the user; `doing` completes "while ...". The only place
 * where a Status becomes a GError. */
void device_set_error (const Device *self, Status status, const char *doing, GError **error);

G_END_DECLS
