/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/checkpoint/synthetic.h"

#include "engine/checkpoint/checkpoint-private.h"
#include "engine/checkpoint/inventory.h"
#include "engine/checkpoint/synthetic-memory.h"
#include "engine/engine.h"
#include "engine/weight-only/file.h"
#include "kernels/weight-codes.h"

#include <string.h>

#define TEMPLATE_IDS 8
#define MODEL_NAME   "z-image-turbo"
#define MAX_RANK     256

/* -- the model ----------------------------------------------------------------------------------
 */

/* The published sizes (spec z-image 1.2). */
static void
fill_configs (Checkpoint *self, int n_layers)
{
  self->transformer = (TransformerConfig){
    .dim = 3840,
    .n_layers = n_layers,
    .n_refiner_layers = 2,
    .n_heads = 30,
    .head_dim = 128,
    .hidden = 10240,
    .in_channels = 16,
    .cap_feat_dim = 2560,
    .patch = 2,
    .axes_dims = { 32, 48, 48 },
    .axes_lens = { 1536, 512, 512 },
    .norm_eps = 1e-5,
    .rope_theta = 256,
    .t_scale = 1000,
    .adaln_dim = 256,
    .t_hidden = 1024,
  };
  self->text_encoder = (TextEncoderConfig){
    .hidden = 2560,
    .intermediate = 9728,
    .n_layers = MIN (36, n_layers * 36 / 30 + 1),
    .n_heads = 32,
    .n_kv_heads = 8,
    .head_dim = 128,
    .vocab = 151936,
    .rms_eps = 1e-6,
    .rope_theta = 1e6,
  };
  self->vae = (VaeConfig){
    .sample_size = 1024,
    .n_blocks = 4,
    .channels = { 128, 256, 512, 512 },
    .layers_per_block = 2,
    .latent_channels = 16,
    .groups = 32,
    .mid_attention = TRUE,
    .scaling_factor = 0.3611,
    .shift_factor = 0.1159,
  };
  self->scheduler = (SchedulerConfig){ .train_timesteps = 1000, .shift = 3.0 };
}

typedef struct
{
  Safetensors *file;
  SyntheticMemory *memory;
  const SyntheticSvdq *svdq; /* NULL: all dense */
  int encoder_bits;          /* of codes; 0: dense */
  GError *error;             /* (owned) the first that happened */
} Fill;

static void
add (Fill *self, const char *name, SyntheticKind kind, Tensor tensor)
{
  if (self->error != NULL)
    return;
  tensor.data = synthetic_memory_take (self->memory, kind, tensor_bytes (&tensor), &self->error);
  if (tensor.data != NULL)
    safetensors_add_borrowed (self->file, name, &tensor);
}

static void
on_tensor (const char *name, int rank, const int64_t *shape, gpointer user_data)
{
  gboolean norm = rank == 1 && strstr (name, "norm") != NULL && g_str_has_suffix (name, ".weight");
  Tensor tensor = { .dtype = DTYPE_BF16, .rank = rank, .shape = { 1, 1, 1, 1 } };

  memcpy (tensor.shape, shape, (gsize)rank * sizeof *shape);
  add (user_data, name, norm ? SYNTHETIC_ONES : SYNTHETIC_NORMAL, tensor);
}

/* -- its 4-bit companion ------------------------------------------------------------------------
 */

static void
add_part (Fill *self, const char *base, const char *part, SyntheticKind kind, Tensor tensor)
{
  g_autofree char *name = g_strconcat (base, ".", part, NULL);

  add (self, name, kind, tensor);
}

/* A quantised linear in our own file format (spec svdquant 3.6). */
static void
add_quantised (Fill *self, const char *base, int64_t n, int64_t k)
{
  int64_t rank = self->svdq->rank;

  add_part (self, base, "qweight", SYNTHETIC_CODES, tensor_2d (DTYPE_U8, NULL, n, k / 2));
  if (self->svdq->format == SVDQ_INT4)
    add_part (self, base, "wscales", SYNTHETIC_INT4_SCALES,
              tensor_2d (DTYPE_BF16, NULL, k / 64, n));
  else
    {
      add_part (self, base, "wscales", SYNTHETIC_NVFP4_SCALES,
                tensor_2d (DTYPE_F8_E4M3, NULL, k / 16, n));
      if (g_str_has_suffix (base, ".to_qkv")) /* as published: three linears in one */
        add_part (self, base, "wcscales", SYNTHETIC_NVFP4_OUTER, tensor_1d (DTYPE_BF16, NULL, n));
      else
        add_part (self, base, "wtscale", SYNTHETIC_NVFP4_OUTER, tensor_1d (DTYPE_BF16, NULL, 1));
    }
  add_part (self, base, "smooth_factor", SYNTHETIC_SMOOTH, tensor_1d (DTYPE_BF16, NULL, k));
  add_part (self, base, "proj_down", SYNTHETIC_NORMAL, tensor_2d (DTYPE_BF16, NULL, k, rank));
  add_part (self, base, "proj_up", SYNTHETIC_NORMAL, tensor_2d (DTYPE_BF16, NULL, n, rank));
}

