/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/memory/plan.h"

#include "engine/lora/adapters.h"

/* Larger bands share fewer rows with their neighbours. */
const int plan_bands[PLAN_N_BANDS] = { 0, 64, 32, 16, 8 };

/* -- counting -----------------------------------------------------------------------------------
 */

typedef Status (*PhaseFunc) (const Context *ctx, const Models *models, PipelineRun *run);

static Status
count_phase (const Context *dry, PhaseFunc phase, const Models *models, PipelineRun *run,
             size_t *bytes, DryWork *work)
{
  Context ctx = *dry;
  Arena arena;

  arena_init_counting (&arena);
  ctx.arena = &arena;
  *dry_work (ctx.stream) = (DryWork){ 0 };
  CHECK (phase (&ctx, models, run));
  *bytes = arena.peak;
  if (work != NULL)
    *work = *dry_work (ctx.stream);
  return STATUS_OK;
}

static Status
count_phases (const Context *dry, const Models *models, PipelineRun *run, PlanFacts *out)
{
  int band = run->band;
  Status status = STATUS_OK;

  CHECK (count_phase (dry, pipeline_encode, models, run, &out->encode,
                      &out->work[ENGINE_PHASE_ENCODE]));
  CHECK (count_phase (dry, pipeline_denoise, models, run, &out->denoise,
                      &out->work[ENGINE_PHASE_DENOISE]));
  for (int i = 0; i < PLAN_N_BANDS && status == STATUS_OK; i++)
    {
      run->band = plan_bands[i];
      status = count_phase (dry, pipeline_decode, models, run, &out->decode[i],
                            i == 0 ? &out->work[ENGINE_PHASE_DECODE] : NULL);
    }
  run->band = band;
  return status;
}

/* The parts as sizes only; *memory gets what their weights take. */
static Models
dry_models (const Models *models, const Device *device, const Context *dry,
            EnginePrecision precision, gboolean resident, PartMemory *memory)
{
  Models sizes = { .checkpoint = models->checkpoint };
  gsize fit;

  for (int part = 0; part < MODELS_N_PARTS; part++)
    {
      Weights *weights = models_weights (models, (ModelsPart)part, precision, NULL);
      Loader loader = { .ctx = dry, .weights = weights, .target = device->ops, .shelved = TRUE };

      loader.resident = resident && models_are_resident (weights, device);
      models_build (&sizes, &loader, (ModelsPart)part, precision);
      memory[part] = loader.memory;
      if (part == MODELS_DECODER && preview_measure (dry, sizes.decoder, &fit) == STATUS_OK)
        memory[part].loading = MAX (memory[part].loading, fit);
      /* The processor computes on the file itself. */
      if (device->caps.kind == DEVICE_CPU)
        memory[part].total += weights_bytes (weights);
    }
  return sizes;
}

static void
add_adapters (PartMemory *part, const LinearMemory *adapters)
{
  part->total += adapters->weights;
  part->loading = MAX (part->loading, adapters->loading);
  part->workspace = MAX (part->workspace, adapters->workspace);
}

Status
plan_count (const Models *models, const Device *device, PipelineRun *run, PlanFacts *out)
{
  EnginePrecision precision = run->request->precision;
  Context dry = { .ops = &ops_dry,
                  .activation = device_activation (&device->caps),
                  .residual = device_residual (&device->caps),
                  .caps = &device->caps,
                  .options = &device->options };
  guint64 workspace = 0;
  LinearMemory adapters;
  Models sizes, unused;
  Status status;

  *out = (PlanFacts){ .cpu = device->caps.kind == DEVICE_CPU };
  CHECK (ops_dry.open (0, NULL, &dry.stream));
  unused = dry_models (models, device, &dry, precision, FALSE, out->unexpanded);
  models_free_parts (&unused, &dry);
  sizes = dry_models (models, device, &dry, precision, TRUE, out->parts);
  adapters = adapters_measure (run->adapters, &dry, sizes.transformer[precision]);
  add_adapters (&out->parts[MODELS_TRANSFORMER], &adapters);
  add_adapters (&out->unexpanded[MODELS_TRANSFORMER], &adapters);
  status = count_phases (&dry, &sizes, run, out);
  models_free_parts (&sizes, &dry);
  ops_dry.close (dry.stream);

  for (int part = 0; part < MODELS_N_PARTS; part++)
    workspace = MAX (workspace, out->parts[part].workspace);
  out->working = device->ops->working_memory + workspace;
  return status;
}

/* -- peaks --------------------------------------------------------------------------------------
 */

