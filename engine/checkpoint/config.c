/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/checkpoint/config.h"

#include "engine/engine.h"
#include "engine/files/json.h"
#include "engine/svdquant/detect.h"

#include <string.h>

#define MAX_BYTES (1024 * 1024)
#define MAX_DIM   65536

/* A config file while it is read: the first error stays, and later reads do nothing. */
typedef struct
{
  char *path;
  cJSON *root;
  GError **error;
  gboolean good;
} Reader;

static void
reader_init (Reader *self, const char *dir, const char *name, GError **error)
{
  self->path = g_build_filename (dir, name, NULL);
  self->error = error;
  self->root = json_load (self->path, MAX_BYTES, error);
  self->good = self->root != NULL;
  if (self->good && !cJSON_IsObject (self->root))
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL, "%s: not a JSON object", self->path);
      self->good = FALSE;
    }
}

static gboolean
reader_end (Reader *self)
{
  g_free (self->path);
  cJSON_Delete (self->root);
  return self->good;
}

static void G_GNUC_PRINTF (2, 3) refuse (Reader *self, const char *format, ...)
{
  g_autofree char *text = NULL;
  va_list args;

  if (!self->good)
    return;
  va_start (args, format);
  text = g_strdup_vprintf (format, args);
  va_end (args);
  g_set_error (self->error, ENGINE_ERROR, ENGINE_ERROR_MODEL, "%s: %s", self->path, text);
  self->good = FALSE;
}

static int
read_int (Reader *self, const char *key, int low, int high)
{
  int value = low;

  self->good
      = self->good && json_get_int (self->root, key, low, high, self->path, &value, self->error);
  return value;
}

static double
read_double (Reader *self, const char *key, double low, double high)
{
  double value = low;

  self->good
      = self->good && json_get_double (self->root, key, low, high, self->path, &value, self->error);
  return value;
}

/* A switch that must have the value this engine computes with. */
static void
demand_bool (Reader *self, const char *key, gboolean fallback, gboolean wanted)
{
  gboolean value = wanted;

  self->good
      = self->good && json_get_bool_or (self->root, key, fallback, self->path, &value, self->error);
  if (value != wanted)
    refuse (self, "\"%s\" is %s, which this program does not support", key,
            value ? "true" : "false");
}

static void
demand_string (Reader *self, const char *key, const char *wanted)
{
  const char *value = wanted;

  self->good
      = self->good && json_get_string_or (self->root, key, wanted, self->path, &value, self->error);
  if (strcmp (value, wanted) != 0)
    refuse (self, "\"%s\" is \"%.60s\", only \"%s\" is supported", key, value, wanted);
}

static void
demand_absent (Reader *self, const char *key)
{
  const cJSON *item;

  if (!self->good)
    return;
  item = cJSON_GetObjectItemCaseSensitive (self->root, key);
  if (item != NULL && !cJSON_IsNull (item))
    refuse (self, "\"%s\" is set, which this program does not support", key);
}

/* transformers 5 moved rope_theta into rope_parameters; both places are met. */
static double
read_rope_theta (Reader *self)
{
  const cJSON *object
      = self->good ? cJSON_GetObjectItemCaseSensitive (self->root, "rope_parameters") : NULL;
  const char *type = "default";
  double theta = 1;

  if (!self->good || cJSON_GetObjectItemCaseSensitive (self->root, "rope_theta") != NULL
      || !cJSON_IsObject (object))
    return read_double (self, "rope_theta", 1, 1e12);
  self->good = json_get_string_or (object, "rope_type", type, self->path, &type, self->error)
               && json_get_double (object, "rope_theta", 1, 1e12, self->path, &theta, self->error);
  if (strcmp (type, "default") != 0)
    refuse (self, "\"rope_type\" is \"%.60s\", only \"default\" is supported", type);
  return theta;
}

/* A model that is cast to BF16 as a whole, `model.to (torch.bfloat16)`, has its RoPE frequencies
 * rounded, too. The reference's traces of the small models here were made that way, from trees that
 * transformers 5 saved (frequencies under rope_parameters, "dtype": "bfloat16"): they agree to 1e-6
 * with the rounding and to 3e-4 without. Pipelines that people run come from from_pretrained, which
 * keeps the frequencies in FP32 whatever the type (transformers 5.17, _init_weights), and
 * fine-tunes of Z-Image are saved in that same form: at the published width nothing is rounded. It
 * would be wrong by 0.12 rad at the hundredth token. */
#define PUBLISHED_WIDTH 2560

