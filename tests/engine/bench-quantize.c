/* SPDX-License-Identifier: Apache-2.0
 *
 * What quantising the linears of the published sizes takes, without their weights: seconds of the
 * clock and of the processor, the process's peak memory, and the errors, for one block.
 *
 *   bench-quantize [LEVEL [int4|nvfp4 [NAME]]]      NAME: to_qkv, to_out.0, w13, w2
 *
 * Weights are normal numbers with a few strong directions; inputs are normal numbers with some
 * strong channels, as many rows as `tessera-cli quantize` samples.
 */
#include "engine/engine.h"
#include "engine/svdquant/quantize-linear.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROWS       2048
#define HELD       256 /* of them */
#define DIRECTIONS 8
#define RANK       32

typedef struct
{
  const char *name;
  int64_t n, k;
} Shape;

static const Shape shapes[] = { { "to_qkv", 11520, 3840 },
                                { "to_out.0", 3840, 3840 },
                                { "w13", 20480, 3840 },
                                { "w2", 3840, 10240 } };

static float
normal (guint64 *state)
{
  float sum = 0.0f;

  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  for (int i = 0; i < 4; i++)
    sum += (float)((*state >> (16 * i)) & 0xffff) / 65536.0f - 0.5f;
  return sum * 1.7320508f;
}

static float *
make_weight (const Shape *shape, guint64 *state)
{
  float *weight = g_new (float, (gsize)(shape->n * shape->k));
  g_autofree float *directions = g_new (float, (gsize)(DIRECTIONS * shape->k));

  for (int64_t i = 0; i < DIRECTIONS * shape->k; i++)
    directions[i] = 0.02f * normal (state);
  for (int64_t row = 0; row < shape->n; row++)
    {
      float share[DIRECTIONS];

      for (int d = 0; d < DIRECTIONS; d++)
        share[d] = normal (state);
      for (int64_t i = 0; i < shape->k; i++)
        {
          float sum = 0.02f * normal (state);

          for (int d = 0; d < DIRECTIONS; d++)
            sum += share[d] * directions[d * shape->k + i];
          weight[row * shape->k + i] = sum;
        }
    }
  return weight;
}

static float *
make_inputs (int64_t rows, int64_t k, guint64 *state)
{
  float *inputs = g_new (float, (gsize)(rows * k));
  g_autofree float *strength = g_new (float, (gsize)k);

  for (int64_t i = 0; i < k; i++)
    strength[i] = expf (0.7f * normal (state)) * (i % 97 == 5 ? 12.0f : 1.0f);
  for (int64_t i = 0; i < rows * k; i++)
    inputs[i] = strength[i % k] * normal (state);
  return inputs;
}

static double
now (clockid_t clock)
{
  struct timespec t;

  clock_gettime (clock, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double
process_peak (void)
{
  g_autofree char *text = NULL;
  const char *line = NULL;

  if (g_file_get_contents ("/proc/self/status", &text, NULL, NULL))
    line = strstr (text, "VmHWM:");
  return line != NULL ? (double)g_ascii_strtoull (line + 6, NULL, 10) * 1024 / 0x1p30 : 0.0;
}

static void
measure (const Shape *shape, const QuantizeSettings *settings)
{
  guint64 state = 0x9e3779b97f4a7c15u;
  gboolean calibrated = settings->level != QUANTIZE_DATA_FREE;
  g_autofree float *weight = make_weight (shape, &state);
  g_autofree float *inputs = make_inputs (ROWS, shape->k, &state);
  const QuantizeProblem problem = { .n = shape->n,
                                    .k = shape->k,
                                    .weight = weight,
                                    .inputs = calibrated ? inputs : NULL,
                                    .held = inputs + (ROWS - HELD) * shape->k,
                                    .n_inputs = calibrated ? ROWS - HELD : 0,
                                    .n_held = HELD };
  double started = now (CLOCK_MONOTONIC), busy = now (CLOCK_PROCESS_CPUTIME_ID);
  g_autoptr (GError) error = NULL;
  g_autoptr (QuantizeResult) result = quantize_linear (&problem, settings, NULL, &error);

  if (result == NULL)
    g_error ("%s", error->message);
  g_print ("| %-8s | %5d x %5d | %7.1f s | %7.1f s | %.2f GiB | %.4f | %.4f | %.4f | %.4f |\n",
           shape->name, (int)shape->n, (int)shape->k, now (CLOCK_MONOTONIC) - started,
           now (CLOCK_PROCESS_CPUTIME_ID) - busy, process_peak (), result->plain.output,
           result->smoothed.output, result->refined.output, result->final.output);
}

int
main (int argc, char **argv)
{
  QuantizeSettings settings = { SVDQ_INT4, RANK, QUANTIZE_DATA_FREE };

  engine_init_process (argv);
  settings.level = argc > 1 ? (QuantizeLevel)CLAMP (atoi (argv[1]), 0, 2) : QUANTIZE_DATA_FREE;
  if (argc > 2 && g_str_equal (argv[2], "nvfp4"))
    settings.format = SVDQ_NVFP4;
  g_print (
      "level %d, %s, rank %d, %d rows\n\n"
      "| linear   | size          | clock     | processor | peak     | plain  | smooth | refin. "
      "| final  |\n|---|---|---|---|---|---|---|---|---|\n",
      (int)settings.level, settings.format == SVDQ_INT4 ? "INT4" : "NVFP4", RANK, ROWS);
  for (guint i = 0; i < G_N_ELEMENTS (shapes); i++)
    if (argc < 4 || g_str_equal (argv[3], shapes[i].name))
      measure (&shapes[i], &settings);
  return 0;
}
