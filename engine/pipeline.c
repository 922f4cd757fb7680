/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/pipeline.h"

#include "engine/lora/adapters.h"
#include "engine/noise.h"
#include "engine/sampler.h"

#include <string.h>

void
pipeline_run_clear (PipelineRun *run)
{
  for (int i = 0; i < 2; i++)
    {
      g_clear_pointer (&run->ids[i], g_array_unref);
      g_clear_pointer (&run->embeds[i], g_free);
    }
  g_clear_pointer (&run->latents, g_free);
  g_clear_pointer (&run->pixels, g_free);
}

static void
report (const PipelineRun *run, EnginePhase phase, int step, int n_steps, Image *preview)
{
  if (run->progress != NULL)
    run->progress (phase, (guint)step, (guint)n_steps, preview, run->user_data);
}

static int
latent_height (const PipelineRun *run)
{
  return run->request->height / VAE_SCALE;
}

static int
latent_width (const PipelineRun *run)
{
  return run->request->width / VAE_SCALE;
}

static gsize
latent_count (const Models *models, const PipelineRun *run)
{
  return (gsize)checkpoint_transformer (models->checkpoint)->in_channels
         * (gsize)latent_height (run) * (gsize)latent_width (run);
}

/* -- before the device --------------------------------------------------------------------------
 */

/* An id is a row of the encoder's embeddings. */
static gboolean
check_ids (const Models *models, const GArray *ids, GError **error)
{
  const int vocab = checkpoint_text_encoder (models->checkpoint)->vocab;

  for (guint i = 0; i < ids->len; i++)
    if (g_array_index (ids, gint64, i) >= vocab)
      {
        g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                     "%s: the tokenizer says %" G_GINT64_FORMAT
                     ", the text encoder knows ids below %d (vocab_size): they are of two models",
                     checkpoint_dir (models->checkpoint), g_array_index (ids, gint64, i), vocab);
        return FALSE;
      }
  return TRUE;
}

gboolean
pipeline_tokenize (const Models *models, PipelineRun *run, GError **error)
{
  const EngineRequest *r = run->request;

  run->ids[0] = models_tokenize (models, r->prompt);
  if (r->guidance > 0)
    run->ids[1] = models_tokenize (models, r->negative ? r->negative : "");
  trace_add (run->trace, "prompt.token_ids", DTYPE_I64, 1, (int64_t[]){ run->ids[0]->len },
             run->ids[0]->data);
  return check_ids (models, run->ids[0], error)
         && (run->ids[1] == NULL || check_ids (models, run->ids[1], error));
}

static gboolean
read_latents (const Models *models, PipelineRun *run, GError **error)
{
  const char *path = run->request->latents_file;
  g_autoptr (Safetensors) file = safetensors_open (path, error);
  int channels = checkpoint_transformer (models->checkpoint)->in_channels;
  Tensor t;

  if (file == NULL)
    return FALSE;
  if (!safetensors_find (file, "latents.init", &t) || t.rank != 4 || t.shape[0] != 1
      || t.shape[1] != channels || t.shape[2] != latent_height (run)
      || t.shape[3] != latent_width (run) || (t.dtype != DTYPE_F32 && t.dtype != DTYPE_BF16))
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST,
                   "%s has no tensor \"latents.init\" of F32 or BF16 [1, %d, %d, %d]", path,
                   channels, latent_height (run), latent_width (run));
      return FALSE;
    }
  for (int64_t i = 0; i < tensor_count (&t); i++)
    run->latents[i] = tensor_get (&t, i);
  return TRUE;
}

static void
trace_latents (const Models *models, const PipelineRun *run, const char *name)
{
  int64_t shape[] = { 1, checkpoint_transformer (models->checkpoint)->in_channels,
                      latent_height (run), latent_width (run) };

  trace_add (run->trace, name, DTYPE_F32, 4, shape, run->latents);
}

gboolean
pipeline_start (const Models *models, PipelineRun *run, GError **error)
{
  gsize n = latent_count (models, run);

  run->latents = g_new (float, n);
  if (run->request->latents_file != NULL)
    {
      if (!read_latents (models, run, error))
        return FALSE;
    }
  else if (run->request->noise == ENGINE_NOISE_TORCH_CUDA)
    noise_torch_cuda (run->request->seed, NOISE_CUDA_THREADS, run->latents, n);
  else
    noise_torch_cpu (run->request->seed, run->latents, n);
  trace_latents (models, run, "latents.init");
  return TRUE;
}

