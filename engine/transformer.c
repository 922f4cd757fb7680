/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transformer-private.h"

#include "engine/patches.h"

#define FINAL_NORM_EPS 1e-6f /* the final LayerNorm's own; everything else has norm_eps */
/* Tokens times layers of a recording. A cancellation waits for the two recordings that are queued:
 * 20 ms on an H200, and below 100 ms on a card of a fifth of its speed. */
#define TOKENS_A_RECORDING 12800

/* Modulated blocks [first, last), recorded together; with the first one what comes before, with
 * the last one what comes behind. */
typedef struct
{
  int first, last;
} Segment;

struct _TransformerRun
{
  PatchGrid grid;
  int caption; /* tokens with padding: P */
  int steps;
  Tensor rope;        /* [image + caption, d/2, 2], image rows first */
  Tensor refined;     /* the caption after its refiner, [P, D] */
  Tensor *modulation; /* per modulated block [steps, 4, D] F32 */
  Tensor final_scale; /* [steps, D] F32 */
  Tensor patches;     /* [image tokens, patch^2 channels], in and out */
  Tensor tokens;      /* residual stream [image + caption, D] */
  Tensor normed;      /* the same shape: what the next block reads */
  Tensor now;         /* this step's modulation of all blocks, [blocks, 4, D] F32 */
  Tensor final_now;   /* [D] F32 */
  Segment *segments;
  Recording **recordings;
  int n_segments;
  int selected; /* the step whose modulation is in `now`; -1: none */
};

/* -- one block (spec 5.7) -----------------------------------------------------------------------
 */

/* What a block takes from the time: 1 + scale and tanh (gate), twice; all NULL in the context
 * refiner, which has none. */
typedef struct
{
  const Tensor *scale1, *gate1, *scale2, *gate2;
} Modulation;

/* The norm that reads a block's result, its scale, and where it goes; computed on the way out of
 * the block, while the row is at hand. norm NULL: nobody reads it normed. */
typedef struct
{
  const Tensor *norm, *scale;
  Tensor out;
} Next;

static Next
norm_for (const Context *ctx, const Block *block, const Tensor *scale, const Tensor *a)
{
  return (Next){ &block->attention_norm1, scale, linear_normed (ctx, block->qkv, a) };
}

/* x [M, D] is the residual stream; `a` comes in as RMS (x) * norm1 * scale1, leaves as `next`, both
 * as linear_normed has it. */
static Status
block_forward (const Context *ctx, const TransformerConfig *c, const Block *block, Modulation mod,
               Next next, const Tensor *rope, Tensor *x, Tensor *a)
{
  const Ops *ops = ctx->ops;
  size_t mark = arena_mark (ctx->arena, ARENA_LOW);
  int64_t m = x->shape[0];
  float eps = (float)c->norm_eps;
  HeadNorm heads
      = { c->n_heads, c->n_heads, &block->norm_q, &block->norm_k, eps, rope, ROPE_INTERLEAVED };
  Tensor qkv, y, h, normed = linear_normed (ctx, block->w13, a);

  CHECK (arena_tensor (ctx->arena, &y, ctx->residual, m, c->dim, 0, 0));
  CHECK (arena_tensor (ctx->arena, &qkv, ctx->activation, m, 3 * c->n_heads, c->head_dim, 0));
  CHECK (linear_apply_normed (ctx, block->qkv, x, a, &heads, &qkv));
  CHECK (ops->attention (ctx->stream, &qkv, c->n_heads, c->n_heads, false, a));
  CHECK (linear_apply (ctx, block->out, a, &y));
  CHECK (ops->residual_norm (ctx->stream, x, &y, &block->attention_norm2, mod.gate1,
                             &block->ffn_norm1, mod.scale2, eps, &normed));
  arena_release (ctx->arena, ARENA_LOW, mark);

  CHECK (arena_tensor (ctx->arena, &y, ctx->residual, m, c->dim, 0, 0));
  CHECK (arena_tensor (ctx->arena, &h, ctx->activation, m, c->hidden, 0, 0));
  CHECK (linear_apply_normed (ctx, block->w13, x, a, NULL, &h));
  CHECK (linear_apply (ctx, block->w2, &h, &y));
  CHECK (ops->residual_norm (ctx->stream, x, &y, &block->ffn_norm2, mod.gate2, next.norm,
                             next.scale, eps, next.norm != NULL ? &next.out : NULL));
  arena_release (ctx->arena, ARENA_LOW, mark);
  return STATUS_OK;
}

