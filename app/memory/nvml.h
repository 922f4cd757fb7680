/* SPDX-License-Identifier: Apache-2.0
 *
 * nvml.h - who holds a graphics card's memory, by NVIDIA's management library
 *
 * The library comes with the driver and is loaded when it is there. Without it the gauge shows what
 * the compute driver says: how much is free, but not whose the rest is. Any thread; calls may take
 * some milliseconds.
 */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

typedef struct _Nvml Nvml;

#define NVML_LIBRARY   "libnvidia-ml.so.1"
#define NVML_MAX_NAMED 3

typedef struct
{
  guint64 total, used; /* bytes */
  guint64 ours;        /* of this process, the driver's own share included */
  guint64 others;      /* used - ours */
  /* Those who hold most of it, "firefox", and how much. */
  int n_named;
  struct
  {
    char name[32];
    guint64 bytes;
  } named[NVML_MAX_NAMED];
} NvmlMemory;

/* NULL if there is no such library, or it cannot be used. */
Nvml *nvml_open (const char *library);
void nvml_free (Nvml *self); /* NULL is a no-op */

/* Of the card with this name and total memory in bytes (to 5 %). FALSE if there is none, or more
 * than one: CUDA and NVML number cards differently. */
gboolean nvml_read (Nvml *self, const char *name, guint64 total, NvmlMemory *out);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Nvml, nvml_free)

G_END_DECLS
