/* SPDX-License-Identifier: Apache-2.0
 *
 * Where the time and the memory of a picture go on the CPU: seconds of each phase, the share spent
 * in matrix products, convolutions and attention, and peak memory against the plan.
 *
 *   bench-pipeline MODEL [SIZE [STEPS]]
 */
#include "engine/memory/plan.h"

#include <stdlib.h>
#include <string.h>

typedef struct
{
  double linear, conv, attention, other; /* seconds */
  gint64 since;
} Clock;

/* Ops are plain functions without user data; this program has one stream and one clock. */
static Clock clock_now;

static double
lap (void)
{
  gint64 now = g_get_monotonic_time ();
  double seconds = (double)(now - clock_now.since) / 1e6;

  clock_now.since = now;
  return seconds;
}

static Status
timed_attention (Stream *s, const Tensor *qkv, int n_q, int n_kv, bool causal, Tensor *out)
{
  Status status;

  clock_now.other += lap ();
  status = ops_cpu.attention (s, qkv, n_q, n_kv, causal, out);
  clock_now.attention += lap ();
  return status;
}

static Status
timed_conv2d (Stream *s, const Conv *conv, const Tensor *x, const Tensor *residual, Tensor *out)
{
  Status status;

  clock_now.other += lap ();
  status = ops_cpu.conv2d (s, conv, x, residual, out);
  clock_now.conv += lap ();
  return status;
}

static void
before_linear (gpointer user_data, const Linear *linear, const Tensor *x)
{
  clock_now.other += lap ();
}

static void
after_linear (gpointer user_data, const Linear *linear, const Tensor *out)
{
  clock_now.linear += lap ();
}

typedef Status (*PhaseFunc) (const Context *ctx, const Models *models, PipelineRun *run);

static void
run_phase (const Context *base, const char *name, PhaseFunc phase, size_t bytes,
           const Models *models, PipelineRun *run, Clock *total)
{
  Arena arena;
  Context ctx = *base;
  Clock *c = &clock_now;
  double sum;

  clock_now = (Clock){ .since = g_get_monotonic_time () };
  if (arena_init (&arena, ctx.ops, ctx.stream, bytes) != STATUS_OK)
    g_error ("no memory for %s", name);
  ctx.arena = &arena;
  if (phase (&ctx, models, run) != STATUS_OK)
    g_error ("%s failed", name);
  arena_clear (&arena);
  c->other += lap ();
  sum = c->linear + c->conv + c->attention + c->other;
  g_print ("| %-8s | %7.3f | %7.3f | %7.3f | %9.3f | %7.3f | %5.1f %% |\n", name, sum, c->linear,
           c->conv, c->attention, c->other, 100 * (1 - c->other / sum));
  total->linear += c->linear;
  total->conv += c->conv;
  total->attention += c->attention;
  total->other += c->other;
}

/* Resident memory at its highest, as the kernel counts it. */
static guint64
process_peak (void)
{
  g_autofree char *text = NULL;
  const char *line;

  if (!g_file_get_contents ("/proc/self/status", &text, NULL, NULL))
    return 0;
  line = strstr (text, "VmHWM:");
  return line != NULL ? g_ascii_strtoull (line + 6, NULL, 10) * 1024 : 0;
}

static Device device;
static Models models;

static void
load (const char *dir)
{
  const EngineOptions options = { .device = "cpu" };
  const PartPlacement stays = { 0 };
  g_autoptr (GError) error = NULL;
  gint64 started = g_get_monotonic_time ();

  if (!device_open (&device, &options, &error)
      || !models_open (&models, &device, dir, NULL, NULL, NULL, &error))
    g_error ("%s", error->message);
  for (int part = 0; part < MODELS_N_PARTS; part++)
    if (models_load (&models, &device, (ModelsPart)part, ENGINE_PRECISION_BF16, &stays, NULL,
                     &error)
        != STATUS_OK)
      g_error ("%s", error != NULL ? error->message : "cannot load the model");
  g_print ("load: %.3f s\n\n", (double)(g_get_monotonic_time () - started) / 1e6);
}

int
main (int argc, char **argv)
{
  EngineRequest request = ENGINE_REQUEST_INIT;
  PipelineRun run = { .request = &request };
  Ops timed = ops_cpu;
  LinearObserver observer = { before_linear, after_linear, NULL };
  Context ctx = { .ops = &timed, .observer = &observer };
  Clock total = { 0 };
  const Placement whole = { 0 };
  PlanFacts facts;
  guint64 before;
  double all;

  engine_init_process (argv);
  if (argc < 2 || !g_file_test (argv[1], G_FILE_TEST_IS_DIR))
    {
      g_print ("no model at %s: nothing measured\n", argc < 2 ? "?" : argv[1]);
      return 77;
    }
  request.prompt = "a red circle on a blue background";
  request.width = request.height = argc > 2 ? atoi (argv[2]) : 512;
  request.steps = argc > 3 ? atoi (argv[3]) : 8;
  before = process_peak ();
  load (argv[1]);

  timed.attention = timed_attention;
  timed.conv2d = timed_conv2d;
  ctx.stream = device.stream;
  ctx.activation = device_activation (&device.caps);
  ctx.residual = device_residual (&device.caps);
  ctx.caps = &device.caps;
  ctx.options = &device.options;
  if (!pipeline_tokenize (&models, &run, NULL)
      || plan_count (&models, &device, &run, &facts) != STATUS_OK
      || !pipeline_start (&models, &run, NULL))
    g_error ("cannot start");

  g_print ("| phase    | seconds |  linear |    conv | attention |   other | kernels |\n"
           "|----------|---------|---------|---------|-----------|---------|---------|\n");
  run_phase (&ctx, "encode", pipeline_encode, facts.encode, &models, &run, &total);
  run_phase (&ctx, "denoise", pipeline_denoise, facts.denoise, &models, &run, &total);
  run_phase (&ctx, "decode", pipeline_decode, facts.decode[0], &models, &run, &total);

  all = total.linear + total.conv + total.attention + total.other;
  g_print ("\n%s, %dx%d, %d steps: %.3f s; %.1f %% of it in products, convolutions and attention\n"
           "memory: planned %.1f MB; the process grew by %.1f MB\n",
           device.caps.name, request.width, request.height, request.steps, all,
           100 * (1 - total.other / all), (double)plan_peak (&facts, &whole) / 1e6,
           (double)(process_peak () - before) / 1e6);
  pipeline_run_clear (&run);
  models_close (&models, &device);
  device_close (&device);
  return 0;
}