/* Vector `part` (0..3) of block `index` in this step's modulation. */
static Tensor
modulation_part (const Transformer *self, const TransformerRun *run, int index, int part)
{
  int64_t d = self->config.dim;
  Tensor all = tensor_2d (DTYPE_F32, run->now.data, 4 * transformer_n_modulated (&self->config), d);
  Tensor row = tensor_rows (&all, 4 * index + part, 1);

  return tensor_1d (DTYPE_F32, row.data, d);
}

/* Modulated blocks [first, last), all refiners or all layers, on the first rows of the stream. Each
 * norms for the next one if that reads the same rows. */
static Status
modulated_blocks (const Context *ctx, const Transformer *self, const TransformerRun *run, int first,
                  int last, int64_t rows)
{
  const TransformerConfig *c = &self->config;
  Tensor x = tensor_rows (&run->tokens, 0, rows);
  Tensor a = tensor_rows (&run->normed, 0, rows);
  Tensor rope = tensor_rows (&run->rope, 0, rows);

  for (int i = first; i < last; i++)
    {
      Tensor s1 = modulation_part (self, run, i, 0), g1 = modulation_part (self, run, i, 1);
      Tensor s2 = modulation_part (self, run, i, 2), g2 = modulation_part (self, run, i, 3);
      Tensor next_scale = { 0 };
      Next next = { 0 };

      if (i + 1 != c->n_refiner_layers && i + 1 < transformer_n_modulated (c))
        {
          next_scale = modulation_part (self, run, i + 1, 0);
          next = norm_for (ctx, &self->blocks[i + 1], &next_scale, &a);
        }
      CHECK (context_check_cancelled (ctx));
      CHECK (block_forward (ctx, c, &self->blocks[i], (Modulation){ &s1, &g1, &s2, &g2 }, next,
                            &rope, &x, &a));
    }
  return STATUS_OK;
}

/* The norm in front of modulated block `index`, on the first rows of the stream. */
static Status
norm_into (const Context *ctx, const Transformer *self, const TransformerRun *run, int index,
           int64_t rows)
{
  Tensor x = tensor_rows (&run->tokens, 0, rows);
  Tensor a = tensor_rows (&run->normed, 0, rows);
  Tensor scale = modulation_part (self, run, index, 0);
  Next next = norm_for (ctx, &self->blocks[index], &scale, &a);

  return ctx->ops->rms_norm (ctx->stream, &x, next.norm, next.scale, (float)self->config.norm_eps,
                             &next.out);
}

/* -- once per prompt ----------------------------------------------------------------------------
 */

/* Uploads host values [a, b] into a new arena tensor. */
static Status
upload_new (const Context *ctx, DType type, const float *values, int64_t a, int64_t b, Tensor *out)
{
  Tensor host = tensor_2d (DTYPE_F32, (float *)values, a, b);

  CHECK (arena_tensor (ctx->arena, out, type, a, b, 0, 0));
  return ctx->ops->upload (ctx->stream, &host, out);
}

