/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights that come and go. On the CPU a copy is done at once, which forgives much; so here copies
 * happen as late as a card may do them, and what they will overwrite is spoilt as early.
 */
#include "engine/models.h"

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
  Copy queue[MAX_JOBS]; /* in order, as one copy engine has them */
  int n, most;
} late;

static Status
late_transfer (Stream *s, int slot, void *to, const void *from, size_t bytes)
{
  g_assert_cmpint (late.n, <, MAX_JOBS);
  memset (to, 0xff, bytes); /* NaN */
  late.queue[late.n++] = (Copy){ slot, to, from, bytes };
  late.most = MAX (late.most, late.n);
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
  late.n -= last;
  memmove (late.queue, late.queue + last, (gsize)late.n * sizeof (Copy));
  return STATUS_OK;
}

typedef struct
{
  Device device;
  Checkpoint *checkpoint;
  Ops ops; /* the CPU's, with late copies */
  Context ctx;
  Arena arena;
} Fixture;

static void
fixture_open (Fixture *self)
{
  EngineOptions options = { .device = "cpu" };
  g_autofree char *dir = g_build_filename (g_getenv ("TESSERA_TEST_DATA"), "tiny-zimage", NULL);
  g_autoptr (GError) error = NULL;

  device_open (&self->device, &options, &error);
  g_assert_no_error (error);
  self->checkpoint = checkpoint_open (dir, NULL, NULL, &error);
  g_assert_no_error (error);
  self->ops = *self->device.ops;
  self->ops.transfer = late_transfer;
  self->ops.transfer_wait = late_wait;
  g_assert_cmpint (arena_init (&self->arena, &self->ops, self->device.stream, 32 << 20), ==,
                   STATUS_OK);
  self->ctx = (Context){ .ops = &self->ops,
                         .stream = self->device.stream,
                         .activation = device_activation (&self->device.caps),
                         .residual = device_residual (&self->device.caps),
                         .arena = &self->arena,
                         .caps = &self->device.caps,
                         .options = &self->device.options };
}

static void
fixture_close (Fixture *self)
{
  arena_clear (&self->arena);
  checkpoint_free (self->checkpoint);
  device_close (&self->device);
}

static Loader
make_loader (Fixture *f, CheckpointPart part, gboolean shelved)
{
  Loader loader = { .ctx = &f->ctx, .resident = TRUE, .shelved = shelved };

  loader.weights = checkpoint_weights (f->checkpoint, part, FALSE, &loader.error);
  g_assert_no_error (loader.error);
  return loader;
}

static void
assert_loaded (const Loader *loader)
{
  g_assert_no_error (loader->error);
  g_assert_cmpint (loader->status, ==, STATUS_OK);
}

/* -- the transformer ----------------------------------------------------------------------------
 */

/* The last step's velocity (transfer full), of the second of two runs in turn: as with a negative
 * prompt, whose order of blocks nobody expects. */
static float *
denoise (Fixture *f, Transformer *transformer)
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
  for (int i = 0; i < 2; i++)
    g_assert_cmpint (transformer_begin (&f->ctx, transformer, embeds, CAPTION - i, SIDE, SIDE,
                                        sigmas, STEPS, &runs[i]),
                     ==, STATUS_OK);
  for (int step = 0; step < STEPS; step++)
    for (int i = 0; i < 2; i++)
      g_assert_cmpint (transformer_step (&f->ctx, transformer, runs[i], step, latents, velocity),
                       ==, STATUS_OK);
  for (int i = 0; i < 2; i++)
    transformer_end (&f->ctx, runs[i]);
  arena_release (&f->arena, ARENA_LOW, mark);
  for (gsize i = 0; i < n; i++)
    g_assert_true (isfinite (velocity[i]));
  return velocity;
}

