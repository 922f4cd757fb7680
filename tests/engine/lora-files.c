/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/engine/lora-files.h"

#include <glib/gstdio.h>
#include <string.h>

#define ALPHA_SHARE 0.5 /* of the rank, where a style writes alpha */

/* The factors of one layer, with the scale in `up`. */
typedef struct
{
  int64_t rows, in, rank;
  float *down, *up;
} Factors;

static void
factors_clear (Factors *self)
{
  g_free (self->down);
  g_free (self->up);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Factors, factors_clear)

static char *
new_path (void)
{
  char *path = g_build_filename (g_get_tmp_dir (), "tessera-lora-XXXXXX", NULL);

  g_close (g_mkstemp (path), NULL);
  return path;
}

void
lora_remove (char *path)
{
  g_unlink (path);
  g_free (path);
}

static gboolean
has_layer (const LoraSample *self, const char *layer)
{
  for (guint i = 0; self->blocks[i] != NULL; i++)
    if (g_str_has_prefix (layer, self->blocks[i]) && layer[strlen (self->blocks[i])] == '.')
      return TRUE;
  return FALSE;
}

/* FALSE if the sample does not touch the layer. */
static gboolean
make_factors (const LoraSample *self, const char *layer, Factors *out)
{
  g_autofree char *weight = g_strconcat (layer, ".weight", NULL);
  g_autoptr (GRand) rand = g_rand_new_with_seed (self->seed ^ g_str_hash (layer));
  Tensor base;

  if (!has_layer (self, layer) || !safetensors_find (self->base, weight, &base) || base.rank != 2)
    return FALSE;
  *out = (Factors){ base.shape[0], base.shape[1], self->rank, NULL, NULL };
  out->down = g_new (float, (gsize)(out->rank * out->in));
  out->up = g_new (float, (gsize)(out->rows * out->rank));
  for (int64_t i = 0; i < out->rank * out->in; i++)
    out->down[i] = (float)g_rand_double_range (rand, -0.1, 0.1);
  for (int64_t i = 0; i < out->rows * out->rank; i++)
    out->up[i] = (float)g_rand_double_range (rand, -0.4, 0.4);
  return TRUE;
}

gboolean
lora_sample_apply (const LoraSample *self, const char *layer, const float *x, double *out)
{
  g_auto (Factors) f = { 0 };
  g_autofree double *low = g_new0 (double, (gsize)self->rank);

  if (!make_factors (self, layer, &f))
    return FALSE;
  for (int64_t r = 0; r < f.rank; r++)
    for (int64_t i = 0; i < f.in; i++)
      low[r] += (double)f.down[r * f.in + i] * x[i];
  for (int64_t row = 0; row < f.rows; row++)
    {
      out[row] = 0.0;
      for (int64_t r = 0; r < f.rank; r++)
        out[row] += (double)f.up[row * f.rank + r] * low[r];
    }
  return TRUE;
}

/* -- writing ------------------------------------------------------------------------------------
 */

typedef struct
{
  SafetensorsWriter *writer;
  GPtrArray *held;
} Output;

static void
add (Output *self, const char *module, const char *ending, int rank, int64_t a, int64_t b,
     const float *data)
{
  g_autofree char *name = g_strconcat (module, ending, NULL);
  float *copy = g_memdup2 (data, (gsize)(a * b) * sizeof *data);

  g_ptr_array_add (self->held, copy);
  safetensors_writer_add (self->writer, name, DTYPE_F32, rank, (int64_t[]){ a, b }, copy);
}

static char *
replace (const char *text, const char *from, const char *to)
{
  GString *out = g_string_new (text);

  g_string_replace (out, from, to, 0);
  return g_string_free (out, FALSE);
}

static char *
module_name (LoraStyle style, const char *layer)
{
  g_autofree char *flat = replace (layer, ".", "_");

  switch (style)
    {
    case LORA_PEFT:
      return g_strconcat ("transformer.", layer, NULL);
    case LORA_ADAPTER:
      return g_strconcat ("base_model.model.", layer, NULL);
    case LORA_COMFY:
      return g_strconcat ("diffusion_model.", layer, NULL);
    case LORA_KOHYA:
      return g_strconcat ("lora_unet_", flat, NULL);
    case LORA_LYCORIS:
      return g_strconcat ("lycoris_", flat, NULL);
    case LORA_DOTS:
      return replace (layer, "to_", "to.");
    default:
      return g_strdup (layer);
    }
}

/* With alpha the file's up is larger by what alpha / r takes away. */
static void
write_pair (Output *self, LoraStyle style, const char *module, const Factors *f)
{
  static const char *const endings[LORA_N_STYLES][2] = {
    [LORA_PEFT] = { ".lora_A.weight", ".lora_B.weight" },
    [LORA_ADAPTER] = { ".lora_A.default.weight", ".lora_B.default.weight" },
    [LORA_BARE] = { ".lora_down.weight", ".lora_up.weight" },
    [LORA_COMFY] = { ".lora_down.weight", ".lora_up.weight" },
    [LORA_KOHYA] = { ".lora_down.weight", ".lora_up.weight" },
    [LORA_LYCORIS] = { ".lora_down.weight", ".lora_up.weight" },
    [LORA_DOTS] = { ".lora.down.weight", ".lora.up.weight" },
  };
  gboolean alpha = style == LORA_BARE || style == LORA_KOHYA || style == LORA_LYCORIS;
  const float value = (float)(ALPHA_SHARE * (double)f->rank);
  g_autofree float *up = g_memdup2 (f->up, (gsize)(f->rows * f->rank) * sizeof *up);

  for (int64_t i = 0; alpha && i < f->rows * f->rank; i++)
    up[i] = (float)(up[i] / ALPHA_SHARE);
  add (self, module, endings[style][0], 2, f->rank, f->in, f->down);
  add (self, module, endings[style][1], 2, f->rows, f->rank, up);
  if (alpha)
    add (self, module, ".alpha", 0, 1, 1, &value);
}