static const PartMemory *
part_memory (const PlanFacts *facts, const Placement *placement, int part)
{
  return placement->parts[part].unexpanded ? &facts->unexpanded[part] : &facts->parts[part];
}

/* What a part takes while its phase runs. */
static guint64
held_in_phase (const PartMemory *m, const PartPlacement *p)
{
  if (!p->image)
    return m->total;
  return m->total - m->bundles
         + shelf_device_bytes (m->bundles, m->largest_bundle, m->n_bundles, p->streamed);
}

/* What it takes while another phase runs, once it has been loaded. */
static guint64
held_outside (const PartMemory *m, const PartPlacement *p)
{
  if (!p->leaves)
    return m->total;
  return p->image ? m->total - m->bundles : 0;
}

/* What it takes at most while it is loaded: with an image, block by block. */
static guint64
held_loading (const PartMemory *m, const PartPlacement *p)
{
  return (p->image ? m->total - m->bundles + m->largest_bundle : m->total) + m->loading;
}

static size_t
decode_arena (const PlanFacts *facts, int band)
{
  for (int i = 0; i < PLAN_N_BANDS; i++)
    if (plan_bands[i] == band)
      return facts->decode[i];
  return facts->decode[0];
}

void
plan_peaks (const PlanFacts *facts, const Placement *placement, guint64 peaks[ENGINE_N_PHASES])
{
  const size_t arenas[MODELS_N_PARTS]
      = { facts->encode, facts->denoise, decode_arena (facts, placement->band) };
  static const EnginePhase phases[MODELS_N_PARTS]
      = { ENGINE_PHASE_ENCODE, ENGINE_PHASE_DENOISE, ENGINE_PHASE_DECODE };

  peaks[ENGINE_PHASE_LOAD] = 0;
  for (int part = 0; part < MODELS_N_PARTS; part++)
    {
      const PartMemory *m = part_memory (facts, placement, part);
      const PartPlacement *p = &placement->parts[part];
      guint64 others = facts->working;

      for (int other = 0; other < MODELS_N_PARTS; other++)
        if (other != part)
          others += held_outside (part_memory (facts, placement, other), &placement->parts[other]);
      peaks[phases[part]] = others + held_in_phase (m, p) + arenas[part];
      peaks[ENGINE_PHASE_LOAD] = MAX (peaks[ENGINE_PHASE_LOAD], others + held_loading (m, p));
    }
}

guint64
plan_peak (const PlanFacts *facts, const Placement *placement)
{
  guint64 peaks[ENGINE_N_PHASES], most = 0;

  plan_peaks (facts, placement, peaks);
  for (int phase = 0; phase < ENGINE_N_PHASES; phase++)
    most = MAX (most, peaks[phase]);
  return most;
}

guint64
plan_pinned (const PlanFacts *facts, const Placement *placement)
{
  guint64 sum = 0;

  for (int part = 0; part < MODELS_N_PARTS; part++)
    if (placement->parts[part].image)
      sum += facts->parts[part].bundles;
  return sum;
}

PlanTraffic
plan_traffic (const PlanFacts *facts, const Placement *placement)
{
  const PartPlacement *p = &placement->parts[MODELS_TRANSFORMER];
  const PartMemory *m = &facts->parts[MODELS_TRANSFORMER];
  PlanTraffic traffic = { 0 };

  if (placement->parts[MODELS_TEXT_ENCODER].image)
    traffic.prompt = facts->parts[MODELS_TEXT_ENCODER].bundles;
  if (!p->image || m->n_bundles == 0)
    return traffic;
  traffic.step = m->bundles / (guint64)m->n_bundles * (guint64)p->streamed;
  /* Resident ones are brought once, if they leave. */
  traffic.picture = m->bundles - traffic.step;
  return traffic;
}

/* -- choosing -----------------------------------------------------------------------------------
 */

typedef struct
{
  const PlanFacts *facts;
  guint64 limit, host_limit;
} Search;

static gboolean
fits (const Search *s, const Placement *p)
{
  return plan_peak (s->facts, p) <= s->limit && plan_pinned (s->facts, p) <= s->host_limit;
}

/* With the largest band of the decoder that fits; the smallest one if none does. */
static gboolean
try_bands (const Search *s, Placement *p)
{
  for (int i = 0; i < PLAN_N_BANDS; i++)
    {
      p->band = plan_bands[i];
      if (fits (s, p))
        return TRUE;
    }
  return FALSE;
}