/* -- text ---------------------------------------------------------------------------------------
 */

Status
pipeline_encode (const Context *ctx, const Models *models, PipelineRun *run)
{
  static const char *const names[] = { "prompt.embeds", "negative.embeds" };
  int features = checkpoint_text_encoder (models->checkpoint)->hidden;

  for (int i = 0; i < 2 && run->ids[i] != NULL; i++)
    {
      int n = (int)run->ids[i]->len;
      g_autofree float *embeds = NULL;

      if (!context_is_dry (ctx))
        {
          report (run, ENGINE_PHASE_ENCODE, i, run->ids[1] != NULL ? 2 : 1, NULL);
          if (run->embeds[i] != NULL)
            continue;
          embeds = g_new (float, (gsize)n *(gsize)features);
        }
      CHECK (text_encoder_run (ctx, models->text_encoder, (gint64 *)run->ids[i]->data, n, embeds));
      if (context_is_dry (ctx))
        continue;
      run->embeds[i] = g_steal_pointer (&embeds);
      trace_add (run->trace, names[i], DTYPE_F32, 2, (int64_t[]){ n, features }, run->embeds[i]);
    }
  return STATUS_OK;
}

/* -- denoising ----------------------------------------------------------------------------------
 */

/* What the loop carries besides the latents. */
typedef struct
{
  TransformerRun *branch[2]; /* prompt, negative prompt */
  int n_branches;
  float *sigmas;   /* [steps + 1] */
  float *velocity; /* [branches][latents] */
  gsize n;         /* latents */
} Denoise;

static Status
begin_branches (const Context *ctx, const Models *models, const PipelineRun *run, Denoise *d)
{
  Transformer *transformer = models->transformer[run->request->precision];

  for (int i = 0; i < d->n_branches; i++)
    CHECK (transformer_begin (ctx, transformer, run->embeds[i], (int)run->ids[i]->len,
                              latent_height (run), latent_width (run), d->sigmas,
                              run->request->steps, &d->branch[i]));
  return STATUS_OK;
}

/* Guidance is off at the late steps that cfg_truncation cuts (spec 1.6). */
static gboolean
guides (const PipelineRun *run, const Denoise *d, int step)
{
  return d->n_branches == 2
         && (1000.0f - d->sigmas[step] * 1000.0f) / 1000.0f <= run->request->cfg_truncation;
}

/* The velocity at this step, in d->velocity's first part. */
static Status
predict (const Context *ctx, const Models *models, const PipelineRun *run, Denoise *d, int step)
{
  const EngineRequest *r = run->request;
  Transformer *transformer = models->transformer[r->precision];
  int64_t shape[] = { checkpoint_transformer (models->checkpoint)->in_channels, 1,
                      latent_height (run), latent_width (run) };

  CHECK (transformer_step (ctx, transformer, d->branch[0], step, run->latents, d->velocity));
  if (step == 0 && !context_is_dry (ctx))
    trace_add (run->trace, "transformer.step01", DTYPE_F32, 4, shape, d->velocity);
  if (!guides (run, d, step))
    return STATUS_OK;
  CHECK (transformer_step (ctx, transformer, d->branch[1], step, run->latents, d->velocity + d->n));
  if (!context_is_dry (ctx))
    sampler_guide (d->velocity, d->velocity, d->velocity + d->n, d->n, r->guidance,
                   r->cfg_normalization);
  return STATUS_OK;
}

/* Shows where the step is heading: x0 = x + sigma v (spec 4.5). */
static void
report_step (const Models *models, const PipelineRun *run, const Denoise *d, int step)
{
  g_autofree float *clean = NULL;
  g_autoptr (Image) preview = NULL;

  if (run->progress == NULL)
    return;
  clean = g_memdup2 (run->latents, d->n * sizeof (float));
  sampler_step (clean, d->velocity, d->n, d->sigmas[step + 1], 0.0f);
  preview = preview_render (&models->preview, clean, latent_height (run), latent_width (run));
  report (run, ENGINE_PHASE_DENOISE, step + 1, run->request->steps, preview);
}

