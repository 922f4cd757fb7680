/* SPDX-License-Identifier: Apache-2.0
 *
 * sm90-test.cuh - what the tests of SVDQuant on sm_90 share: inputs, memory, results, and the skip
 */
#pragma once

#include "tests/kernels/cuda-reference.cuh"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <vector>

#define SKIPPED 77

/* What a card says it is if it has these kernels; in the emulation they need no `wgmma`. */
#ifdef EMULATED
#define TESTED_SM 90
#else
#define TESTED_SM WGMMA_SM
#endif

typedef struct
{
  Stream *s;
  uint64_t seed;
  int failures;
} Test;

static inline void
report (Test *t, bool ok, const char *name, const char *text)
{
  if (!ok)
    t->failures++;
  printf ("%-6s %-20s %s %s\n", ok ? "ok" : "FAILED", name, text, ok ? "" : cuda_detail (t->s));
  fflush (stdout);
}

/* A copy of `host` on the card (transfer full: stream_free, or the stream's end). */
template <typename T>
static Status
card (Stream *s, const std::vector<T> &host, T **out)
{
  CHECK (stream_alloc (s, host.size () * sizeof (T) + 16, (void **)out));
  /* In `compute`'s order: what is queued there next reads it. */
  CUDA_CHECK (s, cudaMemcpyAsync (*out, host.data (), host.size () * sizeof (T),
                                  cudaMemcpyHostToDevice, s->compute));
  return STATUS_OK;
}

/* out.size () numbers from the card, when all that is queued has ended. */
template <typename T>
static Status
host_of (Stream *s, const T *device, std::vector<T> &out)
{
  CHECK (cuda_wait (s));
  CUDA_CHECK (s,
              cudaMemcpy (out.data (), device, out.size () * sizeof (T), cudaMemcpyDeviceToHost));
  return STATUS_OK;
}

static inline uint32_t
next (Test *t)
{
  t->seed = t->seed * 6364136223846793005ull + 1442695040888963407ull;
  return (uint32_t)(t->seed >> 32);
}

/* Near enough to normal. */
static inline float
normal (Test *t)
{
  float sum = 0.0f;
  for (int i = 0; i < 4; i++)
    sum += next (t) * 2.3283064e-10f - 0.5f;
  return sum * 1.7320508f;
}

/* The rest of main: `run` on a card of sm_90 with a fresh seed, or SKIPPED. `small`: the program's
 * argument, for what a sanitizer has the time for. */
static inline int
run_on_sm90 (Status (*run) (Test *t, bool small), int argc, char **argv)
{
  Test t = {};
  t.seed = (uint64_t)time (NULL);
  Status status = cuda_open (0, NULL, &t.s);
  if (status == STATUS_NO_DEVICE || status == STATUS_NO_DRIVER)
    return printf ("no card: skipped\n"), SKIPPED;
  if (status == STATUS_OK && t.s->caps.sm != TESTED_SM)
    return printf ("not sm_90: skipped\n"), cuda_close (t.s), SKIPPED;
  if (status == STATUS_OK)
    status = run (&t, argc > 1 && strcmp (argv[1], "small") == 0);
  if (status != STATUS_OK)
    printf ("FAILED %s %s\n", status_name (status), t.s ? cuda_detail (t.s) : "");
  cuda_close (t.s);
  return status != STATUS_OK || t.failures > 0;
}
