/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights that come and go. On the CPU a copy is done at once, which forgives much; so here copies
 * happen as late as a card may do them, and what they will overwrite is spoilt as early.
 */
#include "tests/engine/cpu-model.h"

#include "engine/patches.h"

#include <math.h>
#include <string.h>

#define SIDE     8 /* latents */
#define STEPS    3
#define CAPTION  20
#define MAX_JOBS 64

typedef struct
{
  int slot;
  void *to;
  const void *from;
  size_t bytes;
} Copy;

static struct
{
  Copy queue[MAX_JOBS];  /* in order, as one copy engine has them */
  int n, most, streamed; /* under way now, and at once; all into slots of streamed bundles */
  gboolean in_use[SHELF_SLOTS + 1];
} late;

static Status
late_transfer (Stream *s, int slot, void *to, const void *from, size_t bytes)
{
  g_assert_cmpint (late.n, <, MAX_JOBS);
  g_assert_false (late.in_use[slot]);
  memset (to, 0xff, bytes); /* NaN */
  late.queue[late.n++] = (Copy){ slot, to, from, bytes };
  late.most = MAX (late.most, late.n);
  late.streamed += slot < SHELF_SLOTS;
  return STATUS_OK;
}

static Status
late_wait (Stream *s, int slot)
{
  int last = late.n;

  while (last > 0 && late.queue[last - 1].slot != slot)
    last--;
  for (int i = 0; i < last; i++)
    memcpy (late.queue[i].to, late.queue[i].from, late.queue[i].bytes);
  late.in_use[slot] = slot < SHELF_SLOTS;
  late.n -= last;
  memmove (late.queue, late.queue + last, (gsize)late.n * sizeof (Copy));
  return STATUS_OK;
}

/* Behind the device's turn with what lies in a slot; until then nothing may be copied there. */
static Status
late_used (Stream *s, int slot)
{
  late.in_use[slot] = FALSE;
  return STATUS_OK;
}

static void
open_late (CpuModel *self)
{
  cpu_model_open (self, NULL, NULL, 32 << 20);
  self->ops.transfer = late_transfer;
  self->ops.transfer_wait = late_wait;
  self->ops.transfer_used = late_used;
}

static Loader
make_loader (CpuModel *f, CheckpointPart part, gboolean shelved)
{
  Loader loader = cpu_model_loader (f, part);

  loader.resident = TRUE;
  loader.shelved = shelved;
  return loader;
}

/* -- the transformer ----------------------------------------------------------------------------
 */

/* The last step's velocity (transfer full), of the last of so many runs in turn. */
static float *
denoise (CpuModel *f, Transformer *transformer, int n_runs)
{
  const TransformerConfig *c = checkpoint_transformer (f->checkpoint);
  gsize n = (gsize)c->in_channels * SIDE * SIDE, n_embeds = (gsize)c->cap_feat_dim * CAPTION;
  const float sigmas[STEPS + 1] = { 1.0f, 0.8f, 0.5f, 0.0f };
  g_autofree float *embeds = g_new (float, n_embeds), *latents = g_new (float, n);
  float *velocity = g_new (float, n);
  size_t mark = arena_mark (&f->arena, ARENA_LOW);
  TransformerRun *runs[2] = { NULL };

  for (gsize i = 0; i < n_embeds; i++)
    embeds[i] = sinf ((float)i * 0.7f);
  for (gsize i = 0; i < n; i++)
    latents[i] = sinf ((float)i * 1.3f);
  for (int i = 0; i < n_runs; i++)
    g_assert_cmpint (transformer_begin (&f->ctx, transformer, embeds, CAPTION - i, SIDE, SIDE,
                                        sigmas, STEPS, &runs[i]),
                     ==, STATUS_OK);
  for (int step = 0; step < STEPS; step++)
    for (int i = 0; i < n_runs; i++)
      g_assert_cmpint (transformer_step (&f->ctx, transformer, runs[i], step, latents, velocity),
                       ==, STATUS_OK);
  for (int i = 0; i < n_runs; i++)
    transformer_end (&f->ctx, runs[i]);
  arena_release (&f->arena, ARENA_LOW, mark);
  for (gsize i = 0; i < n; i++)
    g_assert_true (isfinite (velocity[i]));
  return velocity;
}

