/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of E4M3 with a low-rank branch on sm_90 against plain models of the same
 * arithmetic. `test-svdq-sm90 small`: with small ones alone.
 */
#include "kernels/cuda/svdq_sm90.h"
#include "tests/kernels/sm90-test.cuh"
#ifdef EMULATED
#include "tests/kernels/emulation/emulation.h"
#endif

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <stdlib.h>

#define SMALL ((int64_t)1 << 28) /* products, of which a sanitizer has the time for */

/* Emulated, a product runs in several orders of its threads; sums of errors are added in any. */
static void
in_any_order (bool each)
{
#ifdef EMULATED
  emulation::set_once (!each);
#else
  (void)each;
#endif
}

/* -- products of E4M3 ---------------------------------------------------------------------------
 */

static __device__ float
value_of (const uint8_t *code)
{
  const __half_raw raw = __nv_cvt_fp8_to_halfraw (*code, __NV_E4M3);
  return __half2float (__half (raw));
}

/* One thread an output of the product before swiglu. */
static __global__ void
reference_kernel (ScaledGemm g, float *y)
{
  const Gemm p = g.product;
  const size_t stride = (size_t)gridDim.x * blockDim.x;
  for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < (size_t)p.m * p.n; i += stride)
    {
      const size_t row = i / p.n, column = i % p.n;
      const uint8_t *x = (const uint8_t *)p.x + row * p.k, *w = (const uint8_t *)p.w + column * p.k;
      double sum = 0.0;
      for (int k = 0; k < p.k; k++)
        sum += (double)value_of (x + k) * value_of (w + k);
      const bf16 *a = (const bf16 *)g.low_x + row * LOW_RANK_PITCH (g.rank);
      const bf16 *b = (const bf16 *)g.low_w + column * LOW_RANK_PITCH (g.rank);
      for (int r = 0; r < g.rank; r++)
        sum += (double)(float)a[r] * (float)b[r];
      y[i] = (float)(sum * g.x_scale[row] * g.w_scale[column] + (p.bias ? p.bias[column] : 0.0f));
    }
}

/* Rows of low-rank numbers end in zeros. */
static __global__ void
clear_behind_kernel (bf16 *low, size_t rows, int rank, int pitch)
{
  for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < rows * pitch;
       i += (size_t)gridDim.x * blockDim.x)
    if ((int)(i % pitch) >= rank)
      low[i] = __float2bfloat16_rn (0.0f);
}

typedef Status (*Product) (Stream *s, const ScaledGemm *g, int variant);

typedef struct
{
  int m, n, k, rank;
  bool swiglu, bias;
} Size;

static const Size sizes[] = {
  { 1, 64, 64, 0, false, false },        { 63, 192, 64, 16, false, true },
  { 255, 320, 192, 32, true, false },    { 256, 448, 1024, 128, false, true },
  { 257, 1280, 704, 48, true, true },    { 300, 576, 3840, 0, false, false },
  { 257, 704, 10240, 32, false, false }, { 4224, 3840, 10240, 32, false, false },
  { 2100, 3840, 384, 64, false, true },  { 2900, 7680, 256, 32, true, false },
  { 600, 320, 1024, 32, true, true }, /* more stages than the ring has, and many tiles */
};

