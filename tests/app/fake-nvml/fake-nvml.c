/* SPDX-License-Identifier: Apache-2.0
 *
 * fake-nvml.c - a libnvidia-ml.so.1 that answers what the environment says
 *
 * FAKE_NVML is "CARDS TOTAL USED PID=BYTES…" in megabytes: all cards alike, a process draws if it
 * is the first, computes otherwise.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct
{
  unsigned long long total, free, used;
} Memory;

typedef struct
{
  unsigned pid;
  unsigned long long bytes;
  unsigned gpu_instance, compute_instance;
} Process;

int nvmlInit_v2 (void);
int nvmlShutdown (void);
int nvmlDeviceGetCount_v2 (unsigned *count);
int nvmlDeviceGetHandleByIndex_v2 (unsigned index, void **card);
int nvmlDeviceGetName (void *card, char *name, unsigned length);
int nvmlDeviceGetMemoryInfo (void *card, Memory *memory);
int nvmlDeviceGetComputeRunningProcesses_v3 (void *card, unsigned *count, Process *list);
int nvmlDeviceGetGraphicsRunningProcesses_v3 (void *card, unsigned *count, Process *list);

static const char *
answers (unsigned *cards, Memory *memory)
{
  const char *text = getenv ("FAKE_NVML");
  int end = 0;

  *cards = 0;
  if (text == NULL
      || sscanf (text, "%u %llu %llu%n", cards, &memory->total, &memory->used, &end) != 3)
    return "";
  memory->total <<= 20;
  memory->used <<= 20;
  memory->free = memory->total - memory->used;
  return text + end;
}

int
nvmlInit_v2 (void)
{
  return getenv ("FAKE_NVML") != NULL ? 0 : 9; /* NVML_ERROR_DRIVER_NOT_LOADED */
}

int
nvmlShutdown (void)
{
  return 0;
}

int
nvmlDeviceGetCount_v2 (unsigned *count)
{
  Memory memory;

  answers (count, &memory);
  return 0;
}

int
nvmlDeviceGetHandleByIndex_v2 (unsigned index, void **card)
{
  static char cards[8];

  *card = &cards[index % 8];
  return 0;
}

int
nvmlDeviceGetName (void *card, char *name, unsigned length)
{
  snprintf (name, length, "A graphics card");
  return 0;
}

int
nvmlDeviceGetMemoryInfo (void *card, Memory *memory)
{
  unsigned cards;

  answers (&cards, memory);
  return 0;
}

static int
list_processes (Process *list, unsigned *count, int drawing)
{
  unsigned cards, pid, n = 0, seen = 0;
  unsigned long long bytes;
  Memory memory;
  const char *text = answers (&cards, &memory);
  int end;

  while (sscanf (text, " %u=%llu%n", &pid, &bytes, &end) == 2)
    {
      if ((seen++ == 0) == drawing && n < *count)
        list[n++] = (Process){ .pid = pid, .bytes = bytes << 20 };
      text += end;
    }
  *count = n;
  return 0;
}

int
nvmlDeviceGetComputeRunningProcesses_v3 (void *card, unsigned *count, Process *list)
{
  return list_processes (list, count, 0);
}

int
nvmlDeviceGetGraphicsRunningProcesses_v3 (void *card, unsigned *count, Process *list)
{
  return list_processes (list, count, 1);
}