/* q, k and v as one: their down factors below each other, up block by block. */
static void
write_fused (Output *self, LoraStyle style, const char *block, const char *name,
             const Factors parts[3])
{
  g_autofree char *layer = g_strconcat (block, ".attention.", name, NULL);
  g_autofree char *module = module_name (style, layer);
  int64_t rows = parts[0].rows, in = parts[0].in, rank = parts[0].rank;
  g_auto (Factors) all = { 3 * rows, in, 3 * rank, g_new (float, (gsize)(3 * rank * in)),
                           g_new0 (float, (gsize)(9 * rows * rank)) };

  for (int64_t p = 0; p < 3; p++)
    {
      memcpy (all.down + p * rank * in, parts[p].down, (gsize)(rank * in) * sizeof (float));
      for (int64_t row = 0; row < rows; row++)
        memcpy (all.up + (p * rows + row) * 3 * rank + p * rank, parts[p].up + row * rank,
                (gsize)rank * sizeof (float));
    }
  write_pair (self, style, module, &all);
}

static void
write_block (Output *self, const LoraSample *sample, LoraStyle style, const char *block)
{
  static const char *const layers[] = {
    "attention.to_q",  "attention.to_k",  "attention.to_v",  "attention.to_out.0",
    "feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "adaLN_modulation.0",
  };
  Factors parts[G_N_ELEMENTS (layers)] = { 0 };

  for (guint i = 0; i < G_N_ELEMENTS (layers); i++)
    {
      g_autofree char *layer = g_strconcat (block, ".", layers[i], NULL);
      g_autofree char *spelt = style == LORA_COMFY ? replace (layer, "to_out.0", "out") : NULL;
      g_autofree char *module = module_name (style, spelt != NULL ? spelt : layer);

      if (make_factors (sample, layer, &parts[i]) && (style != LORA_COMFY || i > 2))
        write_pair (self, style, module, &parts[i]);
    }
  if (style == LORA_COMFY || style == LORA_DOTS)
    write_fused (self, style, block, "qkv", parts);
  for (guint i = 0; i < G_N_ELEMENTS (layers); i++)
    factors_clear (&parts[i]);
}

static char *
finish (Output *self)
{
  char *path = new_path ();
  g_autoptr (GError) error = NULL;

  safetensors_writer_write (self->writer, path, &error);
  g_assert_no_error (error);
  safetensors_writer_free (self->writer);
  g_ptr_array_unref (self->held);
  return path;
}

char *
lora_sample_write (const LoraSample *self, LoraStyle style)
{
  Output output = { safetensors_writer_new (), g_ptr_array_new_with_free_func (g_free) };

  for (guint i = 0; self->blocks[i] != NULL; i++)
    write_block (&output, self, style, self->blocks[i]);
  return finish (&output);
}

static void
merge_into (const LoraSample *sample, const char *layer, double strength, float *weight)
{
  g_auto (Factors) f = { 0 };

  if (!make_factors (sample, layer, &f))
    return;
  for (int64_t row = 0; row < f.rows; row++)
    for (int64_t i = 0; i < f.in; i++)
      {
        double sum = 0.0;

        for (int64_t r = 0; r < f.rank; r++)
          sum += (double)f.up[row * f.rank + r] * f.down[r * f.in + i];
        weight[row * f.in + i] = (float)(weight[row * f.in + i] + strength * sum);
      }
}

char *
lora_merge (Safetensors *base, const LoraSample *samples, const double *strengths, guint n)
{
  Output output = { safetensors_writer_new (), g_ptr_array_new_with_free_func (g_free) };

  for (guint i = 0; i < safetensors_count (base); i++)
    {
      const char *name = safetensors_name (base, i);
      gboolean weight = g_str_has_suffix (name, ".weight");
      g_autofree char *layer = g_strndup (name, strlen (name) - (weight ? strlen (".weight") : 0));
      Tensor from;
      float *values;

      g_assert_true (safetensors_find (base, name, &from));
      values = g_new (float, (gsize)tensor_count (&from));
      g_ptr_array_add (output.held, values);
      for (int64_t j = 0; j < tensor_count (&from); j++)
        values[j] = tensor_get (&from, j);
      for (guint s = 0; weight && from.rank == 2 && s < n; s++)
        merge_into (&samples[s], layer, strengths[s], values);
      safetensors_writer_add (output.writer, name, DTYPE_F32, from.rank, from.shape, values);
    }
  return finish (&output);
}