static Status
test_product_size (Test *t, Product product, const char *name, int variant, const Size *size)
{
  Stream *s = t->s;
  const size_t pitch = LOW_RANK_PITCH (size->rank);
  const size_t m = size->m, n = size->n, k = size->k, full = m * n,
               outputs = size->swiglu ? full / 2 : full;
  uint8_t *x, *w;
  bf16 *low_x, *low_w, *y;
  float *reference, *plain, *bias, *scales;
  Difference *difference;
  const size_t second = (m + 3) / 4 * 4; /* the scales of w, aligned */
  std::vector<float> powers (second + n);
  for (size_t i = 0; i < m; i++)
    powers[i] = ldexpf (1.0f, (int)(next (t) % 7) - 8);
  for (size_t i = second; i < second + n; i++)
    powers[i] = ldexpf (1.0f / sqrtf ((float)k), 0) > 0.03f ? 0.03125f : 0.0078125f;
  CHECK (card (s, powers, &scales));
  CHECK (stream_alloc (s, m * k, (void **)&x));
  CHECK (stream_alloc (s, n * k, (void **)&w));
  CHECK (stream_alloc (s, (m * pitch + 8) * 2, (void **)&low_x));
  CHECK (stream_alloc (s, (n * pitch + 8) * 2, (void **)&low_w));
  CHECK (stream_alloc (s, outputs * 2, (void **)&y));
  CHECK (stream_alloc (s, full * 4, (void **)&reference));
  CHECK (stream_alloc (s, outputs * 4, (void **)&plain));
  CHECK (stream_alloc (s, n * 4, (void **)&bias));
  CHECK (stream_alloc (s, sizeof *difference, (void **)&difference));
  CHECK (random_e4m3 (s, x, m * k, t->seed++, 58.0f));
  CHECK (random_e4m3 (s, w, n * k, t->seed++, 58.0f));
  CHECK (random_bf16 (s, low_x, m * pitch, t->seed++, 300.0f));
  CHECK (random_bf16 (s, low_w, n * pitch, t->seed++, 200.0f));
  CHECK (random_f32 (s, bias, n, t->seed++, 20.0f));
  launch_kernel (clear_behind_kernel, 1024, 256, 0, s->compute, low_x, m, size->rank, (int)pitch);
  launch_kernel (clear_behind_kernel, 1024, 256, 0, s->compute, low_w, n, size->rank, (int)pitch);
  CHECK (LAUNCHED (s));
  CUDA_CHECK (s, cudaMemsetAsync (y, POISON, outputs * 2, s->compute));
  const ScaledGemm g = { { x, w, size->bias ? bias : NULL, y, (int64_t)m, (int64_t)n, (int64_t)k,
                           size->swiglu, false, false, NULL, NULL, 0 },
                         scales,
                         scales + second,
                         low_x,
                         low_w,
                         size->rank,
                         0 };
  launch_kernel (reference_kernel, 4096, 128, 0, s->compute, g, reference);
  if (size->swiglu)
    launch_kernel (reference_swiglu_kernel, 1024, 256, 0, s->compute, reference, plain, (int)m,
                   (int)n);
  CHECK (LAUNCHED (s));
  Error e = { 1.0, 1.0, 0 };
  in_any_order (true);
  Status status = product (s, &g, variant);
  in_any_order (false);
  if (status == STATUS_OK)
    status = compare (s, y, size->swiglu ? plain : reference, outputs, difference, &e);
  char text[200];
  snprintf (text, sizeof text, "%s %dx%dx%d rank %d%s%s error %.3e worst %.2e unwritten %u %s",
            name, size->m, size->n, size->k, size->rank, size->swiglu ? " swiglu" : "",
            size->bias ? " bias" : "", e.relative, e.worst, e.bad, status_name (status));
  report (t, status == STATUS_OK && e.bad == 0 && e.relative < 4e-3 && e.worst < 0.05, "e4m3",
          text);
  void *all[] = { x, w, low_x, low_w, y, reference, plain, bias, scales, difference };
  for (void *memory : all)
    stream_free (s, memory);
  return status;
}

/* -- products of 4-bit codes ------------------------------------------------------------------- */

/* Codes as svdq_codes_pack lays them out, of any weights: blocks of 64 x 64, each with its scales.
 */
static std::vector<uint8_t>
random_codes (Test *t, SvdqFormat format, int n, int k)
{
  const size_t block = 64 * 64 / 2 + 64 * (format == SVDQ_INT4 ? 2 : 4);
  std::vector<uint8_t> bytes ((size_t)(n / 64) * (k / 64) * block);
  for (size_t i = 0; i < bytes.size (); i++)
    {
      const uint32_t r = next (t);
      if (i % block < 64 * 64 / 2)
        bytes[i] = r;
      else if (format == SVDQ_NVFP4)
        bytes[i] = 0x20 + r % 32; /* E4M3 of 1/64 to 1 */
      else
        bytes[i] = i % 2 ? 0x28 + r % 8 : r; /* FP16 of 1/32 to 1/8 */
    }
  return bytes;
}

