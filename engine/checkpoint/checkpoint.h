/* SPDX-License-Identifier: Apache-2.0
 *
 * checkpoint.h - a model folder: layout, configs, which tensor goes where
 *
 * Knows the Hugging Face tree of Z-Image (spec z-image 1.1) with any sizes in its configs, the
 * single-file ComfyUI naming (1.7), and which names a model needs. Weights are looked up by the
 * reference's names; another naming is translated here and nowhere else.
 */
#pragma once

#include "engine/files/safetensors.h"
#include "kernels/kernels.h"

G_BEGIN_DECLS

typedef struct /* transformer/config.json */
{
  int dim, n_layers, n_refiner_layers, n_heads, head_dim;
  int hidden; /* FFN width: int (dim / 3 * 8) */
  int in_channels, cap_feat_dim, patch;
  int axes_dims[3], axes_lens[3];
  double norm_eps, rope_theta, t_scale;
  int adaln_dim; /* 256: min (dim, 256) */
  int t_hidden;  /* 1024: width of the timestep MLP, from its weight's shape */
} TransformerConfig;

typedef struct /* text_encoder/config.json */
{
  int hidden, intermediate, n_layers, n_heads, n_kv_heads, head_dim, vocab;
  double rms_eps, rope_theta;
  gboolean rope_bf16; /* inverse frequencies rounded to BF16: see config.c */
} TextEncoderConfig;

#define VAE_MAX_LAYERS 16

typedef struct /* vae/config.json */
{
  int sample_size;           /* pixels a side that the model was made for */
  int n_blocks, channels[8]; /* block_out_channels */
  int layers_per_block, latent_channels, groups;
  gboolean mid_attention;
  double scaling_factor, shift_factor;
} VaeConfig;

typedef struct /* scheduler/scheduler_config.json */
{
  int train_timesteps;
  double shift;
} SchedulerConfig;

typedef enum
{
  CHECKPOINT_TRANSFORMER,
  CHECKPOINT_TEXT_ENCODER,
  CHECKPOINT_VAE,
} CheckpointPart;

typedef struct _Checkpoint Checkpoint;
typedef struct _Weights Weights;

/* Opens `dir` and reads configs and headers; `transformer_file` (or NULL) replaces the folder's
 * own transformer weights: safetensors with the reference's names, ComfyUI's, or SVDQuant's.
 * `text_encoder_file` (or NULL) replaces the text encoder's, dense or in 8 or 4 bit; all its
 * tensors must have the shapes of this model's.
 * Errors: ENGINE_ERROR_MODEL naming file and cause. */
Checkpoint *checkpoint_open (const char *dir, const char *transformer_file,
                             const char *text_encoder_file, GError **error);
void checkpoint_free (Checkpoint *self); /* NULL is a no-op */

/* FALSE with ENGINE_ERROR_CHANGED if a file of weights was rewritten since it was opened. */
gboolean checkpoint_check_unchanged (Checkpoint *self, GError **error);

const char *checkpoint_dir (const Checkpoint *self);
const TransformerConfig *checkpoint_transformer (const Checkpoint *self);
const TextEncoderConfig *checkpoint_text_encoder (const Checkpoint *self);
const VaeConfig *checkpoint_vae (const Checkpoint *self);
const SchedulerConfig *checkpoint_scheduler (const Checkpoint *self);

/* TRUE if the model is the distilled one that takes no guidance: shift 3 (spec z-image 1.6). */
gboolean checkpoint_is_distilled (const Checkpoint *self);

/* The weights of a part, borrowed; views live as long as the Checkpoint. For the transformer,
 * `svdquant` chooses the quantised set; NULL with an error if that set is not there. */
Weights *
checkpoint_weights (Checkpoint *self, CheckpointPart part, gboolean svdquant, GError **error);
gboolean checkpoint_has_svdquant (const Checkpoint *self);
gboolean checkpoint_has_dense (const Checkpoint *self);

/* A tensor by the reference's name, with exactly this shape (`rank` extents of any integer type),
 * F32, BF16 or F16, in the file or expanded. FALSE with ENGINE_ERROR_MODEL naming file, tensor, and
 * what was found instead. */
#define weights_get(self, out, name, error, rank, ...)                                             \
  weights_get_shaped ((self), (out), (name), (error), (rank), (const int64_t[]){ __VA_ARGS__ })
gboolean weights_get_shaped (Weights *self, Tensor *out, const char *name, GError **error, int rank,
                             const int64_t *shape);
/* Whether weights_get would find it, from headers. */
gboolean weights_check_shaped (Weights *self, const char *name, GError **error, int rank,
                               const int64_t *shape);
/* A weight that the file has in 8 or 4 bit with scales (scaled.h) comes as BF16 in memory of its
 * own, which lives until weights_forget_expanded; _keep_expanded: as long as the Checkpoint.
 * weights_is_scaled looks at headers and changes nothing: (any thread). */
gboolean weights_is_scaled (Weights *self, const char *name);
gboolean weights_has_expanded (const Weights *self);
void weights_forget_expanded (Weights *self);
void weights_keep_expanded (Weights *self);
/* FALSE with ENGINE_ERROR_MODEL if any weight is in fewer bits than 16. */
gboolean weights_demand_dense (Weights *self, GError **error);
/* As weights_get, for optional tensors: FALSE without an error when there is none. */
gboolean weights_find (Weights *self, const char *name, Tensor *out);
/* The SVDQuant linear `base` ("layers.0.attention.to_qkv"), logical order; n, k: expected extents.
 * FALSE without an error when `base` is dense in this file. The source is borrowed, and valid until
 * the next call: most formats are put in order in one buffer. */
gboolean weights_get_svdq (Weights *self, const char *base, int64_t n, int64_t k,
                           const SvdqSource **out, GError **error);
/* Format and rank of the SVDQuant linear `base`, from headers, everything else zero; FALSE when it
 * is dense. Changes nothing: (any thread). */
gboolean weights_find_svdq (const Weights *self, const char *base, SvdqSource *out);
/* Adds the linear `base` ("model.layers.0.mlp.up_proj") to `source` as its next part, in codes
 * (weight-only/file.h): codes, scales, code_bits. FALSE without an error when `base` is dense. */
gboolean weights_add_codes (Weights *self, const char *base, int64_t n, LinearSource *source,
                            GError **error);
/* Bits of the linear `base`, 8 or 4, 0 when it is dense; and those of all linears that are not.
 * From headers; change nothing, `self` may be NULL: (any thread). */
int weights_find_code_bits (const Weights *self, const char *base);
int weights_code_bits (const Weights *self);
/* The 4-bit format of these weights; FALSE if all is dense. */
gboolean weights_svdq_format (const Weights *self, SvdqFormat *format);
/* FALSE with an error naming the first tensors that no call has asked for. To be called once a
 * model has taken all it needs; names known to be unused elsewhere are passed over. */
gboolean weights_check_all_used (Weights *self, GError **error);
const char *weights_path (Weights *self);
guint64 weights_bytes (Weights *self); /* payload in the file */
guint64 weights_count (Weights *self); /* numbers in it, all tensors together */

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Checkpoint, checkpoint_free)

G_END_DECLS
