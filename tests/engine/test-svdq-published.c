/* SPDX-License-Identifier: Apache-2.0
 *
 * Files of the published sizes, without their gigabytes: as many tensors, as many bytes, and every
 * linear found (spec svdquant 2.1, 2.3, 8.1).
 */
#include "engine/svdquant/read.h"

#include <sys/mman.h>

#define DIM    3840
#define HIDDEN 10240
#define TIME   256
/* All that is 4 bit of the model (spec svdquant 0). */
#define CODES G_GUINT64_CONSTANT (6016204800)

/* One window of zeros is every tensor. */
#define WINDOW ((gsize)2 * HIDDEN * DIM)

typedef struct
{
  Safetensors *file;
  void *window;
} Published;

static void
add (Published *self, const char *block, const char *name, DType dtype, int64_t rows,
     int64_t columns)
{
  g_autofree char *full = g_strconcat (block, name, NULL);
  Tensor t = columns > 0 ? tensor_2d (dtype, self->window, rows, columns)
                         : tensor_1d (dtype, self->window, rows);

  g_assert_cmpuint (tensor_bytes (&t), <=, WINDOW);
  safetensors_add_borrowed (self->file, full, &t);
}

static void
add_linear (Published *self, const char *block, const char *name, SvdqFormat format, int rank,
            int64_t n, int64_t k)
{
  g_autofree char *stem = g_strconcat (block, name, ".", NULL);
  gboolean fused = g_str_has_suffix (name, "to_qkv");

  add (self, stem, "qweight", DTYPE_I8, n, k / 2);
  add (self, stem, "wscales", format == SVDQ_INT4 ? DTYPE_BF16 : DTYPE_F8_E4M3,
       k / (format == SVDQ_INT4 ? 64 : 16), n);
  add (self, stem, "smooth_factor", DTYPE_BF16, k, 0);
  add (self, stem, "smooth_factor_orig", DTYPE_BF16, k, 0);
  add (self, stem, "proj_down", DTYPE_BF16, k, rank);
  add (self, stem, "proj_up", DTYPE_BF16, n, rank);
  if (format == SVDQ_NVFP4)
    add (self, stem, fused ? "wcscales" : "wtscale", DTYPE_BF16, fused ? n : 1, 0);
}

static void
add_block (Published *self, const char *stack, int index, SvdqFormat format, int rank)
{
  static const char *const norms[] = { "attention_norm1.weight", "attention_norm2.weight",
                                       "ffn_norm1.weight", "ffn_norm2.weight" };
  g_autofree char *block = g_strdup_printf ("%s.%d.", stack, index);

  add_linear (self, block, "attention.to_qkv", format, rank, 3 * DIM, DIM);
  add_linear (self, block, "attention.to_out.0", format, rank, DIM, DIM);
  add_linear (self, block, "feed_forward.net.0.proj", format, rank, 2 * HIDDEN, DIM);
  add_linear (self, block, "feed_forward.net.2", format, rank, DIM, HIDDEN);
  add (self, block, "attention.norm_q.weight", DTYPE_BF16, 128, 0);
  add (self, block, "attention.norm_k.weight", DTYPE_BF16, 128, 0);
  for (guint i = 0; i < G_N_ELEMENTS (norms); i++)
    add (self, block, norms[i], DTYPE_BF16, DIM, 0);
  if (g_str_equal (stack, "context_refiner"))
    return;
  add (self, block, "adaLN_modulation.0.weight", DTYPE_BF16, 4 * DIM, TIME);
  add (self, block, "adaLN_modulation.0.bias", DTYPE_BF16, 4 * DIM, 0);
}