/* The dense weights that a quantised linear stands for; where several are fused, only the first
 * brings it. */
static const struct
{
  const char *weight, *fused; /* `fused` NULL: fused with another */
  int times;                  /* rows of the whole, in rows of this one */
} quantised[] = {
  { ".attention.to_q.weight", ".attention.to_qkv", 3 },
  { ".attention.to_k.weight", NULL, 0 },
  { ".attention.to_v.weight", NULL, 0 },
  { ".attention.to_out.0.weight", ".attention.to_out.0", 1 },
  { ".feed_forward.w1.weight", ".feed_forward.w13", 2 },
  { ".feed_forward.w3.weight", NULL, 0 },
  { ".feed_forward.w2.weight", ".feed_forward.w2", 1 },
};

static void
on_quantised_tensor (const char *name, int rank, const int64_t *shape, gpointer user_data)
{
  for (guint i = 0; i < G_N_ELEMENTS (quantised); i++)
    if (g_str_has_suffix (name, quantised[i].weight))
      {
        gsize block = strlen (name) - strlen (quantised[i].weight);
        g_autofree char *base = g_strdup_printf ("%.*s%s", (int)block, name, quantised[i].fused);

        if (quantised[i].fused != NULL)
          add_quantised (user_data, base, shape[0] * quantised[i].times, shape[1]);
        return;
      }
  on_tensor (name, rank, shape, user_data);
}

/* -- a text encoder in codes --------------------------------------------------------------------
 */

static void
on_coded_tensor (const char *name, int rank, const int64_t *shape, gpointer user_data)
{
  Fill *fill = user_data;
  gboolean four = fill->encoder_bits == 4;
  g_autofree char *base = NULL;

  if (rank != 2 || !g_str_has_suffix (name, "_proj.weight"))
    {
      on_tensor (name, rank, shape, user_data);
      return;
    }
  base = g_strndup (name, strlen (name) - strlen (".weight"));
  add_part (
      fill, base, "codes", four ? SYNTHETIC_CODES : SYNTHETIC_BYTES,
      tensor_2d (four ? DTYPE_U8 : DTYPE_I8, NULL, shape[0], shape[1] * fill->encoder_bits / 8));
  add_part (fill, base, "scales", SYNTHETIC_BYTE_SCALES,
            tensor_2d (DTYPE_BF16, NULL, shape[0], shape[1] / CODES_GROUP));
}

static void
fill_text_encoder (Fill *fill, const Checkpoint *checkpoint)
{
  g_autofree char *text = NULL;

  if (fill->encoder_bits != 0)
    {
      text = weight_only_describe (fill->encoder_bits, checkpoint->dir, "");
      safetensors_set_borrowed_metadata (fill->file, WEIGHT_ONLY_KEY, text);
    }
  inventory_text_encoder (&checkpoint->text_encoder,
                          fill->encoder_bits != 0 ? on_coded_tensor : on_tensor, fill);
}

/* -- all parts ----------------------------------------------------------------------------------
 */

static void
fill_transformer (Fill *fill, const Checkpoint *checkpoint)
{
  if (fill->svdq != NULL)
    safetensors_set_borrowed_metadata (fill->file, "svdq_canonical", "1");
  inventory_transformer (&checkpoint->transformer,
                         fill->svdq != NULL ? on_quantised_tensor : on_tensor, fill);
}

/* One part's weights, or with `svdq` the transformer's in 4 bit. */
static Weights *
make_part (const Checkpoint *self, CheckpointPart part, const SyntheticSvdq *svdq, int encoder_bits,
           GError **error)
{
  Fill fill = { safetensors_new_borrowed (self->dir), self->synthetic, svdq, encoder_bits, NULL };
  const int counts[] = { 0, self->text_encoder.n_layers, self->vae.n_blocks };

  if (part == CHECKPOINT_TRANSFORMER)
    fill_transformer (&fill, self);
  else if (part == CHECKPOINT_TEXT_ENCODER)
    fill_text_encoder (&fill, self);
  else
    {
      inventory_vae_decoder (&self->vae, on_tensor, &fill);
      inventory_vae_encoder (&self->vae, on_tensor, &fill);
    }
  if (fill.error == NULL)
    return weights_new (part, fill.file, counts[part], error);
  safetensors_free (fill.file);
  g_propagate_prefixed_error (error, fill.error, "%s: ", self->dir);
  return NULL;
}

