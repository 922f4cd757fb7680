/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/plan.h"

/* Sides of a decoder tile in latents, best first: larger ones have fewer seams. */
static const int tiles[] = { 0, 128, 96, 64, 48, 32 };

typedef Status (*PhaseFunc) (const Context *ctx, const Models *models, PipelineRun *run);

static Status
count (const Context *dry, PhaseFunc phase, const Models *models, PipelineRun *run, size_t *bytes)
{
  Context ctx = *dry;
  Arena arena;

  arena_init_counting (&arena);
  ctx.arena = &arena;
  CHECK (phase (&ctx, models, run));
  *bytes = arena.peak;
  return STATUS_OK;
}

static Status
count_phases (const Context *dry, const Models *models, PipelineRun *run, guint64 limit,
              PlanArenas *arenas)
{
  CHECK (count (dry, pipeline_encode, models, run, &arenas->encode));
  CHECK (count (dry, pipeline_denoise, models, run, &arenas->denoise));
  for (guint i = 0; i < G_N_ELEMENTS (tiles); i++)
    {
      run->tile = tiles[i];
      CHECK (count (dry, pipeline_decode, models, run, &arenas->decode));
      if (arenas->decode <= limit)
        break;
    }
  return STATUS_OK;
}

/* Counts with parts that have no weights, for a model that is not loaded. Whether a backend fuses
 * what is not known then: the plan allows for the unfused way. */
static Status
count_unloaded (const Context *dry, Checkpoint *c, PipelineRun *run, guint64 limit,
                PlanArenas *arenas)
{
  Loader loader = { .ctx = dry };
  Models empty = { .checkpoint = c };
  EnginePrecision precision = run->request->precision;
  Status status;

  empty.text_encoder = text_encoder_new (&loader, checkpoint_text_encoder (c));
  empty.transformer[precision] = transformer_new (&loader, checkpoint_transformer (c));
  empty.decoder = vae_new_decoder (&loader, checkpoint_vae (c));
  status = count_phases (dry, &empty, run, limit, arenas);
  text_encoder_free (dry, empty.text_encoder);
  transformer_free (dry, empty.transformer[precision]);
  vae_free (dry, empty.decoder);
  return status;
}

Status
plan_arenas (const Models *models, const Device *device, PipelineRun *run, guint64 limit,
             PlanArenas *arenas)
{
  Context dry = { .ops = &ops_dry,
                  .activation = device->ops->activation,
                  .caps = &device->caps,
                  .options = &device->options };

  if (models->text_encoder != NULL && models->transformer[run->request->precision] != NULL
      && models->decoder != NULL)
    return count_phases (&dry, models, run, limit, arenas);
  return count_unloaded (&dry, models->checkpoint, run, limit, arenas);
}

guint64
plan_weights (const Models *models, const Device *device, ModelsPart part,
              EnginePrecision precision)
{
  Weights *weights = models_weights (models, part, precision, NULL);
  guint64 wide, mapped;

  if (weights == NULL)
    return 0;
  mapped = weights_bytes (weights);
  if (device->caps.kind == DEVICE_CUDA)
    return precision == ENGINE_PRECISION_SVDQUANT && part == MODELS_TRANSFORMER
               ? mapped
               : weights_count (weights) * dtype_size (device->ops->activation);

  wide = weights_count (weights) * sizeof (float);
  return models_are_resident (weights, device) && wide > mapped ? mapped + wide : mapped;
}
