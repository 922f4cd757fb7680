/* SPDX-License-Identifier: Apache-2.0 */
#include "app/memory/advice.h"

static int
scale (int side, double factor)
{
  return MAX (ENGINE_REQUEST_MIN_SIZE, (int)(side * factor) / 16 * 16);
}

static gboolean
is_better (const EnginePlan *plan, const EnginePlan *best)
{
  if (best == NULL)
    return TRUE;
  return plan->seconds > 0 && best->seconds > 0 ? plan->seconds < best->seconds : TRUE;
}

/* The most that a setting may take, in bytes. */
static guint64
find_limit (Engine *engine, const EngineRequest *request, gboolean failed)
{
  EnginePlan plan;

  if (!failed || !engine_plan (engine, request, &plan, NULL))
    return G_MAXUINT64;
  return plan.peak - plan.peak / 16; /* as the engine steps down */
}

gboolean
advice_find (Engine *engine, const EngineRequest *request, gboolean failed, EngineRequest *out)
{
  const guint64 limit = find_limit (engine, request, failed);
  static const double factors[] = { 1, 0.75, 0.5, 0.375, 0.25, 0 };

  for (guint i = 0; i < G_N_ELEMENTS (factors); i++)
    {
      EngineRequest candidate = *request;
      EnginePlan plans[2];
      const EnginePlan *best = NULL;

      candidate.width = scale (request->width, factors[i]);
      candidate.height = scale (request->height, factors[i]);
      for (int p = ENGINE_PRECISION_BF16; p <= ENGINE_PRECISION_SVDQUANT; p++)
        {
          candidate.precision = p;
          if (!engine_supports (engine, p, NULL)
              || !engine_plan (engine, &candidate, &plans[p], NULL) || !plans[p].fits
              || plans[p].peak > limit || !is_better (&plans[p], best))
            continue;
          best = &plans[p];
          *out = candidate;
        }
      if (best != NULL)
        return TRUE;
    }
  return FALSE;
}
