/* SPDX-License-Identifier: Apache-2.0
 *
 * plan.h - the memory a request will take, from headers alone
 *
 * Activations are counted by running the pipeline's own code on a dry context; weights by what the
 * headers say, in the form the device holds them.
 */
#pragma once

#include "engine/pipeline.h"

G_BEGIN_DECLS

/* Bytes of each phase's arena; run->ids must be there. Chooses run->tile, the largest the decoder
 * can take within `limit` bytes (0 = whole), or the smallest there is. */
typedef struct
{
  size_t encode, denoise, decode;
} PlanArenas;

Status plan_arenas (const Models *models, const Device *device, PipelineRun *run, guint64 limit,
                    PlanArenas *arenas);

/* Bytes of device memory a part's weights take (CPU: mapped file and expanded copies together). */
guint64 plan_weights (const Models *models, const Device *device, ModelsPart part,
                      EnginePrecision precision);

G_END_DECLS