static gboolean
has_rounded_rope (const Reader *self)
{
  const char *dtype = cJSON_GetStringValue (cJSON_GetObjectItemCaseSensitive (self->root, "dtype"));

  return cJSON_GetObjectItemCaseSensitive (self->root, "rope_theta") == NULL
         && g_strcmp0 (dtype, "bfloat16") == 0;
}

static void
read_patch (Reader *self, TransformerConfig *out)
{
  int frames = 1;

  self->good = self->good
               && json_get_ints (self->root, "all_patch_size", 1, 16, 1, 1, self->path, &out->patch,
                                 NULL, self->error)
               && json_get_ints (self->root, "all_f_patch_size", 1, 1, 1, 1, self->path, &frames,
                                 NULL, self->error);
}

gboolean
config_read_transformer (const char *dir, TransformerConfig *out, GError **error)
{
  Reader r;
  int n_kv_heads, axes = 0;

  reader_init (&r, dir, "transformer/config.json", error);
  demand_string (&r, "_class_name", "ZImageTransformer2DModel");
  demand_absent (&r, "siglip_feat_dim"); /* the Omni and Edit models */
  demand_bool (&r, "qk_norm", TRUE, TRUE);
  r.good = r.good && svdq_check_config (r.root, r.path, error);
  *out = (TransformerConfig){ .t_hidden = 1024 };
  out->dim = read_int (&r, "dim", 32, MAX_DIM);
  out->n_layers = read_int (&r, "n_layers", 1, 1000);
  out->n_refiner_layers = read_int (&r, "n_refiner_layers", 0, 100);
  out->n_heads = read_int (&r, "n_heads", 1, 1024);
  n_kv_heads = out->n_heads;
  r.good = r.good
           && json_get_int_or (r.root, "n_kv_heads", 1, 1024, out->n_heads, r.path, &n_kv_heads,
                               error);
  out->in_channels = read_int (&r, "in_channels", 1, 1024);
  out->cap_feat_dim = read_int (&r, "cap_feat_dim", 1, MAX_DIM);
  out->norm_eps = read_double (&r, "norm_eps", 0, 0.1);
  out->rope_theta = read_rope_theta (&r);
  out->t_scale = read_double (&r, "t_scale", 1e-3, 1e6);
  read_patch (&r, out);
  r.good
      = r.good
        && json_get_ints (r.root, "axes_dims", 2, 1024, 3, 3, r.path, out->axes_dims, NULL, error)
        && json_get_ints (r.root, "axes_lens", 1, 1000000, 3, 3, r.path, out->axes_lens, NULL,
                          error);
  if (!r.good)
    return reader_end (&r);

  for (int i = 0; i < 3; i++)
    axes += out->axes_dims[i] % 2 == 0 ? out->axes_dims[i] : MAX_DIM;
  if (out->dim % out->n_heads != 0 || axes != out->dim / out->n_heads)
    refuse (&r, "\"axes_dims\" must be even and add up to \"dim\" / \"n_heads\"");
  if (n_kv_heads != out->n_heads)
    refuse (&r, "\"n_kv_heads\" is %d, only %d (\"n_heads\") is supported", n_kv_heads,
            out->n_heads);
  out->head_dim = out->dim / out->n_heads;
  out->hidden = (int)((double)out->dim / 3 * 8); /* the reference rounds in this order */
  out->adaln_dim = MIN (out->dim, 256);
  return reader_end (&r);
}

gboolean
config_read_text_encoder (const char *dir, TextEncoderConfig *out, GError **error)
{
  Reader r;

  reader_init (&r, dir, "text_encoder/config.json", error);
  demand_string (&r, "model_type", "qwen3");
  demand_string (&r, "hidden_act", "silu");
  demand_bool (&r, "attention_bias", FALSE, FALSE);
  demand_bool (&r, "use_sliding_window", FALSE, FALSE);
  demand_absent (&r, "rope_scaling");
  *out = (TextEncoderConfig){ 0 };
  out->hidden = read_int (&r, "hidden_size", 1, MAX_DIM);
  out->intermediate = read_int (&r, "intermediate_size", 1, 4 * MAX_DIM);
  out->n_layers = read_int (&r, "num_hidden_layers", 2, 1000);
  out->n_heads = read_int (&r, "num_attention_heads", 1, 1024);
  out->n_kv_heads = read_int (&r, "num_key_value_heads", 1, 1024);
  out->head_dim = read_int (&r, "head_dim", 2, 1024);
  out->vocab = read_int (&r, "vocab_size", 1, 10000000);
  out->rms_eps = read_double (&r, "rms_norm_eps", 0, 0.1);
  out->rope_theta = read_rope_theta (&r);
  out->rope_bf16 = r.good && out->hidden < PUBLISHED_WIDTH && has_rounded_rope (&r);
  if (out->n_kv_heads > 0 && out->n_heads % out->n_kv_heads != 0)
    refuse (&r, "\"num_attention_heads\" is not a multiple of \"num_key_value_heads\"");
  if (out->head_dim % 2 != 0)
    refuse (&r, "\"head_dim\" is %d, which is odd", out->head_dim);
  return reader_end (&r);
}