/* Every tile adds up in the same order: outputs have the same bytes. What they ought to be is the
 * question of test-linear-svdq-sm90. */
static Status
test_codes_size (Test *t, SvdqFormat format, const Size *size)
{
  Stream *s = t->s;
  const size_t m = size->m, n = size->n, k = size->k, pitch = LOW_RANK_PITCH (size->rank),
               columns = size->swiglu ? n / 2 : n;
  uint8_t *codes;
  uint16_t *x, *up, *low_x, *y;
  float *bias, *scales;
  std::vector<uint16_t> halves (m * k), first (m * columns), again (m * columns);
  std::vector<float> powers (m + n, 0.25f);
  for (auto &v : halves)
    v = next (t) % 0x4000 | next (t) % 2 << 15; /* FP16 below 2 */
  CHECK (card (s, random_codes (t, format, size->n, size->k), &codes));
  CHECK (card (s, halves, &x));
  CHECK (card (s, powers, &scales));
  CHECK (stream_alloc (s, (m * pitch + 8) * 2, (void **)&low_x));
  CHECK (stream_alloc (s, (n * pitch + 8) * 2, (void **)&up));
  CHECK (stream_alloc (s, m * columns * 2, (void **)&y));
  CHECK (stream_alloc (s, n * 4, (void **)&bias));
  CHECK (random_bf16 (s, (bf16 *)low_x, m * pitch, t->seed++, 1.0f));
  CHECK (random_bf16 (s, (bf16 *)up, n * pitch, t->seed++, 1.0f));
  CHECK (random_f32 (s, bias, n, t->seed++, 1.0f));
  const CodesGemm g = { format,      x,
                        codes,       scales,
                        scales + m,  low_x,
                        up,          size->bias ? bias : NULL,
                        y,           (int64_t)columns,
                        size->m,     size->n,
                        size->k,     size->rank,
                        size->swiglu };
  for (int v = 0; gemm_codes_sm90_variant_name (v) != NULL; v++)
    {
      auto &out = v == 0 ? first : again;
      CUDA_CHECK (s, cudaMemsetAsync (y, POISON, m * columns * 2, s->compute));
      CHECK (gemm_codes_sm90 (s, &g, v));
      CHECK (host_of (s, y, out));
      size_t unequal = 0, bad = 0;
      for (size_t i = 0; i < out.size (); i++)
        {
          unequal += out[i] != first[i];
          bad += !isfinite (bf16_to_float (out[i])) || out[i] == (POISON << 8 | POISON);
        }
      char text[160];
      snprintf (text, sizeof text, "%s %s %dx%dx%d rank %d%s: unequal %zu, not finite %zu",
                format == SVDQ_INT4 ? "int4" : "nvfp4", gemm_codes_sm90_variant_name (v), size->m,
                size->n, size->k, size->rank, size->swiglu ? " swiglu" : "", unequal, bad);
      report (t, unequal == 0 && bad == 0, "codes", text);
    }
  void *all[] = { codes, x, up, low_x, y, bias, scales };
  for (void *memory : all)
    stream_free (s, memory);
  return STATUS_OK;
}

static Status
test_products (Test *t, bool small)
{
  for (auto &size : sizes)
    {
      if (small && (int64_t)size.m * size.n * size.k > SMALL)
        continue;
      for (int v = 0; gemm_e4m3_sm90_variant_name (v) != NULL; v++)
        if (size.m < 1000 || v == 4)
          CHECK (test_product_size (t, gemm_e4m3_sm90, gemm_e4m3_sm90_variant_name (v), v, &size));
      for (int v = 0; gemm_turns_sm90_variant_name (v) != NULL; v++)
        CHECK (test_product_size (t, gemm_turns_sm90, gemm_turns_sm90_variant_name (v), v, &size));
      for (int format = 0; format < 2 && !IS_EMULATED && size.m < 4000; format++)
        CHECK (test_codes_size (t, (SvdqFormat)format, &size));
    }
  return STATUS_OK;
}

int
main (int argc, char **argv)
{
#ifdef EMULATED
  emulation::set_device (90, 2); /* few multiprocessors: several tiles each */
  in_any_order (false);
#endif
  return run_on_sm90 (test_products, argc, argv);
}
