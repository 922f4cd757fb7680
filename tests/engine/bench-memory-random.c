/* SPDX-License-Identifier: Apache-2.0
 *
 * Random requests: as many at each cap, of random sizes, precisions, levels and LoRA files, a part
 * of them cancelled on the way. All are drawn beforehand, and run where the weights already are as
 * they want them, or most of the time would go into loading. What is drawn must be the picture of a
 * run with everything resident.
 */
#include "tests/engine/bench-memory.h"

#include "engine/files/safetensors.h"

#include <glib/gstdio.h>
#include <stdio.h>
#include <unistd.h>

#define EACH    100 /* at each cap */
#define N_SIZES 8
#define N_SETS  3 /* of LoRA files: none, one, both */
#define SEED    20260117

typedef struct
{
  int type, cap, size, set;
  EngineOffload level;
  int after; /* progress calls until it is cancelled; -1: it is not */
} Case;

struct _Randoms
{
  Bench *bench;
  GRand *rand;
  GArray *cases; /* Case */
  cJSON *object; /* borrowed */
  int widths[N_SIZES], heights[N_SIZES];
  Image *residents[BENCH_N_TYPES][N_SIZES][N_SETS]; /* (owned) drawn when first needed */
  char *files[2];                                   /* (owned) LoRA files */
  EngineLora loras[2];
  struct
  {
    int requests, drawn, refused, cancelled, equal, banded, with_lora;
  } at[BENCH_N_CAPS];
  int failures;
  double least, most; /* peak of planned peak, where a picture was drawn */
};

/* -- LoRA files ---------------------------------------------------------------------------------
 */

#define RANK 4

/* The published sizes (spec z-image 1.2). */
static const struct
{
  const char *name;
  int64_t rows, in;
} layers[] = {
  { "attention.to_q", 3840, 3840 },   { "attention.to_k", 3840, 3840 },
  { "attention.to_v", 3840, 3840 },   { "attention.to_out.0", 3840, 3840 },
  { "feed_forward.w1", 10240, 3840 }, { "feed_forward.w3", 10240, 3840 },
  { "feed_forward.w2", 3840, 10240 },
};

static void
add_factor (SafetensorsWriter *writer, GPtrArray *held, GRand *rand, const char *name, int64_t a,
            int64_t b)
{
  float *data = g_new (float, (gsize)(a * b));

  for (int64_t i = 0; i < a * b; i++)
    data[i] = (float)g_rand_double_range (rand, -0.04, 0.04);
  g_ptr_array_add (held, data);
  safetensors_writer_add (writer, name, DTYPE_F32, 2, (int64_t[]){ a, b }, data);
}

/* For the blocks first, first + step ... of the transformer (transfer full: a new file). */
static char *
write_lora (GRand *rand, int first, int step)
{
  g_autoptr (SafetensorsWriter) writer = safetensors_writer_new ();
  g_autoptr (GPtrArray) held = g_ptr_array_new_with_free_func (g_free);
  g_autoptr (GError) error = NULL;
  char *path = g_build_filename (g_get_tmp_dir (), "tessera-lora-XXXXXX", NULL);

  for (int block = first; block < 30; block += step)
    for (guint i = 0; i < G_N_ELEMENTS (layers); i++)
      {
        g_autofree char *a
            = g_strdup_printf ("transformer.layers.%d.%s.lora_A.weight", block, layers[i].name);
        g_autofree char *b
            = g_strdup_printf ("transformer.layers.%d.%s.lora_B.weight", block, layers[i].name);

        add_factor (writer, held, rand, a, RANK, layers[i].in);
        add_factor (writer, held, rand, b, layers[i].rows, RANK);
      }
  g_close (g_mkstemp (path), NULL);
  if (!safetensors_writer_write (writer, path, &error))
    g_error ("%s", error->message);
  return path;
}

/* -- one request --------------------------------------------------------------------------------
 */

typedef struct
{
  GCancellable *cancellable;
  int after;
} Fuse;

static void
on_fuse (EnginePhase phase, guint step, guint n_steps, Image *preview, gpointer user_data)
{
  Fuse *fuse = user_data;

  if (fuse->after >= 0 && fuse->after-- == 0)
    g_cancellable_cancel (fuse->cancellable);
}

static EngineRequest
make_request (const Randoms *self, const Case *c, const char *prompt)
{
  EngineRequest r = bench_request (c->type, self->widths[c->size], self->heights[c->size], 2);

  r.prompt = prompt;
  r.loras = self->loras;
  r.n_loras = (guint)c->set;
  return r;
}

/* Each size and set of files has a prompt of its own. */
static char *
make_prompt (const Case *c)
{
  return bench_prompt (1000 + c->size * N_SETS + c->set);
}

static void
fail (Randoms *self, const Case *c, const char *why)
{
  g_autofree char *what = g_strdup_printf (
      "random: %d GiB, %s, %d x %d, %d LoRA, level %s, cancelled after %d",
      (int)(bench_caps[c->cap] / GIB), bench_types[c->type], self->widths[c->size],
      self->heights[c->size], c->set, engine_offload_name (c->level), c->after);

  self->failures++;
  bench_fail (self->bench, what, why);
}

