/* SPDX-License-Identifier: Apache-2.0
 *
 * benchmark.h - how fast a device makes pictures, and how far that is from what it could do
 *
 * What the command line and the app measure and write, so that they agree. A benchmark is one
 * request, made once with everything to load and then again; its figures are medians.
 *
 * The floor of a step is the time that its matrix products and its attention alone would take at
 * the rate at which this device, a moment before, multiplied two large matrices of 16-bit weights
 * in this program. No data sheet enters. Layers of 4 bit may go below it.
 */
#pragma once

#include "engine/engine.h"

G_BEGIN_DECLS

#define BENCHMARK_MAX_RUNS 100

/* Seconds of a request. */
typedef struct
{
  double load, encode, denoise, decode, total;
  double step; /* mean without the first, which also prepares the prompt */
} BenchmarkTimes;

typedef struct
{
  char *model;            /* (owned) */
  EngineRequest *request; /* (owned) */
  EngineDevice device;
  const char *kernels;  /* engine_get_kernels */
  double open;          /* seconds to read the model's headers; 0 = they had been read before */
  BenchmarkTimes first; /* with whatever was not loaded yet */
  BenchmarkTimes *warm; /* (owned) */
  int n_warm;
  BenchmarkTimes median;  /* of the warm ones */
  EngineMemory memory;    /* `peak`: of all runs */
  double product_rate;    /* operations a second of a bare product; 0 = not measured */
  double step_operations; /* of the products and the attention of a step; 0 = not known */
} Benchmark;

void benchmark_clear (Benchmark *self); /* an all-zero one is a no-op */

/* Makes the picture 1 + n_warm times; for a cold start the caller trims the engine before. On the
 * engine's thread. `progress` counts steps of all runs together in ENGINE_PHASE_DENOISE. Errors:
 * engine_generate's; `out` is cleared by the caller in any case. */
gboolean benchmark_run (Engine *engine, const char *model, const EngineRequest *request, int n_warm,
                        EngineProgress progress, gpointer user_data, GCancellable *cancellable,
                        Benchmark *out, GError **error);

/* For product_rate: some 0.3 s and 20 MB (GPU: 400 MB) on the device that `options` ask for; 0 on a
 * device that cannot do it. Errors: those of opening the device. */
gboolean benchmark_measure_rate (const EngineOptions *options, double *rate, GError **error);

/* For step_operations: read from the headers of `model`. Errors: those of opening device and model.
 */
gboolean benchmark_count_operations (const char *model, const EngineOptions *options,
                                     const EngineRequest *request, double *operations,
                                     GError **error);

/* The floor of a step in seconds, and its share of the measured step; 0 = not known. */
double benchmark_floor (const Benchmark *self);
double benchmark_share (const Benchmark *self);

/* One JSON object (transfer full: g_free), and `n` of them in an array of an object with a schema,
 * written as a file. */
char *benchmark_to_json (const Benchmark *self);
gboolean benchmark_save (const Benchmark *const *all, int n, const char *path, GError **error);

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Benchmark, benchmark_clear)

G_END_DECLS