gboolean
config_read_vae (const char *dir, VaeConfig *out, GError **error)
{
  Reader r;

  reader_init (&r, dir, "vae/config.json", error);
  demand_string (&r, "_class_name", "AutoencoderKL");
  demand_string (&r, "act_fn", "silu");
  demand_bool (&r, "use_quant_conv", FALSE, FALSE);
  demand_bool (&r, "use_post_quant_conv", FALSE, FALSE);
  *out = (VaeConfig){ .mid_attention = TRUE };
  r.good = r.good
           && json_get_ints (r.root, "block_out_channels", 1, 8192, 1, 8, r.path, out->channels,
                             &out->n_blocks, error);
  out->layers_per_block = read_int (&r, "layers_per_block", 1, VAE_MAX_LAYERS);
  r.good = r.good
           && json_get_int_or (r.root, "sample_size", 64, 8192, 1024, r.path, &out->sample_size,
                               error);
  out->latent_channels = read_int (&r, "latent_channels", 1, 1024);
  out->groups = read_int (&r, "norm_num_groups", 1, 1024);
  read_int (&r, "in_channels", 3, 3);
  read_int (&r, "out_channels", 3, 3);
  r.good = r.good
           && json_get_bool_or (r.root, "mid_block_add_attention", TRUE, r.path,
                                &out->mid_attention, error);
  out->scaling_factor = read_double (&r, "scaling_factor", 1e-6, 1e6);
  out->shift_factor = read_double (&r, "shift_factor", -1e6, 1e6);
  if (r.good && out->n_blocks != 4)
    refuse (&r,
            "\"block_out_channels\" has %d entries; only 4, eight pixels a latent, is supported",
            out->n_blocks);
  for (int i = 0; r.good && i < out->n_blocks; i++)
    if (out->channels[i] % out->groups != 0)
      refuse (&r, "\"block_out_channels\" %d is not a multiple of \"norm_num_groups\"",
              out->channels[i]);
  return reader_end (&r);
}

gboolean
config_read_scheduler (const char *dir, SchedulerConfig *out, GError **error)
{
  static const char *const switches[]
      = { "use_dynamic_shifting", "use_karras_sigmas", "use_exponential_sigmas",
          "use_beta_sigmas",      "invert_sigmas",     "stochastic_sampling" };
  Reader r;

  reader_init (&r, dir, "scheduler/scheduler_config.json", error);
  demand_string (&r, "_class_name", "FlowMatchEulerDiscreteScheduler");
  for (guint i = 0; i < G_N_ELEMENTS (switches); i++)
    demand_bool (&r, switches[i], FALSE, FALSE);
  demand_absent (&r, "shift_terminal");
  *out = (SchedulerConfig){ 0 };
  out->train_timesteps = read_int (&r, "num_train_timesteps", 1, 1000000);
  out->shift = read_double (&r, "shift", 0.01, 100);
  return reader_end (&r);
}

gboolean
config_is_model_folder (const char *dir)
{
  static const char *const signs[]
      = { "model_index.json", "transformer/config.json", "text_encoder/config.json" };

  for (guint i = 0; i < G_N_ELEMENTS (signs); i++)
    {
      g_autofree char *path = g_build_filename (dir, signs[i], NULL);

      if (g_file_test (path, G_FILE_TEST_EXISTS))
        return TRUE;
    }
  return FALSE;
}

gboolean
config_check_pipeline (const char *dir, GError **error)
{
  g_autofree char *path = g_build_filename (dir, "model_index.json", NULL);
  const char *name = "ZImagePipeline";
  Reader r;

  if (!g_file_test (path, G_FILE_TEST_EXISTS))
    return TRUE;
  reader_init (&r, dir, "model_index.json", error);
  r.good = r.good && json_get_string_or (r.root, "_class_name", name, r.path, &name, error);
  if (r.good && (!g_str_has_prefix (name, "ZImage") || !g_str_has_suffix (name, "Pipeline")))
    refuse (&r, "describes a %.60s, not a Z-Image pipeline", name);
  return reader_end (&r);
}
