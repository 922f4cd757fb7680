/* SPDX-License-Identifier: Apache-2.0
 *
 * Where weights go when memory is short: on a made-up model, whose peaks can be added up by hand,
 * for every budget. No device is needed for it, so what a graphics card would do is held here.
 */
#include "engine/memory/plan.h"

/* An encoder of 4 bundles and a transformer of 8, each bundle of 20; the decoder has none. */
static const PlanFacts facts = {
  .parts = { [MODELS_TEXT_ENCODER]
             = { .total = 100, .bundles = 80, .largest_bundle = 20, .n_bundles = 4, .loading = 3 },
             [MODELS_TRANSFORMER]
             = { .total = 200, .bundles = 160, .largest_bundle = 20, .n_bundles = 8, .loading = 5 },
             [MODELS_DECODER] = { .total = 10, .loading = 2 } },
  .encode = 7,
  .denoise = 9,
  .decode = { 40, 30, 20, 15, 12 },
  .working = 6,
};

#define STAYS                                                                                      \
  {                                                                                                \
    FALSE, FALSE, 0, FALSE                                                                         \
  }
#define FROM_FILE                                                                                  \
  {                                                                                                \
    TRUE, FALSE, 0, FALSE                                                                          \
  }
#define FROM_IMAGE                                                                                 \
  {                                                                                                \
    TRUE, TRUE, 0, FALSE                                                                           \
  }
#define STREAMED(n)                                                                                \
  {                                                                                                \
    TRUE, TRUE, n, FALSE                                                                           \
  }
#define ANY G_MAXUINT64

typedef struct
{
  guint64 limit, host_limit;
  gboolean fits;
  PartPlacement encoder, transformer;
  int band;
  guint64 peak, pinned;
} Case;

static void
check (const PlanFacts *f, EngineOffload level, const Case *c)
{
  Placement p;

  g_test_message ("limit %" G_GUINT64_FORMAT, c->limit);
  g_assert_cmpint (plan_choose (f, level, c->limit, c->host_limit, &p), ==, c->fits);
  g_assert_cmpuint (plan_peak (f, &p), ==, c->peak);
  g_assert_cmpuint (plan_pinned (f, &p), ==, c->pinned);
  g_assert_cmpint (p.band, ==, c->band);
  g_assert_cmpmem (&p.parts[MODELS_TEXT_ENCODER], sizeof c->encoder, &c->encoder,
                   sizeof c->encoder);
  g_assert_cmpmem (&p.parts[MODELS_TRANSFORMER], sizeof c->transformer, &c->transformer,
                   sizeof c->transformer);
  g_assert_false (p.parts[MODELS_DECODER].leaves);
}

/* Phase by phase: the part at work, what else there is meanwhile, and the phase's arena. */
static void
test_peaks (void)
{
  static const struct
  {
    PartPlacement encoder, transformer;
    guint64 peaks[ENGINE_N_PHASES];
  } cases[] = {
    { STAYS, STAYS, { 321, 323, 325, 356 } },
    { FROM_FILE, FROM_FILE, { 221, 123, 225, 56 } },
    { STREAMED (4), FROM_IMAGE, { 101, 123, 245, 116 } },
    { STREAMED (3), STREAMED (4), { 101, 143, 205, 116 } },
  };

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      Placement p = { { cases[i].encoder, cases[i].transformer }, 0 };
      guint64 peaks[ENGINE_N_PHASES];

      plan_peaks (&facts, &p, peaks);
      for (int phase = 0; phase < ENGINE_N_PHASES; phase++)
        g_assert_cmpuint (peaks[phase], ==, cases[i].peaks[phase]);
    }
}