static void
draw_resident (Randoms *self, const Case *c)
{
  Image **resident = &self->residents[c->type][c->size][c->set];
  g_autofree char *prompt = make_prompt (c);
  EngineRequest r = make_request (self, c, prompt);
  g_autoptr (GError) error = NULL;

  if (*resident != NULL)
    return;
  engine_set_limits (self->bench->engines[c->type], ENGINE_OFFLOAD_NONE, 0);
  *resident = engine_generate (self->bench->engines[c->type], &r, NULL, NULL, NULL, &error);
  if (*resident == NULL)
    fail (self, c, error->message);
}

static void
check_picture (Randoms *self, const Case *c, const EnginePlan *plan, const Image *image)
{
  int differ = bench_difference (image, self->residents[c->type][c->size][c->set]);
  EngineMemory memory;
  double share;

  engine_get_memory (self->bench->engines[c->type], &memory);
  share = (double)memory.peak / (double)plan->peak;
  self->least = MIN (self->least, share);
  self->most = MAX (self->most, share);
  if (memory.peak > bench_caps[c->cap])
    fail (self, c, "more memory than the budget");
  self->at[c->cap].drawn++;
  self->at[c->cap].with_lora += c->set > 0;
  self->at[c->cap].equal += differ == 0;
  self->at[c->cap].banded += differ > 0 && plan->band > 0;
  if (differ > (plan->band > 0 ? 2 : 0))
    fail (self, c, "the picture is not the resident one");
}

static void
run_case (Randoms *self, const Case *c)
{
  Engine *engine = self->bench->engines[c->type];
  g_autoptr (GCancellable) cancellable = g_cancellable_new ();
  g_autofree char *prompt = make_prompt (c);
  EngineRequest r = make_request (self, c, prompt);
  Fuse fuse = { cancellable, c->after };
  g_autoptr (GError) error = NULL;
  g_autoptr (Image) image = NULL;
  EnginePlan plan;

  engine_set_limits (engine, c->level, bench_caps[c->cap]);
  self->at[c->cap].requests++;
  if (!engine_plan (engine, &r, &plan, &error))
    {
      fail (self, c, error->message);
      return;
    }
  image = engine_generate (engine, &r, on_fuse, &fuse, cancellable, &error);
  if (image != NULL)
    check_picture (self, c, &plan, image);
  else if (g_error_matches (error, G_IO_ERROR, G_IO_ERROR_CANCELLED) && c->after >= 0)
    self->at[c->cap].cancelled++;
  else if (g_error_matches (error, ENGINE_ERROR, ENGINE_ERROR_MEMORY) && !plan.fits)
    self->at[c->cap].refused++;
  else
    fail (self, c, error->message);
}

/* -- all of them --------------------------------------------------------------------------------
 */

static void
make_cases (Randoms *self)
{
  for (int i = 0; i < EACH * BENCH_N_CAPS; i++)
    {
      Case c = { .cap = i % BENCH_N_CAPS,
                 .type = g_rand_int_range (self->rand, 0, BENCH_N_TYPES),
                 .size = g_rand_int_range (self->rand, 0, N_SIZES),
                 .set = g_rand_int_range (self->rand, 0, N_SETS),
                 .level = (EngineOffload)g_rand_int_range (self->rand, 0, ENGINE_N_OFFLOADS) };

      c.after = g_rand_int_range (self->rand, 0, 4) == 0 ? g_rand_int_range (self->rand, 0, 9) : -1;
      g_array_append_val (self->cases, c);
    }
}

/* Main memory that this process holds. */
static double
resident_bytes (void)
{
  g_autofree char *text = NULL;
  unsigned long pages = 0;

  if (g_file_get_contents ("/proc/self/statm", &text, NULL, NULL))
    (void)sscanf (text, "%*u %lu", &pages);
  return (double)pages * (double)sysconf (_SC_PAGESIZE);
}

/* What the first device has left, in bytes. */
static double
free_bytes (void)
{
  g_autoptr (GArray) devices = engine_list_devices ();

  return (double)g_array_index (devices, EngineDevice, 0).free_memory;
}

/* With everything given back: what is held then must not grow. */
static void
note_growth (Randoms *self, int type)
{
  cJSON *row = cJSON_CreateObject ();

  engine_trim (self->bench->engines[type]);
  cJSON_AddItemToArray (cJSON_GetObjectItemCaseSensitive (self->object, "given_back"), row);
  cJSON_AddStringToObject (row, "type", bench_types[type]);
  cJSON_AddNumberToObject (row, "device_free", free_bytes ());
  cJSON_AddNumberToObject (row, "process", resident_bytes ());
  g_print ("%s, all given back: %.3f GiB free on the device, the process has %.3f GiB\n",
           bench_types[type], free_bytes () / GIB, resident_bytes () / GIB);
}

