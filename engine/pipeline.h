/* SPDX-License-Identifier: Apache-2.0
 *
 * pipeline.h - from prompt to pixels, phase by phase (spec z-image 0, pipeline_z_image.py)
 *
 * Each phase takes its activations from one arena, which a dry run of the same code has measured.
 * What passes from phase to phase - ids, embeddings, latents, pixels - is host memory.
 */
#pragma once

#include "engine/engine.h"
#include "engine/models.h"
#include "engine/trace.h"

G_BEGIN_DECLS

/* One run of a request. All members but the first five are filled by the phases, in order. */
typedef struct
{
  const EngineRequest *request; /* validated */
  const Adapters *adapters;     /* borrowed; NULL if the request has no LoRA */
  Trace *trace;                 /* borrowed; may be NULL */
  EngineProgress progress;      /* may be NULL */
  gpointer user_data;
  GArray *ids[2];   /* (owned) gint64: prompt, negative prompt (NULL without guidance) */
  float *embeds[2]; /* (owned) [n, features] */
  float *latents;   /* (owned) [channels, height / 8, width / 8] */
  float *pixels;    /* (owned) [height, width, 3] */
  int steps_done;   /* whose result `latents` are */
  int band;         /* of the decoder, rows of latents; 0 = all (vae.h) */
} PipelineRun;

void pipeline_run_clear (PipelineRun *run);

/* Prompt to ids; no device. FALSE with ENGINE_ERROR_MODEL if the tokenizer is not the encoder's. */
gboolean pipeline_tokenize (const Models *models, PipelineRun *run, GError **error);

/* Starting noise, or the latents file. Errors name the file. */
gboolean pipeline_start (const Models *models, PipelineRun *run, GError **error);

/* The phases on a device. With a dry context they only count: ids must be there, nothing else. One
 * that failed can be run again: prompts that are encoded and steps that are done stay so. */
Status pipeline_encode (const Context *ctx, const Models *models, PipelineRun *run);
Status pipeline_denoise (const Context *ctx, const Models *models, PipelineRun *run);
Status pipeline_decode (const Context *ctx, const Models *models, PipelineRun *run);

/* Pixels rounded (transfer full). */
Image *pipeline_image (const PipelineRun *run);

G_END_DECLS
