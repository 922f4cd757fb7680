/* SPDX-License-Identifier: Apache-2.0
 *
 * Another program takes the device's memory while a picture is drawn: this program, run a second
 * time. The engine must step down and finish with the same picture; where nothing is left it may
 * stop, and must finish, from where it stopped, once there is memory again.
 */
#include "tests/engine/bench-memory.h"

#include "engine/computer/device.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#define MIB   ((guint64)1 << 20)
#define PIECE (4 * GIB)
#define CASES 60 /* of each type, while there is time */
#define STEPS 4
#define CALLS 6 /* of progress beside the steps: three parts loaded, prompt, noise, decoder */
#define SIDE  1024
#define SEED  20260119

/* -- the other program --------------------------------------------------------------------------
 */

typedef struct
{
  Device device;
  GPtrArray *held;
  guint64 bytes;
} Taker;

static guint64
free_memory (const Taker *self)
{
  DeviceCaps caps = self->device.caps;

  (void)self->device.ops->query (caps.index, &caps);
  return caps.free_memory;
}

/* Takes what is free but for `leave` bytes, in pieces that get smaller. */
static void
take (Taker *self, guint64 leave)
{
  guint64 piece = PIECE;

  while (piece >= 2 * MIB)
    {
      guint64 free = free_memory (self);
      void *memory;

      if (free < leave + piece
          || self->device.ops->alloc (self->device.stream, piece, &memory) != STATUS_OK)
        {
          piece /= 2;
          continue;
        }
      g_ptr_array_add (self->held, memory);
      self->bytes += piece;
    }
}

static void
give_back (Taker *self)
{
  for (guint i = 0; i < self->held->len; i++)
    self->device.ops->free (self->device.stream, self->held->pdata[i]);
  g_ptr_array_set_size (self->held, 0);
  self->bytes = 0;
}

/* "leave BYTES", "grab SECONDS" (of whatever becomes free), "release", one a line; answers each
 * with what it holds, "grab" before it begins. */
int
bench_take_main (const char *device)
{
  EngineOptions options = { .device = device };
  Taker self = { .held = g_ptr_array_new () };
  char line[64];
  void *first;

  if (!device_open (&self.device, &options, NULL) || self.device.caps.kind != DEVICE_CUDA
      || self.device.ops->alloc (self.device.stream, MIB, &first) != STATUS_OK)
    return 1;
  while (fgets (line, sizeof line, stdin) != NULL)
    {
      double number = strchr (line, ' ') != NULL ? g_ascii_strtod (strchr (line, ' '), NULL) : 0.0;
      gboolean grabs = g_str_has_prefix (line, "grab");
      gint64 end = g_get_monotonic_time () + (gint64)(number * G_USEC_PER_SEC);

      if (g_str_has_prefix (line, "leave"))
        take (&self, (guint64)number);
      else if (!grabs)
        give_back (&self);
      printf ("%" G_GUINT64_FORMAT "\n", self.bytes);
      fflush (stdout);
      while (grabs && g_get_monotonic_time () < end)
        take (&self, 0);
    }
  give_back (&self);
  self.device.ops->free (self.device.stream, first);
  g_ptr_array_unref (self.held);
  device_close (&self.device);
  return 0;
}

/* -- telling it what to do ----------------------------------------------------------------------
 */

typedef struct
{
  GSubprocess *process;
  GDataInputStream *answers;
} Other;

static guint64
tell (Other *self, const char *format, ...)
{
  GOutputStream *commands = g_subprocess_get_stdin_pipe (self->process);
  g_autofree char *text = NULL, *answer = NULL;
  va_list args;

  va_start (args, format);
  text = g_strdup_vprintf (format, args);
  va_end (args);
  if (!g_output_stream_write_all (commands, text, strlen (text), NULL, NULL, NULL)
      || !g_output_stream_flush (commands, NULL, NULL))
    return 0;
  answer = g_data_input_stream_read_line (self->answers, NULL, NULL, NULL);
  return answer != NULL ? g_ascii_strtoull (answer, NULL, 10) : 0;
}

static gboolean
start_other (Other *self, const char *device)
{
  g_autoptr (GError) error = NULL;

  self->process = g_subprocess_new (G_SUBPROCESS_FLAGS_STDIN_PIPE | G_SUBPROCESS_FLAGS_STDOUT_PIPE,
                                    &error, "/proc/self/exe", BENCH_TAKE, device, NULL);
  if (self->process == NULL)
    {
      g_print ("the other program does not start: %s\n", error->message);
      return FALSE;
    }
  self->answers = g_data_input_stream_new (g_subprocess_get_stdout_pipe (self->process));
  (void)tell (self, "release\n");
  return TRUE;
}

static void
end_other (Other *self)
{
  (void)g_output_stream_close (g_subprocess_get_stdin_pipe (self->process), NULL, NULL);
  (void)g_subprocess_wait (self->process, NULL, NULL);
  g_object_unref (self->answers);
  g_object_unref (self->process);
}

/* -- one picture --------------------------------------------------------------------------------
 */

typedef struct
{
  Other *other;
  int after;     /* progress calls until it takes; -1: no more */
  guint64 leave; /* bytes */
  double grabs;  /* seconds, behind that */
  guint64 taken;
  EnginePhase phase; /* where it was */
  guint step;
  int first_step; /* the first seen of denoising; -1: none */
} Trap;

static void
on_progress (EnginePhase phase, guint step, guint n_steps, Image *preview, gpointer user_data)
{
  Trap *trap = user_data;

  if (phase == ENGINE_PHASE_DENOISE && trap->first_step < 0)
    trap->first_step = (int)step;
  if (trap->after < 0 || trap->after-- > 0)
    return;
  trap->phase = phase;
  trap->step = step;
  trap->taken = tell (trap->other, "leave %" G_GUINT64_FORMAT "\n", trap->leave);
  if (trap->grabs > 0)
    (void)tell (trap->other, "grab %g\n", trap->grabs);
}