/* From fast to slow, each with the budget that it just fits and the one it misses by a byte. */
static void
test_auto (void)
{
  static const Case cases[] = {
    { ANY, ANY, TRUE, STAYS, STAYS, 0, 356, 0 },
    { 356, ANY, TRUE, STAYS, STAYS, 0, 356, 0 },
    { 355, ANY, TRUE, STAYS, STAYS, 64, 346, 0 },
    { 345, ANY, TRUE, STAYS, STAYS, 32, 336, 0 },
    { 335, ANY, TRUE, STAYS, STAYS, 16, 331, 0 },
    { 330, ANY, TRUE, STAYS, STAYS, 8, 328, 0 },
    { 327, ANY, TRUE, STREAMED (4), STAYS, 0, 283, 80 },
    { 283, ANY, TRUE, STREAMED (4), STAYS, 0, 283, 80 },
    { 282, ANY, TRUE, STREAMED (4), FROM_IMAGE, 0, 245, 240 },
    { 245, ANY, TRUE, STREAMED (4), FROM_IMAGE, 0, 245, 240 },
    { 244, ANY, TRUE, STREAMED (4), STREAMED (3), 0, 225, 240 }, /* one or two need slots, too */
    { 224, ANY, TRUE, STREAMED (4), STREAMED (4), 0, 205, 240 },
    { 125, ANY, TRUE, STREAMED (4), STREAMED (8), 0, 125, 240 },
    { 124, ANY, FALSE, STREAMED (4), STREAMED (8), 8, 125, 240 },
    { 0, ANY, FALSE, STREAMED (4), STREAMED (8), 8, 125, 240 },
  };

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    check (&facts, ENGINE_OFFLOAD_AUTO, &cases[i]);
}

/* Images need host memory. What has no room there comes from its file, the encoder before the
 * transformer. */
static void
test_host_memory (void)
{
  static const Case cases[] = {
    { 327, 80, TRUE, STREAMED (4), STAYS, 0, 283, 80 },
    { 327, 79, TRUE, FROM_FILE, FROM_FILE, 0, 225, 0 },
    { 225, 0, TRUE, FROM_FILE, FROM_FILE, 0, 225, 0 },
    { 245, 240, TRUE, STREAMED (4), FROM_IMAGE, 0, 245, 240 },
    { 245, 239, TRUE, FROM_FILE, FROM_IMAGE, 0, 225, 160 },
    { 225, 159, TRUE, FROM_FILE, FROM_FILE, 0, 225, 0 },
    { 224, 239, TRUE, FROM_FILE, STREAMED (3), 0, 205, 160 },
    { 163, 160, TRUE, FROM_FILE, STREAMED (6), 0, 163, 160 },
    { 224, 159, FALSE, STREAMED (4), STREAMED (8), 8, 125, 240 },
    { 162, 160, FALSE, STREAMED (4), STREAMED (8), 8, 125, 240 },
  };

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    check (&facts, ENGINE_OFFLOAD_AUTO, &cases[i]);
}

/* A level leaves its own way only, also where another would fit. */
static void
test_levels (void)
{
  static const Case none[] = { { 356, ANY, TRUE, STAYS, STAYS, 0, 356, 0 },
                               { 327, ANY, FALSE, STAYS, STAYS, 8, 328, 0 } };
  static const Case model[] = { { ANY, ANY, TRUE, STREAMED (4), FROM_IMAGE, 0, 245, 240 },
                                { ANY, 239, TRUE, FROM_FILE, FROM_FILE, 0, 225, 0 },
                                { 224, ANY, FALSE, FROM_FILE, FROM_FILE, 8, 225, 0 } };
  static const Case stream[] = { { ANY, ANY, TRUE, STREAMED (4), STREAMED (8), 0, 125, 240 },
                                 { 124, ANY, FALSE, STREAMED (4), STREAMED (8), 8, 125, 240 } };

  for (guint i = 0; i < G_N_ELEMENTS (none); i++)
    check (&facts, ENGINE_OFFLOAD_NONE, &none[i]);
  for (guint i = 0; i < G_N_ELEMENTS (model); i++)
    check (&facts, ENGINE_OFFLOAD_MODEL, &model[i]);
  for (guint i = 0; i < G_N_ELEMENTS (stream); i++)
    check (&facts, ENGINE_OFFLOAD_STREAM, &stream[i]);
}

/* Everything that could be done, one by one: nothing that fits is overlooked, and what is said not
 * to fit at any price takes the least there is. */