/* Caption embeddings [n, cap_feat_dim] -> run->refined [P, D]. */
static Status
refine_caption (const Context *ctx, Transformer *self, TransformerRun *run, const float *embeds,
                int n)
{
  const TransformerConfig *c = &self->config;
  const Ops *ops = ctx->ops;
  float eps = (float)c->norm_eps;
  size_t mark = arena_mark (ctx->arena, ARENA_LOW);
  Tensor rope = tensor_rows (&run->rope, run->grid.padded, run->caption);
  Tensor text, normed, pads, a;
  Next next;

  /* The encoder's residual stream, as it is. */
  CHECK (upload_new (ctx, ctx->residual, embeds, n, c->cap_feat_dim, &text));
  CHECK (arena_tensor (ctx->arena, &normed, ctx->activation, n, c->cap_feat_dim, 0, 0));
  CHECK (ops->rms_norm (ctx->stream, &text, &self->cap_norm, NULL, eps, &normed));
  pads = tensor_rows (&run->refined, 0, n);
  CHECK (linear_apply (ctx, self->cap_embedder, &normed, &pads));
  pads = tensor_rows (&run->refined, n, run->caption - n);
  if (run->caption > n)
    CHECK (ops->fill_rows (ctx->stream, &self->cap_pad, &pads));

  CHECK (arena_tensor (ctx->arena, &a, ctx->activation, run->caption, c->dim, 0, 0));
  if (c->n_refiner_layers > 0)
    {
      next = norm_for (ctx, &self->context_refiner[0], NULL, &a);
      CHECK (ops->rms_norm (ctx->stream, &run->refined, next.norm, NULL, eps, &next.out));
    }
  for (int i = 0; i < c->n_refiner_layers; i++)
    {
      next = (Next){ 0 };
      if (i + 1 < c->n_refiner_layers)
        next = norm_for (ctx, &self->context_refiner[i + 1], NULL, &a);
      CHECK (context_check_cancelled (ctx));
      CHECK (shelf_acquire (self->shelf, ctx, i));
      CHECK (block_forward (ctx, c, &self->context_refiner[i], (Modulation){ 0 }, next, &rope,
                            &run->refined, &a));
      CHECK (shelf_release (self->shelf, ctx, i));
    }
  arena_release (ctx->arena, ARENA_LOW, mark);
  return STATUS_OK;
}

/* The modulation vectors of every step (spec 5.2, 5.7, 5.8). */
static Status
modulate_schedule (const Context *ctx, Transformer *self, TransformerRun *run, const float *sigmas)
{
  const TransformerConfig *c = &self->config;
  const Ops *ops = ctx->ops;
  size_t mark = arena_mark (ctx->arena, ARENA_LOW);
  g_autofree float *sinusoid
      = patches_time_sinusoid (sigmas, run->steps, c->t_scale, TIME_FREQUENCIES);
  Tensor wave, hidden, time, m, scale;

  CHECK (upload_new (ctx, ctx->activation, sinusoid, run->steps, TIME_FREQUENCIES, &wave));
  CHECK (arena_tensor (ctx->arena, &hidden, ctx->activation, run->steps, c->t_hidden, 0, 0));
  CHECK (arena_tensor (ctx->arena, &time, ctx->activation, run->steps, c->adaln_dim, 0, 0));
  CHECK (arena_tensor (ctx->arena, &m, ctx->activation, run->steps, 4 * c->dim, 0, 0));
  CHECK (arena_tensor (ctx->arena, &scale, ctx->activation, run->steps, c->dim, 0, 0));

  CHECK (linear_apply (ctx, self->time_in, &wave, &hidden));
  CHECK (ops->silu (ctx->stream, &hidden, &hidden));
  CHECK (linear_apply (ctx, self->time_out, &hidden, &time));
  for (int i = 0; i < transformer_n_modulated (c); i++)
    {
      CHECK (linear_apply (ctx, self->blocks[i].modulation, &time, &m));
      CHECK (ops->modulation (ctx->stream, &m, &run->modulation[i]));
    }
  /* Only the final layer has a SiLU in front of its modulation. */
  CHECK (ops->silu (ctx->stream, &time, &time));
  CHECK (linear_apply (ctx, self->final_modulation, &time, &scale));
  CHECK (ops->one_plus (ctx->stream, &scale, &run->final_scale));
  arena_release (ctx->arena, ARENA_LOW, mark);
  return STATUS_OK;
}

static Status
take_run_memory (const Context *ctx, const TransformerConfig *c, TransformerRun *run)
{
  Arena *arena = ctx->arena;
  int64_t rows = run->grid.padded + run->caption;
  int blocks = transformer_n_modulated (c);

  CHECK (arena_tensor (arena, &run->rope, DTYPE_F32, rows, c->head_dim / 2, 2, 0));
  CHECK (arena_tensor (arena, &run->refined, ctx->residual, run->caption, c->dim, 0, 0));
  for (int i = 0; i < blocks; i++)
    CHECK (arena_tensor (arena, &run->modulation[i], DTYPE_F32, run->steps, 4, c->dim, 0));
  CHECK (arena_tensor (arena, &run->final_scale, DTYPE_F32, run->steps, c->dim, 0, 0));
  CHECK (arena_tensor (arena, &run->patches, ctx->activation, run->grid.count,
                       c->patch * c->patch * c->in_channels, 0, 0));
  CHECK (arena_tensor (arena, &run->tokens, ctx->residual, rows, c->dim, 0, 0));
  CHECK (arena_tensor (arena, &run->normed, ctx->activation, rows, c->dim, 0, 0));
  CHECK (arena_tensor (arena, &run->now, DTYPE_F32, blocks, 4, c->dim, 0));
  return arena_tensor (arena, &run->final_now, DTYPE_F32, 1, c->dim, 0, 0);
}

