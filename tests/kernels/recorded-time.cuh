/* SPDX-License-Identifier: Apache-2.0
 *
 * recorded-time.cuh - times launches as the engine makes them: from a recording
 *
 * For the benchmarks that answer questions (bench-cuda-heavy.cu, bench-svdq-sm90.cu): one question
 * a line on the standard input, one answer a line. A measurement is a recording of launches
 * replayed three times: the median of the replays, a launch.
 */
#pragma once

#include "kernels/cuda/common.cuh"

#include <stdio.h>
#include <stdlib.h>

#define REPLAYS      3
#define REPLAY_MS    8.0f /* length of a recording */
#define MAX_LAUNCHES 64

typedef struct
{
  Stream *s;
  cudaEvent_t start, end;
} Stopwatch;

static inline Status
stopwatch_new (Stream *s, Stopwatch *out)
{
  out->s = s;
  CUDA_CHECK (s, cudaEventCreate (&out->start));
  CUDA_CHECK (s, cudaEventCreate (&out->end));
  return STATUS_OK;
}

static inline int
compare_floats (const void *a, const void *b)
{
  const float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

/* Milliseconds of `launches` runs in one recording. */
template <typename Run>
static Status
time_recording (const Stopwatch *w, Run run, int launches, int replays, float *median)
{
  Stream *s = w->s;
  float times[REPLAYS];
  Recording *recording = NULL;
  CHECK (cuda_record (s));
  Status status = STATUS_OK;
  for (int i = 0; i < launches && status == STATUS_OK; i++)
    status = run (i);
  const Status ended = cuda_record_end (s, &recording);
  if (status != STATUS_OK || ended != STATUS_OK)
    {
      cuda_recording_free (recording);
      return status != STATUS_OK ? status : ended;
    }
  for (int i = -1; i < replays; i++) /* the first warms up */
    {
      CUDA_CHECK (s, cudaEventRecord (w->start, s->compute));
      CHECK (cuda_replay (s, recording));
      CUDA_CHECK (s, cudaEventRecord (w->end, s->compute));
      CHECK (cuda_wait (s));
      CUDA_CHECK (s, cudaEventElapsedTime (&times[i < 0 ? 0 : i], w->start, w->end));
    }
  cuda_recording_free (recording);
  qsort (times, replays, sizeof times[0], compare_floats);
  *median = times[replays / 2];
  return STATUS_OK;
}

/* Prints the milliseconds of run (i), which queues launch number i, or why there are none.
 * STATUS_UNSUPPORTED is an answer too. */
template <typename Run>
static Status
answer_time (const Stopwatch *w, Run run)
{
  float ms = 0.0f;
  Status status = time_recording (w, run, 2, 1, &ms);
  if (status == STATUS_OK)
    {
      int launches = (int)(REPLAY_MS / (ms / 2));
      launches = launches < 4 ? 4 : launches > MAX_LAUNCHES ? MAX_LAUNCHES : launches;
      status = time_recording (w, run, launches, REPLAYS, &ms);
      ms /= launches;
    }
  if (status == STATUS_OK)
    printf ("%.6f\n", ms);
  else
    printf ("%s\n", status_name (status));
  return status == STATUS_UNSUPPORTED ? STATUS_OK : status;
}

/* Names of the variants, from 0, by tabs. */
static inline void
answer_names (const char *(*name) (int variant))
{
  for (int i = 0; name (i) != NULL; i++)
    printf ("%s%s", i ? "\t" : "", name (i));
  printf ("\n");
}

/* The whole of a program: `allocate`, then `answer` for each line until one fails. Its exit status.
 */
template <typename Bench>
static int
answer_questions (Status (*allocate) (Bench *b), Status (*answer) (Bench *b, const char *question))
{
  Bench b = {};
  char line[256];
  Status status = cuda_open (0, NULL, &b.s);
  if (status == STATUS_OK)
    status = stopwatch_new (b.s, &b.watch);
  if (status == STATUS_OK)
    status = allocate (&b);
  setvbuf (stdout, NULL, _IOLBF, 0);
  while (status == STATUS_OK && fgets (line, sizeof line, stdin) != NULL)
    status = answer (&b, line);
  if (status != STATUS_OK)
    fprintf (stderr, "%s %s\n", status_name (status), b.s ? cuda_detail (b.s) : "");
  cuda_close (b.s);
  return status != STATUS_OK;
}
