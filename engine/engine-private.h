/* SPDX-License-Identifier: Apache-2.0
 *
 * engine-private.h - what engine.c, forecast.c and generate.c share
 */
#pragma once

#include "engine/computer/calibration.h"
#include "engine/memory/plan.h"
#include "engine/observe.h"
#include "engine/prompt-cache.h"

#include <stdatomic.h>

G_BEGIN_DECLS

/* What a request had computed when memory ran out for good. */
typedef struct
{
  char *request; /* (owned) as JSON; NULL: nothing is kept */
  float *latents;
  int steps_done;
} Kept;

struct _Engine
{
  Models models;
  Device device;
  EngineOffload offload;
  Calibration *calibration;
  PromptCache *prompts;
  Kept kept;
  char *trace_path;
  char *lora_folder;
  EngineLinearSeen seen; /* see observe.h */
  gpointer seen_data;
  /* Written by the engine's thread, read by any. */
  atomic_uint_fast64_t held, activations, peak, pinned;
};

/* Bytes of the device that the engine may hold now: the budget, or what is free and what it has.
 * (any thread) */
guint64 forecast_limit (const Engine *self);
/* Bytes of host memory that images may take. (any thread) */
guint64 forecast_host_limit (const Engine *self);

/* Kinds of work that are remembered (calibration.h); the link's unit is bytes, that of the others
 * floating-point operations. Transfer full. */
char *forecast_kind (const Engine *self, const char *phase, const EngineRequest *request);
#define FORECAST_LINK "link"
double forecast_work (const DryWork *work);

/* What decoding in bands costs: the last level runs once for each of its norms (vae-bands.c), of
 * the published decoder's work 2.4 times as much. */
#define FORECAST_BANDS_COST 2.4

G_END_DECLS