static void
test_exhaustive (void)
{
  static const PartPlacement stays = STAYS, from_file = FROM_FILE;
  guint64 least = G_MAXUINT64;
  g_autoptr (GArray) all = g_array_new (FALSE, FALSE, sizeof (Placement));

  for (int e = -2; e <= facts.parts[MODELS_TEXT_ENCODER].n_bundles; e++)
    for (int t = -2; t <= facts.parts[MODELS_TRANSFORMER].n_bundles; t++)
      for (int band = 0; band < PLAN_N_BANDS; band++)
        {
          const PartPlacement streamed[] = { STREAMED (e), STREAMED (t) };
          Placement p = { .band = plan_bands[band] };

          p.parts[MODELS_TEXT_ENCODER] = e == -2 ? stays : e == -1 ? from_file : streamed[0];
          p.parts[MODELS_TRANSFORMER] = t == -2 ? stays : t == -1 ? from_file : streamed[1];
          least = MIN (least, plan_peak (&facts, &p));
          g_array_append_val (all, p);
        }
  for (guint64 limit = 110; limit < 370; limit++)
    for (guint64 host = 0; host <= 240; host += 80)
      {
        Placement chosen;
        gboolean fits = plan_choose (&facts, ENGINE_OFFLOAD_AUTO, limit, host, &chosen),
                 any = FALSE;

        if (fits)
          g_assert_cmpuint (plan_peak (&facts, &chosen), <=, limit);
        if (fits)
          g_assert_cmpuint (plan_pinned (&facts, &chosen), <=, host);
        else
          g_assert_cmpuint (plan_peak (&facts, &chosen), ==, least);
        for (guint i = 0; i < all->len && !any; i++)
          {
            const Placement *p = &g_array_index (all, Placement, i);

            any = plan_peak (&facts, p) <= limit && plan_pinned (&facts, p) <= host;
          }
        if (any != fits)
          g_error ("limit %" G_GUINT64_FORMAT ", host memory %" G_GUINT64_FORMAT ": %s", limit,
                   host, fits ? "nothing fits" : "something fits");
      }
}

/* On the processor parts give up their expanded weights first, then their files' pages. */
static void
test_cpu (void)
{
  static const PartPlacement narrow = { .unexpanded = TRUE },
                             leaves = { .leaves = TRUE, .unexpanded = TRUE };
  PlanFacts cpu = facts;
  Case cases[] = {
    { 356, 0, TRUE, STAYS, STAYS, 0, 356, 0 },
    { 327, 0, TRUE, narrow, narrow, 0, 206, 0 },
    { 177, 0, TRUE, leaves, leaves, 0, 125, 0 },
    { 124, 0, FALSE, leaves, leaves, 8, 125, 0 },
  };

  cpu.cpu = TRUE;
  cpu.unexpanded[MODELS_TEXT_ENCODER].total = 50;
  cpu.unexpanded[MODELS_TRANSFORMER].total = 100;
  cpu.unexpanded[MODELS_DECODER].total = 10;
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    check (&cpu, ENGINE_OFFLOAD_AUTO, &cases[i]);
}

static void
test_traffic (void)
{
  Placement p = { 0 };
  PlanTraffic t = plan_traffic (&facts, &p);

  g_assert_cmpuint (t.prompt + t.picture + t.step, ==, 0);
  p.parts[MODELS_TEXT_ENCODER] = (PartPlacement)STREAMED (4);
  p.parts[MODELS_TRANSFORMER] = (PartPlacement)STREAMED (3);
  t = plan_traffic (&facts, &p);
  g_assert_cmpuint (t.prompt, ==, 80);
  g_assert_cmpuint (t.step, ==, 3 * 20);
  g_assert_cmpuint (t.picture, ==, 5 * 20);
  p.parts[MODELS_TEXT_ENCODER] = (PartPlacement)FROM_FILE;
  p.parts[MODELS_TRANSFORMER] = (PartPlacement)FROM_FILE;
  t = plan_traffic (&facts, &p);
  g_assert_cmpuint (t.prompt + t.picture + t.step, ==, 0);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/placement/peaks", test_peaks);
  g_test_add_func ("/placement/auto", test_auto);
  g_test_add_func ("/placement/host-memory", test_host_memory);
  g_test_add_func ("/placement/levels", test_levels);
  g_test_add_func ("/placement/exhaustive", test_exhaustive);
  g_test_add_func ("/placement/cpu", test_cpu);
  g_test_add_func ("/placement/traffic", test_traffic);
  return g_test_run ();
}