static Status
denoise (const Context *ctx, const Models *models, PipelineRun *run, Denoise *d)
{
  int steps = run->request->steps;

  CHECK (begin_branches (ctx, models, run, d));
  for (int i = run->steps_done; i < steps; i++)
    {
      g_autofree char *name = g_strdup_printf ("latents.step%02d", i + 1);

      CHECK (context_check_cancelled (ctx));
      CHECK (predict (ctx, models, run, d, i));
      if (context_is_dry (ctx))
        break; /* every step takes the same */
      sampler_step (run->latents, d->velocity, d->n, d->sigmas[i], d->sigmas[i + 1]);
      run->steps_done = i + 1;
      trace_latents (models, run, name);
      report_step (models, run, d, i);
    }
  return STATUS_OK;
}

static void
trace_schedule (const PipelineRun *run, const float *sigmas)
{
  int64_t steps = run->request->steps;
  g_autofree float *timesteps = g_new (float, (gsize)steps);

  for (int64_t i = 0; i < steps; i++)
    timesteps[i] = sigmas[i] * 1000.0f;
  trace_add (run->trace, "scheduler.sigmas", DTYPE_F32, 1, (int64_t[]){ steps + 1 }, sigmas);
  trace_add (run->trace, "scheduler.timesteps", DTYPE_F32, 1, &steps, timesteps);
}

Status
pipeline_denoise (const Context *phase, const Models *models, PipelineRun *run)
{
  Context adapted = *phase;
  const Context *ctx = &adapted;
  int steps = run->request->steps;
  Denoise d = { .n_branches = run->ids[1] != NULL ? 2 : 1, .n = latent_count (models, run) };
  Status status;

  adapted.adapters = adapters_are_any (run->adapters) ? run->adapters : NULL;
  d.sigmas = g_new (float, (gsize)steps + 1);
  d.velocity = g_new (float, 2 * d.n);
  sampler_sigmas (steps, checkpoint_scheduler (models->checkpoint)->shift, d.sigmas);
  if (!context_is_dry (ctx))
    {
      if (run->steps_done == 0)
        trace_schedule (run, d.sigmas);
      report (run, ENGINE_PHASE_DENOISE, run->steps_done, steps, NULL);
    }
  status = denoise (ctx, models, run, &d);
  transformer_end (ctx, d.branch[0]);
  transformer_end (ctx, d.branch[1]);
  g_free (d.sigmas);
  g_free (d.velocity);
  return status;
}

/* -- pixels -------------------------------------------------------------------------------------
 */

/* The reference's layout, [3, H, W]. */
static void
trace_pixels (const PipelineRun *run)
{
  int64_t h = run->request->height, w = run->request->width;
  g_autofree float *planes = g_new (float, (gsize)(3 * h * w));

  if (run->trace == NULL)
    return;
  for (int64_t i = 0; i < h * w; i++)
    for (int64_t c = 0; c < 3; c++)
      planes[c * h * w + i] = run->pixels[i * 3 + c];
  trace_add (run->trace, "image.float", DTYPE_F32, 3, (int64_t[]){ 3, h, w }, planes);
}

Status
pipeline_decode (const Context *ctx, const Models *models, PipelineRun *run)
{
  gsize n = 3 * (gsize)run->request->height * (gsize)run->request->width;
  gboolean dry = context_is_dry (ctx);

  if (!dry)
    {
      g_free (run->pixels);
      run->pixels = g_new (float, n);
      report (run, ENGINE_PHASE_DECODE, 0, 1, NULL);
    }
  CHECK (vae_decode (ctx, models->decoder, run->latents, latent_height (run), latent_width (run),
                     run->band, run->pixels));
  if (!dry)
    {
      trace_pixels (run);
      report (run, ENGINE_PHASE_DECODE, 1, 1, NULL);
    }
  return STATUS_OK;
}

Image *
pipeline_image (const PipelineRun *run)
{
  int h = run->request->height, w = run->request->width;
  gsize n = 3 * (gsize)h * (gsize)w;
  guint8 *rgb = g_new (guint8, n);
  g_autoptr (GBytes) bytes = g_bytes_new_take (rgb, n);

  vae_round_pixels (run->pixels, n, rgb);
  trace_add (run->trace, "image.u8", DTYPE_U8, 3, (int64_t[]){ h, w, 3 }, rgb);
  return image_new (w, h, bytes);
}
