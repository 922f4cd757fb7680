/* SPDX-License-Identifier: Apache-2.0 */
#include "app/memory/nvml.h"

#include <dlfcn.h>
#include <string.h>
#include <unistd.h>

#define MAX_PROCESSES 256

/* What the library's header declares: nvmlMemory_t, nvmlProcessInfo_t, both stable since NVML 11.
 */
typedef struct
{
  unsigned long long total, free, used;
} Memory;

typedef struct
{
  unsigned pid;
  unsigned long long bytes; /* all ones: not known */
  unsigned gpu_instance, compute_instance;
} Process;

typedef void *Card;

struct _Nvml
{
  void *library;
  int (*init) (void);
  int (*shutdown) (void);
  int (*count) (unsigned *count);
  int (*card) (unsigned index, Card *card);
  int (*name) (Card card, char *name, unsigned length);
  int (*memory) (Card card, Memory *memory);
  int (*compute) (Card card, unsigned *count, Process *processes);
  int (*graphics) (Card card, unsigned *count, Process *processes);
};

static gboolean
find_symbols (Nvml *self)
{
  const struct
  {
    const char *name;
    gsize offset;
  } symbols[] = {
    { "nvmlInit_v2", G_STRUCT_OFFSET (Nvml, init) },
    { "nvmlShutdown", G_STRUCT_OFFSET (Nvml, shutdown) },
    { "nvmlDeviceGetCount_v2", G_STRUCT_OFFSET (Nvml, count) },
    { "nvmlDeviceGetHandleByIndex_v2", G_STRUCT_OFFSET (Nvml, card) },
    { "nvmlDeviceGetName", G_STRUCT_OFFSET (Nvml, name) },
    { "nvmlDeviceGetMemoryInfo", G_STRUCT_OFFSET (Nvml, memory) },
    { "nvmlDeviceGetComputeRunningProcesses_v3", G_STRUCT_OFFSET (Nvml, compute) },
    { "nvmlDeviceGetGraphicsRunningProcesses_v3", G_STRUCT_OFFSET (Nvml, graphics) },
  };

  for (gsize i = 0; i < G_N_ELEMENTS (symbols); i++)
    {
      void *symbol = dlsym (self->library, symbols[i].name);

      if (symbol == NULL)
        return FALSE;
      memcpy (G_STRUCT_MEMBER_P (self, symbols[i].offset), &symbol, sizeof symbol);
    }
  return TRUE;
}

Nvml *
nvml_open (const char *library)
{
  void *handle = dlopen (library, RTLD_NOW | RTLD_LOCAL);
  Nvml *self;

  if (handle == NULL)
    return NULL;
  self = g_new0 (Nvml, 1);
  self->library = handle;
  if (find_symbols (self) && self->init () == 0)
    return self;
  dlclose (handle);
  g_free (self);
  return NULL;
}

void
nvml_free (Nvml *self)
{
  if (self == NULL)
    return;
  self->shutdown ();
  dlclose (self->library);
  g_free (self);
}

/* The one card with that name and memory, or NULL. */
static Card
find_card (Nvml *self, const char *name, guint64 total, Memory *memory)
{
  unsigned count = 0;
  Card found = NULL;

  if (self->count (&count) != 0)
    return NULL;
  for (unsigned i = 0; i < count; i++)
    {
      char text[96] = "";
      Memory here;
      Card card;

      if (self->card (i, &card) != 0 || self->name (card, text, sizeof text) != 0
          || strcmp (text, name) != 0 || self->memory (card, &here) != 0
          || here.total < total / 20 * 19 || here.total > total / 20 * 21)
        continue;
      if (found != NULL)
        return NULL;
      found = card;
      *memory = here;
    }
  return found;
}

/* Keeps the list of the largest in order. */
static void
name_process (NvmlMemory *out, const Process *process)
{
  g_autofree char *path = g_strdup_printf ("/proc/%u/comm", process->pid);
  g_autofree char *name = NULL;
  int at = out->n_named;

  while (at > 0 && out->named[at - 1].bytes < process->bytes)
    at--;
  if (at == NVML_MAX_NAMED || !g_file_get_contents (path, &name, NULL, NULL))
    return;
  g_strstrip (name);
  /* A program that draws and computes is in both lists with the same amount. */
  for (int i = 0; i < out->n_named; i++)
    if (out->named[i].bytes == process->bytes && strcmp (out->named[i].name, name) == 0)
      return;
  out->n_named = MIN (out->n_named + 1, NVML_MAX_NAMED);
  memmove (out->named + at + 1, out->named + at, (out->n_named - 1 - at) * sizeof out->named[0]);
  g_strlcpy (out->named[at].name, name, sizeof out->named[at].name);
  out->named[at].bytes = process->bytes;
}

static void
add_processes (NvmlMemory *out, int (*list) (Card, unsigned *, Process *), Card card)
{
  Process processes[MAX_PROCESSES];
  unsigned count = MAX_PROCESSES;

  if (list (card, &count, processes) != 0)
    return;
  for (unsigned i = 0; i < MIN (count, MAX_PROCESSES); i++)
    {
      if (processes[i].bytes == G_MAXUINT64)
        continue;
      if (processes[i].pid == (unsigned)getpid ())
        out->ours = MAX (out->ours, processes[i].bytes);
      else
        name_process (out, &processes[i]);
    }
}

gboolean
nvml_read (Nvml *self, const char *name, guint64 total, NvmlMemory *out)
{
  Memory memory;
  Card card = find_card (self, name, total, &memory);

  if (card == NULL)
    return FALSE;
  *out = (NvmlMemory){ .total = memory.total, .used = memory.used };
  add_processes (out, self->compute, card);
  add_processes (out, self->graphics, card);
  out->ours = MIN (out->ours, out->used);
  out->others = out->used - out->ours;
  return TRUE;
}