/* With as few bundles of the part streamed as fit, from `least` on; all if none does. */
static gboolean
try_streamed (const Search *s, Placement *p, ModelsPart part, int least)
{
  PartPlacement *chosen = &p->parts[part];

  for (chosen->streamed = least; chosen->streamed < s->facts->parts[part].n_bundles;
       chosen->streamed++)
    if (try_bands (s, p))
      return TRUE;
  return try_bands (s, p);
}

static int
all_bundles (const Search *s, ModelsPart part)
{
  return s->facts->parts[part].n_bundles;
}

/* On the processor weights are where they are computed with: they can stay narrow, and their files
 * be let go of. */
static gboolean
choose_on_cpu (const Search *s, EngineOffload level, Placement *p)
{
  gboolean expanded = level == ENGINE_OFFLOAD_AUTO || level == ENGINE_OFFLOAD_NONE;
  gboolean stays = expanded;

  for (;;)
    {
      for (int part = 0; part < MODELS_N_PARTS; part++)
        p->parts[part] = (PartPlacement){ .leaves = !stays && part != MODELS_DECODER,
                                          .unexpanded = !expanded && part != MODELS_DECODER };
      if (try_bands (s, p))
        return TRUE;
      if (level != ENGINE_OFFLOAD_AUTO || !stays)
        return FALSE;
      stays = expanded;
      expanded = FALSE;
    }
}

/* The two large parts take turns. The transformer is whole in its own; the encoder passes through,
 * since each of its blocks is used once: that takes as long as bringing it, computes meanwhile, and
 * leaves less memory to be taken and given back. */
static gboolean
try_turns (const Search *s, Placement *p)
{
  p->parts[MODELS_TEXT_ENCODER]
      = (PartPlacement){ TRUE, TRUE, all_bundles (s, MODELS_TEXT_ENCODER), FALSE };
  p->parts[MODELS_TRANSFORMER] = (PartPlacement){ .leaves = TRUE, .image = TRUE };
  return try_bands (s, p);
}

/* In turns without images: what is needed is loaded from its file each time. */
static gboolean
try_files (const Search *s, Placement *p)
{
  for (int part = MODELS_TEXT_ENCODER; part <= MODELS_TRANSFORMER; part++)
    p->parts[part] = (PartPlacement){ .leaves = TRUE };
  return try_bands (s, p);
}

static gboolean
choose_stream (const Search *s, Placement *p)
{
  for (int part = MODELS_TEXT_ENCODER; part <= MODELS_TRANSFORMER; part++)
    p->parts[part] = (PartPlacement){ TRUE, TRUE, all_bundles (s, (ModelsPart)part), FALSE };
  return try_bands (s, p);
}

/* A streamed encoder takes no longer than one that is brought as a whole, so that is what goes
 * first; then the transformer takes turns with it; then as little of it streams as need be. A part
 * from its file is slower than any of these, and for when host memory has no room for its image. */
static gboolean
choose_auto (const Search *s, Placement *p)
{
  PartPlacement *encoder = &p->parts[MODELS_TEXT_ENCODER];
  PartPlacement *transformer = &p->parts[MODELS_TRANSFORMER];

  if (try_bands (s, p))
    return TRUE;
  *encoder = (PartPlacement){ TRUE, TRUE, all_bundles (s, MODELS_TEXT_ENCODER), FALSE };
  if (try_bands (s, p))
    return TRUE;
  if (try_turns (s, p))
    return TRUE;
  *transformer = (PartPlacement){ TRUE, TRUE, 0, FALSE };
  *encoder = (PartPlacement){ TRUE, TRUE, all_bundles (s, MODELS_TEXT_ENCODER), FALSE };
  if (try_streamed (s, p, MODELS_TRANSFORMER, 0))
    return TRUE;
  *encoder = (PartPlacement){ .leaves = TRUE };
  if (try_streamed (s, p, MODELS_TRANSFORMER, 0))
    return TRUE;
  return try_files (s, p) || choose_stream (s, p);
}

gboolean
plan_choose (const PlanFacts *facts, EngineOffload level, guint64 limit, guint64 host_limit,
             Placement *out)
{
  const Search s = { facts, limit, host_limit };

  *out = (Placement){ 0 };
  if (facts->cpu)
    return choose_on_cpu (&s, level, out);
  switch (level)
    {
    case ENGINE_OFFLOAD_AUTO:
      return choose_auto (&s, out);
    case ENGINE_OFFLOAD_NONE:
      return try_bands (&s, out);
    case ENGINE_OFFLOAD_MODEL:
      return try_turns (&s, out) || try_files (&s, out);
    case ENGINE_OFFLOAD_STREAM:
      return choose_stream (&s, out);
    }
  return FALSE;
}
