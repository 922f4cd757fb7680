/* SPDX-License-Identifier: Apache-2.0
 *
 * plan.h - the memory a request will take, from headers alone, and what to do when it is too much
 *
 * Activations are counted by running the pipeline's own code on a dry context; weights by running
 * the loader on it, with the sizes that the backends report. Nothing here needs the model to be
 * loaded, or changes it: what it reads is there from engine_new on. (any thread)
 */
#pragma once

#include "engine/pipeline.h"

G_BEGIN_DECLS

typedef struct
{
  PartPlacement parts[MODELS_N_PARTS];
  int band; /* of the decoder, rows of latents; 0 = all */
} Placement;

#define PLAN_N_BANDS 5

/* What a request takes, apart from where its weights are. */
typedef struct
{
  PartMemory parts[MODELS_N_PARTS];      /* CPU: with expanded weights */
  PartMemory unexpanded[MODELS_N_PARTS]; /* CPU: without */
  size_t encode, denoise;                /* arenas */
  size_t decode[PLAN_N_BANDS];           /* by plan_bands */
  guint64 working;                       /* what the device keeps for itself, layers' included */
  DryWork work[ENGINE_N_PHASES];         /* encode, one step, decode */
  gboolean cpu;
} PlanFacts;

extern const int
    plan_bands[PLAN_N_BANDS]; /* rows of latents in a band of the decoder, best first; 0 = all */

/* run: request and ids. */
Status plan_count (const Models *models, const Device *device, PipelineRun *run, PlanFacts *out);

/* Bytes held at most in each phase. */
void
plan_peaks (const PlanFacts *facts, const Placement *placement, guint64 peaks[ENGINE_N_PHASES]);
guint64 plan_peak (const PlanFacts *facts, const Placement *placement);

/* Host memory that images take. */
guint64 plan_pinned (const PlanFacts *facts, const Placement *placement);

/* Bytes that cross the bus for images: once a prompt (the encoder), once a picture, once a step. */
typedef struct
{
  guint64 prompt, picture, step;
} PlanTraffic;

PlanTraffic plan_traffic (const PlanFacts *facts, const Placement *placement);

/* The fastest placement of `level` that stays within `limit` bytes of the device and `host_limit`
 * bytes of images. If there is none, FALSE, and *out is the one that takes least. */
gboolean plan_choose (const PlanFacts *facts, EngineOffload level, guint64 limit,
                      guint64 host_limit, Placement *out);

G_END_DECLS