static Status
begin (const Context *ctx, Transformer *self, TransformerRun *run, const float *embeds, int n,
       const float *sigmas)
{
  const TransformerConfig *c = &self->config;
  g_autofree float *table = NULL;
  Tensor host;

  CHECK (take_run_memory (ctx, c, run));
  table = patches_rope_table (c, &run->grid, run->caption);
  host = run->rope;
  host.data = table;
  CHECK (ctx->ops->upload (ctx->stream, &host, &run->rope));
  CHECK (refine_caption (ctx, self, run, embeds, n));
  return modulate_schedule (ctx, self, run, sigmas);
}

/* Resident blocks a few at a time, streamed ones alone; refiners and layers apart. */
static void
cut_segments (const Transformer *self, TransformerRun *run)
{
  int n = transformer_n_modulated (&self->config), refiners = self->config.n_refiner_layers;
  int most = MAX (TOKENS_A_RECORDING / (run->grid.padded + run->caption), 1);

  run->segments = g_new (Segment, (gsize)n);
  for (int first = 0, last; first < n; first = last)
    {
      int end = first < refiners ? refiners : MIN (first + most, n);

      last = first + 1;
      while (last < end && !shelf_is_streamed (self->shelf, refiners + first)
             && !shelf_is_streamed (self->shelf, refiners + last))
        last++;
      run->segments[run->n_segments++] = (Segment){ first, last };
    }
  run->recordings = g_new0 (Recording *, (gsize)run->n_segments);
}

Status
transformer_begin (const Context *ctx, Transformer *self, const float *embeds, int n, int height,
                   int width, const float *sigmas, int steps, TransformerRun **out)
{
  const TransformerConfig *c = &self->config;
  TransformerRun *run = g_new0 (TransformerRun, 1);

  *out = run;
  run->grid = patches_grid (c, height, width);
  run->caption = patches_padded (n);
  run->steps = steps;
  run->selected = -1;
  run->modulation = g_new0 (Tensor, (gsize)transformer_n_modulated (c));
  cut_segments (self, run);
  return begin (ctx, self, run, embeds, n, sigmas);
}

void
transformer_end (const Context *ctx, TransformerRun *run)
{
  if (run == NULL)
    return;
  /* A cancelled step leaves recordings running; their faults are seen by who waits next. */
  (void)ctx->ops->wait (ctx->stream);
  for (int i = 0; i < run->n_segments; i++)
    if (run->recordings[i] != NULL)
      ctx->ops->recording_free (run->recordings[i]);
  g_free (run->recordings);
  g_free (run->segments);
  g_free (run->modulation);
  g_free (run);
}

/* -- once per step (spec 5.8) -------------------------------------------------------------------
 */

/* Patches to tokens, pads, and the norm in front of the noise refiner. */
static Status
embed_image (const Context *ctx, Transformer *self, TransformerRun *run)
{
  Tensor image = tensor_rows (&run->tokens, 0, run->grid.count);
  Tensor pads = tensor_rows (&run->tokens, run->grid.count, run->grid.padded - run->grid.count);

  CHECK (linear_apply (ctx, self->x_embedder, &run->patches, &image));
  if (pads.shape[0] > 0)
    CHECK (ctx->ops->fill_rows (ctx->stream, &self->x_pad, &pads));
  return self->config.n_refiner_layers > 0 ? norm_into (ctx, self, run, 0, run->grid.padded)
                                           : STATUS_OK;
}

/* The caption joins behind the image. */
static Status
join_caption (const Context *ctx, Transformer *self, TransformerRun *run)
{
  Tensor caption = tensor_rows (&run->tokens, run->grid.padded, run->caption);

  CHECK (ctx->ops->copy (ctx->stream, &run->refined, &caption));
  return norm_into (ctx, self, run, self->config.n_refiner_layers, run->grid.padded + run->caption);
}