static Status
bring (CpuModel *f, Shelf *shelf)
{
  late.most = late.streamed = 0;
  memset (late.in_use, 0, sizeof late.in_use);
  return shelf_bring (shelf, &f->ctx);
}

/* The picture is the same; the next bundle comes beside the maths, and none that nobody asks for:
 * the blocks that refine the caption run in the first step only. */
static void
check_streamed (CpuModel *f, Transformer *streamed, int n, int n_runs, const float *expected)
{
  const TransformerConfig *c = checkpoint_transformer (f->checkpoint);
  gsize bytes = (gsize)c->in_channels * SIDE * SIDE * sizeof (float);
  Shelf *shelf = transformer_shelf (streamed);
  g_autofree float *velocity = NULL;
  int again = 0;

  shelf_set_streamed (shelf, n);
  g_assert_cmpint (bring (f, shelf), ==, STATUS_OK);
  late.most = 0;
  velocity = denoise (f, streamed, n_runs);
  g_assert_cmpmem (velocity, bytes, expected, bytes);
  for (int i = c->n_refiner_layers; i < 2 * c->n_refiner_layers + c->n_layers; i++)
    again += shelf_is_streamed (shelf, i);
  if (n > SHELF_SLOTS)
    g_assert_cmpint (late.most, >=, SHELF_SLOTS);
  if (n <= SHELF_SLOTS)
    g_assert_cmpint (late.streamed, ==, n); /* each has a slot of its own */
  else if (n_runs == 1)
    g_assert_cmpint (late.streamed, <=, n + (STEPS - 1) * again + SHELF_SLOTS);
  shelf_put_away (shelf, &f->ctx);
}

/* Two runs in turn are as with a negative prompt, whose order of blocks nobody expects. */
static void
test_transformer (void)
{
  CpuModel f;
  const TransformerConfig *c;
  guint64 before;

  open_late (&f);
  c = checkpoint_transformer (f.checkpoint);
  before = f.ops.allocated (f.device.stream);
  {
    Loader plain = make_loader (&f, CHECKPOINT_TRANSFORMER, FALSE);
    Loader shelved = make_loader (&f, CHECKPOINT_TRANSFORMER, TRUE);
    Transformer *resident = transformer_new (&plain, c);
    Transformer *streamed = transformer_new (&shelved, c);
    int bundles = 2 * c->n_refiner_layers + c->n_layers;

    cpu_model_assert_loaded (&plain);
    cpu_model_assert_loaded (&shelved);
    g_assert_cmpuint (shelf_image_bytes (transformer_shelf (streamed)), >, 0);
    for (int n_runs = 1; n_runs <= 2; n_runs++)
      {
        g_autofree float *expected = denoise (&f, resident, n_runs);

        for (int n = 0; n <= bundles; n++)
          check_streamed (&f, streamed, n, n_runs, expected);
      }
    transformer_free (&f.ctx, resident);
    transformer_free (&f.ctx, streamed);
  }
  f.ops.trim (f.device.stream);
  g_assert_cmpuint (f.ops.allocated (f.device.stream), <=, before);
  cpu_model_close (&f);
}

/* -- the text encoder ---------------------------------------------------------------------------
 */

