/* SPDX-License-Identifier: Apache-2.0
 *
 * fake-cuda.c - a libcuda.so.1 that answers what the environment says
 *
 * FAKE_CUDA is "VERSION INIT CARDS SM MEGABYTES": cuDriverGetVersion, the result of cuInit, the
 * number of cards, and what each of them is.
 */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct
{
  int version, init, cards, sm;
  size_t megabytes;
} Answers;

static Answers
answers (void)
{
  Answers a = { 0 };
  const char *text = getenv ("FAKE_CUDA");

  if (text != NULL)
    sscanf (text, "%d %d %d %d %zu", &a.version, &a.init, &a.cards, &a.sm, &a.megabytes);
  return a;
}

/* As the driver declares them, but for its names of types. */
int cuDriverGetVersion (int *version);
int cuInit (unsigned flags);
int cuDeviceGetCount (int *count);
int cuDeviceGetName (char *name, int length, int device);
int cuDeviceGetAttribute (int *value, int attribute, int device);
int cuDeviceTotalMem_v2 (size_t *bytes, int device);

int
cuDriverGetVersion (int *version)
{
  *version = answers ().version;
  return 0;
}

int
cuInit (unsigned flags)
{
  return flags != 0 ? 1 : answers ().init;
}

int
cuDeviceGetCount (int *count)
{
  *count = answers ().cards;
  return 0;
}

int
cuDeviceGetName (char *name, int length, int device)
{
  snprintf (name, (size_t)length, "NVIDIA Test %d", device);
  return 0;
}

int
cuDeviceGetAttribute (int *value, int attribute, int device)
{
  const Answers a = answers ();

  if (device < 0 || device >= a.cards || (attribute != 75 && attribute != 76))
    return 1;
  *value = attribute == 75 ? a.sm / 10 : a.sm % 10;
  return 0;
}

int
cuDeviceTotalMem_v2 (size_t *bytes, int device)
{
  *bytes = answers ().megabytes * 1000 * 1000;
  return device < answers ().cards ? 0 : 1;
}
