/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "engine/synthetic.h"

#include "engine/checkpoint-private.h"
#include "engine/engine.h"
#include "engine/inventory.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BLOCK_BYTES    ((gsize)64 << 20)
#define SPREAD         0.02f /* standard deviation of weights: products of normed rows stay near 1 */
#define STEP           ((gsize)4096 * 37) /* from a tensor's start to the next one's */
#define TEMPLATE_IDS   8
#define MODEL_NAME     "z-image-turbo"
#define PARAMETERS_MAX 65536 /* of a vector */

struct _SyntheticMemory
{
  char *window;  /* the block, over and over */
  gsize bytes;   /* of the window */
  guint16 *ones; /* BF16, for norms */
};

/* -- the block ----------------------------------------------------------------------------------
 */

/* Sum of four uniforms from one xorshift number: near enough to a normal. */
static float
small_normal (guint64 *state)
{
  float sum = 0.0f;

  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  for (int i = 0; i < 4; i++)
    sum += (float)((*state >> (16 * i)) & 0xffff) / 65536.0f - 0.5f;
  return sum * SPREAD * 1.7320508f; /* four uniforms have variance 1/3 */
}

static gboolean
fill_block (int file)
{
  guint64 state = 0x9e3779b97f4a7c15u;
  guint16 *block;

  if (ftruncate (file, (off_t)BLOCK_BYTES) != 0)
    return FALSE;
  block = mmap (NULL, BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (block == MAP_FAILED)
    return FALSE;
  for (gsize i = 0; i < BLOCK_BYTES / sizeof *block; i++)
    block[i] = bf16_from_float (small_normal (&state));
  return munmap (block, BLOCK_BYTES) == 0;
}

static gboolean
map_window (SyntheticMemory *self, int file)
{
  self->window = mmap (NULL, self->bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (self->window == MAP_FAILED)
    {
      self->window = NULL;
      return FALSE;
    }
  for (gsize at = 0; at < self->bytes; at += BLOCK_BYTES)
    if (mmap (self->window + at, BLOCK_BYTES, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0)
        == MAP_FAILED)
      return FALSE;
  return TRUE;
}

void
synthetic_memory_free (SyntheticMemory *self)
{
  if (self == NULL)
    return;
  if (self->window != NULL)
    munmap (self->window, self->bytes);
  g_free (self->ones);
  g_free (self);
}

/* A window that holds a tensor of `largest` bytes from any place in the block. */
static SyntheticMemory *
memory_new (gsize largest, GError **error)
{
  SyntheticMemory *self = g_new0 (SyntheticMemory, 1);
  int file = memfd_create ("synthetic-weights", MFD_CLOEXEC);
  gboolean ok;

  self->bytes = (largest / BLOCK_BYTES + 2) * BLOCK_BYTES;
  self->ones = g_new (guint16, PARAMETERS_MAX);
  for (guint i = 0; i < PARAMETERS_MAX; i++)
    self->ones[i] = bf16_from_float (1.0f);
  ok = file >= 0 && fill_block (file) && map_window (self, file);
  if (!ok)
    g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MEMORY, "%s%s: cannot make weights: %s",
                 SYNTHETIC_PREFIX, MODEL_NAME, g_strerror (errno));
  if (file >= 0)
    close (file);
  if (ok)
    return self;
  synthetic_memory_free (self);
  return NULL;
}

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
  gsize next; /* where the next tensor starts in the block */
} Fill;

static void
on_tensor (const char *name, int rank, const int64_t *shape, gpointer user_data)
{
  Fill *self = user_data;
  Tensor tensor = { .dtype = DTYPE_BF16, .rank = rank, .shape = { 1, 1, 1, 1 } };

  memcpy (tensor.shape, shape, (gsize)rank * sizeof *shape);
  if (rank == 1 && strstr (name, "norm") != NULL && g_str_has_suffix (name, ".weight"))
    tensor.data = self->memory->ones;
  else
    tensor.data = self->memory->window + self->next % BLOCK_BYTES;
  self->next += STEP;
  safetensors_add_borrowed (self->file, name, &tensor);
}

static gboolean
fill_parts (Checkpoint *self, SyntheticMemory *memory, GError **error)
{
  Fill fills[CHECKPOINT_N_PARTS];
  int counts[] = { 0, self->text_encoder.n_layers, self->vae.n_blocks };

  for (int i = 0; i < CHECKPOINT_N_PARTS; i++)
    fills[i] = (Fill){ safetensors_new_borrowed (self->dir), memory, 0 };
  inventory_transformer (&self->transformer, on_tensor, &fills[CHECKPOINT_TRANSFORMER]);
  inventory_text_encoder (&self->text_encoder, on_tensor, &fills[CHECKPOINT_TEXT_ENCODER]);
  inventory_vae_decoder (&self->vae, on_tensor, &fills[CHECKPOINT_VAE]);
  inventory_vae_encoder (&self->vae, on_tensor, &fills[CHECKPOINT_VAE]);
  for (int i = 0; i < CHECKPOINT_N_PARTS; i++)
    self->parts[i] = weights_new ((CheckpointPart)i, fills[i].file, counts[i],
                                  error != NULL && *error != NULL ? NULL : error);
  return self->parts[0] != NULL && self->parts[1] != NULL && self->parts[2] != NULL;
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

Checkpoint *
synthetic_open (const char *name, GError **error)
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
  fill_configs (self, n_layers);
  /* The embedding table is the largest tensor. */
  self->synthetic = memory_new (
      (gsize)self->text_encoder.vocab * (gsize)self->text_encoder.hidden * sizeof (guint16), error);
  if (self->synthetic == NULL || !fill_parts (self, self->synthetic, error))
    return NULL;
  return g_steal_pointer (&self);
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