static void
test_transformer (void)
{
  Fixture f = { 0 };
  const TransformerConfig *c;
  guint64 before;

  fixture_open (&f);
  c = checkpoint_transformer (f.checkpoint);
  before = f.ops.allocated (f.device.stream);
  {
    Loader plain = make_loader (&f, CHECKPOINT_TRANSFORMER, FALSE);
    Loader shelved = make_loader (&f, CHECKPOINT_TRANSFORMER, TRUE);
    Transformer *resident = transformer_new (&plain, c);
    Transformer *streamed = transformer_new (&shelved, c);
    gsize bytes = (gsize)c->in_channels * SIDE * SIDE * sizeof (float);
    int bundles = 2 * c->n_refiner_layers + c->n_layers;
    g_autofree float *expected = NULL;

    assert_loaded (&plain);
    assert_loaded (&shelved);
    g_assert_cmpuint (shelf_image_bytes (transformer_shelf (streamed)), >, 0);
    expected = denoise (&f, resident);
    for (int n = 0; n <= bundles; n++)
      {
        g_autofree float *velocity = NULL;

        late.most = 0;
        shelf_set_streamed (transformer_shelf (streamed), n);
        g_assert_cmpint (shelf_bring (transformer_shelf (streamed), &f.ctx), ==, STATUS_OK);
        velocity = denoise (&f, streamed);
        g_assert_cmpmem (velocity, bytes, expected, bytes);
        shelf_put_away (transformer_shelf (streamed), &f.ctx);
        if (n > SHELF_SLOTS)
          g_assert_cmpint (late.most, >=, SHELF_SLOTS); /* copies are under way beside the maths */
      }
    transformer_free (&f.ctx, resident);
    transformer_free (&f.ctx, streamed);
  }
  f.ops.trim (f.device.stream);
  g_assert_cmpuint (f.ops.allocated (f.device.stream), <=, before);
  fixture_close (&f);
}

/* -- the text encoder ---------------------------------------------------------------------------
 */

static void
test_text_encoder (void)
{
  static const gint64 ids[] = { 3, 17, 5, 200, 42, 7, 9, 1 };
  const int n_ids = G_N_ELEMENTS (ids);
  Fixture f = { 0 };
  const TextEncoderConfig *c;

  fixture_open (&f);
  c = checkpoint_text_encoder (f.checkpoint);
  {
    Loader plain = make_loader (&f, CHECKPOINT_TEXT_ENCODER, FALSE);
    Loader shelved = make_loader (&f, CHECKPOINT_TEXT_ENCODER, TRUE);
    TextEncoder *resident = text_encoder_new (&plain, c);
    TextEncoder *streamed = text_encoder_new (&shelved, c);
    gsize n = (gsize)n_ids * (gsize)c->hidden;
    g_autofree float *expected = g_new (float, n), *found = g_new (float, n);

    assert_loaded (&plain);
    assert_loaded (&shelved);
    g_assert_cmpint (text_encoder_run (&f.ctx, resident, ids, n_ids, expected), ==, STATUS_OK);
    for (int k = 0; k < c->n_layers; k++)
      for (int again = 0; again < 2; again++) /* as with a negative prompt */
        {
          shelf_set_streamed (text_encoder_shelf (streamed), k);
          g_assert_cmpint (shelf_bring (text_encoder_shelf (streamed), &f.ctx), ==, STATUS_OK);
          for (int prompt = 0; prompt <= again; prompt++)
            g_assert_cmpint (text_encoder_run (&f.ctx, streamed, ids, n_ids, found), ==, STATUS_OK);
          g_assert_cmpmem (found, n * sizeof (float), expected, n * sizeof (float));
          shelf_put_away (text_encoder_shelf (streamed), &f.ctx);
        }
    text_encoder_free (&f.ctx, resident);
    text_encoder_free (&f.ctx, streamed);
  }
  fixture_close (&f);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/shelf/transformer", test_transformer);
  g_test_add_func ("/shelf/text-encoder", test_text_encoder);
  return g_test_run ();
}