static void
test_text_encoder (void)
{
  static const gint64 ids[] = { 3, 17, 5, 200, 42, 7, 9, 1 };
  const int n_ids = G_N_ELEMENTS (ids);
  CpuModel f;
  const TextEncoderConfig *c;

  open_late (&f);
  c = checkpoint_text_encoder (f.checkpoint);
  {
    Loader plain = make_loader (&f, CHECKPOINT_TEXT_ENCODER, FALSE);
    Loader shelved = make_loader (&f, CHECKPOINT_TEXT_ENCODER, TRUE);
    TextEncoder *resident = text_encoder_new (&plain, c);
    TextEncoder *streamed = text_encoder_new (&shelved, c);
    gsize n = (gsize)n_ids * (gsize)c->hidden;
    g_autofree float *expected = g_new (float, n), *found = g_new (float, n);

    cpu_model_assert_loaded (&plain);
    cpu_model_assert_loaded (&shelved);
    g_assert_cmpint (text_encoder_run (&f.ctx, resident, ids, n_ids, expected), ==, STATUS_OK);
    for (int k = 0; k < c->n_layers; k++)
      for (int again = 0; again < 2; again++) /* as with a negative prompt */
        {
          shelf_set_streamed (text_encoder_shelf (streamed), k);
          g_assert_cmpint (bring (&f, text_encoder_shelf (streamed)), ==, STATUS_OK);
          for (int prompt = 0; prompt <= again; prompt++)
            g_assert_cmpint (text_encoder_run (&f.ctx, streamed, ids, n_ids, found), ==, STATUS_OK);
          g_assert_cmpmem (found, n * sizeof (float), expected, n * sizeof (float));
          shelf_put_away (text_encoder_shelf (streamed), &f.ctx);
        }
    text_encoder_free (&f.ctx, resident);
    text_encoder_free (&f.ctx, streamed);
  }
  cpu_model_close (&f);
}

/* Memory that the device has not got; -1: it has all. */
static int n_allocations;

static Status
scarce_alloc (Stream *s, size_t bytes, void **out)
{
  return n_allocations >= 0 && n_allocations-- == 0 ? STATUS_NO_MEMORY
                                                    : ops_cpu.alloc (s, bytes, out);
}

/* A transformer that could not be brought leaves nothing on the device, and can be brought later.
 */
static void
test_failures (void)
{
  g_autoptr (GCancellable) cancellable = g_cancellable_new ();
  CpuModel f;
  Loader loader;
  Transformer *transformer;
  Shelf *shelf;
  guint64 before;

  open_late (&f);
  loader = make_loader (&f, CHECKPOINT_TRANSFORMER, TRUE);
  transformer = transformer_new (&loader, checkpoint_transformer (f.checkpoint));
  cpu_model_assert_loaded (&loader);
  shelf = transformer_shelf (transformer);
  shelf_set_streamed (shelf, SHELF_SLOTS);
  before = f.ops.allocated (f.device.stream);
  f.ops.alloc = scarce_alloc;
  for (int fails = 0; fails <= SHELF_SLOTS; fails++) /* the slots, and the place of the others */
    {
      n_allocations = fails;
      g_assert_cmpint (bring (&f, shelf), ==, STATUS_NO_MEMORY);
      g_assert_false (shelf_is_brought (shelf));
      g_assert_cmpuint (f.ops.allocated (f.device.stream), ==, before);
    }
  n_allocations = -1;
  f.ctx.cancellable = cancellable;
  g_cancellable_cancel (cancellable);
  g_assert_cmpint (bring (&f, shelf), ==, STATUS_CANCELLED);
  g_assert_cmpuint (f.ops.allocated (f.device.stream), ==, before);
  g_cancellable_reset (cancellable);
  g_assert_cmpint (bring (&f, shelf), ==, STATUS_OK);
  transformer_free (&f.ctx, transformer);
  cpu_model_close (&f);
}

/* As many as asked for, as far apart as they can be: copies then take turns with the maths. */
static void
test_spread (void)
{
  const int n = 34;
  const Context dry = { .ops = &ops_dry };
  Shelf *shelf = shelf_new (n, 2);

  for (int streamed = 0; streamed <= n; streamed++)
    {
      int found = 0;

      shelf_set_streamed (shelf, streamed);
      for (int i = 0; i < n; i++)
        {
          found += shelf_is_streamed (shelf, i);
          g_assert_cmpint (ABS (found * n - (i + 1) * streamed), <, n);
        }
      g_assert_cmpint (found, ==, streamed);
    }
  shelf_free (shelf, &dry);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/shelf/transformer", test_transformer);
  g_test_add_func ("/shelf/text-encoder", test_text_encoder);
  g_test_add_func ("/shelf/failures", test_failures);
  g_test_add_func ("/shelf/spread", test_spread);
  return g_test_run ();
}