static void
add_ends (Published *self)
{
  static const struct
  {
    const char *name;
    int64_t rows, columns;
  } ends[] = {
    { "all_x_embedder.2-1.weight", DIM, 64 },
    { "all_x_embedder.2-1.bias", DIM, 0 },
    { "all_final_layer.2-1.linear.weight", 64, DIM },
    { "all_final_layer.2-1.linear.bias", 64, 0 },
    { "all_final_layer.2-1.adaLN_modulation.1.weight", DIM, TIME },
    { "all_final_layer.2-1.adaLN_modulation.1.bias", DIM, 0 },
    { "t_embedder.mlp.0.weight", 1024, TIME },
    { "t_embedder.mlp.0.bias", 1024, 0 },
    { "t_embedder.mlp.2.weight", TIME, 1024 },
    { "t_embedder.mlp.2.bias", TIME, 0 },
    { "cap_embedder.0.weight", 2560, 0 },
    { "cap_embedder.1.weight", DIM, 2560 },
    { "cap_embedder.1.bias", DIM, 0 },
    { "x_pad_token", 1, DIM },
    { "cap_pad_token", 1, DIM },
  };

  for (guint i = 0; i < G_N_ELEMENTS (ends); i++)
    add (self, "", ends[i].name, DTYPE_BF16, ends[i].rows, ends[i].columns);
}

typedef struct
{
  const char *name;
  SvdqFormat format;
  int rank;
  guint tensors;
  double gigabytes; /* to three places */
} Case;

static const Case cases[] = {
  { "int4-r32", SVDQ_INT4, 32, 1099, 3.610 },   { "int4-r128", SVDQ_INT4, 128, 1099, 4.011 },
  { "int4-r256", SVDQ_INT4, 256, 1099, 4.546 }, { "fp4-r32", SVDQ_NVFP4, 32, 1235, 3.799 },
  { "fp4-r128", SVDQ_NVFP4, 128, 1235, 4.200 },
};

static void
test_published (gconstpointer data)
{
  static const struct
  {
    const char *stack;
    int n;
  } stacks[] = { { "noise_refiner", 2 }, { "context_refiner", 2 }, { "layers", 30 } };
  const Case *c = data;
  Published self = { safetensors_new_borrowed (c->name), NULL };
  g_autoptr (SvdqReader) reader = NULL;
  g_autoptr (GError) error = NULL;
  guint64 codes = 0, others = 0;

  self.window = mmap (NULL, WINDOW, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  g_assert_true (self.window != MAP_FAILED);
  for (guint i = 0; i < G_N_ELEMENTS (stacks); i++)
    for (int j = 0; j < stacks[i].n; j++)
      add_block (&self, stacks[i].stack, j, c->format, c->rank);
  add_ends (&self);
  g_assert_cmpuint (safetensors_count (self.file), ==, c->tensors);
  g_assert_cmpfloat_with_epsilon ((double)safetensors_bytes (self.file) / 1e9, c->gigabytes, 6e-4);

  g_assert_true (svdq_reader_open (self.file, "", &reader, &error));
  g_assert_no_error (error);
  g_assert_cmpint (svdq_reader_kind (reader), ==, SVDQ_NUNCHAKU);
  g_assert_cmpuint (svdq_reader_count (reader), ==, 34 * 4);
  for (guint i = 0; i < svdq_reader_count (reader); i++)
    {
      SvdqLinearInfo info = svdq_reader_info (reader, i);

      g_assert_cmpint (info.rank, ==, c->rank);
      g_assert_cmpint (info.format, ==, c->format);
      codes += info.code_bytes;
      others += info.scale_bytes + info.low_rank_bytes;
    }
  g_assert_cmpuint (codes, ==, CODES / 2);
  g_test_message ("%s: codes %.3f GB, scales and factors %.3f GB, in all %.3f GB", c->name,
                  (double)codes / 1e9, (double)others / 1e9,
                  (double)safetensors_bytes (self.file) / 1e9);
  g_clear_pointer (&reader, svdq_reader_free);
  safetensors_free (self.file);
  munmap (self.window, WINDOW);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *path = g_strconcat ("/svdq-published/", cases[i].name, NULL);

      g_test_add_data_func (path, &cases[i], test_published);
    }
  return g_test_run ();
}