/* "synthetic:z-image-turbo" -> 30, "synthetic:z-image-turbo:2" -> 2; 0 for anything else. */
static int
parse_name (const char *name)
{
  const char *rest = name + strlen (SYNTHETIC_PREFIX);
  guint64 layers;

  if (!g_str_has_prefix (name, SYNTHETIC_PREFIX MODEL_NAME))
    return 0;
  rest += strlen (MODEL_NAME);
  if (*rest == '\0')
    return 30;
  if (*rest != ':' || !g_ascii_string_to_unsigned (rest + 1, 10, 1, 30, &layers, NULL))
    return 0;
  return (int)layers;
}

gboolean
synthetic_parse_svdq (const char *name, SyntheticSvdq *out, GError **error)
{
  static const char *const formats[] = { [SVDQ_INT4] = "int4", [SVDQ_NVFP4] = "nvfp4" };
  g_auto (GStrv) parts = g_strsplit (name, ":", 3);
  guint64 rank = SYNTHETIC_RANK;

  for (guint i = 0; i < G_N_ELEMENTS (formats); i++)
    if (g_str_has_prefix (name, SYNTHETIC_PREFIX) && g_str_equal (parts[1], formats[i])
        && (parts[2] == NULL
            || g_ascii_string_to_unsigned (parts[2], 10, 16, MAX_RANK, &rank, NULL))
        && rank % 16 == 0)
      {
        *out = (SyntheticSvdq){ (SvdqFormat)i, (int)rank };
        return TRUE;
      }
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
               "a synthetic model has no transformer %s; it can be %sint4 or %snvfp4, or with a "
               "rank that is a multiple of 16 up to %d, %sint4:128",
               name, SYNTHETIC_PREFIX, SYNTHETIC_PREFIX, MAX_RANK, SYNTHETIC_PREFIX);
  return FALSE;
}

gboolean
synthetic_parse_encoder (const char *name, int *bits, GError **error)
{
  if (g_str_equal (name, SYNTHETIC_PREFIX "8") || g_str_equal (name, SYNTHETIC_PREFIX "4"))
    {
      *bits = name[strlen (SYNTHETIC_PREFIX)] - '0';
      return TRUE;
    }
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
               "a synthetic model has no text encoder %s; it can be %s8 or %s4", name,
               SYNTHETIC_PREFIX, SYNTHETIC_PREFIX);
  return FALSE;
}

Checkpoint *
synthetic_open (const char *name, const SyntheticSvdq *svdq, int encoder_bits, GError **error)
{
  g_autoptr (Checkpoint) self = NULL;
  int n_layers = parse_name (name);

  if (n_layers == 0)
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL,
                   "there is no model %s; it can be %s%s, or %s%s:N with N layers", name,
                   SYNTHETIC_PREFIX, MODEL_NAME, SYNTHETIC_PREFIX, MODEL_NAME);
      return NULL;
    }
  self = g_new0 (Checkpoint, 1);
  self->dir = g_strdup (name);
  self->synthetic = synthetic_memory_new ();
  fill_configs (self, n_layers);
  for (int part = 0; part < CHECKPOINT_N_PARTS; part++)
    {
      self->parts[part] = make_part (self, (CheckpointPart)part, NULL, encoder_bits, error);
      if (self->parts[part] == NULL)
        return NULL;
    }
  self->svdquant = make_part (self, CHECKPOINT_TRANSFORMER, svdq, 0, error);
  return self->svdquant != NULL ? g_steal_pointer (&self) : NULL;
}

GArray *
synthetic_tokenize (const Checkpoint *checkpoint, const char *prompt, guint max_ids)
{
  GArray *ids = g_array_new (FALSE, FALSE, sizeof (gint64));
  g_auto (GStrv) words = g_strsplit_set (prompt, " \t\n", -1);
  guint n = g_strv_length (words) + TEMPLATE_IDS;

  for (guint i = 0; i < MIN (n, max_ids); i++)
    {
      guint hash = i < TEMPLATE_IDS ? i : g_str_hash (words[i - TEMPLATE_IDS]);
      gint64 id = hash % (guint)checkpoint->text_encoder.vocab;

      g_array_append_val (ids, id);
    }
  return ids;
}
