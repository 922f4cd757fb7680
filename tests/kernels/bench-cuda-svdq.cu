/* SPDX-License-Identifier: Apache-2.0
 *
 * How long SVDQuant's steps take on the card, at a block's shapes: quantising, as bytes a second,
 * and the INT4 product. On a card without 4-bit integer mma that one is emulated, and says so. Then
 * to_qkv with the norm and rotation of q and k, in one pass and in two.
 * Arguments: rows of x (4224), ranks to try (0 32 128).
 */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/ops.cuh"
#include "kernels/cuda/svdq.h"

#include <stdio.h>
#include <stdlib.h>

#define REPEATS 20

static const struct
{
  int64_t n, k;
} shapes[] = { { 11520, 3840 }, { 3840, 3840 }, { 20480, 3840 }, { 3840, 10240 } };

static void
require (Stream *s, Status status, const char *what)
{
  if (status == STATUS_OK)
    return;
  fprintf (stderr, "%s: %s (%s)\n", what, status_name (status), cuda_detail (s));
  exit (1);
}

static void
check (cudaError_t error)
{
  if (error == cudaSuccess)
    return;
  fprintf (stderr, "%s\n", cudaGetErrorString (error));
  exit (1);
}

/* Random bits with the exponents of numbers between 2^-7 and 2. */
static __global__ void
fill_kernel (uint16_t *x, int64_t count)
{
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < count;
       i += (int64_t)gridDim.x * blockDim.x)
    {
      const uint32_t bits = (uint32_t)((i + 1) * 2654435761u) * 2246822519u >> 13;
      x[i] = (uint16_t)((bits & 0x83ff) | 0x3c00);
    }
}

/* The median of REPEATS runs, milliseconds. */
template <typename Work>
static double
time_of (Stream *s, Work work)
{
  cudaEvent_t marks[REPEATS + 1];
  float times[REPEATS];
  for (int i = 0; i < 3; i++)
    work ();
  for (int i = 0; i <= REPEATS; i++)
    {
      check (cudaEventCreate (&marks[i]));
      if (i > 0)
        work ();
      check (cudaEventRecord (marks[i], s->compute));
    }
  require (s, cuda_wait (s), "wait");
  for (int i = 0; i < REPEATS; i++)
    check (cudaEventElapsedTime (&times[i], marks[i], marks[i + 1]));
  qsort (times, REPEATS, sizeof times[0], [] (const void *a, const void *b) {
    return *(const float *)a < *(const float *)b ? -1 : *(const float *)a > *(const float *)b;
  });
  for (int i = 0; i <= REPEATS; i++)
    check (cudaEventDestroy (marks[i]));
  return times[REPEATS / 2];
}

static void *
filled (Stream *s, size_t bytes)
{
  void *memory = NULL;
  require (s, cuda_alloc (s, bytes, &memory), "alloc");
  launch_kernel (fill_kernel, 1024, 256, 0, s->compute, (uint16_t *)memory, (int64_t)(bytes / 2));
  require (s, stream_launched (s, "fill"), "fill");
  return memory;
}

/* Weights of any numbers: time does not depend on them. */
static SvdqWeights
make_weights (Stream *s, SvdqFormat format, int64_t n, int64_t k, int rank)
{
  SvdqWeights w = {};
  w.format = format;
  w.n = n;
  w.k = k;
  w.rank = rank;
  w.qweight = (uint8_t *)filled (s, (size_t)n * k / 2);
  w.wscales = filled (s, (size_t)n * k / 16);
  w.smooth = (uint16_t *)filled (s, (size_t)k * 2);
  w.inverse = (float *)filled (s, (size_t)k * 4);
  w.proj_down = (uint16_t *)filled (s, (size_t)k * rank * 2);
  w.proj_up = (uint16_t *)filled (s, (size_t)n * rank * 2);
  return w;
}

static void
free_weights (Stream *s, SvdqWeights *w)
{
  void *parts[] = { w->qweight, w->wscales, w->smooth, w->inverse, w->proj_down, w->proj_up };
  for (void *part : parts)
    stream_free (s, part);
}

static void
bench_shape (Stream *s, SvdqFormat format, int64_t m, int64_t n, int64_t k, int rank)
{
  SvdqWeights w = make_weights (s, format, n, k, rank);
  void *x = filled (s, (size_t)m * k * 2), *y = filled (s, (size_t)m * n * 2);
  void *block = filled (s, svdq_activations_bytes (&w, m));
  const SvdqActivations a = svdq_activations_in (&w, m, block);
  const SvdqGemm g = { &w, &a, y, n, false, NULL };
  const double bytes = (double)m * k * 2 + (double)svdq_activations_bytes (&w, m);
  const double quantise
      = time_of (s, [&] { require (s, svdq_quantise (s, &w, x, &a), "svdq_quantise"); });
  printf ("{\"what\": \"quantise\", \"format\": \"%s\", \"m\": %lld, \"k\": %lld, \"rank\": %d, "
          "\"ms\": %.4f, \"gb_per_s\": %.0f}\n",
          format == SVDQ_INT4 ? "int4" : "nvfp4", (long long)m, (long long)k, rank, quantise,
          bytes / quantise / 1e6);
  if (format == SVDQ_INT4)
    {
      const double product
          = time_of (s, [&] { require (s, svdq_gemm_int4 (s, &g), "svdq_gemm_int4"); });
      printf ("{\"what\": \"int4 product%s\", \"m\": %lld, \"n\": %lld, \"k\": %lld, \"rank\": %d, "
              "\"ms\": %.4f, \"tera_op_per_s\": %.1f}\n",
              s->caps.sm >= 90 ? ", emulated" : "", (long long)m, (long long)n, (long long)k, rank,
              product, 2e-9 * (double)m * n * k / product);
    }
  fflush (stdout);
  free_weights (s, &w);
  stream_free (s, x);
  stream_free (s, y);
  stream_free (s, block);
}