static const char *
outcome_name (gboolean drawn, int resumed)
{
  return drawn ? "drawn" : resumed > 0 ? "stopped, went on" : "stopped, began again";
}

static void
report (Bench *bench, int type, const Trap *trap, gboolean warm, gboolean drawn, int resumed,
        int differ)
{
  static const char *const phases[] = { "load", "encode", "denoise", "decode" };
  cJSON *list = cJSON_GetObjectItemCaseSensitive (bench->root, "squeeze");
  cJSON *row = cJSON_CreateObject ();

  if (list == NULL)
    list = cJSON_AddArrayToObject (bench->root, "squeeze");
  cJSON_AddItemToArray (list, row);
  cJSON_AddStringToObject (row, "type", bench_types[type]);
  cJSON_AddBoolToObject (row, "loaded_before", warm);
  cJSON_AddStringToObject (row, "phase", phases[trap->phase]);
  cJSON_AddNumberToObject (row, "step", trap->step);
  cJSON_AddNumberToObject (row, "taken", (double)trap->taken);
  cJSON_AddNumberToObject (row, "left", (double)trap->leave);
  cJSON_AddBoolToObject (row, "grabs", trap->grabs > 0);
  cJSON_AddStringToObject (row, "outcome", outcome_name (drawn, resumed));
  cJSON_AddNumberToObject (row, "resumed_from", resumed);
  cJSON_AddNumberToObject (row, "differs_by", differ);
  g_print ("| %s | %s | %s %u | %.1f | %.2f%s | %s %d | %d |\n", bench_types[type],
           warm ? "loaded" : "new", phases[trap->phase], trap->step, (double)trap->taken / GIB,
           (double)trap->leave / GIB, trap->grabs > 0 ? ", and what is freed" : "",
           outcome_name (drawn, resumed), resumed, differ);
  bench_save (bench);
}

/* A picture while memory goes; and if there was none, the same request once it is back. */
static void
run_trap (Bench *bench, int type, Trap *trap, gboolean warm, const EngineRequest *r,
          const Image *expected)
{
  Engine *engine = bench->engines[type];
  g_autoptr (GError) error = NULL;
  g_autoptr (Image) image = NULL;
  gboolean drawn;
  int resumed = 0, differ;

  if (!warm)
    engine_trim (engine);
  image = engine_generate (engine, r, on_progress, trap, NULL, &error);
  drawn = image != NULL;
  (void)tell (trap->other, "release\n");
  if (!drawn && g_error_matches (error, ENGINE_ERROR, ENGINE_ERROR_MEMORY))
    {
      trap->after = trap->first_step = -1;
      g_clear_error (&error);
      image = engine_generate (engine, r, on_progress, trap, NULL, &error);
      resumed = MAX (trap->first_step, 0);
    }
  differ = bench_difference (image, expected);
  report (bench, type, trap, warm, drawn, resumed, differ);
  if (image == NULL)
    bench_fail (bench, "squeeze", error->message);
  else if (trap->taken == 0)
    bench_fail (bench, "squeeze", "the other program took nothing");
  else if (differ > 2) /* the decoder in bands rounds otherwise */
    bench_fail (bench, "squeeze", "the picture is not the resident one");
}

static void
squeeze_type (Bench *bench, int type, Other *other, gint64 deadline)
{
  static const guint64 left[] = { 0, 256 * MIB, 1 * GIB, 3 * GIB, 8 * GIB };
  g_autoptr (GRand) rand = g_rand_new_with_seed (SEED);
  g_autoptr (Image) expected = NULL;
  g_autoptr (GError) error = NULL;
  EngineRequest r = bench_request (type, SIDE, SIDE, STEPS);

  r.prompt = "a lighthouse at dusk";
  engine_set_limits (bench->engines[type], ENGINE_OFFLOAD_AUTO, 0);
  expected = engine_generate (bench->engines[type], &r, NULL, NULL, NULL, &error);
  if (expected == NULL)
    {
      bench_fail (bench, "squeeze", error->message);
      return;
    }
  for (int i = 0; i < CASES && g_get_monotonic_time () < deadline; i++)
    {
      Trap trap = { .other = other, .first_step = -1 };
      gboolean warm = g_rand_int_range (rand, 0, 4) > 0;

      trap.after = g_rand_int_range (rand, 0, CALLS + STEPS);
      trap.leave = left[g_rand_int_range (rand, 0, G_N_ELEMENTS (left))];
      trap.grabs = i % 3 == 2 ? 0.4 : 0.0;
      run_trap (bench, type, &trap, warm, &r, expected);
    }
}

void
bench_squeeze (Bench *self)
{
  Other other;
  gint64 now = g_get_monotonic_time (), rest = MAX (self->deadline - now, 0);

  (void)signal (SIGPIPE, SIG_IGN); /* the other program may end early */
  if (!start_other (&other, self->device))
    {
      bench_fail (self, "squeeze", "no second process");
      return;
    }
  g_print (
      "\n| type | weights | at | another takes GiB | leaves GiB | outcome, from step | differs by "
      "|\n|---|---|---|---|---|---|---|\n");
  for (int type = 0, n = 0; type < BENCH_N_TYPES; type++)
    if (self->engines[type] != NULL)
      {
        squeeze_type (self, type, &other, now + rest * (1 + n++) / 2);
        engine_trim (self->engines[type]);
      }
  end_other (&other);
}
