/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/stream.h"
#include "kernels/cpu/primitives.h"

#include <omp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

/* -- what the machine has ----------------------------------------------------------------- */

/* The value of `field` ("MemTotal:") in a file of "name: value" lines, as a copy in `out`. */
static bool
read_field (const char *path, const char *field, char *out, size_t size)
{
  FILE *file = fopen (path, "re");
  char line[512];
  bool found = false;

  if (file == NULL)
    return false;
  while (!found && fgets (line, sizeof line, file) != NULL)
    if (strncmp (line, field, strlen (field)) == 0)
      {
        const char *value = line + strlen (field);

        value += strspn (value, " \t:");
        snprintf (out, size, "%.*s", (int)strcspn (value, "\n"), value);
        found = true;
      }
  fclose (file);
  return found;
}

static uint64_t
memory_field (const char *field)
{
  char text[64];
  struct sysinfo info;

  if (read_field ("/proc/meminfo", field, text, sizeof text))
    return strtoull (text, NULL, 10) * 1024;
  /* Without /proc, or a descriptor to read it by: the page cache is not counted as free then. */
  if (sysinfo (&info) != 0)
    return 0;
  return (uint64_t)info.mem_unit
         * (strcmp (field, "MemTotal") == 0 ? info.totalram : info.freeram + info.bufferram);
}

/* Cores, not hyperthreads: two threads of one core only fight for its multipliers. */
static int
count_cores (void)
{
  int available = omp_get_num_procs ();
  int first_threads = 0;
  int cpu = 0;

  for (;; cpu++)
    {
      char path[96], text[64];

      snprintf (path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list",
                cpu);
      if (!read_field (path, "", text, sizeof text))
        break;
      first_threads += strtol (text, NULL, 10) == cpu;
    }
  if (first_threads == 0 || first_threads >= cpu)
    return available;
  /* An affinity mask may leave fewer; which ones it leaves does not matter here. */
  return available < first_threads ? available : first_threads;
}

Status
cpu_query (int index, DeviceCaps *caps)
{
  memset (caps, 0, sizeof *caps);
  if (index != 0)
    return STATUS_NO_DEVICE;
  caps->kind = DEVICE_CPU;
  if (!read_field ("/proc/cpuinfo", "model name", caps->name, sizeof caps->name))
    snprintf (caps->name, sizeof caps->name, "CPU");
  caps->multiprocessors = count_cores ();
  caps->total_memory = memory_field ("MemTotal");
  caps->free_memory = memory_field ("MemAvailable");
  caps->avx2 = __builtin_cpu_supports ("avx2") && __builtin_cpu_supports ("fma");
  caps->avx512 = caps->avx2 && __builtin_cpu_supports ("avx512f")
                 && __builtin_cpu_supports ("avx512bw") && __builtin_cpu_supports ("avx512dq")
                 && __builtin_cpu_supports ("avx512vl");
  caps->vnni = caps->avx512 && __builtin_cpu_supports ("avx512vnni");
  /* oneDNN does the BF16 products, so its opinion counts; its values are sets of bits. */
  caps->bf16 = (dnnl_get_effective_cpu_isa () & dnnl_cpu_isa_avx512_core_bf16)
               == dnnl_cpu_isa_avx512_core_bf16;
  return STATUS_OK;
}

/* -- opening and closing ------------------------------------------------------------------ */

Status
cpu_open (int index, const StreamOptions *options, Stream **out)
{
  DeviceCaps caps;
  Stream *s;

  *out = NULL;
  CHECK (cpu_query (index, &caps));
  if (options != NULL && options->bf16_math && !caps.bf16)
    return STATUS_UNSUPPORTED;
  s = calloc (1, sizeof *s);
  if (s == NULL)
    return STATUS_NO_MEMORY;
  s->caps = caps;
  if (options != NULL)
    s->options = *options;
  s->memory.budget = s->options.memory_budget;
  s->threads = s->options.threads > 0 ? s->options.threads : caps.multiprocessors;
  s->simd = caps.avx512 ? &simd_avx512 : caps.avx2 ? &simd_avx2 : &simd_sse2;
  s->primitives = primitive_cache_new ();
  if (s->primitives == NULL || dnnl_engine_create (&s->engine, dnnl_cpu, 0) != dnnl_success
      || dnnl_stream_create (&s->queue, s->engine, dnnl_stream_default_flags) != dnnl_success)
    {
      cpu_close (s);
      return STATUS_NO_MEMORY;
    }
  *out = s;
  return STATUS_OK;
}

void
cpu_close (Stream *s)
{
  if (s == NULL)
    return;
  primitive_cache_free (s->primitives);
  if (s->queue != NULL)
    dnnl_stream_destroy (s->queue);
  if (s->engine != NULL)
    dnnl_engine_destroy (s->engine);
  host_free_all (&s->memory);
  free (s);
}

Status
cpu_fail (Stream *s, Status status, const char *format, ...)
{
  va_list args;

  va_start (args, format);
  vsnprintf (s->detail, sizeof s->detail, format, args);
  va_end (args);
  return status;
}

/* -- memory and threads ------------------------------------------------------------------- */

Status
cpu_alloc (Stream *s, size_t bytes, void **out)
{
  Status status = host_alloc (&s->memory, bytes, out);

  if (status == STATUS_OK)
    return status;
  if (s->memory.budget != 0)
    return cpu_fail (s, status, "%zu bytes more than the %llu held go beyond the budget of %llu",
                     bytes, (unsigned long long)s->memory.bytes,
                     (unsigned long long)s->memory.budget);
  return cpu_fail (s, status, "the machine has no %zu bytes left", bytes);
}

static Status
grow (Stream *s, size_t bytes, void **block, size_t *block_bytes)
{
  if (bytes <= *block_bytes)
    return STATUS_OK;
  host_free (&s->memory, *block);
  *block = NULL;
  *block_bytes = 0;
  CHECK (cpu_alloc (s, bytes, block));
  *block_bytes = bytes;
  return STATUS_OK;
}

Status
cpu_scratch (Stream *s, size_t bytes, void **out)
{
  CHECK (grow (s, bytes, &s->scratch, &s->scratch_bytes));
  *out = s->scratch;
  return STATUS_OK;
}

void
cpu_trim (Stream *s)
{
  host_free (&s->memory, s->scratch);
  host_free (&s->memory, s->workspace);
  s->scratch = s->workspace = NULL;
  s->scratch_bytes = s->workspace_bytes = 0;
}

Status
cpu_workspace (Stream *s, size_t bytes, void **out)
{
  CHECK (grow (s, bytes, &s->workspace, &s->workspace_bytes));
  *out = s->workspace;
  return STATUS_OK;
}

int
cpu_threads_enter (Stream *s)
{
  int previous = omp_get_max_threads ();

  omp_set_num_threads (s->threads);
  return previous;
}

void
cpu_threads_restore (int previous)
{
  omp_set_num_threads (previous);
}

int
cpu_thread (void)
{
  return omp_get_thread_num ();
}