/* to_qkv of 30 heads each: the product alone, with qk_norm_rope behind it, and in one pass. */
static void
bench_heads (Stream *s, const char *name, SvdqProduct product, SvdqFormat format, int64_t m,
             int rank)
{
  const int heads = 30;
  const int64_t n = 3 * heads * SVDQ_HEAD, k = 3840;
  SvdqWeights w = make_weights (s, format, n, k, rank);
  void *y = filled (s, (size_t)m * n * 2), *block = filled (s, svdq_activations_bytes (&w, m));
  Tensor weight = tensor_1d (DTYPE_F32, filled (s, SVDQ_HEAD * 4), SVDQ_HEAD);
  Tensor table = tensor_2d (DTYPE_F32, filled (s, (size_t)m * SVDQ_HEAD * 4), m, SVDQ_HEAD);
  Tensor qkv = tensor_3d (device_activation (&s->caps), y, m, 3 * heads, SVDQ_HEAD);
  const SvdqActivations a = svdq_activations_in (&w, m, block);
  const SvdqHeads h = {
    (const float *)weight.data,
    (const float *)weight.data,
    (const float *)table.data,
    1e-5f,
    heads,
    heads,
  };
  const SvdqGemm plain = { &w, &a, y, n, false, NULL }, whole = { &w, &a, y, n, false, &h };
  const auto behind = [&] {
    require (s,
             cuda_qk_norm_rope (s, &qkv, heads, heads, &weight, &weight, 1e-5f, &table,
                                ROPE_INTERLEAVED),
             "qk_norm_rope");
  };
  const double alone = time_of (s, [&] { require (s, product (s, &plain), name); });
  const double two = time_of (s, [&] { require (s, product (s, &plain), name), behind (); });
  const double one = time_of (s, [&] { require (s, product (s, &whole), name); });
  printf ("{\"what\": \"heads\", \"by\": \"%s\", \"m\": %lld, \"rank\": %d, \"product_ms\": %.4f, "
          "\"two_steps_ms\": %.4f, \"one_pass_ms\": %.4f}\n",
          name, (long long)m, rank, alone, two, one);
  fflush (stdout);
  free_weights (s, &w);
  for (void *memory : { y, block, weight.data, table.data })
    stream_free (s, memory);
}

/* What a plain copy reaches, for comparison. */
static void
bench_copy (Stream *s, size_t bytes)
{
  void *from = filled (s, bytes), *to = filled (s, bytes);
  const double ms = time_of (
      s, [&] { check (cudaMemcpyAsync (to, from, bytes, cudaMemcpyDeviceToDevice, s->compute)); });
  printf ("{\"what\": \"copy\", \"bytes\": %zu, \"ms\": %.4f, \"gb_per_s\": %.0f}\n", bytes, ms,
          2e-6 * (double)bytes / ms);
  stream_free (s, from);
  stream_free (s, to);
}

int
main (int argc, char **argv)
{
  const int64_t m = argc > 1 ? atoll (argv[1]) : 4224;
  Stream *s = NULL;
  require (s, cuda_open (0, NULL, &s), "open");
  bench_copy (s, (size_t)m * 3840 * 2);
  bench_copy (s, (size_t)m * 10240 * 2);
  for (int i = 2; i < (argc > 2 ? argc : 5); i++)
    {
      const int ranks[] = { 0, 32, 128 };
      const int rank = argc > 2 ? atoi (argv[i]) : ranks[i - 2];
      for (size_t j = 0; j < sizeof shapes / sizeof *shapes; j++)
        {
          bench_shape (s, SVDQ_INT4, m, shapes[j].n, shapes[j].k, rank);
          if (j == 1 || j == 3)
            bench_shape (s, SVDQ_NVFP4, m, shapes[j].n, shapes[j].k, rank);
        }
    }
  const bool emulated = s->caps.sm >= 90;
  bench_heads (s, emulated ? "int4, emulated" : "int4", svdq_gemm_int4, SVDQ_INT4, m, 32);
  if (device_activation (&s->caps) == DTYPE_BF16)
    bench_heads (s, "int8", svdq_gemm_int8, SVDQ_INT4, m, 32);
  bench_heads (s, "nvfp4 by fp16", svdq_gemm_fp4_expanded, SVDQ_NVFP4, m, 32);
  if (s->caps.sm >= FP4_FIRST_SM && s->caps.sm <= FP4_LAST_SM)
    bench_heads (s, "nvfp4", svdq_gemm_fp4, SVDQ_NVFP4, m, 32);
  cuda_close (s);
  return 0;
}