static void
note_counts (Randoms *self)
{
  cJSON *object = self->object;
  cJSON *list = cJSON_CreateArray ();

  cJSON_DeleteItemFromObjectCaseSensitive (object, "caps");
  cJSON_AddItemToObject (object, "caps", list);
  cJSON_DeleteItemFromObjectCaseSensitive (object, "least_of_plan");
  cJSON_AddNumberToObject (object, "least_of_plan", self->least);
  cJSON_DeleteItemFromObjectCaseSensitive (object, "most_of_plan");
  cJSON_AddNumberToObject (object, "most_of_plan", self->most);
  cJSON_DeleteItemFromObjectCaseSensitive (object, "failures");
  cJSON_AddNumberToObject (object, "failures", self->failures);
  for (int i = 0; i < BENCH_N_CAPS; i++)
    {
      cJSON *row = cJSON_CreateObject ();

      cJSON_AddItemToArray (list, row);
      cJSON_AddNumberToObject (row, "cap", (double)bench_caps[i]);
      cJSON_AddNumberToObject (row, "requests", self->at[i].requests);
      cJSON_AddNumberToObject (row, "drawn", self->at[i].drawn);
      cJSON_AddNumberToObject (row, "with_lora", self->at[i].with_lora);
      cJSON_AddNumberToObject (row, "equal", self->at[i].equal);
      cJSON_AddNumberToObject (row, "differ_in_bands", self->at[i].banded);
      cJSON_AddNumberToObject (row, "refused", self->at[i].refused);
      cJSON_AddNumberToObject (row, "cancelled", self->at[i].cancelled);
    }
  bench_save (self->bench);
}

static void
print_counts (const Randoms *self)
{
  g_print (
      "\n| cap GiB | random requests | drawn | with LoRA | equal | in bands, by 1 or 2 | refused "
      "| cancelled |\n|---|---|---|---|---|---|---|---|\n");
  for (int i = 0; i < BENCH_N_CAPS; i++)
    g_print ("| %d | %d | %d | %d | %d | %d | %d | %d |\n", (int)(bench_caps[i] / GIB),
             self->at[i].requests, self->at[i].drawn, self->at[i].with_lora, self->at[i].equal,
             self->at[i].banded, self->at[i].refused, self->at[i].cancelled);
  g_print ("held at most: %.4f to %.4f of what was planned\n", self->least, self->most);
}

/* A LoRA that changed nothing would be no test. */
static void
check_loras (Randoms *self)
{
  for (int type = 0; type < BENCH_N_TYPES; type++)
    for (int size = 0; size < N_SIZES; size++)
      for (int set = 1; set < N_SETS; set++)
        if (self->residents[type][size][0] != NULL && self->residents[type][size][set] != NULL
            && bench_difference (self->residents[type][size][0], self->residents[type][size][set])
                   == 0)
          bench_fail (self->bench, "random", "a LoRA changed nothing");
}

Randoms *
bench_random_new (Bench *bench)
{
  Randoms *self = g_new0 (Randoms, 1);

  self->bench = bench;
  self->rand = g_rand_new_with_seed (SEED);
  self->cases = g_array_new (FALSE, FALSE, sizeof (Case));
  self->object = cJSON_AddObjectToObject (bench->root, "random");
  self->least = 1.0;
  cJSON_AddArrayToObject (self->object, "given_back");
  for (int i = 0; i < N_SIZES; i++)
    {
      self->widths[i] = 16 * g_rand_int_range (self->rand, 16, 85);
      self->heights[i] = 16 * g_rand_int_range (self->rand, 16, 85);
    }
  for (int i = 0; i < 2; i++)
    {
      self->files[i] = write_lora (self->rand, 4 * i, 7);
      self->loras[i] = (EngineLora){ .file = self->files[i], .strength = i == 0 ? 0.8 : -0.5 };
    }
  make_cases (self);
  return self;
}

void
bench_random_residents (Randoms *self, int type)
{
  for (guint i = 0; self != NULL && i < self->cases->len; i++)
    if (g_array_index (self->cases, Case, i).type == type)
      draw_resident (self, &g_array_index (self->cases, Case, i));
}

void
bench_random_run (Randoms *self, int type, EngineOffload level, int cap, gint64 deadline)
{
  if (self == NULL)
    return;
  for (guint i = 0; i < self->cases->len && g_get_monotonic_time () < deadline; i++)
    {
      const Case *c = &g_array_index (self->cases, Case, i);

      if (c->type == type && c->level == level && (cap < 0 || c->cap == cap))
        run_case (self, c);
    }
  note_counts (self);
}

void
bench_random_settle (Randoms *self, int type)
{
  if (self != NULL)
    note_growth (self, type);
}

void
bench_random_free (Randoms *self)
{
  if (self == NULL)
    return;
  note_counts (self);
  print_counts (self);
  check_loras (self);
  for (int type = 0; type < BENCH_N_TYPES; type++)
    for (int size = 0; size < N_SIZES; size++)
      for (int set = 0; set < N_SETS; set++)
        image_unref (self->residents[type][size][set]);
  for (int i = 0; i < 2; i++)
    {
      g_unlink (self->files[i]);
      g_free (self->files[i]);
    }
  g_array_unref (self->cases);
  g_rand_free (self->rand);
  g_free (self);
}