/* The image's tokens back to patches. */
static Status
project_image (const Context *ctx, Transformer *self, TransformerRun *run)
{
  Tensor x = tensor_rows (&run->tokens, 0, run->grid.count);
  Tensor a = tensor_rows (&run->normed, 0, run->grid.count);
  Tensor scale = tensor_1d (DTYPE_F32, run->final_now.data, self->config.dim);

  CHECK (ctx->ops->layer_norm (ctx->stream, &x, &scale, FINAL_NORM_EPS, &a));
  return linear_apply (ctx, self->final_linear, &a, &run->patches);
}

static Status
segment_forward (const Context *ctx, Transformer *self, TransformerRun *run, Segment segment)
{
  int refiners = self->config.n_refiner_layers;
  int64_t rows = segment.first < refiners ? run->grid.padded : run->grid.padded + run->caption;

  if (segment.first == 0)
    CHECK (embed_image (ctx, self, run));
  if (segment.first == refiners)
    CHECK (join_caption (ctx, self, run));
  CHECK (modulated_blocks (ctx, self, run, segment.first, segment.last, rows));
  return segment.last == transformer_n_modulated (&self->config) ? project_image (ctx, self, run)
                                                                 : STATUS_OK;
}

/* Runs a segment; on a device that can, its launches are recorded once and replayed each step. */
static Status
segment_run (const Context *ctx, Transformer *self, TransformerRun *run, int index)
{
  const Ops *ops = ctx->ops;
  Context uncancelled = *ctx;
  Status recorded, ended;

  if (ops->record == NULL)
    return segment_forward (ctx, self, run, run->segments[index]);

  if (run->recordings[index] == NULL)
    {
      uncancelled.cancellable = NULL;
      CHECK (ops->record (ctx->stream));
      recorded = segment_forward (&uncancelled, self, run, run->segments[index]);
      ended = ops->record_end (ctx->stream, &run->recordings[index]);
      CHECK (recorded);
      CHECK (ended);
    }
  return ops->replay (ctx->stream, run->recordings[index]);
}

static Status
segment_play (const Context *ctx, Transformer *self, TransformerRun *run, int index)
{
  int bundle = self->config.n_refiner_layers + run->segments[index].first;

  CHECK (shelf_acquire (self->shelf, ctx, bundle));
  CHECK (segment_run (ctx, self, run, index));
  CHECK (shelf_release (self->shelf, ctx, bundle));
  return context_check_cancelled (ctx);
}

/* Puts a step's modulation where the blocks read it: the addresses are the same each step. */
static Status
select_step (const Context *ctx, const Transformer *self, TransformerRun *run, int step)
{
  Tensor row;

  if (step == run->selected || step >= run->steps)
    return STATUS_OK;
  run->selected = step;
  for (int i = 0; i < transformer_n_modulated (&self->config); i++)
    {
      Tensor now = tensor_rows (&run->now, i, 1);

      row = tensor_rows (&run->modulation[i], step, 1);
      CHECK (ctx->ops->copy (ctx->stream, &row, &now));
    }
  row = tensor_rows (&run->final_scale, step, 1);
  return ctx->ops->copy (ctx->stream, &row, &run->final_now);
}

Status
transformer_step (const Context *ctx, Transformer *self, TransformerRun *run, int step,
                  const float *latents, float *velocity)
{
  const TransformerConfig *c = &self->config;
  gboolean dry = context_is_dry (ctx);
  g_autofree float *patches = NULL;
  Tensor host = run->patches;

  if (!dry)
    {
      patches = g_new (float, (gsize)tensor_count (&run->patches));
      patches_from_latents (c, &run->grid, latents, patches);
    }
  host.dtype = DTYPE_F32;
  host.data = patches;
  CHECK (ctx->ops->upload (ctx->stream, &host, &run->patches));
  CHECK (select_step (ctx, self, run, step));
  for (int i = 0; i < run->n_segments; i++)
    CHECK (segment_play (ctx, self, run, i));
  /* Dozens of small copies: queued behind the layers, they take no time between the steps. */
  CHECK (select_step (ctx, self, run, step + 1));
  CHECK (ctx->ops->download (ctx->stream, &run->patches, &host));
  if (!dry)
    patches_to_latents (c, &run->grid, patches, velocity);
  return STATUS_OK;
}
